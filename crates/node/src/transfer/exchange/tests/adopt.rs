//! Images that were there before their catalog: seeded by hand, or left when the catalog was lost.
//! What is equal doesn't travel, and nothing that nobody else has is ever lost.

use blockferry_delta::{Order, Root};
use blockferry_store::disk::{CrashPlan, Keep};

use super::*;

const SIZE: usize = 24 << 20;

fn open(disk: &SimDisk, mirror: bool, keep: u32) -> Arc<Store> {
    let options =
        Options { scan_threads: 1, mirror, keep_generations: Some(keep), ..Options::default() };
    Arc::new(Store::open(Arc::new(disk.clone()), &options).expect("opened").0)
}

/// A member whose directory holds `content` before it becomes a store.
fn seeded(seed: u64, content: &[u8], mirror: bool) -> Side {
    let disk = SimDisk::new(seed, 1 << 30);
    let fresh = side(seed);
    let file = disk.open("a.img", Open::Create).expect("opened");
    file.write_at(content, 0).expect("written");
    file.sync().expect("synced");
    drop(file);
    let identity = fresh.store.identity().clone();
    let options = Options { scan_threads: 1, mirror, ..Options::default() };
    let store = Store::create(Arc::new(disk.clone()), identity, &options).expect("created");
    let made = Side { disk, store: Arc::new(store), identity: fresh.identity };
    assert!(record(&made).is_adopted());
    made
}

/// The same member after its catalog was lost.
fn without_catalog(lost: Side, mirror: bool) -> Side {
    let Side { disk, store, identity } = lost;
    drop(Arc::into_inner(store).expect("nobody else has it"));
    // Lost or unreadable: it comes to the same.
    if mirror {
        disk.remove_file(".blockferry/catalog.redb").expect("removed");
    } else {
        let file = disk.open(".blockferry/catalog.redb", Open::ReadWrite).expect("opened");
        file.write_at(&[0x5a; 8192], 0).expect("written");
    }
    let store = open(&disk, mirror, 5);
    Side { disk, store, identity }
}

/// What is kept until somebody says that it may go.
fn set_aside(side: &Side) -> Vec<Vec<u8>> {
    let kept = side.store.kept(&image()).expect("read").into_iter().filter(|kept| kept.pinned);
    kept.map(|kept| {
        let file = side.disk.open(&kept.path, Open::Read).expect("opened");
        let mut bytes = vec![0; kept.size_bytes as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    })
    .collect()
}

fn current(side: &Side) -> Generation {
    side.store.current(&image()).expect("read").expect("there")
}

fn refused(ended: &Ended) -> Option<Refusal> {
    match &ended.received {
        RecvOutcome::Refused { code, .. } => Some(*code),
        RecvOutcome::Kept { .. } => Some(Refusal::Diverged),
        _ => None,
    }
}

/// `content` with a page changed at each of `pages`.
fn changed(content: &[u8], pages: &[usize], seed: u64) -> Vec<u8> {
    let mut new = content.to_vec();
    for page in pages {
        new[page * 4096..page * 4096 + 100].copy_from_slice(&noise(seed + *page as u64, 100));
    }
    new
}

/// Makes the file of `side` hold `to` by writing what differs.
fn rewrite(side: &Side, from: &[u8], to: &[u8]) {
    for (at, (old, new)) in from.chunks(4096).zip(to.chunks(4096)).enumerate() {
        if old != new {
            put(side, at as u64 * 4096, new);
        }
    }
}

#[test]
fn a_seed_of_the_same_copy_costs_no_data() {
    let content = noise(1, SIZE);
    for mirror in [false, true] {
        let a = side(1);
        put(&a, 0, &content);
        let made = record(&a);
        let b = seeded(2, &content, mirror);
        assert_eq!(current(&b).lineage.entries().count(), 0);
        let same_meta = current(&b).meta == made.meta;
        let ended = copy(&a, &b);
        assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
        assert!(ended.wire_bytes < 1000, "{} bytes", ended.wire_bytes);
        assert_eq!((current(&b).lineage, current(&b).root), (made.lineage.clone(), made.root));
        assert!(!current(&b).is_adopted() && set_aside(&b).is_empty());
        eprintln_note(&format!("same attributes: {same_meta}"));
        // From here on it is a copy like any other.
        put(&a, 70_000, b"changed");
        record(&a);
        let ended = copy(&a, &b);
        assert!(ended.wire_bytes < 20_000, "{} bytes for one page", ended.wire_bytes);
        assert_eq!(read(&b), read(&a));
    }
}

fn eprintln_note(text: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).expect("stderr is there");
}

#[test]
fn a_seed_of_an_older_copy_costs_the_change() {
    let old = noise(1, SIZE);
    let new = changed(&old, &[3, 700, 701, 5000], 9);
    for mirror in [false, true] {
        let a = side(1);
        put(&a, 0, &old);
        record(&a);
        rewrite(&a, &old, &new);
        record(&a);
        let b = seeded(2, &old, mirror);
        let ended = copy(&a, &b);
        assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
        assert!(ended.wire_bytes < 4 * 4096 + 4000, "{} bytes", ended.wire_bytes);
        assert_eq!(read(&b), new);
        assert!(set_aside(&b).is_empty(), "the peer had recorded it");
    }
}

#[test]
fn an_older_copy_that_nobody_recorded_is_walked_and_kept() {
    let old = noise(1, SIZE);
    let pages = [3, 700, 701, 5000];
    let new = changed(&old, &pages, 9);
    let a = side(1);
    put(&a, 0, &new);
    let a = without_catalog(a, false);
    record(&a);
    let b = seeded(2, &old, true);
    let ended = copy(&a, &b);
    assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
    // Values of 384 blocks, page fingerprints of three, and four pages.
    assert!(ended.wire_bytes < 4 * 4096 + 384 * 6 + 3 * 32 + 2000, "{} bytes", ended.wire_bytes);
    assert_eq!(read(&b), new);
    assert_eq!(set_aside(&b), std::slice::from_ref(&old), "the mirror's content is kept");
    assert!(!current(&b).is_adopted());
    // Where things are made, it may be somebody's work: nothing is chosen.
    let c = seeded(3, &old, false);
    for (from, to) in [(&a, &c), (&c, &a)] {
        assert_eq!(refused(&copy(from, to)), Some(Refusal::Diverged));
    }
    assert_eq!((read(&c), read(&a)), (old, new.clone()));
    // Once it is moved away there is nothing to be lost.
    c.disk.remove_file("a.img").expect("removed");
    let ended = copy(&a, &c);
    assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
    assert_eq!(read(&c), new);
}

#[test]
fn a_strangers_file_is_never_lost() {
    let (ours, strangers) = (noise(1, SIZE), noise(77, SIZE / 2 + 1234));
    let a = side(1);
    put(&a, 0, &ours);
    record(&a);
    let mirror = seeded(2, &strangers, true);
    let ended = copy(&a, &mirror);
    assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
    assert_eq!((read(&mirror), set_aside(&mirror)), (ours.clone(), vec![strangers.clone()]));
    let writer = seeded(3, &strangers, false);
    assert_eq!(refused(&copy(&a, &writer)), Some(Refusal::Diverged));
    assert_eq!(refused(&copy(&writer, &a)), Some(Refusal::GenerationOld));
    assert_eq!((read(&writer), read(&a)), (strangers, ours));
}

#[test]
fn a_lost_catalog_costs_no_data_and_no_change() {
    let content = noise(1, SIZE);
    let (a, b) = (side(1), side(2));
    put(&a, 0, &content);
    for text in [b"one", b"two"] {
        put(&a, 5000, text);
        record(&a);
        copy(&a, &b);
    }
    let (made, number) = (current(&a).lineage, current(&b).number);
    // The receiver loses it.
    let b = without_catalog(b, false);
    assert!(record(&b).is_adopted());
    let ended = copy(&a, &b);
    assert!(ended.wire_bytes < 1000, "{} bytes", ended.wire_bytes);
    assert_eq!((current(&b).lineage, current(&b).number), (made.clone(), number));
    // The writer loses it: it learns from its peers what it had made.
    let a = without_catalog(a, false);
    record(&a);
    assert_eq!(refused(&copy(&a, &b)), Some(Refusal::GenerationOld));
    let ended = copy(&b, &a);
    assert!(ended.wire_bytes < 1000, "{} bytes", ended.wire_bytes);
    assert_eq!(current(&a).lineage, made);
    assert!(current(&a).number >= number, "numbers never go back");
    put(&a, 5000, b"three");
    let next = record(&a).lineage;
    assert_eq!(next.compare(&made), Order::Newer);
    assert!(matches!(copy(&a, &b).received, RecvOutcome::Committed(_)));
    // It loses it again and goes on before it has heard of anybody: what it makes doesn't pass for
    // an older generation of its own, and neither does what the others have.
    let a = without_catalog(a, false);
    record(&a);
    put(&a, 5000, b"four");
    assert_eq!(record(&a).lineage.compare(&current(&b).lineage), Order::Concurrent);
    for (from, to) in [(&a, &b), (&b, &a)] {
        assert_eq!(refused(&copy(from, to)), Some(Refusal::Diverged));
    }
    assert_eq!(&read(&a)[5000..5004], b"four");
}

/// Generations behind, bytes that travelled, messages of the receiver before the first part.
fn behind(generations: usize, keep: u32) -> (Vec<usize>, usize, Root) {
    let a = side(1);
    drop(a.store);
    let store = open(&a.disk, false, keep);
    let a = Side { disk: a.disk, store, identity: a.identity };
    let b = side(2);
    let mut content = noise(1, SIZE);
    put(&a, 0, &content);
    record(&a);
    copy(&a, &b);
    let mut union = std::collections::BTreeSet::new();
    for n in 1..=generations {
        // Two pages of its own each, and one that every generation changes.
        let pages = [10 * n, 3000 + 30 * n, 17];
        union.extend(pages);
        let new = changed(&content, &pages, 100 * n as u64);
        rewrite(&a, &content, &new);
        content = new;
        record(&a);
    }
    let ended = copy(&a, &b);
    assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
    assert_eq!(read(&b), content);
    (union.into_iter().collect(), ended.wire_bytes, current(&b).root)
}

#[test]
fn several_generations_behind_cost_the_union() {
    for generations in 1..=8 {
        let (union, bytes, _) = behind(generations, 9);
        let most = union.len() * 4096 + union.len() * 60 + 1500;
        assert!(bytes <= most, "{generations} behind: {bytes} of {most} bytes");
        eprintln_note(&format!("{generations} behind: {} pages, {bytes} bytes", union.len()));
    }
}

#[test]
fn what_no_block_map_reaches_is_walked() {
    for generations in [3, 8, 80] {
        let (union, bytes, _) = behind(generations, 2);
        let most = union.len() * (4096 + 60 + 32 + 8) + 384 * 6 + 4000;
        assert!(bytes <= most, "{generations} behind: {bytes} of {most} bytes");
        eprintln_note(&format!("{generations} behind: {} pages, {bytes} bytes", union.len()));
    }
}

const PLANS: [(Keep, bool); 5] = [
    (Keep::Nothing, false),
    (Keep::Everything, false),
    (Keep::Prefix, true),
    (Keep::Subset, true),
    (Keep::Reordered, false),
];

/// What a power cut may have left of what `disk` recorded.
fn crashes(disk: &SimDisk) -> Vec<SimDisk> {
    let snapshots = disk.recorded();
    let plans = snapshots.iter().enumerate().flat_map(|(at, snapshot)| {
        let crash = move |(keep, tear)| CrashPlan { seed: at as u64, keep, tear };
        PLANS.map(|plan| snapshot.disk.crash(crash(plan)))
    });
    plans.collect()
}

#[test]
fn a_power_cut_never_loses_what_is_set_aside() {
    let (ours, strangers) = (noise(1, 300_000), noise(77, 200_001));
    let a = side(1);
    put(&a, 0, &ours);
    record(&a);
    let b = seeded(2, &strangers, true);
    b.disk.record();
    assert!(matches!(copy(&a, &b).received, RecvOutcome::Committed(_)));
    let (mut old, mut new) = (0, 0);
    for disk in crashes(&b.disk) {
        let store = open(&disk, true, 5);
        let after = Side { disk, store, identity: b.identity.clone() };
        let shown = read(&after);
        if shown == ours {
            assert_eq!(set_aside(&after), std::slice::from_ref(&strangers));
            new += 1;
        } else {
            assert!(shown == strangers, "neither the one nor the other");
            // The next attempt is as good as the first.
            record(&after);
            assert!(matches!(copy(&a, &after).received, RecvOutcome::Committed(_)));
            assert_eq!(set_aside(&after), std::slice::from_ref(&strangers));
            old += 1;
        }
    }
    assert!(old > 20 && new > 5, "{old} old and {new} new ones");
}

#[test]
fn a_power_cut_never_makes_what_was_found_anybodys_work() {
    let found = noise(1, 100_000);
    let disk = SimDisk::new(3, 1 << 30);
    let file = disk.open("a.img", Open::Create).expect("opened");
    file.write_at(&found, 0).expect("written");
    file.sync().expect("synced");
    disk.sync_dir("").expect("synced");
    drop(file);
    let like = side(3);
    let options = Options { scan_threads: 1, ..Options::default() };
    let identity = like.store.identity().clone();
    let create = |disk: &SimDisk| Store::create(Arc::new(disk.clone()), identity.clone(), &options);
    disk.record();
    create(&disk).expect("created");
    let mut cases = 0;
    for disk in crashes(&disk) {
        let opened = Store::open(Arc::new(disk.clone()), &options).map(|(store, _)| store);
        let store = Arc::new(opened.or_else(|_| create(&disk)).expect("made again"));
        let after = Side { disk, store, identity: like.identity.clone() };
        assert!(record(&after).is_adopted());
        cases += 1;
    }
    assert!(cases > 50, "{cases}");
}

/// An image of this many bytes: noise, zeros and runs of both, by the seed.
fn image_of(seed: u64, bytes: usize) -> Vec<u8> {
    let mut image = noise(seed, bytes);
    let chance = noise(seed ^ 0x5eed, bytes / 4096 + 1);
    for (page, draw) in image.chunks_mut(4096).zip(&chance) {
        if *draw < 40 {
            page.fill(0);
        }
    }
    if seed.is_multiple_of(3) {
        let (from, to) = ((bytes / 3).min(bytes), (bytes / 3 + (9 << 20)).min(bytes));
        image[from..to].fill(0);
    }
    image
}

/// Another image that shares much with `old`.
fn edited(old: &[u8], seed: u64) -> Vec<u8> {
    let draw = noise(seed, 64);
    let at = |n: usize| usize::from(draw[n]) * old.len() / 256;
    let mut new = old.to_vec();
    match draw[0] % 4 {
        0 => new.truncate(old.len() - at(1) / 2),
        1 => new.extend(image_of(seed + 1, at(1) / 2 + 1)),
        _ => {}
    }
    for n in 2..usize::from(draw[2] % 30) + 2 {
        let (from, bytes) =
            (at(n).min(new.len()), [1, 4096, 70_000, 5 << 20][usize::from(draw[n] % 4)]);
        let to = (from + bytes).min(new.len());
        match draw[n] % 3 {
            0 => new[from..to].fill(0),
            _ => new[from..to].copy_from_slice(&noise(seed + n as u64, to - from)),
        }
    }
    new
}

/// Pages of `new` that aren't zero and aren't in `old` at their place.
fn pages_that_differ(old: &[u8], new: &[u8]) -> usize {
    let differs = |(n, page): &(usize, &[u8])| {
        let before = old.get(n * 4096..(n * 4096 + page.len()).min(old.len())).unwrap_or_default();
        before != *page && page.iter().any(|byte| *byte != 0)
    };
    new.chunks(4096).enumerate().filter(differs).count()
}

#[test]
fn whatever_is_found_becomes_what_is_offered() {
    let sizes = [1, 4096, 65_536, 65_537, 200_000, 4 << 20, (4 << 20) + 1, 9_000_000, 30 << 20];
    let (mut cases, mut sent, mut differ) = (0, 0, 0);
    for seed in 0..54_u64 {
        let size = sizes[seed as usize % sizes.len()];
        let old = image_of(seed, size);
        let new = edited(&old, seed + 1000);
        if old == new || new.is_empty() {
            continue;
        }
        let a = side(1);
        put(&a, 0, &new);
        record(&a);
        let b = seeded(2, &old, true);
        let ended = copy(&a, &b);
        assert!(
            matches!(ended.received, RecvOutcome::Committed(_)),
            "{seed}: {:?}",
            ended.received
        );
        assert!(read(&b) == new, "seed {seed}");
        assert!(set_aside(&b).as_slice() == std::slice::from_ref(&old), "seed {seed}");
        assert!(b.store.verify(&image(), &()).expect("read").is_good(), "seed {seed}");
        if size > 65_536 && new.len() > 65_536 {
            // Two blocks at the border of a new length travel whole, and chunks may be found.
            let pages = pages_that_differ(&old, &new);
            let most = (pages + 32) * 4160 + new.len() / 65_536 * 60 + 2000;
            assert!(ended.wire_bytes <= most, "seed {seed}: {} of {most} bytes", ended.wire_bytes);
            (sent, differ) = (sent + ended.wire_bytes, differ + pages * 4096);
        }
        cases += 1;
    }
    eprintln_note(&format!("{cases} cases: {sent} bytes sent, {differ} bytes differ"));
    assert!(cases > 40, "{cases}");
}
