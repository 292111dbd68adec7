//! Copying extents between two files of the real disk.
//!
//! Their storage is shared where it can be. Where it can't, bulk reads and writes, which leave the
//! page cache alone: `copy_file_range` would fill it with both files.

use std::io;

use rustix::io::Errno;

use super::real_file::RealFile;
use super::{AlignedBuf, DiskFile, sys};

/// Bytes copied at a time by hand.
const COPY_BYTES: usize = 1 << 20;

/// Copies extents of (offset, length) to the same offsets.
pub(super) fn extents(
    source: &RealFile,
    target: &RealFile,
    extents: &[(u64, u64)],
) -> io::Result<()> {
    let (mut sharing, mut buf) = (true, None);
    for &(start, bytes) in extents {
        let Some(end) = start.checked_add(bytes) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "extent beyond 2^64"));
        };
        sharing = sharing && shared(source, target, start, end)?;
        if !sharing {
            let buf = buf.get_or_insert_with(|| AlignedBuf::with_capacity(COPY_BYTES));
            by_hand(source, target, start, end, buf)?;
        }
    }
    Ok(())
}

/// Makes a range share storage, where that is possible. `false`: nothing was done.
fn shared(source: &RealFile, target: &RealFile, start: u64, end: u64) -> io::Result<bool> {
    if start == end {
        return Ok(true);
    }
    match sys::clone_range(source.fd(), target.fd(), start, end - start) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(
                Errno::XDEV
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::NOTTY
                | Errno::NOSYS
                | Errno::PERM,
            ) => Ok(false),
            _ => Err(error),
        },
    }
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
