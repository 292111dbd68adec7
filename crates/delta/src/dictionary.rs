//! Dictionaries: which pages of the base are most like pages that are about to travel.
//!
//! Chunks find: what lies between two neighbours now resembles what lay between them in the base,
//! wherever that was. Where no neighbour is known, the same pages are the best guess. All of it is
//! a guess: a bad one costs bytes. What is chosen is bounded by what travels.

use crate::chunk::Chunk;
use crate::units::{PAGE_BYTES, PageExtent, page_count};

/// Two neighbours may enclose this many times as many bytes in the base as they do now.
const ENCLOSED_TIMES: u64 = 2;
/// And this many bytes more: a short change may have taken the place of a long piece.
const ENCLOSED_SLACK_BYTES: u64 = 64 << 10;
/// Bytes taken beside a neighbour at most, where two don't enclose anything: two long chunks.
const BESIDE_BYTES_MAX: u64 = 128 << 10;

/// A chunk of the new image and where the base has the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The chunk.
    pub chunk: Chunk,
    /// Offset in the base, in bytes; `None`: not known to be there.
    pub base_offset: Option<u64>,
}

impl Neighbour {
    /// What is added to an offset in the image to get the offset in the base.
    fn shift(&self) -> Option<i64> {
        let base = i64::try_from(self.base_offset?).ok()?;
        base.checked_sub(i64::try_from(self.chunk.offset).ok()?)
    }
}

/// The pages of a base of `base_bytes` that resemble the pages `wanted` of a new image, at most
/// `pages_max`, ascending and not overlapping. `neighbours` are the chunks around what is wanted,
/// ascending.
pub fn dictionary(
    wanted: &[PageExtent],
    neighbours: &[Neighbour],
    base_bytes: u64,
    pages_max: u32,
) -> Vec<PageExtent> {
    let mut regions = Regions::default();
    let mut runs = wanted.iter().peekable();
    while let Some(first) = runs.next() {
        let (start, mut end) = (first.offset(), end_of(first));
        while let Some(next) = runs.next_if(|next| next.offset() == end) {
            end = end_of(next);
        }
        regions.resemble(start, end, neighbours);
    }
    regions.pages(base_bytes, pages_max)
}

fn end_of(extent: &PageExtent) -> u64 {
    extent.offset().saturating_add(u64::from(extent.count) * PAGE_BYTES as u64)
}

/// Regions of the base (start, end) in bytes.
#[derive(Debug, Default)]
struct Regions(Vec<(u64, u64)>);

impl Regions {
    /// Adds what resembles the bytes `start..end` of the image.
    fn resemble(&mut self, start: u64, end: u64, neighbours: &[Neighbour]) {
        let first = neighbours.partition_point(|n| n.chunk.end() <= start);
        let after = neighbours.partition_point(|n| n.chunk.offset < end);
        let mut left = neighbours[..first].iter().rev().find_map(Neighbour::shift);
        let mut at = start;
        for neighbour in &neighbours[first..after.max(first)] {
            let Some(shift) = neighbour.shift() else { continue };
            let (from, to) = (neighbour.chunk.offset.max(at), neighbour.chunk.end().min(end));
            self.between(at, from, left, Some(shift));
            self.push(moved(from, shift), moved(to, shift));
            (left, at) = (Some(shift), to);
        }
        let right = neighbours[after..].iter().find_map(Neighbour::shift);
        self.between(at, end, left, right);
    }

    /// Adds what resembles a piece that isn't known to be in the base, by what is before and after.
    fn between(&mut self, start: u64, end: u64, left: Option<i64>, right: Option<i64>) {
        if start >= end {
            return;
        }
        let bytes = end - start;
        let (from, to) = (left.map(|shift| moved(start, shift)), right.map(|s| moved(end, s)));
        let enclosed_max = bytes.saturating_mul(ENCLOSED_TIMES) + ENCLOSED_SLACK_BYTES;
        let beside = bytes.min(BESIDE_BYTES_MAX);
        match (from, to) {
            (None, None) => self.push(start, end),
            (Some(from), Some(to)) if from <= to && to - from <= enclosed_max => {
                self.push(from, to);
            }
            (from, to) => {
                from.into_iter().for_each(|from| self.push(from, from.saturating_add(beside)));
                to.into_iter().for_each(|to| self.push(to.saturating_sub(beside), to));
            }
        }
    }

    fn push(&mut self, from: u64, to: u64) {
        if from < to {
            self.0.push((from, to));
        }
    }

    /// The pages under the regions, each once.
    fn pages(mut self, base_bytes: u64, pages_max: u32) -> Vec<PageExtent> {
        self.0.sort_unstable();
        let (mut extents, mut next, mut room) = (Vec::new(), 0, pages_max);
        for (from, to) in self.0 {
            let first = (from / PAGE_BYTES as u64).max(next);
            let end = to.div_ceil(PAGE_BYTES as u64).min(page_count(base_bytes));
            let count = u32::try_from(end.saturating_sub(first)).unwrap_or(u32::MAX).min(room);
            if count == 0 {
                continue;
            }
            room -= count;
            match extents.last_mut() {
                Some(PageExtent { count: last, .. }) if next == first => *last += count,
                _ => extents.push(PageExtent { first, count }),
            }
            next = first + u64::from(count);
        }
        extents
    }
}

/// An offset moved by a shift, not below the start.
fn moved(offset: u64, shift: i64) -> u64 {
    offset.saturating_add_signed(shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ChunkId;

    const PAGE: u64 = PAGE_BYTES as u64;
    const BASE: u64 = 1000 * PAGE;

    fn extent(first: u64, count: u32) -> PageExtent {
        PageExtent { first, count }
    }

    /// A chunk (offset, end) that the base has at an offset.
    fn at(offset: u64, end: u64, base_offset: impl Into<Option<u64>>) -> Neighbour {
        let chunk = Chunk { offset, bytes: (end - offset) as u32, id: ChunkId(offset) };
        Neighbour { chunk, base_offset: base_offset.into() }
    }

    fn chosen(wanted: &[PageExtent], neighbours: &[Neighbour]) -> Vec<PageExtent> {
        dictionary(wanted, neighbours, BASE, 600)
    }

    #[test]
    fn without_neighbours_the_same_pages_are_taken() {
        let wanted = [extent(3, 2), extent(5, 1), extent(9, 1), extent(999, 5)];
        assert_eq!(chosen(&wanted, &[]), [extent(3, 3), extent(9, 1), extent(999, 1)]);
        assert_eq!(chosen(&[extent(1000, 5)], &[]), [], "the base is shorter");
        assert_eq!(chosen(&[], &[at(0, PAGE, 0)]), []);
    }

    #[test]
    fn an_edit_in_place_takes_its_own_pages() {
        let around = [at(0, 8 * PAGE, 0), at(8 * PAGE, 16 * PAGE, None), at(16 * PAGE, 80_000, 16)];
        let mut in_place = around;
        in_place[2].base_offset = Some(16 * PAGE);
        assert_eq!(
            chosen(&[extent(11, 1), extent(14, 1)], &in_place),
            [extent(11, 1), extent(14, 1)]
        );
    }

    #[test]
    fn what_the_neighbours_enclose_is_taken_wherever_it_was() {
        // 100 bytes were put into the middle chunk of three, and all moved by 200 pages.
        let moved = 200 * PAGE;
        let around = [
            at(8000, 40_000, moved + 8000),
            at(40_000, 72_100, None),
            at(72_100, 100_000, moved + 72_000),
        ];
        // Pages 9 to 17: the head of the first is the left neighbour's.
        let wanted = [extent(9, 9)];
        assert_eq!(chosen(&wanted, &around), [extent(209, 9)]);
        // Only one neighbour: beside it.
        assert_eq!(chosen(&wanted, &around[..2]), [extent(209, 9)]);
        assert_eq!(chosen(&wanted, &around[1..]), [extent(208, 10)]);
    }

    #[test]
    fn neighbours_that_are_far_apart_give_what_is_beside_each() {
        let around = [at(0, 8 * PAGE, 0), at(12 * PAGE, 20 * PAGE, 800 * PAGE)];
        assert_eq!(chosen(&[extent(8, 4)], &around), [extent(8, 4), extent(796, 4)]);
        let crossed = [at(0, 8 * PAGE, 500 * PAGE), at(12 * PAGE, 20 * PAGE, 100 * PAGE)];
        assert_eq!(chosen(&[extent(8, 4)], &crossed), [extent(96, 4), extent(508, 4)]);
        // A long new piece takes only a little beside each.
        let long = [at(0, 8 * PAGE, 0), at(408 * PAGE, 500 * PAGE, 8 * PAGE + 999 * PAGE)];
        assert_eq!(chosen(&[extent(8, 400)], &long), [extent(8, 32), extent(975, 25)]);
    }

    #[test]
    fn found_chunks_inside_split_what_is_wanted() {
        let around = [
            at(0, 4 * PAGE, 100 * PAGE),
            at(8 * PAGE, 12 * PAGE, 104 * PAGE),
            at(14 * PAGE, 20 * PAGE, None),
        ];
        // Four pages were added before the second chunk; it is in the base, too.
        assert_eq!(chosen(&[extent(4, 12)], &around), [extent(104, 8)]);
    }

    #[test]
    fn no_more_is_taken_than_is_allowed() {
        let wanted = [extent(0, 100), extent(200, 100)];
        assert_eq!(dictionary(&wanted, &[], BASE, 150), [extent(0, 100), extent(200, 50)]);
        let far = at(0, u32::MAX.into(), u64::MAX);
        assert_eq!(chosen(&[extent(0, 1)], &[far]), [extent(0, 1)], "no offset at all");
        let below = [at(10 * PAGE, 11 * PAGE, 0)];
        assert_eq!(chosen(&[extent(2, 8)], &below), [], "nothing is before it");
        assert_eq!(chosen(&[extent(u64::MAX / PAGE, 1)], &[]), []);
    }
}
