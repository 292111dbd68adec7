//! Held bases: where reflinks work, a clone of what was recorded last is kept, so that the next
//! change can be found by comparing where storage lies; and the clone before it, which is what peers
//! still have, for dictionaries. They cost the storage of what changes in the image from then on,
//! and give way when room is short.

use blockferry_delta::{ImageName, Root};
use minicbor::bytes::ByteArray;

use crate::catalog::{Checkpoint, Discover, Held, HeldBefore, ImageRecord};
use crate::disk::{DiskFile, Kind, Open, RenameHow};
use crate::error::{IoContext, Result};
use crate::freeze::{Frozen, open_live};
use crate::layout::{BASE, BEFORE, base_path, before_path};
use crate::scan::Progress;
use crate::store::{HoldBase, Store};

/// An image with so many generations in [`BUSY_MS`] is written all day: a held clone would make its
/// owner's writes copy-on-write for little.
const BUSY_GENERATIONS: usize = 12;
/// Twelve hours, in milliseconds.
const BUSY_MS: i64 = 12 * 3600 * 1000;

impl Store {
    /// The held clone of an image's content with `root`, if there is one that nobody touched.
    pub(crate) fn held(
        &self,
        image: &ImageRecord,
        root: &Root,
    ) -> Result<Option<Box<dyn DiskFile>>> {
        let Some(held) = self.catalog.read()?.held(image.id)? else { return Ok(None) };
        let last = (base_path(&image.name), held.root, held.checkpoint);
        let before = held.before.map(|b| (before_path(&image.name), b.root, b.checkpoint));
        for (path, of, checkpoint) in std::iter::once(last).chain(before) {
            if Root::from_bytes(of.into()) == *root && self.is_untouched(&path, &checkpoint)? {
                return self.disk.open(&path, Open::Read).during("open", &path).map(Some);
            }
        }
        Ok(None)
    }

    /// If a clone of the content with `root` should be held and isn't, that is told, and its record
    /// is dropped, so that it is told once: whoever reads the image instead makes another.
    pub(crate) fn note_lost(
        &self,
        image: &ImageRecord,
        root: &Root,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Some(held) = self.catalog.read()?.held(image.id)? else { return Ok(()) };
        let root = ByteArray::from(*root.as_bytes());
        if held.root != root && held.before.is_none_or(|before| before.root != root) {
            return Ok(());
        }
        let text = "the clone held of what was recorded is gone or was touched: \
                    what changed is found without it";
        progress.event(BASE_LOST, text);
        self.remove_held(&image.name)?;
        let write = self.catalog.write()?;
        write.put_held(image.id, None)?;
        write.commit()
    }

    /// Is the last held clone of an image one of the content with `root`, and untouched?
    pub(crate) fn is_held_last(&self, image: &ImageRecord, root: &Root) -> Result<bool> {
        let Some(held) = self.catalog.read()?.held(image.id)? else { return Ok(false) };
        Ok(Root::from_bytes(held.root.into()) == *root
            && self.is_untouched(&base_path(&image.name), &held.checkpoint)?)
    }

    fn is_untouched(&self, path: &str, checkpoint: &Checkpoint) -> Result<bool> {
        let stat = self.disk.stat(path).during("look at", path)?;
        Ok(stat.is_some_and(|s| s.kind == Kind::File && Checkpoint::of(&s) == *checkpoint))
    }

    /// What of a record of held clones is still there as it was.
    pub(crate) fn left_of(&self, name: &ImageName, mut held: Held) -> Result<Option<Held>> {
        if !self.is_untouched(&base_path(name), &held.checkpoint)? {
            return Ok(None);
        }
        if let Some(before) = &held.before
            && !self.is_untouched(&before_path(name), &before.checkpoint)?
        {
            held.before = None;
        }
        Ok(Some(held))
    }

    /// Keeps the frozen clone of an image, whose content has `root`, as the last, and the one held
    /// so far as the one before. The record counts once it is in the catalog. `discover`: how it was
    /// found. `None`: nothing is to be held.
    pub(crate) fn hold(
        &self,
        name: &ImageName,
        image: Option<&ImageRecord>,
        frozen: &mut Frozen,
        (root, discover): (&Root, Discover),
        now_unix_ms: i64,
    ) -> Result<Option<Held>> {
        // An image that somebody goes on writing can only be sent from its clone.
        let wanted = frozen.is_clone()
            && (frozen.written || self.serves(name, frozen, discover, now_unix_ms)?);
        if !wanted {
            self.remove_held(name)?;
            return Ok(None);
        }
        let before = self.hold_before(name, image, root)?;
        let path = base_path(name);
        frozen.keep(self.disk.as_ref(), &path)?;
        let stat = self.disk.stat(&path).during("look at", &path)?;
        let root = (*root.as_bytes()).into();
        Ok(stat.map(|stat| Held { root, checkpoint: Checkpoint::of(&stat), before }))
    }

    /// Makes the clone held so far the one before, if it is of another content than `root`.
    fn hold_before(
        &self,
        name: &ImageName,
        image: Option<&ImageRecord>,
        root: &Root,
    ) -> Result<Option<HeldBefore>> {
        let held = image.map_or(Ok(None), |image| self.catalog.read()?.held(image.id))?;
        let held = held.map_or(Ok(None), |held| self.left_of(name, held))?;
        let (base, path) = (base_path(name), before_path(name));
        let Some(held) = held else {
            self.disk.remove_file(&path).during("remove", &path)?;
            return Ok(None);
        };
        if Root::from_bytes(held.root.into()) == *root {
            return Ok(held.before);
        }
        self.disk.rename(&base, &path, RenameHow::Replace).during("rename", &base)?;
        let stat = self.disk.stat(&path).during("look at", &path)?;
        Ok(stat.map(|stat| HeldBefore { root: held.root, checkpoint: Checkpoint::of(&stat) }))
    }

    pub(crate) fn remove_held(&self, name: &ImageName) -> Result<()> {
        for path in [base_path(name), before_path(name)] {
            self.disk.remove_file(&path).during("remove", &path)?;
        }
        Ok(())
    }

    /// Is the clone worth its room as what the next change is compared with?
    fn serves(
        &self,
        name: &ImageName,
        frozen: &Frozen,
        discover: Discover,
        now_unix_ms: i64,
    ) -> Result<bool> {
        let wanted = match self.options.hold_base {
            HoldBase::Always => true,
            HoldBase::Never => false,
            HoldBase::Auto => !self.is_busy(name, now_unix_ms)?,
        };
        Ok(wanted
            && !self.extents_are_off()?
            // Listing its pieces takes time: whether it can be done may be known.
            && (discover == Discover::Extents
                || frozen.file.placement().during("map", &frozen.path)?.is_some()))
    }

    /// Opens a file that holds what was recorded of an image as `root`: the held clone, to which
    /// nobody writes, or the image's own file if it is untouched since.
    pub(crate) fn content(
        &self,
        image: &ImageRecord,
        root: &Root,
    ) -> Result<Option<Box<dyn DiskFile>>> {
        if let Some(held) = self.held(image, root)? {
            return Ok(Some(held));
        }
        let live = image.name.as_str();
        let file = open_live(self.disk.as_ref(), &image.name)?;
        let stat = file.stat().during("look at", live)?;
        Ok((image.checkpoint == Some(Checkpoint::of(&stat))).then_some(file))
    }

    /// Is the image written all day?
    fn is_busy(&self, name: &ImageName, now_unix_ms: i64) -> Result<bool> {
        let read = self.catalog.read()?;
        let Some(image) = read.image(name)? else { return Ok(false) };
        let generations = read.generations(image.id, name)?;
        let before = generations.get(BUSY_GENERATIONS - 1);
        Ok(before.is_some_and(|g| now_unix_ms.saturating_sub(g.recorded_unix_ms) < BUSY_MS))
    }

    /// Gives up held clones, because room is short; those of images that somebody works on stay: he
    /// may have put a new one in place and not recorded it yet. `own`: the image that the caller has
    /// claimed.
    pub(crate) fn drop_held(&self, own: &ImageName) -> Result<()> {
        let write = self.catalog.write()?;
        // Given up after the commit: until then nobody may miss what is gone already.
        let mut claims = Vec::new();
        let mut dropped = false;
        for image in write.images()? {
            if write.held(image.id)?.is_none() {
                continue;
            }
            if image.name != *own {
                let Some(claim) = self.claims.upkeep(&image.name) else { continue };
                claims.push(claim);
            }
            self.remove_held(&image.name)?;
            write.put_held(image.id, None)?;
            dropped = true;
        }
        if dropped {
            self.disk.sync_dir(BASE).during("sync", BASE)?;
            self.disk.sync_dir(BEFORE).during("sync", BEFORE)?;
            write.commit()?;
        }
        Ok(())
    }

    /// Did extents miss a change in this store?
    pub fn extents_are_off(&self) -> Result<bool> {
        Ok(self.catalog.read()?.mark(EXTENTS_OFF)? != 0)
    }

    pub(crate) fn turn_extents_off(&self) -> Result<()> {
        self.set_mark(EXTENTS_OFF)
    }

    /// Did a map of changes miss one in this store?
    pub fn maps_are_off(&self) -> Result<bool> {
        Ok(self.catalog.read()?.mark(MAPS_OFF)? != 0)
    }

    pub(crate) fn turn_maps_off(&self) -> Result<()> {
        self.set_mark(MAPS_OFF)
    }

    fn set_mark(&self, key: &str) -> Result<()> {
        let write = self.catalog.write()?;
        write.put_mark(key, 1)?;
        write.commit()
    }
}

/// Event: a held clone is gone, or isn't what it was.
const BASE_LOST: &str = "BASE_LOST";
/// Key in the catalog: extents missed a change here.
const EXTENTS_OFF: &str = "extents_off";
/// Key in the catalog: a map of changes missed one here.
const MAPS_OFF: &str = "maps_off";

#[cfg(test)]
mod tests;
