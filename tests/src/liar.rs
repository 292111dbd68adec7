//! A disk that breaks one promise on purpose: it changes a byte of one block on its way into a
//! staging, as a receiver would that skips the proof of a block. A simulation that doesn't notice
//! proves nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blockferry_delta::Meta;
use blockferry_store::disk::{
    AlignedBuf, CatalogBackend, DirEntry, Disk, DiskFile, Lease, MetaOutcome, Open, RenameHow,
    SimDisk, Space, Stat,
};

/// A simulated disk that lies once.
#[derive(Clone, Debug)]
pub struct Liar {
    disk: SimDisk,
    /// Writes into stagings until the lie.
    left: Arc<AtomicUsize>,
}

impl Liar {
    /// Lies at the `nth` write into a staging (1: the first).
    pub fn new(disk: SimDisk, nth: usize) -> Liar {
        Liar { disk, left: Arc::new(AtomicUsize::new(nth)) }
    }
}

#[derive(Debug)]
struct LyingFile {
    file: Box<dyn DiskFile>,
    staging: bool,
    left: Arc<AtomicUsize>,
}

impl LyingFile {
    /// What is written instead, when it is time.
    fn lie(&self, buf: &[u8]) -> Option<Vec<u8>> {
        if !self.staging || buf.is_empty() || self.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let last = self.left.fetch_sub(1, Ordering::Relaxed) == 1;
        last.then(|| {
            let mut wrong = buf.to_vec();
            wrong[buf.len() / 2] ^= 0x10;
            wrong
        })
    }
}

impl Disk for Liar {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let staging = path.contains("/staging/") && !path.ends_with(".spool");
        let file = self.disk.open(path, how)?;
        Ok(Box::new(LyingFile { file, staging, left: Arc::clone(&self.left) }))
    }

    fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        self.disk.stat(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.disk.make_dir(path)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn rename(&self, from: &str, to: &str, how: RenameHow) -> io::Result<()> {
        self.disk.rename(from, to, how)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn clone_file(&self, from: &str, to: &str) -> io::Result<bool> {
        self.disk.clone_file(from, to)
    }

    fn copy_extents(&self, from: &str, to: &str, extents: &[(u64, u64)]) -> io::Result<()> {
        self.disk.copy_extents(from, to, extents)
    }

    fn backend(&self, path: &str) -> io::Result<CatalogBackend> {
        self.disk.backend(path)
    }
}

impl DiskFile for LyingFile {
    fn stat(&self) -> io::Result<Stat> {
        self.file.stat()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn read_bulk_at(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> io::Result<usize> {
        self.file.read_bulk_at(buf, offset, bytes)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let lie = self.lie(buf);
        self.file.write_at(lie.as_deref().unwrap_or(buf), offset)
    }

    fn write_bulk_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let lie = self.lie(buf);
        self.file.write_bulk_at(lie.as_deref().unwrap_or(buf), offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn reserve(&self, ranges: &[(u64, u64)]) -> io::Result<()> {
        self.file.reserve(ranges)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.punch(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.file.next_data(offset)
    }

    fn meta(&self) -> io::Result<Meta> {
        self.file.meta()
    }

    fn set_meta(&self, meta: &Meta) -> io::Result<MetaOutcome> {
        self.file.set_meta(meta)
    }

    fn writer_free(&self) -> io::Result<Lease> {
        self.file.writer_free()
    }

    fn sole_opener(&self) -> io::Result<Lease> {
        self.file.sole_opener()
    }

    fn shut_out(&self) -> io::Result<Lease> {
        self.file.shut_out()
    }

    fn let_in(&self) -> io::Result<bool> {
        self.file.let_in()
    }
}
