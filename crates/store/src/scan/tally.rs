//! What is counted and kept about a scan beside block maps: bytes of data and dirt, and the zeros
//! that have storage.

use blockferry_delta::{
    PAGE_BYTES, PAGES_PER_BLOCK, PageExtent, SEGMENT_BYTES, SegmentMap, changed_blocks, is_zero,
    segment_len,
};

/// Most runs of allocated zeros that a generation keeps; the longest win.
const ALLOCATED_ZERO_MAX: usize = 4096;

/// Bytes of the pages that aren't zero (the image's last page counts whole).
pub(super) fn data_bytes(map: &SegmentMap) -> u64 {
    let SegmentMap::Rows(rows) = map else { return 0 };
    let pages: u32 = rows.iter().map(|row| 16 - row.zero_mask().count_ones()).sum();
    u64::from(pages) * PAGE_BYTES as u64
}

pub(super) fn dirty_bytes(
    segment: u32,
    map: &SegmentMap,
    size: u64,
    old: Option<&SegmentMap>,
    old_size: u64,
) -> u64 {
    match changed_blocks(segment, map, size, old, old_size) {
        Some(blocks) => {
            let pages: u32 = blocks.iter().map(|b| b.dirty.count_ones()).sum();
            u64::from(pages) * PAGE_BYTES as u64
        }
        None => old.map_or(0, data_bytes),
    }
}

/// The extents that overlap `start..end`.
pub(super) fn overlapping(data: &[(u64, u64)], start: u64, end: u64) -> &[(u64, u64)] {
    let from = data.partition_point(|(_, e)| *e <= start);
    let to = data.partition_point(|(s, _)| *s < end);
    &data[from..to.max(from)]
}

/// The zero pages of a segment that lie inside data extents.
pub(super) fn allocated_zero(segment: u32, bytes: &[u8], data: &[(u64, u64)]) -> Vec<PageExtent> {
    let start = u64::from(segment) * SEGMENT_BYTES;
    let mut zero = Vec::new();
    for (n, page) in bytes.chunks(PAGE_BYTES).enumerate() {
        let offset = start + (n * PAGE_BYTES) as u64;
        if is_zero(page) && !overlapping(data, offset, offset + 1).is_empty() {
            PageExtent::push(&mut zero, offset / PAGE_BYTES as u64);
        }
    }
    zero
}

pub(super) fn join(all: &mut Vec<PageExtent>, more: Vec<PageExtent>) {
    for extent in more {
        match all.last_mut() {
            Some(last) if last.end() == Some(extent.first) => {
                last.count = last.count.saturating_add(extent.count);
            }
            _ => all.push(extent),
        }
    }
    // Bounded while it grows: single pages are the first to go.
    if all.len() > 4 * ALLOCATED_ZERO_MAX {
        *all = longest(std::mem::take(all));
    }
}

pub(super) fn longest(mut all: Vec<PageExtent>) -> Vec<PageExtent> {
    if all.len() > ALLOCATED_ZERO_MAX {
        all.sort_unstable_by_key(|e| std::cmp::Reverse(e.count));
        all.truncate(ALLOCATED_ZERO_MAX);
        all.sort_unstable_by_key(|e| e.first);
    }
    all
}

/// As [`allocated_zero`], of a segment that was not read: by its block map.
pub(super) fn allocated_zero_of(
    segment: u32,
    map: &SegmentMap,
    image_bytes: u64,
    data: &[(u64, u64)],
) -> Vec<PageExtent> {
    let start = u64::from(segment) * SEGMENT_BYTES;
    let end = start + segment_len(segment, image_bytes) as u64;
    let page_bytes = PAGE_BYTES as u64;
    let is_zero = |page: usize| match map {
        SegmentMap::Zero(_) => true,
        SegmentMap::Rows(rows) => rows[page / PAGES_PER_BLOCK].prints[page % PAGES_PER_BLOCK] == 0,
    };
    let mut zero: Vec<PageExtent> = Vec::new();
    for (from, to) in overlapping(data, start, end) {
        // A page counts if its first byte has storage.
        let first = from.max(&start).div_ceil(page_bytes);
        let last = to.min(&end).div_ceil(page_bytes);
        for page in first..last {
            if is_zero((page - start / page_bytes) as usize) {
                PageExtent::push(&mut zero, page);
            }
        }
    }
    zero
}
