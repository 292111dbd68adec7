//! Pace: who may send how much now, under caps that lie over one another.
//!
//! Pure: time is an argument. Each cap is a token bucket in bytes on the wire; what is sent counts
//! against all caps on its way at once (node, store, peer), so the tightest rules. Nothing is promised
//! beforehand: who asks waits in a queue until every bucket on its way is out of debt, so a change of
//! rate bites at once and a slow peer holds back nobody. Asks are small ([`slice_bytes`]).
//!
//! What really went out ([`Meter`]) is counted, not what was meant to: headers, acknowledgements and
//! retransmissions too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::budget::{PACE_BYTES_MAX, PACKET_WIRE_BYTES};
use crate::calendar::Rate;
use crate::rates::Cap;

/// A packet in bytes on the wire.
const PACKET_BYTES: f64 = PACKET_WIRE_BYTES as f64;
/// What a late timer doesn't lose, in bytes on the wire: so many seconds of the rate less a packet, and
/// a packet and a half at least. With one ask more (1 ms or a packet) it stays below 3 % of any 250 ms,
/// or below three packets.
const SAVED_SECONDS: f64 = 0.006;
const SAVED_BYTES_LEAST: f64 = 1.5 * PACKET_BYTES;
/// Debt that is remembered at most, in seconds of the rate: what was sent without asking.
const DEBT_SECONDS: f64 = 0.5;
/// Asks per second at a high rate; each is a wake-up of a timer that counts milliseconds.
const SLICES_PER_SECOND: u64 = 1000;
/// Bytes that a packet's payload of a stream costs besides, at least: headers of IP (20), UDP (8) and
/// QUIC (11), a stream frame's (9), a tag (16).
const HEADER_BYTES_LEAST: usize = 64;
/// A day is as good as never, and keeps the arithmetic of absurd limits sound.
const NEVER: Duration = Duration::from_secs(86_400);

/// Payload bytes of one ask at `rate`: whole packets of `packet` payload bytes each.
pub fn slice_bytes(rate: Rate, packet: usize) -> usize {
    let Rate::Limited(bits) = rate else { return PACE_BYTES_MAX };
    let share = usize::try_from(bits / 8 / SLICES_PER_SECOND).unwrap_or(PACE_BYTES_MAX);
    let packet = packet.clamp(1, PACE_BYTES_MAX);
    (share.min(PACE_BYTES_MAX) / packet).max(1) * packet
}

/// Bytes on the wire that `payload` bytes of a stream become, at least.
pub fn wire_bytes(payload: usize, packet: usize) -> u64 {
    let packets = payload.div_ceil(packet.max(1));
    (payload + packets * HEADER_BYTES_LEAST) as u64
}

/// What one connection really sent, against what was asked for.
#[derive(Debug)]
pub struct Meter {
    /// What the connection had sent when this began, in bytes on the wire.
    before: u64,
    /// What should have gone out since, or has: whichever is more.
    owed: u64,
}

impl Meter {
    /// Begins now; `sent` is what the connection has sent so far, in bytes on the wire.
    pub fn new(sent: u64) -> Self {
        Self { before: sent, owed: 0 }
    }

    /// What to count for `asked` bytes on the wire about to be sent, `sent` being what the connection
    /// has sent until now: with what else went out meanwhile.
    pub fn count(&mut self, asked: u64, sent: u64) -> u64 {
        let before = self.owed;
        let really = sent.saturating_sub(self.before);
        self.owed = (self.owed + asked).max(really);
        self.owed - before
    }
}

/// One cap and what is left of it.
#[derive(Debug)]
struct Bucket {
    /// Bytes per second; `None`: no limit. 0: nothing.
    rate: Option<f64>,
    /// Bytes that may be sent now; negative: sent already.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate: bytes_per_second(rate), tokens: 0.0, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        let Some(rate) = self.rate else { return };
        let most = SAVED_BYTES_LEAST.max(rate * SAVED_SECONDS - PACKET_BYTES);
        self.tokens = (self.tokens + elapsed * rate).min(most);
    }

    fn take(&mut self, bytes: f64) {
        let Some(rate) = self.rate else { return };
        self.tokens = (self.tokens - bytes).max(-(rate * DEBT_SECONDS) - PACKET_BYTES);
    }

    /// How long until it is out of debt.
    fn wait(&self) -> Duration {
        match self.rate {
            None => Duration::ZERO,
            Some(_) if self.tokens >= 0.0 => Duration::ZERO,
            Some(0.0) => NEVER,
            Some(rate) => Duration::try_from_secs_f64(-self.tokens / rate).map_or(NEVER, |wait| {
                // Rounded up: a waiter that comes a nanosecond early would come twice.
                NEVER.min(wait + Duration::from_nanos(1))
            }),
        }
    }

    fn is_open(&self) -> bool {
        self.rate.is_none_or(|rate| rate > 0.0 && self.tokens >= 0.0)
    }
}

/// Somebody who waits.
#[derive(Debug)]
struct Ask {
    flow: u64,
    caps: Vec<Cap>,
    wire_bytes: u64,
}

/// All caps and all who wait.
#[derive(Debug, Default)]
pub struct Pacer {
    buckets: BTreeMap<Cap, Bucket>,
    /// In the order in which they came: one ask of each flow, so that they take turns.
    waiting: Vec<Ask>,
}

impl Pacer {
    /// The rates that are in force from now on, those of all caps that limit anything. What was sent
    /// before still counts.
    pub fn set_rates(&mut self, rates: impl IntoIterator<Item = (Cap, Rate)>, now: Instant) {
        let mut old = std::mem::take(&mut self.buckets);
        for (cap, rate) in rates {
            if rate == Rate::Unlimited {
                continue;
            }
            let mut bucket = old.remove(&cap).unwrap_or_else(|| Bucket::new(rate, now));
            bucket.fill(now);
            bucket.rate = bytes_per_second(rate);
            self.buckets.insert(cap, bucket);
        }
    }

    /// Whether any of these limits anything; if not there is nothing to ask for.
    pub fn limits(&self, caps: &[Cap]) -> bool {
        caps.iter().any(|cap| self.buckets.contains_key(cap))
    }

    /// Queues a flow for `wire_bytes`; [`Pacer::poll`] names it when they may be sent. A flow asks for
    /// one thing at a time.
    pub fn ask(&mut self, flow: u64, caps: Vec<Cap>, wire_bytes: u64) {
        self.cancel(flow);
        self.waiting.push(Ask { flow, caps, wire_bytes });
    }

    /// Takes an ask back.
    pub fn cancel(&mut self, flow: u64) {
        self.waiting.retain(|ask| ask.flow != flow);
    }

    /// The flows that may send now what they asked for; and when to poll again.
    pub fn poll(&mut self, now: Instant) -> (Vec<u64>, Option<Instant>) {
        let Self { buckets, waiting } = self;
        for bucket in buckets.values_mut() {
            bucket.fill(now);
        }
        let mut flows = Vec::new();
        waiting.retain(|ask| {
            let shut = |cap: &Cap| buckets.get(cap).is_some_and(|bucket| !bucket.is_open());
            if ask.caps.iter().any(shut) {
                return true;
            }
            for cap in &ask.caps {
                if let Some(bucket) = buckets.get_mut(cap) {
                    bucket.take(bytes(ask.wire_bytes));
                }
            }
            flows.push(ask.flow);
            false
        });
        let wait_of = |ask: &Ask| {
            let buckets = ask.caps.iter().filter_map(|cap| buckets.get(cap));
            buckets.map(Bucket::wait).max().unwrap_or_default()
        };
        let wait = waiting.iter().map(wait_of).min();
        (flows, wait.map(|wait| now + wait))
    }
}

fn bytes_per_second(rate: Rate) -> Option<f64> {
    match rate {
        Rate::Unlimited => None,
        Rate::Pause => Some(0.0),
        Rate::Limited(bits) => Some(bytes(bits) / 8.0),
    }
}

fn bytes(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count needs no more than 52 bits")]
    let count = count as f64;
    count
}

#[cfg(test)]
mod tests;
