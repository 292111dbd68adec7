//! The reserve station: room for the whole plan is promised before the first byte travels, or the
//! transfer is refused with exact numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blockferry_delta::ImageName;

use crate::error::{Error, Result};
use crate::store::Store;

/// Room the catalog may grow by for each byte of image that is new: map rows, chunk lists, index.
const CATALOG_BYTES_PER_MIB: u64 = 8 << 10;
/// Room the catalog may take in one step besides.
const CATALOG_BYTES_STEP: u64 = 4 << 20;

/// Bytes promised to one staging.
#[derive(Debug)]
pub(super) struct Reservation {
    left: u64,
    all: Arc<AtomicU64>,
    whole: u64,
    staging: Arc<AtomicU64>,
}

impl Reservation {
    /// Promises `image_bytes` of image data and what the catalog needs for them. Where that needs
    /// more room, spares and held bases give way, but for the spare of `builds_on` and the bases of
    /// images that others than the caller, who has `claimed` one, work on.
    pub(super) fn take(
        store: &Store,
        image_bytes: u64,
        builds_on: Option<&ImageName>,
        claimed: &ImageName,
    ) -> Result<Self> {
        let needed = image_bytes + (image_bytes >> 20) * CATALOG_BYTES_PER_MIB + CATALOG_BYTES_STEP;
        if !fits(store, needed)?.0 {
            store.empty_trash()?;
        }
        if !fits(store, needed)?.0 {
            store.drop_spares(builds_on)?;
            store.drop_held(claimed)?;
        }
        let (fits, free_bytes) = fits(store, needed)?;
        if !fits {
            return Err(Error::OutOfSpace { needed_bytes: needed, free_bytes });
        }
        store.reserved_bytes.fetch_add(needed, Ordering::Relaxed);
        store.staging_bytes.fetch_add(needed, Ordering::Relaxed);
        let (all, staging) = (Arc::clone(&store.reserved_bytes), Arc::clone(&store.staging_bytes));
        Ok(Self { left: needed, all, whole: needed, staging })
    }

    /// Bytes of the promise were used: they are no longer free on the disk either.
    pub(super) fn used(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn fits(store: &Store, needed: u64) -> Result<(bool, u64)> {
    let free = store.free_bytes()?;
    Ok((needed <= free, free))
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.all.fetch_sub(self.left, Ordering::Relaxed);
        self.staging.fetch_sub(self.whole, Ordering::Relaxed);
    }
}
