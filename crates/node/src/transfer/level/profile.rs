//! What each level costs and brings, by the packs that were made.
//!
//! It begins with figures of an ordinary image. What is measured at a level counts for that level,
//! and says of the others how much harder or easier this content is than the ordinary one. What
//! was measured long ago, at another place of the image perhaps, counts ever less.

use blockferry_wire::Compression;
use blockferry_wire::limits::PACK_RAW_BYTES_MAX;

use super::PackCost;

/// A level with what it does to the pages of an ordinary image: 64 MiB of a Debian server in packs of
/// 2 MiB. Above 8 nothing is gained on packs of this size before 16, which takes ten times as long
/// and four times the memory.
pub(super) struct Rung {
    pub(super) compression: Compression,
    /// Seconds of a worker for a raw byte.
    press: f64,
    /// Bytes that are left of one.
    kept: f64,
}

const fn rung(compression: Compression, nanoseconds: f64, kept: f64) -> Rung {
    Rung { compression, press: nanoseconds * 1e-9, kept }
}

/// The levels that are chosen among, by what they cost.
pub(super) const LADDER: [Rung; 6] = [
    rung(Compression::Stored, 0.02, 1.0),
    rung(Compression::Zstd(-5), 1.7, 0.478),
    rung(Compression::Zstd(1), 2.7, 0.370),
    rung(Compression::Zstd(3), 4.2, 0.345),
    rung(Compression::Zstd(6), 11.0, 0.332),
    rung(Compression::Zstd(8), 15.0, 0.329),
];
/// The level that costs least of those that compress.
pub(super) const LEAP: usize = 1;
/// Where it begins.
pub(super) const START: usize = 3;
const _: () = assert!(matches!(LADDER[START].compression, Compression::Zstd(3)));

/// Raw bytes of a pack that is too small to tell how others do.
const TELLING_BYTES_MIN: usize = PACK_RAW_BYTES_MAX / 8;
/// Packs that weigh as much as the figures it begins with.
const PRIOR_PACKS: f64 = 2.0;
/// Packs that a mean is over.
const MEAN_PACKS: f64 = 8.0;
/// What is left of a level's weight after a pack at another one.
const FADING: f64 = 0.9;
/// What was measured of the content counts as long as its weight is well above this.
const FORGETTING: f64 = 0.1;
/// Bytes left are taken to be between these shares, so that no single pack decides.
const KEPT_LEAST: f64 = 0.01;

/// What was measured at one level.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    press: f64,
    kept: f64,
    /// In packs; none: nothing was measured.
    weight: f64,
}

/// What is known of the levels.
#[derive(Debug)]
pub(super) struct Profile {
    known: [Known; LADDER.len()],
    /// The level that compresses and was measured last.
    reference: usize,
    /// Seconds to read a raw byte.
    read: f64,
}

impl Default for Profile {
    fn default() -> Self {
        Self { known: Default::default(), reference: START, read: 0.0 }
    }
}

impl Profile {
    /// Takes a pack's figures; says whether it was large enough to tell.
    pub(super) fn note(&mut self, cost: &PackCost) -> bool {
        let at = LADDER.iter().position(|rung| rung.compression == cost.compression);
        let Some(at) = at.filter(|_| cost.raw_bytes >= TELLING_BYTES_MIN) else { return false };
        #[expect(clippy::cast_precision_loss, reason = "a pack is small")]
        let (raw, bytes) = (cost.raw_bytes as f64, cost.bytes as f64);
        let read = cost.read.as_secs_f64() / raw;
        self.read += (read - self.read) / MEAN_PACKS;
        for (other, known) in self.known.iter_mut().enumerate() {
            if other != at {
                known.weight *= FADING;
            }
        }
        let known = &mut self.known[at];
        known.weight = (known.weight + 1.0).min(MEAN_PACKS);
        let share = 1.0 / known.weight;
        known.press += (cost.press.as_secs_f64() / raw - known.press) * share;
        known.kept += ((bytes / raw).clamp(KEPT_LEAST, 1.0) - known.kept) * share;
        if LADDER[at].kept < 1.0 {
            self.reference = at;
        }
        true
    }

    /// Seconds to read and prove a raw byte.
    pub(super) fn read(&self) -> f64 {
        self.read
    }

    /// Seconds of a worker for a raw byte at a level.
    pub(super) fn press(&self, rung: usize) -> f64 {
        let slower = self.compared(|known, ordinary| known.press / ordinary.press);
        self.blend(rung, LADDER[rung].press * slower, |known| known.press)
    }

    /// Bytes that are left of a raw one at a level. Content that a level leaves more of, all leave
    /// more of, in proportion to the logarithm: what doesn't shrink at one doesn't at another.
    pub(super) fn kept(&self, rung: usize) -> f64 {
        let harder = self.compared(|known, ordinary| known.kept.ln() / ordinary.kept.ln());
        let prior = LADDER[rung].kept.powf(harder).max(KEPT_LEAST);
        self.blend(rung, prior, |known| known.kept)
    }

    /// How the content compares with the ordinary, by the level that was measured last. Without
    /// fresh packs it is forgotten.
    fn compared(&self, how: impl Fn(&Known, &Rung) -> f64) -> f64 {
        let known = &self.known[self.reference];
        if known.weight == 0.0 {
            return 1.0;
        }
        let measured = how(known, &LADDER[self.reference]);
        (measured * known.weight + FORGETTING) / (known.weight + FORGETTING)
    }

    fn blend(&self, rung: usize, prior: f64, measured: impl Fn(&Known) -> f64) -> f64 {
        let known = &self.known[rung];
        (measured(known) * known.weight + prior * PRIOR_PACKS) / (known.weight + PRIOR_PACKS)
    }
}
