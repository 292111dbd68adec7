//! Limit: the node's one token bucket, shared by all of its streams.
//!
//! The arithmetic is `pace`'s; this only holds the clock and the lock. Without a limit it costs
//! nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::pace::Pace;

/// The send limit of the node.
pub(crate) struct Limit {
    bits_per_second: Option<u64>,
    pace: Mutex<Pace>,
    waited_micros: AtomicU64,
}

impl Limit {
    /// `None`: no limit.
    pub(crate) fn new(bits_per_second: Option<u64>) -> Self {
        let pace = Mutex::new(Pace::new(bits_per_second, Instant::now()));
        Self { bits_per_second, pace, waited_micros: AtomicU64::new(0) }
    }

    /// The limit in force.
    pub(crate) fn bits_per_second(&self) -> Option<u64> {
        self.bits_per_second
    }

    /// How long streams have waited, all together.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_micros.load(Ordering::Relaxed))
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn wait_for(&self, bytes: usize) {
        if self.bits_per_second.is_none() {
            return;
        }
        let wait = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.take(bytes, Instant::now())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
            let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            self.waited_micros.fetch_add(micros, Ordering::Relaxed);
        }
    }
}
