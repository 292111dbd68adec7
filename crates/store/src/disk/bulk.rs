//! Bulk reads and writes that leave the page cache to those who need it.
//!
//! A read asks `cachestat` first. What is mostly cached is read from the cache; else a second
//! descriptor with O_DIRECT reads it, else `RWF_DONTCACHE`, else a plain read whose pages are
//! dropped afterwards. A write uses `RWF_DONTCACHE`, else it is written back in a window one
//! request long and dropped. What the filesystem refuses once is not tried again on that file.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::real_file::RealFile;
use super::sys;
use super::{ALIGN_BYTES, AlignedBuf, DiskFile};

/// `RWF_DONTCACHE`, Linux 6.14; rustix has no name for it yet.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What was learnt about one open file.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    direct: Mutex<Direct>,
    no_cachestat: AtomicBool,
    no_dontcache: AtomicBool,
    /// The span written last without `RWF_DONTCACHE`: on its way to disk, to be dropped next.
    window: Mutex<Option<(u64, u64)>>,
}

#[derive(Clone, Debug, Default)]
enum Direct {
    #[default]
    Untried,
    Open(Arc<OwnedFd>),
    Refused,
}

/// Where a span should be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// All of it is cached.
    Cache,
    /// Much of it is cached, or it has changes that a direct read would have to wait for.
    Mixed,
    /// Little or nothing is cached.
    Device,
    /// It can't be told.
    Anywhere,
}

impl Bulk {
    pub(super) fn read(
        &self,
        file: &RealFile,
        buf: &mut AlignedBuf,
        offset: u64,
        bytes: usize,
    ) -> io::Result<usize> {
        if bytes > buf.capacity() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the buffer"));
        }
        buf.set_len(0);
        let aligned = offset.is_multiple_of(ALIGN_BYTES as u64);
        let done = match self.whereabouts(file, offset, bytes) {
            From::Cache => fill(&mut buf.space()[..bytes], |part, done| {
                rustix::io::pread(file.fd(), part, offset + done)
            })?,
            From::Device | From::Anywhere if aligned => {
                match self.read_direct(file, buf, offset, bytes)? {
                    Some(done) => done,
                    None => self.read_passing(file, &mut buf.space()[..bytes], offset)?,
                }
            }
            _ => self.read_passing(file, &mut buf.space()[..bytes], offset)?,
        };
        buf.set_len(done);
        Ok(done)
    }

    fn whereabouts(&self, file: &RealFile, offset: u64, bytes: usize) -> From {
        if bytes == 0 || self.no_cachestat.load(Ordering::Relaxed) {
            return From::Anywhere;
        }
        let Ok(stat) = sys::cachestat(file.fd(), offset, bytes as u64) else {
            self.no_cachestat.store(true, Ordering::Relaxed);
            return From::Anywhere;
        };
        let page_bytes = sys::page_bytes();
        let pages = (offset + bytes as u64).div_ceil(page_bytes) - offset / page_bytes;
        match stat.cached {
            cached if cached >= pages => From::Cache,
            cached if cached * 2 >= pages || stat.dirty > 0 => From::Mixed,
            _ => From::Device,
        }
    }

    /// `None`: this file can't be read directly.
    fn read_direct(
        &self,
        file: &RealFile,
        buf: &mut AlignedBuf,
        offset: u64,
        bytes: usize,
    ) -> io::Result<Option<usize>> {
        let Some(fd) = self.direct_fd(file) else { return Ok(None) };
        // The file may end inside: the kernel wants a whole number of sectors and returns less.
        let rounded = bytes.next_multiple_of(ALIGN_BYTES);
        let done = direct_fill(fd.as_fd(), &mut buf.space()[..rounded], offset);
        match done {
            Ok(done) => Ok(Some(done.min(bytes))),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                *lock(&self.direct) = Direct::Refused;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn direct_fd(&self, file: &RealFile) -> Option<Arc<OwnedFd>> {
        let mut direct = lock(&self.direct);
        if let Direct::Untried = *direct {
            // Renamed or removed by now, or a filesystem without O_DIRECT: both do without.
            *direct = match file.reopen(OFlags::DIRECT) {
                Ok(Some(fd)) => Direct::Open(Arc::new(fd)),
                Ok(None) | Err(_) => Direct::Refused,
            };
        }
        match &*direct {
            Direct::Open(fd) => Some(Arc::clone(fd)),
            Direct::Untried | Direct::Refused => None,
        }
    }

    /// Closes the second descriptor, which counts as an opener; the next read opens it again.
    pub(super) fn close_direct(&self) {
        let mut direct = lock(&self.direct);
        if let Direct::Open(_) = *direct {
            *direct = Direct::Untried;
        }
    }

    /// Reads through the cache, leaving in it only what was there.
    fn read_passing(&self, file: &RealFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.no_dontcache.load(Ordering::Relaxed) {
            let done = fill(buf, |part, done| {
                let mut parts = [IoSliceMut::new(part)];
                rustix::io::preadv2(file.fd(), &mut parts, offset + done, DONTCACHE)
            });
            match done {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.no_dontcache.store(true, Ordering::Relaxed);
                }
                done => return Ok(done?),
            }
        }
        let done = fill(buf, |part, done| rustix::io::pread(file.fd(), part, offset + done))?;
        drop_cached(file.fd(), offset, done as u64)?;
        Ok(done)
    }

    pub(super) fn write(&self, file: &RealFile, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() && !self.no_dontcache.load(Ordering::Relaxed) {
            let parts = [IoSlice::new(&buf[done..])];
            match rustix::io::pwritev2(file.fd(), &parts, offset + done as u64, DONTCACHE) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.no_dontcache.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if done < buf.len() {
            let offset = offset + done as u64;
            file.write_at(&buf[done..], offset)?;
            self.push_out(file, offset, (buf.len() - done) as u64)?;
        }
        Ok(())
    }

    /// Starts writing this span back; waits for the one before and drops it from the cache.
    fn push_out(&self, file: &RealFile, offset: u64, bytes: u64) -> io::Result<()> {
        let unsupported = |error: &io::Error| {
            matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::INVAL | Errno::SPIPE))
        };
        let mut window = lock(&self.window);
        match sys::start_writeback(file.fd(), offset, bytes) {
            Err(error) if unsupported(&error) => return Ok(()),
            done => done.map_err(|error| file.fail(error))?,
        }
        if let Some((offset, bytes)) = window.replace((offset, bytes)) {
            // This report of an error is the only one: it must not be lost.
            sys::finish_writeback(file.fd(), offset, bytes).map_err(|error| file.fail(error))?;
            drop_cached(file.fd(), offset, bytes)?;
        }
        Ok(())
    }
}

/// Reads until `buf` is full or the file ends; `read` gets what is left and how much is done.
fn fill(
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// As [`fill`] for a direct descriptor: a read that ends inside a sector was the last.
fn direct_fill(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        match rustix::io::pread(fd, &mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if !done.is_multiple_of(ALIGN_BYTES) {
            break;
        }
    }
    Ok(done)
}

fn drop_cached(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    let Some(bytes) = NonZeroU64::new(bytes) else { return Ok(()) };
    match rustix::fs::fadvise(fd, offset, Some(bytes), Advice::DontNeed) {
        // Only a hint.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What was learnt stays true after a panic of another thread.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
