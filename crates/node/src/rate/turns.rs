//! Turns: whose turn it is where several want the same, by lane and by weight.
//!
//! Pure. Everybody has a place on a line: what it has been given, over its weight; the one that is
//! furthest back goes next. While all of them want something this is a deficit round robin with a
//! quantum of one slice: nobody is ahead of another by more than a slice over its weight each. Who
//! comes back from a rest begins where the others are, less a small credit: a rest saves up next to
//! nothing. Lanes stand on a line of their own, above the peers: each lane leaves the next lower one
//! a [`LANE_SHARE`]th, so that the lower one is slow and never stands still.

use std::collections::BTreeMap;

use blockferry_delta::NodeId;
use blockferry_wire::Lane;

/// A lane leaves the lower one this part of what both want together, in parts of one.
pub const LANE_SHARE: u32 = 20;
/// Keys that are remembered before those who rest are forgotten.
const KEYS_MAX: usize = 4096;

/// Who wants something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The peer it is for.
    pub peer: NodeId,
    /// Its share beside others: twice the weight, twice the bytes. At least 1.
    pub weight: u32,
    /// How urgent it is.
    pub lane: Lane,
}

/// The weight of a lane beside the others.
pub fn lane_weight(lane: Lane) -> f64 {
    let share = f64::from(LANE_SHARE);
    match lane {
        Lane::Urgent => share * share,
        Lane::Normal => share,
        Lane::Bulk => 1.0,
    }
}

/// A line on which everybody has a place.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    /// Where the one stood that was served last.
    now: f64,
    places: BTreeMap<K, f64>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { now: 0.0, places: BTreeMap::new() }
    }
}

impl<K: Ord> Turns<K> {
    /// Where somebody stands; the least goes next.
    pub fn place(&self, key: &K) -> f64 {
        self.places.get(key).copied().unwrap_or(self.now)
    }

    /// Somebody wants something from now on: whatever it did before is worth `credit` bytes at most.
    /// Its place stays what it is then, however long it has to wait for other reasons.
    pub fn arrive(&mut self, key: K, weight: f64, credit: f64) {
        let least = self.now - credit / weight.max(1.0);
        let place = self.places.get(&key).map_or(self.now, |place| place.max(least));
        if self.places.len() >= KEYS_MAX {
            let now = self.now;
            self.places.retain(|_, place| *place > now);
        }
        self.places.insert(key, place);
    }

    /// What somebody was given was so many bytes more, or less, than it was taken for.
    pub fn corrected(&mut self, key: &K, weight: f64, bytes: f64) {
        if let Some(place) = self.places.get_mut(key) {
            *place += bytes / weight.max(1.0);
        }
    }

    /// Somebody was given so many bytes.
    pub fn served(&mut self, key: K, weight: f64, bytes: f64) {
        let place = self.place(&key);
        self.now = self.now.max(place);
        self.places.insert(key, place + bytes / weight.max(1.0));
    }
}

/// The turns of lanes, and of the peers in each.
#[derive(Clone, Debug, Default)]
pub struct Order {
    lanes: Turns<Lane>,
    peers: [Turns<NodeId>; 3],
    /// What a rest is worth, in bytes.
    credit: f64,
}

impl Order {
    /// Nobody has been served yet; a rest is worth `credit` bytes.
    pub fn new(credit: f64) -> Self {
        Self { credit, ..Self::default() }
    }

    /// Changes what a rest is worth, in bytes.
    pub fn set_credit(&mut self, credit: f64) {
        self.credit = credit;
    }

    /// Whether `a` goes before `b`. Of equal ones neither does: who came first goes first.
    pub fn precedes(&self, a: Whose, b: Whose) -> bool {
        if a.lane != b.lane {
            let [of_a, of_b] = [a, b].map(|whose| self.lane_place(whose.lane));
            return if a.lane < b.lane { of_a <= of_b } else { of_a < of_b };
        }
        self.peer_place(a) < self.peer_place(b)
    }

    /// Somebody wants something from now on.
    pub fn arrive(&mut self, whose: Whose) {
        let (lane, weight) = (whose.lane, f64::from(whose.weight));
        self.lanes.arrive(lane, lane_weight(lane), self.credit);
        self.peers[usize::from(lane.number())].arrive(whose.peer, weight, self.credit);
    }

    /// Somebody who had wanted something all the time can take it again: what the others were given
    /// meanwhile it may make good, up to so many bytes of each.
    pub fn arrive_again(&mut self, whose: Whose, bytes: f64) {
        let (lane, weight) = (whose.lane, f64::from(whose.weight));
        self.lanes.arrive(lane, lane_weight(lane), self.credit);
        let credit = self.credit.max(bytes * weight);
        self.peers[usize::from(lane.number())].arrive(whose.peer, weight, credit);
    }

    /// Somebody was given so many bytes.
    pub fn served(&mut self, whose: Whose, bytes: f64) {
        let (lane, weight) = (whose.lane, f64::from(whose.weight));
        self.lanes.served(lane, lane_weight(lane), bytes);
        self.peers[usize::from(lane.number())].served(whose.peer, weight, bytes);
    }

    /// What somebody was given was so many bytes more, or less, than it was taken for.
    pub fn corrected(&mut self, whose: Whose, bytes: f64) {
        let (lane, weight) = (whose.lane, f64::from(whose.weight));
        self.lanes.corrected(&lane, lane_weight(lane), bytes);
        self.peers[usize::from(lane.number())].corrected(&whose.peer, weight, bytes);
    }

    fn lane_place(&self, lane: Lane) -> f64 {
        self.lanes.place(&lane)
    }

    fn peer_place(&self, whose: Whose) -> f64 {
        self.peers[usize::from(whose.lane.number())].place(&whose.peer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whose(n: u8, weight: u32, lane: Lane) -> Whose {
        Whose { peer: NodeId::from_bytes([n; 32]), weight, lane }
    }

    fn next(order: &Order, all: &[Whose]) -> usize {
        (1..all.len()).fold(0, |best, i| if order.precedes(all[i], all[best]) { i } else { best })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Everybody wants all the time; slices differ. At every moment any two are within one
        /// slice each of their weights, and nobody waits for more than two rounds.
        #[test]
        fn weights_are_kept_within_a_slice_and_nobody_starves(
            peers in prop::collection::vec((1_u32..=16, 100_u32..=64_000), 2..12),
            credit in 0_u32..200_000,
        ) {
            let mut order = Order::new(f64::from(credit));
            let all: Vec<Whose> =
                (1..).zip(&peers).map(|(n, (w, _))| whose(n, *w, Lane::Normal)).collect();
            let mut given = vec![0.0; all.len()];
            let mut waited = vec![0.0; all.len()];
            // A round gives everybody at least one slice, and each its weight.
            let weights: f64 = peers.iter().map(|(w, _)| f64::from(*w)).sum();
            let slice = peers.iter().map(|(w, s)| f64::from(*s) / f64::from(*w)).fold(0.0, f64::max);
            for _ in 0..2000 {
                let i = next(&order, &all);
                let bytes = f64::from(peers[i].1);
                order.served(all[i], bytes);
                order.arrive(all[i]);
                given[i] += bytes;
                for (other, waited) in waited.iter_mut().enumerate() {
                    *waited = if other == i { 0.0 } else { *waited + bytes };
                    prop_assert!(*waited <= 2.0 * weights * slice, "{other} waits: {waited}");
                }
                for (a, (wa, sa)) in peers.iter().enumerate() {
                    for (b, (wb, sb)) in peers.iter().enumerate() {
                        let [wa, sa, wb, sb] = [*wa, *sa, *wb, *sb].map(f64::from);
                        let apart = (given[a] / wa - given[b] / wb).abs();
                        prop_assert!(apart <= sa / wa + sb / wb + 1e-6, "{a} and {b}: {apart}");
                    }
                }
            }
        }

        /// A rest of any length is worth no more than the credit.
        #[test]
        fn a_rest_saves_up_nothing(before in 0_u32..50, alone in 0_u32..5000) {
            let mut order = Order::new(10_000.0);
            let all = [whose(1, 1, Lane::Normal), whose(2, 1, Lane::Normal)];
            for _ in 0..before {
                let i = next(&order, &all);
                order.served(all[i], 1000.0);
            }
            for _ in 0..alone {
                order.served(all[0], 1000.0);
            }
            order.arrive(all[1]);
            let mut given = [0; 2];
            for _ in 0..100 {
                let i = next(&order, &all);
                order.served(all[i], 1000.0);
                given[i] += 1;
            }
            prop_assert!(given[1] - given[0] <= 13, "{given:?}");
        }
    }

    #[test]
    fn a_lane_leaves_the_lower_one_a_twentieth_whatever_the_weights() {
        let mut order = Order::new(5000.0);
        let all = [whose(1, 1, Lane::Urgent), whose(2, 9, Lane::Normal), whose(3, 1, Lane::Bulk)];
        let mut given = [0_u32; 3];
        let mut first_urgent = None;
        for turn in 0..42_100 {
            // The urgent one comes when the others have been at it for long.
            let these = if turn < 4210 { &all[1..] } else { &all[..] };
            for whose in these {
                order.arrive(*whose);
            }
            let i = next(&order, these) + all.len() - these.len();
            order.served(all[i], 1000.0);
            if turn >= 4210 {
                given[i] += 1;
                first_urgent = first_urgent.or((i == 0).then_some(turn));
            }
        }
        assert!(first_urgent.is_some_and(|turn| turn <= 4211), "{first_urgent:?}");
        let [urgent, normal, bulk] = given;
        assert!((35_800..=36_100).contains(&urgent), "{given:?}");
        assert!((1750..=1850).contains(&normal) && (80..=100).contains(&bulk), "{given:?}");
    }

    #[test]
    fn those_who_rest_are_forgotten_in_the_end() {
        let mut turns = Turns::default();
        for n in 0..3 * KEYS_MAX {
            turns.arrive(n, 1.0, 0.0);
            turns.served(n, 1.0, 1.0);
            turns.served(usize::MAX, 1.0, 5.0);
        }
        assert!(turns.places.len() <= KEYS_MAX + 1);
    }
}
