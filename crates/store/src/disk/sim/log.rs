//! The simulated disk's one log of what is not durable yet, over all files and directories.
//!
//! Operations on names depend on earlier ones on the same names or files: no filesystem shows a
//! new owner of a name without the old one having gone where it went. [`close_over`] keeps that,
//! in a crash and when a directory is synced; names that have nothing to do with each other are
//! independent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::content::Content;
use super::world::{Attrs, State};

/// A name in a directory.
pub(super) type Entry = (u64, String);

/// One operation that a power cut may lose.
#[derive(Debug)]
pub(super) struct Pending {
    /// Simulated time of the operation.
    pub(super) time_ns: i128,
    pub(super) op: Op,
}

#[derive(Debug)]
pub(super) enum Op {
    /// To a file.
    Data { inode: u64, change: Change },
    /// A new file or directory appears.
    Link { at: Entry, inode: u64 },
    /// A file loses its name.
    Unlink { at: Entry, inode: u64 },
    /// `replaced` had the new name before.
    Rename { from: Entry, to: Entry, inode: u64, replaced: Option<u64> },
    /// Two files change places; the inodes are those found there before.
    Exchange { a: Entry, b: Entry, inodes: (u64, u64) },
}

/// A change of a file's content or metadata.
#[derive(Debug)]
pub(super) enum Change {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    Punch {
        offset: u64,
        bytes: u64,
    },
    Attrs(Attrs),
    /// Becomes a clone of another file.
    Become(Arc<Content>),
}

impl Op {
    pub(super) fn is_of_file(&self, file: u64) -> bool {
        matches!(self, Op::Data { inode, .. } if *inode == file)
    }

    pub(super) fn is_of_names(&self) -> bool {
        !matches!(self, Op::Data { .. })
    }

    pub(super) fn touches_dir(&self, dir: u64) -> bool {
        self.entries().any(|entry| entry.0 == dir)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.edits().into_iter().map(|(entry, _)| entry)
    }

    /// What it does to names: each gets this owner, or none. In this order.
    pub(super) fn edits(&self) -> Vec<(&Entry, Option<u64>)> {
        match self {
            Op::Data { .. } => Vec::new(),
            Op::Link { at, inode } => vec![(at, Some(*inode))],
            Op::Unlink { at, .. } => vec![(at, None)],
            Op::Rename { from, to, inode, .. } => vec![(from, None), (to, Some(*inode))],
            Op::Exchange { a, b, inodes } => vec![(a, Some(inodes.1)), (b, Some(inodes.0))],
        }
    }

    /// Whether it carries a file from one directory into another.
    fn crosses(&self) -> bool {
        match self {
            Op::Rename { from, to, .. } => from.0 != to.0,
            Op::Exchange { a, b, .. } => a.0 != b.0,
            Op::Data { .. } | Op::Link { .. } | Op::Unlink { .. } => false,
        }
    }

    /// Files whose names this operation changes.
    pub(super) fn named_inodes(&self) -> Vec<u64> {
        match self {
            Op::Data { .. } => Vec::new(),
            Op::Link { inode, .. } | Op::Unlink { inode, .. } => vec![*inode],
            Op::Rename { inode, replaced, .. } => {
                std::iter::once(*inode).chain(*replaced).collect()
            }
            Op::Exchange { inodes, .. } => vec![inodes.0, inodes.1],
        }
    }
}

impl Change {
    pub(super) fn apply(&self, state: &mut State, time_ns: i128) {
        match self {
            Change::Write { offset, data } => {
                Arc::make_mut(&mut state.content).write(*offset, data);
                state.attrs.touch(time_ns);
            }
            Change::SetLen(bytes) => {
                Arc::make_mut(&mut state.content).set_len(*bytes);
                state.attrs.touch(time_ns);
            }
            Change::Punch { offset, bytes } => {
                Arc::make_mut(&mut state.content).punch(*offset, *bytes);
                state.attrs.touch(time_ns);
            }
            Change::Attrs(attrs) => state.attrs = attrs.clone(),
            Change::Become(content) => {
                state.content = Arc::clone(content);
                state.attrs.touch(time_ns);
            }
        }
    }

    /// Whether a failed sync loses it: pages are dropped, what is in the journal is not.
    pub(super) fn is_pages(&self) -> bool {
        matches!(self, Change::Write { .. } | Change::Punch { .. })
    }
}

/// Adds to the chosen operations on names those earlier ones they depend on.
pub(super) fn close_over(log: &[Arc<Pending>], chosen: &mut [bool]) {
    let mut entries: BTreeSet<&Entry> = BTreeSet::new();
    let mut inodes: BTreeSet<u64> = BTreeSet::new();
    // A file carried into a new directory must not vanish with it.
    let mut dirs: BTreeSet<u64> = BTreeSet::new();
    for (pending, chosen) in log.iter().zip(chosen).rev() {
        let op = &pending.op;
        if !op.is_of_names() {
            continue;
        }
        let named = op.named_inodes();
        let makes_needed_dir = matches!(op, Op::Link { inode, .. } if dirs.contains(inode));
        *chosen |= makes_needed_dir
            || op.entries().any(|entry| entries.contains(entry))
            || named.iter().any(|inode| inodes.contains(inode));
        if *chosen {
            if makes_needed_dir || op.crosses() {
                dirs.extend(op.entries().map(|entry| entry.0));
            }
            entries.extend(op.entries());
            inodes.extend(named);
        }
    }
}
