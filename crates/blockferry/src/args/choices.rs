//! Words of which an argument is one: roles and lanes.

use blockferry_node::api::{Lane, Role};
use clap::ValueEnum;

/// Role of a node in a store.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleArg {
    /// Its changes travel
    Writer,
    /// Receives only
    Mirror,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Writer => Role::Writer,
            RoleArg::Mirror => Role::Mirror,
        }
    }
}

/// Lane of a push.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LaneArg {
    /// Before everything else; what runs gives way
    Urgent,
    /// In the order of the backlog
    Normal,
    /// When nothing else wants the link, and a little beside it
    Bulk,
}

impl From<LaneArg> for Lane {
    fn from(lane: LaneArg) -> Lane {
        match lane {
            LaneArg::Urgent => Lane::Urgent,
            LaneArg::Normal => Lane::Normal,
            LaneArg::Bulk => Lane::Bulk,
        }
    }
}
