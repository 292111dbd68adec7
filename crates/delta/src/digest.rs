//! The digest station: bytes of a segment in, its block map and chunks out. Data is touched while
//! it is in the cache: hash, fingerprints and cuts of one segment follow each other.

use crate::block::BlockRow;
use crate::chunk::{Chunk, Chunker};
use crate::map::SegmentMap;
use crate::page::{Keys, is_zero};
use crate::units::{BLOCK_BYTES, SEGMENT_BLOCKS, SEGMENT_BYTES};

/// The block map of segment `index`, whose bytes are `segment`.
pub fn digest_segment(keys: &Keys, index: u32, segment: &[u8], image_bytes: u64) -> SegmentMap {
    if image_bytes > SEGMENT_BYTES && is_zero(segment) {
        return SegmentMap::zero(index, image_bytes);
    }
    let first = u64::from(index) * SEGMENT_BLOCKS as u64;
    let rows = segment
        .chunks(BLOCK_BYTES)
        .zip(first..)
        .map(|(block, number)| BlockRow::of(keys, number, block, image_bytes))
        .collect();
    SegmentMap::Rows(rows)
}

/// The chunks that begin in segment `index`. `data[start..end]` is the segment; around it lies
/// what [`crate::hard_cuts`] asks for.
pub fn chunk_segment(
    chunker: &Chunker,
    index: u32,
    data: &[u8],
    start: usize,
    end: usize,
) -> Vec<Chunk> {
    chunker.chunks(data, start, end, u64::from(index) * SEGMENT_BYTES)
}
