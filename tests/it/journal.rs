//! Commit by journal: which commits take it, what readers of a real file system see meanwhile, what
//! it leaves when something fails, and what a damaged journal comes to.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blockferry_delta::{ImageName, RecipePart};
use blockferry_store::disk::{CrashPlan, Disk, Keep, Lease, OpKind, Open, RealDisk, SimDisk};
use blockferry_store::{CommitMode, Error, LookState, Staging, Store};
use blockferry_tests::{
    Edit, Feed, Rng, Shape, Side, across, image_name, options, store_identity, whole,
};

const SPARE: &str = "spare";

/// Generations of one image, made at a sender: the first, then one for each edit.
fn feeds(seed: u64, bytes: u64, edits: &[Edit]) -> (ImageName, Vec<Feed>) {
    let (name, mut rng) = (image_name("vm.img"), Rng::new(seed));
    let a = Side::new(1, CommitMode::Copy);
    let mut image = Shape::Files.make(bytes, &mut rng);
    a.write(&name, &image);
    let mut feeds = vec![Feed::of(&a, &name).expect("records")];
    for edit in edits {
        image = edit.apply(&image, &mut rng);
        a.write(&name, &image);
        feeds.push(Feed::of(&a, &name).expect("records"));
    }
    (name, feeds)
}

fn side() -> Side {
    Side::new(2, CommitMode::Journal)
}

fn fill(feed: &Feed, staging: &mut Staging, parts: &[RecipePart]) {
    for part in parts {
        feed.part(staging, part).expect("fits");
    }
}

fn inode(disk: &dyn Disk, path: &str) -> Option<u64> {
    disk.stat(path).expect("looks").map(|stat| stat.inode)
}

/// Delivers; `true`: into the image's own file.
fn in_place(feed: &Feed, b: &Side, name: &ImageName) -> bool {
    let before = inode(&b.disk, name.as_str());
    feed.deliver(&b.store).expect("commits");
    assert!(b.read(name) == *feed.bytes, "the copy differs");
    assert!(b.store.verify(name, &()).expect("reads").is_good());
    assert_eq!(b.private("staging"), [""; 0], "something is left over");
    inode(&b.disk, name.as_str()) == before
}

#[test]
fn journal_takes_small_changes_of_closed_images() {
    let edits = [Edit::Byte, Edit::Byte, Edit::Byte, Edit::Byte, Edit::Rewrite, Edit::Byte];
    let (name, feeds) = feeds(1, 600_000, &edits);
    let b = side();
    assert!(!in_place(&feeds[0], &b, &name), "there was no file");
    assert!(in_place(&feeds[1], &b, &name));
    assert_eq!(b.private(SPARE), [""; 0], "no second copy is kept");
    // A reader keeps what it opened.
    b.disk.hold_open(name.as_str(), false).expect("holds");
    assert!(!in_place(&feeds[2], &b, &name), "it is open");
    assert_eq!(b.private(SPARE), [name.to_string()], "what a copy replaced is kept");
    assert!(in_place(&feeds[3], &b, &name), "the reader has the file of before");
    assert_eq!(b.private(SPARE), [""; 0], "the spare isn't needed any more");
    // Held at the beginning, closed at the end.
    b.disk.hold_open(name.as_str(), false).expect("holds");
    let (mut staging, parts) = feeds[4].stage(&b.store).expect("begins");
    fill(&feeds[4], &mut staging, parts);
    b.disk.release(name.as_str()).expect("closes");
    let before = inode(&b.disk, name.as_str());
    b.store.commit(staging.seal().expect("whole"), Default::default()).expect("commits");
    assert_eq!(inode(&b.disk, name.as_str()), before);
    assert!(!in_place(&feeds[5], &b, &name), "all of it changed");
    assert!(in_place(&feeds[6], &b, &name));
}

#[test]
fn journal_without_room_for_a_copy_is_kept_for_later() {
    let (name, feeds) = feeds(2, 8 << 20, &[Edit::Pages, Edit::Byte]);
    let b = side();
    feeds[0].deliver(&b.store).expect("commits");
    let (mut staging, parts) = feeds[1].stage(&b.store).expect("begins");
    fill(&feeds[1], &mut staging, parts);
    b.disk.hold_open(name.as_str(), false).expect("holds");
    let space = b.disk.space().expect("answers");
    b.disk.set_capacity(space.total_bytes - space.free_bytes + (5 << 20));
    let sealed = staging.seal().expect("whole");
    let error = b.store.commit(sealed, Default::default()).expect_err("there is no room");
    assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
    assert!(b.read(&name) == *feeds[0].bytes, "the old image was touched");
    assert!(!b.store.is_degraded());
    b.disk.set_capacity(space.total_bytes);
    let delivered = feeds[1].deliver(&b.store).expect("commits");
    assert_eq!(delivered.sent_bytes, 0, "what was verified isn't sent again");
    assert!(b.read(&name) == *feeds[1].bytes);
    assert!(in_place(&feeds[2], &b, &name));
}

/// Whatever call fails, the image is old or new once the store is open again, and never a mix that
/// is believed.
#[test]
fn journal_survives_a_failed_call_anywhere() {
    across("journal_survives_a_failed_call", 30, "failed calls", |seed| {
        let (name, feeds) = feeds(3, 300_000, &[Edit::Byte, Edit::Byte]);
        let b = side();
        feeds[0].deliver(&b.store).expect("commits");
        let by_sync = seed % 2 == 0;
        match by_sync {
            true => b.disk.fail_sync(seed as usize / 2),
            false => {
                let disk = &b.disk;
                disk.cut_after(disk.ops() + seed as usize * 2);
            }
        }
        let outcome = feeds[1].deliver(&b.store);
        if outcome.is_err() && b.store.is_degraded() {
            let refused = feeds[1].deliver(&b.store).expect_err("it is in doubt");
            assert_eq!(refused.code(), "DEGRADED");
            let current = b.store.current(&name).expect("reads").expect("known");
            let served = b.store.source(&name, current.root);
            let seen = shown(&b, &name);
            let old = seen.as_ref().is_some_and(|bytes| *bytes == *feeds[0].bytes);
            assert!(served.is_err() || old, "a mix is served");
            let cut = !by_sync;
            assert!(cut || old || seen.is_none_or(|bytes| bytes == *feeds[1].bytes), "a mix");
        }
        // What was not synced is lost, the pages of a failed sync above all.
        let plan = CrashPlan { seed, keep: Keep::ALL[seed as usize / 2 % 5], tear: seed % 4 == 1 };
        let (b, _) =
            Side::open(b.disk.crash(plan), 2, options(CommitMode::Journal)).expect("opens");
        let bytes = b.read(&name);
        assert!(bytes == *feeds[0].bytes || bytes == *feeds[1].bytes, "seed {seed}: a mix");
        assert!(outcome.is_err() || bytes == *feeds[1].bytes, "acknowledged and gone");
        b.rescan_after_crash(&name).expect("looks");
        for feed in &feeds[usize::from(bytes == *feeds[1].bytes) + 1..] {
            feed.deliver(&b.store).expect("nothing is in the way");
        }
        assert!(b.read(&name) == *feeds[2].bytes);
        1
    });
}

/// Two generations, the second of which has data where the first has a hole.
fn into_a_hole(seed: u64) -> (ImageName, Vec<Feed>) {
    let (name, mut rng) = (image_name("vm.img"), Rng::new(seed));
    let a = Side::new(1, CommitMode::Copy);
    let file = a.disk.open(name.as_str(), Open::Create).expect("creates");
    file.set_len(2 << 20).expect("grows");
    file.write_at(&Shape::Files.make(1 << 20, &mut rng), 0).expect("writes");
    let first = Feed::of(&a, &name).expect("records");
    for at in 0..6 {
        let bytes = vec![at as u8 + 1; 3 * 4096];
        file.write_at(&bytes, (5 * at + 2) << 16).expect("writes");
        file.write_at(&bytes, (1 << 20) + ((5 * at) << 15)).expect("writes");
    }
    drop(file);
    let second = Feed::of(&a, &name).expect("records");
    (name, vec![first, second])
}

/// What is to be seen of the image without opening the store again; `None`: nothing.
fn shown(b: &Side, name: &ImageName) -> Option<Vec<u8>> {
    let there = b.disk.stat(name.as_str()).expect("looks").is_some();
    there.then(|| b.read_unfailing(name))
}

#[test]
fn journal_has_its_room_before_it_begins() {
    let (name, feeds) = into_a_hole(11);
    let mut writes = 0;
    for nth in 1.. {
        let b = side();
        feeds[0].deliver(&b.store).expect("commits");
        let full = Arc::new(AtomicBool::new(false));
        let said = Arc::clone(&full);
        let fill = move |disk: &SimDisk| {
            disk.set_capacity(0);
            said.store(true, Ordering::Relaxed);
        };
        b.disk.before(name.as_str(), OpKind::Write, nth, fill).expect("is there");
        let _outcome = feeds[1].deliver(&b.store);
        assert!(shown(&b, &name).as_deref() == Some(&feeds[1].bytes), "write {nth}: a mix");
        if !full.load(Ordering::Relaxed) {
            break;
        }
        writes += 1;
    }
    assert!(writes > 6, "only {writes} writes went into the image");
}

#[test]
fn journal_without_room_changes_nothing() {
    let (name, feeds) = into_a_hole(12);
    let b = side();
    feeds[0].deliver(&b.store).expect("commits");
    let (mut staging, parts) = feeds[1].stage(&b.store).expect("begins");
    fill(&feeds[1], &mut staging, parts);
    let sealed = staging.seal().expect("whole");
    let space = b.disk.space().expect("answers");
    b.disk.set_capacity(space.total_bytes - space.free_bytes + (20 << 10));
    let error = b.store.commit(sealed, Default::default()).expect_err("there is no room");
    assert!(matches!(error, Error::OutOfSpace { .. }), "{error}");
    assert!(b.read(&name) == *feeds[0].bytes && !b.store.is_degraded());
    assert!(b.store.look().expect("looks")[0].state != LookState::Changed);
    b.disk.set_capacity(space.total_bytes);
    assert!(in_place(&feeds[1], &b, &name));
}

/// A disk that fails in the middle: the image is hidden until recovery has finished it.
#[test]
fn journal_half_put_in_place_is_never_shown() {
    let (name, feeds) = into_a_hole(13);
    let mut hidden = 0;
    for nth in 1.. {
        let b = side();
        feeds[0].deliver(&b.store).expect("commits");
        let fail = |disk: &SimDisk| disk.fail_at(OpKind::Write, 1, std::io::ErrorKind::Other);
        b.disk.before(name.as_str(), OpKind::Write, nth, fail).expect("is there");
        if feeds[1].deliver(&b.store).is_ok() {
            break;
        }
        assert!(b.store.is_degraded());
        let seen = shown(&b, &name);
        assert!(seen.is_none_or(|bytes| bytes == *feeds[0].bytes), "write {nth}: a mix is shown");
        hidden += 1;
        for keep in Keep::ALL {
            let plan = CrashPlan { seed: nth as u64, keep, tear: true };
            let (b, report) =
                Side::open(b.disk.crash(plan), 2, options(CommitMode::Journal)).expect("opens");
            assert_eq!(report.finished, std::slice::from_ref(&name), "write {nth}, {keep:?}");
            assert!(b.read(&name) == *feeds[1].bytes, "write {nth}, {keep:?}");
            assert_eq!(b.private("staging"), [""; 0], "something is left over");
        }
    }
    assert!(hidden > 6, "only {hidden} writes went into the image");
}

/// The moments between *prepared* and *current* in which the image is half one generation.
fn half_applied(seed: u64) -> (ImageName, Vec<Feed>, Vec<SimDisk>) {
    let (name, feeds) = feeds(seed, 600_000, &[Edit::Pages, Edit::Byte]);
    let b = side();
    feeds[0].deliver(&b.store).expect("commits");
    b.disk.record();
    feeds[1].deliver(&b.store).expect("commits");
    let mut torn = Vec::new();
    for (at, snapshot) in b.disk.recorded().into_iter().enumerate() {
        for keep in [Keep::Everything, Keep::Subset, Keep::Reordered] {
            let plan = CrashPlan { seed: seed << 16 | at as u64, keep, tear: true };
            let disk = snapshot.disk.crash(plan);
            let bytes = whole(&disk, name.as_str()).expect("reads");
            if bytes != *feeds[0].bytes && bytes != *feeds[1].bytes {
                torn.push(disk);
            }
        }
    }
    (name, feeds, torn)
}

#[test]
fn journal_half_applied_is_finished_before_anybody_is_served() {
    let torn_images = across("journal_half_applied", 12, "torn images", |seed| {
        let (name, feeds, torn) = half_applied(seed);
        for disk in &torn {
            let (b, report) =
                Side::open(disk.clone(), 2, options(CommitMode::Journal)).expect("opens");
            assert_eq!(report.finished, std::slice::from_ref(&name), "seed {seed}");
            assert!(b.read(&name) == *feeds[1].bytes, "seed {seed}: it is not whole");
            let changed = || b.store.look().expect("looks")[0].state == LookState::Changed;
            assert!(changed(), "nothing proves yet that nobody wrote to it");
            assert_eq!(b.store.prove_recovered().expect("reads"), 1);
            assert!(!changed() && b.store.prove_recovered().expect("reads") == 0);
            feeds[2].deliver(&b.store).expect("nothing is in the way");
        }
        torn.len() as u64
    });
    assert!(torn_images > 0, "no image was torn: this proves nothing");
}

/// A virtual machine that opens the image while it is being looked at, and writes to it.
#[test]
fn journal_writes_nothing_into_what_somebody_opened_for_writing() {
    let (name, _, torn) = half_applied(21);
    let mut opened = 0;
    for (at, disk) in torn.iter().enumerate().step_by(5) {
        for nth in 1..=3 {
            let disk = disk.crash(CrashPlan { seed: 1, keep: Keep::Everything, tear: false });
            disk.hold_open(name.as_str(), false).expect("holds");
            let (seen, path) = (Arc::new(Mutex::new(None)), name.to_string());
            let noted = Arc::clone(&seen);
            let machine = move |disk: &SimDisk| {
                if disk.hold_open(&path, true).is_ok() {
                    let file = disk.open(&path, Open::ReadWrite).expect("opens");
                    file.write_at(&[0xee; 512], 8192).expect("writes");
                    drop(file);
                    *noted.lock().expect("whole") = Some(whole(disk, &path).expect("reads"));
                }
            };
            disk.before(name.as_str(), OpKind::Open, nth, machine).expect("is there");
            let (b, _) = Side::open(disk, 2, options(CommitMode::Journal)).expect("opens");
            let Some(noted) = seen.lock().expect("whole").take() else { continue };
            opened += 1;
            let now = match inode(&b.disk, name.as_str()) {
                Some(_) => b.read(&name),
                None => whole(&b.disk, &b.set_aside()[0]).expect("reads"),
            };
            assert!(now == noted, "disk {at}, open {nth}: written to under a machine");
        }
    }
    assert!(opened > 6, "nobody opened it in time: {opened}");
}

/// Somebody writes to a torn image before the service starts. What he makes of it is no change of
/// any generation.
#[test]
fn journal_torn_and_written_to_is_never_published() {
    let mut aside = 0;
    for seed in 31..34 {
        let (name, feeds, torn) = half_applied(seed);
        let differs = |page: &usize| {
            let range = page * 4096..(page + 1) * 4096;
            feeds[0].bytes.get(range.clone()) != feeds[1].bytes.get(range)
        };
        let page = (0..feeds[1].bytes.len() / 4096).find(differs).expect("a page differs");
        for disk in &torn {
            let file = disk.open(name.as_str(), Open::ReadWrite).expect("opens");
            file.write_at(&[0xee; 4096], page as u64 * 4096).expect("writes");
            file.sync().expect("syncs");
            drop(file);
            let bytes = whole(disk, name.as_str()).expect("reads");
            let on_top = |feed: &Feed| {
                let mut image = feed.bytes.to_vec();
                image[page * 4096..(page + 1) * 4096].fill(0xee);
                image == bytes
            };
            let (b, _) = Side::open(disk.clone(), 2, options(CommitMode::Journal)).expect("opens");
            if on_top(&feeds[0]) || on_top(&feeds[1]) {
                assert!(b.read(&name) == bytes, "somebody's change is gone");
                let root = b.store.current(&name).expect("reads").expect("known").root;
                let new = on_top(&feeds[1]);
                let feed = &feeds[usize::from(new)];
                assert!(root.as_bytes() == blake3::hash(&feed.bytes).as_bytes());
                continue;
            }
            aside += 1;
            assert!(b.try_record(&name).is_err(), "a mix is published");
            assert_eq!(b.set_aside().len(), 1, "it is set aside");
            feeds[1].deliver(&b.store).expect("comes again");
            assert!(b.read(&name) == *feeds[1].bytes);
        }
    }
    assert!(aside > 0, "nothing was torn");
}

#[test]
fn journal_damaged_and_half_applied_is_never_shown_as_an_image() {
    across("journal_damaged", 12, "damaged journals", |seed| {
        let (name, feeds, torn) = half_applied(seed);
        let mut rng = Rng::new(seed);
        for disk in torn.iter().step_by(3) {
            let entries = disk.list(".blockferry/staging").expect("lists");
            let entry = entries.iter().map(|e| e.name.to_string_lossy().into_owned());
            let leaf = entry.into_iter().find(|name| name.ends_with(".journal")).expect("there");
            let path = format!(".blockferry/staging/{leaf}");
            let bytes = disk.stat(&path).expect("looks").expect("there").size_bytes;
            match rng.below(3) {
                0 => disk.remove_file(&path).expect("removes"),
                1 => disk.flip_bit(&path, rng.below(bytes)).expect("flips"),
                _ => {
                    let file = disk.open(&path, Open::ReadWrite).expect("opens");
                    file.set_len(rng.below(bytes)).expect("cuts");
                    file.sync().expect("syncs");
                }
            }
            let (b, _) = Side::open(disk.clone(), 2, options(CommitMode::Journal)).expect("opens");
            assert_eq!(inode(&b.disk, name.as_str()), None, "a mix is published");
            assert_eq!(b.set_aside().len(), 1, "it is set aside");
            for feed in &feeds[1..] {
                feed.deliver(&b.store).expect("comes again");
                assert!(b.read(&name) == *feed.bytes);
            }
        }
        torn.len().div_ceil(3) as u64
    });
}

#[test]
fn journal_is_replayed_around_a_reader_only_if_it_had_begun() {
    let (name, feeds) = feeds(5, 300_000, &[Edit::Byte]);
    let b = side();
    feeds[0].deliver(&b.store).expect("commits");
    b.disk.record();
    feeds[1].deliver(&b.store).expect("commits");
    let mut dropped = 0;
    for snapshot in b.disk.recorded() {
        let plan = CrashPlan { seed: 1, keep: Keep::Everything, tear: false };
        let disk = snapshot.disk.crash(plan);
        let was = whole(&disk, name.as_str()).expect("reads");
        disk.hold_open(name.as_str(), false).expect("holds");
        let (b, report) = Side::open(disk, 2, options(CommitMode::Journal)).expect("opens");
        if was == *feeds[0].bytes {
            assert!(b.read(&name) == was, "it changed under a reader that saw it whole");
            dropped += report.abandoned.len();
        } else {
            assert!(b.read(&name) == *feeds[1].bytes);
        }
    }
    assert!(dropped > 0, "no commit had been prepared and not begun");
}

/// The kernel lets openers in after a while, whatever a commit has done by then: that is told, once.
#[test]
fn journal_commit_that_outlasts_its_lease_is_told() {
    let (name, feeds) = feeds(9, 300_000, &[Edit::Byte, Edit::Byte]);
    let b = side();
    feeds[0].deliver(&b.store).expect("commits");
    feeds[1].deliver(&b.store).expect("commits");
    assert!(b.store.take_slow_commits().is_empty(), "it was in time");
    b.disk.set_slow_leases(true);
    feeds[2].deliver(&b.store).expect("commits");
    assert_eq!(Vec::from_iter(b.store.take_slow_commits()), [name]);
    assert!(b.store.take_slow_commits().is_empty(), "it is told once");
}

/// A file that a commit is being put into is nobody's change; after a failed one it is in doubt.
#[test]
fn journal_being_put_in_place_is_no_local_change() {
    let (name, feeds) = feeds(8, 300_000, &[Edit::Byte]);
    let mut in_doubt = 0;
    for nth in 1..12 {
        let b = side();
        feeds[0].deliver(&b.store).expect("commits");
        b.disk.fail_sync(nth);
        let failed = feeds[1].deliver(&b.store).is_err();
        let look = b.store.look().expect("looks").remove(0);
        assert_eq!(look.name, name.as_str());
        let changed = look.state == LookState::Changed;
        assert!(!changed || failed && b.store.is_degraded(), "sync {nth}");
        in_doubt += usize::from(changed);
    }
    assert!(in_doubt > 0, "no sync after the beginning failed");
}

/// A real file system: readers that open the image again and again see whole generations.
#[test]
fn journal_readers_of_a_real_file_system_see_whole_images() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).expect("opens"));
    let made = Store::create(Arc::clone(&disk), store_identity(), &options(CommitMode::Journal));
    let store = Arc::new(made.expect("creates"));
    let (name, feeds) = feeds(6, 3 << 20, &[Edit::Pages; 24]);
    feeds[0].deliver(&store).expect("commits");
    let path = dir.path().join(name.as_str());
    let known: BTreeSet<_> =
        feeds.iter().map(|feed| *blake3::hash(&feed.bytes).as_bytes()).collect();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut kept = 0;
    std::thread::scope(|scope| {
        for pause_ms in [0, 7] {
            let (stop, reads, known, path) = (&stop, &reads, &known, &path);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let bytes = std::fs::read(path).expect("it is always there");
                    let seen = blake3::hash(&bytes);
                    assert!(known.contains(seen.as_bytes()), "a mix was read");
                    reads.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(pause_ms + 5));
                }
            });
        }
        for feed in &feeds[1..] {
            let before = inode(disk.as_ref(), name.as_str());
            let delivered = feed.deliver(&store);
            kept += usize::from(inode(disk.as_ref(), name.as_str()) == before);
            if delivered.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            delivered.expect("commits, one way or the other");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let last = std::fs::read(&path).expect("reads");
    assert!(last == *feeds.last().expect("some").bytes);
    let probe = disk.open(name.as_str(), Open::Read).expect("opens");
    if probe.writer_free().expect("answers") == Lease::Unknown {
        eprintln!("skipped in part: no leases here, all commits were copies");
    } else {
        let reads = reads.into_inner();
        eprintln!("{kept} of 24 commits in place, {reads} reads of whole images");
        assert!(reads > 0, "nobody read");
    }
}

#[test]
fn journal_leaves_a_second_name_of_the_file_alone() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).expect("opens"));
    let made = Store::create(Arc::clone(&disk), store_identity(), &options(CommitMode::Journal));
    let store = Arc::new(made.expect("creates"));
    let (name, feeds) = feeds(7, 1 << 20, &[Edit::Byte, Edit::Byte]);
    feeds[0].deliver(&store).expect("commits");
    let (path, second) = (dir.path().join(name.as_str()), dir.path().join(".second"));
    let (mut staging, parts) = feeds[1].stage(&store).expect("begins");
    fill(&feeds[1], &mut staging, parts);
    // Only the link count and the ctime change: what was recorded is still there.
    std::fs::hard_link(&path, &second).expect("links");
    let sealed = staging.seal().expect("whole");
    let outcome = store.commit(sealed, Default::default());
    assert!(std::fs::read(&second).expect("reads") == *feeds[0].bytes, "it changed with the image");
    if let Err(error) = outcome {
        assert_eq!(error.code(), "LOCAL_CHANGE");
        store.record(&name, blockferry_tests::author(2), 1, &()).expect("records");
    }
    feeds[2].deliver(&store).expect("commits");
    assert!(std::fs::read(&path).expect("reads") == *feeds[2].bytes);
    assert!(std::fs::read(&second).expect("reads") == *feeds[0].bytes, "it changed with the image");
}
