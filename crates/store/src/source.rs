//! The read station of the sending line: pages of a recorded generation, re-hashed by block, so
//! that a source that changed since is caught before its bytes leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use blockferry_delta::{
    BLOCK_BYTES, BlockHash, ImageName, PAGE_BYTES, PageExtent, Root, SEGMENT_BLOCKS, SegmentMap,
    block_len, page_count, verify_block,
};

use crate::catalog::CatalogRead;
use crate::disk::{AlignedBuf, DiskFile};
use crate::error::{Error, IoContext, Result};
use crate::store::{MapOf, Store};

/// Segment maps kept at hand; pages are asked for in order.
const MAPS_CACHED: usize = 16;
/// Blocks read at once (1 MiB).
const RUN_BLOCKS: u64 = 16;

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

    fn hash(&self, block: u64) -> Result<BlockHash> {
        let segment = u32::try_from(block / SEGMENT_BLOCKS as u64)
            .map_err(|_| Error::BadPart("beyond the end"))?;
        let within = (block % SEGMENT_BLOCKS as u64) as usize;
        let row = self.segment(segment)?.row(segment, within, self.of.size_bytes);
        row.map(|row| row.hash).ok_or(Error::BadPart("beyond the end"))
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
        let (mut out, mut last) = (Vec::new(), None::<Run>);
        self.prefetch(extents)?;
        for extent in extents {
            let end = extent.end().filter(|end| *end <= page_count(size) && extent.count > 0);
            let end = end.ok_or(Error::BadPart("extent beyond the end"))?;
            let first_block = extent.offset() / BLOCK_BYTES as u64;
            let last_block = (end * PAGE_BYTES as u64 - 1) / BLOCK_BYTES as u64;
            let mut block = first_block;
            while block <= last_block {
                let count = (last_block - block + 1).min(RUN_BLOCKS);
                // Extents in one block: it is read and proved once.
                let run = match last.take() {
                    Some(run) if run.holds(block, count) => run,
                    _ => self.run(block, count)?,
                };
                run.append(extent, block, count, &mut out);
                last = Some(run);
                block += count;
            }
        }
        Ok(out)
    }

    /// Scattered blocks are asked for all at once: one by one each would wait for the disk.
    fn prefetch(&self, extents: &[PageExtent]) -> Result<()> {
        let (pages, block) = (page_count(self.map.of.size_bytes), BLOCK_BYTES as u64);
        let short = extents.iter().filter(|e| u64::from(e.count) < RUN_BLOCKS);
        for extent in short.filter(|_| extents.len() > 1) {
            let Some(end) = extent.end().filter(|end| *end <= pages) else { continue };
            let start = extent.offset() / block * block;
            let end = (end * PAGE_BYTES as u64).next_multiple_of(block);
            let advice = self.file.prefetch(start, end - start);
            advice.during("prefetch", self.name.as_str())?;
        }
        Ok(())
    }

    /// Reads and proves a run of blocks.
    fn run(&self, first: u64, count: u64) -> Result<Run> {
        let size = self.map.of.size_bytes;
        let start = first * BLOCK_BYTES as u64;
        let end = (start + count * BLOCK_BYTES as u64).min(size);
        let mut buf = AlignedBuf::with_capacity((end - start) as usize);
        let got = self.file.read_bulk_at(&mut buf, start, (end - start) as usize);
        let got = got.during("read", self.name.as_str())?;
        let torn = |block| Error::Torn { image: self.name.clone(), block };
        if got as u64 != end - start {
            return Err(torn(first));
        }
        for block in first..first + count {
            let at = ((block - first) as usize) * BLOCK_BYTES;
            let bytes = &buf[at..at + block_len(block, size)];
            if !verify_block(block, bytes, size, &self.map.hash(block)?) {
                return Err(torn(block));
            }
        }
        Ok(Run { first, count, buf })
    }
}

/// Blocks that were read and proved.
struct Run {
    first: u64,
    count: u64,
    buf: AlignedBuf,
}

impl Run {
    fn holds(&self, first: u64, count: u64) -> bool {
        self.first <= first && first + count <= self.first + self.count
    }

    /// Appends what of `extent` lies in `count` blocks from `first` on.
    fn append(&self, extent: &PageExtent, first: u64, count: u64, out: &mut Vec<u8>) {
        let start = self.first * BLOCK_BYTES as u64;
        let end = (first + count) * BLOCK_BYTES as u64;
        let bytes = u64::from(extent.count) * PAGE_BYTES as u64;
        let from = extent.offset().max(first * BLOCK_BYTES as u64);
        let to = extent.offset().saturating_add(bytes).min(end).min(start + self.buf.len() as u64);
        out.extend_from_slice(&self.buf[(from - start) as usize..(to - start) as usize]);
    }
}
