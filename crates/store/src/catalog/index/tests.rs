//! The index against a model: whatever is committed, dropped and opened again, a chunk that is in a
//! list is found in it, one that is in none isn't, and small commits write little.

use std::collections::BTreeMap;
use std::sync::Arc;

use blockferry_delta::{Chunk, ChunkId, SEGMENT_BYTES};

use super::super::{CHUNKS, CHUNKS_NEW, Catalog, META};
use super::*;
use crate::disk::{Disk, SimDisk};

/// Segments whose chunks are too many to wait.
const MANY: u64 = 100;

type Lists = BTreeMap<(u32, u32), Vec<Chunk>>;

struct Rng(u64);

impl Rng {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

fn new_disk() -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1, 1 << 30));
    disk.make_dir(crate::layout::PRIVATE).expect("makes");
    disk
}

fn open(disk: &Arc<dyn Disk>) -> Catalog {
    Catalog::open(disk.as_ref(), 1 << 20).expect("opens")
}

fn list(rng: &mut Rng, segment: u32, chunks: u64) -> Vec<Chunk> {
    let start = u64::from(segment) * SEGMENT_BYTES;
    (0..chunks)
        .map(|n| Chunk { offset: start + n * 4096, bytes: 4096, id: ChunkId(rng.draw()) })
        .collect()
}

/// A list in which some chunks are new, some gone and some elsewhere in the segment.
fn edited(rng: &mut Rng, segment: u32, old: &[Chunk]) -> Vec<Chunk> {
    let count = 20 + rng.below(40);
    let mut chunks = list(rng, segment, count);
    for (new, old) in chunks.iter_mut().zip(old.iter().rev()) {
        if rng.below(4) > 0 {
            new.id = old.id;
        }
    }
    chunks
}

fn check(catalog: &Catalog, lists: &Lists, gone: &[ChunkId]) {
    let read = catalog.read().expect("reads");
    for ((image, segment), chunks) in lists {
        let ids: Vec<_> = chunks.iter().map(|c| c.id).collect();
        let found = read.locate(&ids).expect("looks up");
        for (chunk, found) in chunks.iter().zip(found) {
            let found = found.unwrap_or_else(|| panic!("{image}/{segment}: {chunk:?} is missing"));
            assert_eq!((found.image, found.offset), (*image, chunk.offset));
        }
    }
    let found = read.locate(gone).expect("looks up");
    assert!(found.iter().all(Option::is_none), "a chunk that is gone was found");
}

#[test]
fn follows_the_lists_through_commits_aborts_and_restarts() {
    for seed in 0..3 {
        let (mut rng, disk) = (Rng(seed), new_disk());
        let (mut catalog, mut lists, mut gone) = (open(&disk), Lists::new(), Vec::new());
        for round in 0..40 {
            let write = catalog.write().expect("writes");
            let (mut after, mut left) = (lists.clone(), Vec::new());
            // Now and then so many that they don't wait.
            let segments = if round % 20 == 7 { MANY } else { 1 + rng.below(5) };
            for _ in 0..segments {
                let at @ (image, segment) = (1 + rng.below(3) as u32, rng.below(200) as u32);
                let old = after.remove(&at).unwrap_or_default();
                let new = match rng.below(8) {
                    0 => Vec::new(),
                    _ if segments == MANY => list(&mut rng, segment, 100),
                    _ => edited(&mut rng, segment, &old),
                };
                left.extend(old.iter().map(|c| c.id).filter(|id| new.iter().all(|c| c.id != *id)));
                write.put_cuts(image, [Ok((segment, new.clone()))], &mut Vec::new()).expect("puts");
                after.insert(at, new);
            }
            if rng.below(5) > 0 {
                write.commit().expect("commits");
                lists = after;
                gone.extend(left);
            } else {
                drop(write);
            }
            match rng.below(6) {
                0 => {
                    drop(catalog);
                    catalog = open(&disk);
                }
                1 => drop(catalog.prepare_index(&|| false).expect("prepares")),
                _ => {}
            }
        }
        check(&catalog, &lists, &gone);
        assert!(catalog.prepare_index(&|| false).is_ok());
        assert!(catalog.index_memory().1, "the filter is ready");
        check(&catalog, &lists, &gone);
    }
}

#[test]
fn a_small_commit_waits_and_a_large_one_takes_all_along() {
    let (mut rng, disk) = (Rng(1), new_disk());
    let catalog = open(&disk);
    let rows = |catalog: &Catalog| {
        let read = catalog.read().expect("reads");
        let count = |table: usize| match table {
            0 => read.transaction.open_table(CHUNKS).expect("opens").iter().expect("reads").count(),
            _ => {
                let table = read.transaction.open_table(CHUNKS_NEW).expect("opens");
                table.iter().expect("reads").count()
            }
        };
        (count(0), count(1), read.indexed_chunks().expect("reads"))
    };
    let put = |rng: &mut Rng, segment: u32, chunks: u64| {
        let write = catalog.write().expect("writes");
        write
            .put_cuts(1, [Ok((segment, list(rng, segment, chunks)))], &mut Vec::new())
            .expect("puts");
        write.commit().expect("commits");
    };
    put(&mut rng, 0, 100);
    put(&mut rng, 1, VALUE_CHANGES as u64 + 1);
    assert_eq!(rows(&catalog), (0, 3, 0));
    put(&mut rng, 2, WAITING_MAX as u64);
    let (buckets, waiting, entries) = rows(&catalog);
    assert_eq!((waiting, entries), (0, (WAITING_MAX + VALUE_CHANGES) as u64 + 101));
    assert!(buckets > 11_000, "{buckets} rows");
    // Recovery has no time for rows.
    catalog.defer_index(true);
    put(&mut rng, 3, ENTRIES_KEPT as u64 + 100);
    catalog.defer_index(false);
    let values = (ENTRIES_KEPT + 100).div_ceil(VALUE_CHANGES);
    assert_eq!(rows(&catalog), (buckets, values, entries));
    assert_eq!(catalog.index.waiting().entries.len(), ENTRIES_KEPT);
    put(&mut rng, 3, 0);
    assert_eq!(rows(&catalog), (buckets, 0, entries), "all that waited came and went");
    // What is written again as it was changes nothing.
    let lists = catalog.read().expect("reads").cuts(1, 1).expect("reads");
    let write = catalog.write().expect("writes");
    write.put_cuts(1, [Ok((1, lists))], &mut Vec::new()).expect("puts");
    write.commit().expect("commits");
    assert_eq!(rows(&catalog), (buckets, 0, entries));
}

#[test]
fn a_lost_index_is_made_again() {
    let (mut rng, disk) = (Rng(2), new_disk());
    let catalog = open(&disk);
    let mut lists = Lists::new();
    let write = catalog.write().expect("writes");
    for segment in 0..50 {
        lists.insert((7, segment), list(&mut rng, segment, 100));
        write
            .put_cuts(7, [Ok((segment, lists[&(7, segment)].clone()))], &mut Vec::new())
            .expect("puts");
    }
    write.commit().expect("commits");
    let write = catalog.write().expect("writes");
    write.transaction.delete_table(CHUNKS).expect("deletes");
    write.transaction.delete_table(CHUNKS_NEW).expect("deletes");
    write.transaction.open_table(META).expect("opens").remove(ENTRIES).expect("removes");
    write.commit().expect("commits");
    drop(catalog);
    let catalog = open(&disk);
    let missing = catalog.read().expect("reads").locate(&[lists[&(7, 3)][4].id]);
    assert_eq!(missing.expect("looks up"), [None]);
    assert!(catalog.prepare_index(&|| false).expect("prepares"));
    check(&catalog, &lists, &[]);
    assert!(!catalog.prepare_index(&|| false).expect("looks"), "nothing is left to do");
}

#[test]
fn preparing_stops_when_it_is_told_to() {
    let (mut rng, disk) = (Rng(3), new_disk());
    let catalog = open(&disk);
    let write = catalog.write().expect("writes");
    write
        .put_cuts(1, [Ok((0, list(&mut rng, 0, WAITING_MAX as u64 + 1)))], &mut Vec::new())
        .expect("puts");
    write.commit().expect("commits");
    assert!(!catalog.prepare_index(&|| true).expect("stops"));
    assert!(!catalog.index_memory().1);
}
