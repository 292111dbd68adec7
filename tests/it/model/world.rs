//! Two stores and what they should hold, and the operations on both.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use blockferry_delta::{ImageName, Order, Root};
use blockferry_store::disk::{CrashPlan, Disk, Keep, RenameHow, SimDisk};
use blockferry_store::{CommitMode, Error, LookState, Recorded};
use blockferry_tests::{Carried, Carry, Edit, Rng, Shape, Side, image_name, options, replicate};

use super::{Op, What};

const NAMES: [&str; 3] = ["a.raw", "b.raw", "c.raw"];

/// A generation as the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    number: u64,
    bytes: Vec<u8>,
}

/// What one side should hold.
#[derive(Clone, Debug, Default)]
struct Model {
    files: BTreeMap<ImageName, Vec<u8>>,
    current: BTreeMap<ImageName, Known>,
    /// Files that somebody wrote since they were recorded or received.
    dirty: std::collections::BTreeSet<ImageName>,
}

pub(super) struct World {
    sides: [Option<Side>; 2],
    models: [Model; 2],
    /// Seeds of crashes, apart from the operations' own.
    crashes: u64,
    trail: String,
}

fn root_of(bytes: &[u8]) -> Root {
    Root::from_bytes(*blake3::hash(bytes).as_bytes())
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed ^ 0x0DE1);
        let side = |number: u8, rng: &mut Rng| {
            let mode = *rng.pick(&[CommitMode::Clone, CommitMode::Copy, CommitMode::Journal]);
            let disk = SimDisk::new(number.into(), 512 << 20);
            disk.set_supports_clone(mode == CommitMode::Clone);
            Some(Side::create(disk, number, options(mode)))
        };
        let sides = [side(1, &mut rng), side(2, &mut rng)];
        World { sides, models: Default::default(), crashes: seed, trail: String::new() }
    }

    fn side(&self, at: usize) -> &Side {
        self.sides[at].as_ref().expect("open between operations")
    }

    pub(super) fn step(&mut self, op: Op) {
        let mut rng = Rng::new(op.seed);
        // Most happens at the first side; what is received, at the second.
        let at = usize::from(rng.chance(1, 4));
        let name = image_name(NAMES[rng.below(3) as usize]);
        self.trail = format!("{:?} {name} at {at}", op.what);
        match op.what {
            What::Write => self.write(at, &name, &mut rng),
            What::Record => self.record(at, &name),
            What::Replicate => self.replicate(at, &name),
            What::CutPower => self.cut_power(at, &name, &mut rng),
            What::Reopen => self.reopen(at),
            What::Freshen => self.freshen(1 - at, &name),
            What::Delete => self.delete(at, &name),
            What::Rename => self.rename(at, &name, &mut rng),
            What::Verify => self.verify(1 - at, &name),
            What::FailSync => {
                self.side(1 - at).disk.fail_sync(1 + rng.below(9) as usize);
                self.uncertain(at, &name);
            }
            What::FillDisk => self.fill_disk(at, &name, &mut rng),
            What::Park => self.park(at, &name),
        }
    }

    fn write(&mut self, at: usize, name: &ImageName, rng: &mut Rng) {
        let bytes = match self.models[at].files.get(name) {
            Some(old) => rng.pick(&Edit::ALL).apply(old, rng),
            None => {
                let size = *rng.pick(&[1, 4097, 65_536, 70_001, 200_000]);
                rng.pick(&Shape::ALL).make(size, rng)
            }
        };
        self.side(at).write(name, &bytes);
        self.models[at].files.insert(name.clone(), bytes);
        self.models[at].dirty.insert(name.clone());
    }

    fn record(&mut self, at: usize, name: &ImageName) {
        let outcome = self.side(at).try_record(name);
        let model = &mut self.models[at];
        let Some(bytes) = model.files.get(name) else {
            assert_eq!(outcome.expect_err("no file").code(), "SOURCE_MISSING");
            return;
        };
        let recorded = outcome.expect("nothing is in the way");
        assert_eq!(recorded.generation().root, root_of(bytes));
        let is_new = model.dirty.remove(name) || !model.current.contains_key(name);
        assert_eq!(matches!(recorded, Recorded::New(_)), is_new, "{}", self.trail);
        self.learn(at, name);
    }

    /// Takes over what the store says is current; its number may not go back.
    fn learn(&mut self, at: usize, name: &ImageName) {
        let current = self.side(at).store.current(name).expect("reads").expect("has one");
        let bytes = self.models[at].files.get(name).expect("it was recorded").clone();
        assert_eq!(current.root, root_of(&bytes), "{}: file and catalog", self.trail);
        let known = Known { number: current.number, bytes };
        let before = self.models[at].current.insert(name.clone(), known);
        let before = before.map_or(0, |known| known.number);
        assert!(before <= current.number, "{}: the number went back", self.trail);
    }

    /// Would the receiver take what side `at` has?
    fn is_newer(&self, at: usize, name: &ImageName) -> bool {
        let ours = self.side(at).store.current(name).expect("reads");
        let theirs = self.side(1 - at).store.current(name).expect("reads");
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours.lineage.compare(&theirs.lineage) == Order::Newer,
            (ours, None) => ours.is_some(),
            (None, _) => false,
        }
    }

    fn replicate(&mut self, at: usize, name: &ImageName) {
        if !self.is_newer(at, name) {
            return;
        }
        let outcome = replicate(self.side(at), self.side(1 - at), name);
        self.judge(at, name, outcome);
    }

    /// Was the outcome of a transfer without faults what the model expects?
    fn judge(&mut self, at: usize, name: &ImageName, outcome: Result<Carried, Error>) {
        let (from, to) = (&self.models[at], &self.models[1 - at]);
        let offered = from.current[name].clone();
        let in_the_way = to.files.contains_key(name)
            && (to.dirty.contains(name) || !to.current.contains_key(name));
        let readable = from.files.get(name) == Some(&offered.bytes) && !from.dirty.contains(name);
        match outcome {
            Err(error) if in_the_way => assert_eq!(error.code(), "LOCAL_CHANGE", "{}", self.trail),
            Err(error) => {
                assert!(!readable, "{}: {error}", self.trail);
                assert!(["SOURCE_TORN", "IO_ERROR"].contains(&error.code()), "{error}");
            }
            Ok(carried) => {
                assert!(!in_the_way, "{}: a local change was overwritten", self.trail);
                let here = carried.base == Some(root_of(&offered.bytes));
                let held = self.side(at).private("base").contains(&name.to_string());
                assert!(readable || here || held, "{}: unreadable and sent", self.trail);
                self.received(1 - at, name, offered.bytes);
            }
        }
    }

    fn received(&mut self, at: usize, name: &ImageName, bytes: Vec<u8>) {
        self.models[at].files.insert(name.clone(), bytes);
        self.models[at].dirty.remove(name);
        self.learn(at, name);
    }

    /// A transfer with something failing: what it leaves is the old or the new, after reopening.
    fn uncertain(&mut self, at: usize, name: &ImageName) {
        let outcome = match self.is_newer(at, name) {
            true => replicate(self.side(at), self.side(1 - at), name).map(|_| ()),
            false => self.side(1 - at).try_record(name).map(|_| ()),
        };
        // Faults end with the machine.
        self.crash(1 - at);
        self.settle(1 - at, name, outcome.is_ok());
    }

    fn fill_disk(&mut self, at: usize, name: &ImageName, rng: &mut Rng) {
        let disk = &self.side(1 - at).disk;
        let space = disk.space().expect("answers");
        let used = space.total_bytes - space.free_bytes;
        disk.set_capacity(used + rng.below(8 << 20));
        self.uncertain_while_full(at, name);
        self.side(1 - at).disk.set_capacity(512 << 20);
    }

    fn uncertain_while_full(&mut self, at: usize, name: &ImageName) {
        let before = self.models[1 - at].files.clone();
        if !self.is_newer(at, name) {
            return;
        }
        let outcome = replicate(self.side(at), self.side(1 - at), name);
        if let Err(Error::OutOfSpace { needed_bytes, free_bytes }) = &outcome {
            assert!(needed_bytes > free_bytes);
            assert_eq!(before, self.files_on_disk(1 - at), "{}: changed", self.trail);
            return;
        }
        self.side(1 - at).disk.set_capacity(512 << 20);
        self.reopen_quietly(1 - at);
        self.settle(1 - at, name, outcome.is_ok());
    }

    /// Cuts the power in the middle of something at one side.
    fn cut_power(&mut self, at: usize, name: &ImageName, rng: &mut Rng) {
        let victim = 1 - at;
        let disk = self.side(victim).disk.clone();
        disk.cut_after(disk.ops() + rng.below(70) as usize);
        let outcome = match rng.below(4) {
            0 => self.side(victim).try_record(name).map(|_| ()),
            1 => self.side(victim).store.freshen_spare(name).map(|_| ()),
            _ if self.is_newer(at, name) => {
                replicate(self.side(at), self.side(victim), name).map(|_| ())
            }
            _ => Ok(()),
        };
        self.crash(victim);
        self.settle(victim, name, outcome.is_ok());
    }

    /// After an operation of unknown end: the file is as it was or the sender's; the catalog and
    /// the file agree or the file is dirty as before. `done`: it must be the new state.
    fn settle(&mut self, at: usize, name: &ImageName, done: bool) {
        let trail = self.trail.clone();
        let on_disk = self.files_on_disk(at);
        let model = &self.models[at];
        let others = |files: &BTreeMap<ImageName, Vec<u8>>| {
            files
                .iter()
                .filter(|(n, _)| *n != name)
                .map(|(n, b)| (n.clone(), b.clone()))
                .collect::<Vec<_>>()
        };
        assert!(others(&on_disk) == others(&model.files), "{trail}: another image changed");
        let current = self.side(at).store.current(name).expect("reads");
        let was = model.current.get(name).map(|known| root_of(&known.bytes));
        let Some(bytes) = on_disk.get(name).cloned() else {
            assert!(!model.files.contains_key(name), "{trail}: the file is gone");
            assert_eq!(current.map(|c| c.root), was, "{trail}: no file and another generation");
            self.rescan(at);
            return;
        };
        let kept = model.files.get(name) == Some(&bytes);
        let offered = self.models[1 - at].current.get(name).map(|known| &known.bytes);
        assert!(kept || offered == Some(&bytes), "{trail}: neither the old nor the new file");
        let moved = current.as_ref().map(|c| c.number) > model.current.get(name).map(|k| k.number);
        assert!(moved || kept, "{trail}: the file changed, the catalog didn't");
        self.models[at].files.insert(name.clone(), bytes);
        if moved {
            self.models[at].dirty.remove(name);
            self.learn(at, name);
        } else {
            assert!(!done || kept, "{trail}: acknowledged and gone");
            assert_eq!(current.map(|c| c.root), was, "{trail}");
        }
        self.rescan(at);
    }

    fn files_on_disk(&self, at: usize) -> BTreeMap<ImageName, Vec<u8>> {
        let side = self.side(at);
        let entries = side.disk.list("").expect("lists").into_iter();
        let names = entries.map(|e| e.name.to_string_lossy().into_owned());
        let images = names.filter(|n| n != ".blockferry").map(|n| image_name(&n));
        images.map(|name| (name.clone(), side.read(&name))).collect()
    }

    fn crash(&mut self, at: usize) {
        let side = self.sides[at].take().expect("open");
        self.crashes = self.crashes.wrapping_mul(31).wrapping_add(7);
        let seed = self.crashes;
        let keep = Keep::ALL[(seed >> 8) as usize % Keep::ALL.len()];
        let disk = side.disk.crash(CrashPlan { seed, keep, tear: seed & 4 == 0 });
        let (number, options) = (at as u8 + 1, side.options.clone());
        drop(side);
        self.open(at, disk, number, options);
    }

    fn reopen_quietly(&mut self, at: usize) {
        let side = self.sides[at].take().expect("open");
        let (reopened, report) = side.reopen_despite_a_fault().expect("opens");
        assert_eq!(reopened.private("staging").len(), report.resumable, "{}", self.trail);
        self.sides[at] = Some(reopened);
    }

    fn reopen(&mut self, at: usize) {
        self.reopen_quietly(at);
    }

    fn open(&mut self, at: usize, disk: SimDisk, number: u8, options: blockferry_store::Options) {
        let (side, report) = Side::open(disk, number, options).expect("opens after a crash");
        assert_eq!(side.private("staging").len(), report.resumable, "{}: orphans", self.trail);
        self.sides[at] = Some(side);
    }

    /// A crash may cost the ctime; a scan finds the very generation then.
    fn rescan(&self, at: usize) {
        let model = &self.models[at];
        let clean =
            |name: &&ImageName| model.files.contains_key(*name) && !model.dirty.contains(*name);
        for name in model.current.keys().filter(clean) {
            self.side(at).rescan_after_crash(name).expect("scans");
        }
    }

    fn freshen(&mut self, at: usize, name: &ImageName) {
        self.side(at).store.freshen_spare(name).expect("freshens");
    }

    fn park(&mut self, at: usize, name: &ImageName) {
        if !self.is_newer(at, name) {
            return;
        }
        let stop = Carry { stop_after_parts: Some(1), ..Carry::default() };
        let outcome = stop.run(&self.side(at).store, &self.side(1 - at).store, name);
        match outcome {
            Ok(mut carried) if carried.staging.is_some() => {
                let staging = carried.staging.take().expect("asked above");
                staging.park().expect("parks");
            }
            // There was no part to stop after.
            outcome => self.judge(at, name, outcome),
        }
    }

    fn delete(&mut self, at: usize, name: &ImageName) {
        let disk = &self.side(at).disk;
        disk.remove_file(name.as_str()).expect("removes");
        disk.sync_dir("").expect("syncs");
        self.models[at].files.remove(name);
        self.models[at].dirty.remove(name);
    }

    fn rename(&mut self, at: usize, name: &ImageName, rng: &mut Rng) {
        let to = image_name(NAMES[rng.below(3) as usize]);
        let disk = &self.side(at).disk;
        match disk.rename(name.as_str(), to.as_str(), RenameHow::NoReplace) {
            Err(error) => {
                let kinds = [ErrorKind::NotFound, ErrorKind::AlreadyExists];
                assert!(kinds.contains(&error.kind()), "{error}");
            }
            Ok(()) if to == *name => {}
            Ok(()) => {
                disk.sync_dir("").expect("syncs");
                let model = &mut self.models[at];
                let bytes = model.files.remove(name).expect("it was renamed");
                model.dirty.remove(name);
                model.files.insert(to.clone(), bytes);
                model.dirty.insert(to);
            }
        }
    }

    fn verify(&mut self, at: usize, name: &ImageName) {
        let outcome = self.side(at).store.verify(name, &());
        let model = &self.models[at];
        match (model.current.get(name), model.files.get(name)) {
            (None, _) => assert_eq!(outcome.expect_err("unknown").code(), "IMAGE_UNKNOWN"),
            (Some(_), None) => assert!(outcome.is_err(), "{}: there is no file", self.trail),
            (Some(known), Some(bytes)) => {
                let good = outcome.expect("reads").is_good();
                assert_eq!(good, known.bytes == *bytes, "{}", self.trail);
            }
        }
    }

    /// The stores and the maps agree.
    pub(super) fn check(&self) {
        for at in 0..2 {
            self.check_side(at);
        }
    }

    fn check_side(&self, at: usize) {
        let (side, model, trail) = (self.side(at), &self.models[at], &self.trail);
        assert!(self.files_on_disk(at) == model.files, "{trail}: files of {at}");
        let images = side.store.images().expect("reads");
        let known: Vec<_> = images.iter().map(|g| (g.image.clone(), g.number, g.root)).collect();
        let current = model.current.iter();
        let want: Vec<_> = current.map(|(n, k)| (n.clone(), k.number, root_of(&k.bytes))).collect();
        assert_eq!(known, want, "{trail}: generations of {at}");
        let looks = side.store.look().expect("looks");
        for look in &looks {
            let name = image_name(&look.name);
            let want = match (model.files.contains_key(&name), model.current.contains_key(&name)) {
                (false, _) => LookState::Missing,
                (true, false) => LookState::New,
                (true, true) if model.dirty.contains(&name) => LookState::Changed,
                (true, true) => LookState::Unchanged,
            };
            assert_eq!(look.state, want, "{trail}: {name} of {at}");
        }
        assert_eq!(side.set_aside(), [""; 0], "{trail}: set aside at {at}");
        assert!(!side.store.is_degraded(), "{trail}: {at} is degraded");
    }
}
