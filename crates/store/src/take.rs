//! A kept content goes back into service: as the image's current content, by the commit that what is
//! received takes, or as an image of its own. No byte of it travels; it is proved as in a rollback.

use blockferry_delta::{ImageName, Lineage, NodeId};

use crate::catalog::Generation;
use crate::commit::Whole;
use crate::disk::{DiskFile, Open, RenameHow};
use crate::error::{Error, IoContext, Result};
use crate::kept::{Kept, Why};
use crate::layout::{KEPT, STAGING, staging_path};
use crate::scan::{Progress, data_extents};
use crate::spool::Spool;
use crate::store::Store;
use crate::writer::descendant;

impl Store {
    /// Makes a kept content the current one, as a generation that `writer` makes of the present one
    /// and of `others`. What was current is kept until somebody acknowledges it; so is, until then,
    /// the kept content itself.
    ///
    /// # Errors
    /// [`Error::LocalChange`] and [`Error::InUse`] as for whatever replaces an image;
    /// [`Error::RootMismatch`] when the kept file isn't what it was.
    pub fn take_kept(
        &self,
        name: &ImageName,
        serial: u64,
        others: &[Lineage],
        writer: NodeId,
        now_unix_ms: i64,
        progress: &dyn Progress,
    ) -> Result<Generation> {
        let _in_place = self.in_place()?;
        self.check_marker()?;
        self.check_health()?;
        let claim = self.claim(name)?;
        let (kept, theirs) = self.recorded_kept(name, serial)?;
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        self.check_target(name, Some(&image))?;
        let current = self.current_of(Some(&image))?;
        let current = current.ok_or_else(|| Error::NotFound(name.clone()))?;
        let lineage = descendant(&read, &current.lineage, others, writer)?;
        drop(read);
        let path = staging_path(name, &theirs.root);
        let file = self.copy_kept(&kept, &path)?;
        let mut spool = Spool::new(format!("{path}.spool"));
        let of = (file.as_ref(), path.as_str(), theirs.size_bytes);
        let known = Some((&image, &current));
        let (scanned, discover) = self.scan_kept(of, known, &theirs.root, &mut spool, progress)?;
        if scanned.root != theirs.root {
            spool.remove(self.disk.as_ref())?;
            self.disk.remove_file(&path).during("remove", &path)?;
            let (promised, found) = (theirs.root, scanned.root);
            return Err(Error::RootMismatch { image: name.clone(), promised, found });
        }
        file.set_meta(&theirs.meta).during("set attributes of", &path)?;
        self.synced(file.sync(), &path)?;
        spool.persist(self.disk.as_ref()).inspect_err(|_| self.degrade())?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)?;
        let generation = Generation {
            number: current.number + 1,
            lineage,
            author: writer,
            recorded_unix_ms: now_unix_ms,
            discover,
            bytes_read: scanned.bytes_read,
            dirty_bytes: scanned.dirty_bytes,
            wire_bytes: 0,
            millis: 0,
            ..theirs
        };
        let (image, keep_replaced) = (Some(image), true);
        let made = self.commit_whole(Whole { image, generation, path, file, spool, keep_replaced });
        if let Err(Error::Catalog(_)) = &made {
            self.degrade();
        }
        let made = made?;
        self.count_made()?;
        drop(claim);
        Ok(made)
    }

    /// Makes a kept content an image of its own, called `new`: a file that is found there like any
    /// other. `false`: there is something of that name.
    pub fn kept_as_image(&self, name: &ImageName, serial: u64, new: &ImageName) -> Result<bool> {
        let _in_place = self.in_place()?;
        self.check_marker()?;
        self.check_health()?;
        let _claim = self.claim(name)?;
        let (kept, _) = self.recorded_kept(name, serial)?;
        if self.catalog.read()?.image(new)?.is_some() {
            return Ok(false);
        }
        match self.disk.rename(&kept.path, new.as_str(), RenameHow::NoReplace) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
            renamed => renamed.during("rename", &kept.path)?,
        }
        self.synced(self.disk.sync_dir(""), "store directory")?;
        self.synced(self.disk.sync_dir(KEPT), KEPT)?;
        let write = self.catalog.write()?;
        write.put_kept(name, serial, None)?;
        write.commit()?;
        Ok(true)
    }

    /// Why the current generation is kept until somebody acknowledges it, when it is replaced: what was
    /// made by somebody has lost a conflict, what was found on a mirror after that is an edit.
    pub(crate) fn why_replaced(&self, current: &Generation) -> Why {
        match current.is_adopted() {
            false => Why::Conflict,
            true if self.options.mirror && current.number > 1 => Why::Edit,
            true => Why::Replaced,
        }
    }

    /// A kept content that is a generation, and untouched.
    fn recorded_kept(&self, name: &ImageName, serial: u64) -> Result<(Kept, Generation)> {
        let kept = self.kept_by_serial(name, serial)?;
        let kept = kept.ok_or_else(|| Error::KeptUnknown { image: name.clone(), serial })?;
        if kept.touched {
            return Err(Error::LocalChange(name.clone()));
        }
        let generation = kept.generation.clone();
        let generation =
            generation.ok_or_else(|| Error::KeptUnknown { image: name.clone(), serial })?;
        Ok((kept, generation))
    }

    /// A new file with what a kept one holds. The kept one stays: a crash must not lose it.
    fn copy_kept(&self, kept: &Kept, path: &str) -> Result<Box<dyn DiskFile>> {
        let disk = self.disk.as_ref();
        let space = disk.space().during("ask for the free space of", "the store")?;
        let needed_bytes = if self.clones() { 0 } else { kept.allocated_bytes };
        let free_bytes = space.free_bytes.saturating_sub(self.options.free_min_bytes);
        if needed_bytes > free_bytes {
            return Err(Error::OutOfSpace { needed_bytes, free_bytes });
        }
        disk.remove_file(path).during("remove", path)?;
        let cloned = self.clones() && disk.clone_file(&kept.path, path).during("clone", path)?;
        if !cloned {
            let from = disk.open(&kept.path, Open::Read).during("open", &kept.path)?;
            let file = disk.open(path, Open::CreateNew).during("create", path)?;
            file.set_len(kept.size_bytes).during("set the length of", path)?;
            let extents = data_extents(from.as_ref(), &kept.path, kept.size_bytes)?;
            let extents: Vec<_> =
                extents.iter().map(|(start, end)| (*start, end - start)).collect();
            disk.copy_extents(&kept.path, path, &extents).during("copy", path)?;
        }
        disk.open(path, Open::ReadWrite).during("open", path)
    }
}
