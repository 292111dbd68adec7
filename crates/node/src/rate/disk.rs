//! How fast images are read for what nobody waits for (`limits.disk_read`): finding what changed,
//! reading back, verifying, warming, spares. What a running transfer reads is not held back: its pace is
//! that of the link, and somebody waits for it.
//!
//! One bucket for all of it. What is asked for may be more than the bucket holds: it is let through
//! when anything is in it, and the debt is waited for by who comes next.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::core::{Core, lock};

/// What may be read at once after a rest, as time at the full rate.
const BURST: Duration = Duration::from_millis(100);
/// A waiting reader looks this often whether the rate has changed or its job is over.
const LOOK: Duration = Duration::from_millis(50);

/// The bucket of a node.
#[derive(Debug, Default)]
pub(crate) struct DiskRate {
    bucket: Mutex<Bucket>,
}

/// Bytes that may be read now; below zero: a debt.
#[derive(Debug, Default)]
struct Bucket {
    bytes: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Takes `bytes` at `rate` bytes per second. `Some`: not yet, look again after this time.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn take(&mut self, now: Instant, rate: u64, bytes: u64) -> Option<Duration> {
        let rate = rate.max(1) as f64;
        let most = rate * BURST.as_secs_f64();
        let rest = self.at.map_or(BURST, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.bytes = (self.bytes + rate * rest.as_secs_f64()).min(most);
        if self.bytes <= 0.0 {
            let due = Duration::try_from_secs_f64(-self.bytes / rate).unwrap_or(LOOK);
            return Some(due.clamp(Duration::from_millis(1), LOOK));
        }
        self.bytes -= bytes as f64;
        None
    }
}

impl DiskRate {
    /// Waits until `bytes` may be read. `rate` is the limit as it is now, in bytes per second; whose job
    /// is `over` doesn't wait. Blocking.
    pub(crate) fn wait(&self, bytes: u64, rate: impl Fn() -> Option<u64>, over: impl Fn() -> bool) {
        while let Some(rate) = rate() {
            let wait = lock(&self.bucket).take(Instant::now(), rate, bytes);
            match wait {
                Some(wait) if !over() => std::thread::sleep(wait),
                _ => return,
            }
        }
    }
}

impl Core {
    /// Called before so many bytes are read for what nobody waits for. Blocking.
    pub(crate) fn before_reading(&self, bytes: u64, over: impl Fn() -> bool) {
        self.disk.wait(bytes, || self.live().disk_read_bytes_per_second, over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Reads of `each` bytes as fast as the bucket lets them; how many seconds they take.
    fn run(rate: u64, each: u64, reads: u64) -> f64 {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let mut now = start;
        for _ in 0..reads {
            while let Some(wait) = bucket.take(now, rate, each) {
                assert!(wait > Duration::ZERO && wait <= LOOK, "{wait:?}");
                now += wait;
            }
        }
        (now - start).as_secs_f64()
    }

    #[test]
    fn what_is_read_keeps_the_rate_whatever_is_asked_for_at_once() {
        for each in [4096, MIB, 4 * MIB, 64 * MIB] {
            let reads = 640 * MIB / each;
            let seconds = run(64 * MIB, each, reads);
            // The first burst is free, and so is the debt of the last read.
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            let free = 0.1 + each as f64 / (64 * MIB) as f64;
            assert!(seconds <= 10.2 && seconds >= 10.0 - free - 0.2, "{each}: {seconds} s");
        }
    }

    #[test]
    fn a_rest_is_worth_a_moment_and_no_more() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        assert_eq!(bucket.take(now, 10 * MIB, MIB), None);
        assert!(bucket.take(now, 10 * MIB, 1).is_some(), "the burst is used up");
        let later = now + Duration::from_secs(3600);
        assert_eq!(bucket.take(later, 10 * MIB, MIB), None);
        assert!(bucket.take(later, 10 * MIB, 1).is_some(), "an hour isn't saved up");
    }

    #[test]
    fn without_a_limit_or_a_job_nobody_waits() {
        let disk = DiskRate::default();
        disk.wait(u64::MAX, || None, || panic!("not asked"));
        disk.wait(1 << 40, || Some(1), || false);
        disk.wait(1, || Some(1), || true);
    }
}
