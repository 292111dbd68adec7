//! Pairs: how each image stands at each peer that shares it, for monitors. Pure.

use super::{Backlog, Key};
use crate::budget;

/// One image at one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Which.
    pub key: Key,
    /// It holds our current generation, by its receipt.
    pub in_sync: bool,
    /// When that generation was recorded, in milliseconds since 1970.
    pub recorded_unix_ms: i64,
}

impl Backlog {
    /// At most [`budget::METRICS_PAIRS_MAX`] pairs in the order of their keys, those that are not in
    /// sync first; and how many there are besides.
    pub fn pairs(&self) -> (Vec<Pair>, usize) {
        let (mut behind, mut synced, mut all) = (Vec::new(), Vec::new(), 0_usize);
        for (peer, known) in &self.peers {
            for ((store, image), head) in &self.heads {
                if !known.stores.contains(store) {
                    continue;
                }
                all += 1;
                let key = Key { peer: *peer, store: store.clone(), image: image.clone() };
                let in_sync = self.in_sync(&key);
                let list = if in_sync { &mut synced } else { &mut behind };
                if list.len() < budget::METRICS_PAIRS_MAX {
                    list.push(Pair { key, in_sync, recorded_unix_ms: head.recorded_unix_ms });
                }
            }
        }
        let room = budget::METRICS_PAIRS_MAX - behind.len();
        synced.truncate(room);
        behind.append(&mut synced);
        let hidden = all - behind.len();
        (behind, hidden)
    }
}
