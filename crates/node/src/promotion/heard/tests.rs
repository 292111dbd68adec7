//! What two places sign under one key proves nothing, and all of it is heard once it is one again.

use blockferry_delta::{ImageName, Lineage, Root};
use blockferry_wire::{Holding, Proof, Resume, Said, Statement, What};

use super::*;
use crate::membership::identity::Identity;
use crate::promotion::feed::Feed;
use crate::promotion::statements::{Book, Signed, Taken};

const STORE: StoreId = StoreId::from_bytes([7; 16]);

/// Us, with what we know of others.
struct Ear {
    us: NodeId,
    book: Book,
    heard: Heard,
}

fn image() -> ImageName {
    ImageName::new("disk.img").expect("a name")
}

fn say(by: &Identity, book: &mut Book, sequence: u64, number: u64) {
    let (root, lineage) = (Root::from_bytes([number as u8; 32]), Lineage::default());
    let (proof, rivals) = (Proof::ReadBack, Vec::new());
    let what = What::Holding(Holding { image: image(), number, root, lineage, proof, rivals });
    let said = Said { key: by.public().to_bytes(), store: STORE, sequence, unix_ms: 0, what };
    let body = said.encode().expect("keeps the rules");
    let signature = by.sign(&Statement::signed_bytes(&body));
    assert_eq!(book.take(Signed { said, body, signature }, None), Taken::New);
}

impl Ear {
    /// A connection with `peer`, whose book this is: what it tells us, heard as `witness` does.
    fn connect(&mut self, peer: NodeId, theirs: &Book) {
        let (known_log, known_place) = self.heard.at(&peer, &STORE);
        let resume = Resume { store: STORE, own_log: 0, known_log, known_place };
        self.heard.note_log(&peer, &STORE, theirs.log());
        let mut feed = Feed::from(theirs, &resume, &peer);
        while let Some(statement) = feed.next(theirs, &self.us) {
            let place = statement.place;
            let signed = Signed::from_wire(statement).expect("keeps the rules");
            self.heard.note_place(&peer, &STORE, place);
            if !self.heard.pass_over(&signed.node(), &peer, &STORE) {
                self.book.take(signed, Some(peer));
            }
        }
    }

    fn holds(&self, node: &Identity) -> Option<u64> {
        self.book.holding(&STORE, &node.id(), &image()).map(|held| held.number)
    }
}

fn identities() -> [Identity; 3] {
    [(); 3].map(|()| Identity::generate().expect("a key"))
}

#[test]
fn what_a_twin_says_is_not_taken_and_what_its_key_says_later_is_heard_in_full() {
    let [us, b, c] = identities();
    let mut ear = Ear { us: us.id(), book: Book::new(1), heard: Heard::default() };
    let (mut of_b, mut of_twin, mut of_c) = (Book::new(2), Book::new(3), Book::new(4));
    say(&b, &mut of_b, 1, 1);
    ear.connect(b.id(), &of_b);
    assert_eq!(ear.holds(&b), Some(1));

    assert!(ear.heard.doubt(b.id()) && !ear.heard.doubt(b.id()), "news once");
    say(&b, &mut of_twin, 9, 9);
    ear.connect(b.id(), &of_twin);
    // It comes by a third node, too, which says something of its own after that.
    say(&b, &mut of_c, 9, 9);
    say(&c, &mut of_c, 1, 3);
    ear.connect(c.id(), &of_c);
    assert_eq!(ear.holds(&b), Some(1), "neither from itself nor from others");
    assert_eq!(ear.holds(&c), Some(3), "who isn't doubted is heard");
    assert_eq!(ear.heard.at(&c.id(), &STORE), (0, 0), "c is asked again");

    say(&b, &mut of_b, 10, 2);
    ear.connect(b.id(), &of_b);
    assert_eq!(ear.holds(&b), Some(1), "which of the two says it nobody knows");
    let forgotten = ear.book.forget_said_by(&b.id());
    assert_eq!((forgotten.len(), ear.holds(&b)), (1, None));
    assert_eq!(ear.heard.believe(&b.id()), BTreeSet::from([b.id(), c.id()]));
    assert!(!ear.heard.is_doubted(&b.id()) && ear.heard.believe(&b.id()).is_empty());
    ear.connect(b.id(), &of_b);
    assert_eq!(ear.holds(&b), Some(2), "all of it comes again");
}

#[test]
fn what_was_believed_before_is_asked_for_again_though_nothing_was_passed_over() {
    let [us, b, c] = identities();
    let mut ear = Ear { us: us.id(), book: Book::new(1), heard: Heard::default() };
    let (mut of_b, mut of_c) = (Book::new(2), Book::new(4));
    say(&b, &mut of_b, 5, 5);
    say(&c, &mut of_c, 1, 3);
    ear.connect(b.id(), &of_b);
    ear.connect(c.id(), &of_c);
    ear.heard.doubt(b.id());
    ear.book.forget_said_by(&b.id());
    assert_eq!(ear.holds(&c), Some(3), "only what is said under that key");
    assert_eq!(ear.heard.believe(&b.id()), BTreeSet::from([b.id()]));
    assert_eq!(ear.heard.at(&c.id(), &STORE), (4, 1), "c goes on where it was");
    ear.connect(b.id(), &of_b);
    assert_eq!(ear.holds(&b), Some(5));
}
