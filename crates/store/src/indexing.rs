//! Upkeep of the chunk index: its filter is filled in the background, because opening a store must
//! not wait for it. Until then a look-up of a chunk that nobody has costs a read, nothing else.

use crate::error::Result;
use crate::scan::Progress;
use crate::store::Store;

/// What is known of the chunk index without looking through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexReport {
    /// Entries, but for the last few thousand.
    pub chunks: u64,
    /// Bytes of memory beside the catalog's cache.
    pub memory_bytes: u64,
    /// Do chunks that nobody has cost no read?
    pub filtered: bool,
}

impl Store {
    /// Makes look-ups of chunks that nobody has cheap, if they aren't: some seconds for millions of
    /// chunks. An index that was lost is made again from the chunk lists. Nobody has to wait for
    /// it. Returns whether there was anything to do.
    pub fn prepare_index(&self, progress: &dyn Progress) -> Result<bool> {
        self.catalog.prepare_index(&|| progress.cancelled())
    }

    /// How large the chunk index is.
    pub fn index_report(&self) -> Result<IndexReport> {
        let chunks = self.catalog.read()?.indexed_chunks()?;
        let (memory_bytes, filtered) = self.catalog.index_memory();
        Ok(IndexReport { chunks, memory_bytes, filtered })
    }
}
