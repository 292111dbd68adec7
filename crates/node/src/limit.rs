//! Limit: the node's one token bucket, shared by all of its streams.
//!
//! The arithmetic is `pace`'s; this only holds the clock and the lock. Without a limit it costs
//! nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::pace::Pace;

/// The send limit of the node.
pub(crate) struct Limit {
    bits_per_second: Option<u64>,
    pace: Mutex<Pace>,
}

impl Limit {
    /// `None`: no limit.
    pub(crate) fn new(bits_per_second: Option<u64>) -> Self {
        let pace = Mutex::new(Pace::new(bits_per_second, Instant::now()));
        Self { bits_per_second, pace }
    }

    /// The limit in force.
    pub(crate) fn bits_per_second(&self) -> Option<u64> {
        self.bits_per_second
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
        }
    }
}
