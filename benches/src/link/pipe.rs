//! One direction of a shaped link, as a value: packets enter, wait in a drop-tail queue, leave it
//! one after the other at the rate, travel for the delay, and some are lost on the way.
//!
//! Time is an argument, in nanoseconds from any beginning. All of it is virtual: a departure is
//! reckoned from the one before, never from when somebody looked, so that a late look delays
//! packets a little but costs no throughput. Which packets are lost depends only on the seed and
//! on how many entered before.

use std::collections::VecDeque;
use std::time::Duration;

/// The queue holds what the link carries in a round trip, but at least what it carries in this
/// time: ports of real routers hold some tens of milliseconds.
const QUEUE_TIME_MIN: Duration = Duration::from_millis(20);
/// And at least so many packets of the largest size: what a sender may hand over at once.
const QUEUE_PACKETS_MIN: u64 = 64;
const NANOS: u64 = 1_000_000_000;
/// A packet that leaves this much after its time is counted as late.
const LATE_NANOS: u64 = 1_000_000;

/// What a pipe is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Of IP packets; 0 lets nothing through.
    pub(crate) bits_per_second: u64,
    pub(crate) round_trip: Duration,
    pub(crate) loss_per_mille: f64,
    pub(crate) mtu: u32,
    pub(crate) seed: u64,
}

/// What has become of the packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// That entered.
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    /// That found the queue full.
    pub(crate) dropped_packets: u64,
    pub(crate) dropped_bytes: u64,
    /// That were lost on the way.
    pub(crate) lost_packets: u64,
    pub(crate) lost_bytes: u64,
    /// That came out.
    pub(crate) delivered_packets: u64,
    pub(crate) delivered_bytes: u64,
    /// Of these, more than a millisecond after their time: the machine was busy.
    pub(crate) late_packets: u64,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    settings: Settings,
    delay: u64,
    queue: VecDeque<Vec<u8>>,
    queue_bytes: u64,
    queue_bytes_max: u64,
    /// What is left to send of the packet at the front of the queue: its bits times 10^9, so that
    /// a rate times nanoseconds can be taken off exactly.
    front_left: u128,
    /// How far the queue has been worked off.
    worked_until: u64,
    /// Packets on their way, with when they come out.
    line: VecDeque<(u64, Vec<u8>)>,
    /// Packets that left the queue so far.
    departed: u64,
    counters: Counters,
}

impl Pipe {
    pub(crate) fn new(settings: Settings) -> Pipe {
        let delay = u64::try_from(settings.round_trip.as_nanos() / 2).unwrap_or(u64::MAX);
        Pipe {
            settings,
            delay,
            queue: VecDeque::new(),
            queue_bytes: 0,
            queue_bytes_max: queue_bytes_max(&settings),
            front_left: 0,
            worked_until: 0,
            line: VecDeque::new(),
            departed: 0,
            counters: Counters::default(),
        }
    }

    /// A packet enters at `now`.
    pub(crate) fn enter(&mut self, now: u64, packet: Vec<u8>) {
        self.work(now);
        let bytes = packet.len() as u64;
        self.counters.sent_packets += 1;
        self.counters.sent_bytes += bytes;
        if self.queue_bytes + bytes > self.queue_bytes_max {
            self.counters.dropped_packets += 1;
            self.counters.dropped_bytes += bytes;
            return;
        }
        if self.queue.is_empty() {
            self.worked_until = self.worked_until.max(now);
            self.front_left = nanobits(bytes);
        }
        self.queue_bytes += bytes;
        self.queue.push_back(packet);
    }

    /// The next packet that is out by `now`.
    pub(crate) fn leave(&mut self, now: u64) -> Option<Vec<u8>> {
        self.work(now);
        let (due, _) = self.line.front()?;
        if *due > now {
            return None;
        }
        let (due, packet) = self.line.pop_front()?;
        self.counters.delivered_packets += 1;
        self.counters.delivered_bytes += packet.len() as u64;
        self.counters.late_packets += u64::from(now - due > LATE_NANOS);
        Some(packet)
    }

    /// When a packet comes out next, if none enters before that.
    pub(crate) fn next_leaves(&self) -> Option<u64> {
        let departs = || Some(self.front_departs()?.saturating_add(self.delay));
        self.line.front().map(|(due, _)| *due).or_else(departs)
    }

    /// From `now` on the rate is another; what has been sent of a packet stays sent.
    pub(crate) fn set_rate(&mut self, now: u64, bits_per_second: u64) {
        self.work(now);
        self.settings.bits_per_second = bits_per_second;
        self.queue_bytes_max = queue_bytes_max(&self.settings);
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Works the queue off until `now`.
    fn work(&mut self, now: u64) {
        while let Some(departs) = self.front_departs().filter(|departs| *departs <= now) {
            self.worked_until = departs;
            self.depart();
        }
        if now > self.worked_until {
            let done =
                u128::from(self.settings.bits_per_second) * u128::from(now - self.worked_until);
            self.front_left = self.front_left.saturating_sub(done);
            self.worked_until = now;
        }
    }

    fn front_departs(&self) -> Option<u64> {
        self.queue.front()?;
        let rate = u128::from(self.settings.bits_per_second);
        if rate == 0 {
            return None;
        }
        let nanos = u64::try_from(self.front_left.div_ceil(rate)).unwrap_or(u64::MAX);
        Some(self.worked_until.saturating_add(nanos))
    }

    /// The front of the queue has been sent at `worked_until`.
    fn depart(&mut self) {
        let Some(packet) = self.queue.pop_front() else { return };
        let bytes = packet.len() as u64;
        self.queue_bytes -= bytes;
        self.front_left = self.queue.front().map_or(0, |next| nanobits(next.len() as u64));
        self.departed += 1;
        if chance(self.settings.seed, self.departed) < self.settings.loss_per_mille / 1000.0 {
            self.counters.lost_packets += 1;
            self.counters.lost_bytes += bytes;
        } else {
            self.line.push_back((self.worked_until.saturating_add(self.delay), packet));
        }
    }
}

fn nanobits(bytes: u64) -> u128 {
    u128::from(bytes) * 8 * u128::from(NANOS)
}

fn queue_bytes_max(settings: &Settings) -> u64 {
    let time = settings.round_trip.max(QUEUE_TIME_MIN).as_nanos();
    let carried = u128::from(settings.bits_per_second) * time / u128::from(NANOS) / 8;
    let packets = QUEUE_PACKETS_MIN * u64::from(settings.mtu);
    u64::try_from(carried).unwrap_or(u64::MAX).max(packets)
}

/// A number from 0 to 1 for the n-th packet (SplitMix64).
fn chance(seed: u64, number: u64) -> f64 {
    let mut mixed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // 53 bits are what a float holds exactly.
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// 1 Mbit/s: 1250 bytes take 10 ms.
    fn pipe(round_trip_ms: u64, loss_per_mille: f64) -> Pipe {
        Pipe::new(Settings {
            bits_per_second: 1_000_000,
            round_trip: Duration::from_millis(round_trip_ms),
            loss_per_mille,
            mtu: 1500,
            seed: 7,
        })
    }

    fn packet() -> Vec<u8> {
        vec![0; 1250]
    }

    #[test]
    fn packets_leave_one_after_the_other_and_travel() {
        let mut pipe = pipe(40, 0.0);
        for _ in 0..3 {
            pipe.enter(5 * MS, packet());
        }
        assert_eq!(pipe.next_leaves(), Some(35 * MS));
        assert!(pipe.leave(35 * MS - 1).is_none());
        assert!(pipe.leave(35 * MS).is_some());
        assert!(pipe.leave(45 * MS - 1).is_none());
        // A late look: both are out, and the second is late by what the look was.
        assert!(pipe.leave(60 * MS).is_some() && pipe.leave(60 * MS).is_some());
        assert_eq!(pipe.counters().late_packets, 2);
        // The link was idle meanwhile: nothing is made up for.
        pipe.enter(100 * MS, packet());
        assert_eq!(pipe.next_leaves(), Some(130 * MS));
    }

    #[test]
    fn a_rate_changes_in_the_middle_of_a_packet() {
        let mut pipe = pipe(0, 0.0);
        pipe.enter(0, packet());
        pipe.set_rate(4 * MS, 0);
        assert_eq!(pipe.next_leaves(), None);
        pipe.set_rate(50 * MS, 2_000_000);
        // 6 ms of it were left, at twice the rate.
        assert_eq!(pipe.next_leaves(), Some(53 * MS));
    }

    #[test]
    fn a_full_queue_drops_what_comes_last() {
        let mut pipe = pipe(0, 0.0);
        for _ in 0..100 {
            pipe.enter(0, packet());
        }
        // 64 packets of 1500 bytes are 76 of 1250.
        let counters = pipe.counters();
        assert_eq!((counters.sent_packets, counters.dropped_packets), (100, 24));
        assert_eq!(counters.dropped_bytes, 24 * 1250);
        let mut out = 0;
        while pipe.leave(760 * MS).is_some() {
            out += 1;
        }
        assert_eq!((out, pipe.next_leaves()), (76, None));
    }

    #[test]
    fn a_long_link_has_a_queue_of_a_round_trip() {
        let settings = Settings {
            bits_per_second: 100_000_000,
            round_trip: Duration::from_millis(50),
            loss_per_mille: 0.0,
            mtu: 1500,
            seed: 0,
        };
        assert_eq!(queue_bytes_max(&settings), 625_000);
        let short = Settings { round_trip: Duration::ZERO, ..settings };
        assert_eq!(queue_bytes_max(&short), 250_000);
    }

    #[test]
    fn loss_is_as_set_and_the_same_again() {
        let lost = || {
            let mut pipe = pipe(0, 20.0);
            for number in 0..10_000 {
                pipe.enter(number * 10 * MS, packet());
                while pipe.leave(number * 10 * MS).is_some() {}
            }
            while pipe.leave(u64::MAX).is_some() {}
            let counters = pipe.counters();
            assert_eq!(counters.delivered_packets + counters.lost_packets, 10_000);
            counters.lost_packets
        };
        let first = lost();
        assert!((150..250).contains(&first), "{first}");
        assert_eq!(lost(), first);
    }
}
