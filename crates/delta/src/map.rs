//! Block maps by segment: the rows of up to 64 blocks, or a single value for a segment of zeros.
//! The record form is fixed little-endian and described in `docs/format.md`.

use crate::block::BlockRow;
use crate::ids::BlockHash;
use crate::tree::merge;
use crate::units::{
    BLOCK_BYTES, PAGES_PER_BLOCK, SEGMENT_BLOCKS, SEGMENT_BYTES, block_len, segment_len,
};
use crate::zeros;

/// Bytes of one row in a record: a 32-byte hash and sixteen 4-byte fingerprints.
pub const ROW_BYTES: usize = 32 + 4 * PAGES_PER_BLOCK;
const TAG_ZERO: u8 = 0;
const TAG_ROWS: u8 = 1;

/// Why bytes are not a block-map record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block-map record: {0}")]
pub struct MapError(&'static str);

/// The block map of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentMap {
    /// All zeros; the value of its subtree. Never an image's only segment.
    Zero(BlockHash),
    /// One row for each block.
    Rows(Vec<BlockRow>),
}

impl SegmentMap {
    /// The map of a segment of zeros of an image of `image_bytes`.
    pub fn zero(index: u32, image_bytes: u64) -> Self {
        let bytes = segment_len(index, image_bytes);
        if image_bytes <= SEGMENT_BYTES {
            let rows = (0..bytes.div_ceil(BLOCK_BYTES) as u64).map(|b| zero_row(b, image_bytes));
            return Self::Rows(rows.collect());
        }
        Self::Zero(BlockHash::from_bytes(zeros::value(index, bytes)))
    }

    /// Wraps rows, folding them into [`SegmentMap::Zero`] where they are all zero.
    pub fn from_rows(rows: Vec<BlockRow>, image_bytes: u64) -> Self {
        let zero = rows.iter().all(|row| row.prints == [0; PAGES_PER_BLOCK]);
        if zero && image_bytes > SEGMENT_BYTES {
            let hashes: Vec<_> = rows.iter().map(|row| row.hash).collect();
            return Self::Zero(merge(&hashes, false));
        }
        Self::Rows(rows)
    }

    /// The subtree value of the segment (the root, when it is the only one).
    pub fn value(&self, image_bytes: u64) -> BlockHash {
        match self {
            Self::Zero(value) => *value,
            Self::Rows(rows) => {
                let hashes: Vec<_> = rows.iter().map(|row| row.hash).collect();
                merge(&hashes, image_bytes <= SEGMENT_BYTES)
            }
        }
    }

    /// Is every byte of the segment zero?
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Zero(_) => true,
            Self::Rows(rows) => rows.iter().all(|row| row.prints == [0; PAGES_PER_BLOCK]),
        }
    }

    /// The row of block `block` (0 to 63) of segment `index`; computed for segments of zeros.
    pub fn row(&self, index: u32, block: usize, image_bytes: u64) -> Option<BlockRow> {
        match self {
            Self::Rows(rows) => rows.get(block).copied(),
            Self::Zero(_) => Self::zero_row(index, block, image_bytes),
        }
    }

    /// The row that block `block` (0 to 63) of segment `index` has when it is all zeros.
    pub fn zero_row(index: u32, block: usize, image_bytes: u64) -> Option<BlockRow> {
        let number = u64::from(index) * SEGMENT_BLOCKS as u64 + block as u64;
        let exists = block < SEGMENT_BLOCKS && block_len(number, image_bytes) > 0;
        exists.then(|| zero_row(number, image_bytes))
    }

    /// The record form.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Zero(value) => [&[TAG_ZERO], value.as_bytes().as_slice()].concat(),
            Self::Rows(rows) => {
                let mut out = Vec::with_capacity(1 + rows.len() * ROW_BYTES);
                out.push(TAG_ROWS);
                for row in rows {
                    out.extend_from_slice(row.hash.as_bytes());
                    row.prints.iter().for_each(|p| out.extend_from_slice(&p.to_le_bytes()));
                }
                out
            }
        }
    }

    /// Parses a record.
    pub fn decode(record: &[u8]) -> Result<Self, MapError> {
        let (tag, body) = record.split_first().ok_or(MapError("empty"))?;
        match *tag {
            TAG_ZERO => {
                let value = body.try_into().map_err(|_| MapError("zero record not 33 bytes"))?;
                Ok(Self::Zero(BlockHash::from_bytes(value)))
            }
            TAG_ROWS => {
                let (rows, rest) = body.as_chunks::<ROW_BYTES>();
                if !rest.is_empty() || rows.is_empty() || rows.len() > SEGMENT_BLOCKS {
                    return Err(MapError("rows not 1 to 64 times 96 bytes"));
                }
                Ok(Self::Rows(rows.iter().map(decode_row).collect()))
            }
            _ => Err(MapError("unknown tag")),
        }
    }
}

fn decode_row(bytes: &[u8; ROW_BYTES]) -> BlockRow {
    let (hash, prints) = bytes.split_at(32);
    let mut row = BlockRow {
        hash: BlockHash::from_bytes(hash.try_into().expect("32 of 96 bytes")),
        prints: [0; PAGES_PER_BLOCK],
    };
    for (print, bytes) in row.prints.iter_mut().zip(prints.as_chunks::<4>().0) {
        *print = u32::from_le_bytes(*bytes);
    }
    row
}

/// The row of a block of zeros.
pub(crate) fn zero_row(index: u64, image_bytes: u64) -> BlockRow {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let block = &ZEROS[..block_len(index, image_bytes)];
    BlockRow {
        hash: crate::block::block_hash(index, block, image_bytes),
        prints: [0; PAGES_PER_BLOCK],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StoreKey;
    use crate::page::Keys;

    #[test]
    fn zero_segments_fold_to_one_value() {
        let size = 3 * SEGMENT_BYTES + 100_000;
        for index in 0..4 {
            let blocks = segment_len(index, size).div_ceil(BLOCK_BYTES);
            let first = u64::from(index) * SEGMENT_BLOCKS as u64;
            let rows: Vec<_> = (0..blocks as u64).map(|b| zero_row(first + b, size)).collect();
            let zero = SegmentMap::zero(index, size);
            assert_eq!(SegmentMap::from_rows(rows.clone(), size), zero);
            assert_eq!(zero.row(index, blocks - 1, size), rows.last().copied());
            assert_eq!(zero.row(index, blocks, size), None);
            assert_eq!(zero.value(size), SegmentMap::Rows(rows).value(size));
        }
        assert!(matches!(SegmentMap::zero(0, 70_000), SegmentMap::Rows(r) if r.len() == 2));
    }

    #[test]
    fn records_survive_and_damage_is_refused() {
        let keys = Keys::derive(&StoreKey::from_bytes([1; 32]));
        let size = 10 * BLOCK_BYTES as u64;
        let rows =
            (0..10).map(|i| BlockRow::of(&keys, i, &vec![i as u8; BLOCK_BYTES], size)).collect();
        for map in [SegmentMap::Rows(rows), SegmentMap::zero(1, 9 * SEGMENT_BYTES)] {
            let record = map.encode();
            assert_eq!(SegmentMap::decode(&record), Ok(map));
            for cut in 0..record.len() {
                let short = SegmentMap::decode(&record[..cut]);
                assert!(short.is_err() || (cut - 1) % ROW_BYTES == 0, "{cut}");
            }
        }
        assert!(SegmentMap::decode(&[7; 97]).is_err());
    }
}
