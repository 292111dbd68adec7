//! Standing: is a generation at a member, verified? And which generation is it about?
//!
//! Pure. Content and lineage decide, never a number or a date: what a member states it holds is the
//! generation, or descends from it, or is behind, or went its own way. Receipts count when the
//! member has read back what it committed.

use blockferry_delta::Order;
use blockferry_wire::{Holding, Proof, Rival};

use crate::transfer::judge::Version;

/// How a member stands to a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds these bytes and has read them back.
    Verified,
    /// It holds them, durably, and hasn't read them back yet.
    Committed,
    /// Its file has changed since, and nothing newer is recorded there yet.
    Changed,
    /// What it read back is not what it had written.
    Damaged,
    /// What it holds descends from the generation; the value says whether it read that back.
    Ahead(bool),
    /// What it holds is older.
    Behind,
    /// It holds, or keeps beside what it holds, something that neither descends from the generation nor
    /// is older.
    Diverged,
    /// It has not said what it holds.
    Unknown,
}

impl Standing {
    /// Does it count as holding the generation or one that came of it?
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Verified | Self::Ahead(true))
    }

    /// What is left of it while two places show the member's key: no proof, but whatever speaks
    /// against using the generation.
    #[must_use]
    pub fn doubted(self) -> Self {
        match self {
            Self::Verified | Self::Committed => Self::Unknown,
            Self::Ahead(_) => Self::Ahead(false),
            Self::Changed | Self::Damaged | Self::Behind | Self::Diverged | Self::Unknown => self,
        }
    }
}

/// How whoever holds `held` stands to `wanted`.
pub fn standing(wanted: &Version, held: Option<&Holding>) -> Standing {
    let Some(held) = held else { return Standing::Unknown };
    let order = held.lineage.compare(&wanted.lineage);
    // It holds this or another one, and beside it what nobody has decided about.
    let torn = |rival: &Rival| {
        let order = rival.lineage.compare(&wanted.lineage);
        rival.root != wanted.root && matches!(order, Order::Equal | Order::Concurrent)
    };
    if held.rivals.iter().any(torn) {
        return Standing::Diverged;
    }
    let same_bytes = held.root == wanted.root;
    match (order, held.proof) {
        (Order::Older, _) => Standing::Behind,
        // One lineage, two contents: a store was restored or cloned.
        (Order::Equal, _) if !same_bytes => Standing::Diverged,
        // Equal bytes of two histories are merged when they meet.
        (Order::Concurrent, _) if !same_bytes => Standing::Diverged,
        (_, Proof::Changed) => Standing::Changed,
        (_, Proof::Damaged) => Standing::Damaged,
        (Order::Newer, proof) => Standing::Ahead(proof == Proof::ReadBack),
        (_, Proof::ReadBack) => Standing::Verified,
        (_, Proof::Durable) => Standing::Committed,
    }
}

/// The newest of several generations: that of `own`, unless what somebody holds descends from it.
pub fn newest<'a>(
    own: Option<Version>,
    held: impl Iterator<Item = &'a Holding>,
) -> Option<Version> {
    let mut best = own;
    for holding in held {
        let newer =
            best.as_ref().is_none_or(|best| holding.lineage.compare(&best.lineage) == Order::Newer);
        if newer {
            best = Some(version_of(holding));
        }
    }
    best
}

/// What a member holds, as judging has it.
pub fn version_of(held: &Holding) -> Version {
    Version { number: held.number, root: held.root, lineage: held.lineage.clone() }
}

#[cfg(test)]
mod tests {
    use blockferry_delta::{ImageName, Lineage, NodeId, Root};

    use super::*;

    fn version(number: u64, root: u8, lineage: &[(u8, u64)]) -> Version {
        let entries = lineage.iter().map(|(n, c)| (NodeId::from_bytes([*n; 32]), *c));
        let lineage = Lineage::from_entries(entries).expect("valid");
        Version { number, root: Root::from_bytes([root; 32]), lineage }
    }

    fn held(of: Version, proof: Proof) -> Holding {
        let Version { number, root, lineage } = of;
        let (image, rivals) = (ImageName::new("x").expect("a name"), Vec::new());
        Holding { image, number, root, lineage, proof, rivals }
    }

    #[test]
    fn table() {
        use Proof::*;
        let wanted = version(2, 2, &[(1, 2)]);
        let rows = [
            (version(2, 2, &[(1, 2)]), ReadBack, Standing::Verified),
            (version(2, 2, &[(1, 2)]), Durable, Standing::Committed),
            (version(2, 2, &[(1, 2)]), Changed, Standing::Changed),
            (version(2, 2, &[(1, 2)]), Damaged, Standing::Damaged),
            (version(9, 2, &[(2, 1)]), ReadBack, Standing::Verified), // to be merged
            (version(3, 3, &[(1, 3)]), ReadBack, Standing::Ahead(true)),
            (version(3, 3, &[(1, 2), (3, 1)]), Durable, Standing::Ahead(false)),
            (version(3, 2, &[(1, 3)]), ReadBack, Standing::Ahead(true)), // a touch
            (version(3, 3, &[(1, 3)]), Changed, Standing::Changed),
            (version(1, 1, &[(1, 1)]), ReadBack, Standing::Behind),
            (version(1, 2, &[(1, 1)]), ReadBack, Standing::Behind), // it lacks a touch
            (version(9, 9, &[]), ReadBack, Standing::Behind),       // found there: older than made
            (version(2, 3, &[(1, 2)]), ReadBack, Standing::Diverged), // a fork
            (version(2, 3, &[(1, 1), (2, 1)]), ReadBack, Standing::Diverged),
            (version(2, 3, &[(2, 1)]), Changed, Standing::Diverged),
        ];
        for (of, proof, expected) in rows {
            let held = held(of, proof);
            assert_eq!(standing(&wanted, Some(&held)), expected, "{held:?}");
        }
        for (rival, expected) in [
            (version(2, 3, &[(2, 1)]), Standing::Diverged),
            (version(2, 3, &[(1, 2)]), Standing::Diverged), // a fork
            (version(2, 3, &[(1, 1)]), Standing::Verified), // decided
            (version(2, 3, &[(1, 2), (2, 1)]), Standing::Verified), // of what came of it
            (version(2, 2, &[(2, 1)]), Standing::Verified), // the same bytes
        ] {
            let mut torn = held(wanted.clone(), ReadBack);
            let Version { number, root, lineage } = rival;
            let author = NodeId::from_bytes([2; 32]);
            let (size_bytes, recorded_unix_ms) = (1, 0);
            torn.rivals =
                vec![Rival { number, root, lineage, author, size_bytes, recorded_unix_ms }];
            assert_eq!(standing(&wanted, Some(&torn)), expected, "{torn:?}");
        }
        assert_eq!(standing(&wanted, None), Standing::Unknown);
        assert!(Standing::Verified.is_ready() && Standing::Ahead(true).is_ready());
        assert!(!Standing::Ahead(false).is_ready() && !Standing::Committed.is_ready());
    }

    #[test]
    fn what_a_doubted_key_states_proves_nothing_and_still_forbids() {
        use Standing::*;
        let rows = [
            (Verified, Unknown),
            (Committed, Unknown),
            (Ahead(true), Ahead(false)),
            (Ahead(false), Ahead(false)),
        ];
        for (said, left) in rows {
            assert_eq!(said.doubted(), left);
        }
        for against in [Changed, Damaged, Behind, Diverged, Unknown] {
            assert_eq!(against.doubted(), against);
        }
        assert!(rows.iter().all(|(said, _)| !said.doubted().is_ready()));
    }

    #[test]
    fn the_newest_descends_from_ours_or_is_ours() {
        let ours = version(1, 1, &[(1, 1)]);
        let newer = held(version(2, 2, &[(1, 1), (3, 1)]), Proof::Durable);
        let newest_of = held(version(3, 3, &[(1, 1), (3, 2)]), Proof::Durable);
        let other = held(version(5, 5, &[(4, 1)]), Proof::ReadBack);
        let all = [other.clone(), newer, newest_of.clone()];
        assert_eq!(newest(Some(ours.clone()), all.iter()), Some(version_of(&newest_of)));
        assert_eq!(newest(Some(ours.clone()), [other.clone()].iter()), Some(ours));
        assert_eq!(newest(None, [other.clone()].iter()), Some(version_of(&other)));
        assert_eq!(newest(None, std::iter::empty()), None);
    }
}
