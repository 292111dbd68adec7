//! The message that carries image data: pages that were wanted. Its record is written and read by
//! `bulk`; here is what it says.

use blockferry_delta::PageExtent;
use bytes::Bytes;

/// How a pack's bytes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Stored,
    /// One zstd frame.
    Zstd,
}

/// Pages that were wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct Pack {
    /// The part they belong to.
    pub part: u32,
    /// Which pages.
    pub extents: Vec<PageExtent>,
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// Pages of the agreed base that are the zstd frame's prefix; as a rule none.
    pub dictionary: Vec<PageExtent>,
    /// Bytes of the pages.
    pub raw_bytes: u32,
    /// The encoded bytes.
    pub bytes: Bytes,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack")
            .field("part", &self.part)
            .field("extents", &self.extents)
            .field("encoding", &self.encoding)
            .field("dictionary", &self.dictionary)
            .field("raw_bytes", &self.raw_bytes)
            .field("encoded_bytes", &self.bytes.len())
            .finish()
    }
}
