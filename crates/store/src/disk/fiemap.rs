//! Where a file's storage lies, by FIEMAP. Whatever the filesystem marks as special (not yet
//! placed, compressed, encrypted, inline, packed with others) can't be told from its address.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::sys;
use super::{Placed, Storage};

/// Extents asked for at once.
const EXTENTS_AT_ONCE: usize = 2048;
/// Most extents that are listed (96 MiB of memory); a file in more pieces is read instead.
const EXTENTS_MAX: usize = 4 << 20;
const HEAD_WORDS: usize = 4;
const EXTENT_WORDS: usize = 7;

const FLAG_SYNC: u64 = 1;
const EXTENT_LAST: u64 = 0x1;
const EXTENT_UNWRITTEN: u64 = 0x800;
/// Unknown, delayed, encoded, encrypted, not aligned, inline, tail, merged.
const EXTENT_UNTOLD: u64 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x1000;

/// The pieces of a file; `None` where there is no FIEMAP or there are too many pieces.
pub(super) fn placement(file: BorrowedFd<'_>) -> io::Result<Option<Vec<Placed>>> {
    let mut placed = Vec::new();
    let mut words = vec![0; HEAD_WORDS + EXTENTS_AT_ONCE * EXTENT_WORDS];
    let mut start = 0;
    loop {
        // struct fiemap: start, length, flags | mapped << 32, count | reserved << 32.
        words[..HEAD_WORDS].copy_from_slice(&[
            start,
            u64::MAX - start,
            FLAG_SYNC,
            EXTENTS_AT_ONCE as u64,
        ]);
        if cfg!(target_endian = "big") {
            return Ok(None);
        }
        match sys::fiemap(file, &mut words) {
            Err(error) if is_unsupported(&error) => return Ok(None),
            done => done?,
        }
        let mapped = (words[2] >> 32) as usize;
        let extents = words[HEAD_WORDS..].chunks_exact(EXTENT_WORDS).take(mapped);
        let mut last = mapped == 0;
        for extent in extents {
            let flags = extent[5] & 0xFFFF_FFFF;
            let piece =
                Placed { offset: extent[0], bytes: extent[2], storage: storage(extent[1], flags) };
            if piece.end() <= start && !placed.is_empty() {
                // It doesn't get on: whatever this is, it is no map of a file at rest.
                return Ok(None);
            }
            start = piece.end();
            placed.push(piece);
            last |= flags & EXTENT_LAST != 0;
        }
        if last {
            return Ok(Some(placed));
        }
        if placed.len() > EXTENTS_MAX {
            return Ok(None);
        }
    }
}

fn storage(address: u64, flags: u64) -> Storage {
    if flags & EXTENT_UNTOLD != 0 {
        Storage::Unknown
    } else if flags & EXTENT_UNWRITTEN != 0 {
        Storage::None
    } else {
        Storage::At(address)
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::BADR)
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pieces_lie_where_data_was_written() {
        // Below the build directory: a temporary directory may be in memory, which has no FIEMAP.
        let dir = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let file = tempfile::tempfile_in(dir).unwrap();
        for n in 0..40 {
            file.write_all_at(&[7; 8192], n * 100_000 / 4096 * 4096).unwrap();
        }
        let Some(placed) = placement(file.as_fd()).unwrap() else {
            eprintln!("skipped: no FIEMAP on this file system");
            return;
        };
        let bytes: u64 = placed.iter().map(|piece| piece.bytes).sum();
        assert!((40 * 8192..60 * 8192).contains(&bytes), "{bytes}");
        assert!(placed.windows(2).all(|w| w[0].end() <= w[1].offset), "{placed:?}");
        assert!(placed.iter().all(|piece| piece.storage != Storage::None));
    }

    #[test]
    fn special_extents_are_untold_and_preallocated_ones_are_empty() {
        assert_eq!(storage(4096, EXTENT_LAST), Storage::At(4096));
        assert_eq!(storage(4096, 0x2000), Storage::At(4096), "shared is as good as its own");
        assert_eq!(storage(4096, EXTENT_UNWRITTEN), Storage::None);
        for flag in [0x2, 0x4, 0x8, 0x80, 0x100, 0x200, 0x400, 0x1000] {
            assert_eq!(storage(4096, flag | EXTENT_UNWRITTEN), Storage::Unknown);
        }
    }
}
