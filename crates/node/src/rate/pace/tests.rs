//! Caps in virtual time: what gets through in every window, one over another, on a change.

use super::*;
use crate::rate::rates::Level;
use blockferry_delta::NodeId;
use proptest::prelude::*;

const PACKET: usize = 1392;

fn node() -> Cap {
    Cap::Limit(Level::Node)
}

fn peer(n: u8) -> Cap {
    Cap::Limit(Level::Peer(NodeId::from_bytes([n; 32])))
}

fn whose(n: u8, weight: u32, lane: Lane) -> Whose {
    Whose { peer: NodeId::from_bytes([n; 32]), weight, lane }
}

/// A timer of whole milliseconds that is late at times.
struct Clock {
    start: Instant,
    now: Instant,
    random: u64,
}

impl Clock {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self { start, now: start, random: seed }
    }

    fn sleep_until(&mut self, at: Instant) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let late_us = match self.random >> 60 {
            0 => 3000,
            1..=4 => 1000,
            _ => self.random >> 54,
        };
        let ms = at.saturating_duration_since(self.start).as_micros().div_ceil(1000);
        let at = self.start + Duration::from_millis(u64::try_from(ms).expect("short"));
        self.now = self.now.max(at) + Duration::from_micros(late_us);
    }
}

/// One who always has something to send.
struct Source {
    flow: u64,
    whose: Whose,
    caps: Vec<Cap>,
    rate: Rate,
    /// When, and how much went out.
    sent: Vec<(Instant, u64)>,
}

impl Source {
    fn new(flow: u64, caps: &[Cap], rate: Rate) -> Self {
        let whose = whose(u8::try_from(flow).expect("few"), 1, Lane::Normal);
        Self { flow, whose, caps: caps.to_vec(), rate, sent: Vec::new() }
    }

    fn of(self, peer: u8, weight: u32, lane: Lane) -> Self {
        Self { whose: whose(peer, weight, lane), ..self }
    }

    fn ask(&self, pacer: &mut Pacer) {
        let (whose, caps, wire_bytes) = (self.whose, self.caps.clone(), self.wire());
        pacer.begin(self.flow, whose.peer, whose.lane);
        pacer.ask(self.flow, Ask { whose, caps, wire_bytes, extra_bytes: 0, slices: 40 });
    }

    fn wire(&self) -> u64 {
        wire_bytes(slice_bytes(self.rate, PACKET), PACKET)
    }

    fn total(&self) -> u64 {
        self.sent.iter().map(|(_, bytes)| bytes).sum()
    }

    fn between(&self, from: Instant, to: Instant) -> u64 {
        self.sent.iter().filter(|(at, _)| from <= *at && *at < to).map(|(_, bytes)| bytes).sum()
    }
}

fn run(pacer: &mut Pacer, clock: &mut Clock, sources: &mut [Source], seconds: f64) {
    let end = clock.now + Duration::from_secs_f64(seconds);
    for source in sources.iter() {
        source.ask(pacer);
    }
    while clock.now < end {
        let (flows, next) = pacer.poll(clock.now);
        for (flow, slices) in &flows {
            let source = sources.iter_mut().find(|s| s.flow == *flow).expect("known");
            let wire = source.wire();
            source.sent.push((clock.now, wire * u64::from(*slices)));
            source.ask(pacer);
        }
        if flows.is_empty() {
            clock.sleep_until(next.unwrap_or(end).min(end));
        }
    }
}

#[test]
fn every_window_is_within_the_cap() {
    for (seed, bits) in (0..).zip([64_000, 1_000_000, 4_700_000, 20_000_000, 500_000_000_u64]) {
        let (mut pacer, mut clock) = (Pacer::default(), Clock::new(seed));
        let rate = Rate::Limited(bits);
        pacer.set_rates([(node(), rate)], clock.now);
        let mut sources = [Source::new(1, &[node()], rate)];
        run(&mut pacer, &mut clock, &mut sources, 10.0);
        let start = clock.start;
        let allowed = |seconds: f64| {
            let share = bits as f64 / 8.0 * seconds;
            (share, (share * 0.03).max(3.0 * PACKET_WIRE_BYTES as f64))
        };
        for step in 0..(10 * 20 - 20) {
            let from = start + Duration::from_millis(50 * step);
            let quarter = sources[0].between(from, from + Duration::from_millis(250)) as f64;
            let (share, slack) = allowed(0.25);
            assert!(quarter <= share + slack, "{bits}: {quarter} in 250 ms at step {step}");
            let second = sources[0].between(from, from + Duration::from_secs(1)) as f64;
            let (share, slack) = allowed(1.0);
            assert!(second >= share - slack, "{bits}: {second} in 1 s at step {step}");
        }
    }
}

#[test]
fn the_tightest_of_several_rules_and_a_slow_one_holds_back_nobody() {
    let (mut pacer, mut clock) = (Pacer::default(), Clock::new(1));
    let (slow, fast) = (Rate::Limited(64_000), Rate::Limited(20_000_000));
    pacer.set_rates([(node(), fast), (peer(1), slow)], clock.now);
    let mut sources =
        [Source::new(1, &[node(), peer(1)], slow), Source::new(2, &[node(), peer(2)], fast)];
    run(&mut pacer, &mut clock, &mut sources, 10.0);
    let (slow, fast) = (sources[0].total(), sources[1].total());
    assert!((75_000..=85_000).contains(&slow), "{slow} in 10 s at 64 kbit/s");
    let both = slow + fast;
    assert!((24_250_000..=25_100_000).contains(&both), "{both} in 10 s at 20 Mbit/s");
}

#[test]
fn equal_ones_take_turns() {
    let (mut pacer, mut clock) = (Pacer::default(), Clock::new(2));
    let rate = Rate::Limited(5_000_000);
    pacer.set_rates([(node(), rate)], clock.now);
    let mut sources: Vec<Source> =
        (1..=16).map(|n| Source::new(u64::from(n), &[node(), peer(n)], rate)).collect();
    run(&mut pacer, &mut clock, &mut sources, 10.0);
    let (least, most) = (
        sources.iter().map(Source::total).min().expect("16"),
        sources.iter().map(Source::total).max().expect("16"),
    );
    assert!(most - least <= 3 * PACKET_WIRE_BYTES, "{least} to {most}");
}

#[test]
fn a_change_bites_at_once_whoever_waits() {
    let (mut pacer, mut clock) = (Pacer::default(), Clock::new(3));
    let slow = Rate::Limited(8_000);
    pacer.set_rates([(node(), slow)], clock.now);
    let mut sources = [Source::new(1, &[node()], slow)];
    run(&mut pacer, &mut clock, &mut sources, 4.0);
    // It waits for more than a second now; a new rate doesn't let it wait on.
    let fast = Rate::Limited(8_000_000);
    pacer.set_rates([(node(), fast)], clock.now);
    sources[0].rate = fast;
    let from = clock.now;
    run(&mut pacer, &mut clock, &mut sources, 1.0);
    let sent = sources[0].between(from, from + Duration::from_millis(100));
    assert!(sent > 80_000, "{sent} in the first 100 ms at 1 MB/s");
    pacer.set_rates([(node(), Rate::Pause)], clock.now);
    let from = clock.now;
    run(&mut pacer, &mut clock, &mut sources, 5.0);
    assert_eq!(sources[0].between(from, clock.now), 0, "nothing passes a pause");
    pacer.set_rates([], clock.now);
    assert!(!pacer.limits(&sources[0].whose.peer, &[node()]));
    assert_eq!(pacer.poll(clock.now).0[0].0, 1, "no cap, no wait");
}

#[test]
fn debt_of_a_fast_rate_is_no_long_silence_at_a_slow_one() {
    let (mut pacer, now) = (Pacer::default(), Instant::now());
    let ask = |pacer: &mut Pacer, at: Instant| {
        let (whose, caps, wire_bytes) = (whose(1, 1, Lane::Normal), vec![node()], 65_536);
        pacer.ask(1, Ask { whose, caps, wire_bytes, extra_bytes: 0, slices: 1 });
        pacer.poll(at)
    };
    pacer.set_rates([(node(), Rate::Limited(100_000_000))], now);
    assert_eq!(ask(&mut pacer, now).0.len(), 1);
    pacer.set_rates([(node(), Rate::Pause)], now);
    pacer.set_rates([(node(), Rate::Limited(64_000))], now);
    let wait = ask(&mut pacer, now).1.expect("it waits") - now;
    assert!(wait < Duration::from_secs(1), "{wait:?} until the first packet at 64 kbit/s");
    assert!(wait > Duration::from_millis(500), "{wait:?}: what was sent before still counts");
}

#[test]
fn a_rest_saves_up_next_to_nothing_and_a_clock_that_steps_back_gives_nothing() {
    let start = Instant::now() + Duration::from_secs(100);
    let mut pacer = Pacer::default();
    pacer.set_rates([(node(), Rate::Limited(8_000_000))], start);
    let later = start + Duration::from_secs(3600);
    let mut passed = 0;
    for at in [later, later, later, later, later, later - Duration::from_secs(50)] {
        let (whose, wire_bytes) = (whose(1, 1, Lane::Normal), PACKET_WIRE_BYTES);
        let caps = vec![node()];
        pacer.ask(1, Ask { whose, caps, wire_bytes, extra_bytes: 0, slices: 1 });
        passed += pacer.poll(at).0.len();
    }
    assert_eq!(passed, 4, "6 ms of the rate less a packet, the last one into debt");
}

#[test]
fn slices_are_whole_packets_and_small() {
    assert_eq!(slice_bytes(Rate::Limited(1), PACKET), PACKET);
    assert_eq!(slice_bytes(Rate::Limited(20_000_000), PACKET), PACKET);
    assert_eq!(slice_bytes(Rate::Limited(100_000_000), PACKET), 8 * PACKET);
    assert!(slice_bytes(Rate::Limited(u64::MAX), PACKET) <= PACE_BYTES_MAX);
    assert_eq!(slice_bytes(Rate::Unlimited, PACKET), PACE_BYTES_MAX);
    assert_eq!(slice_bytes(Rate::Limited(1), usize::MAX), PACE_BYTES_MAX);
    assert_eq!(wire_bytes(2 * PACKET, PACKET), 2 * (1392 + 64));
}

#[test]
fn what_really_went_out_is_counted() {
    let mut meter = Meter::new(10_000);
    assert_eq!(meter.count(1000, 10_000), 1000);
    assert_eq!(meter.count(1000, 11_100), 1000, "a part of it has not been sent yet");
    assert_eq!(meter.count(1000, 14_000), 2000, "retransmissions and acknowledgements too");
    assert_eq!(meter.count(1000, 14_000), 1000);
    assert_eq!(meter.count(0, 13_000), 0);
}

/// Bytes of each source, in packets of the wire.
fn packets(sources: &[Source]) -> Vec<f64> {
    sources.iter().map(|s| s.total() as f64 / PACKET_WIRE_BYTES as f64).collect()
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Peers with one to three transfers each, under any cap, with a timer that is late at times: in
    /// the end and in every second each has its weight's share, within a few slices.
    #[test]
    fn weights_are_respected_whatever_the_number_of_transfers(
        seed in any::<u64>(),
        bits in prop::sample::select(vec![1_000_000_u64, 10_000_000, 80_000_000]),
        peers in prop::collection::vec((1_u32..=8, 1_u64..=3), 2..9),
    ) {
        let (mut pacer, mut clock) = (Pacer::default(), Clock::new(seed));
        let rate = Rate::Limited(bits);
        pacer.set_rates([(node(), rate)], clock.now);
        let mut sources = Vec::new();
        for (n, (weight, transfers)) in (1..).zip(&peers) {
            for transfer in 0..*transfers {
                let source = Source::new(u64::from(n) * 4 + transfer, &[node(), peer(n)], rate);
                sources.push(source.of(n, *weight, Lane::Normal));
            }
        }
        run(&mut pacer, &mut clock, &mut sources, 4.0);
        let weights: f64 = peers.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let slice = sources[0].wire() as f64;
        let total: u64 = sources.iter().map(Source::total).sum();
        let mut shares = Vec::new();
        for (n, (weight, _)) in (1..).zip(&peers) {
            let of_peer = sources.iter().filter(|s| s.whose.peer == NodeId::from_bytes([n; 32]));
            let sent = of_peer.map(Source::total).sum::<u64>() as f64;
            let fair = total as f64 * f64::from(*weight) / weights;
            // One slice each, over the weights: how far any two may be apart.
            let slack = slice * (2.0 + 2.0 * f64::from(*weight));
            prop_assert!((sent - fair).abs() <= slack, "peer {n}: {sent} of {fair}, {slack}");
            shares.push(sent / f64::from(*weight));
        }
        prop_assert!(jain(&shares) >= 0.95, "{shares:?}");
    }
}

#[test]
fn the_others_share_what_a_slow_one_leaves_and_it_gets_its_own() {
    let (mut pacer, mut clock) = (Pacer::default(), Clock::new(5));
    let (rate, slow) = (Rate::Limited(10_000_000), Rate::Limited(64_000));
    pacer.set_rates([(node(), rate), (peer(1), slow)], clock.now);
    let mut sources: Vec<Source> = (1..=16)
        .map(|n| Source::new(n.into(), &[node(), peer(n)], if n == 1 { slow } else { rate }))
        .collect();
    run(&mut pacer, &mut clock, &mut sources, 20.0);
    let sent = packets(&sources);
    let of_slow = sources[0].total();
    assert!((140_000..=165_000).contains(&of_slow), "{of_slow} in 20 s at 64 kbit/s");
    assert!(jain(&sent[1..]) > 0.9999, "{sent:?}");
    let fair = (10_000_000.0 / 8.0 * 20.0 - 160_000.0) / 15.0;
    for source in &sources[1..] {
        assert!((source.total() as f64 - fair).abs() < 0.02 * fair, "{sent:?}");
    }
}

/// What a peer with a limit of its own waits for others it doesn't lose: it has its share beside those
/// without one, and with much weight as much as its limit allows.
#[test]
fn a_limit_near_the_share_takes_nothing_from_it() {
    for (node_bits, weight, bits, others) in
        [(27_000_000, 1, 21_000_000, 1_u8), (19_000_000, 6, 8_000_000, 3)]
    {
        let (mut pacer, mut clock) = (Pacer::default(), Clock::new(9));
        let (all, its) = (Rate::Limited(node_bits), Rate::Limited(bits));
        pacer.set_rates([(node(), all), (peer(1), its)], clock.now);
        let first = Source::new(1, &[node(), peer(1)], its).of(1, weight, Lane::Normal);
        let others = (2..2 + others).map(|n| Source::new(n.into(), &[node(), peer(n)], all));
        let mut sources: Vec<Source> = [first].into_iter().chain(others).collect();
        run(&mut pacer, &mut clock, &mut sources, 10.0);
        let share = f64::from(weight) / (f64::from(weight) + (sources.len() - 1) as f64);
        let fair = (node_bits as f64 * share).min(bits as f64) * 10.0 / 8.0;
        let sent = sources[0].total() as f64;
        assert!((sent / fair - 1.0).abs() < 0.03, "{sent} of {fair} bytes under {bits} bit/s");
    }
}

#[test]
fn a_store_with_a_cap_shares_it_by_weight_while_others_go_on() {
    let (mut pacer, mut clock) = (Pacer::default(), Clock::new(6));
    let small = Cap::Limit(Level::Store(blockferry_delta::StoreName::new("s").expect("a name")));
    let (wide, narrow) = (Rate::Limited(20_000_000), Rate::Limited(2_000_000));
    pacer.set_rates([(node(), wide), (small.clone(), narrow)], clock.now);
    let mut sources = [
        Source::new(1, &[node(), small.clone(), peer(1)], narrow).of(1, 3, Lane::Normal),
        Source::new(2, &[node(), small, peer(2)], narrow).of(2, 1, Lane::Normal),
        Source::new(3, &[node(), peer(3)], wide).of(3, 1, Lane::Normal),
    ];
    run(&mut pacer, &mut clock, &mut sources, 10.0);
    let sent = packets(&sources);
    assert!((2.9..=3.1).contains(&(sent[0] / sent[1])), "{sent:?}");
    assert!((8.5..=9.5).contains(&(sent[2] / (sent[0] + sent[1]))), "{sent:?}");
}

#[test]
fn urgent_overtakes_at_once_and_bulk_never_starves() {
    let (mut pacer, mut clock) = (Pacer::default(), Clock::new(7));
    let rate = Rate::Limited(10_000_000);
    pacer.set_rates([(node(), rate)], clock.now);
    let of = |flow, n, lane| Source::new(flow, &[node(), peer(n)], rate).of(n, 1, lane);
    let mut bulk = [of(1, 1, Lane::Bulk), of(2, 2, Lane::Bulk)];
    run(&mut pacer, &mut clock, &mut bulk, 5.0);
    let [one, two] = bulk;
    // One more to a peer that has bulk already, one to another.
    let mut all = [one, two, of(3, 1, Lane::Urgent), of(4, 3, Lane::Normal)];
    let from = clock.now;
    run(&mut pacer, &mut clock, &mut all, 10.0);
    let soon = all[2].between(from, from + Duration::from_millis(100)) as f64;
    assert!(soon > 0.8 * 125_000.0, "{soon} bytes of the urgent one in the first 100 ms");
    let sent: Vec<u64> = all.iter().map(|s| s.between(from, clock.now)).collect();
    let share = sent[2] as f64 / sent.iter().sum::<u64>() as f64;
    assert!((0.93..=0.97).contains(&share), "{sent:?}");
    assert!(sent[0] + sent[1] > 20_000, "{sent:?}");
}

#[test]
fn lanes_of_one_peer_yield_even_where_nothing_limits() {
    let (mut pacer, now) = (Pacer::default(), Instant::now());
    let ask = |pacer: &mut Pacer, flow, lane| {
        let whose = whose(1, 1, lane);
        pacer.begin(flow, whose.peer, lane);
        let (caps, wire_bytes) = (vec![node()], 65_536);
        pacer.ask(flow, Ask { whose, caps, wire_bytes, extra_bytes: 0, slices: 1 });
    };
    let peer = NodeId::from_bytes([1; 32]);
    pacer.begin(1, peer, Lane::Bulk);
    assert!(!pacer.limits(&peer, &[node()]), "alone it need not ask");
    let (mut urgent, mut bulk) = (0, 0);
    ask(&mut pacer, 1, Lane::Bulk);
    for _ in 0..2100 {
        ask(&mut pacer, 2, Lane::Urgent);
        assert!(pacer.limits(&peer, &[node()]));
        for (flow, _) in pacer.poll(now).0 {
            if flow == 2 {
                urgent += 1;
            } else {
                bulk += 1;
                ask(&mut pacer, 1, Lane::Bulk);
            }
        }
    }
    assert_eq!(urgent, 2100);
    assert!((3..=8).contains(&bulk), "{bulk}");
    // The urgent one has nothing more for now; a moment later it is not waited for.
    pacer.rest(2, &peer, now);
    assert_eq!(pacer.poll(now), (vec![], Some(now + YIELD)));
    assert_eq!(pacer.poll(now + YIELD).0, [(1, 1)]);
    pacer.end(2, &peer);
    assert!(!pacer.limits(&peer, &[node()]));
}
