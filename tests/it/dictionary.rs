//! Dictionaries from the held base: an edit costs its size and not that of its pages, wherever it
//! moved what it is in; and whatever becomes of a dictionary, the right bytes arrive.

use std::sync::Arc;

use blockferry_delta::PageExtent;
use blockferry_store::disk::RealDisk;
use blockferry_store::{CommitMode, HoldBase, Options, Store};
use blockferry_tests::{
    Edit, Ended, Pair, Rng, Shape, Trouble, across, author, carry_over, image_name, put,
    store_identity,
};
use blockferry_wire::Message;

use crate::extents::loops::Mount;

const NAME: &str = "vm.raw";
const CLONES: [CommitMode; 2] = [CommitMode::Clone; 2];

/// A few bytes are put in, or taken out, in the middle of something as long as a library: the rest
/// of it moves, what is behind it doesn't.
fn rebuild(image: &mut [u8], rng: &mut Rng) {
    let longest = (image.len() as u64).min(600_000);
    let bytes = (1 + rng.below(longest)) as usize;
    let start = rng.below((image.len() - bytes + 1) as u64) as usize;
    let file = &mut image[start..start + bytes];
    for _ in 0..1 + rng.below(4) {
        let by = (8 + rng.below(193) as usize).min(bytes / 2);
        let at = rng.below((bytes - by + 1) as u64) as usize;
        if rng.chance(3, 4) {
            file.copy_within(at..bytes - by, at + by);
            rng.fill(&mut file[at..at + by]);
        } else {
            file.copy_within(at + by.., at);
        }
    }
}

/// One history: edits of all kinds, most of them small, each brought over. Returns how many packs
/// had dictionaries.
fn history(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let to = *rng.pick(&[CommitMode::Clone, CommitMode::Copy]);
    let mut pair = Pair::in_modes(seed, [CommitMode::Clone, to]);
    let name = image_name(NAME);
    let size = 1 + rng.below(9 << 20);
    let mut bytes = rng.pick(&Shape::ALL).make(size, &mut rng);
    for round in 0..5 {
        if round > 0 {
            match rng.below(4) {
                0 => bytes = rng.pick(&Edit::ALL).apply(&bytes, &mut rng),
                1 => (0..20).for_each(|_| bytes = Edit::Byte.apply(&bytes, &mut rng)),
                _ => (0..3).for_each(|_| rebuild(&mut bytes, &mut rng)),
            }
        }
        pair.side(0).write(&name, &bytes);
        pair.side(0).record(&name).expect("records");
        let ended = pair.transfer(0, &name, Trouble::None);
        assert_eq!(ended, Ended::Receipt, "round {round}");
        assert!(pair.side(1).read(&name) == bytes, "the copy differs in round {round}");
        let current = pair.side(1).store.current(&name).expect("reads").expect("it is here");
        assert_eq!(current.root.as_bytes(), blake3::hash(&bytes).as_bytes());
    }
    pair.trace.packs[1]
}

#[test]
fn dictionaries_random_edits_end_in_the_right_root() {
    across("dictionaries_random_edits", 60, "packs with a dictionary", history);
}

/// Two nodes that hold 6 MiB of files which don't compress, with some of them rebuilt at the first.
fn rebuilt(tamper: fn(&mut Message)) -> (Pair, Vec<u8>) {
    let mut pair = Pair::in_modes(7, CLONES);
    let name = image_name(NAME);
    let mut rng = Rng::new(7);
    let mut bytes = vec![0; 6 << 20];
    for file in bytes.chunks_mut(200_000) {
        let used = file.len() - 1000;
        rng.fill(&mut file[..used]);
    }
    pair.side(0).write(&name, &bytes);
    pair.side(0).record(&name).expect("records");
    assert_eq!(pair.transfer(0, &name, Trouble::None), Ended::Receipt);
    assert_eq!(pair.trace.packs[1], 0, "there was no base");
    for file in bytes.chunks_mut(200_000).step_by(2) {
        file.copy_within(90_000..190_000, 90_123);
        rng.fill(&mut file[90_000..90_123]);
        file[30_000] ^= 1;
    }
    pair.side(0).write(&name, &bytes);
    pair.side(0).record(&name).expect("records");
    pair.tamper = tamper;
    (pair, bytes)
}

fn arrives(mut pair: Pair, bytes: &[u8]) -> Pair {
    let name = image_name(NAME);
    assert_eq!(pair.transfer(0, &name, Trouble::None), Ended::Receipt);
    assert!(pair.side(1).read(&name) == bytes, "the copy differs");
    assert!(pair.side(1).store.verify(&name, &()).expect("reads").is_good());
    pair
}

#[test]
fn dictionaries_make_rebuilt_files_cost_their_edits() {
    let (pair, bytes) = rebuilt(|_| {});
    let before = pair.trace.clone();
    let after = arrives(pair, &bytes).trace;
    assert_eq!(after.packs[0], before.packs[0], "every pack had a dictionary");
    let (sent, pages) = (after.pack_bytes[1], after.page_bytes[1]);
    assert!(pages > 16 * 40_000 && sent * 20 < pages, "{sent} bytes for {pages} of pages");
}

#[test]
fn dictionaries_need_a_held_base_and_a_level_playing_field() {
    // The content before the last is not held: the receiver is two generations behind.
    let (pair, mut bytes) = rebuilt(|_| {});
    let name = image_name(NAME);
    bytes[77] ^= 1;
    pair.side(0).write(&name, &bytes);
    pair.side(0).record(&name).expect("records");
    let after = arrives(pair, &bytes).trace;
    assert_eq!(after.packs[1], 0);
    // Held clones are given up when room is short.
    let (pair, bytes) = rebuilt(|_| {});
    let (side, free) = (pair.side(0), 1_u64 << 40);
    let request = blockferry_store::StageRequest {
        generation: blockferry_store::Generation {
            image: image_name("huge.raw"),
            size_bytes: free,
            ..side.store.current(&name).expect("reads").expect("recorded")
        },
        base: None,
        dirty_bytes: free,
        keep_replaced: false,
    };
    assert_eq!(side.store.stage(request).expect_err("no room").code(), "DISK_FULL");
    assert!(side.private("base").is_empty() && side.private("before").is_empty());
    assert_eq!(arrives(pair, &bytes).trace.packs[1], 0);
}

/// Whatever a dictionary is said to be, it costs a second sending at most.
#[test]
fn dictionaries_that_lie_are_wanted_again_without() {
    fn change(message: &mut Message, change: impl Fn(&mut Vec<PageExtent>)) {
        if let Message::Pack(pack) = message
            && !pack.dictionary.is_empty()
        {
            change(&mut pack.dictionary);
        }
    }
    let lies: [fn(&mut Message); 4] = [
        |m| change(m, |d| *d = vec![PageExtent { first: 0, count: 640 }]),
        |m| change(m, |d| d.last_mut().expect("not empty").count += 1),
        |m| change(m, |d| *d = vec![PageExtent { first: 1 << 40, count: 1 }]),
        |m| change(m, |d| *d = vec![PageExtent { first: u64::MAX - 1, count: 1 }]),
    ];
    for lie in lies {
        let (pair, bytes) = rebuilt(lie);
        let before = pair.trace.clone();
        let after = arrives(pair, &bytes).trace;
        assert!(after.packs[1] > 0 && after.packs[0] > before.packs[0], "{after:?}");
    }
    let (pair, bytes) = rebuilt(|message| {
        if let Message::Pack(pack) = message
            && !pack.dictionary.is_empty()
        {
            let middle = pack.bytes.len() / 2;
            let mut bytes = pack.bytes.to_vec();
            bytes[middle] ^= 0x55;
            pack.bytes = bytes.into();
        }
    });
    arrives(pair, &bytes);
}

/// Two stores on one XFS, and the same files rebuilt again and again.
#[test]
fn dictionaries_on_xfs() {
    let Some(mount) = Mount::new(&["mkfs.xfs", "-q", "-m", "reflink=1"]) else { return };
    let dirs = ["a", "b"].map(|dir| mount.path().join(dir));
    let options = Options { scan_threads: 2, hold_base: HoldBase::Always, ..Options::default() };
    let disks = dirs.map(|dir| {
        std::fs::create_dir(&dir).expect("a directory");
        Arc::new(RealDisk::open(&dir).expect("opens"))
    });
    let stores = disks
        .clone()
        .map(|disk| Arc::new(Store::create(disk, store_identity(), &options).expect("made")));
    let (name, mut rng) = (image_name(NAME), Rng::new(3));
    let mut bytes = Shape::Files.make(12 << 20, &mut rng);
    let (mut with, mut sent, mut pages) = (0, 0, 0);
    for round in 0..6 {
        put(disks[0].as_ref(), NAME, &bytes).expect("written");
        stores[0].record(&name, author(1), 1, &()).expect("records");
        let (ended, trace) = carry_over([&stores[0], &stores[1]], &name, round);
        assert_eq!(ended, Ended::Receipt, "round {round}");
        let copy = blockferry_tests::whole(disks[1].as_ref(), NAME).expect("reads");
        assert!(copy == bytes, "the copy differs in round {round}");
        with += trace.packs[1];
        sent += trace.pack_bytes[1];
        pages += trace.page_bytes[1];
        (0..5).for_each(|_| rebuild(&mut bytes, &mut rng));
    }
    assert!(with >= 5 && sent * 5 < pages, "{with} packs, {sent} bytes for {pages} of pages");
}
