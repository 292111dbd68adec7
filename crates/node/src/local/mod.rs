//! Local: this node's own stores, from a file that changes to a generation that is recorded.
//!
//! `watching` sees that a file changed, `looking` is the task that looks, [`settle`] says when it
//! was quiet for long enough, `sets` whether what belongs together is complete, `recording` records
//! it. `stores` holds what is open, `serving` finds it, `opening` opens them at the start, `adoption` takes
//! a directory over from another tool, `upkeep` is what a store does when nobody waits.

pub(crate) mod absent;
pub(crate) mod adoption;
pub(crate) mod looking;
pub(crate) mod opening;
pub(crate) mod recording;
pub(crate) mod serving;
pub(crate) mod sets;
pub mod settle;
pub(crate) mod stores;
pub(crate) mod upkeep;
pub(crate) mod watching;
