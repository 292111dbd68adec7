//! Making a kept content: of a file that is in the way, of the image's present file, or of a sealed
//! staging. The row comes first and says which inode is meant and where it is; then the file is
//! renamed to its place. A crash in between is ended by recovery; before the row nothing happened.

use blockferry_delta::ImageName;

use super::{Kept, Why};
use crate::catalog::{CatalogWrite, Checkpoint, Generation, ImageRecord, KeptRecord};
use crate::claim::Claim;
use crate::commit::Received;
use crate::disk::{Disk, Open, RenameHow, Stat};
use crate::error::{Error, IoContext, Result};
use crate::freeze::{open_live, regular};
use crate::layout::{KEPT, STAGING, kept_path};
use crate::scan::data_extents;
use crate::staging::{Built, Sealed};
use crate::store::Store;

/// Why and how a content is kept.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Why.
    pub why: Why,
    /// Only [`Store::acknowledge`] releases it.
    pub pinned: bool,
    /// The generation it holds; `None`: nobody recorded it.
    pub generation: Option<Generation>,
    /// The present, milliseconds since 1970; for people only. 0: not known.
    pub now_unix_ms: i64,
}

impl Keep {
    /// What must not go before somebody has said so.
    pub fn pinned(why: Why, generation: Option<Generation>, now_unix_ms: i64) -> Self {
        Self { why, pinned: true, generation, now_unix_ms }
    }

    /// What goes with its retention.
    pub fn for_retention(why: Why, generation: Option<Generation>, now_unix_ms: i64) -> Self {
        Self { why, pinned: false, generation, now_unix_ms }
    }
}

impl Store {
    /// Keeps the image's present file as it is now, beside it: a clone where reflinks work, else a
    /// copy. The image itself is left alone. An edit that nobody recorded has no generation; what
    /// the checkpoint vouches for is the current one.
    ///
    /// # Errors
    /// [`Error::ChangedWhileReading`] when somebody writes to the image meanwhile.
    pub fn keep_present(
        &self,
        name: &ImageName,
        why: Why,
        pinned: bool,
        now_unix_ms: i64,
    ) -> Result<Kept> {
        let (_claim, stat, generation) = self.present(name)?;
        let path = format!("{STAGING}/{name}.kept");
        let copied = copy_file(self.disk.as_ref(), self.clones(), name.as_str(), &path);
        let again = regular(self.disk.as_ref(), name)?;
        if copied.is_err() || Checkpoint::of(&again) != Checkpoint::of(&stat) {
            self.disk.remove_file(&path).during("remove", &path)?;
            copied?;
            return Err(Error::ChangedWhileReading(name.clone()));
        }
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        self.synced(file.sync(), &path)?;
        drop(file);
        self.keep_file(name, &path, &Keep { why, pinned, generation, now_unix_ms })
    }

    /// Keeps the image's present file by moving it out of its place: then the image has no file. An
    /// edit that nobody recorded has no generation; what the checkpoint vouches for is the current
    /// one.
    pub fn keep_moved(
        &self,
        name: &ImageName,
        why: Why,
        pinned: bool,
        now_unix_ms: i64,
    ) -> Result<Kept> {
        let (_claim, _, generation) = self.present(name)?;
        let keep = Keep { why, pinned, generation, now_unix_ms };
        let file = open_live(self.disk.as_ref(), name)?;
        self.synced(file.sync(), name.as_str())?;
        drop(file);
        let kept = self.keep_file(name, name.as_str(), &keep)?;
        self.synced(self.disk.sync_dir(""), "store directory")?;
        Ok(kept)
    }

    /// The image's present file, claimed, and the generation that it holds.
    fn present(&self, name: &ImageName) -> Result<(Claim, Stat, Option<Generation>)> {
        self.check_marker()?;
        self.check_health()?;
        let claim = self.claim(name)?;
        let stat = regular(self.disk.as_ref(), name)?;
        let image = self.catalog.read()?.image(name)?;
        let generation = self.recorded_as(image.as_ref(), &stat)?;
        Ok((claim, stat, generation))
    }

    /// The generation that a file of an image holds, as far as its checkpoint vouches for it.
    pub(crate) fn recorded_as(
        &self,
        image: Option<&ImageRecord>,
        stat: &Stat,
    ) -> Result<Option<Generation>> {
        let point = image.and_then(|image| image.checkpoint.as_ref());
        if !point.is_some_and(|point| point.same_content(stat)) {
            return Ok(None);
        }
        self.current_of(image)
    }

    /// Keeps a sealed staging beside the image instead of making it current. The image and its
    /// history stay as they are. When it returns, the content survives a power cut.
    pub fn commit_beside(
        &self,
        sealed: Sealed,
        received: Received,
        (why, pinned): (Why, bool),
    ) -> Result<Kept> {
        self.check_health()?;
        let Sealed { claim, image, mut generation, mut path, built, spool, .. } = sealed;
        received.stamp(&mut generation);
        if let Built::Journal(redo) = built {
            let of = image.as_ref().ok_or_else(|| Error::NotFound(generation.image.clone()))?;
            (path, _) = self.convert(of, redo, &generation)?;
        }
        let name = generation.image.clone();
        let keep = Keep {
            why,
            pinned,
            generation: Some(generation),
            now_unix_ms: received.recorded_unix_ms,
        };
        let stat = self.disk.stat(&path).during("look at", &path)?;
        let stat = stat.ok_or_else(|| Error::SourceMissing(name.clone()))?;
        let write = self.catalog.write()?;
        let serial = self.note_kept(&write, &name, &path, &stat, &keep)?;
        if let Some(image) = &image {
            write.put_staged(image.id, None)?;
        }
        write.commit()?;
        let kept = self.place_kept(&name, serial, &path)?;
        spool.remove(self.disk.as_ref())?;
        drop(claim);
        Ok(kept)
    }

    /// Keeps the file at `from`, wherever in the store that is, by moving it.
    pub(crate) fn keep_file(&self, name: &ImageName, from: &str, keep: &Keep) -> Result<Kept> {
        let stat = self.disk.stat(from).during("look at", from)?;
        let stat = stat.ok_or_else(|| Error::SourceMissing(name.clone()))?;
        let write = self.catalog.write()?;
        let serial = self.note_kept(&write, name, from, &stat, keep)?;
        write.commit()?;
        self.place_kept(name, serial, from)
    }

    /// Writes the row of the file at `from`, which is (or will be) `stat`. An earlier row that meant
    /// the same file is replaced: a commit that is finished by recovery comes here twice.
    pub(crate) fn note_kept(
        &self,
        write: &CatalogWrite,
        name: &ImageName,
        from: &str,
        stat: &Stat,
        keep: &Keep,
    ) -> Result<u64> {
        let record = KeptRecord {
            why: keep.why,
            pinned: keep.pinned,
            checkpoint: Checkpoint::of(stat),
            from: from.to_owned(),
            generation: keep.generation.as_ref().map(|generation| generation.encode().into()),
            since_ms: self.service_ms()?,
            kept_unix_ms: keep.now_unix_ms,
        };
        let same = |row: &KeptRecord| row.from == from && row.checkpoint.inode == stat.inode;
        for (_, serial, row) in write.kept(Some(name))?.into_iter().filter(|row| same(&row.2)) {
            let path = kept_path(name, serial);
            if self.disk.stat(&path).during("look at", &path)?.is_none() {
                let since_ms = row.since_ms;
                write.put_kept(name, serial, Some(&KeptRecord { since_ms, ..record }))?;
                return Ok(serial);
            }
        }
        loop {
            // After the loss of a catalog there may be files of numbers that it had given.
            let serial = write.new_kept_serial()?;
            let path = kept_path(name, serial);
            if self.disk.stat(&path).during("look at", &path)?.is_none() {
                write.put_kept(name, serial, Some(&record))?;
                return Ok(serial);
            }
        }
    }

    /// Moves a file whose row is in the catalog to its place.
    pub(crate) fn place_kept(&self, name: &ImageName, serial: u64, from: &str) -> Result<Kept> {
        let path = kept_path(name, serial);
        self.disk.rename(from, &path, RenameHow::NoReplace).during("rename", &path)?;
        self.synced(self.disk.sync_dir(KEPT), KEPT)?;
        let kept = self.kept_by_serial(name, serial)?;
        let kept = kept.ok_or(Error::StoreUnsafe("somebody removes files below .blockferry"))?;
        match kept.why {
            Why::History | Why::Deleted => {}
            why => tracing::warn!(code = "SET_ASIDE", image = %name, kept = %kept.path,
                why = why.word(), "a content was set aside"),
        }
        Ok(kept)
    }
}

/// Makes `path`, a new file, hold what the file `live` holds, attributes included.
pub(crate) fn copy_file(disk: &dyn Disk, clones: bool, live: &str, path: &str) -> Result<()> {
    disk.remove_file(path).during("remove", path)?;
    let from = disk.open(live, Open::Read).during("open", live)?;
    let size_bytes = from.stat().during("look at", live)?.size_bytes;
    if !(clones && disk.clone_file(live, path).during("clone", live)?) {
        let file = disk.open(path, Open::CreateNew).during("create", path)?;
        file.set_len(size_bytes).during("set the length of", path)?;
        let extents = data_extents(from.as_ref(), live, size_bytes)?;
        let extents: Vec<_> =
            extents.into_iter().map(|(start, end)| (start, end - start)).collect();
        disk.copy_extents(live, path, &extents).during("copy", live)?;
    }
    let meta = from.meta().during("read attributes of", live)?;
    let file = disk.open(path, Open::ReadWrite).during("open", path)?;
    file.set_meta(&meta).during("set attributes of", path)?;
    Ok(())
}
