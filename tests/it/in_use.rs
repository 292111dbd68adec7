//! Images that somebody keeps open for writing: put off by default, recorded as they are at one
//! instant where the store takes snapshots, and sent as they were then, whatever is written since.

mod loops;

use blockferry_store::disk::Disk;
use blockferry_store::disk::SimDisk;
use blockferry_store::{CommitMode, LookState, Options, Recorded};
use blockferry_tests::{Edit, Rng, SIZES, Shape, Side, across, image_name, options, replicate};

const NAME: &str = "vm.raw";

fn side(mode: CommitMode, snapshot: bool) -> Side {
    let disk = SimDisk::new(1, 1 << 30);
    disk.set_supports_clone(mode == CommitMode::Clone);
    Side::create(disk, 1, Options { snapshot, ..options(mode) })
}

#[test]
fn in_use_without_snapshots_or_reflinks_waits() {
    let rows = [(CommitMode::Clone, false), (CommitMode::Copy, true), (CommitMode::Copy, false)];
    for (mode, snapshot) in rows {
        let side = side(mode, snapshot);
        side.write(&image_name(NAME), &[7; 100_000]);
        side.disk.hold_open(NAME, true).expect("held");
        assert!(side.store.is_written(&image_name(NAME)).expect("asks"));
        let refused = side.record(&image_name(NAME)).expect_err("somebody writes it");
        assert_eq!(refused.code(), "IN_USE", "{mode:?} {snapshot}");
        assert_eq!(side.private("staging"), [""; 0]);
        side.disk.release(NAME).expect("released");
        assert!(!side.store.is_written(&image_name(NAME)).expect("asks"));
        side.record(&image_name(NAME)).expect("records");
    }
}

/// Each generation that is recorded under a writer travels as it was, though the file moved on.
fn history(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let (a, b) = (side(CommitMode::Clone, true), Side::new(2, CommitMode::Copy));
    let name = image_name(NAME);
    let mut bytes = rng.pick(&Shape::ALL).make(*rng.pick(&SIZES), &mut rng);
    a.write(&name, &bytes);
    a.disk.hold_open(NAME, true).expect("held");
    let mut sent = 0;
    for _ in 0..4 {
        let recorded = a.try_record(&name).expect("records");
        assert_eq!(recorded.generation().root.as_bytes(), blake3::hash(&bytes).as_bytes());
        let frozen = bytes.clone();
        bytes = rng.pick(&Edit::ALL).apply(&bytes, &mut rng);
        a.write(&name, &bytes);
        replicate(&a, &b, &name).expect("the snapshot travels");
        assert!(b.read(&name) == frozen, "what was frozen is what came");
        sent += 1;
    }
    a.disk.release(NAME).expect("released");
    sent
}

#[test]
fn in_use_snapshots_travel_as_they_were() {
    across("in_use_snapshots_travel", 60, "generations", history);
}

#[test]
fn in_use_and_idle_is_recorded_once() {
    let side = side(CommitMode::Clone, true);
    let name = image_name(NAME);
    side.write(&name, &[7; 100_000]);
    side.disk.hold_open(NAME, true).expect("held");
    assert!(matches!(side.try_record(&name).expect("records"), Recorded::New(_)));
    let looks = side.store.look().expect("looks");
    assert_eq!(looks[0].state, LookState::Unchanged, "its times prove that it is untouched");
    assert!(matches!(side.try_record(&name).expect("records"), Recorded::Unchanged(_)));
    assert_eq!(side.private("base"), [NAME], "it can be sent");
    assert_eq!(side.private("staging"), [""; 0]);
    assert!(side.disk.stat(NAME).expect("reads").is_some());
}
