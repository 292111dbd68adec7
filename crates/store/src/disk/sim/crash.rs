//! The power cut: what of the unsynced operations reached the disk, by plan and seed.
//!
//! What was synced is always there. Of the rest, operations on names are there or not, each as a
//! whole and never without what it depends on; writes may be torn at 512 bytes; a length may be
//! lost while the data around it is not.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::content::PAGE_BYTES;
use super::fault::Faults;
use super::log::{Change, Op, Pending, close_over};
use super::rng::{Rng, mix};
use super::world::{Body, Inode, Openers, ROOT, State, World};

/// Bytes a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;

/// Which unsynced operations a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// All, as if the cut had come a little later.
    Everything,
    /// All up to a random one.
    Prefix,
    /// Any of them.
    Subset,
    /// Of each page any version it had: write-back in any order. Operations on names as in
    /// `Subset`.
    Reordered,
}

impl Keep {
    /// All of them, for tests that try each.
    pub const ALL: [Keep; 5] =
        [Keep::Nothing, Keep::Everything, Keep::Prefix, Keep::Subset, Keep::Reordered];
}

/// How a crash goes. The same plan on the same state leaves the same disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    /// Determines every choice.
    pub seed: u64,
    /// Which unsynced operations are kept.
    pub keep: Keep,
    /// Whether a kept write may be torn at 512 bytes.
    pub tear: bool,
}

/// What happens to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    Torn,
}

impl World {
    /// The world a power cut now would leave: no handles, nothing pending, no faults armed.
    pub(super) fn crashed(&self, plan: CrashPlan) -> World {
        let mut rng = Rng::new(plan.seed);
        let fates = self.fates(plan, &mut rng);
        let mut world = World {
            log: Vec::new(),
            faults: Faults::default(),
            cut_after: None,
            ops: 0,
            ..self.fork()
        };
        world.revert_to_durable();
        for (position, (pending, fate)) in self.log.iter().zip(&fates).enumerate() {
            if *fate == Fate::Lost {
                continue;
            }
            match &pending.op {
                Op::Data { inode, change } if plan.keep == Keep::Reordered => {
                    let part = Versions { plan, inode: *inode, position, ops: self.log.len() };
                    world.keep_versions(*inode, change, pending, part);
                }
                Op::Data { inode, change } => {
                    world.keep_change(*inode, change, pending, *fate, &mut rng);
                }
                names => world.make_names_durable(names),
            }
        }
        world.settle();
        world
    }

    fn fates(&self, plan: CrashPlan, rng: &mut Rng) -> Vec<Fate> {
        let count = self.log.len();
        let cut = rng.below(count as u64 + 1) as usize;
        // Few, half or most: each finds other mistakes.
        let eighths = [1, 4, 7][rng.below(3) as usize];
        let mut kept: Vec<bool> = (0..count)
            .map(|position| match plan.keep {
                Keep::Nothing => false,
                Keep::Everything => true,
                Keep::Prefix => position < cut,
                Keep::Subset => rng.chance(eighths, 8),
                Keep::Reordered => !self.log[position].op.is_of_names() || rng.chance(eighths, 8),
            })
            .collect();
        close_over(&self.log, &mut kept);
        let mut fates = Vec::with_capacity(count);
        for (position, kept) in kept.into_iter().enumerate() {
            let last = plan.keep == Keep::Prefix && position == cut;
            let may_tear = plan.tear && (last || kept && plan.keep == Keep::Subset);
            fates.push(match kept {
                _ if may_tear && rng.chance(1, 2) => Fate::Torn,
                true => Fate::Kept,
                false => Fate::Lost,
            });
        }
        // A name is there or not; only writes tear.
        for (fate, pending) in fates.iter_mut().zip(&self.log) {
            let write = matches!(&pending.op, Op::Data { change: Change::Write { .. }, .. });
            if *fate == Fate::Torn && !write {
                *fate = if plan.keep == Keep::Prefix { Fate::Lost } else { Fate::Kept };
            }
        }
        fates
    }

    /// Programs see what is durable; handles are gone.
    fn revert_to_durable(&mut self) {
        for node in self.inodes.values_mut() {
            let node = Arc::make_mut(node);
            node.openers = Openers::default();
            if let Body::File { diverged, .. } = &mut node.body {
                *diverged = false;
            }
        }
    }

    fn keep_change(
        &mut self,
        inode: u64,
        change: &Change,
        pending: &Pending,
        fate: Fate,
        rng: &mut Rng,
    ) {
        let Some(state) = self.durable_state(inode) else { return };
        match change {
            Change::Write { offset, data } if fate == Fate::Torn => {
                // A front part, or any sectors at all.
                let sectors = (offset + data.len() as u64).div_ceil(SECTOR_BYTES);
                let front = rng.chance(1, 2);
                let stop = offset / SECTOR_BYTES + rng.below(sectors - offset / SECTOR_BYTES + 1);
                write_where(state, *offset, data, pending.time_ns, |sector| {
                    if front { sector < stop } else { rng.chance(1, 2) }
                });
            }
            change => change.apply(state, pending.time_ns),
        }
    }

    /// Keeps of a change what lies in pages (with tearing: sectors) whose version is late enough.
    fn keep_versions(
        &mut self,
        inode: u64,
        change: &Change,
        pending: &Pending,
        versions: Versions,
    ) {
        let Some(state) = self.durable_state(inode) else { return };
        match change {
            Change::Write { offset, data } => {
                write_where(state, *offset, data, pending.time_ns, |sector| {
                    versions.has(versions.unit(sector))
                });
            }
            change => {
                if versions.has(u64::MAX) {
                    change.apply(state, pending.time_ns);
                }
            }
        }
    }

    fn durable_state(&mut self, inode: u64) -> Option<&mut State> {
        match &mut Arc::make_mut(self.inodes.get_mut(&inode)?).body {
            Body::File { durable, .. } => Some(durable),
            Body::Dir { .. } => None,
        }
    }

    /// What is durable becomes what is seen; what has no name is gone; space is counted anew.
    fn settle(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(inode) = open.pop() {
            if let Some(Body::Dir { durable, .. }) = self.inodes.get(&inode).map(|n| &n.body) {
                open.extend(durable.values().filter(|child| reachable.insert(**child)));
            }
        }
        self.inodes.retain(|inode, _| reachable.contains(inode));
        for node in self.inodes.values_mut() {
            let node = Arc::make_mut(node);
            node.linked = true;
            node.reserved.clear();
            match &mut node.body {
                Body::File { now, durable, unpaid, .. } => {
                    *now = durable.clone();
                    unpaid.clear();
                }
                Body::Dir { now, durable, .. } => *now = Arc::clone(durable),
            }
        }
        self.count_space();
    }

    fn count_space(&mut self) {
        if !self.cloned {
            let pages = |node: &Arc<Inode>| match &node.body {
                Body::File { now, .. } => now.content.pages(),
                Body::Dir { .. } => 0,
            };
            self.used_pages = self.inodes.values().map(pages).sum();
            return;
        }
        let mut paid = HashSet::new();
        let mut unpaid_of: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for (inode, node) in &self.inodes {
            if let Body::File { now, .. } = &node.body {
                let shared = now.content.iter().filter(|(_, page)| !paid.insert(Arc::as_ptr(page)));
                unpaid_of.insert(*inode, shared.map(|(index, _)| index).collect());
            }
        }
        self.used_pages = paid.len() as u64;
        for (inode, pages) in unpaid_of {
            if let Body::File { unpaid, .. } = &mut self.inode_mut(inode).body {
                *unpaid = pages;
            }
        }
    }
}

/// Which version of each unit of a file reached the disk.
#[derive(Clone, Copy)]
struct Versions {
    plan: CrashPlan,
    inode: u64,
    /// Position in the log of the change asked about.
    position: usize,
    /// Length of the log.
    ops: usize,
}

impl Versions {
    fn unit(&self, sector: u64) -> u64 {
        if self.plan.tear { sector } else { sector / (PAGE_BYTES / SECTOR_BYTES) }
    }

    /// Whether the unit was written back after this change.
    fn has(&self, unit: u64) -> bool {
        let draw = mix(self.plan.seed ^ mix(self.inode ^ mix(unit)));
        (self.position as u64) < draw % (self.ops as u64 + 1)
    }
}

/// Writes the sectors of a write that `kept` says.
fn write_where(
    state: &mut State,
    offset: u64,
    data: &[u8],
    time_ns: i128,
    mut kept: impl FnMut(u64) -> bool,
) {
    let end = offset + data.len() as u64;
    let content = Arc::make_mut(&mut state.content);
    for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
        if kept(sector) {
            let start = offset.max(sector * SECTOR_BYTES);
            let stop = end.min((sector + 1) * SECTOR_BYTES);
            content.write(start, &data[(start - offset) as usize..(stop - offset) as usize]);
            state.attrs.touch(time_ns);
        }
    }
}
