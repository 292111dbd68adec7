//! What is in an image twice travels once, however fast packs come: its second place is found when
//! the first one is complete, and waits for it when it isn't. Whoever says that two chunks are alike
//! when they aren't costs some blocks twice and nothing else.

use std::collections::VecDeque;

use blockferry_delta::{Chunk, ChunkId, RecipePart};

use super::*;

/// Bytes of blocks in a part of a recipe.
const PART_BYTES: usize = 8 << 20;
const FILE_BYTES: usize = 300_000;

/// Four parts of noise. The same file is in the first and in the third, and its beginning in the
/// fourth.
fn with_twins() -> Vec<u8> {
    let mut bytes = noise(1, 4 * PART_BYTES);
    let file = noise(2, FILE_BYTES);
    for (part, length) in [(0, FILE_BYTES), (2, FILE_BYTES), (3, 200_000)] {
        let at = part * PART_BYTES + (1 << 20);
        bytes[at - 100..at].fill(0);
        bytes[at..at + length].copy_from_slice(&file[..length]);
        if length == FILE_BYTES {
            bytes[at + length..(at + length).next_multiple_of(4096)].fill(0);
        }
    }
    bytes
}

/// Carries the image to an empty store. Packs are made when `soon` says so, else when there is nothing
/// else to do. Gives the bytes that travelled.
fn carry_as(
    from: &Side,
    to: &Side,
    change: &mut dyn FnMut(&mut Message),
    soon: &mut dyn FnMut() -> bool,
) -> usize {
    let mut send = SendSide::new(from.store.clone(), &image()).expect("offered");
    let (store, peer) = (to.store.clone(), from.identity.id());
    let mut receive = RecvSide::new(store, to.identity.clone(), peer, None);
    let (mut packer, mut jobs) = (Packer::new().expect("memory"), VecDeque::new());
    let (mut sent, mut received, mut wire_bytes) = (None, None, 0);
    while sent.is_none() || received.is_none() {
        let mut moved = true;
        match send.step().expect("the peer keeps the rules") {
            Step::Transmit(mut message) => {
                change(&mut message);
                let bytes = message.encode().expect("encodes").len();
                wire_bytes += bytes;
                receive.handle_message(*message, bytes as u64).expect("fits");
            }
            Step::Pack(job) => jobs.push_back(job),
            Step::Wait => moved = false,
            Step::Done(outcome) => sent = Some(outcome),
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
        if (!moved || soon())
            && let Some(job) = jobs.pop_front()
        {
            let packed = job.run(&mut packer, Compression::Stored);
            send.handle_packed(packed).expect("in order");
            moved = true;
        }
        assert!(moved || received.is_some(), "both wait for each other");
    }
    assert!(matches!(sent, Some(SendOutcome::Receipt(_))), "{sent:?}");
    assert!(matches!(received, Some(RecvOutcome::Committed(_))), "{received:?}");
    wire_bytes
}

#[test]
fn what_is_there_twice_travels_once_however_fast_packs_come() {
    let a = side(1);
    let content = with_twins();
    put(&a, 0, &content);
    record(&a);
    let mut state = 0x9e37_79b9_u32;
    let mut by_chance = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 30 == 0
    };
    let soons: [&mut dyn FnMut() -> bool; 3] = [&mut || true, &mut || false, &mut by_chance];
    let mut sums = Vec::new();
    for soon in soons {
        let b = side(2);
        sums.push(carry_as(&a, &b, &mut |_| (), soon));
        assert!(read(&b) == content);
    }
    assert!(sums.iter().all(|bytes| *bytes == sums[0]), "{sums:?}");
    // A chunk at the end of what is alike differs; the others are found.
    let least = content.len() - FILE_BYTES - 100_000;
    assert!(sums[0] < least, "{} of {least}", sums[0]);
}

#[test]
fn chunks_that_are_said_to_be_alike_and_are_not_cost_their_blocks_twice() {
    let a = side(1);
    let content = noise(1, 2 * PART_BYTES);
    put(&a, 0, &content);
    record(&a);
    let b = side(2);
    let honest = carry_as(&a, &b, &mut |_| (), &mut || false);
    let b = side(3);
    let mut first: Vec<Chunk> = Vec::new();
    let mut lie = |message: &mut Message| match message {
        Message::Part(part @ RecipePart { number: 0, .. }) => {
            // The second of them is an id that nothing has.
            part.chunks[20].id = ChunkId(7);
            first = [10, 20].map(|at| part.chunks[at]).to_vec();
        }
        Message::Part(part) => {
            let chunks = &mut part.chunks[8..];
            for said in &first {
                let longer = chunks.iter_mut().find(|chunk| {
                    chunk.bytes >= said.bytes && first.iter().all(|said| said.id != chunk.id)
                });
                let longer = longer.expect("one of many");
                (longer.id, longer.bytes) = (said.id, said.bytes);
            }
        }
        _ => {}
    };
    let lied = carry_as(&a, &b, &mut lie, &mut || false);
    assert!(read(&b) == content);
    assert!(lied > honest, "{lied} and {honest}");
    assert!(lied < honest + 8 * 65_536, "{lied} and {honest}");
}
