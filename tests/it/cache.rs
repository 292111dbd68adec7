//! The page cache is as it was after publishing, receiving, freshening a spare and verifying: what
//! wasn't cached isn't, what was stays. So it is where commits make copies and where they go by
//! journal. A store that is told to warm does the opposite.
//!
//! On a directory of this machine, because it is the kernel that is asked. Needs `cachestat` (Linux
//! 6.5) and a file system with a page cache.

use std::sync::Arc;

use blockferry_delta::ImageName;
use blockferry_store::disk::{Disk, Open, RealDisk};
use blockferry_store::{CommitMode, Options, Store};
use blockferry_tests::{Carried, Carry, Rng, author, image_name, store_identity};

const IMAGE_BYTES: usize = 32 << 20;
const PAGE: usize = 4096;
/// Parts of a file that may be cached of what wasn't: 2 %.
const COLD_PARTS: u64 = 50;

struct End {
    dir: tempfile::TempDir,
    disk: RealDisk,
    store: Arc<Store>,
}

impl End {
    fn new(options: &Options) -> End {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("opens");
        let store = Store::create(Arc::new(disk.clone()), store_identity(), options);
        End { dir, disk, store: Arc::new(store.expect("a store")) }
    }

    fn committing(commit: CommitMode) -> End {
        let commit = Some(commit);
        End::new(&Options { scan_threads: 2, commit, ..Options::default() })
    }

    fn inode(&self, name: &ImageName) -> u64 {
        self.disk.stat(name.as_str()).expect("looks").expect("it is there").inode
    }

    fn cached(&self, path: &str) -> Option<u64> {
        let file = self.disk.open(path, Open::Read).expect("opens");
        file.cached_bytes(0, file.stat().expect("looks").size_bytes).expect("asks")
    }

    /// Writes the image and makes sure that it is on disk and not cached.
    fn write_cold(&self, name: &ImageName, bytes: &[u8]) {
        let file = self.disk.open(name.as_str(), Open::Create).expect("opens");
        file.write_at(bytes, 0).expect("writes");
        file.sync().expect("syncs");
        file.forget().expect("forgets");
    }

    fn heat(&self, name: &ImageName) {
        let file = self.disk.open(name.as_str(), Open::Read).expect("opens");
        file.warm(0, IMAGE_BYTES as u64).expect("reads");
        assert!(self.is_hot(name), "reading fills the page cache");
    }

    fn is_hot(&self, name: &ImageName) -> bool {
        let cached = self.cached(name.as_str()).expect("it can be told");
        IMAGE_BYTES as u64 - cached <= IMAGE_BYTES as u64 / COLD_PARTS
    }

    /// Images, spares and whatever else there is, but for the catalog and but for `hot`.
    fn assert_cold(&self, hot: &[&ImageName], when: &str) {
        let dirs = ["", ".blockferry/staging", ".blockferry/spare", ".blockferry/base"];
        let (mut files, mut cached) = (0, 0);
        for dir in dirs {
            for entry in self.disk.list(dir).expect("lists") {
                let name = entry.name.to_string_lossy().into_owned();
                let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
                let is_hot = dir.is_empty() && hot.iter().any(|hot| hot.as_str() == name);
                if entry.kind == blockferry_store::disk::Kind::File && !is_hot {
                    files += 1;
                    cached += self.cached(&path).expect("it can be told");
                }
            }
        }
        let limit = IMAGE_BYTES as u64 / COLD_PARTS;
        eprintln!("cache: {when}: {cached} bytes of {files} files in {:?}", self.dir.path());
        assert!(cached <= limit, "{when}: {cached} bytes are cached, {limit} may be");
    }
}

fn carry(a: &End, b: &End, name: &ImageName) -> Carried {
    Carry::default().run(&a.store, &b.store, name).expect("carries")
}

fn record(end: &End, name: &ImageName) {
    end.store.record(name, author(1), 1, &()).expect("records");
}

/// Noise, so that all of it is stored, and pages that end in zeros, as files do.
fn image(rng: &mut Rng) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..IMAGE_BYTES / 8).flat_map(|_| rng.draw().to_le_bytes()).collect();
    bytes.chunks_mut(7 * PAGE).for_each(|file| {
        let end = file.len();
        file[end - 100..].fill(0);
    });
    bytes
}

/// The bytes of a new image of `end` that was not in the page cache when it was published; `None`: the
/// page cache can't be looked at here, so that nothing can be shown.
fn published(end: &End, name: &ImageName, rng: &mut Rng) -> Option<Vec<u8>> {
    let bytes = image(rng);
    end.write_cold(name, &bytes);
    if end.cached(name.as_str()) != Some(0) {
        eprintln!("skipped: the page cache can't be looked at, or files can't leave it");
        return None;
    }
    record(end, name);
    Some(bytes)
}

/// Writes to scattered pages: some alone, some many in a row.
fn edit(bytes: &mut [u8], rng: &mut Rng) {
    for _ in 0..60 {
        let first = rng.below((IMAGE_BYTES / PAGE) as u64) as usize;
        let pages = if rng.chance(1, 10) { 40 } else { 1 };
        for page in bytes.chunks_mut(PAGE).skip(first).take(pages) {
            page[..8].copy_from_slice(&rng.draw().to_le_bytes());
        }
    }
}

#[test]
fn cache_is_left_as_it_was() {
    left_as_it_was(CommitMode::Copy);
}

#[test]
fn cache_is_left_as_it_was_by_journals() {
    left_as_it_was(CommitMode::Journal);
}

fn left_as_it_was(commit: CommitMode) {
    let (a, b, mut rng) = (End::committing(commit), End::committing(commit), Rng::new(7));
    let name = image_name("vm.raw");
    let Some(mut bytes) = published(&a, &name, &mut rng) else { return };
    a.assert_cold(&[], "published");
    carry(&a, &b, &name);
    a.assert_cold(&[], "sent");
    b.assert_cold(&[], "received");
    for round in 0..3 {
        edit(&mut bytes, &mut rng);
        a.write_cold(&name, &bytes);
        record(&a, &name);
        a.assert_cold(&[], "published again");
        let inode = b.inode(&name);
        let carried = carry(&a, &b, &name);
        assert_eq!(b.inode(&name) == inode, commit == CommitMode::Journal, "in place");
        assert!(carried.base.is_some() && carried.sent_bytes < IMAGE_BYTES as u64 / 4);
        a.assert_cold(&[], "sent again");
        b.assert_cold(&[], "received again");
        if round > 0 {
            b.store.freshen_spare(&name).expect("freshens");
            b.assert_cold(&[], "the spare is fresh");
        }
    }
    assert!(b.store.verify(&name, &()).expect("reads").is_good());
    b.assert_cold(&[], "verified");

    // What machines run from stays.
    a.heat(&name);
    edit(&mut bytes, &mut rng);
    let file = a.disk.open(name.as_str(), Open::ReadWrite).expect("opens");
    file.write_at(&bytes, 0).expect("writes");
    file.sync().expect("syncs");
    drop(file);
    record(&a, &name);
    carry(&a, &b, &name);
    assert!(a.is_hot(&name), "published and sent");
    b.assert_cold(&[], "received from a hot image");
    b.heat(&name);
    assert!(b.store.verify(&name, &()).expect("reads").is_good());
    let other = image_name("other.raw");
    let shifted = [&bytes[IMAGE_BYTES / 2..], &bytes[..IMAGE_BYTES / 2]].concat();
    a.write_cold(&other, &shifted);
    record(&a, &other);
    let carried = carry(&a, &b, &other);
    assert!(carried.found_bytes > IMAGE_BYTES as u64 / 2, "{} found", carried.found_bytes);
    assert!(b.is_hot(&name), "verified, and chunks were found in it");
    b.assert_cold(&[&name], "chunks were found in a hot image");
    a.assert_cold(&[&name], "sent beside a hot image");
}

#[test]
fn cache_keeps_what_was_read_of_an_image_that_a_journal_changes() {
    let commit = CommitMode::Journal;
    let (a, b, mut rng) = (End::committing(commit), End::committing(commit), Rng::new(9));
    let name = image_name("vm.raw");
    let Some(mut bytes) = published(&a, &name, &mut rng) else { return };
    carry(&a, &b, &name);
    b.heat(&name);
    let inode = b.inode(&name);
    for _ in 0..3 {
        edit(&mut bytes, &mut rng);
        a.write_cold(&name, &bytes);
        record(&a, &name);
        carry(&a, &b, &name);
    }
    assert_eq!(b.inode(&name), inode, "in place");
    assert!(b.is_hot(&name), "received into a hot image");
}

#[test]
fn cache_keeps_what_a_journal_writes_where_it_is_to_be_warm() {
    let commit = Some(CommitMode::Journal);
    let (a, mut rng) = (End::new(&Options::default()), Rng::new(10));
    let b = End::new(&Options { warm: true, commit, ..Options::default() });
    let name = image_name("vm.raw");
    let Some(mut bytes) = published(&a, &name, &mut rng) else { return };
    carry(&a, &b, &name);
    b.disk.open(name.as_str(), Open::Read).and_then(|f| f.forget()).expect("forgets");
    let inode = b.inode(&name);
    edit(&mut bytes, &mut rng);
    a.write_cold(&name, &bytes);
    record(&a, &name);
    let before = b.cached(name.as_str()).expect("it can be told");
    let carried = carry(&a, &b, &name);
    assert_eq!(b.inode(&name), inode, "in place");
    let more = b.cached(name.as_str()).expect("it can be told").saturating_sub(before);
    assert!(more >= carried.sent_bytes && more > 0, "{more} bytes, {} sent", carried.sent_bytes);
}

#[test]
fn cache_is_filled_where_it_is_to_be() {
    let (a, mut rng) = (End::new(&Options::default()), Rng::new(8));
    let b = End::new(&Options { warm: true, ..Options::default() });
    let name = image_name("vm.raw");
    if published(&a, &name, &mut rng).is_none() {
        return;
    }
    carry(&a, &b, &name);
    b.disk.open(name.as_str(), Open::Read).and_then(|f| f.forget()).expect("forgets");
    assert!(!b.is_hot(&name));
    assert_eq!(a.store.warm(&name, &()).expect("does nothing"), 0);
    let available = b.disk.available_memory().expect("Linux says it");
    let read = b.store.warm(&name, &()).expect("reads");
    assert!(read > 0 && read <= available / 2, "{read} of {available}");
    assert!(b.is_hot(&name) || available < 4 * IMAGE_BYTES as u64);
    a.assert_cold(&[], "sent to a store that warms");
}
