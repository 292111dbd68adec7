//! Gossip: statements on the control stream of one connection.
//!
//! Each side says for every store they share up to where it knows the other's list of statements;
//! the other goes on from there, in the order of its `Feeds`. A peer without the feature hears
//! nothing of this. Nothing here looks at all stores for each message: whether there are others to
//! ask about is looked at when stores or the peer have changed.

use std::collections::{BTreeSet, VecDeque};

use blockferry_delta::StoreId;
use blockferry_wire::{FEATURE_STATEMENTS, Message, Resume};

use crate::core::{Core, lock};
use crate::link::peer::Peer;
use crate::local::stores::OpenStore;
use crate::promotion::feeds::Feeds;
use crate::promotion::witness;

/// The statements' part of a control stream.
#[derive(Default)]
pub(crate) struct Gossip {
    on: bool,
    asked: BTreeSet<StoreId>,
    /// Stores that it may have to be asked about.
    to_ask: VecDeque<StoreId>,
    /// Changes of the stores and of the peer up to which these were looked at.
    looked: Option<(u64, u64)>,
    feeds: Feeds,
}

impl Gossip {
    /// Both sides understand these features.
    pub(crate) fn begin(&mut self, features: u64) {
        self.on = features & FEATURE_STATEMENTS != 0;
    }

    /// The peer says from where it wants to be told.
    pub(crate) fn resume(&mut self, core: &Core, peer: &Peer, resume: Resume) {
        let us = core.config.identity.id();
        if self.feeds.resume(&lock(&core.witness.book), &resume, &us) {
            lock(&core.witness.heard).note_log(&peer.id, &resume.store, resume.own_log);
        }
    }

    /// The next thing to say to the peer.
    pub(crate) fn next(&mut self, core: &Core, peer: &Peer) -> Option<Message> {
        if !self.on {
            return None;
        }
        // Read before the stores are: what changes meanwhile is looked at next time.
        let now = (core.store_changes(), peer.changes());
        if self.looked != Some(now) {
            self.to_ask = core.all_stores().iter().map(|store| store.store.identity().id).collect();
            self.looked = Some(now);
        }
        while let Some(id) = self.to_ask.pop_front() {
            let store = core.store_by_id(&id).filter(|_| !self.asked.contains(&id));
            if let Some(store) = store.filter(|store| peer.shares(&store.config.name)) {
                return Some(self.ask(core, peer, &store).into());
            }
        }
        let shares = |id: &StoreId| {
            core.store_by_id(id).is_some_and(|store| peer.shares(&store.config.name))
        };
        let book = lock(&core.witness.book);
        self.feeds.next(&book, &peer.id, shares).map(Message::from)
    }

    fn ask(&mut self, core: &Core, peer: &Peer, store: &OpenStore) -> Resume {
        // Before the peer speaks: others must hear that it is a member before they hear it.
        witness::refresh_roster(core, store);
        let id = store.store.identity().id;
        self.asked.insert(id);
        let own_log = lock(&core.witness.book).log();
        let (known_log, known_place) = lock(&core.witness.heard).at(&peer.id, &id);
        Resume { store: id, own_log, known_log, known_place }
    }
}
