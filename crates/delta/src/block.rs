//! Blocks: the unit that proves. The hash of a block is its BLAKE3 subtree value at its place in
//! the image, so equal bytes at different places have different hashes.

use blake3::hazmat::HasherExt;

use crate::ids::BlockHash;
use crate::page::{Fingerprints, Keys};
use crate::units::{BLOCK_BYTES, PAGES_PER_BLOCK};

/// One row of a block map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Proves the block's bytes at its place.
    pub hash: BlockHash,
    /// Tells which of its pages changed.
    pub prints: Fingerprints,
}

impl BlockRow {
    /// The row of block `index` of an image of `image_bytes`.
    pub fn of(keys: &Keys, index: u64, block: &[u8], image_bytes: u64) -> Self {
        Self { hash: block_hash(index, block, image_bytes), prints: keys.pages(block) }
    }

    /// Mask of the pages that are all zero.
    pub fn zero_mask(&self) -> u16 {
        mask_where(|p| self.prints[p] == 0)
    }

    /// Mask of the pages whose fingerprints differ from those of `base`.
    pub fn dirty_mask(&self, base: &BlockRow) -> u16 {
        mask_where(|p| self.prints[p] != base.prints[p])
    }
}

fn mask_where(test: impl Fn(usize) -> bool) -> u16 {
    (0..PAGES_PER_BLOCK).filter(|p| test(*p)).fold(0, |mask, p| mask | (1 << p))
}

/// Hash of block `index` of an image of `image_bytes`: a BLAKE3 subtree value, or the root when
/// the image is a single block.
///
/// # Panics
/// When `block` is empty.
pub fn block_hash(index: u64, block: &[u8], image_bytes: u64) -> BlockHash {
    if image_bytes <= BLOCK_BYTES as u64 {
        return BlockHash::from_bytes(*blake3::hash(block).as_bytes());
    }
    BlockHash::from_bytes(subtree(index * BLOCK_BYTES as u64, block))
}

/// BLAKE3 value of an aligned subtree that isn't the whole image.
pub(crate) fn subtree(offset: u64, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes).finalize_non_root()
}

/// Does `block` hash to `hash` at its place? The only test that proves bytes.
pub fn verify_block(index: u64, block: &[u8], image_bytes: u64, hash: &BlockHash) -> bool {
    block_hash(index, block, image_bytes) == *hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Root;
    use crate::tree::{image_root, merge};
    use crate::units::{SEGMENT_BLOCKS, SEGMENT_BYTES};

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251 + (i >> 16)) as u8).collect()
    }

    fn root_by_blocks(data: &[u8]) -> Root {
        let size = data.len() as u64;
        let hashes: Vec<_> = data
            .chunks(BLOCK_BYTES)
            .enumerate()
            .map(|(i, b)| block_hash(i as u64, b, size))
            .collect();
        let only = hashes.len() <= SEGMENT_BLOCKS;
        let segments: Vec<_> = hashes.chunks(SEGMENT_BLOCKS).map(|s| merge(s, only)).collect();
        image_root(&segments)
    }

    #[test]
    fn the_root_is_what_b3sum_prints() {
        let seg = SEGMENT_BYTES as usize;
        let sizes = [
            0,
            1,
            1023,
            1024,
            1025,
            65_535,
            65_536,
            65_537,
            131_072,
            131_073,
            200_000,
            seg - 1,
            seg,
            seg + 1,
            seg + 65_536,
            2 * seg,
            2 * seg + 1,
            3 * seg + 70_000,
        ];
        for size in sizes {
            let data = bytes(size);
            let want = Root::from_bytes(*blake3::hash(&data).as_bytes());
            assert_eq!(root_by_blocks(&data), want, "{size} bytes");
        }
    }

    #[test]
    fn a_block_is_proved_at_its_place_only() {
        let block = bytes(BLOCK_BYTES);
        let size = 10 * BLOCK_BYTES as u64;
        let hash = block_hash(3, &block, size);
        assert!(verify_block(3, &block, size, &hash));
        assert!(!verify_block(4, &block, size, &hash));
        let mut wrong = block.clone();
        wrong[100] ^= 1;
        assert!(!verify_block(3, &wrong, size, &hash));
    }
}
