//! Instructions of each station, counted by callgrind through gungraun. The same input gives the
//! same count within a fraction of a per cent whatever else the machine does, so that a change of
//! 5 % is one of the code: `just instructions` compares the counts with those in `baseline/`.
//!
//! Sizes are small, since everything runs some fifty times slower under valgrind, what is prepared
//! as well; names say which. Only the calling thread is counted, from the call of a bench function
//! to its return. The kernel isn't, nor is the disk: valgrind 3.19 doesn't know `openat2`, without
//! which no real disk is opened here, so stores lie on the simulated disk of the crash tests, whose
//! own instructions are counted too. That is little, except for sealing, which is left out: nine
//! tenths of it were the simulation's. Waiting for a real disk is what `wall` measures.
//!
//! gungraun needs valgrind and a `gungraun-runner` of its own version.

#![expect(missing_docs, reason = "gungraun's macros make public items without a word")]

#[expect(dead_code, reason = "some of it is for the other bench only")]
mod inputs;

use std::hint::black_box;
use std::sync::Arc;

use blockferry_delta::{
    Chunk, Chunker, SEGMENT_BYTES, SegmentMap, changed_blocks, chunk_segment, digest_segment,
};
use blockferry_store::disk::{Disk, SimDisk};
use blockferry_store::{Generation, Sealed, Staging, Store};
use blockferry_wire::{Pack, Packer, unpack};
use gungraun::prelude::*;
use gungraun::{Callgrind, main};
use inputs::index::{Index, Insertion, LookUp, PART_CHUNKS};
use inputs::pair::{Pair, Update};
use inputs::{PACK_LEVEL, PACK_PAGES};

const SCAN_BYTES: usize = SEGMENT_BYTES as usize;
const MAP_SEGMENTS: u32 = 64;
const INDEX_CHUNKS: u32 = 16_384;
const INSERT_CHUNKS: u32 = 4096;
const COMMIT_BYTES: usize = 16 << 20;

#[library_benchmark]
#[bench::of_4_mib(Chunker::new(inputs::keys()), inputs::image(SCAN_BYTES))]
fn cut(chunker: Chunker, image: Vec<u8>) -> Vec<Chunk> {
    chunk_segment(&chunker, 0, black_box(&image), 0, image.len())
}

#[library_benchmark]
#[bench::of_4_mib(inputs::image(SCAN_BYTES))]
fn digest(image: Vec<u8>) -> SegmentMap {
    digest_segment(&inputs::keys(), 1, black_box(&image), 4 * SEGMENT_BYTES)
}

#[library_benchmark]
#[bench::of_4096_blocks_1_percent(inputs::two_maps(MAP_SEGMENTS))]
fn map_difference((old, new): (Vec<SegmentMap>, Vec<SegmentMap>)) -> usize {
    let bytes = u64::from(MAP_SEGMENTS) * SEGMENT_BYTES;
    let maps = black_box(&new).iter().zip(black_box(&old)).zip(0..);
    maps.filter_map(|((new, old), n)| changed_blocks(n, new, bytes, Some(old), bytes))
        .map(|changed| changed.len())
        .sum()
}

library_benchmark_group!(name = scan, benchmarks = [cut, digest, map_difference]);

type Unpacked = (Vec<blockferry_delta::PageExtent>, Vec<u8>);

fn packer() -> Packer {
    Packer::new().expect("zstd has memory")
}

fn packed() -> Pack {
    let (extents, pages) = inputs::pack_input(PACK_PAGES);
    packer().pack(0, extents, pages, PACK_LEVEL).expect("a pack of pages")
}

#[library_benchmark]
#[bench::of_512_pages_level_3(packer(), inputs::pack_input(PACK_PAGES))]
fn pack(mut packer: Packer, (extents, pages): Unpacked) -> Pack {
    packer.pack(0, extents, pages, PACK_LEVEL).expect("a pack of pages")
}

#[library_benchmark]
#[bench::of_512_pages_level_3(packed())]
fn unpack_pages(pack: Pack) -> bytes::Bytes {
    let due = u64::from(pack.raw_bytes);
    unpack(black_box(&pack), due).expect("unpacks")
}

library_benchmark_group!(name = wire, benchmarks = [pack, unpack_pages]);

fn disk() -> Arc<dyn Disk> {
    Arc::new(SimDisk::new(1, 1 << 40))
}

fn index() -> Index {
    Index::new(&disk(), INDEX_CHUNKS).expect("makes an index")
}

fn insertion() -> Insertion {
    index().insertion(INSERT_CHUNKS).expect("a sealed generation")
}

#[library_benchmark]
#[bench::of_4096_chunks_at_16384(insertion())]
fn index_insert(insertion: Insertion) -> (Arc<Store>, Generation) {
    insertion.run().expect("commits")
}

#[library_benchmark]
#[bench::of_4096_known_at_16384(index().known(PART_CHUNKS).expect("a staging"))]
#[bench::of_4096_unknown_at_16384(index().unknown(PART_CHUNKS).expect("a staging"))]
fn index_look_up(part: LookUp) -> LookUp {
    part.run().expect("looks up")
}

fn updated() -> (Pair, Update) {
    let mut pair = Pair::new([disk(), disk()], COMMIT_BYTES).expect("two stores");
    let update = pair.update().expect("the next generation");
    (pair, update)
}

fn sealed() -> (Pair, Sealed) {
    let (pair, update) = updated();
    let staging = pair.receive(&update).expect("receives");
    (pair, staging.seal().expect("seals"))
}

#[library_benchmark]
#[bench::of_16_mib_1_percent(updated())]
fn receive((pair, update): (Pair, Update)) -> (Staging, Pair, Update) {
    (pair.receive(&update).expect("receives"), pair, update)
}

#[library_benchmark]
#[bench::of_16_mib_1_percent(sealed())]
fn commit((pair, sealed): (Pair, Sealed)) -> (Generation, Pair) {
    (pair.commit(sealed).expect("commits"), pair)
}

library_benchmark_group!(name = store, benchmarks = [index_insert, index_look_up, receive, commit]);

// Caches aren't simulated: only instructions are compared.
main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [scan, wire, store]
);
