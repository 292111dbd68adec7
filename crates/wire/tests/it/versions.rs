//! Other versions: what was written by an earlier one stays readable, what a later one adds is passed
//! over, and two ends agree on the highest version that both know, or say both ranges.

use blockferry_wire::{
    Control, ControlEvent, FLAG_OPTIONAL, FrameDecoder, Goodbye, Hello, HelloAck, Kind, Message,
    Ping, Refusal, limits,
};

use crate::golden::{decode, unhex};
use crate::samples::messages;

/// Version 1 as it was before features, statements, sets, walks and dictionaries.
const FIRST: &str = include_str!("../data/golden-0.txt");
/// Version 1 as it was when the second release began. Never written anew.
const RELEASED: &str = include_str!("../data/golden-1.txt");

fn samples(text: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    text.lines()
        .map(|line| line.split_once(' ').expect("name and bytes"))
        .map(|(n, b)| (n, unhex(b)))
}

fn now(name: &str) -> Message {
    let all = messages();
    all.into_iter().find(|(of, _)| of == name).expect("a sample of each").1
}

/// Without what has been added since the second release began.
fn as_released(message: Message) -> Message {
    match message {
        Message::Hello(hello) => Hello { clock_unix_ms: None, ..hello }.into(),
        Message::HelloAck(ack) => HelloAck { clock_unix_ms: None, ..ack }.into(),
        other => other,
    }
}

#[test]
fn what_was_released_means_the_same_for_ever() {
    let mut count = 0;
    for (name, bytes) in samples(RELEASED) {
        assert_eq!(decode(&bytes), Ok(as_released(now(name))), "{name}");
        count += 1;
    }
    assert_eq!(count, 35);
}

#[test]
fn what_the_first_builds_wrote_is_read_without_what_came_later() {
    for (name, bytes) in samples(FIRST) {
        let read = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = match as_released(now(name)) {
            Message::Hello(hello) => Hello { instance: None, ..hello }.into(),
            Message::Accept(mut accept) => {
                accept.dictionaries = false;
                accept.into()
            }
            Message::Offer(mut offer) => {
                (offer.older, offer.set) = (None, Vec::new());
                offer.into()
            }
            other => other,
        };
        assert_eq!(read, expected, "{name}");
    }
    assert_eq!(samples(FIRST).count(), 25);
}

/// A frame whose body has one more field, of a number that nobody gave yet; `None`: its body is no
/// map with room for it.
fn with_a_later_field(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, body) = frame.split_at(limits::FRAME_HEADER_BYTES);
    let (first, rest) = body.split_first()?;
    if !(0xa0..0xb7).contains(first) {
        return None;
    }
    // 200: [1, "later"]
    let later = b"\x18\xc8\x82\x01\x65later";
    let mut out = header.to_vec();
    let length = u32::try_from(body.len() + later.len()).expect("small");
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out.push(first + 1);
    out.extend_from_slice(rest);
    out.extend_from_slice(later);
    Some(out)
}

#[test]
fn a_field_that_came_later_is_passed_over_in_every_message() {
    let mut count = 0;
    for (name, message) in messages() {
        let kind = message.kind();
        let bulk = matches!(kind, Kind::Part | Kind::Pack | Kind::Values);
        let frame = message.encode().expect("a sample");
        let Some(later) = with_a_later_field(&frame).filter(|_| !bulk) else {
            assert!(bulk, "{name} has no room for more fields");
            continue;
        };
        if later.len() - limits::FRAME_HEADER_BYTES > kind.payload_bytes_max() {
            continue;
        }
        assert_eq!(decode(&later), Ok(message), "{name}");
        count += 1;
    }
    assert!(count >= 25, "{count}");
}

/// A message of a type that is not known yet and may be passed over.
fn later_message(kind: u8, bytes: usize) -> Vec<u8> {
    let mut frame = vec![kind, FLAG_OPTIONAL, 0, 0];
    frame.extend_from_slice(&u32::try_from(bytes).expect("small").to_le_bytes());
    frame.resize(frame.len() + bytes, 0xa5);
    frame
}

#[test]
fn messages_that_came_later_are_passed_over_between_those_that_are_known() {
    let mut decoder = FrameDecoder::new();
    let mut stream = Vec::new();
    let known: Vec<Message> = messages()
        .into_iter()
        .map(|(_, message)| message)
        .filter(|m| m.kind() != Kind::Pack)
        .collect();
    let free = (0..=u8::MAX).filter(|number| Kind::from_number(*number).is_none());
    for (message, kind) in known.iter().zip(free.cycle()) {
        stream.extend(later_message(kind, usize::from(kind) * 7));
        stream.extend(message.encode().expect("a sample"));
    }
    let mut read = Vec::new();
    for piece in stream.chunks(41) {
        decoder.push(piece);
        while let Some(frame) = decoder.next_frame().expect("nothing is wrong") {
            read.push(Message::decode(frame).expect("as it was sent"));
        }
    }
    assert_eq!(read, known);
    let mut must = later_message(0x7e, 3);
    must[1] = 0;
    assert_eq!(decode(&must).expect_err("not optional").code(), "UNKNOWN_MESSAGE");
}

/// Hello of one that speaks these versions and has these features.
fn speaks(name: &str, version_min: u16, version_max: u16, features: u64) -> Hello {
    Hello { version_min, version_max, features, ..Hello::new(name, "x/1") }
}

/// What both ends make of each other's hellos.
fn meet(dials: Hello, listens: Hello) -> [Result<(u16, u64), String>; 2] {
    let (mut dialer, mut listener) = (Control::dial(dials), Control::listen(listens));
    let hello = dialer.poll_transmit().expect("the hello");
    let ready = |event| match event {
        Some(ControlEvent::Ready { version, features, .. }) => (version, features),
        other => panic!("{other:?}"),
    };
    let there = listener.handle_message(hello).map(ready).map_err(|error| error.to_string());
    let here = match listener.poll_transmit() {
        Some(ack) => dialer.handle_message(ack).map(ready).map_err(|error| error.to_string()),
        None => Err("closed".to_owned()),
    };
    [here, there]
}

#[test]
fn two_ends_agree_on_the_highest_version_and_on_what_both_have() {
    for ((min, max), (other_min, other_max)) in
        [((1, 1), (1, 1)), ((1, 3), (2, 7)), ((1, 2), (1, 1)), ((4, 9), (1, 4)), ((0, 9), (3, 3))]
    {
        let agreed = Ok((max.min(other_max), 0b0100));
        let (a, b) = (speaks("a", min, max, 0b0110), speaks("b", other_min, other_max, 0b1100));
        assert_eq!(meet(a.clone(), b.clone()), [agreed.clone(), agreed.clone()]);
        assert_eq!(meet(b, a), [agreed.clone(), agreed]);
    }
    for (a, b) in [((1, 1), (2, 3)), ((5, 9), (1, 4)), ((1, 1), (3, 2))] {
        let [here, there] = meet(speaks("a", a.0, a.1, 0), speaks("b", b.0, b.1, 0));
        assert_eq!(here, Err("closed".to_owned()));
        let text = there.expect_err("none in common");
        let ours = format!("ours {} to {}", b.0, b.1);
        assert!(
            text.contains(&ours) && text.contains(&format!("theirs {} to {}", a.0, a.1)),
            "{text}"
        );
    }
}

#[test]
fn a_listener_that_chooses_what_was_not_offered_is_refused() {
    let mut dialer = Control::dial(speaks("a", 2, 3, 0));
    let ack = |version| {
        let (features, instance) = (0, None);
        let (node_name, agent) = ("b".to_owned(), "x/1".to_owned());
        HelloAck { version, features, node_name, agent, instance, clock_unix_ms: None }
    };
    let error = dialer.handle_message(ack(1).into()).expect_err("not offered");
    assert_eq!((error.number(), error.code()), (0x0301, "VERSION_UNSUPPORTED"));
    // What goes before the hellos is out of order whatever its version.
    let mut dialer = Control::dial(speaks("a", 2, 3, 0));
    assert!(dialer.handle_message(Ping { token: 1 }.into()).is_err());
    let mut dialer = Control::dial(speaks("a", 2, 3, 0));
    let left = dialer.handle_message(Goodbye::new(Refusal::ShuttingDown, "").into());
    assert!(matches!(left, Ok(Some(ControlEvent::Goodbye(_)))));
}
