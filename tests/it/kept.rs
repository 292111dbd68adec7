//! Kept contents: whatever a power cut leaves, a content that was to be kept is there, in its place
//! or still as the image, with what is known of it; and what nobody keeps leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use blockferry_delta::ImageName;
use blockferry_store::disk::{CrashPlan, Disk, Keep, SimDisk, Snapshot};
use blockferry_store::{CommitMode, Generation, Kept, LookState, Options, Received, Recorded, Why};
use blockferry_tests::{Edit, Feed, Rng, Shape, Side, across, image_name, options, put, whole};

const PLANS: [(Keep, bool); 6] = [
    (Keep::Nothing, false),
    (Keep::Everything, false),
    (Keep::Prefix, true),
    (Keep::Subset, false),
    (Keep::Subset, true),
    (Keep::Reordered, true),
];

/// Settings under which something is kept, one for each way to commit.
fn keeping(seed: u64) -> Options {
    let mode = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal][seed as usize % 3];
    Options { keep_generations: Some(2), ..options(mode) }
}

/// A receiver, and a sender that makes what it receives.
struct Scene {
    rng: Rng,
    name: ImageName,
    a: Side,
    b: Side,
    feeds: Vec<Feed>,
}

impl Scene {
    fn new(seed: u64, options: Options) -> Scene {
        let disk = SimDisk::new(seed, 256 << 20);
        disk.set_supports_clone(options.commit == Some(CommitMode::Clone));
        let (a, b) = (Side::new(1, CommitMode::Copy), Side::create(disk, 2, options));
        Scene { rng: Rng::new(seed), name: image_name("vm.img"), a, b, feeds: Vec::new() }
    }

    fn make(&mut self, edit: Edit) -> &Feed {
        let bytes = match self.feeds.last() {
            None => Shape::Files.make(200_000, &mut self.rng),
            Some(last) => edit.apply(&last.bytes, &mut self.rng),
        };
        self.a.write(&self.name, &bytes);
        self.feeds.push(Feed::of(&self.a, &self.name).expect("records"));
        self.feeds.last().expect("just made")
    }

    fn deliver(&mut self, edit: Edit) -> Generation {
        let feed = self.make(edit).clone();
        feed.deliver(&self.b.store).expect("commits").generation
    }

    /// Seals the next content without committing it, and keeps it beside the image.
    fn beside(&mut self) -> Kept {
        let feed = self.make(Edit::Cluster).clone();
        let (mut staging, parts) = feed.stage(&self.b.store).expect("stages");
        for part in parts {
            feed.part(&mut staging, part).expect("fills");
        }
        let sealed = staging.seal().expect("seals");
        let kept = self.b.store.commit_beside(sealed, Received::default(), (Why::Conflict, true));
        kept.expect("kept")
    }
}

/// The bytes of all kept contents; each file in `kept/` must have its row, and each row its file.
fn kept_bytes(side: &Side) -> Vec<(Kept, Vec<u8>)> {
    let all = side.store.all_kept().expect("reads");
    let paths: BTreeSet<String> = all.iter().map(|kept| kept.path.clone()).collect();
    let files = side.private("kept").into_iter().map(|leaf| format!(".blockferry/kept/{leaf}"));
    assert_eq!(files.collect::<BTreeSet<_>>(), paths, "rows and files");
    let bytes = |kept: Kept| {
        let bytes = whole(&side.disk, &kept.path).expect("reads");
        if let Some(generation) = &kept.generation {
            let root = blake3::hash(&bytes);
            assert_eq!(
                root.as_bytes(),
                generation.root.as_bytes(),
                "{}: another content",
                kept.path
            );
        }
        (kept, bytes)
    };
    all.into_iter().map(bytes).collect()
}

/// What must be found after a crash: as the image or kept; and what is acknowledged as kept.
struct Promise {
    /// In one place or the other.
    anywhere: Vec<Vec<u8>>,
    /// Acknowledged after so many operations as kept, for this reason.
    kept: Vec<(usize, Vec<u8>, Why)>,
}

fn check(title: &str, options: &Options, snapshot: &Snapshot, promise: &Promise, plan: CrashPlan) {
    let crashed = snapshot.disk.crash(plan);
    let opened = Side::open(crashed, 2, options.clone());
    let (side, report) = opened.unwrap_or_else(|e| panic!("{title}: does not open: {e}"));
    assert_eq!(side.private("staging").len(), report.resumable, "{title}: left over");
    let kept = kept_bytes(&side);
    let live = whole(&side.disk, "vm.img").ok();
    for bytes in &promise.anywhere {
        let found = live.as_ref() == Some(bytes) || kept.iter().any(|(_, kept)| kept == bytes);
        assert!(found, "{title}: a content is lost");
    }
    agrees(title, &side, live.as_deref());
    for (ops, bytes, why) in &promise.kept {
        if *ops <= snapshot.ops {
            let of = |(kept, held): &&(Kept, Vec<u8>)| kept.why == *why && held == bytes;
            assert!(kept.iter().any(|kept| of(&kept)), "{title}: not kept as {}", why.word());
        }
    }
}

/// What the catalog calls current is what the file holds, unless a look says that it changed.
fn agrees(title: &str, side: &Side, live: Option<&[u8]>) {
    let current = side.store.current(&image_name("vm.img")).expect("reads");
    let looks = side.store.look().expect("looks");
    let state = looks.first().map(|look| look.state);
    match (current, live) {
        (Some(current), None) => {
            assert!(current.is_deleted() || state == Some(LookState::Missing), "{title}: unseen");
        }
        (Some(current), Some(live)) if state == Some(LookState::Unchanged) => {
            let root = blake3::hash(live);
            assert_eq!(current.root.as_bytes(), root.as_bytes(), "{title}: another content");
        }
        _ => {}
    }
}

/// Cuts the power at each operation of a scene.
fn cut(title: &str, seed: u64, side: &Side, promise: &Promise) -> u64 {
    let (mut images, options) = (0, &side.options);
    for (at, snapshot) in side.disk.recorded().iter().enumerate() {
        let plans = if snapshot.disk.pending() == 0 { 1 } else { PLANS.len() };
        for (keep, tear) in &PLANS[..plans] {
            let plan = CrashPlan { seed: seed << 20 | at as u64, keep: *keep, tear: *tear };
            check(title, options, snapshot, promise, plan);
            images += 1;
        }
    }
    images
}

#[test]
fn history_survives_every_crash() {
    across("history_survives_every_crash", 9, "crash images", |seed| {
        let mut scene = Scene::new(seed, keeping(seed));
        scene.deliver(Edit::Pages);
        scene.deliver(Edit::Pages);
        scene.b.disk.record();
        scene.deliver(Edit::Cluster);
        let done = scene.b.disk.ops();
        let bytes = |at: usize| scene.feeds[at].bytes.to_vec();
        let kept = vec![(0, bytes(0), Why::History), (done, bytes(1), Why::History)];
        cut("history", seed, &scene.b, &Promise { anywhere: vec![bytes(0), bytes(1)], kept })
    });
}

#[test]
fn a_recorded_change_keeps_what_was_there() {
    across("a_recorded_change_keeps_what_was_there", 3, "crash images", |seed| {
        let mut scene = Scene::new(seed, keeping(0));
        scene.make(Edit::Pages);
        scene.make(Edit::Pages);
        let (name, old) = (scene.name.clone(), scene.feeds[0].bytes.to_vec());
        scene.b.write(&name, &old);
        scene.b.record(&name).expect("records");
        scene.b.write(&name, &scene.feeds[1].bytes);
        scene.b.disk.record();
        scene.b.record(&name).expect("records");
        let kept = vec![(scene.b.disk.ops(), old, Why::History)];
        cut("recorded", seed, &scene.b, &Promise { anywhere: vec![], kept })
    });
}

#[test]
fn an_edit_is_kept_as_it_is() {
    across("an_edit_is_kept_as_it_is", 6, "crash images", |seed| {
        let mut scene = Scene::new(seed, options(keeping(seed).commit.expect("set")));
        scene.deliver(Edit::Pages);
        let mut edit = scene.feeds[0].bytes.to_vec();
        edit[5000] ^= 1;
        put(&scene.b.disk, "vm.img", &edit).expect("writes");
        scene.b.disk.record();
        let kept = match seed.is_multiple_of(2) {
            true => scene.b.store.keep_present(&scene.name, Why::Edit, true, 7),
            false => scene.b.store.keep_moved(&scene.name, Why::Edit, true, 7),
        };
        let kept = kept.expect("kept");
        assert_eq!((kept.generation.as_ref(), kept.pinned, kept.kept_unix_ms), (None, true, 7));
        assert_eq!(whole(&scene.b.disk, "vm.img").is_ok(), seed.is_multiple_of(2));
        let held = vec![(scene.b.disk.ops(), edit.clone(), Why::Edit)];
        cut("edit", seed, &scene.b, &Promise { anywhere: vec![edit], kept: held })
    });
}

#[test]
fn a_received_content_is_kept_beside_the_image() {
    across("a_received_content_is_kept_beside", 6, "crash images", |seed| {
        let mut scene = Scene::new(seed, options(keeping(seed).commit.expect("set")));
        scene.deliver(Edit::Pages);
        scene.b.disk.record();
        let kept = scene.beside();
        assert_eq!(kept.root(), Some(scene.feeds[1].generation.root));
        assert!(scene.b.read(&scene.name) == *scene.feeds[0].bytes, "the image is as it was");
        let current = scene.b.store.current(&scene.name).expect("reads").expect("known");
        assert_eq!(current.root, scene.feeds[0].generation.root);
        let held = vec![(scene.b.disk.ops(), scene.feeds[1].bytes.to_vec(), Why::Conflict)];
        let anywhere = vec![scene.feeds[0].bytes.to_vec()];
        cut("beside", seed, &scene.b, &Promise { anywhere, kept: held })
    });
}

#[test]
fn what_is_released_is_gone_and_what_isnt_stays() {
    across("what_is_released_is_gone", 6, "crash images", |seed| {
        let mut scene = Scene::new(seed, keeping(seed));
        scene.deliver(Edit::Pages);
        let stays = scene.beside();
        let goes = scene.beside();
        let bytes = scene.feeds[1].bytes.to_vec();
        scene.b.disk.record();
        let store = &scene.b.store;
        assert_eq!(store.release_expired().expect("looks"), [], "both are pinned");
        assert_eq!(store.acknowledge(&scene.name, goes.serial).expect("released"), goes);
        let again = store.acknowledge(&scene.name, goes.serial).expect_err("it is gone");
        assert_eq!(again.code(), "GENERATION_UNKNOWN");
        assert_eq!(store.kept(&scene.name).expect("reads"), [stays]);
        assert_eq!(scene.b.private("trash"), [""; 0]);
        let held = vec![(0, bytes, Why::Conflict)];
        cut("release", seed, &scene.b, &Promise { anywhere: vec![], kept: held })
    });
}

#[test]
fn a_deletion_keeps_the_image() {
    across("a_deletion_keeps_the_image", 6, "crash images", |seed| {
        let mut scene = Scene::new(seed, options(keeping(seed).commit.expect("set")));
        scene.deliver(Edit::Pages);
        let (a, b, name) = (&scene.a, &scene.b, scene.name.clone());
        let refused = a.store.record_deletion(&name, a.node, 1).expect_err("it is there");
        assert_eq!(refused.code(), "LOCAL_CHANGE");
        a.disk.remove_file("vm.img").expect("removes");
        let deletion = a.store.record_deletion(&name, a.node, 1).expect("records");
        assert!(deletion.is_deleted() && deletion.number == 2);
        assert_eq!(deletion.root.as_bytes(), blake3::hash(&[]).as_bytes());
        let again = a.store.record_deletion(&name, a.node, 1).expect_err("no image any more");
        assert_eq!(again.code(), "IMAGE_UNKNOWN");
        b.disk.record();
        b.store.commit_deletion(deletion, 7).expect("commits");
        let done = b.disk.ops();
        assert!(whole(&b.disk, "vm.img").is_err() && b.store.images().expect("reads").is_empty());
        assert!(b.store.is_deleted(&name).expect("reads"));
        let old = scene.feeds[0].bytes.to_vec();
        let kept = vec![(done, old.clone(), Why::Deleted)];
        let images = cut("deletion", seed, b, &Promise { anywhere: vec![old.clone()], kept });
        // Made again under the name, it descends from the deletion.
        let again = scene.deliver(Edit::Pages);
        assert_eq!(again.number, 3);
        let before = scene.feeds[0].generation.lineage.clone();
        assert_eq!(again.lineage.compare(&before), blockferry_delta::Order::Newer);
        assert!(scene.b.read(&scene.name) == *scene.feeds[1].bytes);
        assert_eq!(kept_bytes(&scene.b).len(), 1, "what was deleted is still kept");
        images
    });
}

#[test]
fn a_writer_that_deletes_keeps_what_its_held_base_has() {
    across("a_writer_that_deletes", 2, "crash images", |seed| {
        let mut scene = Scene::new(seed, keeping(0));
        scene.make(Edit::Pages);
        let (b, name) = (&scene.b, &scene.name);
        b.write(name, &scene.feeds[0].bytes);
        b.record(name).expect("records");
        b.disk.remove_file("vm.img").expect("removes");
        b.disk.sync_dir("").expect("syncs");
        b.disk.record();
        b.store.record_deletion(name, b.node, 7).expect("records");
        let old = scene.feeds[0].bytes.to_vec();
        let kept = vec![(b.disk.ops(), old.clone(), Why::Deleted)];
        let images = cut("deleting", seed, b, &Promise { anywhere: vec![], kept });
        // And has it back.
        let back = b.store.rollback(name, 1, b.node, 8, &()).expect("rolls back");
        assert!(matches!(back, Recorded::New(_)) && b.read(name) == old);
        images
    });
}

#[test]
fn a_rollback_is_a_new_generation() {
    across("a_rollback_is_a_new_generation", 6, "crash images", |seed| {
        let mut scene = Scene::new(seed, keeping(seed));
        for _ in 0..3 {
            scene.deliver(Edit::Cluster);
        }
        let (b, name) = (&scene.b, &scene.name);
        let bytes = |at: usize| scene.feeds[at].bytes.to_vec();
        let gone = b.store.rollback(name, 9, b.node, 5, &()).expect_err("unknown");
        assert_eq!(gone.code(), "NOT_KEPT");
        b.disk.record();
        let back = b.store.rollback(name, 1, b.node, 5, &()).expect("rolls back");
        let done = b.disk.ops();
        let Recorded::New(back) = back else { panic!("unchanged") };
        assert_eq!((back.number, back.root), (4, scene.feeds[0].generation.root));
        let before = &scene.feeds[2].generation.lineage;
        assert_eq!(back.lineage.compare(before), blockferry_delta::Order::Newer);
        assert!(b.read(name) == bytes(0) && b.store.verify(name, &()).expect("reads").is_good());
        let same = b.store.rollback(name, 4, b.node, 5, &()).expect("nothing to do");
        assert!(matches!(same, Recorded::Unchanged(_)));
        let kept = vec![(done, bytes(2), Why::History), (0, bytes(1), Why::History)];
        let anywhere = vec![bytes(0), bytes(1), bytes(2)];
        let images = cut("rollback", seed, b, &Promise { anywhere, kept });
        // With a change that nobody recorded it is refused, and with a rotten content.
        let kept = b.store.kept_with_root(name, &scene.feeds[1].generation.root);
        let path = kept.expect("reads").expect("kept").path;
        let file = b.disk.open(&path, blockferry_store::disk::Open::ReadWrite).expect("opens");
        let stat = file.stat().expect("looks");
        file.write_at(&[bytes(1)[100] ^ 1], 100).expect("writes");
        let meta = file.meta().expect("reads");
        let meta = blockferry_delta::Meta { mtime_ns: stat.mtime_ns, ..meta };
        file.set_meta(&meta).expect("sets");
        drop(file);
        let rotten = b.store.rollback(name, 2, b.node, 5, &()).expect_err("rotten");
        assert_eq!(rotten.code(), "ROOT_MISMATCH");
        assert!(b.read(name) == bytes(0) && b.private("staging").is_empty());
        put(&b.disk, "vm.img", &bytes(1)).expect("writes");
        let changed = b.store.rollback(name, 3, b.node, 5, &()).expect_err("not recorded");
        assert_eq!(changed.code(), "LOCAL_CHANGE");
        images
    });
}

/// A base and what is made upon it, recorded one after the other as their owner does it, or received
/// as one: what goes back together is what was there together.
#[test]
fn a_set_goes_back_to_what_was_current_together() {
    let names = ["base.img", "child.img"].map(image_name);
    let content = |at: usize, version: u8| vec![version * 16 + at as u8; 70_000];
    for seed in 0..3 {
        let mut options = keeping(seed);
        options.keep_generations = Some(5);
        let disk = SimDisk::new(seed, 256 << 20);
        disk.set_supports_clone(options.commit == Some(CommitMode::Clone));
        let (writer, side) = (Side::new(1, CommitMode::Copy), Side::create(disk, 2, options));
        for version in 1..=3 {
            let mut sealed = Vec::new();
            for (at, name) in names.iter().enumerate() {
                writer.write(name, &content(at, version));
                let feed = Feed::of(&writer, name).expect("records");
                sealed.push((feed.seal(&side.store).expect("seals").0, Received::default()));
            }
            side.store.commit_set(sealed).expect("commits");
        }
        let [base, child] = &names;
        let with = |of: &ImageName, number| {
            let together = side.store.together(of, number, &names).expect("reads");
            together
                .into_iter()
                .map(|(name, number)| (name.to_string(), number))
                .collect::<Vec<_>>()
        };
        for number in [1, 2] {
            assert_eq!(with(base, number), [("child.img".to_owned(), number)], "seed {seed}");
            assert_eq!(with(child, number), [("base.img".to_owned(), number)], "seed {seed}");
        }
        assert_eq!((with(base, 3), with(child, 3), with(base, 9)), (vec![], vec![], vec![]));
        // Only the child has changed since: the base stays.
        writer.write(child, &content(1, 4));
        Feed::of(&writer, child).and_then(|feed| feed.deliver(&side.store)).expect("commits");
        assert_eq!((with(child, 3), with(child, 2)), (vec![], vec![("base.img".to_owned(), 2)]));

        let before = side.store.current(base).expect("reads");
        let wrong = [(base.clone(), 2), (child.clone(), 77)];
        let refused = side.store.rollback_set(&wrong, side.node, 5, &()).expect_err("unknown");
        assert_eq!(refused.code(), "NOT_KEPT");
        assert_eq!(side.store.current(base).expect("reads"), before, "none or all");
        assert!(side.private("staging").is_empty(), "seed {seed}");
        let back = [(base.clone(), 2), (child.clone(), 2)];
        let made = side.store.rollback_set(&back, side.node, 5, &()).expect("goes back");
        assert!(made.iter().all(|made| matches!(made, Recorded::New(_))));
        assert!(side.read(base) == content(0, 2) && side.read(child) == content(1, 2));
        // What was displaced by that went together, too.
        assert_eq!(with(child, 4), [("base.img".to_owned(), 3)], "seed {seed}");
    }
}

/// Milliseconds that the stores of one test think to be in service.
static SERVICE_MS: AtomicU64 = AtomicU64::new(0);
const DAY_MS: u64 = 24 * 3600 * 1000;

#[test]
fn a_flood_of_generations_takes_nothing_within_its_days() {
    let clock = || SERVICE_MS.load(Ordering::Relaxed);
    let flooded = Options { keep_days: 3, monotonic_ms: clock, ..keeping(0) };
    let mut scene = Scene::new(1, flooded);
    scene.deliver(Edit::Pages);
    let good = scene.feeds[0].bytes.to_vec();
    for day in 0..3 {
        for junk in 0..12_i64 {
            // Whatever the dates say, of the generation or of the disk.
            let far = (junk - 6) * 10 * 365 * DAY_MS as i64;
            let mut feed = scene.make(Edit::Byte).clone();
            feed.generation.recorded_unix_ms = far;
            feed.generation.meta.mtime_ns = i128::from(far) * 1_000_000;
            let disk = &scene.b.disk;
            disk.set_clock_ns(disk.clock_ns() + i128::from(far) * 1_000);
            feed.deliver(&scene.b.store).expect("commits");
            if junk % 4 == 0 {
                scene.a.disk.remove_file("vm.img").expect("removes");
                let deletion = scene.a.store.record_deletion(&scene.name, scene.a.node, far);
                let deletion = deletion.expect("records");
                scene.b.store.commit_deletion(deletion, far).expect("commits");
            }
            scene.b.store.release_expired().expect("releases");
        }
        SERVICE_MS.fetch_add(DAY_MS - 1000, Ordering::Relaxed);
        scene.b.store.release_expired().expect("releases");
        let (side, _) = scene.b.reopen().expect("opens");
        scene.b = side;
        scene.b.store.release_expired().expect("releases");
        let there = kept_bytes(&scene.b).iter().any(|(_, bytes)| *bytes == good);
        assert!(there, "gone after {day} days");
        assert!(kept_bytes(&scene.b).len() >= 12 * (day + 1));
    }
    SERVICE_MS.fetch_add(DAY_MS, Ordering::Relaxed);
    scene.b.store.release_expired().expect("releases");
    let kept = kept_bytes(&scene.b);
    assert!(kept.iter().all(|(_, bytes)| *bytes != good), "its time has come");
    assert!(kept.len() >= 2, "so many stay, however old");
    SERVICE_MS.fetch_add(9 * DAY_MS, Ordering::Relaxed);
    scene.b.store.release_expired().expect("releases");
    let newest = scene.feeds.len() - 1;
    let left: Vec<_> = kept_bytes(&scene.b).into_iter().map(|(_, bytes)| bytes).collect();
    let expected = [newest - 1, newest - 2].map(|at| scene.feeds[at].bytes.to_vec());
    assert!(left == expected, "the newest two, newest first");
}

#[test]
fn without_its_catalog_a_store_keeps_what_it_kept() {
    let mut scene = Scene::new(1, keeping(0));
    scene.deliver(Edit::Pages);
    scene.deliver(Edit::Pages);
    let old = scene.feeds[0].bytes.to_vec();
    let disk = scene.b.disk.clone();
    // What an earlier version had set aside.
    let quarantined = ".blockferry/quarantine/vm.img.0";
    put(&disk, quarantined, &[7; 5000]).expect("writes");
    let options = scene.b.options.clone();
    drop(scene);
    disk.remove_file(".blockferry/catalog.redb").expect("removes");
    let (side, _) = Side::open(disk, 2, options).expect("opens");
    let kept = kept_bytes(&side);
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|(kept, _)| kept.pinned && kept.generation.is_none()));
    assert!(kept.iter().any(|(_, bytes)| *bytes == old));
    assert!(kept.iter().any(|(_, bytes)| *bytes == [7; 5000]));
    assert_eq!(side.private("quarantine"), [""; 0]);
}
