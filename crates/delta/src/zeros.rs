//! Values of segments of zeros. Most images are holes for the most part, and zeros take as long to
//! hash as data does; but what a whole segment of them hashes to follows from its place alone. For
//! the first 64 GiB of an image it is in a table: `computed` of segment after segment.

use crate::block::subtree;
use crate::units::SEGMENT_BYTES;

/// Bytes of one value.
const VALUE_BYTES: usize = 32;
/// The values of the first segments, one after the other.
static VALUES: &[u8] = include_bytes!("zeros.bin");

/// BLAKE3 value of the first `bytes` of segment `index`, all zero, of an image with other segments.
pub(crate) fn value(index: u32, bytes: usize) -> [u8; VALUE_BYTES] {
    let (values, _) = VALUES.as_chunks::<VALUE_BYTES>();
    match values.get(index as usize) {
        Some(value) if bytes as u64 == SEGMENT_BYTES => *value,
        _ => computed(index, bytes),
    }
}

fn computed(index: u32, bytes: usize) -> [u8; VALUE_BYTES] {
    static ZEROS: [u8; SEGMENT_BYTES as usize] = [0; SEGMENT_BYTES as usize];
    subtree(u64::from(index) * SEGMENT_BYTES, &ZEROS[..bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: u32 = 16_384;

    #[test]
    fn the_table_is_what_zeros_hash_to() {
        let whole = SEGMENT_BYTES as usize;
        assert_eq!(VALUES.len(), SEGMENTS as usize * VALUE_BYTES);
        let spread = (0..64).map(|n| n * 257 % SEGMENTS);
        for index in spread.chain([0, 1, SEGMENTS - 1, SEGMENTS, u32::MAX >> 8]) {
            assert_eq!(value(index, whole), computed(index, whole), "segment {index}");
        }
        assert_eq!(value(3, 70_000), computed(3, 70_000), "a short one isn't in the table");
        // All of it: the table can't have changed unseen.
        let sum = blake3::hash(VALUES).to_hex();
        assert_eq!(sum.as_str(), SUM);
    }

    const SUM: &str = "c1b0caa8fdf70b45984484d32de176a37ab3758a9106a67cd49e7d7efd7cebef";
}
