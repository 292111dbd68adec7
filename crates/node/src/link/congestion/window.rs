//! Window: how many bytes may be in flight.
//!
//! Begins with doubling, until a queue is seen: then it falls back to what the link carries, before
//! that queue overflows. Then the manner counts. Normal: CUBIC's curve, and faster while there is no
//! queue at all; a cut when a full queue loses packets, or when more is lost than a link loses by
//! itself. Polite: up while the queue is shorter than a few milliseconds, down while it is longer,
//! by how much.
//!
//! Only a window that is used grows, and in none but the normal manner does anybody's queue have to
//! overflow for it to stop. Where a queue never empties, the round trip without one is measured
//! anew every few minutes by keeping still for four round trips.

use std::time::{Duration, Instant};

use super::curve::{BETA, Curve};
use super::path::Path;
use super::{Acks, Loss, float};
use crate::budget;

/// Smallest window in packets.
const PACKETS_MIN: f64 = 2.0;
/// Packets in flight while keeping still.
const PACKETS_STILL: f64 = 4.0;
/// Round trips of keeping still.
const STILL_ROUNDS: u32 = 4;
/// Packets after all was lost for long.
const PACKETS_ANEW: f64 = 10.0;
/// A queue of this share of the round trip, within these bounds, ends the doubling.
const START_SHARE: u32 = 8;
const START_LEAST: Duration = Duration::from_millis(8);
const START_MOST: Duration = Duration::from_millis(16);
/// What the link carries, and this much more, is left after the doubling.
const START_KEEPS: f64 = 1.2;
/// Growth per round trip while there is no queue, or on a short path one that a busy machine makes.
const FREE_GAIN: f64 = 0.125;
const FREE_QUEUE: Duration = Duration::from_millis(4);
/// Up to this share of what was too much, or so many round trips after that, a free link is taken.
const FREE_SHARE: f64 = 0.9;
const FREE_ROUNDS: u64 = 10;
/// A window that is used less than this was not what held us back.
const USED_SHARE: f64 = 0.5;
/// The queue that the polite manner keeps below: a share of the round trip, within these bounds.
const POLITE_SHARE: u32 = 8;
const POLITE_LEAST: Duration = Duration::from_millis(5);
const POLITE_MOST: Duration = Duration::from_millis(15);
/// It must be longer than what is sent at once makes: so many packets, but not for ever on a slow link.
const BURST_PACKETS: f64 = 12.0;
const BURST_MOST: Duration = Duration::from_millis(60);
/// What it falls by in a round trip when the queue is twice as long, and at most.
const POLITE_FALL: f64 = 0.35;
const POLITE_FALL_MOST: f64 = 0.5;
/// Who loses a larger share than this is sending too much, queue or not: somebody polices the link.
const LOSS_SHARE: f64 = 0.03;
const POLITE_LOSS_SHARE: f64 = 0.02;
/// What a full queue leaves of a polite window.
const POLITE_BETA: f64 = 0.5;

/// One connection's.
#[derive(Clone, Debug)]
pub(super) struct Window {
    bytes: f64,
    mtu: f64,
    path: Path,
    curve: Curve,
    /// Doubling, up to so many bytes.
    start: Option<f64>,
    polite: bool,
    /// What was sent until then is no measure of the present window.
    cut: Option<Instant>,
    /// The round in which that was.
    cut_round: u64,
    still_until: Option<Instant>,
    acked: Option<Instant>,
}

impl Window {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            bytes: float(budget::INITIAL_WINDOW_BYTES),
            mtu: f64::from(mtu),
            path: Path::new(now),
            curve: Curve::default(),
            start: Some(f64::INFINITY),
            polite: false,
            cut: None,
            cut_round: 0,
            still_until: None,
            acked: None,
        }
    }

    /// What may be in flight.
    pub(super) fn bytes(&self) -> u64 {
        let still = if self.still_until.is_some() { PACKETS_STILL * self.mtu } else { f64::MAX };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let bytes = self.bytes.min(still).max(PACKETS_MIN * self.mtu) as u64;
        bytes
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = f64::from(mtu);
        self.set(self.bytes);
    }

    pub(super) fn set_polite(&mut self, polite: bool, now: Instant) {
        if polite == self.polite {
            return;
        }
        self.polite = polite;
        if !polite {
            // What was left to others is taken back as a new connection would take it.
            self.start = Some(self.curve.top.max(self.bytes));
        }
        self.cut = Some(now);
    }

    pub(super) fn handle_acks(&mut self, acks: &Acks) {
        self.path.handle_acks(acks);
        let before = self.acked.replace(acks.now);
        if self.keeps_still(acks.now) {
            return;
        }
        let old = self.cut.is_some_and(|cut| acks.newest_sent <= cut);
        let used = float(acks.in_flight + acks.bytes) >= self.bytes * USED_SHARE;
        let crowded = self.path.renew_base(acks.now);
        if acks.app_limited || !used || old {
            return;
        }
        if crowded {
            self.still_until = Some(acks.now + STILL_ROUNDS * self.path.round_trip());
            return;
        }
        let acked = float(acks.bytes);
        let passed = before.map_or(Duration::ZERO, |at| acks.now.saturating_duration_since(at));
        let passed = passed.min(self.path.round_trip());
        let next = match (self.start, self.polite) {
            (Some(most), _) => self.double(acked, most, acks.now),
            (None, true) => self.bytes + self.polite_step(acked),
            (None, false) => self.bytes + self.normal_step(acked, passed),
        };
        self.set(next);
    }

    pub(super) fn handle_loss(&mut self, loss: &Loss) {
        self.path.handle_loss(loss.bytes, self.bytes, self.mtu);
        let answered = self.cut.is_some_and(|cut| loss.sent <= cut);
        if loss.persistent {
            if !answered {
                self.curve.cut(self.bytes, self.bytes * BETA, self.mtu);
            }
            self.start = Some(self.curve.top * BETA);
            self.cut_at(loss.now);
            self.set(PACKETS_ANEW * self.mtu);
            return;
        }
        if answered || !self.is_congestion(loss) {
            return;
        }
        let beta = if self.polite { POLITE_BETA } else { BETA };
        let mut after = self.bytes * beta;
        if self.start.take().is_some() {
            after = after.min(self.carried().max(self.bytes / 2.0));
        }
        self.curve.cut(self.bytes, after, self.mtu);
        self.cut_at(loss.now);
        self.set(after);
    }

    /// Whether a loss means that there is too much in flight: the queue was long, the network says
    /// so, or far more is lost than links lose by themselves.
    fn is_congestion(&self, loss: &Loss) -> bool {
        let (full, share) = if self.polite {
            // Up to its aim the queue is this window's own doing.
            (self.polite_queue() * 3 / 2, POLITE_LOSS_SHARE)
        } else {
            (self.path.full(), LOSS_SHARE)
        };
        let queue = self.path.queue_at(loss.sent, self.cut);
        loss.bytes == 0 || queue > full || self.path.loses(share, self.mtu)
    }

    fn cut_at(&mut self, now: Instant) {
        self.cut = Some(now);
        self.cut_round = self.path.rounds();
        self.path.forgive();
    }

    fn set(&mut self, bytes: f64) {
        let most = float(budget::WINDOW_POOL_BYTES);
        self.bytes = bytes.clamp(PACKETS_MIN * self.mtu, most);
    }

    /// What the link carries, and a little more.
    fn carried(&self) -> f64 {
        let base = self.path.base().as_secs_f64();
        self.path.rate().map_or(self.bytes, |rate| rate * base * START_KEEPS)
    }

    fn double(&mut self, acked: f64, most: f64, now: Instant) -> f64 {
        let limit = if self.polite {
            self.polite_queue() / 2
        } else {
            (self.path.base() / START_SHARE).clamp(START_LEAST, START_MOST)
        };
        let queues = self.path.newest_queue() > limit;
        if !queues && self.bytes < most {
            return self.bytes + acked;
        }
        self.start = None;
        if !queues {
            self.curve = Curve::level(self.bytes);
            return self.bytes;
        }
        // On a short path that is next to nothing; then what makes as long a queue as this.
        let queued = self.path.base() + limit;
        let queued = self.path.rate().map_or(self.bytes, |rate| rate * queued.as_secs_f64());
        let after = self.carried().max(queued).clamp(self.bytes / 2.0, self.bytes);
        if after < self.bytes * 0.85 {
            // What overflows now was sent before.
            self.cut_at(now);
        }
        self.curve = Curve::level(after);
        after
    }

    fn normal_step(&mut self, acked: f64, used: Duration) -> f64 {
        let calm = self.path.queue() <= self.path.calm().max(FREE_QUEUE);
        let rounds = self.path.rounds() - self.cut_round;
        let room = self.bytes < self.curve.top * FREE_SHARE || rounds >= FREE_ROUNDS;
        let free = if calm && room { acked * FREE_GAIN } else { 0.0 };
        let curve = self.curve.growth((self.bytes, acked, self.mtu), used, self.path.round_trip());
        free.max(curve)
    }

    fn polite_queue(&self) -> Duration {
        let aim = (self.path.base() / POLITE_SHARE).clamp(POLITE_LEAST, POLITE_MOST);
        aim.max(self.path.time_for(BURST_PACKETS * self.mtu).min(BURST_MOST))
    }

    fn polite_step(&mut self, acked: f64) -> f64 {
        let aim = self.polite_queue();
        let times = self.path.queue().as_secs_f64() / aim.as_secs_f64();
        if times <= 0.25 {
            acked * FREE_GAIN
        } else if times <= 1.0 {
            self.mtu * acked / self.bytes * (1.0 - times)
        } else {
            -acked * ((times - 1.0) * POLITE_FALL).min(POLITE_FALL_MOST)
        }
    }

    /// Whether the queue is being emptied to measure the round trip.
    fn keeps_still(&mut self, now: Instant) -> bool {
        if self.still_until.is_some_and(|until| now >= until) {
            self.still_until = None;
            self.cut = Some(now);
        }
        self.still_until.is_some()
    }
}
