//! Forecast: when what waits will be there. The one place that answers that.
//!
//! Pure: what waits for each peer in the order in which it will be sent, what limits it and how fast
//! each link is go in, the finish of each item comes out. It plays the future forward from change to
//! change: an item is through, a calendar's edge passes, an order ends. In between each transfer has
//! its share of every limit on its way, as the pacer gives it, and of its peer's link: by lane, then by
//! the weights of the peers. What is begun next follows from the rules of the backlog itself
//! ([`has_room`], [`Turns`]), so that both always agree.
//!
//! Nothing is guessed: where neither a limit nor a measured link says how fast, the answer is
//! [`Finish::Unknown`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use blockferry_delta::NodeId;
use blockferry_wire::Lane;

use crate::backlog::Key;
use crate::backlog::offers::{OFFER_BYTES, has_room};
use crate::rate::calendar::Rate;
use crate::rate::overrides::Scope;
use crate::rate::pace::slice_bytes;
use crate::rate::rates::{Cap, Hold, InForce, Rates, Verdict};
use crate::rate::turns::{Order as Turns, Whose, lane_weight};

/// Changes that one forecast looks at: items that are through, edges that pass. What is left then is
/// unknown.
const STEPS_MAX: usize = 20_000;
/// Payload bytes of an ordinary packet: what the pacer counts turns in.
const PACKET_BYTES: usize = 1392;
/// Less than this many bits are nothing: sums of fractions don't end at 0.
const BITS_LEAST: f64 = 0.5;

/// An item that waits for a peer.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// What goes to whom.
    pub key: Key,
    /// Bytes on the wire that are still to be sent for it, headers included.
    pub wire_bytes: u64,
    /// The same in changed bytes, before any saving.
    pub changed_bytes: u64,
    /// It has a slot already.
    pub under_way: bool,
    /// It is not sent before this instant, and goes first from then on; in milliseconds since 1970.
    pub not_before_unix_ms: Option<i64>,
}

/// What waits for a peer, in the order in which it will be sent.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Who.
    pub peer: NodeId,
    /// What its link takes, in bits per second on the wire; `None`: not measured yet.
    pub link_bits_per_second: Option<u64>,
    /// What.
    pub waiting: Vec<Waiting>,
}

/// When something will be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// At this instant, in milliseconds since 1970.
    At(i64),
    /// The calendar lets it through at no time.
    Never,
    /// Nothing says how fast, or it waits for an operator.
    Unknown,
}

impl Finish {
    /// The instant, if there is one.
    pub fn unix_ms(self) -> Option<i64> {
        match self {
            Self::At(at) => Some(at),
            Self::Never | Self::Unknown => None,
        }
    }

    fn later(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::At(one), Self::At(two)) => Self::At(one.max(two)),
        }
    }
}

/// When each item will be there.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    finishes: BTreeMap<Key, Finish>,
}

impl Forecast {
    /// When an item will be there; `None`: it was not asked about.
    pub fn finish(&self, key: &Key) -> Option<Finish> {
        self.finishes.get(key).copied()
    }

    /// When the last of those that `belongs` names will be there; `None`: there is none.
    pub fn last(&self, belongs: impl Fn(&Key) -> bool) -> Option<Finish> {
        let these = self.finishes.iter().filter(|(key, _)| belongs(key));
        these.map(|(_, finish)| *finish).reduce(Finish::later)
    }

    /// All items.
    pub fn items(&self) -> impl Iterator<Item = (&Key, Finish)> {
        self.finishes.iter().map(|(key, finish)| (key, *finish))
    }
}

/// Says when everything in these queues will be there, if nothing else comes. `order` says
/// whose turn it is now.
pub fn forecast(rates: &Rates, queues: Vec<Queue>, order: Turns, from_unix_ms: i64) -> Forecast {
    let mut future = play(rates, queues, order, from_unix_ms);
    future.rest();
    Forecast { finishes: future.finishes }
}

/// Goes on until nothing waits, nothing changes any more, or there were too many changes.
fn play(rates: &Rates, queues: Vec<Queue>, order: Turns, from_unix_ms: i64) -> Future {
    let rates = Arc::new(of_concern(rates, &queues));
    let in_force = rates.at(from_unix_ms);
    let mut future = Future {
        rates,
        in_force,
        now: from_unix_ms,
        fraction: 0.0,
        links: BTreeMap::new(),
        queues: BTreeMap::new(),
        flows: Vec::new(),
        order,
        finishes: BTreeMap::new(),
    };
    for queue in queues {
        future.take(queue);
    }
    for _ in 0..STEPS_MAX {
        if !future.step() {
            break;
        }
    }
    future
}

/// What of the rates concerns any of these: fewer calendars, fewer edges.
fn of_concern(rates: &Rates, queues: &[Queue]) -> Rates {
    let peers: BTreeSet<&NodeId> = queues.iter().map(|queue| &queue.peer).collect();
    let keys = queues.iter().flat_map(|queue| &queue.waiting).map(|waiting| &waiting.key);
    let stores: BTreeSet<_> = keys.map(|key| &key.store).collect();
    let mut only = rates.clone();
    only.stores.retain(|name, _| stores.contains(name));
    only.peers.retain(|id, _| peers.contains(id));
    let all = only.stores.values().chain(only.peers.values()).chain([&only.node]);
    let used: BTreeSet<String> = all.filter_map(|a| a.schedule.clone()).collect();
    only.calendars.retain(|name, _| used.contains(name));
    only
}

/// A transfer, or what waits to become one.
#[derive(Clone, Debug)]
struct Flow {
    key: Key,
    lane: Lane,
    bits: f64,
    /// Changed bytes for each of these bits.
    changed: f64,
    not_before: Option<i64>,
    /// Bits per second that it gets; infinite: nothing limits it.
    rate: f64,
}

impl Flow {
    /// What of it has not arrived, in changed bytes.
    fn changed_bytes(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
        let bytes = (self.bits * self.changed).round() as u64;
        bytes
    }
}

/// What flows share: a bucket of the pacer, or a peer's link.
struct Bound {
    /// Bits per second that nobody has yet.
    left: f64,
    /// Which flows pass it.
    flows: Vec<usize>,
}

struct Future {
    rates: Arc<Rates>,
    in_force: InForce,
    now: i64,
    /// Milliseconds since `now`, less than one.
    fraction: f64,
    links: BTreeMap<NodeId, f64>,
    queues: BTreeMap<(NodeId, Lane), VecDeque<Flow>>,
    /// Those that have a slot.
    flows: Vec<Flow>,
    order: Turns,
    finishes: BTreeMap<Key, Finish>,
}

impl Future {
    fn take(&mut self, queue: Queue) {
        if let Some(bits) = queue.link_bits_per_second {
            self.links.insert(queue.peer, float(bits));
        }
        for waiting in queue.waiting {
            let Waiting { key, wire_bytes, not_before_unix_ms: not_before, .. } = waiting;
            let (lane, bits) = (self.in_force.lane_of(&key), float(wire_bytes) * 8.0);
            let changed = float(waiting.changed_bytes) / bits.max(1.0);
            let flow = Flow { key, lane, bits, changed, not_before, rate: 0.0 };
            if waiting.under_way {
                self.flows.push(flow);
            } else {
                self.queues.entry((queue.peer, lane)).or_default().push_back(flow);
            }
        }
    }

    /// Goes on to the next change; says whether there is one.
    fn step(&mut self) -> bool {
        // With nothing left the edges of calendars that follow, for years, concern nobody.
        if self.flows.is_empty() && self.queues.values().all(VecDeque::is_empty) {
            return false;
        }
        if self.in_force.until_unix_ms().is_some_and(|until| self.now >= until) {
            self.in_force = self.rates.at(self.now);
        }
        self.give_back_held();
        self.fill_slots();
        self.share();
        if self.drop_unknown() {
            return true;
        }
        let ends = self.flows.iter().map(|flow| flow.bits / flow.rate * 1000.0);
        let first_end = ends.min_by(f64::total_cmp).filter(|ms| ms.is_finite());
        let begins = self.queues.values().flatten().filter_map(|flow| flow.not_before);
        let begin = begins.filter(|at| *at > self.now).min();
        let edge = [self.in_force.until_unix_ms(), begin].into_iter().flatten().min();
        let to_edge = edge.map(|at| float_ms(at.saturating_sub(self.now)) - self.fraction);
        match (first_end, to_edge) {
            (None, None) => false,
            (Some(end), to_edge) if to_edge.is_none_or(|to_edge| end < to_edge) => {
                self.advance(end);
                true
            }
            (_, Some(to_edge)) => {
                self.advance(to_edge.max(0.0));
                (self.now, self.fraction) = (edge.unwrap_or(self.now), 0.0);
                true
            }
            (Some(_), None) => false,
        }
    }

    /// Lets so many milliseconds pass, and retires what is through by then.
    fn advance(&mut self, ms: f64) {
        let passed = self.fraction + ms;
        #[expect(clippy::cast_possible_truncation, reason = "floored; far below 2^53")]
        let whole = passed.floor() as i64;
        self.now = self.now.saturating_add(whole);
        self.fraction = passed - passed.floor();
        let finish = Finish::At(self.now + i64::from(self.fraction > 1e-6));
        let mut through = Vec::new();
        self.flows.retain_mut(|flow| {
            // What nothing limits and has nothing left is through.
            flow.bits -= if flow.rate.is_finite() { flow.rate * ms / 1000.0 } else { 0.0 };
            if flow.bits < BITS_LEAST {
                through.push(flow.key.clone());
            }
            flow.bits >= BITS_LEAST
        });
        self.finishes.extend(through.into_iter().map(|key| (key, finish)));
    }

    /// A transfer that is held gives its slot back and is the next of its peer again.
    fn give_back_held(&mut self) {
        let (held, flows) = std::mem::take(&mut self.flows)
            .into_iter()
            .partition(|flow| self.in_force.hold(&Scope::from(&flow.key)).is_some());
        self.flows = flows;
        let held: Vec<Flow> = held;
        for flow in held.into_iter().rev() {
            self.queues.entry((flow.key.peer, flow.lane)).or_default().push_front(flow);
        }
    }

    /// Begins what the backlog would.
    fn fill_slots(&mut self) {
        loop {
            let mut turns: Vec<(Whose, usize)> = Vec::new();
            let mut under_way: BTreeMap<NodeId, Vec<(Lane, u64)>> = BTreeMap::new();
            for flow in &self.flows {
                under_way.entry(flow.key.peer).or_default().push((flow.lane, flow.changed_bytes()));
            }
            for ((peer, lane), queue) in &self.queues {
                let of_peer = under_way.get(peer).map_or(&[][..], Vec::as_slice);
                let link = self.links.get(peer).map(|bits| bits / 8.0);
                if !has_room(self.flows.len(), of_peer, *lane, link) {
                    continue;
                }
                if let Some(index) = self.next_of(queue) {
                    let weight = self.in_force.weight(&Scope::peer(*peer));
                    turns.push((Whose { peer: *peer, weight, lane: *lane }, index));
                }
            }
            for (whose, _) in &turns {
                self.order.arrive(*whose);
            }
            let next = turns.into_iter().reduce(|first, next| {
                if self.order.precedes(next.0, first.0) { next } else { first }
            });
            let Some((whose, index)) = next else { return };
            let queue = self.queues.get_mut(&(whose.peer, whose.lane));
            let Some(flow) = queue.and_then(|queue| queue.remove(index)) else { return };
            self.order.served(whose, float(flow.changed_bytes().max(OFFER_BYTES)));
            self.flows.push(flow);
        }
    }

    /// The next item of a queue that may be sent now: what was to begin by now goes first.
    fn next_of(&self, queue: &VecDeque<Flow>) -> Option<usize> {
        let may = |flow: &&Flow| self.in_force.hold(&Scope::from(&flow.key)).is_none();
        let due = |flow: &Flow| flow.not_before.is_some_and(|at| at <= self.now);
        let first = queue.iter().position(|flow| due(flow) && may(&flow));
        first.or_else(|| queue.iter().position(|flow| flow.not_before.is_none() && may(&flow)))
    }

    /// Gives each transfer its share: all grow in step until a limit is used up, those that pass it
    /// stay there, the others go on.
    fn share(&mut self) {
        let scopes: Vec<Scope> = self.flows.iter().map(|flow| Scope::from(&flow.key)).collect();
        let verdicts: Vec<_> = scopes.iter().map(|scope| self.in_force.verdict(scope)).collect();
        let mut bounds = self.bounds(verdicts.iter().map(|verdict| verdict.caps.as_slice()));
        let mut rates = vec![0.0; self.flows.len()];
        let mut open: BTreeSet<usize> = (0..self.flows.len()).collect();
        while !open.is_empty() {
            let weights = self.weights(&verdicts, &open);
            let level = |bound: &Bound| {
                let those = bound.flows.iter().filter(|flow| open.contains(flow));
                let sum: f64 = those.filter_map(|flow| weights.get(*flow)).sum();
                if sum > 0.0 { bound.left.max(0.0) / sum } else { f64::INFINITY }
            };
            let lowest = bounds.iter().map(level).fold(f64::INFINITY, f64::min);
            let full: BTreeSet<usize> = bounds
                .iter()
                .filter(|bound| level(bound) <= lowest * (1.0 + 1e-9))
                .flat_map(|bound| bound.flows.iter().copied().filter(|flow| open.contains(flow)))
                .collect();
            for (flow, weight) in open.iter().filter_map(|flow| Some((*flow, weights.get(*flow)?)))
            {
                let grown = if lowest.is_finite() { lowest * weight } else { f64::INFINITY };
                if let Some(rate) = rates.get_mut(flow) {
                    *rate += grown;
                }
                for bound in bounds.iter_mut().filter(|bound| bound.flows.contains(&flow)) {
                    bound.left -= grown;
                }
            }
            if full.is_empty() || !lowest.is_finite() {
                break;
            }
            open.retain(|flow| !full.contains(flow));
        }
        for (flow, rate) in self.flows.iter_mut().zip(rates) {
            flow.rate = rate;
        }
    }

    /// What each of the `open` flows gets beside the others: first the lanes share, then in each the
    /// peers by their weights, then what goes to one peer.
    fn weights(&self, verdicts: &[Verdict], open: &BTreeSet<usize>) -> Vec<f64> {
        let mut of_lane: BTreeMap<Lane, f64> = BTreeMap::new();
        let mut of_peer: BTreeMap<(Lane, NodeId), f64> = BTreeMap::new();
        let all = || self.flows.iter().zip(verdicts).enumerate();
        for (_, (flow, verdict)) in all().filter(|(number, _)| open.contains(number)) {
            let peer = of_peer.entry((flow.lane, flow.key.peer)).or_insert_with(|| {
                *of_lane.entry(flow.lane).or_default() += f64::from(verdict.weight);
                0.0
            });
            *peer += turn(verdict.rate);
        }
        let weight = |(number, (flow, verdict)): (usize, (&Flow, &Verdict))| {
            if !open.contains(&number) {
                return 0.0;
            }
            let lane = of_lane.get(&flow.lane).map_or(0.0, |sum| lane_weight(flow.lane) / sum);
            let peer = of_peer.get(&(flow.lane, flow.key.peer));
            lane * f64::from(verdict.weight) * peer.map_or(0.0, |sum| turn(verdict.rate) / sum)
        };
        all().map(weight).collect()
    }

    fn bounds<'a>(&self, caps: impl Iterator<Item = &'a [Cap]>) -> Vec<Bound> {
        let mut by_cap: BTreeMap<&Cap, Bound> = BTreeMap::new();
        let mut by_peer: BTreeMap<NodeId, Bound> = BTreeMap::new();
        for ((number, flow), caps) in self.flows.iter().enumerate().zip(caps) {
            for cap in caps {
                let left = match self.in_force.rate_of(cap) {
                    Rate::Unlimited => continue,
                    Rate::Limited(bits) => float(bits),
                    Rate::Pause => 0.0,
                };
                let bound = by_cap.entry(cap).or_insert(Bound { left, flows: Vec::new() });
                bound.flows.push(number);
            }
            if let Some(left) = self.links.get(&flow.key.peer) {
                let bound = Bound { left: *left, flows: Vec::new() };
                by_peer.entry(flow.key.peer).or_insert(bound).flows.push(number);
            }
        }
        by_cap.into_values().chain(by_peer.into_values()).collect()
    }

    /// Of what nothing limits nobody can say when it, and what comes after it, will be there.
    fn drop_unknown(&mut self) -> bool {
        let unknown = |flow: &&Flow| flow.rate.is_infinite() && flow.bits >= BITS_LEAST;
        let peers: BTreeSet<NodeId> =
            self.flows.iter().filter(unknown).map(|flow| flow.key.peer).collect();
        if peers.is_empty() {
            return false;
        }
        let gone = |flow: &Flow| peers.contains(&flow.key.peer);
        let queues = std::mem::take(&mut self.queues);
        let (queued, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            queues.into_iter().partition(|((peer, _), _)| peers.contains(peer));
        self.queues = kept;
        let queued = queued.into_values().flatten();
        self.finishes.extend(queued.map(|flow| (flow.key, Finish::Unknown)));
        let flows = std::mem::take(&mut self.flows);
        let (gone, kept): (Vec<Flow>, Vec<Flow>) = flows.into_iter().partition(gone);
        self.flows = kept;
        self.finishes.extend(gone.into_iter().map(|flow| (flow.key, Finish::Unknown)));
        true
    }

    /// What is left when nothing changes any more.
    fn rest(&mut self) {
        let edge = self.in_force.until_unix_ms().is_some();
        for flow in self.queues.values().flatten().chain(&self.flows) {
            let paused = self.in_force.hold(&Scope::from(&flow.key)) == Some(Hold::Paused);
            let finish = if edge || paused { Finish::Unknown } else { Finish::Never };
            self.finishes.insert(flow.key.clone(), finish);
        }
    }
}

/// The rate, in bits per second, at which so many bytes would be sent between two instants, if it is
/// that whenever no calendar and no order holds it. `None`: all of that time it is held.
pub fn rate_needed(
    rates: &Rates,
    scope: &Scope,
    wire_bytes: u64,
    from_unix_ms: i64,
    to_unix_ms: i64,
) -> Option<u64> {
    let rates = Arc::new(rates.clone());
    let (mut at, mut open_ms) = (from_unix_ms, 0_i64);
    for _ in 0..STEPS_MAX {
        if at >= to_unix_ms {
            break;
        }
        let in_force = rates.at(at);
        let until = in_force.until_unix_ms().map_or(to_unix_ms, |until| until.min(to_unix_ms));
        if in_force.hold(scope).is_none() {
            open_ms = open_ms.saturating_add(until.saturating_sub(at));
        }
        at = until;
    }
    let open_ms = u128::try_from(open_ms).ok().filter(|ms| *ms > 0)?;
    u64::try_from((u128::from(wire_bytes) * 8000).div_ceil(open_ms)).ok()
}

/// Bytes on the wire that go to a peer before one of its items from `from_unix_ms` on: what is there
/// earlier by the forecast; where that doesn't know, what is before it in the order.
pub fn bytes_ahead(queue: &Queue, all: &Forecast, key: &Key, from_unix_ms: i64) -> u64 {
    let own = all.finish(key).and_then(Finish::unix_ms);
    let place = queue.waiting.iter().position(|waiting| waiting.key == *key);
    let ahead = queue.waiting.iter().enumerate().filter(|(index, waiting)| {
        let its = all.finish(&waiting.key).and_then(Finish::unix_ms);
        let first = match (its, own) {
            (Some(its), Some(own)) => from_unix_ms < its && its <= own,
            _ => waiting.under_way || place.is_some_and(|place| *index < place),
        };
        waiting.key != *key && first
    });
    ahead.fold(0, |sum, (_, waiting)| sum.saturating_add(waiting.wire_bytes))
}

/// What a transfer takes at one turn at the pacer's gate.
fn turn(rate: Rate) -> f64 {
    float(slice_bytes(rate, PACKET_BYTES) as u64)
}

fn float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let count = count as f64;
    count
}

fn float_ms(ms: i64) -> f64 {
    match ms.cmp(&0) {
        Ordering::Less => -float(ms.unsigned_abs()),
        _ => float(ms.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests;
