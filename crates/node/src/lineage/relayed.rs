//! Relayed: conflicts that other members have met and told of. A node behind a hub holds one of two
//! contents that diverged and is never offered the other; who keeps both says so with what it
//! states it holds (its *rivals*), and that comes to everybody.
//!
//! Pure. What is open elsewhere is what would be open here if it were kept here; who is asked to end
//! a conflict is one member only, so that it ends once.

use blockferry_delta::{Lineage, NodeId, Order, Root};
use blockferry_wire::{Holding, Rival};

use crate::transfer::judge::Version;

/// What a member states it holds of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Which member.
    pub node: NodeId,
    /// It may make generations.
    pub writer: bool,
    /// We share the store with it ourselves.
    pub direct: bool,
    /// What it states.
    pub held: Holding,
}

impl Stated {
    fn has(&self, root: &Root) -> bool {
        self.held.root == *root || self.held.rivals.iter().any(|rival| rival.root == *root)
    }
}

/// A content that somebody else keeps until it is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Which content.
    pub rival: Rival,
    /// Members that state it as their current one.
    pub current_at: Vec<NodeId>,
    /// Members that keep it beside theirs.
    pub kept_at: Vec<NodeId>,
}

/// Whether a content waits for a decision beside the one with `root` and `lineage`.
pub fn is_open(root: &Root, lineage: &Lineage, other: (&Root, &Lineage)) -> bool {
    other.0 != root && lineage.compare(other.1) != Order::Newer
}

/// The contents that others keep in a conflict and that `current` doesn't descend from.
pub fn elsewhere(current: &Version, stated: &[Stated]) -> Vec<Elsewhere> {
    let mut all: Vec<Elsewhere> = Vec::new();
    for (node, rival) in stated.iter().flat_map(|s| s.held.rivals.iter().map(|r| (s.node, r))) {
        if !is_open(&current.root, &current.lineage, (&rival.root, &rival.lineage)) {
            continue;
        }
        let same =
            |e: &&mut Elsewhere| e.rival.root == rival.root && e.rival.lineage == rival.lineage;
        match all.iter_mut().find(same) {
            Some(known) => known.kept_at.push(node),
            None => {
                let holds = stated.iter().filter(|s| s.held.root == rival.root);
                let current_at = holds.map(|s| s.node).collect();
                all.push(Elsewhere { rival: rival.clone(), current_at, kept_at: vec![node] });
            }
        }
    }
    all
}

/// What a decision about them must descend from, so that it ends the conflict wherever it is open:
/// the contents, and what is current where they are kept.
pub fn lineages(open: &[Elsewhere], stated: &[Stated]) -> Vec<Lineage> {
    let kept_at = |node: &NodeId| open.iter().any(|e| e.kept_at.contains(node));
    let current = stated.iter().filter(|s| kept_at(&s.node)).map(|s| &s.held.lineage);
    open.iter().map(|e| &e.rival.lineage).chain(current).cloned().collect()
}

/// Who is asked to end a conflict here: a member that may write, has a conflict to decide and all
/// contents that are needed; rather one we meet ourselves.
pub fn carrier(stated: &[Stated], needed: &[Root]) -> Option<NodeId> {
    let able = stated
        .iter()
        .filter(|s| s.writer && !s.held.rivals.is_empty() && needed.iter().all(|root| s.has(root)));
    able.min_by_key(|s| (!s.direct, s.node)).map(|s| s.node)
}

/// Whether everything that is known of was known to who decided: `all` are the lineages of what is
/// held and kept.
pub fn was_known<'a>(decided: &Lineage, all: impl IntoIterator<Item = &'a Lineage>) -> bool {
    let covered = |one: &Lineage| matches!(decided.compare(one), Order::Newer | Order::Equal);
    all.into_iter().all(covered)
}

#[cfg(test)]
mod tests {
    use blockferry_delta::ImageName;
    use blockferry_wire::Proof;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn lineage(entries: &[(u8, u64)]) -> Lineage {
        Lineage::from_entries(entries.iter().map(|(n, c)| (node(*n), *c))).expect("valid")
    }

    fn rival(root: u8, entries: &[(u8, u64)]) -> Rival {
        let (root, lineage) = (Root::from_bytes([root; 32]), lineage(entries));
        let (author, size_bytes, recorded_unix_ms) = (node(9), 5, 0);
        Rival { number: 2, root, lineage, author, size_bytes, recorded_unix_ms }
    }

    fn stated(n: u8, root: u8, entries: &[(u8, u64)], rivals: Vec<Rival>) -> Stated {
        let (image, proof) = (ImageName::new("x").expect("a name"), Proof::Durable);
        let (root, lineage) = (Root::from_bytes([root; 32]), lineage(entries));
        let held = Holding { image, number: 2, root, lineage, proof, rivals };
        Stated { node: node(n), writer: true, direct: n < 5, held }
    }

    fn version(root: u8, entries: &[(u8, u64)]) -> Version {
        Version { number: 2, root: Root::from_bytes([root; 32]), lineage: lineage(entries) }
    }

    #[test]
    fn what_a_hub_keeps_is_seen_behind_it_until_somebody_descends_from_it() {
        let (east, west) = (&[(1, 2)][..], &[(1, 1), (2, 1)][..]);
        let all =
            [stated(3, 1, east, vec![rival(2, west)]), stated(2, 2, west, vec![rival(1, east)])];
        let open = elsewhere(&version(1, east), &all);
        assert_eq!(open.len(), 1);
        assert_eq!(
            (&open[0].current_at[..], &open[0].kept_at[..]),
            (&[node(2)][..], &[node(3)][..])
        );
        // One that is behind both sees both.
        assert_eq!(elsewhere(&version(7, &[(1, 1)]), &all).len(), 2);
        let needed = lineages(&open, &all);
        let decided = needed.iter().fold(lineage(east), |sum, l| sum.merge(l).expect("few"));
        assert!(was_known(&decided, needed.iter()) && !was_known(&lineage(east), needed.iter()));
        let after = Version { lineage: decided.bump(node(1)).expect("few"), ..version(1, east) };
        assert_eq!(elsewhere(&after, &all), []);
        assert!(!was_known(&decided, [&after.lineage]), "it was decided about already");
        // One history with two contents is no descent.
        let twin = [stated(3, 1, east, vec![rival(3, east)])];
        assert_eq!(elsewhere(&version(1, east), &twin).len(), 1);
    }

    #[test]
    fn one_member_is_asked_and_it_has_everything() {
        let root = |n: u8| Root::from_bytes([n; 32]);
        let torn =
            |n, writer| Stated { writer, ..stated(n, 1, &[(1, 2)], vec![rival(2, &[(2, 1)])]) };
        let far = [torn(8, true), stated(2, 2, &[(2, 1)], vec![])];
        assert_eq!(carrier(&far, &[root(2)]), Some(node(8)), "the other has nothing to decide");
        let near = [torn(8, true), torn(4, true), torn(3, true), torn(2, false)];
        assert_eq!(carrier(&near, &[root(1), root(2)]), Some(node(3)), "a mirror makes nothing");
        assert_eq!(carrier(&near, &[root(3)]), None);
    }
}
