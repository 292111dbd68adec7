//! Power cuts: the ways in which a crash may go that suites try at every operation, one after the
//! other, and the ways to commit that they try it with. A cut is told by its seed.

use blockferry_store::CommitMode;
use blockferry_store::disk::{CrashPlan, Keep};

/// Each seed takes another way to commit.
pub const MODES: [CommitMode; 3] = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal];

/// What is kept of what wasn't synced, and whether the last of it is torn. With nothing to lose all
/// are the same.
const WAYS: [(Keep, bool); 8] = [
    (Keep::Nothing, false),
    (Keep::Everything, false),
    (Keep::Prefix, false),
    (Keep::Prefix, true),
    (Keep::Subset, false),
    (Keep::Subset, true),
    (Keep::Reordered, false),
    (Keep::Reordered, true),
];

/// The cuts worth trying on a disk with this many operations to lose.
pub fn cuts(pending: usize, seed: u64) -> impl Iterator<Item = CrashPlan> {
    let count = if pending == 0 { 1 } else { WAYS.len() };
    WAYS[..count].iter().map(move |&(keep, tear)| CrashPlan { seed, keep, tear })
}

/// One of them, by number.
pub fn cut(number: usize, seed: u64) -> CrashPlan {
    let (keep, tear) = WAYS[number % WAYS.len()];
    CrashPlan { seed, keep, tear }
}
