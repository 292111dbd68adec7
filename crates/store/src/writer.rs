//! Who a lineage counts: a writer id made of the node's id and a random number of the catalog. A
//! catalog that turns out to have been set back (restored from a backup, copied with the machine)
//! takes a new number, so that it can never count again what it counted before it was set back.
//! Here, too, is the one way to give the present content another lineage.

use blockferry_delta::{ImageName, Lineage, NodeId};

use crate::catalog::{CatalogRead, Discover, Generation};
use crate::error::{Error, Result};
use crate::layout::STAGING;
use crate::spool::{Entries, Spool};
use crate::store::Store;

/// Key in the catalog: what tells the lineage of this catalog's generations from another one's.
pub(crate) const INCARNATION: &str = "incarnation";
/// Key in the catalog: how often the number above was replaced.
const RENEWED: &str = "renewed";
/// Key in the catalog: how many generations it has counted for whom it counts now.
pub(crate) const COUNTED: &str = "counted";
/// Key in the catalog, with a serial number after it: a number that was replaced.
const FORMER: &str = "incarnation_before.";
/// Most former numbers that are remembered: a lineage has no room for more writers than 256.
const FORMER_MAX: u64 = 64;

/// Who a generation that is recorded here is counted for. Not simply its author: a node whose
/// catalog was lost counts from one again, and must not seem to repeat what it made before.
pub(crate) fn writer_id(read: &CatalogRead, author: NodeId) -> Result<NodeId> {
    Ok(id_of(author, read.mark(INCARNATION)?))
}

fn id_of(author: NodeId, incarnation: u64) -> NodeId {
    if incarnation == 0 {
        return author;
    }
    let mut hasher = blake3::Hasher::new_derive_key("blockferry 2026-11 lineage writer v1");
    hasher.update(author.as_bytes());
    hasher.update(&incarnation.to_le_bytes());
    NodeId::from_bytes(*hasher.finalize().as_bytes())
}

impl Store {
    /// Whom lineages count what `author` recorded in this store: first who it is now, then who it
    /// was.
    pub fn writer_ids(&self, author: NodeId) -> Result<Vec<NodeId>> {
        let read = self.catalog.read()?;
        let mut ids = vec![writer_id(&read, author)?];
        for number in 0..read.mark(RENEWED)?.min(FORMER_MAX) {
            ids.push(id_of(author, read.mark(&format!("{FORMER}{number}"))?));
        }
        Ok(ids)
    }

    /// How many generations were counted for whom this catalog counts now.
    pub fn counted(&self) -> Result<u64> {
        self.catalog.read()?.mark(COUNTED)
    }

    /// Counts what is recorded from now on for somebody new: this catalog was set back, or has a
    /// twin.
    pub fn renew_writer(&self) -> Result<()> {
        self.check_health()?;
        let read = self.catalog.read()?;
        let renewed = read.mark(RENEWED)?;
        let old = read.mark(INCARNATION)?;
        let mut new = (self.options.incarnation)();
        while new == 0 || new == old {
            new = old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1 + renewed);
        }
        let write = self.catalog.write()?;
        write.put_mark(&format!("{FORMER}{}", renewed % FORMER_MAX), old)?;
        write.put_mark(RENEWED, renewed.saturating_add(1))?;
        write.put_mark(INCARNATION, new)?;
        write.put_mark(COUNTED, 0)?;
        write.commit()
    }

    /// Makes a generation of the present content that descends from the current one and from
    /// `others`, counted for `writer`: no data is read or moved. Its author stays who recorded the
    /// content, unless `author` says otherwise.
    pub fn descend(
        &self,
        name: &ImageName,
        others: &[Lineage],
        writer: NodeId,
        author: Option<NodeId>,
        now_unix_ms: i64,
    ) -> Result<Generation> {
        self.check_marker()?;
        self.check_health()?;
        let _claim = self.claim(name)?;
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let current = self.current_of(Some(&image))?;
        let current = current.ok_or_else(|| Error::NotFound(name.clone()))?;
        let generation = Generation {
            number: current.number + 1,
            lineage: descendant(&read, &current.lineage, others, writer)?,
            author: author.unwrap_or(current.author),
            recorded_unix_ms: now_unix_ms,
            discover: Discover::Metadata,
            bytes_read: 0,
            dirty_bytes: 0,
            wire_bytes: 0,
            millis: 0,
            ..current
        };
        drop(read);
        let write = self.catalog.write()?;
        let checkpoint = image.checkpoint;
        let nothing = Spool::new(format!("{STAGING}/{name}.spool"));
        self.put_current(&write, image, &generation, checkpoint, &Entries::Spool(&nothing))?;
        write.count_mark(COUNTED)?;
        write.commit()?;
        Ok(generation)
    }
}

/// The lineage of what `writer` makes of the one and the others.
pub(crate) fn descendant(
    read: &CatalogRead,
    one: &Lineage,
    others: &[Lineage],
    writer: NodeId,
) -> Result<Lineage> {
    let full = |e: blockferry_delta::LineageError| Error::Corrupt {
        what: "a lineage",
        detail: e.to_string(),
    };
    let merged = others.iter().try_fold(one.clone(), |all, other| all.merge(other));
    merged.map_err(full)?.bump(writer_id(read, writer)?).map_err(full)
}
