//! Station `read back`: what was committed is read from disk again and hashed, after the fact and at
//! low priority, so that a receipt can say more than "it was written".
//!
//! Only what was written since the last time is read, where that is certain: the blocks that a later
//! generation changed, in a file that is the same one or a reflink of it; and, where the file that was
//! read the last time is among the kept ones, what isn't stored where that one is. The page cache
//! is gone around where the file system has O_DIRECT. Nothing is changed here; a difference is
//! reported, unless somebody changed the file or made another generation current meanwhile.
//! What recording has read from a clone needs no second reading.

use std::ops::Range;

use blockferry_delta::{
    BLOCK_BYTES, ImageName, Root, SEGMENT_BYTES, SegmentMap, image_root, segment_count, segment_len,
};

use crate::catalog::{CatalogRead, Checkpoint, Discover, Generation};
use crate::disk::{AlignedBuf, DiskFile, step_back};
use crate::error::{Error, IoContext, Result};
use crate::extents::{differing, overlaps};
use crate::freeze::open_live;
use crate::scan::Progress;
use crate::store::{CommitMode, MapOf, Store};
use crate::verify::{VerifyReport, compare};

/// Bytes read at a time, and all the memory that is taken for it.
const READ_BYTES: usize = 1 << 20;
/// A tenth of a core stays with it where others want all of them (nice 19 would leave a seventieth, and
/// a promotion may wait for it).
const NICE: i32 = 10;

/// What reading back came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// Everything is on disk as it was recorded; what to begin with the next time.
    Good(Proven),
    /// The file isn't what was recorded last, or another generation is current: nothing was proved.
    Moved,
    /// The file wasn't touched, and its bytes are not what was recorded.
    Bad(VerifyReport),
}

/// A content that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The content.
    pub root: Root,
    /// Inode of the file that had it.
    pub inode: u64,
    /// Bytes that were read for it.
    pub bytes_read: u64,
}

impl Store {
    /// Reads the current generation of an image, which must have `root`, back from disk. `before`
    /// is what the last call proved of the image.
    pub fn read_back(
        &self,
        name: &ImageName,
        root: &Root,
        before: Option<&Proven>,
        progress: &dyn Progress,
    ) -> Result<ReadBack> {
        // The priority is a thread's, and threads of a pool have other work after this.
        std::thread::scope(|scope| {
            let job = scope.spawn(|| {
                if let Err(error) = step_back(NICE) {
                    tracing::debug!(%error, "reading back at normal priority");
                }
                self.read_back_here(name, root, before, progress)
            });
            job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn read_back_here(
        &self,
        name: &ImageName,
        root: &Root,
        before: Option<&Proven>,
        progress: &dyn Progress,
    ) -> Result<ReadBack> {
        self.check_marker()?;
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let current = self.current_of(Some(&image))?;
        let Some(current) = current.filter(|current| current.root == *root) else {
            return Ok(ReadBack::Moved);
        };
        if !self.is_as_recorded(name)? {
            return Ok(ReadBack::Moved);
        }
        let file = open_live(self.disk.as_ref(), name)?;
        let stat = file.stat().during("look at", name.as_str())?;
        let map = MapOf::find(&read, &image, root)?;
        let map = map.ok_or_else(|| Error::NoGeneration { image: name.clone(), root: *root })?;
        let elsewhere = match before {
            None => None,
            Some(before) if self.continues(before, stat.inode, &current) => Some(Vec::new()),
            Some(before) => self.elsewhere(name, before, file.as_ref(), stat.size_bytes)?,
        };
        let before = match (before, elsewhere) {
            (Some(before), Some(elsewhere)) => {
                MapOf::find(&read, &image, &before.root)?.map(|of| Before { of, elsewhere })
            }
            _ => None,
        };
        let report = reread(&read, map, before.as_ref(), file.as_ref(), &current, progress)?;
        let bytes_read = report.bytes;
        if report.is_good() && stat.size_bytes == current.size_bytes {
            return Ok(ReadBack::Good(Proven { root: *root, inode: stat.inode, bytes_read }));
        }
        let moved = self.current(name)?.is_none_or(|now| now.number != current.number);
        Ok(if moved || !self.is_as_recorded(name)? {
            ReadBack::Moved
        } else {
            ReadBack::Bad(report)
        })
    }

    /// What recording `generation` a moment ago proved by itself, with `before` as what was proved of
    /// the image until then. A clone that was just made has nothing in the page cache: what was read
    /// of it came from disk, and the image's file shares its storage. `None`: it must be read back.
    pub fn proved_by_recording(
        &self,
        generation: &Generation,
        before: Option<&Proven>,
    ) -> Result<Option<Proven>> {
        let read = self.catalog.read()?;
        let Some(image) = read.image(&generation.image)? else { return Ok(None) };
        let stat = self.disk.stat(generation.image.as_str());
        let stat = stat.during("look at", generation.image.as_str())?;
        let stat = stat.filter(|stat| image.checkpoint == Some(Checkpoint::of(stat)));
        let Some(inode) = stat.map(|stat| stat.inode) else { return Ok(None) };
        let parent = image.current.saturating_sub(1);
        let parent = read.generation(image.id, &generation.image, parent)?;
        let rest = before.filter(|before| parent.is_some_and(|parent| before.root == parent.root));
        let whole = match generation.discover {
            Discover::Scan => true,
            Discover::Extents => rest.is_some(),
            // Nobody has looked where the rest is stored.
            Discover::Map => rest.is_some_and(|before| before.inode == inode),
            Discover::Metadata | Discover::Received => false,
        };
        // The clone that was read is what is held; without one the file itself was read.
        let root = generation.root;
        let known = whole && image.current == generation.number;
        let proven = Proven { root, inode, bytes_read: generation.bytes_read };
        Ok((known && self.is_held_last(&image, &root)?).then_some(proven))
    }

    /// Is an image's file untouched since its current generation was recorded or committed?
    pub fn is_as_recorded(&self, name: &ImageName) -> Result<bool> {
        let image = self.catalog.read()?.image(name)?;
        let image = image.ok_or_else(|| Error::NotFound(name.clone()))?;
        self.at_checkpoint(name, image.checkpoint.as_ref())
    }

    /// Does what wasn't replaced since `before` lie where it lay then?
    fn continues(&self, before: &Proven, inode: u64, current: &Generation) -> bool {
        let cloned = self.commit_mode() == CommitMode::Clone;
        before.inode == inode || cloned && current.discover == Discover::Received
    }

    /// Where a file isn't stored as the one that was proved `before`, which is kept by now: (offset,
    /// length). `None`: it isn't, or it can't be told.
    fn elsewhere(
        &self,
        name: &ImageName,
        before: &Proven,
        file: &dyn DiskFile,
        size_bytes: u64,
    ) -> Result<Option<Vec<(u64, u64)>>> {
        if self.commit_mode() != CommitMode::Clone || self.extents_are_off()? {
            return Ok(None);
        }
        let mut kept = self.kept(name)?;
        kept.retain(|kept| !kept.touched && kept.root() == Some(before.root));
        for kept in kept {
            let proved = self.open_kept(&kept)?;
            if proved.stat().during("look at", &kept.path)?.inode != before.inode {
                continue;
            }
            let old = proved.placement().during("map", &kept.path)?;
            let new = file.placement().during("map", name.as_str())?;
            return Ok(old.zip(new).map(|(old, new)| differing(&old, &new, size_bytes)));
        }
        Ok(None)
    }
}

/// What was proved the last time.
struct Before {
    of: MapOf,
    /// Where the file isn't stored as the one of then, though it may hold the same: (offset, length).
    elsewhere: Vec<(u64, u64)>,
}

/// Reads what `before` doesn't vouch for and compares it with the block map.
fn reread(
    read: &CatalogRead,
    map: MapOf,
    before: Option<&Before>,
    file: &dyn DiskFile,
    current: &Generation,
    progress: &dyn Progress,
) -> Result<VerifyReport> {
    let size = current.size_bytes;
    let mut report = VerifyReport::default();
    let mut values = Vec::new();
    let mut buf = AlignedBuf::with_capacity(READ_BYTES);
    for segment in 0..segment_count(size) {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let known = map.segment(read, segment)?.ok_or_else(|| Error::Corrupt {
            what: "the block map",
            detail: format!("segment {segment} is missing"),
        })?;
        values.push(known.value(size));
        let bytes = segment_len(segment, size);
        let offset = u64::from(segment) * SEGMENT_BYTES;
        let elsewhere = before.map_or(&[][..], |before| &before.elsewhere);
        let stays = !overlaps(elsewhere, offset, offset + bytes as u64);
        let vouches = |before: &Before| before.of.vouches(read, segment, size).unwrap_or(false);
        if !(stays && before.is_some_and(vouches)) {
            let old = match before {
                Some(before) if before.of.has(segment, size) => before.of.segment(read, segment)?,
                _ => None,
            };
            for blocks in unproved(&known, old.as_ref(), elsewhere, segment, size) {
                let at = blocks.start * BLOCK_BYTES;
                let due = (blocks.len() * BLOCK_BYTES).min(bytes - at);
                progress.reading(due as u64);
                let got = file.read_device_at(&mut buf, offset + at as u64, due);
                let got = got.during("read", current.image.as_str())?;
                compare(&mut report, (segment, blocks), &known, &buf[..got], size);
            }
        }
        progress.advance(offset + bytes as u64, size);
    }
    report.root_ok = image_root(&values) == current.root;
    Ok(report)
}

/// Blocks of a segment that aren't what was proved of it, or aren't stored where they were then, in
/// runs of [`READ_BYTES`] at most.
fn unproved(
    known: &SegmentMap,
    proved: Option<&SegmentMap>,
    elsewhere: &[(u64, u64)],
    segment: u32,
    size_bytes: u64,
) -> Vec<Range<usize>> {
    let hash = |map: &SegmentMap, block| map.row(segment, block, size_bytes).map(|row| row.hash);
    let is_elsewhere = |block: usize| {
        let start = u64::from(segment) * SEGMENT_BYTES + (block * BLOCK_BYTES) as u64;
        overlaps(elsewhere, start, start + BLOCK_BYTES as u64)
    };
    let is_due = |block: &usize| {
        proved.is_none_or(|proved| hash(proved, *block) != hash(known, *block))
            || is_elsewhere(*block)
    };
    let mut runs: Vec<Range<usize>> = Vec::new();
    for block in (0..segment_len(segment, size_bytes).div_ceil(BLOCK_BYTES)).filter(is_due) {
        match runs.last_mut() {
            Some(run) if run.end == block && run.len() < READ_BYTES / BLOCK_BYTES => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

impl MapOf {
    /// Is a segment the same in this generation and in the current one, whose size is given?
    fn vouches(&self, read: &CatalogRead, segment: u32, size_bytes: u64) -> Result<bool> {
        let has = self.has(segment, size_bytes);
        Ok(has && !read.is_replaced(self.image, self.number, self.current, segment)?)
    }

    /// Has this generation that segment, as long as the one of a generation of the given size?
    fn has(&self, segment: u32, size_bytes: u64) -> bool {
        segment < segment_count(self.size_bytes)
            && segment_len(segment, self.size_bytes) == segment_len(segment, size_bytes)
    }
}

#[cfg(test)]
mod tests;
