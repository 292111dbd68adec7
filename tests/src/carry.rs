//! A transfer between two stores by function calls: the two lines without what lies between.

use std::sync::Arc;

use blockferry_delta::{ImageName, PageExtent, RecipePart, Root};
use blockferry_store::{Error, Generation, Received, Result, Source, StageRequest, Staging, Store};

use crate::side::Side;

/// What a dishonest link does to the pages of a part.
pub type Tamper<'a> = dyn Fn(u32, &[PageExtent], &mut Vec<u8>) + 'a;

/// What happened to a transfer.
#[derive(Debug, Default)]
pub struct Carried {
    /// The generation as it was recorded; `None` when the transfer was stopped or not needed.
    pub generation: Option<Generation>,
    /// The base the receiver chose.
    pub base: Option<Root>,
    /// Parts that were planned.
    pub parts: usize,
    /// Raw bytes of pages that were sent, the second time included.
    pub sent_bytes: u64,
    /// Raw bytes that were sent because a hint was wrong.
    pub again_bytes: u64,
    /// Bytes found at the receiver.
    pub found_bytes: u64,
    /// Bytes of changed blocks that were there already.
    pub kept_bytes: u64,
    /// The staging of a transfer that was stopped.
    pub staging: Option<Staging>,
}

/// How a transfer is done.
#[derive(Default)]
pub struct Carry<'a> {
    /// Stops after this many parts, before anything is sealed.
    pub stop_after_parts: Option<usize>,
    /// May change a part before it is planned.
    pub part: Option<&'a dyn Fn(&mut RecipePart)>,
    /// May change pages before they are filled in: (part, extents, pages).
    pub pages: Option<&'a Tamper<'a>>,
    /// May change what is offered.
    pub offer: Option<&'a dyn Fn(&mut Generation)>,
}

/// Brings the current generation of `name` from one store to the other.
pub fn replicate(from: &Side, to: &Side, name: &ImageName) -> Result<Carried> {
    Carry::default().run(&from.store, &to.store, name)
}

impl Carry<'_> {
    /// Brings the current generation of `name` from one store to the other.
    pub fn run(&self, from: &Arc<Store>, to: &Arc<Store>, name: &ImageName) -> Result<Carried> {
        let mut offered = from.current(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let held = to.current(name)?;
        let same = |held: &Generation| held.root == offered.root && held.lineage == offered.lineage;
        if held.as_ref().is_some_and(same) {
            return Ok(Carried::default());
        }
        let root = offered.root;
        let base = to.plan_base(root, &from.bases(name)?, name)?;
        let dirty_bytes = match base {
            Some(base) if base == root => 0,
            base => from.dirty_bytes(name, root, base)?,
        };
        if let Some(change) = self.offer {
            change(&mut offered);
        }
        let staging = to.stage(StageRequest {
            generation: offered,
            base,
            dirty_bytes,
            keep_replaced: false,
        })?;
        let mut carried = Carried { base, staging: Some(staging), ..Carried::default() };
        if base != Some(root) {
            let source = from.source(name, root)?;
            let mut cursor = from.recipe(name, root, base)?;
            while let Some(part) = cursor.next_part()? {
                self.part(&source, part, &mut carried)?;
                if self.stop_after_parts == Some(carried.parts) {
                    return Ok(carried);
                }
            }
        }
        let staging = carried.staging.take().expect("put there above");
        let received = Received { wire_bytes: carried.sent_bytes, ..Received::default() };
        carried.generation = Some(to.commit(staging.seal()?, received)?);
        Ok(carried)
    }

    fn part(&self, source: &Source, mut part: RecipePart, carried: &mut Carried) -> Result<()> {
        if let Some(change) = self.part {
            change(&mut part);
        }
        let staging = carried.staging.as_mut().expect("a transfer has a staging");
        let planned = staging.plan(&part)?;
        carried.parts += 1;
        carried.found_bytes += planned.found_bytes;
        carried.kept_bytes += planned.kept_bytes;
        let mut wants = planned.wants;
        let mut again = false;
        while !wants.is_empty() {
            let mut pages = source.read(&wants)?;
            carried.sent_bytes += pages.len() as u64;
            carried.again_bytes += if again { pages.len() as u64 } else { 0 };
            if let Some(change) = self.pages {
                change(part.number, &wants, &mut pages);
            }
            let filled = staging.fill(part.number, &wants, &pages)?;
            assert_eq!(filled.complete, filled.again.is_empty(), "complete or wanted again");
            wants = filled.again;
            again = true;
        }
        Ok(())
    }
}
