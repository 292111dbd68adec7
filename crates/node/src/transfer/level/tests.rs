//! Simulated links and contents: the level settles where the bytes are through soonest.

use super::*;

const MIB: usize = 1 << 20;
const PACK: usize = 2 * MIB;
/// What QUIC keeps unacknowledged.
const BUFFER: f64 = 8.0 * MIB as f64;

fn mbit(rate: f64) -> f64 {
    rate * 1e6 / 8.0
}

/// One sender, one link, time that is counted.
struct Sim {
    chooser: Chooser,
    start: Instant,
    seconds: f64,
    carried: Carried,
    backlog: f64,
    /// Bytes per second of the link.
    rate: f64,
    /// Raw bytes per second that the receiver takes.
    receiver: f64,
    workers: f64,
    /// How much slower this machine is, how much harder this content is (an exponent).
    slower: f64,
    harder: f64,
    raw: u64,
    /// Seconds of the CPU for a byte that is sent: what QUIC takes.
    carrying: f64,
    levels: Vec<(f64, Compression)>,
}

/// Seconds and bytes left of a raw byte, as this machine and content really have them.
fn truth(sim: &Sim, compression: Compression) -> (f64, f64) {
    let (press, kept): (f64, f64) = match compression {
        Compression::Stored => (0.05e-9, 1.0),
        Compression::Zstd(-5) => (1.6e-9, 0.45),
        Compression::Zstd(1) => (2.5e-9, 0.38),
        Compression::Zstd(3) => (4.2e-9, 0.33),
        Compression::Zstd(6) => (12.0e-9, 0.315),
        Compression::Zstd(8) => (18.0e-9, 0.31),
        other => panic!("{other:?} is not on the ladder"),
    };
    (press * sim.slower, kept.powf(sim.harder))
}

impl Sim {
    fn new(rate: f64) -> Self {
        Self {
            chooser: Chooser::new(1),
            start: Instant::now(),
            seconds: 0.0,
            carried: Carried { ceiling: f64::INFINITY, ..Carried::default() },
            backlog: 0.0,
            rate,
            receiver: 1e12,
            workers: 1.0,
            slower: 1.0,
            harder: 1.0,
            raw: 0,
            carrying: 0.0,
            levels: vec![(0.0, Compression::zstd(3))],
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.seconds)
    }

    /// Time passes; the link carries what waits.
    fn pass(&mut self, seconds: f64) {
        let drained = self.backlog.min(self.rate * seconds);
        self.backlog -= drained;
        self.seconds += seconds;
        self.carried.bytes += drained as u64;
        self.carried.held_bytes += drained as u64;
        self.carried.held += Duration::from_secs_f64(drained / self.rate);
    }

    fn pack(&mut self) {
        let compression = self.chooser.compression();
        if self.levels.last().is_none_or(|(_, last)| *last != compression) {
            self.levels.push((self.seconds, compression));
        }
        let (press, kept) = truth(self, compression);
        let (press, bytes) = (press * PACK as f64, kept * PACK as f64);
        let carrying = self.carrying * bytes;
        self.pass((press / self.workers).max(PACK as f64 / self.receiver).max(carrying));
        let room = (self.backlog + bytes - BUFFER).max(0.0);
        self.pass(room / self.rate);
        self.backlog += bytes;
        self.raw += PACK as u64;
        self.chooser.handle_pack(&PackCost {
            compression,
            raw_bytes: PACK,
            bytes: bytes as usize,
            read: Duration::from_micros(500),
            press: Duration::from_secs_f64(press),
        });
        let now = self.now();
        self.chooser.handle_carried(self.carried, now);
    }

    fn run(&mut self, seconds: f64) {
        let end = self.seconds + seconds;
        while self.seconds < end {
            self.pack();
        }
    }

    /// Seconds of a raw byte at a level.
    fn time(&self, compression: Compression) -> f64 {
        let (press, kept) = truth(self, compression);
        let carrying = self.carrying * kept;
        (press / self.workers).max(kept / self.rate).max(1.0 / self.receiver).max(carrying)
    }

    fn best(&self) -> f64 {
        LADDER.iter().map(|rung| self.time(rung.compression)).fold(f64::INFINITY, f64::min)
    }

    /// Changes of level from a moment on.
    fn changes_since(&self, seconds: f64) -> usize {
        self.levels.iter().filter(|(at, _)| *at > seconds).count()
    }
}

#[test]
fn each_link_gets_its_level_and_keeps_it() {
    for (rate, levels) in [
        (mbit(1.0), vec![Compression::zstd(8)]),
        (mbit(20.0), vec![Compression::zstd(8)]),
        (mbit(100.0), vec![Compression::zstd(6), Compression::zstd(8)]),
        (mbit(1000.0), vec![Compression::zstd(1), Compression::zstd(3)]),
        (mbit(10_000.0), vec![Compression::Stored]),
    ] {
        let mut sim = Sim::new(rate);
        // What fills QUIC's window on a slow link is sent before anything can be known.
        let settling = (BUFFER / rate).max(5.0) + 30.0 * PACK as f64 / rate;
        sim.run(settling);
        let changes = sim.levels.len();
        assert!(levels.contains(&sim.chooser.compression()), "{rate}: {:?}", sim.levels);
        assert!(changes <= 5, "{rate}: {:?}", sim.levels);
        assert!(sim.time(sim.chooser.compression()) <= sim.best() * GAIN_LOWER, "{rate}");
        sim.run(settling.max(600.0));
        // A lower level may be tried now and then, and is given up.
        assert!(sim.changes_since(settling) <= 12, "{rate}: {:?}", sim.levels);
        assert!(levels.contains(&sim.chooser.compression()), "{rate}: {:?}", sim.levels);
    }
}

#[test]
fn a_link_that_outruns_the_machine_is_found_at_once() {
    let mut sim = Sim::new(mbit(10_000.0));
    sim.run(2.0);
    let levels: Vec<_> = sim.levels.iter().map(|(_, level)| *level).collect();
    let straight = [Compression::zstd(3), Compression::zstd(-5), Compression::Stored];
    assert_eq!(levels, straight, "{:?}", sim.levels);
    // Where sending costs more than pressing, the step in the middle is the one to be found.
    let mut sim = Sim::new(mbit(10_000.0));
    sim.carrying = 10e-9;
    sim.run(4.0);
    assert_eq!(sim.chooser.compression(), Compression::zstd(1), "{:?}", sim.levels);
    assert!(sim.time(Compression::zstd(1)) <= sim.best() * 1.05);
}

#[test]
fn small_transfers_are_compressed_whatever_a_large_one_found() {
    let mut sim = Sim::new(mbit(10_000.0));
    sim.run(60.0);
    assert_eq!(sim.chooser.compression(), Compression::Stored);
    let of = |pack| sim.chooser.compression_of(pack);
    assert_eq!((of(0), of(FIRST_PACKS - 1)), (Compression::zstd(3), Compression::zstd(3)));
    assert_eq!(of(FIRST_PACKS), Compression::Stored);
    let mut slow = Sim::new(mbit(1.0));
    slow.run(120.0);
    assert_eq!(slow.chooser.compression_of(0), Compression::zstd(8), "never less than the link's");
}

#[test]
fn a_link_that_changes_is_followed() {
    let mut sim = Sim::new(mbit(1000.0));
    for rate in [20.0, 1000.0, 100.0, 10_000.0, 20.0, 10_000.0, 1.0] {
        sim.rate = mbit(rate);
        let since = sim.seconds;
        sim.run((BUFFER / sim.rate) * 2.0 + 30.0 * PACK as f64 / sim.rate + 20.0);
        let (level, best) = (sim.chooser.compression(), sim.best());
        assert!(sim.time(level) <= best * 1.1, "{rate} Mbit/s: {level:?} {:?}", sim.levels);
        assert!(sim.changes_since(since) <= 8, "{rate} Mbit/s: {:?}", sim.levels);
    }
}

/// Rates at which two levels are about as good, too.
#[test]
fn a_rate_that_trembles_does_not_shake_the_level() {
    for middle in [122.0, 300.0, 650.0, 1800.0] {
        let mut sim = Sim::new(mbit(middle));
        sim.run(20.0);
        let (before, since) = (sim.levels.len(), sim.seconds);
        let mut state = 9_u64;
        while sim.seconds < since + 300.0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            sim.rate = mbit(middle) * (0.85 + 0.3 * (state >> 40) as f64 / f64::from(1 << 24));
            sim.pack();
        }
        let changes = sim.levels.len() - before;
        assert!(changes <= 10, "{middle}: {changes} changes: {:?}", sim.levels);
    }
}

#[test]
fn content_that_does_not_shrink_is_not_pressed() {
    let mut sim = Sim::new(mbit(20.0));
    sim.harder = 0.0;
    sim.slower = 0.05;
    sim.run(60.0);
    let level = sim.chooser.compression();
    assert!(sim.changes_since(0.0) <= 2, "{level:?} {:?}", sim.levels);
    // And what comes after it is.
    (sim.harder, sim.slower) = (1.0, 1.0);
    sim.run(60.0);
    assert_eq!(sim.chooser.compression(), Compression::zstd(8), "{:?}", sim.levels);
}

#[test]
fn a_receiver_that_is_slow_is_no_fast_link() {
    let mut sim = Sim::new(mbit(10_000.0));
    sim.receiver = 60e6;
    sim.run(120.0);
    assert_eq!(sim.levels.len(), 1, "nothing is gained by another level: {:?}", sim.levels);
}

#[test]
fn a_limit_counts_as_the_link() {
    let now = Instant::now();
    let (limit, mut chooser) = (mbit(8.0), Chooser::new(2));
    let cost = |compression| PackCost {
        compression,
        raw_bytes: PACK,
        bytes: PACK / 3,
        read: Duration::ZERO,
        press: Duration::from_millis(9),
    };
    for paced in [true, false] {
        let mut carried = Carried { ceiling: limit, ..Carried::default() };
        for second in 0..20_u64 {
            chooser.handle_pack(&cost(chooser.compression()));
            carried.bytes = second * limit as u64;
            // Two peers share it: each gets half, and waits for the bucket.
            if paced {
                carried.bytes /= 2;
                carried.paced = Duration::from_millis(900 * second);
            }
            chooser.handle_carried(carried, now + Duration::from_secs(second));
        }
        assert_eq!(chooser.compression(), Compression::zstd(8), "{paced}");
        chooser = Chooser::new(2);
    }
}

#[test]
fn whatever_is_told_the_level_is_on_the_ladder() {
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..200 {
        let (mut chooser, start, mut at) = (Chooser::new(draw(9) as usize), Instant::now(), 0);
        let mut carried = Carried::default();
        for _ in 0..300 {
            let known = LADDER.iter().any(|rung| rung.compression == chooser.compression());
            assert!(known, "{:?}", chooser.compression());
            let compression = match draw(4) {
                0 => Compression::zstd(draw(30) as i32 - 8),
                _ => chooser.compression(),
            };
            chooser.handle_pack(&PackCost {
                compression,
                raw_bytes: draw(PACK as u64 + 1) as usize,
                bytes: draw(PACK as u64 * 2) as usize,
                read: Duration::from_nanos(draw(1 << 30)),
                press: Duration::from_nanos(draw(1 << 30)),
            });
            at += draw(3_000);
            let now = start + Duration::from_millis(if draw(20) == 0 { at / 2 } else { at });
            carried.bytes = carried.bytes.wrapping_add(draw(1 << 28));
            carried.held_bytes += draw(1 << 28);
            carried.held += Duration::from_millis(draw(4_000));
            carried.paced += Duration::from_millis(draw(4_000));
            carried.window_bytes = draw(1 << 24);
            carried.ceiling = if draw(2) == 0 { f64::INFINITY } else { draw(1 << 20) as f64 };
            if draw(30) == 0 {
                carried = Carried::default();
            }
            chooser.handle_carried(carried, now);
        }
    }
}

#[test]
fn settings_are_read_as_they_are_written() {
    for text in ["auto", "none", "1", "3", "19"] {
        assert_eq!(text.parse::<Setting>().expect(text).to_string(), text);
    }
    for text in ["", "0", "20", "-5", "fast", "3.5", "99999999999999"] {
        assert!(text.parse::<Setting>().is_err(), "{text}");
    }
}
