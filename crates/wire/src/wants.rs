//! Arithmetic of extents that both ends of a transfer share: how a want is cut into packs, how
//! many bytes its pages have, and which pages of a part have been named.

use std::collections::VecDeque;

use blockferry_delta::{PAGES_PER_BLOCK, PageExtent, RecipePart, block_pages_mask};

use crate::limits::PACK_PAGES_MAX;

/// Ascending, not overlapping, none empty, none past 64 bits, at most `pages_max` pages in all.
pub(crate) fn check_extents(
    extents: &[PageExtent],
    pages_max: u64,
) -> std::result::Result<(), &'static str> {
    let (mut next, mut pages) = (0u64, 0u64);
    for extent in extents {
        if extent.count == 0 {
            return Err("empty extent");
        }
        if extent.first < next {
            return Err("extents not ascending");
        }
        next = extent.end().ok_or("extent overflows")?;
        pages += u64::from(extent.count);
        if pages > pages_max {
            return Err("too many pages");
        }
    }
    Ok(())
}

/// Bytes of the pages of `extents` in an image of `size_bytes`, whose last page may be short.
pub fn extents_bytes(extents: &[PageExtent], size_bytes: u64) -> u64 {
    extents.iter().map(|extent| extent.bytes_in(size_bytes)).sum()
}

/// Cuts the extents of a want into those of its packs: at most
/// [`PACK_PAGES_MAX`] pages each, in order.
pub fn split_packs(extents: &[PageExtent]) -> Vec<Vec<PageExtent>> {
    let mut queue = WantQueue::default();
    queue.push(0, false, extents.to_vec());
    std::iter::from_fn(|| queue.pop()).map(|wanted| wanted.extents).collect()
}

/// What the next pack is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) part: u32,
    /// It answers an *again* want.
    pub(crate) again: bool,
    pub(crate) extents: Vec<PageExtent>,
}

/// Wants not yet answered, oldest first, taken pack by pack.
#[derive(Debug, Default)]
pub(crate) struct WantQueue {
    wants: VecDeque<(u32, bool, VecDeque<PageExtent>)>,
}

impl WantQueue {
    pub(crate) fn push(&mut self, part: u32, again: bool, extents: Vec<PageExtent>) {
        if !extents.is_empty() {
            self.wants.push_back((part, again, extents.into()));
        }
    }

    /// Takes the extents of the next pack.
    pub(crate) fn pop(&mut self) -> Option<Wanted> {
        let (part, again, extents) = self.wants.front_mut()?;
        let (part, again) = (*part, *again);
        let (mut pack, mut room) = (Vec::new(), PACK_PAGES_MAX as u32);
        while room > 0
            && let Some(extent) = extents.front_mut()
        {
            let count = extent.count.min(room);
            pack.push(PageExtent { first: extent.first, count });
            room -= count;
            extent.first += u64::from(count);
            extent.count -= count;
            if extent.count == 0 {
                extents.pop_front();
            }
        }
        if extents.is_empty() {
            self.wants.pop_front();
        }
        Some(Wanted { part, again, extents: pack })
    }
}

/// Which pages of a part have been named by its wants.
#[derive(Debug)]
pub(crate) struct PartPages {
    /// Index, pages the image has there, pages named first, pages named again; ascending.
    blocks: Vec<(u64, u16, u16, u16)>,
}

/// Why a want's page may not be named.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadPage {
    Outside(u64),
    Twice(u64),
}

impl PartPages {
    pub(crate) fn new(part: &RecipePart, size_bytes: u64) -> Self {
        let pages = |index| block_pages_mask(index, size_bytes);
        Self { blocks: part.blocks.iter().map(|b| (b.index, pages(b.index), 0, 0)).collect() }
    }

    /// Marks the pages of a want; nothing is marked when one of them may not be named.
    pub(crate) fn mark(&mut self, extents: &[PageExtent], again: bool) -> Result<(), BadPage> {
        self.each(extents, again, false)?;
        self.each(extents, again, true)
    }

    fn each(&mut self, extents: &[PageExtent], again: bool, mark: bool) -> Result<(), BadPage> {
        let mut at = 0;
        for page in extents.iter().flat_map(|e| (0..u64::from(e.count)).map(|i| e.first + i)) {
            let index = page / PAGES_PER_BLOCK as u64;
            let bit = 1u16 << (page % PAGES_PER_BLOCK as u64);
            while self.blocks.get(at).is_some_and(|block| block.0 < index) {
                at += 1;
            }
            let block = self.blocks.get_mut(at).filter(|b| b.0 == index && b.1 & bit != 0);
            let (_, _, first, second) = block.ok_or(BadPage::Outside(page))?;
            let named = if again { second } else { first };
            if *named & bit != 0 {
                return Err(BadPage::Twice(page));
            }
            if mark {
                *named |= bit;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use blockferry_delta::{BlockHash, ChangedBlock};

    use super::*;

    fn extent(first: u64, count: u32) -> PageExtent {
        PageExtent { first, count }
    }

    #[test]
    fn wants_are_cut_into_packs_of_bounded_pages() {
        let packs = split_packs(&[extent(0, 400), extent(600, 200), extent(2000, 1200)]);
        assert_eq!(
            packs,
            [
                vec![extent(0, 400), extent(600, 112)],
                vec![extent(712, 88), extent(2000, 424)],
                vec![extent(2424, 512)],
                vec![extent(2936, 264)],
            ]
        );
        assert!(split_packs(&[]).is_empty());
    }

    #[test]
    fn extents_are_checked() {
        assert_eq!(check_extents(&[extent(3, 2), extent(5, 1)], 3), Ok(()));
        assert_eq!(check_extents(&[extent(3, 2), extent(5, 1)], 2), Err("too many pages"));
        assert_eq!(check_extents(&[extent(3, 2), extent(4, 1)], 9), Err("extents not ascending"));
        assert_eq!(check_extents(&[extent(3, 0)], 9), Err("empty extent"));
        assert_eq!(check_extents(&[extent(u64::MAX, 2)], 9), Err("extent overflows"));
    }

    #[test]
    fn a_page_is_named_once_by_each_kind_of_want() {
        let block =
            |index| ChangedBlock { index, dirty: 1, zero: 0, hash: BlockHash::from_bytes([0; 32]) };
        let part = RecipePart { blocks: vec![block(2), block(4)], ..RecipePart::default() };
        let mut pages = PartPages::new(&part, 4 * 65_536 + 5000);
        assert_eq!(pages.mark(&[extent(31, 1)], false), Err(BadPage::Outside(31)));
        assert_eq!(pages.mark(&[extent(64, 3)], false), Err(BadPage::Outside(66)));
        assert_eq!(pages.mark(&[extent(32, 16), extent(64, 2)], false), Ok(()));
        assert_eq!(pages.mark(&[extent(40, 1)], false), Err(BadPage::Twice(40)));
        assert_eq!(pages.mark(&[extent(40, 1)], true), Ok(()));
        assert_eq!(pages.mark(&[extent(39, 2)], true), Err(BadPage::Twice(40)));
        assert_eq!(pages.mark(&[extent(39, 1)], true), Ok(()), "a refused want marks nothing");
    }
}
