//! Numbers of the whole store that only grow.

use redb::ReadableTable;

use super::{CatalogWrite, META};
use crate::error::Result;

impl CatalogWrite {
    /// Adds one to a number of the whole store.
    pub(crate) fn count_mark(&self, key: &str) -> Result<()> {
        let mut meta = self.transaction.open_table(META)?;
        let next = meta.get(key)?.map_or(0, |value| value.value()).saturating_add(1);
        meta.insert(key, next)?;
        Ok(())
    }
}
