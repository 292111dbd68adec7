//! A feed: what a peer is still to be told of one store's statements.
//!
//! Pure. First whom members share the store with, so that who speaks later is known to be a member;
//! then what has changed since the place that the peer knows; then each new statement. What came
//! from the peer itself is told to it again only once: when it begins anew, for it may have lost it.

use std::collections::VecDeque;
use std::sync::Arc;

use blockferry_delta::{NodeId, StoreId};
use blockferry_wire::{Resume, Statement};

use crate::statements::{Book, Signed};

/// How far a peer has been told of one store.
#[derive(Debug)]
pub struct Feed {
    store: StoreId,
    /// Membership, to be told first.
    rosters: VecDeque<Arc<Signed>>,
    /// The last place that was told.
    place: u64,
    /// What came from the peer after this place isn't told it again.
    echo_from: u64,
}

impl Feed {
    /// From where the peer says that it wants to be told.
    pub fn from(book: &Book, resume: &Resume) -> Self {
        let known = resume.known_log == book.log();
        Self {
            store: resume.store,
            rosters: book.rosters(&resume.store).into(),
            place: if known { resume.known_place.min(book.last_place()) } else { 0 },
            echo_from: book.last_place(),
        }
    }

    /// The next statement for `peer`.
    pub fn next(&mut self, book: &Book, peer: &NodeId) -> Option<Statement> {
        if let Some(roster) = self.rosters.pop_front() {
            // Out of its turn: it says nothing about what lies before its place.
            return Some(roster.to_wire(0));
        }
        let (place, signed) = book.next_after(&self.store, self.place, peer, self.echo_from)?;
        self.place = place;
        Some(signed.to_wire(place))
    }
}

#[cfg(test)]
mod tests;
