//! The harness of the integration tests: stores on simulated disks, images made from a seed, and
//! transfers between two stores without a network.
//!
//! Everything that looks random comes from one seed, which is printed when a test fails:
//! `BLOCKFERRY_SEED=n` runs just that case again, `BLOCKFERRY_CASES=n` changes how many there are.

mod carry;
mod cluster;
mod cuts;
pub mod disks;
mod feed;
mod hub;
mod image;
mod liar;
mod link;
mod pair;
mod rng;
mod seeds;
mod side;

pub use carry::{Carried, Carry, Tamper, replicate};
pub use cluster::{Cluster, Member};
pub use cuts::{MODES, cut, cuts};
pub use feed::{Delivered, Feed};
pub use hub::{Counts, Hub, Plan};
pub use image::{Edit, SIZES, Shape};
pub use liar::Liar;
pub use link::{Link, Trace};
pub use pair::{Ended, Hop, NODES_MAX, Pair, Trouble, carry_over, keys};
pub use rng::Rng;
pub use seeds::{across, cases};
pub use side::{Side, author, image_name, options, put, store_identity, whole};
