//! A buffer for direct I/O: its first byte lies on a multiple of [`ALIGN_BYTES`].
//!
//! Fixed capacity, so it never moves; made of a `Vec` with slack, so it needs no unsafe code.

use std::fmt;
use std::ops::Deref;

/// Alignment of address, offset and length for direct I/O. Covers every logical block size in use.
pub const ALIGN_BYTES: usize = 4096;

/// Bytes of fixed capacity, aligned to [`ALIGN_BYTES`]; dereferences to its filled part.
pub struct AlignedBuf {
    /// Capacity plus slack; never grows, so `start` stays right.
    slab: Vec<u8>,
    start: usize,
    capacity: usize,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer for `bytes`, rounded up to a multiple of [`ALIGN_BYTES`].
    pub fn with_capacity(bytes: usize) -> AlignedBuf {
        let capacity = bytes.next_multiple_of(ALIGN_BYTES);
        let slab = vec![0; capacity + ALIGN_BYTES];
        let start = slab.as_ptr().align_offset(ALIGN_BYTES);
        assert!(start <= ALIGN_BYTES, "a byte pointer can always be aligned within the slack");
        AlignedBuf { slab, start, capacity, len: 0 }
    }

    /// Capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// All of the capacity, whatever it holds. Aligned.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.slab[self.start..self.start + self.capacity]
    }

    /// Sets how many bytes are filled. Panics above the capacity.
    pub fn set_len(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity, "length {bytes} above capacity {}", self.capacity);
        self.len = bytes;
    }

    /// The filled part, to be changed.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.slab[self.start..self.start + self.len]
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.slab[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_aligned_and_keeps_its_length() {
        for bytes in [0, 1, 4096, 4097, 1 << 20] {
            let mut buf = AlignedBuf::with_capacity(bytes);
            assert!(buf.capacity() >= bytes && buf.capacity().is_multiple_of(ALIGN_BYTES));
            assert_eq!(buf.space().as_ptr().align_offset(ALIGN_BYTES), 0);
            assert_eq!(buf.len(), 0);
            buf.set_len(bytes);
            buf.filled_mut().fill(7);
            assert!(buf.iter().all(|byte| *byte == 7) && buf.len() == bytes);
        }
    }

    #[test]
    #[should_panic(expected = "above capacity")]
    fn refuses_a_length_above_the_capacity() {
        AlignedBuf::with_capacity(4096).set_len(4097);
    }
}
