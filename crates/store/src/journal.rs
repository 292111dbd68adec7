//! The redo journal: where there are no reflinks, a small update isn't built as a second file. The
//! pages that change are collected here, proved, and put into the image's own file once the
//! journal is durable; a crash in between is made good from it. Reading through a journal shows
//! the content it makes: its pages, its holes, and the image's file where it says nothing.

mod apply;
mod records;
mod replay;
mod set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use blockferry_delta::{Keys, PAGE_BYTES};

use crate::disk::{AlignedBuf, Disk, DiskFile, Open};
use crate::error::{Error, IoContext, Result};
use records::{Change, DATA_BYTES_MAX, HEAD_BYTES, Record, Records};

pub(crate) use records::Head;
pub(crate) use replay::{Replayed, Standing};
pub(crate) use set::{Shut, ShutFile};

/// Bytes of changed pages that go through a journal at most. Putting them in place keeps whoever
/// opens the image waiting, and the kernel lets nobody wait longer than 45 s; what doesn't fit
/// into the page cache is written at the speed of the disk meanwhile.
pub(crate) const JOURNAL_BYTES_MAX: u64 = 512 << 20;
/// A journal writes the changed pages twice, a copy the whole image once: beyond this share of
/// the image's storage it is copied.
pub(crate) const JOURNAL_SHARE: u64 = 4;
/// Bytes of a journal's file at most. Blocks that were guessed wrong are sent whole, so that it
/// may become longer than was offered; nobody makes it grow without end.
const FILE_BYTES_MAX: u64 = 2 * JOURNAL_BYTES_MAX;

/// A journal being written, over the image's file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: String,
    file: Box<dyn DiskFile>,
    head: Head,
    keys: Keys,
    /// The image's file: what the journal changes.
    base: Box<dyn DiskFile>,
    base_bytes: u64,
    /// Where the next record goes.
    end: u64,
    /// Of all bytes before `end`.
    sum: blake3::Hasher,
    /// Where in the journal a page of the image is, by its number.
    pages: BTreeMap<u64, u64>,
    /// Ranges (start to end, in bytes) that are holes unless `pages` has them. They don't touch.
    holes: BTreeMap<u64, u64>,
}

impl Journal {
    /// Begins a journal at `path`, which is free, over the file of an image.
    pub(crate) fn create(
        disk: &dyn Disk,
        path: &str,
        live: &str,
        head: Head,
        keys: &Keys,
    ) -> Result<Self> {
        let file = disk.open(path, Open::CreateNew).during("create", path)?;
        let bytes = head.encode();
        file.write_at(&bytes, 0).during("write", path)?;
        let mut journal = Self::over(disk, file, path, live, head, keys)?;
        journal.sum.update(&bytes);
        Ok(journal)
    }

    /// Goes on with a journal that an earlier attempt left: what is whole of it counts. `None`:
    /// it makes another content.
    pub(crate) fn reopen(
        disk: &dyn Disk,
        path: &str,
        live: &str,
        head: Head,
        keys: &Keys,
    ) -> Result<Option<Self>> {
        let file = disk.open(path, Open::ReadWrite).during("open", path)?;
        let mut journal = Self::over(disk, file, path, live, head, keys)?;
        let file = disk.open(path, Open::Read).during("open", path)?;
        let Some(mut records) = Records::open(file.as_ref(), path)? else { return Ok(None) };
        if records.head() != head {
            return Ok(None);
        }
        journal.sum.update(&head.encode());
        while let Some(record) = records.next()? {
            journal.sum.update(records.raw());
            journal.note(&record);
        }
        journal.end = records.at();
        // What is torn behind the last whole record must not be taken for one later.
        journal.file.set_len(journal.end).during("set the length of", path)?;
        Ok(Some(journal))
    }

    fn over(
        disk: &dyn Disk,
        file: Box<dyn DiskFile>,
        path: &str,
        live: &str,
        head: Head,
        keys: &Keys,
    ) -> Result<Self> {
        let base = disk.open(live, Open::Read).during("open", live)?;
        let base_bytes = base.stat().during("look at", live)?.size_bytes;
        Ok(Self {
            path: path.to_owned(),
            file,
            head,
            keys: keys.clone(),
            base,
            base_bytes,
            end: HEAD_BYTES as u64,
            sum: blake3::Hasher::new(),
            pages: BTreeMap::new(),
            holes: BTreeMap::new(),
        })
    }

    fn note(&mut self, record: &Record) {
        let first = record.offset / PAGE_BYTES as u64;
        match &record.change {
            Change::Data { bytes, .. } => {
                let pages = (0..bytes.len() as u64).step_by(PAGE_BYTES);
                self.pages.extend((first..).zip(pages.map(|from| record.data_at + from)));
            }
            Change::Hole(bytes) => self.note_hole(record.offset, record.offset + bytes),
        }
    }

    fn note_hole(&mut self, start: u64, end: u64) {
        let last = end.div_ceil(PAGE_BYTES as u64);
        let under: Vec<u64> =
            self.pages.range(start / PAGE_BYTES as u64..last).map(|(page, _)| *page).collect();
        for page in under {
            self.pages.remove(&page);
        }
        let (mut start, mut end) = (start, end);
        while let Some((at, to)) = self.holes.range(..=end).next_back().map(|(a, b)| (*a, *b)) {
            if to < start {
                break;
            }
            self.holes.remove(&at);
            (start, end) = (start.min(at), end.max(to));
        }
        self.holes.insert(start, end);
    }

    fn append(&mut self, record: &[u8]) -> Result<()> {
        if self.end + record.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::BadPart("more changes than were offered"));
        }
        self.file.write_at(record, self.end).during("write", &self.path)?;
        self.sum.update(record);
        self.end += record.len() as u64;
        Ok(())
    }

    /// Takes bytes that are proved; `offset` is that of a page, and they end with a page or with
    /// the image.
    pub(crate) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let mut offset = offset;
        for part in bytes.chunks(DATA_BYTES_MAX) {
            let mut old = vec![0; part.len()];
            self.read_base(&mut old, offset)?;
            let before = records::sector_prints(&self.keys, &old);
            let record = records::data_record(&self.head, self.end, offset, part, &before);
            let data_at = self.end + (record.len() - part.len()) as u64;
            self.append(&record)?;
            let pages = (data_at..data_at + part.len() as u64).step_by(PAGE_BYTES);
            self.pages.extend((offset / PAGE_BYTES as u64..).zip(pages));
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Makes a range a hole.
    pub(crate) fn hole(&mut self, offset: u64, bytes: u64) -> Result<()> {
        let bytes = bytes.min(self.head.image_bytes.saturating_sub(offset));
        if bytes == 0 {
            return Ok(());
        }
        let record = records::hole_record(&self.head, self.end, offset, bytes);
        self.append(&record)?;
        self.note_hole(offset, offset + bytes);
        Ok(())
    }

    /// What the file holds where the journal says nothing; zeros beyond its end.
    fn read_base(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let there = self.base_bytes.min(self.head.image_bytes).saturating_sub(offset);
        let len = there.min(buf.len() as u64) as usize;
        // What wasn't cached of the image stays out of the cache.
        let mut read = AlignedBuf::with_capacity(len);
        let got = self.base.read_bulk_at(&mut read, offset, len).during("read", &self.path)?;
        if got < len {
            let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Error::Io { op: "read", path: self.path.clone(), source });
        }
        buf[..len].copy_from_slice(&read);
        buf[len..].fill(0);
        Ok(())
    }

    /// Reads the new content; less than `buf` only at the image's end. Returns how much.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let len = self.head.image_bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        if len == 0 {
            return Ok(0);
        }
        let end = offset + len as u64;
        self.read_base(buf, offset)?;
        for (start, stop) in self.holes.range(..end).rev().take_while(|(_, stop)| **stop > offset) {
            let from = start.max(&offset) - offset;
            buf[from as usize..(*stop.min(&end) - offset) as usize].fill(0);
        }
        for (page, at) in
            self.pages.range(offset / PAGE_BYTES as u64..end.div_ceil(PAGE_BYTES as u64))
        {
            let start = page * PAGE_BYTES as u64;
            let (from, stop) = (start.max(offset), (start + PAGE_BYTES as u64).min(end));
            let part = &mut buf[(from - offset) as usize..(stop - offset) as usize];
            self.file.read_exact_at(part, at + (from - start)).during("read", &self.path)?;
        }
        Ok(len)
    }

    /// Says that a range of the base will be read soon.
    pub(crate) fn prefetch(&self, offset: u64, bytes: u64) -> std::io::Result<()> {
        self.base.prefetch(offset, bytes)
    }

    /// The journal's file.
    pub(crate) fn file(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }

    /// BLAKE3 of the journal's file.
    fn sum(&self) -> [u8; 32] {
        *self.sum.finalize().as_bytes()
    }

    /// Ends the writing, and lets go of the image's file.
    pub(crate) fn finish(self) -> Redo {
        Redo { sum: self.sum(), path: self.path, file: self.file }
    }
}

/// A journal that is complete.
#[derive(Debug)]
pub(crate) struct Redo {
    path: String,
    file: Box<dyn DiskFile>,
    /// BLAKE3 of the file.
    sum: [u8; 32],
}
