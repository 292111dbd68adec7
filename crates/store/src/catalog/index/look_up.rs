//! Looking chunks up, and the filter that spares most of the looking.

use std::sync::Arc;

use blockferry_delta::{Chunk, ChunkId};
use redb::{ReadTransaction, ReadableTable};

use super::super::filter::Filter;
use super::super::{CHUNKS, CHUNKS_NEW, Location};
use super::rows::{self, Place};
use super::{Memory, decode_changes};
use crate::error::Result;

/// Chunk lists of a look-up that are kept at hand.
const LISTS_KEPT: usize = 4;

/// A filter that is being made: whoever commits meanwhile tells it, too.
pub(in crate::catalog) fn begin_filter(memory: &Memory, entries: u64) -> Arc<Filter> {
    // Never two at once: they are large.
    memory.set_filter(None);
    let filter = Arc::new(Filter::new(entries + memory.waiting().changes as u64));
    memory.set_filter(Some(Arc::clone(&filter)));
    filter
}

/// Fills a filter with what the rows held when the transaction began and what waits. `false`: it
/// was told to stop.
pub(in crate::catalog) fn fill_filter(
    transaction: &ReadTransaction,
    filter: &Filter,
    stop: &dyn Fn() -> bool,
) -> Result<bool> {
    // Not those in memory: a commit that is just over may not have told them yet.
    let mut waiting = Vec::new();
    for row in transaction.open_table(CHUNKS_NEW)?.iter()? {
        decode_changes(row?.1.value(), &mut waiting);
    }
    waiting.iter().filter(|c| !c.is_gone()).for_each(|c| filter.add(c.key()));
    for row in transaction.open_table(CHUNKS)?.iter()? {
        if stop() {
            return Ok(false);
        }
        let (number, row) = row?;
        rows::keys(number.value(), row.value()).for_each(|key| filter.add(key));
    }
    filter.complete();
    Ok(true)
}

/// Looks chunks up, many at once: they come in the order of an image, and so lie together.
pub(in crate::catalog) struct LookUp<'a> {
    memory: &'a Memory,
    filter: Option<Arc<Filter>>,
    rows: redb::ReadOnlyTable<u32, &'static [u8]>,
    /// The lists that chunks were found in last, newest last.
    lists: Vec<(Place, Vec<Chunk>)>,
}

impl<'a> LookUp<'a> {
    pub(in crate::catalog) fn new(
        transaction: &ReadTransaction,
        memory: &'a Memory,
    ) -> Result<Self> {
        let rows = transaction.open_table(CHUNKS)?;
        Ok(Self { memory, filter: memory.filter(), rows, lists: Vec::new() })
    }

    /// Where the chunk is, as far as it is known; `list` gives the chunk list of a segment.
    pub(in crate::catalog) fn find(
        &mut self,
        id: ChunkId,
        list: impl FnOnce(Place) -> Result<Vec<Chunk>>,
    ) -> Result<Option<Location>> {
        if self.filter.as_ref().is_some_and(|filter| !filter.may_hold(rows::key(id.0))) {
            return Ok(None);
        }
        if let Some(found) = self.lists.iter().rev().find_map(|list| at_hand(list, id)) {
            return Ok(Some(found));
        }
        let Some(place) = self.place(id.0)? else { return Ok(None) };
        if self.lists.len() == LISTS_KEPT {
            self.lists.remove(0);
        }
        self.lists.push((place, list(place)?));
        // It was there once; the list knows what is there now.
        Ok(self.lists.last().and_then(|list| at_hand(list, id)))
    }

    fn place(&self, id: u64) -> Result<Option<Place>> {
        if let Some(place) = self.memory.waiting().entries.get(&id) {
            return Ok(Some(*place));
        }
        let row = self.rows.get(rows::number_of(id))?;
        Ok(row.and_then(|row| rows::find(row.value(), id)))
    }
}

fn at_hand((place, chunks): &(Place, Vec<Chunk>), id: ChunkId) -> Option<Location> {
    let chunk = chunks.iter().find(|chunk| chunk.id == id)?;
    Some(Location { image: place.image, offset: chunk.offset, bytes: chunk.bytes })
}
