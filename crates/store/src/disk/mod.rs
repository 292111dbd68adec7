//! The seam between the store and the machine: a directory tree under one handle.
//!
//! [`Disk`] is one store's root; [`DiskFile`] one open regular file in it. [`RealDisk`] resolves
//! every path beneath its directory handle and follows no symlink; [`SimDisk`] keeps all in
//! memory and can lose power at any operation. Both pass one conformance suite.
//!
//! Paths are relative, `/`-separated, without empty, `.` or `..` components; where a directory
//! is meant, `""` is the root. What was written is durable only after [`DiskFile::sync`], what was
//! created, renamed or removed only after [`Disk::sync_dir`] of the directory it happened in; a
//! rename between directories is one step and durable once either of them is synced.
//! A sync that failed is never retried: what it should have saved may be lost while the next
//! sync reports success.

mod ahead;
mod aligned;
mod backend;
mod bulk;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod copy;
mod fiemap;
mod gather;
mod guard;
mod holder;
mod path;
mod real;
mod real_file;
mod resolve;
mod sim;
mod sys;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

pub use aligned::{ALIGN_BYTES, AlignedBuf};
pub use backend::CatalogBackend;
pub use blockferry_delta::Meta;
pub(crate) use guard::Guard;
pub use holder::Holder;
pub use real::RealDisk;
pub use sim::{CrashPlan, Keep, OpKind, PowerGone, SimDisk, Snapshot};
pub(crate) use sys::step_back;

/// How [`Disk::open`] opens a file. Nothing ever truncates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading; the file exists.
    Read,
    /// For reading and writing; the file exists.
    ReadWrite,
    /// For reading and writing; the file is new, `AlreadyExists` otherwise.
    CreateNew,
    /// For reading and writing; the file is created when absent.
    Create,
}

/// What [`Disk::rename`] does with an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameHow {
    /// The target, if any, is replaced.
    Replace,
    /// `AlreadyExists` if there is a target.
    NoReplace,
    /// Both exist and change places; each keeps its inode.
    Exchange,
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, never followed.
    Symlink,
    /// A FIFO, socket or device.
    Other,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Kind of the thing itself.
    pub kind: Kind,
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Storage in use, in bytes; less than the length where there are holes.
    pub allocated_bytes: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Last change of content or metadata, nanoseconds since 1970; cannot be set.
    pub ctime_ns: i128,
    /// Permission bits (`07777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Number of names.
    pub links: u64,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; may be anything but `/` and NUL.
    pub name: OsString,
    /// What it stands for.
    pub kind: Kind,
}

/// Room on the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes this process may still use.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What the kernel says about other openers of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nobody else.
    Free,
    /// Another process has it open (in the way that was asked about).
    Held,
    /// It can't be told: not the owner, a filesystem without leases, or handles of our own in
    /// the way.
    Unknown,
}

/// Where the bytes of a piece of a file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Nowhere: it reads as zeros.
    None,
    /// From this address on. Files that exist at the same time and share an address hold the same
    /// bytes there.
    At(u64),
    /// It can't be told.
    Unknown,
}

/// A piece of a file and its storage; what lies between pieces is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where it is.
    pub storage: Storage,
}

impl Placed {
    /// Offset of the byte after its last.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// What [`DiskFile::set_meta`] could not carry over. Nothing here is an error: a node that is not
/// root cannot give files away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaOutcome {
    /// The owner or group differs and could not be changed.
    pub owner_refused: bool,
    /// The filesystem keeps coarser or narrower times; it now shows another mtime.
    pub mtime_inexact: bool,
    /// Names of extended attributes that could not be set or removed.
    pub xattrs_refused: Vec<Vec<u8>>,
}

/// One store's directory tree. Blocking; usable from many threads.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a regular file; anything else is `InvalidInput` (a directory: `IsADirectory`, a
    /// symlink: an error of the kernel's choosing). New files have mode 0600.
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>>;

    /// Looks at a name without following a symlink; `None` when there is none.
    fn stat(&self, path: &str) -> io::Result<Option<Stat>>;

    /// The entries of a directory without `.` and `..`, in no particular order.
    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>>;

    /// Makes a directory of mode 0700; nothing happens when it exists.
    fn make_dir(&self, path: &str) -> io::Result<()>;

    /// Removes a file (never a directory); nothing happens when it is absent.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Renames in one step.
    fn rename(&self, from: &str, to: &str, how: RenameHow) -> io::Result<()>;

    /// Makes the names of a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Room on the filesystem.
    fn space(&self) -> io::Result<Space>;

    /// Bytes of memory that the page cache can have without hurting anybody much.
    fn available_memory(&self) -> io::Result<u64> {
        Ok(0)
    }

    /// Makes `to`, a new file, share all of `from`'s storage. `false`, and no `to`, when the
    /// filesystem can't, and also for an empty `from`: cloning nothing proves nothing and lies on
    /// some filesystems.
    fn clone_file(&self, from: &str, to: &str) -> io::Result<bool>;

    /// Copies extents of (offset, length) in bytes into the existing file `to`, to the same
    /// offsets. `UnexpectedEof` when `from` is too short.
    fn copy_extents(&self, from: &str, to: &str, extents: &[(u64, u64)]) -> io::Result<()>;

    /// Somebody who has a file open for writing, as far as it can be told.
    fn writer_of(&self, _path: &str) -> Option<Holder> {
        None
    }

    /// Opens, creating it when absent, a file for redb, locked for as long as the backend lives.
    /// `WouldBlock` when another has it.
    fn backend(&self, path: &str) -> io::Result<CatalogBackend>;
}

/// An open regular file. All offsets and lengths are bytes.
pub trait DiskFile: Send + Sync + Debug {
    /// Looks at the open file.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads at most `buf.len()` bytes; 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `buf`; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads `bytes` (at most the buffer's capacity) into `buf` from its start and sets its
    /// length; less only at the end of the file. What is cached comes from the page cache, what
    /// isn't doesn't fill it. Fastest with `offset` a multiple of [`ALIGN_BYTES`].
    fn read_bulk_at(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> io::Result<usize>;

    /// As [`DiskFile::read_bulk_at`], but from the device, also what the page cache has, where the
    /// filesystem allows that.
    fn read_device_at(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> io::Result<usize> {
        self.read_bulk_at(buf, offset, bytes)
    }

    /// Says that a range will be read soon by [`DiskFile::read_bulk_at`], so that reading may begin
    /// now. What that brings into the page cache leaves it when it was read, after a sync, or with
    /// this handle.
    /// Only advice.
    fn prefetch(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// Reads a range into the page cache.
    fn warm(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// Drops from the page cache what of the file is on disk. For files that are read by nobody
    /// else; after a sync, that is all of it. Only advice.
    fn forget(&self) -> io::Result<()> {
        Ok(())
    }

    /// How much of a range is in the page cache, in bytes; `None` when it can't be told.
    fn cached_bytes(&self, _offset: u64, _bytes: u64) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Writes all of `buf`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` without keeping it in the page cache.
    fn write_bulk_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` through the page cache, so that scattered writes reach the disk in order.
    /// What of the range wasn't cached before leaves the cache after the next sync, or with this
    /// handle.
    fn write_passing_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(buf, offset)
    }

    /// Sets the length; what is new is a hole.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Gives storage to ranges of (offset, length) in bytes that are holes, or to none of them:
    /// with `StorageFull` all is given back. Content, length and mtime stay, the ctime may move.
    /// Only for a file that nobody else has open; nothing happens where the filesystem can't.
    fn reserve(&self, _ranges: &[(u64, u64)]) -> io::Result<()> {
        Ok(())
    }

    /// Turns a range into a hole, or into zeros where the filesystem has no holes. The length
    /// stays.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Makes content and metadata durable. Never retry it.
    fn sync(&self) -> io::Result<()>;

    /// The next extent (start, end) at or after `offset` that may hold data, clamped to the
    /// length; `None` when only a hole is left.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>>;

    /// Where the file's bytes are stored, ascending; `None` when the filesystem doesn't tell or the
    /// answer is too long. What was written before is settled first.
    fn placement(&self) -> io::Result<Option<Vec<Placed>>> {
        Ok(None)
    }

    /// Mode, owner, mtime and the extended attributes that travel: all but `security.*`, which
    /// belongs to the host's own policy.
    fn meta(&self) -> io::Result<Meta>;

    /// Sets what differs; `user.*` attributes that `meta` lacks are removed. To be called after
    /// the last write, which would move the mtime.
    fn set_meta(&self, meta: &Meta) -> io::Result<MetaOutcome>;

    /// Does nobody hold this file open for writing? Ask on a handle opened with [`Open::Read`]:
    /// on a writable one the kernel counts ourselves, so it is `Free` only when nobody else has
    /// the file open at all, else `Unknown`. If other handles of this disk could be what the
    /// kernel saw, the answer is `Unknown`, too.
    fn writer_free(&self) -> io::Result<Lease>;

    /// Does nobody else have this file open at all? Other handles of this disk on the same file
    /// turn a `Held` into `Unknown`.
    fn sole_opener(&self) -> io::Result<Lease>;

    /// As [`DiskFile::sole_opener`], and a `Free` stays true: who opens the file from now on, this
    /// disk too, waits (or is told `WouldBlock`) until [`DiskFile::let_in`] or the end of this
    /// handle. The kernel lets nobody wait for ever, so what is done meanwhile must be short.
    fn shut_out(&self) -> io::Result<Lease> {
        Ok(Lease::Unknown)
    }

    /// Ends [`DiskFile::shut_out`]. `false`: it took so long that somebody may have been let in
    /// before.
    fn let_in(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// For how much longer [`DiskFile::shut_out`] holds.
    fn shut_left(&self) -> Duration {
        Duration::MAX
    }

    /// Makes writes to shared storage take no more room than they are long, where the filesystem
    /// would take more to keep files in one piece (XFS: 128 KiB for a page); or as usual again.
    /// Only advice.
    fn tight_cow(&self, _tight: bool) {}
}

/// Finds out whether clones work in `dir`: clones a real data block there and reads it back.
/// Leaves no file behind.
pub fn probe_clone(disk: &dyn Disk, dir: &str) -> io::Result<bool> {
    const PROBE_BYTES: usize = 64 << 10;
    let from = path::join(dir, ".probe-clone-a");
    let to = path::join(dir, ".probe-clone-b");
    let attempt = || -> io::Result<bool> {
        disk.remove_file(&from)?;
        disk.remove_file(&to)?;
        let pattern: Vec<u8> = (0..PROBE_BYTES).map(|i| (i % 251) as u8 ^ (i >> 8) as u8).collect();
        let file = disk.open(&from, Open::CreateNew)?;
        file.write_at(&pattern, 0)?;
        // A filesystem without clones says so at once; an fsync would only wait for the disk.
        if !disk.clone_file(&from, &to)? {
            return Ok(false);
        }
        disk.remove_file(&to)?;
        file.sync()?;
        if !disk.clone_file(&from, &to)? {
            return Ok(false);
        }
        let mut back = vec![0; PROBE_BYTES];
        disk.open(&to, Open::Read)?.read_exact_at(&mut back, 0)?;
        Ok(back == pattern)
    };
    let outcome = attempt();
    disk.remove_file(&from)?;
    disk.remove_file(&to)?;
    outcome
}
