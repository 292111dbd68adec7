//! The freeze station: makes sure that what is scanned stands still. Where reflinks work a clone
//! is scanned; elsewhere the file itself, guarded: nobody may have it open for writing, and its
//! inode, size and times must be the same before and after. A store may ask for snapshots: then
//! an image that somebody keeps open for writing is frozen as it is at one instant, by the clone.

use std::time::Duration;

use blockferry_delta::{IMAGE_BYTES_MAX, ImageName};

use crate::catalog::Checkpoint;
use crate::disk::{Disk, DiskFile, Kind, Lease, Meta, Open, RenameHow, Stat};
use crate::error::{Error, IoContext, Result};
use crate::layout::STAGING;
use crate::store::Options;

/// Longer than file times stand still between two writes (a tick of the slowest kernels).
const TICK: Duration = Duration::from_millis(20);

/// A file that stands still, or whose changes will be noticed.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) path: String,
    /// The image's file as it was when it was frozen.
    pub(crate) stat: Stat,
    /// Attributes of the image's file: a clone has its own.
    pub(crate) meta: Meta,
    /// `stat` is of what was frozen: nobody wrote between the two, nor will unseen from now on.
    pub(crate) settled: bool,
    /// Somebody keeps it open for writing: only the clone goes on holding what was frozen.
    pub(crate) written: bool,
    /// How long the clone took, in milliseconds: whoever writes had to wait.
    pub(crate) clone_millis: u64,
    is_clone: bool,
}

/// Freezes image `name`; where the options say so and there are clones, also one that somebody has
/// open for writing.
pub(crate) fn freeze(
    disk: &dyn Disk,
    name: &ImageName,
    clones: bool,
    options: &Options,
) -> Result<Frozen> {
    let (snapshot, clock) = (options.snapshot, options.monotonic_ms);
    let live = name.as_str();
    let mut stat = regular(disk, name)?;
    let file = open_live(disk, name)?;
    let written = file.writer_free().during("ask for a lease on", live)? == Lease::Held;
    if written && !(snapshot && clones) {
        return Err(Error::InUse(name.clone()));
    }
    let mut settled = true;
    if written {
        // The clone waits for what is not on disk yet, and the writer for the clone: most of it
        // goes there before.
        file.sync().during("flush", live)?;
        // A write within the same tick as the last one shows in no file time.
        std::thread::sleep(TICK);
        settled = unchanged(disk, name, &stat).is_ok();
        stat = regular(disk, name)?;
    }
    let mut meta = file.meta().during("read attributes of", live)?;
    meta.mtime_ns = stat.mtime_ns;
    if clones && stat.size_bytes > 0 {
        let path = format!("{STAGING}/{name}.frozen");
        disk.remove_file(&path).during("remove", &path)?;
        let asked_ms = clock();
        if disk.clone_file(live, &path).during("clone", live)? {
            let clone_millis = clock().saturating_sub(asked_ms);
            let file = disk.open(&path, Open::Read).during("open", &path)?;
            let is_clone = true;
            let mut frozen =
                Frozen { file, path, stat, meta, settled, written, clone_millis, is_clone };
            // A writer that slipped in before the clone would be recorded under the wrong times.
            if let Err(error) = unchanged(disk, name, &frozen.stat) {
                if !snapshot || !matches!(error, Error::ChangedWhileReading(_)) {
                    frozen.thaw(disk)?;
                    return Err(error);
                }
                (frozen.settled, frozen.written) = (false, true);
            }
            if frozen.written {
                // The image may be longer or shorter by now: what counts is what was cloned.
                let cloned = frozen.file.stat().during("look at", &frozen.path)?;
                frozen.stat.size_bytes = cloned.size_bytes;
            }
            return Ok(frozen);
        }
    }
    if written {
        return Err(Error::InUse(name.clone()));
    }
    let path = live.to_owned();
    let (clone_millis, is_clone) = (0, false);
    Ok(Frozen { file, path, stat, meta, settled, written, clone_millis, is_clone })
}

impl Frozen {
    /// Confirms after the scan that the file stood still.
    pub(crate) fn confirm(&self, disk: &dyn Disk, name: &ImageName) -> Result<()> {
        if self.is_clone {
            return Ok(());
        }
        if self.file.writer_free().during("ask for a lease on", &self.path)? == Lease::Held {
            return Err(Error::ChangedWhileReading(name.clone()));
        }
        unchanged(disk, name, &self.stat)
    }

    /// What proves later that the image's file still is what was frozen, if anything can.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.settled.then(|| Checkpoint::of(&self.stat))
    }

    /// Is it a clone, which nobody else can write to?
    pub(crate) fn is_clone(&self) -> bool {
        self.is_clone
    }

    /// Moves the clone to `path`, where it stays.
    pub(crate) fn keep(&mut self, disk: &dyn Disk, path: &str) -> Result<()> {
        disk.rename(&self.path, path, RenameHow::Replace).during("rename", path)?;
        path.clone_into(&mut self.path);
        self.is_clone = false;
        Ok(())
    }

    /// Gives the clone up, unless it was kept.
    pub(crate) fn thaw(self, disk: &dyn Disk) -> Result<()> {
        drop(self.file);
        if self.is_clone {
            disk.remove_file(&self.path).during("remove", &self.path)?;
        }
        Ok(())
    }
}

/// Opens the image's file for reading. A lease that doesn't end soon, ours while a commit is put in
/// place or another program's, counts as use.
pub(crate) fn open_live(disk: &dyn Disk, name: &ImageName) -> Result<Box<dyn DiskFile>> {
    match disk.open(name.as_str(), Open::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(Error::InUse(name.clone()))
        }
        opened => opened.during("open", name.as_str()),
    }
}

/// Looks at the image's file; only a regular file of bearable size is an image.
pub(crate) fn regular(disk: &dyn Disk, name: &ImageName) -> Result<Stat> {
    let stat = disk.stat(name.as_str()).during("look at", name.as_str())?;
    let stat = stat.ok_or_else(|| Error::SourceMissing(name.clone()))?;
    if stat.kind != Kind::File {
        return Err(Error::NotRegular(name.clone()));
    }
    if stat.size_bytes > IMAGE_BYTES_MAX {
        return Err(Error::TooLarge(name.clone()));
    }
    Ok(stat)
}

fn unchanged(disk: &dyn Disk, name: &ImageName, before: &Stat) -> Result<()> {
    let now = regular(disk, name)?;
    let key = |s: &Stat| (s.inode, s.size_bytes, s.mtime_ns, s.ctime_ns);
    if key(&now) == key(before) { Ok(()) } else { Err(Error::ChangedWhileReading(name.clone())) }
}
