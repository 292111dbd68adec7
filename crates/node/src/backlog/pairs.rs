//! Pairs: how each image stands at each peer that shares it, for monitors. Pure.

use std::collections::BTreeMap;

use blockferry_delta::NodeId;

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

/// How all images that one peer shares stand at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Images of which it holds our current generation.
    pub in_sync: u64,
    /// Images of which it doesn't.
    pub behind: u64,
    /// When the oldest generation that it lacks was recorded, in milliseconds since 1970.
    pub oldest_unix_ms: Option<i64>,
}

/// How everything stands everywhere: a bounded number of pairs, and sums over all there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// At most [`budget::METRICS_PAIRS_MAX`], in the order of their keys, those that are not in sync
    /// first.
    pub shown: Vec<Pair>,
    /// How many there are besides.
    pub hidden: usize,
    /// By peer, hidden ones counted, too.
    pub sums: BTreeMap<NodeId, Sum>,
}

impl Backlog {
    /// How everything stands everywhere.
    pub fn pairs(&self) -> Pairs {
        let (mut shown, mut synced, mut all) = (Vec::new(), Vec::new(), 0_usize);
        let mut sums = BTreeMap::new();
        for (peer, known) in &self.peers {
            let sum: &mut Sum = sums.entry(*peer).or_default();
            for ((store, image), head) in &self.heads {
                if !known.stores.contains(store) {
                    continue;
                }
                all += 1;
                let key = Key { peer: *peer, store: store.clone(), image: image.clone() };
                let (in_sync, recorded) = (self.in_sync(&key), head.recorded_unix_ms);
                if in_sync {
                    sum.in_sync += 1;
                } else {
                    sum.behind += 1;
                    sum.oldest_unix_ms =
                        Some(sum.oldest_unix_ms.map_or(recorded, |oldest| oldest.min(recorded)));
                }
                let list = if in_sync { &mut synced } else { &mut shown };
                if list.len() < budget::METRICS_PAIRS_MAX {
                    list.push(Pair { key, in_sync, recorded_unix_ms: recorded });
                }
            }
        }
        synced.truncate(budget::METRICS_PAIRS_MAX - shown.len());
        shown.append(&mut synced);
        let hidden = all - shown.len();
        Pairs { shown, hidden, sums }
    }
}
