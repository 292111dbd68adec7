//! Header parsers against what makes such images: `qemu-img` as the oracle, disks written from the
//! specifications for what it can't make, every damage to small ones, and millions of random ones.

mod damage;
#[expect(unreachable_pub, reason = "a module of the tests' harness, taken by its path")]
#[path = "../../../../tests/src/disks.rs"]
mod disks;
mod fixtures;
mod qemu;
