//! The await station: a chunk that an open part brings isn't asked for a second time.
//!
//! The same file may be in an image twice. Where its first place is complete when the part of the
//! second one is planned, it is found there. Where it still travels, the second place waits for it:
//! so what has to be sent follows from the contents, and not from how fast packs come. A part waits
//! only for parts before it, so no two wait for each other. What comes is hashed before it is
//! believed, like everything that is found, and proved by its block.

use std::collections::{BTreeMap, HashMap};

use blockferry_delta::{BLOCK_BYTES, Chunk, ChunkId, PageExtent};

use super::find::OWN;
use super::{Part, Staging};
use crate::catalog::Location;
use crate::error::Result;

/// What became of a part that waited for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brought {
    /// Number of the part that waited.
    pub part: u32,
    /// Pages of it to be sent though they were awaited: what came was not what was promised.
    pub again: Vec<PageExtent>,
    /// Nothing of it is missing any more.
    pub complete: bool,
}

/// A chunk of a part that an earlier one brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    pub(super) chunk: Chunk,
    /// The part that brings it, and where.
    by: u32,
    offset: u64,
}

/// A chunk of an open part: it will be at its place when that part is complete.
#[derive(Clone, Copy, Debug)]
struct Coming {
    part: u32,
    chunk: Chunk,
}

/// What open parts bring and who waits for it. The wire bounds how many parts are open and how many
/// chunks each has.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    coming: HashMap<ChunkId, Coming>,
    /// By the part that brings, by the part that waits.
    awaited: BTreeMap<u32, BTreeMap<u32, Vec<Awaited>>>,
}

impl Arrivals {
    /// The same bytes at another place of an open part.
    pub(super) fn find(&self, chunk: &Chunk) -> Option<Awaited> {
        let coming = self.coming.get(&chunk.id);
        let coming = coming.filter(|coming| {
            coming.chunk.bytes == chunk.bytes && coming.chunk.offset != chunk.offset
        })?;
        Some(Awaited { chunk: *chunk, by: coming.part, offset: coming.chunk.offset })
    }

    /// A part stays open: what it brings may be waited for, unless it is there already. `staged`
    /// are the chunks of complete parts.
    fn announce(&mut self, part: u32, chunks: &[Chunk], staged: &HashMap<ChunkId, u64>) {
        for chunk in chunks {
            let elsewhere = staged.get(&chunk.id).is_some_and(|offset| *offset != chunk.offset);
            let known = self.coming.get_mut(&chunk.id);
            match known {
                // It began in the part before.
                Some(known) if known.chunk.offset == chunk.offset => known.part = part,
                Some(_) => {}
                None if elsewhere => {}
                None => {
                    self.coming.insert(chunk.id, Coming { part, chunk: *chunk });
                }
            }
        }
    }

    /// A part is complete. Gives who waits for it.
    fn complete(&mut self, part: u32, chunks: &[Chunk]) -> BTreeMap<u32, Vec<Awaited>> {
        for chunk in chunks {
            if self.coming.get(&chunk.id).is_some_and(|coming| coming.part == part) {
                self.coming.remove(&chunk.id);
            }
        }
        self.awaited.remove(&part).unwrap_or_default()
    }
}

impl Staging {
    /// A planned part is open: it waits for what others bring, and others may wait for it.
    pub(super) fn keep_open(&mut self, number: u32, awaited: Vec<Awaited>) {
        let Some(part) = self.parts.get(&number) else { return };
        for one in awaited.into_iter().filter(|one| is_awaited(part, &one.chunk)) {
            let waiting = self.arrivals.awaited.entry(one.by).or_default();
            waiting.entry(number).or_default().push(one);
        }
        self.arrivals.announce(number, &part.chunks, &self.staged_chunks);
    }

    /// Closes a part that is complete, and those that waited for nothing but what it brought. Gives
    /// what became of all that waited; none when the part is still open.
    pub(super) fn close(&mut self, part: u32) -> Result<BTreeMap<u32, Brought>> {
        let mut brought: BTreeMap<u32, Brought> = BTreeMap::new();
        let mut due = vec![part];
        while let Some(number) = due.pop() {
            let Some(done) = self.parts.remove(&number) else { continue };
            let waiting = self.arrivals.complete(number, &done.chunks);
            self.note_staged_chunks(&done.chunks);
            for (number, awaited) in waiting {
                let Some(mut part) = self.parts.remove(&number) else { continue };
                let outcome = self.bring(&mut part, &awaited);
                let complete = part.blocks.is_empty();
                self.parts.insert(number, part);
                let again = outcome?;
                if complete {
                    due.push(number);
                }
                let empty = || Brought { part: number, again: Vec::new(), complete };
                let known = brought.entry(number).or_insert_with(empty);
                known.complete = complete;
                known.again.extend(again);
                known.again.sort_unstable_by_key(|extent| extent.first);
            }
        }
        Ok(brought)
    }

    /// Puts what has come where it was waited for. Gives what has to be sent after all.
    fn bring(&mut self, part: &mut Part, awaited: &[Awaited]) -> Result<Vec<PageExtent>> {
        let chunks: Vec<Chunk> = awaited.iter().map(|one| one.chunk).collect();
        let place = |one: &Awaited| {
            Some(Location { image: OWN, offset: one.offset, bytes: one.chunk.bytes })
        };
        let locations: Vec<Option<Location>> = awaited.iter().map(place).collect();
        self.read_located(&chunks, &locations, |staging, chunk, bytes| {
            let (offset, end) = (chunk.offset, chunk.end());
            for (_, build) in part.blocks.range_mut(offset / BLOCK_BYTES as u64..) {
                if build.index() * BLOCK_BYTES as u64 >= end {
                    break;
                }
                if build.awaits_in(offset, end) {
                    if bytes.is_some() {
                        staging.load(build)?;
                    }
                    build.arrived(offset, end, bytes);
                }
            }
            Ok(())
        })?;
        let complete = part.blocks.values().filter(|build| build.is_complete());
        let complete: Vec<u64> = complete.map(crate::assemble::BlockBuild::index).collect();
        let mut again = Vec::new();
        for block in complete {
            let build = part.blocks.remove(&block).expect("listed above");
            if let Some(wrong) = self.settle(build, &mut again)? {
                part.blocks.insert(block, wrong);
            }
        }
        Ok(again)
    }
}

/// Is a page under the chunk left out of what the part wants?
fn is_awaited(part: &Part, chunk: &Chunk) -> bool {
    let blocks =
        chunk.offset / BLOCK_BYTES as u64..=chunk.end().saturating_sub(1) / BLOCK_BYTES as u64;
    part.blocks.range(blocks).any(|(_, build)| build.awaits_in(chunk.offset, chunk.end()))
}
