//! Caps in virtual time: what gets through in every window, one over another, on a change.

use super::*;
use crate::rates::Level;
use blockferry_delta::NodeId;

const PACKET: usize = 1392;

fn node() -> Cap {
    Cap::Limit(Level::Node)
}

fn peer(n: u8) -> Cap {
    Cap::Limit(Level::Peer(NodeId::from_bytes([n; 32])))
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
    caps: Vec<Cap>,
    rate: Rate,
    /// When, and how much went out.
    sent: Vec<(Instant, u64)>,
}

impl Source {
    fn new(flow: u64, caps: &[Cap], rate: Rate) -> Self {
        Self { flow, caps: caps.to_vec(), rate, sent: Vec::new() }
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
        pacer.ask(source.flow, source.caps.clone(), source.wire());
    }
    while clock.now < end {
        let (flows, next) = pacer.poll(clock.now);
        for flow in &flows {
            let source = sources.iter_mut().find(|s| s.flow == *flow).expect("known");
            let wire = source.wire();
            source.sent.push((clock.now, wire));
            pacer.ask(source.flow, source.caps.clone(), wire);
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
    assert!(!pacer.limits(&[node()]));
    assert_eq!(pacer.poll(clock.now).0, [1], "no cap, no wait");
}

#[test]
fn a_rest_saves_up_next_to_nothing_and_a_clock_that_steps_back_gives_nothing() {
    let start = Instant::now() + Duration::from_secs(100);
    let mut pacer = Pacer::default();
    pacer.set_rates([(node(), Rate::Limited(8_000_000))], start);
    let later = start + Duration::from_secs(3600);
    let mut passed = 0;
    for at in [later, later, later, later, later, later - Duration::from_secs(50)] {
        pacer.ask(1, vec![node()], PACKET_WIRE_BYTES);
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
