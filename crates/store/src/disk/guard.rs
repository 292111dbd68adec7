//! A disk on which nothing but private files can be changed while another tool rules there: whatever
//! the rest of the store believes, an image that is only observed stays as it is, byte for byte. One
//! place for this promise, below everything else.

use std::io;
use std::sync::Arc;

use super::{CatalogBackend, DirEntry, Disk, DiskFile, Holder, Open, RenameHow, Space, Stat};
use crate::adoption::Known;
use crate::layout::PRIVATE;

/// The disk of a store, shut for what isn't private as long as the adoption says so.
#[derive(Debug)]
pub(crate) struct Guard {
    inner: Arc<dyn Disk>,
    adoption: Arc<Known>,
}

impl Guard {
    pub(crate) fn new(inner: Arc<dyn Disk>, adoption: Arc<Known>) -> Self {
        Self { inner, adoption }
    }

    /// May this path be changed?
    fn allow(&self, path: &str) -> io::Result<()> {
        let private =
            path.strip_prefix(PRIVATE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if private || !self.adoption.get().is_shut() {
            return Ok(());
        }
        let what = "the store is being adopted and another tool rules here";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
    }
}

impl Disk for Guard {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        if how != Open::Read {
            self.allow(path)?;
        }
        self.inner.open(path, how)
    }

    fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        self.inner.stat(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.allow(path)?;
        self.inner.make_dir(path)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.allow(path)?;
        self.inner.remove_file(path)
    }

    fn rename(&self, from: &str, to: &str, how: RenameHow) -> io::Result<()> {
        self.allow(from)?;
        self.allow(to)?;
        self.inner.rename(from, to, how)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn available_memory(&self) -> io::Result<u64> {
        self.inner.available_memory()
    }

    fn clone_file(&self, from: &str, to: &str) -> io::Result<bool> {
        self.allow(to)?;
        self.inner.clone_file(from, to)
    }

    fn copy_extents(&self, from: &str, to: &str, extents: &[(u64, u64)]) -> io::Result<()> {
        self.allow(to)?;
        self.inner.copy_extents(from, to, extents)
    }

    fn writer_of(&self, path: &str) -> Option<Holder> {
        self.inner.writer_of(path)
    }

    fn backend(&self, path: &str) -> io::Result<CatalogBackend> {
        self.allow(path)?;
        self.inner.backend(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adoption::{Adoption, Phase};
    use crate::disk::SimDisk;

    #[test]
    fn only_private_files_can_be_changed_where_another_tool_rules() {
        let sim = SimDisk::new(1, 1 << 20);
        sim.make_dir(PRIVATE).expect("made");
        sim.open("a", Open::CreateNew).expect("made").write_at(b"old", 0).expect("written");
        let adoption = Arc::new(Known::default());
        let disk = Guard::new(Arc::new(sim), adoption.clone());
        let private = format!("{PRIVATE}/x");
        disk.open("b", Open::CreateNew).expect("nobody else rules");
        for phase in [Phase::Observe, Phase::Shadow] {
            adoption.set_for_test(Adoption::resting(phase));
            assert!(disk.open("a", Open::Read).is_ok());
            assert!(disk.open(&private, Open::Create).is_ok());
            let refused = [
                disk.open("a", Open::ReadWrite).map(drop),
                disk.open("c", Open::Create).map(drop),
                disk.remove_file("a"),
                disk.remove_file(".blockferryx"),
                disk.rename("a", &private, RenameHow::Replace),
                disk.rename(&private, "a", RenameHow::Exchange),
                disk.clone_file("a", "c").map(drop),
                disk.copy_extents(&private, "a", &[(0, 1)]),
                disk.make_dir("d"),
            ];
            for (at, outcome) in refused.into_iter().enumerate() {
                let kind = outcome.expect_err("shut").kind();
                assert_eq!(kind, io::ErrorKind::PermissionDenied, "{at} in {phase:?}");
            }
        }
        adoption.set_for_test(Adoption::resting(Phase::Active));
        disk.remove_file("a").expect("open again");
    }
}
