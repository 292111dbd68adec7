//! Who talks to whom, when, and how much at once.
//!
//! The only crate that introduces `wire` (what is said) to `store` (what is on disk). Everything
//! that decides is a pure value with events and time going in and actions coming out: [`backlog`],
//! and in each of the groups below what its first lines name. Around them sit the shells that do
//! I/O.
//!
//! | group | asks |
//! |---|---|
//! | [`local`] | what changed here, and may it be recorded? |
//! | [`rate`] | how fast, to whom, whose turn? |
//! | [`planner`] | what would travel, and when will it be there? |
//! | [`transfer`] | how does a generation become packs, and an image again? |
//! | [`link`] | how do bytes get to a peer? |
//! | [`membership`] | who may talk to us? |
//! | [`lineage`] | is anything about to be lost? |
//! | [`promotion`] | is it on every server, verified? |
//! | [`monitoring`] | how is this node? |
//! | `admin`, [`http`], [`api`] | who asks, and what is answered? |
//!
//! Start at [`Node::start`]. The drivers of a transfer live in [`transfer::exchange`] and need no
//! socket, so that a test can run a pair of nodes in one thread from one seed.

mod admin;
pub mod api;
pub mod backlog;
pub mod budget;
pub mod config;
mod core;
mod error;
mod events;
pub mod http;
pub mod ledger;
pub mod lineage;
pub mod link;
pub mod local;
pub mod membership;
pub mod monitoring;
mod node;
pub mod planner;
pub mod promotion;
pub mod rate;
mod reload;
pub mod transfer;

pub use error::{Error, Result};
pub use membership::identity::Identity;
pub use node::Node;
pub use reload::Reloaded;
