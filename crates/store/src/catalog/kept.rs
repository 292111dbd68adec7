//! Rows of kept contents: for each file below `.blockferry/kept/` why it is there, what it holds
//! and where it came from. A row is written before its file is moved there, so that a crash never
//! leaves a kept content that nobody knows of.

use blockferry_delta::ImageName;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use redb::{ReadableTable, TableDefinition};

use super::{CatalogRead, CatalogWrite, Checkpoint, META};
use crate::disk::Stat;
use crate::error::{Error, Result};
use crate::kept::Why;
use crate::layout::PRIVATE;

/// (image name, serial number) to the row.
pub(super) const KEPT: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("kept.v1");
/// Key in `meta.v1`: the next serial number.
const NEXT: &str = "next_kept";

/// A kept content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct KeptRecord {
    #[n(0)]
    pub(crate) why: Why,
    /// Only an acknowledgement releases it.
    #[n(1)]
    pub(crate) pinned: bool,
    /// The file as it was when it was kept; a rename changes its ctime.
    #[n(2)]
    pub(crate) checkpoint: Checkpoint,
    /// Where the file was: if it isn't at its place after a crash, it is still there.
    #[n(3)]
    pub(crate) from: String,
    /// Record of the generation it holds; null: an edit that nobody recorded.
    #[n(4)]
    pub(crate) generation: Option<ByteVec>,
    /// The store's own clock when it was kept, milliseconds in service.
    #[n(5)]
    pub(crate) since_ms: u64,
    /// When it was kept, milliseconds since 1970; for people. 0: not known.
    #[n(6)]
    pub(crate) kept_unix_ms: i64,
}

/// A row with its key.
pub(crate) type KeptRow = (ImageName, u64, KeptRecord);

impl KeptRecord {
    /// Is this, which is where the file was, the private file that the row speaks of, whatever is
    /// in it? An image that somebody wrote to isn't.
    pub(crate) fn means(&self, stat: &Stat) -> bool {
        self.from.starts_with(PRIVATE) && self.checkpoint.inode == stat.inode
    }

    fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding to memory cannot fail")
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        minicbor::decode(bytes)
            .map_err(|e| Error::Corrupt { what: "a kept content's row", detail: e.to_string() })
    }
}

/// Rows of one image, or of all; oldest first within an image.
fn rows(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    of: Option<&ImageName>,
) -> Result<Vec<KeptRow>> {
    let mut all = Vec::new();
    let range = match of {
        Some(name) => table.range((name.as_str(), 0)..=(name.as_str(), u64::MAX))?,
        None => table.iter()?,
    };
    for row in range {
        let (key, value) = row?;
        let (name, serial) = key.value();
        let name = ImageName::new(name)
            .map_err(|e| Error::Corrupt { what: "a kept content's row", detail: e.to_string() })?;
        all.push((name, serial, KeptRecord::decode(value.value())?));
    }
    Ok(all)
}

impl CatalogRead {
    /// Rows of kept contents, of one image or of all; oldest first within an image.
    pub(crate) fn kept(&self, of: Option<&ImageName>) -> Result<Vec<KeptRow>> {
        rows(&self.transaction.open_table(KEPT)?, of)
    }
}

impl CatalogWrite {
    /// As [`CatalogRead::kept`].
    pub(crate) fn kept(&self, of: Option<&ImageName>) -> Result<Vec<KeptRow>> {
        rows(&self.transaction.open_table(KEPT)?, of)
    }

    /// A serial number that no kept content of this catalog has had.
    pub(crate) fn new_kept_serial(&self) -> Result<u64> {
        let mut meta = self.transaction.open_table(META)?;
        let next = meta.get(NEXT)?.map_or(1, |value| value.value());
        meta.insert(NEXT, next.saturating_add(1))?;
        Ok(next)
    }

    /// Writes or removes a row.
    pub(crate) fn put_kept(
        &self,
        name: &ImageName,
        serial: u64,
        record: Option<&KeptRecord>,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(KEPT)?;
        match record {
            Some(record) => table.insert((name.as_str(), serial), record.encode().as_slice())?,
            None => table.remove((name.as_str(), serial))?,
        };
        Ok(())
    }
}
