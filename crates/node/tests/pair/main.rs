//! Whole nodes on loopback, driven through their admin sockets as the command line does.

mod adopt;
#[expect(unreachable_pub, reason = "a module of the tests' harness, taken by its path")]
#[path = "../../../../tests/src/disks.rs"]
mod disks;
mod diverged;
mod gone;
mod many;
mod members;
mod promote;
mod relayed;
#[path = "../running/mod.rs"]
#[expect(dead_code, reason = "the tests of HTTP use the rest")]
mod running;
mod sets;
mod topologies;
mod travel;
mod watermarks;
