//! Both lines, store to store: whatever an image is made of and whatever a day does to it, the
//! copy is byte for byte the same, costs what changed, and a wrong hint costs bytes only.

use std::sync::atomic::{AtomicU64, Ordering};

use blockferry_delta::{BLOCK_BYTES, ImageName, Meta, Root};
use blockferry_store::disk::Disk;
use blockferry_store::{CommitMode, LookState, Recorded, Result};
use blockferry_tests::{
    Carried, Carry, Edit, Rng, SIZES, Shape, Side, across, image_name, put, replicate,
};

fn root_of(bytes: &[u8]) -> Root {
    Root::from_bytes(*blake3::hash(bytes).as_bytes())
}

fn meta(rng: &mut Rng) -> Meta {
    let xattrs = (0..rng.below(3)).map(|n| {
        let value = vec![n as u8; rng.below(40) as usize];
        (format!("user.{n}").into_bytes(), value)
    });
    let xattrs = xattrs.collect();
    Meta {
        mode: 0o600 | rng.below(0o200) as u32,
        uid: rng.below(3) as u32,
        gid: rng.below(3) as u32,
        mtime_ns: i128::from(rng.below(1 << 60)) - (1 << 58),
        xattrs,
    }
}

/// All that must hold once `name` has been brought from `a` to `b`.
fn check_equal(a: &Side, b: &Side, name: &ImageName, bytes: &[u8]) {
    assert!(b.read(name) == bytes, "the copy differs");
    let (there, here) = (a.store.current(name), b.store.current(name));
    let (there, here) = (there.expect("reads").expect("known"), here.expect("reads"));
    let here = here.expect("known");
    assert_eq!(here.root, root_of(bytes), "the root is the BLAKE3 of the file");
    assert_eq!(
        (here.root, &here.lineage, here.size_bytes),
        (there.root, &there.lineage, there.size_bytes)
    );
    assert_eq!(b.meta(name), a.meta(name), "mode, owner, times and attributes");
    let (want, got) = (a.allocated(name), b.allocated(name));
    let slack = want / 100 + BLOCK_BYTES as u64;
    assert!(want.abs_diff(got) <= slack, "{got} bytes allocated instead of {want}");
    assert!(b.store.verify(name, &()).expect("reads").is_good());
    let looks = b.store.look().expect("looks");
    assert!(looks.iter().all(|l| l.state == LookState::Unchanged), "{looks:?}");
    assert_eq!(b.private("staging"), [""; 0], "nothing is left over");
    assert_eq!(b.set_aside(), [""; 0], "nothing was set aside");
}

fn one_cell(shape: Shape, edit: Edit, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let modes = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal];
    let (a, b) = (Side::new(1, *rng.pick(&modes)), Side::new(2, *rng.pick(&modes)));
    let name = image_name("win11.vhdx");
    let size = *rng.pick(&SIZES);
    let first = shape.make(size, &mut rng);
    a.write(&name, &first);
    a.set_meta(&name, &meta(&mut rng));
    a.record(&name).expect("records");
    replicate(&a, &b, &name).expect("the first copy");
    check_equal(&a, &b, &name, &first);

    let mut bytes = first;
    for _ in 0..2 {
        let old = bytes.clone();
        bytes = edit.apply(&bytes, &mut rng);
        a.write(&name, &bytes);
        if rng.chance(1, 2) {
            a.set_meta(&name, &meta(&mut rng));
        }
        a.record(&name).expect("records");
        if rng.chance(1, 3) {
            b.store.freshen_spare(&name).expect("freshens");
        }
        let carried = replicate(&a, &b, &name).expect("the delta");
        check_equal(&a, &b, &name, &bytes);
        check_cost(edit, &old, &bytes, &carried);
    }
    second_run_is_free(&a, &b, &name);
    let (b, report) = b.reopen().expect("opens");
    assert!(report.finished.is_empty() && report.abandoned.is_empty());
    check_equal(&a, &b, &name, &bytes);
    3
}

/// At most the pages that changed travel (a chunk that was found makes it less).
fn check_cost(edit: Edit, old: &[u8], new: &[u8], carried: &Carried) {
    let pages = |bytes: &[u8]| -> Vec<Vec<u8>> { bytes.chunks(4096).map(<[u8]>::to_vec).collect() };
    let (old_pages, new_pages) = (pages(old), pages(new));
    let changed = new_pages
        .iter()
        .enumerate()
        .filter(|(n, page)| old_pages.get(*n) != Some(page) && page.iter().any(|byte| *byte != 0));
    let most = changed.count() as u64 * 4096;
    assert!(carried.sent_bytes <= most, "{edit:?} sent {} of {most}", carried.sent_bytes);
    assert_eq!(carried.again_bytes, 0, "nothing was guessed wrong");
}

fn second_run_is_free(a: &Side, b: &Side, name: &ImageName) {
    let again = a.try_record(name).expect("looks");
    assert!(matches!(again, Recorded::Unchanged(_)), "{again:?}");
    let carried = replicate(a, b, name).expect("nothing to do");
    assert!(carried.generation.is_none() && carried.parts == 0 && carried.sent_bytes == 0);
}

#[test]
fn line_matrix_of_shapes_and_edits() {
    let cells = Shape::ALL.len() * Edit::ALL.len();
    across("line_matrix", 4 * cells as u64, "copies compared", |seed| {
        let cell = (seed - 1) as usize % cells;
        one_cell(Shape::ALL[cell % Shape::ALL.len()], Edit::ALL[cell / Shape::ALL.len()], seed)
    });
}

#[test]
fn line_every_size_as_a_first_copy() {
    across("line_every_size", SIZES.len() as u64, "copies compared", |seed| {
        let size = SIZES[(seed - 1) as usize % SIZES.len()];
        for shape in Shape::ALL {
            let (a, b) = (Side::new(1, CommitMode::Copy), Side::new(2, CommitMode::Copy));
            let name = image_name("a");
            let bytes = shape.make(size, &mut Rng::new(seed));
            a.write(&name, &bytes);
            a.record(&name).expect("records");
            replicate(&a, &b, &name).expect("copies");
            check_equal(&a, &b, &name, &bytes);
        }
        Shape::ALL.len() as u64
    });
}

fn pair(seed: u64, size: u64) -> (Side, Side, ImageName, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let modes = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal];
    let (a, b) = (Side::new(1, *rng.pick(&modes)), Side::new(2, *rng.pick(&modes)));
    let name = image_name("one");
    let bytes = Shape::Files.make(size, &mut rng);
    a.write(&name, &bytes);
    a.record(&name).expect("records");
    (a, b, name, bytes)
}

#[test]
fn line_equal_content_under_another_name_sends_no_page() {
    across("line_equal_content", 12, "copies compared", |seed| {
        let (a, b, one, bytes) = pair(seed, SIZES[5 + seed as usize % 19]);
        replicate(&a, &b, &one).expect("copies");
        let two = image_name("two");
        a.write(&two, &bytes);
        a.record(&two).expect("records");
        let carried = replicate(&a, &b, &two).expect("copies");
        assert_eq!((carried.sent_bytes, carried.parts), (0, 0), "the content is here");
        check_equal(&a, &b, &two, &bytes);
        check_equal(&a, &b, &one, &bytes);
        2
    });
}

#[test]
fn line_what_another_image_holds_is_found() {
    across("line_found", 12, "copies compared", |seed| {
        let (a, b, one, bytes) = pair(seed, 3 << 20);
        replicate(&a, &b, &one).expect("copies");
        let two = image_name("two");
        // The same files at other places, a few new ones between.
        let mut moved = Shape::Noise.make(40 * 4096, &mut Rng::new(seed + 99));
        moved.extend_from_slice(&bytes[1 << 20..]);
        moved.extend_from_slice(&bytes[..1 << 20]);
        a.write(&two, &moved);
        a.record(&two).expect("records");
        let carried = replicate(&a, &b, &two).expect("copies");
        check_equal(&a, &b, &two, &moved);
        let nonzero =
            moved.chunks(4096).filter(|p| p.iter().any(|b| *b != 0)).count() as u64 * 4096;
        assert!(carried.sent_bytes < nonzero / 3, "{} of {nonzero} sent", carried.sent_bytes);
        1
    });
}

#[test]
fn line_a_poisoned_index_costs_bytes_never_correctness() {
    let sent = AtomicU64::new(0);
    across("line_poisoned", 24, "copies compared", |seed| {
        let (a, b, one, bytes) = pair(seed, 2 << 20);
        replicate(&a, &b, &one).expect("copies");
        // The index of B says what image "one" held; now it holds something else.
        let mut rng = Rng::new(seed);
        let mut rotten = bytes.clone();
        match seed % 3 {
            0 => rng.fill(&mut rotten),
            1 => rotten.truncate(70_000),
            _ => rotten.iter_mut().step_by(40_961).for_each(|byte| *byte ^= 0x55),
        }
        b.write(&one, &rotten);
        let two = image_name("two");
        let mut moved = vec![7; 4096];
        moved.extend_from_slice(&bytes);
        a.write(&two, &moved);
        a.record(&two).expect("records");
        let carried = replicate(&a, &b, &two).expect("copies");
        sent.fetch_add(carried.sent_bytes, Ordering::Relaxed);
        assert!(b.read(&two) == moved, "a stale hint reached the image");
        assert!(b.store.verify(&two, &()).expect("reads").is_good());
        assert!(b.read(&one) == rotten, "the changed image was touched");
        1
    });
    assert!(sent.into_inner() > 0, "stale hints must have cost something");
}

#[test]
fn line_rotten_bytes_of_the_base_are_caught_and_sent_again() {
    across("line_rotten_base", 24, "copies compared", |seed| {
        let (a, b, one, bytes) = pair(seed, 1 << 20);
        replicate(&a, &b, &one).expect("copies");
        // The medium rots under a block that the next delta changes in another page.
        let at = 5 * BLOCK_BYTES as u64;
        b.disk.flip_bit("one", at + 9 * 4096 + seed).expect("flips");
        let mut new = bytes;
        new[at as usize + 3] ^= 1;
        a.write(&one, &new);
        a.record(&one).expect("records");
        let carried = replicate(&a, &b, &one).expect("copies");
        assert!(carried.again_bytes >= 4096, "the block had to be sent again");
        assert!(b.read(&one) == new, "the rot went into the new generation");
        1
    });
}

#[test]
fn line_a_stopped_transfer_goes_on_where_it_was() {
    across("line_resume", 12, "transfers resumed", |seed| {
        let (a, b, name, bytes) = pair(seed, 24 << 20);
        let all = replicate(&a, &Side::new(9, CommitMode::Copy), &name).expect("copies").sent_bytes;
        let stop = Carry { stop_after_parts: Some(2), ..Carry::default() };
        let stopped = stop.run(&a.store, &b.store, &name).expect("two parts");
        let had = stopped.sent_bytes;
        stopped.staging.expect("stopped inside").park().expect("parks");
        assert!(b.store.current(&name).expect("reads").is_none(), "nothing half-done is shown");
        assert_eq!(files(&b), [""; 0], "no file shows up before it is whole");
        let b = if seed % 2 == 0 { b } else { reopened(b) };
        let carried = replicate(&a, &b, &name).expect("goes on");
        check_equal(&a, &b, &name, &bytes);
        assert!(carried.sent_bytes + had <= all + BLOCK_BYTES as u64, "sent twice: {had} of {all}");
        1
    });
}

fn files(side: &Side) -> Vec<String> {
    let entries = side.disk.list("").expect("lists");
    let names = entries.into_iter().map(|e| e.name.to_string_lossy().into_owned());
    names.filter(|name| name != ".blockferry").collect()
}

fn reopened(b: Side) -> Side {
    let (b, report) = b.reopen().expect("opens");
    assert_eq!(report.resumable, 1, "{report:?}");
    b
}

#[test]
fn line_there_and_back_again() {
    across("line_back", 12, "copies compared", |seed| {
        let (a, b, name, mut bytes) = pair(seed, SIZES[seed as usize % 24]);
        replicate(&a, &b, &name).expect("copies");
        let mut rng = Rng::new(seed);
        for round in 0..4 {
            let (from, to) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
            bytes = rng.pick(&Edit::ALL).apply(&bytes, &mut Rng::new(seed * 10 + round));
            from.write(&name, &bytes);
            from.record(&name).expect("records");
            replicate(from, to, &name).expect("copies");
            check_equal(from, to, &name, &bytes);
        }
        4
    });
}

#[test]
fn line_generations_count_up_and_old_maps_go() -> Result<()> {
    let (a, b, name, mut bytes) = pair(1, 300_000);
    for round in 0..9 {
        replicate(&a, &b, &name)?;
        bytes[round * 5000] ^= 1;
        a.write(&name, &bytes);
        a.record(&name)?;
    }
    let history = a.store.history(&name)?;
    assert_eq!(
        history.iter().map(|g| g.number).collect::<Vec<_>>(),
        (1..=10).rev().collect::<Vec<_>>()
    );
    let bases = a.store.bases(&name)?;
    let newest: Vec<Root> = history.iter().take(5).map(|g| g.root).collect();
    assert_eq!(bases, newest, "as many as `keep_generations`");
    for base in bases {
        let mut cursor = a.store.recipe(&name, history[0].root, Some(base))?;
        while cursor.next_part()?.is_some() {}
    }
    assert!(a.store.recipe(&name, history[0].root, Some(history[7].root)).is_err());
    Ok(())
}

#[test]
fn line_a_spare_is_built_upon_only_if_it_is_what_it_was() {
    across("line_spare", 24, "copies compared", |seed| {
        let (a, b) = (Side::new(1, CommitMode::Copy), Side::new(2, CommitMode::Copy));
        let name = image_name("one");
        let mut bytes = Shape::Files.make(300_000, &mut Rng::new(seed));
        for round in 0..3 {
            a.write(&name, &bytes);
            a.record(&name).expect("records");
            replicate(&a, &b, &name).expect("copies");
            bytes[round * 7000] ^= 1;
        }
        if seed / 4 % 2 == 0 {
            assert!(b.store.freshen_spare(&name).expect("freshens"), "there is a spare");
        }
        let spare = ".blockferry/spare/one";
        let before = b.disk.stat(spare).expect("looks").expect("there is a spare");
        match seed % 4 {
            // Somebody reads the old content still: it must stay what it is.
            0 => b.disk.hold_open(spare, false).expect("holds"),
            // Somebody wrote into it.
            1 => {
                put(&b.disk, spare, &vec![seed as u8; before.size_bytes as usize]).expect("writes")
            }
            2 => b.disk.remove_file(spare).expect("removes"),
            _ => {}
        }
        a.write(&name, &bytes);
        a.record(&name).expect("records");
        replicate(&a, &b, &name).expect("copies");
        check_equal(&a, &b, &name, &bytes);
        let shown = b.disk.stat("one").expect("looks").expect("there is an image");
        let built_upon = shown.inode == before.inode;
        assert_eq!(built_upon, seed % 4 == 3, "seed {seed}");
        1
    });
}

/// The only segment of an image is hashed as its root: what was known of it as one of several
/// is of no use, at either end.
#[test]
fn line_zeros_that_become_the_only_segment() {
    const SEGMENT: usize = 4 << 20;
    for (from, to) in [(2 * SEGMENT, SEGMENT), (SEGMENT, 2 * SEGMENT), (SEGMENT + 1, 65_536)] {
        for mode in [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal] {
            let (a, b) = (Side::new(1, mode), Side::new(2, mode));
            let name = image_name("zeros.img");
            for size in [from, to] {
                let bytes = vec![0; size];
                a.write(&name, &bytes);
                a.record(&name).expect("records");
                replicate(&a, &b, &name).expect("arrives");
                check_equal(&a, &b, &name, &bytes);
            }
        }
    }
}
