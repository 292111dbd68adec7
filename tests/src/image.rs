//! Images made from a seed, and what a day does to them. Sizes sit around the borders of pages,
//! blocks and segments, where mistakes live.

use crate::rng::Rng;

const PAGE: u64 = 4096;
const BLOCK: u64 = 65_536;
const SEGMENT: u64 = 4 << 20;

/// Sizes in bytes around every border.
pub const SIZES: [u64; 24] = [
    1,
    2,
    511,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    3 * PAGE + 100,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    BLOCK + PAGE,
    2 * BLOCK,
    5 * BLOCK + 77,
    1 << 20,
    (1 << 20) + 1,
    SEGMENT - PAGE,
    SEGMENT - 1,
    SEGMENT,
    SEGMENT + 1,
    SEGMENT + BLOCK + 5,
    2 * SEGMENT - 1,
    2 * SEGMENT,
    9_000_001,
    3 * SEGMENT - 7,
];

/// What an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing but zeros.
    Zeros,
    /// Bytes that don't compress and don't repeat.
    Noise,
    /// Words, over and over.
    Text,
    /// Files at page borders with a zero tail each, as in a filesystem.
    Files,
    /// A hole with a few islands.
    Sparse,
    /// A bit of everything.
    Mixed,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 6] =
        [Shape::Zeros, Shape::Noise, Shape::Text, Shape::Files, Shape::Sparse, Shape::Mixed];

    /// The bytes of an image of this shape.
    pub fn make(self, bytes: u64, rng: &mut Rng) -> Vec<u8> {
        let mut image = vec![0; bytes as usize];
        match self {
            Shape::Zeros => {}
            Shape::Noise => rng.fill(&mut image),
            Shape::Text => text(&mut image, rng),
            Shape::Files => files(&mut image, rng),
            Shape::Sparse => {
                for _ in 0..1 + rng.below(6) {
                    island(&mut image, rng);
                }
            }
            Shape::Mixed => {
                for quarter in image.chunks_mut((bytes as usize).div_ceil(4)) {
                    let shape = *rng.pick(&Shape::ALL[..5]);
                    quarter.copy_from_slice(&shape.make(quarter.len() as u64, rng));
                }
            }
        }
        image
    }
}

fn text(image: &mut [u8], rng: &mut Rng) {
    const WORDS: [&str; 8] =
        ["the ", "disk ", "image ", "holds ", "what ", "was ", "written\n", "\0\0\0\0"];
    let mut line = Vec::with_capacity(image.len() + 16);
    while line.len() < image.len() {
        line.extend_from_slice(rng.pick(&WORDS).as_bytes());
    }
    image.copy_from_slice(&line[..image.len()]);
}

fn files(image: &mut [u8], rng: &mut Rng) {
    let mut at = 0;
    while at < image.len() {
        let pages = 1 + rng.below(40) as usize;
        let end = (at + pages * PAGE as usize).min(image.len());
        let used = (end - at).saturating_sub(rng.below(PAGE - 1) as usize + 1);
        if rng.chance(2, 3) {
            rng.fill(&mut image[at..at + used]);
        } else if rng.chance(1, 2) {
            text(&mut image[at..at + used], rng);
        }
        at = end;
    }
}

fn island(image: &mut [u8], rng: &mut Rng) {
    let at = rng.below(image.len() as u64) as usize;
    let end = (at + 1 + rng.below(3 * BLOCK) as usize).min(image.len());
    rng.fill(&mut image[at..end]);
}

/// What changes between two generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A byte somewhere.
    Byte,
    /// Some pages all over.
    Pages,
    /// A run of pages.
    Cluster,
    /// Longer, with or without data in the new part.
    Grow,
    /// Shorter.
    Shrink,
    /// A range becomes zeros.
    ZeroOut,
    /// A range moves to another place, not by whole pages.
    Move,
    /// All is new.
    Rewrite,
    /// The same bytes again.
    Same,
}

impl Edit {
    /// All of them.
    pub const ALL: [Edit; 9] = [
        Edit::Byte,
        Edit::Pages,
        Edit::Cluster,
        Edit::Grow,
        Edit::Shrink,
        Edit::ZeroOut,
        Edit::Move,
        Edit::Rewrite,
        Edit::Same,
    ];

    /// The image after the edit.
    pub fn apply(self, old: &[u8], rng: &mut Rng) -> Vec<u8> {
        let mut image = old.to_vec();
        let len = image.len() as u64;
        match self {
            Edit::Byte => image[rng.below(len) as usize] ^= 1 + rng.below(255) as u8,
            Edit::Pages => {
                for _ in 0..1 + rng.below(12) {
                    let page = rng.below(len.div_ceil(PAGE)) * PAGE;
                    let end = (page + PAGE).min(len);
                    rng.fill(&mut image[page as usize..end as usize]);
                }
            }
            Edit::Cluster => island(&mut image, rng),
            Edit::Grow => {
                let more = *rng.pick(&[1, 100, PAGE, BLOCK - 3, 3 * BLOCK, SEGMENT + 9]);
                image.resize((len + more) as usize, 0);
                if rng.chance(1, 2) {
                    rng.fill(&mut image[len as usize..]);
                }
            }
            Edit::Shrink => {
                let less = *rng.pick(&[1, 100, PAGE, BLOCK + 1, len / 2, SEGMENT]);
                image.truncate(len.saturating_sub(less).max(1) as usize);
            }
            Edit::ZeroOut => {
                let at = rng.below(len);
                let most = *rng.pick(&[PAGE, BLOCK, 2 * SEGMENT]);
                let end = (at + 1 + rng.below(most)).min(len);
                image[at as usize..end as usize].fill(0);
            }
            Edit::Move => {
                let from = rng.below(len) as usize;
                let bytes = (rng.below(SEGMENT) as usize).min(image.len() - from);
                let to = rng.below((image.len() - bytes) as u64 + 1) as usize;
                image.copy_within(from..from + bytes, to);
            }
            Edit::Rewrite => rng.fill(&mut image),
            Edit::Same => {}
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_image() {
        for shape in Shape::ALL {
            for bytes in SIZES.into_iter().filter(|bytes| *bytes <= 1 << 20) {
                let make = || shape.make(bytes, &mut Rng::new(bytes));
                let image = make();
                assert_eq!(image.len() as u64, bytes);
                assert!(image == make(), "{shape:?} {bytes}");
                for edit in Edit::ALL {
                    let edited = edit.apply(&image, &mut Rng::new(7));
                    assert!(!edited.is_empty(), "{edit:?} {bytes}");
                    assert!(edited == edit.apply(&image, &mut Rng::new(7)));
                }
            }
        }
    }
}
