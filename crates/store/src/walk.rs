//! The store's part of a walk: what is told of nodes of a block map, and the recipe against what a
//! receiver turned out to hold. Block maps are read by segment; of what the receiver holds only the
//! blocks that differ are remembered, until their part is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blockferry_delta::{
    BlockRow, ChangedBlock, ImageName, NodeHasher, PAGES_PER_BLOCK, Probe, Root, SEGMENT_BLOCKS,
    SegmentMap, WALK_PRINTS_BYTES, Walk, WalkLevel, WalkSalt, block_count, comparable_blocks,
    segment_count, short_prints, walked_blocks,
};

use crate::catalog::CatalogRead;
use crate::error::{Error, Result};
use crate::mend::Damage;
use crate::recipe::RecipeCursor;
use crate::store::{MapOf, Store};

/// Answers probes about a generation that is recorded here. Holds a consistent state of the
/// catalog.
pub struct WalkMap {
    read: CatalogRead,
    nodes: Nodes,
}

impl std::fmt::Debug for WalkMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WalkMap")
    }
}

impl WalkMap {
    /// What is held under these nodes: as many bytes for each as its level has.
    pub fn answer(&mut self, piece: &Probe) -> Result<Vec<u8>> {
        self.nodes.answer(&self.read, piece)
    }

    /// The same of a file of which some blocks are not what was recorded.
    pub(crate) fn with_damage(mut self, damage: Arc<Damage>) -> Self {
        self.nodes.damage = Some(damage);
        self
    }
}

/// What both ends of a walk need of a block map.
struct Nodes {
    of: MapOf,
    salt: WalkSalt,
    blocks: u64,
    /// The segment that was read last.
    last: Option<(u32, Option<SegmentMap>)>,
    /// What is held where that isn't what the map says.
    damage: Option<Arc<Damage>>,
}

impl Nodes {
    fn answer(&mut self, read: &CatalogRead, piece: &Probe) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut hasher = NodeHasher::new(&self.salt);
        for node in piece.nodes.iter().flat_map(|run| run.first..run.end()) {
            if piece.level == WalkLevel::Pages {
                let prints = short_prints(self.row(read, node)?.as_ref());
                prints.iter().for_each(|print| out.extend_from_slice(&print.to_le_bytes()));
                continue;
            }
            let first = node.saturating_mul(piece.level.blocks());
            for block in first..first.saturating_add(piece.level.blocks()).min(self.blocks) {
                hasher.block(self.row(read, block)?.as_ref());
            }
            out.extend_from_slice(&hasher.value());
        }
        Ok(out)
    }

    /// The row of a block; `None` for one of a segment of zeros.
    fn row(&mut self, read: &CatalogRead, block: u64) -> Result<Option<BlockRow>> {
        if let Some(row) = self.damage.as_ref().and_then(|damage| damage.row(block)) {
            return Ok(Some(row));
        }
        let segment = u32::try_from(block / SEGMENT_BLOCKS as u64)
            .map_err(|_| Error::BadPart("a block beyond the end"))?;
        if self.last.as_ref().is_none_or(|(number, _)| *number != segment) {
            self.last = Some((segment, self.of.segment(read, segment)?));
        }
        Ok(match &self.last {
            Some((_, Some(SegmentMap::Rows(rows)))) => {
                rows.get((block % SEGMENT_BLOCKS as u64) as usize).copied()
            }
            _ => None,
        })
    }
}

/// What a receiver turned out to hold, as far as is known.
pub(crate) struct Walked {
    nodes: Nodes,
    walk: Walk,
    /// Short page fingerprints of blocks that differ, until their segment is in a part.
    found: BTreeMap<u64, [u16; PAGES_PER_BLOCK]>,
    base_bytes: u64,
}

impl Walked {
    /// Takes the next piece of the answer to the probe that is open.
    pub(crate) fn take(&mut self, read: &CatalogRead, piece: &Probe, theirs: &[u8]) -> Result<()> {
        let mine = if piece.level == WalkLevel::Pages {
            let numbers = piece.nodes.iter().flat_map(|run| run.first..run.end());
            for (block, prints) in numbers.zip(theirs.as_chunks::<WALK_PRINTS_BYTES>().0) {
                let (pages, _) = prints.as_chunks();
                let mut short = [0; PAGES_PER_BLOCK];
                short.iter_mut().zip(pages).for_each(|(s, b)| *s = u16::from_le_bytes(*b));
                self.found.insert(block, short);
            }
            Vec::new()
        } else {
            self.nodes.answer(read, piece)?
        };
        let expected = self.walk.next_piece();
        if expected.as_ref() != Some(piece) {
            return Err(Error::BadPart("an answer about other nodes"));
        }
        self.walk.handle_piece(piece, theirs, &mine);
        Ok(())
    }

    /// What has to be asked before the recipe goes on.
    pub(crate) fn next_probe(&mut self) -> Option<Probe> {
        self.walk.next_probe()
    }

    /// The segment before which everything is known.
    pub(crate) fn known_until(&self) -> u32 {
        let (known, all) = (self.walk.known_until(), self.walk.blocks());
        let segments = segment_count(self.nodes.of.size_bytes);
        if known >= all {
            return segments;
        }
        u32::try_from(known / SEGMENT_BLOCKS as u64).map_or(segments, |s| s.min(segments))
    }

    /// The blocks of a segment that the receiver lacks; see [`walked_blocks`]. They are forgotten.
    pub(crate) fn blocks(
        &mut self,
        read: &CatalogRead,
        segment: u32,
    ) -> Result<Option<Vec<ChangedBlock>>> {
        let end = (u64::from(segment) + 1) * SEGMENT_BLOCKS as u64;
        let later = self.found.split_off(&end);
        let found = std::mem::replace(&mut self.found, later);
        let comparable = self.walk.blocks();
        let size = self.nodes.of.size_bytes;
        if found.is_empty() && end.min(block_count(size)) <= comparable {
            return Ok(Some(Vec::new()));
        }
        let new = self.nodes.of.segment(read, segment)?;
        let new = new.ok_or(Error::Corrupt {
            what: "the block map",
            detail: format!("segment {segment} is missing"),
        })?;
        Ok(walked_blocks(segment, &new, size, &found, (comparable, self.base_bytes)))
    }
}

impl Store {
    /// What the content of `name` with `root` has to answer to the probes of a walk over as many
    /// blocks as it has in common with an image of `other_bytes`.
    pub fn walk_map(
        &self,
        name: &ImageName,
        root: Root,
        other_bytes: u64,
        salt: WalkSalt,
    ) -> Result<WalkMap> {
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let of = MapOf::find(&read, &image, &root)?;
        let of = of.ok_or_else(|| Error::NoGeneration { image: name.clone(), root })?;
        let blocks = comparable_blocks(of.size_bytes, other_bytes);
        Ok(WalkMap { read, nodes: Nodes { of, salt, blocks, last: None, damage: None } })
    }

    /// The recipe that turns a content of `base_bytes`, which a walk is about to compare, into the
    /// generation of `name` with `root`.
    pub fn recipe_by_walk(
        self: &Arc<Self>,
        name: &ImageName,
        root: Root,
        base_bytes: u64,
        salt: WalkSalt,
    ) -> Result<RecipeCursor> {
        let WalkMap { read, nodes } = self.walk_map(name, root, base_bytes, salt)?;
        let walk = Walk::new(nodes.blocks);
        let new = nodes.of;
        let walked = Walked { nodes, walk, found: BTreeMap::new(), base_bytes };
        Ok(RecipeCursor::walking(read, new, walked))
    }

    /// A salt that no peer can foresee and that no second walk has.
    pub fn walk_salt(&self, root: &Root) -> WalkSalt {
        let number = self.walks.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new_derive_key("blockferry 2026-11 walk salt v1");
        hasher.update(self.identity.key.as_bytes());
        hasher.update(&number.to_le_bytes());
        hasher.update(root.as_bytes());
        WalkSalt(*hasher.finalize().as_bytes())
    }
}
