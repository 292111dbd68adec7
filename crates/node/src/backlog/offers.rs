//! Which transfer is begun next.
//!
//! Of everything that may be offered now: the peers take turns by lane and weight, and each has as much
//! on its way as its link carries in a moment, measured in bytes. One large image at a time, small ones
//! together, and the next one while the last is being made durable there.

use std::collections::BTreeMap;
use std::time::Instant;

use blockferry_delta::{ImageName, NodeId, StoreName};
use blockferry_wire::Lane;

use super::{Backlog, Entry, Head, Key, Peer, State};
use crate::budget;
use crate::rate::overrides::Scope;
use crate::rate::turns::Whose;

/// What the smallest transfer counts for when turns are taken, in bytes.
pub const OFFER_BYTES: u64 = 64 << 10;

impl Backlog {
    /// The next offer to make; it counts as being sent from now on.
    pub fn poll_offer(&mut self, now: Instant) -> Option<(Key, Head)> {
        let turns = self.peers.iter().flat_map(|(id, peer)| self.turns_of(*id, peer, now));
        let turns: Vec<(Key, Whose)> = turns.collect();
        for (_, whose) in &turns {
            self.order.arrive(*whose);
        }
        let (key, whose) = turns.into_iter().reduce(|first, next| {
            if self.order.precedes(next.1, first.1) { next } else { first }
        })?;
        let slot = (key.store.clone(), key.image.clone());
        let head = self.heads.get(&slot)?.clone();
        let bytes = self.bytes(&key, self.entries.get(&key)?);
        self.entries.get_mut(&key)?.state = State::Transferring;
        self.peers.get_mut(&key.peer)?.sending.insert(slot, whose.lane);
        self.sending += 1;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        self.order.served(whose, bytes.max(OFFER_BYTES) as f64);
        Some((key, head))
    }

    /// What may be offered to a peer now: the first of each lane in which it has room.
    fn turns_of(&self, id: NodeId, peer: &Peer, now: Instant) -> Vec<(Key, Whose)> {
        let mut firsts: BTreeMap<Lane, Key> = BTreeMap::new();
        let (under_way, link) = (self.under_way(id, peer), peer.link_bytes_per_second);
        let lanes: Vec<Lane> = [Lane::Urgent, Lane::Normal, Lane::Bulk]
            .into_iter()
            .filter(|lane| peer.up && has_room(self.sending, &under_way, *lane, link))
            .collect();
        if lanes.is_empty() {
            return Vec::new();
        }
        let due = |entry: &Entry| match entry.state {
            State::Due => true,
            State::NotBefore { at, .. } => at <= now,
            State::Transferring | State::UntilHeadChanges { .. } => false,
        };
        for (key, _) in self.entries_of(id).filter(|(_, entry)| due(entry)) {
            let lane = self.lane(key);
            if lanes.contains(&lane) && !firsts.contains_key(&lane) && self.hold(key).is_none() {
                firsts.insert(lane, key.clone());
                if firsts.len() == lanes.len() {
                    break;
                }
            }
        }
        let weight = self.rates.as_ref().map_or(1, |rates| rates.weight(&Scope::peer(id)));
        let whose = |lane| Whose { peer: id, weight, lane };
        firsts.into_iter().map(|(lane, key)| (key, whose(lane))).collect()
    }

    /// What is on its way to a peer: its lane, and what of it has not arrived.
    fn under_way(&self, id: NodeId, peer: &Peer) -> Vec<(Lane, u64)> {
        let one = |((store, image), lane): (&(StoreName, ImageName), &Lane)| {
            let key = Key { peer: id, store: store.clone(), image: image.clone() };
            (*lane, self.entries.get(&key).map_or(0, |entry| self.left_bytes(&key, entry)))
        };
        peer.sending.iter().map(one).collect()
    }

    /// What of a transfer has not arrived; nothing when it only waits for the receipt.
    fn left_bytes(&self, key: &Key, entry: &Entry) -> u64 {
        if entry.told { entry.total_bytes - entry.done_bytes } else { self.bytes(key, entry) }
    }

    /// The lane that something goes in.
    pub fn lane(&self, key: &Key) -> Lane {
        self.rates.as_ref().map_or(Lane::Normal, |rates| rates.lane_of(key))
    }
}

/// Whether one more transfer may be begun to a peer, beside `sending` in all. The first always may, and
/// one that overtakes all that are on their way there (each with its lane and the changed bytes that
/// have not arrived); others while little is on its way, measured against its link in bytes per second.
pub fn has_room(
    sending: usize,
    under_way: &[(Lane, u64)],
    lane: Lane,
    link_bytes_per_second: Option<f64>,
) -> bool {
    if sending >= budget::SENDS_MAX || under_way.len() >= budget::SENDS_PER_PEER {
        return false;
    }
    if !under_way.iter().any(|(other, _)| *other <= lane) {
        return true;
    }
    let ahead = under_way.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
    // Half of the places are for peers that have none.
    sending < budget::SENDS_MAX / 2 && ahead < ahead_max(link_bytes_per_second)
}

/// Changed bytes that may be on their way to a peer while one more transfer is begun.
fn ahead_max(bytes_per_second: Option<f64>) -> u64 {
    let bytes = bytes_per_second.unwrap_or(0.0) * budget::AHEAD.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest integer there is"
    )]
    let bytes = bytes as u64;
    bytes.clamp(budget::AHEAD_BYTES_MIN, budget::AHEAD_BYTES_MAX)
}
