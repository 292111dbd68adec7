//! Heads that go: of a store that is out of service, of images of which nothing is known any more; and
//! those that a peer told.

use std::collections::{BTreeMap, BTreeSet};

use blockferry_delta::{ImageName, NodeId, StoreName};

use super::{Backlog, Key, least_name};
use crate::transfer::judge::Version;

impl Backlog {
    /// A store is out of service.
    pub fn handle_store_gone(&mut self, store: &StoreName) {
        self.heads.retain(|(name, _), _| name != store);
        self.receipts.retain(|key, _| key.store != *store);
        let gone: Vec<Key> = self.entries.keys().filter(|k| k.store == *store).cloned().collect();
        self.drop_entries(gone);
    }

    /// Of a store only these images are held any more. Returns those that aren't.
    pub fn retain_heads(
        &mut self,
        store: &StoreName,
        held: &BTreeSet<ImageName>,
    ) -> Vec<ImageName> {
        let images = self.images_of(store).into_iter().map(|(_, image)| image);
        let gone: Vec<ImageName> = images.filter(|image| !held.contains(image)).collect();
        for image in &gone {
            self.heads.remove(&(store.clone(), image.clone()));
            let of = |key: &Key| key.store == *store && key.image == *image;
            self.receipts.retain(|key, _| !of(key));
            let entries = self.entries.keys().filter(|key| of(key)).cloned().collect();
            self.drop_entries(entries);
        }
        gone
    }

    /// What a connected peer said that it holds of a store; `None`: it isn't connected.
    pub fn peer_heads(
        &self,
        peer: NodeId,
        store: &StoreName,
    ) -> Option<BTreeMap<ImageName, Version>> {
        let known = self.peers.get(&peer).filter(|known| known.up)?;
        let of = known.heads.range((store.clone(), least_name())..);
        let of = of.take_while(|((name, _), _)| name == store);
        Some(of.map(|((_, image), version)| (image.clone(), version.clone())).collect())
    }

    fn drop_entries(&mut self, gone: Vec<Key>) {
        for key in gone {
            self.end_sending(&key);
            self.entries.remove(&key);
        }
    }
}
