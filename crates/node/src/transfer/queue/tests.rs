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
                self.queue.submit(whose(*n, 1, Lane::Normal), 4 * MIB, *n);
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
        // Half of the room holds eleven packs: of more peers than that, some wait for those who take
        // 20 s for a pack, longer than this runs.
        if late.len() < 12 && late.iter().filter(|(_, speed)| *speed < 100_000).count() < 6 {
            let beside_all = late.iter().filter(|(_, speed)| *speed == 100_000);
            for (n, _) in beside_all {
                prop_assert!(beside.written[n] > 0, "{n} of {late:?}");
            }
        }
    }
}

#[test]
fn urgent_is_made_although_bulk_fills_everything() {
    let mut queue = Queue::new(ROOM, RESERVE);
    let now = Instant::now();
    for n in 0..40 {
        queue.submit(whose(1 + n % 2, 1, Lane::Bulk), 4 * MIB, n);
    }
    let mut holds = Vec::new();
    while let Some((_, hold)) = queue.poll(now) {
        queue.made(hold, 2 * MIB, now);
        holds.push(hold);
    }
    assert!(!holds.is_empty() && queue.held_bytes() <= ROOM - RESERVE);
    queue.submit(whose(1, 1, Lane::Urgent), 4 * MIB, 99);
    assert_eq!(queue.poll(now).map(|(n, _)| n), Some(99));
}

#[test]
fn weights_and_lanes_choose_and_each_peer_keeps_its_order() {
    let mut queue = Queue::new(ROOM, RESERVE);
    let now = Instant::now();
    for n in 0..400_u32 {
        queue.submit(whose(1, 3, Lane::Normal), MIB, n);
        queue.submit(whose(2, 1, Lane::Normal), MIB, 1000 + n);
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
    queue.submit(whose(3, 1, Lane::Urgent), MIB, 5000);
    assert_eq!(queue.poll(now).map(|(n, _)| n), Some(5000));
}

#[test]
fn what_is_held_already_needs_no_room_and_the_end_takes_everything() {
    let mut queue = Queue::new(4 * MIB, 0);
    let now = Instant::now();
    for n in 0..3 {
        queue.submit(whose(1, 1, Lane::Normal), 4 * MIB, n);
    }
    assert!(queue.poll(now).is_some() && queue.poll(now).is_none());
    queue.submit(whose(1, 1, Lane::Normal), 0, 9);
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
            queue.submit(whose(peer, 1, Lane::Normal), bytes, (peer, pack));
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
