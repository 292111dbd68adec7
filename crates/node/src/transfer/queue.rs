//! Queue: which pack is made next, and how many bytes of packs there are.
//!
//! Pure. What is made is held until it has been written to its stream, so the bytes of all packs
//! together are the bytes in flight on this side of QUIC: they have one bound, and what waits for
//! room takes turns (lanes, then peers by weight). Nobody holds more than an equal share, but always
//! one pack. Who takes its time with a pack, or hasn't shown yet that it doesn't, gets along with the
//! others like it on half of the room: peers that stall never hold up those that don't. So how much
//! lies ready for a peer follows its link by itself: a pack at a time for a slow one, a share for a
//! quick one. A lower lane never keeps a higher one from having its pack made. What may not be sent now
//! (a calendar, a pause) isn't made, and what of it was made gives way to what may.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::NodeId;
use blockferry_wire::Lane;

use crate::budget;
use crate::rate::overrides::Scope;
use crate::rate::rates::InForce;
use crate::rate::turns::{Order, Whose};

/// Who hasn't taken a pack within this time is slow: what lies in its send window lasts until the
/// next pack is made.
const SLOW: Duration = Duration::from_secs(8);
/// Under a limit of the node all are as slow as it makes them: who takes a pack while the room is sent so
/// many times is not slow...
const SLOW_ROOMS: f64 = 2.0;
/// ... up to this time.
const SLOW_MOST: Duration = Duration::from_secs(300);
/// Peers whose pace is remembered.
const PACES_MAX: usize = 2 * budget::PEERS_MAX;

/// A pack that is being made, or that waits to be written.
#[derive(Debug)]
struct Hold {
    whose: Whose,
    transfer: u64,
    /// What it takes of the room; 0: another hold has that.
    bytes: u64,
    since: Instant,
    /// Its end says how quick the peer is: nothing else kept it.
    tells: bool,
}

/// Whose packs are made.
#[derive(Debug)]
struct Transfer {
    scope: Scope,
    /// Nothing of it may be sent now.
    paused: bool,
    /// Its stream takes nothing.
    stalled: bool,
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
    /// Who takes longer is slow.
    slow: Duration,
    transfers: BTreeMap<u64, Transfer>,
    in_force: Option<Arc<InForce>>,
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
            slow: SLOW,
            transfers: BTreeMap::new(),
            in_force: None,
        }
    }

    /// A transfer begins: whether it is paused follows from what is in force.
    pub fn begin(&mut self, transfer: u64, scope: Scope) {
        let paused = self.in_force.as_ref().is_some_and(|now| now.hold(&scope).is_some());
        self.transfers.insert(transfer, Transfer { scope, paused, stalled: false });
    }

    /// A transfer is over.
    pub fn end(&mut self, transfer: u64) {
        if self.is_paused(transfer) {
            let its = self.holds.values_mut().filter(|hold| hold.transfer == transfer);
            its.for_each(|hold| hold.tells = false);
        }
        self.transfers.remove(&transfer);
    }

    /// What is in force from now on.
    pub fn handle_rates(&mut self, in_force: Arc<InForce>, now: Instant) {
        for (number, transfer) in &mut self.transfers {
            let before = transfer.paused;
            transfer.paused = in_force.hold(&transfer.scope).is_some();
            if before && !transfer.paused {
                // What it didn't take during the pause says nothing about its pace.
                let its = self.holds.values_mut().filter(|hold| hold.transfer == *number);
                its.for_each(|hold| hold.since = now);
            }
        }
        let bits = in_force.verdict(&Scope::default()).rate.bits_per_second().unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rooms = SLOW_ROOMS * self.bytes_max as f64 * 8.0 / bits.max(1) as f64;
        self.slow = Duration::from_secs_f64(rooms.min(SLOW_MOST.as_secs_f64())).max(SLOW);
        self.in_force = Some(in_force);
    }

    /// The stream of a transfer takes nothing, or something again.
    pub fn handle_stalled(&mut self, transfer: u64, stalled: bool) {
        if let Some(transfer) = self.transfers.get_mut(&transfer) {
            transfer.stalled = stalled;
        }
    }

    /// Whether a transfer has packs here, made or not.
    pub fn knows(&self, transfer: u64) -> bool {
        let mut waiting = self.waiting.iter().map(|waiting| waiting.transfer);
        waiting.any(|number| number == transfer) || self.has_holds(transfer)
    }

    /// Whether a transfer that is paused or stalled is to give way: something that may be sent has no
    /// room, and would have it without what such transfers hold.
    pub fn is_in_the_way(&self, transfer: u64, now: Instant) -> bool {
        if !self.is_still(transfer) || !self.has_holds(transfer) {
            return false;
        }
        self.firsts().into_iter().filter_map(|at| self.waiting.get(at)).any(|waiting| {
            let Waiting { whose, bytes, transfer, .. } = waiting;
            let has_room = |still| self.has_room(*whose, *bytes, still, now);
            !self.is_still(*transfer) && !has_room(true) && has_room(false)
        })
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
        for at in self.firsts() {
            let Waiting { whose, bytes, .. } = self.waiting[at];
            let before =
                next.is_none_or(|next| self.order.precedes(whose, self.waiting[next].whose));
            if before && self.has_room(whose, bytes, true, now) {
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
        let Some(hold) = self.holds.get_mut(&number).filter(|hold| hold.bytes > 0) else { return };
        // Turns are those of what travels, not of what it took to make it.
        #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
        self.order.corrected(hold.whose, bytes as f64 - counted(hold.bytes));
        (hold.bytes, hold.since) = (bytes.min(hold.bytes), now);
    }

    /// It was written, or is not wanted any more.
    pub fn release(&mut self, number: u64, now: Instant) {
        let Some(hold) = self.holds.remove(&number) else { return };
        if hold.bytes == 0 || !hold.tells || self.is_paused(hold.transfer) {
            return;
        }
        if self.paces.len() >= PACES_MAX {
            self.paces.clear();
        }
        self.paces.insert(hold.whose.peer, now.saturating_duration_since(hold.since));
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> u64 {
        self.holds.values().map(|hold| hold.bytes).sum()
    }

    /// What waits and may be made as far as order goes.
    fn firsts(&self) -> Vec<usize> {
        let (mut transfers, mut peers) = (BTreeSet::new(), BTreeSet::new());
        let mut firsts = Vec::new();
        for (at, waiting) in self.waiting.iter().enumerate() {
            let Waiting { whose: Whose { peer, lane, .. }, transfer, bytes, .. } = *waiting;
            if bytes > 0 && self.is_paused(transfer) {
                continue;
            }
            // Packs of a transfer are sent in their order: a small one, or one of a higher lane, that is
            // made ahead of a large one would hold the room that the large one needs, and wait for it
            // for ever. Of several transfers to a peer none keeps the room from who came before it.
            let first = transfers.insert(transfer) && peers.insert((peer, lane));
            if first || bytes == 0 {
                firsts.push(at);
            }
        }
        firsts
    }

    fn take(&mut self, at: usize, now: Instant) -> Option<(J, u64)> {
        let Waiting { whose, transfer, bytes, job } = self.waiting.remove(at)?;
        let number = self.next;
        self.next += 1;
        self.holds.insert(number, Hold { whose, transfer, bytes, since: now, tells: true });
        self.order.served(whose, counted(bytes));
        Some((job, number))
    }

    /// Whether there is room, beside all that is held, or (`still`: false) beside what moves of it.
    fn has_room(&self, whose: Whose, bytes: u64, still: bool, now: Instant) -> bool {
        if bytes == 0 {
            return true;
        }
        let counts = |hold: &&Hold| still || !self.is_still(hold.transfer);
        let all = || self.holds.values().filter(counts);
        let fits = |held: u64, bytes_max: u64| held == 0 || held + bytes <= bytes_max;
        let urgent = whose.lane == Lane::Urgent;
        let most = if urgent { self.bytes_max } else { self.bytes_max - self.reserve };
        if !fits(all().map(|hold| hold.bytes).sum(), most) {
            return false;
        }
        // What waits in a lower lane will wait on; it must not make this wait.
        let above = || all().filter(|hold| hold.whose.lane <= whose.lane);
        let its = above().filter(|hold| hold.whose.peer == whose.peer);
        if !fits(its.map(|hold| hold.bytes).sum(), self.bytes_max / self.peers()) {
            return false;
        }
        let slow: BTreeSet<NodeId> =
            above().map(|hold| hold.whose.peer).filter(|peer| self.is_slow(peer, now)).collect();
        let of_slow = above().filter(|hold| slow.contains(&hold.whose.peer)).map(|hold| hold.bytes);
        !self.is_slow(&whose.peer, now) || fits(of_slow.sum(), self.bytes_max / 2)
    }

    /// Whether a peer takes its time, or hasn't shown yet that it doesn't.
    fn is_slow(&self, peer: &NodeId, now: Instant) -> bool {
        let late = |hold: &Hold| now.saturating_duration_since(hold.since) >= self.slow;
        self.paces.get(peer).is_none_or(|pace| *pace >= self.slow)
            || self.holds.values().any(|hold| hold.whose.peer == *peer && late(hold))
    }

    fn is_paused(&self, transfer: u64) -> bool {
        self.transfers.get(&transfer).is_some_and(|transfer| transfer.paused)
    }

    /// Whether nothing of a transfer goes out for now.
    fn is_still(&self, transfer: u64) -> bool {
        let transfer = self.transfers.get(&transfer);
        transfer.is_some_and(|transfer| transfer.paused || transfer.stalled)
    }

    fn has_holds(&self, transfer: u64) -> bool {
        self.holds.values().any(|hold| hold.transfer == transfer && hold.bytes > 0)
    }

    /// Peers that hold or want something; at least one.
    fn peers(&self) -> u64 {
        let waiting = self.waiting.iter().filter(|waiting| !self.is_paused(waiting.transfer));
        let waiting = waiting.map(|waiting| waiting.whose.peer);
        let peers: BTreeSet<NodeId> =
            waiting.chain(self.holds.values().map(|hold| hold.whose.peer)).collect();
        (peers.len() as u64).max(1)
    }
}

/// What a pack counts before it is made, in bytes: what is read. The other half of what it takes is
/// where it goes.
fn counted(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
    let bytes = bytes as f64;
    bytes / 2.0
}

#[cfg(test)]
mod shares;
#[cfg(test)]
mod tests;
