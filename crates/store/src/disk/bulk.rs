//! Bulk reads and writes that leave the page cache as it was: what was cached stays, what wasn't
//! doesn't come.
//!
//! A read asks `cachestat` first. What is mostly cached is read from the cache; else a second
//! descriptor with O_DIRECT reads it, else `RWF_DONTCACHE`, else a plain read whose pages are
//! dropped afterwards, where none was cached before. A write uses `RWF_DONTCACHE`, else it is
//! written back together with its neighbours (`gather`) and dropped. Scattered writes that have no
//! time for this go through the cache and are dropped after the sync. What is read ahead is dropped
//! when it was read. What the filesystem refuses once is not tried again on that file.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::ahead::Ahead;
use super::gather::Gather;
use super::real_file::RealFile;
use super::sys;
use super::{ALIGN_BYTES, AlignedBuf, DiskFile};

/// `RWF_DONTCACHE`, Linux 6.14; rustix has no name for it yet.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// Bytes read at a time where it can't be told how much of more is cached; spans of this length
/// that are cached in part are left as they are.
const PIECE_BYTES: u64 = 16 << 10;
/// Bytes read at a time to warm a file.
const WARM_BYTES: usize = 256 << 10;

/// What was learnt about one open file.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    direct: Mutex<Direct>,
    no_cachestat: AtomicBool,
    no_dontcache: AtomicBool,
    ahead: Ahead,
    /// What was written last without `RWF_DONTCACHE`.
    written: Mutex<Gather>,
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
        self.drop_ahead(file, offset, offset + bytes as u64);
        Ok(done)
    }

    /// Reads from the device what can be read there directly, cached or not. The kernel writes back
    /// what is dirty in the cache first.
    pub(super) fn read_device(
        &self,
        file: &RealFile,
        buf: &mut AlignedBuf,
        offset: u64,
        bytes: usize,
    ) -> io::Result<usize> {
        let aligned = offset.is_multiple_of(ALIGN_BYTES as u64) && bytes <= buf.capacity();
        buf.set_len(0);
        match aligned.then(|| self.read_direct(file, buf, offset, bytes)).transpose()?.flatten() {
            Some(done) => {
                buf.set_len(done);
                Ok(done)
            }
            None => self.read(file, buf, offset, bytes),
        }
    }

    /// Begins to read what isn't cached of a range.
    pub(super) fn prefetch(&self, file: &RealFile, offset: u64, bytes: u64) -> io::Result<()> {
        let Some(wanted) = NonZeroU64::new(bytes) else { return Ok(()) };
        let (start, end) = pages(offset, bytes);
        match self.is_cold(file, start, end) {
            Some(true) => {
                self.ahead.note(start, end);
                Ok(rustix::fs::fadvise(file.fd(), offset, Some(wanted), Advice::WillNeed)?)
            }
            // Cached in part: the other parts are worth it.
            None if bytes > PIECE_BYTES => {
                let half = (bytes / 2).next_multiple_of(ALIGN_BYTES as u64);
                self.prefetch(file, offset, half)?;
                self.prefetch(file, offset + half, bytes - half)
            }
            Some(false) | None => Ok(()),
        }
    }

    /// Remembers what of a range isn't cached, before it is written through the cache.
    pub(super) fn note_passing(&self, file: &RealFile, offset: u64, bytes: u64) {
        let ((start, end), page_bytes) = (pages(offset, bytes), sys::page_bytes());
        let piece_bytes = PIECE_BYTES.max(page_bytes);
        // In one piece as far as possible: the kernel drops only what it allocated as a whole.
        let mut cold = start..start;
        let mut add = |at: u64, stop: u64| {
            let found = self.is_cold(file, at, stop);
            if found == Some(true) {
                if cold.end != at {
                    self.ahead.note(cold.start, cold.end);
                    cold.start = at;
                }
                cold.end = stop;
            }
            found.is_some()
        };
        for at in (start..end).step_by(piece_bytes as usize) {
            let stop = end.min(at + piece_bytes);
            if !add(at, stop) {
                for page in (at..stop).step_by(page_bytes as usize) {
                    add(page, page + page_bytes);
                }
            }
        }
        self.ahead.note(cold.start, cold.end);
    }

    /// Drops what was read ahead, or written in passing, between two offsets.
    pub(super) fn drop_ahead(&self, file: &RealFile, start: u64, end: u64) {
        let (start, end) = pages(start, end - start);
        for (start, end) in self.ahead.take(start, end) {
            // Only advice: a page that stays costs memory for a while.
            let _ = drop_span(file.fd(), start, end);
        }
    }

    /// Pages of a range that are cached; `None` when it can't be told.
    pub(super) fn cached_pages(&self, file: &RealFile, offset: u64, bytes: u64) -> Option<u64> {
        if self.no_cachestat.load(Ordering::Relaxed) {
            return None;
        }
        let stat = sys::cachestat(file.fd(), offset, bytes);
        self.no_cachestat.store(stat.is_err(), Ordering::Relaxed);
        stat.ok().map(|stat| stat.cached)
    }

    /// Is nothing of a span of whole pages cached (`true`), or all of it? `None`: some of it.
    fn is_cold(&self, file: &RealFile, start: u64, end: u64) -> Option<bool> {
        let page_bytes = sys::page_bytes();
        let cached = match self.cached_pages(file, start, end - start) {
            Some(cached) => [cached > 0, cached * page_bytes >= end - start],
            // An older kernel: the first and the last page stand for all.
            None => [start, end - page_bytes].map(|page| is_at_hand(file, page)),
        };
        (cached[0] == cached[1]).then_some(!cached[0])
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
        fill(buf, |part, done| {
            let (at, piece) = (offset + done, part.len().min(PIECE_BYTES as usize));
            let (start, end) = pages(at, piece as u64);
            let cold = self.is_cold(file, start, end) == Some(true);
            let read = rustix::io::pread(file.fd(), &mut part[..piece], at)?;
            if cold {
                // Only advice.
                let _ = drop_span(file.fd(), start, end);
            }
            Ok(read)
        })
        .map_err(io::Error::from)
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
            let (offset, bytes) = (offset + done as u64, (buf.len() - done) as u64);
            let (start, end) = pages(offset, bytes);
            // What was cached before somebody reads.
            let cold = self.is_cold(file, start, end) == Some(true);
            file.write_at(&buf[done..], offset)?;
            if cold {
                self.push_out(file, start, end)?;
            }
        }
        Ok(())
    }

    /// Starts writing back what is due with this span of whole pages; waits for what was due before
    /// and drops it from the cache.
    fn push_out(&self, file: &RealFile, start: u64, end: u64) -> io::Result<()> {
        let unsupported = |error: &io::Error| {
            matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::INVAL | Errno::SPIPE))
        };
        let mut written = lock(&self.written);
        for (start, end) in written.add(start, end) {
            match sys::start_writeback(file.fd(), start, end - start) {
                Err(error) if unsupported(&error) => return Ok(()),
                done => done.map_err(|error| file.fail(error))?,
            }
            if let Some((start, end)) = written.moved((start, end)) {
                // This report of an error is the only one: it must not be lost.
                sys::finish_writeback(file.fd(), start, end - start)
                    .map_err(|error| file.fail(error))?;
                drop_span(file.fd(), start, end)?;
            }
        }
        Ok(())
    }

    /// As on a filesystem that doesn't know `RWF_DONTCACHE`.
    #[cfg(test)]
    pub(super) fn refuse_dontcache(&self) {
        self.no_dontcache.store(true, Ordering::Relaxed);
    }

    /// Drops what is still cached of what was written, once it is on disk.
    pub(super) fn drop_written(&self, file: &RealFile) {
        for (start, end) in lock(&self.written).take() {
            // Only advice: a page that stays costs memory for a while.
            let _ = drop_span(file.fd(), start, end);
        }
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

/// The whole pages around a range: start and end in bytes.
fn pages(offset: u64, bytes: u64) -> (u64, u64) {
    let page_bytes = sys::page_bytes();
    let end = offset.saturating_add(bytes);
    (offset - offset % page_bytes, end.checked_next_multiple_of(page_bytes).unwrap_or(end))
}

/// Can a byte be read without waiting for the disk?
fn is_at_hand(file: &RealFile, offset: u64) -> bool {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::io::preadv2(file.fd(), &mut parts, offset, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
}

/// Reads a range into the page cache.
pub(super) fn warm(file: &RealFile, offset: u64, bytes: u64) -> io::Result<()> {
    let (mut scratch, end) = (vec![0; WARM_BYTES], offset.saturating_add(bytes));
    let mut at = offset;
    while at < end {
        let piece = (end - at).min(WARM_BYTES as u64) as usize;
        match file.read_at(&mut scratch[..piece], at)? {
            0 => break,
            read => at += read as u64,
        }
    }
    Ok(())
}

/// Drops what is cached and on disk of a range; of all that follows, without a length.
pub(super) fn drop_cached(
    fd: BorrowedFd<'_>,
    offset: u64,
    bytes: Option<NonZeroU64>,
) -> io::Result<()> {
    match rustix::fs::fadvise(fd, offset, bytes, Advice::DontNeed) {
        // Only a hint.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn drop_span(fd: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    NonZeroU64::new(end - start).map_or(Ok(()), |bytes| drop_cached(fd, start, Some(bytes)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What was learnt stays true after a panic of another thread.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
