//! Who gets how much of one limit: the queue of packs and the pacer together, in virtual time. What is
//! looked at is bytes that went out, at all times and at the end, beside peers that crawl, stop or are
//! paused.

use proptest::prelude::*;

use super::*;
use crate::config::Allowance;
use crate::rate::calendar::Rate;
use crate::rate::overrides;
use crate::rate::pace::{Ask, Pacer, slice_bytes, wire_bytes};
use crate::rate::rates::{Cap, Level, Rates};

const MIB: u64 = 1 << 20;
const PACK: u64 = 2 * MIB;
const PACKET: usize = 1392;
const STEP: Duration = Duration::from_millis(2);
/// What a thread takes for a pack.
const MAKING: Duration = Duration::from_millis(30);
const THREADS: usize = 2;
/// Who is held looks after so many steps whether others wait for what it has.
const HELD_LOOK: u64 = 25;
/// Slices of one ask.
const SLICES: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Plain,
    /// Under a limit of its own, in bits per second.
    Limited(u64),
    /// It takes nothing from then on, in seconds.
    Stops(u64),
    /// It is paused from then on, in seconds.
    Paused(u64),
}

struct Peer {
    manner: Manner,
    weight: u32,
    /// Packs that are still to be asked for.
    unasked: u64,
    /// Packs that were asked for and not written.
    asked: usize,
    /// What is made: hold, bytes left.
    ready: VecDeque<(u64, u64)>,
    sent: u64,
    all: u64,
    offered: bool,
    asking: bool,
    gave_way: bool,
    finished: Option<Duration>,
}

struct Hub {
    queue: Queue<usize>,
    pacer: Pacer,
    rates: Rates,
    start: Instant,
    now: Instant,
    making: Vec<(Instant, usize, u64)>,
    steps: u64,
    look: bool,
    peers: Vec<Peer>,
    bits: u64,
}

fn id(peer: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(peer + 1).expect("few"); 32])
}

fn whose(number: usize, weight: u32) -> Whose {
    Whose { peer: id(number), weight, lane: Lane::Normal }
}

impl Hub {
    fn new(bits: u64, packs: u64, peers: &[(Manner, u32)]) -> Hub {
        let start = Instant::now();
        let limit = |bits| Allowance { limit: Rate::Limited(bits), ..Allowance::default() };
        let mut rates = Rates { node: limit(bits), ..Rates::default() };
        let mut all = Vec::new();
        let mut queue = Queue::new(budget::PACKS_BYTES, budget::PACKS_RESERVE_BYTES);
        for (number, (manner, weight)) in peers.iter().copied().enumerate() {
            if let Manner::Limited(bits) = manner {
                rates.peers.insert(id(number), limit(bits));
            }
            queue.begin(number as u64, Scope::peer(id(number)));
            all.push(Peer {
                manner,
                weight,
                unasked: packs,
                asked: 0,
                ready: VecDeque::new(),
                sent: 0,
                all: packs * PACK,
                offered: false,
                asking: false,
                gave_way: false,
                finished: None,
            });
        }
        let (pacer, making, now) = (Pacer::default(), Vec::new(), start);
        let (steps, look, peers) = (0, true, all);
        let mut hub = Hub { queue, pacer, rates, start, now, making, steps, look, peers, bits };
        hub.come_into_force();
        hub
    }

    fn come_into_force(&mut self) {
        let in_force = Arc::new(Arc::new(self.rates.clone()).at(0));
        let rates = in_force.caps().into_iter().map(|cap| (cap.clone(), in_force.rate_of(&cap)));
        self.pacer.set_rates(rates.collect::<Vec<_>>(), self.now);
        self.queue.handle_rates(in_force, self.now);
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn is_paused(&self, number: usize) -> bool {
        matches!(self.peers[number].manner, Manner::Paused(at) if self.seconds() >= at as f64)
    }

    fn pause(&mut self) {
        for number in 0..self.peers.len() {
            let scope = Scope::peer(id(number));
            if self.is_paused(number) && self.rates.overrides.standing(&scope, 0).is_none() {
                self.rates.overrides.give(overrides::Order::Pause, scope, 0, None);
                self.come_into_force();
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.pause();
        for (number, peer) in self.peers.iter_mut().enumerate() {
            while peer.asked < budget::PACKS_AHEAD && peer.unasked > 0 && !peer.gave_way {
                (peer.asked, peer.unasked) = (peer.asked + 1, peer.unasked - 1);
                let whose = whose(number, peer.weight);
                self.queue.submit(whose, number as u64, 2 * PACK, number);
            }
        }
        let now = self.now;
        let (made, making) = std::mem::take(&mut self.making)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, ..)| *at <= now);
        self.making = making;
        for (_, number, hold) in made {
            self.look = true;
            self.queue.made(hold, PACK, now);
            match self.peers[number].gave_way {
                true => self.queue.release(hold, now),
                false => self.peers[number].ready.push_back((hold, PACK)),
            }
        }
        // Something has changed, or a peer may be found to be slow.
        let look = std::mem::take(&mut self.look) || self.steps.is_multiple_of(50);
        self.steps += 1;
        while look && self.making.len() < THREADS {
            let Some((number, hold)) = self.queue.poll(now) else { break };
            self.making.push((now + MAKING, number, hold));
        }
        for number in 0..self.peers.len() {
            self.ask(number);
        }
        for (flow, slices) in self.pacer.poll(now).0 {
            self.send(flow as usize, slices);
        }
        assert!(self.queue.held_bytes() <= budget::PACKS_BYTES);
    }

    fn slice(&self, number: usize) -> usize {
        let bits = match self.peers[number].manner {
            Manner::Limited(bits) => bits.min(self.bits),
            _ => self.bits,
        };
        slice_bytes(Rate::Limited(bits), PACKET)
    }

    fn ask(&mut self, number: usize) {
        let (slice, paused) = (self.slice(number), self.is_paused(number));
        let seconds = self.seconds();
        let peer = &mut self.peers[number];
        let stopped = matches!(peer.manner, Manner::Stops(at) if seconds >= at as f64);
        if (paused || stopped) && !peer.gave_way {
            if !self.steps.is_multiple_of(HELD_LOOK) {
                return;
            }
            self.queue.handle_stalled(number as u64, stopped);
            self.pacer.forgo(number as u64);
            if self.queue.is_in_the_way(number as u64, self.now) {
                // The transfer ends, and what was made for it is dropped.
                peer.gave_way = true;
                peer.ready.drain(..).for_each(|(hold, _)| self.queue.release(hold, self.now));
            }
            peer.asking = false;
            return;
        }
        let (whose, wire) = (whose(number, peer.weight), wire_bytes(slice, PACKET));
        let slices = match peer.ready.front() {
            _ if peer.asking || peer.gave_way => return,
            _ if !peer.offered => 1,
            Some((_, left)) => u32::try_from(left.div_ceil(slice as u64)).expect("few").min(SLICES),
            None => return,
        };
        peer.asking = true;
        let caps = vec![Cap::Limit(Level::Node), Cap::Limit(Level::Peer(whose.peer))];
        self.pacer.begin(number as u64, whose.peer, whose.lane);
        let ask = Ask { whose, caps, wire_bytes: wire, extra_bytes: 0, slices };
        self.pacer.ask(number as u64, ask);
    }

    fn send(&mut self, number: usize, slices: u32) {
        let bytes = self.slice(number) as u64 * u64::from(slices);
        let peer = &mut self.peers[number];
        peer.asking = false;
        if !std::mem::replace(&mut peer.offered, true) {
            return;
        }
        let Some((hold, left)) = peer.ready.front_mut() else { return };
        let bytes = bytes.min(*left);
        (*left, peer.sent) = (*left - bytes, peer.sent + bytes);
        if *left == 0 {
            self.queue.release(*hold, self.now);
            self.look = true;
            peer.ready.pop_front();
            peer.asked -= 1;
            self.pacer.rest(number as u64, &id(number), self.now);
        }
        if peer.sent == peer.all {
            peer.finished = Some(self.now - self.start);
        }
    }

    fn sum(&self) -> u64 {
        self.peers.iter().map(|peer| peer.sent).sum()
    }

    /// Lets time pass until so many bytes went out.
    fn until(&mut self, bytes: u64) {
        let most = 60 + 3 * self.peers.iter().map(|p| p.all * 8).sum::<u64>() / self.bits;
        while self.sum() < bytes {
            self.step();
            assert!(self.seconds() < most as f64, "stands still at {} of {bytes}", self.sum());
        }
    }

    /// Lets time pass until the first `count` have everything; how long that took.
    fn until_done(&mut self, count: usize) -> f64 {
        let most = 60 + 3 * self.peers.iter().map(|p| p.all * 8).sum::<u64>() / self.bits;
        while self.peers.iter().take(count).any(|peer| peer.finished.is_none()) {
            self.step();
            assert!(self.seconds() < most as f64, "some never finish: {:?}", self.shares());
        }
        self.seconds()
    }

    fn shares(&self) -> Vec<f64> {
        self.peers.iter().map(|p| p.sent as f64 / f64::from(p.weight)).collect()
    }

    /// How far any two are apart, in bytes over weight.
    fn apart(&self) -> f64 {
        let [least, most] = [f64::min, f64::max]
            .map(|of| self.shares().into_iter().reduce(of).expect("there are some"));
        most - least
    }
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Sixteen branches under 40 Mbit/s get 6 MiB of noise each: three packs. (Group `hub` of the figures.)
#[test]
fn equal_branches_have_equal_bytes_at_half_time() {
    for bits in [10_000_000, 40_000_000, 200_000_000] {
        let mut hub = Hub::new(bits, 3, &[(Manner::Plain, 1); 16]);
        hub.until(16 * 3 * PACK / 2);
        let shares = hub.shares();
        assert!(jain(&shares) >= 0.98, "{bits}: {} of {shares:?}", jain(&shares));
        hub.until_done(16);
        let [first, last] = [f64::min, f64::max].map(|of| {
            let ends = hub.peers.iter().filter_map(|p| Some(p.finished?.as_secs_f64()));
            ends.reduce(of).expect("all have finished")
        });
        assert!(first >= 0.8 * last, "{bits}: from {first} to {last} s");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Whatever the number of peers, no two are ever much further apart than a pack of each: also where
    /// there is no room for a pack of each, and some have to wait for theirs.
    #[test]
    fn no_two_are_further_apart_than_a_pack_of_each(
        count in 2_usize..36,
        bits in prop::sample::select(vec![40_000_000_u64, 100_000_000, 200_000_000]),
        packs in 4_u64..7,
    ) {
        let mut hub = Hub::new(bits, packs, &vec![(Manner::Plain, 1); count]);
        let all = count as u64 * packs * PACK;
        let mut most = 0.0_f64;
        while hub.sum() < all * 8 / 10 {
            hub.until(hub.sum() + all / 100);
            most = most.max(hub.apart());
        }
        prop_assert!(most <= 2.0 * PACK as f64, "{most} bytes apart");
        prop_assert!(jain(&hub.shares()) >= 0.95, "{:?}", hub.shares());
    }

    /// With one that crawls, stops or is paused the others finish as without it.
    #[test]
    fn one_that_is_held_costs_the_others_nothing(
        count in 3_usize..20,
        bits in prop::sample::select(vec![20_000_000_u64, 40_000_000, 100_000_000]),
        manner in prop::sample::select(
            vec![Manner::Limited(64_000), Manner::Stops(1), Manner::Paused(1), Manner::Paused(0)]
        ),
    ) {
        let mut peers = vec![(Manner::Plain, 1); count];
        let alone = Hub::new(bits, 4, &peers).until_done(count);
        peers.push((manner, 1));
        let beside = Hub::new(bits, 4, &peers).until_done(count);
        // What it got itself in the first second is its own; the rest is 64 kbit/s.
        let own = if matches!(manner, Manner::Limited(_)) { 0.0 } else { 1.0 };
        prop_assert!(beside <= alone * 1.05 + own, "{beside} s beside {manner:?}, else {alone} s");
    }

    /// Many that are paused or stop in the middle hold packs; they give way to the others.
    #[test]
    fn many_that_are_held_give_way(
        held in 8_usize..30,
        stop in any::<bool>(),
        crawling in 0_usize..8,
    ) {
        let manner = if stop { Manner::Stops(12) } else { Manner::Paused(12) };
        let others = [vec![(Manner::Plain, 1); 4], vec![(Manner::Limited(400_000), 1); crawling]];
        let others = others.concat();
        let count = others.len();
        let peers = [others.clone(), vec![(manner, 1); held]].concat();
        let mut hub = Hub::new(40_000_000, 8, &peers);
        while hub.seconds() < 12.0 {
            hub.step();
        }
        let before: Vec<u64> = hub.peers.iter().map(|peer| peer.sent).collect();
        let bytes = hub.sum();
        while hub.seconds() < 42.0 {
            hub.step();
        }
        let done = hub.peers[..4].iter().all(|peer| peer.finished.is_some());
        let rate = (hub.sum() - bytes) as f64 * 8.0 / 30.0;
        prop_assert!(done || rate >= 0.9 * 40e6, "{rate} bit/s after the others were held");
        for (number, peer) in hub.peers[..count].iter().enumerate() {
            let moved = peer.sent > before[number] || peer.finished.is_some();
            prop_assert!(moved, "{number} of {count} gets nothing");
        }
    }
}

/// What is paused isn't made, and keeps nobody of its own peer from being served.
#[test]
fn what_is_paused_is_not_made() {
    let mut queue = Queue::new(budget::PACKS_BYTES, budget::PACKS_RESERVE_BYTES);
    let now = Instant::now();
    let store = |name: &str| Some(blockferry_delta::StoreName::new(name).expect("a name"));
    let scope = |name: &str| Scope { store: store(name), ..Scope::peer(id(0)) };
    queue.begin(1, scope("a"));
    queue.begin(2, scope("b"));
    let mut rates = Rates::default();
    let only = Scope { store: store("a"), ..Scope::default() };
    rates.overrides.give(overrides::Order::Pause, only, 0, None);
    queue.handle_rates(Arc::new(Arc::new(rates).at(0)), now);
    queue.begin(3, scope("a"));
    for transfer in 1..=3 {
        queue.submit(whose(0, 1), transfer, 2 * PACK, transfer);
    }
    let (of_b, hold) = queue.poll(now).expect("store b is not paused");
    assert_eq!((of_b, queue.poll(now).map(|(job, _)| job)), (2, None));
    assert!(queue.knows(1) && queue.knows(2) && !queue.knows(4));
    queue.release(hold, now);
    assert!(!queue.knows(2));
    queue.handle_rates(Arc::new(Arc::new(Rates::default()).at(0)), now);
    assert_eq!(queue.poll(now).map(|(job, _)| job), Some(1));
    queue.end(3);
    assert!(!queue.is_in_the_way(1, now), "it isn't paused any more");
}

/// Turns count what travels: who compresses well gets more packs.
#[test]
fn turns_are_those_of_bytes_that_travel() {
    let mut queue = Queue::new(budget::PACKS_BYTES, budget::PACKS_RESERVE_BYTES);
    let now = Instant::now();
    let mut sent = [0_u64; 2];
    for _ in 0..400 {
        for peer in 0..2 {
            queue.submit(whose(peer, 1), peer as u64, 2 * PACK, peer);
        }
    }
    for _ in 0..200 {
        let (peer, hold) = queue.poll(now).expect("there is room");
        let bytes = [PACK, PACK / 8][peer];
        queue.made(hold, bytes, now);
        queue.release(hold, now);
        sent[peer] += bytes;
    }
    assert!(sent[0].abs_diff(sent[1]) <= 2 * PACK, "{sent:?}");
}
