//! Spool: what a scan or a transfer learns about segments, in order, until one transaction takes
//! it all. Small spools stay in memory; beyond that they go to a file, so that memory doesn't grow
//! with the image.

use blockferry_delta::Chunk;

use crate::catalog::{decode_chunks, encode_chunks};
use crate::disk::{Disk, DiskFile, Open};
use crate::error::{Error, IoContext, Result};

/// Bytes kept in memory before a spool goes on in its file.
const SPOOL_MEMORY_BYTES: usize = 4 << 20;
/// Stands for "no map" (the segment is gone) and "chunk list unchanged" in place of a length.
const NONE: u32 = u32::MAX;
/// Segment number, bytes of the map, bytes of the chunk list: three u32.
const HEAD_BYTES: usize = 12;
/// Bytes of the largest record a spool may name; checked before allocating.
const RECORD_BYTES_MAX: u32 = 4 << 20;

/// What is to be written about one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) segment: u32,
    /// The block-map record; `None` when the image no longer reaches here.
    pub(crate) map: Option<Vec<u8>>,
    /// The chunk list; `None` leaves the one there is.
    pub(crate) chunks: Option<Vec<Chunk>>,
}

/// Where the entries of a commit come from.
pub(crate) enum Entries<'a> {
    /// A spool of this process.
    Spool(&'a Spool),
    /// A spool that was persisted, perhaps by a process that is gone.
    Persisted(&'a dyn Disk, &'a str),
}

impl Entries<'_> {
    /// Calls `each` for every entry, in order.
    pub(crate) fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        match self {
            Self::Spool(spool) => spool.for_each(each),
            Self::Persisted(disk, path) => for_each_persisted(*disk, path, each),
        }
    }
}

/// A spool being written.
#[derive(Debug)]
pub(crate) struct Spool {
    path: String,
    file: Option<Box<dyn DiskFile>>,
    written: u64,
    /// Of what was written.
    sum: blake3::Hasher,
    memory: Vec<u8>,
}

impl Spool {
    /// An empty spool that may use the file `path`.
    pub(crate) fn new(path: String) -> Self {
        Self { path, file: None, written: 0, sum: blake3::Hasher::new(), memory: Vec::new() }
    }

    /// Path of its file.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Appends an entry.
    pub(crate) fn push(&mut self, disk: &dyn Disk, entry: &Entry) -> Result<()> {
        let chunks = entry.chunks.as_ref().map(|c| encode_chunks(entry.segment, c));
        let len = |part: Option<&Vec<u8>>| part.map_or(NONE, |bytes| bytes.len() as u32);
        let head = [entry.segment, len(entry.map.as_ref()), len(chunks.as_ref())];
        head.iter().for_each(|word| self.memory.extend_from_slice(&word.to_le_bytes()));
        self.memory.extend_from_slice(entry.map.as_deref().unwrap_or_default());
        self.memory.extend_from_slice(chunks.as_deref().unwrap_or_default());
        if self.memory.len() >= SPOOL_MEMORY_BYTES { self.flush(disk) } else { Ok(()) }
    }

    fn flush(&mut self, disk: &dyn Disk) -> Result<()> {
        if self.file.is_none() {
            disk.remove_file(&self.path).during("remove", &self.path)?;
            let file = disk.open(&self.path, Open::CreateNew).during("create", &self.path)?;
            self.file = Some(file);
        }
        let file = self.file.as_ref().expect("opened above");
        file.write_at(&self.memory, self.written).during("write", &self.path)?;
        self.written += self.memory.len() as u64;
        self.sum.update(&self.memory);
        self.memory.clear();
        Ok(())
    }

    /// Puts everything into the file and makes it durable.
    pub(crate) fn persist(&mut self, disk: &dyn Disk) -> Result<()> {
        self.flush(disk)?;
        let file = self.file.as_ref().expect("flush opened it");
        file.sync().during("sync", &self.path)
    }

    /// BLAKE3 of its file, once it is persisted.
    pub(crate) fn sum(&self) -> [u8; 32] {
        *self.sum.finalize().as_bytes()
    }

    /// Calls `each` for every entry, in order.
    pub(crate) fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        if let Some(file) = &self.file {
            read_entries(file.as_ref(), &self.path, self.written, each)?;
        }
        let mut rest = self.memory.as_slice();
        while !rest.is_empty() {
            each(take_entry(&mut rest)?)?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, disk: &dyn Disk) -> Result<()> {
        let empty = Self::new(self.path.clone());
        std::mem::replace(self, empty).remove(disk)
    }

    /// Removes the file, if there is one.
    pub(crate) fn remove(self, disk: &dyn Disk) -> Result<()> {
        drop(self.file);
        disk.remove_file(&self.path).during("remove", &self.path)
    }
}

/// Is a spool file that was persisted still what it was?
pub(crate) fn is_whole(disk: &dyn Disk, path: &str, sum: &[u8; 32]) -> Result<bool> {
    let Some(stat) = disk.stat(path).during("look at", path)? else { return Ok(false) };
    let file = disk.open(path, Open::Read).during("open", path)?;
    let (mut found, mut at) = (blake3::Hasher::new(), 0);
    let mut bytes = vec![0; SPOOL_MEMORY_BYTES];
    while at < stat.size_bytes {
        let len = (stat.size_bytes - at).min(SPOOL_MEMORY_BYTES as u64) as usize;
        file.read_exact_at(&mut bytes[..len], at).during("read", path)?;
        found.update(&bytes[..len]);
        at += len as u64;
    }
    Ok(found.finalize().as_bytes() == sum)
}

/// Calls `each` for every entry of a spool file that was persisted.
fn for_each_persisted(
    disk: &dyn Disk,
    path: &str,
    each: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let file = disk.open(path, Open::Read).during("open", path)?;
    let bytes = file.stat().during("look at", path)?.size_bytes;
    read_entries(file.as_ref(), path, bytes, each)
}

fn read_entries(
    file: &dyn DiskFile,
    path: &str,
    bytes: u64,
    each: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < bytes {
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, at).during("read", path)?;
        let (_, map, chunks) = parse_head(&head)?;
        let body = u64::from(map.unwrap_or(0)) + u64::from(chunks.unwrap_or(0));
        let mut record = head.to_vec();
        record.resize(HEAD_BYTES + body as usize, 0);
        file.read_exact_at(&mut record[HEAD_BYTES..], at + HEAD_BYTES as u64)
            .during("read", path)?;
        at += record.len() as u64;
        each(take_entry(&mut record.as_slice())?)?;
    }
    Ok(())
}

fn parse_head(head: &[u8; HEAD_BYTES]) -> Result<(u32, Option<u32>, Option<u32>)> {
    let words = head.as_chunks::<4>().0;
    let word = |n: usize| u32::from_le_bytes(words[n]);
    let len = |n: usize| match word(n) {
        NONE => Ok(None),
        bytes if bytes <= RECORD_BYTES_MAX => Ok(Some(bytes)),
        _ => Err(damaged("record too large")),
    };
    Ok((word(0), len(1)?, len(2)?))
}

fn take_entry(rest: &mut &[u8]) -> Result<Entry> {
    let (head, body) = rest.split_first_chunk().ok_or_else(|| damaged("short head"))?;
    let (segment, map, chunks) = parse_head(head)?;
    let (map_bytes, chunk_bytes) = (map.unwrap_or(0) as usize, chunks.unwrap_or(0) as usize);
    if body.len() < map_bytes + chunk_bytes {
        return Err(damaged("short record"));
    }
    let (map_part, tail) = body.split_at(map_bytes);
    let (chunk_part, tail) = tail.split_at(chunk_bytes);
    *rest = tail;
    let chunks = chunks.map(|_| decode_chunks(segment, chunk_part)).transpose()?;
    Ok(Entry { segment, map: map.map(|_| map_part.to_vec()), chunks })
}

fn damaged(detail: &str) -> Error {
    Error::Corrupt { what: "a spool", detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blockferry_delta::ChunkId;

    use super::*;
    use crate::disk::SimDisk;

    #[test]
    fn entries_come_back_in_order_from_memory_and_file() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1, 1 << 30));
        let entry = |segment: u32| Entry {
            segment,
            map: (!segment.is_multiple_of(3)).then(|| vec![segment as u8; 6000]),
            chunks: segment.is_multiple_of(2).then(|| {
                let offset = u64::from(segment) * blockferry_delta::SEGMENT_BYTES + 7;
                vec![Chunk { offset, bytes: 9, id: ChunkId(segment.into()) }]
            }),
        };
        for count in [0u32, 3, 2000] {
            let mut spool = Spool::new("spool".to_owned());
            (0..count).for_each(|n| spool.push(disk.as_ref(), &entry(n)).expect("pushes"));
            let mut seen = Vec::new();
            let mut take = |e| {
                seen.push(e);
                Ok(())
            };
            spool.for_each(&mut take).expect("reads");
            spool.persist(disk.as_ref()).expect("persists");
            for_each_persisted(disk.as_ref(), "spool", &mut take).expect("reads");
            let want: Vec<_> = (0..count).chain(0..count).map(entry).collect();
            assert_eq!(seen, want);
            spool.remove(disk.as_ref()).expect("removes");
            assert_eq!(disk.stat("spool").expect("stats"), None);
        }
    }
}
