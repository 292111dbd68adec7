//! Whatever is in the way is said by its code before anything is done, and nothing is lost:
//! writers, local changes, full disks, lying senders, sources that move, things that are no image.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blockferry_delta::{ImageName, Root};
use blockferry_store::disk::{Disk, Open, RealDisk, SimDisk};
use blockferry_store::{CommitMode, Error, LookState, Options, Progress, Recorded, Store};
use blockferry_tests::{
    Carry, Edit, Rng, Shape, Side, image_name, options, replicate, store_identity,
};

/// A with an image of some MiB that B has, and a newer generation at A.
struct Scene {
    a: Side,
    b: Side,
    name: ImageName,
    old: Vec<u8>,
}

const MODES: [CommitMode; 3] = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal];

fn scene(mode: CommitMode, bytes: u64) -> Scene {
    let (a, b) = (Side::new(1, mode), Side::new(2, mode));
    let name = image_name("data.raw");
    let old = Shape::Noise.make(bytes, &mut Rng::new(bytes));
    a.write(&name, &old);
    a.record(&name).expect("records");
    replicate(&a, &b, &name).expect("copies");
    let new = Edit::Cluster.apply(&Edit::Pages.apply(&old, &mut Rng::new(5)), &mut Rng::new(6));
    a.write(&name, &new);
    a.record(&name).expect("records");
    Scene { a, b, name, old }
}

impl Scene {
    /// The transfer fails with `code`; B keeps what it had, whole, and nothing is left over.
    fn refused(&self, carry: &Carry<'_>, code: &str) -> Error {
        let before = self.b.read(&self.name);
        let error = carry.run(&self.a.store, &self.b.store, &self.name).expect_err(code);
        assert_eq!(error.code(), code, "{error}");
        assert!(self.b.read(&self.name) == before, "{code}: the old image was touched");
        error
    }

    /// B holds the old generation, proved, and takes the new one once nothing is in the way.
    fn recovers(self) {
        assert!(self.b.read(&self.name) == self.old);
        assert!(self.b.store.verify(&self.name, &()).expect("reads").is_good());
        let Scene { a, b, name, .. } = self;
        let (b, _) = b.reopen().expect("opens");
        replicate(&a, &b, &name).expect("nothing is in the way now");
        assert!(b.read(&name) == a.read(&name));
        assert_eq!(b.private("staging"), [""; 0], "something was left over");
        assert_eq!(b.store.staging_bytes(), 0, "room is still promised");
    }
}

#[test]
fn refuse_local_changes_are_never_overwritten() {
    for mode in MODES {
        let scene = scene(mode, 1 << 20);
        let mut local = scene.old.clone();
        local[77] ^= 1;
        scene.b.write(&scene.name, &local);
        scene.refused(&Carry::default(), "LOCAL_CHANGE");
        assert!(scene.b.read(&scene.name) == local);
        assert_eq!(scene.b.private("staging"), [""; 0]);
        // A file of that name that no store knows is no less somebody's.
        let other = image_name("other");
        scene.a.write(&other, b"ours");
        scene.a.record(&other).expect("records");
        scene.b.write(&other, b"theirs");
        let error = replicate(&scene.a, &scene.b, &other).expect_err("there is a file");
        assert_eq!((error.code(), scene.b.read(&other)), ("LOCAL_CHANGE", b"theirs".to_vec()));
    }
}

#[test]
fn refuse_a_local_change_while_the_new_content_comes() {
    for mode in MODES {
        let scene = scene(mode, 1 << 20);
        let mut local = scene.old.clone();
        local[77] ^= 1;
        let once = AtomicBool::new(true);
        let change = |_: u32, _: &[_], _: &mut Vec<u8>| {
            if once.swap(false, Ordering::Relaxed) {
                scene.b.write(&scene.name, &local);
            }
        };
        let carry = Carry { pages: Some(&change), ..Carry::default() };
        let error = carry.run(&scene.a.store, &scene.b.store, &scene.name).expect_err("changed");
        assert_eq!(error.code(), "LOCAL_CHANGE");
        assert!(scene.b.read(&scene.name) == local, "the change is gone");
    }
}

#[test]
fn refuse_a_target_that_is_written_to() {
    for mode in MODES {
        let scene = scene(mode, 1 << 20);
        scene.b.disk.hold_open("data.raw", true).expect("holds");
        scene.refused(&Carry::default(), "IN_USE");
        assert_eq!(scene.b.private("staging"), [""; 0]);
        scene.b.disk.release("data.raw").expect("lets go");
        // A reader keeps the file it opened; the commit goes on beside it.
        scene.b.disk.hold_open("data.raw", false).expect("holds");
        scene.recovers();
    }
}

#[test]
fn refuse_a_source_that_is_written_to() {
    for mode in MODES {
        let scene = scene(mode, 1 << 20);
        scene.a.write(&scene.name, &scene.old);
        scene.a.disk.hold_open("data.raw", true).expect("holds");
        let before = scene.a.store.current(&scene.name).expect("reads");
        let error = scene.a.record(&scene.name).expect_err("somebody writes");
        assert_eq!(error.code(), "IN_USE");
        assert_eq!(scene.a.store.current(&scene.name).expect("reads"), before);
        scene.a.disk.release("data.raw").expect("lets go");
        scene.a.record(&scene.name).expect("records");
    }
}

#[test]
fn refuse_before_the_first_byte_when_there_is_no_room() {
    for mode in MODES {
        let scene = scene(mode, 8 << 20);
        let all = Edit::Rewrite.apply(&scene.old, &mut Rng::new(8));
        scene.a.write(&scene.name, &all);
        scene.a.record(&scene.name).expect("records");
        let space = scene.b.disk.space().expect("answers");
        let used = space.total_bytes - space.free_bytes;
        scene.b.disk.set_capacity(used + (5 << 20));
        let free = scene.b.disk.space().expect("answers").free_bytes;
        let error = scene.refused(&Carry::default(), "DISK_FULL");
        let Error::OutOfSpace { needed_bytes, free_bytes } = error else {
            panic!("without numbers: {error}")
        };
        assert!(needed_bytes >= 8 << 20 && free_bytes <= 5 << 20, "{needed_bytes} {free_bytes}");
        let after = scene.b.disk.space().expect("answers");
        assert!(after.free_bytes >= free, "a refusal took room");
        assert_eq!(scene.b.private("staging"), [""; 0], "something is left over");
        scene.b.disk.set_capacity(1 << 30);
        scene.recovers();
    }
}

#[test]
fn refuse_and_leave_nothing_when_the_disk_fills_up_midway() {
    let (mut cases, mut refused) = (0, 0);
    for mode in MODES {
        for room_kib in [0, 4, 64, 256, 1024, 2048, 4096] {
            let scene = scene(mode, 4 << 20);
            let all = Edit::Rewrite.apply(&scene.old, &mut Rng::new(8));
            scene.a.write(&scene.name, &all);
            scene.a.record(&scene.name).expect("records");
            let full = AtomicBool::new(false);
            let fill = |_: u32, _: &[_], _: &mut Vec<u8>| {
                // Somebody else takes the room that was promised.
                if !full.swap(true, Ordering::Relaxed) {
                    let space = scene.b.disk.space().expect("answers");
                    let used = space.total_bytes - space.free_bytes;
                    scene.b.disk.set_capacity(used + (room_kib << 10));
                }
            };
            let carry = Carry { pages: Some(&fill), ..Carry::default() };
            let outcome = carry.run(&scene.a.store, &scene.b.store, &scene.name);
            scene.b.disk.set_capacity(1 << 30);
            cases += 1;
            // A spare has its room already.
            let Err(error) = outcome else { continue };
            let kind = error.code();
            assert!(kind == "DISK_FULL" || kind == "CATALOG_ERROR", "{error}");
            scene.recovers();
            refused += 1;
        }
    }
    assert!(refused > 3, "only {refused}");
    eprintln!("refuse_full_midway: {cases} cases, {refused} refused");
}

#[test]
fn refuse_what_a_lying_sender_says() {
    for mode in MODES {
        let all = scene(mode, 1 << 20);
        let flip = |_: u32, _: &[_], pages: &mut Vec<u8>| pages[0] ^= 1;
        all.refused(&Carry { pages: Some(&flip), ..Carry::default() }, "CHUNK_MISMATCH");
        let short = |_: u32, _: &[_], pages: &mut Vec<u8>| pages.truncate(pages.len() - 1);
        all.refused(&Carry { pages: Some(&short), ..Carry::default() }, "BAD_MANIFEST");
        let long = |_: u32, _: &[_], pages: &mut Vec<u8>| pages.push(0);
        all.refused(&Carry { pages: Some(&long), ..Carry::default() }, "BAD_MANIFEST");
        let root = |g: &mut blockferry_store::Generation| g.root = Root::from_bytes([9; 32]);
        all.refused(&Carry { offer: Some(&root), ..Carry::default() }, "ROOT_MISMATCH");
        let size = |g: &mut blockferry_store::Generation| g.size_bytes += 65_536;
        all.refused(&Carry { offer: Some(&size), ..Carry::default() }, "ROOT_MISMATCH");
        for n in 0..6 {
            let bad = |part: &mut blockferry_delta::RecipePart| match n {
                0 => part.number += 1,
                1 => part.blocks.reverse(),
                2 => part.blocks[0].index = u64::MAX,
                3 => part.zero_segments = vec![7, 3],
                4 => part.zero_segments = vec![u32::MAX],
                _ => part.blocks.push(part.blocks[0]),
            };
            all.refused(&Carry { part: Some(&bad), ..Carry::default() }, "BAD_MANIFEST");
        }
        let hidden = |part: &mut blockferry_delta::RecipePart| {
            part.blocks.pop();
        };
        all.refused(&Carry { part: Some(&hidden), ..Carry::default() }, "ROOT_MISMATCH");
        let zeroed = |part: &mut blockferry_delta::RecipePart| part.blocks[0].zero = u16::MAX;
        let carry = Carry { part: Some(&zeroed), ..Carry::default() };
        match carry.run(&all.a.store, &all.b.store, &all.name) {
            // The hash caught it and all pages were sent.
            Ok(_) => assert!(all.b.read(&all.name) == all.a.read(&all.name)),
            Err(error) => assert_eq!(error.code(), "CHUNK_MISMATCH"),
        }
    }
}

#[test]
fn refuse_bytes_that_are_no_longer_the_generation() {
    for mode in MODES {
        let scene = scene(mode, 1 << 20);
        // A held clone would be what was recorded, whatever happens to the file.
        let unhold = || scene.a.disk.remove_file(".blockferry/base/data.raw").expect("removed");
        unhold();
        // Between record and read, with times that betray it.
        let new = scene.a.read(&scene.name);
        scene.a.write(&scene.name, &scene.old);
        scene.refused(&Carry::default(), "SOURCE_TORN");
        // While it is read, with times that don't: only the hash tells.
        scene.a.write(&scene.name, &new);
        scene.a.record(&scene.name).expect("records");
        unhold();
        let file_bytes = new.len() as u64;
        for offset in (0..file_bytes).step_by(4096) {
            scene.a.disk.flip_bit("data.raw", offset).expect("flips");
        }
        scene.refused(&Carry::default(), "SOURCE_TORN");
        for offset in (0..file_bytes).step_by(4096) {
            scene.a.disk.flip_bit("data.raw", offset).expect("flips");
        }
        scene.recovers();
    }
}

/// Of a block only the pages that are sent are read and compared.
#[test]
fn refuse_a_page_that_moved_and_pass_over_one_that_is_not_sent() {
    for mode in MODES {
        let (a, b) = (Side::new(1, mode), Side::new(2, mode));
        let name = image_name("data.raw");
        let mut bytes = Shape::Noise.make(1 << 20, &mut Rng::new(3));
        a.write(&name, &bytes);
        a.record(&name).expect("records");
        replicate(&a, &b, &name).expect("copies");
        // The sixth page of the third block, and the ninth.
        let (sent, beside) = ((2 << 16) + (5 << 12), (2 << 16) + (8 << 12));
        bytes[sent + 7] ^= 1;
        a.write(&name, &bytes);
        a.record(&name).expect("records");
        a.disk.remove_file(".blockferry/base/data.raw").expect("removed");
        let flip = |offset: usize| a.disk.flip_bit("data.raw", offset as u64).expect("flips");
        flip(sent + 100);
        let error = replicate(&a, &b, &name).expect_err("it moved");
        assert_eq!(error.code(), "SOURCE_TORN");
        flip(sent + 100);
        flip(beside);
        let carried = replicate(&a, &b, &name).expect("what is sent is what was recorded");
        assert_eq!((carried.sent_bytes, carried.again_bytes), (4096, 0));
        assert!(b.read(&name) == bytes && a.read(&name) != bytes);
    }
}

/// Writes into the image while it is scanned.
struct Meddler<'a> {
    side: &'a Side,
    name: &'a ImageName,
    /// 0: a byte, 1: longer, 2: another file in its place, 3: gone.
    how: u32,
    done: AtomicBool,
}

impl Progress for Meddler<'_> {
    fn advance(&self, _: u64, _: u64) {
        if self.done.swap(true, Ordering::Relaxed) {
            return;
        }
        let (disk, name) = (&self.side.disk, self.name.as_str());
        let open = |path: &str| disk.open(path, Open::Create).expect("opens");
        match self.how {
            0 => open(name).write_at(b"!", 9_000_000).expect("writes"),
            1 => open(name).set_len(20 << 20).expect("grows"),
            2 => {
                open("x").write_at(b"other", 0).expect("writes");
                let how = blockferry_store::disk::RenameHow::Replace;
                disk.rename("x", name, how).expect("renames");
            }
            _ => disk.remove_file(name).expect("removes"),
        }
    }
}

#[test]
fn refuse_to_record_what_changed_meanwhile() {
    for how in 0..4 {
        let a = Side::new(1, CommitMode::Copy);
        let name = image_name("busy");
        a.write(&name, &Shape::Noise.make(17 << 20, &mut Rng::new(3)));
        let meddler = Meddler { side: &a, name: &name, how, done: AtomicBool::new(false) };
        let error = a.store.record(&name, a.node, 1, &meddler).expect_err("it changed");
        let want = if how == 3 { "SOURCE_MISSING" } else { "SOURCE_CHANGED" };
        assert_eq!(error.code(), want, "{how}");
        assert_eq!(a.store.current(&name).expect("reads"), None, "something was recorded");
        assert_eq!(a.private("staging"), [""; 0], "{how}: something is left over");
        if how < 3 {
            let recorded = a.try_record(&name).expect("it stands still now");
            assert!(matches!(recorded, Recorded::New(_)));
        }
    }
    // A clone stands still whatever happens to the file.
    let a = Side::new(1, CommitMode::Clone);
    let name = image_name("busy");
    let bytes = Shape::Noise.make(17 << 20, &mut Rng::new(3));
    a.write(&name, &bytes);
    let meddler = Meddler { side: &a, name: &name, how: 0, done: AtomicBool::new(false) };
    let recorded = a.store.record(&name, a.node, 1, &meddler).expect("the clone is whole");
    let root = Root::from_bytes(*blake3::hash(&bytes).as_bytes());
    assert_eq!(recorded.generation().root, root, "a torn root");
    let looks = a.store.look().expect("looks");
    assert_eq!(looks[0].state, LookState::Changed, "the later write is noticed");
}

struct Stop;

impl Progress for Stop {
    fn advance(&self, _: u64, _: u64) {}
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn refuse_to_go_on_when_cancelled() {
    let a = Side::new(1, CommitMode::Copy);
    let name = image_name("x");
    a.write(&name, &Shape::Noise.make(9 << 20, &mut Rng::new(3)));
    assert_eq!(a.store.record(&name, a.node, 1, &Stop).expect_err("stops").code(), "CANCELLED");
    assert_eq!(a.store.current(&name).expect("reads"), None);
    a.record(&name).expect("records");
    assert_eq!(a.store.verify(&name, &Stop).expect_err("stops").code(), "CANCELLED");
}

#[test]
fn refuse_things_that_are_no_image() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).expect("opens"));
    let small = options(CommitMode::Copy);
    let store = Store::create(Arc::clone(&disk), store_identity(), &small).expect("creates");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("empty"), b"").expect("writes");
    std::fs::write(at("real"), b"real").expect("writes");
    std::fs::create_dir(at("dir")).expect("creates");
    std::os::unix::fs::symlink("real", at("link")).expect("links");
    let status = std::process::Command::new("mkfifo").arg(at("fifo")).status().expect("runs");
    assert!(status.success());
    let node = blockferry_tests::author(1);
    for (name, code) in [
        ("empty", "SOURCE_EMPTY"),
        ("dir", "SOURCE_NOT_REGULAR"),
        ("link", "SOURCE_NOT_REGULAR"),
        ("fifo", "SOURCE_NOT_REGULAR"),
        ("absent", "SOURCE_MISSING"),
    ] {
        let name = image_name(name);
        let error = store.record(&name, node, 1, &()).expect_err(code);
        assert_eq!(error.code(), code, "{name}: {error}");
        assert_eq!(store.current(&name).expect("reads"), None);
    }
    std::fs::write(at("bad name"), b"x").expect("writes");
    std::fs::write(at("-rf"), b"x").expect("writes");
    std::fs::write(at(".hidden"), b"x").expect("writes");
    let looks = store.look().expect("looks");
    let state = |name: &str| looks.iter().find(|l| l.name == name).map(|l| l.state);
    assert_eq!(state("bad name"), Some(LookState::BadName));
    assert_eq!(state("-rf"), Some(LookState::BadName));
    assert_eq!((state(".hidden"), state(".blockferry")), (None, None));
    assert_eq!(state("fifo"), Some(LookState::NotRegular));
    assert_eq!(state("real"), Some(LookState::New));
}

#[test]
fn refuse_a_target_that_is_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).expect("opens"));
    let small = options(CommitMode::Copy);
    let store = Store::create(disk, store_identity(), &small).expect("creates");
    let a = Side::new(1, CommitMode::Copy);
    let name = image_name("x");
    a.write(&name, b"content");
    a.record(&name).expect("records");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("x")).expect("links");
    let error = Carry::default().run(&a.store, &Arc::new(store), &name).expect_err("a symlink");
    assert_eq!(error.code(), "SOURCE_NOT_REGULAR");
    let link = std::fs::read_link(dir.path().join("x")).expect("still a link");
    assert_eq!(link, std::path::Path::new("/etc/passwd"));
}

#[test]
fn refuse_without_the_marker() {
    for mode in MODES {
        let Scene { a, b, name, old } = scene(mode, 300_000);
        b.disk.remove_file(".blockferry/store").expect("removes");
        let code = |error: Error| error.code();
        assert_eq!(code(replicate(&a, &b, &name).expect_err("unmounted")), "STORE_MISSING");
        assert_eq!(code(b.store.look().expect_err("unmounted")), "STORE_MISSING");
        assert_eq!(code(b.record(&name).expect_err("unmounted")), "STORE_MISSING");
        assert_eq!(code(b.store.verify(&name, &()).expect_err("unmounted")), "STORE_MISSING");
        assert!(b.read(&name) == old, "nothing was deleted");
        assert_eq!(code(b.reopen().expect_err("no store")), "STORE_MISSING");
    }
    let empty = SimDisk::new(3, 1 << 20);
    let error = Side::open(empty, 1, Options::default()).expect_err("no store");
    assert_eq!(error.code(), "STORE_MISSING");
}

#[test]
fn refuse_a_second_opener() {
    let a = Side::new(1, CommitMode::Copy);
    let open = || Store::open(Arc::new(a.disk.clone()), &a.options);
    assert_eq!(open().expect_err("it is open").code(), "STORE_LOCKED");
    let made = Store::create(Arc::new(a.disk.clone()), store_identity(), &a.options);
    assert_eq!(made.expect_err("there is one").code(), "STORE_EXISTS");
    let (disk, options) = (a.disk.clone(), a.options.clone());
    drop(a);
    Store::open(Arc::new(disk), &options).expect("it is free now");
    // Two processes: two handles of one directory.
    let dir = tempfile::tempdir().expect("a directory");
    let real = || Arc::new(RealDisk::open(dir.path()).expect("opens"));
    let first = Store::create(real(), store_identity(), &options).expect("creates");
    assert_eq!(Store::open(real(), &options).expect_err("it is open").code(), "STORE_LOCKED");
    drop(first);
    Store::open(real(), &options).expect("it is free now");
}

#[test]
fn refuse_a_second_operation_on_an_image() {
    let Scene { a, b, name, .. } = scene(CommitMode::Copy, 300_000);
    let stop = Carry { stop_after_parts: Some(1), ..Carry::default() };
    let held = stop.run(&a.store, &b.store, &name).expect("one part");
    assert_eq!(replicate(&a, &b, &name).expect_err("busy").code(), "BUSY");
    assert_eq!(b.record(&name).expect_err("busy").code(), "BUSY");
    drop(held);
    replicate(&a, &b, &name).expect("free again");
}

#[test]
fn refuse_more_after_a_sync_failed() {
    for mode in MODES {
        for nth in 1..12 {
            let scene = scene(mode, 300_000);
            scene.b.disk.fail_sync(nth);
            let outcome = replicate(&scene.a, &scene.b, &scene.name);
            let Err(error) = outcome else { continue };
            assert!(["IO_ERROR", "CATALOG_ERROR"].contains(&error.code()), "{nth}: {error}");
            // What may be half done on disk is not found by the image's name until it was finished.
            let hidden = scene.b.disk.stat(scene.name.as_str()).expect("looks").is_none();
            assert!(!hidden || mode == CommitMode::Journal, "{mode:?} {nth}: the image is gone");
            if !hidden {
                let held = scene.b.read(&scene.name);
                assert!(held == scene.old || held == scene.a.read(&scene.name), "a mix");
            }
            if error.code() == "IO_ERROR" {
                assert!(scene.b.store.is_degraded(), "{nth}: {error}");
                let next = replicate(&scene.a, &scene.b, &scene.name).expect_err("degraded");
                assert_eq!(next.code(), "DEGRADED", "{nth}");
            }
            let Scene { a, b, name, .. } = scene;
            let (b, _) = b.reopen().expect("opens");
            replicate(&a, &b, &name).unwrap_or_else(|e| panic!("{mode:?} {nth}: {e}"));
            assert!(b.read(&name) == a.read(&name), "{mode:?} {nth}");
            assert!(b.store.verify(&name, &()).expect("reads").is_good(), "{mode:?} {nth}");
        }
    }
}

#[test]
fn refuse_when_a_call_fails_anywhere() {
    use blockferry_store::disk::OpKind::{
        Clone, Create, Open, Punch, Read, Remove, Rename, SetLen, SetMeta, SyncDir, Write,
    };
    let mut cases = 0;
    let all = [Clone, Create, Open, Punch, Read, Remove, Rename, SetLen, SetMeta, SyncDir, Write];
    for mode in MODES {
        for kind in all {
            for nth in 1..40 {
                let scene = scene(mode, 150_000);
                scene.b.disk.fail_at(kind, nth, ErrorKind::Other);
                let outcome = replicate(&scene.a, &scene.b, &scene.name);
                let held = scene.b.read_unfailing(&scene.name);
                let new = scene.a.read(&scene.name);
                assert!(held == scene.old || held == new, "{kind:?} {nth}: a mix");
                cases += 1;
                let failed = outcome.is_err();
                let Scene { a, b, name, .. } = scene;
                let (b, _) = b.reopen_despite_a_fault().expect("opens");
                let case = format!("{mode:?} {kind:?} {nth}");
                replicate(&a, &b, &name).unwrap_or_else(|e| panic!("{case}: {e}"));
                assert!(b.read(&name) == new, "{case}");
                assert!(b.store.verify(&name, &()).expect("reads").is_good(), "{case}");
                assert_eq!(b.private("staging"), [""; 0], "{case}");
                assert_eq!(b.set_aside(), [""; 0], "{case}");
                if !failed {
                    break;
                }
            }
        }
    }
    eprintln!("refuse_failing_calls: {cases} cases");
}
