//! Damage to Blockferry's own files: {truncate, flip, delete} x {catalog, staging, spool, marker,
//! spare}. What follows is a clear error or a correct result; never a wrong image, never a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use blockferry_delta::ImageName;
use blockferry_store::disk::{CrashPlan, Disk, Keep, Open, SimDisk};
use blockferry_store::{CommitMode, Error, Options};
use blockferry_tests::{Edit, Feed, Rng, Shape, Side, across, image_name, options, whole};
use redb::ReadableDatabase;

/// Which file is damaged, by what its path contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Catalog,
    Staging,
    Spool,
    Marker,
    Spare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Truncate,
    Flip,
    Delete,
}

const VICTIMS: [Victim; 5] =
    [Victim::Catalog, Victim::Staging, Victim::Spool, Victim::Marker, Victim::Spare];
const HARMS: [Harm; 3] = [Harm::Truncate, Harm::Flip, Harm::Delete];

/// A store that has all these files: images, a spare, and a transfer under way.
struct Scene {
    name: ImageName,
    options: Options,
    /// The disk with a parked staging, and one between *prepared* and *current*.
    parked: SimDisk,
    prepared: SimDisk,
    known: Vec<Vec<u8>>,
    /// The generation under way, and the one after it.
    feeds: [Feed; 2],
}

fn scene(seed: u64) -> Scene {
    let mut rng = Rng::new(seed);
    let name = image_name("vm.img");
    let a = Side::new(1, CommitMode::Copy);
    let disk = SimDisk::new(seed, 256 << 20);
    disk.set_supports_clone(false);
    let b = Side::create(disk.clone(), 2, options(CommitMode::Copy));
    let mut bytes = Shape::Files.make(400_000, &mut rng);
    let mut feeds = Vec::new();
    for n in 0..4 {
        bytes = if n == 0 { bytes } else { Edit::Cluster.apply(&bytes, &mut rng) };
        a.write(&name, &bytes);
        feeds.push(Feed::of(&a, &name).expect("records"));
        if n < 2 {
            feeds[n].deliver(&b.store).expect("commits");
        }
    }
    b.store.freshen_spare(&name).expect("freshens");
    let whole_crash = CrashPlan { seed, keep: Keep::Everything, tear: false };
    feeds[2].park(&b.store, 1).expect("parks");
    let parked = disk.crash(whole_crash);
    disk.record();
    feeds[2].deliver(&b.store).expect("commits");
    let live = |disk: &SimDisk| whole(disk, name.as_str()).expect("reads");
    // The moment after the names changed places: recovery needs the spool then.
    let states = disk.recorded().into_iter().map(|s| s.disk.crash(whole_crash));
    let prepared = states.into_iter().find(|disk| live(disk) == *feeds[2].bytes);
    let prepared = prepared.expect("there is such a moment");
    let known = feeds[..3].iter().map(|f| f.bytes.to_vec()).collect();
    let feeds = [feeds[2].clone(), feeds[3].clone()];
    Scene { name, options: b.options.clone(), parked, prepared, known, feeds }
}

fn is_spool(entry: &blockferry_store::disk::DirEntry) -> bool {
    entry.name.to_string_lossy().ends_with(".spool")
}

impl Scene {
    fn disk(&self, victim: Victim) -> SimDisk {
        let from = if victim == Victim::Spool { &self.prepared } else { &self.parked };
        from.crash(CrashPlan { seed: 0, keep: Keep::Everything, tear: false })
    }
}

fn path_of(disk: &SimDisk, victim: Victim) -> String {
    let first = |dir: &str, spool: bool| {
        let mut entries = disk.list(dir).expect("lists").into_iter();
        let entry = entries.find(|e| is_spool(e) == spool).expect("the scene has one");
        format!("{dir}/{}", entry.name.to_string_lossy())
    };
    match victim {
        Victim::Catalog => ".blockferry/catalog.redb".to_owned(),
        Victim::Marker => ".blockferry/store".to_owned(),
        Victim::Staging => first(".blockferry/staging", false),
        Victim::Spool => first(".blockferry/staging", true),
        // The parked staging took the spare, if it was fresh.
        Victim::Spare => {
            let spares = disk.list(".blockferry/spare").expect("lists");
            let name = spares.first().map(|e| e.name.to_string_lossy().into_owned());
            format!(".blockferry/spare/{}", name.unwrap_or_else(|| "vm.img".to_owned()))
        }
    }
}

fn harm(disk: &SimDisk, path: &str, harm: Harm, rng: &mut Rng) {
    let Some(stat) = disk.stat(path).expect("looks") else { return };
    match harm {
        Harm::Delete => disk.remove_file(path).expect("removes"),
        Harm::Flip => {
            for _ in 0..1 + rng.below(3) {
                disk.flip_bit(path, rng.below(stat.size_bytes)).expect("flips");
            }
        }
        Harm::Truncate => {
            let file = disk.open(path, Open::ReadWrite).expect("opens");
            file.set_len(rng.below(stat.size_bytes)).expect("cuts");
            file.sync().expect("syncs");
        }
    }
}

/// Uses the store as the service would; every answer is a value or an error. `false`: what was
/// committed is wrong, and a scrub says so.
fn use_it(scene: &Scene, disk: &SimDisk) -> Result<bool, Error> {
    let (side, _) = Side::open(disk.clone(), 2, scene.options.clone())?;
    let name = &scene.name;
    side.store.images()?;
    side.store.look()?;
    side.store.bases(name)?;
    let _ = side.store.history(name);
    let _ = side.store.verify(name, &());
    let _ = side.store.freshen_spare(name);
    side.rescan_or_changed(name)?;
    let mut right = true;
    for feed in &scene.feeds {
        feed.deliver(&side.store)?;
        let same = side.read(name) == *feed.bytes;
        let scrub = side.store.verify(name, &())?;
        assert!(same || !scrub.is_good(), "wrong, and a scrub doesn't tell");
        right &= same;
    }
    Ok(right)
}

/// Bits that rot silently under what is kept of the base can only be found by reading it all:
/// the scrub's work, as for the image itself.
fn may_rot(victim: Victim, how: Harm) -> bool {
    how == Harm::Flip && [Victim::Staging, Victim::Spare].contains(&victim)
}

fn image_is_whole(scene: &Scene, disk: &SimDisk) {
    let bytes = whole(disk, scene.name.as_str()).expect("the image is there");
    let last = &scene.feeds[1].bytes;
    assert!(scene.known.contains(&bytes) || bytes == **last, "a mix is published");
}

#[test]
fn damage_matrix() {
    let errors = std::sync::Mutex::new(std::collections::BTreeMap::<_, u32>::new());
    across("damage_matrix", 12, "damaged stores", |seed| {
        let scene = scene(seed);
        let mut rng = Rng::new(seed ^ 0xDA);
        let mut cases = 0;
        for victim in VICTIMS {
            for how in HARMS {
                let repeat = if victim == Victim::Catalog && how != Harm::Delete { 25 } else { 4 };
                for _ in 0..repeat {
                    let disk = scene.disk(victim);
                    harm(&disk, &path_of(&disk, victim), how, &mut rng);
                    let outcome = catch_unwind(AssertUnwindSafe(|| use_it(&scene, &disk)));
                    let code = match outcome {
                        Ok(Ok(true)) => "OK",
                        Ok(Ok(false)) if may_rot(victim, how) => "FOUND_BY_SCRUB",
                        Ok(Ok(false)) => panic!("{victim:?} {how:?}: acknowledged and wrong"),
                        Ok(Err(error)) => error.code(),
                        Err(_) => "PANIC",
                    };
                    if code != "FOUND_BY_SCRUB" {
                        image_is_whole(&scene, &disk);
                    }
                    let key = format!("{victim:?} {how:?} {code}");
                    *errors.lock().expect("no panic while held").entry(key).or_default() += 1;
                    cases += 1;
                }
            }
        }
        cases
    });
    let errors = errors.into_inner().expect("no panic while held");
    for (what, count) in &errors {
        eprintln!("  {what}: {count}");
    }
    assert!(!errors.keys().any(|what| what.ends_with("PANIC")), "damage must not panic");
    let spools = errors.keys().filter(|what| what.starts_with("Spool"));
    assert!(spools.clone().count() == HARMS.len(), "every harm was done to spools");
    for what in spools {
        assert!(what.ends_with(" OK"), "a spool can be made again: {what}");
    }
}

#[test]
fn damage_a_catalog_of_a_newer_version_is_left_alone() {
    let b = Side::new(2, CommitMode::Copy);
    let (disk, options) = (b.disk.clone(), b.options.clone());
    drop(b);
    const META: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta.v1");
    let backend = disk.backend(".blockferry/catalog.redb").expect("opens");
    let catalog = redb::Builder::new().create_with_backend(backend).expect("opens");
    let write = catalog.begin_write().expect("begins");
    write.open_table(META).expect("opens").insert("format", 2).expect("writes");
    write.commit().expect("commits");
    drop(catalog);
    for _ in 0..2 {
        let error = Side::open(disk.clone(), 2, options.clone()).expect_err("it is newer");
        assert_eq!(error.code(), "INDEX_NEWER");
    }
    let backend = disk.backend(".blockferry/catalog.redb").expect("opens");
    let catalog = redb::Builder::new().create_with_backend(backend).expect("opens");
    let read = catalog.begin_read().expect("begins");
    let format = read.open_table(META).expect("opens").get("format").expect("reads");
    assert_eq!(format.expect("is there").value(), 2, "it was written to");
}
