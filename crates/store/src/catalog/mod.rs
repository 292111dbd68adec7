//! The catalog: one redb file for a store, in `.blockferry/catalog.redb`. It holds what is known
//! of images: generations, block maps, chunk lists, the chunk index, and what was in flight when
//! the power went. Image data is never in it. `docs/format.md` describes every table.
//!
//! There is one writer at a time; a transaction is durable when [`CatalogWrite::commit`] returns.

mod adoption;
mod filter;
mod index;
mod kept;
mod marks;
mod records;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use blockferry_delta::{Chunk, ChunkId, ImageName, NodeId, Root, SegmentMap};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};

pub(crate) use kept::KeptRecord;
pub(crate) use records::{
    Checkpoint, Held, HeldBefore, ImageRecord, Location, Prepared, SetPart, Spare, Staged,
    decode_chunks, decode_places, encode_chunks, encode_places,
};
pub use records::{Discover, Generation};

use self::index::{Change, LookUp, Memory, Place, Written};
use crate::disk::{CatalogBackend, Disk};
use crate::error::{Error, IoContext, Result};
use crate::layout::{CATALOG, PRIVATE};

/// Version of the tables; a newer one is refused.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta.v1");
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images.v1");
const GENERATIONS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("generations.v1");
/// (image, segment) of the current generation.
const MAP: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("map.v1");
/// (image, generation, segment): what the next generation replaced.
const MAP_OLD: TableDefinition<'_, (u32, u64, u32), &[u8]> = TableDefinition::new("map_old.v1");
const CUTS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("cuts.v1");
/// (image, segment): places of chunks in the generation before that the change of a segment took.
const PLACES_OLD: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("places_old.v1");
/// High bits of the chunk's id, to the entries that share them.
const CHUNKS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("chunks.v2");
/// Serial number, to changes of the index that aren't in its rows yet.
const CHUNKS_NEW: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("chunks_new.v1");
const PREPARED: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("prepared.v1");
const STAGED: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("staged.v1");
const SPARES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("spares.v1");
const HELD: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("held.v1");
/// How many there are.
const TABLES: usize = 15;
/// (image, peer) to (generation, root).
const RECEIPTS: TableDefinition<'_, (u32, [u8; 32]), (u64, [u8; 32])> =
    TableDefinition::new("receipts.v1");

/// The index as it was before it was packed; what was in it is indexed anew.
const CHUNKS_FIRST: TableDefinition<'_, u64, [u8; 16]> = TableDefinition::new("chunks.v1");

/// An open catalog.
#[derive(Debug)]
pub(crate) struct Catalog {
    database: Database,
    index: Arc<Memory>,
    /// Held by who prepares the index.
    preparing: Mutex<()>,
}

impl Catalog {
    /// Opens the catalog, creating it when absent. Whether it is empty is for the caller to judge.
    pub(crate) fn open(disk: &dyn Disk, cache_bytes: usize) -> Result<Self> {
        let backend = disk.backend(CATALOG).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::StoreLocked,
            _ => Error::Io { op: "open", path: CATALOG.to_owned(), source },
        })?;
        // redb takes some kinds of damage for a mistake of its own and panics.
        let open = || Self::open_backend(disk, backend, cache_bytes);
        let opened = catch_unwind(AssertUnwindSafe(open));
        opened.unwrap_or_else(|_| {
            Err(Error::Corrupt { what: "the catalog", detail: "redb can't read it".to_owned() })
        })
    }

    fn open_backend(disk: &dyn Disk, backend: CatalogBackend, cache_bytes: usize) -> Result<Self> {
        let database = Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => Error::StoreLocked,
                other => Error::Catalog(Box::new(other.into())),
            })?;
        let catalog = Self { database, index: Arc::default(), preparing: Mutex::default() };
        catalog.check_format(disk)?;
        index::load(&catalog.read()?.transaction, &catalog.index)?;
        Ok(catalog)
    }

    fn check_format(&self, disk: &dyn Disk) -> Result<()> {
        let write = self.write()?;
        {
            let mut meta = write.transaction.open_table(META)?;
            let found = meta.get("format")?.map(|value| value.value());
            match found {
                Some(found) if found > FORMAT => {
                    return Err(Error::CatalogNewer { found, known: FORMAT });
                }
                // Tables that came with a later version of the same format may be missing.
                Some(_) if write.transaction.list_tables()?.count() >= TABLES => return Ok(()),
                Some(_) => drop(write.transaction.delete_table(CHUNKS_FIRST)?),
                None => {
                    // Its name is durable before the first thing that is in it: whoever finds a
                    // format there needn't sync the directory again.
                    disk.sync_dir(PRIVATE).during("sync", PRIVATE)?;
                    meta.insert("format", FORMAT)?;
                    drop(meta);
                    index::begin(&write.transaction)?;
                }
            }
        }
        write.touch_tables()?;
        write.commit()
    }

    /// Begins reading a consistent state.
    pub(crate) fn read(&self) -> Result<CatalogRead> {
        let index = Arc::clone(&self.index);
        Ok(CatalogRead { transaction: self.database.begin_read()?, index })
    }

    /// Begins the one write transaction; waits for another to end.
    pub(crate) fn write(&self) -> Result<CatalogWrite> {
        let mut transaction = self.database.begin_write()?;
        // Opening after a crash must not walk the whole file.
        transaction.set_quick_repair(true);
        let index = Arc::clone(&self.index);
        Ok(CatalogWrite { transaction, index, pending: RefCell::default() })
    }

    /// Makes look-ups of chunks that nobody has cheap, if they aren't: fills a filter in memory from
    /// the index, and the index from the chunk lists if it was lost. Until it returns they cost
    /// reads. Returns whether there was anything to do; ends early when `stop` says so.
    pub(crate) fn prepare_index(&self, stop: &dyn Fn() -> bool) -> Result<bool> {
        let Ok(_preparing) = self.preparing.try_lock() else { return Ok(false) };
        if !self.index.wants_filter() {
            return Ok(false);
        }
        if index::entries(&self.read()?.transaction)?.is_none() {
            self.index_all()?;
        }
        // While the write transaction is open nobody commits: the filter is told of every change
        // that isn't in the state it is filled from.
        let write = self.write()?;
        let read = self.read()?;
        let entries = index::entries(&read.transaction)?.unwrap_or_default();
        let filter = index::begin_filter(&self.index, entries);
        drop(write);
        let filled = index::fill_filter(&read.transaction, &filter, stop);
        if !matches!(filled, Ok(true)) {
            self.index.drop_filter();
        }
        filled
    }

    /// Indexes all chunk lists.
    fn index_all(&self) -> Result<()> {
        let write = self.write()?;
        index::begin(&write.transaction)?;
        for row in write.transaction.open_table(CUTS)?.iter()? {
            let (at, list) = row?;
            let (image, segment) = at.value();
            let chunks = decode_chunks(segment, list.value())?;
            write.reindex(Place { image, segment }, &[], &chunks)?;
        }
        write.commit()
    }

    /// Lets what commits change in the chunk index wait, however much it is, or no longer: nobody can
    /// use the store before recovery is over.
    pub(crate) fn defer_index(&self, deferring: bool) {
        self.index.set_deferring(deferring);
    }

    /// Bytes of memory that the chunk index takes, and whether its filter is ready.
    pub(crate) fn index_memory(&self) -> (u64, bool) {
        (self.index.bytes(), self.index.is_filtered())
    }
}

/// What both kinds of transaction can look up.
macro_rules! reading {
    () => {
        /// Everything known of `name`.
        pub(crate) fn image(&self, name: &ImageName) -> Result<Option<ImageRecord>> {
            let table = self.transaction.open_table(IMAGES)?;
            let row = table.get(name.as_str())?;
            row.map(|row| ImageRecord::decode(name, row.value())).transpose()
        }

        /// All images by name.
        pub(crate) fn images(&self) -> Result<Vec<ImageRecord>> {
            let table = self.transaction.open_table(IMAGES)?;
            let mut images = Vec::new();
            for row in table.iter()? {
                let (name, record) = row?;
                let name = ImageName::new(name.value()).map_err(|e| Error::Corrupt {
                    what: "an image record",
                    detail: e.to_string(),
                })?;
                images.push(ImageRecord::decode(&name, record.value())?);
            }
            Ok(images)
        }

        /// One generation.
        pub(crate) fn generation(
            &self,
            image: u32,
            name: &ImageName,
            number: u64,
        ) -> Result<Option<Generation>> {
            let table = self.transaction.open_table(GENERATIONS)?;
            let row = table.get((image, number))?;
            row.map(|row| Generation::decode(name, row.value())).transpose()
        }

        /// Chunks that begin in one segment of the current generation.
        pub(crate) fn cuts(&self, image: u32, segment: u32) -> Result<Vec<Chunk>> {
            let table = self.transaction.open_table(CUTS)?;
            let row = table.get((image, segment))?;
            row.map_or(Ok(Vec::new()), |row| decode_chunks(segment, row.value()))
        }

        /// The staging of an image.
        pub(crate) fn staged(&self, image: u32) -> Result<Option<Staged>> {
            let table = self.transaction.open_table(STAGED)?;
            let row = table.get(image)?;
            row.map(|row| Staged::decode(row.value())).transpose()
        }

        /// The spare of an image.
        pub(crate) fn spare(&self, image: u32) -> Result<Option<Spare>> {
            let table = self.transaction.open_table(SPARES)?;
            let row = table.get(image)?;
            row.map(|row| Spare::decode(row.value())).transpose()
        }

        /// The held base of an image.
        pub(crate) fn held(&self, image: u32) -> Result<Option<Held>> {
            let table = self.transaction.open_table(HELD)?;
            let row = table.get(image)?;
            row.map(|row| Held::decode(row.value())).transpose()
        }
    };
}

/// A consistent state of the catalog.
pub(crate) struct CatalogRead {
    transaction: ReadTransaction,
    index: Arc<Memory>,
}

impl CatalogRead {
    reading!();

    /// The generations of an image, newest first.
    pub(crate) fn generations(&self, image: u32, name: &ImageName) -> Result<Vec<Generation>> {
        let table = self.transaction.open_table(GENERATIONS)?;
        let mut all = Vec::new();
        for row in table.range((image, 0)..=(image, u64::MAX))?.rev() {
            all.push(Generation::decode(name, row?.1.value())?);
        }
        Ok(all)
    }

    /// Block map of one segment of the current generation.
    pub(crate) fn map(&self, image: u32, segment: u32) -> Result<Option<SegmentMap>> {
        let table = self.transaction.open_table(MAP)?;
        let row = table.get((image, segment))?;
        row.map(|row| decode_map(row.value())).transpose()
    }

    /// Block map of one segment of generation `number`, of which the oldest replaced record
    /// from then on tells; `None` when nothing was replaced since.
    pub(crate) fn map_replaced(
        &self,
        image: u32,
        number: u64,
        until: u64,
        segment: u32,
    ) -> Result<Option<SegmentMap>> {
        let table = self.transaction.open_table(MAP_OLD)?;
        for generation in number..until {
            if let Some(row) = table.get((image, generation, segment))? {
                return Ok(Some(decode_map(row.value())?));
            }
        }
        Ok(None)
    }

    /// Was a segment of generation `number` replaced by one of the generations up to `until`?
    pub(crate) fn is_replaced(
        &self,
        image: u32,
        number: u64,
        until: u64,
        segment: u32,
    ) -> Result<bool> {
        let table = self.transaction.open_table(MAP_OLD)?;
        for generation in number..until {
            if table.get((image, generation, segment))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segments of generation `number` that one of the generations up to `until` replaced.
    pub(crate) fn replaced(&self, image: u32, number: u64, until: u64) -> Result<BTreeSet<u32>> {
        let table = self.transaction.open_table(MAP_OLD)?;
        let rows = table.range((image, number, 0)..(image, until, 0))?;
        rows.map(|row| Ok(row?.0.value().2)).collect()
    }

    /// Where chunks were in the generation before, as far as they are there no more or elsewhere,
    /// too; at most `most`.
    pub(crate) fn old_places(&self, image: u32, most: usize) -> Result<Vec<(ChunkId, u64)>> {
        let table = self.transaction.open_table(PLACES_OLD)?;
        let mut all = Vec::new();
        for row in table.range((image, 0)..=(image, u32::MAX))? {
            all.extend(decode_places(row?.1.value())?);
            if all.len() >= most {
                all.truncate(most);
                break;
            }
        }
        Ok(all)
    }

    /// What was prepared and not yet made current.
    pub(crate) fn prepared(&self) -> Result<Vec<(u32, Prepared)>> {
        let table = self.transaction.open_table(PREPARED)?;
        let mut all = Vec::new();
        for row in table.iter()? {
            let (image, record) = row?;
            all.push((image.value(), Prepared::decode(record.value())?));
        }
        Ok(all)
    }

    /// Who holds which generation of an image: (peer, number, root).
    pub(crate) fn receipts(&self, image: u32) -> Result<Vec<(NodeId, u64, Root)>> {
        let table = self.transaction.open_table(RECEIPTS)?;
        let mut all = Vec::new();
        for row in table.range((image, [0; 32])..=(image, [0xFF; 32]))? {
            let (key, value) = row?;
            let ((_, peer), (number, root)) = (key.value(), value.value());
            all.push((NodeId::from_bytes(peer), number, Root::from_bytes(root)));
        }
        Ok(all)
    }

    /// Where a chunk is, as far as the index knows, for each of `ids`. Only a hint.
    pub(crate) fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let mut look_up = LookUp::new(&self.transaction, &self.index)?;
        let list = |place: Place| self.cuts(place.image, place.segment);
        ids.iter().map(|id| look_up.find(*id, list)).collect()
    }

    /// Entries in the rows of the chunk index.
    pub(crate) fn indexed_chunks(&self) -> Result<u64> {
        Ok(index::entries(&self.transaction)?.unwrap_or_default())
    }
}

/// The write transaction. Dropped without [`CatalogWrite::commit`] it leaves no trace.
pub(crate) struct CatalogWrite {
    transaction: WriteTransaction,
    index: Arc<Memory>,
    pending: RefCell<Pending>,
}

/// What a transaction has for the chunk index: written at once it would touch every row for each
/// segment.
#[derive(Debug, Default)]
struct Pending {
    changes: Vec<Change>,
    written: Written,
}

impl CatalogWrite {
    reading!();

    /// Creates all tables, so that readers never miss one.
    fn touch_tables(&self) -> Result<()> {
        self.transaction.open_table(IMAGES)?;
        self.transaction.open_table(GENERATIONS)?;
        self.transaction.open_table(MAP)?;
        self.transaction.open_table(MAP_OLD)?;
        self.transaction.open_table(CUTS)?;
        self.transaction.open_table(PLACES_OLD)?;
        self.transaction.open_table(CHUNKS)?;
        self.transaction.open_table(CHUNKS_NEW)?;
        self.transaction.open_table(PREPARED)?;
        self.transaction.open_table(STAGED)?;
        self.transaction.open_table(SPARES)?;
        self.transaction.open_table(RECEIPTS)?;
        self.transaction.open_table(HELD)?;
        self.transaction.open_table(kept::KEPT)?;
        self.transaction.open_table(adoption::INVENTORY)?;
        Ok(())
    }

    /// Makes it all durable.
    pub(crate) fn commit(self) -> Result<()> {
        let Pending { changes, mut written } = self.pending.into_inner();
        written.write(&self.transaction, &self.index, changes)?;
        self.transaction.commit()?;
        self.index.take(&written);
        Ok(())
    }

    /// Brings the index up to date with a segment's chunk list.
    fn reindex(&self, place: Place, before: &[Chunk], after: &[Chunk]) -> Result<()> {
        let mut pending = self.pending.borrow_mut();
        let known = pending.changes.len();
        Change::between(place, before, after, &mut pending.changes);
        self.index.note(&pending.changes[known..]);
        if pending.changes.len() < index::CHANGES_MAX {
            return Ok(());
        }
        let changes = std::mem::take(&mut pending.changes);
        pending.written.write(&self.transaction, &self.index, changes)
    }

    /// A number no image has had.
    pub(crate) fn new_image_id(&self) -> Result<u32> {
        let mut meta = self.transaction.open_table(META)?;
        let next = meta.get("next_image")?.map_or(1, |value| value.value());
        meta.insert("next_image", next + 1)?;
        u32::try_from(next).map_err(|_| Error::Corrupt {
            what: "the catalog",
            detail: "image numbers used up".to_owned(),
        })
    }

    /// Writes an image's record.
    pub(crate) fn put_image(&self, record: &ImageRecord) -> Result<()> {
        let mut table = self.transaction.open_table(IMAGES)?;
        table.insert(record.name.as_str(), record.encode().as_slice())?;
        Ok(())
    }

    /// Writes a generation's record.
    pub(crate) fn put_generation(&self, image: u32, generation: &Generation) -> Result<()> {
        let mut table = self.transaction.open_table(GENERATIONS)?;
        table.insert((image, generation.number), generation.encode().as_slice())?;
        Ok(())
    }

    /// Replaces block-map records of the generation after `replaced`; what was there is kept for
    /// that generation. `None` removes (the image became shorter).
    pub(crate) fn put_maps(
        &self,
        image: u32,
        replaced: Option<u64>,
        maps: impl IntoIterator<Item = Result<(u32, Option<Vec<u8>>)>>,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(MAP)?;
        let mut old = self.transaction.open_table(MAP_OLD)?;
        for item in maps {
            let (segment, record) = item?;
            let before = match record {
                Some(record) => table.insert((image, segment), record.as_slice())?,
                None => table.remove((image, segment))?,
            };
            if let (Some(before), Some(number)) = (before, replaced) {
                old.insert((image, number, segment), before.value())?;
            }
        }
        Ok(())
    }

    /// Forgets the block maps of generations before `oldest`.
    pub(crate) fn drop_old_maps(&self, image: u32, oldest: u64) -> Result<()> {
        let mut table = self.transaction.open_table(MAP_OLD)?;
        table.retain_in((image, 0, 0)..(image, oldest, 0), |_, _| false)?;
        Ok(())
    }

    /// Forgets where chunks were before.
    pub(crate) fn drop_old_places(&self, image: u32) -> Result<()> {
        let mut table = self.transaction.open_table(PLACES_OLD)?;
        table.retain_in((image, 0)..=(image, u32::MAX), |_, _| false)?;
        Ok(())
    }

    /// Remembers where chunks were before a segment changed.
    pub(crate) fn put_old_places(
        &self,
        image: u32,
        segment: u32,
        places: &[(ChunkId, u64)],
    ) -> Result<()> {
        let mut table = self.transaction.open_table(PLACES_OLD)?;
        table.insert((image, segment), encode_places(places).as_slice())?;
        Ok(())
    }

    /// Replaces chunk lists and brings the chunk index up to date with them. Places of the
    /// chunks that replaced lists had are appended to `former`.
    pub(crate) fn put_cuts(
        &self,
        image: u32,
        lists: impl IntoIterator<Item = Result<(u32, Vec<Chunk>)>>,
        former: &mut Vec<(ChunkId, u64)>,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(CUTS)?;
        for item in lists {
            let (segment, chunks) = item?;
            let before = if chunks.is_empty() {
                table.remove((image, segment))?
            } else {
                table.insert((image, segment), encode_chunks(segment, &chunks).as_slice())?
            };
            let before =
                before.map_or(Ok(Vec::new()), |row| decode_chunks(segment, row.value()))?;
            former.extend(before.iter().map(|chunk| (chunk.id, chunk.offset)));
            self.reindex(Place { image, segment }, &before, &chunks)?;
        }
        Ok(())
    }

    /// Marks a commit as begun.
    pub(crate) fn put_prepared(&self, image: u32, prepared: Option<&Prepared>) -> Result<()> {
        let mut table = self.transaction.open_table(PREPARED)?;
        match prepared {
            Some(prepared) => table.insert(image, prepared.encode().as_slice())?,
            None => table.remove(image)?,
        };
        Ok(())
    }

    /// Remembers a staging.
    pub(crate) fn put_staged(&self, image: u32, staged: Option<&Staged>) -> Result<()> {
        let mut table = self.transaction.open_table(STAGED)?;
        match staged {
            Some(staged) => table.insert(image, staged.encode().as_slice())?,
            None => table.remove(image)?,
        };
        Ok(())
    }

    /// Remembers a spare.
    pub(crate) fn put_spare(&self, image: u32, spare: Option<&Spare>) -> Result<()> {
        let mut table = self.transaction.open_table(SPARES)?;
        match spare {
            Some(spare) => table.insert(image, spare.encode().as_slice())?,
            None => table.remove(image)?,
        };
        Ok(())
    }

    /// Remembers a held base.
    pub(crate) fn put_held(&self, image: u32, held: Option<&Held>) -> Result<()> {
        let mut table = self.transaction.open_table(HELD)?;
        match held {
            Some(held) => table.insert(image, held.encode().as_slice())?,
            None => table.remove(image)?,
        };
        Ok(())
    }

    /// Remembers what a peer holds.
    pub(crate) fn put_receipt(
        &self,
        image: u32,
        peer: &NodeId,
        number: u64,
        root: &Root,
    ) -> Result<()> {
        let mut table = self.transaction.open_table(RECEIPTS)?;
        table.insert((image, *peer.as_bytes()), (number, *root.as_bytes()))?;
        Ok(())
    }
}

fn decode_map(record: &[u8]) -> Result<SegmentMap> {
    SegmentMap::decode(record)
        .map_err(|e| Error::Corrupt { what: "a block-map record", detail: e.to_string() })
}
