//! The commit station: a sealed staging becomes the image's current content. Each step is durable
//! before the next; `docs/format.md` lists what a crash between any two of them leaves, and
//! `recover` finishes it. A receipt may be sent when [`Store::commit`] has returned.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use blockferry_delta::ImageName;

use crate::catalog::{
    CatalogWrite, Checkpoint, Discover, Generation, ImageRecord, Prepared, SetPart, Spare,
};
use crate::disk::{DiskFile, Kind, RenameHow, Stat};
use crate::error::{Error, IoContext, Result};
use crate::kept::{Keep, Why};
use crate::layout::{SPARE, STAGING, kept_path, spare_path};
use crate::spool::{Entries, Spool};
use crate::staging::{Built, Sealed};
use crate::store::Store;

/// What the node adds to a received generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// When it was received, milliseconds since 1970; for people only.
    pub recorded_unix_ms: i64,
    /// Bytes that travelled for it.
    pub wire_bytes: u64,
    /// Milliseconds from the offer to the commit.
    pub millis: u64,
}

impl Received {
    /// Puts it into the record of the generation.
    pub(crate) fn stamp(self, generation: &mut Generation) {
        generation.recorded_unix_ms = self.recorded_unix_ms;
        generation.wire_bytes = self.wire_bytes;
        generation.millis = self.millis;
        generation.discover = Discover::Received;
    }
}

/// A file that is to become the image.
pub(crate) struct Whole {
    pub(crate) image: Option<ImageRecord>,
    pub(crate) generation: Generation,
    pub(crate) path: String,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) spool: Spool,
    /// What it displaces is kept until somebody acknowledges it.
    pub(crate) keep_replaced: bool,
}

/// A commit that is prepared.
pub(crate) struct Ready {
    pub(crate) image: ImageRecord,
    pub(crate) generation: Generation,
    pub(crate) prepared: Prepared,
    pub(crate) spool: Spool,
}

impl Store {
    /// Commits a sealed staging. When it returns, the generation survives a power cut.
    pub fn commit(&self, mut sealed: Sealed, received: Received) -> Result<Generation> {
        received.stamp(&mut sealed.generation);
        self.commit_sealed(sealed)
    }

    /// Commits a generation whose record is complete.
    pub(crate) fn commit_sealed(&self, sealed: Sealed) -> Result<Generation> {
        let outcome = self.commit_steps(sealed);
        // After a failed catalog write nobody knows what is on disk until it is opened again.
        if let Err(Error::Catalog(_)) = &outcome {
            self.degrade();
        }
        outcome
    }

    fn commit_steps(&self, sealed: Sealed) -> Result<Generation> {
        let Sealed { claim, image, generation, mut path, built, spool, keep_replaced, .. } = sealed;
        let name = generation.image.clone();
        let _in_place = self.in_place()?;
        let keep_replaced = keep_replaced || self.keeps_old(&name)?;
        self.check_health()?;
        self.check_target(&name, image.as_ref())?;
        let file = match built {
            Built::Whole(file) => file,
            Built::Journal(redo) => {
                let image = image.as_ref().ok_or_else(|| Error::NotFound(name.clone()))?;
                // What is replaced is to be kept: it can't be written over.
                let keeps = keep_replaced || self.retention().generations > 0;
                let shut = if keeps { None } else { self.shut_image(image)? };
                if let Some(shut) = shut {
                    let done = self.commit_journal(image, shut, redo, generation, spool);
                    drop(claim);
                    return done;
                }
                let (whole, file) = self.convert(image, redo, &generation)?;
                path = whole;
                file
            }
        };
        let done = self.commit_whole(Whole { image, generation, path, file, spool, keep_replaced });
        drop(claim);
        done
    }

    /// Commits a file that is to become the image.
    pub(crate) fn commit_whole(&self, whole: Whole) -> Result<Generation> {
        let write = self.catalog.write()?;
        let ready = self.prepare(&write, whole, None)?;
        write.commit()?;
        if let Err(error) = self.take_place(&ready.image.name, &ready.prepared) {
            // After a failed sync the names may have changed places: only recovery can tell.
            if !self.is_degraded() {
                self.give_up(ready.image.id, &ready.prepared)?;
            }
            return Err(error);
        }
        self.conclude(ready)
    }

    /// The intent of a commit: which file takes whose place, and what becomes of what it displaces.
    /// `set`: its part of a set, which has one intent.
    pub(crate) fn prepare(
        &self,
        write: &CatalogWrite,
        whole: Whole,
        set: Option<SetPart>,
    ) -> Result<Ready> {
        let Whole { image, generation, path, file, spool, keep_replaced } = whole;
        let name = &generation.image;
        let replaced = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        let sealed = file.stat().during("look at", &path)?;
        drop(file);
        let history = match keep_replaced {
            true => None,
            false => self.history_of(image.as_ref(), &generation, replaced.as_ref())?,
        };
        let image = self.image_record(write, name, image)?;
        let prepared = Prepared {
            name: name.to_string(),
            staging: path,
            inode: sealed.inode,
            generation: generation.encode().into(),
            spool: spool.path().to_owned(),
            replaces: replaced.map(|stat| stat.inode),
            keep_spare: history.is_none() && self.keeps_spare(replaced.as_ref())?,
            sealed: Some(Checkpoint::of(&sealed)),
            spool_sum: Some(spool.sum().into()),
            journal: None,
            keep_replaced: keep_replaced.then_some(true),
            set,
        };
        write.put_image(&image)?;
        write.put_prepared(image.id, Some(&prepared))?;
        if let Some((stat, keep)) = replaced.zip(history) {
            // The two will have changed places.
            self.note_kept(write, name, &prepared.staging, &stat, &keep)?;
        }
        Ok(Ready { image, generation, prepared, spool })
    }

    /// What took its place must become current: if not now, when the store is opened again.
    pub(crate) fn conclude(&self, ready: Ready) -> Result<Generation> {
        let Ready { image, generation, prepared, spool } = ready;
        let made = self.make_current(&image, &prepared, generation, &Entries::Spool(&spool));
        let generation = made.inspect_err(|_| self.degrade())?;
        spool.remove(self.disk.as_ref())?;
        Ok(generation)
    }

    /// Notes that an image was written to in place for longer than openers wait.
    pub(crate) fn note_slow_commit(&self, name: &ImageName) {
        let mut slow = self.slow_commits.lock().unwrap_or_else(PoisonError::into_inner);
        slow.insert(name.clone());
    }

    /// The images that were written to in place for longer than openers wait, since this was asked
    /// last: who opened one of them at that time may have seen a mix of two generations.
    pub fn take_slow_commits(&self) -> BTreeSet<ImageName> {
        std::mem::take(&mut *self.slow_commits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Is there room to keep what is replaced, and is it wanted?
    pub(crate) fn keeps_spare(&self, replaced: Option<&Stat>) -> Result<bool> {
        let Some(stat) = replaced else { return Ok(false) };
        if self.clones() || !self.options.keep_spare || stat.links != 1 {
            return Ok(false);
        }
        let space = self.disk.space().during("ask for the free space of", "the store")?;
        // It is on the disk already: keeping it must leave a tenth free.
        Ok(space.free_bytes > self.options.free_min_bytes.max(space.total_bytes / 10))
    }

    /// The rename. With an image in place the two change places, so that whatever was there is
    /// never gone; without one nothing may have appeared.
    pub(crate) fn take_place(&self, name: &ImageName, prepared: &Prepared) -> Result<()> {
        let how = match prepared.replaces {
            Some(_) => RenameHow::Exchange,
            None => RenameHow::NoReplace,
        };
        self.disk.rename(&prepared.staging, name.as_str(), how).map_err(|source| {
            match source.kind() {
                std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound => {
                    Error::LocalChange(name.clone())
                }
                _ => Error::Io { op: "rename", path: prepared.staging.clone(), source },
            }
        })?;
        self.synced(self.disk.sync_dir(""), "store directory")?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)
    }

    /// Undoes a commit that could not take its place.
    pub(crate) fn give_up(&self, image: u32, prepared: &Prepared) -> Result<()> {
        let write = self.catalog.write()?;
        write.put_prepared(image, None)?;
        write.put_staged(image, None)?;
        self.forget_displaced(&write, prepared)?;
        write.commit()?;
        for path in [&prepared.staging, &prepared.spool] {
            self.disk.remove_file(path).during("remove", path)?;
        }
        Ok(())
    }

    /// Takes back the row of what a commit would have displaced.
    pub(crate) fn forget_displaced(&self, write: &CatalogWrite, prepared: &Prepared) -> Result<()> {
        for (name, serial, row) in write.kept(None)? {
            let path = kept_path(&name, serial);
            let meant = row.from == prepared.staging;
            if meant && self.disk.stat(&path).during("look at", &path)?.is_none() {
                write.put_kept(&name, serial, None)?;
            }
        }
        Ok(())
    }

    /// The last transaction: what took its place is the current generation.
    pub(crate) fn make_current(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
        generation: Generation,
        entries: &Entries<'_>,
    ) -> Result<Generation> {
        let name = &image.name;
        let spare = match prepared.journal {
            Some(_) => None,
            None => self.put_away(image, prepared)?,
        };
        let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        let stat = stat.ok_or_else(|| Error::SourceMissing(name.clone()))?;
        // Somebody may have written to it since the rename, before a recovery above all: that is a
        // local change on top of the generation, not the generation.
        let untouched = prepared.sealed.as_ref().is_some_and(|point| point.same_content(&stat));
        let checkpoint = untouched.then(|| Checkpoint::of(&stat));
        let write = self.catalog.write()?;
        self.put_current(&write, image.clone(), &generation, checkpoint, entries)?;
        write.put_spare(image.id, spare.as_ref())?;
        write.put_prepared(image.id, None)?;
        write.put_staged(image.id, None)?;
        write.commit()?;
        if prepared.journal.is_some() {
            self.drop_journal(name, prepared)?;
        }
        Ok(generation)
    }

    /// Puts away what was replaced: as a spare, among the kept contents (the history, or what isn't
    /// what was expected), or not at all.
    pub(crate) fn put_away(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
    ) -> Result<Option<Spare>> {
        let old = &prepared.staging;
        let Some(stat) = self.disk.stat(old).during("look at", old)? else { return Ok(None) };
        let expected = stat.kind == Kind::File
            && image.checkpoint.as_ref().is_some_and(|point| point.same_content(&stat));
        let current = self.current_of(Some(image))?;
        if !expected || prepared.keep_replaced == Some(true) {
            let next = Generation::decode(&image.name, &prepared.generation)?;
            // The same once more, or a newer one instead: its file wasn't what was recorded.
            let old_tool = self.keeps_old(&image.name)?;
            let rotten = expected
                && !old_tool
                && (self.mending(&image.name).is_some()
                    || current.as_ref().is_some_and(|current| current.root == next.root));
            let current = current.filter(|_| expected && !rotten);
            let why = match (old_tool, &current) {
                (true, _) => Why::OldTool,
                (false, None) if rotten => Why::Damaged,
                (false, Some(current)) => self.why_replaced(current),
                (false, None) => Why::Replaced,
            };
            self.keep_file(&image.name, old, &Keep::pinned(why, current, 0))?;
            return Ok(None);
        }
        let next = Generation::decode(&image.name, &prepared.generation)?;
        if let Some(keep) = self.history_of(Some(image), &next, Some(&stat))? {
            self.keep_file(&image.name, old, &keep)?;
            return Ok(None);
        }
        let Some(current) = current.filter(|_| prepared.keep_spare) else {
            self.disk.remove_file(old).during("remove", old)?;
            return Ok(None);
        };
        let path = spare_path(&image.name);
        self.disk.rename(old, &path, RenameHow::Replace).during("rename", &path)?;
        self.synced(self.disk.sync_dir(SPARE), SPARE)?;
        let stat = self.disk.stat(&path).during("look at", &path)?;
        Ok(stat.map(|stat| Spare {
            number: current.number,
            root: (*current.root.as_bytes()).into(),
            checkpoint: Checkpoint::of(&stat),
        }))
    }

    /// Keeps a file that was found where something else was expected, until somebody acknowledges
    /// it; `generation` is what it holds, if that is known.
    pub(crate) fn set_aside(
        &self,
        name: &ImageName,
        path: &str,
        generation: Option<Generation>,
    ) -> Result<()> {
        self.keep_file(name, path, &Keep::pinned(Why::Replaced, generation, 0)).map(drop)
    }

    /// A sync that failed is never tried again: the store is in doubt from then on.
    pub(crate) fn synced(&self, outcome: std::io::Result<()>, path: &str) -> Result<()> {
        outcome.during("sync", path).inspect_err(|_| self.degrade())
    }
}
