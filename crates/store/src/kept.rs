//! Kept contents: what isn't current and must not be lost yet. Each is a whole file below
//! `.blockferry/kept/`, with a row in the catalog that says which image and generation it holds and
//! why it is there. Order is the order in which this node kept them, age is time this store was in
//! service: nobody's dates and no jump of a clock can make one go early. `docs/format.md`,
//! section 12.
//!
//! Making one (`make`): the row first, durable, with the file's inode and where it is; then the
//! rename. Releasing one (`release`): the rename out first, durable; then the row. Recovery ends
//! both, and gives a row to every file here that has none.

mod history;
mod make;
mod release;

use std::sync::{Mutex, PoisonError};

use blockferry_delta::{ImageName, Root};
use minicbor::{Decode, Encode};

pub use make::Keep;
pub(crate) use make::copy_file;
pub use release::Retention;

use crate::catalog::{Generation, KeptRecord};
use crate::disk::{DiskFile, Kind, Open};
use crate::error::{Error, IoContext, Result};
use crate::layout::kept_path;
use crate::store::Store;

/// Key in the catalog: milliseconds this store was in service.
const SERVICE_MS: &str = "service_ms";

/// Why a content is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Why {
    /// It was the current generation, and a newer one took its place.
    #[n(0)]
    History,
    /// The image was deleted.
    #[n(1)]
    Deleted,
    /// It and the current generation diverged.
    #[n(2)]
    Conflict,
    /// It was changed here, where nothing is made.
    #[n(3)]
    Edit,
    /// It was found where something else was expected.
    #[n(4)]
    Replaced,
    /// It is what another tool had here before this store took its place.
    #[n(5)]
    OldTool,
    /// It was received while another tool had the image.
    #[n(6)]
    Shadow,
    /// Bytes of it rotted; what was recorded took its place again.
    #[n(7)]
    Damaged,
}

impl Why {
    /// One word for people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Deleted => "deleted",
            Self::Conflict => "conflict",
            Self::Edit => "edit",
            Self::Replaced => "replaced",
            Self::OldTool => "old_tool",
            Self::Shadow => "shadow",
            Self::Damaged => "damaged",
        }
    }
}

/// A kept content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Of which image.
    pub image: ImageName,
    /// Names it among the kept contents of the image; higher: kept later.
    pub serial: u64,
    /// Why it is here.
    pub why: Why,
    /// Only [`Store::acknowledge`] releases it.
    pub pinned: bool,
    /// The generation it holds; `None`: nobody recorded it.
    pub generation: Option<Generation>,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// Storage of the file in bytes, that which it shares with other files counted, too.
    pub allocated_bytes: u64,
    /// Its path in the store's directory.
    pub path: String,
    /// When it was kept, milliseconds since 1970; for people. 0: not known.
    pub kept_unix_ms: i64,
    /// Milliseconds in service since then: its age for the retention.
    pub age_ms: u64,
    /// Its file was touched since it was kept.
    pub touched: bool,
}

impl Kept {
    /// The root of what it holds.
    pub fn root(&self) -> Option<Root> {
        self.generation.as_ref().map(|generation| generation.root)
    }
}

/// How long the store was in service, without any clock that somebody can set.
#[derive(Debug, Default)]
pub(crate) struct ServiceClock {
    /// (what the catalog said, the measuring clock then), both in milliseconds.
    noted: Mutex<Option<(u64, u64)>>,
}

impl Store {
    /// Milliseconds this store was in service, as far as that was written down, and since then.
    pub(crate) fn service_ms(&self) -> Result<u64> {
        let now_ms = (self.options.monotonic_ms)();
        let mut noted = self.service.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (base_ms, then_ms) = match *noted {
            Some(noted) => noted,
            None => *noted.insert((self.catalog.read()?.mark(SERVICE_MS)?, now_ms)),
        };
        Ok(base_ms.saturating_add(now_ms.saturating_sub(then_ms)))
    }

    /// The kept contents of an image, the one that was kept last first.
    pub fn kept(&self, name: &ImageName) -> Result<Vec<Kept>> {
        self.list_kept(Some(name))
    }

    /// All kept contents, by image, the one that was kept last first.
    pub fn all_kept(&self) -> Result<Vec<Kept>> {
        self.list_kept(None)
    }

    fn list_kept(&self, of: Option<&ImageName>) -> Result<Vec<Kept>> {
        let rows = self.catalog.read()?.kept(of)?;
        let mut all = Vec::new();
        for (image, serial, record) in rows {
            all.extend(self.kept_of(image, serial, record)?);
        }
        all.sort_by(|a, b| (&a.image, b.serial).cmp(&(&b.image, a.serial)));
        Ok(all)
    }

    /// What a row speaks of; `None` while its file isn't in its place.
    fn kept_of(&self, image: ImageName, serial: u64, record: KeptRecord) -> Result<Option<Kept>> {
        let path = kept_path(&image, serial);
        let Some(stat) = self.disk.stat(&path).during("look at", &path)? else { return Ok(None) };
        let generation = record.generation.as_ref();
        let generation = generation.map(|bytes| Generation::decode(&image, bytes)).transpose()?;
        Ok(Some(Kept {
            serial,
            why: record.why,
            pinned: record.pinned,
            generation,
            size_bytes: stat.size_bytes,
            allocated_bytes: stat.allocated_bytes,
            path,
            kept_unix_ms: record.kept_unix_ms,
            age_ms: self.service_ms()?.saturating_sub(record.since_ms),
            touched: stat.kind != Kind::File || !record.checkpoint.same_content(&stat),
            image,
        }))
    }

    /// A kept content by its serial number.
    pub fn kept_by_serial(&self, name: &ImageName, serial: u64) -> Result<Option<Kept>> {
        Ok(self.kept(name)?.into_iter().find(|kept| kept.serial == serial))
    }

    /// A kept content with these bytes whose file nobody touched: one of image `name` if there is
    /// one, else of any.
    pub fn kept_with_root(&self, name: &ImageName, root: &Root) -> Result<Option<Kept>> {
        let mut all = Vec::new();
        for (image, serial, record) in self.catalog.read()?.kept(None)? {
            // Most rows hold something else: their files needn't be looked at.
            let held = record.generation.as_ref();
            let held = held.map(|bytes| Generation::decode(&image, bytes)).transpose()?;
            if held.is_some_and(|held| held.root == *root) {
                all.extend(self.kept_of(image, serial, record)?);
            }
        }
        all.retain(|kept| !kept.touched);
        let own = all.iter().position(|kept| kept.image == *name);
        Ok(if all.is_empty() { None } else { Some(all.swap_remove(own.unwrap_or(0))) })
    }

    /// Opens a kept content for reading. Whoever uses its bytes hashes them: nothing watches the
    /// file.
    ///
    /// # Errors
    /// [`Error::LocalChange`] when its file was touched since it was kept.
    pub fn open_kept(&self, kept: &Kept) -> Result<Box<dyn DiskFile>> {
        if kept.touched {
            return Err(Error::LocalChange(kept.image.clone()));
        }
        self.disk.open(&kept.path, Open::Read).during("open", &kept.path)
    }
}
