//! Chunks: the unit that finds. Pieces between hard cuts are cut further by FastCDC (v2020 of the
//! `fastcdc` crate, pinned: a silent change of cut points would re-send whole images).

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::cut::{hard_cuts, pieces_within};
use crate::ids::ChunkId;
use crate::page::Keys;

/// Where a chunk lies in an image and what its bytes hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Byte offset from the start of the image.
    pub offset: u64,
    /// Length in bytes, at most [`ChunkParams::max_bytes`].
    pub bytes: u32,
    /// Keyed id of the bytes.
    pub id: ChunkId,
}

impl Chunk {
    /// Byte offset of the end.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }
}

/// How chunks were cut; recorded in every recipe. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkParams {
    /// 1: hard cuts at pages with a zero tail and at zero pages, FastCDC inside.
    pub algo: u16,
    /// 2020: the FastCDC variant.
    pub version: u16,
    /// Zero bytes at the end of a page that make it a hard cut.
    pub tail_bytes: u32,
    /// Smallest chunk FastCDC makes.
    pub min_bytes: u32,
    /// Average FastCDC aims at; a power of two.
    pub average_bytes: u32,
    /// Largest chunk.
    pub max_bytes: u32,
    /// FastCDC normalisation level.
    pub level: u8,
}

impl ChunkParams {
    /// What this version cuts with.
    pub const CURRENT: Self = Self {
        algo: 1,
        version: 2020,
        tail_bytes: 64,
        min_bytes: 32 << 10,
        average_bytes: 32 << 10,
        max_bytes: 64 << 10,
        level: 1,
    };

    /// Are these parameters that FastCDC accepts? Its own checks are off in release builds.
    pub fn valid(&self) -> bool {
        let even = |n: u32| n.is_multiple_of(2);
        self.average_bytes.is_power_of_two()
            && (64..=1 << 20).contains(&self.min_bytes)
            && (256..=4 << 20).contains(&self.average_bytes)
            && (1024..=16 << 20).contains(&self.max_bytes)
            && self.min_bytes <= self.average_bytes
            && self.average_bytes <= self.max_bytes
            && (1..=4096).contains(&self.tail_bytes)
            && even(self.min_bytes)
            && even(self.max_bytes)
            && self.level <= 3
    }
}

const _: () = {
    let p = ChunkParams::CURRENT;
    assert!(p.min_bytes <= p.average_bytes && p.average_bytes <= p.max_bytes);
    assert!(p.average_bytes.is_power_of_two() && p.level <= 3);
    assert!(p.min_bytes.is_multiple_of(2) && p.max_bytes.is_multiple_of(2));
};

/// Cuts pieces into chunks. Holds the tables of one store; cheap to share between threads.
#[derive(Clone)]
pub struct Chunker {
    keys: Keys,
    params: ChunkParams,
    gear: Vec<u64>,
    gear_ls: Vec<u64>,
    mask_s: u64,
    mask_l: u64,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunker").field("params", &self.params).finish_non_exhaustive()
    }
}

impl Chunker {
    /// A chunker with the current parameters and the keys of one store.
    pub fn new(keys: Keys) -> Self {
        let params = ChunkParams::CURRENT;
        Self::with_params(keys, params)
    }

    /// A chunker with other parameters, for measuring.
    ///
    /// # Panics
    /// When the parameters aren't valid.
    pub fn with_params(keys: Keys, params: ChunkParams) -> Self {
        assert!(params.valid(), "chunk parameters out of range: {params:?}");
        let level = match params.level {
            0 => Normalization::Level0,
            1 => Normalization::Level1,
            2 => Normalization::Level2,
            _ => Normalization::Level3,
        };
        let (mask_s, mask_l) = select_masks(params.average_bytes as usize, level);
        let (gear, gear_ls) = get_gear_with_seed(keys.cut_seed);
        Self { keys, params, gear: gear.into(), gear_ls: gear_ls.into(), mask_s, mask_l }
    }

    /// The store's hashing keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Parameters in force.
    pub fn params(&self) -> ChunkParams {
        self.params
    }

    /// Chunks that begin in `data[start..end]`, where `data[start]` is byte `offset` of the
    /// image. What must lie before and after is said at [`hard_cuts`].
    pub fn chunks(&self, data: &[u8], start: usize, end: usize, offset: u64) -> Vec<Chunk> {
        let pieces = hard_cuts(data, start, end, self.params.tail_bytes as usize);
        self.cut_pieces(data, &pieces, start, offset)
    }

    /// Chunks of a window of the image that begins and ends where chunks may: only what is in it
    /// is looked at. `data[0]` is byte `offset` of the image.
    pub fn recut(&self, data: &[u8], offset: u64) -> Vec<Chunk> {
        let pieces = pieces_within(data, offset, self.params.tail_bytes as usize);
        self.cut_pieces(data, &pieces, 0, offset)
    }

    fn cut_pieces(
        &self,
        data: &[u8],
        pieces: &[(usize, usize)],
        start: usize,
        offset: u64,
    ) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (from, to) in pieces.iter().copied() {
            let mut at = from;
            while at < to {
                let bytes = self.cut(&data[at..to]);
                chunks.push(Chunk {
                    offset: offset + (at - start) as u64,
                    bytes: bytes as u32,
                    id: self.keys.chunk(&data[at..at + bytes]),
                });
                at += bytes;
            }
        }
        chunks
    }

    /// Length of the first chunk of a piece.
    fn cut(&self, piece: &[u8]) -> usize {
        if piece.len() <= self.params.min_bytes as usize {
            return piece.len();
        }
        let (_, bytes) = cut_gear(
            piece,
            self.params.min_bytes as usize,
            self.params.average_bytes as usize,
            self.params.max_bytes as usize,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
            &self.gear,
            &self.gear_ls,
        );
        bytes.clamp(1, piece.len())
    }

    /// Id of found bytes, to be compared with the id that was looked up.
    pub fn id(&self, bytes: &[u8]) -> ChunkId {
        self.keys.chunk(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::StoreKey;
    use crate::units::PAGE_BYTES;

    pub(crate) fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8 | 1
            })
            .collect()
    }

    fn chunker(key: u8) -> Chunker {
        Chunker::new(Keys::derive(&StoreKey::from_bytes([key; 32])))
    }

    /// A change here re-sends every image of every user: it needs a new `ChunkParams::version`.
    #[test]
    fn golden_cut_points() {
        let data = noise(512 << 10, 42);
        let cuts = |key: u8| -> Vec<u32> {
            chunker(key).chunks(&data, 0, data.len(), 0).iter().map(|c| c.bytes).collect()
        };
        covers(&cuts(0), GOLDEN_0);
        covers(&cuts(1), GOLDEN_1);
        let ids = chunker(0).chunks(&data, 0, data.len(), 0);
        assert_eq!(ids[0].id, ChunkId(GOLDEN_ID));
    }

    const GOLDEN_0: &[u32] =
        &[42318, 38688, 33253, 32860, 65536, 40787, 34297, 41193, 51947, 50074, 40988, 52347];
    const GOLDEN_1: &[u32] =
        &[37796, 65536, 58893, 62746, 65536, 65536, 35163, 65536, 39473, 28073];
    const GOLDEN_ID: u64 = 9111075090115352710;

    fn covers(have: &[u32], want: &[u32]) {
        assert_eq!(have, want);
        assert_eq!(have.iter().sum::<u32>(), 512 << 10, "cuts cover the data");
    }

    #[test]
    fn segments_cut_apart_give_the_chunks_of_the_whole() {
        let mut data = noise(64 * PAGE_BYTES, 7);
        for page in [5, 20, 21, 40] {
            data[(page + 1) * PAGE_BYTES - 64..(page + 1) * PAGE_BYTES].fill(0);
        }
        data[30 * PAGE_BYTES..33 * PAGE_BYTES].fill(0);
        let chunker = chunker(3);
        let whole = chunker.chunks(&data, 0, data.len(), 0);
        for border in [1, 6, 20, 30, 31, 33, 41, 63] {
            let at = border * PAGE_BYTES;
            let mut split = chunker.chunks(&data, 0, at, 0);
            split.extend(chunker.chunks(&data, at, data.len(), at as u64));
            // The last piece has no hard cut, so a border inside it cuts.
            if border < 41 {
                assert_eq!(split, whole, "border at page {border}");
            }
        }
        assert!(whole.windows(2).all(|w| w[0].end() <= w[1].offset));
        assert!(whole.iter().all(|c| c.bytes <= ChunkParams::CURRENT.max_bytes));
    }

    #[test]
    fn a_window_between_chunks_is_cut_as_the_whole_was() {
        let mut data = noise(96 * PAGE_BYTES, 11);
        data[(40 + 1) * PAGE_BYTES - 64..(40 + 1) * PAGE_BYTES].fill(0);
        let chunker = chunker(3);
        let whole = chunker.chunks(&data, 0, data.len(), 0);
        for (first, last) in [(0, 1), (1, 3), (2, whole.len() - 1)] {
            let (from, to) = (whole[first].offset as usize, whole[last].end() as usize);
            let window = chunker.recut(&data[from..to], from as u64);
            assert_eq!(window, whole[first..=last], "chunks {first} to {last}");
        }
    }

    #[test]
    fn moved_files_keep_their_chunks() {
        let file = {
            let mut file = noise(37 * PAGE_BYTES, 9);
            let len = file.len();
            file[len - 100..].fill(0);
            file
        };
        let image = |before: usize| {
            let mut image = noise(before * PAGE_BYTES, 1);
            image.extend(vec![0; PAGE_BYTES]);
            image.extend(&file);
            image
        };
        let ids = |image: Vec<u8>| {
            let chunks = chunker(0).chunks(&image, 0, image.len(), 0);
            chunks.into_iter().map(|c| c.id).collect::<std::collections::BTreeSet<_>>()
        };
        let (a, b) = (ids(image(3)), ids(image(17)));
        let file_only = ids(file.clone());
        assert!(file_only.len() > 1 && file_only.is_subset(&a) && file_only.is_subset(&b));
    }
}
