//! The subtree walk: finds the blocks in which two images differ when neither side knows a base.
//!
//! One side asks, the other answers. Both hold the block hashes of an image of the same size; the
//! tree over them has a fan-out of 16 and its nodes are BLAKE3 subtree values. The asker names
//! nodes that differ, the answer holds the values two levels below, and after a logarithmic
//! number of rounds only differing blocks are left. Values are cut to 8 bytes: a wrong match is
//! caught by the root.

use crate::ids::BlockHash;
use crate::tree::merge;

const FANOUT_BITS: u32 = 4;
/// Levels that one answer goes down: 16 x 16 values for each node asked about.
const LEVELS_PER_ROUND: u32 = 2;

/// A node of the tree: the subtree of `16^level` blocks that starts at block `index * 16^level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// 0 for a single block.
    pub level: u32,
    /// Number of the node on its level.
    pub index: u64,
}

impl Probe {
    /// The nodes at most two levels below, of a tree over `blocks` blocks.
    fn children(self, blocks: u64) -> impl Iterator<Item = Probe> {
        let down = self.level.min(LEVELS_PER_ROUND);
        let (level, width) = (self.level - down, 1u64 << (FANOUT_BITS * down));
        let first = self.index * width;
        let exist = nodes(level, blocks);
        (first..first.saturating_add(width).min(exist)).map(move |index| Probe { level, index })
    }

    fn value(self, hashes: &[BlockHash]) -> [u8; 8] {
        let width = 1u64 << (FANOUT_BITS * self.level);
        let start = (self.index * width).min(hashes.len() as u64) as usize;
        let end = (start as u64 + width).min(hashes.len() as u64) as usize;
        if start == end {
            return [0; 8];
        }
        let value = merge(&hashes[start..end], false);
        value.as_bytes()[..8].try_into().expect("8 of 32 bytes")
    }
}

fn nodes(level: u32, blocks: u64) -> u64 {
    blocks.div_ceil(1u64 << (FANOUT_BITS * level))
}

/// What the other side says about the nodes below one asked node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkAnswer {
    /// The node that was asked about.
    pub probe: Probe,
    /// First 8 bytes of the values below it, in order.
    pub values: Vec<[u8; 8]>,
}

/// Answers probes from the block hashes of the answering side.
pub fn answer(hashes: &[BlockHash], probes: &[Probe]) -> Vec<WalkAnswer> {
    let blocks = hashes.len() as u64;
    let level_max = top_level(blocks);
    probes
        .iter()
        .filter(|p| p.level <= level_max && p.index < nodes(p.level, blocks))
        .map(|probe| WalkAnswer {
            probe: *probe,
            values: probe.children(blocks).map(|child| child.value(hashes)).collect(),
        })
        .collect()
}

fn top_level(blocks: u64) -> u32 {
    let mut level = 0;
    while nodes(level, blocks) > 1 {
        level += 1;
    }
    level
}

/// The asking side: which nodes to ask about next, and which blocks turned out to differ.
#[derive(Debug)]
pub struct Walk<'a> {
    hashes: &'a [BlockHash],
    open: Vec<Probe>,
    differing: Vec<u64>,
}

impl<'a> Walk<'a> {
    /// Starts at the root of an image whose blocks hash to `hashes`.
    pub fn new(hashes: &'a [BlockHash]) -> Self {
        let top = Probe { level: top_level(hashes.len() as u64), index: 0 };
        let open = if hashes.is_empty() { Vec::new() } else { vec![top] };
        Self { hashes, open, differing: Vec::new() }
    }

    /// The probes of the next round; empty when the walk is done.
    pub fn poll_probes(&self) -> &[Probe] {
        &self.open
    }

    /// Takes the answers to all probes of a round. Answers that weren't asked for are ignored; a
    /// node without a fitting answer counts as wholly different, so nothing is ever missed.
    pub fn handle_answers(&mut self, answers: &[WalkAnswer]) {
        for probe in std::mem::take(&mut self.open) {
            let given = answers.iter().find(|a| a.probe == probe).map_or(&[][..], |a| &a.values);
            for (n, child) in probe.children(self.hashes.len() as u64).enumerate() {
                if given.get(n) == Some(&child.value(self.hashes)) {
                    continue;
                }
                match child.level {
                    0 => self.differing.push(child.index),
                    _ => self.open.push(child),
                }
            }
        }
    }

    /// Numbers of the blocks that differ, ascending, once no probe is open.
    pub fn into_differing(mut self) -> Vec<u64> {
        self.differing.sort_unstable();
        self.differing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(blocks: u64, salt: &[u64]) -> Vec<BlockHash> {
        (0..blocks)
            .map(|b| {
                let changed = u64::from(salt.contains(&b));
                let bytes = [b.to_le_bytes(), changed.to_le_bytes()].concat();
                BlockHash::from_bytes(*blake3::hash(&bytes).as_bytes())
            })
            .collect()
    }

    fn walk(mine: &[BlockHash], theirs: &[BlockHash]) -> (Vec<u64>, usize, usize) {
        let (mut rounds, mut values) = (0, 0);
        let mut walk = Walk::new(mine);
        while !walk.poll_probes().is_empty() {
            let answers = answer(theirs, walk.poll_probes());
            values += answers.iter().map(|a| a.values.len()).sum::<usize>();
            walk.handle_answers(&answers);
            rounds += 1;
        }
        (walk.into_differing(), rounds, values)
    }

    #[test]
    fn it_finds_exactly_the_blocks_that_differ() {
        for blocks in [0, 1, 2, 15, 16, 17, 255, 256, 257, 5000] {
            let changed: Vec<u64> =
                [0, 7, 16, 255, 256, 4999].into_iter().filter(|b| *b < blocks).collect();
            let (found, _, _) = walk(&hashes(blocks, &changed), &hashes(blocks, &[]));
            assert_eq!(found, changed, "{blocks} blocks");
        }
        let (found, rounds, _) = walk(&hashes(5000, &[]), &hashes(5000, &[]));
        assert_eq!((found.len(), rounds), (0, 1));
    }

    /// 100 GiB are 1.6 M blocks: three rounds, and bytes that follow the change.
    #[test]
    fn rounds_grow_with_the_logarithm() {
        let changed = [1_000, 400_000, 1_500_000];
        let (found, rounds, values) = walk(&hashes(1_638_400, &changed), &hashes(1_638_400, &[]));
        assert_eq!(found, changed);
        assert!(rounds <= 3 && values <= 256 * 8, "{rounds} rounds, {values} values");
    }

    #[test]
    fn missing_and_hostile_answers_only_cost_bytes() {
        let mine = hashes(300, &[]);
        let mut walk = Walk::new(&mine);
        while !walk.poll_probes().is_empty() {
            let junk = Probe { level: 60, index: u64::MAX };
            assert_eq!(answer(&mine, &[junk]), []);
            walk.handle_answers(&[WalkAnswer { probe: junk, values: vec![[0; 8]; 3] }]);
        }
        assert_eq!(walk.into_differing().len(), 300);
    }
}
