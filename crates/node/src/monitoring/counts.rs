//! Counts: what a node has done since it started, for monitors. Nothing is decided by it.
//!
//! Each count is bounded in number: reasons, directions and ways of finding a change are few and fixed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blockferry_delta::Root;
use blockferry_store::{Discover, Generation};

use crate::admin::reports;
use crate::api::CameRow;
use crate::budget;
use crate::core::lock;
use crate::transfer::exchange::Travelled;

/// Upper bounds of the buckets that durations are counted in, in seconds.
const BOUNDS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, f64::INFINITY];

/// Durations of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seconds {
    pub(crate) sum: f64,
    pub(crate) count: u64,
    /// Upper bound in seconds, and how many lie between it and the one before.
    buckets: [u64; BOUNDS.len()],
}

impl Seconds {
    fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.sum += seconds;
        self.count += 1;
        let fits = BOUNDS.iter().zip(&mut self.buckets).find(|(bound, _)| seconds <= **bound);
        if let Some((_, bucket)) = fits {
            *bucket += 1;
        }
    }

    /// Upper bounds in seconds, each with how many are above the bound before.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().zip(self.buckets).collect()
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    inner: Mutex<Totals>,
    /// How the last ones came, by content, with ascending numbers; the oldest first.
    came: Mutex<VecDeque<(u64, Root, CameRow)>>,
    verify_failures: AtomicU64,
}

/// The figures at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Bytes of images that peers gave a receipt for.
    pub(crate) logical_sent_bytes: u64,
    /// Bytes of images that were received.
    pub(crate) logical_received_bytes: u64,
    /// Of these, what did not travel, by why.
    pub(crate) saved_bytes: BTreeMap<&'static str, u64>,
    /// How long it took to find what changed, by how.
    pub(crate) discover: BTreeMap<&'static str, Seconds>,
    /// Image bytes read for that.
    pub(crate) scan_bytes: u64,
    /// How long it took to make received content current.
    pub(crate) commit: Seconds,
    /// Images that verifying found wrong.
    pub(crate) verify_failures: u64,
}

impl Counts {
    /// A generation was recorded here.
    pub(crate) fn note_recorded(&self, generation: &Generation) {
        let mut totals = lock(&self.inner);
        let took = Duration::from_millis(generation.millis);
        totals.discover.entry(reports::discovered(generation)).or_default().note(took);
        totals.scan_bytes = totals.scan_bytes.saturating_add(generation.bytes_read);
    }

    /// A generation was received.
    pub(crate) fn note_received(&self, generation: &Generation, how: &Travelled) {
        self.note_came(generation, how);
        let mut totals = lock(&self.inner);
        let size = generation.size_bytes;
        totals.logical_received_bytes = totals.logical_received_bytes.saturating_add(size);
        let moved = how.found_bytes.saturating_add(how.zero_bytes).saturating_add(how.raw_bytes);
        let keep = size.saturating_sub(moved);
        for (reason, bytes) in [
            ("keep", keep),
            ("found", how.found_bytes),
            ("zero", how.zero_bytes),
            ("zstd", how.zstd_bytes),
            ("prefix", how.prefix_bytes),
        ] {
            let sum = totals.saved_bytes.entry(reason).or_default();
            *sum = sum.saturating_add(bytes);
        }
        totals.commit.note(how.commit);
    }

    fn note_came(&self, generation: &Generation, how: &Travelled) {
        let (found_bytes, zero_bytes) = (how.found_bytes, how.zero_bytes);
        let sent_bytes = how.raw_bytes;
        let moved = found_bytes.saturating_add(zero_bytes).saturating_add(sent_bytes);
        let keep_bytes = generation.size_bytes.saturating_sub(moved);
        let mut came = lock(&self.came);
        let number = came.back().map_or(1, |(last, ..)| last + 1);
        if came.len() >= budget::CAME_MAX {
            came.pop_front();
        }
        let row = CameRow { keep_bytes, found_bytes, zero_bytes, sent_bytes };
        came.push_back((number, generation.root, row));
    }

    /// How generations came that have numbers above this, to be kept over a restart.
    pub(crate) fn came_after(&self, number: u64) -> Vec<(u64, Root, CameRow)> {
        lock(&self.came).iter().filter(|(of, ..)| *of > number).copied().collect()
    }

    /// How generations came before the start, ascending; what came since goes behind them.
    pub(crate) fn restore_came(&self, before: &[(u64, Root, CameRow)]) {
        let mut came = lock(&self.came);
        let last = before.last().map_or(0, |(number, ..)| *number);
        for row in came.iter_mut() {
            row.0 = row.0.saturating_add(last);
        }
        let room = budget::CAME_MAX.saturating_sub(came.len());
        for row in before.iter().rev().take(room) {
            came.push_front(*row);
        }
    }

    /// How a generation came; `None`: it was recorded here, or that isn't known any more.
    pub(crate) fn came(&self, generation: &Generation) -> Option<CameRow> {
        if generation.discover != Discover::Received {
            return None;
        }
        let came = lock(&self.came);
        came.iter().rev().find(|(_, root, _)| *root == generation.root).map(|(.., row)| *row)
    }

    /// A peer gave a receipt for an image of so many bytes.
    pub(crate) fn note_sent(&self, size_bytes: u64) {
        let mut totals = lock(&self.inner);
        totals.logical_sent_bytes = totals.logical_sent_bytes.saturating_add(size_bytes);
    }

    /// Verifying found an image wrong.
    pub(crate) fn note_verify_failure(&self) {
        self.verify_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures as they are now.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = lock(&self.inner).clone();
        totals.verify_failures = self.verify_failures.load(Ordering::Relaxed);
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let mut seconds = Seconds::default();
        for ms in [0, 10, 11, 1000, 3_600_000, 36_000_000] {
            seconds.note(Duration::from_millis(ms));
        }
        let counts: Vec<u64> = seconds.buckets().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 1, 0, 0, 0, 0, 1, 1]);
        assert_eq!(seconds.count, 6);
        assert!((seconds.sum - 39_601.021).abs() < 1e-6, "{}", seconds.sum);
    }
}
