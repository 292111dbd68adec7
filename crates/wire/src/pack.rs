//! Stations `pack` and `unpack`: pages of a want, compressed together.
//!
//! Unpacking trusts nothing: one zstd frame that declares exactly the length that is due, names no
//! dictionary, nothing skippable, nothing after it. Only then is the output allocated. A pack may
//! have pages of the agreed base as the frame's prefix: both sides read them for themselves, and if
//! they differ the block hashes tell.

use blockferry_delta::{PAGE_BYTES, PageExtent};
use bytes::Bytes;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, CCtx, CParameter};

use crate::bulk::check_pack;
use crate::compression::Compression;
use crate::error::{Error, Invalid, Result};
use crate::limits::{DICTIONARY_BYTES_MAX, DICTIONARY_WINDOW_LOG, PACK_RAW_BYTES_MAX};
use crate::message::{Encoding, Pack};

/// First bytes of a zstd frame that is not skippable.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Packs of fewer bytes are compressed without a sample: trying costs as much.
const SAMPLE_BYTES_MIN: usize = 128 << 10;
/// Every so many pages one goes into the sample: a thirty-second of the work.
const SAMPLE_PAGES_STEP: usize = 32;
/// A sample that keeps more than this share of its bytes says that nothing is to be gained.
const SAMPLE_KEPT_PERCENT: usize = 99;
/// zstd's tables for a pack and its dictionary, as logarithms of entries: up to which level, how
/// long. With the tables a level is made for, zstd takes in no more than the end of the dictionary;
/// longer ones than these gain nothing and take time. Higher levels have long ones.
const TABLE_LOGS: [(i32, u32); 2] = [(4, 19), (9, 21)];

/// Pages of the agreed base that resemble what is packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dictionary {
    /// Which pages.
    pub extents: Vec<PageExtent>,
    /// Their bytes, one after the other.
    pub bytes: Vec<u8>,
}

/// Compresses packs. Holds zstd's working memory, which grows to that of the highest level asked
/// for (3: 1.3 MiB): one for each thread.
pub struct Packer {
    compressor: Compressor<'static>,
    sampler: Compressor<'static>,
    /// The level that the compressor is set to.
    level: i32,
}

impl Packer {
    /// A packer.
    ///
    /// # Errors
    /// `API_MISUSE` when zstd has no memory.
    pub fn new() -> Result<Self> {
        let compressor = || Compressor::new(1).map_err(|_| no_memory());
        Ok(Self { compressor: compressor()?, sampler: compressor()?, level: 1 })
    }

    /// Packs the bytes of `extents`, stored when zstd does not make them fewer.
    ///
    /// # Errors
    /// `API_MISUSE` when `pages` can't be the bytes of `extents`, or are too many; when zstd has no
    /// memory.
    pub fn pack(
        &mut self,
        part: u32,
        extents: Vec<PageExtent>,
        pages: Vec<u8>,
        compression: Compression,
    ) -> Result<Pack> {
        if pages.len() > PACK_RAW_BYTES_MAX {
            return Err(Error::ApiMisuse("pack too large"));
        }
        let raw_bytes = u32::try_from(pages.len()).expect("checked just above");
        let (encoding, bytes) = match self.compress(&pages, compression)? {
            Some(bytes) => (Encoding::Zstd, bytes.into()),
            None => (Encoding::Stored, pages.into()),
        };
        let dictionary = Vec::new();
        let pack = Pack { part, extents, encoding, dictionary, raw_bytes, bytes };
        check_pack(&pack).map_err(Error::ApiMisuse)?;
        Ok(pack)
    }

    /// Packs the bytes of `extents` with a dictionary, at level 1 at least, when that makes them
    /// fewer; as [`pack`](Self::pack) does otherwise.
    ///
    /// # Errors
    /// `API_MISUSE` when `pages` can't be the bytes of `extents`, or when anything is too much.
    pub fn pack_with(
        &mut self,
        part: u32,
        extents: Vec<PageExtent>,
        pages: Vec<u8>,
        dictionary: Dictionary,
        compression: Compression,
    ) -> Result<Pack> {
        if pages.len() > PACK_RAW_BYTES_MAX || dictionary.bytes.len() > DICTIONARY_BYTES_MAX {
            return Err(Error::ApiMisuse("pack or dictionary too large"));
        }
        let level = compression.level().map_or(1, |level| level.max(1));
        let Some(bytes) = compress_with(&pages, &dictionary.bytes, level) else {
            return self.pack(part, extents, pages, compression);
        };
        let raw_bytes = u32::try_from(pages.len()).expect("checked just above");
        let encoding = Encoding::Zstd;
        let dictionary = dictionary.extents;
        let pack = Pack { part, extents, encoding, dictionary, raw_bytes, bytes: bytes.into() };
        check_pack(&pack).map_err(Error::ApiMisuse)?;
        Ok(pack)
    }

    /// The frame, when it is shorter than the pages.
    fn compress(&mut self, pages: &[u8], compression: Compression) -> Result<Option<Vec<u8>>> {
        let Some(level) = compression.level() else { return Ok(None) };
        if pages.is_empty() || !self.worthwhile(pages) {
            return Ok(None);
        }
        self.set_level(level)?;
        // zstd refuses to write more than this room: then storing is better.
        let mut frame = Vec::with_capacity(pages.len() - 1);
        if self.compressor.compress_to_buffer(pages, &mut frame).is_err() {
            return Ok(None);
        }
        // An allocator may give more room than asked for.
        Ok((frame.len() < pages.len()).then_some(frame))
    }

    fn set_level(&mut self, level: i32) -> Result<()> {
        if level != self.level {
            self.compressor.set_compression_level(level).map_err(|_| no_memory())?;
            self.level = level;
        }
        Ok(())
    }

    fn worthwhile(&mut self, pages: &[u8]) -> bool {
        if pages.len() < SAMPLE_BYTES_MIN {
            return true;
        }
        let sampled: Vec<_> = pages.chunks(PAGE_BYTES).step_by(SAMPLE_PAGES_STEP).collect();
        let sample = sampled.concat();
        let kept = self.sampler.compress(&sample).map_or(0, |frame| frame.len());
        kept * 100 <= sample.len() * SAMPLE_KEPT_PERCENT
    }
}

fn no_memory() -> Error {
    Error::ApiMisuse("zstd has no memory")
}

/// The frame of `pages` with `dictionary` as its prefix, when that is shorter than the pages.
fn compress_with(pages: &[u8], dictionary: &[u8], level: i32) -> Option<Vec<u8>> {
    if dictionary.is_empty() || pages.is_empty() {
        return None;
    }
    let mut context = CCtx::try_create()?;
    context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
    context.set_parameter(CParameter::WindowLog(DICTIONARY_WINDOW_LOG)).ok()?;
    if let Some((_, log)) = TABLE_LOGS.iter().find(|(level_max, _)| level <= *level_max) {
        context.set_parameter(CParameter::HashLog(*log)).ok()?;
        context.set_parameter(CParameter::ChainLog(*log)).ok()?;
    }
    context.ref_prefix(dictionary).ok()?;
    let mut frame = Vec::with_capacity(pages.len() - 1);
    context.compress2(&mut frame, pages).ok()?;
    (frame.len() < pages.len()).then_some(frame)
}

/// The bytes of a pack without a dictionary, which are to be `expected_bytes` many
/// (see [`extents_bytes`](crate::extents_bytes)).
///
/// # Errors
/// `DECOMPRESS_LIMIT` before anything is allocated when the pack says otherwise, `DECOMPRESS_BAD`
/// when it does not decompress.
pub fn unpack(pack: &Pack, expected_bytes: u64) -> Result<Bytes> {
    unpack_with(pack, expected_bytes, &[])
}

/// The bytes of a pack, with the bytes of its dictionary; see [`unpack`]. With other bytes than
/// they were packed with it fails, or gives other pages.
///
/// # Errors
/// Those of [`unpack`]; `DECOMPRESS_BAD` also when there is a dictionary and none is due, or none
/// and one is due.
pub fn unpack_with(pack: &Pack, expected_bytes: u64, dictionary: &[u8]) -> Result<Bytes> {
    if pack.dictionary.is_empty() != dictionary.is_empty() {
        return Err(Invalid::DecompressBad { rule: "not the dictionary that is due" }.into());
    }
    let due = usize::try_from(expected_bytes).ok().filter(|bytes| *bytes <= PACK_RAW_BYTES_MAX);
    let limit = |declared| Invalid::DecompressLimit { expected: expected_bytes, declared };
    let due = due.ok_or_else(|| limit(None))?;
    if u64::from(pack.raw_bytes) != expected_bytes {
        return Err(limit(Some(pack.raw_bytes.into())).into());
    }
    match pack.encoding {
        Encoding::Stored if pack.bytes.len() != due => {
            Err(limit(Some(pack.bytes.len() as u64)).into())
        }
        Encoding::Stored => Ok(pack.bytes.clone()),
        Encoding::Zstd => Ok(decompress_exact(&pack.bytes, due, dictionary)?.into()),
    }
}

/// Decompresses the one frame that `bytes` are, after the prefix `dictionary`, to exactly
/// `expected` bytes. The caller has bounded `expected`.
pub(crate) fn decompress_exact(
    bytes: &[u8],
    expected: usize,
    dictionary: &[u8],
) -> Result<Vec<u8>> {
    let bad = |rule| Error::from(Invalid::DecompressBad { rule });
    if !bytes.starts_with(&MAGIC) {
        return Err(bad("not a zstd frame"));
    }
    let declared = zstd_safe::get_frame_content_size(bytes).map_err(|_| bad("bad frame header"))?;
    if declared != Some(expected as u64) {
        return Err(Invalid::DecompressLimit { expected: expected as u64, declared }.into());
    }
    if zstd_safe::get_dict_id_from_frame(bytes).is_some() {
        return Err(bad("a dictionary is named"));
    }
    match zstd_safe::find_frame_compressed_size(bytes) {
        Ok(length) if length == bytes.len() => {}
        Ok(_) => return Err(bad("bytes after the frame")),
        Err(_) => return Err(bad("frame cut short or damaged")),
    }
    let mut out = Vec::with_capacity(expected);
    let memory = || bad("zstd has no memory");
    let mut context = zstd_safe::DCtx::try_create().ok_or_else(memory)?;
    if !dictionary.is_empty() {
        context.ref_prefix(dictionary).map_err(|_| memory())?;
    }
    let written = context.decompress(&mut out, bytes).map_err(|_| bad("does not decompress"))?;
    if written != expected {
        return Err(bad("wrong length"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
