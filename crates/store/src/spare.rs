//! Spares: where the filesystem has no reflinks, the content a commit replaced is kept and brought
//! up to date with the current one, so that the next staging needn't copy the whole image. A spare
//! is a convenience: it gives way when room is short, and is only built upon when nobody has it
//! open, because a reader keeps the file that it opened.

use blockferry_delta::{
    BLOCK_BYTES, ImageName, PAGE_BYTES, PAGES_PER_BLOCK, SEGMENT_BYTES, changed_blocks,
    segment_count, segment_len,
};

use crate::catalog::{CatalogRead, Checkpoint, ImageRecord, Spare};
use crate::disk::{Kind, Lease, Open};
use crate::error::{IoContext, Result};
use crate::layout::{SPARE, spare_path};
use crate::scan::Progress;
use crate::store::{MapOf, Store};

/// Bytes that are copied between two looks at how fast that may be.
const BATCH_BYTES: u64 = 8 << 20;

/// Byte ranges that differ between two contents: to be copied and to become holes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) copy: Vec<(u64, u64)>,
    pub(crate) zero: Vec<(u64, u64)>,
}

/// What has to be done to `from` to make it `to`, by their block maps.
pub(crate) fn difference(read: &CatalogRead, from: &MapOf, to: &MapOf) -> Result<Difference> {
    let mut found = Difference::default();
    for segment in 0..segment_count(to.size_bytes) {
        let (Some(new), old) = (to.segment(read, segment)?, from.segment(read, segment)?) else {
            continue;
        };
        let start = u64::from(segment) * SEGMENT_BYTES;
        let Some(blocks) =
            changed_blocks(segment, &new, to.size_bytes, old.as_ref(), from.size_bytes)
        else {
            push(&mut found.zero, start, segment_len(segment, to.size_bytes) as u64);
            continue;
        };
        for block in blocks {
            for page in 0..PAGES_PER_BLOCK {
                let offset = block.index * BLOCK_BYTES as u64 + (page * PAGE_BYTES) as u64;
                let bytes = to.size_bytes.saturating_sub(offset).min(PAGE_BYTES as u64);
                match (block.dirty & (1 << page) != 0, block.zero & (1 << page) != 0) {
                    (true, true) => push(&mut found.zero, offset, bytes),
                    (true, false) => push(&mut found.copy, offset, bytes),
                    _ => {}
                }
            }
        }
    }
    Ok(found)
}

fn push(list: &mut Vec<(u64, u64)>, offset: u64, bytes: u64) {
    match list.last_mut() {
        _ if bytes == 0 => {}
        Some((at, len)) if *at + *len == offset => *len += bytes,
        _ => list.push((offset, bytes)),
    }
}

/// Extents in runs of about so many bytes: what is copied between two looks at the rate.
fn batches(extents: &[(u64, u64)]) -> impl Iterator<Item = &[(u64, u64)]> {
    let mut taken = 0;
    extents.chunk_by(move |(_, bytes), _| {
        taken += bytes;
        if taken < BATCH_BYTES {
            return true;
        }
        taken = 0;
        false
    })
}

impl Store {
    /// The spare of an image, if it is what its record says and nobody has it open.
    pub(crate) fn usable_spare(&self, image: &ImageRecord) -> Result<Option<Spare>> {
        let Some(spare) = self.catalog.read()?.spare(image.id)? else { return Ok(None) };
        let path = spare_path(&image.name);
        let Some(stat) = self.disk.stat(&path).during("look at", &path)? else { return Ok(None) };
        let known = spare.number >= image.oldest_map && spare.number <= image.current;
        if !known || stat.kind != Kind::File || stat.links != 1 {
            return Ok(None);
        }
        if Checkpoint::of(&stat) != spare.checkpoint {
            return Ok(None);
        }
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        let free = file.sole_opener().during("ask for a lease on", &path)? == Lease::Free;
        Ok(free.then_some(spare))
    }

    /// Makes the file at `path`, which holds generation `number`, hold the current one, by copying
    /// what differs from the image's file.
    pub(crate) fn bring_forward(
        &self,
        path: &str,
        image: &ImageRecord,
        number: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        let read = self.catalog.read()?;
        let map = |number: u64| -> Result<Option<MapOf>> {
            let generation = read.generation(image.id, &image.name, number)?;
            Ok(generation.map(|g| MapOf {
                image: image.id,
                number,
                current: image.current,
                size_bytes: g.size_bytes,
            }))
        };
        let (Some(from), Some(to)) = (map(number)?, map(image.current)?) else {
            return Err(crate::error::Error::NotFound(image.name.clone()));
        };
        let file = self.disk.open(path, Open::ReadWrite).during("open", path)?;
        if from.size_bytes != to.size_bytes {
            file.set_len(to.size_bytes).during("set the length of", path)?;
        }
        if number != image.current {
            let difference = difference(&read, &from, &to)?;
            let live = image.name.as_str();
            for extents in batches(&difference.copy) {
                progress.reading(extents.iter().map(|(_, bytes)| bytes).sum());
                self.disk.copy_extents(live, path, extents).during("copy to", path)?;
            }
            for (offset, bytes) in difference.zero {
                file.punch(offset, bytes).during("punch", path)?;
            }
        }
        Ok(())
    }

    /// Brings the spare of an image up to date, in the quiet after a commit. Returns whether there
    /// is one that is current now; an image that is being worked on is left alone.
    pub fn freshen_spare(&self, name: &ImageName) -> Result<bool> {
        self.freshen_spare_with(name, &())
    }

    /// The same; `progress` hears what is read.
    pub fn freshen_spare_with(&self, name: &ImageName, progress: &dyn Progress) -> Result<bool> {
        let Some(_claim) = self.claims.upkeep(name) else { return Ok(false) };
        let Some(image) = self.catalog.read()?.image(name)? else { return Ok(false) };
        if !self.at_checkpoint(name, image.checkpoint.as_ref())? {
            return Ok(false);
        }
        let Some(spare) = self.usable_spare(&image)? else { return Ok(false) };
        if spare.number == image.current {
            return Ok(true);
        }
        // While it is neither one generation nor the other, no record speaks for it.
        let write = self.catalog.write()?;
        write.put_spare(image.id, None)?;
        write.commit()?;
        let path = spare_path(name);
        self.bring_forward(&path, &image, spare.number, progress)?;
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        self.synced(file.sync(), &path)?;
        file.forget().during("forget", &path)?;
        drop(file);
        let current = self.current_of(Some(&image))?;
        let stat = self.disk.stat(&path).during("look at", &path)?;
        let (Some(current), Some(stat)) = (current, stat) else { return Ok(false) };
        let spare = Spare {
            number: current.number,
            root: (*current.root.as_bytes()).into(),
            checkpoint: Checkpoint::of(&stat),
        };
        let write = self.catalog.write()?;
        write.put_spare(image.id, Some(&spare))?;
        write.commit()?;
        Ok(true)
    }

    /// Gives up all spares but that of `except`, because room is short. Returns the bytes that came
    /// free.
    pub(crate) fn drop_spares(&self, except: Option<&ImageName>) -> Result<u64> {
        // One transaction: no commit puts a spare away meanwhile.
        let write = self.catalog.write()?;
        let (mut freed, mut dropped) = (0, false);
        for image in write.images()? {
            if Some(&image.name) == except || write.spare(image.id)?.is_none() {
                continue;
            }
            let path = spare_path(&image.name);
            if let Some(stat) = self.disk.stat(&path).during("look at", &path)? {
                freed += stat.allocated_bytes;
                self.disk.remove_file(&path).during("remove", &path)?;
            }
            write.put_spare(image.id, None)?;
            dropped = true;
        }
        if dropped {
            self.disk.sync_dir(SPARE).during("sync", SPARE)?;
            write.commit()?;
        }
        Ok(freed)
    }
}
