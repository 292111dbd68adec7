//! What is read back, and what a difference means.

use std::sync::Arc;

use blockferry_delta::NodeId;

use super::*;
use crate::disk::{Disk, Open, SimDisk};
use crate::layout::identity;
use crate::store::Options;

const SEGMENTS: u64 = 3;
const SIZE: u64 = SEGMENTS * SEGMENT_BYTES;

struct Bench {
    disk: SimDisk,
    store: Store,
    name: ImageName,
}

impl Bench {
    fn new() -> Self {
        let disk = SimDisk::new(7, 1 << 30);
        let store = Store::create(Arc::new(disk.clone()), identity(), &Options::default());
        let name = ImageName::new("vm.raw").expect("valid");
        Self { disk, store: store.expect("made"), name }
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let file = self.disk.open("vm.raw", Open::Create).expect("opened");
        file.write_at(bytes, offset).expect("written");
        file.sync().expect("synced");
    }

    fn record(&self) -> Root {
        let recorded = self.store.record(&self.name, NodeId::from_bytes([3; 32]), 0, &());
        recorded.expect("recorded").generation().root
    }

    fn read_back(&self, root: &Root, before: Option<&Proven>) -> ReadBack {
        self.store.read_back(&self.name, root, before, &()).expect("read")
    }
}

fn proven(outcome: ReadBack) -> Proven {
    match outcome {
        ReadBack::Good(proven) => proven,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_was_replaced_is_read_again() {
    let bench = Bench::new();
    bench.put(0, &vec![5; SIZE as usize]);
    let first = bench.record();
    let whole = proven(bench.read_back(&first, None));
    assert_eq!((whole.root, whole.bytes_read), (first, SIZE));
    bench.put(SEGMENT_BYTES + 70_000, b"an edit");
    let second = bench.record();
    assert_eq!(bench.read_back(&first, None), ReadBack::Moved, "it isn't current any more");
    let part = proven(bench.read_back(&second, Some(&whole)));
    // 70,000 lies in the second block of its segment.
    assert_eq!((part.root, part.bytes_read), (second, BLOCK_BYTES as u64));
    let other_file = Proven { inode: whole.inode + 1, ..whole };
    assert_eq!(proven(bench.read_back(&second, Some(&other_file))).bytes_read, SIZE);
    let grown = SIZE + 100;
    bench.put(SIZE, &[6; 100]);
    let third = bench.record();
    let tail = proven(bench.read_back(&third, Some(&part)));
    assert!(tail.bytes_read <= grown - SEGMENT_BYTES && tail.bytes_read >= 100, "{tail:?}");
    assert_eq!(proven(bench.read_back(&third, Some(&tail))).bytes_read, 0);
}

#[test]
fn what_was_recorded_from_a_clone_was_read_from_disk() {
    let bench = Bench::new();
    let current = || bench.store.current(&bench.name).expect("read").expect("recorded");
    let proved = |before: Option<&Proven>| {
        bench.store.proved_by_recording(&current(), before).expect("looked up")
    };
    bench.put(0, &vec![5; SIZE as usize]);
    let first = bench.record();
    let whole = proved(None).expect("all of it was read");
    assert_eq!(whole, proven(bench.read_back(&first, None)));
    bench.put(SEGMENT_BYTES + 70_000, b"an edit");
    let second = bench.record();
    assert_eq!(current().discover, Discover::Extents, "or this test shows nothing");
    assert_eq!(proved(None), None, "who vouches for the rest?");
    let part = proved(Some(&whole)).expect("what changed was read");
    assert_eq!((part.root, part.inode), (second, whole.inode));
    bench.put(90_000, b"another edit");
    bench.record();
    assert_eq!(proved(Some(&whole)), None, "two generations ago");
    assert!(proved(Some(&part)).is_some());
    bench.put(0, b"nobody has recorded this");
    assert_eq!(proved(Some(&part)), None, "it is another file by now");
}

#[test]
fn what_was_recorded_without_a_clone_is_read_back() {
    let bench = Bench::new();
    bench.disk.set_supports_clone(false);
    bench.put(0, &[5; 4096]);
    bench.record();
    let current = bench.store.current(&bench.name).expect("read").expect("recorded");
    assert_eq!(bench.store.proved_by_recording(&current, None).expect("looked up"), None);
}

#[test]
fn rot_is_found_and_a_change_is_no_rot() {
    let bench = Bench::new();
    bench.put(0, &vec![5; SIZE as usize]);
    let root = bench.record();
    bench.disk.flip_bit("vm.raw", SIZE - 5).expect("flipped");
    let ReadBack::Bad(report) = bench.read_back(&root, None) else { panic!("rot") };
    assert_eq!(report.bad.len(), 1);
    assert!(report.root_ok, "the map itself is right");
    bench.put(9, b"somebody's change");
    assert!(!bench.store.is_as_recorded(&bench.name).expect("looked at"));
    assert_eq!(bench.read_back(&root, None), ReadBack::Moved);
}

#[test]
fn it_ends_when_it_is_told_to() {
    struct Enough;
    impl Progress for Enough {
        fn advance(&self, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let bench = Bench::new();
    bench.put(0, &[5; 4096]);
    let root = bench.record();
    let ended = bench.store.read_back(&bench.name, &root, None, &Enough);
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
}

/// A rollback makes another file the image: of what that shares with the one that was read back
/// nothing is read again, of what it has for itself everything, also where it holds the same.
#[test]
fn of_what_went_back_only_what_lies_elsewhere_is_read() {
    for rewritten in [false, true] {
        let bench = Bench::new();
        bench.put(0, &vec![5; SIZE as usize]);
        bench.record();
        bench.put(SEGMENT_BYTES + 70_000, b"an edit");
        let second = bench.record();
        let whole = proven(bench.read_back(&second, None));
        if rewritten {
            let path = bench.store.kept(&bench.name).expect("read").remove(0).path;
            let file = bench.disk.open(&path, Open::ReadWrite).expect("opened");
            let mtime_ns = file.stat().expect("looked at").mtime_ns;
            file.write_at(&[5; 4096], 2 * SEGMENT_BYTES).expect("written");
            let meta = blockferry_delta::Meta { mtime_ns, ..file.meta().expect("read") };
            file.set_meta(&meta).expect("set");
        }
        let back = bench.store.rollback(&bench.name, 1, NodeId::from_bytes([3; 32]), 0, &());
        let root = back.expect("goes back").generation().root;
        let part = proven(bench.read_back(&root, Some(&whole)));
        let blocks = 1 + u64::from(rewritten);
        assert_eq!((part.root, part.bytes_read), (root, blocks * BLOCK_BYTES as u64));
        // Not as far as the file goes that nobody has read.
        let other_file = Proven { inode: whole.inode + 100, ..whole };
        assert_eq!(proven(bench.read_back(&root, Some(&other_file))).bytes_read, SIZE);
    }
}
