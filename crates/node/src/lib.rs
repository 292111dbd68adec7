//! Who talks to whom, when, and how much at once.
//!
//! The only crate that introduces `wire` (what is said) to `store` (what is on disk). Everything
//! that decides is a pure value with events and time going in and actions coming out: [`judge`],
//! [`backlog`], [`calendar`], [`rates`], [`pace`], [`forecast`],
//! [`settle`], [`verdict`]. Around them sit the shells that do I/O:
//! [`transport`] (QUIC), `stores` (blocking work in a bounded pool) and `admin` (the unix socket).
//!
//! Start at [`Node::start`]. The drivers of a transfer live in [`exchange`] and need no socket, so
//! that a test can run a pair of nodes in one thread from one seed.

mod admin;
pub mod api;
pub mod backlog;
pub mod budget;
pub mod calendar;
pub mod config;
pub mod conflict;
mod congestion;
mod core;
mod counts;
pub mod deletions;
mod dialing;
mod diverged;
pub mod doctor;
mod encoded;
mod error;
mod events;
pub mod exchange;
pub mod feed;
pub mod forecast;
mod foresight;
mod gossip;
mod hook;
pub mod http;
pub mod identity;
mod jobs;
pub mod judge;
mod known;
mod lanes;
pub mod ledger;
pub mod level;
mod limit;
pub mod measured;
pub mod members;
mod meter;
mod mirror;
pub mod misses;
mod netcheck;
mod node;
mod opening;
mod orders;
pub mod overrides;
pub mod pace;
mod pairing;
mod peer;
mod planning;
mod promote;
mod proving;
pub mod queue;
pub mod rates;
mod readiness;
mod receiving;
mod recent;
mod recording;
pub mod relayed;
mod refusal;
mod reload;
mod reports;
mod requests;
mod resolutions;
mod retention;
mod rewound;
mod rollback;
pub mod roster;
mod schedules;
mod sending;
mod session;
mod sets;
pub mod settle;
pub mod standing;
pub mod statements;
mod stores;
mod stream;
pub mod ticket;
pub mod tls;
pub mod transport;
pub mod trends;
pub mod trust;
pub mod turns;
pub mod twins;
mod upkeep;
pub mod verdict;
mod watching;
pub mod watermarks;
mod windows;
mod witness;
mod workers;

pub use error::{Error, Result};
pub use identity::Identity;
pub use node::Node;
pub use reload::Reloaded;
