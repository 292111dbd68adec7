//! Transfer: a generation becomes packs at one end and an image at the other.
//!
//! [`exchange`] drives both ends without a socket, so that a pair of nodes runs in a test from one
//! seed. [`judge`] decides what an offer means, [`verdict`] what an error means. [`queue`] says
//! which pack is made next and bounds what is held, `workers` make packs as hard compressed as
//! [`level`] says, once for all who want the same (`encoded`). `sending` and `receiving` are
//! the shells on a stream.

pub(crate) mod encoded;
pub mod exchange;
pub mod judge;
pub mod level;
pub mod queue;
pub(crate) mod receiving;
pub(crate) mod sending;
pub mod verdict;
pub(crate) mod workers;
