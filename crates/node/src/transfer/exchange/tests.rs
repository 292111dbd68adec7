//! Two stores on simulated disks, joined by nothing but a function call.

use std::sync::Arc;

use blockferry_delta::{ImageName, StoreId, StoreKey, StoreName};
use blockferry_store::disk::{Disk, Open, SimDisk};
use blockferry_store::{Generation, Options, Store, StoreIdentity};
use blockferry_wire::{Compression, Message, Packer, Refusal};

use super::*;
use crate::membership::identity::Identity;

struct Side {
    disk: SimDisk,
    store: Arc<Store>,
    identity: Identity,
}

fn side(seed: u64) -> Side {
    side_on(SimDisk::new(seed, 1 << 30))
}

fn side_without_clones(seed: u64) -> Side {
    let disk = SimDisk::new(seed, 1 << 30);
    disk.set_supports_clone(false);
    side_on(disk)
}

fn side_on(disk: SimDisk) -> Side {
    let identity = StoreIdentity {
        name: StoreName::new("vdisks").expect("a name"),
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    };
    let options = Options { scan_threads: 1, ..Options::default() };
    let store = Store::create(Arc::new(disk.clone()), identity, &options).expect("created");
    Side { disk, store: Arc::new(store), identity: Identity::generate().expect("a key") }
}

fn image() -> ImageName {
    ImageName::new("a.img").expect("a name")
}

/// Bytes that don't compress and differ by seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn put(side: &Side, offset: u64, bytes: &[u8]) {
    let file = side.disk.open("a.img", Open::Create).expect("opened");
    file.write_at(bytes, offset).expect("written");
    file.sync().expect("synced");
}

fn read(side: &Side) -> Vec<u8> {
    let file = side.disk.open("a.img", Open::Read).expect("opened");
    let size = usize::try_from(file.stat().expect("looked at").size_bytes).expect("small");
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn record(side: &Side) -> Generation {
    let recorded = side.store.record(&image(), side.identity.id(), 1, &()).expect("recorded");
    recorded.generation().clone()
}

struct Ended {
    sent: SendOutcome,
    received: RecvOutcome,
    wire_bytes: usize,
}

/// Carries messages to and fro until both are done. The link is cut after `cut` messages.
fn carry(from: &Side, to: &Side, cut: usize) -> Option<Ended> {
    let mut send = SendSide::new(from.store.clone(), &image()).expect("offered");
    let peer = from.identity.id();
    let mut receive = RecvSide::new(to.store.clone(), to.identity.clone(), peer, None);
    exchange(&mut send, &mut receive, cut)
}

fn exchange(send: &mut SendSide, receive: &mut RecvSide, cut: usize) -> Option<Ended> {
    let mut packer = Packer::new().expect("memory");
    let (mut sent, mut received, mut wire_bytes, mut messages) = (None, None, 0, 0);
    while sent.is_none() || received.is_none() {
        let mut moved = false;
        while sent.is_none() {
            match send.step().expect("the peer keeps the rules") {
                Step::Transmit(message) => {
                    let bytes = message.encode().expect("encodes").len();
                    wire_bytes += bytes;
                    messages += 1;
                    if messages > cut {
                        return None;
                    }
                    receive.handle_message(*message, bytes as u64).expect("fits");
                    moved = true;
                    break;
                }
                Step::Pack(job) => send
                    .handle_packed(job.run(&mut packer, Compression::zstd(3)))
                    .expect("in order"),
                Step::Wait => break,
                Step::Done(outcome) => sent = Some(outcome),
            }
        }
        while received.is_none() {
            match receive.step().expect("the peer keeps the rules") {
                Step::Transmit(message) => {
                    wire_bytes += message.encode().expect("encodes").len();
                    send.handle_message(*message).expect("fits");
                    moved = true;
                }
                Step::Pack(_) => panic!("only a sender packs"),
                Step::Wait => break,
                Step::Done(outcome) => received = Some(outcome),
            }
        }
        assert!(moved || sent.is_some() || received.is_some(), "both wait for each other");
        if !moved {
            break;
        }
    }
    Some(Ended { sent: sent?, received: received?, wire_bytes })
}

fn copy(from: &Side, to: &Side) -> Ended {
    carry(from, to, usize::MAX).expect("not cut")
}

#[test]
fn an_image_travels_then_what_changed_does_then_back() {
    let (a, b) = (side(1), side(2));
    let content = noise(1, 5 << 20);
    put(&a, 0, &content);
    put(&a, 40 << 20, &content[..1000]);
    let first = record(&a);
    let ended = copy(&a, &b);
    let SendOutcome::Receipt(receipt) = &ended.sent else { panic!("{:?}", ended.sent) };
    assert!(b.identity.public().verify(&receipt.signed_bytes(), &receipt.signature));
    assert_eq!((receipt.root, receipt.node), (first.root, b.identity.id()));
    assert!(matches!(ended.received, RecvOutcome::Committed(_)));
    assert_eq!(read(&b), read(&a));

    put(&a, 70_000, b"changed");
    record(&a);
    let ended = copy(&a, &b);
    assert!(ended.wire_bytes < 20_000, "{} bytes for one page", ended.wire_bytes);
    assert_eq!(read(&b), read(&a));

    put(&b, 3 << 20, b"changed there");
    record(&b);
    let ended = copy(&b, &a);
    assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
    assert_eq!(read(&b), read(&a));
    assert!(matches!(copy(&a, &b).received, RecvOutcome::AlreadyHere { .. }));
}

#[test]
fn equal_bytes_with_two_histories_are_merged_without_moving_them() {
    let (a, b) = (side(1), side(2));
    let content = noise(1, 2 << 20);
    put(&a, 0, &content);
    put(&b, 0, &content);
    record(&a);
    record(&b);
    let ended = copy(&a, &b);
    assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
    assert!(ended.wire_bytes < 2000, "{} bytes", ended.wire_bytes);
    let ended = copy(&b, &a);
    assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
    let lineage = |s: &Side| s.store.current(&image()).expect("read").expect("there").lineage;
    assert_eq!(lineage(&a), lineage(&b));
}

#[test]
fn a_local_change_is_never_overwritten() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 1 << 20));
    record(&a);
    copy(&a, &b);
    put(&b, 0, b"not recorded");
    put(&a, 0, b"newer");
    record(&a);
    let before = read(&b);
    let SendOutcome::Refused(refuse) = copy(&a, &b).sent else { panic!("refused") };
    assert_eq!(refuse.code, Refusal::LocalChange);
    assert_eq!(read(&b), before);
}

#[test]
fn a_receiver_without_room_says_what_it_needs_before_the_first_byte() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 8 << 20));
    record(&a);
    b.disk.set_capacity(4 << 20);
    let ended = copy(&a, &b);
    let SendOutcome::Refused(refuse) = ended.sent else { panic!("{:?}", ended.sent) };
    assert_eq!(refuse.code, Refusal::DiskFull);
    assert!(refuse.bytes_needed.expect("said") >= 8 << 20);
    assert!(refuse.bytes_free.expect("said") <= 4 << 20);
}

#[test]
fn a_source_that_moves_ends_the_transfer_and_harms_nobody() {
    let (a, b) = (side_without_clones(1), side(2));
    put(&a, 0, &noise(1, 1 << 20));
    record(&a);
    a.disk.set_clock_ns(a.disk.clock_ns() + 1_000_000_000);
    put(&a, 0, b"moved");
    let ended = copy(&a, &b);
    assert!(matches!(ended.sent, SendOutcome::FailedHere(_)), "{:?}", ended.sent);
    assert!(matches!(ended.received, RecvOutcome::Cancelled { .. }), "{:?}", ended.received);
    assert!(b.store.current(&image()).expect("read").is_none());
}

#[test]
fn a_source_whose_clone_is_held_may_move() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 1 << 20));
    record(&a);
    a.disk.set_clock_ns(a.disk.clock_ns() + 1_000_000_000);
    put(&a, 0, b"moved");
    assert!(matches!(copy(&a, &b).received, RecvOutcome::Committed(_)));
    assert_eq!(read(&b), noise(1, 1 << 20), "what was recorded is what came");
}

#[test]
fn a_cut_link_is_resumed_inside_the_image() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 48 << 20));
    record(&a);
    assert!(carry(&a, &b, 14).is_none(), "cut in the middle");
    assert!(b.store.current(&image()).expect("read").is_none(), "nothing half-done is shown");
    let ended = copy(&a, &b);
    assert!(matches!(ended.received, RecvOutcome::Committed(_)));
    assert!(ended.wire_bytes < 40 << 20, "{} of 48 MiB were sent again", ended.wire_bytes);
    assert_eq!(read(&a), read(&b));
}

#[test]
fn a_link_cut_early_leaves_what_came_and_nothing_else() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 12 << 20));
    record(&a);
    assert!(carry(&a, &b, 6).is_none(), "cut before the end");
    let ended = copy(&a, &b);
    assert!(ended.wire_bytes < 11 << 20, "{} of 12 MiB were sent again", ended.wire_bytes);
    assert_eq!(read(&a), read(&b));

    put(&a, 0, &noise(2, 12 << 20));
    record(&a);
    assert!(carry(&a, &b, 2).is_none(), "cut before anything came");
    let left = b.disk.list(".blockferry/staging").expect("listed");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_stranger_store_is_refused() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, b"x");
    record(&a);
    let send = &mut SendSide::new(a.store.clone(), &image()).expect("offered");
    let Step::Transmit(message) = send.step().expect("fine") else { panic!("an offer") };
    let Message::Offer(mut offer) = *message else { panic!("an offer") };
    offer.store = StoreId::from_bytes([9; 16]);
    let mut receive = RecvSide::new(b.store.clone(), b.identity.clone(), a.identity.id(), None);
    receive.handle_message(Message::Offer(offer), 0).expect("fits");
    let Step::Transmit(answer) = receive.step().expect("fine") else { panic!("an answer") };
    let Message::Refuse(refuse) = *answer else { panic!("a refusal") };
    assert_eq!(refuse.code, Refusal::StoreUnknown);
}

mod adopt;
mod diverged;
mod mend;
mod sets;
mod twins;
