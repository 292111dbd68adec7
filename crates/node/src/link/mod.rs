//! Link: connections with peers, and what can be learnt from them.
//!
//! [`transport`] is the only file that knows sockets, `dialing` keeps a connection to everybody
//! who has an address, `session` carries one from the hellos to the goodbye, `stream` brings
//! frames to blocking threads and back, `peer` is the other end, with what is `known` of it
//! and why it isn't talked to (`refusal`). How much may
//! be in flight is decided by `congestion` and `windows`.

pub(crate) mod congestion;
pub(crate) mod dialing;
pub(crate) mod gossip;
pub(crate) mod known;
pub(crate) mod meter;
pub(crate) mod netcheck;
pub(crate) mod peer;
pub(crate) mod refusal;
pub(crate) mod session;
pub(crate) mod stream;
pub mod transport;
pub(crate) mod windows;
