//! Peers of different speed at one queue, in virtual time.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const ROOM: u64 = 48 * MIB;
const RESERVE: u64 = 8 * MIB;

fn whose(n: u8, weight: u32, lane: Lane) -> Whose {
    Whose { peer: NodeId::from_bytes([n; 32]), weight, lane }
}

/// Peers that always want a next pack, with what each takes in bytes per second (0: it stalls).
struct World {
    queue: Queue<u8>,
    now: Instant,
    speeds: BTreeMap<u8, u64>,
    /// What waits to be written, by peer: hold, bytes left.
    writing: BTreeMap<u8, VecDeque<(u64, u64)>>,
    asked: BTreeMap<u8, u32>,
    written: BTreeMap<u8, u64>,
    most: u64,
}

impl World {
    fn new(speeds: &[(u8, u64)]) -> Self {
        let keys = || speeds.iter().map(|(n, _)| *n);
        Self {
            queue: Queue::new(ROOM, RESERVE),
            now: Instant::now(),
            speeds: speeds.iter().copied().collect(),
            writing: keys().map(|n| (n, VecDeque::new())).collect(),
            asked: keys().map(|n| (n, 0)).collect(),
            written: keys().map(|n| (n, 0)).collect(),
            most: 0,
        }
    }

    /// One step of 10 ms: two packs can be made, everybody writes on.
    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        for (n, asked) in &mut self.asked {
            while *asked < 2 {
                *asked += 1;
                self.queue.submit(whose(*n, 1, Lane::Normal), u64::from(*n), 4 * MIB, *n);
            }
        }
        for _ in 0..2 {
            let Some((n, hold)) = self.queue.poll(self.now) else { break };
            self.queue.made(hold, 2 * MIB, self.now);
            self.writing.get_mut(&n).expect("known").push_back((hold, 2 * MIB));
        }
        for (n, queue) in &mut self.writing {
            let mut bytes = self.speeds[n] / 100;
            while let Some((hold, left)) = queue.front_mut().filter(|_| bytes > 0) {
                let now = bytes.min(*left);
                (*left, bytes) = (*left - now, bytes - now);
                *self.written.get_mut(n).expect("known") += now;
                if *left == 0 {
                    self.queue.release(*hold, self.now);
                    queue.pop_front();
                    *self.asked.get_mut(n).expect("known") -= 1;
                }
            }
        }
        self.most = self.most.max(self.queue.held_bytes());
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 100 {
            self.step();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// However many stall or crawl, those that don't are as fast as without them, nobody who takes
    /// anything is left out, and the bytes held stay bounded.
    #[test]
    fn who_stalls_costs_the_others_nothing(
        fast in 1_u8..8,
        slow in prop::collection::vec(prop::sample::select(vec![0_u64, 8_000, 100_000]), 0..30),
    ) {
        let quick: Vec<(u8, u64)> = (0..fast).map(|n| (n, 10 * MIB)).collect();
        let mut alone = World::new(&quick);
        alone.run(60);
        let late: Vec<(u8, u64)> = (100_u8..).zip(slow).collect();
        let mut beside = World::new(&[quick, late.clone()].concat());
        beside.run(60);
        prop_assert!(beside.most <= ROOM);
        for n in 0..fast {
            let (with, without) = (beside.written[&n], alone.written[&n]);
            prop_assert!(with * 100 >= without * 95, "{n}: {with} instead of {without}");
        }
        // Half of the room holds eleven packs of those who stall, or take minutes for one; the others
        // take turns in what is left, 20 s for each pack.
        if late.iter().filter(|(_, speed)| *speed < 100_000).count() < 10 {
            let crawling = || late.iter().filter(|(_, speed)| *speed == 100_000);
            let left_out = |world: &World| crawling().find(|(n, _)| world.written[n] == 0).copied();
            for _ in 0..24 {
                if left_out(&beside).is_some() {
                    beside.run(10);
                }
            }
            prop_assert_eq!(left_out(&beside), None, "of {:?}", late);
        }
    }
}

#[test]
fn urgent_is_made_although_bulk_fills_everything() {
    let mut queue = Queue::new(ROOM, RESERVE);
    let now = Instant::now();
    for n in 0..40 {
        queue.submit(whose(1 + n % 2, 1, Lane::Bulk), u64::from(1 + n % 2), 4 * MIB, n);
    }
    let mut holds = Vec::new();
    while let Some((_, hold)) = queue.poll(now) {
        queue.made(hold, 2 * MIB, now);
        holds.push(hold);
    }
    assert!(!holds.is_empty() && queue.held_bytes() <= ROOM - RESERVE);
    queue.submit(whose(1, 1, Lane::Urgent), 3, 4 * MIB, 99);
    assert_eq!(queue.poll(now).map(|(n, _)| n), Some(99));
}

#[test]
fn weights_and_lanes_choose_and_each_peer_keeps_its_order() {
    let mut queue = Queue::new(ROOM, RESERVE);
    let now = Instant::now();
    for n in 0..400_u32 {
        queue.submit(whose(1, 3, Lane::Normal), 1, MIB, n);
        queue.submit(whose(2, 1, Lane::Normal), 2, MIB, 1000 + n);
    }
    let mut order = Vec::new();
    for _ in 0..200 {
        let (n, hold) = queue.poll(now).expect("there is room");
        queue.release(hold, now);
        order.push(n);
    }
    let heavy: Vec<u32> = order.iter().copied().filter(|n| *n < 1000).collect();
    assert!((147..=153).contains(&heavy.len()), "{}", heavy.len());
    assert!(heavy.is_sorted());
    queue.submit(whose(3, 1, Lane::Urgent), 3, MIB, 5000);
    assert_eq!(queue.poll(now).map(|(n, _)| n), Some(5000));
}

#[test]
fn what_is_held_already_needs_no_room_and_the_end_takes_everything() {
    let mut queue = Queue::new(4 * MIB, 0);
    let now = Instant::now();
    for n in 0..3 {
        queue.submit(whose(1, 1, Lane::Normal), 1, 4 * MIB, n);
    }
    assert!(queue.poll(now).is_some() && queue.poll(now).is_none());
    queue.submit(whose(1, 1, Lane::Normal), 1, 0, 9);
    assert_eq!(queue.poll(now).map(|(n, _)| n), Some(9));
    assert!(queue.poll_last(now).is_some() && queue.poll_last(now).is_some());
    assert!(queue.poll_last(now).is_none());
}

/// Twelve peers get large packs and a small last one each; a pack is written when those before it
/// are, as transfers do.
#[test]
fn a_small_last_pack_never_stands_before_a_large_one() {
    let sizes = [4 * MIB, 4 * MIB, 4 * MIB, MIB / 4];
    let mut queue = Queue::new(ROOM, RESERVE);
    let now = Instant::now();
    for (pack, bytes) in sizes.into_iter().enumerate() {
        for peer in 0..12 {
            queue.submit(whose(peer, 1, Lane::Normal), u64::from(peer), bytes, (peer, pack));
        }
    }
    let mut made: BTreeMap<u8, BTreeMap<usize, u64>> = BTreeMap::new();
    let mut next = BTreeMap::from_iter((0..12).map(|peer| (peer, 0)));
    for _ in 0..1000 {
        while let Some(((peer, pack), hold)) = queue.poll(now) {
            queue.made(hold, sizes[pack] / 2, now);
            made.entry(peer).or_default().insert(pack, hold);
        }
        for (peer, next) in &mut next {
            if let Some(hold) = made.get_mut(peer).and_then(|packs| packs.remove(next)) {
                queue.release(hold, now);
                *next += 1;
            }
        }
    }
    assert!(next.values().all(|next| *next == sizes.len()), "{next:?}");
    assert!(queue.is_empty());
}

/// A push with a lane counts for a transfer that runs already, too.
#[test]
fn packs_of_a_transfer_keep_their_order_when_its_lane_changes() {
    let mut queue = Queue::new(4 * MIB, 0);
    let now = Instant::now();
    queue.submit(whose(9, 1, Lane::Normal), 9, 2 * MIB, 90);
    let (_, other) = queue.poll(now).expect("there is room");
    queue.submit(whose(1, 1, Lane::Normal), 1, 4 * MIB, 10);
    queue.submit(whose(1, 1, Lane::Urgent), 1, MIB, 11);
    assert_eq!(queue.poll(now).map(|(job, _)| job), None, "10 has no room, 11 is sent after it");
    queue.submit(whose(1, 1, Lane::Urgent), 2, MIB, 20);
    let (job, hold) = queue.poll(now).expect("another transfer passes");
    assert_eq!(job, 20);
    queue.release(hold, now);
    queue.release(other, now);
    let (first, hold) = queue.poll(now).expect("room");
    queue.release(hold, now);
    assert_eq!((first, queue.poll(now).map(|(job, _)| job)), (10, Some(11)));
}
