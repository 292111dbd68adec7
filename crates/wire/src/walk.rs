//! The order of a walk, the same for both ends: which probe is open, how its answer is cut into
//! pieces, and which nodes may still be asked about. Each node of a level is asked about at most
//! once, so that a walk ends whatever the sender does.

use blockferry_delta::{OpenProbe, Probe, WalkLevel, comparable_blocks};

use crate::message::WalkStart;

/// What both ends know of a walk.
#[derive(Debug)]
pub(crate) struct Probing {
    blocks: u64,
    open: Option<OpenProbe>,
    /// First node of each level that wasn't asked about.
    next: [u64; WalkLevel::ALL.len()],
}

impl Probing {
    /// Begins a walk for an offer of `size_bytes`: its first probe is open. `None` when no block
    /// can be compared.
    pub(crate) fn begin(size_bytes: u64, start: &WalkStart) -> Option<Self> {
        let blocks = comparable_blocks(size_bytes, start.size_bytes);
        let first = Probe::first(blocks)?;
        let mut probing = Self { blocks, open: None, next: [0; WalkLevel::ALL.len()] };
        probing.ask(first).expect("the first probe keeps the rules");
        Some(probing)
    }

    /// Is an answer due?
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Opens a probe, or names the rule it breaks.
    pub(crate) fn ask(&mut self, probe: Probe) -> Result<(), &'static str> {
        if self.is_open() {
            return Err("a probe is open");
        }
        probe.check(self.blocks)?;
        let next = &mut self.next[usize::from(probe.level.number())];
        let (first, last) = (probe.nodes.first(), probe.nodes.last());
        if first.is_none_or(|run| run.first < *next) {
            return Err("nodes asked about twice");
        }
        *next = last.map_or(*next, |run| run.end());
        self.open = Some(OpenProbe::new(probe));
        Ok(())
    }

    /// The nodes that the next piece of the answer tells of. With the last the probe is closed.
    pub(crate) fn next_piece(&mut self) -> Option<Probe> {
        let open = self.open.as_mut()?;
        let piece = open.next_piece();
        if open.is_answered() {
            self.open = None;
        }
        piece
    }
}
