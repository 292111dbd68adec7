//! Warm receiving: where a store is told so, a new image is read into the page cache after its
//! commit, because machines will boot from it at once. Everything else leaves the page cache alone.

use blockferry_delta::ImageName;

use crate::disk::Open;
use crate::error::{IoContext, Result};
use crate::scan::{Progress, data_extents};
use crate::store::Store;

/// Bytes looked at and read at a time.
const STEP_BYTES: u64 = 8 << 20;
/// Of the memory that can be had, this part may be taken.
const MEMORY_PARTS: u64 = 2;

impl Store {
    /// Reads an image's file into the page cache, from its beginning, as far as half of the memory
    /// reaches that can be had. Does nothing unless the store's options say `warm`. Returns the bytes
    /// that weren't cached before.
    pub fn warm(&self, name: &ImageName, progress: &dyn Progress) -> Result<u64> {
        if !self.options.warm {
            return Ok(0);
        }
        let path = name.as_str();
        let file = self.disk.open(path, Open::Read).during("open", path)?;
        let size = file.stat().during("look at", path)?.size_bytes;
        let available = self.disk.available_memory().during("ask for memory for", path)?;
        let (room, mut read) = (available / MEMORY_PARTS, 0);
        for (start, end) in data_extents(file.as_ref(), path, size)? {
            for at in (start..end).step_by(STEP_BYTES as usize) {
                let bytes = STEP_BYTES.min(end - at);
                if progress.cancelled() || read + bytes > room {
                    return Ok(read);
                }
                let cached = file.cached_bytes(at, bytes).during("look at", path)?;
                progress.reading(bytes.saturating_sub(cached.unwrap_or(0)));
                file.warm(at, bytes).during("read", path)?;
                read += bytes.saturating_sub(cached.unwrap_or(0));
                progress.advance(at + bytes, size);
            }
        }
        Ok(read)
    }
}
