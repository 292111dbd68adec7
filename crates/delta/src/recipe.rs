//! Recipes: how to turn a base into a generation. A recipe names the blocks that changed with the
//! pages that are dirty in them, and the chunks that lie over the dirty pages; whoever holds the
//! base keeps the rest. Without a base, the base is a file of zeros.

use std::collections::BTreeMap;

use crate::block::BlockRow;
use crate::chunk::Chunk;
use crate::ids::BlockHash;
use crate::map::SegmentMap;
use crate::units::{
    BLOCK_BYTES, PAGE_BYTES, PAGES_PER_BLOCK, SEGMENT_BLOCKS, block_count, block_len,
    block_pages_mask,
};
use crate::walk::short_prints;

/// Most changed blocks in one part of a recipe (8 MiB of image): bounds what a receiver holds.
pub const PART_BLOCKS_MAX: usize = 128;
/// Most chunks in one part.
pub const PART_CHUNKS_MAX: usize = 4096;
/// Most segments of zeros in one part.
pub const PART_ZERO_SEGMENTS_MAX: usize = 65_536;

/// A block that differs from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedBlock {
    /// Number of the block in the image.
    pub index: u64,
    /// Bit p: page p differs from the base.
    pub dirty: u16,
    /// Bit p: page p is dirty and now zero.
    pub zero: u16,
    /// Proves the whole block.
    pub hash: BlockHash,
}

impl ChangedBlock {
    /// Bytes of the dirty pages that aren't zero, in an image of `image_bytes`.
    pub fn literal_bytes(&self, image_bytes: u64) -> u64 {
        let len = block_len(self.index, image_bytes);
        let mask = self.dirty & !self.zero;
        (0..PAGES_PER_BLOCK)
            .filter(|p| mask & (1 << p) != 0)
            .map(|p| len.saturating_sub(p * PAGE_BYTES).min(PAGE_BYTES) as u64)
            .sum()
    }
}

/// A part of a recipe: a bounded piece that is planned, filled and verified on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipePart {
    /// Number of the part, from 0.
    pub number: u32,
    /// Changed blocks, ascending.
    pub blocks: Vec<ChangedBlock>,
    /// Chunks over dirty pages of these blocks, ascending, not overlapping.
    pub chunks: Vec<Chunk>,
    /// Segments that are now wholly zero and weren't; their blocks are not listed.
    pub zero_segments: Vec<u32>,
}

/// The blocks of segment `index` that differ from the base, or `None` when the whole segment
/// became zero. Sizes are those of the two images; `base` is `None` beyond the base's end and
/// without a base.
pub fn changed_blocks(
    index: u32,
    new: &SegmentMap,
    image_bytes: u64,
    base: Option<&SegmentMap>,
    base_bytes: u64,
) -> Option<Vec<ChangedBlock>> {
    let SegmentMap::Rows(rows) = new else {
        let was_zero = base.is_none_or(SegmentMap::is_zero);
        return was_zero.then(Vec::new);
    };
    let first = index as u64 * SEGMENT_BLOCKS as u64;
    let changed = rows.iter().zip(first..).filter_map(|(row, number)| {
        let old = match base {
            Some(SegmentMap::Rows(old)) => old.get((number - first) as usize),
            _ => None,
        };
        changed_block(number, row, image_bytes, old, base_bytes)
    });
    Some(changed.collect())
}

fn changed_block(
    index: u64,
    row: &BlockRow,
    image_bytes: u64,
    old: Option<&BlockRow>,
    base_bytes: u64,
) -> Option<ChangedBlock> {
    let pages = block_pages_mask(index, image_bytes);
    let (dirty, same) = match old {
        Some(old) => {
            let same_len = block_len(index, image_bytes) == block_len(index, base_bytes);
            (row.dirty_mask(old) & pages, same_len && row.hash == old.hash)
        }
        // Beyond the base and without one everything was zero.
        None => (!row.zero_mask() & pages, row.zero_mask() & pages == pages),
    };
    let zero = dirty & row.zero_mask();
    (!same).then_some(ChangedBlock { index, dirty, zero, hash: row.hash })
}

/// The blocks of segment `index` that differ from what a walk found the receiver to hold, or `None`
/// when the whole segment became zero. `found` has the [short fingerprints](crate::short_prints) of
/// the first `comparable` blocks that differ; blocks after those are changed whole.
pub fn walked_blocks(
    index: u32,
    new: &SegmentMap,
    image_bytes: u64,
    found: &BTreeMap<u64, [u16; PAGES_PER_BLOCK]>,
    (comparable, base_bytes): (u64, u64),
) -> Option<Vec<ChangedBlock>> {
    let first = u64::from(index) * SEGMENT_BLOCKS as u64;
    let SegmentMap::Rows(rows) = new else {
        let end = (first + SEGMENT_BLOCKS as u64).min(block_count(image_bytes));
        let kept = found.range(first..end).next().is_none() && end <= comparable;
        return kept.then(Vec::new);
    };
    let changed = rows.iter().zip(first..).filter_map(|(row, number)| {
        let pages = block_pages_mask(number, image_bytes);
        let dirty = if number < comparable {
            let (theirs, ours) = (found.get(&number)?, short_prints(Some(row)));
            let differ = |p: &usize| ours[*p] != theirs[*p];
            (0..PAGES_PER_BLOCK).filter(differ).fold(0, |mask, p| mask | (1 << p))
        } else if block_len(number, base_bytes) > 0 {
            pages
        } else {
            return changed_block(number, row, image_bytes, None, base_bytes);
        };
        let dirty = dirty & pages;
        Some(ChangedBlock { index: number, dirty, zero: dirty & row.zero_mask(), hash: row.hash })
    });
    Some(changed.collect())
}

/// Gathers changed blocks and chunks of successive segments into bounded parts.
#[derive(Debug)]
pub struct PartBuilder {
    image_bytes: u64,
    number: u32,
    part: RecipePart,
    /// Chunks of the segments so far that may lie over blocks still to come.
    chunks: Vec<Chunk>,
    ready: std::collections::VecDeque<RecipePart>,
}

impl PartBuilder {
    /// A builder for an image of `image_bytes`.
    pub fn new(image_bytes: u64) -> Self {
        Self {
            image_bytes,
            number: 0,
            part: RecipePart::default(),
            chunks: Vec::new(),
            ready: std::collections::VecDeque::new(),
        }
    }

    /// Adds a segment: its changed blocks (or `None`: it became zero) and the chunks that begin in
    /// it. Segments must come in ascending order.
    pub fn segment(&mut self, index: u32, blocks: Option<Vec<ChangedBlock>>, chunks: &[Chunk]) {
        match blocks {
            None => {
                self.part.zero_segments.push(index);
                if self.part.zero_segments.len() >= PART_ZERO_SEGMENTS_MAX {
                    self.flush();
                }
            }
            Some(blocks) => {
                // Chunks are picked when a part is complete: those of its first block still count.
                let here = u64::from(index) * SEGMENT_BLOCKS as u64;
                let first = self.part.blocks.first().map_or(here, |b| b.index.min(here));
                let reach = first * BLOCK_BYTES as u64;
                self.chunks.retain(|c| c.end() > reach);
                self.add_chunks(chunks);
                blocks.into_iter().for_each(|block| self.block(block));
            }
        }
    }

    fn add_chunks(&mut self, chunks: &[Chunk]) {
        for chunk in chunks {
            // Lists of neighbouring segments may be of different ages: never let them overlap.
            if self.chunks.last().is_none_or(|last| last.end() <= chunk.offset) {
                self.chunks.push(*chunk);
            }
        }
    }

    fn block(&mut self, block: ChangedBlock) {
        self.part.blocks.push(block);
        if self.part.blocks.len() >= PART_BLOCKS_MAX {
            self.flush();
        }
    }

    /// The next part that is complete.
    pub fn next_ready(&mut self) -> Option<RecipePart> {
        self.ready.pop_front()
    }

    /// Completes the last part.
    pub fn finish(&mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        let mut part = std::mem::take(&mut self.part);
        if part.blocks.is_empty() && part.zero_segments.is_empty() {
            return;
        }
        part.chunks = worthwhile(&self.chunks, &part.blocks, self.image_bytes);
        part.chunks.truncate(PART_CHUNKS_MAX);
        part.number = self.number;
        self.number += 1;
        self.ready.push_back(part);
    }
}

/// The chunks of which at least half is dirty and not zero in `blocks`: only they are likely to be
/// found or worth their id.
fn worthwhile(chunks: &[Chunk], blocks: &[ChangedBlock], image_bytes: u64) -> Vec<Chunk> {
    let mut kept = Vec::new();
    let mut from = 0;
    for chunk in chunks {
        let first = chunk.offset / BLOCK_BYTES as u64;
        while from < blocks.len() && blocks[from].index < first {
            from += 1;
        }
        let mut dirty = 0;
        let mut all_inside = 0;
        for block in
            blocks[from..].iter().take_while(|b| b.index * (BLOCK_BYTES as u64) < chunk.end())
        {
            let (bytes, inside) = overlap(chunk, block, image_bytes);
            dirty += bytes;
            all_inside += inside;
        }
        if dirty > 0 && dirty * 2 >= all_inside {
            kept.push(*chunk);
        }
    }
    kept
}

/// (dirty bytes, all bytes) of `chunk` inside `block`.
fn overlap(chunk: &Chunk, block: &ChangedBlock, image_bytes: u64) -> (u64, u64) {
    let start = block.index * BLOCK_BYTES as u64;
    let end = start + block_len(block.index, image_bytes) as u64;
    let inside = chunk.end().min(end).saturating_sub(chunk.offset.max(start));
    let mask = block.dirty & !block.zero;
    let dirty = (0..PAGES_PER_BLOCK as u64)
        .filter(|p| mask & (1 << p) != 0)
        .map(|p| {
            let page = start + p * PAGE_BYTES as u64;
            let page_end = (page + PAGE_BYTES as u64).min(end);
            chunk.end().min(page_end).saturating_sub(chunk.offset.max(page))
        })
        .sum();
    (dirty, inside)
}

#[cfg(test)]
mod tests;
