//! What the benches work on. Everything follows from fixed seeds, so that two runs, and the two
//! kinds of benches (`wall` and `instructions`), measure the same work at different sizes. Only the
//! public surface of the crates is used: what is measured is what a caller can have.

// What `figures` makes and measures, too.
#[path = "../../src/chunk_index.rs"]
pub(crate) mod index;
pub(crate) mod pair;

use blockferry_delta::{
    BLOCK_BYTES, BlockHash, BlockRow, Keys, PAGE_BYTES, PAGES_PER_BLOCK, PageExtent,
    SEGMENT_BLOCKS, SegmentMap, StoreKey,
};
use blockferry_wire::Compression;

pub(crate) use index::{Rng, options, put, store};

/// Pages in a pack of full size (`limits::PACK_PAGES_MAX`).
pub(crate) const PACK_PAGES: usize = blockferry_wire::limits::PACK_PAGES_MAX;
/// zstd level a node packs with unless told otherwise.
pub(crate) const PACK_LEVEL: Compression = Compression::Zstd(3);

/// The keys of the store that all benches use.
pub(crate) fn keys() -> Keys {
    Keys::derive(&StoreKey::from_bytes([2; 32]))
}

/// Bytes like those of a file system: files of 1 to 64 pages that end in a zero tail, of which two
/// in eight are noise, five are text, and one is a run of zeros.
pub(crate) fn image(bytes: usize) -> Vec<u8> {
    let mut rng = Rng(3);
    let mut image = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        let pages = 1 + rng.below(64) as usize;
        let end = bytes.min(at + pages * PAGE_BYTES);
        let tail = 64 + rng.below(3000) as usize;
        let file = &mut image[at..end.saturating_sub(tail).max(at)];
        match rng.below(8) {
            0 => {}
            1 | 2 => noise(&mut rng, file),
            _ => text(&mut rng, file),
        }
        at = end;
    }
    image
}

fn noise(rng: &mut Rng, out: &mut [u8]) {
    for word in out.chunks_mut(8) {
        word.copy_from_slice(&rng.draw().to_le_bytes()[..word.len()]);
    }
}

fn text(rng: &mut Rng, out: &mut [u8]) {
    const WORDS: [&[u8; 8]; 16] = [
        b"kernel: ",
        b"service=",
        b"2026-11-",
        b"started ",
        b"/usr/lib",
        b"/share/d",
        b"INSERT I",
        b"NTO log ",
        b"VALUES (",
        b"0000-000",
        b"0x7fff00",
        b" error: ",
        b"\n[info] ",
        b"session ",
        b"opened b",
        b"y (uid=0",
    ];
    for (n, word) in out.chunks_mut(8).enumerate() {
        // Every eighth word is a number that is like no other: text never repeats itself wholly.
        let number = rng.draw();
        let digits = (number % 100_000_000).to_le_bytes();
        let source = if n % 8 == 7 { &digits } else { WORDS[(number >> 60) as usize] };
        word.copy_from_slice(&source[..word.len()]);
    }
}

/// Block maps of two generations of an image of `segments` segments: 1 % of the pages, anywhere,
/// differ in the second.
pub(crate) fn two_maps(segments: u32) -> (Vec<SegmentMap>, Vec<SegmentMap>) {
    let mut rng = Rng(4);
    let mut row = || BlockRow {
        hash: hash(rng.draw()),
        prints: std::array::from_fn(|_| (rng.draw() as u32).max(1)),
    };
    let old: Vec<Vec<BlockRow>> =
        (0..segments).map(|_| (0..SEGMENT_BLOCKS).map(|_| row()).collect()).collect();
    let mut new = old.clone();
    let mut rng = Rng(5);
    for row in new.iter_mut().flatten() {
        for page in 0..PAGES_PER_BLOCK {
            if rng.below(100) == 0 {
                row.prints[page] ^= 1 << 31;
                row.hash = hash(rng.draw());
            }
        }
    }
    let wrap = |maps: Vec<Vec<BlockRow>>| maps.into_iter().map(SegmentMap::Rows).collect();
    (wrap(old), wrap(new))
}

fn hash(number: u64) -> BlockHash {
    let word = number.to_le_bytes();
    BlockHash::from_bytes(std::array::from_fn(|n| word[n % 8] ^ n as u8))
}

/// Pages for one pack, as a want names them: every other run of 16 pages.
pub(crate) fn pack_input(pages: usize) -> (Vec<PageExtent>, Vec<u8>) {
    let run = PAGES_PER_BLOCK;
    let extents: Vec<_> = (0..pages / run)
        .map(|n| PageExtent { first: (2 * n * run) as u64, count: run as u32 })
        .collect();
    (extents, image(pages / run * BLOCK_BYTES))
}
