//! The disk of the machine, beneath one directory handle.
//!
//! Every path is resolved beneath that handle, through no symlink (`resolve`). What is done to a
//! name (stat, rename, remove) is done relative to the handle of its directory. Opening never blocks
//! on a FIFO, never follows a symlink and never hands out anything but a regular file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::backends::FileBackend;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock};
use rustix::io::Errno;

use super::path::{check, check_dir, split};
use super::real_file::{RealFile, file_kind, stat_of};
use super::{
    CatalogBackend, DirEntry, Disk, DiskFile, Holder, Kind, Open, RenameHow, Space, Stat, copy,
};

/// Mode of the files made here, whatever the umask.
const FILE_MODE: u32 = 0o600;
/// Mode of the directories made here.
const DIR_MODE: u32 = 0o700;
/// Another process's lease on the file, or its short question about ours, makes an open that may
/// not block fail; it is tried this often before that is reported.
const OPEN_TRIES: u32 = 10;
/// What Linux lets openers wait for a lease, unless somebody changed it.
const LEASE_WAIT_USUAL: Duration = Duration::from_secs(45);
/// Pause between these tries.
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// The real disk: a directory and all beneath it.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: Arc<Root>,
}

/// The directory handle, and which files this disk has open itself.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    /// How long the kernel lets an opener wait for a lease to be given back.
    pub(super) lease_wait: Duration,
    opens: Mutex<HashMap<FileId, OwnOpens>>,
}

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// How many handles of this disk are open on one file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnOpens {
    pub(super) all: usize,
    pub(super) writable: usize,
}

impl RealDisk {
    /// Takes a handle of an existing directory. Here alone symlinks are followed: the path is the
    /// operator's.
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let lease_wait = lease_wait();
        Ok(RealDisk { root: Arc::new(Root { dir, lease_wait, opens: Mutex::default() }) })
    }

    fn open_file(&self, path: &str, how: Open) -> io::Result<(OwnedFd, Stat)> {
        check(path)?;
        let read_write = OFlags::RDWR;
        let fd = match how {
            Open::Read => self.root.open_reading(path, OFlags::empty())?,
            Open::ReadWrite => self.root.open_at(path, read_write, 0)?,
            Open::CreateNew => self.create(path)?,
            Open::Create => self.open_or_create(path)?,
        };
        let stat = stat_of(&rustix::fs::fstat(&fd)?);
        match stat.kind {
            Kind::File => Ok((fd, stat)),
            Kind::Dir => Err(io::ErrorKind::IsADirectory.into()),
            Kind::Symlink | Kind::Other => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
            }
        }
    }

    fn create(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = self.root.open_at(path, flags, FILE_MODE)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(FILE_MODE))?;
        Ok(fd)
    }

    /// Creating and opening are told apart, since only a new file gets its mode set.
    fn open_or_create(&self, path: &str) -> io::Result<OwnedFd> {
        let mut tries = OPEN_TRIES;
        loop {
            match self.create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => return done,
            }
            tries -= 1;
            match self.root.open_at(path, OFlags::RDWR, 0) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries > 0 => {}
                done => return done,
            }
        }
    }

    fn file(&self, path: &str, how: Open) -> io::Result<RealFile> {
        let (fd, stat) = self.open_file(path, how)?;
        let writable = how != Open::Read;
        Ok(RealFile::new(Arc::clone(&self.root), path.to_owned(), fd, &stat, writable))
    }

    /// The directory of a path, and the name in it.
    fn parent<'path>(&self, path: &'path str) -> io::Result<(OwnedFd, &'path str)> {
        check(path)?;
        let (dir, name) = split(path);
        Ok((self.root.open_dir(dir)?, name))
    }
}

/// What the machine says about it; asked once, because later no path outside is opened.
fn lease_wait() -> Duration {
    let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").ok();
    let seconds = text.and_then(|text| text.trim().parse().ok());
    seconds.map_or(LEASE_WAIT_USUAL, Duration::from_secs)
}

impl Root {
    /// The one place where a path becomes a descriptor.
    pub(super) fn open_at(&self, path: &str, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let mode = Mode::from_raw_mode(mode);
        let mut tries = 1;
        loop {
            match super::resolve::open(self.dir.as_fd(), path, flags, mode) {
                Err(Errno::INTR) => {}
                // AGAIN: a lease is being broken, or a rename ran beside our resolution.
                Err(Errno::AGAIN) if tries < OPEN_TRIES => {
                    tries += 1;
                    std::thread::sleep(OPEN_PAUSE);
                }
                done => return done.map_err(io::Error::from),
            }
        }
    }

    /// Opens for reading, leaving the access time alone where that is allowed.
    pub(super) fn open_reading(&self, path: &str, more: OFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | more;
        match self.open_at(path, flags | OFlags::NOATIME, 0) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                self.open_at(path, flags, 0)
            }
            done => done,
        }
    }

    fn open_dir(&self, dir: &str) -> io::Result<OwnedFd> {
        let path = if dir.is_empty() { "." } else { dir };
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    pub(super) fn opens(&self) -> MutexGuard<'_, HashMap<FileId, OwnOpens>> {
        // A count is right after a panic elsewhere, too.
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.file(path, how)?))
    }

    fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        check_dir(path)?;
        let (dir, name) = split(path);
        let found = if name.is_empty() {
            rustix::fs::fstat(&self.root.dir)
        } else if dir.is_empty() {
            // The common case, an image: one system call.
            rustix::fs::statat(&self.root.dir, name, AtFlags::SYMLINK_NOFOLLOW)
        } else {
            match self.root.open_dir(dir) {
                Ok(dir) => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        match found {
            Ok(stat) => Ok(Some(stat_of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        check_dir(dir)?;
        let fd = self.root.open_dir(dir)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => stat_of(&stat).kind,
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                known => file_kind(known),
            };
            entries.push(DirEntry { name: OsStr::from_bytes(name).to_owned(), kind });
        }
        Ok(entries)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(DIR_MODE)) {
            Ok(()) => {
                let fd = self.root.open_dir(path)?;
                Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(DIR_MODE))?)
            }
            Err(Errno::EXIST) => match self.stat(path)? {
                Some(Stat { kind: Kind::Dir, .. }) => Ok(()),
                _ => Err(io::ErrorKind::AlreadyExists.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let (parent, name) = match self.parent(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn rename(&self, from: &str, to: &str, how: RenameHow) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let flags = match how {
            RenameHow::Replace => RenameFlags::empty(),
            RenameHow::NoReplace => RenameFlags::NOREPLACE,
            RenameHow::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(rustix::fs::renameat_with(from_dir, from_name, to_dir, to_name, flags)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        Ok(rustix::fs::fsync(self.root.open_dir(dir)?)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root.dir)?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn available_memory(&self) -> io::Result<u64> {
        super::sys::available_memory_bytes()
    }

    fn clone_file(&self, from: &str, to: &str) -> io::Result<bool> {
        let (source, stat) = self.open_file(from, Open::Read)?;
        if stat.size_bytes == 0 {
            return Ok(false);
        }
        let (target, _) = self.open_file(to, Open::CreateNew)?;
        let cloned = rustix::fs::ioctl_ficlone(&target, &source);
        if cloned.is_ok() {
            return Ok(true);
        }
        self.remove_file(to)?;
        match cloned {
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
                Ok(false)
            }
            done => Ok(done.map(|()| true)?),
        }
    }

    fn copy_extents(&self, from: &str, to: &str, extents: &[(u64, u64)]) -> io::Result<()> {
        let source = self.file(from, Open::Read)?;
        let target = self.file(to, Open::ReadWrite)?;
        copy::extents(&source, &target, extents)
    }

    fn writer_of(&self, path: &str) -> Option<Holder> {
        let stat = self.stat(path).ok()??;
        super::holder::writer_of(stat.device, stat.inode)
    }

    fn backend(&self, path: &str) -> io::Result<CatalogBackend> {
        let (fd, _) = self.open_file(path, Open::Create)?;
        // redb takes locks of its own when it opens; this one says it before, and as an error
        // that can be told from others.
        flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
        let backend = FileBackend::new(fd.into()).map_err(io::Error::other)?;
        Ok(CatalogBackend::new(backend))
    }
}

#[cfg(test)]
mod tests;
