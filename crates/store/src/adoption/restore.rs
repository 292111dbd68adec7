//! The way back from `active`: what was replaced takes its place again, the very file, and what was
//! brought goes beside it. What is known of these images is forgotten: they are the old tool's, found
//! here, and older than whatever somebody made. Images that nobody replaced aren't touched.
//!
//! Each image by itself, and each of its states can be told from what lies where: a file that hasn't
//! changed places yet is still the inode that its row names.

use std::collections::BTreeSet;

use blockferry_delta::ImageName;

use crate::catalog::{Checkpoint, Discover, ImageRecord, KeptRecord};
use crate::disk::{Lease, RenameHow, Stat};
use crate::error::{Error, IoContext, Result};
use crate::freeze::{open_live, regular};
use crate::kept::{Keep, Why};
use crate::layout::{KEPT, kept_path, spare_path};
use crate::store::Store;

impl Store {
    /// Puts everything back as the old tool had it.
    pub(super) fn restore_all(&self) -> Result<()> {
        let read = self.catalog.read()?;
        let rows = read.kept(None)?.into_iter().filter(|(_, _, row)| row.why == Why::OldTool);
        let mut names: BTreeSet<ImageName> = rows.map(|(name, ..)| name).collect();
        for image in read.images()? {
            if !read.is_in_inventory(&image.name)? {
                names.insert(image.name);
            }
        }
        drop(read);
        names.iter().try_for_each(|name| self.restore(name))
    }

    fn restore(&self, name: &ImageName) -> Result<()> {
        let _claim = self.claim(name)?;
        let read = self.catalog.read()?;
        let mut rows = read.kept(Some(name))?.into_iter();
        let old = rows.find(|(_, _, row)| row.why == Why::OldTool);
        let image = read.image(name)?;
        drop(read);
        match old {
            Some((_, serial, row)) => self.put_back(name, image.as_ref(), serial, row),
            None => self.take_out(name, image),
        }
    }

    /// The old tool's file takes its place; what is there goes where it was.
    fn put_back(
        &self,
        name: &ImageName,
        image: Option<&ImageRecord>,
        serial: u64,
        row: KeptRecord,
    ) -> Result<()> {
        let path = kept_path(name, serial);
        let kept = self.disk.stat(&path).during("look at", &path)?;
        let here = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        match (kept, here) {
            (Some(kept), Some(_)) if kept.inode == row.checkpoint.inode => {
                self.not_written(name)?;
                self.disk
                    .rename(&path, name.as_str(), RenameHow::Exchange)
                    .during("rename", &path)?;
            }
            (Some(kept), None) if kept.inode == row.checkpoint.inode => {
                // If the power goes in between, recovery looks for it there and moves it back.
                let write = self.catalog.write()?;
                let from = name.to_string();
                write.put_kept(name, serial, Some(&KeptRecord { from, ..row }))?;
                write.commit()?;
                self.disk
                    .rename(&path, name.as_str(), RenameHow::NoReplace)
                    .during("rename", &path)?;
            }
            // They have changed places already, or it is in its place.
            _ => {}
        }
        self.synced(self.disk.sync_dir(""), "store directory")?;
        self.synced(self.disk.sync_dir(KEPT), KEPT)?;
        let beside = self.disk.stat(&path).during("look at", &path)?;
        let beside = beside.map(|stat| self.row_beside(image, &path, &stat)).transpose()?;
        let write = self.catalog.write()?;
        write.put_kept(name, serial, beside.as_ref())?;
        if let Some(image) = image {
            write.forget_image(image.id)?;
            let (current, checkpoint, oldest_map) = (0, None, 1);
            let (adopted, deleted) = (true, false);
            let (name, id) = (name.clone(), image.id);
            write.put_image(&ImageRecord {
                name,
                id,
                current,
                checkpoint,
                oldest_map,
                adopted,
                deleted,
            })?;
        }
        write.commit()?;
        self.drop_helpers(name)
    }

    /// What the old tool never had and a peer brought goes beside the images.
    fn take_out(&self, name: &ImageName, image: Option<ImageRecord>) -> Result<()> {
        let Some(image) = image else { return Ok(()) };
        let read = self.catalog.read()?;
        if read.is_in_inventory(name)? {
            return Ok(());
        }
        drop(read);
        let current = self.current_of(Some(&image))?;
        if current.is_none_or(|current| current.discover != Discover::Received) {
            // Somebody made it here, or on top of what came.
            return Ok(());
        }
        match regular(self.disk.as_ref(), name) {
            Err(Error::SourceMissing(_)) => {}
            // Whatever that is, no peer brought it.
            Err(Error::NotRegular(_)) => return Ok(()),
            Err(other) => return Err(other),
            Ok(stat) => {
                self.not_written(name)?;
                let Some(generation) = self.recorded_as(Some(&image), &stat)? else {
                    return Ok(());
                };
                let file = open_live(self.disk.as_ref(), name)?;
                self.synced(file.sync(), name.as_str())?;
                drop(file);
                let keep = Keep::pinned(Why::Shadow, Some(generation), 0);
                self.keep_file(name, name.as_str(), &keep)?;
                self.synced(self.disk.sync_dir(""), "store directory")?;
            }
        }
        let write = self.catalog.write()?;
        write.put_staged(image.id, None)?;
        write.forget_image(image.id)?;
        write.remove_image(name)?;
        write.commit()?;
        self.drop_helpers(name)
    }

    /// The row of what was in the old tool's place: a received content that can be taken again, or
    /// something that somebody has changed since.
    fn row_beside(
        &self,
        image: Option<&ImageRecord>,
        path: &str,
        stat: &Stat,
    ) -> Result<KeptRecord> {
        let generation = self.recorded_as(image, stat)?;
        Ok(KeptRecord {
            why: if generation.is_some() { Why::Shadow } else { Why::Edit },
            pinned: true,
            checkpoint: Checkpoint::of(stat),
            from: path.to_owned(),
            generation: generation.map(|generation| generation.encode().into()),
            since_ms: self.service_ms()?,
            kept_unix_ms: 0,
        })
    }

    fn not_written(&self, name: &ImageName) -> Result<()> {
        regular(self.disk.as_ref(), name)?;
        let file = open_live(self.disk.as_ref(), name)?;
        match file.writer_free().during("ask for a lease on", name.as_str())? {
            Lease::Held => Err(Error::InUse(name.clone())),
            _ => Ok(()),
        }
    }

    /// Held clones and spares are of contents that nothing is known of any more.
    fn drop_helpers(&self, name: &ImageName) -> Result<()> {
        self.remove_held(name)?;
        let spare = spare_path(name);
        self.disk.remove_file(&spare).during("remove", &spare)
    }
}
