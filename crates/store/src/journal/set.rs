//! Commits by journal, alone or with others of a set, up to their intent: what is asked before, and what
//! the intent says. The journals of a set are put in place one after the other while all of its
//! images are shut: whoever opens one of them sees none of the set, or all of it.

use super::Redo;
use super::apply::{damaged, is_whole};
use crate::catalog::{CatalogWrite, Checkpoint, Generation, ImageRecord, Prepared, SetPart};
use crate::commit::Ready;
use crate::disk::DiskFile;
use crate::error::{Error, IoContext, Result};
use crate::layout::staging_path;
use crate::spool::Spool;
use crate::store::Store;

/// A journal that is to be put into the image's own file, which is shut to others.
pub(crate) struct Shut {
    pub(crate) image: ImageRecord,
    pub(crate) generation: Generation,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) redo: Redo,
    pub(crate) spool: Spool,
}

/// What is left of it when its intent is written.
pub(crate) struct ShutFile {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) redo: Redo,
}

impl Redo {
    /// Bytes of the journal.
    pub(crate) fn size_bytes(&self) -> Result<u64> {
        Ok(self.file.stat().during("look at", &self.path)?.size_bytes)
    }
}

impl Store {
    /// All that can be known of a commit by journal before it begins: once it has, it must be
    /// finished. Reserves the room for it.
    pub(crate) fn check_shut(&self, shut: &Shut) -> Result<()> {
        let Redo { path, file, sum } = &shut.redo;
        if !is_whole(file.as_ref(), path, sum)? {
            return Err(damaged("it can't be read back"));
        }
        self.reserve(file.as_ref(), path, shut.file.as_ref(), &shut.generation)
    }

    /// Nothing comes of commits by journal. Asking for room alone may have moved the files' times,
    /// and nobody else could write to them.
    pub(crate) fn keep_times(&self, shut: &[&Shut]) -> Result<()> {
        let write = self.catalog.write()?;
        for Shut { image, file, .. } in shut {
            if !file.shut_left().is_zero() {
                let stat = file.stat().during("look at", image.name.as_str())?;
                let checkpoint = Some(Checkpoint::of(&stat));
                write.put_image(&ImageRecord { checkpoint, ..image.clone() })?;
            }
        }
        write.commit()
    }

    /// The intent of a commit by journal; `set`: its part of a set.
    pub(crate) fn prepare_shut(
        &self,
        write: &CatalogWrite,
        shut: Shut,
        set: Option<SetPart>,
    ) -> Result<(Ready, ShutFile)> {
        let Shut { mut image, generation, file, redo, spool } = shut;
        let stat = file.stat().during("look at", image.name.as_str())?;
        image.checkpoint = Some(Checkpoint::of(&stat));
        let prepared = Prepared {
            name: image.name.to_string(),
            staging: redo.path.clone(),
            inode: stat.inode,
            generation: generation.encode().into(),
            spool: spool.path().to_owned(),
            replaces: Some(stat.inode),
            keep_spare: false,
            sealed: None,
            spool_sum: Some(spool.sum().into()),
            journal: Some(redo.sum.into()),
            keep_replaced: None,
            set,
        };
        write.put_image(&image)?;
        write.put_prepared(image.id, Some(&prepared))?;
        Ok((Ready { image, generation, prepared, spool }, ShutFile { file, redo }))
    }

    /// A journal of a set that goes forward becomes a whole file: somebody has the image open, and is
    /// to go on seeing what he sees.
    pub(crate) fn prepare_copy(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
    ) -> Result<(ImageRecord, Prepared)> {
        let name = &image.name;
        let generation = Generation::decode(name, &prepared.generation)?;
        let base = self.current_of(Some(image))?.ok_or_else(|| Error::NotFound(name.clone()))?.root;
        let file = self.whole_journal(prepared)?.ok_or_else(|| damaged("it can't be read back"))?;
        let redo = Redo { path: prepared.staging.clone(), file, sum: [0; 32] };
        let path = staging_path(name, &generation.root);
        // What an earlier recovery left.
        self.disk.remove_file(&path).during("remove", &path)?;
        let file = self.copy_through(image, base, &redo, &generation, &path)?;
        let stat = file.stat().during("look at", &path)?;
        let sealed = Some(Checkpoint::of(&stat));
        let prepared = Prepared {
            staging: path,
            inode: stat.inode,
            sealed,
            journal: None,
            ..prepared.clone()
        };
        // A power cut may have taken back what reserving its room did to the file's times.
        let here = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        let same = |point: &Checkpoint| here.filter(|here| point.same_content(here));
        let checkpoint = image.checkpoint.as_ref().and_then(same).map(|here| Checkpoint::of(&here));
        let image = ImageRecord { checkpoint: checkpoint.or(image.checkpoint), ..image.clone() };
        let write = self.catalog.write()?;
        write.put_image(&image)?;
        write.put_prepared(image.id, Some(&prepared))?;
        write.commit()?;
        self.disk.remove_file(&redo.path).during("remove", &redo.path)?;
        Ok((image, prepared))
    }

    /// Puts the journals of a set in place, in its order, one durable before the next, and only then
    /// lets in who waits. Returns what each file is then. If it fails, nobody finds a file that isn't
    /// the new generation by its image's name any more.
    pub(crate) fn put_set_in_place(
        &self,
        members: &[(&Generation, &ShutFile)],
    ) -> Result<Vec<Checkpoint>> {
        let mut points = Vec::new();
        for (at, (generation, ShutFile { file, redo })) in members.iter().enumerate() {
            let done = self.put_content(redo.file.as_ref(), &redo.path, file.as_ref(), generation);
            let done = done.and_then(|point| {
                self.synced(file.sync(), generation.image.as_str())?;
                Ok(point)
            });
            let hide = |_: &Error| members[at..].iter().for_each(|(g, _)| self.hide(&g.image));
            points.push(done.inspect_err(hide)?);
        }
        for (generation, ShutFile { file, .. }) in members {
            let (left, name) = (file.shut_left(), generation.image.as_str());
            let in_time = file.let_in().during("give back the lease on", name)?;
            if !in_time && left.is_zero() {
                self.note_slow_commit(&generation.image);
            }
        }
        Ok(points)
    }
}
