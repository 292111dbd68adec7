//! Arguments of orders: what is paused, resumed, boosted or limited, and for how long.

use crate::config::{Period, Rate};
use clap::{Args, Subcommand};

/// `pause`, `resume` and `boost`
#[derive(Debug, Args)]
pub(crate) struct AffectedArgs {
    /// Only what goes to this peer
    #[arg(long)]
    pub(crate) peer: Option<String>,
    /// Only this store
    #[arg(long)]
    pub(crate) store: Option<String>,
    /// Only this image: STORE/NAME, or NAME beside --store
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// It ends by itself after this long, e.g. 2h [default: when another order ends it]
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) length: Option<Period>,
}

/// `limit`
#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Send at most this much
    Set {
        /// Only to this peer [default: to all together]
        #[arg(long)]
        peer: Option<String>,
        /// Such as "5 Mbit/s" or "2 MB/s", with what headers take
        rate: Rate,
        /// It ends by itself after this long, e.g. 1h [default: at limit clear]
        #[arg(long = "for", value_name = "DURATION")]
        length: Option<Period>,
    },
    /// Drop the limit that was set
    Clear {
        /// The one of this peer [default: the one for all together]
        #[arg(long)]
        peer: Option<String>,
    },
}
