//! An open regular file of the real disk: positioned reads and writes, holes, metadata, leases.
//!
//! After a failed sync the handle refuses every further one: the kernel would report success for
//! pages it has dropped. Bulk I/O is in `bulk.rs`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{
    FallocateFlags, FileType, Gid, Mode, SeekFrom, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::bulk::{self, Bulk};
use super::real::{FileId, OwnOpens, Root};
use super::sys::{self, LeaseKind};
use super::{AlignedBuf, DiskFile, Kind, Lease, Meta, MetaOutcome, Placed, Stat};

/// Zeros written at a time where holes can't be punched.
const ZERO_BYTES: usize = 256 << 10;
/// Largest value and list of extended attributes the kernel knows (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 64 << 10;
/// If openers wait for less than this, there is no time to do anything while they do.
const LEASE_WAIT_MIN: Duration = Duration::from_secs(20);
/// Pauses before each question about a lease.
const LEASE_PAUSES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(4)];

#[derive(Debug)]
pub(super) struct RealFile {
    root: Arc<Root>,
    path: String,
    fd: OwnedFd,
    id: FileId,
    writable: bool,
    bulk: Bulk,
    /// A sync or write-back of this handle failed.
    failed: AtomicBool,
    /// When others were shut out, if they are.
    shut_since: Mutex<Option<Instant>>,
}

impl RealFile {
    pub(super) fn new(
        root: Arc<Root>,
        path: String,
        fd: OwnedFd,
        stat: &Stat,
        writable: bool,
    ) -> RealFile {
        let id = (stat.device, stat.inode);
        let mut opens = root.opens();
        let own = opens.entry(id).or_default();
        own.all += 1;
        own.writable += usize::from(writable);
        drop(opens);
        let failed = AtomicBool::new(false);
        let shut_since = Mutex::default();
        RealFile { root, path, fd, id, writable, bulk: Bulk::default(), failed, shut_since }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another descriptor of the same file with more flags, or `None` if the path leads elsewhere
    /// by now.
    pub(super) fn reopen(&self, more: rustix::fs::OFlags) -> io::Result<Option<OwnedFd>> {
        let fd = self.root.open_reading(&self.path, more)?;
        let stat = stat_of(&rustix::fs::fstat(&fd)?);
        Ok(((stat.device, stat.inode) == self.id).then_some(fd))
    }

    #[cfg(test)]
    pub(super) fn refuse_dontcache(&self) {
        self.bulk.refuse_dontcache();
    }

    /// Remembers that write-back failed, whether or not a later fsync would say so.
    pub(super) fn fail(&self, error: io::Error) -> io::Error {
        self.failed.store(true, Ordering::Release);
        error
    }

    fn own_opens(&self) -> OwnOpens {
        self.root.opens().get(&self.id).copied().unwrap_or_default()
    }

    /// Asks for a lease. Refused, it counts as held by another only if no handle of ours explains
    /// that, and only when asked again: another thread asking the same, or a child process between
    /// fork and exec, is in the way for an instant.
    fn ask(&self, kind: LeaseKind, in_the_way: impl Fn(OwnOpens) -> bool) -> Lease {
        self.ask_by(|| sys::try_lease(self.fd(), kind), in_the_way)
    }

    fn ask_by(
        &self,
        ask: impl Fn() -> io::Result<bool>,
        in_the_way: impl Fn(OwnOpens) -> bool,
    ) -> Lease {
        for pause in LEASE_PAUSES {
            std::thread::sleep(pause);
            match ask() {
                Ok(true) => return Lease::Free,
                Ok(false) if in_the_way(self.own_opens()) => return Lease::Unknown,
                Ok(false) => {}
                Err(_) => return Lease::Unknown,
            }
        }
        Lease::Held
    }

    /// Makes holes again of what was reserved; what can't be is a little storage lost.
    fn give_back(&self, ranges: &[(u64, u64)], size_bytes: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for &(offset, bytes) in ranges {
            let _storage = rustix::fs::fallocate(&self.fd, flags, offset, bytes);
        }
        // Storage behind the end isn't given back by punching.
        let _storage = rustix::fs::ftruncate(&self.fd, size_bytes);
    }

    fn write_zeros(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let size = rustix::fs::fstat(&self.fd)?.st_size.cast_unsigned();
        let end = offset.saturating_add(bytes).min(size);
        let zeros = vec![0; ZERO_BYTES];
        let mut at = offset;
        while at < end {
            let step = (end - at).min(ZERO_BYTES as u64);
            self.write_at(&zeros[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    fn xattrs(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut list = vec![0; XATTR_BYTES_MAX];
        let bytes = match rustix::fs::flistxattr(&self.fd, &mut list[..]) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut value = vec![0; XATTR_BYTES_MAX];
        let mut found = Vec::new();
        for name in list[..bytes].split_inclusive(|byte| *byte == 0) {
            let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
            if !travels(c_name.to_bytes()) {
                continue;
            }
            match rustix::fs::fgetxattr(&self.fd, c_name, &mut value[..]) {
                Ok(bytes) => found.push((c_name.to_bytes().to_vec(), value[..bytes].to_vec())),
                // Removed since it was listed, or not for our eyes.
                Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn set_xattrs(&self, meta: &Meta, now: &Meta, outcome: &mut MetaOutcome) -> io::Result<()> {
        let wanted = |name: &[u8]| meta.xattrs.iter().any(|(other, _)| other == name);
        let gone = now.xattrs.iter().map(|(name, _)| name);
        for name in gone.filter(|name| name.starts_with(b"user.") && !wanted(name)) {
            let removed = rustix::fs::fremovexattr(&self.fd, name.as_slice());
            tolerate(removed, name, outcome)?;
        }
        for xattr in meta.xattrs.iter().filter(|xattr| !now.xattrs.contains(xattr)) {
            let (name, value) = xattr;
            if !travels(name) {
                outcome.xattrs_refused.push(name.clone());
                continue;
            }
            let set = rustix::fs::fsetxattr(&self.fd, name.as_slice(), value, XattrFlags::empty());
            tolerate(set, name, outcome)?;
        }
        Ok(())
    }

    fn set_owner(&self, meta: &Meta, now: &Stat, outcome: &mut MetaOutcome) -> io::Result<()> {
        if (meta.uid, meta.gid) == (now.uid, now.gid) {
            return Ok(());
        }
        // -1 means "leave it" to the kernel and can't be an owner.
        if meta.uid == u32::MAX || meta.gid == u32::MAX {
            outcome.owner_refused = true;
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        match rustix::fs::fchown(&self.fd, Some(uid), Some(gid)) {
            Err(Errno::PERM | Errno::INVAL) => outcome.owner_refused = true,
            done => done?,
        }
        Ok(())
    }

    fn set_mtime(&self, mtime_ns: i128) -> io::Result<()> {
        const SECOND_NS: i128 = 1_000_000_000;
        let seconds = i64::try_from(mtime_ns.div_euclid(SECOND_NS));
        let tv_sec = seconds.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let tv_nsec = mtime_ns.rem_euclid(SECOND_NS) as i64;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec, tv_nsec },
        };
        Ok(rustix::fs::futimens(&self.fd, &times)?)
    }
}

/// Whether an extended attribute is carried: labels and capabilities are the host's own policy.
fn travels(name: &[u8]) -> bool {
    !name.starts_with(b"security.")
}

/// Notes an attribute that this filesystem or this user can't set; other errors are errors.
fn tolerate(done: Result<(), Errno>, name: &[u8], outcome: &mut MetaOutcome) -> io::Result<()> {
    match done {
        Err(
            Errno::PERM
            | Errno::ACCESS
            | Errno::OPNOTSUPP
            | Errno::INVAL
            | Errno::TOOBIG
            | Errno::RANGE,
        ) => {
            outcome.xattrs_refused.push(name.to_vec());
            Ok(())
        }
        Err(Errno::NODATA) => Ok(()),
        done => Ok(done?),
    }
}

pub(super) fn file_kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

pub(super) fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    let time = |seconds: i64, ns: u64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Stat {
        kind: file_kind(FileType::from_raw_mode(stat.st_mode)),
        inode: stat.st_ino,
        device: stat.st_dev,
        size_bytes: stat.st_size.cast_unsigned(),
        // Blocks of stat are 512 bytes, whatever the filesystem's own.
        allocated_bytes: stat.st_blocks.cast_unsigned() * 512,
        mtime_ns: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: time(stat.st_ctime, stat.st_ctime_nsec),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink,
    }
}

impl DiskFile for RealFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&rustix::fs::fstat(&self.fd)?))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pread(&self.fd, &mut *buf, offset) {
                Err(Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }

    fn read_bulk_at(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> io::Result<usize> {
        self.bulk.read(self, buf, offset, bytes)
    }

    fn read_device_at(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> io::Result<usize> {
        self.bulk.read_device(self, buf, offset, bytes)
    }

    fn prefetch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.bulk.prefetch(self, offset, bytes)
    }

    fn warm(&self, offset: u64, bytes: u64) -> io::Result<()> {
        bulk::warm(self, offset, bytes)
    }

    fn forget(&self) -> io::Result<()> {
        bulk::drop_cached(self.fd(), 0, None)
    }

    fn cached_bytes(&self, offset: u64, bytes: u64) -> io::Result<Option<u64>> {
        Ok(self.bulk.cached_pages(self, offset, bytes).map(|pages| pages * sys::page_bytes()))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pwrite(&self.fd, &buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_bulk_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.bulk.write(self, buf, offset)
    }

    fn write_passing_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.bulk.note_passing(self, offset, buf.len() as u64);
        self.write_at(buf, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.fd, bytes)?)
    }

    fn reserve(&self, ranges: &[(u64, u64)]) -> io::Result<()> {
        let Stat { mtime_ns, size_bytes, .. } = self.stat()?;
        let mut outcome = Ok(());
        for (at, &(offset, bytes)) in ranges.iter().enumerate() {
            match rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, bytes) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(error) => {
                    self.give_back(&ranges[..=at], size_bytes);
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        // The kernel takes it for a write.
        self.set_mtime(mtime_ns)?;
        outcome
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.fd, flags, offset, bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, bytes),
            done => Ok(done?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write-back of this file failed"));
        }
        rustix::fs::fsync(&self.fd).map_err(|error| self.fail(error.into()))?;
        // Only what is on disk can be dropped.
        self.bulk.drop_ahead(self, 0, u64::MAX);
        self.bulk.drop_written(self);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = rustix::fs::fstat(&self.fd)?.st_size.cast_unsigned();
        if offset >= size {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&self.fd, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
            Err(error) => return Err(error.into()),
        };
        if start >= size {
            return Ok(None);
        }
        let end = match rustix::fs::seek(&self.fd, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            // Truncated since: the reader will find out.
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        Ok(Some((start, end)))
    }

    fn placement(&self) -> io::Result<Option<Vec<Placed>>> {
        super::fiemap::placement(self.fd())
    }

    fn meta(&self) -> io::Result<Meta> {
        let Stat { mode, uid, gid, mtime_ns, .. } = self.stat()?;
        Ok(Meta { mode, uid, gid, mtime_ns, xattrs: self.xattrs()? })
    }

    fn set_meta(&self, meta: &Meta) -> io::Result<MetaOutcome> {
        let mut outcome = MetaOutcome::default();
        let now = self.stat()?;
        let now_meta = self.meta()?;
        // Changing the owner clears setuid bits, an ACL changes the mode, and all but the times
        // leave the mtime alone: hence this order.
        self.set_owner(meta, &now, &mut outcome)?;
        self.set_xattrs(meta, &now_meta, &mut outcome)?;
        if self.stat()?.mode != meta.mode & 0o7777 {
            rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(meta.mode & 0o7777))?;
        }
        if self.stat()?.mtime_ns != meta.mtime_ns {
            self.set_mtime(meta.mtime_ns)?;
        }
        outcome.mtime_inexact = self.stat()?.mtime_ns != meta.mtime_ns;
        Ok(outcome)
    }

    fn writer_free(&self) -> io::Result<Lease> {
        if self.writable {
            // The kernel counts this handle as a writer; only being alone answers then.
            self.bulk.close_direct();
            return Ok(self.ask(LeaseKind::Write, |_| true));
        }
        Ok(self.ask(LeaseKind::Read, |own| own.writable > 0))
    }

    fn sole_opener(&self) -> io::Result<Lease> {
        self.bulk.close_direct();
        Ok(self.ask(LeaseKind::Write, |own| own.all > 1))
    }

    fn shut_out(&self) -> io::Result<Lease> {
        self.bulk.close_direct();
        if self.root.lease_wait < LEASE_WAIT_MIN {
            return Ok(Lease::Unknown);
        }
        let answer =
            self.ask_by(|| sys::take_lease(self.fd(), LeaseKind::Write), |own| own.all > 1);
        let since = (answer == Lease::Free).then(Instant::now);
        *self.shut_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        Ok(answer)
    }

    fn let_in(&self) -> io::Result<bool> {
        let since = self.shut_since.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(since) = since else { return Ok(true) };
        let in_time = since.elapsed() < self.root.lease_wait;
        match sys::drop_lease(self.fd()) {
            // The kernel took it back.
            Err(_) if !in_time => Ok(false),
            done => done.map(|()| in_time),
        }
    }

    fn shut_left(&self) -> Duration {
        let since = *self.shut_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| self.root.lease_wait.saturating_sub(since.elapsed()))
    }

    fn tight_cow(&self, tight: bool) {
        let block_bytes = match rustix::fs::fstatvfs(&self.fd) {
            Ok(stat) if tight => u32::try_from(stat.f_frsize).unwrap_or(0),
            _ => 0,
        };
        // Only XFS knows it.
        let _advice = sys::set_cow_extent(self.fd(), block_bytes);
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        self.bulk.drop_ahead(self, 0, u64::MAX);
        let mut opens = self.root.opens();
        if let Some(own) = opens.get_mut(&self.id) {
            own.all -= 1;
            own.writable -= usize::from(self.writable);
            if own.all == 0 {
                opens.remove(&self.id);
            }
        }
    }
}
