//! One end of a transfer: a simulated disk and the store on it, and what a user does to its files.

use std::io;
use std::sync::Arc;

use blockferry_delta::{ImageName, Meta, NodeId, StoreId, StoreKey, StoreName, is_zero};
use blockferry_store::disk::{CrashPlan, Disk, Keep, Open, SimDisk};
use blockferry_store::{
    CommitMode, Generation, Look, LookState, Options, Recorded, RecoveryReport, Result, Store,
    StoreIdentity,
};

const PAGE: usize = 4096;

/// A store on a simulated disk.
#[derive(Debug)]
pub struct Side {
    /// The disk; it outlives the store.
    pub disk: SimDisk,
    /// The store, unless it is shut.
    pub store: Arc<Store>,
    /// What it was opened with.
    pub options: Options,
    /// Who records here.
    pub node: NodeId,
}

/// The identity all stores of the tests share.
pub fn store_identity() -> StoreIdentity {
    StoreIdentity {
        name: StoreName::new("vdisks").expect("a valid name"),
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    }
}

/// Options of a small store in which nothing depends on the machine.
pub fn options(mode: CommitMode) -> Options {
    Options {
        commit: Some(mode),
        scan_threads: 1,
        cache_bytes: 1 << 20,
        monotonic_ms: || 0,
        incarnation: || 0,
        ..Options::default()
    }
}

/// A node of this number.
pub fn author(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// A name that is valid.
pub fn image_name(text: &str) -> ImageName {
    ImageName::new(text).expect("a valid name")
}

/// The bytes of a file.
pub fn whole(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let mut bytes = vec![0; file.stat()?.size_bytes as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Makes a file hold `bytes` the way its owner would: what differs is written in place, zeros
/// become holes.
pub fn put(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let old = if disk.stat(path)?.is_some() { whole(disk, path)? } else { Vec::new() };
    let file = disk.open(path, Open::Create)?;
    file.set_len(bytes.len() as u64)?;
    let same = |from: usize, to: usize| {
        let kept = old.get(from.min(old.len())..to.min(old.len())).unwrap_or_default();
        let (head, tail) = bytes[from..to].split_at(kept.len().min(to - from));
        head == kept && is_zero(tail)
    };
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + PAGE).min(bytes.len());
        if !same(at, end) {
            match is_zero(&bytes[at..end]) {
                true => file.punch(at as u64, (end - at) as u64)?,
                false => file.write_at(&bytes[at..end], at as u64)?,
            }
        }
        at = end;
    }
    file.sync()?;
    disk.sync_dir("")
}

impl Side {
    /// A new store on a new disk of 1 GiB.
    pub fn new(number: u8, mode: CommitMode) -> Side {
        let disk = SimDisk::new(number.into(), 1 << 30);
        disk.set_supports_clone(mode == CommitMode::Clone);
        Side::create(disk, number, options(mode))
    }

    /// A new store on `disk`.
    pub fn create(disk: SimDisk, number: u8, options: Options) -> Side {
        let made = Store::create(Arc::new(disk.clone()), store_identity(), &options);
        let store = Arc::new(made.expect("an empty disk takes a store"));
        Side { disk, store, options, node: author(number) }
    }

    /// Opens the store that is on `disk`.
    pub fn open(disk: SimDisk, number: u8, options: Options) -> Result<(Side, RecoveryReport)> {
        let (store, report) = Store::open(Arc::new(disk.clone()), &options)?;
        let node = author(number);
        Ok((Side { disk, store: Arc::new(store), options, node }, report))
    }

    /// Shuts the store and opens it again.
    pub fn reopen(self) -> Result<(Side, RecoveryReport)> {
        let Side { disk, store, options, node } = self;
        let store = Arc::into_inner(store).expect("nobody else has the store");
        drop(store);
        let (store, report) = Store::open(Arc::new(disk.clone()), &options)?;
        Ok((Side { disk, store: Arc::new(store), options, node }, report))
    }

    /// Makes an image's file hold `bytes`.
    pub fn write(&self, name: &ImageName, bytes: &[u8]) {
        put(&self.disk, name.as_str(), bytes).expect("the disk takes it");
    }

    /// The bytes of an image's file.
    pub fn read(&self, name: &ImageName) -> Vec<u8> {
        whole(&self.disk, name.as_str()).expect("the file is there")
    }

    /// Sets mode, owner, time and attributes of an image's file.
    pub fn set_meta(&self, name: &ImageName, meta: &Meta) {
        let file = self.disk.open(name.as_str(), Open::ReadWrite).expect("the file is there");
        file.set_meta(meta).expect("the disk takes it");
        file.sync().expect("the disk takes it");
    }

    /// Mode, owner, time and attributes of an image's file.
    pub fn meta(&self, name: &ImageName) -> Meta {
        let file = self.disk.open(name.as_str(), Open::Read).expect("the file is there");
        file.meta().expect("a file has them")
    }

    /// Storage an image's file uses, in bytes.
    pub fn allocated(&self, name: &ImageName) -> u64 {
        let stat = self.disk.stat(name.as_str()).expect("the disk answers");
        stat.expect("the file is there").allocated_bytes
    }

    /// Records what an image's file holds.
    pub fn record(&self, name: &ImageName) -> Result<Generation> {
        self.try_record(name).map(|recorded| recorded.generation().clone())
    }

    /// Records what an image's file holds, and whether that was new.
    pub fn try_record(&self, name: &ImageName) -> Result<Recorded> {
        self.store.record(name, self.node, 1, &())
    }

    /// What was set aside: paths of what is kept until somebody acknowledges it.
    pub fn set_aside(&self) -> Vec<String> {
        let kept = self.store.all_kept().expect("reads");
        kept.into_iter().filter(|kept| kept.pinned).map(|kept| kept.path).collect()
    }

    /// Names in a private directory: `staging`, `spare` or `kept`.
    pub fn private(&self, dir: &str) -> Vec<String> {
        let entries =
            self.disk.list(&format!(".blockferry/{dir}")).expect("the directory is there");
        entries.into_iter().map(|e| e.name.to_string_lossy().into_owned()).collect()
    }

    /// Shuts the store and opens it again; once more if a fault that was still armed hits that.
    pub fn reopen_despite_a_fault(self) -> Result<(Side, RecoveryReport)> {
        let Side { disk, store, options, node } = self;
        drop(store);
        let open = || Store::open(Arc::new(disk.clone()), &options);
        let (store, report) = open().or_else(|_| open())?;
        Ok((Side { disk, store: Arc::new(store), options, node }, report))
    }

    /// A crash may cost the inode's ctime, so that the next look wants a scan: it must find the
    /// very generation. Returns whether that was so.
    pub fn rescan_after_crash(&self, name: &ImageName) -> Result<bool> {
        let looks = self.store.look()?;
        let changed = |l: &Look| l.name == name.as_str() && l.state == LookState::Changed;
        if !looks.iter().any(changed) {
            return Ok(false);
        }
        let recorded = self.try_record(name)?;
        assert!(matches!(recorded, Recorded::Unchanged(_)), "a crash made a change: {recorded:?}");
        Ok(true)
    }

    /// The bytes of an image's file, even while calls are made to fail.
    pub fn read_unfailing(&self, name: &ImageName) -> Vec<u8> {
        let healthy = self.disk.crash(CrashPlan { seed: 0, keep: Keep::Everything, tear: false });
        whole(&healthy, name.as_str()).expect("the file is there")
    }

    /// What the service does about an image whose file isn't what its checkpoint says.
    pub fn rescan_or_changed(&self, name: &ImageName) -> Result<()> {
        let looks = self.store.look()?;
        if looks.iter().any(|l| l.name == name.as_str() && l.state != LookState::Unchanged) {
            self.try_record(name)?;
        }
        Ok(())
    }
}
