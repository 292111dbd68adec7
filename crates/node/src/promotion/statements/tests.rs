//! The book on its own: what is newer counts, places tell what somebody lacks, and it is bounded.

use blockferry_delta::Lineage;
use blockferry_wire::{Proof, Text};

use super::*;
use crate::membership::identity::Identity;

const STORE: StoreId = StoreId::from_bytes([7; 16]);

fn image(name: &str) -> ImageName {
    ImageName::new(name).expect("a name")
}

fn sign(by: &Identity, sequence: u64, what: What) -> Signed {
    let said = Said { key: by.public().to_bytes(), store: STORE, sequence, unix_ms: 5, what };
    let body = said.encode().expect("keeps the rules");
    let signature = by.sign(&Statement::signed_bytes(&body));
    Signed { said, body, signature }
}

fn holding(name: &str, number: u64) -> What {
    let (root, lineage) = (Root::from_bytes([number as u8; 32]), Lineage::default());
    let proof = Proof::ReadBack;
    let (image, rivals) = (image(name), Vec::new());
    What::Holding(Holding { image, number, root, lineage, proof, rivals })
}

#[test]
fn the_newest_counts_and_a_changed_byte_is_no_statement() {
    let by = Identity::generate().expect("a key");
    let mut book = Book::new(9);
    assert_eq!(book.take(sign(&by, 2, holding("a", 2)), None), Taken::New);
    assert_eq!(book.take(sign(&by, 1, holding("a", 1)), None), Taken::Known);
    assert_eq!(book.take(sign(&by, 2, holding("a", 3)), None), Taken::Known);
    assert_eq!(book.holding(&STORE, &by.id(), &image("a")).map(|h| h.number), Some(2));
    let good = sign(&by, 3, holding("a", 3));
    assert!(good.is_genuine());
    assert_eq!(good.slot().expect("known").node, by.id());
    let wire = good.to_wire(4);
    assert_eq!(Signed::from_wire(wire.clone()), Ok(good.clone()));
    let (mut body, mut signature) = (wire.clone(), wire.clone());
    *body.body.last_mut().expect("bytes") ^= 1;
    signature.signature[3] ^= 1;
    assert!(Signed::from_wire(body).is_ok_and(|s| !s.is_genuine()), "another proof");
    assert!(Signed::from_wire(signature).is_ok_and(|s| !s.is_genuine()));
    let stranger = Identity::generate().expect("a key");
    let mut forged = sign(&stranger, 9, holding("a", 9));
    forged.said.key = by.public().to_bytes();
    forged.body = forged.said.encode().expect("keeps the rules");
    assert!(!forged.is_genuine(), "signed by another key");
}

#[test]
fn places_tell_what_somebody_lacks() {
    let (a, b) = (Identity::generate().expect("a key"), Identity::generate().expect("a key"));
    let mut book = Book::new(0);
    assert_eq!(book.log(), 1, "0 means none");
    book.take(sign(&a, 1, holding("x", 1)), None);
    book.take(sign(&b, 1, holding("x", 1)), Some(b.id()));
    book.take(sign(&a, 2, holding("x", 2)), None);
    let all = |place, peer: &Identity, echo| {
        let (mut at, mut seen) = (place, Vec::new());
        while let Some((place, signed)) = book.next_after(&STORE, at, &peer.id(), echo) {
            seen.push((place, signed.node() == a.id()));
            at = place;
        }
        seen
    };
    assert_eq!(all(0, &a, 0), [(2, false), (3, true)], "the first was replaced");
    assert_eq!(all(0, &b, 0), [(3, true)], "its own isn't told it");
    assert_eq!(all(0, &b, 2), [(2, false), (3, true)], "but when it comes back, it is");
    assert_eq!(all(2, &a, 0), [(3, true)]);
    let other = StoreId::from_bytes([8; 16]);
    assert!(book.next_after(&other, 0, &a.id(), 0).is_none());
}

#[test]
fn promotions_are_kept_by_content_and_counted() {
    let by = Identity::generate().expect("a key");
    let mut book = Book::new(1);
    let kept = budget::PROMOTIONS_KEPT as u64;
    for number in 1..=kept + 2 {
        let promotion = Promotion {
            image: image("x"),
            number,
            root: Root::from_bytes([number as u8; 32]),
            lineage: Lineage::default(),
            by: Text::new("uid 0"),
            receipts: vec![],
        };
        book.take(sign(&by, number, What::Promotion(promotion)), None);
    }
    let old = book.old_promotions(&STORE, &by.id(), &image("x"));
    assert_eq!(old.len(), 2);
    for slot in &old {
        assert!(book.forget(slot) && !book.forget(slot));
    }
    let left = book.promotions(&STORE, &image("x"));
    assert_eq!(left.len() as u64, kept);
    assert!(left.iter().all(|(node, _, p)| *node == by.id() && p.number > 2));
    assert!(book.promotions(&STORE, &image("y")).is_empty());
}

#[test]
fn it_is_bounded_and_what_is_known_may_still_change() {
    let by = Identity::generate().expect("a key");
    let mut book = Book::new(1);
    let mut fits = 0;
    let long = "n".repeat(100);
    while book.take(sign(&by, 1, holding(&format!("{long}{fits}"), 1)), None) == Taken::New {
        fits += 1;
        assert!(fits < 100_000, "never full");
    }
    assert!(fits > 1000, "{fits} fit");
    let first = format!("{long}0");
    assert_eq!(book.take(sign(&by, 2, holding(&first, 2)), None), Taken::New);
    assert!(book.bytes <= budget::STATEMENTS_BYTES);
}

/// A receipt as most are: one writer, a name of twenty bytes.
fn receipt(by: &Identity, image: u64) -> Signed {
    let lineage = Lineage::from_entries([(by.id(), 7)]).expect("valid");
    let What::Holding(mut holding) = holding(&format!("win11-desk-{image:05}.vhd"), 7) else {
        panic!("a holding")
    };
    holding.lineage = lineage;
    let sequence = 1_795_309_200_000;
    let what = What::Holding(holding);
    let said = Said { key: by.public().to_bytes(), store: STORE, sequence, unix_ms: 5, what };
    let body = said.encode().expect("keeps the rules");
    // Who takes it has checked the signature.
    Signed { said, body, signature: [0; 64] }
}

#[test]
fn ten_thousand_images_at_fifty_members_are_more_than_a_node_keeps_receipts_of() {
    let by = Identity::generate().expect("a key");
    let each = receipt(&by, 1).weight();
    assert!((500..=700).contains(&each), "{each} bytes each; the error names this size");
    assert!(each * 10_000 * 50 > budget::RESIDENT_BYTES_MAX * 9 / 10, "as much as a whole node");
    let mut book = Book::new(1);
    let fits = (1..).find(|image| book.take(receipt(&by, *image), None) == Taken::Full);
    let fits = fits.expect("it is bounded") - 1;
    assert_eq!(fits, budget::STATEMENTS_BYTES / each);
    assert!(fits >= 1000 * 10, "{fits}: a thousand images at ten members work");
    // What is there stays, and may change.
    assert!(book.holding(&STORE, &by.id(), &image("win11-desk-00001.vhd")).is_some());
    assert_eq!(book.take_gone(), []);
}

#[test]
fn what_was_gives_way_to_what_is_the_oldest_first() {
    let by = Identity::generate().expect("a key");
    let mut book = Book::new(1);
    let promotion = |image_number: u64, number: u64| {
        let image = image(&format!("p-{image_number}"));
        let root = Root::from_bytes([number as u8; 32]);
        let (lineage, by) = (Lineage::default(), Text::new("uid 0"));
        What::Promotion(Promotion { image, number, root, lineage, by, receipts: vec![] })
    };
    // Said in an order that isn't the one of their names.
    for (place, sequence) in [3, 1, 2].into_iter().enumerate() {
        book.take(sign(&by, sequence, promotion(place as u64, 1)), None);
    }
    let mut deleted = holding("gone", 2);
    if let What::Holding(holding) = &mut deleted {
        holding.root = Root::NOTHING;
    }
    book.take(sign(&by, 4, deleted), None);
    let mut images = 0;
    while book.take_gone().is_empty() {
        images += 1;
        assert_eq!(book.take(receipt(&by, images), None), Taken::New);
    }
    let left = |book: &Book| -> Vec<bool> {
        (0..3).map(|n| !book.promotions(&STORE, &image(&format!("p-{n}"))).is_empty()).collect()
    };
    assert_eq!(left(&book), [true, false, true], "the one that was said first");
    while book.take(receipt(&by, images), None) != Taken::Full {
        images += 1;
    }
    assert_eq!(left(&book), [false; 3]);
    assert!(book.holding(&STORE, &by.id(), &image("gone")).is_none(), "a deletion, too");
    // Whether or not there happens to be room for it: it takes none of theirs.
    book.take(sign(&by, 9, promotion(7, 1)), None);
    assert!((1..images).all(|n| {
        let name = image(&format!("win11-desk-{n:05}.vhd"));
        book.holding(&STORE, &by.id(), &name).is_some()
    }));
}
