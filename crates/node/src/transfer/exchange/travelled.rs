//! How a received generation came: what was found here, what was zero, what compression saved. For
//! monitors; nothing is decided by it.

use std::time::Duration;

use blockferry_store::Planned;
use blockferry_wire::Pack;

/// What a transfer came to, in bytes of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Travelled {
    /// Found elsewhere here.
    pub found_bytes: u64,
    /// Became zero.
    pub zero_bytes: u64,
    /// Travelled, before compression.
    pub raw_bytes: u64,
    /// Saved by compression alone.
    pub zstd_bytes: u64,
    /// Saved by compression with pages of the base.
    pub prefix_bytes: u64,
    /// From the last byte to the durable end.
    pub commit: Duration,
}

impl Travelled {
    /// A part was planned.
    pub(crate) fn note_planned(&mut self, planned: &Planned) {
        self.found_bytes = self.found_bytes.saturating_add(planned.found_bytes);
        self.zero_bytes = self.zero_bytes.saturating_add(planned.zero_bytes);
    }

    /// A pack came.
    pub(crate) fn note_pack(&mut self, pack: &Pack) {
        let raw = u64::from(pack.raw_bytes);
        let saved = raw.saturating_sub(pack.bytes.len() as u64);
        self.raw_bytes = self.raw_bytes.saturating_add(raw);
        let sum =
            if pack.dictionary.is_empty() { &mut self.zstd_bytes } else { &mut self.prefix_bytes };
        *sum = sum.saturating_add(saved);
    }
}
