//! Pace: who may send how much now, under caps that lie over one another.
//!
//! Pure: time is an argument. Each cap is a token bucket in bytes on the wire; what is sent counts
//! against all caps on its way at once (node, store, peer), so the tightest rules. Nothing is promised
//! beforehand: who asks waits until every bucket on its way is out of debt, so a change of rate bites
//! at once and a slow peer holds back nobody. Slices are small ([`slice_bytes`]).
//!
//! Of several whose buckets are open one remains at each cap that they share, from the inside to the
//! outside (peer, store, node): the one whose turn it is ([`Order`]: lanes, then peers by weight).
//! What goes to a peer yields to its more urgent lanes even where no cap limits anything.
//!
//! What really went out ([`Meter`]) is counted, not what was meant to: headers, acknowledgements and
//! retransmissions too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use blockferry_delta::NodeId;
use blockferry_wire::Lane;

use crate::budget::{PACE_BYTES_MAX, PACK_BYTES_MAX, PACKET_WIRE_BYTES};
use crate::rate::calendar::Rate;
use crate::rate::rates::{Cap, Level};
use crate::rate::turns::{Order, Whose};

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
/// What a rest is worth when it is one's turn again, in seconds of a cap's rate; a few packets at
/// least. Who comes back a moment late, because its last slice was just being written, loses nothing.
const CREDIT_SECONDS: f64 = 0.05;
const CREDIT_BYTES_LEAST: f64 = 4.0 * PACKET_BYTES;
/// What a transfer may make good that had no pack to send for want of room: what others sent of one
/// meanwhile, in bytes on the wire; with headers, and a little.
const LACKED_BYTES: f64 = PACK_BYTES_MAX as f64 * 1.25;
/// What a rest of a lane is worth among those of one peer, in bytes.
const LANE_CREDIT_BYTES: f64 = PACE_BYTES_MAX as f64;
/// A lane that had something to send so recently is believed to have more in a moment: the lower ones
/// of its peer wait for it.
pub const YIELD: Duration = Duration::from_millis(100);
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

    /// So much more will go out, and was counted already.
    pub fn promise(&mut self, bytes: u64) {
        self.owed = self.owed.saturating_add(bytes);
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
    /// Whose turn it is.
    order: Order,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        let rate = bytes_per_second(rate);
        Self { rate, tokens: 0.0, filled: now, order: Order::default() }
    }

    fn set_rate(&mut self, rate: Rate) {
        self.rate = bytes_per_second(rate);
        let credit = self.rate.unwrap_or(0.0) * CREDIT_SECONDS;
        self.order.set_credit(credit.max(CREDIT_BYTES_LEAST));
        // A pause keeps the debt as it is: what follows it may be as fast as what was before.
        if let Some(rate) = self.rate.filter(|rate| *rate > 0.0) {
            self.tokens = self.tokens.max(-debt_most(rate));
        }
    }

    fn fill(&mut self, now: Instant, coarse_seconds: f64) {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        let Some(rate) = self.rate else { return };
        let saved = SAVED_SECONDS + coarse_seconds;
        let most = SAVED_BYTES_LEAST.max(rate * saved - PACKET_BYTES);
        self.tokens = (self.tokens + elapsed * rate).min(most);
    }

    fn take(&mut self, bytes: f64) {
        let Some(rate) = self.rate else { return };
        self.tokens = (self.tokens - bytes).max(-debt_most(rate));
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

/// Debt that is remembered at most at `rate` bytes per second, in bytes.
fn debt_most(rate: f64) -> f64 {
    rate * DEBT_SECONDS + PACKET_BYTES
}

/// What somebody waits for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose turn it is to be.
    pub whose: Whose,
    /// What it counts against.
    pub caps: Vec<Cap>,
    /// Bytes on the wire of one slice.
    pub wire_bytes: u64,
    /// Bytes on the wire that went out without being asked for; the first slice pays for them.
    pub extra_bytes: u64,
    /// How many slices it has ready. At least one.
    pub slices: u32,
}

/// Somebody who waits, and how many slices it was given.
#[derive(Debug)]
struct Waiting {
    flow: u64,
    ask: Ask,
    /// Those of its caps that limit anything.
    way: Vec<Cap>,
    given: u32,
}

/// From the inside to the outside: at each level one of those who share a cap remains.
const LEVELS: [fn(&Level) -> bool; 3] = [
    |level| matches!(level, Level::Peer(_)),
    |level| matches!(level, Level::Store(_)),
    |level| matches!(level, Level::Node),
];

/// The flows to one peer: a lower lane yields to a higher one that has something to send.
#[derive(Debug, Default)]
struct Lanes {
    order: Order,
    /// By flow: its lane, and since when it has nothing to send.
    flows: BTreeMap<u64, (Lane, Option<Instant>)>,
}

impl Lanes {
    /// The highest lane of those that have something to send, or had a moment ago.
    fn highest(&self, now: Instant) -> Option<Lane> {
        let present = self.flows.values().filter(|(_, rests)| {
            rests.is_none_or(|since| now.saturating_duration_since(since) < YIELD)
        });
        present.map(|(lane, _)| *lane).min()
    }

    /// Whether it is somebody else's turn.
    fn holds_back(&self, whose: Whose, now: Instant) -> bool {
        let highest = self.highest(now).filter(|highest| *highest < whose.lane);
        highest.is_some_and(|lane| !self.order.precedes(whose, Whose { lane, ..whose }))
    }

    fn is_mixed(&self) -> bool {
        let mut lanes = self.flows.values().map(|(lane, _)| lane);
        lanes.next().is_some_and(|first| lanes.any(|lane| lane != first))
    }
}

/// All caps and all who wait.
#[derive(Debug, Default)]
pub struct Pacer {
    buckets: BTreeMap<Cap, Bucket>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    peers: BTreeMap<NodeId, Lanes>,
    /// Flows that have asked before: transfers under way.
    under_way: BTreeSet<u64>,
    /// What a late timer doesn't lose besides, in seconds of the rate.
    coarse_seconds: f64,
}

impl Pacer {
    /// For simulations whose slices are that long, in seconds of a rate: a bucket that could not save
    /// two of them would lose to coarseness what is waited for others.
    pub fn coarse(slice_seconds: f64) -> Self {
        Self { coarse_seconds: 2.0 * slice_seconds, ..Self::default() }
    }

    /// The rates that are in force from now on, those of all caps that limit anything. What was sent
    /// before still counts.
    pub fn set_rates(&mut self, rates: impl IntoIterator<Item = (Cap, Rate)>, now: Instant) {
        let mut old = std::mem::take(&mut self.buckets);
        for (cap, rate) in rates {
            if rate == Rate::Unlimited {
                continue;
            }
            let mut bucket = old.remove(&cap).unwrap_or_else(|| Bucket::new(rate, now));
            bucket.fill(now, self.coarse_seconds);
            bucket.set_rate(rate);
            self.buckets.insert(cap, bucket);
        }
        for waiting in &mut self.waiting {
            waiting.way = way(&waiting.ask.caps, &self.buckets);
        }
    }

    /// Whether there is anything to wait for on this way; if not there is nothing to ask for.
    pub fn limits(&self, peer: &NodeId, caps: &[Cap]) -> bool {
        caps.iter().any(|cap| self.buckets.contains_key(cap))
            || self.peers.get(peer).is_some_and(Lanes::is_mixed)
    }

    /// A flow has something to send. From now on the lower lanes of its peer yield to it.
    pub fn begin(&mut self, flow: u64, peer: NodeId, lane: Lane) {
        let lanes = self
            .peers
            .entry(peer)
            .or_insert_with(|| Lanes { order: Order::new(LANE_CREDIT_BYTES), ..Lanes::default() });
        lanes.flows.insert(flow, (lane, None));
    }

    /// A flow has nothing to send for now.
    pub fn rest(&mut self, flow: u64, peer: &NodeId, now: Instant) {
        let lanes = self.peers.get_mut(peer);
        if let Some((_, rests)) = lanes.and_then(|lanes| lanes.flows.get_mut(&flow)) {
            *rests = Some(now);
        }
    }

    /// A flow may not send for reasons of its own: what the others send meanwhile is theirs.
    pub fn forgo(&mut self, flow: u64) {
        self.cancel(flow);
        self.under_way.remove(&flow);
    }

    /// A flow is over.
    pub fn end(&mut self, flow: u64, peer: &NodeId) {
        self.forgo(flow);
        if let Some(lanes) = self.peers.get_mut(peer) {
            lanes.flows.remove(&flow);
            if lanes.flows.is_empty() {
                self.peers.remove(peer);
            }
        }
    }

    /// Queues a flow; [`Pacer::poll`] names it when it may send. A flow asks for one thing at a time.
    pub fn ask(&mut self, flow: u64, ask: Ask) {
        self.cancel(flow);
        let way = way(&ask.caps, &self.buckets);
        // Whose transfer is under way wants more all the time. That it came late is the doing of others,
        // whose packs had the room: they would be ahead of it for good.
        let lacked = !self.under_way.insert(flow);
        for cap in &way {
            let Some(bucket) = self.buckets.get_mut(cap) else { continue };
            match lacked {
                true => bucket.order.arrive_again(ask.whose, LACKED_BYTES),
                false => bucket.order.arrive(ask.whose),
            }
        }
        if let Some(lanes) = self.peers.get_mut(&ask.whose.peer) {
            lanes.order.arrive(ask.whose);
        }
        self.waiting.push(Waiting { flow, ask, way, given: 0 });
    }

    /// Takes an ask back.
    pub fn cancel(&mut self, flow: u64) {
        self.waiting.retain(|waiting| waiting.flow != flow);
    }

    /// The flows that may send now, with the number of slices; and when to poll again.
    pub fn poll(&mut self, now: Instant) -> (Vec<(u64, u32)>, Option<Instant>) {
        for bucket in self.buckets.values_mut() {
            bucket.fill(now, self.coarse_seconds);
        }
        let mut open: Vec<usize> = (0..self.waiting.len()).collect();
        loop {
            open.retain(|at| self.may_go(&self.waiting[*at], now));
            let Some(next) = self.first(&open) else { break };
            self.give(next);
        }
        let given = self.waiting.iter().filter(|w| w.given > 0).map(|w| (w.flow, w.given));
        let flows = given.collect();
        self.waiting.retain(|waiting| waiting.given == 0);
        let wait = self.waiting.iter().map(|waiting| self.wait_of(waiting, now)).min();
        (flows, wait.map(|wait| now + wait))
    }

    fn may_go(&self, waiting: &Waiting, now: Instant) -> bool {
        let whose = waiting.ask.whose;
        let is_open = |cap: &Cap| self.buckets.get(cap).is_none_or(Bucket::is_open);
        let yields = || self.peers.get(&whose.peer).is_some_and(|p| p.holds_back(whose, now));
        waiting.ask.slices > 0 && waiting.way.iter().all(is_open) && !yields()
    }

    /// Of those that may go the one whose turn it is.
    fn first(&self, open: &[usize]) -> Option<usize> {
        let mut left = open.to_vec();
        for is_level in LEVELS {
            if left.len() < 2 {
                break;
            }
            let mut firsts: BTreeMap<&Cap, usize> = BTreeMap::new();
            let mut others = Vec::new();
            for at in left {
                let Some(cap) = self.waiting[at].way.iter().find(|cap| is_level(cap.level()))
                else {
                    others.push(at);
                    continue;
                };
                let first = firsts.entry(cap).or_insert(at);
                if self.precedes(cap, at, *first) {
                    *first = at;
                }
            }
            others.extend(firsts.into_values());
            others.sort_unstable();
            left = others;
        }
        left.first().copied()
    }

    fn precedes(&self, cap: &Cap, a: usize, b: usize) -> bool {
        let Some(bucket) = self.buckets.get(cap) else { return false };
        bucket.order.precedes(self.waiting[a].ask.whose, self.waiting[b].ask.whose)
    }

    fn give(&mut self, at: usize) {
        let waiting = &mut self.waiting[at];
        waiting.given += 1;
        waiting.ask.slices -= 1;
        let Ask { whose, wire_bytes, .. } = waiting.ask;
        let taken = wire_bytes.saturating_add(std::mem::take(&mut waiting.ask.extra_bytes));
        for cap in &waiting.way {
            if let Some(bucket) = self.buckets.get_mut(cap) {
                bucket.take(bytes(taken));
                bucket.order.served(whose, bytes(taken));
            }
        }
        if let Some(lanes) = self.peers.get_mut(&whose.peer) {
            lanes.order.served(whose, bytes(taken));
        }
    }

    /// How long until it may go, unless something happens before.
    fn wait_of(&self, waiting: &Waiting, now: Instant) -> Duration {
        let whose = waiting.ask.whose;
        let buckets = waiting.way.iter().filter_map(|cap| self.buckets.get(cap));
        let wait = buckets.map(Bucket::wait).max().unwrap_or_default();
        let yields = self.peers.get(&whose.peer).is_some_and(|p| p.holds_back(whose, now));
        if yields { wait.max(YIELD) } else { wait }
    }
}

fn way(caps: &[Cap], buckets: &BTreeMap<Cap, Bucket>) -> Vec<Cap> {
    caps.iter().filter(|cap| buckets.contains_key(cap)).cloned().collect()
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
