//! Gossip: statements on the control stream of one connection.
//!
//! Each side says for every store they share up to where it knows the other's list of statements;
//! the other goes on from there, in the order of its `Feed`. A peer without the feature hears
//! nothing of this.

use std::collections::{BTreeMap, BTreeSet};

use blockferry_delta::StoreId;
use blockferry_wire::{FEATURE_STATEMENTS, Message, Resume};

use crate::budget;
use crate::core::{Core, lock};
use crate::link::peer::Peer;
use crate::local::stores::OpenStore;
use crate::promotion::feed::Feed;
use crate::promotion::witness;

/// The statements' part of a control stream.
#[derive(Default)]
pub(crate) struct Gossip {
    on: bool,
    asked: BTreeSet<StoreId>,
    feeds: BTreeMap<StoreId, Feed>,
}

impl Gossip {
    /// Both sides understand these features.
    pub(crate) fn begin(&mut self, features: u64) {
        self.on = features & FEATURE_STATEMENTS != 0;
    }

    /// The peer says from where it wants to be told.
    pub(crate) fn resume(&mut self, core: &Core, peer: &Peer, resume: Resume) {
        let store = resume.store;
        if !self.feeds.contains_key(&store) && self.feeds.len() >= budget::STORES_MAX {
            return;
        }
        core.witness.note_log(&peer.id, &store, resume.own_log);
        let feed = Feed::from(&lock(&core.witness.book), &resume, &core.config.identity.id());
        self.feeds.insert(store, feed);
    }

    /// The next thing to say to the peer.
    pub(crate) fn next(&mut self, core: &Core, peer: &Peer) -> Option<Message> {
        if !self.on {
            return None;
        }
        let mut stores = core.all_stores();
        stores.retain(|store| peer.shares(&store.config.name));
        let fresh = stores.iter().find(|s| !self.asked.contains(&s.store.identity().id));
        if let Some(store) = fresh {
            return Some(self.ask(core, peer, store).into());
        }
        let book = lock(&core.witness.book);
        stores.iter().find_map(|store| {
            let feed = self.feeds.get_mut(&store.store.identity().id)?;
            feed.next(&book, &peer.id).map(Message::from)
        })
    }

    fn ask(&mut self, core: &Core, peer: &Peer, store: &OpenStore) -> Resume {
        // Before the peer speaks: others must hear that it is a member before they hear it.
        witness::refresh_roster(core, store);
        let id = store.store.identity().id;
        self.asked.insert(id);
        let own_log = lock(&core.witness.book).log();
        let (known_log, known_place) = core.witness.heard(&peer.id, &id);
        Resume { store: id, own_log, known_log, known_place }
    }
}
