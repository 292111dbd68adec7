//! The seal station: folds verified blocks into the new block map, proves the root, and makes the
//! staging durable. Only here a [`Sealed`] is made, and only a [`Sealed`] is committed.

use blockferry_delta::{
    BLOCK_BYTES, Chunk, PAGE_BYTES, Root, SEGMENT_BLOCKS, SEGMENT_BYTES, SegmentMap, block_len,
    hashed_alike, image_root, segment_count, segment_len,
};

use super::{BaseMap, Built, Content, Staging};
use crate::catalog::{Generation, ImageRecord};
use crate::claim::Claim;
use crate::disk::DiskFile;
use crate::error::{Error, IoContext, Result};
use crate::layout::STAGING;
use crate::spool::{Entry, Spool};

/// Bytes of zeros written at once.
const ZEROS_BYTES: usize = 1 << 20;

/// A staging whose every block and root are proved and that is durable.
#[derive(Debug)]
pub struct Sealed {
    pub(crate) claim: Claim,
    pub(crate) image: Option<ImageRecord>,
    pub(crate) generation: Generation,
    pub(crate) keep_replaced: bool,
    pub(crate) path: String,
    pub(crate) built: Built,
    pub(crate) spool: Spool,
    /// Bytes that weren't sent because they were found here.
    pub found_bytes: u64,
    /// Bytes of pages that were sent.
    pub literal_bytes: u64,
}

impl Sealed {
    /// What it replaces is kept if `keep` says so, or if it was to be kept anyway.
    #[must_use]
    pub fn keeping_replaced(self, keep: bool) -> Self {
        Self { keep_replaced: self.keep_replaced || keep, ..self }
    }
}

impl BaseMap {
    fn segment(&self, segment: u32) -> Result<Option<SegmentMap>> {
        self.of.segment(&self.read, segment)
    }
}

impl Staging {
    /// Folds all segments before `until`: their blocks can't change any more.
    pub(super) fn fold(&mut self, until: u32) -> Result<()> {
        while (self.values.len() as u32) < until {
            let segment = self.values.len() as u32;
            if let Some(map) = self.untouched(segment)? {
                self.values.push(map.value(self.generation.size_bytes));
                self.chunks = self.chunks.split_off(&(u64::from(segment + 1) * SEGMENT_BYTES));
                continue;
            }
            let map = self.segment_map(segment)?;
            self.values.push(map.value(self.generation.size_bytes));
            let own = match &self.own {
                Some(own) => own.segment(segment)?,
                None => None,
            };
            let chunks = self.segment_chunks(segment, &map)?;
            if own.as_ref() != Some(&map) {
                let entry = Entry { segment, map: Some(map.encode()), chunks: Some(chunks) };
                self.spool.push(self.store.disk.as_ref(), &entry)?;
            }
        }
        Ok(())
    }

    /// The map of a segment that stays as it is current here: most of them, in an update.
    fn untouched(&self, segment: u32) -> Result<Option<SegmentMap>> {
        let (Some(base), Some(own)) = (&self.base, &self.own) else { return Ok(None) };
        let first = u64::from(segment) * SEGMENT_BLOCKS as u64;
        let stays = (base.of.image, base.of.number) == (own.of.image, own.of.current)
            && base.of.size_bytes == self.generation.size_bytes
            && !self.zero_segments.contains(&segment)
            && self.rows.range(first..first + SEGMENT_BLOCKS as u64).next().is_none();
        if stays { base.segment(segment) } else { Ok(None) }
    }

    /// The new map of a segment: changed rows over the base's, zeros where there was nothing.
    fn segment_map(&mut self, segment: u32) -> Result<SegmentMap> {
        let size = self.generation.size_bytes;
        let base = match &self.base {
            Some(base) if !self.zero_segments.contains(&segment) => base.segment(segment)?,
            _ => None,
        };
        self.zero_segments.remove(&segment);
        let first = u64::from(segment) * SEGMENT_BLOCKS as u64;
        let mut changed = self.rows.split_off(&first);
        self.rows = changed.split_off(&(first + SEGMENT_BLOCKS as u64));
        let base_bytes = self.base.as_ref().map_or(0, |base| base.of.size_bytes);
        if changed.is_empty() && base.as_ref().is_none_or(|b| matches!(b, SegmentMap::Zero(_))) {
            // Hashing zeros costs as much as hashing data: a known value is kept.
            let same = segment_len(segment, size) == segment_len(segment, base_bytes)
                && hashed_alike(size, base_bytes);
            return Ok(base.filter(|_| same).unwrap_or_else(|| SegmentMap::zero(segment, size)));
        }
        let blocks = segment_len(segment, size).div_ceil(BLOCK_BYTES);
        let mut rows = Vec::with_capacity(blocks);
        for block in 0..blocks {
            let number = first + block as u64;
            let same_len = block_len(number, size) == block_len(number, base_bytes);
            let kept = match &base {
                Some(SegmentMap::Rows(rows)) if same_len => rows.get(block).copied(),
                _ => None,
            };
            let row = changed.get(&number).copied().or(kept);
            let row = row.or_else(|| SegmentMap::zero_row(segment, block, size));
            rows.push(row.ok_or(Error::BadPart("a block without a row"))?);
        }
        Ok(SegmentMap::from_rows(rows, size))
    }

    /// The new chunk list of a segment: what came with the recipe, and of the base's chunks those
    /// that still are what they were.
    fn segment_chunks(&mut self, segment: u32, map: &SegmentMap) -> Result<Vec<Chunk>> {
        let start = u64::from(segment) * SEGMENT_BYTES;
        let mut sent = self.chunks.split_off(&start);
        self.chunks = sent.split_off(&(start + SEGMENT_BYTES));
        let mut chunks: Vec<Chunk> = sent.into_values().collect();
        let Some(base) = &self.base else { return Ok(chunks) };
        if base.of.number == base.of.current {
            let before = base.segment(segment)?;
            for chunk in base.read.cuts(base.of.image, segment)? {
                let at = chunks.partition_point(|c| c.offset < chunk.offset);
                let free = chunks.get(at).is_none_or(|next| chunk.end() <= next.offset)
                    && (at == 0 || chunks[at - 1].end() <= chunk.offset);
                if free && same_pages(segment, before.as_ref(), map, &chunk) {
                    chunks.insert(at, chunk);
                }
            }
        }
        Ok(chunks)
    }

    /// Proves the whole and makes it durable.
    pub fn seal(mut self) -> Result<Sealed> {
        if !self.parts.is_empty() {
            return Err(Error::BadPart("parts are incomplete"));
        }
        let promised = self.generation.root;
        let outcome = self.prove(promised).and_then(|()| self.persist());
        if let Err(error) = outcome {
            self.abandon()?;
            return Err(error);
        }
        self.generation.wire_bytes = 0;
        Ok(Sealed {
            claim: self.claim,
            image: self.image,
            generation: self.generation,
            keep_replaced: self.keep_replaced,
            path: self.path,
            built: self.content.finish(),
            spool: self.spool,
            found_bytes: self.found_bytes,
            literal_bytes: self.literal_bytes,
        })
    }

    fn prove(&mut self, promised: Root) -> Result<()> {
        self.fold(segment_count(self.generation.size_bytes))?;
        let found = image_root(&self.values);
        if found == promised {
            return Ok(());
        }
        Err(Error::RootMismatch { image: self.generation.image.clone(), promised, found })
    }

    fn persist(&mut self) -> Result<()> {
        // What isn't about bytes a journal leaves to the commit.
        if let Content::Whole { file, .. } = &self.content {
            allocate_zeros(file.as_ref(), &self.path, &self.generation)?;
            let outcome = file.set_meta(&self.generation.meta);
            outcome.during("set attributes of", &self.path)?;
            file.tight_cow(false);
        }
        let file = self.content.file();
        self.store.synced(file.sync(), &self.path)?;
        if !self.store.options.warm {
            file.forget().during("forget", &self.path)?;
        }
        self.spool.persist(self.store.disk.as_ref()).inspect_err(|_| self.store.degrade())?;
        self.store.synced(self.store.disk.sync_dir(STAGING), STAGING)
    }

    /// Drops the staging and everything it wrote.
    pub fn abandon(self) -> Result<()> {
        let disk = self.store.disk.as_ref();
        if let Some(image) = self.image.as_ref().filter(|_| self.remembered) {
            let write = self.store.catalog.write()?;
            write.put_staged(image.id, None)?;
            write.commit()?;
        }
        drop(self.content);
        self.spool.remove(disk)?;
        disk.remove_file(&self.path).during("remove", &self.path)
    }

    /// Keeps what was written for a later attempt, if there is anything. What can't be kept is
    /// dropped: without its record nobody would find it again.
    pub fn park(mut self) -> Result<()> {
        if self.remembered {
            return Ok(());
        }
        if self.literal_bytes == 0 {
            return self.abandon();
        }
        if let Err(error) = self.remember() {
            self.remembered = false;
            self.abandon()?;
            return Err(error);
        }
        Ok(())
    }
}

/// Zeros that have storage in the source get it here.
pub(crate) fn allocate_zeros(
    file: &dyn DiskFile,
    path: &str,
    generation: &Generation,
) -> Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let size = generation.size_bytes;
    for extent in &generation.allocated_zero {
        let (mut at, end) = (extent.offset(), extent.offset() + extent.bytes_in(size));
        while at < end {
            let hole_end = match file.next_data(at).during("find data of", path)? {
                Some((start, data_end)) if start <= at => {
                    at = data_end;
                    continue;
                }
                Some((start, _)) => start.min(end),
                None => end,
            };
            let bytes = (hole_end - at).min(ZEROS_BYTES as u64);
            file.write_bulk_at(&zeros[..bytes as usize], at).during("write", path)?;
            at += bytes;
        }
    }
    Ok(())
}

/// Are all pages under `chunk` the same in both maps, as far as the segment reaches?
fn same_pages(segment: u32, old: Option<&SegmentMap>, new: &SegmentMap, chunk: &Chunk) -> bool {
    let (Some(SegmentMap::Rows(old)), SegmentMap::Rows(new)) = (old, new) else { return false };
    let start = u64::from(segment) * SEGMENT_BYTES;
    let first = ((chunk.offset - start) / PAGE_BYTES as u64) as usize;
    let last = ((chunk.end() - start).div_ceil(PAGE_BYTES as u64) as usize).min(1024);
    (first..last).all(|page| {
        let (block, page) = (page / 16, page % 16);
        match (old.get(block), new.get(block)) {
            (Some(old), Some(new)) => old.prints[page] == new.prints[page],
            _ => false,
        }
    })
}
