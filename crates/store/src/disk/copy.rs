//! Copying extents between two files of the real disk.
//!
//! `copy_file_range` first: it shares storage where it can. Where it can't, bulk reads and writes,
//! which leave the page cache alone.

use std::io;

use rustix::io::Errno;

use super::real_file::RealFile;
use super::{AlignedBuf, DiskFile};

/// Bytes copied at a time by hand.
const COPY_BYTES: usize = 1 << 20;
/// Bytes asked of one `copy_file_range`.
const RANGE_BYTES: u64 = 64 << 20;

/// Copies extents of (offset, length) to the same offsets.
pub(super) fn extents(
    source: &RealFile,
    target: &RealFile,
    extents: &[(u64, u64)],
) -> io::Result<()> {
    let mut by_kernel = true;
    let mut buf = None;
    for &(start, bytes) in extents {
        let Some(end) = start.checked_add(bytes) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "extent beyond 2^64"));
        };
        let mut at = start;
        if by_kernel {
            at = in_kernel(source, target, start, end, &mut by_kernel)?;
        }
        if at < end {
            let buf = buf.get_or_insert_with(|| AlignedBuf::with_capacity(COPY_BYTES));
            by_hand(source, target, at, end, buf)?;
        }
    }
    Ok(())
}

/// How far the kernel copied; what it can't do it says before the first byte.
fn in_kernel(
    source: &RealFile,
    target: &RealFile,
    start: u64,
    end: u64,
    usable: &mut bool,
) -> io::Result<u64> {
    let mut at = start;
    while at < end {
        let (mut from, mut to) = (at, at);
        let bytes = (end - at).min(RANGE_BYTES) as usize;
        let copied = rustix::fs::copy_file_range(
            source.fd(),
            Some(&mut from),
            target.fd(),
            Some(&mut to),
            bytes,
        );
        match copied {
            // The end of the file, or a filesystem that won't say it can't: reading will tell.
            Ok(0) => return Ok(at),
            Ok(bytes) => at += bytes as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                *usable = false;
                return Ok(at);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(at)
}

fn by_hand(
    source: &RealFile,
    target: &RealFile,
    start: u64,
    end: u64,
    buf: &mut AlignedBuf,
) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let bytes = (end - at).min(COPY_BYTES as u64) as usize;
        if source.read_bulk_at(buf, at, bytes)? < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_bulk_at(buf, at)?;
        at += bytes as u64;
    }
    Ok(())
}
