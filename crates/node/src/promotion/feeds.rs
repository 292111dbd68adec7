//! Feeds: what one peer is still to be told of the statements about all stores that it shares.
//!
//! Pure. A peer and its many stores have one list of places; whoever asks for the next statement
//! looks at what is new in that list, and at the stores it belongs to, never at all stores. With
//! nothing new that is one comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use blockferry_delta::{NodeId, StoreId};
use blockferry_wire::{Resume, Statement};

use crate::budget;
use crate::promotion::feed::Feed;
use crate::promotion::statements::Book;

/// How far a peer has been told of each store.
#[derive(Debug, Default)]
pub struct Feeds {
    feeds: BTreeMap<StoreId, Feed>,
    /// Stores of which there may be something to tell.
    due: BTreeSet<StoreId>,
    /// Up to this place of the book it was seen which stores are due.
    looked: u64,
}

impl Feeds {
    /// The peer says from where it wants to be told of a store, by `us`; whether there was room for
    /// it.
    pub fn resume(&mut self, book: &Book, resume: &Resume, us: &NodeId) -> bool {
        let store = resume.store;
        if !self.feeds.contains_key(&store) && self.feeds.len() >= budget::STORES_MAX {
            return false;
        }
        self.feeds.insert(store, Feed::from(book, resume, us));
        self.due.insert(store);
        true
    }

    /// The next statement for `peer`, of those about stores that are shared with it now.
    pub fn next(
        &mut self,
        book: &Book,
        peer: &NodeId,
        shares: impl Fn(&StoreId) -> bool,
    ) -> Option<Statement> {
        if self.looked < book.last_place() {
            let new = book.stores_after(self.looked);
            self.due.extend(new.filter(|store| self.feeds.contains_key(store)));
            self.looked = book.last_place();
        }
        let mut after = Bound::Unbounded;
        while let Some(store) = self.due.range((after, Bound::Unbounded)).next().copied() {
            after = Bound::Excluded(store);
            // It stays due: it may be shared again.
            if !shares(&store) {
                continue;
            }
            let next = self.feeds.get_mut(&store).and_then(|feed| feed.next(book, peer));
            if next.is_some() {
                return next;
            }
            self.due.remove(&store);
        }
        None
    }
}

#[cfg(test)]
mod tests;
