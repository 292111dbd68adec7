//! Who is a member of a store: ourselves, whom we share it with, whom they share it with, and so on.
//!
//! Pure. Every node signs whom it shares the store with; a member is who is reached from here by
//! such lists. When a node takes a peer out, its list lacks it, and nobody behind it is reached
//! through it any more. A key that was revoked here is no member whatever others say.

use std::collections::{BTreeMap, VecDeque};

use blockferry_delta::{NodeId, StoreId};
use blockferry_wire::Member;

use crate::promotion::statements::Book;

/// A member other than ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it is called: here, or where it is known from.
    pub name: String,
    /// Its changes travel; else it is a mirror.
    pub writer: bool,
    /// We share the store with it ourselves.
    pub direct: bool,
}

/// The members of `store` beside `us`: `direct` are those we share it with.
pub fn members(
    book: &Book,
    store: &StoreId,
    us: &NodeId,
    direct: Vec<Member>,
    is_revoked: impl Fn(&NodeId) -> bool,
) -> BTreeMap<NodeId, Known> {
    let mut found = BTreeMap::new();
    let mut next: VecDeque<(Member, bool)> = direct.into_iter().map(|m| (m, true)).collect();
    while let Some((member, direct)) = next.pop_front() {
        let Member { node, name, writer } = member;
        if node == *us || found.contains_key(&node) || is_revoked(&node) {
            continue;
        }
        found.insert(node, Known { name, writer, direct });
        if let Some(roster) = book.roster(store, &node) {
            next.extend(roster.members.into_iter().map(|m| (m, false)));
        }
    }
    tell_apart(&mut found);
    found
}

/// Two members of one name: those that aren't ours to name get the beginning of their id.
fn tell_apart(found: &mut BTreeMap<NodeId, Known>) {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for known in found.values() {
        *taken.entry(known.name.clone()).or_default() += 1;
    }
    for (node, known) in found.iter_mut().filter(|(_, known)| !known.direct) {
        if taken.get(&known.name).is_some_and(|count| *count > 1) {
            known.name = format!("{}-{}", known.name, node.short());
        }
    }
}

#[cfg(test)]
mod tests {
    use blockferry_wire::{Roster, Said, Statement, What};

    use super::*;
    use crate::membership::identity::Identity;
    use crate::promotion::statements::{Signed, Taken};

    const STORE: StoreId = StoreId::from_bytes([7; 16]);

    fn member(of: &Identity, name: &str) -> Member {
        Member { node: of.id(), name: name.into(), writer: true }
    }

    fn say(book: &mut Book, by: &Identity, sequence: u64, mut members: Vec<Member>) {
        members.sort_by_key(|m| m.node);
        let what = What::Roster(Roster { node_name: "x".into(), members });
        let said = Said { key: by.public().to_bytes(), store: STORE, sequence, unix_ms: 0, what };
        let body = said.encode().expect("keeps the rules");
        let signature = by.sign(&Statement::signed_bytes(&body));
        assert_eq!(book.take(Signed { said, body, signature }, None), Taken::New);
    }

    #[test]
    fn a_chain_is_followed_to_its_end_and_not_beyond_a_gap() {
        let ids: Vec<Identity> = (0..5).map(|_| Identity::generate().expect("a key")).collect();
        let [us, a, b, c, d] = &ids[..] else { panic!("five") };
        let mut book = Book::new(1);
        say(&mut book, a, 1, vec![member(us, "us"), member(b, "b")]);
        say(&mut book, b, 1, vec![member(a, "a"), member(c, "c")]);
        say(&mut book, d, 1, vec![member(c, "c")]);
        let of = |book: &Book, revoked: Option<NodeId>| {
            let all =
                members(book, &STORE, &us.id(), vec![member(a, "a")], |n| Some(*n) == revoked);
            let mut names: Vec<String> = all.into_values().map(|k| k.name).collect();
            names.sort();
            names.join(",")
        };
        assert_eq!(of(&book, None), "a,b,c", "d names c, but nobody names d");
        assert_eq!(of(&book, Some(b.id())), "a", "whom b shares with doesn't count either");
        say(&mut book, b, 2, vec![member(a, "a")]);
        assert_eq!(of(&book, None), "a,b", "b took c out");
        say(&mut book, a, 2, vec![member(us, "us"), member(b, "b"), member(d, "b")]);
        let all = members(&book, &STORE, &us.id(), vec![member(a, "a")], |_| false);
        assert_eq!(all[&d.id()].name, format!("b-{}", d.id().short()));
        assert!(all[&a.id()].direct && !all[&b.id()].direct);
    }
}
