//! What a kept content shares with the current one isn't read when it goes back into service: bytes
//! that lie where the image's own lie are current already, and a rollback changes nothing about
//! them. What has storage of its own is read and hashed, whatever the catalog says of it, and so is
//! a sample of the rest. The root is then that of the whole content, so a block in which the two
//! differ can't be left out; where it isn't the promised one, everything is read before anything
//! is said. Decision 35.

use blockferry_delta::Root;

use crate::catalog::{Discover, Generation, ImageRecord};
use crate::discover::{EXTENTS_MISSED, EXTENTS_SAMPLED_BLOCKS, Partial, sample_seed};
use crate::disk::DiskFile;
use crate::error::{IoContext, Result};
use crate::extents::{data_of, differing};
use crate::freeze::open_live;
use crate::scan::{Progress, Scanned};
use crate::spool::Spool;
use crate::store::Store;

/// If the current content has less than one part in so many, everything is read, in order.
const SHARED_SHARE: u64 = 2;

/// Where a content is stored and where not as the current one, as (start, end) and (offset, length)
/// in bytes.
struct Unshared {
    data: Vec<(u64, u64)>,
    differing: Vec<(u64, u64)>,
}

impl Store {
    /// Scans a clone or copy (the file, its path, its size in bytes) of a kept content, whose root is
    /// `promised`; what differs from the current content goes into `spool`. The root that it has is
    /// for the caller to compare.
    pub(crate) fn scan_kept(
        &self,
        of: (&dyn DiskFile, &str, u64),
        known: Option<(&ImageRecord, &Generation)>,
        promised: &Root,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<(Scanned, Discover)> {
        let mut doubted = None;
        if let Some(known) = known
            && let Some(unshared) = self.unshared(of, known)?
        {
            let seed = sample_seed(promised, &of.0.stat().during("look at", of.1)?);
            let Unshared { data, differing } = &unshared;
            let partial = Partial { data, differing, sampled: EXTENTS_SAMPLED_BLOCKS, seed };
            match self.by_ranges(of, known, &partial, spool, progress)? {
                Some(scanned) if scanned.root == *promised => {
                    return Ok((scanned, Discover::Extents));
                }
                _ => doubted = Some(known.0),
            }
            spool.clear(self.disk.as_ref())?;
        }
        let (image, current) = known.unzip();
        let scanned = self.scan(of, image, current, spool, progress)?;
        if let Some(image) = doubted
            && scanned.root == *promised
        {
            let text = "the file system's extents missed a difference: images are read whole now";
            progress.event(EXTENTS_MISSED, &format!("{}: {text}", image.name));
            self.turn_extents_off()?;
        }
        Ok((scanned, Discover::Scan))
    }

    /// Where a file isn't stored as the image's own is. `None`: that can't be told, or proves nothing
    /// because the image's file isn't what was recorded, or is most of it.
    fn unshared(
        &self,
        (file, path, size_bytes): (&dyn DiskFile, &str, u64),
        (image, current): (&ImageRecord, &Generation),
    ) -> Result<Option<Unshared>> {
        let name = &image.name;
        let damaged = self.mending(name).is_some();
        if !self.clones() || current.is_deleted() || damaged || self.extents_are_off()? {
            return Ok(None);
        }
        let live = open_live(self.disk.as_ref(), name)?;
        let old = live.placement().during("map", name.as_str())?;
        let new = file.placement().during("map", path)?;
        drop(live);
        let Some((old, new)) = old.zip(new) else { return Ok(None) };
        // Whoever wrote to it before it was mapped has moved its time.
        if !self.at_checkpoint(name, image.checkpoint.as_ref())? {
            return Ok(None);
        }
        let (data, differing) = (data_of(&new, size_bytes), differing(&old, &new, size_bytes));
        let data_bytes: u64 = data.iter().map(|(start, end)| end - start).sum();
        let own_bytes: u64 = differing.iter().map(|(_, bytes)| bytes).sum();
        let worth = own_bytes.saturating_mul(SHARED_SHARE) <= data_bytes;
        Ok(worth.then_some(Unshared { data, differing }))
    }
}

#[cfg(test)]
mod tests;
