//! Held bases: where reflinks work, a clone of what was recorded last is kept, so that the next
//! change can be found by comparing where storage lies. It costs the storage of what changes in
//! the image from then on, and gives way when room is short.

use blockferry_delta::{ImageName, Root};

use crate::catalog::{Checkpoint, Held, ImageRecord};
use crate::disk::{DiskFile, Kind, Open};
use crate::error::{IoContext, Result};
use crate::freeze::Frozen;
use crate::layout::{BASE, base_path};
use crate::store::{HoldBase, Store};

/// An image with so many generations in [`BUSY_MS`] is written all day: a held clone would make its
/// owner's writes copy-on-write for little.
const BUSY_GENERATIONS: usize = 12;
/// Twelve hours, in milliseconds.
const BUSY_MS: i64 = 12 * 3600 * 1000;

impl Store {
    /// The held clone of an image, if it is of the content with `root` and nobody touched it.
    pub(crate) fn held(
        &self,
        image: &ImageRecord,
        root: &Root,
    ) -> Result<Option<Box<dyn DiskFile>>> {
        let Some(held) = self.catalog.read()?.held(image.id)? else { return Ok(None) };
        let path = base_path(&image.name);
        let Some(stat) = self.disk.stat(&path).during("look at", &path)? else { return Ok(None) };
        let ours = Root::from_bytes(held.root.into()) == *root
            && stat.kind == Kind::File
            && Checkpoint::of(&stat) == held.checkpoint;
        if !ours {
            return Ok(None);
        }
        self.disk.open(&path, Open::Read).during("open", &path).map(Some)
    }

    /// Keeps the frozen clone of an image, whose content has `root`, in place of the one held
    /// before. The record counts once it is in the catalog. `None`: nothing is to be held.
    pub(crate) fn hold(
        &self,
        name: &ImageName,
        frozen: &mut Frozen,
        root: &Root,
        now_unix_ms: i64,
    ) -> Result<Option<Held>> {
        let path = base_path(name);
        let wanted = frozen.is_clone()
            && match self.options.hold_base {
                HoldBase::Always => true,
                HoldBase::Never => false,
                HoldBase::Auto => !self.is_busy(name, now_unix_ms)?,
            }
            && !self.extents_are_off()?;
        if !wanted || frozen.file.placement().during("map", &frozen.path)?.is_none() {
            self.disk.remove_file(&path).during("remove", &path)?;
            return Ok(None);
        }
        frozen.keep(self.disk.as_ref(), &path)?;
        let stat = self.disk.stat(&path).during("look at", &path)?;
        let root = (*root.as_bytes()).into();
        Ok(stat.map(|stat| Held { root, checkpoint: Checkpoint::of(&stat) }))
    }

    /// Is the image written all day?
    fn is_busy(&self, name: &ImageName, now_unix_ms: i64) -> Result<bool> {
        let read = self.catalog.read()?;
        let Some(image) = read.image(name)? else { return Ok(false) };
        let generations = read.generations(image.id, name)?;
        let before = generations.get(BUSY_GENERATIONS - 1);
        Ok(before.is_some_and(|g| now_unix_ms.saturating_sub(g.recorded_unix_ms) < BUSY_MS))
    }

    /// Gives up all held clones, because room is short.
    pub(crate) fn drop_held(&self) -> Result<()> {
        let write = self.catalog.write()?;
        let mut dropped = false;
        for image in write.images()? {
            if write.held(image.id)?.is_some() {
                let path = base_path(&image.name);
                self.disk.remove_file(&path).during("remove", &path)?;
                write.put_held(image.id, None)?;
                dropped = true;
            }
        }
        if dropped {
            self.disk.sync_dir(BASE).during("sync", BASE)?;
            write.commit()?;
        }
        Ok(())
    }

    /// Did extents miss a change in this store?
    pub fn extents_are_off(&self) -> Result<bool> {
        Ok(self.catalog.read()?.mark(EXTENTS_OFF)? != 0)
    }

    pub(crate) fn turn_extents_off(&self) -> Result<()> {
        let write = self.catalog.write()?;
        write.put_mark(EXTENTS_OFF, 1)?;
        write.commit()
    }
}

/// Key in the catalog: extents missed a change here.
const EXTENTS_OFF: &str = "extents_off";
