//! Judge: what an offer means for what we hold.
//!
//! Pure. Lineage decides, never a clock; roles limit who may offer what; equal bytes are never
//! moved. "Diverged" overwrites nothing: the other content is kept beside ours until somebody decides.
//! Nor is a lineage believed that a restored backup or a cloned machine has made worthless.

use blockferry_delta::{Lineage, NodeId, Order, Root};

use crate::api::Role;

/// One generation, as far as judging needs it: ours or the offered one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number in the history of whoever says so; each node counts its own, so it decides
    /// nothing.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// What it descends from.
    pub lineage: Lineage,
}

/// Who offers, and who made what is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offerer {
    /// The offering peer's role in the store, when we know it.
    pub role: Option<Role>,
    /// The offering peer itself recorded the generation.
    pub is_author: bool,
}

/// How we came by what we hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It was recorded when somebody made it, or a peer sent or confirmed it.
    Recorded,
    /// It was found here when nothing was known of it: nobody's lineage speaks for it.
    Adopted {
        /// The peer has recorded these bytes as a generation of its own.
        known: bool,
        /// Nothing is made here, so that it can't be anybody's work in this store.
        mirror: bool,
    },
    /// The same, but the file isn't there any more: nothing can be lost.
    Gone,
    /// Somebody was set back: the offer seems to descend from what we hold and doesn't.
    Rewound,
}

/// What speaks for and against an offer that counts more than what we hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// What we hold.
    pub ours: &'a Lineage,
    /// What is offered.
    pub offered: &'a Lineage,
    /// Whom lineages count what this node made: who it is now, then who it was.
    pub writers: &'a [NodeId],
    /// The offerer says that it has recorded what we hold, or we had a receipt for it.
    pub known: bool,
    /// The offerer made both what we hold and what it offers.
    pub made_both: bool,
    /// How many former contents the offerer named.
    pub named: u64,
}

impl Evidence<'_> {
    /// The offer counts more of what this node made than this node has made: it was set back, or
    /// has a twin. What it made since it noticed nobody can mistake: who has built on that is believed.
    pub fn forgotten_here(&self) -> bool {
        let more = |id: &NodeId| self.offered.count(id) > self.ours.count(id);
        let (now, before) =
            self.writers.split_first().map_or((None, &[][..]), |(now, before)| (Some(now), before));
        let made_since = now.is_some_and(|now| self.ours.count(now) > 0);
        now.is_some_and(more) || !made_since && before.iter().any(more)
    }

    /// The offerer doesn't know any more what it made, though it names more former contents than
    /// lie between: it was set back.
    pub fn forgotten_there(&self) -> bool {
        let between = self.offered.total().saturating_sub(self.ours.total());
        self.made_both && between <= self.named
    }

    /// How we came by what we hold, as far as the lineages tell.
    pub fn held(&self) -> Held {
        let newer = self.offered.compare(self.ours) == Order::Newer;
        let forgotten = self.forgotten_here() || self.forgotten_there();
        if newer && forgotten && !self.known { Held::Rewound } else { Held::Recorded }
    }
}

/// What to do with an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Receive it.
    Accept,
    /// Receive it, and put what it replaces into quarantine: nobody else is known to have that.
    SetAside,
    /// We hold these bytes under this lineage already: a receipt is all that is due.
    AlreadyHere,
    /// Equal bytes, two histories: record the generation under the merged lineage.
    Merge(Lineage),
    /// Ours descends from it; we shall offer ours.
    Older,
    /// Neither descends from the other: it is kept beside ours.
    Diverged,
    /// One lineage with two contents, or a descent that isn't one: a store was restored or cloned.
    /// It is kept beside ours.
    Fork,
    /// A mirror offers a change of its own.
    Forbidden,
}

/// Judges `offered` against `ours`, the current generation of the image here.
pub fn judge(ours: Option<&Version>, held: Held, offered: &Version, from: Offerer) -> Decision {
    if from.is_author && from.role == Some(Role::Mirror) {
        return Decision::Forbidden;
    }
    let Some(ours) = ours else { return Decision::Accept };
    let same_bytes = ours.root == offered.root;
    if !same_bytes && !matches!(held, Held::Recorded | Held::Rewound) {
        return replaces_adopted(held, &offered.lineage);
    }
    match offered.lineage.compare(&ours.lineage) {
        Order::Equal if same_bytes => Decision::AlreadyHere,
        Order::Equal => Decision::Fork,
        Order::Newer if !same_bytes && held == Held::Rewound => Decision::Fork,
        Order::Newer => Decision::Accept,
        Order::Older => Decision::Older,
        Order::Concurrent if same_bytes => match ours.lineage.merge(&offered.lineage) {
            Ok(merged) => Decision::Merge(merged),
            Err(_) => Decision::Diverged,
        },
        Order::Concurrent => Decision::Diverged,
    }
}

/// What is adopted is older than whatever somebody made; whether it may go is another question.
fn replaces_adopted(held: Held, offered: &Lineage) -> Decision {
    let made = offered.entries().next().is_some();
    match held {
        Held::Adopted { known: true, mirror } if made || mirror => Decision::Accept,
        Held::Adopted { mirror: true, .. } => Decision::SetAside,
        Held::Adopted { .. } => Decision::Diverged,
        Held::Gone | Held::Recorded | Held::Rewound => Decision::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, root: u8, lineage: &[(u8, u64)]) -> Version {
        let entries = lineage.iter().map(|(n, c)| (NodeId::from_bytes([*n; 32]), *c));
        Version {
            number,
            root: Root::from_bytes([root; 32]),
            lineage: Lineage::from_entries(entries).expect("valid"),
        }
    }

    const WRITER: Offerer = Offerer { role: Some(Role::Writer), is_author: true };

    #[test]
    fn table() {
        use Decision::*;
        let merged = version(0, 0, &[(1, 2), (2, 1)]).lineage;
        let rows = [
            // ours, offered, decision
            (version(1, 1, &[(1, 1)]), version(2, 2, &[(1, 2)]), Accept),
            (version(1, 1, &[(1, 1)]), version(2, 1, &[(1, 2)]), Accept), // a touch
            (version(1, 1, &[(1, 1)]), version(9, 2, &[(1, 9)]), Accept), // some were missed
            (version(2, 2, &[(1, 2)]), version(2, 2, &[(1, 2)]), AlreadyHere),
            (version(2, 2, &[(1, 2)]), version(2, 3, &[(1, 2)]), Fork),
            (version(5, 2, &[(1, 2)]), version(4, 3, &[(1, 3)]), Accept), // each node counts itself
            (version(2, 2, &[(1, 2)]), version(1, 1, &[(1, 1)]), Older),
            (version(2, 2, &[(1, 2)]), version(2, 3, &[(2, 1)]), Diverged),
            (version(2, 2, &[(1, 2)]), version(1, 2, &[(2, 1)]), Merge(merged)),
        ];
        for (ours, offered, decision) in rows {
            assert_eq!(
                judge(Some(&ours), Held::Recorded, &offered, WRITER),
                decision,
                "{ours:?} {offered:?}"
            );
        }
        assert_eq!(judge(None, Held::Recorded, &version(7, 1, &[(1, 7)]), WRITER), Accept);
    }

    #[test]
    fn what_was_adopted_gives_way_only_where_nothing_is_lost() {
        use Decision::*;
        let adopted = version(1, 1, &[]);
        let (made, found) = (version(5, 2, &[(1, 5)]), version(1, 2, &[]));
        let rows = [
            // known to the peer, a mirror here, offered, decision
            (true, false, &made, Accept),
            (true, true, &made, Accept),
            (false, false, &made, Diverged),
            (false, true, &made, SetAside),
            (true, false, &found, Diverged), // both were found, nobody made either
            (true, true, &found, Accept),
            (false, false, &found, Diverged),
            (false, true, &found, SetAside),
        ];
        for (known, mirror, offered, decision) in rows {
            let held = Held::Adopted { known, mirror };
            assert_eq!(judge(Some(&adopted), held, offered, WRITER), decision, "{held:?}");
            // The same bytes are never moved or doubted.
            let same = Version { root: adopted.root, ..offered.clone() };
            let equal = if same.lineage == adopted.lineage { AlreadyHere } else { Accept };
            assert_eq!(judge(Some(&adopted), held, &same, WRITER), equal, "{held:?}");
        }
        assert_eq!(judge(Some(&adopted), Held::Gone, &found, WRITER), Accept);
        let mirror = Offerer { role: Some(Role::Mirror), is_author: true };
        assert_eq!(judge(Some(&adopted), Held::Gone, &found, mirror), Forbidden);
        let recorded = version(3, 3, &[(2, 1)]);
        assert_eq!(judge(Some(&recorded), Held::Recorded, &found, WRITER), Older);
    }

    #[test]
    fn who_was_set_back_is_not_obeyed_and_does_not_obey() {
        let us = NodeId::from_bytes([1; 32]);
        let held = |ours: &[(u8, u64)], offered: &[(u8, u64)], known, made_both, named| {
            let (ours, offered) = (version(0, 1, ours).lineage, version(0, 2, offered).lineage);
            let (ours, offered) = (&ours, &offered);
            Evidence { ours, offered, writers: &[us], known, made_both, named }.held()
        };
        let rows = [
            // ours, offered, known to the offerer, made by it, contents named; how it is held
            (&[(1, 2)][..], &[(1, 4)][..], false, false, 9, Held::Rewound), // we made 3 and 4?
            (&[(1, 2)], &[(1, 4)], true, false, 9, Held::Recorded),
            (&[(1, 2)], &[(1, 2), (2, 1)], false, false, 9, Held::Recorded), // not all is named
            (&[(2, 5)], &[(2, 6)], false, true, 5, Held::Rewound), // it forgot its own 5th
            (&[(2, 5)], &[(2, 6)], true, true, 5, Held::Recorded),
            (&[(2, 5)], &[(2, 16)], false, true, 5, Held::Recorded), // named no further back
            (&[(1, 3)], &[(1, 2)], false, false, 9, Held::Recorded), // ours is newer anyway
        ];
        for (ours, offered, known, made_both, named, expected) in rows {
            let found = held(ours, offered, known, made_both, named);
            assert_eq!(found, expected, "{ours:?} {offered:?}");
        }
        let renewed = [us, NodeId::from_bytes([7; 32])];
        let held = |ours: &[(u8, u64)], offered: &[(u8, u64)]| {
            let (ours, offered) = (version(0, 1, ours).lineage, version(0, 2, offered).lineage);
            let (ours, offered, writers) = (&ours, &offered, &renewed[..]);
            let (known, made_both, named) = (false, false, 9);
            Evidence { ours, offered, writers, known, made_both, named }.held()
        };
        assert_eq!(held(&[(7, 2)], &[(7, 4)]), Held::Rewound, "made when it was another one");
        assert_eq!(held(&[(7, 2), (1, 1)], &[(7, 4), (1, 1), (3, 1)]), Held::Recorded, "resolved");
        assert_eq!(held(&[(7, 2), (1, 1)], &[(7, 4), (1, 2)]), Held::Rewound, "set back again");
        let (ours, offered) = (version(2, 1, &[(1, 2)]), version(4, 2, &[(1, 4)]));
        assert_eq!(judge(Some(&ours), Held::Rewound, &offered, WRITER), Decision::Fork);
        let same = Version { root: ours.root, ..offered };
        assert_eq!(judge(Some(&ours), Held::Rewound, &same, WRITER), Decision::Accept);
    }

    #[test]
    fn a_mirror_relays_but_makes_nothing() {
        let offered = version(1, 1, &[(1, 1)]);
        let mirror = |is_author| Offerer { role: Some(Role::Mirror), is_author };
        assert_eq!(judge(None, Held::Recorded, &offered, mirror(true)), Decision::Forbidden);
        assert_eq!(judge(None, Held::Recorded, &offered, mirror(false)), Decision::Accept);
        let unknown = Offerer { role: None, is_author: true };
        assert_eq!(judge(None, Held::Recorded, &offered, unknown), Decision::Accept);
    }

    #[test]
    fn two_sides_never_both_accept() {
        let versions: Vec<Version> = (0..3_u8)
            .flat_map(|a| (0..3_u8).map(move |b| (a, b)))
            .filter(|(a, b)| a + b > 0)
            .map(|(a, b)| {
                let mut lineage = Vec::new();
                if a > 0 {
                    lineage.push((1, u64::from(a)));
                }
                if b > 0 {
                    lineage.push((2, u64::from(b)));
                }
                version(u64::from(a + b), a * 3 + b, &lineage)
            })
            .collect();
        for x in &versions {
            for y in &versions {
                let there = judge(Some(x), Held::Recorded, y, WRITER) == Decision::Accept;
                let back = judge(Some(y), Held::Recorded, x, WRITER) == Decision::Accept;
                assert!(!(there && back), "{x:?} {y:?}");
            }
        }
    }
}
