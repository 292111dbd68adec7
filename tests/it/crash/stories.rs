//! The paths that are cut: each makes a receiver with a past, records the disk after every
//! operation while something happens to it, and knows which generations may be seen when.

use blockferry_delta::{ImageName, Meta, Root};
use blockferry_store::disk::{SimDisk, Snapshot};
use blockferry_store::{CommitMode, Options};
use blockferry_tests::{Edit, Feed, MODES, Rng, Shape, Side, image_name, options};

/// A segment and a bit for some seeds: large images cost time and show little more.
fn sparse_bytes(seed: u64) -> u64 {
    if seed % 4 == 1 { (4 << 20) + 70_000 } else { 600_000 }
}

/// What happened to a store, operation by operation.
pub(super) struct Story {
    pub(super) title: &'static str,
    pub(super) name: ImageName,
    pub(super) options: Options,
    /// Bytes and roots of the generations, oldest first.
    pub(super) known: Vec<Vec<u8>>,
    pub(super) roots: Vec<Root>,
    /// (operations, generation): acknowledged once that many operations had happened.
    acks: Vec<(usize, usize)>,
    pub(super) snapshots: Vec<Snapshot>,
    /// The generation that was on its way last, and the one after it: both arrive after the crash.
    pub(super) last: Feed,
    pub(super) next: Feed,
    /// A local change is recorded; nothing is received.
    pub(super) recording: bool,
}

impl Story {
    /// Are commits put into the image's own file?
    pub(super) fn in_place(&self) -> bool {
        self.options.commit == Some(CommitMode::Journal)
    }

    /// The newest generation that was acknowledged after this many operations.
    pub(super) fn acked(&self, ops: usize) -> Option<usize> {
        self.acks.iter().filter(|(at, _)| *at <= ops).map(|(_, generation)| *generation).max()
    }
}

/// A sender that makes generations and the receiver whose disk is watched.
struct Stage {
    rng: Rng,
    name: ImageName,
    a: Side,
    b: Side,
    feeds: Vec<Feed>,
    acks: Vec<(usize, usize)>,
}

impl Stage {
    fn new(seed: u64, options: Options) -> Stage {
        let clones = options.commit == Some(CommitMode::Clone);
        let disk = SimDisk::new(seed, 256 << 20);
        disk.set_supports_clone(clones);
        Stage {
            rng: Rng::new(seed),
            name: image_name("vm.img"),
            a: Side::new(1, CommitMode::Copy),
            b: Side::create(disk, 2, options),
            feeds: Vec::new(),
            acks: Vec::new(),
        }
    }

    /// The sender's image holds `bytes`, as its next generation.
    fn make(&mut self, bytes: &[u8]) {
        self.a.write(&self.name, bytes);
        self.feeds.push(Feed::of(&self.a, &self.name).expect("records"));
    }

    fn first(&mut self, shape: Shape, bytes: u64) {
        let image = shape.make(bytes, &mut self.rng);
        self.make(&image);
    }

    fn edit(&mut self, edit: Edit) {
        let old = self.feeds.last().expect("a first one").bytes.to_vec();
        let new = edit.apply(&old, &mut self.rng);
        self.make(&new);
    }

    /// Delivers generation `at`; it is acknowledged from then on.
    fn deliver(&mut self, at: usize) {
        self.feeds[at].deliver(&self.b.store).expect("commits");
        self.acks.push((self.b.disk.ops(), at));
    }

    fn watch(&self) {
        self.b.disk.record();
    }

    /// The last generation made is for after the crash.
    fn end(mut self, title: &'static str) -> Story {
        let snapshots = self.b.disk.recorded();
        self.edit(Edit::Pages);
        let next = self.feeds.pop().expect("made just now");
        Story {
            title,
            name: self.name,
            options: self.b.options,
            known: self.feeds.iter().map(|feed| feed.bytes.to_vec()).collect(),
            roots: self.feeds.iter().map(|feed| feed.generation.root).collect(),
            acks: self.acks,
            snapshots,
            last: self.feeds.pop().expect("made for the story"),
            next,
            recording: false,
        }
    }
}

fn one_edit(title: &'static str, seed: u64, shape: Shape, bytes: u64, edit: Edit) -> Story {
    let mode = MODES[seed as usize % MODES.len()];
    in_mode(title, seed, options(mode), (shape, bytes, edit))
}

fn in_mode(
    title: &'static str,
    seed: u64,
    options: Options,
    (shape, bytes, edit): (Shape, u64, Edit),
) -> Story {
    let mut stage = Stage::new(seed, options);
    stage.first(shape, bytes);
    stage.edit(edit);
    stage.deliver(0);
    stage.watch();
    stage.deliver(1);
    stage.end(title)
}

fn first_copy(seed: u64) -> Story {
    let mode = MODES[seed as usize % MODES.len()];
    let mut stage = Stage::new(seed, options(mode));
    stage.first(Shape::Files, 300_001);
    stage.watch();
    stage.deliver(0);
    stage.end("first copy")
}

fn metadata(seed: u64) -> Story {
    let mut stage = Stage::new(seed, options(CommitMode::Copy));
    stage.first(Shape::Noise, 150_000);
    stage.deliver(0);
    let meta = Meta { mode: 0o640, ..stage.a.meta(&stage.name) };
    stage.a.set_meta(&stage.name, &meta);
    stage.feeds.push(Feed::of(&stage.a, &stage.name).expect("records"));
    stage.watch();
    stage.deliver(1);
    // Equal bytes: whether the old or the new one is shown can't be told, and needn't.
    stage.acks = vec![(0, 0)];
    stage.end("metadata only")
}

fn same_content(seed: u64) -> Story {
    let mut stage = Stage::new(seed, options(CommitMode::Copy));
    stage.first(Shape::Noise, 150_000);
    let twin = std::mem::replace(&mut stage.name, image_name("twin.img"));
    stage.deliver(0);
    // The same bytes under another name: the base is another image.
    (stage.feeds, stage.acks) = (Vec::new(), Vec::new());
    let bytes = stage.a.read(&twin);
    stage.make(&bytes);
    stage.watch();
    stage.deliver(0);
    stage.end("same content under another name")
}

fn with_spare(seed: u64) -> Story {
    let mut stage = Stage::new(seed, options(CommitMode::Copy));
    stage.first(Shape::Files, 200_000);
    for edit in [Edit::Cluster, Edit::Pages, Edit::Byte] {
        stage.edit(edit);
    }
    stage.deliver(0);
    stage.deliver(1);
    stage.watch();
    assert!(stage.b.store.freshen_spare(&stage.name.clone()).expect("freshens"));
    stage.deliver(2);
    // This time the spare is a generation behind when it is built upon.
    stage.deliver(3);
    stage.end("copy mode with spare")
}

fn resumed(seed: u64) -> Story {
    let mode = MODES[seed as usize % MODES.len()];
    let mut stage = Stage::new(seed, options(mode));
    stage.first(Shape::Sparse, sparse_bytes(seed));
    stage.edit(Edit::Cluster);
    stage.deliver(0);
    stage.watch();
    stage.feeds[1].park(&stage.b.store, 1).expect("parks");
    stage.deliver(1);
    stage.end("resumed staging")
}

fn recording(seed: u64) -> Story {
    let mode = MODES[seed as usize % MODES.len()];
    let mut stage = Stage::new(seed, options(mode));
    stage.first(Shape::Files, 300_000);
    stage.edit(Edit::Pages);
    let name = stage.name.clone();
    stage.b.write(&name, &stage.feeds[0].bytes);
    stage.b.record(&name).expect("records");
    stage.acks.push((stage.b.disk.ops(), 0));
    stage.b.write(&name, &stage.feeds[1].bytes);
    stage.watch();
    stage.b.record(&name).expect("records");
    stage.acks.push((stage.b.disk.ops(), 1));
    Story { recording: true, ..stage.end("recording a local change") }
}

/// The journal is found torn and gone on with, its image held open at the commit by some.
fn journal(title: &'static str, seed: u64, edit: Edit) -> Story {
    let mut stage = Stage::new(seed, options(CommitMode::Journal));
    stage.first(Shape::Files, 500_000);
    stage.edit(edit);
    stage.edit(Edit::Byte);
    stage.deliver(0);
    stage.watch();
    stage.deliver(1);
    let name = stage.name.clone();
    if seed.is_multiple_of(4) {
        stage.b.disk.hold_open(name.as_str(), false).expect("holds");
    }
    stage.deliver(2);
    stage.end(title)
}

/// All stories of a seed.
pub(super) fn stories(seed: u64) -> impl Iterator<Item = Story> {
    let no_spare = Options { keep_spare: false, ..options(CommitMode::Copy) };
    let delta = (Shape::Files, 250_000, Edit::Pages);
    let (clone, copy) = (options(CommitMode::Clone), no_spare);
    let tell: [Box<dyn Fn() -> Story>; 15] = [
        Box::new(move || first_copy(seed)),
        Box::new(move || journal("journal of pages", seed, Edit::Pages)),
        Box::new(move || journal("journal of zeros", seed, Edit::ZeroOut)),
        Box::new(move || one_edit("small delta", seed, Shape::Mixed, 200_000, Edit::Cluster)),
        Box::new(move || one_edit("grow", seed, Shape::Text, 100_000, Edit::Grow)),
        Box::new(move || one_edit("shrink", seed, Shape::Files, 300_000, Edit::Shrink)),
        Box::new(move || {
            one_edit("sparse", seed, Shape::Sparse, sparse_bytes(seed), Edit::ZeroOut)
        }),
        Box::new(move || one_edit("one page", seed, Shape::Noise, 65_536, Edit::Byte)),
        Box::new(move || same_content(seed)),
        Box::new(move || metadata(seed)),
        Box::new(move || in_mode("clone mode", seed, clone.clone(), delta)),
        Box::new(move || in_mode("copy mode without spare", seed, copy.clone(), delta)),
        Box::new(move || with_spare(seed)),
        Box::new(move || resumed(seed)),
        Box::new(move || recording(seed)),
    ];
    tell.into_iter().map(|story| story())
}
