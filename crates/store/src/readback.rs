//! Station `read back`: what was committed is read from disk again and hashed, after the fact and at
//! low priority, so that a receipt can say more than "it was written".
//!
//! Only what was written since the last time is read, where that is certain: the segments that a
//! later generation replaced, in a file that is the same one or a reflink of it. The page cache
//! is gone around where the file system has O_DIRECT. Nothing is changed here; a difference is
//! reported, unless somebody changed the file or made another generation current meanwhile.

use blockferry_delta::{
    BLOCK_BYTES, ImageName, Root, SEGMENT_BYTES, image_root, segment_count, segment_len,
};

use crate::catalog::{CatalogRead, Discover, Generation};
use crate::disk::{AlignedBuf, DiskFile, set_idle_io_priority};
use crate::error::{Error, IoContext, Result};
use crate::freeze::open_live;
use crate::scan::Progress;
use crate::store::{CommitMode, MapOf, Store};
use crate::verify::{VerifyReport, compare};

/// Bytes read at a time, and all the memory that is taken for it.
const READ_BYTES: usize = 1 << 20;

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
                if let Err(error) = set_idle_io_priority() {
                    tracing::debug!(%error, "reading back at normal I/O priority");
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
        let before = match before.filter(|before| self.continues(before, stat.inode, &current)) {
            Some(before) => MapOf::find(&read, &image, &before.root)?,
            None => None,
        };
        let report = reread(&read, map, before, file.as_ref(), &current, progress)?;
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
}

/// Reads what `before` doesn't vouch for and compares it with the block map.
fn reread(
    read: &CatalogRead,
    map: MapOf,
    before: Option<MapOf>,
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
        if before.is_none_or(|before| !before.vouches(read, segment, size).unwrap_or(false)) {
            for at in (0..bytes).step_by(READ_BYTES) {
                let (from, due) = (offset + at as u64, READ_BYTES.min(bytes - at));
                let got = file.read_device_at(&mut buf, from, due);
                let got = got.during("read", current.image.as_str())?;
                let first = at / BLOCK_BYTES;
                let blocks = first..first + due.div_ceil(BLOCK_BYTES);
                compare(&mut report, (segment, blocks), &known, &buf[..got], size);
            }
        }
        progress.advance(offset + bytes as u64, size);
    }
    report.root_ok = image_root(&values) == current.root;
    Ok(report)
}

impl MapOf {
    /// Is a segment the same in this generation and in the current one, whose size is given?
    fn vouches(&self, read: &CatalogRead, segment: u32, size_bytes: u64) -> Result<bool> {
        let within = segment < segment_count(self.size_bytes)
            && segment_len(segment, self.size_bytes) == segment_len(segment, size_bytes);
        Ok(within && !read.is_replaced(self.image, self.number, self.current, segment)?)
    }
}

#[cfg(test)]
mod tests;
