//! Path: what the acknowledgements say of the way to a peer.
//!
//! Its round trip without a queue is the shortest of the last minutes; what a packet takes longer
//! now, it spends in queues. A single late answer (a busy machine, an acknowledgement that was held
//! back) is no queue: the shortest of the last few and the smoothed one count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Acks, float};

/// The shortest round trip is that of one to two times this time.
const BASE_SPAN: Duration = Duration::from_secs(150);
/// Answers of which the fastest says how long the queue is.
const SAMPLES: usize = 4;
/// Answers over which the rate is measured.
const RATE_SAMPLES: usize = 16;
/// What a long queue of long ago counts for, round by round.
const TOP_FADES: f64 = 0.99;
/// Answers that are remembered with the queue that they tell of.
const QUEUES: usize = 64;
/// Packets that the share is reckoned from, at least.
const LOSS_PACKETS_MIN: f64 = 400.0;
/// A queue below this share of a round trip, and within these bounds, is none.
const CALM_SHARE: u32 = 16;
const CALM_LEAST: Duration = Duration::from_millis(2);
const CALM_MOST: Duration = Duration::from_millis(5);

/// One way to a peer.
#[derive(Clone, Debug)]
pub(super) struct Path {
    base: [Option<Duration>; 2],
    base_since: Instant,
    samples: VecDeque<Duration>,
    smoothed: Duration,
    /// When, and how many bytes had been confirmed by then.
    delivered: VecDeque<(Instant, f64)>,
    delivered_bytes: f64,
    /// The highest rate, by the same times as `base`.
    fastest: [f64; 2],
    round_since: Instant,
    rounds: u64,
    /// When a packet was sent, and how long the queue was for it.
    queues: VecDeque<(Instant, Duration)>,
    /// Shortest queue since the base was renewed.
    lowest: Option<Duration>,
    /// Longest queue of late.
    top: Duration,
    /// Bytes sent and lost, of late.
    sent: f64,
    lost: f64,
}

impl Path {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: [None; 2],
            base_since: now,
            samples: VecDeque::new(),
            smoothed: Duration::ZERO,
            delivered: VecDeque::new(),
            delivered_bytes: 0.0,
            fastest: [0.0; 2],
            round_since: now,
            rounds: 0,
            queues: VecDeque::new(),
            lowest: None,
            top: Duration::ZERO,
            sent: 0.0,
            lost: 0.0,
        }
    }

    pub(super) fn handle_acks(&mut self, acks: &Acks) {
        let shortest = acks.round_trip.min(acks.smoothed);
        let [_, recent] = &mut self.base;
        *recent = Some(recent.map_or(shortest, |base| base.min(shortest)));
        self.smoothed = acks.smoothed;
        keep(&mut self.samples, acks.round_trip, SAMPLES);
        self.delivered_bytes += float(acks.bytes);
        keep(&mut self.delivered, (acks.now, self.delivered_bytes), RATE_SAMPLES);
        self.fastest[1] = self.rate().unwrap_or(0.0).max(self.fastest[1]);
        self.sent += float(acks.bytes);
        let queue = self.queue();
        keep(&mut self.queues, (acks.newest_sent, queue), QUEUES);
        self.top = self.top.max(queue);
        self.lowest = Some(self.lowest.map_or(queue, |lowest| lowest.min(queue)));
        if acks.newest_sent >= self.round_since {
            self.round_since = acks.now;
            self.rounds += 1;
            self.top = self.top.mul_f64(TOP_FADES);
        }
    }

    pub(super) fn handle_loss(&mut self, bytes: u64, window: f64, mtu: f64) {
        self.sent += float(bytes);
        self.lost += float(bytes);
        let most = (2.0 * window).max(LOSS_PACKETS_MIN * mtu);
        if self.sent > 2.0 * most {
            let share = most / self.sent;
            (self.sent, self.lost) = (most, self.lost * share);
        }
    }

    /// Renews the shortest round trip when it is old. `true`: all that it was measured with stood in
    /// a queue, so the next one will be too long unless the queue is emptied first.
    pub(super) fn renew_base(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.base_since) < BASE_SPAN {
            return false;
        }
        self.base_since = now;
        self.base = [self.base[1], None];
        self.fastest = [self.fastest[1], 0.0];
        self.lowest.take().is_some_and(|lowest| lowest > self.calm())
    }

    /// The round trip without a queue.
    pub(super) fn base(&self) -> Duration {
        self.base.iter().flatten().min().copied().unwrap_or_default()
    }

    /// The round trip now.
    pub(super) fn round_trip(&self) -> Duration {
        self.smoothed.max(self.base())
    }

    /// How long packets queue now. Not more than the smoothed round trip says: where little is sent,
    /// each answer is one that the peer was in no hurry to give.
    pub(super) fn queue(&self) -> Duration {
        self.smoothed.saturating_sub(self.base()).min(self.newest_queue())
    }

    /// The same by the last few answers alone.
    pub(super) fn newest_queue(&self) -> Duration {
        let fastest = self.samples.iter().min().copied().unwrap_or_default();
        fastest.saturating_sub(self.base())
    }

    /// Up to here a queue is none.
    pub(super) fn calm(&self) -> Duration {
        (self.base() / CALM_SHARE).clamp(CALM_LEAST, CALM_MOST)
    }

    /// The longest queue that packets met which were sent with a lost one or after it, but since
    /// the last answer to a loss.
    pub(super) fn queue_at(&self, lost: Instant, answered: Option<Instant>) -> Duration {
        let from = lost.checked_sub(self.round_trip() / 4).unwrap_or(lost);
        let near = self.queues.iter().rev().take_while(|(sent, _)| *sent >= from);
        let fresh = near.filter(|(sent, _)| answered.is_none_or(|at| *sent > at));
        fresh.map(|(_, queue)| *queue).max().unwrap_or_default()
    }

    /// From here on a queue is about as long as it gets.
    pub(super) fn full(&self) -> Duration {
        (self.top / 2).max(self.calm())
    }

    /// Whether more than this share of what is sent is lost.
    pub(super) fn loses(&self, share: f64, mtu: f64) -> bool {
        self.lost > share * self.sent.max(LOSS_PACKETS_MIN * mtu / 2.0)
    }

    /// What was lost is answered.
    pub(super) fn forgive(&mut self) {
        (self.sent, self.lost) = (0.0, 0.0);
    }

    /// Round trips so far.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds
    }

    /// How long the link takes for so many bytes.
    pub(super) fn time_for(&self, bytes: f64) -> Duration {
        let fastest = self.fastest[0].max(self.fastest[1]);
        Duration::try_from_secs_f64(bytes / fastest).unwrap_or_default()
    }

    /// Bytes per second that got through lately.
    pub(super) fn rate(&self) -> Option<f64> {
        let (first, last) = self.delivered.front().zip(self.delivered.back())?;
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        (seconds > 0.0 && self.delivered.len() == RATE_SAMPLES)
            .then(|| (last.1 - first.1) / seconds)
    }
}

fn keep<T>(list: &mut VecDeque<T>, value: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(value);
}
