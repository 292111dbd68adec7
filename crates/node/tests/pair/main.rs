//! Whole nodes on loopback, driven through their admin sockets as the command line does.

mod absent;
mod adopt;
mod adoption;
#[expect(unreachable_pub, reason = "a module of the tests' harness, taken by its path")]
#[path = "../../../../tests/src/disks.rs"]
mod disks;
mod diverged;
mod gone;
mod limits;
mod lost;
mod many;
mod members;
mod promote;
mod relayed;
mod repair;
#[path = "../running/mod.rs"]
mod running;
mod sets;
mod topologies;
mod travel;
mod twins;
mod watermarks;
mod windows;
