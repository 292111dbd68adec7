//! Two stores that hold the same image, of which one gets ahead: what `commit` is measured on.
//! Nothing travels: pages come from memory, so that only the receiving store is timed.

use std::sync::Arc;

use blockferry_delta::{ImageName, NodeId, PAGE_BYTES, PageExtent, RecipePart};
use blockferry_store::disk::{Disk, Meta, Open};
use blockferry_store::{Generation, Received, Sealed, StageRequest, Staging, Store};

use super::{Rng, image, options, put, store};

/// Two stores.
pub(crate) struct Pair {
    disk: Arc<dyn Disk>,
    sender: Arc<Store>,
    receiver: Arc<Store>,
    image: Vec<u8>,
    rng: Rng,
    round: u32,
    name: ImageName,
}

/// A generation that the sender has and the receiver wants.
pub(crate) struct Update {
    generation: Generation,
    base: Option<blockferry_delta::Root>,
    dirty_bytes: u64,
    parts: Vec<RecipePart>,
}

impl Pair {
    /// Both hold an image of `image_bytes`, and the receiver its spare. Only the receiver's disk is
    /// ever waited for in what is measured.
    pub(crate) fn new(disks: [Arc<dyn Disk>; 2], image_bytes: usize) -> anyhow::Result<Self> {
        let [disk, receiving] = disks;
        let mut pair = Self {
            sender: store(&disk, &options(true))?,
            receiver: store(&receiving, &options(true))?,
            disk,
            image: image(image_bytes),
            rng: Rng(8),
            round: 0,
            name: ImageName::new("image.raw")?,
        };
        put(pair.disk.as_ref(), pair.name.as_str(), &pair.image)?;
        for _ in 0..2 {
            let update = pair.update()?;
            let sealed = pair.receive(&update)?.seal()?;
            pair.commit(sealed)?;
            pair.rest()?;
        }
        Ok(pair)
    }

    /// The next generation: 1 % of the pages, anywhere, get eight other bytes.
    pub(crate) fn update(&mut self) -> anyhow::Result<Update> {
        let file = self.disk.open(self.name.as_str(), Open::ReadWrite)?;
        let pages = self.image.len() / PAGE_BYTES;
        for _ in 0..pages.div_ceil(100) {
            let at = self.rng.below(pages as u64) as usize * PAGE_BYTES;
            let bytes = self.rng.draw().to_le_bytes();
            self.image[at..at + 8].copy_from_slice(&bytes);
            file.write_at(&bytes, at as u64)?;
        }
        // Rounds may follow each other faster than the clock of the file system ticks.
        self.round += 1;
        let meta = Meta { mtime_ns: i128::from(self.round) * 1_000_000_000, ..file.meta()? };
        file.set_meta(&meta)?;
        // Nobody records what somebody may still be writing.
        drop(file);
        let recorded = self.sender.record(&self.name, NodeId::from_bytes([7; 32]), 0, &())?;
        let generation = recorded.generation().clone();
        let root = generation.root;
        let base = self.receiver.current(&self.name)?.map(|current| current.root);
        let dirty_bytes = self.sender.dirty_bytes(&self.name, root, base)?;
        let mut cursor = self.sender.recipe(&self.name, root, base)?;
        let mut parts = Vec::new();
        while let Some(part) = cursor.next_part()? {
            parts.push(part);
        }
        Ok(Update { generation, base, dirty_bytes, parts })
    }

    /// The receiving line from staging to the last page.
    pub(crate) fn receive(&self, update: &Update) -> anyhow::Result<Staging> {
        let mut staging = self.receiver.stage(StageRequest {
            generation: update.generation.clone(),
            base: update.base,
            dirty_bytes: update.dirty_bytes,
            keep_replaced: false,
        })?;
        for part in &update.parts {
            let wants = staging.plan(part)?.wants;
            if !wants.is_empty() {
                let filled = staging.fill(part.number, &wants, &self.pages(&wants))?;
                anyhow::ensure!(filled.complete, "a part is incomplete");
            }
        }
        Ok(staging)
    }

    fn pages(&self, extents: &[PageExtent]) -> Vec<u8> {
        let mut pages = Vec::new();
        for extent in extents {
            let at = extent.offset() as usize;
            pages.extend_from_slice(&self.image[at..at + extent.count as usize * PAGE_BYTES]);
        }
        pages
    }

    /// Makes what was sealed the receiver's current generation.
    pub(crate) fn commit(&self, sealed: Sealed) -> anyhow::Result<Generation> {
        Ok(self.receiver.commit(sealed, Received::default())?)
    }

    /// What a node does in the quiet after a commit.
    pub(crate) fn rest(&self) -> anyhow::Result<()> {
        self.receiver.freshen_spare(&self.name)?;
        Ok(())
    }
}
