//! Whole nodes on loopback, driven through their admin sockets as the command line does.

mod adopt;
mod diverged;
mod gone;
mod members;
mod promote;
#[path = "../running/mod.rs"]
mod running;
mod topologies;
mod travel;
