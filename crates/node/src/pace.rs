//! Pace: how fast we may send, as a token bucket in front of QUIC.
//!
//! Pure: time is an argument. Bytes are counted with what QUIC, UDP and IP add to them. A take is
//! never refused; it says how long to wait, and what waits first goes first. A change of rate bites
//! at the next take, so takes are small ([`crate::budget::PACE_BYTES_MAX`]).

use std::time::{Duration, Instant};

/// Payload bytes per byte on the wire: 1,400 of 1,452 at the usual MTU, headers and tags counted.
const PAYLOAD_SHARE: f64 = 0.965;
/// What may be sent at once after a rest, in seconds of the rate.
const BURST_SECONDS: f64 = 0.1;
/// The least burst, in bytes: one take.
const BURST_BYTES_MIN: f64 = 64.0 * 1024.0;

/// A rate limit and what is left of it.
#[derive(Debug)]
pub struct Pace {
    /// Bytes on the wire per second; `None`: no limit.
    rate: Option<f64>,
    /// Bytes that may be sent now; negative: promised already.
    tokens: f64,
    filled: Instant,
}

impl Pace {
    /// A bucket that starts full. A limit of 0 is taken as 1 bit/s: it never means "no limit".
    pub fn new(bits_per_second: Option<u64>, now: Instant) -> Self {
        let rate = bits_per_second.map(bytes_per_second);
        Self { rate, tokens: rate.map_or(0.0, burst), filled: now }
    }

    /// Changes the limit; what was promised is kept.
    pub fn set_rate(&mut self, bits_per_second: Option<u64>, now: Instant) {
        self.fill(now);
        self.rate = bits_per_second.map(bytes_per_second);
    }

    /// Takes `bytes` of payload and says how long to wait before sending them.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        self.fill(now);
        let Some(rate) = self.rate else { return Duration::ZERO };
        self.tokens -= f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / PAYLOAD_SHARE;
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        // A day is as good as never, and keeps the arithmetic of absurd limits sound.
        Duration::try_from_secs_f64((-self.tokens / rate).min(86_400.0)).unwrap_or_default()
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        if let Some(rate) = self.rate {
            self.tokens = (self.tokens + elapsed * rate).min(burst(rate));
        }
    }
}

fn bytes_per_second(bits: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let bits = bits.max(1) as f64;
    bits / 8.0
}

fn burst(rate: f64) -> f64 {
    (rate * BURST_SECONDS).max(BURST_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `total` bytes in slices, waiting as told; how long it took.
    fn send(pace: &mut Pace, total: usize, start: Instant) -> Duration {
        let mut now = start;
        for _ in 0..total / 65536 {
            now += pace.take(65536, now);
        }
        now - start
    }

    #[test]
    fn the_rate_is_kept() {
        let start = Instant::now();
        for bits in [1_000_000, 5_000_000, 200_000_000, 1_000_000_000_u64] {
            let mut pace = Pace::new(Some(bits), start);
            let total = usize::try_from(bits / 8 * 20).expect("fits"); // 20 s worth of payload
            let took = send(&mut pace, total, start).as_secs_f64();
            // 20 s of payload take 20.7 s of wire, less the burst and the last slice.
            assert!((20.0..20.9).contains(&took), "{bits} bit/s took {took}");
        }
    }

    #[test]
    fn no_limit_never_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(None, now);
        assert_eq!(pace.take(usize::MAX, now), Duration::ZERO);
        pace.set_rate(Some(8_000), now);
        assert!(pace.take(10_000, now) > Duration::from_secs(1), "a limit bites at once");
    }

    #[test]
    fn zero_is_not_unlimited() {
        let now = Instant::now();
        let mut pace = Pace::new(Some(0), now);
        pace.take(65536, now);
        assert!(pace.take(65536, now) > Duration::from_secs(3600));
    }

    #[test]
    fn a_rest_is_worth_one_burst_only() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(80_000_000), start); // 10 MB/s, burst 1 MB
        pace.take(2_000_000, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.take(900_000, later), Duration::ZERO);
        assert!(pace.take(900_000, later) > Duration::from_millis(80));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut pace = Pace::new(Some(8_000_000), start);
        let first = pace.take(1_000_000, start);
        let second = pace.take(1_000_000, start - Duration::from_secs(50));
        assert!(second > first);
    }
}
