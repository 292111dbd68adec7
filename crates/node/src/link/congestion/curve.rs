//! Curve: how CUBIC (RFC 9438) lets a window grow after it was cut.
//!
//! First fast towards where the loss was, then hardly, then ever faster; never slower than Reno
//! would. Time is that in which the window was used: pauses don't count.

use std::time::Duration;

/// RFC 9438: packets per cubic second.
const C: f64 = 0.4;
/// RFC 9438: what is left of a window.
pub(super) const BETA: f64 = 0.7;
/// Reno's growth in packets per round trip that is as aggressive as a cut to [`BETA`].
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// The window never grows by more than this share of it in a round trip.
const GROWTH_MAX: f64 = 0.5;

/// The time since a cut, and what was before it. Windows in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Curve {
    /// The window at the last cut; 0: there was none.
    pub(super) top: f64,
    /// Seconds until the window is there again.
    k: f64,
    /// Seconds since the cut in which the window was used.
    elapsed: f64,
    /// Reno's window.
    reno: f64,
}

impl Curve {
    /// From here on: nothing was lost.
    pub(super) fn level(bytes: f64) -> Self {
        Self { top: bytes, k: 0.0, elapsed: 0.0, reno: bytes }
    }

    /// The window is cut from `before` to `after`.
    pub(super) fn cut(&mut self, before: f64, after: f64, mtu: f64) {
        // Who got less than before makes room for others.
        let top = if before < self.top { before * (1.0 + BETA) / 2.0 } else { before };
        let k = ((top - after).max(0.0) / mtu / C).cbrt();
        *self = Self { top, k, elapsed: 0.0, reno: after };
    }

    /// What `acked` bytes let a window of `bytes` grow by; `used` is how long it was used meanwhile.
    pub(super) fn growth(
        &mut self,
        (bytes, acked, mtu): (f64, f64, f64),
        used: Duration,
        round_trip: Duration,
    ) -> f64 {
        self.elapsed += used.as_secs_f64();
        let alpha = if self.reno < self.top { ALPHA } else { 1.0 };
        self.reno += alpha * mtu * acked / bytes;
        let ahead = self.elapsed + round_trip.as_secs_f64() - self.k;
        let target = (self.top + C * ahead.powi(3) * mtu).max(self.reno);
        ((target - bytes) / bytes).clamp(0.0, GROWTH_MAX) * acked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: f64 = 1000.0;

    /// Windows after each second of a 50 ms path.
    fn seconds(curve: &mut Curve, mut bytes: f64, count: usize) -> Vec<f64> {
        let round_trip = Duration::from_millis(50);
        let mut windows = Vec::new();
        for _ in 0..count {
            for _ in 0..20 {
                bytes += curve.growth((bytes, bytes, MTU), round_trip, round_trip);
            }
            windows.push(bytes);
        }
        windows
    }

    #[test]
    fn it_comes_back_levels_off_and_goes_on() {
        let mut curve = Curve::level(200.0 * MTU);
        curve.cut(200.0 * MTU, 140.0 * MTU, MTU);
        let windows = seconds(&mut curve, 140.0 * MTU, 14);
        assert!(windows[1] > 170.0 * MTU, "{windows:?}");
        // cbrt(60 / 0.4) is 5.3 seconds.
        assert!((195.0 * MTU..207.0 * MTU).contains(&windows[5]), "{windows:?}");
        assert!(windows[13] > 240.0 * MTU, "{windows:?}");
        assert!(windows.is_sorted());
    }

    #[test]
    fn a_small_window_grows_as_renos_does() {
        let mut curve = Curve::level(10.0 * MTU);
        curve.cut(10.0 * MTU, 7.0 * MTU, MTU);
        let windows = seconds(&mut curve, 7.0 * MTU, 1);
        assert!(windows[0] > 14.0 * MTU, "{windows:?}");
    }

    #[test]
    fn a_pause_is_no_time_to_grow_in() {
        let mut curve = Curve::level(100.0 * MTU);
        let grown = curve.growth((100.0 * MTU, MTU, MTU), Duration::ZERO, Duration::ZERO);
        assert!(grown < MTU / 50.0, "{grown}");
        let ages = Duration::from_secs(1 << 30);
        let grown = curve.growth((100.0 * MTU, MTU, MTU), ages, Duration::ZERO);
        assert!(grown <= MTU / 2.0, "{grown}");
    }
}
