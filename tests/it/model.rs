//! A reference model: two stores on simulated disks do what maps of bytes do. Random operations,
//! power cuts and failing disks among them; after each one the stores and the maps must agree.
//!
//! A failing sequence is replayed with ever fewer operations until none can be left out.

mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use blockferry_tests::{Rng, across};

use world::World;

/// What happens next; all details follow from the seed and what there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    what: What,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Write,
    Record,
    Replicate,
    CutPower,
    Reopen,
    Freshen,
    Delete,
    Rename,
    Verify,
    FailSync,
    FillDisk,
    Park,
}

/// Often what moves things on, now and then what is in the way.
const MIX: [What; 22] = [
    What::Write,
    What::Write,
    What::Write,
    What::Write,
    What::Record,
    What::Record,
    What::Record,
    What::Replicate,
    What::Replicate,
    What::Replicate,
    What::Replicate,
    What::CutPower,
    What::CutPower,
    What::CutPower,
    What::Reopen,
    What::Freshen,
    What::Delete,
    What::Rename,
    What::Verify,
    What::FailSync,
    What::FillDisk,
    What::Park,
];

fn sequence(seed: u64) -> Vec<Op> {
    let mut rng = Rng::new(seed);
    let count = 8 + rng.below(12);
    (0..count).map(|_| Op { what: *rng.pick(&MIX), seed: rng.draw() }).collect()
}

fn run(seed: u64, ops: &[Op]) {
    let mut world = World::new(seed);
    for op in ops {
        world.step(*op);
        world.check();
    }
}

fn fails(seed: u64, ops: &[Op]) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(seed, ops))).is_err()
}

/// Leaves out operations as long as the rest still fails.
fn shrink(seed: u64, mut ops: Vec<Op>) -> Vec<Op> {
    let mut at = ops.len();
    while at > 0 {
        at -= 1;
        let mut fewer = ops.clone();
        fewer.remove(at);
        if fails(seed, &fewer) {
            ops = fewer;
        }
    }
    ops
}

#[test]
fn model_and_stores_agree() {
    across("model_and_stores_agree", 5000, "operations", |seed| {
        let ops = sequence(seed);
        if fails(seed, &ops) {
            let least = shrink(seed, ops);
            eprintln!("seed {seed}, shortest sequence that fails:");
            least.iter().for_each(|op| eprintln!("  {op:?}"));
            run(seed, &least);
        }
        sequence(seed).len() as u64
    });
}
