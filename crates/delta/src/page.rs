//! Pages: keyed 32-bit fingerprints and the zero test. A fingerprint of 0 means a page of zeros
//! and nothing else, so zero extents can be read off a block map.

use twox_hash::XxHash3_64;

use crate::ids::{ChunkId, StoreKey};
use crate::units::{PAGE_BYTES, PAGES_PER_BLOCK};

/// Fingerprints of a block's pages; pages beyond the end of the image have 0.
pub type Fingerprints = [u32; PAGES_PER_BLOCK];

/// The hashing keys of a store, derived once from its secret.
#[derive(Clone)]
pub struct Keys {
    page_seed: u64,
    chunk_seed: u64,
    /// Seed of the FastCDC gear table: cut points don't betray known files to an outsider.
    pub(crate) cut_seed: u64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Derives the keys of the store with this secret.
    pub fn derive(key: &StoreKey) -> Self {
        let derived =
            blake3::derive_key("blockferry 2026-11 store hashing keys v1", key.as_bytes());
        let seed = |n: usize| {
            let bytes: [u8; 8] = derived[n * 8..n * 8 + 8].try_into().expect("8 of 32 bytes");
            u64::from_le_bytes(bytes)
        };
        Self { page_seed: seed(0), chunk_seed: seed(1), cut_seed: seed(2) }
    }

    /// Fingerprint of one page (the last page of an image may be short).
    pub fn page(&self, page: &[u8]) -> u32 {
        if is_zero(page) {
            return 0;
        }
        let hash = XxHash3_64::oneshot_with_seed(self.page_seed, page);
        ((hash ^ (hash >> 32)) as u32).max(1)
    }

    /// Fingerprints of the pages of one block.
    pub fn pages(&self, block: &[u8]) -> Fingerprints {
        let mut prints = [0; PAGES_PER_BLOCK];
        for (print, page) in prints.iter_mut().zip(block.chunks(PAGE_BYTES)) {
            *print = self.page(page);
        }
        prints
    }

    /// Id of one chunk.
    pub fn chunk(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(XxHash3_64::oneshot_with_seed(self.chunk_seed, bytes))
    }
}

/// Are all bytes zero? Stops early at the first run that isn't.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    let zero_word = |w: &[u8; 64]| w.iter().fold(0, |acc, b| acc | b) == 0;
    words.iter().all(zero_word) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_pages_and_only_they_have_the_print_zero() {
        let keys = Keys::derive(&StoreKey::from_bytes([1; 32]));
        let mut block = vec![0u8; PAGE_BYTES * 3 + 10];
        assert_eq!(keys.pages(&block), [0; PAGES_PER_BLOCK]);
        block[PAGE_BYTES * 2 - 1] = 1;
        block[PAGE_BYTES * 3 + 9] = 1;
        let prints = keys.pages(&block);
        assert_eq!(prints.map(|p| p != 0)[..5], [false, true, false, true, false]);
    }

    #[test]
    fn prints_depend_on_the_key() {
        let page = vec![5u8; PAGE_BYTES];
        let print = |k| Keys::derive(&StoreKey::from_bytes([k; 32])).page(&page);
        assert_ne!(print(1), print(2));
    }

    #[test]
    fn the_zero_test_sees_every_byte() {
        for len in [0, 1, 63, 64, 65, 200, 4096] {
            assert!(is_zero(&vec![0; len]));
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
            }
        }
    }
}
