//! The bytes of one simulated file: sparse pages, cheap to clone and to share.
//!
//! Pages hang in groups below a map, each level shared until it is written: a clone of a file of
//! some megabytes copies a handful of pointers, so crash images and clones cost next to nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a page: the unit of holes and of space.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Pages of a group.
const GROUP_PAGES: u64 = 64;

pub(super) type Page = [u8; PAGE_BYTES as usize];
type Group = [Option<Arc<Page>>; GROUP_PAGES as usize];

/// Length and pages of a file; what has no page is a hole.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    size_bytes: u64,
    pages: u64,
    groups: BTreeMap<u64, Arc<Group>>,
}

impl Content {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of pages that hold data.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn page(&self, index: u64) -> Option<&Arc<Page>> {
        self.groups.get(&(index / GROUP_PAGES))?[(index % GROUP_PAGES) as usize].as_ref()
    }

    /// All pages that hold data, with their indexes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Page>)> {
        self.groups.iter().flat_map(|(group, pages)| {
            let first = group * GROUP_PAGES;
            let numbered = pages.iter().enumerate();
            numbered.filter_map(move |(i, page)| Some((first + i as u64, page.as_ref()?)))
        })
    }

    /// Reads up to the end of the file.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let bytes = self.size_bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (index, within, span) in spans(offset, bytes) {
            match self.page(index) {
                Some(page) => buf[span].copy_from_slice(&page[within]),
                None => buf[span].fill(0),
            }
        }
        bytes
    }

    /// Writes, growing the file when needed.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, within, span) in spans(offset, data.len()) {
            if within.len() == PAGE_BYTES as usize {
                let page = data[span].try_into().expect("the span is one whole page");
                self.put(index, Arc::new(page));
            } else {
                Arc::make_mut(self.page_mut(index))[within].copy_from_slice(&data[span]);
            }
        }
        if !data.is_empty() {
            self.size_bytes = self.size_bytes.max(offset + data.len() as u64);
        }
    }

    pub(super) fn set_len(&mut self, bytes: u64) {
        if bytes < self.size_bytes {
            self.punch(bytes, self.size_bytes - bytes);
        }
        self.size_bytes = bytes;
    }

    /// Turns a range into a hole; pages covered only in part are zeroed there.
    pub(super) fn punch(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).min(self.size_bytes);
        // Nothing lies behind the end, so the last page may go whole.
        let end = if end == self.size_bytes { end.next_multiple_of(PAGE_BYTES) } else { end };
        let first = offset / PAGE_BYTES;
        let last = end.div_ceil(PAGE_BYTES);
        let touched: Vec<u64> = self.pages_in(first..last).collect();
        for index in touched {
            let start = offset.max(index * PAGE_BYTES) - index * PAGE_BYTES;
            let stop = end.min((index + 1) * PAGE_BYTES) - index * PAGE_BYTES;
            if stop - start == PAGE_BYTES {
                self.take(index);
            } else {
                Arc::make_mut(self.page_mut(index))[start as usize..stop as usize].fill(0);
            }
        }
    }

    /// Flips the lowest bit of one byte, if the file is that long.
    pub(super) fn flip(&mut self, offset: u64) {
        if offset < self.size_bytes {
            let page = Arc::make_mut(self.page_mut(offset / PAGE_BYTES));
            page[(offset % PAGE_BYTES) as usize] ^= 1;
        }
    }

    /// The next run of pages with data at or after `offset`, clamped to the length.
    pub(super) fn next_data(&self, offset: u64) -> Option<(u64, u64)> {
        let end = self.size_bytes.div_ceil(PAGE_BYTES);
        let first = self.pages_in(offset / PAGE_BYTES..end).next()?;
        let mut last = first + 1;
        while last < end && self.page(last).is_some() {
            last += 1;
        }
        let start = offset.max(first * PAGE_BYTES);
        let stop = (last * PAGE_BYTES).min(self.size_bytes);
        (start < stop).then_some((start, stop))
    }

    /// Indexes of the pages with data in a range of page indexes.
    pub(super) fn pages_in(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        let groups = range.start / GROUP_PAGES..range.end.div_ceil(GROUP_PAGES);
        let groups = if groups.start <= groups.end { groups } else { 0..0 };
        self.groups.range(groups).flat_map(move |(group, pages)| {
            let first = group * GROUP_PAGES;
            let range = range.clone();
            (0..GROUP_PAGES).map(move |i| first + i).filter(move |index| {
                range.contains(index) && pages[(index % GROUP_PAGES) as usize].is_some()
            })
        })
    }

    fn slot(&mut self, index: u64) -> &mut Option<Arc<Page>> {
        let group = self.groups.entry(index / GROUP_PAGES).or_insert_with(empty_group);
        &mut Arc::make_mut(group)[(index % GROUP_PAGES) as usize]
    }

    fn put(&mut self, index: u64, page: Arc<Page>) {
        if self.slot(index).replace(page).is_none() {
            self.pages += 1;
        }
    }

    fn take(&mut self, index: u64) {
        if self.slot(index).take().is_some() {
            self.pages -= 1;
        }
    }

    fn page_mut(&mut self, index: u64) -> &mut Arc<Page> {
        if self.page(index).is_none() {
            self.put(index, Arc::new([0; PAGE_BYTES as usize]));
        }
        self.slot(index).as_mut().expect("put just above")
    }
}

fn empty_group() -> Arc<Group> {
    Arc::new([const { None }; GROUP_PAGES as usize])
}

/// Cuts a range at page borders: page index, range in the page, range in the buffer.
fn spans(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= bytes {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE_BYTES) as usize;
        let step = (PAGE_BYTES as usize - within).min(bytes - done);
        let span = (at / PAGE_BYTES, within..within + step, done..done + step);
        done += step;
        Some(span)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_plain_array_with_holes() {
        let mut rng = super::super::rng::Rng::new(7);
        let mut content = Content::default();
        let mut model: Vec<u8> = Vec::new();
        for _ in 0..2000 {
            let offset = rng.below(600_000);
            let bytes = rng.below(20_000);
            let end = (offset + bytes) as usize;
            match rng.below(4) {
                0 | 1 => {
                    let data = vec![rng.next() as u8; bytes as usize];
                    content.write(offset, &data);
                    if bytes > 0 {
                        model.resize(model.len().max(end), 0);
                        model[offset as usize..end].copy_from_slice(&data);
                    }
                }
                2 => {
                    content.punch(offset, bytes);
                    let end = end.min(model.len());
                    if (offset as usize) < end {
                        model[offset as usize..end].fill(0);
                    }
                }
                _ => {
                    content.set_len(offset);
                    model.resize(offset as usize, 0);
                }
            }
            assert_eq!(content.size_bytes(), model.len() as u64);
            let mut back = vec![1; model.len() + 10];
            assert_eq!(content.read(0, &mut back), model.len());
            assert!(back[..model.len()] == model);
            assert_eq!(content.pages(), content.iter().count() as u64);
        }
    }

    #[test]
    fn holes_are_found_and_made() {
        let mut content = Content::default();
        content.set_len(1 << 20);
        assert_eq!((content.next_data(0), content.pages()), (None, 0));
        content.write(8192, &[1; 5000]);
        assert_eq!(content.next_data(0), Some((8192, 16384)));
        assert_eq!(content.next_data(9000), Some((9000, 16384)));
        content.punch(8192, 4096);
        assert_eq!((content.next_data(0), content.pages()), (Some((12288, 16384)), 1));
        content.set_len(12290);
        assert_eq!(content.next_data(0), Some((12288, 12290)));
        assert_eq!(content.next_data(12290), None);
    }
}
