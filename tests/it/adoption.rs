//! The adoption of a store: power cuts at every operation of every move and of what happens in
//! between, and orders in any sequence with crashes among them. While the old tool rules its files are
//! what they were, inode, bytes and time; from every phase but the end there is a way back to that.

use blockferry_delta::ImageName;
use blockferry_store::disk::{CrashPlan, Disk, Keep, RenameHow, SimDisk};
use blockferry_store::{
    AdoptOrder, Adoption, CommitMode, Error, Facts, Options, Phase, Received, Rule, Why,
};
use blockferry_tests::{Feed, Rng, Shape, Side, across, image_name, options, put, whole};

const MODES: [CommitMode; 3] = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal];
const NONE: Facts = Facts { unrecorded: 0, diverged: 0 };

fn crash_of(rng: &mut Rng) -> CrashPlan {
    let keep = *rng.pick(&Keep::ALL);
    CrashPlan { seed: rng.draw(), keep, tear: rng.chance(1, 2) }
}

/// A file as the old tool left it.
#[derive(Clone, Debug)]
struct Old {
    name: ImageName,
    bytes: Vec<u8>,
    inode: u64,
    mtime_ns: i128,
}

/// What the old tool left, and what a peer has of it.
struct Scene {
    options: Options,
    old: Vec<Old>,
    /// The newer content of the image that was stale, and an image that was missing.
    feeds: Vec<Feed>,
    disk: SimDisk,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let mode = MODES[seed as usize % MODES.len()];
        let options = Options { adopt: true, mirror: true, ..options(mode) };
        let disk = SimDisk::new(seed, 256 << 20);
        disk.set_supports_clone(mode == CommitMode::Clone);
        let (mut rng, a) = (Rng::new(seed), Side::new(1, CommitMode::Copy));
        let mut old = Vec::new();
        let mut feeds = Vec::new();
        for (text, bytes) in [("equal.img", 70_000), ("only.img", 9_000), ("stale.img", 300_000)] {
            let name = image_name(text);
            let bytes = Shape::Files.make(bytes, &mut rng);
            put(&disk, text, &bytes).expect("the disk takes it");
            if text == "stale.img" {
                a.write(&name, &bytes);
                a.record(&name).expect("records");
                let mut newer = bytes.clone();
                newer[100_000..101_000].fill(7);
                a.write(&name, &newer);
                feeds.push(Feed::of(&a, &name).expect("records"));
            }
            let stat = disk.stat(text).expect("looks").expect("there");
            old.push(Old { name, bytes, inode: stat.inode, mtime_ns: stat.mtime_ns });
        }
        let fresh = image_name("fresh.img");
        a.write(&fresh, &Shape::Text.make(50_000, &mut rng));
        feeds.push(Feed::of(&a, &fresh).expect("records"));
        Scene { options, old, feeds, disk }
    }

    fn open(&self, disk: SimDisk) -> Side {
        Side::open(disk, 2, self.options.clone()).expect("opens").0
    }

    /// The old tool's files are what they were, and there are no others.
    fn as_it_was(&self, disk: &SimDisk, when: &str) {
        for old in &self.old {
            let name = old.name.as_str();
            let stat = disk.stat(name).expect("looks");
            let stat = stat.unwrap_or_else(|| panic!("{name} is gone {when}"));
            assert_eq!((stat.inode, stat.mtime_ns), (old.inode, old.mtime_ns), "{name} {when}");
            assert!(whole(disk, name).expect("reads") == old.bytes, "{name} {when}");
        }
        let names = disk.list("").expect("lists").into_iter().map(|entry| entry.name);
        assert_eq!(names.count(), self.old.len() + 1, "a file more or less {when}");
    }

    /// Takes what the peer has, as far as the phase allows. Returns whether all of it is in place.
    fn deliver(&self, side: &Side) -> bool {
        for look in side.store.look().expect("looks") {
            if let Ok(name) = ImageName::new(&look.name) {
                // What isn't there any more is no matter here.
                let _recorded = side.try_record(&name);
            }
        }
        let rule = side.store.adoption().rule();
        for feed in &self.feeds {
            let name = &feed.generation.image;
            let current = side.store.current(name).expect("reads");
            if current.is_some_and(|current| current.root == feed.generation.root) {
                continue;
            }
            let sealed = feed.seal(&side.store).expect("seals").0;
            match rule {
                Rule::InPlace => {
                    drop(side.store.commit(sealed, Received::default()).expect("commits"))
                }
                Rule::Beside => {
                    let why = (Why::Shadow, true);
                    let kept = side.store.commit_beside(sealed, Received::default(), why);
                    let root = kept.expect("kept").root();
                    side.store.release_shadow(name, root.as_ref()).expect("releases");
                    // One is enough.
                    let all = side.store.kept(name).expect("reads");
                    for more in all.iter().filter(|k| k.why == Why::Shadow).skip(1) {
                        side.store.acknowledge(name, more.serial).expect("releases");
                    }
                }
                Rule::Nothing => {
                    let refused = side.store.commit(sealed, Received::default());
                    assert!(matches!(refused, Err(Error::Observing { .. })), "{refused:?}");
                }
            }
        }
        rule == Rule::InPlace
    }

    fn in_place(&self, disk: &SimDisk, when: &str) {
        for feed in &self.feeds {
            let name = feed.generation.image.as_str();
            assert!(whole(disk, name).expect("reads") == *feed.bytes, "{name} {when}");
        }
    }

    /// What must hold of a disk after a crash, and that everything can go on from there.
    fn check(&self, disk: SimDisk, may: &[Phase], when: &str) {
        let side = self.open(disk);
        let now = side.store.adoption();
        assert!(now.rests() && may.contains(&now.from), "{when}: {now:?}, not {may:?}");
        let when = format!("{when}, in {}", now.from.word());
        if now.is_shut() {
            self.as_it_was(&side.disk, &when);
        }
        if now.from != Phase::Off {
            while side.store.adoption() != Adoption::resting(Phase::Observe) {
                side.store.adopt(AdoptOrder::Back, NONE).expect("back");
                self.as_it_was(&side.disk, &when);
            }
            assert_eq!(side.set_aside(), [""; 0], "{when}: nothing of ours is left");
            self.deliver(&side);
            for _ in 0..2 {
                side.store.adopt(AdoptOrder::Next, NONE).expect("on");
            }
        }
        assert!(self.deliver(&side), "{when}");
        self.in_place(&side.disk, &when);
        if now.from != Phase::Off {
            assert_eq!(side.store.adopt(AdoptOrder::Next, NONE).expect("ends").to, Phase::Off);
        }
        assert_eq!(side.set_aside(), [""; 0], "{when}: left over at the end");
        assert!(side.store.verify(&image_name("stale.img"), &()).expect("reads").is_good());
        assert!(side.disk.stat(".blockferry/adopting").expect("looks").is_none());
    }
}

#[test]
fn adoption_crash_at_every_operation() {
    across("adoption_crash_at_every_operation", 3, "crash images", |seed| {
        let scene = Scene::new(seed);
        let mut rng = Rng::new(seed << 8);
        scene.disk.record();
        let side = Side::create(scene.disk.clone(), 2, scene.options.clone());
        // (operations, the phase that was reached by then).
        let mut acks = vec![(side.disk.ops(), Phase::Observe)];
        let orders = [
            AdoptOrder::Next,
            AdoptOrder::Next,
            AdoptOrder::Back,
            AdoptOrder::Back,
            AdoptOrder::Next,
            AdoptOrder::Next,
            AdoptOrder::Next,
        ];
        for order in orders {
            scene.deliver(&side);
            let to = side.store.adopt(order, NONE).expect("moves").to;
            acks.push((side.disk.ops(), to));
        }
        scene.in_place(&side.disk, "at the end");
        let (snapshots, mut images) = (side.disk.recorded(), 0);
        for (at, snapshot) in snapshots.iter().enumerate().filter(|(_, s)| s.ops > acks[0].0) {
            // Another half of the operations with each seed of a mode.
            if (at as u64 + seed / 3).is_multiple_of(2) {
                let last = acks.iter().rposition(|(ops, _)| *ops <= snapshot.ops).expect("made");
                let may: Vec<_> = acks.iter().skip(last).take(2).map(|(_, phase)| *phase).collect();
                let disk = snapshot.disk.crash(crash_of(&mut rng));
                scene.check(disk, &may, &format!("operation {at}"));
                images += 1;
            }
        }
        images
    });
}

#[test]
fn adoption_orders_and_crashes_in_any_sequence() {
    across("adoption_orders_and_crashes", 40, "steps", |seed| {
        let scene = Scene::new(seed);
        let mut rng = Rng::new(seed << 16);
        let mut side = Side::create(scene.disk.clone(), 2, scene.options.clone());
        let steps = 12;
        for step in 0..steps {
            side.disk.record();
            let order = *rng.pick(&[AdoptOrder::Next, AdoptOrder::Next, AdoptOrder::Back]);
            let facts = Facts { diverged: u64::from(step + 1 < steps), ..NONE };
            match rng.below(3) {
                0 => drop(scene.deliver(&side)),
                _ => drop(side.store.adopt(order, facts)),
            }
            if rng.chance(1, 2) {
                let snapshots = side.disk.recorded();
                if !snapshots.is_empty() {
                    let disk = rng.pick(&snapshots).disk.crash(crash_of(&mut rng));
                    side = scene.open(disk);
                }
            }
            let now = side.store.adoption();
            assert!(now.rests(), "seed {seed}, step {step}: {now:?}");
            if now.is_shut() {
                scene.as_it_was(&side.disk, &format!("seed {seed}, step {step}"));
            }
        }
        if side.store.adoption().from != Phase::Off {
            let disk = side.disk.crash(crash_of(&mut rng));
            let may = [Phase::Observe, Phase::Shadow, Phase::Active];
            scene.check(disk, &may, &format!("seed {seed}, the end"));
        }
        steps
    });
}

#[test]
fn a_lost_catalog_begins_again_by_observing() {
    let scene = Scene::new(1);
    let side = Side::create(scene.disk.clone(), 2, scene.options.clone());
    side.store.adopt(AdoptOrder::Next, NONE).expect("shadow");
    let Side { disk, store, .. } = side;
    drop(store);
    disk.remove_file(".blockferry/catalog.redb").expect("removed");
    let options = Options { adopt: false, ..scene.options.clone() };
    let (side, _) = Side::open(disk, 2, options).expect("opens");
    assert_eq!(side.store.adoption(), Adoption::resting(Phase::Observe));
    scene.as_it_was(&side.disk, "without a catalog");
}

#[test]
fn what_somebody_makes_while_active_stays_his() {
    let scene = Scene::new(3);
    let side = Side::create(scene.disk.clone(), 2, scene.options.clone());
    for _ in 0..2 {
        side.store.adopt(AdoptOrder::Next, NONE).expect("moves");
    }
    assert!(scene.deliver(&side));
    // Somebody edits what came, and makes an image of his own.
    let (stale, made) = (image_name("stale.img"), image_name("made.img"));
    let mut edited = side.read(&stale);
    edited[..5].copy_from_slice(b"edits");
    side.write(&stale, &edited);
    side.write(&made, b"made here");
    side.record(&made).expect("records");
    side.disk.hold_open("stale.img", true).expect("opened");
    let refused = side.store.adopt(AdoptOrder::Back, NONE);
    assert!(matches!(refused, Err(Error::InUse(_))), "{refused:?}");
    assert_eq!(side.store.adoption().rule(), Rule::Nothing, "on the way");
    side.disk.release("stale.img").expect("closed");
    side.store.adopt(AdoptOrder::Back, NONE).expect("gone on with");
    side.disk.rename("made.img", ".blockferry/elsewhere", RenameHow::NoReplace).expect("moved");
    scene.as_it_was(&side.disk, "after the way back");
    let kept = side.store.kept(&stale).expect("reads");
    let edit = kept.iter().find(|kept| kept.why == Why::Edit).expect("the edit is kept");
    assert!(edit.pinned && whole(&side.disk, &edit.path).expect("reads") == edited);
}
