//! Marks: numbers of the whole store.

use redb::ReadableTable;

use super::{CatalogRead, CatalogWrite, META};
use crate::error::Result;

impl CatalogRead {
    /// A number kept for the whole store; 0 until it is set.
    pub(crate) fn mark(&self, key: &str) -> Result<u64> {
        let table = self.transaction.open_table(META)?;
        Ok(table.get(key)?.map_or(0, |value| value.value()))
    }
}

impl CatalogWrite {
    /// Sets a number of the whole store.
    pub(crate) fn put_mark(&self, key: &str, value: u64) -> Result<()> {
        self.transaction.open_table(META)?.insert(key, value)?;
        Ok(())
    }

    /// Adds one to a number of the whole store.
    pub(crate) fn count_mark(&self, key: &str) -> Result<()> {
        let mut meta = self.transaction.open_table(META)?;
        let next = meta.get(key)?.map_or(0, |value| value.value()).saturating_add(1);
        meta.insert(key, next)?;
        Ok(())
    }
}
