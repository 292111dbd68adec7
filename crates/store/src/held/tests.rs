//! What is told when extents can't be relied on, or the clone that they are compared with is gone.

use std::sync::{Arc, Mutex};

use blockferry_delta::{BLOCK_BYTES, NodeId};

use super::*;
use crate::catalog::Generation;
use crate::discover::EXTENTS_MISSED;
use crate::disk::{Disk, SimDisk};
use crate::error::Error;
use crate::layout::identity;
use crate::store::Options;

/// All of it is in the sample.
const SIZE: usize = 8 * BLOCK_BYTES;

struct Bench {
    disk: SimDisk,
    store: Store,
}

/// Takes down what is told. It may give up as soon as something is.
#[derive(Default)]
struct Told {
    codes: Mutex<Vec<&'static str>>,
    gives_up: bool,
}

impl Progress for Told {
    fn advance(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.gives_up && !self.codes.lock().unwrap().is_empty()
    }

    fn event(&self, code: &'static str, _: &str) {
        self.codes.lock().unwrap().push(code);
    }
}

impl Bench {
    /// A store of images of which a clone is held.
    fn new(names: &[&str]) -> Self {
        let disk = SimDisk::new(7, 1 << 30);
        let options = Options::default();
        let store = Store::create(Arc::new(disk.clone()), identity(), &options).unwrap();
        let bench = Self { disk, store };
        for of in names {
            bench.put(of, 1);
            bench.record(of, &[]);
            assert!(bench.is_held(of));
        }
        bench
    }

    fn put(&self, name: &str, value: u8) {
        let file = self.disk.open(name, Open::Create).unwrap();
        file.write_at(&vec![value; SIZE], 0).unwrap();
        file.sync().unwrap();
    }

    fn try_record(&self, of: &str, told: &Told) -> Result<Generation> {
        let recorded = self.store.record(&name(of), NodeId::from_bytes([3; 32]), 0, told);
        recorded.map(|recorded| recorded.generation().clone())
    }

    /// Records an image, of which these codes are told.
    fn record(&self, of: &str, codes: &[&str]) -> Discover {
        let told = Told::default();
        let generation = self.try_record(of, &told).unwrap();
        assert_eq!(*told.codes.lock().unwrap(), codes);
        generation.discover
    }

    fn image(&self, of: &str) -> ImageRecord {
        self.store.catalog.read().unwrap().image(&name(of)).unwrap().unwrap()
    }

    fn row(&self, of: &str) -> Option<Held> {
        self.store.catalog.read().unwrap().held(self.image(of).id).unwrap()
    }

    /// Is there a clone as the catalog has it?
    fn is_held(&self, of: &str) -> bool {
        let row = self.row(of);
        row.is_some_and(|held| self.store.left_of(&name(of), held).unwrap().is_some())
    }
}

fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

#[test]
fn a_miss_is_told_though_the_record_fails() {
    let bench = Bench::new(&["a"]);
    bench.put("a", 2);
    // A file system that says that nothing has changed: the clone shares all storage with the image.
    let base = base_path(&name("a"));
    bench.disk.remove_file(&base).unwrap();
    assert!(bench.disk.clone_file("a", &base).unwrap());
    let checkpoint = Checkpoint::of(&bench.disk.stat(&base).unwrap().unwrap());
    let held = Held { checkpoint, ..bench.row("a").unwrap() };
    let write = bench.store.catalog.write().unwrap();
    write.put_held(bench.image("a").id, Some(&held)).unwrap();
    write.commit().unwrap();

    let told = Told { gives_up: true, ..Told::default() };
    let failed = bench.try_record("a", &told);
    assert!(matches!(failed, Err(Error::Cancelled)), "{failed:?}");
    assert_eq!(*told.codes.lock().unwrap(), [EXTENTS_MISSED]);
    assert!(bench.store.extents_are_off().unwrap());
    assert_eq!(bench.record("a", &[]), Discover::Scan, "and it is told once");
}

#[test]
fn a_lost_clone_is_told_once_and_another_is_made() {
    let base = base_path(&name("a"));
    let remove = |bench: &Bench| bench.disk.remove_file(&base).unwrap();
    let touch = |bench: &Bench| bench.put(&base, 9);
    for lose in [&remove as &dyn Fn(&Bench), &touch] {
        let bench = Bench::new(&["a"]);
        bench.put("a", 2);
        lose(&bench);
        let told = Told { gives_up: true, ..Told::default() };
        let failed = bench.try_record("a", &told);
        assert!(matches!(failed, Err(Error::Cancelled)), "{failed:?}");
        assert_eq!(*told.codes.lock().unwrap(), [BASE_LOST]);
        assert_eq!(bench.record("a", &[]), Discover::Scan, "it was told");
        assert!(bench.is_held("a"), "another one is held");
        bench.put("a", 3);
        assert_eq!(bench.record("a", &[]), Discover::Extents);
    }
}

#[test]
fn a_clone_that_was_given_up_is_not_missed() {
    let bench = Bench::new(&["a", "b"]);
    bench.store.drop_held(&name("b")).unwrap();
    for of in ["a", "b"] {
        assert!(bench.row(of).is_none());
        bench.put(of, 2);
        assert_eq!(bench.record(of, &[]), Discover::Scan);
    }
}

/// Whoever records an image puts the clone in place before the catalog knows of it.
#[test]
fn clones_of_images_that_are_worked_on_are_not_given_up() {
    let bench = Bench::new(&["a", "b", "c"]);
    let claims = ["a", "b"].map(|of| bench.store.claim(&name(of)).unwrap());
    bench.store.drop_held(&name("b")).unwrap();
    assert!(bench.is_held("a"), "somebody else works on it");
    assert!(!bench.is_held("b"), "that is who asks");
    assert!(!bench.is_held("c"));
    drop(claims);
    bench.put("a", 2);
    assert_eq!(bench.record("a", &[]), Discover::Extents);
    assert!(bench.store.claim(&name("c")).is_ok(), "it is free again");
}
