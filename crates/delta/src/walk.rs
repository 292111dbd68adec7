//! The subtree walk: finds in what two images differ when the sender has no block map of what the
//! receiver holds.
//!
//! The sender asks about nodes, each a run of blocks, and the receiver answers with a salted short
//! hash for each: first for nodes of up to 256 blocks, then for the parts of those that differ,
//! sixteen times smaller each, and last for the page fingerprints of the blocks that differ. What
//! is equal costs nothing but its nodes. A wrong match is caught by the root at the end, and the
//! next attempt has another salt. Large images are walked window by window, which bounds what
//! either side remembers.

use std::collections::VecDeque;

use crate::block::BlockRow;
use crate::units::{BLOCK_BYTES, IMAGE_BYTES_MAX, PAGES_PER_BLOCK, block_count};

/// Blocks of a window: 128 GiB of image.
pub const WALK_WINDOW_BLOCKS: u64 = 1 << 21;
/// Nodes of the first probe at most: they travel unasked.
pub const WALK_FIRST_NODES_MAX: u64 = 1 << 13;
/// Runs of nodes in one probe.
pub const WALK_RUNS_MAX: usize = 1 << 16;
/// Blocks whose page fingerprints one probe asks for.
pub const WALK_PAGES_NODES_MAX: u64 = 1 << 15;
/// Single blocks whose values one probe asks for.
pub const WALK_BLOCKS_NODES_MAX: u64 = 1 << 19;
/// Nodes that one piece of an answer tells of, when they aren't page fingerprints.
pub const WALK_PIECE_NODES_MAX: u64 = 1 << 17;
/// Bytes of the value of a node.
pub const WALK_VALUE_BYTES: usize = 6;
/// Bytes of the fingerprints of a block's pages, two for each.
pub const WALK_PRINTS_BYTES: usize = 2 * PAGES_PER_BLOCK;

const FANOUT: u64 = 16;

/// How much of an image a node is, and what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WalkLevel {
    /// One block: the fingerprints of its pages.
    Pages,
    /// One block: a value.
    Blocks,
    /// 16 blocks (1 MiB): a value.
    Groups,
    /// 256 blocks (16 MiB): a value.
    Stretches,
}

impl WalkLevel {
    /// All of them, by number.
    pub const ALL: [WalkLevel; 4] =
        [WalkLevel::Pages, WalkLevel::Blocks, WalkLevel::Groups, WalkLevel::Stretches];

    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Blocks of a node.
    pub const fn blocks(self) -> u64 {
        match self {
            WalkLevel::Pages | WalkLevel::Blocks => 1,
            WalkLevel::Groups => FANOUT,
            WalkLevel::Stretches => FANOUT * FANOUT,
        }
    }

    /// Bytes told of a node.
    pub const fn answer_bytes(self) -> usize {
        match self {
            WalkLevel::Pages => WALK_PRINTS_BYTES,
            _ => WALK_VALUE_BYTES,
        }
    }

    /// Nodes that one piece of an answer tells of at most.
    pub const fn piece_nodes_max(self) -> u64 {
        match self {
            WalkLevel::Pages => WALK_PAGES_NODES_MAX,
            _ => WALK_PIECE_NODES_MAX,
        }
    }

    /// Nodes that one probe asks about at most.
    const fn probe_nodes_max(self) -> u64 {
        match self {
            WalkLevel::Pages => WALK_PAGES_NODES_MAX,
            WalkLevel::Blocks => WALK_BLOCKS_NODES_MAX,
            WalkLevel::Groups | WalkLevel::Stretches => WALK_WINDOW_BLOCKS,
        }
    }

    fn below(self) -> Option<WalkLevel> {
        match self {
            WalkLevel::Pages => None,
            WalkLevel::Blocks => Some(WalkLevel::Pages),
            WalkLevel::Groups => Some(WalkLevel::Blocks),
            WalkLevel::Stretches => Some(WalkLevel::Groups),
        }
    }
}

/// A run of nodes of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRun {
    /// Number of the first node on its level.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl NodeRun {
    /// Number of the node after the last.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// A question: what the receiver holds under these nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub level: WalkLevel,
    /// About which nodes, ascending.
    pub nodes: Vec<NodeRun>,
}

impl Probe {
    /// The probe that every walk over `blocks` blocks begins with; `None` when there is nothing to
    /// compare. Both sides know it, so that nobody has to ask.
    pub fn first(blocks: u64) -> Option<Probe> {
        let fits = |level: &&WalkLevel| {
            blocks.min(WALK_WINDOW_BLOCKS).div_ceil(level.blocks()) <= WALK_FIRST_NODES_MAX
        };
        let level = *WalkLevel::ALL[1..].iter().find(fits)?;
        window(level, 0, blocks)
    }

    /// How many nodes are asked about.
    pub fn count(&self) -> u64 {
        self.nodes.iter().fold(0, |sum, run| sum.saturating_add(run.count))
    }

    fn first_block(&self) -> u64 {
        self.nodes.first().map_or(0, |run| run.first * self.level.blocks())
    }

    /// The rules of a probe about an image of `blocks` comparable blocks.
    pub fn check(&self, blocks: u64) -> Result<(), &'static str> {
        let exist = blocks.div_ceil(self.level.blocks());
        let mut next = 0;
        for run in &self.nodes {
            if run.count == 0 || run.first < next {
                return Err("nodes not ascending");
            }
            next = run.end();
        }
        if self.nodes.is_empty() || next > exist {
            return Err("nodes beyond the end");
        }
        if self.nodes.len() > WALK_RUNS_MAX || self.count() > self.level.probe_nodes_max() {
            return Err("too many nodes");
        }
        Ok(())
    }
}

/// The nodes of a level in the window that begins at block `start`.
fn window(level: WalkLevel, start: u64, blocks: u64) -> Option<Probe> {
    let end = blocks.min(start.checked_add(WALK_WINDOW_BLOCKS)?);
    let (first, end) = (start / level.blocks(), end.div_ceil(level.blocks()));
    let count = end.checked_sub(first).filter(|count| *count > 0)?;
    Some(Probe { level, nodes: vec![NodeRun { first, count }] })
}

/// A probe on its way to be answered, piece by piece: both sides cut it alike.
#[derive(Clone, Debug)]
pub struct OpenProbe {
    level: WalkLevel,
    nodes: VecDeque<NodeRun>,
}

impl OpenProbe {
    /// Nothing of it is answered yet.
    pub fn new(probe: Probe) -> Self {
        Self { level: probe.level, nodes: probe.nodes.into() }
    }

    /// The nodes of the next piece; `None` when all is answered.
    pub fn next_piece(&mut self) -> Option<Probe> {
        let (mut nodes, mut room) = (Vec::new(), self.level.piece_nodes_max());
        while room > 0
            && let Some(run) = self.nodes.front_mut()
        {
            let count = run.count.min(room);
            nodes.push(NodeRun { first: run.first, count });
            room -= count;
            run.first += count;
            run.count -= count;
            if run.count == 0 {
                self.nodes.pop_front();
            }
        }
        (!nodes.is_empty()).then_some(Probe { level: self.level, nodes })
    }

    /// Is all of it answered?
    pub fn is_answered(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// How many leading blocks of two images of these sizes can be compared by their hashes: those
/// that have one length in both. The only block of an image is hashed like no other.
pub fn comparable_blocks(one_bytes: u64, other_bytes: u64) -> u64 {
    let smaller = one_bytes.min(other_bytes);
    match one_bytes == other_bytes {
        true => block_count(one_bytes),
        false if smaller <= BLOCK_BYTES as u64 => 0,
        false => smaller / BLOCK_BYTES as u64,
    }
}

/// What makes the values of one walk differ from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkSalt(pub [u8; 32]);

/// Hashes the blocks of one node after the other.
#[derive(Debug)]
pub struct NodeHasher {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl NodeHasher {
    /// Begins a node.
    pub fn new(salt: &WalkSalt) -> Self {
        Self { hasher: blake3::Hasher::new_keyed(&salt.0), buffer: Vec::new() }
    }

    /// Adds a block. Blocks of zeros count alike wherever they are, so that a segment of zeros
    /// needn't be hashed.
    pub fn block(&mut self, row: Option<&BlockRow>) {
        match row.filter(|row| row.prints != [0; PAGES_PER_BLOCK]) {
            Some(row) => self.buffer.extend_from_slice(row.hash.as_bytes()),
            None => self.buffer.extend_from_slice(&[0; 32]),
        }
    }

    /// Ends the node and begins the next.
    pub fn value(&mut self) -> [u8; WALK_VALUE_BYTES] {
        self.hasher.reset();
        self.hasher.update(&self.buffer);
        self.buffer.clear();
        let value = self.hasher.finalize();
        value.as_bytes()[..WALK_VALUE_BYTES].try_into().expect("6 of 32 bytes")
    }
}

/// The fingerprints of a block's pages as they travel in a walk: 16 bits for each, 0 for zeros and
/// for them alone.
pub fn short_prints(row: Option<&BlockRow>) -> [u16; PAGES_PER_BLOCK] {
    let short = |print: u32| match print {
        0 => 0,
        _ => ((print ^ (print >> 16)) as u16).max(1),
    };
    row.map_or([0; PAGES_PER_BLOCK], |row| row.prints.map(short))
}

/// The asking side: what to ask next. It is told which nodes differ and forgets what is equal.
#[derive(Debug)]
pub struct Walk {
    blocks: u64,
    /// Nodes to ask about; those of the lowest level last, and first to be asked about.
    open: Vec<Pending>,
    /// First block of the next window.
    next_window: u64,
    /// What was asked and isn't answered whole.
    asked: Option<OpenProbe>,
    /// First block of that.
    asked_from: u64,
    /// Nodes of it that differ.
    differing: Vec<SmallRun>,
}

/// First node and how many: the largest image has 2^30 blocks, and there may be many runs.
type SmallRun = (u32, u32);

/// Nodes of a level that have to be asked about.
#[derive(Debug)]
struct Pending {
    level: WalkLevel,
    runs: Vec<SmallRun>,
    /// The first run of which something is left.
    at: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.at >= self.runs.len()
    }

    fn first_block(&self) -> u64 {
        self.runs.get(self.at).map_or(0, |run| u64::from(run.0) * self.level.blocks())
    }

    /// As much as one probe may ask about.
    fn take(&mut self) -> Probe {
        let (mut nodes, mut room) = (Vec::new(), self.level.probe_nodes_max() as u32);
        while room > 0
            && nodes.len() < WALK_RUNS_MAX
            && let Some((first, left)) = self.runs.get_mut(self.at)
        {
            let count = (*left).min(room);
            nodes.push(NodeRun { first: (*first).into(), count: count.into() });
            room -= count;
            *first += count;
            *left -= count;
            self.at += usize::from(*left == 0);
        }
        Probe { level: self.level, nodes }
    }
}

impl Walk {
    /// A walk over `blocks` comparable blocks; its first probe counts as asked.
    pub fn new(blocks: u64) -> Self {
        let blocks = blocks.min(IMAGE_BYTES_MAX / BLOCK_BYTES as u64);
        Self {
            blocks,
            open: Vec::new(),
            next_window: WALK_WINDOW_BLOCKS,
            asked: Probe::first(blocks).map(OpenProbe::new),
            asked_from: 0,
            differing: Vec::new(),
        }
    }

    /// Comparable blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The next probe, which counts as asked from now on. `None` when there is none, and while one
    /// is being answered.
    pub fn next_probe(&mut self) -> Option<Probe> {
        if self.asked.is_some() {
            return None;
        }
        let probe = match self.open.last_mut() {
            Some(pending) => pending.take(),
            None => {
                let start = self.next_window;
                self.next_window = start.saturating_add(WALK_WINDOW_BLOCKS);
                window(WalkLevel::Stretches, start, self.blocks)?
            }
        };
        self.open.pop_if(|pending| pending.is_empty());
        self.asked_from = probe.first_block();
        self.asked = Some(OpenProbe::new(probe.clone()));
        Some(probe)
    }

    /// The nodes that the next piece of the answer tells of.
    pub fn next_piece(&mut self) -> Option<Probe> {
        self.asked.as_mut().and_then(OpenProbe::next_piece)
    }

    /// Takes the values of a piece as the other side has them and as this one has. Page
    /// fingerprints are for the caller: of them only the end counts here.
    pub fn handle_piece(&mut self, piece: &Probe, theirs: &[u8], mine: &[u8]) {
        if piece.level != WalkLevel::Pages {
            let numbers = piece.nodes.iter().flat_map(|run| run.first..run.end());
            let bytes = piece.level.answer_bytes();
            let pairs = theirs.chunks(bytes).zip(mine.chunks(bytes));
            for (node, _) in numbers.zip(pairs).filter(|(_, (theirs, mine))| theirs != mine) {
                let node = node as u32;
                match self.differing.last_mut() {
                    Some((first, count)) if *first + *count == node => *count += 1,
                    _ => self.differing.push((node, 1)),
                }
            }
        }
        if self.asked.as_ref().is_some_and(OpenProbe::is_answered) {
            self.asked = None;
            self.descend(piece.level);
        }
    }

    /// The block before which everything that differs has been found.
    pub fn known_until(&self) -> u64 {
        let asked = self.asked.as_ref().map(|_| self.asked_from);
        let next = || self.open.last().map_or(self.next_window, Pending::first_block);
        asked.unwrap_or_else(next).min(self.blocks)
    }

    /// The nodes that differ are to be asked about on the level below.
    fn descend(&mut self, level: WalkLevel) {
        let mut runs = std::mem::take(&mut self.differing);
        let Some(below) = level.below().filter(|_| !runs.is_empty()) else { return };
        let factor = (level.blocks() / below.blocks()) as u32;
        let exist = self.blocks.div_ceil(below.blocks()) as u32;
        for (first, count) in &mut runs {
            let end = ((*first + *count) * factor).min(exist);
            *first *= factor;
            *count = end - *first;
        }
        self.open.push(Pending { level: below, runs, at: 0 });
    }
}

#[cfg(test)]
mod tests;
