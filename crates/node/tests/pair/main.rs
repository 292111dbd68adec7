//! Whole nodes on loopback, driven through their admin sockets as the command line does.

mod adopt;
mod members;
mod running;
mod travel;
