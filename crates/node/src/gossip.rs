//! Gossip: statements on the control stream of one connection.
//!
//! Each side says for every store they share up to where it knows the other's list of statements;
//! the other goes on from there: first whom it and others share the store with, so that who speaks
//! later is known to be a member, then what has changed since, then each new statement as it comes.
//! What came from a peer isn't told it again. A peer without the feature hears nothing of this.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use blockferry_delta::StoreId;
use blockferry_wire::{FEATURE_STATEMENTS, Message, Resume};

use crate::budget;
use crate::core::{Core, lock};
use crate::peer::Peer;
use crate::statements::Signed;
use crate::stores::OpenStore;
use crate::witness;

/// How far a peer has been told of one store.
struct Cursor {
    /// Membership, to be told first.
    rosters: VecDeque<Arc<Signed>>,
    /// The last place that was told.
    place: u64,
    /// What came from the peer after this place isn't told it again.
    echo_from: u64,
}

/// The statements' part of a control stream.
#[derive(Default)]
pub(crate) struct Gossip {
    on: bool,
    asked: BTreeSet<StoreId>,
    cursors: BTreeMap<StoreId, Cursor>,
}

impl Gossip {
    /// Both sides understand these features.
    pub(crate) fn begin(&mut self, features: u64) {
        self.on = features & FEATURE_STATEMENTS != 0;
    }

    /// The peer says from where it wants to be told.
    pub(crate) fn resume(&mut self, core: &Core, peer: &Peer, resume: Resume) {
        let Resume { store, own_log, known_log, known_place } = resume;
        if !self.cursors.contains_key(&store) && self.cursors.len() >= budget::STORES_MAX {
            return;
        }
        core.witness.note_log(&peer.id, &store, own_log);
        let book = lock(&core.witness.book);
        let place = if known_log == book.log() { known_place.min(book.last_place()) } else { 0 };
        let rosters = book.rosters(&store).into();
        self.cursors.insert(store, Cursor { rosters, place, echo_from: book.last_place() });
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
        stores.iter().find_map(|s| self.next_of(core, peer, &s.store.identity().id))
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

    fn next_of(&mut self, core: &Core, peer: &Peer, store: &StoreId) -> Option<Message> {
        let cursor = self.cursors.get_mut(store)?;
        if let Some(roster) = cursor.rosters.pop_front() {
            // Out of its turn: it says nothing about what lies before its place.
            return Some(roster.to_wire(0).into());
        }
        let book = lock(&core.witness.book);
        let (place, signed) = book.next_after(store, cursor.place, &peer.id, cursor.echo_from)?;
        cursor.place = place;
        Some(signed.to_wire(place).into())
    }
}
