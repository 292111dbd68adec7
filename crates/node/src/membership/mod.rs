//! Membership: who may talk to us, and how somebody becomes a member.
//!
//! [`identity`] is our key, [`ticket`] and `pairing` let a stranger in once, [`trust`] is what
//! every handshake of [`tls`] asks. [`members`] are stores and peers that were added at run time,
//! [`roster`] tells who is a member of a store, [`twins`] notices a key that shows twice.

pub mod identity;
pub mod members;
pub(crate) mod pairing;
pub mod roster;
pub mod ticket;
pub mod tls;
pub mod trust;
pub mod twins;
