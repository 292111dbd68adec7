//! Sets between two stores: what needn't travel waits for the others, too, and what is kept beside
//! ours waits for nobody.

use blockferry_delta::{ImageName, Root};
use blockferry_store::{Generation, Recorded};
use blockferry_wire::{Lane, Refusal, SetMember};

use super::*;

const PARENT: &str = "a.vhdx";
const CHILD: &str = "b.avhdx";

fn name(text: &str) -> ImageName {
    ImageName::new(text).expect("a name")
}

fn write(side: &Side, image: &str, bytes: &[u8]) -> Generation {
    let file = side.disk.open(image, Open::Create).expect("opened");
    side.disk.set_clock_ns(side.disk.clock_ns() + 1_000_000_000);
    file.write_at(bytes, 0).expect("written");
    file.sync().expect("synced");
    let recorded = side.store.record(&name(image), side.identity.id(), 1, &()).expect("recorded");
    recorded.generation().clone()
}

fn root_of(side: &Side, image: &str) -> Root {
    side.store.current(&name(image)).expect("read").expect("there").root
}

/// Two stores and what waits at the second one.
struct Pair {
    a: Side,
    b: Side,
    waiting: Arc<Waiting>,
}

impl Pair {
    fn new() -> Pair {
        Pair { a: side(1), b: side(2), waiting: Arc::default() }
    }

    /// Offers one image with the set of both; with what became current beside it.
    fn offer(&self, image: &str) -> (Ended, Vec<Generation>) {
        let member = |text| SetMember { image: name(text), root: root_of(&self.a, text) };
        let set = [PARENT, CHILD].map(member).to_vec();
        let send = SendSide::of_set(self.a.store.clone(), &name(image), Lane::Normal, set.clone());
        let peer = self.a.identity.id();
        let to = (self.b.store.clone(), self.b.identity.clone());
        let head = |image: &ImageName| {
            let current = self.a.store.current(image).expect("read");
            current.as_ref().map(receive::version_of)
        };
        let to_come = waiting::to_come(&to.0, &set, &head).expect("read");
        let receive = RecvSide::new(to.0, to.1, peer, None);
        let mut receive = receive.with_waiting(self.waiting.clone(), to_come);
        let ended = exchange(&mut send.expect("offered"), &mut receive, usize::MAX);
        (ended.expect("not cut"), receive.take_others())
    }

    /// Offers both, the child first: nothing is current before both are.
    fn offer_both(&self) -> usize {
        let before = [PARENT, CHILD].map(|i| self.b.store.current(&name(i)).expect("read"));
        let (first, others) = self.offer(CHILD);
        assert!(matches!(first.received, RecvOutcome::Waits { missing: 1, .. }));
        assert!(others.is_empty());
        let between = [PARENT, CHILD].map(|i| self.b.store.current(&name(i)).expect("read"));
        assert_eq!(before, between);
        let (last, others) = self.offer(PARENT);
        assert!(matches!(last.received, RecvOutcome::Committed(_)), "{:?}", last.received);
        assert_eq!(others.len(), 1);
        for image in [PARENT, CHILD] {
            assert_eq!(root_of(&self.b, image), root_of(&self.a, image), "{image}");
        }
        first.wire_bytes + last.wire_bytes
    }
}

#[test]
fn what_is_kept_of_a_set_becomes_current_as_one() {
    let pair = Pair::new();
    for seed in [1, 2] {
        write(&pair.a, PARENT, &noise(seed, 1 << 20));
        write(&pair.a, CHILD, &noise(seed + 10, 1 << 20));
        assert!(pair.offer_both() > 1 << 20);
    }
    for image in [PARENT, CHILD] {
        let back = pair.a.store.rollback(&name(image), 1, pair.a.identity.id(), 2, &());
        assert!(matches!(back.expect("rolled back"), Recorded::New(_)));
        assert_eq!(pair.b.store.kept(&name(image)).expect("read").len(), 1, "what it displaced");
    }
    let wire_bytes = pair.offer_both();
    assert!(wire_bytes < 10_000, "{wire_bytes} bytes");
    for image in [PARENT, CHILD] {
        let kept = pair.b.store.kept(&name(image)).expect("read");
        let newest = kept.first().expect("what it displaced");
        assert_eq!(newest.generation.as_ref().map(|g| g.number), Some(2), "{image}");
    }
}

#[test]
fn what_diverged_is_kept_beside_and_waits_for_nobody() {
    let pair = Pair::new();
    write(&pair.a, PARENT, &noise(1, 1 << 20));
    write(&pair.a, CHILD, &noise(2, 1 << 20));
    pair.offer_both();
    write(&pair.b, CHILD, b"changed there");
    let ours = root_of(&pair.b, CHILD);
    write(&pair.a, PARENT, b"changed here");
    write(&pair.a, CHILD, b"changed here, too");
    let (ended, _) = pair.offer(CHILD);
    let SendOutcome::FailedThere { code, .. } = ended.sent else { panic!("{:?}", ended.sent) };
    assert_eq!(code, Refusal::Diverged);
    assert!(matches!(ended.received, RecvOutcome::Kept { .. }));
    assert_eq!(root_of(&pair.b, CHILD), ours);
    // The parent would change under a child that isn't its own: it waits.
    let (ended, _) = pair.offer(PARENT);
    assert!(matches!(ended.received, RecvOutcome::Waits { missing: 1, .. }));
    let before = noise(1, 1 << 20);
    let root = blake3::hash(&before);
    assert_eq!(root_of(&pair.b, PARENT).as_bytes(), root.as_bytes());
    // What is made there comes first, and what waits lets go of the image.
    pair.waiting.clear(&pair.b.store, &name(PARENT));
    write(&pair.b, PARENT, b"made there");
    let (ended, _) = pair.offer(PARENT);
    assert!(matches!(ended.received, RecvOutcome::Kept { .. }), "{:?}", ended.received);
}
