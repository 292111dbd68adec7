//! The copy station: chunks that the index says are here already. Whatever is found is hashed
//! before it is believed, and proved again by its block. Pages of the base for dictionaries come
//! from the same files.

use blockferry_delta::{BLOCK_BYTES, Chunk, ChunkId, PageExtent};

use super::Staging;
use super::arrivals::Awaited;
use crate::assemble::BlockBuild;
use crate::catalog::Location;
use crate::dictionary::read_pages;
use crate::disk::{AlignedBuf, DiskFile, Open};
use crate::error::{Error, IoContext, Result};

/// Chunks of this staging that are remembered, in case the image holds them twice.
const STAGED_CHUNKS_MAX: usize = 1 << 19;
/// Bytes of neighbouring chunks read at once.
const RUN_BYTES_MAX: u64 = 1 << 20;
/// Stands for the staging itself where an image number is expected.
pub(super) const OWN: u32 = 0;

/// What finding came to.
pub(super) struct Found {
    /// Bytes that needn't travel.
    pub(super) bytes: u64,
    /// Those among them that an open part brings.
    pub(super) awaited: Vec<Awaited>,
}

impl Staging {
    /// Puts found chunks in place: those that an image has, then those that this staging has at
    /// another place. What an open part brings is left out of what is wanted.
    pub(super) fn find(&mut self, chunks: &[Chunk], builds: &mut [BlockBuild]) -> Result<Found> {
        let locations = self.locate(chunks)?;
        let unknown = chunks.iter().zip(&locations).filter(|(_, location)| location.is_none());
        let mut lacking: Vec<Chunk> = unknown.map(|(chunk, _)| *chunk).collect();
        let mut bytes = 0;
        self.read_located(chunks, &locations, |staging, chunk, data| {
            match data {
                Some(data) => bytes += staging.place(chunk, data, builds)?,
                None => lacking.push(*chunk),
            }
            Ok(())
        })?;
        lacking.sort_unstable_by_key(|chunk| chunk.offset);
        let (mut awaited, mut staged, mut locations) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in lacking {
            if let Some(coming) = self.arrivals.find(&chunk) {
                let under = builds_under(&chunk, builds);
                bytes += under.map(|build| build.promise(chunk.offset, chunk.end())).sum::<u64>();
                awaited.push(coming);
            } else if let Some(offset) = self.staged_chunks.get(&chunk.id)
                && *offset != chunk.offset
            {
                staged.push(chunk);
                locations.push(Some(Location { image: OWN, offset: *offset, bytes: chunk.bytes }));
            }
        }
        self.read_located(&staged, &locations, |staging, chunk, data| {
            bytes += data.map_or(Ok(0), |data| staging.place(chunk, data, builds))?;
            Ok(())
        })?;
        Ok(Found { bytes, awaited })
    }

    /// Reads chunks from where they are said to be. Those that aren't there are given without bytes.
    pub(super) fn read_located(
        &mut self,
        chunks: &[Chunk],
        locations: &[Option<Location>],
        mut take: impl FnMut(&mut Self, &Chunk, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        while at < chunks.len() {
            let Some(first) = locations[at] else {
                at += 1;
                continue;
            };
            let count = run_length(&locations[at..]);
            let last = locations[at + count - 1].expect("a run has no gaps");
            let bytes = last.offset + u64::from(last.bytes) - first.offset;
            let data = self.read_found(first.image, first.offset, bytes)?;
            for (chunk, location) in chunks[at..at + count].iter().zip(&locations[at..]) {
                let from = (location.expect("in the run").offset - first.offset) as usize;
                let bytes = data.as_ref().map(|data| &data[from..from + chunk.bytes as usize]);
                let bytes = bytes.filter(|bytes| self.store.chunker.id(bytes) == chunk.id);
                take(self, chunk, bytes)?;
            }
            at += count;
        }
        Ok(())
    }

    /// Where images have chunks, by the index.
    fn locate(&self, chunks: &[Chunk]) -> Result<Vec<Option<Location>>> {
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let mut locations = self.store.catalog.read()?.locate(&ids)?;
        for (chunk, location) in chunks.iter().zip(&mut locations) {
            *location = location.filter(|location| location.bytes == chunk.bytes);
        }
        Ok(locations)
    }

    /// Reads what may be a found chunk; `None` when the file isn't there or is too short.
    fn read_found(&mut self, image: u32, offset: u64, bytes: u64) -> Result<Option<Vec<u8>>> {
        let aligned = offset - offset % crate::disk::ALIGN_BYTES as u64;
        let want = (offset + bytes - aligned) as usize;
        if image == OWN {
            let mut data = self.content.read_bulk(&self.path, aligned, want)?;
            return Ok((data.len() == want).then(|| data.split_off((offset - aligned) as usize)));
        }
        let Some(file) = self.source(image)? else { return Ok(None) };
        let mut buf = AlignedBuf::with_capacity(want);
        let got = file.read_bulk_at(&mut buf, aligned, want).during("read", "a found chunk")?;
        Ok((got == want).then(|| buf[(offset - aligned) as usize..].to_vec()))
    }

    /// The file of an image; `None` when it can't be opened.
    fn source(&mut self, image: u32) -> Result<Option<&dyn DiskFile>> {
        if !self.sources.contains_key(&image) {
            let read = self.store.catalog.read()?;
            let name = read.images()?.into_iter().find(|i| i.id == image).map(|i| i.name);
            let file = name.and_then(|n| self.store.disk.open(n.as_str(), Open::Read).ok());
            self.sources.insert(image, file);
        }
        Ok(self.sources[&image].as_deref())
    }

    /// Can pages of a base be read here?
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The bytes of pages of the base, one after the other, as far as its file is what it was: from
    /// the base itself, not from what is staged over it. For dictionaries; nothing proves them.
    ///
    /// # Errors
    /// Also when the pages are beyond the base's end.
    pub fn base_pages(&mut self, extents: &[PageExtent]) -> Result<Vec<u8>> {
        let base = self.base.as_ref().map(|base| (base.of.image, base.of.size_bytes));
        let (image, bytes) = base.ok_or(Error::BadPart("a dictionary without a base"))?;
        let file = self.source(image)?.ok_or(Error::BadPart("the base can't be opened"))?;
        read_pages(file, extents, bytes).during("read", "the base")
    }

    /// Puts a found chunk over the missing pages of the blocks it lies in.
    fn place(&self, chunk: &Chunk, bytes: &[u8], builds: &mut [BlockBuild]) -> Result<u64> {
        let mut found = 0;
        for build in builds_under(chunk, builds) {
            if build.misses_in(chunk.offset, chunk.end()) {
                self.load(build)?;
                found += build.find(chunk.offset, bytes);
            }
        }
        Ok(found)
    }

    /// Remembers where chunks of a complete part are in the staging.
    pub(super) fn note_staged_chunks(&mut self, chunks: &[Chunk]) {
        if self.staged_chunks.len() + chunks.len() <= STAGED_CHUNKS_MAX {
            self.staged_chunks.extend(chunks.iter().map(|c| (c.id, c.offset)));
        }
    }
}

/// The blocks that a chunk lies in.
fn builds_under<'b>(
    chunk: &Chunk,
    builds: &'b mut [BlockBuild],
) -> impl Iterator<Item = &'b mut BlockBuild> + use<'b> {
    let (offset, end) = (chunk.offset, chunk.end());
    let from = builds.partition_point(|b| (b.index() + 1) * BLOCK_BYTES as u64 <= offset);
    builds[from..].iter_mut().take_while(move |b| b.index() * (BLOCK_BYTES as u64) < end)
}

/// How many locations from the first on lie one after the other in the same file.
fn run_length(locations: &[Option<Location>]) -> usize {
    let (mut count, mut bytes) = (1, 0);
    while let (Some(Some(last)), Some(Some(next))) =
        (locations.get(count - 1), locations.get(count))
    {
        bytes += u64::from(last.bytes);
        let joined = last.image == next.image && last.offset + u64::from(last.bytes) == next.offset;
        if !joined || bytes + u64::from(next.bytes) > RUN_BYTES_MAX {
            break;
        }
        count += 1;
    }
    count
}
