//! The commit of a journal: the image's file is shut to everybody else, the commit is prepared,
//! the pages are put in place, and whoever waited is let in. If the file can't be shut, because
//! somebody has it open, the journal becomes a whole new file instead.

use std::time::Duration;

use blockferry_delta::{ImageName, PAGE_BYTES, Root};

use super::records::{Change, Records};
use super::set::Shut;
use super::{HEAD_BYTES, Redo};
use crate::catalog::{Checkpoint, Generation, ImageRecord, Prepared, Staged};
use crate::disk::{DiskFile, Lease, Open, RenameHow};
use crate::error::{Error, IoContext, Result};
use crate::layout::{STAGING, half_path, spare_path, staging_path};
use crate::spool::Spool;
use crate::staging::allocate_zeros;
use crate::store::Store;

/// With less time left, whoever waits is let in before the pages are durable.
const SYNC_TIME_MIN: Duration = Duration::from_secs(10);
/// Bytes read at once to sum up a journal.
const SUM_BYTES: usize = 1 << 20;

impl Store {
    /// The image's file, if nobody else has it open and whoever opens it now has to wait.
    pub(crate) fn shut_image(&self, image: &ImageRecord) -> Result<Option<Box<dyn DiskFile>>> {
        let path = image.name.as_str();
        let file = match self.disk.open(path, Open::ReadWrite) {
            // A lease of somebody else, or a file that we may only replace.
            Err(error) if is_refusal(&error) => return Ok(None),
            opened => opened.during("open", path)?,
        };
        let alone = file.shut_out().during("ask for a lease on", path)? == Lease::Free;
        let stat = file.stat().during("look at", path)?;
        // A second name would change with the first.
        if !alone || stat.links != 1 {
            return Ok(None);
        }
        // What was seen before it was shut may have changed.
        let here = self.disk.stat(path).during("look at", path)?;
        let same = here.is_some_and(|here| here.inode == stat.inode)
            && image.checkpoint == Some(Checkpoint::of(&stat));
        if same { Ok(Some(file)) } else { Err(Error::LocalChange(image.name.clone())) }
    }

    /// Commits a journal into `file`, the image's own, which is shut to others.
    pub(crate) fn commit_journal(
        &self,
        image: &ImageRecord,
        file: Box<dyn DiskFile>,
        redo: Redo,
        generation: Generation,
        spool: Spool,
    ) -> Result<Generation> {
        let shut = Shut { image: image.clone(), generation, file, redo, spool };
        if let Err(error) = self.check_shut(&shut) {
            self.keep_times(&[&shut])?;
            return Err(error);
        }
        let write = self.catalog.write()?;
        let (mut ready, shut) = self.prepare_shut(&write, shut, None)?;
        write.commit()?;
        let (name, path) = (ready.image.name.as_str(), shut.redo.path.as_str());
        let file = (name, shut.file.as_ref());
        let applied = self.put_in_place(shut.redo.file.as_ref(), path, file, &ready.generation);
        // Half done it is neither generation: only recovery may go on.
        let point = applied.inspect_err(|_| self.degrade())?;
        drop(shut);
        ready.prepared.sealed = Some(point);
        self.conclude(ready)
    }

    /// Puts what a journal holds into the image's file, with everything else of the generation,
    /// makes it durable and lets in whoever waits. Can be repeated. Returns what the file is then.
    /// If it fails, nobody finds the file by the image's name any more: it may be a mix.
    pub(super) fn put_in_place(
        &self,
        redo: &dyn DiskFile,
        path: &str,
        (at, file): (&str, &dyn DiskFile),
        generation: &Generation,
    ) -> Result<Checkpoint> {
        let done = self.put_all(redo, path, file, generation);
        if done.is_err() && at == generation.image.as_str() {
            self.hide(&generation.image);
        }
        done
    }

    /// Takes a file that is half done out of the way, while whoever opens it still waits; recovery
    /// finishes it there. Only tried: the disk has failed already.
    pub(super) fn hide(&self, name: &ImageName) {
        let half = half_path(name);
        let hidden = self.disk.rename(name.as_str(), &half, RenameHow::Replace);
        let synced =
            hidden.and_then(|()| self.disk.sync_dir("")).and_then(|()| self.disk.sync_dir(STAGING));
        if let Err(error) = synced {
            tracing::error!(image = %name, %error, "a half-done image could not be hidden");
        }
    }

    fn put_all(
        &self,
        redo: &dyn DiskFile,
        path: &str,
        file: &dyn DiskFile,
        generation: &Generation,
    ) -> Result<Checkpoint> {
        let name = generation.image.as_str();
        let point = self.put_content(redo, path, file, generation)?;
        // Durable before somebody else may write, or a power cut could leave his bytes among half
        // of ours. The content is whole by now: the sync may take longer than the lease.
        let left = file.shut_left();
        let early = left >= SYNC_TIME_MIN;
        if early {
            self.synced(file.sync(), name)?;
        }
        let in_time = file.let_in().during("give back the lease on", name)?;
        if !in_time && left.is_zero() {
            self.note_slow_commit(&generation.image);
        }
        if !early {
            self.synced(file.sync(), name)?;
        }
        Ok(point)
    }

    /// Content and attributes, not durable yet.
    pub(super) fn put_content(
        &self,
        redo: &dyn DiskFile,
        path: &str,
        file: &dyn DiskFile,
        generation: &Generation,
    ) -> Result<Checkpoint> {
        let name = generation.image.as_str();
        apply(redo, path, file, name, self.options.warm)?;
        allocate_zeros(file, name, generation)?;
        file.set_meta(&generation.meta).during("set attributes of", name)?;
        Ok(Checkpoint::of(&file.stat().during("look at", name)?))
    }

    /// Reserves room for what the journal puts where the image has no storage yet: a disk that is
    /// full says so before anything is changed.
    pub(super) fn reserve(
        &self,
        redo: &dyn DiskFile,
        path: &str,
        file: &dyn DiskFile,
        generation: &Generation,
    ) -> Result<()> {
        let name = generation.image.as_str();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut missing = |offset: u64, bytes: u64| -> Result<()> {
            let end = (offset + bytes).next_multiple_of(PAGE_BYTES as u64);
            let mut at = offset;
            while at < end {
                let data = file.next_data(at).during("find data of", name)?;
                let (start, stop) = data.unwrap_or((end, end));
                let hole = (at, start.min(end).saturating_sub(at));
                match ranges.last_mut() {
                    Some((from, bytes)) if *from + *bytes == at => *bytes += hole.1,
                    _ if hole.1 > 0 => ranges.push(hole),
                    _ => {}
                }
                at = stop.max(at + 1);
            }
            Ok(())
        };
        let mut records = Records::open(redo, path)?.ok_or_else(|| damaged("no head"))?;
        while let Some(record) = records.next()? {
            if let Change::Data { bytes, .. } = &record.change {
                missing(record.offset, bytes.len() as u64)?;
            }
        }
        for extent in &generation.allocated_zero {
            missing(extent.offset(), extent.bytes_in(generation.size_bytes))?;
        }
        if ranges.is_empty() {
            return Ok(());
        }
        let needed_bytes = ranges.iter().map(|(_, bytes)| bytes).sum();
        let space = self.disk.space().during("ask for the free space of", "the store")?;
        let full = Error::OutOfSpace { needed_bytes, free_bytes: space.free_bytes };
        if needed_bytes > space.free_bytes {
            return Err(full);
        }
        match file.reserve(&ranges) {
            Err(error) if is_full(&error) => Err(full),
            reserved => reserved.during("reserve room in", name),
        }
    }

    /// Makes a whole file of a journal and its base. Returns its path and the file, durable. If
    /// that fails, for want of room above all, the journal is kept for the next attempt.
    pub(crate) fn convert(
        &self,
        image: &ImageRecord,
        redo: Redo,
        generation: &Generation,
    ) -> Result<(String, Box<dyn DiskFile>)> {
        let name = &image.name;
        tracing::debug!(image = %name, "it is open: a copy takes its place instead");
        let path = staging_path(name, &generation.root);
        let current = self.current_of(Some(image))?;
        let base = current.ok_or_else(|| Error::NotFound(name.clone()))?.root;
        match self.copy_through(image, base, &redo, generation, &path) {
            Ok(file) => {
                self.disk.remove_file(&redo.path).during("remove", &redo.path)?;
                Ok((path, file))
            }
            Err(error) => {
                self.disk.remove_file(&path).during("remove", &path)?;
                redo.file.forget().during("forget", &redo.path)?;
                if !self.is_degraded() {
                    let stat = redo.file.stat().during("look at", &redo.path)?;
                    let staged = Staged {
                        path: redo.path,
                        root: (*generation.root.as_bytes()).into(),
                        base: Some((*base.as_bytes()).into()),
                        inode: stat.inode,
                    };
                    let write = self.catalog.write()?;
                    write.put_staged(image.id, Some(&staged))?;
                    write.commit()?;
                }
                Err(error)
            }
        }
    }

    pub(super) fn copy_through(
        &self,
        image: &ImageRecord,
        base: Root,
        redo: &Redo,
        generation: &Generation,
        path: &str,
    ) -> Result<Box<dyn DiskFile>> {
        self.make_own_copy(image, base, path)?;
        let file = self.disk.open(path, Open::ReadWrite).during("open", path)?;
        apply(redo.file.as_ref(), &redo.path, file.as_ref(), path, self.options.warm)?;
        allocate_zeros(file.as_ref(), path, generation)?;
        file.set_meta(&generation.meta).during("set attributes of", path)?;
        self.synced(file.sync(), path)?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)?;
        Ok(file)
    }

    /// Removes a journal that isn't needed any more, and the spare that it makes superfluous.
    pub(crate) fn drop_journal(&self, name: &ImageName, prepared: &Prepared) -> Result<()> {
        let spare = spare_path(name);
        for path in [&prepared.staging, &spare] {
            self.disk.remove_file(path).during("remove", path)?;
        }
        Ok(())
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ExecutableFileBusy, PermissionDenied, WouldBlock};
    matches!(error.kind(), ExecutableFileBusy | PermissionDenied | WouldBlock)
}

/// Puts what a journal holds into a file that holds its base, or a part of all this already. `warm`:
/// it stays in the page cache; else what wasn't cached leaves it when the file was synced.
fn apply(
    redo: &dyn DiskFile,
    path: &str,
    file: &dyn DiskFile,
    target: &str,
    warm: bool,
) -> Result<()> {
    let mut records = Records::open(redo, path)?.ok_or_else(|| damaged("no head"))?;
    let bytes = records.head().image_bytes;
    if file.stat().during("look at", target)?.size_bytes != bytes {
        file.set_len(bytes).during("set the length of", target)?;
    }
    while let Some(record) = records.next()? {
        match record.change {
            Change::Data { bytes, .. } => match warm {
                true => file.write_at(&bytes, record.offset),
                false => file.write_passing_at(&bytes, record.offset),
            }
            .during("write", target)?,
            Change::Hole(bytes) => file.punch(record.offset, bytes).during("punch", target)?,
        }
    }
    if records.is_at_end() { Ok(()) } else { Err(damaged("a record isn't whole")) }
}

/// Is a journal's file what was written into it?
pub(super) fn is_whole(redo: &dyn DiskFile, path: &str, sum: &[u8; 32]) -> Result<bool> {
    let bytes = redo.stat().during("look at", path)?.size_bytes;
    let (mut found, mut at) = (blake3::Hasher::new(), 0);
    let mut buf = vec![0; SUM_BYTES];
    while at < bytes {
        let len = (bytes - at).min(SUM_BYTES as u64) as usize;
        redo.read_exact_at(&mut buf[..len], at).during("read", path)?;
        found.update(&buf[..len]);
        at += len as u64;
    }
    Ok(bytes >= HEAD_BYTES as u64 && found.finalize().as_bytes() == sum)
}

pub(super) fn damaged(detail: &str) -> Error {
    Error::Corrupt { what: "a redo journal", detail: detail.to_owned() }
}
