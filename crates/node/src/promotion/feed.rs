//! A feed: what a peer is still to be told of one store's statements.
//!
//! Pure. First whom members share the store with, from us to ever further ones, so that who speaks
//! later is known to be a member;
//! then what has changed since the place that the peer knows; then each new statement. What came
//! from the peer itself is told to it again only once: when it begins anew, for it may have lost it.

use std::collections::VecDeque;
use std::sync::Arc;

use blockferry_delta::{NodeId, StoreId};
use blockferry_wire::{Resume, Statement};

use crate::promotion::statements::{Book, Signed};

/// How far a peer has been told of one store.
#[derive(Debug)]
pub struct Feed {
    store: StoreId,
    us: NodeId,
    /// Membership, to be told before anything else.
    rosters: VecDeque<Arc<Signed>>,
    /// Rosters up to this place were told or are about to be.
    roster_place: u64,
    /// The last place that was told.
    place: u64,
    /// What came from the peer after this place isn't told it again.
    echo_from: u64,
}

impl Feed {
    /// From where the peer says that it wants to be told; by `us`, whom it knows as a member.
    pub fn from(book: &Book, resume: &Resume, us: &NodeId) -> Self {
        let known = resume.known_log == book.log();
        Self {
            store: resume.store,
            us: *us,
            rosters: book.rosters(&resume.store, us, 0).into(),
            roster_place: book.last_place(),
            place: if known { resume.known_place.min(book.last_place()) } else { 0 },
            echo_from: book.last_place(),
        }
    }

    /// The next statement for `peer`.
    pub fn next(&mut self, book: &Book, peer: &NodeId) -> Option<Statement> {
        if book.last_roster() > self.roster_place {
            // One that is said anew comes after whatever was said by those whom it names.
            self.rosters.extend(book.rosters(&self.store, &self.us, self.roster_place));
            self.roster_place = book.last_place();
        }
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
