//! The units of an image and the arithmetic between them. All sizes are in bytes unless a name
//! says otherwise; offsets are from the start of the image.

/// Bytes of a page, the unit that travels.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a block, the unit that proves.
pub const BLOCK_BYTES: usize = 65_536;
/// Pages in a whole block.
pub const PAGES_PER_BLOCK: usize = BLOCK_BYTES / PAGE_BYTES;
/// Blocks in a whole segment, the unit of scanning and of block-map records.
pub const SEGMENT_BLOCKS: usize = 64;
/// Bytes of a whole segment.
pub const SEGMENT_BYTES: u64 = (SEGMENT_BLOCKS * BLOCK_BYTES) as u64;
/// Bytes of the largest image.
pub const IMAGE_BYTES_MAX: u64 = 64 << 40;

const _: () = assert!(PAGES_PER_BLOCK == 16, "a block's pages fit a 16-bit mask");
const _: () = assert!(SEGMENT_BLOCKS.is_power_of_two(), "segments are whole BLAKE3 subtrees");
const _: () =
    assert!(IMAGE_BYTES_MAX / SEGMENT_BYTES <= u32::MAX as u64, "segment numbers fit u32");

/// A run of pages of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageExtent {
    /// Number of the first page, counted from the start of the image.
    pub first: u64,
    /// How many pages.
    pub count: u32,
}

impl PageExtent {
    /// Byte offset of the first page.
    pub fn offset(&self) -> u64 {
        self.first * PAGE_BYTES as u64
    }

    /// Number of the page after the last; `None` when it does not fit.
    pub fn end(&self) -> Option<u64> {
        self.first.checked_add(u64::from(self.count))
    }

    /// Bytes the extent covers in an image of `image_bytes`, whose last page may be short.
    pub fn bytes_in(&self, image_bytes: u64) -> u64 {
        let start = self.first.saturating_mul(PAGE_BYTES as u64).min(image_bytes);
        let end = self.first.saturating_add(u64::from(self.count));
        end.saturating_mul(PAGE_BYTES as u64).min(image_bytes) - start
    }

    /// Appends `page` to a list of extents, growing the last one where it can.
    pub fn push(list: &mut Vec<PageExtent>, page: u64) {
        match list.last_mut() {
            Some(last) if last.end() == Some(page) && last.count < u32::MAX => last.count += 1,
            _ => list.push(PageExtent { first: page, count: 1 }),
        }
    }
}

/// Do equal blocks and segments at equal places have equal values in images of these sizes? The only
/// block or segment of an image is hashed as the root, one of several isn't.
pub fn hashed_alike(one_bytes: u64, other_bytes: u64) -> bool {
    let only = |bytes: u64| (bytes <= BLOCK_BYTES as u64, bytes <= SEGMENT_BYTES);
    only(one_bytes) == only(other_bytes)
}

/// How many blocks an image of `image_bytes` has.
pub fn block_count(image_bytes: u64) -> u64 {
    image_bytes.div_ceil(BLOCK_BYTES as u64)
}

/// How many segments an image of `image_bytes` has.
pub fn segment_count(image_bytes: u64) -> u32 {
    u32::try_from(image_bytes.div_ceil(SEGMENT_BYTES)).expect("IMAGE_BYTES_MAX bounds it")
}

/// How many pages an image of `image_bytes` has.
pub fn page_count(image_bytes: u64) -> u64 {
    image_bytes.div_ceil(PAGE_BYTES as u64)
}

/// Bytes of block `index` in an image of `image_bytes` (the last one may be short).
pub fn block_len(index: u64, image_bytes: u64) -> usize {
    let start = index * BLOCK_BYTES as u64;
    image_bytes.saturating_sub(start).min(BLOCK_BYTES as u64) as usize
}

/// Bytes of segment `index` in an image of `image_bytes` (the last one may be short).
pub fn segment_len(index: u32, image_bytes: u64) -> usize {
    let start = u64::from(index) * SEGMENT_BYTES;
    image_bytes.saturating_sub(start).min(SEGMENT_BYTES) as usize
}

/// Mask of the pages that block `index` has in an image of `image_bytes`.
pub fn block_pages_mask(index: u64, image_bytes: u64) -> u16 {
    let pages = block_len(index, image_bytes).div_ceil(PAGE_BYTES);
    if pages >= PAGES_PER_BLOCK { u16::MAX } else { (1u16 << pages) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_and_page_may_be_short() {
        let size = BLOCK_BYTES as u64 * 2 + 5000;
        assert_eq!(block_count(size), 3);
        assert_eq!(block_len(2, size), 5000);
        assert_eq!(block_pages_mask(2, size), 0b11);
        assert_eq!(block_pages_mask(1, size), 0xFFFF);
        assert_eq!(PageExtent { first: 32, count: 2 }.bytes_in(size), 5000);
        assert_eq!(PageExtent { first: 33, count: 9 }.bytes_in(size), 904);
        assert_eq!(PageExtent { first: u64::MAX, count: 9 }.bytes_in(size), 0);
    }

    #[test]
    fn extents_grow_by_neighbours_only() {
        let mut list = Vec::new();
        for page in [3, 4, 5, 9, 10] {
            PageExtent::push(&mut list, page);
        }
        let want = [PageExtent { first: 3, count: 3 }, PageExtent { first: 9, count: 2 }];
        assert_eq!(list, want);
    }
}
