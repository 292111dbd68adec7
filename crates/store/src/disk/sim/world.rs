//! The state of a simulated disk: what programs see now, what a power cut would leave for sure,
//! and the log of what lies between.
//!
//! Every change goes through [`World::begin`] (power, faults) and [`World::end`] (count, clock,
//! snapshot), so that operations have one order over files, directories and the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::content::{Content, PAGE_BYTES};
use super::fault::{Faults, OpKind, PowerGone};
use super::log::{Change, Entry, Op, Pending, close_over};
use crate::disk::{Kind, Stat};

/// Inode of the root directory.
pub(super) const ROOT: u64 = 1;
/// The simulated clock moves by this at every change.
const TICK_NS: i128 = 1_000_000;

/// Metadata of a file or directory.
#[derive(Clone, Debug)]
pub(super) struct Attrs {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_ns: i128,
    pub(super) ctime_ns: i128,
    pub(super) xattrs: Arc<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Attrs {
    pub(super) fn new(mode: u32, time_ns: i128) -> Attrs {
        let xattrs = Arc::default();
        Attrs { mode, uid: 0, gid: 0, mtime_ns: time_ns, ctime_ns: time_ns, xattrs }
    }

    pub(super) fn touch(&mut self, time_ns: i128) {
        self.mtime_ns = time_ns;
        self.ctime_ns = time_ns;
    }
}

/// Content and metadata of a file at one time.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) content: Arc<Content>,
    pub(super) attrs: Attrs,
}

pub(super) type Names = BTreeMap<String, u64>;

#[derive(Clone, Debug)]
pub(super) enum Body {
    File {
        now: State,
        durable: State,
        /// A failed sync dropped pages: `now` is no longer `durable` plus what is pending.
        diverged: bool,
        /// Pages that came by cloning and are paid for by another file.
        unpaid: BTreeSet<u64>,
    },
    Dir {
        now: Arc<Names>,
        durable: Arc<Names>,
        attrs: Attrs,
    },
}

/// Who has a file open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Openers {
    pub(super) own: usize,
    pub(super) own_writable: usize,
    pub(super) foreign: usize,
    pub(super) foreign_writable: usize,
    /// Whoever opens it has to wait.
    pub(super) shut: bool,
    pub(super) locked: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    /// Whether a name stands for it now.
    pub(super) linked: bool,
    pub(super) openers: Openers,
    /// Pages without data that are paid for.
    pub(super) reserved: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) device: u64,
    pub(super) capacity_bytes: u64,
    pub(super) used_pages: u64,
    pub(super) next_inode: u64,
    pub(super) clock_ns: i128,
    pub(super) inodes: BTreeMap<u64, Arc<Inode>>,
    pub(super) log: Vec<Arc<Pending>>,
    pub(super) ops: usize,
    pub(super) cut_after: Option<usize>,
    pub(super) faults: Faults,
    pub(super) supports_clone: bool,
    /// Leases are given back later than openers wait.
    pub(super) slow_leases: bool,
    /// A clone was made: pages may be shared, and space is counted the slow way.
    pub(super) cloned: bool,
    pub(super) recording: bool,
    /// The state before the first recorded operation and after each.
    pub(super) recorded: Vec<World>,
}

impl World {
    pub(super) fn new(seed: u64, capacity_bytes: u64) -> World {
        let clock_ns = 1_700_000_000 * 1_000_000_000;
        let root = Inode {
            body: Body::Dir {
                now: Arc::default(),
                durable: Arc::default(),
                attrs: Attrs::new(0o700, clock_ns),
            },
            linked: true,
            openers: Openers::default(),
            reserved: BTreeSet::new(),
        };
        World {
            device: super::rng::mix(seed) >> 40,
            capacity_bytes,
            used_pages: 0,
            next_inode: ROOT + 1,
            clock_ns,
            inodes: BTreeMap::from([(ROOT, Arc::new(root))]),
            log: Vec::new(),
            ops: 0,
            cut_after: None,
            faults: Faults::default(),
            supports_clone: true,
            slow_leases: false,
            cloned: false,
            recording: false,
            recorded: Vec::new(),
        }
    }

    /// Whether a call may happen.
    pub(super) fn begin(&mut self, kind: OpKind) -> io::Result<()> {
        if kind.mutates() && self.cut_after.is_some_and(|cut| self.ops >= cut) {
            return Err(io::Error::other(PowerGone));
        }
        self.faults.check(kind)
    }

    /// Counts a change that happened.
    pub(super) fn end(&mut self) {
        self.ops += 1;
        self.clock_ns += TICK_NS;
        if self.recording {
            self.recorded.push(self.fork());
        }
    }

    /// The same world, recording nothing.
    pub(super) fn fork(&self) -> World {
        World {
            device: self.device,
            capacity_bytes: self.capacity_bytes,
            used_pages: self.used_pages,
            next_inode: self.next_inode,
            clock_ns: self.clock_ns,
            inodes: self.inodes.clone(),
            log: self.log.clone(),
            ops: self.ops,
            cut_after: self.cut_after,
            faults: self.faults.clone(),
            supports_clone: self.supports_clone,
            slow_leases: self.slow_leases,
            cloned: self.cloned,
            recording: false,
            recorded: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, op: Op) {
        self.log.push(Arc::new(Pending { time_ns: self.clock_ns, op }));
    }

    pub(super) fn inode(&self, inode: u64) -> &Inode {
        self.inodes.get(&inode).expect("inodes live as long as a name or a handle")
    }

    pub(super) fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        let inode = self.inodes.get_mut(&inode);
        Arc::make_mut(inode.expect("inodes live as long as a name or a handle"))
    }

    pub(super) fn names(&self, dir: u64) -> io::Result<&Names> {
        match &self.inode(dir).body {
            Body::Dir { now, .. } => Ok(now),
            Body::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The current state of a file.
    pub(super) fn state(&self, inode: u64) -> io::Result<&State> {
        match &self.inode(inode).body {
            Body::File { now, .. } => Ok(now),
            Body::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// The inode of a directory (`""`: the root).
    pub(super) fn dir(&self, path: &str) -> io::Result<u64> {
        let mut dir = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            dir = *self.names(dir)?.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        self.names(dir)?;
        Ok(dir)
    }

    /// The directory of a path with its name there, and the inode if it exists.
    pub(super) fn entry(&self, path: &str) -> io::Result<(Entry, Option<u64>)> {
        let (dir, name) = crate::disk::path::split(path);
        let dir = self.dir(dir)?;
        let found = self.names(dir)?.get(name).copied();
        Ok(((dir, name.to_owned()), found))
    }

    pub(super) fn existing(&self, path: &str) -> io::Result<(Entry, u64)> {
        let (entry, found) = self.entry(path)?;
        Ok((entry, found.ok_or(io::ErrorKind::NotFound)?))
    }

    pub(super) fn stat(&self, inode: u64) -> Stat {
        let (kind, attrs, size_bytes, pages) = match &self.inode(inode).body {
            Body::File { now, .. } => {
                (Kind::File, &now.attrs, now.content.size_bytes(), now.content.pages())
            }
            Body::Dir { attrs, .. } => (Kind::Dir, attrs, 0, 0),
        };
        Stat {
            kind,
            inode,
            device: self.device,
            size_bytes,
            allocated_bytes: pages * PAGE_BYTES,
            mtime_ns: attrs.mtime_ns,
            ctime_ns: attrs.ctime_ns,
            mode: attrs.mode,
            uid: attrs.uid,
            gid: attrs.gid,
            links: u64::from(self.inode(inode).linked),
        }
    }

    /// Makes a new file or directory below a vacant name. Not counted: the caller's `end` is.
    pub(super) fn create(&mut self, at: Entry, kind: Kind) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        let time_ns = self.clock_ns;
        let body = if kind == Kind::Dir {
            let attrs = Attrs::new(0o700, time_ns);
            Body::Dir { now: Arc::default(), durable: Arc::default(), attrs }
        } else {
            let now = State { content: Arc::default(), attrs: Attrs::new(0o600, time_ns) };
            let durable = now.clone();
            Body::File { now, durable, diverged: false, unpaid: BTreeSet::new() }
        };
        let (openers, reserved) = Default::default();
        let new = Inode { body, linked: false, openers, reserved };
        self.inodes.insert(inode, Arc::new(new));
        self.rename_op(Op::Link { at, inode });
        inode
    }

    /// Does an operation on names now, and logs it.
    pub(super) fn rename_op(&mut self, op: Op) {
        let before = op.named_inodes();
        for ((dir, name), owner) in op.edits() {
            edit(self.now_mut(*dir), name, owner);
        }
        for inode in before {
            let linked = self.linked_by(&op, inode);
            let time_ns = self.clock_ns;
            let node = self.inode_mut(inode);
            node.linked = linked;
            match &mut node.body {
                Body::File { now, .. } => now.attrs.ctime_ns = time_ns,
                Body::Dir { attrs, .. } => attrs.ctime_ns = time_ns,
            }
            self.release_if_gone(inode);
        }
        self.push(op);
    }

    /// Whether an inode has a name after an operation that was about it.
    fn linked_by(&self, op: &Op, about: u64) -> bool {
        match op {
            Op::Data { .. } | Op::Link { .. } | Op::Exchange { .. } => true,
            Op::Unlink { .. } => false,
            Op::Rename { inode, .. } => *inode == about,
        }
    }

    fn now_mut(&mut self, dir: u64) -> &mut Names {
        let time_ns = self.clock_ns;
        match &mut self.inode_mut(dir).body {
            Body::Dir { now, attrs, .. } => {
                attrs.touch(time_ns);
                Arc::make_mut(now)
            }
            Body::File { .. } => unreachable!("entries are in directories"),
        }
    }

    /// Applies an operation on names to what a power cut leaves.
    pub(super) fn make_names_durable(&mut self, op: &Op) {
        for ((dir, name), owner) in op.edits() {
            if let Body::Dir { durable, .. } = &mut self.inode_mut(*dir).body {
                edit(Arc::make_mut(durable), name, owner);
            }
        }
    }

    /// Changes a file now, and logs it.
    pub(super) fn change(&mut self, inode: u64, change: Change) {
        let time_ns = self.clock_ns;
        if let Body::File { now, .. } = &mut self.inode_mut(inode).body {
            change.apply(now, time_ns);
        }
        self.push(Op::Data { inode, change });
    }

    /// Makes all of a file durable, or drops its pending pages and fails.
    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        self.begin(OpKind::Sync)?;
        if self.faults.sync_drops() {
            self.log.retain(|pending| !drops(&pending.op, inode));
            if let Body::File { diverged, .. } = &mut self.inode_mut(inode).body {
                *diverged = true;
            }
            self.end();
            return Err(io::Error::other("simulated write-back error"));
        }
        let (settled, rest) = self.log.drain(..).partition(|pending| pending.op.is_of_file(inode));
        self.log = rest;
        let settled: Vec<Arc<Pending>> = settled;
        if let Body::File { now, durable, diverged, .. } = &mut self.inode_mut(inode).body {
            if *diverged {
                for pending in settled {
                    if let Op::Data { change, .. } = &pending.op {
                        change.apply(durable, pending.time_ns);
                    }
                }
            } else {
                *durable = now.clone();
            }
        }
        self.end();
        Ok(())
    }

    /// Makes the names of a directory durable, with what they depend on.
    pub(super) fn sync_dir(&mut self, dir: u64) {
        let mut chosen: Vec<bool> =
            self.log.iter().map(|pending| pending.op.touches_dir(dir)).collect();
        close_over(&self.log, &mut chosen);
        let log = std::mem::take(&mut self.log);
        for (pending, chosen) in log.into_iter().zip(chosen) {
            if chosen {
                self.make_names_durable(&pending.op);
            } else {
                self.log.push(pending);
            }
        }
        self.forget_unreachable();
        self.end();
    }

    /// Drops inodes that no name, now or after a crash, and no handle can reach.
    fn forget_unreachable(&mut self) {
        let mut reachable: BTreeSet<u64> = BTreeSet::from([ROOT]);
        for node in self.inodes.values() {
            if let Body::Dir { now, durable, .. } = &node.body {
                reachable.extend(now.values().chain(durable.values()));
            }
        }
        reachable.extend(self.log.iter().flat_map(|pending| pending.op.named_inodes()));
        let held = |node: &Inode| node.openers.own > 0 || node.openers.foreign > 0;
        self.inodes.retain(|inode, node| reachable.contains(inode) || held(node));
        let inodes = &self.inodes;
        self.log.retain(|pending| match &pending.op {
            Op::Data { inode, .. } => inodes.contains_key(inode),
            _ => true,
        });
    }
}

/// Whether a failed sync of a file loses this operation.
fn drops(op: &Op, file: u64) -> bool {
    matches!(op, Op::Data { inode, change } if *inode == file && change.is_pages())
}

fn edit(names: &mut Names, name: &str, owner: Option<u64>) {
    match owner {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}
