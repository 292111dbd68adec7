//! A segment of which it is known where it may have changed: only the blocks and chunks there are
//! read. Everything else is as it was, which a sample confirms.

use blockferry_delta::{
    BLOCK_BYTES, BlockRow, Chunk, PAGE_BYTES, SEGMENT_BLOCKS, SEGMENT_BYTES, SegmentMap,
    block_count, block_len, hashed_alike, segment_len, verify_block,
};

use super::room::Room;
use super::{Outcome, SEGMENT_BUFFER_BYTES, Scan, tally};
use crate::disk::AlignedBuf;
use crate::error::Result;
use crate::extents::overlaps;

impl Scan<'_> {
    /// Looks at a segment where it may differ from what is known.
    pub(super) fn partial(
        &self,
        segment: u32,
        differing: &[(u64, u64)],
        buf: &mut AlignedBuf,
        large: &Room,
    ) -> Result<Outcome> {
        let start = u64::from(segment) * SEGMENT_BYTES;
        let bytes = segment_len(segment, self.size_bytes);
        let (old, old_bytes) = self.old(segment)?;
        let old_len = if old.is_some() { segment_len(segment, old_bytes) } else { 0 };
        let alike = hashed_alike(self.size_bytes, old_bytes);
        let Some(old) = old.filter(|_| alike) else {
            let _turn = large.take();
            return self.whole(segment, &mut AlignedBuf::with_capacity(SEGMENT_BUFFER_BYTES));
        };
        let dirty = dirty_pages(differing, start, bytes, old_len);
        if dirty.is_empty() && bytes == old_len {
            return Ok(self.unchanged(segment, &old));
        }
        let old_chunks = match &self.known {
            Some(known) => known.read.cuts(known.image, segment)?,
            None => Vec::new(),
        };
        let windows = chunk_windows(&old_chunks, &dirty, self.size_bytes);
        let reads = reads(&dirty, &windows, self.size_bytes);
        let longest = reads.iter().map(|(from, to)| (to - from) as usize).max().unwrap_or(0);
        let (map, fresh, bytes_read) = if longest <= buf.capacity() {
            self.reread(segment, &old, &reads, &windows, buf)?
        } else {
            let _turn = large.take();
            let mut buf = AlignedBuf::with_capacity(longest);
            self.reread(segment, &old, &reads, &windows, &mut buf)?
        };
        // Also of a segment that was written to and holds what it held.
        let data = self.data_in(segment);
        let zeros = tally::allocated_zero_of(segment, &map, self.size_bytes, data);
        let mut outcome = self.outcome(segment, map, Some(old), old_bytes);
        outcome.bytes_read = bytes_read;
        outcome.allocated_zero = zeros;
        if let Some(changed) = &mut outcome.changed {
            // What a chunk that reaches beyond the segment holds there may have changed, too.
            let kept = |c: &Chunk| !overlaps(differing, c.offset, c.end());
            let mut chunks: Vec<Chunk> = old_chunks.into_iter().filter(kept).collect();
            chunks.retain(|c| !windows.iter().any(|(s, e)| c.offset < *e && *s < c.end()));
            chunks.extend(fresh.into_iter().filter(|c| c.offset < start + bytes as u64));
            chunks.sort_unstable_by_key(|chunk| chunk.offset);
            if !changed.map.is_zero() {
                changed.chunks = chunks;
            }
        }
        Ok(outcome)
    }

    /// A segment that is what is known.
    fn unchanged(&self, segment: u32, known: &SegmentMap) -> Outcome {
        let (size, data) = (self.size_bytes, self.data_in(segment));
        Outcome {
            segment,
            value: known.value(size),
            changed: None,
            bytes_read: 0,
            dirty_bytes: 0,
            data_bytes: tally::data_bytes(known),
            allocated_zero: tally::allocated_zero_of(segment, known, size, data),
        }
    }

    /// Makes `reads`, which cover the blocks of what is dirty and the chunks in `windows`: the
    /// segment's map now, the new chunks, and how many bytes were read.
    fn reread(
        &self,
        segment: u32,
        old: &SegmentMap,
        reads: &[(u64, u64)],
        windows: &[(u64, u64)],
        buf: &mut AlignedBuf,
    ) -> Result<(SegmentMap, Vec<Chunk>, u64)> {
        let mut rows = self.rows_of(segment, old);
        let (mut fresh, mut bytes_read) = (Vec::new(), 0);
        for &(from, to) in reads {
            self.read(buf, from, (to - from) as usize)?;
            bytes_read += to - from;
            let slice = |start: u64, end: u64| &buf[(start - from) as usize..(end - from) as usize];
            for (start, end) in windows.iter().filter(|(s, e)| from <= *s && *e <= to) {
                fresh.extend(self.chunker.recut(slice(*start, *end), *start));
            }
            for block in from.div_ceil(BLOCK_BYTES as u64)..to.div_ceil(BLOCK_BYTES as u64) {
                let start = block * BLOCK_BYTES as u64;
                let end = start + block_len(block, self.size_bytes) as u64;
                let within = (block % SEGMENT_BLOCKS as u64) as usize;
                let ours = block / SEGMENT_BLOCKS as u64 == u64::from(segment);
                if end <= to && ours && within < rows.len() {
                    let bytes = slice(start, end);
                    rows[within] = BlockRow::of(self.chunker.keys(), block, bytes, self.size_bytes);
                }
            }
        }
        Ok((SegmentMap::from_rows(rows, self.size_bytes), fresh, bytes_read))
    }

    /// Rows to begin with: the old ones. Blocks the image didn't reach into are dirty, and theirs
    /// are replaced.
    fn rows_of(&self, segment: u32, old: &SegmentMap) -> Vec<BlockRow> {
        let blocks = segment_len(segment, self.size_bytes).div_ceil(BLOCK_BYTES);
        (0..blocks)
            .filter_map(|block| {
                let known = match old {
                    SegmentMap::Rows(rows) => rows.get(block).copied(),
                    SegmentMap::Zero(_) => None,
                };
                known.or_else(|| SegmentMap::zero_row(segment, block, self.size_bytes))
            })
            .collect()
    }

    /// Reads some of the blocks that are taken to be unchanged: `blocks` are looked at, chosen by
    /// `seed`; the bytes read. `None`: one of them isn't what is known, so nothing of what was said
    /// can be trusted.
    pub(crate) fn sample(
        &self,
        differing: &[(u64, u64)],
        seed: u64,
        blocks: u64,
    ) -> Result<Option<u64>> {
        let Some(known) = &self.known else { return Ok(Some(0)) };
        if !hashed_alike(self.size_bytes, known.size_bytes) {
            return Ok(Some(0));
        }
        let size = self.size_bytes.min(known.size_bytes);
        let mut buf = AlignedBuf::with_capacity(BLOCK_BYTES);
        let (mut state, mut bytes_read) = (seed | 1, 0);
        for _ in 0..blocks.min(block_count(size)) {
            // xorshift64: which blocks are looked at must vary, nothing more.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let block = state % block_count(size);
            let offset = block * BLOCK_BYTES as u64;
            let bytes = block_len(block, self.size_bytes);
            let touched = overlaps(differing, offset, offset + BLOCK_BYTES as u64);
            if touched || bytes != block_len(block, known.size_bytes) {
                continue;
            }
            let segment = (block / SEGMENT_BLOCKS as u64) as u32;
            let Some(map) = known.read.map(known.image, segment)? else { continue };
            let within = (block % SEGMENT_BLOCKS as u64) as usize;
            let Some(row) = map.row(segment, within, self.size_bytes) else { continue };
            self.read(&mut buf, offset, bytes)?;
            bytes_read += bytes as u64;
            if !verify_block(block, &buf, self.size_bytes, &row.hash) {
                return Ok(None);
            }
        }
        Ok(Some(bytes_read))
    }
}

/// Runs of whole pages (start, end) of a segment that may have changed: what differs, and what an
/// image of another length had not or has no more.
fn dirty_pages(
    differing: &[(u64, u64)],
    start: u64,
    bytes: usize,
    old_bytes: usize,
) -> Vec<(u64, u64)> {
    let (end, page) = (start + bytes as u64, PAGE_BYTES as u64);
    let from = differing.partition_point(|(offset, len)| offset + len <= start);
    let here = differing[from..].iter().take_while(|(offset, _)| *offset < end);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut add = |from: u64, to: u64| {
        let (from, to) = (from.max(start) / page * page, to.next_multiple_of(page).min(end));
        match runs.last_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => runs.push((from, to)),
        }
    };
    here.for_each(|(offset, len)| add(*offset, offset + len));
    if bytes != old_bytes {
        // The block in which the shorter of the two ends has another hash, even of equal bytes.
        let shorter = start + bytes.min(old_bytes) as u64;
        let border = shorter / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let tail = runs.iter().position(|(_, to)| *to > border);
        let from = tail.map_or(border, |n| runs[n].0.min(border));
        runs.truncate(tail.unwrap_or(runs.len()));
        if from.max(start) < end {
            runs.push((from.max(start), end));
        }
    }
    runs
}

/// What has to be cut again (start, end): the dirty pages and the old chunks over them.
fn chunk_windows(old: &[Chunk], dirty: &[(u64, u64)], image_bytes: u64) -> Vec<(u64, u64)> {
    let mut windows: Vec<(u64, u64)> = Vec::new();
    for (start, end) in dirty {
        let over = old.iter().filter(|c| c.offset < *end && *start < c.end());
        let from = over.clone().map(|c| c.offset).min().map_or(*start, |c| c.min(*start));
        let to = over.map(Chunk::end).max().map_or(*end, |c| c.max(*end)).min(image_bytes);
        match windows.last_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => windows.push((from, to)),
        }
    }
    windows
}

/// What to read (start, end), aligned to pages: the blocks of the dirty pages and the windows,
/// joined where they touch.
fn reads(dirty: &[(u64, u64)], windows: &[(u64, u64)], image_bytes: u64) -> Vec<(u64, u64)> {
    let (block, page) = (BLOCK_BYTES as u64, PAGE_BYTES as u64);
    let blocks = dirty.iter().map(|(s, e)| (s / block * block, e.next_multiple_of(block)));
    let chunks = windows.iter().map(|(s, e)| (s / page * page, e.next_multiple_of(page)));
    let mut all: Vec<(u64, u64)> = blocks.chain(chunks).collect();
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in all {
        let to = to.min(image_bytes);
        match joined.last_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => joined.push((from, to)),
        }
    }
    joined
}
