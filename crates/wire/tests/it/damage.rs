//! Every truncation and every single bit flip of every message: a clean error, or a message that
//! keeps every rule. Never a panic, never a hang.

use blockferry_delta::{BlockHash, ChangedBlock, Chunk, ChunkId, RecipePart};
use blockferry_wire::{FrameDecoder, Message, unpack_with};

use crate::golden::decode;
use crate::rng::Rng;
use crate::samples::{base_pages, messages};

/// A part as a first copy has it.
pub(crate) fn large_part(rng: &mut Rng, blocks: u64) -> RecipePart {
    let end = (1000 + blocks) * 65_536;
    let hash = |rng: &mut Rng| rng.bytes(32).try_into().expect("32 bytes");
    let blocks = (0..blocks).map(|index| ChangedBlock {
        index: 1000 + index,
        dirty: 0xffff,
        zero: if rng.once_in(20) { 0x00f0 } else { 0 },
        hash: BlockHash::from_bytes(hash(rng)),
    });
    let blocks = blocks.collect();
    let (mut chunks, mut offset) = (Vec::new(), 1000 * 65_536);
    while offset < end {
        let bytes = 8192 + rng.below(40_000) as u32;
        chunks.push(Chunk { offset, bytes, id: ChunkId(rng.next()) });
        offset += u64::from(bytes);
    }
    RecipePart { number: 5, blocks, chunks, zero_segments: vec![0, 3, 300] }
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let mut all = messages();
    all.push(("Part-large".into(), large_part(&mut Rng(3), 24).into()));
    all.into_iter().map(|(name, m)| (name, m.encode().expect("keeps the rules"))).collect()
}

/// What decodes must encode, and decode to the same again.
fn check(name: &str, frame: &[u8]) -> bool {
    let mut decoder = FrameDecoder::new();
    decoder.push(frame);
    let Ok(Some(whole)) = decoder.next_frame() else { return false };
    let Ok(message) = Message::decode(whole) else { return false };
    let again = message.encode().expect(name);
    assert_eq!(decode(&again), Ok(message.clone()), "{name}");
    if let Message::Pack(pack) = &message
        && let Ok(pages) = unpack_with(pack, pack.raw_bytes.into(), &base_pages(&pack.dictionary))
    {
        assert_eq!(pages.len(), pack.raw_bytes as usize, "{name}");
    }
    true
}

#[test]
fn every_bit_flip_is_refused_or_harmless() {
    let (mut cases, mut decoded) = (0, 0);
    for (name, frame) in frames() {
        assert!(check(&name, &frame), "{name} is good");
        let mut damaged = frame.clone();
        for bit in 0..frame.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            decoded += u32::from(check(&name, &damaged));
            damaged[bit / 8] ^= 1 << (bit % 8);
            cases += 1;
        }
    }
    println_cases("bit flips", cases, decoded);
    assert!(cases > 40_000, "{cases}");
    assert!(decoded < cases, "{decoded} of {cases}");
}

#[test]
fn every_truncation_is_refused_or_harmless() {
    let (mut cases, mut decoded) = (0, 0);
    for (name, frame) in frames() {
        for length in 0..frame.len() {
            let mut decoder = FrameDecoder::new();
            decoder.push(&frame[..length]);
            assert_eq!(decoder.next_frame(), Ok(None), "{name} waits for the rest");
            assert_eq!(decoder.is_empty(), length == 0);
            cases += 1;
            if length >= 8 {
                let mut shorter = frame[..length].to_vec();
                shorter[4..8].copy_from_slice(&((length - 8) as u32).to_le_bytes());
                let good = check(&name, &shorter);
                let tail = name.starts_with("Pack") || name.starts_with("Values");
                assert!(!good || tail, "{name} cut to {length} decodes");
                decoded += u32::from(good);
                cases += 1;
            }
        }
    }
    println_cases("truncations", cases, decoded);
    assert!(cases > 10_000, "{cases}");
}

#[test]
fn bytes_after_a_message_are_refused() {
    for (name, mut frame) in frames() {
        frame.push(0);
        let length = (frame.len() - 8) as u32;
        frame[4..8].copy_from_slice(&length.to_le_bytes());
        let pack = name.starts_with("Pack");
        match decode(&frame) {
            Ok(Message::Pack(pack)) => {
                let prefix = base_pages(&pack.dictionary);
                assert!(unpack_with(&pack, pack.raw_bytes.into(), &prefix).is_err());
            }
            Ok(other) => panic!("{name}: {other:?}"),
            Err(error) => assert!(pack || error.is_peer_fault(), "{name}: {error}"),
        }
    }
}

#[test]
fn random_payloads_never_panic() {
    let mut rng = Rng(11);
    let mut cases = 0;
    for (name, frame) in frames() {
        for _ in 0..300 {
            let mut damaged = frame.clone();
            for _ in 0..1 + rng.below(8) {
                let at = 8 + rng.below((frame.len() - 8) as u64) as usize;
                damaged[at] = rng.next() as u8;
            }
            check(&name, &damaged);
            cases += 1;
        }
    }
    assert!(cases > 7000, "{cases}");
}

fn println_cases(what: &str, cases: u32, decoded: u32) {
    use std::io::Write;
    let line = format!("{what}: {cases} cases, {decoded} decoded to a good message\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is there");
}
