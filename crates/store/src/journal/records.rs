//! The format of a redo journal (`docs/format.md`, section 8): a head that says which content it
//! makes, then records, each with a sum that binds it to that content and to its place. Reading
//! stops at the first record that isn't whole: what follows it was never finished.

use blockferry_delta::{BLOCK_BYTES, IMAGE_BYTES_MAX, Keys, PAGE_BYTES, Root};

use crate::disk::DiskFile;
use crate::error::{IoContext, Result};

/// First bytes of every journal.
const MAGIC: [u8; 8] = *b"BFredo\0\x01";
/// Bytes of the head: magic, image length u64, root, then the sum of these.
pub(super) const HEAD_BYTES: usize = 56;
/// Bytes before a record's body: kind u32, bytes of data u32, offset u64, length u64, sum u64.
const RECORD_HEAD_BYTES: usize = 32;
/// The sum is the last thing of a record's head.
const SUMMED_BYTES: usize = 24;
const DATA: u32 = 1;
const HOLE: u32 = 2;
/// Image bytes of one record at most; checked before allocating.
pub(super) const DATA_BYTES_MAX: usize = BLOCK_BYTES;
/// What a disk writes as a whole: a torn write leaves each sector old or new.
pub(super) const SECTOR_BYTES: usize = 512;

/// Which content a journal makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Length of the image.
    pub(crate) image_bytes: u64,
    /// BLAKE3 of the image.
    pub(crate) root: Root,
}

/// One change of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// These bytes; and what each sector held before, as a fingerprint.
    Data { bytes: Vec<u8>, before: Vec<u32> },
    /// So many bytes become a hole.
    Hole(u64),
}

/// A record as it was read.
#[derive(Debug)]
pub(super) struct Record {
    /// Where in the image, in bytes.
    pub(super) offset: u64,
    pub(super) change: Change,
    /// Where its data begins in the journal.
    pub(super) data_at: u64,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.image_bytes.to_le_bytes());
        out[16..48].copy_from_slice(self.root.as_bytes());
        let sum = short_sum(&[&out[..48]]);
        out[48..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let sum = u64_at(bytes, 48);
        let known = bytes[..8] == MAGIC && sum == short_sum(&[&bytes[..48]]);
        let image_bytes = u64_at(bytes, 8);
        let root = Root::from_bytes(bytes[16..48].try_into().expect("32 of 56 bytes"));
        (known && image_bytes <= IMAGE_BYTES_MAX).then_some(Self { image_bytes, root })
    }
}

/// The bytes of a data record that is to stand at `at`; its data comes last.
pub(super) fn data_record(
    head: &Head,
    at: u64,
    offset: u64,
    bytes: &[u8],
    before: &[u32],
) -> Vec<u8> {
    let mut body = Vec::with_capacity(before.len() * 4 + bytes.len());
    before.iter().for_each(|print| body.extend_from_slice(&print.to_le_bytes()));
    body.extend_from_slice(bytes);
    record(head, at, DATA, bytes.len() as u32, offset, bytes.len() as u64, &body)
}

/// The bytes of a hole record that is to stand at `at`.
pub(super) fn hole_record(head: &Head, at: u64, offset: u64, bytes: u64) -> Vec<u8> {
    record(head, at, HOLE, 0, offset, bytes, &[])
}

fn record(
    head: &Head,
    at: u64,
    kind: u32,
    data: u32,
    offset: u64,
    bytes: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(RECORD_HEAD_BYTES + body.len());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&data.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    let sum = short_sum(&[head.root.as_bytes(), &at.to_le_bytes(), &out, body]);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Fingerprints of the sectors of `bytes`.
pub(super) fn sector_prints(keys: &Keys, bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(SECTOR_BYTES).map(|sector| keys.page(sector)).collect()
}

/// Reads a journal from its start.
pub(super) struct Records<'f> {
    file: &'f dyn DiskFile,
    path: &'f str,
    head: Head,
    at: u64,
    end: u64,
    /// Bytes of the record read last.
    raw: Vec<u8>,
}

impl<'f> Records<'f> {
    /// Begins; `None` when the file doesn't begin as a journal.
    pub(super) fn open(file: &'f dyn DiskFile, path: &'f str) -> Result<Option<Self>> {
        let end = file.stat().during("look at", path)?.size_bytes;
        let mut bytes = [0; HEAD_BYTES];
        if end < HEAD_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, 0).during("read", path)?;
        let head = Head::decode(&bytes);
        let begin = |head| Self { file, path, head, at: HEAD_BYTES as u64, end, raw: Vec::new() };
        Ok(head.map(begin))
    }

    /// Which content it makes.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Where the next record begins: after the last whole one.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Was everything read?
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    /// Bytes of the record read last, as they are in the file.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The next record; `None` at the end and where a record isn't whole.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let left = self.end - self.at;
        self.raw.clear();
        self.raw.resize(RECORD_HEAD_BYTES, 0);
        if left < RECORD_HEAD_BYTES as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut self.raw, self.at).during("read", self.path)?;
        let (kind, data) = (u32_at(&self.raw, 0), u32_at(&self.raw, 4) as usize);
        let (offset, bytes) = (u64_at(&self.raw, 8), u64_at(&self.raw, 16));
        let sum = u64_at(&self.raw, SUMMED_BYTES);
        let fits = offset.is_multiple_of(PAGE_BYTES as u64)
            && bytes > 0
            && offset.checked_add(bytes).is_some_and(|end| end <= self.head.image_bytes);
        let prints = data.div_ceil(SECTOR_BYTES);
        let known = match kind {
            DATA => data as u64 == bytes && data <= DATA_BYTES_MAX,
            HOLE => data == 0,
            _ => false,
        };
        let body = prints * 4 + data;
        if !fits || !known || left < (RECORD_HEAD_BYTES + body) as u64 {
            return Ok(None);
        }
        self.raw.resize(RECORD_HEAD_BYTES + body, 0);
        let (front, rest) = self.raw.split_at_mut(RECORD_HEAD_BYTES);
        let body_at = self.at + RECORD_HEAD_BYTES as u64;
        self.file.read_exact_at(rest, body_at).during("read", self.path)?;
        let root = self.head.root;
        if sum
            != short_sum(&[root.as_bytes(), &self.at.to_le_bytes(), &front[..SUMMED_BYTES], rest])
        {
            return Ok(None);
        }
        let (before, image) = rest.split_at(prints * 4);
        let change = match kind {
            DATA => Change::Data {
                bytes: image.to_vec(),
                before: before.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            },
            _ => Change::Hole(bytes),
        };
        let record = Record { offset, change, data_at: body_at + before.len() as u64 };
        self.at += self.raw.len() as u64;
        Ok(Some(record))
    }
}

/// The first 64 bits of the BLAKE3 of the parts.
fn short_sum(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    u64_at(hasher.finalize().as_bytes(), 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
