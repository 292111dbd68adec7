//! Wall time of each station with criterion: `just bench`, or one of them with `just bench cut`.
//! Nothing is compared with a stored figure: seconds depend on the machine and on what else runs.
//! `instructions` counts the same work, which doesn't.
//!
//! The chunk index is measured with 1 M entries, made anew each time (some seconds), and with 20 M
//! when `BLOCKFERRY_BENCH_INDEX_DIR` names a directory: they are made there once (minutes, 1 GB) and
//! found again by later runs. A filter that leaves the index out makes neither:
//! `BLOCKFERRY_BENCH_INDEX_DIR=/var/tmp/index just bench index`.

mod inputs;

use std::cell::{OnceCell, RefCell};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blockferry_delta::{
    Chunker, SEGMENT_BLOCKS, SEGMENT_BYTES, changed_blocks, chunk_segment, digest_segment,
};
use blockferry_wire::{Packer, extents_bytes, unpack};
use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use inputs::index::{Index, PART_CHUNKS};
use inputs::pair::Pair;
use inputs::{PACK_LEVEL, PACK_PAGES};

/// Bytes that are cut and digested: more than the caches hold.
const SCAN_SEGMENTS: u32 = 16;
/// Segments of the image whose maps are compared: 4 GiB.
const MAP_SEGMENTS: u32 = 1024;
/// Bytes of the image that is committed.
const COMMIT_BYTES: usize = 64 << 20;
/// Chunks that one commit inserts.
const INSERT_CHUNKS: u32 = 65_536;
const INDEX_DIR: &str = "BLOCKFERRY_BENCH_INDEX_DIR";

fn scan(c: &mut Criterion) {
    let bytes = u64::from(SCAN_SEGMENTS) * SEGMENT_BYTES;
    let image = inputs::image(bytes as usize);
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Bytes(bytes)).sample_size(20);
    let chunker = Chunker::new(inputs::keys());
    group.bench_function("cut", |b| {
        b.iter(|| chunk_segment(&chunker, 0, black_box(&image), 0, image.len()));
    });
    let keys = inputs::keys();
    group.bench_function("digest", |b| {
        b.iter(|| {
            let segments = black_box(&image).chunks(SEGMENT_BYTES as usize).zip(0..);
            segments
                .map(|(segment, n)| digest_segment(&keys, n, segment, bytes))
                .collect::<Vec<_>>()
        });
    });
    group.finish();
}

fn difference(c: &mut Criterion) {
    let (old, new) = inputs::two_maps(MAP_SEGMENTS);
    let bytes = u64::from(MAP_SEGMENTS) * SEGMENT_BYTES;
    let mut group = c.benchmark_group("map");
    group.throughput(Throughput::Elements(u64::from(MAP_SEGMENTS) * SEGMENT_BLOCKS as u64));
    group.bench_function("difference_of_blocks", |b| {
        b.iter(|| {
            let maps = black_box(&new).iter().zip(black_box(&old)).zip(0..);
            maps.filter_map(|((new, old), n)| changed_blocks(n, new, bytes, Some(old), bytes))
                .map(|changed| changed.len())
                .sum::<usize>()
        });
    });
    group.finish();
}

fn pack(c: &mut Criterion) {
    let (extents, pages) = inputs::pack_input(PACK_PAGES);
    let mut packer = Packer::new().expect("zstd has memory");
    let packed =
        packer.pack(0, extents.clone(), pages.clone(), PACK_LEVEL).expect("a pack of pages");
    let due = extents_bytes(&extents, 1 << 40);
    assert!(packed.bytes.len() < pages.len() && due == pages.len() as u64, "it is compressed");
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Bytes(due));
    group.bench_function("pack", |b| {
        b.iter_batched(
            || (extents.clone(), pages.clone()),
            |(extents, pages)| packer.pack(0, extents, pages, PACK_LEVEL),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("unpack", |b| b.iter(|| unpack(black_box(&packed), due)));
    group.finish();
}

/// A new directory on the disk of the build, which is a real one where `/tmp` may be memory.
fn scratch() -> tempfile::TempDir {
    let made = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    made.expect("a directory in the target directory")
}

/// Adds up what `timed` takes for `rounds` rounds; what it makes and drops otherwise isn't counted.
fn add_up(rounds: u64, mut timed: impl FnMut() -> anyhow::Result<Duration>) -> Duration {
    (0..rounds).map(|_| timed().expect("the store works")).sum()
}

fn time<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed()))
}

fn index(c: &mut Criterion) {
    let kept = std::env::var_os(INDEX_DIR).map(PathBuf::from);
    let scratch = scratch();
    index_of(c, "1M", 1_000_000, &scratch.path().to_owned());
    match kept {
        Some(dir) => index_of(c, "20M", 20_000_000, &dir),
        None => note(&format!("index of 20 M entries: not measured, {INDEX_DIR} is not set")),
    }
}

fn index_of(c: &mut Criterion, name: &str, chunks: u32, dir: &PathBuf) {
    let made = OnceCell::new();
    let open = || {
        let index = made.get_or_init(|| {
            note(&format!("index of {name} entries below {}", dir.display()));
            std::fs::create_dir_all(dir).expect("a directory for the index");
            let index = Index::kept(dir, chunks).expect("makes or opens the index");
            index.prepare().expect("fills the filter");
            RefCell::new(index)
        });
        index.borrow_mut()
    };
    let mut group = c.benchmark_group("index");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(INSERT_CHUNKS.into()));
    group.bench_function(format!("insert_{INSERT_CHUNKS}_at_{name}"), |b| {
        let mut index = open();
        b.iter_custom(|rounds| {
            add_up(rounds, || {
                let insertion = index.insertion(INSERT_CHUNKS)?;
                let (_, took) = time(|| insertion.run())?;
                index.forget_insertion()?;
                Ok(took)
            })
        });
    });
    group.throughput(Throughput::Elements(PART_CHUNKS.into()));
    for known in [true, false] {
        let what = if known { "known" } else { "unknown" };
        group.bench_function(format!("look_up_{PART_CHUNKS}_{what}_at_{name}"), |b| {
            let mut index = open();
            b.iter_custom(|rounds| {
                add_up(rounds, || {
                    let part = match known {
                        true => index.known(PART_CHUNKS),
                        false => index.unknown(PART_CHUNKS),
                    };
                    let part = part?;
                    let (part, took) = time(|| part.run())?;
                    part.undo()?;
                    Ok(took)
                })
            });
        });
    }
    group.finish();
}

/// The receiving line of an update of 1 %: pages in place, sealed, committed. The last two wait
/// for the disk.
fn commit(c: &mut Criterion) {
    let scratch = scratch();
    let pair = || {
        let disk =
            |name| inputs::index::real_disk(&scratch.path().join(name)).expect("a directory");
        Pair::new([disk("sender"), disk("receiver")], COMMIT_BYTES).expect("two stores")
    };
    let made = OnceCell::new();
    let mut group = c.benchmark_group("commit_64MiB_1_percent");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (n, step) in ["receive", "seal", "commit"].into_iter().enumerate() {
        group.bench_function(step, |b| {
            let mut pair = made.get_or_init(|| RefCell::new(pair())).borrow_mut();
            b.iter_custom(|rounds| {
                add_up(rounds, || {
                    let update = pair.update()?;
                    let (staging, receive) = time(|| pair.receive(&update))?;
                    let (sealed, seal) = time(|| Ok(staging.seal()?))?;
                    let (_, commit) = time(|| pair.commit(sealed))?;
                    pair.rest()?;
                    Ok([receive, seal, commit][n])
                })
            });
        });
    }
    group.finish();
}

fn note(line: &str) {
    use std::io::Write;
    // Nobody reads it, then nobody misses it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

criterion_group!(benches, scan, difference, pack, index, commit);
criterion_main!(benches);
