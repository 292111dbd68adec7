//! What can be made to go wrong on the simulated disk, and the error of a power cut.

use std::fmt;
use std::io;

/// A kind of call that can be made to fail, on files and on redb's backend alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Opening an existing file or a backend.
    Open,
    /// Creating a file.
    Create,
    /// Reading.
    Read,
    /// Writing, plain, bulk or by `copy_extents`.
    Write,
    /// Setting a length.
    SetLen,
    /// Punching a hole.
    Punch,
    /// Setting metadata.
    SetMeta,
    /// Syncing a file. The fault leaves pending writes pending; `SimDisk::fail_sync` drops them.
    Sync,
    /// Making a directory.
    MakeDir,
    /// Removing a file.
    Remove,
    /// Renaming.
    Rename,
    /// Syncing a directory. What is pending in it stays pending.
    SyncDir,
    /// Cloning a file.
    Clone,
}

impl OpKind {
    /// Whether calls of this kind change the disk, or what of it is durable.
    pub(super) fn mutates(self) -> bool {
        !matches!(self, OpKind::Open | OpKind::Read)
    }
}

/// The error of every mutating call after `SimDisk::cut_after`; inside an `io::Error` of kind
/// `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerGone;

impl PowerGone {
    /// Whether this error is the simulated power cut.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<PowerGone>())
    }
}

impl fmt::Display for PowerGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the power is gone")
    }
}

impl std::error::Error for PowerGone {}

/// Faults waiting for their call.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    armed: Vec<(OpKind, usize, io::ErrorKind)>,
    dropping_sync: Option<usize>,
}

impl Faults {
    pub(super) fn arm(&mut self, kind: OpKind, nth: usize, error: io::ErrorKind) {
        self.armed.push((kind, nth, error));
    }

    pub(super) fn arm_sync(&mut self, nth: usize) {
        self.dropping_sync = Some(nth);
    }

    /// Counts one call; the error when it is the one to fail.
    pub(super) fn check(&mut self, kind: OpKind) -> io::Result<()> {
        let mut hit = None;
        for (armed, left, error) in &mut self.armed {
            if *armed == kind {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    hit = Some(*error);
                }
            }
        }
        self.armed.retain(|(_, left, _)| *left > 0);
        hit.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Counts one sync of a file; true when it is the one that drops what is pending.
    pub(super) fn sync_drops(&mut self) -> bool {
        let Some(left) = &mut self.dropping_sync else { return false };
        *left = left.saturating_sub(1);
        let hit = *left == 0;
        if hit {
            self.dropping_sync = None;
        }
        hit
    }
}
