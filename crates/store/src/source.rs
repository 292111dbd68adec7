//! The read station of the sending line: pages of a recorded generation, hashed again, so that a
//! source that changed since is caught before its bytes leave. Blocks that are sent whole are
//! proved by their hashes. Of others only the pages that are wanted are read, and compared with
//! their fingerprints: what these let through, one page in 2^32, the receiver's block hash catches,
//! and what it wants again are whole blocks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use blockferry_delta::{
    BlockRow, ImageName, PAGE_BYTES, PAGES_PER_BLOCK, PageExtent, Root, SEGMENT_BLOCKS, SegmentMap,
    page_count, verify_block,
};

use crate::catalog::CatalogRead;
use crate::disk::{AlignedBuf, DiskFile};
use crate::error::{Error, IoContext, Result};
use crate::store::{MapOf, Store};

/// Segment maps kept at hand; pages are asked for in order.
const MAPS_CACHED: usize = 16;
/// Pages read at once (1 MiB): a whole number of blocks.
const RUN_PAGES: u64 = 16 * PAGES_PER_BLOCK as u64;
/// Pages between two that are wanted and read along with them: one request is cheaper than two.
const GAP_PAGES: u64 = 4;

/// A recorded generation that can be read.
#[derive(Debug)]
pub struct Source {
    store: Arc<Store>,
    name: ImageName,
    file: Box<dyn DiskFile>,
    map: SourceMap,
}

struct SourceMap {
    read: CatalogRead,
    of: MapOf,
    cache: Mutex<HashMap<u32, Arc<SegmentMap>>>,
}

impl std::fmt::Debug for SourceMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceMap")
    }
}

impl Store {
    /// Opens the generation of `name` with `root` for reading. It must be the current one, and
    /// the file still be what was recorded, or a clone of it be held.
    pub fn source(self: &Arc<Self>, name: &ImageName, root: Root) -> Result<Source> {
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let of = MapOf::find(&read, &image, &root)?.filter(|of| of.number == of.current);
        let of = of.ok_or_else(|| Error::NoGeneration { image: name.clone(), root })?;
        let file = self.content(&image, &root)?;
        let file = file.ok_or_else(|| Error::Torn { image: name.clone(), block: 0 })?;
        let map = SourceMap { read, of, cache: Mutex::default() };
        Ok(Source { store: Arc::clone(self), name: name.clone(), file, map })
    }
}

impl SourceMap {
    fn segment(&self, segment: u32) -> Result<Arc<SegmentMap>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = cache.get(&segment) {
            return Ok(Arc::clone(map));
        }
        let map = self.of.segment(&self.read, segment)?.ok_or(Error::BadPart("beyond the end"))?;
        if cache.len() >= MAPS_CACHED {
            cache.clear();
        }
        let map = Arc::new(map);
        cache.insert(segment, Arc::clone(&map));
        Ok(map)
    }

    fn row(&self, block: u64) -> Result<BlockRow> {
        let segment = u32::try_from(block / SEGMENT_BLOCKS as u64)
            .map_err(|_| Error::BadPart("beyond the end"))?;
        let within = (block % SEGMENT_BLOCKS as u64) as usize;
        let row = self.segment(segment)?.row(segment, within, self.of.size_bytes);
        row.ok_or(Error::BadPart("beyond the end"))
    }
}

impl Source {
    /// Store the generation is in.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The bytes of `extents`, one after the other; the image's last page may be short.
    ///
    /// # Errors
    /// [`Error::Torn`] when the file no longer holds what was recorded.
    pub fn read(&self, extents: &[PageExtent]) -> Result<Vec<u8>> {
        let size = self.map.of.size_bytes;
        let inside = |e: &PageExtent| e.end().is_some_and(|end| end <= page_count(size));
        if !extents.iter().all(|extent| extent.count > 0 && inside(extent)) {
            return Err(Error::BadPart("extent beyond the end"));
        }
        let runs = runs(extents);
        self.prefetch(&runs)?;
        let longest = runs.iter().map(Run::bytes).max().unwrap_or(0);
        let mut buf = AlignedBuf::with_capacity(longest as usize);
        let mut out =
            Vec::with_capacity(extents.iter().map(|e| e.bytes_in(size)).sum::<u64>() as usize);
        for run in &runs {
            self.append(run, &mut buf, &mut out)?;
        }
        Ok(out)
    }

    /// Scattered pages are asked for all at once: one by one each would wait for the disk.
    fn prefetch(&self, runs: &[Run]) -> Result<()> {
        let short = runs.iter().filter(|run| run.bytes() < RUN_PAGES * PAGE_BYTES as u64);
        for run in short.filter(|_| runs.len() > 1) {
            let advice = self.file.prefetch(run.offset(), run.bytes());
            advice.during("prefetch", self.name.as_str())?;
        }
        Ok(())
    }

    /// Reads a run and appends what of it is wanted, proved.
    fn append(&self, run: &Run, buf: &mut AlignedBuf, out: &mut Vec<u8>) -> Result<()> {
        let due = run.bytes().min(self.map.of.size_bytes - run.offset()) as usize;
        let got = self.file.read_bulk_at(buf, run.offset(), due);
        if got.during("read", self.name.as_str())? != due {
            let block = run.first / PAGES_PER_BLOCK as u64;
            return Err(Error::Torn { image: self.name.clone(), block });
        }
        for piece in &run.pieces {
            let from = (piece.offset() - run.offset()) as usize;
            let bytes = &buf[from..from + piece.bytes_in(self.map.of.size_bytes) as usize];
            self.prove(piece, bytes)?;
            out.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Are these the bytes that were recorded? Whole blocks are proved, pages of others compared.
    fn prove(&self, piece: &PageExtent, bytes: &[u8]) -> Result<()> {
        let (size, per_block) = (self.map.of.size_bytes, PAGES_PER_BLOCK as u64);
        let end = piece.first + u64::from(piece.count);
        let mut first = piece.first;
        let mut rest = bytes;
        while first < end {
            let block = first / per_block;
            let start = block * per_block;
            let block_end = (start + per_block).min(page_count(size));
            let until = end.min(block_end);
            let (here, more) = rest.split_at(rest.len().min((until - first) as usize * PAGE_BYTES));
            let row = self.map.row(block)?;
            let good = if first == start && until == block_end {
                verify_block(block, here, size, &row.hash)
            } else {
                let prints = &row.prints[(first - start) as usize..];
                let keys = self.store.chunker.keys();
                here.chunks(PAGE_BYTES).zip(prints).all(|(page, print)| keys.page(page) == *print)
            };
            if !good {
                return Err(Error::Torn { image: self.name.clone(), block });
            }
            (first, rest) = (until, more);
        }
        Ok(())
    }
}

/// Pages that are read at once, and the pieces of them that are wanted.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    end: u64,
    pieces: Vec<PageExtent>,
}

impl Run {
    fn offset(&self) -> u64 {
        self.first * PAGE_BYTES as u64
    }

    fn bytes(&self) -> u64 {
        (self.end - self.first) * PAGE_BYTES as u64
    }
}

/// What is read at once: extents that nearly touch together, long ones in pieces, which end where
/// blocks do.
fn runs(extents: &[PageExtent]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for extent in extents {
        let (mut first, end) = (extent.first, extent.first + u64::from(extent.count));
        while first < end {
            let until = end.min((first / RUN_PAGES + 1) * RUN_PAGES);
            let piece = PageExtent { first, count: (until - first) as u32 };
            match runs.last_mut() {
                Some(run)
                    if (run.end..=run.end + GAP_PAGES).contains(&first)
                        && until - run.first <= RUN_PAGES =>
                {
                    run.end = until;
                    run.pieces.push(piece);
                }
                _ => runs.push(Run { first, end: until, pieces: vec![piece] }),
            }
            first = until;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(list: &[(u64, u32)]) -> Vec<PageExtent> {
        list.iter().map(|(first, count)| PageExtent { first: *first, count: *count }).collect()
    }

    fn spans(list: &[(u64, u32)]) -> Vec<(u64, u64, usize)> {
        runs(&extents(list)).iter().map(|run| (run.first, run.end, run.pieces.len())).collect()
    }

    #[test]
    fn what_nearly_touches_is_read_together_and_the_rest_is_not_read() {
        assert_eq!(spans(&[(3, 1), (8, 2), (15, 1)]), [(3, 10, 2), (15, 16, 1)]);
        assert_eq!(spans(&[(3, 1), (4, 2)]), [(3, 6, 2)]);
        // Also what doesn't ascend is read as it is asked for.
        assert_eq!(spans(&[(9, 1), (3, 1), (3, 1)]), [(9, 10, 1), (3, 4, 1), (3, 4, 1)]);
    }

    #[test]
    fn long_extents_are_read_in_pieces_that_end_where_blocks_do() {
        let cut = spans(&[(250, 600), (851, 1)]);
        assert_eq!(cut, [(250, 256, 1), (256, 512, 1), (512, 768, 1), (768, 852, 2)]);
        let all = extents(&[(1, 5), (20, 1000), (1021, 3), (5000, 1)]);
        let pieces: Vec<_> = runs(&all).into_iter().flat_map(|run| run.pieces).collect();
        let pages = |list: &[PageExtent]| -> Vec<u64> {
            list.iter().flat_map(|e| e.first..e.first + u64::from(e.count)).collect()
        };
        assert_eq!(pages(&pieces), pages(&all));
        assert!(runs(&all).iter().all(|run| run.end - run.first <= RUN_PAGES));
    }
}
