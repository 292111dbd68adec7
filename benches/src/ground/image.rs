//! What an image is, found out without any of Blockferry's code: its BLAKE3, its changed pages,
//! what `zstd -3` makes of them. Also the image that shares nine tenths with another.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::Context;

use super::tools::Numbers;

const PAGE_BYTES: usize = 4096;
const STEP_BYTES: usize = 4 << 20;
const LEVEL: i32 = 3;

/// Hex BLAKE3 of a file.
pub(crate) fn blake3(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = vec![0; STEP_BYTES];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            count => hasher.update(&bytes[..count]),
        };
    }
}

/// Whether two files hold the same bytes.
pub(crate) fn same_bytes(left: &Path, right: &Path) -> anyhow::Result<bool> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (left, right) = (open(left)?, open(right)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut here, mut there) = (Steps::new(&left), Steps::new(&right));
    loop {
        match (here.next()?, there.next()?) {
            (Some(left), Some(right)) if left == right => {}
            (None, None) => return Ok(true),
            _ => return Ok(false),
        }
    }
}

/// A file, a few MiB at a time; every step but the last is full.
struct Steps<'a> {
    file: &'a File,
    offset: u64,
    bytes: Vec<u8>,
}

impl<'a> Steps<'a> {
    fn new(file: &'a File) -> Steps<'a> {
        Steps { file, offset: 0, bytes: vec![0; STEP_BYTES] }
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let mut filled = 0;
        while filled < STEP_BYTES {
            let offset = self.offset + filled as u64;
            match self.file.read_at(&mut self.bytes[filled..], offset)? {
                0 => break,
                count => filled += count,
            }
        }
        self.offset += filled as u64;
        Ok((filled > 0).then_some(&self.bytes[..filled]))
    }
}

/// Swallows bytes and counts them.
#[derive(Debug, Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A number of pages and what `zstd -3` makes of them in one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    /// How many differ.
    pub(crate) count: u64,
    /// After zstd.
    pub(crate) zstd_bytes: u64,
}

/// The 4 KiB pages of `new` that differ from `old` at the same place, compressed.
pub(crate) fn changed_pages(old: &Path, new: &Path) -> anyhow::Result<Pages> {
    let (old, new) = (File::open(old)?, File::open(new)?);
    let (mut before, mut after) = (Steps::new(&old), Steps::new(&new));
    let mut zstd = zstd::stream::Encoder::new(Counter::default(), LEVEL)?;
    let mut count = 0;
    while let Some(bytes) = after.next()? {
        let was = before.next()?.unwrap_or_default();
        for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
            let start = index * PAGE_BYTES;
            let same = was.get(start..start + page.len()) == Some(page);
            let was_beyond = start >= was.len() && page.iter().all(|byte| *byte == 0);
            if !same && !was_beyond {
                zstd.write_all(page)?;
                count += 1;
            }
        }
    }
    Ok(Pages { count, zstd_bytes: zstd.finish()?.0 })
}

/// What `zstd -3` makes of a whole file.
pub(crate) fn zstd_bytes(path: &Path) -> anyhow::Result<u64> {
    let mut zstd = zstd::stream::Encoder::new(Counter::default(), LEVEL)?;
    io::copy(&mut io::BufReader::with_capacity(STEP_BYTES, File::open(path)?), &mut zstd)?;
    Ok(zstd.finish()?.0)
}

/// Numbers of the pages that aren't zero.
pub(crate) fn data_pages(file: &File) -> anyhow::Result<Vec<u64>> {
    let mut pages = Vec::new();
    let mut steps = Steps::new(file);
    let mut first = 0;
    while let Some(bytes) = steps.next()? {
        for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                pages.push(first + index as u64);
            }
        }
        first += (STEP_BYTES / PAGE_BYTES) as u64;
    }
    Ok(pages)
}

/// Bytes in pages that aren't zero.
pub(crate) fn data_bytes(path: &Path) -> anyhow::Result<u64> {
    Ok(data_pages(&File::open(path)?)?.len() as u64 * PAGE_BYTES as u64)
}

/// Replaces a tenth of the data pages of the file at `path` by noise, in runs of 1 to 4 MiB. Gives
/// how many bytes that are.
pub(crate) fn replace_a_tenth(path: &Path, seed: u64) -> anyhow::Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let size_bytes = file.metadata()?.len();
    let pages = data_pages(&file)?;
    let mut numbers = Numbers(seed);
    let mut noise = vec![0; PAGE_BYTES];
    let (mut at, mut replaced) = (0, 0);
    while at < pages.len() {
        let run = 256 + usize::try_from(numbers.below(769))?;
        // Nine times as much stays, before and after the run.
        let before = usize::try_from(numbers.below(run as u64 * 9))?;
        for page in pages.iter().skip(at + before).take(run) {
            let offset = page * PAGE_BYTES as u64;
            let bytes = (size_bytes - offset).min(PAGE_BYTES as u64);
            numbers.fill(&mut noise);
            file.write_all_at(&noise[..usize::try_from(bytes)?], offset)?;
            replaced += bytes;
        }
        at += run * 10;
    }
    file.sync_all()?;
    Ok(replaced)
}

/// What of a file's outside must be carried along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) mtime_ns: i128,
    pub(crate) mode: u32,
    pub(crate) allocated_bytes: u64,
}

/// Looks at a file from the outside.
pub(crate) fn outside(path: &Path) -> anyhow::Result<Outside> {
    let stat = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(Outside {
        mtime_ns: i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
        mode: stat.mode(),
        allocated_bytes: stat.blocks() * 512,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn file(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ferry-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn changed_pages_are_those_that_differ() {
        let mut bytes = vec![0; 10 * PAGE_BYTES];
        Numbers(1).fill(&mut bytes);
        let old = file("old", &bytes);
        bytes[PAGE_BYTES * 3] ^= 1;
        bytes[PAGE_BYTES * 7 + 9] ^= 1;
        bytes.extend([0; 2 * PAGE_BYTES]);
        bytes.extend([7; 100]);
        let new = file("new", &bytes);
        let pages = changed_pages(&old, &new).unwrap();
        assert_eq!(pages.count, 3, "two changed, one more; zeros behind the end are no change");
        assert!(pages.zstd_bytes > 2 * 4096 && pages.zstd_bytes < 2 * 4096 + 200, "{pages:?}");
        assert!(!same_bytes(&old, &new).unwrap() && same_bytes(&new, &new).unwrap());
        assert_eq!(blake3(&new).unwrap(), blake3::hash(&bytes).to_hex().to_string());
        std::fs::remove_file(old).unwrap();
        std::fs::remove_file(new).unwrap();
    }

    #[test]
    fn a_tenth_becomes_noise() {
        let mut bytes = vec![0; 64 << 20];
        Numbers(1).fill(&mut bytes[..48 << 20]);
        let (old, new) = (file("whole", &bytes), file("tenth", &bytes));
        assert_eq!(data_bytes(&old).unwrap(), 48 << 20);
        let replaced = replace_a_tenth(&new, 3).unwrap();
        assert!((3 << 20..7 << 20).contains(&replaced), "{replaced}");
        assert_eq!(data_bytes(&new).unwrap(), 48 << 20);
        assert_eq!(changed_pages(&old, &new).unwrap().count * 4096, replaced);
        std::fs::remove_file(old).unwrap();
        std::fs::remove_file(new).unwrap();
    }
}
