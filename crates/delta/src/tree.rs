//! The BLAKE3 tree over blocks and segments: merging left-heavy subtree values ends in exactly
//! the standard BLAKE3 of the file, because blocks and segments are aligned powers of two.

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::ids::{BlockHash, Root};

/// Merges the values of neighbouring subtrees of equal size (the last may be short) into the
/// value of their parent. With `root` the result is the hash of the whole image.
///
/// # Panics
/// When `values` is empty: an empty subtree has no value.
pub fn merge(values: &[BlockHash], root: bool) -> BlockHash {
    assert!(!values.is_empty(), "an empty subtree has no value");
    if let [only] = values {
        return *only;
    }
    // The left part is the largest power of two of leaves below the whole.
    let left_count = (values.len().next_power_of_two() / 2).max(1);
    let (left, right) = values.split_at(left_count);
    let (left, right) = (merge(left, false), merge(right, false));
    let value = if root {
        *merge_subtrees_root(left.as_bytes(), right.as_bytes(), Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left.as_bytes(), right.as_bytes(), Mode::Hash)
    };
    BlockHash::from_bytes(value)
}

/// Root of an image from the values of its segments, in order. An empty image has none.
pub fn image_root(segments: &[BlockHash]) -> Root {
    if segments.is_empty() {
        return Root::from_bytes(*blake3::hash(b"").as_bytes());
    }
    Root::from_bytes(*merge(segments, true).as_bytes())
}
