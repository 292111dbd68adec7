//! Heard: up to which place each peer's list of statements came, and whose statements are doubted.
//!
//! Pure. Two places that show one key sign for each other: while that lasts nothing under the key
//! is taken, whoever carries it here, and what was taken before is no proof. What was passed over
//! lies before the last place that came, so that place is forgotten: the list is asked for from its
//! beginning as soon as the key stands for one node again.

use std::collections::{BTreeMap, BTreeSet};

use blockferry_delta::{NodeId, StoreId};

/// What was heard of peers, and what is not believed of what they say.
#[derive(Debug, Default)]
pub struct Heard {
    /// Where each peer is to go on: its list, and the last place of it that came.
    places: BTreeMap<(NodeId, StoreId), (u64, u64)>,
    /// Keys that two places show, with the peers that carried statements under them here since.
    doubted: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Heard {
    /// Where `peer` is to go on with what it knows of a store: its list and a place; (0, 0): at the
    /// beginning.
    pub fn at(&self, peer: &NodeId, store: &StoreId) -> (u64, u64) {
        self.places.get(&(*peer, *store)).copied().unwrap_or_default()
    }

    /// A peer's list of places; those of another list mean nothing any more.
    pub fn note_log(&mut self, peer: &NodeId, store: &StoreId, log: u64) {
        let at = self.places.entry((*peer, *store)).or_default();
        if at.0 != log {
            *at = (log, 0);
        }
    }

    /// What a peer said came up to this place. Without a list it means nothing.
    pub fn note_place(&mut self, peer: &NodeId, store: &StoreId, place: u64) {
        if let Some(at) = self.places.get_mut(&(*peer, *store)) {
            at.1 = at.1.max(place);
        }
    }

    /// Two places show the key of `node`. Says whether that is news.
    pub fn doubt(&mut self, node: NodeId) -> bool {
        let news = !self.is_doubted(&node);
        self.doubted.entry(node).or_default();
        news
    }

    /// Whether two places show the key of `node`.
    pub fn is_doubted(&self, node: &NodeId) -> bool {
        self.doubted.contains_key(node)
    }

    /// A statement signed by `node` came by `peer`: whether it is passed over. Then it is asked for
    /// again when that peer connects the next time.
    pub fn pass_over(&mut self, node: &NodeId, peer: &NodeId, store: &StoreId) -> bool {
        let Some(carriers) = self.doubted.get_mut(node) else { return false };
        carriers.insert(*peer);
        self.places.remove(&(*peer, *store));
        true
    }

    /// The key stands for one node again, whichever of the two it is. Says which peers have
    /// something to say again: itself, and who carried what was passed over.
    pub fn believe(&mut self, node: &NodeId) -> BTreeSet<NodeId> {
        let Some(mut anew) = self.doubted.remove(node) else { return BTreeSet::new() };
        self.places.retain(|(peer, _), _| peer != node);
        anew.insert(*node);
        anew
    }
}

#[cfg(test)]
mod tests;
