//! The discover station: where a frozen image may differ from its current generation. By extents,
//! where a clone of that generation is held and the filesystem tells where storage lies; else
//! everything is read. What the extents say is never simply believed: what they call changed is
//! hashed, of what they call unchanged a sample is, and one miss turns them off for the store.

use blockferry_delta::Root;

use crate::catalog::{Discover, Generation, ImageRecord};
use crate::disk::DiskFile;
use crate::error::{IoContext, Result};
use crate::extents::{data_of, differing};
use crate::freeze::Frozen;
use crate::scan::{Changed, Known, Progress, Scan, Scanned, data_extents};
use crate::spool::{Entry, Spool};
use crate::store::Store;

impl Store {
    /// Finds out what a frozen image holds; what differs from `current` goes into `spool`.
    pub(crate) fn discover(
        &self,
        frozen: &Frozen,
        image: Option<&ImageRecord>,
        current: Option<&Generation>,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<(Scanned, Discover)> {
        if let (Some(image), Some(current)) = (image, current)
            && let Some(scanned) = self.by_extents(frozen, image, current, spool, progress)?
        {
            return Ok((scanned, Discover::Extents));
        }
        let file = (frozen.file.as_ref(), frozen.path.as_str(), frozen.stat.size_bytes);
        let scanned = self.scan(file, image, current, spool, progress)?;
        Ok((scanned, Discover::Scan))
    }

    /// Reads only where the storage isn't that of the held clone; `None`: it can't be told where.
    fn by_extents(
        &self,
        frozen: &Frozen,
        image: &ImageRecord,
        current: &Generation,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<Option<Scanned>> {
        if !frozen.is_clone() || self.extents_are_off()? {
            return Ok(None);
        }
        let Some(held) = self.held(image, &current.root)? else { return Ok(None) };
        let placement = |file: &dyn DiskFile| file.placement().during("map", &frozen.path);
        let (Some(old), Some(new)) = (placement(held.as_ref())?, placement(frozen.file.as_ref())?)
        else {
            return Ok(None);
        };
        let size_bytes = frozen.stat.size_bytes;
        let differing = differing(&old, &new, size_bytes);
        let read = self.catalog.read()?;
        let scan = Scan {
            file: frozen.file.as_ref(),
            path: &frozen.path,
            size_bytes,
            chunker: &self.chunker,
            known: Some(Known { read: &read, image: image.id, size_bytes: current.size_bytes }),
            data: &data_of(&new, size_bytes),
            differing: Some(&differing),
            threads: self.options.scan_threads,
            progress,
        };
        if !scan.sample_is_clean(&differing, sample_seed(&current.root, frozen))? {
            tracing::error!(code = "EXTENTS_MISSED", image = %image.name,
                "the filesystem's extents missed a change; images of this store are read whole");
            self.turn_extents_off()?;
            return Ok(None);
        }
        scan.run(&mut |changed| self.push(spool, changed)).map(Some)
    }

    /// Scans a file (the file, its path, its size in bytes); what differs from `current` goes into
    /// `spool`.
    pub(crate) fn scan(
        &self,
        (file, path, size_bytes): (&dyn DiskFile, &str, u64),
        image: Option<&ImageRecord>,
        current: Option<&Generation>,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<Scanned> {
        let read = self.catalog.read()?;
        let known = image.zip(current).map(|(image, current)| Known {
            read: &read,
            image: image.id,
            size_bytes: current.size_bytes,
        });
        let scan = Scan {
            file,
            path,
            size_bytes,
            chunker: &self.chunker,
            known,
            data: &data_extents(file, path, size_bytes)?,
            differing: None,
            threads: self.options.scan_threads,
            progress,
        };
        scan.run(&mut |changed| self.push(spool, changed))
    }

    fn push(&self, spool: &mut Spool, changed: Changed) -> Result<()> {
        let Changed { segment, map, chunks } = changed;
        let entry = Entry { segment, map: Some(map.encode()), chunks: Some(chunks) };
        spool.push(self.disk.as_ref(), &entry)
    }
}

/// Chooses the sample: another one each time, and the same again in a replay.
fn sample_seed(root: &Root, frozen: &Frozen) -> u64 {
    let (first, _) = root.as_bytes().split_first_chunk().expect("a root has 32 bytes");
    u64::from_le_bytes(*first) ^ frozen.stat.ctime_ns as u64 ^ frozen.stat.inode.rotate_left(32)
}
