//! Station `mend`: what of an image's file rotted, though nobody wrote to it, and how the same
//! generation is built again from what is right of the file and what a peer sends.
//!
//! Rot is told from a change by the file's metadata: inode, size and time of modification are those
//! that were recorded, and the bytes aren't. What rotted is read once more, so that a walk can tell a
//! peer what is held in its place; only pages that differ travel. The file that is replaced is kept
//! as *damaged* until somebody acknowledges it. Nothing about a mending is remembered: after a restart
//! it is begun anew.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use blockferry_delta::{
    BLOCK_BYTES, BlockRow, ImageName, PAGES_PER_BLOCK, Root, SEGMENT_BLOCKS, SegmentMap, WalkSalt,
    block_count, block_len, image_root, segment_count, segment_len,
};

use crate::catalog::{Checkpoint, Generation};
use crate::disk::AlignedBuf;
use crate::error::{Error, IoContext, Result};
use crate::freeze::open_live;
use crate::staging::Sealed;
use crate::store::{MapOf, Store};
use crate::verify::VerifyReport;
use crate::walk::WalkMap;

/// Blocks of one image that are mended beside what is right of it: 4 GiB, of which 6 MiB of memory
/// tell. Of an image of which more rotted nothing is taken over.
pub const MEND_BLOCKS_MAX: usize = 1 << 16;

/// Images that are being mended.
pub(crate) type Mending = Mutex<BTreeMap<ImageName, Arc<Damage>>>;

/// What rotted of the current generation of an image.
#[derive(Debug)]
pub struct Damage {
    generation: Generation,
    /// Content of the file as it is.
    found: Root,
    /// The blocks as they are; `None`: too many.
    rows: Option<BTreeMap<u64, BlockRow>>,
    /// Bytes that may have to be written for it.
    bytes: u64,
    /// Why what was tried came to nothing.
    failures: Mutex<Vec<String>>,
}

impl Damage {
    /// The generation as it was recorded, and as it is to be again.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The content of the file as it is; that of the generation, if too much is wrong to tell.
    pub fn found(&self) -> Root {
        self.found
    }

    /// Bytes that may have to be written: of the blocks that are wrong, or of all data if these are too
    /// many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Can what is right of the file be built on?
    pub fn builds_on(&self) -> bool {
        self.rows.is_some()
    }

    /// Is this the generation that is to be mended?
    pub fn is_of(&self, generation: &Generation) -> bool {
        (self.generation.number, self.generation.root) == (generation.number, generation.root)
    }

    /// An attempt came to nothing.
    pub fn note_failure(&self, why: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }

    /// How many attempts came to nothing, and why the last one did.
    pub fn failures(&self) -> (usize, Option<String>) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        (failures.len(), failures.last().cloned())
    }

    /// What is held in place of a block that rotted.
    pub(crate) fn row(&self, block: u64) -> Option<BlockRow> {
        self.rows.as_ref()?.get(&block).copied()
    }

    fn rows_in(&self, blocks: RangeInclusive<u64>) -> impl Iterator<Item = (u64, BlockRow)> {
        let rows = self.rows.as_ref().into_iter();
        rows.flat_map(move |rows| rows.range(blocks.clone())).map(|(block, row)| (*block, *row))
    }
}

impl Store {
    /// What has to be fetched again of an image of which `report` says that it isn't right.
    ///
    /// # Errors
    /// [`Error::LocalChange`] and [`Error::InUse`]: somebody wrote to it, or may just now; that is no
    /// rot. [`Error::Corrupt`]: it is the catalog that is wrong.
    pub fn damage(&self, name: &ImageName, report: &VerifyReport) -> Result<Damage> {
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let current = self.current_of(Some(&image))?;
        let generation = current.ok_or_else(|| Error::NotFound(name.clone()))?;
        if !self.is_unwritten(name)? {
            return Err(Error::LocalChange(name.clone()));
        }
        if self.is_written(name)? {
            return Err(Error::InUse(name.clone()));
        }
        if !report.root_ok {
            let detail = format!("the block map of {name} does not end in its root");
            return Err(Error::Corrupt { what: "the catalog", detail });
        }
        let root = generation.root;
        let of = MapOf::find(&read, &image, &root)?;
        let of = of.ok_or_else(|| Error::NoGeneration { image: name.clone(), root })?;
        let size = generation.size_bytes;
        let wrong = wrong_blocks(report, size);
        let (rows, bytes) = match wrong.len() <= MEND_BLOCKS_MAX {
            true => {
                let bytes = wrong.iter().map(|block| block_len(*block, size) as u64).sum();
                (Some(self.rows_of(name, &wrong, size)?), bytes)
            }
            false => (None, generation.data_bytes),
        };
        let failures = Mutex::default();
        let mut damage = Damage { generation, found: root, rows, bytes, failures };
        if damage.builds_on() {
            let mut values = Vec::new();
            for segment in 0..segment_count(size) {
                let known = of.segment(&read, segment)?.ok_or_else(|| Error::Corrupt {
                    what: "the block map",
                    detail: format!("segment {segment} is missing"),
                })?;
                values.push(as_it_is(&damage, known, segment).value(size));
            }
            damage.found = image_root(&values);
        }
        Ok(damage)
    }

    /// From now on until [`Store::end_mending`] the image's generation may be received again. `None`:
    /// it is being mended already.
    pub fn begin_mending(&self, damage: Damage) -> Option<Arc<Damage>> {
        match self.mending_images().entry(damage.generation.image.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => Some(Arc::clone(place.insert(Arc::new(damage)))),
        }
    }

    /// It isn't mended any more, whether it came to anything or not.
    pub fn end_mending(&self, name: &ImageName) {
        self.mending_images().remove(name);
    }

    /// What is being mended of an image.
    pub fn mending(&self, name: &ImageName) -> Option<Arc<Damage>> {
        self.mending_images().get(name).cloned()
    }

    /// Are inode, size and time of modification of an image's file what was recorded?
    pub fn is_unwritten(&self, name: &ImageName) -> Result<bool> {
        let image = self.catalog.read()?.image(name)?;
        let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        let point = image.and_then(|image| image.checkpoint);
        Ok(point.zip(stat).is_some_and(|(point, stat)| point.same_content(&stat)))
    }

    /// What is to be told of an image that is being mended in the probes of a walk; see
    /// [`Store::walk_map`].
    pub fn walk_damaged(
        &self,
        damage: &Arc<Damage>,
        other_bytes: u64,
        salt: WalkSalt,
    ) -> Result<WalkMap> {
        let Generation { image, root, .. } = &damage.generation;
        let map = self.walk_map(image, *root, other_bytes, salt)?;
        Ok(map.with_damage(Arc::clone(damage)))
    }

    /// Commits the generation that is current in the place of its own rotten file; its record stays
    /// what it was.
    pub fn commit_mended(&self, mut sealed: Sealed) -> Result<Generation> {
        let name = sealed.generation.image.clone();
        let current = self.current(&name)?.filter(|current| {
            (current.number, current.root) == (sealed.generation.number, sealed.generation.root)
        });
        sealed.generation = current.ok_or_else(|| Error::LocalChange(name.clone()))?;
        let mended = self.commit_sealed(sealed)?;
        self.end_mending(&name);
        Ok(mended)
    }

    /// Is `generation` the current one, to be built once more?
    pub(crate) fn mends(&self, generation: &Generation) -> bool {
        self.mending(&generation.image).is_some_and(|damage| damage.is_of(generation))
    }

    /// Is the file what was recorded, as far as its metadata can tell? Of one that is being mended it
    /// is enough that nobody wrote to it.
    pub(crate) fn is_point(&self, name: &ImageName, point: &Checkpoint, now: &Checkpoint) -> bool {
        point == now || point.same_file(now) && self.mending(name).is_some()
    }

    fn mending_images(&self) -> std::sync::MutexGuard<'_, BTreeMap<ImageName, Arc<Damage>>> {
        self.mending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows_of(
        &self,
        name: &ImageName,
        blocks: &[u64],
        size: u64,
    ) -> Result<BTreeMap<u64, BlockRow>> {
        let file = open_live(self.disk.as_ref(), name)?;
        let mut buf = AlignedBuf::with_capacity(BLOCK_BYTES);
        let mut rows = BTreeMap::new();
        for block in blocks {
            let (offset, len) = (block * BLOCK_BYTES as u64, block_len(*block, size));
            let got = file.read_bulk_at(&mut buf, offset, len).during("read", name.as_str())?;
            if got < len {
                return Err(Error::LocalChange(name.clone()));
            }
            let row = BlockRow::of(self.chunker.keys(), *block, &buf[..len], size);
            rows.insert(*block, row);
        }
        Ok(rows)
    }
}

/// The numbers of the blocks that a report names, as far as they are few enough, and one more.
fn wrong_blocks(report: &VerifyReport, size: u64) -> Vec<u64> {
    let per_block = PAGES_PER_BLOCK as u64;
    let of = |first: u64, count: u32| {
        first / per_block..(first + u64::from(count)).div_ceil(per_block).min(block_count(size))
    };
    let all = report.bad.iter().flat_map(|extent| of(extent.first, extent.count));
    let mut blocks: Vec<u64> = all.take(MEND_BLOCKS_MAX + 1).collect();
    blocks.dedup();
    blocks
}

/// The map of a segment with what is in the file in the place of what should be.
fn as_it_is(damage: &Damage, known: SegmentMap, segment: u32) -> SegmentMap {
    let size = damage.generation.size_bytes;
    let first = u64::from(segment) * SEGMENT_BLOCKS as u64;
    let mut wrong = damage.rows_in(first..=first + SEGMENT_BLOCKS as u64 - 1).peekable();
    if wrong.peek().is_none() {
        return known;
    }
    let blocks = segment_len(segment, size).div_ceil(BLOCK_BYTES);
    let mut rows: Vec<_> = (0..blocks).filter_map(|b| known.row(segment, b, size)).collect();
    for (block, row) in wrong {
        if let Some(slot) = rows.get_mut((block - first) as usize) {
            *slot = row;
        }
    }
    SegmentMap::from_rows(rows, size)
}
