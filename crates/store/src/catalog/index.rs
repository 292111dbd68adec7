//! The chunk index: in which segment of which image a chunk was seen last. Only a hint: the chunk
//! list of that segment says whether it still is there, and what is read is hashed.
//!
//! Entries are packed many to a row by the high bits of their id; a commit's changes wait in
//! `chunks_new.v1` and go into the rows together, in order, once there are many: a small commit
//! then writes kilobytes, not a page for every chunk. In memory are the waiting entries and a
//! filter over all (`filter.rs`), so that a chunk nobody has costs no read.

mod look_up;
mod rows;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use blockferry_delta::Chunk;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::filter::Filter;
use super::{CHUNKS, CHUNKS_NEW, META};
use crate::error::Result;

pub(super) use look_up::{LookUp, begin_filter, fill_filter};
pub(super) use rows::Place;
use rows::Row;

/// Changes that wait in the catalog at most before they go into the rows: 4 MiB of memory. With many
/// millions of chunks nearly every row is written then. Unit tests want to see it happen.
const WAITING_MAX: usize = if cfg!(test) { 1 << 13 } else { 1 << 17 };
/// Entries that wait and are kept in memory at most. Only a recovery leaves more, and those can't be
/// found until they are in their rows.
const ENTRIES_KEPT: usize = 2 * WAITING_MAX;
/// Changes in one value of the catalog: not quite 64 KiB, which redb would give 128.
const VALUE_CHANGES: usize = 4000;
/// Changes that one transaction keeps in memory at most.
pub(super) const CHANGES_MAX: usize = 1 << 17;
/// Bytes of a change: id, image, segment.
const CHANGE_BYTES: usize = 16;
/// In the image number of a change: the entry goes. Image numbers never get that high.
const GONE: u32 = 1 << 31;
/// In `meta.v1`: entries in the rows. Absent: there is no index of what is in the chunk lists.
const ENTRIES: &str = "chunks";

/// A chunk that is in a segment from now on, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    id: u64,
    /// With [`GONE`].
    image: u32,
    segment: u32,
}

impl Change {
    fn place(self) -> Place {
        Place { image: self.image & !GONE, segment: self.segment }
    }

    /// What the index tells its id by.
    fn key(self) -> u64 {
        rows::key(self.id)
    }

    fn is_gone(self) -> bool {
        self.image & GONE != 0
    }

    /// What changes when the chunk list of a segment does. A chunk that stays in the segment is
    /// found there as before, wherever it moved.
    pub(super) fn between(
        place: Place,
        before: &[Chunk],
        after: &[Chunk],
        changes: &mut Vec<Change>,
    ) {
        let ids = |chunks: &[Chunk]| {
            let mut ids: Vec<u64> = chunks.iter().map(|chunk| chunk.id.0).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let (before, after) = (ids(before), ids(after));
        let Place { image, segment } = place;
        let missing_in = |ids: &[u64], id: &u64| ids.binary_search(id).is_err();
        let gone = before.iter().filter(|id| missing_in(&after, id));
        changes.extend(gone.map(|id| Change { id: *id, image: image | GONE, segment }));
        let new = after.iter().filter(|id| missing_in(&before, id));
        changes.extend(new.map(|id| Change { id: *id, image, segment }));
    }

    fn encode(self) -> [u8; CHANGE_BYTES] {
        let mut out = [0; CHANGE_BYTES];
        out[..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..12].copy_from_slice(&self.image.to_le_bytes());
        out[12..].copy_from_slice(&self.segment.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; CHANGE_BYTES]) -> Self {
        let word =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 of 16 bytes"));
        let id = u64::from(word(0)) | u64::from(word(4)) << 32;
        Self { id, image: word(8), segment: word(12) }
    }
}

/// Appends the changes of a row of `chunks_new.v1`.
fn decode_changes(record: &[u8], into: &mut Vec<Change>) {
    into.extend(record.as_chunks().0.iter().map(Change::decode));
}

/// What of the index is kept in memory. Shared by all transactions.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Absent or not whole: every look-up reads.
    filter: RwLock<Option<Arc<Filter>>>,
    waiting: Mutex<Waiting>,
    /// However many changes wait, they go on waiting.
    deferring: AtomicBool,
}

/// What waits to go into the rows.
#[derive(Debug, Default)]
struct Waiting {
    entries: HashMap<u64, Place>,
    /// Changes in the catalog that the entries come from.
    changes: usize,
}

impl Memory {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Hints stay hints after a panic of another thread.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filter(&self) -> Option<Arc<Filter>> {
        self.filter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_filter(&self, filter: Option<Arc<Filter>>) {
        *self.filter.write().unwrap_or_else(PoisonError::into_inner) = filter;
    }

    /// Lets all changes wait, or no longer.
    pub(super) fn set_deferring(&self, deferring: bool) {
        self.deferring.store(deferring, Ordering::Relaxed);
    }

    /// Gives up a filter that won't be filled: there will be another.
    pub(super) fn drop_filter(&self) {
        self.set_filter(None);
    }

    /// Is there no filter, or one that more was added to than it was made for?
    pub(super) fn wants_filter(&self) -> bool {
        self.filter().is_none_or(|filter| filter.is_outgrown())
    }

    /// Does the filter spare look-ups a read?
    pub(super) fn is_filtered(&self) -> bool {
        self.filter().is_some_and(|filter| filter.is_whole())
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> u64 {
        // A table of pairs of 16 bytes, a byte of its own for each, at most 7/8 full.
        let waiting = self.waiting().entries.capacity() as u64 * 17 * 8 / 7;
        self.filter().map_or(0, |filter| filter.bytes()) + waiting
    }

    /// Tells the filter of chunks that will be in the index.
    pub(super) fn note(&self, changes: &[Change]) {
        if let Some(filter) = self.filter() {
            changes.iter().filter(|c| !c.is_gone()).for_each(|c| filter.add(c.key()));
        }
    }

    /// Takes what a transaction made durable.
    pub(super) fn take(&self, written: &Written) {
        let mut waiting = self.waiting();
        if written.emptied {
            *waiting = Waiting::default();
        }
        waiting.changes += written.waiting.len();
        for change in &written.waiting {
            if !change.is_gone() {
                if waiting.entries.len() < ENTRIES_KEPT {
                    waiting.entries.insert(change.id, change.place());
                }
            } else if waiting.entries.get(&change.id) == Some(&change.place()) {
                waiting.entries.remove(&change.id);
            }
        }
    }
}

/// What a transaction did to the index, for [`Memory::take`] once it is durable.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Nothing waits any more of what did.
    emptied: bool,
    /// What waits since.
    waiting: Vec<Change>,
}

impl Written {
    /// Writes changes: they wait, unless too many do already.
    pub(super) fn write(
        &mut self,
        transaction: &WriteTransaction,
        memory: &Memory,
        changes: Vec<Change>,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let before = if self.emptied { 0 } else { memory.waiting().changes };
        let waiting = before + self.waiting.len() + changes.len();
        if waiting > WAITING_MAX && !memory.deferring.load(Ordering::Relaxed) {
            return self.merge(transaction, changes, waiting);
        }
        let mut table = transaction.open_table(CHUNKS_NEW)?;
        let next = table.last()?.map_or(0, |(serial, _)| serial.value() + 1);
        for (serial, part) in (next..).zip(changes.chunks(VALUE_CHANGES)) {
            let bytes: Vec<u8> = part.iter().flat_map(|change| change.encode()).collect();
            table.insert(serial, bytes.as_slice())?;
        }
        self.waiting.extend_from_slice(&changes);
        Ok(())
    }

    /// Puts changes into the rows, with all that wait: `count` in all.
    fn merge(
        &mut self,
        transaction: &WriteTransaction,
        changes: Vec<Change>,
        count: usize,
    ) -> Result<()> {
        // There may be hundreds of thousands: each copy is megabytes.
        self.waiting = Vec::new();
        let mut all = Vec::with_capacity(count);
        {
            let mut table = transaction.open_table(CHUNKS_NEW)?;
            for row in table.iter()? {
                decode_changes(row?.1.value(), &mut all);
            }
            table.retain(|_, _| false)?;
        }
        all.extend_from_slice(&changes);
        drop(changes);
        self.emptied = true;
        into_rows(transaction, &all)
    }
}

/// Puts changes into the rows, each row once and in order, which halves redb's work and space.
fn into_rows(transaction: &WriteTransaction, changes: &[Change]) -> Result<()> {
    let change = |at: &u32| changes[*at as usize];
    let count = u32::try_from(changes.len()).expect("no more than wait and a transaction keeps");
    let mut order: Vec<u32> = (0..count).collect();
    // Of two changes of one entry the later counts.
    order.sort_unstable_by_key(|at| (change(at).key(), *at));
    let mut table = transaction.open_table(CHUNKS)?;
    let (mut added, mut removed) = (0, 0);
    let number_of = |at: &u32| rows::number_of(change(at).id);
    for of_row in order.chunk_by(|a, b| number_of(a) == number_of(b)) {
        let number = number_of(&of_row[0]);
        let before = table.get(number)?.map(|row| row.value().to_vec()).unwrap_or_default();
        let mut row = Row::decode(&before);
        let entries = row.len();
        for change in of_row.iter().map(change) {
            match change.is_gone() {
                true => row.remove(change.id, change.place()),
                false => row.put(change.id, change.place()),
            }
        }
        let after = row.encode();
        if after.is_empty() {
            table.remove(number)?;
        } else if after != before {
            table.insert(number, after.as_slice())?;
        }
        added += row.len().saturating_sub(entries);
        removed += entries.saturating_sub(row.len());
    }
    drop(table);
    let mut meta = transaction.open_table(META)?;
    let known = meta.get(ENTRIES)?.map_or(0, |value| value.value());
    meta.insert(ENTRIES, (known + added).saturating_sub(removed))?;
    Ok(())
}

/// Loads the entries that wait, when the catalog is opened.
pub(super) fn load(transaction: &ReadTransaction, memory: &Memory) -> Result<()> {
    let mut waiting = Vec::new();
    for row in transaction.open_table(CHUNKS_NEW)?.iter()? {
        decode_changes(row?.1.value(), &mut waiting);
    }
    memory.take(&Written { emptied: true, waiting });
    Ok(())
}

/// Entries in the rows; `None`: the chunk lists were never indexed.
pub(super) fn entries(transaction: &ReadTransaction) -> Result<Option<u64>> {
    Ok(transaction.open_table(META)?.get(ENTRIES)?.map(|value| value.value()))
}

/// Makes an empty index count as one of all chunk lists.
pub(super) fn begin(transaction: &WriteTransaction) -> Result<()> {
    into_rows(transaction, &[])
}

#[cfg(test)]
mod tests;
