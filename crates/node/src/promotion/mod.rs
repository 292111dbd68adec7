//! Promotion: is it on every server, verified, and may it be used?
//!
//! `proving` reads images back, `mending` fetches again what rotted, `witness` signs what was found
//! and hears what others signed, [`statements`] is the book of it, [`feed`] what a peer is still to
//! be told of a store, [`feeds`] of which stores, [`heard`] what came and whose word is doubted.
//! [`standing`] is the one place that says whether a generation is at a member, `readiness` asks it
//! for all of them, `promote` says it once and durably, and runs the operator's `hook`.

pub mod feed;
pub mod feeds;
pub mod heard;
pub(crate) mod hook;
pub(crate) mod mending;
pub(crate) mod promote;
pub(crate) mod proving;
pub(crate) mod readiness;
pub mod standing;
pub mod statements;
pub(crate) mod witness;
