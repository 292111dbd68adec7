//! Recipes from the catalog: what differs between a generation and a base, part by part. Nothing
//! of the image is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use blockferry_delta::{
    Chunk, ImageName, PAGE_BYTES, PartBuilder, Probe, RecipePart, Root, changed_blocks,
    segment_count,
};

use crate::bases::find_base;
use crate::catalog::CatalogRead;
use crate::error::{Error, Result};
use crate::store::{MapOf, Store};
use crate::walk::Walked;

/// Hands out the parts of a recipe in order. Holds a consistent state of the catalog.
pub struct RecipeCursor {
    read: CatalogRead,
    new: MapOf,
    base: Option<MapOf>,
    /// Instead of a base: what a walk finds the receiver to hold.
    walked: Option<Walked>,
    /// The segments that may differ from the base; `None`: any.
    changed: Option<BTreeSet<u32>>,
    builder: PartBuilder,
    next: u32,
    finished: bool,
}

impl std::fmt::Debug for RecipeCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecipeCursor").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Store {
    /// The recipe that turns `base` (nothing: a file of zeros) into the generation of `name` with
    /// `root`. Both must be generations whose block maps are known here.
    pub fn recipe(
        self: &Arc<Self>,
        name: &ImageName,
        root: Root,
        base: Option<Root>,
    ) -> Result<RecipeCursor> {
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let unknown = |root: Root| Error::NoGeneration { image: name.clone(), root };
        let new = MapOf::find(&read, &image, &root)?.ok_or_else(|| unknown(root))?;
        let base = match base {
            Some(base) => Some(find_base(&read, &image, &base)?.ok_or_else(|| unknown(base))?),
            None => None,
        };
        let changed = base.map_or(Ok(None), |base| new.changed_since(&read, &base))?;
        let (builder, walked) = (PartBuilder::new(new.size_bytes), None);
        Ok(RecipeCursor { read, new, base, walked, changed, builder, next: 0, finished: false })
    }

    /// Bytes of the pages in which the generation with `root` differs from `base`, zeros left out:
    /// what a receiver will need at most.
    pub fn dirty_bytes(
        self: &Arc<Self>,
        name: &ImageName,
        root: Root,
        base: Option<Root>,
    ) -> Result<u64> {
        let mut cursor = self.recipe(name, root, base)?;
        let mut bytes = 0;
        for segment in 0..segment_count(cursor.new.size_bytes) {
            if let Some(blocks) = cursor.blocks(segment)? {
                let pages = blocks.iter().map(|b| u64::from((b.dirty & !b.zero).count_ones()));
                bytes += pages.sum::<u64>() * PAGE_BYTES as u64;
            }
        }
        cursor.finished = true;
        Ok(bytes)
    }
}

impl RecipeCursor {
    /// The recipe against what a walk finds.
    pub(crate) fn walking(read: CatalogRead, new: MapOf, walked: Walked) -> Self {
        let (builder, walked) = (PartBuilder::new(new.size_bytes), Some(walked));
        let (base, changed) = (None, None);
        Self { read, new, base, walked, changed, builder, next: 0, finished: false }
    }

    /// In a walk: what has to be asked before there is another part.
    pub fn next_probe(&mut self) -> Option<Probe> {
        self.walked.as_mut().and_then(Walked::next_probe)
    }

    /// Takes what the receiver holds under the next nodes of the probe that is open.
    pub fn handle_values(&mut self, piece: &Probe, bytes: &[u8]) -> Result<()> {
        let walked = self.walked.as_mut().ok_or(Error::BadPart("an answer outside a walk"))?;
        walked.take(&self.read, piece, bytes)
    }

    /// The next part; `None` after the last, and in a walk while there is something to ask.
    pub fn next_part(&mut self) -> Result<Option<RecipePart>> {
        loop {
            if let Some(part) = self.builder.next_ready() {
                return Ok(Some(part));
            }
            if self.finished {
                return Ok(None);
            }
            if self.next >= segment_count(self.new.size_bytes) {
                self.builder.finish();
                self.finished = true;
                continue;
            }
            if self.walked.as_ref().is_some_and(|walked| self.next >= walked.known_until()) {
                return Ok(None);
            }
            self.add_segment(self.next)?;
            self.next += 1;
        }
    }

    fn add_segment(&mut self, segment: u32) -> Result<()> {
        // Its last chunk only counts for what follows.
        if let Some(changed) = &self.changed
            && changed.range(segment..=segment + 1).next().is_none()
        {
            return Ok(());
        }
        let blocks = self.blocks(segment)?;
        if blocks.as_ref().is_some_and(Vec::is_empty)
            && segment + 1 < segment_count(self.new.size_bytes)
        {
            // Its last chunk may reach into the next segment.
            let tail: Vec<Chunk> =
                self.cuts(segment)?.into_iter().next_back().into_iter().collect();
            self.builder.segment(segment, Some(Vec::new()), &tail);
            return Ok(());
        }
        let chunks = self.cuts(segment)?;
        self.builder.segment(segment, blocks, &chunks);
        Ok(())
    }

    fn blocks(&mut self, segment: u32) -> Result<Option<Vec<blockferry_delta::ChangedBlock>>> {
        if let Some(walked) = &mut self.walked {
            return walked.blocks(&self.read, segment);
        }
        if self.changed.as_ref().is_some_and(|changed| !changed.contains(&segment)) {
            return Ok(Some(Vec::new()));
        }
        let new = self.new.segment(&self.read, segment)?;
        let new = new.ok_or(Error::Corrupt {
            what: "the block map",
            detail: format!("segment {segment} is missing"),
        })?;
        let base = match &self.base {
            Some(base) => base.segment(&self.read, segment)?,
            None => None,
        };
        let base_bytes = self.base.as_ref().map_or(0, |base| base.size_bytes);
        Ok(changed_blocks(segment, &new, self.new.size_bytes, base.as_ref(), base_bytes))
    }

    /// Chunk lists are kept for the current generation only.
    fn cuts(&self, segment: u32) -> Result<Vec<Chunk>> {
        if self.new.number == self.new.current {
            self.read.cuts(self.new.image, segment)
        } else {
            Ok(Vec::new())
        }
    }
}
