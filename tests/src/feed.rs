//! A generation with all its recipes and bytes at hand, so that thousands of crash images can be
//! offered it without the store it came from.

use std::collections::BTreeMap;
use std::sync::Arc;

use blockferry_delta::{PAGE_BYTES, PageExtent, RecipePart, Root};
use blockferry_store::{Generation, Received, Result, Sealed, StageRequest, Staging, Store};

use crate::side::Side;

/// A generation that can be delivered again and again.
#[derive(Clone, Debug)]
pub struct Feed {
    /// What is offered.
    pub generation: Generation,
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Roots that recipes start from, newest first.
    pub bases: Vec<Root>,
    /// Parts and dirty bytes by base.
    recipes: BTreeMap<Option<Root>, (Vec<RecipePart>, u64)>,
}

/// What a delivery came to.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The generation as it was recorded.
    pub generation: Generation,
    /// Raw bytes that were sent.
    pub sent_bytes: u64,
}

impl Feed {
    /// The current generation of `name` at `from`.
    pub fn of(from: &Side, name: &blockferry_delta::ImageName) -> Result<Feed> {
        let generation = from.record(name)?;
        let bases: Vec<Root> =
            from.store.bases(name)?.into_iter().filter(|b| *b != generation.root).collect();
        let mut recipes = BTreeMap::from([(Some(generation.root), (Vec::new(), 0))]);
        for base in std::iter::once(None).chain(bases.iter().copied().map(Some)) {
            let mut cursor = from.store.recipe(name, generation.root, base)?;
            let mut parts = Vec::new();
            while let Some(part) = cursor.next_part()? {
                parts.push(part);
            }
            let dirty_bytes = from.store.dirty_bytes(name, generation.root, base)?;
            recipes.insert(base, (parts, dirty_bytes));
        }
        Ok(Feed { bytes: Arc::new(from.read(name)), generation, bases, recipes })
    }

    /// The bytes of pages, one after the other.
    pub fn pages(&self, extents: &[PageExtent]) -> Vec<u8> {
        let mut out = Vec::new();
        for extent in extents {
            let start = extent.offset() as usize;
            let end = (start + extent.count as usize * PAGE_BYTES).min(self.bytes.len());
            out.extend_from_slice(&self.bytes[start..end]);
        }
        out
    }

    /// Begins a delivery; the parts that are to be planned come with it.
    pub fn stage(&self, to: &Arc<Store>) -> Result<(Staging, &[RecipePart])> {
        let Generation { root, image, .. } = &self.generation;
        let base = to.plan_base(*root, &self.bases, image)?;
        let (parts, dirty_bytes) = &self.recipes[&base];
        let generation = self.generation.clone();
        let request =
            StageRequest { generation, base, dirty_bytes: *dirty_bytes, keep_replaced: false };
        Ok((to.stage(request)?, parts))
    }

    /// Plans and fills one part; returns the raw bytes that were sent.
    pub fn part(&self, staging: &mut Staging, part: &RecipePart) -> Result<u64> {
        let mut wants = staging.plan(part)?.wants;
        let mut sent_bytes = 0;
        while !wants.is_empty() {
            let pages = self.pages(&wants);
            sent_bytes += pages.len() as u64;
            wants = staging.fill(part.number, &wants, &pages)?.again;
        }
        Ok(sent_bytes)
    }

    /// Delivers and commits.
    pub fn deliver(&self, to: &Arc<Store>) -> Result<Delivered> {
        let (sealed, sent_bytes) = self.seal(to)?;
        let generation = to.commit(sealed, Received::default())?;
        Ok(Delivered { generation, sent_bytes })
    }

    /// Delivers all of it and seals the staging; with the raw bytes that were sent.
    pub fn seal(&self, to: &Arc<Store>) -> Result<(Sealed, u64)> {
        let (mut staging, parts) = self.stage(to)?;
        let mut sent_bytes = 0;
        for part in parts {
            sent_bytes += self.part(&mut staging, part)?;
        }
        Ok((staging.seal()?, sent_bytes))
    }

    /// Delivers some parts and parks the staging for a later attempt.
    pub fn park(&self, to: &Arc<Store>, count: usize) -> Result<()> {
        let (mut staging, parts) = self.stage(to)?;
        for part in parts.iter().take(count) {
            self.part(&mut staging, part)?;
        }
        staging.park()
    }
}
