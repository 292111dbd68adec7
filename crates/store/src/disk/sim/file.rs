//! An open file of the simulated disk, and the same as redb's storage.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redb::StorageBackend;

use super::SimDisk;
use super::content::PAGE_BYTES;
use super::fault::OpKind;
use super::log::Change;
use super::world::{Attrs, World};
use crate::disk::{AlignedBuf, DiskFile, Lease, Meta, MetaOutcome, Placed, Stat, Storage};

/// Longest file: 16 EiB less one page would overflow offsets.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: u64,
    pub(super) writable: bool,
}

impl SimFile {
    /// Starts a change: the handle must be writable and the range one a file can have.
    fn begin(&self, world: &mut World, kind: OpKind, offset: u64, bytes: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        world.begin(kind)
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.begin(OpKind::Read)?;
        Ok(world.state(self.inode)?.content.read(offset, buf))
    }

    /// Pays for the pages at the ragged ends of a hole and gives back the whole ones between.
    fn make_hole(&self, world: &mut World, offset: u64, end: u64) -> io::Result<()> {
        let content = Arc::clone(&world.state(self.inode)?.content);
        let whole = offset.div_ceil(PAGE_BYTES)..end / PAGE_BYTES;
        for edge in [offset, end] {
            let page = edge / PAGE_BYTES;
            let ragged = !edge.is_multiple_of(PAGE_BYTES) && content.page(page).is_some();
            if ragged && world.cloned && !whole.contains(&page) {
                world.pay_for_write(self.inode, edge, 1);
            }
        }
        if whole.start < whole.end {
            world.unreserve(self.inode, whole.clone());
            world.give_back_range(self.inode, whole);
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.world().stat(self.inode))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(buf, offset)
    }

    fn read_bulk_at(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> io::Result<usize> {
        if bytes > buf.capacity() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the buffer"));
        }
        buf.set_len(0);
        let done = self.read(&mut buf.space()[..bytes], offset)?;
        buf.set_len(done);
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let bytes = buf.len() as u64;
        self.disk.run_hooks(OpKind::Write, self.inode);
        let mut world = self.disk.world();
        self.begin(&mut world, OpKind::Write, offset, bytes)?;
        // A full disk takes what fits and then says so, as the real one does.
        let fits = world.room(self.inode, offset, bytes);
        if fits > 0 {
            world.pay_for_write(self.inode, offset, fits);
            let data = buf[..fits as usize].to_vec();
            world.change(self.inode, Change::Write { offset, data });
            world.end();
        }
        if fits < bytes { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write_bulk_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(buf, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        self.begin(&mut world, OpKind::SetLen, bytes, 0)?;
        let size = world.state(self.inode)?.content.size_bytes();
        if bytes <= size {
            world.unreserve(self.inode, bytes.div_ceil(PAGE_BYTES)..u64::MAX);
        }
        if bytes < size {
            self.make_hole(&mut world, bytes, size.next_multiple_of(PAGE_BYTES))?;
        }
        world.change(self.inode, Change::SetLen(bytes));
        world.end();
        Ok(())
    }

    fn reserve(&self, ranges: &[(u64, u64)]) -> io::Result<()> {
        let mut world = self.disk.world();
        self.begin(&mut world, OpKind::SetMeta, 0, 0)?;
        let fits = world.reserve(self.inode, ranges);
        let ctime_ns = world.clock_ns;
        let attrs = Attrs { ctime_ns, ..world.state(self.inode)?.attrs.clone() };
        world.change(self.inode, Change::Attrs(attrs));
        world.end();
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut world = self.disk.world();
        self.begin(&mut world, OpKind::Punch, offset, bytes)?;
        let size = world.state(self.inode)?.content.size_bytes();
        let end = (offset + bytes).min(size);
        let end = if end == size { end.next_multiple_of(PAGE_BYTES) } else { end };
        if offset < end {
            self.make_hole(&mut world, offset, end)?;
        }
        world.change(self.inode, Change::Punch { offset, bytes });
        world.end();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.world().sync(self.inode)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok(self.disk.world().state(self.inode)?.content.next_data(offset))
    }

    /// Clones share pages until one of them is written, so a page's address in memory tells.
    fn placement(&self) -> io::Result<Option<Vec<Placed>>> {
        let mut world = self.disk.world();
        world.begin(OpKind::Read)?;
        let content = Arc::clone(&world.state(self.inode)?.content);
        let placed = content.iter().map(|(index, page)| Placed {
            offset: index * PAGE_BYTES,
            bytes: PAGE_BYTES,
            storage: Storage::At(Arc::as_ptr(page) as u64),
        });
        Ok(Some(placed.collect()))
    }

    fn meta(&self) -> io::Result<Meta> {
        let world = self.disk.world();
        let Attrs { mode, uid, gid, mtime_ns, xattrs, .. } = &world.state(self.inode)?.attrs;
        let xattrs = xattrs.as_ref().clone();
        Ok(Meta { mode: *mode, uid: *uid, gid: *gid, mtime_ns: *mtime_ns, xattrs })
    }

    fn set_meta(&self, meta: &Meta) -> io::Result<MetaOutcome> {
        let mut world = self.disk.world();
        // As on the real disk, a handle for reading will do.
        world.begin(OpKind::SetMeta)?;
        let mut outcome = MetaOutcome::default();
        let mut xattrs = meta.xattrs.clone();
        xattrs.retain(|(name, _)| {
            let refused = name.starts_with(b"security.");
            outcome.xattrs_refused.extend(refused.then(|| name.clone()));
            !refused
        });
        xattrs.sort_unstable();
        let attrs = Attrs {
            mode: meta.mode & 0o7777,
            uid: meta.uid,
            gid: meta.gid,
            mtime_ns: meta.mtime_ns,
            ctime_ns: world.clock_ns,
            xattrs: Arc::new(xattrs),
        };
        world.change(self.inode, Change::Attrs(attrs));
        world.end();
        Ok(outcome)
    }

    fn writer_free(&self) -> io::Result<Lease> {
        if self.writable {
            return Ok(match self.sole_opener()? {
                Lease::Held => Lease::Unknown,
                other => other,
            });
        }
        let openers = self.disk.world().inode(self.inode).openers;
        Ok(match (openers.foreign_writable, openers.own_writable) {
            (0, 0) => Lease::Free,
            (_, 0) => Lease::Held,
            _ => Lease::Unknown,
        })
    }

    fn sole_opener(&self) -> io::Result<Lease> {
        let openers = self.disk.world().inode(self.inode).openers;
        Ok(match (openers.foreign, openers.own) {
            (0, 1) => Lease::Free,
            (_, 1) => Lease::Held,
            _ => Lease::Unknown,
        })
    }

    fn shut_out(&self) -> io::Result<Lease> {
        let answer = self.sole_opener()?;
        // Nobody else has it open, so it is this handle that shuts it.
        self.disk.world().inode_mut(self.inode).openers.shut |= answer == Lease::Free;
        Ok(answer)
    }

    fn shut_left(&self) -> Duration {
        if self.disk.world().slow_leases { Duration::ZERO } else { Duration::MAX }
    }

    fn let_in(&self) -> io::Result<bool> {
        let mut world = self.disk.world();
        world.inode_mut(self.inode).openers.shut = false;
        Ok(!world.slow_leases)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        let openers = &mut world.inode_mut(self.inode).openers;
        openers.own -= 1;
        openers.own_writable -= usize::from(self.writable);
        openers.shut &= openers.own > 0;
        world.release_if_gone(self.inode);
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile(inode {})", self.inode)
    }
}

/// A file as redb's storage; its operations are in the same log as all others.
#[derive(Debug)]
pub(super) struct SimBackend {
    pub(super) file: SimFile,
}

impl StorageBackend for SimBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.stat()?.size_bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}

impl Drop for SimBackend {
    fn drop(&mut self) {
        self.file.disk.world().inode_mut(self.file.inode).openers.locked = false;
    }
}
