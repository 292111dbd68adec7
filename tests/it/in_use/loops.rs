//! The same on XFS, with a real writer that never rests.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blockferry_delta::PageExtent;
use blockferry_store::disk::RealDisk;
use blockferry_store::{CommitMode, HoldBase, Options, Recorded, Store};
use blockferry_tests::{Rng, author, image_name, store_identity};

use crate::extents::loops::Mount;

const IMAGE_BYTES: u64 = 24 << 20;
const NAME: &str = "vm.raw";

#[test]
fn in_use_on_xfs_a_generation_is_what_was_cloned() {
    let Some(mount) = Mount::new(&["mkfs.xfs", "-q", "-m", "reflink=1"]) else { return };
    let dir = mount.path();
    let mut bytes = vec![0; IMAGE_BYTES as usize];
    Rng::new(1).fill(&mut bytes);
    std::fs::write(dir.join(NAME), &bytes).expect("written");
    let disk = Arc::new(RealDisk::open(&dir).expect("opens"));
    let options = Options { snapshot: true, hold_base: HoldBase::Never, ..Options::default() };
    let store = Arc::new(Store::create(disk, store_identity(), &options).expect("made"));
    assert_eq!(store.commit_mode(), CommitMode::Clone);
    let (name, stop, writes) = (image_name(NAME), AtomicBool::new(false), AtomicU64::new(0));
    let file = OpenOptions::new().write(true).open(dir.join(NAME)).expect("opens");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(2);
            while !stop.load(Ordering::Relaxed) {
                let at = rng.below(IMAGE_BYTES / 4096) * 4096;
                let page = [writes.fetch_add(1, Ordering::Relaxed) as u8; 4096];
                file.write_all_at(&page, at).expect("written");
            }
        });
        let holder = store.writer_of(&name).expect("this process");
        assert_eq!(holder.pid, Some(std::process::id()));
        let mut new = 0;
        for _ in 0..8 {
            let before = writes.load(Ordering::Relaxed);
            while writes.load(Ordering::Relaxed) < before + 50 {
                std::thread::yield_now();
            }
            let recorded = store.record(&name, author(1), 1, &()).expect("records");
            let clone = std::fs::read(dir.join(".blockferry/base").join(NAME)).expect("held");
            let generation = recorded.generation();
            assert_eq!(generation.root.as_bytes(), blake3::hash(&clone).as_bytes());
            // What is sent is what was cloned, while the writer goes on.
            let source = store.source(&name, generation.root).expect("can be read");
            let some = PageExtent { first: 100, count: 300 };
            let read = source.read(&[some]).expect("as it was");
            assert!(read == clone[100 * 4096..400 * 4096]);
            new += u64::from(matches!(recorded, Recorded::New(_)));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(new, 8, "the writer never rested");
    });
    drop(file);
    let last = store.record(&name, author(1), 1, &()).expect("records");
    let now = std::fs::read(dir.join(NAME)).expect("reads");
    assert_eq!(last.generation().root.as_bytes(), blake3::hash(&now).as_bytes());
    assert!(store.verify(&name, &()).expect("verifies").is_good());
}
