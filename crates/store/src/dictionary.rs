//! Dictionaries from the held base: which of its pages resemble pages that are to be sent, and
//! their bytes. `delta` decides; here is looked up where chunks were in the base. Nothing of it is
//! proved: a wrong place costs bytes, wrong bytes are caught by the receiver's block hashes.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, OnceLock};

use blockferry_delta::{
    Chunk, ChunkId, ImageName, Neighbour, PAGE_BYTES, PAGES_PER_BLOCK, PageExtent, Root,
    SEGMENT_BYTES, SegmentMap, dictionary, page_count,
};

use crate::catalog::CatalogRead;
use crate::disk::{AlignedBuf, DiskFile};
use crate::error::{Error, IoContext, Result};
use crate::store::{MapOf, Store};

/// Pages of a segment.
const SEGMENT_PAGES: u64 = SEGMENT_BYTES / PAGE_BYTES as u64;
/// Chunks within this many bytes of what is wanted are looked up: four of the longest.
const AROUND_BYTES: u64 = 256 << 10;
/// Former places of chunks that are kept in memory for a transfer: those of 8 GiB of changes, which
/// take 4 MiB.
const PLACES_MAX: usize = 1 << 18;

/// The held base of a generation, as a source of dictionaries.
pub struct Dictionaries {
    read: CatalogRead,
    base: MapOf,
    file: Box<dyn DiskFile>,
    name: ImageName,
    /// Where chunks were in the base, by id; made when it is first asked for.
    places: OnceLock<Vec<(ChunkId, u64)>>,
}

impl std::fmt::Debug for Dictionaries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dictionaries").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Store {
    /// Dictionaries for the current generation of `name` from a base with this root; `None` when no
    /// clone of that base is held.
    pub fn dictionaries(
        self: &Arc<Self>,
        name: &ImageName,
        base: Root,
    ) -> Result<Option<Dictionaries>> {
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let Some(file) = self.held(&image, &base)? else { return Ok(None) };
        let base = MapOf::find(&read, &image, &base)?.filter(|base| base.number < base.current);
        let name = name.clone();
        Ok(base.map(|base| Dictionaries { read, base, file, name, places: OnceLock::new() }))
    }
}

impl Dictionaries {
    /// Pages of the base that resemble pages of the image, at most `pages_max`.
    pub fn choose(&self, wanted: &[PageExtent], pages_max: u32) -> Result<Vec<PageExtent>> {
        let neighbours = self.neighbours(wanted)?;
        // Zeros are left out; what they leave room for comes in.
        let chosen = dictionary(wanted, &neighbours, self.base.size_bytes, 2 * pages_max);
        let mut pages = Vec::new();
        let mut map = (u64::MAX, None);
        for page in chosen.iter().flat_map(|e| e.first..e.first + u64::from(e.count)) {
            let (segment, within) = (page / SEGMENT_PAGES, page % SEGMENT_PAGES);
            if map.0 != segment {
                let number =
                    u32::try_from(segment).map_err(|_| Error::BadPart("beyond the end"))?;
                map = (segment, self.base.segment(&self.read, number)?);
            }
            if !map.1.as_ref().is_some_and(|map| is_zero(map, within as usize)) {
                pages.push(page);
            }
        }
        let mut extents = Vec::new();
        pages.iter().take(pages_max as usize).for_each(|p| PageExtent::push(&mut extents, *p));
        Ok(extents)
    }

    /// The bytes of pages of the base, one after the other; its last page may be short.
    pub fn read(&self, extents: &[PageExtent]) -> Result<Vec<u8>> {
        read_pages(self.file.as_ref(), extents, self.base.size_bytes)
            .during("read the held base of", self.name.as_str())
    }

    /// The chunks around what is wanted, and where they were.
    fn neighbours(&self, wanted: &[PageExtent]) -> Result<Vec<Neighbour>> {
        let reach = |extent: &PageExtent| {
            let end = extent.offset() + u64::from(extent.count) * PAGE_BYTES as u64;
            (extent.offset().saturating_sub(AROUND_BYTES), end + AROUND_BYTES)
        };
        let near = |chunk: &Chunk| {
            let first = wanted.partition_point(|extent| reach(extent).1 <= chunk.offset);
            wanted.get(first).is_some_and(|extent| reach(extent).0 < chunk.end())
        };
        let segments: BTreeSet<u64> = wanted
            .iter()
            .map(reach)
            .flat_map(|(from, to)| from / SEGMENT_BYTES..to.div_ceil(SEGMENT_BYTES))
            .collect();
        let mut all: Vec<Neighbour> = Vec::new();
        for segment in segments {
            let segment = u32::try_from(segment).map_err(|_| Error::BadPart("beyond the end"))?;
            let MapOf { image, number, current, .. } = self.base;
            let replaced = self.read.is_replaced(image, number, current, segment)?;
            for chunk in self.read.cuts(image, segment)?.into_iter().filter(near) {
                // Lists of neighbouring segments may be of different ages.
                if all.last().is_none_or(|last| last.chunk.end() <= chunk.offset) {
                    let base_offset = self.place(&chunk, replaced);
                    all.push(Neighbour { chunk, base_offset });
                }
            }
        }
        Ok(all)
    }

    /// Where the base has a chunk: where it is now, if it was there, too.
    fn place(&self, chunk: &Chunk, replaced: bool) -> Option<u64> {
        if !replaced {
            return (chunk.end() <= self.base.size_bytes).then_some(chunk.offset);
        }
        let places = self.places.get_or_init(|| {
            let places = self.read.old_places(self.base.image, PLACES_MAX);
            let mut places = places
                .inspect_err(|error| {
                    tracing::warn!(code = error.code(), %error, image = %self.name,
                    "former places of chunks can't be read");
                })
                .unwrap_or_default();
            places.sort_unstable();
            places
        });
        let here = places.partition_point(|place| *place < (chunk.id, chunk.offset));
        let exact = places.get(here).filter(|place| **place == (chunk.id, chunk.offset));
        let first = || places.get(places.partition_point(|place| place.0 < chunk.id));
        exact.or_else(first).filter(|place| place.0 == chunk.id).map(|place| place.1)
    }
}

/// Is page `within` of a segment known to be zero?
fn is_zero(map: &SegmentMap, within: usize) -> bool {
    let SegmentMap::Rows(rows) = map else { return true };
    let row = rows.get(within / PAGES_PER_BLOCK);
    row.is_some_and(|row| row.zero_mask() & (1 << (within % PAGES_PER_BLOCK)) != 0)
}

/// The bytes of pages of a file, one extent after the other, without filling the page cache.
pub(crate) fn read_pages(
    file: &dyn DiskFile,
    extents: &[PageExtent],
    file_bytes: u64,
) -> io::Result<Vec<u8>> {
    let pages = page_count(file_bytes);
    if extents.iter().any(|extent| extent.end().is_none_or(|end| end > pages)) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let bytes = |extent: &PageExtent| extent.bytes_in(file_bytes);
    // Scattered pages are asked for all at once: one by one each would wait for the disk.
    for extent in extents.iter().filter(|_| extents.len() > 1) {
        file.prefetch(extent.offset(), bytes(extent))?;
    }
    let longest = extents.iter().map(bytes).max().unwrap_or(0);
    let mut buf = AlignedBuf::with_capacity(longest as usize);
    let mut out = Vec::with_capacity(extents.iter().map(bytes).sum::<u64>() as usize);
    for extent in extents {
        let due = bytes(extent) as usize;
        if file.read_bulk_at(&mut buf, extent.offset(), due)? != due {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.extend_from_slice(&buf);
    }
    Ok(out)
}
