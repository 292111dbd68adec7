//! Parts and packs: fixed little-endian records, column by column.
//!
//! Hashes and chunk ids don't compress and stand outside; the columns stand together in one zstd
//! frame whose length is bounded by the counts before it is decompressed. A varint has one form.

use blockferry_delta::{
    BlockHash, ChangedBlock, Chunk, ChunkId, PAGE_BYTES, PART_BLOCKS_MAX, PART_CHUNKS_MAX,
    PART_ZERO_SEGMENTS_MAX, PageExtent, RecipePart,
};

use bytes::Bytes;

use crate::error::{Error, Invalid, Result, manifest};
use crate::frame::Kind;
use crate::limits as max;
use crate::message::{Encoding, Pack};
use crate::pack::decompress_exact;
use crate::wants::check_extents;

/// Encodings of a pack as numbers on the wire.
const STORED: u8 = 0;
const ZSTD: u8 = 1;
const ZSTD_WITH_DICTIONARY: u8 = 2;

/// Level at which columns are compressed: they are small, speed matters.
const COLUMNS_LEVEL: i32 = 1;

/// Reads records from a payload or from decompressed columns.
struct Records<'b> {
    bytes: &'b [u8],
    at: usize,
    kind: Kind,
}

impl<'b> Records<'b> {
    fn new(kind: Kind, bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, kind }
    }

    fn bad(&self, rule: &'static str) -> Error {
        Invalid::BadFrame { kind: self.kind.number(), rule, offset: self.at as u64 }.into()
    }

    fn take(&mut self, bytes: usize) -> Result<&'b [u8]> {
        let rest = &self.bytes[self.at..];
        let (taken, _) = rest.split_at_checked(bytes).ok_or_else(|| self.bad("cut short"))?;
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take gives what it is asked for"))
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn rest(&mut self) -> &'b [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(self.bad("varint not shortest")) };
            }
        }
        Err(self.bad("varint too long"))
    }

    /// The next of ascending numbers that are told as gaps from the end of the one before.
    fn after(&mut self, end: u64) -> Result<u64> {
        let gap = self.varint()?;
        end.checked_add(gap).ok_or_else(|| self.bad("gap overflows"))
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_gap(start: u64, end: u64, out: &mut Vec<u8>) -> Result<()> {
    let gap = start.checked_sub(end).ok_or(Error::ApiMisuse("numbers not ascending"))?;
    put_varint(gap, out);
    Ok(())
}

/// Appends a part's payload to `out`.
pub(crate) fn encode_part(part: &RecipePart, out: &mut Vec<u8>) -> Result<()> {
    let (blocks, chunks, zeros) = (&part.blocks, &part.chunks, &part.zero_segments);
    if blocks.len() > PART_BLOCKS_MAX
        || chunks.len() > PART_CHUNKS_MAX
        || zeros.len() > PART_ZERO_SEGMENTS_MAX
        || blocks.is_empty() && zeros.is_empty()
    {
        return Err(Error::ApiMisuse("part with too much or nothing in it"));
    }
    let columns = columns_of(part)?;
    out.extend_from_slice(&part.number.to_le_bytes());
    out.extend_from_slice(&(blocks.len() as u16).to_le_bytes());
    out.extend_from_slice(&(chunks.len() as u16).to_le_bytes());
    out.extend_from_slice(&(zeros.len() as u32).to_le_bytes());
    out.extend_from_slice(&(columns.len() as u32).to_le_bytes());
    blocks.iter().for_each(|block| out.extend_from_slice(block.hash.as_bytes()));
    chunks.iter().for_each(|chunk| out.extend_from_slice(&chunk.id.0.to_le_bytes()));
    let frame = zstd::bulk::compress(&columns, COLUMNS_LEVEL)
        .map_err(|_| Error::ApiMisuse("zstd has no memory"))?;
    out.extend_from_slice(&frame);
    Ok(())
}

fn columns_of(part: &RecipePart) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(16 * part.blocks.len() + 8 * part.chunks.len());
    let mut end = 0;
    for block in &part.blocks {
        put_gap(block.index, end, &mut out)?;
        end = block.index.saturating_add(1);
    }
    part.blocks.iter().for_each(|block| out.extend_from_slice(&block.dirty.to_le_bytes()));
    part.blocks.iter().for_each(|block| out.extend_from_slice(&block.zero.to_le_bytes()));
    end = 0;
    for chunk in &part.chunks {
        if !(1..=max::CHUNK_BYTES_MAX).contains(&chunk.bytes) {
            return Err(Error::ApiMisuse("chunk length out of range"));
        }
        put_gap(chunk.offset, end, &mut out)?;
        end = chunk.end();
    }
    for plane in 0..3 {
        out.extend(part.chunks.iter().map(|chunk| chunk.bytes.to_le_bytes()[plane]));
    }
    end = 0;
    for segment in &part.zero_segments {
        put_gap(u64::from(*segment), end, &mut out)?;
        end = u64::from(*segment) + 1;
    }
    Ok(out)
}

/// A part from its payload. What needs the image is checked by `manifest`.
pub(crate) fn decode_part(payload: &[u8]) -> Result<RecipePart> {
    let mut records = Records::new(Kind::Part, payload);
    let number = records.u32()?;
    let (blocks, chunks) = (usize::from(records.u16()?), usize::from(records.u16()?));
    let (zeros, columns_bytes) = (records.u32()? as usize, records.u32()? as usize);
    if blocks > PART_BLOCKS_MAX || chunks > PART_CHUNKS_MAX || zeros > PART_ZERO_SEGMENTS_MAX {
        return Err(manifest("part too large"));
    }
    if blocks == 0 && zeros == 0 {
        return Err(manifest("part without content"));
    }
    let least = blocks * 5 + chunks * 4 + zeros;
    let most =
        blocks * (max::VARINT_BYTES_MAX + 4) + chunks * (max::VARINT_BYTES_MAX + 3) + zeros * 4;
    if !(least..=most).contains(&columns_bytes) {
        return Err(records.bad("columns of impossible length"));
    }
    let hashes = records.take(blocks * 32)?;
    let ids = records.take(chunks * 8)?;
    let columns = decompress_exact(records.rest(), columns_bytes, &[])?;
    let mut columns = Records::new(Kind::Part, &columns);
    let part = RecipePart {
        number,
        blocks: read_blocks(&mut columns, hashes)?,
        chunks: read_chunks(&mut columns, ids)?,
        zero_segments: read_zero_segments(&mut columns, zeros)?,
    };
    if columns.at != columns_bytes {
        return Err(columns.bad("bytes after the columns"));
    }
    Ok(part)
}

fn read_blocks(columns: &mut Records<'_>, hashes: &[u8]) -> Result<Vec<ChangedBlock>> {
    let (hashes, _) = hashes.as_chunks::<32>();
    let (mut blocks, mut end) = (Vec::with_capacity(hashes.len()), 0u64);
    for hash in hashes {
        let index = columns.after(end)?;
        end = index.checked_add(1).ok_or_else(|| columns.bad("gap overflows"))?;
        let hash = BlockHash::from_bytes(*hash);
        blocks.push(ChangedBlock { index, dirty: 0, zero: 0, hash });
    }
    for block in &mut blocks {
        block.dirty = columns.u16()?;
    }
    for block in &mut blocks {
        block.zero = columns.u16()?;
        if block.zero & !block.dirty != 0 {
            return Err(manifest("zero page that is not dirty"));
        }
    }
    Ok(blocks)
}

fn read_chunks(columns: &mut Records<'_>, ids: &[u8]) -> Result<Vec<Chunk>> {
    let (ids, _) = ids.as_chunks::<8>();
    let mut gaps = Vec::with_capacity(ids.len());
    for _ in ids {
        gaps.push(columns.varint()?);
    }
    let planes = [columns.take(ids.len())?, columns.take(ids.len())?, columns.take(ids.len())?];
    let (mut chunks, mut end) = (Vec::with_capacity(ids.len()), 0u64);
    for (i, (id, gap)) in ids.iter().zip(gaps).enumerate() {
        let bytes = u32::from_le_bytes([planes[0][i], planes[1][i], planes[2][i], 0]);
        if !(1..=max::CHUNK_BYTES_MAX).contains(&bytes) {
            return Err(manifest("chunk length out of range"));
        }
        let offset = end.checked_add(gap);
        let offset = offset.ok_or_else(|| columns.bad("gap overflows"))?;
        end = offset.checked_add(bytes.into()).ok_or_else(|| columns.bad("gap overflows"))?;
        chunks.push(Chunk { offset, bytes, id: ChunkId(u64::from_le_bytes(*id)) });
    }
    Ok(chunks)
}

fn read_zero_segments(columns: &mut Records<'_>, zeros: usize) -> Result<Vec<u32>> {
    let (mut segments, mut end) = (Vec::with_capacity(zeros), 0u64);
    for _ in 0..zeros {
        let segment = columns.after(end)?;
        end = segment.saturating_add(1);
        let segment =
            u32::try_from(segment).map_err(|_| manifest("zero segment beyond the end"))?;
        segments.push(segment);
    }
    Ok(segments)
}

/// Pages a pack may have had for `raw_bytes`: only the image's last page may be short.
fn pages_fit(extents: &[PageExtent], raw_bytes: u32) -> bool {
    let pages: u64 = extents.iter().map(|extent| u64::from(extent.count)).sum();
    raw_bytes > 0 && u64::from(raw_bytes).div_ceil(PAGE_BYTES as u64) == pages
}

/// The rules of a pack that hold whatever was wanted.
pub(crate) fn check_pack(pack: &Pack) -> std::result::Result<(), &'static str> {
    check_extents(&pack.extents, max::PACK_PAGES_MAX as u64)?;
    if !pages_fit(&pack.extents, pack.raw_bytes) {
        return Err("raw length is not that of the pages");
    }
    check_extents(&pack.dictionary, max::DICTIONARY_PAGES_MAX as u64)?;
    let raw_bytes = pack.raw_bytes as usize;
    match pack.encoding {
        Encoding::Stored if !pack.dictionary.is_empty() => Err("stored, and yet a dictionary"),
        Encoding::Stored if pack.bytes.len() != raw_bytes => Err("stored length is not the raw"),
        Encoding::Zstd if pack.bytes.len() >= raw_bytes => Err("compressed is not shorter"),
        _ => Ok(()),
    }
}

/// Appends a pack's payload to `out`, but for the pages: they come last.
pub(crate) fn encode_pack_head(pack: &Pack, out: &mut Vec<u8>) -> Result<()> {
    check_pack(pack).map_err(Error::ApiMisuse)?;
    out.reserve(max::PACK_HEADER_BYTES + 4 * pack.extents.len());
    out.extend_from_slice(&pack.part.to_le_bytes());
    let encoding = match pack.encoding {
        Encoding::Stored => STORED,
        Encoding::Zstd if pack.dictionary.is_empty() => ZSTD,
        Encoding::Zstd => ZSTD_WITH_DICTIONARY,
    };
    out.extend_from_slice(&[encoding, 0]);
    out.extend_from_slice(&(pack.extents.len() as u16).to_le_bytes());
    out.extend_from_slice(&pack.raw_bytes.to_le_bytes());
    put_extents(&pack.extents, out)?;
    if encoding == ZSTD_WITH_DICTIONARY {
        out.extend_from_slice(&(pack.dictionary.len() as u16).to_le_bytes());
        put_extents(&pack.dictionary, out)?;
    }
    Ok(())
}

fn put_extents(extents: &[PageExtent], out: &mut Vec<u8>) -> Result<()> {
    let mut end = 0;
    for extent in extents {
        put_gap(extent.first, end, out)?;
        put_varint(extent.count.into(), out);
        end = extent.first + u64::from(extent.count);
    }
    Ok(())
}

fn read_extents(records: &mut Records<'_>, count: usize, max: usize) -> Result<Vec<PageExtent>> {
    if count > max {
        return Err(records.bad("too many extents"));
    }
    let (mut extents, mut end) = (Vec::with_capacity(count), 0);
    for _ in 0..count {
        let first = records.after(end)?;
        let count = records.varint()?;
        let count = u32::try_from(count).map_err(|_| records.bad("extent too long"))?;
        end = first.checked_add(count.into()).ok_or_else(|| records.bad("extent overflows"))?;
        extents.push(PageExtent { first, count });
    }
    Ok(extents)
}

/// A pack from its payload; the bytes stay encoded.
pub(crate) fn decode_pack(payload: &Bytes) -> Result<Pack> {
    let mut records = Records::new(Kind::Pack, payload);
    let part = records.u32()?;
    let [number, reserved] = records.array()?;
    let encoding = match number {
        STORED => Encoding::Stored,
        ZSTD | ZSTD_WITH_DICTIONARY => Encoding::Zstd,
        _ => return Err(records.bad("unknown encoding")),
    };
    if reserved != 0 {
        return Err(records.bad("reserved byte is not zero"));
    }
    let count = usize::from(records.u16()?);
    let raw_bytes = records.u32()?;
    let extents = read_extents(&mut records, count, max::PACK_PAGES_MAX)?;
    let mut dictionary = Vec::new();
    if number == ZSTD_WITH_DICTIONARY {
        let count = usize::from(records.u16()?);
        dictionary = read_extents(&mut records, count, max::DICTIONARY_PAGES_MAX)?;
        if dictionary.is_empty() {
            return Err(records.bad("empty dictionary"));
        }
    }
    let begin = records.at;
    let error = |rule| Invalid::BadFrame { kind: Kind::Pack.number(), rule, offset: begin as u64 };
    let bytes = payload.slice(begin..);
    let pack = Pack { part, extents, encoding, dictionary, raw_bytes, bytes };
    check_pack(&pack).map_err(error)?;
    Ok(pack)
}

#[cfg(test)]
mod tests;
