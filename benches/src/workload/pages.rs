//! How many bytes of two files differ, page by page at the same place. Holes of both are skipped,
//! so that a large sparse image costs what it holds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::content::PAGE_BYTES;

const PAGE: u64 = PAGE_BYTES as u64;
const STEP_BYTES: usize = 1 << 20;

/// Bytes in the 4 KiB pages of `new` that differ from `old` at the same place. What lies beyond
/// the end of `old` counts as zeros there.
pub(super) fn changed_page_bytes(old: &Path, new: &Path) -> anyhow::Result<u64> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (old, new) = (open(old)?, open(new)?);
    let end = new.metadata()?.len();
    let (mut before, mut after) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    let (mut at, mut changed) = (0, 0);
    while at < end {
        at = next_data(&old, at, end)?.min(next_data(&new, at, end)?) / PAGE * PAGE;
        read(&old, at, &mut before)?;
        let length = read(&new, at, &mut after)?;
        let pairs = after[..length].chunks(PAGE_BYTES).zip(before.chunks(PAGE_BYTES));
        for (after, before) in pairs {
            if *after != before[..after.len()] {
                changed += after.len() as u64;
            }
        }
        at += STEP_BYTES as u64;
    }
    Ok(changed)
}

/// Where the next data is; `end` when there is none before.
fn next_data(file: &File, at: u64, end: u64) -> anyhow::Result<u64> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(found) => Ok(found.min(end)),
        Err(Errno::NXIO) => Ok(end),
        // A file system that knows nothing of holes.
        Err(Errno::INVAL) => Ok(at),
        Err(error) => Err(error.into()),
    }
}

/// Fills `bytes`, with zeros beyond the file's end; gives how many were in the file.
fn read(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes[filled..].fill(0);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_differ_are_counted_wherever_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("a"), directory.path().join("b"));
        let file = |path: &Path, pages: &[(u64, u8)], length: u64| {
            let file = File::create(path).unwrap();
            file.set_len(length).unwrap();
            for (page, byte) in pages {
                file.write_all_at(&[*byte; PAGE_BYTES], page * PAGE).unwrap();
            }
        };
        // One in a hole of the other each, one different, one alike, one written zeros.
        file(&old, &[(1, 1), (700, 2), (800, 3)], 4 << 20);
        file(&new, &[(700, 3), (800, 3), (900, 4), (950, 0)], 4 << 20);
        assert_eq!(changed_page_bytes(&old, &new).unwrap(), 3 * PAGE);
        assert_eq!(changed_page_bytes(&new, &new).unwrap(), 0);
        // A longer file: zeros behind the end are no change, 100 bytes are.
        file(&new, &[(1, 1), (700, 2), (800, 3)], (5 << 20) + 100);
        assert_eq!(changed_page_bytes(&old, &new).unwrap(), 0);
        let grown = File::options().write(true).open(&new).unwrap();
        grown.write_all_at(&[1; 100], 5 << 20).unwrap();
        assert_eq!(changed_page_bytes(&old, &new).unwrap(), 100);
    }
}
