//! Packs with a dictionary: only where the receiver said that it can read the base, never for what
//! is wanted again.

use blockferry_delta::{RecipePart, Root};
use blockferry_wire::{
    Accept, Compression, Dictionary, Message, Pack, Packer, Receiver, ReceiverEvent, Sender,
    SenderEvent, Values, Want,
};

use crate::samples::{base_pages, extent, offer, part, root, walk_start};

/// Page 1600: the first of the part below.
const FIRST: u64 = 1600;

fn one_part() -> RecipePart {
    let mut part = RecipePart { number: 0, chunks: vec![], zero_segments: vec![], ..part() };
    part.blocks.truncate(1);
    (part.blocks[0].index, part.blocks[0].dirty, part.blocks[0].zero) = (100, 0xf, 0);
    part
}

fn packed() -> Pack {
    let extents = vec![extent(FIRST, 4)];
    let bytes = base_pages(&extents);
    let mut pages = bytes.clone();
    pages[9] ^= 1;
    let dictionary = Dictionary { extents: extents.clone(), bytes };
    let pack = Packer::new().expect("memory").pack_with(
        0,
        extents,
        pages,
        dictionary,
        Compression::zstd(3),
    );
    let pack = pack.expect("four pages");
    assert!(!pack.dictionary.is_empty() && pack.bytes.len() < 100, "{pack:?}");
    pack
}

fn want(again: bool) -> Want {
    Want { part: 0, again, extents: vec![extent(FIRST, 4)] }
}

/// A sender to whom it was said which base there is, whether dictionaries may be used, and what is
/// wanted.
fn sender(base: Option<Root>, dictionaries: bool) -> Sender {
    let mut sender = Sender::new(offer()).expect("a good offer");
    let accept = Accept { base, dictionaries, walk: None };
    sender.handle_message(accept.into()).expect("a base of the offer");
    sender.handle_part(one_part()).expect("room");
    sender.handle_message(want(false).into()).expect("open");
    while sender.poll_transmit().is_some() {}
    sender
}

fn receiver(base: Option<Root>, dictionaries: bool) -> Receiver {
    let mut receiver = Receiver::new();
    receiver.handle_message(offer().into()).expect("first");
    receiver.accept(base, dictionaries).expect("an offer is open");
    receiver.handle_message(one_part().into()).expect("room");
    receiver.handle_planned(0, want(false).extents).expect("its pages");
    receiver
}

/// Whether the driver was told that the pack may have a dictionary.
fn may_have(sender: &mut Sender) -> Option<bool> {
    std::iter::from_fn(|| sender.poll_event()).find_map(|event| match event {
        SenderEvent::NeedPack { dictionary, .. } => Some(dictionary),
        _ => None,
    })
}

#[test]
fn dictionaries_are_used_where_the_receiver_reads_the_base() {
    let base = Some(root(0xbb));
    for (base, said, may) in [(base, true, true), (base, false, false), (None, true, false)] {
        let mut sender = sender(base, said);
        assert_eq!(may_have(&mut sender), Some(may));
        assert_eq!(sender.handle_pack(packed()).is_ok(), may, "a driver that errs is told");
        let mut receiver = receiver(base, said);
        let accept = receiver.poll_transmit();
        assert_eq!(accept, Some(Accept { base, dictionaries: may, walk: None }.into()));
        let outcome = receiver.handle_message(packed().into()).map_err(|error| error.code());
        assert_eq!(outcome, if may { Ok(()) } else { Err("UNREQUESTED") });
        let events = std::iter::from_fn(|| receiver.poll_event());
        assert_eq!(events.last() == Some(ReceiverEvent::Pack(packed())), may);
    }
}

#[test]
fn what_is_wanted_again_has_no_dictionary() {
    let base = Some(root(0xbb));
    let (mut sender, mut receiver) = (sender(base, true), receiver(base, true));
    sender.handle_pack(packed()).expect("asked for");
    let pack = sender.poll_transmit().expect("a pack");
    receiver.handle_message(pack).expect("wanted");
    while receiver.poll_transmit().is_some() {}
    receiver.handle_filled(0, want(true).extents, false).expect("its pages");
    let again = receiver.poll_transmit();
    assert_eq!(again, Some(Message::Want(want(true))));
    while sender.poll_event().is_some() {}
    sender.handle_message(want(true).into()).expect("open");
    assert_eq!(may_have(&mut sender), Some(false));
    assert_eq!(sender.handle_pack(packed()).expect_err("a driver that errs").code(), "API_MISUSE");
    let error = receiver.handle_message(packed().into()).expect_err("again");
    assert_eq!(error.code(), "UNREQUESTED");
    assert!(error.is_peer_fault());
}

#[test]
fn nothing_is_said_of_dictionaries_when_nothing_travels() {
    let mut receiver = Receiver::new();
    receiver.handle_message(offer().into()).expect("first");
    let own = Some(offer().root);
    receiver.accept(own, true).expect("the own root");
    let accept = receiver.poll_transmit();
    assert_eq!(accept, Some(Accept { base: own, dictionaries: false, walk: None }.into()));
}

/// What the other end holds in a walk is known by fingerprints: there is nothing to read.
#[test]
fn a_walk_has_no_dictionaries() {
    let mut receiver = Receiver::new();
    receiver.handle_message(offer().into()).expect("first");
    receiver.accept_walk(walk_start()).expect("comparable");
    let piece = std::iter::from_fn(|| receiver.poll_event()).find_map(|event| match event {
        ReceiverEvent::NeedValues(piece) => Some(piece),
        _ => None,
    });
    let piece = piece.expect("the first probe");
    let bytes = vec![0; piece.count() as usize * piece.level.answer_bytes()];
    let level = piece.level;
    receiver.handle_values(bytes.clone()).expect("asked for");
    let said = receiver.poll_transmit();
    let walk = Some(walk_start());
    assert_eq!(said, Some(Accept { base: None, dictionaries: false, walk }.into()));
    assert!(matches!(receiver.poll_transmit(), Some(Message::Values(_))));
    receiver.handle_message(one_part().into()).expect("room");
    receiver.handle_planned(0, want(false).extents).expect("its pages");
    assert_eq!(receiver.handle_message(packed().into()).expect_err("").code(), "UNREQUESTED");

    // A receiver that says it could read the base has said nothing: no base was named.
    let mut sender = Sender::new(offer()).expect("a good offer");
    let accept = Accept { base: None, dictionaries: true, walk: Some(walk_start()) };
    sender.handle_message(accept.into()).expect("comparable");
    sender.handle_message(Values { level, bytes }.into()).expect("asked for");
    sender.handle_part(one_part()).expect("room");
    sender.handle_message(want(false).into()).expect("open");
    assert_eq!(may_have(&mut sender), Some(false));
    assert_eq!(sender.handle_pack(packed()).expect_err("errs").code(), "API_MISUSE");
}
