//! The order of the dialogue: whatever comes at the wrong moment is named, blamed and ends the
//! transfer.

use blockferry_delta::{ImageName, RecipePart, Root};
use blockferry_wire::limits::{PACKS_UNFILLED_MAX, PARTS_IN_FLIGHT, PARTS_OPEN_MAX};
use blockferry_wire::{
    Abort, Accept, Control, ControlEvent, Encoding, Failed, Filled, Goodbye, Hello, HelloAck,
    Inventory, Kind, Message, Offer, Pack, PartsEnd, Ping, Pong, Receipt, Receiver, ReceiverEvent,
    Refusal, Refuse, Sender, SenderEvent, Want,
};

use crate::samples::{entry, extent, messages, offer, part, receipt, root, store, store_name};

/// A part of one block with four dirty pages.
fn small_part(number: u32) -> RecipePart {
    let mut part = part();
    part.number = number;
    part.blocks.truncate(1);
    part.blocks[0].index = u64::from(number) + 100;
    part.blocks[0].dirty = 0x000f;
    part.blocks[0].zero = 0;
    part.chunks.clear();
    part.zero_segments.clear();
    part
}

fn first_page(number: u32) -> u64 {
    (u64::from(number) + 100) * 16
}

pub(crate) fn want(number: u32, again: bool, at: u64, count: u32) -> Want {
    Want { part: number, again, extents: vec![extent(first_page(number) + at, count)] }
}

pub(crate) fn pack(number: u32, at: u64, count: u32) -> Pack {
    Pack {
        part: number,
        extents: vec![extent(first_page(number) + at, count)],
        encoding: Encoding::Stored,
        dictionary: vec![],
        raw_bytes: count * 4096,
        bytes: vec![5; count as usize * 4096].into(),
    }
}

fn accept(base: Option<Root>) -> Message {
    Accept { base, dictionaries: false, walk: None }.into()
}

fn events(sender: &mut Sender) -> Vec<SenderEvent> {
    std::iter::from_fn(|| sender.poll_event()).collect()
}

fn sent(sender: &mut Sender) -> Vec<Kind> {
    std::iter::from_fn(|| sender.poll_transmit()).map(|message| message.kind()).collect()
}

pub(crate) fn said(receiver: &mut Receiver) -> Vec<Kind> {
    std::iter::from_fn(|| receiver.poll_transmit()).map(|message| message.kind()).collect()
}

/// A sender whose offer was accepted and that has sent `parts` parts.
pub(crate) fn sending(parts: u32) -> Sender {
    let mut sender = Sender::new(offer()).expect("a good offer");
    sender.handle_message(accept(Some(root(0xbb)))).expect("a base of the offer");
    for number in 0..parts {
        sender.handle_part(small_part(number)).expect("room");
    }
    events(&mut sender);
    sent(&mut sender);
    sender
}

/// A receiver that accepted and was given `parts` parts.
pub(crate) fn receiving(parts: u32) -> Receiver {
    let mut receiver = Receiver::new();
    receiver.handle_message(offer().into()).expect("first");
    receiver.accept(None, false).expect("an offer is open");
    for number in 0..parts {
        receiver.handle_message(small_part(number).into()).expect("room");
    }
    while receiver.poll_event().is_some() {}
    said(&mut receiver);
    receiver
}

pub(crate) fn code<T>(result: blockferry_wire::Result<T>) -> &'static str {
    result.map_or_else(|error| error.code(), |_| "good")
}

#[test]
fn a_small_transfer_from_end_to_end() {
    let mut sender = Sender::new(offer()).expect("a good offer");
    let mut receiver = Receiver::new();
    receiver.handle_message(sender.poll_transmit().expect("the offer")).expect("first");
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Offered(Box::new(offer()))));
    receiver.accept(Some(root(0xbb)), false).expect("a base of the offer");
    sender.handle_message(receiver.poll_transmit().expect("accept")).expect("in order");
    let accepted = SenderEvent::Accepted { base: Some(root(0xbb)), dictionaries: false };
    assert_eq!(events(&mut sender), [accepted, SenderEvent::NeedPart]);
    sender.handle_part(small_part(0)).expect("asked for");
    sender.handle_parts_end().expect("asked for again");
    receiver.handle_message(sender.poll_transmit().expect("part")).expect("in order");
    receiver.handle_message(sender.poll_transmit().expect("the end")).expect("in order");
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Part(small_part(0))));
    receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
    sender.handle_message(receiver.poll_transmit().expect("want")).expect("in order");
    let extents = want(0, false, 0, 4).extents;
    assert_eq!(
        events(&mut sender),
        [SenderEvent::NeedPart, SenderEvent::NeedPack { part: 0, extents, dictionary: false }]
    );
    sender.handle_pack(pack(0, 0, 4)).expect("asked for");
    receiver.handle_message(sender.poll_transmit().expect("pack")).expect("in order");
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Pack(pack(0, 0, 4))));
    receiver.handle_filled(0, vec![], true).expect("the pack");
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Complete));
    receiver.handle_committed(receipt()).expect("complete");
    sender.handle_message(receiver.poll_transmit().expect("filled")).expect("in order");
    sender.handle_message(receiver.poll_transmit().expect("receipt")).expect("in order");
    assert_eq!(events(&mut sender), [SenderEvent::Done(receipt())]);
    assert!(sender.is_finished() && receiver.is_finished());
    assert_eq!((sender.sent_bytes(), receiver.received_bytes()), (16_384, 16_384));
}

#[test]
fn nothing_travels_when_the_bytes_are_there() {
    let mut sender = Sender::new(offer()).expect("a good offer");
    let mut receiver = Receiver::new();
    receiver.handle_message(offer().into()).expect("first");
    receiver.accept(Some(offer().root), false).expect("the own root");
    sender.handle_message(accept(Some(offer().root))).expect("the own root");
    assert_eq!(
        events(&mut sender),
        [SenderEvent::Accepted { base: Some(offer().root), dictionaries: false }]
    );
    assert_eq!(sent(&mut sender), [Kind::Offer, Kind::PartsEnd]);
    let mut strict = Receiver::new();
    strict.handle_message(offer().into()).expect("first");
    strict.accept(Some(offer().root), false).expect("the own root");
    assert_eq!(code(strict.handle_message(small_part(0).into())), "WRONG_STATE");
    receiver.handle_message(PartsEnd { parts: 0, blocks: 0 }.into()).expect("in order");
    receiver.poll_event();
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Complete));
    sender.handle_message(receipt().into()).expect("the last word");
    assert_eq!(events(&mut sender), [SenderEvent::Done(receipt())]);
}

#[test]
fn an_offer_is_answered_once() {
    let answer = |message: Message| {
        let mut sender = Sender::new(offer()).expect("a good offer");
        sender.handle_message(message).map(|()| (events(&mut sender), sender))
    };
    let refuse = Refuse::disk_full("full", 10, 3);
    let (told, mut sender) = answer(refuse.clone().into()).expect("an answer");
    assert_eq!(told, [SenderEvent::Refused(refuse.clone())]);
    assert_eq!(code(sender.handle_message(refuse.into())), "WRONG_STATE", "twice");
    let (told, sender) = answer(receipt().into()).expect("an answer");
    assert!(told == [SenderEvent::Done(receipt())] && sender.is_finished());
    assert_eq!(code(answer(accept(Some(root(1))))), "WRONG_BASE");
    assert_eq!(code(answer(Receipt { number: 8, ..receipt() }.into())), "WRONG_RECEIPT");
    assert_eq!(code(answer(Receipt { root: root(1), ..receipt() }.into())), "WRONG_RECEIPT");
    let other = ImageName::new("other").expect("a name");
    assert_eq!(code(answer(Receipt { image: other, ..receipt() }.into())), "WRONG_RECEIPT");
    assert_eq!(code(answer(Failed::new(Refusal::Internal, "").into())), "WRONG_STATE");
    assert_eq!(code(sending(0).handle_message(accept(None))), "WRONG_STATE");
    assert_eq!(code(sending(0).handle_message(receipt().into())), "WRONG_STATE", "too early");
}

#[test]
fn no_end_takes_the_other_ends_messages() {
    let from_receiver =
        [Kind::Accept, Kind::Refuse, Kind::Want, Kind::Filled, Kind::Receipt, Kind::Failed];
    let from_sender = [Kind::Offer, Kind::PartsEnd, Kind::Abort, Kind::Part, Kind::Pack];
    let mut cases = 0;
    for (name, message) in messages() {
        let kind = message.kind();
        let fresh: [fn() -> Sender; 2] =
            [|| Sender::new(offer()).expect("a good offer"), || sending(2)];
        for mut sender in fresh.map(|make| make()) {
            if !from_receiver.contains(&kind) {
                let result = sender.handle_message(message.clone());
                assert_eq!(code(result), "WRONG_STATE", "{name} to a sender");
                assert!(sender.is_finished());
                assert_eq!(code(sender.handle_message(message.clone())), "WRONG_STATE");
                cases += 1;
            }
        }
        for mut receiver in [Receiver::new(), receiving(2)] {
            if !from_sender.contains(&kind) {
                let result = receiver.handle_message(message.clone());
                assert_eq!(code(result), "WRONG_STATE", "{name} to a receiver");
                assert_eq!(code(receiver.handle_message(message.clone())), "WRONG_STATE");
                cases += 1;
            }
        }
        if kind != Kind::Offer {
            let result = Receiver::new().handle_message(message.clone());
            assert_eq!(code(result), "WRONG_STATE", "{name} before the offer");
        }
    }
    assert!(cases > 70, "{cases}");
    assert_eq!(code(receiving(0).handle_message(offer().into())), "WRONG_STATE", "twice");
}

#[test]
fn wants_keep_to_their_part() {
    let wanted = |wants: &[Want]| {
        let mut sender = sending(2);
        wants
            .iter()
            .map(|want| code(sender.handle_message(want.clone().into())))
            .last()
            .expect("one")
    };
    assert_eq!(wanted(&[want(0, false, 0, 16)]), "good", "any page of the block");
    assert_eq!(wanted(&[want(0, false, 15, 2)]), "BAD_RANGE", "the next block's page");
    assert_eq!(wanted(&[want(0, false, 1 << 40, 1)]), "BAD_RANGE");
    assert_eq!(wanted(&[want(2, false, 0, 1)]), "UNREQUESTED", "no such part");
    assert_eq!(wanted(&[want(u32::MAX, false, 0, 1)]), "UNREQUESTED");
    assert_eq!(wanted(&[want(0, true, 0, 1)]), "UNREQUESTED", "again before the first");
    let first = want(0, false, 0, 4);
    assert_eq!(wanted(&[first.clone(), first.clone()]), "UNREQUESTED", "two first wants");
    assert_eq!(wanted(&[first.clone(), want(0, true, 0, 16)]), "good");
    let nothing = Want { extents: vec![], ..want(0, true, 0, 1) };
    assert_eq!(wanted(&[first.clone(), nothing]), "UNREQUESTED", "again, but no pages");
    assert_eq!(wanted(&[first.clone(), want(0, true, 0, 8), want(0, true, 8, 8)]), "good");
    assert_eq!(wanted(&[first, want(0, true, 0, 8), want(0, true, 7, 8)]), "WANT_LIMIT");
}

#[test]
fn a_part_is_filled_after_its_pages() {
    let filled = |part| Message::from(Filled { part });
    assert_eq!(code(sending(2).handle_message(filled(0))), "WRONG_STATE", "not planned");
    assert_eq!(code(sending(2).handle_message(filled(2))), "UNREQUESTED");
    let mut sender = sending(2);
    sender.handle_message(want(0, false, 0, 4).into()).expect("good");
    assert_eq!(code(sender.handle_message(filled(0))), "WRONG_STATE", "pages are due");
    let mut sender = sending(2);
    sender.handle_message(want(0, false, 0, 4).into()).expect("good");
    sender.handle_pack(pack(0, 0, 4)).expect("asked for");
    assert_eq!(sent(&mut sender), [Kind::Pack]);
    sender.handle_message(filled(0)).expect("all were sent");
    assert_eq!(code(sender.handle_message(filled(0))), "UNREQUESTED", "twice");
}

#[test]
fn a_receiver_takes_only_what_it_wants_next() {
    let received = |packs: Vec<Pack>| {
        let mut receiver = receiving(2);
        receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
        receiver.handle_planned(1, want(1, false, 0, 2).extents).expect("its pages");
        packs
            .into_iter()
            .map(|pack| code(receiver.handle_message(pack.into())))
            .last()
            .expect("one")
    };
    assert_eq!(received(vec![pack(0, 0, 4), pack(1, 0, 2)]), "good");
    assert_eq!(received(vec![pack(1, 0, 2)]), "UNREQUESTED", "out of order");
    assert_eq!(received(vec![pack(0, 0, 3)]), "UNREQUESTED", "fewer pages");
    assert_eq!(received(vec![pack(0, 0, 5)]), "UNREQUESTED", "more pages");
    assert_eq!(received(vec![pack(0, 1, 4)]), "UNREQUESTED", "other pages");
    assert_eq!(received(vec![pack(0, 0, 4), pack(0, 0, 4)]), "UNREQUESTED", "twice");
    assert_eq!(received(vec![pack(2, 0, 4)]), "UNREQUESTED", "no such part");
    let short = Pack { raw_bytes: 16_383, bytes: vec![5; 16_383].into(), ..pack(0, 0, 4) };
    assert_eq!(received(vec![short]), "UNREQUESTED", "a short page inside the image");
    let all = vec![pack(0, 0, 4), pack(1, 0, 2), pack(1, 0, 2)];
    assert_eq!(received(all), "UNREQUESTED", "after the last");
}

#[test]
fn the_short_last_page_counts_with_its_bytes() {
    // The sample image is 8 GiB and 512 bytes.
    let mut last = small_part(0);
    last.blocks[0].index = (8 << 30) / 65_536;
    last.blocks[0].dirty = 1;
    let extents = vec![extent((8 << 30) / 4096, 1)];
    let with = |raw_bytes: u32| {
        let mut receiver = receiving(0);
        receiver.handle_message(last.clone().into()).expect("the last block");
        receiver.handle_planned(0, extents.clone()).expect("its page");
        let bytes = vec![5; raw_bytes as usize];
        let pack =
            Pack { extents: extents.clone(), raw_bytes, bytes: bytes.into(), ..pack(0, 0, 1) };
        code(receiver.handle_message(pack.into()))
    };
    assert_eq!(with(512), "good");
    assert_eq!(with(4096), "UNREQUESTED");
}

#[test]
fn parts_keep_their_rules_and_their_number() {
    let part = |number, change: fn(&mut RecipePart)| {
        let mut part = small_part(number);
        change(&mut part);
        part
    };
    let given = |part: RecipePart| code(receiving(1).handle_message(part.into()));
    assert_eq!(given(small_part(1)), "good");
    assert_eq!(given(small_part(0)), "BAD_MANIFEST", "repeated");
    assert_eq!(given(small_part(2)), "BAD_MANIFEST", "left out");
    assert_eq!(given(part(1, |p| p.blocks[0].index = 100)), "BAD_MANIFEST", "descending");
    assert_eq!(given(part(1, |p| p.blocks[0].index = 1 << 40)), "BAD_MANIFEST", "beyond the end");
    assert_eq!(given(part(1, |p| p.blocks[0].zero = 0x10)), "BAD_MANIFEST", "not dirty");
    let end = |parts, blocks| code(receiving(2).handle_message(PartsEnd { parts, blocks }.into()));
    assert_eq!(end(2, 2), "good");
    assert_eq!(end(3, 2), "WRONG_COUNT");
    assert_eq!(end(2, 1 << 60), "WRONG_COUNT");
    let mut receiver = receiving(1);
    receiver.handle_message(PartsEnd { parts: 1, blocks: 1 }.into()).expect("counted");
    assert_eq!(code(receiver.handle_message(small_part(1).into())), "WRONG_STATE", "after the end");
}

#[test]
fn parts_in_flight_and_open_are_bounded_at_both_ends() {
    let mut receiver = receiving(PARTS_IN_FLIGHT as u32);
    let over = small_part(PARTS_IN_FLIGHT as u32);
    assert_eq!(code(receiver.handle_message(over.into())), "PARTS_LIMIT");

    let mut sender = sending(0);
    let mut receiver = receiving(0);
    let mut number = 0;
    while number < PARTS_OPEN_MAX as u32 {
        sender.handle_part(small_part(number)).expect("asked for");
        receiver.handle_message(small_part(number).into()).expect("room");
        receiver.handle_planned(number, want(number, false, 0, 1).extents).expect("its page");
        sender.handle_message(want(number, false, 0, 1).into()).expect("its page");
        number += 1;
    }
    let asked = events(&mut sender);
    assert_eq!(asked.iter().filter(|e| matches!(e, SenderEvent::NeedPack { .. })).count(), 4);
    assert_eq!(code(sender.handle_part(small_part(number))), "API_MISUSE", "not asked for");
    assert_eq!(code(receiver.handle_message(small_part(number).into())), "PARTS_LIMIT");

    let mut eager = sending(0);
    for number in 0..PARTS_IN_FLIGHT as u32 {
        eager.handle_part(small_part(number)).expect("asked for");
    }
    assert_eq!(code(eager.handle_part(small_part(3))), "API_MISUSE", "three have no want");
}

#[test]
fn a_receiver_without_room_takes_nothing() {
    let mut receiver = receiving(3);
    for number in 0..4 {
        if number == 3 {
            receiver.handle_message(small_part(3).into()).expect("room");
        }
        receiver.handle_planned(number, want(number, false, 0, 2).extents).expect("its pages");
    }
    for number in 0..PACKS_UNFILLED_MAX as u32 {
        assert!(receiver.has_room());
        receiver.handle_message(pack(number, 0, 2).into()).expect("wanted");
    }
    assert!(!receiver.has_room());
    assert_eq!(code(receiver.handle_message(pack(3, 0, 2).into())), "API_MISUSE");
    receiver.handle_filled(1, vec![], true).expect("one of them");
    assert!(receiver.has_room());
    receiver.handle_message(pack(3, 0, 2).into()).expect("wanted");
}

#[test]
fn a_driver_that_errs_is_told() {
    let mut receiver = receiving(1);
    let outside = vec![extent(first_page(0) + 16, 1)];
    assert_eq!(code(receiver.handle_planned(0, outside)), "API_MISUSE");
    assert_eq!(code(receiver.handle_planned(1, vec![])), "API_MISUSE");
    assert_eq!(code(receiver.handle_filled(0, vec![], true)), "API_MISUSE");
    assert_eq!(code(receiver.handle_committed(receipt())), "API_MISUSE");
    assert_eq!(code(receiver.accept(None, false)), "API_MISUSE", "twice");
    receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
    assert_eq!(code(receiver.handle_planned(0, vec![])), "API_MISUSE", "twice");
    receiver.handle_message(pack(0, 0, 4).into()).expect("wanted");
    assert_eq!(code(receiver.handle_filled(0, vec![], false)), "API_MISUSE", "never complete");
    let again = want(0, true, 0, 4).extents;
    assert_eq!(code(receiver.handle_filled(0, again.clone(), true)), "API_MISUSE", "both");
    receiver.handle_filled(0, again.clone(), false).expect("once again");
    receiver.handle_message(pack(0, 0, 4).into()).expect("wanted again");
    assert_eq!(code(receiver.handle_filled(0, again, false)), "API_MISUSE", "a third time");

    let mut fresh = Receiver::new();
    assert_eq!(code(fresh.refuse(Refuse::new(Refusal::Busy, ""))), "API_MISUSE");
    fresh.handle_message(offer().into()).expect("first");
    assert_eq!(code(fresh.accept(Some(root(1)), false)), "API_MISUSE", "not a base");
    assert_eq!(code(fresh.handle_failed(Failed::new(Refusal::Busy, ""))), "API_MISUSE");
    assert_eq!(code(fresh.have(Receipt { number: 9, ..receipt() })), "API_MISUSE");
    fresh.have(receipt()).expect("an answer");

    assert_eq!(code(Sender::new(Offer { size_bytes: 0, ..offer() })), "API_MISUSE");
    let mut sender = sending(1);
    assert_eq!(code(sender.handle_part(small_part(7))), "API_MISUSE", "not the next");
    assert_eq!(code(sender.handle_pack(pack(0, 0, 4))), "API_MISUSE", "not asked for");
    sender.handle_message(want(0, false, 0, 4).into()).expect("its pages");
    assert_eq!(code(sender.handle_pack(pack(0, 0, 3))), "API_MISUSE", "not that one");
    sender.handle_pack(pack(0, 0, 4)).expect("asked for");
}

#[test]
fn either_end_may_give_up() {
    let mut unsent = Sender::new(offer()).expect("a good offer");
    unsent.handle_cancel(Refusal::Cancelled, "paused");
    assert_eq!(sent(&mut unsent), [Kind::Offer, Kind::Abort]);

    let mut sender = sending(3);
    sender.handle_message(want(0, false, 0, 4).into()).expect("its pages");
    sender.handle_cancel(Refusal::SourceTorn, "changed");
    sender.handle_cancel(Refusal::SourceTorn, "changed");
    assert!(events(&mut sender).is_empty());
    assert_eq!(sent(&mut sender), [Kind::Abort]);
    assert!(sender.is_finished());
    sender.handle_pack(pack(0, 0, 4)).expect("a late answer is harmless");
    sender.handle_part(small_part(3)).expect("a late answer is harmless");
    sender.handle_message(want(1, false, 0, 4).into()).expect("was under way");
    sender.handle_message(Failed::new(Refusal::DiskError, "").into()).expect("was under way");

    let mut receiver = receiving(2);
    receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
    let abort = Abort::new(Refusal::SourceTorn, "changed");
    receiver.handle_message(abort.clone().into()).expect("at any time");
    assert_eq!(receiver.poll_event(), Some(ReceiverEvent::Cancelled(abort.clone())));
    receiver.handle_planned(1, vec![]).expect("a late answer is harmless");
    receiver.handle_committed(receipt()).expect("a late answer is harmless");
    assert!(receiver.is_finished());

    let mut receiver = receiving(2);
    receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
    receiver.handle_failed(Failed::new(Refusal::DiskError, "EIO")).expect("after the accept");
    assert_eq!(said(&mut receiver), [Kind::Want, Kind::Failed]);
    receiver.handle_message(pack(0, 0, 4).into()).expect("was under way");
    receiver.handle_message(abort.into()).expect("was under way");
    assert!(receiver.is_finished());

    let mut sender = sending(1);
    let failed = Failed::new(Refusal::RootMismatch, "differs");
    sender.handle_message(failed.clone().into()).expect("after the accept");
    assert_eq!(events(&mut sender), [SenderEvent::Failed(failed)]);
}

#[test]
fn hellos_come_first_and_once() {
    let hello = Hello::new("a", "x/1");
    let (mut dialer, mut listener) = (Control::dial(hello.clone()), Control::listen(hello.clone()));
    let word = dialer.poll_transmit().expect("hello");
    let ready = listener.handle_message(word.clone()).expect("first");
    assert!(matches!(ready, Some(ControlEvent::Ready { version: 1, .. })) && listener.is_ready());
    let ack = listener.poll_transmit().expect("ack");
    let ready = dialer.handle_message(ack.clone()).expect("first");
    assert!(matches!(ready, Some(ControlEvent::Ready { version: 1, .. })));
    dialer.ping(7);
    dialer.ping(8);
    assert_eq!(dialer.poll_transmit(), Some(Ping { token: 7 }.into()));
    assert_eq!(dialer.poll_transmit(), None, "one at a time");
    assert_eq!(listener.handle_message(Ping { token: 7 }.into()), Ok(None));
    let pong = listener.poll_transmit().expect("pong");
    assert_eq!(dialer.handle_message(pong), Ok(Some(ControlEvent::Pong { token: 7 })));
    assert_eq!(code(dialer.handle_message(Pong { token: 7 }.into())), "UNREQUESTED");
    assert_eq!(code(listener.handle_message(word.clone())), "WRONG_STATE", "a second hello");
    assert_eq!(code(Control::dial(hello.clone()).handle_message(word)), "WRONG_STATE");
    assert_eq!(code(Control::listen(hello.clone()).handle_message(ack)), "WRONG_STATE");
    let early = Inventory::split(store(), &store_name(), [entry()]).remove(0);
    assert_eq!(code(Control::listen(hello.clone()).handle_message(early.into())), "WRONG_STATE");
    let mut flooded = Control::listen(hello.clone());
    flooded.handle_message(hello.into()).expect("first");
    flooded.handle_message(Ping { token: 1 }.into()).expect("a ping");
    assert_eq!(code(flooded.handle_message(Ping { token: 2 }.into())), "RATE_LIMITED");
}

#[test]
fn versions_are_negotiated() {
    let with = |version_min, version_max, features| {
        let hello = Hello { version_min, version_max, features, ..Hello::new("a", "x/1") };
        Control::listen(Hello::new("b", "x/1")).handle_message(hello.into())
    };
    for (low, high) in [(1, 1), (0, 1), (1, u16::MAX), (0, u16::MAX)] {
        let ready = with(low, high, u64::MAX).expect("one in common");
        assert!(matches!(ready, Some(ControlEvent::Ready { version: 1, features: 0, .. })));
    }
    for (low, high) in [(0, 0), (2, 2), (u16::MAX, u16::MAX), (2, 0), (2, 1), (1, 0)] {
        let error = with(low, high, 0).expect_err("nothing in common");
        assert_eq!(error.code(), "VERSION_UNSUPPORTED");
        let text = error.to_string();
        assert!(text.contains("ours 1 to 1") && text.contains(&format!("theirs {low} to {high}")));
    }
    let ack = |version| HelloAck {
        version,
        features: 0,
        node_name: "b".into(),
        agent: "x".into(),
        instance: None,
        clock_unix_ms: None,
    };
    let mut dialer = Control::dial(Hello::new("a", "x/1"));
    assert_eq!(code(dialer.handle_message(ack(2).into())), "VERSION_UNSUPPORTED");
    let mut dialer = Control::dial(Hello::new("a", "x/1"));
    let goodbye = Goodbye::new(Refusal::PeerUnknown, "");
    let left = dialer.handle_message(goodbye.clone().into());
    assert_eq!(left, Ok(Some(ControlEvent::Goodbye(goodbye))));
    assert_eq!(code(dialer.handle_message(ack(1).into())), "WRONG_STATE", "after the goodbye");
}

/// Every message of a transfer left out, doubled or swapped with any other: an error, or the end is
/// never reached, or it is reached with the right pages.
#[test]
fn a_disturbed_transcript_never_completes_wrongly() {
    let script: Vec<Message> = [
        Message::from(offer()),
        small_part(0).into(),
        small_part(1).into(),
        pack(0, 0, 4).into(),
        pack(1, 0, 2).into(),
        PartsEnd { parts: 2, blocks: 2 }.into(),
    ]
    .into();
    assert_eq!(play(&script), Ok(true));
    let (mut cases, mut errors) = (0, 0);
    let mut disturbed = Vec::new();
    for i in 0..script.len() {
        let mut less = script.clone();
        less.remove(i);
        assert_ne!(play(&less), Ok(true), "without {i}");
        disturbed.push(less);
        for j in 0..=script.len() {
            let mut more = script.clone();
            more.insert(j, script[i].clone());
            assert!(play(&more).is_err(), "{i} again at {j}");
            disturbed.push(more);
        }
        for j in 0..i {
            let mut swapped = script.clone();
            swapped.swap(i, j);
            disturbed.push(swapped);
        }
    }
    for script in disturbed {
        errors += u32::from(play(&script).is_err());
        cases += 1;
    }
    assert!(cases > 60 && errors > 50, "{errors} of {cases}");
}

/// Plays a sender's messages to a receiver whose driver answers at once. Whether it completes.
fn play(script: &[Message]) -> Result<bool, &'static str> {
    let mut receiver = Receiver::new();
    let (mut filled, mut complete) = (Vec::new(), false);
    for message in script {
        receiver.handle_message(message.clone()).map_err(|error| error.code())?;
        while let Some(event) = receiver.poll_event() {
            match event {
                ReceiverEvent::Offered(_) => {
                    receiver.accept(None, false).expect("an offer is open")
                }
                ReceiverEvent::Part(part) => {
                    let pages = if part.number == 0 { 4 } else { 2 };
                    let wants = want(part.number, false, 0, pages).extents;
                    receiver.handle_planned(part.number, wants).expect("its pages");
                }
                ReceiverEvent::Pack(pack) => {
                    filled.push((pack.part, pack.raw_bytes));
                    receiver.handle_filled(pack.part, vec![], true).expect("the pack");
                }
                ReceiverEvent::Complete => complete = true,
                ReceiverEvent::NeedValues(_) | ReceiverEvent::Cancelled(_) => {}
            }
        }
    }
    assert!(!complete || filled == [(0, 16_384), (1, 8192)]);
    Ok(complete)
}
