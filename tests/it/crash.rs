//! Power cuts at every operation of the paths that change what is published, and again inside the
//! recovery from them. Whatever of the unsynced operations reached the disk: the published path
//! holds one whole known generation, what was acknowledged is there, the catalog agrees, nothing
//! is left over, and the next generation arrives as if nothing had been.

mod stories;

use blockferry_store::disk::{CrashPlan, Disk, Keep, SimDisk};
use blockferry_store::{LookState, Recorded, RecoveryReport};
use blockferry_tests::{Side, across, cut, cuts, put, whole};

use stories::{Story, stories};

/// The path holds the generation that was acknowledged, or the one on its way, and whole.
/// Gives its place among the known ones; `None`: no file.
fn shown(story: &Story, disk: &SimDisk, acked: Option<usize>) -> Option<usize> {
    let (title, name) = (story.title, story.name.as_str());
    if disk.stat(name).expect("looks").is_none() {
        assert_eq!(acked, None, "{title}: the image is gone");
        return None;
    }
    let bytes = whole(disk, name).expect("reads");
    let next = acked.map_or(0, |acked| acked + 1);
    let may_be = acked.into_iter().chain([next]);
    let mut found = may_be.filter(|at| story.known.get(*at).is_some_and(|k| *k == bytes));
    let seen = found.next();
    assert!(seen.is_some(), "{title}: neither generation {acked:?} nor {next}");
    seen
}

/// Opens the store on a disk after a crash and checks all that must hold; with `go_on`, that the
/// interrupted generation and the next one arrive, too.
fn check(story: &Story, disk: SimDisk, acked: Option<usize>, go_on: bool) {
    let title = story.title;
    match story.in_place() {
        // Until it is recovered the image may be half one generation and half the next.
        true => {
            assert!(acked.is_none() || disk.stat(story.name.as_str()).expect("looks").is_some())
        }
        false => drop(shown(story, &disk, acked)),
    }
    let opened = Side::open(disk, 2, story.options.clone());
    let (side, report) = opened.unwrap_or_else(|e| panic!("{title}: does not open: {e}"));
    nothing_left_over(title, &side, &report);
    side.rescan_after_crash(&story.name).expect("looks");
    if let Some(seen) = shown(story, &side.disk, acked) {
        agrees(story, &side, seen);
    }
    if !go_on {
        return;
    }
    let current = side.store.current(&story.name).expect("reads");
    let behind = current.is_none_or(|current| current.root != story.last.generation.root);
    for feed in [&story.last, &story.next].into_iter().skip(usize::from(!behind)) {
        // What the crash left of the first may be taken up again.
        let delivered = feed.deliver(&side.store);
        delivered.unwrap_or_else(|e| panic!("{title}: a generation is refused: {e}"));
        assert!(side.read(&story.name) == *feed.bytes, "{title}: it is wrong");
    }
    assert_eq!(side.private("staging"), [""; 0], "{title}: left over after the next generation");
    assert_eq!(side.set_aside(), [""; 0], "{title}: something was set aside");
}

fn nothing_left_over(title: &str, side: &Side, report: &RecoveryReport) {
    let staging = side.private("staging");
    assert_eq!(staging.len(), report.resumable, "{title}: orphans {staging:?}");
    assert!(side.private("spare").len() <= 1, "{title}: orphans");
    assert_eq!(side.set_aside(), [""; 0], "{title}: something was set aside");
}

/// The catalog says what the file holds.
fn agrees(story: &Story, side: &Side, seen: usize) {
    let title = story.title;
    let current = side.store.current(&story.name).expect("reads");
    let current = current.unwrap_or_else(|| panic!("{title}: shown and not known"));
    assert_eq!(current.root, story.roots[seen], "{title}: the catalog speaks of another content");
    let proof = side.store.verify(&story.name, &()).expect("reads");
    assert!(proof.is_good(), "{title}: {proof:?}");
}

/// After a crash while a local change is recorded: the file is never touched, and what is current
/// is the old generation or the new one.
fn check_recording(story: &Story, disk: SimDisk, acked: Option<usize>) {
    let title = story.title;
    let opened = Side::open(disk, 2, story.options.clone());
    let (side, report) = opened.unwrap_or_else(|e| panic!("{title}: does not open: {e}"));
    let file = story.known.last().expect("it has some");
    assert!(side.read(&story.name) == *file, "{title}: the image was touched");
    nothing_left_over(title, &side, &report);
    let current = side.store.current(&story.name).expect("reads").expect("known");
    let at = story.roots.iter().position(|root| *root == current.root).expect("a known one");
    assert!(acked.is_none_or(|acked| acked <= at), "{title}: {at} after {acked:?}");
    let recorded = side.try_record(&story.name).expect("records");
    assert_eq!(recorded.generation().root, *story.roots.last().expect("some"), "{title}");
    let was_new = matches!(recorded, Recorded::New(_));
    assert_eq!(was_new, at + 1 < story.roots.len(), "{title}: recorded twice or never");
    assert!(side.store.verify(&story.name, &()).expect("reads").is_good(), "{title}");
}

fn check_one(story: &Story, disk: SimDisk, acked: Option<usize>, go_on: bool) {
    match story.recording {
        true => check_recording(story, disk, acked),
        false => check(story, disk, acked, go_on),
    }
}

#[test]
fn crash_at_every_operation() {
    across("crash_at_every_operation", 22, "crash images", |seed| {
        let mut images = 0;
        for story in stories(seed) {
            for (at, snapshot) in story.snapshots.iter().enumerate() {
                let acked = story.acked(snapshot.ops);
                for plan in cuts(snapshot.disk.pending(), seed << 20 | at as u64) {
                    // Going on costs as much as all the rest: every other image does.
                    let go_on = images % 2 == 0;
                    check_one(&story, snapshot.disk.crash(plan), acked, go_on);
                    images += 1;
                }
            }
        }
        images
    });
}

#[test]
fn crash_in_recovery_at_every_operation() {
    across("crash_in_recovery", 2, "double crash images", |seed| {
        let mut images = 0;
        for story in stories(seed) {
            // Each seed takes every third operation, another third each.
            let some = story.snapshots.iter().enumerate().skip(seed as usize % 3).step_by(3);
            for (at, snapshot) in some {
                let acked = story.acked(snapshot.ops);
                let number = seed << 20 | at as u64;
                let crashed = snapshot.disk.crash(cut(seed as usize + at, number));
                images += recovery(&story, &crashed, acked, number);
            }
        }
        images
    });
}

/// Records one recovery and cuts it at each of its operations.
fn recovery(story: &Story, disk: &SimDisk, acked: Option<usize>, number: u64) -> u64 {
    disk.record();
    let opened = Side::open(disk.clone(), 2, story.options.clone());
    drop(opened.unwrap_or_else(|e| panic!("{}: does not open: {e}", story.title)));
    let steps = disk.recorded();
    let mut images = 0;
    for (at, step) in steps.iter().enumerate() {
        let plan = cut(number as usize + at, number << 10 | at as u64);
        check_one(story, step.disk.crash(plan), acked, at % 4 == 0);
        images += 1;
    }
    images
}

/// Somebody writes to the image after the crash, before the store is up: that is never lost, and
/// never taken for what was received.
fn check_local_change(story: &Story, disk: SimDisk, at: usize) {
    let (title, name) = (story.title, story.name.as_str());
    disk.set_clock_ns(disk.clock_ns() + 1_000_000_000);
    let mut local = match disk.stat(name).expect("looks") {
        Some(_) => whole(&disk, name).expect("reads"),
        None => vec![1; 5000],
    };
    let byte = at * 7919 % local.len();
    local[byte] ^= 0x80;
    put(&disk, name, &local).expect("writes");
    let opened = Side::open(disk, 2, story.options.clone());
    let (side, _) = opened.unwrap_or_else(|e| panic!("{title}: does not open: {e}"));
    if story.in_place() && side.disk.stat(name).expect("looks").is_none() {
        return check_set_aside(story, &side, (&local, byte));
    }
    if story.in_place() {
        // A commit that was half done may have been finished around it.
        let now = side.read(&story.name);
        let around = |known: &&Vec<u8>| {
            let but_one = |bytes: &[u8]| [&bytes[..byte], &bytes[byte + 1..]].concat();
            known.len() == now.len() && byte < now.len() && but_one(known) == but_one(&now)
        };
        if now.get(byte) == local.get(byte) && story.known.iter().any(|known| around(&known)) {
            local = now;
        }
    }
    assert!(side.read(&story.name) == local, "{title}: a local change is gone");
    let looks = side.store.look().expect("looks");
    let look = looks.iter().find(|look| look.name == name).expect("it is there");
    assert_ne!(look.state, LookState::Unchanged, "{title}: a local change goes unnoticed");
    let refused = story.next.deliver(&side.store).map(|d| d.generation.root);
    assert_eq!(refused.expect_err("a local change").code(), "LOCAL_CHANGE", "{title}");
    assert!(side.read(&story.name) == local, "{title}: a local change is overwritten");
    let recorded = side.record(&story.name).expect("records");
    assert_eq!(recorded.root.as_bytes(), blake3::hash(&local).as_bytes(), "{title}");
    assert!(side.store.verify(&story.name, &()).expect("reads").is_good(), "{title}");
}

/// Somebody wrote a byte into a mix of two generations: it is kept, it isn't taken for a change of
/// either, and the image comes again.
fn check_set_aside(story: &Story, side: &Side, (local, byte): (&[u8], usize)) {
    let title = story.title;
    let but_one = |bytes: &[u8]| [&bytes[..byte], &bytes[byte + 1..]].concat();
    let of = |known: &Vec<u8>| known.len() == local.len() && but_one(known) == but_one(local);
    assert!(!story.known.iter().any(of), "{title}: a change of a whole image is set aside");
    let kept = |path: &String| whole(&side.disk, path).expect("reads") == local;
    assert!(side.set_aside().iter().any(kept), "{title}: a local change is gone");
    assert!(side.try_record(&story.name).is_err(), "{title}: a mix is published");
    story.next.deliver(&side.store).unwrap_or_else(|e| panic!("{title}: {e}"));
    assert!(side.store.verify(&story.name, &()).expect("reads").is_good(), "{title}");
}

#[test]
fn crash_then_a_local_change() {
    across("crash_then_a_local_change", 4, "crash images", |seed| {
        let mut images = 0;
        for story in stories(seed).filter(|story| !story.recording) {
            for (at, snapshot) in story.snapshots.iter().enumerate() {
                for keep in [Keep::Nothing, Keep::Everything] {
                    let plan = CrashPlan { seed, keep, tear: false };
                    check_local_change(&story, snapshot.disk.crash(plan), at);
                    images += 1;
                }
            }
        }
        images
    });
}
