//! Queue: which pack is made next, and how many bytes of packs there are.
//!
//! Pure. What is made is held until it has been written to its stream, so the bytes of all packs
//! together are the bytes in flight on this side of QUIC: they have one bound, and what waits for
//! room takes turns (lanes, then peers by weight). Nobody holds more than an equal share, but always
//! one pack. Who takes its time with a pack, or hasn't shown yet that it doesn't, gets along with the
//! others like it on half of the room: peers that stall never hold up those that don't. So how much
//! lies ready for a peer follows its link by itself: a pack at a time for a slow one, a share for a
//! quick one. A lower lane never keeps a higher one from having its pack made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use blockferry_delta::NodeId;
use blockferry_wire::Lane;

use crate::budget;
use crate::rate::turns::{Order, Whose};

/// Who hasn't taken a pack within this time is slow: what lies in its send window lasts until the
/// next pack is made.
const SLOW: Duration = Duration::from_secs(8);
/// Peers whose pace is remembered.
const PACES_MAX: usize = 2 * budget::PEERS_MAX;

/// A pack that is being made, or that waits to be written.
#[derive(Debug)]
struct Hold {
    peer: NodeId,
    lane: Lane,
    bytes: u64,
    since: Instant,
}

/// Something to be made.
#[derive(Debug)]
struct Waiting<J> {
    whose: Whose,
    transfer: u64,
    bytes: u64,
    job: J,
}

/// What is to be made, and what has been made and is still here.
#[derive(Debug)]
pub struct Queue<J> {
    bytes_max: u64,
    /// Of these, what only the most urgent may take.
    reserve: u64,
    order: Order,
    waiting: VecDeque<Waiting<J>>,
    holds: BTreeMap<u64, Hold>,
    /// Number of the next hold.
    next: u64,
    /// How long each peer took to take its last pack.
    paces: BTreeMap<NodeId, Duration>,
}

impl<J> Queue<J> {
    /// At most so many bytes are held; `reserve` of them for the urgent lane.
    pub fn new(bytes_max: u64, reserve: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
        let credit = budget::PACK_BYTES_MAX as f64;
        Self {
            bytes_max,
            reserve,
            order: Order::new(credit),
            waiting: VecDeque::new(),
            holds: BTreeMap::new(),
            next: 0,
            paces: BTreeMap::new(),
        }
    }

    /// Something is to be made that takes so many bytes meanwhile. 0: it is held already. What is
    /// submitted for a transfer is made in that order.
    pub fn submit(&mut self, whose: Whose, transfer: u64, bytes: u64, job: J) {
        self.order.arrive(whose);
        self.waiting.push_back(Waiting { whose, transfer, bytes, job });
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is to be made now, and the number of its hold.
    pub fn poll(&mut self, now: Instant) -> Option<(J, u64)> {
        let mut next: Option<usize> = None;
        let (mut transfers, mut peers) = (BTreeSet::new(), BTreeSet::new());
        for (at, waiting) in self.waiting.iter().enumerate() {
            // Packs of a transfer are sent in their order: a small one, or one of a higher lane, that is
            // made ahead of a large one would hold the room that the large one needs, and wait for it
            // for ever. Of several transfers to a peer none keeps the room from who came before it.
            let Whose { peer, lane, .. } = waiting.whose;
            let first = transfers.insert(waiting.transfer) && peers.insert((peer, lane));
            if waiting.bytes > 0 && !first {
                continue;
            }
            let before = next
                .is_none_or(|next| self.order.precedes(waiting.whose, self.waiting[next].whose));
            if before && self.has_room(waiting.whose, waiting.bytes, now) {
                next = Some(at);
            }
        }
        self.take(next?, now)
    }

    /// The same whether there is room or not: for the end.
    pub fn poll_last(&mut self, now: Instant) -> Option<(J, u64)> {
        self.take(0, now)
    }

    /// It was made, and takes so many bytes now.
    pub fn made(&mut self, number: u64, bytes: u64, now: Instant) {
        if let Some(hold) = self.holds.get_mut(&number) {
            (hold.bytes, hold.since) = (bytes.min(hold.bytes), now);
        }
    }

    /// It was written, or is not wanted any more.
    pub fn release(&mut self, number: u64, now: Instant) {
        let Some(hold) = self.holds.remove(&number) else { return };
        if hold.bytes == 0 {
            return;
        }
        if self.paces.len() >= PACES_MAX {
            self.paces.clear();
        }
        self.paces.insert(hold.peer, now.saturating_duration_since(hold.since));
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> u64 {
        self.holds.values().map(|hold| hold.bytes).sum()
    }

    fn take(&mut self, at: usize, now: Instant) -> Option<(J, u64)> {
        let Waiting { whose, bytes, job, .. } = self.waiting.remove(at)?;
        let number = self.next;
        self.next += 1;
        self.holds.insert(number, Hold { peer: whose.peer, lane: whose.lane, bytes, since: now });
        #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
        self.order.served(whose, bytes as f64);
        Some((job, number))
    }

    fn has_room(&self, whose: Whose, bytes: u64, now: Instant) -> bool {
        if bytes == 0 {
            return true;
        }
        let fits = |held: u64, bytes_max: u64| held == 0 || held + bytes <= bytes_max;
        let urgent = whose.lane == Lane::Urgent;
        let most = if urgent { self.bytes_max } else { self.bytes_max - self.reserve };
        if !fits(self.held_bytes(), most) {
            return false;
        }
        // What waits in a lower lane will wait on; it must not make this wait.
        let above = || self.holds.values().filter(|hold| hold.lane <= whose.lane);
        let of_peer: u64 = above().filter(|hold| hold.peer == whose.peer).map(|h| h.bytes).sum();
        if !fits(of_peer, self.bytes_max / self.peers()) {
            return false;
        }
        let slow: BTreeSet<NodeId> =
            above().map(|hold| hold.peer).filter(|peer| self.is_slow(peer, now)).collect();
        let of_slow = above().filter(|hold| slow.contains(&hold.peer)).map(|hold| hold.bytes);
        !self.is_slow(&whose.peer, now) || fits(of_slow.sum(), self.bytes_max / 2)
    }

    /// Whether a peer takes its time, or hasn't shown yet that it doesn't.
    fn is_slow(&self, peer: &NodeId, now: Instant) -> bool {
        let late = |hold: &Hold| now.saturating_duration_since(hold.since) >= SLOW;
        self.paces.get(peer).is_none_or(|pace| *pace >= SLOW)
            || self.holds.values().any(|hold| hold.peer == *peer && late(hold))
    }

    /// Peers that hold or want something; at least one.
    fn peers(&self) -> u64 {
        let waiting = self.waiting.iter().map(|waiting| waiting.whose.peer);
        let peers: BTreeSet<NodeId> =
            waiting.chain(self.holds.values().map(|hold| hold.peer)).collect();
        (peers.len() as u64).max(1)
    }
}

#[cfg(test)]
mod tests;
