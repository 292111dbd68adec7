//! A disk in memory that loses power on demand.
//!
//! Files, directories and redb's catalog share one state and one log of operations in order; a
//! sync moves operations from the log to what is durable. [`SimDisk::crash`] makes the disk a
//! power cut would leave, [`SimDisk::record`] keeps the state after every operation so that all
//! of them can be crashed from one run, and faults make chosen calls fail. All that looks random
//! comes from a seed.

mod content;
mod crash;
mod fault;
mod file;
mod log;
mod rng;
mod space;
mod world;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crash::{CrashPlan, Keep};
pub use fault::{OpKind, PowerGone};

use self::content::PAGE_BYTES;
use self::file::{SimBackend, SimFile};
use self::log::{Change, Op};
use self::world::{Body, World};
use super::path::{check, check_dir};
use super::{CatalogBackend, DirEntry, Disk, DiskFile, Kind, Open, RenameHow, Space, Stat};

/// Bytes that `copy_extents` copies in one operation.
const COPY_BYTES: u64 = 1 << 20;

/// The simulated disk. Clones are handles of the same disk.
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    hooks: Arc<Mutex<Vec<Hook>>>,
}

/// What happens just before a call: its kind, the file's inode, how many calls are left.
struct Hook {
    kind: OpKind,
    inode: u64,
    left: usize,
    run: Box<dyn FnOnce(&SimDisk) + Send>,
}

/// The disk as it was after an operation, see [`SimDisk::recorded`].
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How many operations had happened: what [`SimDisk::ops`] said then.
    pub ops: usize,
    /// A disk of its own in that state, pending operations included; to be crashed.
    pub disk: SimDisk,
}

impl SimDisk {
    /// An empty disk of this many bytes. The seed gives the device number; crashes have their own.
    pub fn new(seed: u64, capacity_bytes: u64) -> SimDisk {
        SimDisk::of(World::new(seed, capacity_bytes))
    }

    fn of(world: World) -> SimDisk {
        SimDisk { world: Arc::new(Mutex::new(world)), hooks: Arc::default() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A test that panicked may still want to look.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk a power cut at this moment leaves. This one stays as it is.
    pub fn crash(&self, plan: CrashPlan) -> SimDisk {
        SimDisk::of(self.world().crashed(plan))
    }

    /// Number of operations so far that changed the disk or what of it is durable: syncs count,
    /// reads and refused calls don't.
    pub fn ops(&self) -> usize {
        self.world().ops
    }

    /// Number of operations that a crash now could lose.
    pub fn pending(&self) -> usize {
        self.world().log.len()
    }

    /// Once this many operations have happened, every further change fails with [`PowerGone`].
    pub fn cut_after(&self, ops: usize) {
        self.world().cut_after = Some(ops);
    }

    /// Starts keeping the state now and after every operation.
    pub fn record(&self) {
        let mut world = self.world();
        world.recorded = vec![world.fork()];
        world.recording = true;
    }

    /// Stops keeping and hands out what was kept since [`SimDisk::record`], oldest first.
    pub fn recorded(&self) -> Vec<Snapshot> {
        let mut world = self.world();
        world.recording = false;
        let recorded = std::mem::take(&mut world.recorded);
        let snapshot = |world: World| Snapshot { ops: world.ops, disk: SimDisk::of(world) };
        recorded.into_iter().map(snapshot).collect()
    }

    /// Makes the `nth` call of a kind from now fail (1: the next one), without effect.
    pub fn fail_at(&self, kind: OpKind, nth: usize, error: io::ErrorKind) {
        self.world().faults.arm(kind, nth, error);
    }

    /// Runs something just before the `nth` call from now (1: the next one) that opens an existing
    /// file (`Open`) or writes to it (`Write`).
    pub fn before(
        &self,
        path: &str,
        kind: OpKind,
        nth: usize,
        run: impl FnOnce(&SimDisk) + Send + 'static,
    ) -> io::Result<()> {
        let (_, inode) = self.world().existing(path)?;
        let hook = Hook { kind, inode, left: nth, run: Box::new(run) };
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
        Ok(())
    }

    fn run_hooks(&self, kind: OpKind, inode: u64) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let meant = |hook: &Hook| hook.kind == kind && hook.inode == inode;
        hooks.iter_mut().filter(|hook| meant(hook)).for_each(|hook| hook.left -= 1);
        let due: Vec<Hook> = hooks.extract_if(.., |hook| hook.left == 0).collect();
        // They may use this disk themselves.
        drop(hooks);
        due.into_iter().for_each(|hook| (hook.run)(self));
    }

    /// Makes the `nth` sync of a file (or of redb) from now fail and drop the pages it should have
    /// saved. As on a real system they can still be read, and later syncs succeed without them.
    pub fn fail_sync(&self, nth: usize) {
        self.world().faults.arm_sync(nth);
    }

    /// Sets the capacity in bytes. What exceeds it fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.world().capacity_bytes = bytes;
    }

    /// Whether `clone_file` works; it does at first.
    pub fn set_supports_clone(&self, supported: bool) {
        self.world().supports_clone = supported;
    }

    /// Whether leases are given back too late, when the kernel has let openers in; at first not.
    pub fn set_slow_leases(&self, slow: bool) {
        self.world().slow_leases = slow;
    }

    /// Lets the medium rot: flips the lowest bit of a byte, durably and without a trace.
    pub fn flip_bit(&self, path: &str, offset: u64) -> io::Result<()> {
        let mut world = self.world();
        let (_, inode) = world.existing(path)?;
        if let Body::File { now, durable, .. } = &mut world.inode_mut(inode).body {
            Arc::make_mut(&mut now.content).flip(offset);
            Arc::make_mut(&mut durable.content).flip(offset);
        }
        Ok(())
    }

    /// Another process opens the file, for writing or only for reading. `WouldBlock`: it has to
    /// wait.
    pub fn hold_open(&self, path: &str, write: bool) -> io::Result<()> {
        let mut world = self.world();
        let (_, inode) = world.existing(path)?;
        let openers = &mut world.inode_mut(inode).openers;
        if openers.shut {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        openers.foreign += 1;
        openers.foreign_writable += usize::from(write);
        Ok(())
    }

    /// All other processes close the file.
    pub fn release(&self, path: &str) -> io::Result<()> {
        let mut world = self.world();
        let (_, inode) = world.existing(path)?;
        let openers = &mut world.inode_mut(inode).openers;
        (openers.foreign, openers.foreign_writable) = (0, 0);
        Ok(())
    }

    /// Sets the simulated clock, nanoseconds since 1970. It moves by 1 ms with every operation.
    pub fn set_clock_ns(&self, now_ns: i128) {
        self.world().clock_ns = now_ns;
    }

    /// The simulated clock, nanoseconds since 1970.
    pub fn clock_ns(&self) -> i128 {
        self.world().clock_ns
    }

    /// Opens or creates a regular file; gives its inode.
    fn inode_for(&self, path: &str, how: Open, writable: bool) -> io::Result<u64> {
        check(path)?;
        let there = self.world().existing(path).ok();
        if let Some((_, inode)) = there {
            self.run_hooks(OpKind::Open, inode);
        }
        let mut world = self.world();
        let (entry, found) = world.entry(path)?;
        let inode = match (found, how) {
            (None, Open::Read | Open::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => {
                world.begin(OpKind::Open)?;
                world.state(inode)?;
                if world.inode(inode).openers.shut {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                inode
            }
            (None, Open::CreateNew | Open::Create) => {
                world.begin(OpKind::Create)?;
                let inode = world.create(entry, Kind::File);
                world.end();
                inode
            }
        };
        let openers = &mut world.inode_mut(inode).openers;
        openers.own += 1;
        openers.own_writable += usize::from(writable);
        Ok(inode)
    }

    fn file(&self, path: &str, how: Open) -> io::Result<SimFile> {
        let writable = how != Open::Read;
        let inode = self.inode_for(path, how, writable)?;
        Ok(SimFile { disk: self.clone(), inode, writable })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        write!(f, "SimDisk({} operations, {} pending)", world.ops, world.log.len())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.file(path, how)?))
    }

    fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        check_dir(path)?;
        let world = self.world();
        if path.is_empty() {
            return Ok(Some(world.stat(world::ROOT)));
        }
        match world.entry(path) {
            Ok((_, found)) => Ok(found.map(|inode| world.stat(inode))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        check_dir(dir)?;
        let world = self.world();
        let names = world.names(world.dir(dir)?)?;
        let entry = |(name, inode): (&String, &u64)| DirEntry {
            name: name.into(),
            kind: world.stat(*inode).kind,
        };
        Ok(names.iter().map(entry).collect())
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        check(path)?;
        let mut world = self.world();
        match world.entry(path)? {
            (_, Some(inode)) if world.stat(inode).kind == Kind::Dir => Ok(()),
            (_, Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (entry, None) => {
                world.begin(OpKind::MakeDir)?;
                world.create(entry, Kind::Dir);
                world.end();
                Ok(())
            }
        }
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        check(path)?;
        let mut world = self.world();
        let (at, inode) = match world.existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        world.state(inode)?;
        world.begin(OpKind::Remove)?;
        world.rename_op(Op::Unlink { at, inode });
        world.end();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str, how: RenameHow) -> io::Result<()> {
        check(from)?;
        check(to)?;
        let mut world = self.world();
        let (from, inode) = world.existing(from)?;
        let (to, target) = world.entry(to)?;
        let op = match (how, target) {
            (RenameHow::NoReplace, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (RenameHow::Exchange, None) => return Err(io::ErrorKind::NotFound.into()),
            (_, Some(same)) if same == inode => return Ok(()),
            (RenameHow::Exchange, Some(target)) => {
                Op::Exchange { a: from, b: to, inodes: (inode, target) }
            }
            (_, replaced) => {
                // Only files are replaced, and only by files.
                if let Some(replaced) = replaced {
                    world.state(replaced)?;
                    world.state(inode)?;
                }
                Op::Rename { from, to, inode, replaced }
            }
        };
        world.begin(OpKind::Rename)?;
        world.rename_op(op);
        world.end();
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        let mut world = self.world();
        let dir = world.dir(dir)?;
        world.begin(OpKind::SyncDir)?;
        world.sync_dir(dir);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let world = self.world();
        let total_bytes = world.capacity_bytes;
        Ok(Space { free_bytes: world.free_pages() * PAGE_BYTES, total_bytes })
    }

    fn clone_file(&self, from: &str, to: &str) -> io::Result<bool> {
        check(from)?;
        check(to)?;
        let mut world = self.world();
        let (_, source) = world.existing(from)?;
        let content = Arc::clone(&world.state(source)?.content);
        if content.size_bytes() == 0 {
            return Ok(false);
        }
        let (entry, found) = world.entry(to)?;
        if found.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !world.supports_clone {
            return Ok(false);
        }
        world.begin(OpKind::Clone)?;
        let target = world.create(entry, Kind::File);
        let shared = content.iter().map(|(page, _)| page).collect();
        world.change(target, Change::Become(content));
        if let Body::File { unpaid, .. } = &mut world.inode_mut(target).body {
            *unpaid = shared;
        }
        world.cloned = true;
        world.end();
        Ok(true)
    }

    fn copy_extents(&self, from: &str, to: &str, extents: &[(u64, u64)]) -> io::Result<()> {
        let source = self.file(from, Open::Read)?;
        let target = self.file(to, Open::ReadWrite)?;
        for &(start, bytes) in extents {
            let end = start.checked_add(bytes).ok_or(io::ErrorKind::InvalidInput)?;
            let mut at = start;
            while at < end {
                let mut data = vec![0; (end - at).min(COPY_BYTES) as usize];
                source.read_exact_at(&mut data, at)?;
                target.write_at(&data, at)?;
                at += data.len() as u64;
            }
        }
        Ok(())
    }

    fn backend(&self, path: &str) -> io::Result<CatalogBackend> {
        let file = self.file(path, Open::Create)?;
        let mut world = self.world();
        let openers = &mut world.inode_mut(file.inode).openers;
        if openers.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        openers.locked = true;
        drop(world);
        Ok(CatalogBackend::new(SimBackend { file }))
    }
}

#[cfg(test)]
mod tests;
