//! The adoption of a store that another tool (robocopy, rsync, DFS-R) has kept so far, in phases:
//! `observe`, `shadow`, `active`, then nothing is left of it. This file is the pure part: which phase
//! may follow on which order, what has to be done on the way, and what may be written meanwhile.
//!
//! A move is written down before anything is done for it and again when all of it is done. Each of its
//! steps can be repeated, so a crash anywhere is answered by doing the steps again (`moves`). While
//! the old tool rules, the disk itself refuses to touch what isn't private (`disk::Guard`).

mod moves;
mod restore;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a store has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// It isn't being adopted: it was never begun, or it is over.
    Off,
    /// Images are recorded and compared with what peers have. Nothing is received.
    Observe,
    /// What peers have is received beside the images.
    Shadow,
    /// What peers have replaces the images; what it replaces first is kept.
    Active,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Off, Self::Observe, Self::Shadow, Self::Active];

    /// One word for people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Shadow => "shadow",
            Self::Active => "active",
        }
    }
}

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptOrder {
    /// Begin.
    Start,
    /// The next phase; after the last one adoption is over.
    Next,
    /// The phase before.
    Back,
}

/// Why an order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The store isn't being adopted.
    NotBegun,
    /// It is already.
    Begun,
    /// There is no phase before `observe`.
    First,
    /// It is being ended, and what was kept is being released.
    Ending,
    /// So many images aren't recorded yet: nothing could be said about them.
    Unrecorded(u64),
    /// So many images wait for a decision: what would be released may be the other content.
    Diverged(u64),
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun => f.write_str("the store isn't being adopted"),
            Self::Begun => f.write_str("the store is being adopted already"),
            Self::First => f.write_str("there is nothing before observe"),
            Self::Ending => f.write_str("the adoption is being ended: there is no way back"),
            Self::Unrecorded(1) => f.write_str("1 image isn't recorded yet"),
            Self::Unrecorded(count) => write!(f, "{count} images aren't recorded yet"),
            Self::Diverged(1) => f.write_str("1 image waits for a decision"),
            Self::Diverged(count) => write!(f, "{count} images wait for a decision"),
        }
    }
}

/// What an order depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// Images whose files aren't recorded yet.
    pub unrecorded: u64,
    /// Images of which two contents diverged.
    pub diverged: u64,
}

/// What may become of what a peer offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It becomes the image.
    InPlace,
    /// It is kept beside the image.
    Beside,
    /// It is compared, and not received.
    Nothing,
}

/// Something to be done on the way from one phase to another. Each can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write down which images the old tool had.
    TakeInventory,
    /// Put back what was replaced, and take out what was brought.
    Restore,
    /// Let go of what was received beside the images.
    ReleaseShadow,
    /// Let go of what was replaced.
    ReleaseOld,
    /// The new phase is in force.
    Arrive,
}

/// The phase of a store, and the one it is on its way to (the same when it rests).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Where it comes from.
    pub from: Phase,
    /// Where it is going.
    pub to: Phase,
}

impl Adoption {
    /// At rest.
    pub const fn resting(phase: Phase) -> Self {
        Self { from: phase, to: phase }
    }

    /// Nothing is under way.
    pub fn rests(self) -> bool {
        self.from == self.to
    }

    /// What may become of what a peer offers. On the way nothing is received, except to the end.
    pub fn rule(self) -> Rule {
        match (self.from, self.to) {
            (Phase::Off | Phase::Active, Phase::Off) | (Phase::Active, Phase::Active) => {
                Rule::InPlace
            }
            (Phase::Shadow, Phase::Shadow) => Rule::Beside,
            _ => Rule::Nothing,
        }
    }

    /// The old tool rules: nothing of ours may touch an image.
    pub fn is_shut(self) -> bool {
        match self.from {
            Phase::Observe | Phase::Shadow => true,
            Phase::Off => self.to != Phase::Off,
            Phase::Active => false,
        }
    }

    /// What is replaced first is kept for the old tool.
    pub fn keeps_old(self) -> bool {
        self.from == Phase::Active && self.to != Phase::Off
    }

    /// Where an order leads. An order that asks for what is under way is no error: it is gone on with.
    ///
    /// # Errors
    /// It can't be done now; nothing changes.
    pub fn ordered(self, order: AdoptOrder, facts: Facts) -> Result<Self, NotNow> {
        let to = |to| Ok(Self { from: self.from, to });
        match (order, self.from, self.to) {
            (AdoptOrder::Start, Phase::Off, _) => to(Phase::Observe),
            (AdoptOrder::Start, ..) => Err(NotNow::Begun),
            (_, Phase::Off, _) => Err(NotNow::NotBegun),
            // What was on its way stays where it came from.
            (AdoptOrder::Next, from, to) if to < from && to != Phase::Off => {
                Ok(Self::resting(from))
            }
            (AdoptOrder::Back, from, to) if to > from => Ok(Self::resting(from)),
            (AdoptOrder::Next, Phase::Observe, _) if facts.unrecorded > 0 => {
                Err(NotNow::Unrecorded(facts.unrecorded))
            }
            (AdoptOrder::Next, Phase::Observe, _) => to(Phase::Shadow),
            (AdoptOrder::Next, Phase::Shadow, _) => to(Phase::Active),
            (AdoptOrder::Next, Phase::Active, Phase::Active) if facts.diverged > 0 => {
                Err(NotNow::Diverged(facts.diverged))
            }
            (AdoptOrder::Next, Phase::Active, _) => to(Phase::Off),
            (AdoptOrder::Back, Phase::Observe, _) => Err(NotNow::First),
            (AdoptOrder::Back, Phase::Shadow, _) => to(Phase::Observe),
            (AdoptOrder::Back, Phase::Active, Phase::Off) => Err(NotNow::Ending),
            (AdoptOrder::Back, Phase::Active, _) => to(Phase::Shadow),
        }
    }

    /// What is left to be done, in this order.
    pub fn steps(self) -> &'static [Step] {
        match (self.from, self.to) {
            (from, to) if from == to => &[],
            (Phase::Shadow, Phase::Active) => &[Step::TakeInventory, Step::Arrive],
            (Phase::Active, Phase::Off) => &[Step::ReleaseOld, Step::ReleaseShadow, Step::Arrive],
            (Phase::Active, _) => &[Step::Restore, Step::Arrive],
            (Phase::Shadow, _) => &[Step::ReleaseShadow, Step::Arrive],
            _ => &[Step::Arrive],
        }
    }

    /// As it is written down.
    fn encode(self) -> u64 {
        self.from as u64 | (self.to as u64) << 8
    }

    /// `None`: a later version wrote it.
    fn decode(mark: u64) -> Option<Self> {
        let phase = |bits: u64| Phase::ALL.into_iter().find(|phase| *phase as u64 == bits);
        Some(Self { from: phase(mark & 0xff)?, to: phase(mark >> 8)? })
    }
}

/// The adoption as the catalog has it, to be asked at every touch of the disk.
#[derive(Debug, Default)]
pub(crate) struct Known(AtomicU64);

impl Known {
    pub(crate) fn get(&self) -> Adoption {
        // Only what was decoded, or is at rest, is ever put in.
        let mark = self.0.load(Ordering::SeqCst);
        Adoption::decode(mark).unwrap_or(Adoption::resting(Phase::Observe))
    }

    fn set(&self, adoption: Adoption) {
        self.0.store(adoption.encode(), Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn set_for_test(&self, adoption: Adoption) {
        self.set(adoption);
    }
}

#[cfg(test)]
mod tests;
