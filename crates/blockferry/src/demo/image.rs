//! A disk image to show things with: made from a seed, shaped like a file system.
//!
//! Files of text, records and noise begin at 4 KiB boundaries and end in zeros; some are there
//! twice; between them and after them are holes. The same seed and size give the same bytes, so a
//! demonstration can be repeated exactly. Nothing here is random and nothing is kept in memory but
//! the list of files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Smallest image worth showing, in bytes.
pub(super) const SAMPLE_BYTES_MIN: u64 = 16 << 20;
/// Largest one, in bytes: it is written twice.
pub(super) const SAMPLE_BYTES_MAX: u64 = 1 << 40;

const PAGE_BYTES: u64 = 4096;
const HEADER_BYTES: u64 = 1 << 20;
const FILE_BYTES_MAX: u64 = 4 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// Of the image, this share holds files; the rest is holes.
const FULL_PERCENT: u64 = 55;
/// One file in so many is a copy of an earlier one.
const TWIN_ONE_IN: u64 = 8;
/// What a change rewrites in all, unless the image is small.
const CHANGE_BYTES: u64 = 4 << 20;
const EDIT_BYTES_MAX: u64 = 256 << 10;

const WORDS: [&str; 16] = [
    "server ", "image ", "the ", "of ", "network ", "driver ", "version ", "=", "\n", "update ",
    "system ", "and ", "0x", "library ", "install ", "\t",
];

/// A sequence of numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// What a file consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Records,
    Noise,
}

/// One file of the image.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    bytes: u64,
    kind: Kind,
    seed: u64,
}

/// An image and what is where in it.
#[derive(Debug)]
pub(super) struct Sample {
    path: PathBuf,
    entries: Vec<Entry>,
    numbers: Numbers,
    /// Bytes of files, so without the holes.
    pub(super) data_bytes: u64,
}

impl Sample {
    /// Makes a new image of `size_bytes` at `path`. `advance` hears how many bytes of the image
    /// are laid out and answers whether to go on; `None`: it said no.
    pub(super) fn create(
        path: &Path,
        size_bytes: u64,
        seed: u64,
        mut advance: impl FnMut(u64) -> bool,
    ) -> io::Result<Option<Sample>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.set_len(size_bytes)?;
        let mut sample = Sample {
            path: path.to_owned(),
            entries: Vec::new(),
            numbers: Numbers(seed),
            data_bytes: HEADER_BYTES,
        };
        let header = Entry { offset: 0, bytes: HEADER_BYTES, kind: Kind::Records, seed };
        write(&file, header, 0, header.bytes)?;
        let mut at = HEADER_BYTES;
        while let Some(entry) = sample.next_entry(at, size_bytes) {
            write(&file, entry, 0, entry.bytes)?;
            sample.entries.push(entry);
            sample.data_bytes += entry.bytes;
            at = (entry.offset + entry.bytes).next_multiple_of(PAGE_BYTES);
            if !advance(at) {
                return Ok(None);
            }
        }
        file.sync_all()?;
        Ok(Some(sample))
    }

    /// Where the next file is and what is in it; `None` when the image is full.
    fn next_entry(&mut self, at: u64, size_bytes: u64) -> Option<Entry> {
        // A file has FILE_BYTES_MAX / 11 bytes on average; one in four is followed by a hole.
        let mean_hole = FILE_BYTES_MAX / 11 * (100 - FULL_PERCENT) / FULL_PERCENT * 4;
        let hole = if self.numbers.below(4) == 0 { self.numbers.below(mean_hole * 2) } else { 0 };
        let offset = (at + hole).next_multiple_of(PAGE_BYTES);
        let room = size_bytes.checked_sub(offset).filter(|room| *room > PAGE_BYTES)?;
        if !self.entries.is_empty() && self.numbers.below(TWIN_ONE_IN) == 0 {
            let index = self.numbers.below(self.entries.len() as u64) as usize;
            let twin = self.entries.get(index)?;
            return Some(Entry { offset, bytes: twin.bytes.min(room), ..*twin });
        }
        // Most files are small, most bytes are in large ones.
        let shift = self.numbers.below(11);
        let bytes = (1 + self.numbers.below(FILE_BYTES_MAX >> shift)).min(room);
        let kind = match self.numbers.below(10) {
            0..4 => Kind::Text,
            4..8 => Kind::Records,
            _ => Kind::Noise,
        };
        Some(Entry { offset, bytes, kind, seed: self.numbers.next() })
    }

    /// Changes a few MiB as a day's work does: parts of files rewritten in place, one file put
    /// into a hole at the end. Gives the number of bytes that were written.
    pub(super) fn change(&mut self) -> io::Result<u64> {
        // Closed again at the end: a node leaves alone what somebody has open for writing.
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let size_bytes = file.metadata()?.len();
        let goal = CHANGE_BYTES.min(size_bytes / 32);
        let mut written = 0;
        while written < goal {
            let index = self.numbers.below(self.entries.len() as u64) as usize;
            let Some(entry) = self.entries.get(index).copied() else { break };
            let start = self.numbers.below(entry.bytes);
            let bytes = (1 + self.numbers.below(EDIT_BYTES_MAX)).min(entry.bytes - start);
            let edited = Entry { seed: self.numbers.next(), ..entry };
            write(&file, edited, start, bytes)?;
            written += bytes;
        }
        file.sync_all()?;
        Ok(written)
    }
}

/// Writes `bytes` bytes of a file's content, from its byte `start` on.
fn write(file: &File, entry: Entry, start: u64, bytes: u64) -> io::Result<()> {
    let mut numbers = Numbers(entry.seed);
    let mut piece = Vec::with_capacity(PIECE_BYTES + PAGE_BYTES as usize);
    let mut done = 0;
    while done < bytes {
        let wanted = (bytes - done).min(PIECE_BYTES as u64) as usize;
        piece.clear();
        while piece.len() < wanted {
            fill(entry.kind, &mut numbers, &mut piece);
        }
        file.write_all_at(&piece[..wanted], entry.offset + start + done)?;
        done += wanted as u64;
    }
    Ok(())
}

/// A little more of a file of this kind.
fn fill(kind: Kind, numbers: &mut Numbers, piece: &mut Vec<u8>) {
    let number = numbers.next();
    match kind {
        Kind::Noise => piece.extend_from_slice(&number.to_le_bytes()),
        Kind::Text => {
            for shift in (0..64).step_by(4) {
                piece.extend_from_slice(WORDS[(number >> shift) as usize % WORDS.len()].as_bytes());
            }
        }
        Kind::Records => {
            piece.extend_from_slice(b"RECORD\0\0");
            piece.extend_from_slice(&(number & 0xffff).to_le_bytes());
            piece.extend_from_slice(&number.to_le_bytes());
            piece.extend_from_slice(&[0; 40]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn create(path: &Path, seed: u64) -> Sample {
        Sample::create(path, SAMPLE_BYTES_MIN, seed, |_| true).unwrap().unwrap()
    }

    #[test]
    fn same_seed_same_bytes_and_sparse() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut first = create(&path("a"), 7);
        let mut second = create(&path("b"), 7);
        create(&path("c"), 8);
        let read = |name: &str| std::fs::read(path(name)).unwrap();
        assert_eq!(read("a"), read("b"));
        assert_ne!(read("a"), read("c"));
        assert_eq!(read("a").len() as u64, SAMPLE_BYTES_MIN);
        let stat = std::fs::metadata(path("a")).unwrap();
        assert!(stat.blocks() * 512 < stat.len() * 9 / 10, "{} blocks", stat.blocks());
        assert!(first.data_bytes * 4 > stat.len(), "{} bytes", first.data_bytes);
        first.change().unwrap();
        second.change().unwrap();
        assert_eq!(read("a"), read("b"));
    }

    #[test]
    fn change_is_small_and_keeps_the_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut sample = create(&path, 3);
        let before = std::fs::read(&path).unwrap();
        let written = sample.change().unwrap();
        let after = std::fs::read(&path).unwrap();
        assert_eq!(before.len(), after.len());
        let differing =
            before.iter().zip(&after).filter(|(left, right)| left != right).count() as u64;
        assert!(
            differing > 0 && differing <= written && written < SAMPLE_BYTES_MIN / 16,
            "{differing} of {written}"
        );
    }

    #[test]
    fn stops_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        assert!(Sample::create(&path, SAMPLE_BYTES_MIN, 1, |_| false).unwrap().is_none());
    }
}
