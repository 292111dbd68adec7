//! Room on the simulated disk: every page is paid for once, also when clones share it.
//!
//! The file that wrote a page pays; a clone's pages are unpaid until their payer lets go of them
//! or the clone writes over them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::content::{Content, PAGE_BYTES};
use super::world::{Body, World};

impl World {
    pub(super) fn free_pages(&self) -> u64 {
        (self.capacity_bytes / PAGE_BYTES).saturating_sub(self.used_pages)
    }

    /// How many of `bytes` at `offset` can be written before the disk is full.
    pub(super) fn room(&self, inode: u64, offset: u64, bytes: u64) -> u64 {
        let mut free = self.free_pages();
        if free >= bytes / PAGE_BYTES + 2 {
            return bytes;
        }
        let end = offset + bytes;
        for page in offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            if self.page_is_new(inode, page) {
                if free == 0 {
                    return (page * PAGE_BYTES).saturating_sub(offset);
                }
                free -= 1;
            }
        }
        bytes
    }

    /// Whether writing to a page needs a page of its own.
    fn page_is_new(&self, inode: u64, page: u64) -> bool {
        let Some(content) = self.content(inode) else { return false };
        content.page(page).is_none() && !self.inode(inode).reserved.contains(&page)
            || self.cloned && (self.is_unpaid(inode, page) || self.sharer(inode, page).is_some())
    }

    /// Pays for the pages a write is about to touch.
    pub(super) fn pay_for_write(&mut self, inode: u64, offset: u64, bytes: u64) {
        for page in offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES) {
            let Some(content) = self.content(inode) else { return };
            if content.page(page).is_none() {
                let paid = self.inode_mut(inode).reserved.remove(&page);
                self.used_pages += u64::from(!paid);
            } else if self.cloned {
                self.give_back(inode, page);
                self.used_pages += 1;
            }
        }
    }

    /// Pays for the pages of ranges that have none, or for none of them. `false`: the disk is full.
    pub(super) fn reserve(&mut self, inode: u64, ranges: &[(u64, u64)]) -> bool {
        let pages = ranges.iter().flat_map(|&(offset, bytes)| {
            offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES)
        });
        let content = self.content(inode);
        let missing = |page: &u64| content.is_some_and(|content| content.page(*page).is_none());
        let mut pages: BTreeSet<u64> = pages.filter(missing).collect();
        pages.retain(|page| !self.inode(inode).reserved.contains(page));
        let fits = pages.len() as u64 <= self.free_pages();
        if fits {
            self.used_pages += pages.len() as u64;
            self.inode_mut(inode).reserved.append(&mut pages);
        }
        fits
    }

    /// Gives back the reserved pages of a range.
    pub(super) fn unreserve(&mut self, inode: u64, pages: Range<u64>) {
        let reserved = &mut self.inode_mut(inode).reserved;
        let before = reserved.len();
        reserved.retain(|page| !pages.contains(page));
        let given_back = before - reserved.len();
        self.used_pages -= given_back as u64;
    }

    /// Gives back the whole pages of a range that is about to become a hole.
    pub(super) fn give_back_range(&mut self, inode: u64, pages: Range<u64>) {
        let Some(content) = self.content(inode) else { return };
        for page in content.pages_in(pages).collect::<Vec<_>>() {
            self.give_back(inode, page);
        }
    }

    /// Gives back the pages of a file without name and handle.
    pub(super) fn release_if_gone(&mut self, inode: u64) {
        let node = self.inode(inode);
        let held = node.openers.own > 0 || node.openers.foreign > 0;
        if node.linked || held {
            return;
        }
        self.unreserve(inode, 0..u64::MAX);
        if self.cloned {
            self.give_back_range(inode, 0..u64::MAX);
        } else if let Some(content) = self.content(inode) {
            self.used_pages -= content.pages();
        }
    }

    /// One file lets go of a page: a clone that shares it pays from now on, else it is free.
    fn give_back(&mut self, inode: u64, page: u64) {
        if !self.cloned {
            self.used_pages -= 1;
        } else if self.is_unpaid(inode, page) {
            self.pay(inode, page);
        } else if let Some(sharer) = self.sharer(inode, page) {
            self.pay(sharer, page);
        } else {
            self.used_pages -= 1;
        }
    }

    fn pay(&mut self, inode: u64, page: u64) {
        if let Body::File { unpaid, .. } = &mut self.inode_mut(inode).body {
            unpaid.remove(&page);
        }
    }

    fn is_unpaid(&self, inode: u64, page: u64) -> bool {
        matches!(&self.inode(inode).body, Body::File { unpaid, .. } if unpaid.contains(&page))
    }

    /// Another living file that has this very page without paying for it.
    fn sharer(&self, inode: u64, page: u64) -> Option<u64> {
        let shared = self.content(inode)?.page(page)?;
        let holds = |other: &Body| match other {
            Body::File { now, unpaid, .. } => {
                unpaid.contains(&page)
                    && now.content.page(page).is_some_and(|same| Arc::ptr_eq(same, shared))
            }
            Body::Dir { .. } => false,
        };
        let others = self.inodes.iter().filter(|(other, _)| **other != inode);
        others.filter(|(_, node)| holds(&node.body)).map(|(other, _)| *other).next()
    }

    fn content(&self, inode: u64) -> Option<&Arc<Content>> {
        self.state(inode).ok().map(|state| &state.content)
    }
}
