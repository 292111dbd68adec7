//! Feeds of many stores say exactly what a feed of each store says, and look at no more than is new.

use blockferry_delta::{ImageName, Lineage, Root};
use blockferry_wire::{Holding, Member, Proof, Roster, Said, What};

use super::*;
use crate::membership::identity::PublicKey;
use crate::promotion::statements::Signed;

/// The book doesn't look at signatures: who hears does.
fn signed(node: u8, store: StoreId, sequence: u64, what: What) -> Signed {
    let said = Said { key: [node; 32], store, sequence, unix_ms: 0, what };
    let body = said.encode().expect("keeps the rules");
    Signed { said, body, signature: [0; 64] }
}

fn id(node: u8) -> NodeId {
    PublicKey::from_bytes([node; 32]).node_id()
}

fn store(n: u8) -> StoreId {
    StoreId::from_bytes([n; 16])
}

fn holding(image: u64, number: u64) -> What {
    What::Holding(Holding {
        image: ImageName::new(&format!("image-{image}")).expect("a name"),
        number,
        root: Root::from_bytes([7; 32]),
        lineage: Lineage::default(),
        proof: Proof::Durable,
        rivals: Vec::new(),
    })
}

fn roster(nodes: &[u8]) -> What {
    let member = |node: &u8| Member { node: id(*node), name: format!("n{node}"), writer: true };
    let mut members: Vec<Member> = nodes.iter().map(member).collect();
    members.sort_by_key(|member| member.node);
    What::Roster(Roster { node_name: "n".into(), members })
}

fn resume(store: StoreId) -> Resume {
    Resume { store, own_log: 5, known_log: 0, known_place: 0 }
}

/// SplitMix64.
fn below(state: &mut u64, end: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % end
}

/// Statements come at random, of stores that are shared, not shared for a while or not asked for; what is
/// told by store is what a feed for each store alone tells.
#[test]
fn the_same_is_told_as_by_a_look_at_every_store() {
    for seed in 1..=40 {
        let (mut state, mut book) = (seed, Book::new(3));
        let (us, peer) = (id(1), id(2));
        let (mut feeds, mut alone) = (Feeds::default(), BTreeMap::new());
        let mut told: BTreeMap<StoreId, Vec<Statement>> = BTreeMap::new();
        let mut expected = told.clone();
        let mut shared = [true; 6];
        for step in 1..400_u64 {
            let n = below(&mut state, 6);
            let at = store(u8::try_from(n).expect("few"));
            let whose = 1 + u8::try_from(below(&mut state, 3)).expect("few");
            match below(&mut state, 12) {
                // The last one is never asked for.
                0 if n < 5 => {
                    assert!(feeds.resume(&book, &resume(at), &us));
                    alone.insert(at, Feed::from(&book, &resume(at), &us));
                }
                1 => shared[usize::try_from(n).expect("few")] ^= true,
                2 => drop(book.take(signed(whose, at, step, roster(&[1, 2, 3])), None)),
                3..=8 => {
                    let what = holding(below(&mut state, 4), step);
                    let from = (whose != 1).then(|| id(whose));
                    book.take(signed(whose, at, step, what), from);
                }
                _ => {
                    let now = |of: &StoreId| shared[usize::from(of.as_bytes()[0])];
                    for (of, feed) in alone.iter_mut().filter(|(of, _)| now(of)) {
                        let all = std::iter::from_fn(|| feed.next(&book, &peer));
                        expected.entry(*of).or_default().extend(all);
                    }
                    while let Some(next) = feeds.next(&book, &peer, now) {
                        let of = next.said().expect("whole").store;
                        assert!(now(&of), "not shared");
                        told.entry(of).or_default().push(next);
                    }
                    told.retain(|_, all| !all.is_empty());
                    expected.retain(|_, all| !all.is_empty());
                    assert_eq!(told, expected, "seed {seed}");
                }
            }
        }
        assert!(told.values().map(Vec::len).sum::<usize>() > 100, "seed {seed}");
    }
}

#[test]
fn what_is_new_is_looked_at_and_nothing_else() {
    let (mut book, mut feeds) = (Book::new(3), Feeds::default());
    for n in 0..200 {
        assert!(feeds.resume(&book, &resume(store(n)), &id(1)));
    }
    assert_eq!((feeds.next(&book, &id(2), |_| true), feeds.due.len()), (None, 0));
    book.take(signed(3, store(7), 1, holding(0, 1)), Some(id(3)));
    book.take(signed(3, store(201), 1, holding(0, 1)), Some(id(3)));
    let asked = std::cell::Cell::new(0);
    let shares = |_: &StoreId| {
        asked.set(asked.get() + 1);
        true
    };
    assert!(feeds.next(&book, &id(2), shares).is_some());
    assert_eq!(feeds.next(&book, &id(2), shares), None);
    assert_eq!(feeds.next(&book, &id(2), shares), None);
    assert_eq!(asked.get(), 2, "one store had something new");
}

#[test]
fn there_is_room_for_so_many_stores() {
    let (book, mut feeds) = (Book::new(3), Feeds::default());
    let nth = |n: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        resume(StoreId::from_bytes(bytes))
    };
    for n in 0..budget::STORES_MAX {
        assert!(feeds.resume(&book, &nth(n), &id(1)));
    }
    assert!(!feeds.resume(&book, &nth(budget::STORES_MAX), &id(1)));
    assert!(feeds.resume(&book, &nth(0), &id(1)), "it begins anew");
}
