//! The system calls rustix has no safe form for; the only file with unsafe code in this crate.
//!
//! Each function takes borrowed descriptors and plain numbers or fills a local structure, so no
//! call can reach memory it should not.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What of a range is in the page cache, in pages of the machine. Layout of the kernel's
/// `struct cachestat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct CacheStat {
    /// Pages in the cache.
    pub(super) cached: u64,
    /// Of these, changed and not yet on disk.
    pub(super) dirty: u64,
    /// Of these, on their way to disk.
    pub(super) writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Layout of the kernel's `struct cachestat_range`.
#[repr(C)]
struct CacheStatRange {
    offset: u64,
    bytes: u64,
}

/// `cachestat`, Linux 6.5; the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// Asks how much of a range is cached. An error means it can't be told (old kernel, not the owner).
pub(super) fn cachestat(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<CacheStat> {
    let range = CacheStatRange { offset, bytes };
    let mut stat = CacheStat::default();
    // SAFETY: both structures have the kernel's layout and outlive the call.
    let code = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            std::ptr::from_ref(&range),
            std::ptr::from_mut(&mut stat),
            0 as libc::c_uint,
        )
    };
    if code == 0 { Ok(stat) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of the machine's pages, the unit of [`CacheStat`].
pub(super) fn page_bytes() -> u64 {
    // SAFETY: only a number is passed.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Memory that could be had without swapping, in bytes: `MemAvailable` of `/proc/meminfo`.
pub(super) fn available_memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Layout of the kernel's `struct file_clone_range`.
#[repr(C)]
struct FileCloneRange {
    source: i64,
    source_offset: u64,
    bytes: u64,
    target_offset: u64,
}

/// `FICLONERANGE`: makes a range of `target` share the storage of the same range of `source`.
/// `bytes` isn't 0, which the kernel takes for "to the end".
pub(super) fn clone_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    offset: u64,
    bytes: u64,
) -> io::Result<()> {
    let source = i64::from(source.as_raw_fd());
    let range = FileCloneRange { source, source_offset: offset, bytes, target_offset: offset };
    // SAFETY: the structure has the kernel's layout and outlives the call, which only reads it.
    let code =
        unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, std::ptr::from_ref(&range)) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Starts writing a range back, without waiting.
pub(super) fn start_writeback(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    sync_range(file, offset, bytes, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes a range back and waits for it. The kernel reports a write-back error once: an error here
/// means that a later fsync of this descriptor may say nothing.
pub(super) fn finish_writeback(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_range(file, offset, bytes, all)
}

fn sync_range(
    file: BorrowedFd<'_>,
    offset: u64,
    bytes: u64,
    flags: libc::c_uint,
) -> io::Result<()> {
    let too_big = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(offset).map_err(too_big)?;
    let bytes = i64::try_from(bytes).map_err(too_big)?;
    // SAFETY: only numbers are passed.
    let code = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, flags) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which lease to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseKind {
    /// Granted when no process has the file open for writing.
    Read,
    /// Granted when nobody else has the file open.
    Write,
}

const F_SETSIG: libc::c_int = 10;

/// Takes a lease and gives it back at once. `true`: it was granted; `false`: another opener is in
/// the way; an error: it can't be told.
pub(super) fn try_lease(file: BorrowedFd<'_>, kind: LeaseKind) -> io::Result<bool> {
    let taken = take_lease(file, kind)?;
    if taken {
        drop_lease(file)?;
    }
    Ok(taken)
}

/// Takes a lease and keeps it until it is dropped or the file closed; answers as [`try_lease`].
///
/// Whoever opens the file meanwhile makes the kernel signal us. The default signal would
/// end the process, so one whose default is to be ignored is chosen first.
pub(super) fn take_lease(file: BorrowedFd<'_>, kind: LeaseKind) -> io::Result<bool> {
    let fd = file.as_raw_fd();
    let lease = match kind {
        LeaseKind::Read => libc::F_RDLCK,
        LeaseKind::Write => libc::F_WRLCK,
    };
    // SAFETY: only numbers are passed.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: only numbers are passed.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::c_int::from(lease as i16)) } != 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) };
    }
    Ok(true)
}

/// Gives a lease back: whoever waits for the file gets it.
pub(super) fn drop_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    let unlock = libc::c_int::from(libc::F_UNLCK as i16);
    // SAFETY: only numbers are passed.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, unlock) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Layout of the kernel's `struct fsxattr`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct FsXattr {
    flags: u32,
    extent_bytes: u32,
    extents: u32,
    project: u32,
    cow_extent_bytes: u32,
    pad: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`; the same numbers wherever the direction bits of
/// ioctls are, which is where FIEMAP's are.
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801C_581F;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401C_5820;
const FS_XFLAG_COWEXTSIZE: u32 = 0x0001_0000;

/// Sets how much room a write to shared storage takes at least (XFS): so many bytes, a multiple of
/// the filesystem's block; 0: as usual. Other filesystems say that they can't.
pub(super) fn set_cow_extent(file: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let mut attributes = FsXattr::default();
    let fd = file.as_raw_fd();
    // SAFETY: the structure has the kernel's layout and outlives the call.
    let code = unsafe { libc::ioctl(fd, FS_IOC_FSGETXATTR, std::ptr::from_mut(&mut attributes)) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.cow_extent_bytes = bytes;
    match bytes {
        0 => attributes.flags &= !FS_XFLAG_COWEXTSIZE,
        _ => attributes.flags |= FS_XFLAG_COWEXTSIZE,
    }
    // SAFETY: the structure has the kernel's layout and outlives the call.
    let code = unsafe { libc::ioctl(fd, FS_IOC_FSSETXATTR, std::ptr::from_ref(&attributes)) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `FS_IOC_FIEMAP`; the same number on every architecture that knows it.
const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;

/// Asks the filesystem for a file's extents with one `FS_IOC_FIEMAP`. `words` is the kernel's
/// `struct fiemap` (four words of eight bytes) with room for extents of seven words each behind it;
/// the head says how many fit. Both are filled in.
pub(super) fn fiemap(file: BorrowedFd<'_>, words: &mut [u64]) -> io::Result<()> {
    let room = words.get(3).map_or(0, |word| (word & 0xFFFF_FFFF) as usize);
    if words.len() < 4 + 7 * room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel writes the head and at most as many extents as the head says, for which
    // there is room; the slice is aligned to eight bytes, as the structure wants.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, words.as_mut_ptr()) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the calling thread's disk I/O behind everybody else's (`IOPRIO_CLASS_IDLE`). Schedulers
/// that know no priorities ignore it.
fn set_idle_io_priority() -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const THIS_THREAD: libc::c_int = 0;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: only numbers are passed.
    let code = unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, THIS_THREAD, IOPRIO_CLASS_IDLE)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the calling thread behind others: `by` steps of niceness for the CPU, and behind everybody for
/// the disk. There is no way back: it is for threads that end with their job.
pub(crate) fn step_back(by: i32) -> io::Result<()> {
    let cpu = rustix::process::nice(by);
    set_idle_io_priority()?;
    cpu?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_broken_lease_would_not_end_the_process() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let second = file.reopen().unwrap();
        // Refused, since it is open twice: giving a lease back would reset the signal.
        assert!(!matches!(try_lease(file.as_file().as_fd(), LeaseKind::Write), Ok(true)));
        drop(second);
        const F_GETSIG: libc::c_int = 11;
        // SAFETY: only numbers are passed.
        let signal = unsafe { libc::fcntl(file.as_file().as_raw_fd(), F_GETSIG) };
        assert_eq!(signal, libc::SIGURG, "a signal whose default is to be ignored");
    }

    #[test]
    fn idle_priority_is_per_thread_and_allowed() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        std::thread::spawn(move || {
            step_back(3).unwrap();
            assert_eq!(nice(), (before + 3).min(19));
            // SAFETY: only numbers are passed.
            let now = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
            assert_eq!(now >> 13, 3);
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before, "other threads go on as they were");
    }
}
