//! The catalog's storage as redb wants it, whichever disk it comes from.
//!
//! redb takes its backend by value and not boxed; this forwards to the box, locks included.

use std::io;
use std::ops::Bound;

use redb::{BackendError, StorageBackend};

/// A redb backend of either disk, to be given to `redb::Builder::create_with_backend`.
#[derive(Debug)]
pub struct CatalogBackend(Box<dyn StorageBackend>);

impl CatalogBackend {
    /// Wraps a backend, also one of a test's own.
    pub fn new(inner: impl StorageBackend) -> CatalogBackend {
        CatalogBackend(Box::new(inner))
    }
}

type Edge = Bound<u64>;

impl StorageBackend for CatalogBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
