//! What is read back, and what a difference means.

use std::sync::Arc;

use blockferry_delta::{NodeId, StoreId, StoreKey, StoreName};

use super::*;
use crate::disk::{Disk, Open, SimDisk};
use crate::layout::StoreIdentity;
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
        let identity = StoreIdentity {
            name: StoreName::new("vdisks").expect("valid"),
            id: StoreId::from_bytes([1; 16]),
            key: StoreKey::from_bytes([2; 32]),
        };
        let store = Store::create(Arc::new(disk.clone()), identity, &Options::default());
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
    assert_eq!((part.root, part.bytes_read), (second, SEGMENT_BYTES));
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
