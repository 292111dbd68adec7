//! Whole nodes on loopback, driven through their admin sockets as the command line does.

mod adopt;
mod diverged;
mod members;
#[path = "../running/mod.rs"]
mod running;
mod travel;
