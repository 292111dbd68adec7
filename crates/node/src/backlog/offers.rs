//! Which transfer is begun next.
//!
//! Of everything that may be offered now: the peers take turns by lane and weight, and each has as much
//! on its way as its link carries in a moment, measured in bytes. One large image at a time, small ones
//! together, and the next one while the last is being made durable there.

use std::collections::BTreeMap;
use std::time::Instant;

use blockferry_delta::NodeId;
use blockferry_wire::Lane;

use super::{Backlog, Entry, Head, Key, Peer, State};
use crate::budget;
use crate::overrides::Scope;
use crate::turns::Whose;

/// What the smallest transfer counts for when turns are taken, in bytes.
const OFFER_BYTES: u64 = 64 << 10;

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
        let lanes: Vec<Lane> = [Lane::Urgent, Lane::Normal, Lane::Bulk]
            .into_iter()
            .filter(|lane| peer.up && self.has_room(id, peer, *lane))
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

    /// Whether one more transfer may be begun to a peer. The first always may, and one that overtakes
    /// all that are on their way; others while little is on its way, measured against its link.
    fn has_room(&self, id: NodeId, peer: &Peer, lane: Lane) -> bool {
        if self.sending >= budget::SENDS_MAX || peer.sending.len() >= budget::SENDS_PER_PEER {
            return false;
        }
        if !peer.sending.values().any(|other| *other <= lane) {
            return true;
        }
        // Half of the places are for peers that have none.
        self.sending < budget::SENDS_MAX / 2 && self.ahead_bytes(id, peer) < ahead_max(peer.rate)
    }

    /// Changed bytes that are on their way to a peer.
    fn ahead_bytes(&self, id: NodeId, peer: &Peer) -> u64 {
        let bytes = peer.sending.keys().map(|(store, image)| {
            let key = Key { peer: id, store: store.clone(), image: image.clone() };
            self.entries.get(&key).map_or(0, |entry| self.left_bytes(&key, entry))
        });
        bytes.fold(0, u64::saturating_add)
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

/// Changed bytes that may be on their way to a peer while one more transfer is begun.
fn ahead_max(rate: Option<f64>) -> u64 {
    let bytes = rate.unwrap_or(0.0) * budget::AHEAD.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest integer there is"
    )]
    let bytes = bytes as u64;
    bytes.clamp(budget::AHEAD_BYTES_MIN, budget::AHEAD_BYTES_MAX)
}
