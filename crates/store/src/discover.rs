//! The discover station: where a frozen image may differ from its current generation. By extents,
//! where a clone of that generation is held and the filesystem tells where storage lies; by a map,
//! where somebody outside says what changed and can show it; else everything is read. None of them
//! is simply believed: what they call changed is hashed, of what they call unchanged a sample is,
//! and one miss turns that source off for the store.

use blockferry_delta::Root;

use crate::catalog::{Discover, Generation, ImageRecord};
use crate::changed::{Facts, Ranges, Unfit, beside};
use crate::disk::{DiskFile, Stat};
use crate::error::{Error, IoContext, Result};
use crate::extents::{data_of, differing};
use crate::freeze::Frozen;
use crate::record::Before;
use crate::scan::{Changed, Known, Progress, Scan, Scanned, data_extents};
use crate::spool::{Entry, Spool};
use crate::store::Store;

/// Blocks that extents call unchanged and that are read all the same, and proved.
pub(crate) const EXTENTS_SAMPLED_BLOCKS: u64 = 16;
/// As many of a map: whoever made it is not known.
const MAP_SAMPLED_BLOCKS: u64 = 64;

/// What is read of an image, in bytes from and to.
pub(crate) struct Partial<'a> {
    /// What has storage.
    pub(crate) data: &'a [(u64, u64)],
    /// What is said to differ.
    pub(crate) differing: &'a [(u64, u64)],
    /// Blocks of the rest that are read all the same...
    pub(crate) sampled: u64,
    /// ...chosen by this.
    pub(crate) seed: u64,
}

impl Store {
    /// Finds out what a frozen image holds; what differs from the current generation goes into
    /// `spool`.
    pub(crate) fn discover(
        &self,
        frozen: &Frozen,
        before: &Before<'_>,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<(Scanned, Discover)> {
        let known = before.image.as_ref().zip(before.current.as_ref());
        // A map that a person gave is judged even where it isn't needed.
        let told = self.told(frozen, before, progress)?;
        if let Some(known) = known {
            if let Some(scanned) = self.by_extents(frozen, known, spool, progress)? {
                return Ok((scanned, Discover::Extents));
            }
            let ranges = match told {
                Some(ranges) => Some(ranges),
                None => self.beside(frozen, known, progress)?,
            };
            if let Some(ranges) = ranges
                && let Some(scanned) = self.by_map(frozen, known, &ranges, spool, progress)?
            {
                return Ok((scanned, Discover::Map));
            }
        }
        let file = (frozen.file.as_ref(), frozen.path.as_str(), frozen.stat.size_bytes);
        let (image, current) = known.unzip();
        let scanned = self.scan(file, image, current, spool, progress)?;
        Ok((scanned, Discover::Scan))
    }

    /// The ranges of the map that a person gave, if it proves anything.
    fn told(
        &self,
        frozen: &Frozen,
        before: &Before<'_>,
        progress: &dyn Progress,
    ) -> Result<Option<Ranges>> {
        let Some(told) = before.told else { return Ok(None) };
        let known = before.image.as_ref().zip(before.current.as_ref());
        let Some(known) = known else {
            return Err(Error::BadMap("the image has no generation that it could begin at".into()));
        };
        match told.ranges(&facts(frozen, known)) {
            Ok(_) if self.maps_are_off()? => {
                progress.event(MAP_UNUSED, "a map missed a change in this store before");
                Ok(None)
            }
            Ok(ranges) => Ok(Some(ranges)),
            Err(Unfit::Bad(why) | Unfit::Base(_, why)) => Err(Error::BadMap(why)),
            Err(Unfit::Unproven(why)) => {
                progress.event(MAP_UNUSED, &format!("the map is not used: {why}"));
                Ok(None)
            }
        }
    }

    /// The ranges of the map that lies beside the image, if there is one that proves anything.
    fn beside(
        &self,
        frozen: &Frozen,
        (image, current): (&ImageRecord, &Generation),
        progress: &dyn Progress,
    ) -> Result<Option<Ranges>> {
        if self.maps_are_off()? {
            return Ok(None);
        }
        let why = match beside(self.disk.as_ref(), &facts(frozen, (image, current)))? {
            None => return Ok(None),
            Some(Ok(ranges)) => return Ok(Some(ranges)),
            // It did its work for an earlier generation and lies about.
            Some(Err(Unfit::Base(base, _)))
                if self.history(&image.name)?.iter().any(|earlier| base.is_of(earlier)) =>
            {
                return Ok(None);
            }
            Some(Err(Unfit::Bad(why) | Unfit::Base(_, why) | Unfit::Unproven(why))) => why,
        };
        progress.event(MAP_UNUSED, &format!("the map beside the image is not used: {why}"));
        Ok(None)
    }

    /// Reads only what a map names; `None`: a sample shows that it is wrong.
    fn by_map(
        &self,
        frozen: &Frozen,
        (image, current): (&ImageRecord, &Generation),
        ranges: &Ranges,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<Option<Scanned>> {
        let data = data_extents(frozen.file.as_ref(), &frozen.path, frozen.stat.size_bytes)?;
        let (sampled, seed) = (MAP_SAMPLED_BLOCKS, sample_seed(&current.root, &frozen.stat));
        let partial = Partial { data: &data, differing: ranges, sampled, seed };
        let file = (frozen.file.as_ref(), frozen.path.as_str(), frozen.stat.size_bytes);
        let scanned = self.by_ranges(file, (image, current), &partial, spool, progress)?;
        if scanned.is_none() {
            // A file that changed under the sample says nothing about the map.
            frozen.confirm(self.disk.as_ref(), &image.name)?;
            progress.event(MAP_MISSED, "the map missed a change: maps of this store are not used");
            self.turn_maps_off()?;
        }
        Ok(scanned)
    }

    /// Reads only where the storage isn't that of the held clone; `None`: it can't be told where.
    fn by_extents(
        &self,
        frozen: &Frozen,
        (image, current): (&ImageRecord, &Generation),
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<Option<Scanned>> {
        if !frozen.is_clone() || self.extents_are_off()? {
            return Ok(None);
        }
        let Some(held) = self.held(image, &current.root)? else {
            self.note_lost(image, &current.root, progress)?;
            return Ok(None);
        };
        // One after the other: XFS takes nine times as long when both are asked at once.
        let old = held.placement().during("map", &frozen.path)?;
        let new = frozen.file.placement().during("map", &frozen.path)?;
        let Some((old, new)) = old.zip(new) else { return Ok(None) };
        let size_bytes = frozen.stat.size_bytes;
        let (data, differing) = (data_of(&new, size_bytes), differing(&old, &new, size_bytes));
        let (sampled, seed) = (EXTENTS_SAMPLED_BLOCKS, sample_seed(&current.root, &frozen.stat));
        let partial = Partial { data: &data, differing: &differing, sampled, seed };
        let file = (frozen.file.as_ref(), frozen.path.as_str(), size_bytes);
        let scanned = self.by_ranges(file, (image, current), &partial, spool, progress)?;
        if scanned.is_none() {
            progress.event(
                EXTENTS_MISSED,
                "the file system's extents missed a change: images are read whole now",
            );
            self.turn_extents_off()?;
        }
        Ok(scanned)
    }

    /// Reads only the ranges of a file (the file, its path, its size in bytes) that are said to
    /// differ; `None`: a sample of the others shows that more does.
    pub(crate) fn by_ranges(
        &self,
        (file, path, size_bytes): (&dyn DiskFile, &str, u64),
        (image, current): (&ImageRecord, &Generation),
        partial: &Partial<'_>,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<Option<Scanned>> {
        let read = self.catalog.read()?;
        let scan = Scan {
            file,
            path,
            size_bytes,
            chunker: &self.chunker,
            known: Some(Known { read: &read, image: image.id, size_bytes: current.size_bytes }),
            data: partial.data,
            differing: Some(partial.differing),
            threads: self.options.scan_threads,
            progress,
        };
        let sampled = scan.sample(partial.differing, partial.seed, partial.sampled)?;
        let Some(sampled) = sampled else { return Ok(None) };
        let mut scanned = scan.run(&mut |changed| self.push(spool, changed))?;
        scanned.bytes_read += sampled;
        Ok(Some(scanned))
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

/// Event: extents missed a change.
pub(crate) const EXTENTS_MISSED: &str = "EXTENTS_MISSED";
/// Event: a map of changes was there and could not be used.
const MAP_UNUSED: &str = "MAP_UNUSED";
/// Event: a map of changes lacked one.
const MAP_MISSED: &str = "MAP_MISSED";

fn facts<'a>(frozen: &'a Frozen, (image, current): (&'a ImageRecord, &'a Generation)) -> Facts<'a> {
    Facts { image, current, stat: &frozen.stat, settled: frozen.settled }
}

/// Chooses the sample: another one each time, and the same again in a replay.
pub(crate) fn sample_seed(root: &Root, stat: &Stat) -> u64 {
    let (first, _) = root.as_bytes().split_first_chunk().expect("a root has 32 bytes");
    u64::from_le_bytes(*first) ^ stat.ctime_ns as u64 ^ stat.inode.rotate_left(32)
}
