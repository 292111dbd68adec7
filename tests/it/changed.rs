//! Discovery by a map from outside: with a map that is right the root always is, and only what it
//! names is read; a map that can't show its continuity is not used; one that misses a change is
//! found out by the sample or read as far as it goes, and never believed again once it was caught.

mod qemu;

use std::sync::Mutex;

use blockferry_store::disk::Disk;
use blockferry_store::{Changed, CommitMode, Discover, Progress, Recorded, Result, Told};
use blockferry_tests::{Edit, Rng, SIZES, Shape, Side, across, image_name, put};

const PAGE: usize = 4096;
const NAME: &str = "vm.raw";

/// Collects the events of a recording.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Vec<&'static str>>);

impl Events {
    pub(crate) fn seen(&self) -> Vec<&'static str> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl Progress for Events {
    fn advance(&self, _: u64, _: u64) {}

    fn event(&self, code: &'static str, _: &str) {
        self.0.lock().expect("not poisoned").push(code);
    }
}

/// An image whose changes somebody keeps a map of.
struct Kept {
    side: Side,
    bytes: Vec<u8>,
}

impl Kept {
    fn new(size: u64, shape: Shape, rng: &mut Rng) -> Kept {
        let side = Side::new(1, CommitMode::Copy);
        let bytes = shape.make(size, rng);
        let kept = Kept { side, bytes };
        kept.side.write(&image_name(NAME), &kept.bytes);
        kept.side.record(&image_name(NAME)).expect("records");
        kept
    }

    /// Changes the image; the pages that differ.
    fn change(&mut self, edit: Edit, rng: &mut Rng) -> Vec<u64> {
        let old = std::mem::take(&mut self.bytes);
        self.bytes = edit.apply(&old, rng);
        self.side.write(&image_name(NAME), &self.bytes);
        let page = |bytes: &[u8], n: usize| {
            bytes.get(n * PAGE..((n + 1) * PAGE).min(bytes.len())).unwrap_or_default().to_vec()
        };
        let pages = self.bytes.len().div_ceil(PAGE);
        (0..pages).filter(|n| page(&old, *n) != page(&self.bytes, *n)).map(|n| n as u64).collect()
    }

    /// The header of a map that fits.
    fn heading(&self) -> String {
        let stat = self.side.disk.stat(NAME).expect("reads").expect("is there");
        let current = self.side.store.current(&image_name(NAME)).expect("reads").expect("is known");
        let (seconds, nanos) = (stat.mtime_ns / 1_000_000_000, stat.mtime_ns % 1_000_000_000);
        let (root, size) = (current.root, stat.size_bytes);
        format!("# blockferry changed v1\nbase {root}\nsize {size}\nmtime {seconds}.{nanos:09}\n")
    }

    fn record(&self, map: Option<String>, events: &Events) -> Result<Recorded> {
        let text = map.map(String::into_bytes);
        let changed = text.map(|text| Changed::Text { text, written_ns: i128::MAX });
        let told = changed.map(|changed| Told { changed, since: None });
        let name = image_name(NAME);
        self.side.store.record_told(&name, self.side.node, 1, told.as_ref(), events)
    }

    fn put_beside(&self, map: &str) {
        put(&self.side.disk, "vm.raw.changed", map.as_bytes()).expect("written");
    }

    fn is_right(&self, recorded: &Recorded) -> bool {
        recorded.generation().root.as_bytes() == blake3::hash(&self.bytes).as_bytes()
    }

    fn is_proved(&self) -> bool {
        self.side.store.verify(&image_name(NAME), &()).expect("verifies").is_good()
    }
}

/// The lines of a map: in any order, overlapping, more than there is, in either notation.
fn lines(pages: &[u64], size: u64, rng: &mut Rng) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for page in pages {
        let (before, after) = (rng.below(3).min(*page), rng.below(3));
        ranges.push((page - before, 1 + before + after));
    }
    for _ in 0..rng.below(4) {
        ranges.push((rng.below(size.div_ceil(PAGE as u64)), 1 + rng.below(20)));
    }
    for n in (1..ranges.len()).rev() {
        ranges.swap(n, rng.below(n as u64 + 1) as usize);
    }
    let mut text = String::new();
    for (first, count) in ranges {
        let (start, bytes) = (first * PAGE as u64, count * PAGE as u64);
        text += &match rng.below(3) {
            0 => format!("{start} {bytes}\n"),
            1 => format!("{start:#x} {bytes:#x} dirty\n"),
            _ => format!("  {start}\t{bytes} data # {first}\n"),
        };
    }
    text + "end\n"
}

/// A history in which every map is right.
fn right(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let (size, shape) = (*rng.pick(&SIZES), *rng.pick(&Shape::ALL));
    let mut kept = Kept::new(size, shape, &mut rng);
    let mut by_map = 0;
    for _ in 0..6 {
        let edit = *rng.pick(&Edit::ALL);
        let pages = kept.change(edit, &mut rng);
        let map = kept.heading() + &lines(&pages, kept.bytes.len() as u64, &mut rng);
        let (given, events) = (rng.chance(1, 2), Events::default());
        if !given {
            kept.put_beside(&map);
        }
        let recorded = kept.record(given.then(|| map.clone()), &events).expect("records");
        assert!(kept.is_right(&recorded), "after {edit:?} of {size}: {map}");
        assert!(kept.is_proved(), "after {edit:?} of {size}: {map}");
        assert_eq!(events.seen(), [""; 0], "{edit:?}: {map}");
        if let Recorded::New(new) = recorded
            && new.discover != Discover::Metadata
        {
            assert_eq!(new.discover, Discover::Map, "after {edit:?} of {size}: {map}");
            by_map += 1;
        }
    }
    by_map
}

#[test]
fn changed_by_a_right_map_the_root_always_is() {
    across("changed_by_a_right_map", 300, "generations", right);
}

/// A map that lacks one page: either the sample finds it, or the root is that of the map's claim,
/// which a verification shows. What was caught once is never believed again.
fn missing(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut kept = Kept::new(*rng.pick(&SIZES), Shape::Noise, &mut rng);
    let mut pages = kept.change(*rng.pick(&[Edit::Pages, Edit::Cluster, Edit::Byte]), &mut rng);
    pages.remove(rng.below(pages.len() as u64) as usize);
    let exact: String = pages.iter().map(|p| format!("{} 4096\n", p * PAGE as u64)).collect();
    let map = kept.heading() + &exact + "end\n";
    let events = Events::default();
    let recorded = kept.record(Some(map), &events).expect("records");
    let caught = kept.side.store.maps_are_off().expect("reads");
    assert_eq!(events.seen().contains(&"MAP_MISSED"), caught);
    if !caught {
        assert_eq!(kept.is_proved(), kept.is_right(&recorded));
        return 1;
    }
    assert_eq!(recorded.generation().discover, Discover::Scan, "the image was read");
    assert!(kept.is_right(&recorded) && kept.is_proved());
    let pages = kept.change(Edit::Byte, &mut rng);
    let map = kept.heading() + &lines(&pages, kept.bytes.len() as u64, &mut rng);
    kept.put_beside(&map);
    let given = rng.chance(1, 2).then_some(map);
    let recorded = kept.record(given, &Events::default()).expect("records");
    assert_eq!(recorded.generation().discover, Discover::Scan, "maps are off");
    assert!(kept.is_right(&recorded));
    1000
}

#[test]
fn changed_by_a_map_that_misses_a_page() {
    let sum = across("changed_by_a_map_that_misses", 200, "(1000: caught)", missing);
    assert!(sum > 20_000, "the sample caught only {} of 200", sum / 1000);
}

/// Whatever breaks continuity: a person's map is refused, one beside the image is not used.
#[test]
fn changed_without_continuity_is_read_whole() {
    let mut rng = Rng::new(5);
    let mut kept = Kept::new(3 << 20, Shape::Noise, &mut rng);
    type Break = fn(&str) -> String;
    let breaks: [(&str, Break); 6] = [
        ("another base", |map| map.replacen("base ", "base 0", 1)),
        ("a base to come", |map| {
            let root = map.lines().nth(1).expect("a base").to_owned();
            map.replacen(&root, "base 99", 1)
        }),
        ("another size", |map| map.replacen("size ", "size 1", 1)),
        ("another time", |map| map.replacen("mtime ", "mtime 1", 1)),
        ("cut short", |map| map.replacen("end\n", "", 1)),
        ("damaged", |map| map.replacen("dirty", "dir", 1)),
    ];
    for (what, break_it) in breaks {
        let pages = kept.change(Edit::Byte, &mut rng);
        let line = format!("{} 4096 dirty\nend\n", pages[0] * PAGE as u64);
        let map = break_it(&(kept.heading() + &line));
        let refused = kept.record(Some(map.clone()), &Events::default()).expect_err(what);
        assert_eq!(refused.code(), "BAD_MAP", "{what}: {refused}");
        kept.put_beside(&map);
        let events = Events::default();
        let recorded = kept.record(None, &events).expect("records");
        assert_eq!(recorded.generation().discover, Discover::Scan, "{what}");
        assert_eq!(events.seen(), ["MAP_UNUSED"], "{what}");
        assert!(kept.is_right(&recorded), "{what}");
    }
    assert!(!kept.side.store.maps_are_off().expect("reads"), "nothing was missed");
}

/// A map stays where it is when it has done its work; nobody is told of it then.
#[test]
fn changed_beside_a_used_up_map_nothing_is_said() {
    let mut rng = Rng::new(6);
    let mut kept = Kept::new(24 << 20, Shape::Noise, &mut rng);
    let pages = kept.change(Edit::Byte, &mut rng);
    kept.put_beside(&(kept.heading() + &format!("{} 1\nend\n", pages[0] * PAGE as u64)));
    let recorded = kept.record(None, &Events::default()).expect("records");
    assert_eq!(recorded.generation().discover, Discover::Map);
    assert!(kept.is_right(&recorded));
    let read = recorded.generation().bytes_read;
    assert!(read < 70 * 65_536, "{read} of 24 MiB: a block, a chunk or two, and the sample");
    kept.change(Edit::Byte, &mut rng);
    let events = Events::default();
    let recorded = kept.record(None, &events).expect("records");
    assert_eq!((recorded.generation().discover, events.seen()), (Discover::Scan, vec![]));
    assert!(kept.is_right(&recorded));
}

#[test]
fn changed_maps_are_no_images() {
    let mut rng = Rng::new(7);
    let kept = Kept::new(100_000, Shape::Noise, &mut rng);
    kept.put_beside("anything");
    let looks = kept.side.store.look().expect("looks");
    assert_eq!(looks.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), [NAME]);
    let refused = kept.side.record(&image_name("vm.raw.changed")).expect_err("a map");
    assert_eq!(refused.code(), "BAD_NAME");
    let first = Told { changed: Changed::Text { text: Vec::new(), written_ns: 0 }, since: Some(1) };
    kept.side.write(&image_name("new.raw"), &[1; 5000]);
    let new = image_name("new.raw");
    let refused = kept.side.store.record_told(&new, kept.side.node, 1, Some(&first), &());
    assert_eq!(refused.expect_err("nothing to begin at").code(), "BAD_MAP");
}

/// Where clones are held they are compared; a map is judged all the same.
#[test]
fn changed_and_a_held_clone() {
    let mut rng = Rng::new(8);
    let side = Side::new(1, CommitMode::Clone);
    let bytes = Shape::Noise.make(1 << 20, &mut rng);
    side.write(&image_name(NAME), &bytes);
    side.record(&image_name(NAME)).expect("records");
    let mut kept = Kept { side, bytes };
    let pages = kept.change(Edit::Byte, &mut rng);
    let map = kept.heading() + &lines(&pages, kept.bytes.len() as u64, &mut rng);
    let wrong = kept.record(Some(map.replacen("size ", "size 1", 1)), &Events::default());
    assert_eq!(wrong.expect_err("another size").code(), "BAD_MAP");
    let recorded = kept.record(Some(map), &Events::default()).expect("records");
    assert_eq!(recorded.generation().discover, Discover::Extents);
    assert!(kept.is_right(&recorded));
}
