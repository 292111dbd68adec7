//! The receiving line from `reserve` to `seal`: a new content is built beside the image from what
//! is kept, found and sent. Nothing is written that isn't verified, and nobody sees it until it is
//! sealed and committed.

mod arrivals;
mod begin;
mod content;
mod find;
mod finish;
mod reserve;
mod restore;
mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use blockferry_delta::{
    BLOCK_BYTES, BlockHash, BlockRow, ChangedBlock, Chunk, ChunkId, ImageName, PAGE_BYTES,
    PAGES_PER_BLOCK, PageExtent, RecipePart, Root, SEGMENT_BYTES, block_count, block_len,
    segment_count, segment_len, verify_block,
};

use crate::assemble::{BlockBuild, Origin};
use crate::catalog::{CatalogRead, Generation, ImageRecord};
use crate::claim::Claim;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::spool::Spool;
use crate::store::{MapOf, Store};

use arrivals::Arrivals;
pub use arrivals::Brought;
pub(crate) use content::{Built, Content};
pub use finish::Sealed;
pub(crate) use finish::allocate_zeros;
use reserve::Reservation;

/// Updates up to this size go through the page cache: scattered pages are written back in order,
/// which is faster than one by one.
const CACHED_WRITE_BYTES_MAX: u64 = 64 << 20;
/// Literal bytes after which a staging is worth remembering over a restart, if as many may follow.
const REMEMBER_AFTER_BYTES: u64 = 16 << 20;

/// What a staging is begun with.
#[derive(Clone, Debug)]
pub struct StageRequest {
    /// The generation as it was offered; its number is at least what it becomes here.
    pub generation: Generation,
    /// The base that was agreed on, from [`Store::plan_base`].
    pub base: Option<Root>,
    /// Bytes of dirty pages at most.
    pub dirty_bytes: u64,
    /// What is replaced goes into quarantine: nobody else is known to have it.
    pub keep_replaced: bool,
}

/// What planning a part came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Pages that have to be sent.
    pub wants: Vec<PageExtent>,
    /// Bytes found here, or on their way here for another place.
    pub found_bytes: u64,
    /// Bytes of changed blocks that are kept from the base or an earlier attempt.
    pub kept_bytes: u64,
    /// Bytes that became zero.
    pub zero_bytes: u64,
    /// Nothing of this part is missing. A part that wants nothing and isn't complete waits for what
    /// earlier ones bring.
    pub complete: bool,
}

/// What filling a part came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Pages to be sent though a guess had them: the guess was wrong.
    pub again: Vec<PageExtent>,
    /// Nothing of this part is missing any more.
    pub complete: bool,
    /// What became of parts that waited for this one.
    pub brought: Vec<Brought>,
}

/// A new content being built.
#[derive(Debug)]
pub struct Staging {
    store: Arc<Store>,
    claim: Claim,
    image: Option<ImageRecord>,
    generation: Generation,
    base_root: Option<Root>,
    keep_replaced: bool,
    base: Option<BaseMap>,
    /// Own current generation, which the new one replaces in the catalog.
    own: Option<BaseMap>,
    path: String,
    content: Content,
    /// What is in it may already be right.
    resumed: bool,
    remembered: bool,
    parts: BTreeMap<u32, Part>,
    next_part: u32,
    /// Rows and chunks of segments that aren't folded yet.
    rows: BTreeMap<u64, BlockRow>,
    zero_segments: BTreeSet<u32>,
    chunks: BTreeMap<u64, Chunk>,
    /// Values of the segments folded so far.
    values: Vec<BlockHash>,
    spool: Spool,
    /// Chunks already written in this staging: the image may hold them twice.
    staged_chunks: HashMap<ChunkId, u64>,
    /// Chunks that are on their way, and who waits for them.
    arrivals: Arrivals,
    sources: HashMap<u32, Option<Box<dyn DiskFile>>>,
    /// Bytes of dirty pages at most.
    dirty_bytes: u64,
    literal_bytes: u64,
    found_bytes: u64,
    reservation: Reservation,
}

struct BaseMap {
    read: CatalogRead,
    of: MapOf,
}

impl std::fmt::Debug for BaseMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BaseMap")
    }
}

/// A part between planned and complete.
#[derive(Debug)]
struct Part {
    /// First block that isn't folded before this part is complete.
    first_block: u64,
    blocks: BTreeMap<u64, BlockBuild>,
    chunks: Vec<Chunk>,
}

impl Staging {
    /// Image that is staged.
    pub fn image(&self) -> &ImageName {
        &self.generation.image
    }

    /// Plans the next part: what is kept, zero and found is put in place at once, the rest is
    /// wanted. Parts come in order.
    pub fn plan(&mut self, part: &RecipePart) -> Result<Planned> {
        self.check_part(part)?;
        let mut planned = Planned::default();
        self.zero(part, &mut planned)?;
        let mut builds = self.begin_blocks(part, &mut planned)?;
        let found = self.find(&part.chunks, &mut builds)?;
        planned.found_bytes = found.bytes;
        self.found_bytes += planned.found_bytes;
        let mut waiting = BTreeMap::new();
        for mut build in builds {
            build.settle_found();
            if build.is_complete() {
                self.load(&mut build)?;
                match build.verify() {
                    Ok(verified) => {
                        self.write(&verified)?;
                        continue;
                    }
                    // A stale hint costs bytes, never correctness.
                    Err(mut wrong) => {
                        wrong.want_all();
                        build = wrong;
                    }
                }
            }
            build.wants(&mut planned.wants);
            waiting.insert(build.index(), build);
        }
        let first = part.blocks.first().map(|b| b.index);
        let zero = part.zero_segments.first().map(|s| u64::from(*s) * (SEGMENT_BYTES / 65_536));
        let first_block = first.into_iter().chain(zero).min().unwrap_or(0);
        self.chunks.extend(part.chunks.iter().map(|c| (c.offset, *c)));
        let part_state = Part { first_block, blocks: waiting, chunks: part.chunks.clone() };
        self.parts.insert(part.number, part_state);
        self.next_part = part.number + 1;
        self.retire(part.number)?;
        planned.complete = !self.parts.contains_key(&part.number);
        self.keep_open(part.number, found.awaited);
        Ok(planned)
    }

    /// Takes pages that were sent for a part, in the order of `extents`.
    pub fn fill(&mut self, part: u32, extents: &[PageExtent], pages: &[u8]) -> Result<Filled> {
        self.fill_from(part, extents, pages, Origin::Sent)
    }

    /// Takes pages that were made of what was sent and of bytes of the base: if a block is wrong,
    /// these may be why, and it is wanted again as a whole.
    pub fn fill_guessed(
        &mut self,
        part: u32,
        extents: &[PageExtent],
        pages: &[u8],
    ) -> Result<Filled> {
        self.fill_from(part, extents, pages, Origin::Guessed)
    }

    fn fill_from(
        &mut self,
        part: u32,
        extents: &[PageExtent],
        pages: &[u8],
        origin: Origin,
    ) -> Result<Filled> {
        let mut state = self.parts.remove(&part).ok_or(Error::BadPart("pages for no open part"))?;
        let outcome = self.fill_blocks(&mut state, extents, pages, origin);
        let complete = state.blocks.is_empty();
        self.parts.insert(part, state);
        let again = outcome?;
        let brought = self.retire(part)?;
        Ok(Filled { again, complete, brought })
    }

    fn fill_blocks(
        &mut self,
        part: &mut Part,
        extents: &[PageExtent],
        mut pages: &[u8],
        origin: Origin,
    ) -> Result<Vec<PageExtent>> {
        let mut again = Vec::new();
        self.literal_bytes += pages.len() as u64;
        for page in extents.iter().flat_map(|e| e.first..e.first + u64::from(e.count)) {
            let (block, within) =
                (page / PAGES_PER_BLOCK as u64, (page % PAGES_PER_BLOCK as u64) as usize);
            let build = part.blocks.get_mut(&block).ok_or(Error::BadPart("page not wanted"))?;
            if !build.is_loaded() {
                load(&self.content, &self.path, build)?;
            }
            let len = build.page_len(within);
            let (bytes, rest) = pages.split_at_checked(len).ok_or(Error::BadPart("short pages"))?;
            pages = rest;
            if !build.sent(within, bytes, origin) {
                return Err(Error::BadPart("page not wanted"));
            }
            if build.is_complete() {
                let build = part.blocks.remove(&block).expect("found above");
                if let Some(wrong) = self.settle(build, &mut again)? {
                    part.blocks.insert(block, wrong);
                }
            }
        }
        if pages.is_empty() { Ok(again) } else { Err(Error::BadPart("too many bytes")) }
    }

    /// Writes a complete block if it is right. A wrong one is wanted whole, once.
    fn settle(
        &mut self,
        build: BlockBuild,
        again: &mut Vec<PageExtent>,
    ) -> Result<Option<BlockBuild>> {
        match build.verify() {
            Ok(verified) => self.write(&verified).map(|()| None),
            Err(wrong) if wrong.is_certain() => Err(Error::BlockMismatch {
                image: self.generation.image.clone(),
                block: wrong.index(),
            }),
            Err(mut wrong) => {
                wrong.want_all();
                wrong.wants(again);
                Ok(Some(wrong))
            }
        }
    }

    fn write(&mut self, block: &crate::assemble::Verified) -> Result<()> {
        for (offset, bytes) in block.writes() {
            self.content.write(&self.path, bytes, offset)?;
            self.reservation.used(bytes.len() as u64);
        }
        for (offset, bytes) in block.holes() {
            self.content.punch(&self.path, offset, bytes)?;
        }
        self.rows.insert(block.index(), block.row(self.store.chunker.keys()));
        let much_left = self.literal_bytes + REMEMBER_AFTER_BYTES <= self.dirty_bytes;
        if self.literal_bytes >= REMEMBER_AFTER_BYTES && much_left && !self.remembered {
            self.remember()?;
        }
        Ok(())
    }

    fn check_part(&self, part: &RecipePart) -> Result<()> {
        let size = self.generation.size_bytes;
        if part.number != self.next_part {
            return Err(Error::BadPart("parts out of order"));
        }
        let folded = self.folded_blocks();
        let ascending = part.blocks.windows(2).all(|w| w[0].index < w[1].index)
            && part.zero_segments.windows(2).all(|w| w[0] < w[1]);
        let inside = part.blocks.iter().all(|b| (folded..block_count(size)).contains(&b.index))
            && part
                .zero_segments
                .iter()
                .all(|s| (self.values.len() as u32..segment_count(size)).contains(s));
        if !ascending || !inside || part.chunks.iter().any(|c| c.end() > size) {
            return Err(Error::BadPart("blocks out of order or beyond the end"));
        }
        Ok(())
    }

    fn folded_blocks(&self) -> u64 {
        self.values.len() as u64 * (SEGMENT_BYTES / BLOCK_BYTES as u64)
    }

    fn zero(&mut self, part: &RecipePart, planned: &mut Planned) -> Result<()> {
        for segment in &part.zero_segments {
            let bytes = segment_len(*segment, self.generation.size_bytes) as u64;
            let offset = u64::from(*segment) * SEGMENT_BYTES;
            self.content.punch(&self.path, offset, bytes)?;
            planned.zero_bytes += bytes;
        }
        self.zero_segments.extend(&part.zero_segments);
        Ok(())
    }

    /// Starts every changed block from what the staging holds at its place. Blocks that an earlier
    /// attempt completed are taken as they are.
    fn begin_blocks(
        &mut self,
        part: &RecipePart,
        planned: &mut Planned,
    ) -> Result<Vec<BlockBuild>> {
        let size = self.generation.size_bytes;
        let mut builds = Vec::new();
        for changed in &part.blocks {
            let pages = blockferry_delta::block_pages_mask(changed.index, size);
            if self.resumed && self.is_there(changed)? {
                planned.kept_bytes += block_len(changed.index, size) as u64;
                continue;
            }
            // A journal notes what every changed sector was.
            if changed.dirty & pages != pages || self.content.is_journal() {
                let offset = changed.index * BLOCK_BYTES as u64;
                self.content.prefetch(&self.path, offset, BLOCK_BYTES as u64)?;
            }
            planned.kept_bytes +=
                u64::from((pages & !changed.dirty).count_ones()) * PAGE_BYTES as u64;
            planned.zero_bytes += u64::from(changed.zero.count_ones()) * PAGE_BYTES as u64;
            builds.push(BlockBuild::new(*changed, size));
        }
        Ok(builds)
    }

    /// Did an earlier attempt complete this block?
    fn is_there(&mut self, changed: &ChangedBlock) -> Result<bool> {
        let size = self.generation.size_bytes;
        let len = block_len(changed.index, size);
        let bytes = self.content.read_block(&self.path, changed.index, len)?;
        let there = verify_block(changed.index, &bytes, size, &changed.hash);
        if there {
            let row = BlockRow::of(self.store.chunker.keys(), changed.index, &bytes, size);
            self.rows.insert(changed.index, row);
        }
        Ok(there)
    }

    /// Gives a block its base, if it hasn't got it yet.
    fn load(&self, build: &mut BlockBuild) -> Result<()> {
        if build.is_loaded() { Ok(()) } else { load(&self.content, &self.path, build) }
    }

    /// Closes a part that is complete and folds the segments that can't change any more.
    fn retire(&mut self, part: u32) -> Result<Vec<Brought>> {
        let complete = self.parts.get(&part).is_some_and(|p| p.blocks.is_empty());
        if !complete {
            return Ok(Vec::new());
        }
        let brought = self.close(part)?;
        let last_block = self.rows.keys().next_back().copied().unwrap_or(0);
        // Blocks of the newest part's last segment may go on in the next part.
        let open = self.parts.values().map(|p| p.first_block).min();
        let border = open.unwrap_or(last_block).min(last_block);
        self.fold((border / (SEGMENT_BYTES / BLOCK_BYTES as u64)) as u32)?;
        Ok(brought.into_values().collect())
    }
}

fn load(content: &Content, path: &str, build: &mut BlockBuild) -> Result<()> {
    let base = match build.keeps_pages() {
        true => content.read_block(path, build.index(), build.len())?,
        false => Vec::new(),
    };
    build.load(base);
    Ok(())
}
