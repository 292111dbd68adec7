//! Recovery: what a crash left is finished or dropped before the store serves anybody. Each step
//! can be repeated: a crash during recovery is no different from any other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use blockferry_delta::ImageName;

use crate::catalog::{Generation, ImageRecord, Prepared};
use crate::commit_set::Prep;
use crate::disk::{Open, RenameHow, Stat};
use crate::error::{Error, IoContext, Result};
use crate::journal::Replayed;
use crate::layout::{
    BASE, BEFORE, SPARE, STAGING, TRASH, base_path, before_path, half_path, spare_path,
};
use crate::spool::{self, Entries, Spool};
use crate::store::Store;

/// What opening a store had to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Commits that were finished.
    pub finished: Vec<ImageName>,
    /// Commits that were dropped: the old content stays.
    pub abandoned: Vec<ImageName>,
    /// Stagings that can be resumed.
    pub resumable: usize,
    /// The catalog could not be read: it was set aside, and a new one is being filled.
    pub catalog_made_anew: bool,
    /// Files removed because nothing refers to them.
    pub removed: usize,
}

impl RecoveryReport {
    pub(crate) fn note(&mut self, image: &ImageRecord, finished: bool) {
        let list = if finished { &mut self.finished } else { &mut self.abandoned };
        list.push(image.name.clone());
    }
}

impl Store {
    pub(crate) fn recover(&self) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        let read = self.catalog.read()?;
        let images = read.images()?;
        let mut alone = Vec::new();
        let mut sets: BTreeMap<u32, Vec<Prep<'_>>> = BTreeMap::new();
        for (id, prepared) in read.prepared()? {
            let image = images.iter().find(|image| image.id == id);
            let image = image.ok_or_else(|| Error::Corrupt {
                what: "a prepared commit",
                detail: format!("image {id} has no record"),
            })?;
            match prepared.set {
                Some(part) => sets.entry(part.token).or_default().push((image, prepared)),
                None => alone.push((image, prepared)),
            }
        }
        drop(read);
        // A set that goes back needs what it had displaced where it is.
        let mut placed = Vec::new();
        for members in sets.into_values() {
            placed.extend(self.settle_members(members, &mut report)?);
        }
        // What commits had displaced is among it.
        self.recover_kept()?;
        for (image, prepared) in &alone {
            report.note(image, self.finish(image, prepared, false)?);
        }
        for (image, prepared) in &placed {
            report.note(image, self.finish(image, prepared, true)?);
        }
        self.tidy(&mut report)?;
        Ok(report)
    }

    /// Finishes a prepared commit if its content is there, wherever it is. `must`: it is one of a
    /// set that goes forward.
    fn finish(&self, image: &ImageRecord, prepared: &Prepared, must: bool) -> Result<bool> {
        if prepared.journal.is_none() {
            return self.finish_whole(image, prepared);
        }
        let replayed = match self.shut_place(image, prepared)? {
            Some((at, here)) => {
                let replayed = self.replay(image, prepared, (&at, here), must)?;
                let is_named = at == image.name.as_str() || self.bring_back(&image.name)?;
                if is_named { replayed } else { Replayed::Dropped }
            }
            None => Replayed::Dropped,
        };
        match replayed {
            Replayed::Held => {
                let (image, prepared) = self.prepare_copy(image, prepared)?;
                self.finish_whole(&image, &prepared)
            }
            Replayed::Done(sealed) => {
                let prepared = Prepared { sealed, ..prepared.clone() };
                self.finish_records(image, &prepared)
            }
            Replayed::Dropped => {
                self.give_up(image.id, prepared)?;
                Ok(false)
            }
        }
    }

    /// Where the file is into which a journal goes: under its name, or hidden half done.
    pub(crate) fn shut_place(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
    ) -> Result<Option<(String, Stat)>> {
        for path in [image.name.to_string(), half_path(&image.name)] {
            let stat = self.disk.stat(&path).during("look at", &path)?;
            if let Some(stat) = stat.filter(|stat| Some(stat.inode) == prepared.replaces) {
                return Ok(Some((path, stat)));
            }
        }
        Ok(None)
    }

    /// A file that was hidden half done, and is the old generation or the new one by now, gets its
    /// name. `false`: somebody took that.
    pub(crate) fn bring_back(&self, name: &ImageName) -> Result<bool> {
        let half = half_path(name);
        if self.disk.stat(&half).during("look at", &half)?.is_none() {
            return Ok(true);
        }
        match self.disk.rename(&half, name.as_str(), RenameHow::NoReplace) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            renamed => renamed.during("rename", &half)?,
        }
        self.synced(self.disk.sync_dir(""), "store directory")?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)?;
        Ok(true)
    }

    /// The same for a file that was to become the image.
    pub(crate) fn finish_whole(&self, image: &ImageRecord, prepared: &Prepared) -> Result<bool> {
        let name = &image.name;
        let here = |path: &str| self.disk.stat(path).during("look at", path);
        let is_new = |stat: Option<Stat>| stat.is_some_and(|stat| stat.inode == prepared.inode);
        if !is_new(here(name.as_str())?) {
            let staged = is_new(here(&prepared.staging)?);
            let free = self.check_target(name, Some(image));
            let expects = here(name.as_str())?.map(|stat| stat.inode) == prepared.replaces;
            if !staged || !expects || free.is_err() {
                self.give_up(image.id, prepared)?;
                return Ok(false);
            }
            self.take_place(name, prepared)?;
        }
        // The rename may have been seen and still not be durable.
        self.synced(self.disk.sync_dir(""), "store directory")?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)?;
        self.finish_records(image, prepared)
    }

    /// The new content is in its place: the catalog learns of it.
    fn finish_records(&self, image: &ImageRecord, prepared: &Prepared) -> Result<bool> {
        let generation = Generation::decode(&image.name, &prepared.generation)?;
        let disk = self.disk.as_ref();
        let whole = match &prepared.spool_sum {
            Some(sum) => spool::is_whole(disk, &prepared.spool, sum)?,
            None => true,
        };
        if !whole {
            return self.finish_by_scan(image, prepared, generation);
        }
        self.make_current(image, prepared, generation, &Entries::Persisted(disk, &prepared.spool))?;
        Ok(true)
    }

    /// The new content took its place, but what was known of it is lost: it is read again. Content
    /// that somebody wrote to since is a local change on top of the old generation.
    fn finish_by_scan(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
        generation: Generation,
    ) -> Result<bool> {
        let path = image.name.as_str();
        tracing::warn!(image = path, "a spool is damaged: the image is read again");
        let file = self.disk.open(path, Open::Read).during("open", path)?;
        let size = file.stat().during("look at", path)?.size_bytes;
        let current = self.current_of(Some(image))?;
        let mut spool = Spool::new(format!("{STAGING}/{path}.again.spool"));
        let known = current.is_some().then_some(image);
        let file = (file.as_ref(), path, size);
        let scanned = self.scan(file, known, current.as_ref(), &mut spool, &())?;
        let right = scanned.root == generation.root && size == generation.size_bytes;
        if right {
            self.make_current(image, prepared, generation, &Entries::Spool(&spool))?;
        } else {
            let spare = match prepared.journal {
                Some(_) => None,
                None => self.put_away(image, prepared)?,
            };
            let write = self.catalog.write()?;
            write.put_image(&ImageRecord { checkpoint: None, ..image.clone() })?;
            write.put_spare(image.id, spare.as_ref())?;
            write.put_prepared(image.id, None)?;
            write.put_staged(image.id, None)?;
            write.commit()?;
            if prepared.journal.is_some() {
                self.drop_journal(&image.name, prepared)?;
            }
        }
        spool.remove(self.disk.as_ref())?;
        Ok(right)
    }

    /// Removes files nothing refers to, and records whose files are gone.
    fn tidy(&self, report: &mut RecoveryReport) -> Result<()> {
        let write = self.catalog.write()?;
        let [mut stagings, mut spares, mut bases, mut befores] = [const { BTreeSet::new() }; 4];
        let mut changed = false;
        for image in write.images()? {
            if let Some(staged) = write.staged(image.id)? {
                let stat = self.disk.stat(&staged.path).during("look at", &staged.path)?;
                if stat.is_some_and(|stat| stat.inode == staged.inode) {
                    stagings.insert(staged.path);
                    report.resumable += 1;
                } else {
                    changed = true;
                    write.put_staged(image.id, None)?;
                }
            }
            if let Some(spare) = write.spare(image.id)? {
                let path = spare_path(&image.name);
                let stat = self.disk.stat(&path).during("look at", &path)?;
                if stat.is_some_and(|stat| spare.checkpoint.same_content(&stat)) {
                    spares.insert(path);
                } else {
                    changed = true;
                    write.put_spare(image.id, None)?;
                }
            }
            if let Some(held) = write.held(image.id)? {
                let left = self.left_of(&image.name, held.clone())?;
                if left.as_ref() != Some(&held) {
                    changed = true;
                    write.put_held(image.id, left.as_ref())?;
                }
                bases.extend(left.as_ref().map(|_| base_path(&image.name)));
                befores.extend(left.and_then(|l| l.before).map(|_| before_path(&image.name)));
            }
        }
        if changed {
            write.commit()?;
        }
        report.removed = self.sweep(STAGING, &stagings)?
            + self.sweep(SPARE, &spares)?
            + self.sweep(BASE, &bases)?
            + self.sweep(BEFORE, &befores)?;
        Ok(())
    }

    /// Moves what isn't to be kept into the trash: giving back the storage of a large file takes
    /// seconds, a rename doesn't. Not synced: what a power cut brings back is swept again.
    fn sweep(&self, dir: &str, keep: &BTreeSet<String>) -> Result<usize> {
        let mut removed = 0;
        for entry in self.disk.list(dir).during("list", dir)? {
            let leaf = entry.name.to_string_lossy();
            let path = format!("{dir}/{leaf}");
            if !keep.contains(&path) {
                let trash = format!("{TRASH}/{leaf}");
                self.disk.rename(&path, &trash, RenameHow::Replace).during("rename", &path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes what recovery moved into the trash. Returns how many files that were.
    pub fn empty_trash(&self) -> Result<usize> {
        let entries = self.disk.list(TRASH).during("list", TRASH)?;
        for entry in &entries {
            let path = format!("{TRASH}/{}", entry.name.to_string_lossy());
            self.disk.remove_file(&path).during("remove", &path)?;
        }
        Ok(entries.len())
    }
}
