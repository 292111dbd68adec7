//! Discovery by extents: whatever a user does to a file, the generation recorded is what the file
//! holds, and the blocks that weren't touched are not read.

pub(crate) mod loops;

use blockferry_store::{CommitMode, Discover, Recorded};
use blockferry_tests::{Edit, Rng, SIZES, Shape, Side, across, image_name};

/// One history of an image on the simulated disk: edits of all kinds, each recorded.
fn history(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let side = Side::new(1, CommitMode::Clone);
    let name = image_name("vm.raw");
    let size = *rng.pick(&SIZES);
    let mut bytes = rng.pick(&Shape::ALL).make(size, &mut rng);
    side.write(&name, &bytes);
    assert_eq!(side.record(&name).expect("records").discover, Discover::Scan, "the first time");
    let mut found = 0;
    for _ in 0..6 {
        let edit = *rng.pick(&Edit::ALL);
        bytes = edit.apply(&bytes, &mut rng);
        side.write(&name, &bytes);
        let recorded = side.try_record(&name).expect("records");
        let generation = recorded.generation();
        let root = blake3::hash(&bytes);
        assert_eq!(generation.root.as_bytes(), root.as_bytes(), "after {edit:?} of {size}");
        let report = side.store.verify(&name, &()).expect("verifies");
        assert!(report.is_good(), "the block map isn't the image's after {edit:?}: {report:?}");
        if let Recorded::New(new) = &recorded
            && new.discover != Discover::Metadata
        {
            assert_eq!(new.discover, Discover::Extents, "after {edit:?} of {size}");
            found += 1;
        }
    }
    found
}

/// `auto` holds bases of images that rest; nothing depends on it but how much is read.
#[test]
fn extents_of_images_written_all_day_are_not_compared() {
    const HOUR_MS: i64 = 3_600_000;
    for (every_ms, last) in [(HOUR_MS / 2, Discover::Scan), (2 * HOUR_MS, Discover::Extents)] {
        let side = Side::new(1, CommitMode::Clone);
        let name = image_name("vm.raw");
        let mut bytes = Shape::Files.make(300_000, &mut Rng::new(1));
        let mut found = Vec::new();
        for n in 0..20 {
            bytes[n as usize] ^= 1;
            side.write(&name, &bytes);
            let recorded = side.store.record(&name, side.node, n * every_ms, &());
            found.push(recorded.expect("records").generation().discover);
        }
        assert_eq!(found[5], Discover::Extents, "{found:?}");
        assert_eq!(found[19], last, "{found:?}");
        assert_eq!(side.private("base").is_empty(), last == Discover::Scan);
    }
}

#[test]
fn extents_never_miss_on_the_simulated_disk() {
    across("extents_never_miss", 300, "generations", history);
}
