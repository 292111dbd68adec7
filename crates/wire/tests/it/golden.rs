//! The bytes of every message, pinned; the protocol page shows the same bytes and the same numbers.

use blockferry_wire::{
    Error, FrameDecoder, Invalid, Kind, Message, PeerIncompatible, PeerMisbehaved, Refusal, Said,
    Statement, What, unpack_with,
};

use crate::samples::{
    base_pages, holding, messages, promotion, receipt, resolution, roster, said, torn,
};

const GOLDEN: &str = include_str!("../data/golden.txt");
const PAGE: &str = include_str!("../../../../docs/protocol.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

pub(crate) fn decode(frame: &[u8]) -> blockferry_wire::Result<Message> {
    let mut decoder = FrameDecoder::new();
    decoder.push(frame);
    let whole = decoder.next_frame()?.expect("a whole frame");
    assert!(decoder.is_empty());
    Message::decode(whole)
}

/// Writes the golden file anew with `UPDATE_GOLDEN=1`, after a change of the protocol's version.
#[test]
fn every_message_has_its_golden_bytes() {
    let lines = messages().into_iter().map(|(name, message)| {
        let frame = message.encode().expect("samples keep the rules");
        format!("{name} {}\n", hex(&frame))
    });
    let now: String = lines.collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden.txt");
        std::fs::write(path, &now).expect("the data folder is there");
        return;
    }
    assert_eq!(now, GOLDEN);
}

#[test]
fn golden_bytes_decode_to_their_messages() {
    let mut count = 0;
    for (line, (name, message)) in GOLDEN.lines().zip(messages()) {
        let (golden_name, bytes) = line.split_once(' ').expect("name and bytes");
        assert_eq!(golden_name, name);
        assert_eq!(decode(&unhex(bytes)), Ok(message.clone()), "{name}");
        if let Message::Pack(pack) = message {
            let prefix = base_pages(&pack.dictionary);
            let pages = unpack_with(&pack, pack.raw_bytes.into(), &prefix).expect("a good pack");
            assert_eq!(pages.len(), pack.raw_bytes as usize);
        }
        count += 1;
    }
    assert_eq!(count, messages().len());
}

#[test]
fn the_protocol_page_shows_the_golden_bytes() {
    let page: String = PAGE.chars().filter(|c| !c.is_whitespace()).collect();
    for name in
        ["Hello", "Offer", "Part", "Want", "Pack", "Pack-dictionary", "Receipt", "Statement"]
    {
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        assert!(page.contains(line.expect("in the golden file")), "{name}");
    }
}

#[test]
fn the_protocol_page_lists_every_number() {
    for kind in Kind::ALL {
        let row = format!("| {:#04x} | {} |", kind.number(), kind.name());
        assert!(PAGE.contains(&row), "{row}");
    }
    for (kind, from, bytes) in [
        (Kind::Part, "S", "355,367"),
        (Kind::Pack, "S", "2,120,206"),
        (Kind::Probe, "S", "655,396"),
        (Kind::Values, "R", "1,048,580"),
    ] {
        assert_eq!(kind.payload_bytes_max().to_string(), bytes.replace(',', ""));
        assert!(PAGE.contains(&format!("| {from} | {bytes} |")), "{kind:?}");
    }
    for refusal in Refusal::ALL {
        let row = format!("| {:#06x} | `{}` |", refusal.number(), refusal.code());
        assert!(PAGE.contains(&row), "{row}");
    }
    for error in errors() {
        let row = format!("| {:#06x} | `{}` |", error.number(), error.code());
        assert!(PAGE.contains(&row), "{row}");
        assert!(Refusal::from_number(error.number()).code() == "UNKNOWN_REFUSAL", "{row}");
    }
}

fn errors() -> Vec<Error> {
    let (kind, rule) = (6, "x");
    vec![
        Invalid::BadFrame { kind, rule, offset: 3 }.into(),
        Invalid::UnknownMessage { kind }.into(),
        Invalid::FrameTooLarge { kind, bytes: 1, bytes_max: 0 }.into(),
        Invalid::BadName { what: "x" }.into(),
        Invalid::BadManifest { rule }.into(),
        Invalid::DecompressLimit { expected: 1, declared: None }.into(),
        Invalid::DecompressBad { rule }.into(),
        PeerMisbehaved::WrongState { message: "x", state: "y" }.into(),
        PeerMisbehaved::Unrequested { rule }.into(),
        PeerMisbehaved::BadRange { part: 0, page: 0 }.into(),
        PeerMisbehaved::WantLimit { part: 0, page: 0 }.into(),
        PeerMisbehaved::PartsLimit.into(),
        PeerMisbehaved::WrongReceipt.into(),
        PeerMisbehaved::WrongBase.into(),
        PeerMisbehaved::WrongCount { what: "x", said: 0, counted: 1 }.into(),
        PeerMisbehaved::ChunkMismatch.into(),
        PeerMisbehaved::BadSignature.into(),
        PeerMisbehaved::RateLimited.into(),
        PeerIncompatible::VersionUnsupported {
            ours_min: 1,
            ours_max: 1,
            theirs_min: 2,
            theirs_max: 3,
        }
        .into(),
        Error::ApiMisuse("x"),
    ]
}

#[test]
fn a_receipt_signs_every_field_in_one_form() {
    let mut signed = b"blockferry receipt v1\0".to_vec();
    signed.extend([9; 32]);
    signed.extend([0x5a; 16]);
    signed.extend([7, 0, 0, 0, 0, 0, 0, 0]);
    signed.extend([0xaa; 32]);
    signed.extend(b"\x0awin11.vhdx");
    assert_eq!(receipt().signed_bytes(), signed);
}

#[test]
fn a_statement_is_what_was_signed_byte_for_byte() {
    for what in [holding(), roster(), promotion(), torn(), resolution()] {
        let body = said(what.clone()).encode().expect("keeps the rules");
        assert_eq!(Said::decode(&body), Ok(said(what)));
        let signed = Statement::signed_bytes(&body);
        assert_eq!(signed, [b"blockferry statement v1\0", body.as_slice()].concat());
    }
}

#[test]
fn a_statement_of_a_later_kind_is_carried_and_not_understood() {
    // Kind 9 with a field 5 that is no text, and a field nobody knows yet.
    let mut body = vec![0xa7, 0, 0x58, 32];
    body.extend([0x11; 32]);
    body.extend([1, 0x50]);
    body.extend([0x5a; 16]);
    body.extend([2, 1, 3, 0, 4, 9, 5, 0x82, 1, 2, 0x18, 99, 0xf6]);
    let said = Said::decode(&body).expect("well formed");
    assert_eq!((said.sequence, said.what), (1, What::Unknown(9)));
    body.push(0);
    assert_eq!(Said::decode(&body).expect_err("more follows").code(), "BAD_FRAME");
}
