//! A filter in memory in front of the chunk index: it says "surely not there" for nearly all chunks
//! that aren't, so that looking for a chunk nobody has costs no read.
//!
//! It is a Bloom filter in blocks of 64 bytes: one line of the processor's cache is touched for each
//! question. Many threads ask and add at once. It never forgets, so it is made anew from the index
//! when more was added than it was made for; too full, it answers "perhaps" more often and is
//! never wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Words of a block.
const BLOCK_WORDS: usize = 8;
/// Bits that one key sets in its block, chosen by 9 bits of its hash each.
const PROBES: u32 = 7;
/// Bits for each key a filter is made for: 0.03 % of the keys that aren't there get a "perhaps".
const KEY_BITS: u64 = 20;
/// A filter is made for an eighth more than there is.
const SPARE_PARTS: u64 = 8;
/// Keys the smallest filter is made for.
const KEYS_MIN: u64 = 1 << 14;
/// Bytes of the largest filter: 23 million keys. With more, it answers "perhaps" more often.
pub(super) const FILTER_BYTES_MAX: u64 = 56 << 20;

/// A set of 64-bit keys that may say "perhaps" for a key that isn't in it.
#[derive(Debug)]
pub(super) struct Filter {
    words: Box<[AtomicU64]>,
    keys_max: u64,
    added: AtomicU64,
    whole: AtomicBool,
}

impl Filter {
    /// An empty filter for `keys` keys and some more. It isn't whole until [`Filter::complete`].
    pub(super) fn new(keys: u64) -> Self {
        let keys_max = (keys + keys / SPARE_PARTS).max(KEYS_MIN);
        let bytes = (keys_max.saturating_mul(KEY_BITS) / 8).min(FILTER_BYTES_MAX);
        let words = (bytes as usize / 8).next_multiple_of(BLOCK_WORDS);
        let words = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Self { words, keys_max, added: AtomicU64::new(0), whole: AtomicBool::new(false) }
    }

    /// Adds a key whose high bits are evenly spread.
    pub(super) fn add(&self, key: u64) {
        let block = self.block(key);
        for bit in bits(key) {
            block[bit / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
        self.added.fetch_add(1, Ordering::Relaxed);
    }

    /// May this key be in the set? `true` for every key until the filter is whole.
    pub(super) fn may_hold(&self, key: u64) -> bool {
        let block = self.block(key);
        !self.is_whole()
            || bits(key).all(|bit| block[bit / 64].load(Ordering::Relaxed) & (1 << (bit % 64)) != 0)
    }

    /// From now on what isn't in the filter isn't in the set.
    pub(super) fn complete(&self) {
        self.whole.store(true, Ordering::Release);
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Was more added than the filter was made for?
    pub(super) fn is_outgrown(&self) -> bool {
        self.added.load(Ordering::Relaxed) > self.keys_max
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// The block of a key. Keys that follow each other share a block or have neighbouring ones, so
    /// filling a filter in order runs through memory in order.
    fn block(&self, key: u64) -> &[AtomicU64] {
        let blocks = (self.words.len() / BLOCK_WORDS) as u128;
        let at = ((u128::from(key) * blocks) >> 64) as usize * BLOCK_WORDS;
        &self.words[at..at + BLOCK_WORDS]
    }
}

/// The bits of a block that a key sets.
fn bits(key: u64) -> impl Iterator<Item = usize> {
    // Neighbours share a block: which bits they set must not follow from their order.
    let mut hash = (key ^ (key >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^= hash >> 32;
    (0..PROBES).map(move |probe| (hash >> (9 * probe)) as usize % (64 * BLOCK_WORDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the index makes keys: the high 42 bits of something random.
    fn key(number: u64) -> u64 {
        let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) & !((1 << 22) - 1)
    }

    #[test]
    fn holds_what_was_added_and_little_else() {
        let keys = 200_000;
        let filter = Filter::new(keys);
        // As full as it may become.
        let full = keys + keys / SPARE_PARTS;
        (0..full).for_each(|n| filter.add(key(n)));
        assert!(filter.may_hold(key(full + 1)), "it isn't whole yet");
        filter.complete();
        assert!(!filter.is_outgrown());
        assert!((0..full).all(|n| filter.may_hold(key(n))), "nothing is lost");
        let others = 1_000_000;
        let wrong = (full..full + others).filter(|n| filter.may_hold(key(*n))).count() as u64;
        eprintln!("filter: {wrong} of {others} others may be there");
        assert!(wrong * 1000 < others, "{wrong} of {others}");
        filter.add(key(full));
        assert!(filter.is_outgrown());
    }

    #[test]
    fn memory_is_bounded() {
        let bytes = |keys| Filter::new(keys).bytes();
        assert!(bytes(0) <= 64 << 10);
        assert!(bytes(20_000_000) <= FILTER_BYTES_MAX);
        assert_eq!(bytes(200_000_000), FILTER_BYTES_MAX);
        let filter = Filter::new(0);
        filter.add(0);
        filter.add(u64::MAX);
        filter.complete();
        assert!(filter.may_hold(0) && filter.may_hold(u64::MAX));
    }
}
