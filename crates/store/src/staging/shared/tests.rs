//! What is read of a kept content before it is current again, and that rot in it is found.

use std::sync::Arc;

use blockferry_delta::{ImageName, Meta, NodeId, SEGMENT_BYTES};

use super::*;
use crate::catalog::Checkpoint;
use crate::disk::{Disk, Open, SimDisk};
use crate::error::Error;
use crate::kept::Why;
use crate::layout::{STAGING, identity};
use crate::record::Recorded;
use crate::store::Options;

const SIZE: u64 = 6 * SEGMENT_BYTES;
/// Where the second content differs from the first.
const EDIT: u64 = SEGMENT_BYTES + 70_000;
const AUTHOR: NodeId = NodeId::from_bytes([3; 32]);

struct Bench {
    disk: SimDisk,
    store: Store,
    name: ImageName,
}

impl Bench {
    fn new() -> Self {
        Self::on(SimDisk::new(7, 1 << 30), &Options::default())
    }

    fn on(disk: SimDisk, options: &Options) -> Self {
        let store = Store::create(Arc::new(disk.clone()), identity(), options).expect("made");
        Self { disk, store, name: ImageName::new("vm.raw").expect("valid") }
    }

    /// An image whose second generation differs from the first by an edit.
    fn edited() -> Self {
        let bench = Self::new();
        bench.put(0, &vec![5; SIZE as usize]);
        bench.record();
        bench.put(EDIT, b"an edit");
        bench.record();
        bench
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let file = self.disk.open("vm.raw", Open::Create).expect("opened");
        file.write_at(bytes, offset).expect("written");
        file.sync().expect("synced");
    }

    fn record(&self) -> Generation {
        let recorded = self.store.record(&self.name, AUTHOR, 0, &());
        recorded.expect("recorded").generation().clone()
    }

    fn rollback(&self, number: u64) -> Result<Generation> {
        match self.store.rollback(&self.name, number, AUTHOR, 0, &())? {
            Recorded::New(generation) => Ok(generation),
            Recorded::Unchanged(_) => panic!("it wasn't current"),
        }
    }

    fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let file = self.disk.open("vm.raw", Open::Read).expect("opened");
        let mut read = vec![0; bytes];
        file.read_exact_at(&mut read, offset).expect("read");
        read
    }

    fn kept_path(&self) -> String {
        self.store.kept(&self.name).expect("read").remove(0).path
    }
}

#[test]
fn only_what_is_not_shared_is_read() {
    let bench = Bench::edited();
    let back = bench.rollback(1).expect("goes back");
    assert_eq!((back.number, back.discover), (3, Discover::Extents));
    assert!(back.bytes_read < SIZE / 4, "{} of {SIZE} bytes", back.bytes_read);
    assert!(bench.read(0, SIZE as usize) == vec![5; SIZE as usize]);
    assert!(bench.store.verify(&bench.name, &()).expect("reads").is_good());
    // And forth, to what the rollback displaced.
    let forth = bench.rollback(2).expect("goes forth");
    assert_eq!((forth.number, forth.discover), (4, Discover::Extents));
    assert_eq!(bench.read(EDIT, 7), b"an edit");
    assert!(bench.store.verify(&bench.name, &()).expect("reads").is_good());
}

/// A bit is another one, in what the kept content has for itself or in what it shared; as a disk does it,
/// or a program that puts the time back.
#[test]
fn rot_is_refused_wherever_it_is() {
    for (offset, by_disk) in [(EDIT, true), (EDIT, false), (9, true), (SIZE - 1, false)] {
        let bench = Bench::edited();
        let path = bench.kept_path();
        if by_disk {
            bench.disk.flip_bit(&path, offset).expect("flipped");
        } else {
            let file = bench.disk.open(&path, Open::ReadWrite).expect("opened");
            let mtime_ns = file.stat().expect("looked at").mtime_ns;
            file.write_at(&[4], offset).expect("written");
            let meta = Meta { mtime_ns, ..file.meta().expect("read") };
            file.set_meta(&meta).expect("set");
        }
        let refused = bench.rollback(1).expect_err("rotten");
        assert!(matches!(refused, Error::RootMismatch { .. }), "{offset}: {refused}");
        assert_eq!(bench.read(EDIT, 7), b"an edit", "the image is as it was");
        assert!(bench.disk.list(STAGING).expect("listed").is_empty(), "nothing is left");
        assert!(!bench.store.extents_are_off().expect("read"), "they told the truth");
    }
}

#[test]
fn what_shares_little_is_read_in_order() {
    let bench = Bench::new();
    for byte in [5, 6] {
        bench.put(0, &vec![byte; SIZE as usize]);
        bench.record();
    }
    let back = bench.rollback(1).expect("goes back");
    assert_eq!((back.discover, back.bytes_read), (Discover::Scan, SIZE));
    assert!(bench.read(0, SIZE as usize) == vec![5; SIZE as usize]);
}

#[test]
fn without_reflinks_all_of_it_is_read() {
    let disk = SimDisk::new(7, 1 << 30);
    disk.set_supports_clone(false);
    let options = Options { keep_generations: Some(2), ..Options::default() };
    let bench = Bench::on(disk, &options);
    // A history is kept of what is received, or goes back: without reflinks not of what is recorded.
    bench.put(0, &vec![5; SIZE as usize]);
    let first = bench.record();
    let kept = bench.store.keep_present(&bench.name, Why::History, true, 0);
    assert_eq!(kept.expect("kept").root(), Some(first.root));
    bench.put(EDIT, b"an edit");
    bench.record();
    let back = bench.rollback(1).expect("goes back");
    assert_eq!((back.discover, back.bytes_read), (Discover::Scan, SIZE));
}

/// Takes down what is told.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<(&'static str, String)>>);

impl Progress for Told {
    fn advance(&self, _: u64, _: u64) {}

    fn event(&self, code: &'static str, text: &str) {
        self.0.lock().unwrap().push((code, text.to_owned()));
    }
}

/// A file system that says of the image that it shares all storage with the kept content, though the
/// edit is recorded of it.
#[test]
fn a_difference_that_extents_miss_is_told() {
    for takes in [false, true] {
        let bench = Bench::edited();
        let kept = bench.store.kept(&bench.name).unwrap().remove(0);
        bench.disk.remove_file("vm.raw").unwrap();
        assert!(bench.disk.clone_file(&kept.path, "vm.raw").unwrap());
        let checkpoint = Some(Checkpoint::of(&bench.disk.stat("vm.raw").unwrap().unwrap()));
        let image = bench.store.catalog.read().unwrap().image(&bench.name).unwrap().unwrap();
        let write = bench.store.catalog.write().unwrap();
        write.put_image(&ImageRecord { checkpoint, ..image }).unwrap();
        write.commit().unwrap();

        let told = Told::default();
        let made = if takes {
            bench.store.take_kept(&bench.name, kept.serial, &[], AUTHOR, 0, &told).unwrap()
        } else {
            let recorded = bench.store.rollback(&bench.name, 1, AUTHOR, 0, &told).unwrap();
            recorded.generation().clone()
        };
        assert_eq!((made.number, made.discover), (3, Discover::Scan));
        let told = told.0.into_inner().unwrap();
        assert!(
            matches!(&told[..], [(EXTENTS_MISSED, text)] if text.contains("vm.raw")),
            "{told:?}"
        );
        assert!(bench.store.extents_are_off().unwrap());
    }
}
