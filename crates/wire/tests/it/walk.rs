//! The walk as both ends talk it: what differs is found exactly, whatever the sizes; what it costs
//! on the wire is counted; whoever breaks its rules is named.

use std::collections::{BTreeMap, BTreeSet};

use blockferry_delta::{
    BLOCK_BYTES, BlockHash, BlockRow, ChangedBlock, NodeHasher, PAGES_PER_BLOCK, Probe, RecipePart,
    Walk, WalkLevel, WalkSalt, comparable_blocks, short_prints,
};
use blockferry_wire::{
    Accept, Message, Offer, PartsEnd, Receiver, ReceiverEvent, Sender, SenderEvent, Values,
    WalkStart,
};

use crate::golden::decode;
use crate::rng::Rng;
use crate::samples::{offer, part, probe, receipt};

const SALT: WalkSalt = WalkSalt([0x77; 32]);

/// The row of a block with this content; 0 is a block of zeros. A page differs between contents.
fn row(block: u64, content: u64) -> BlockRow {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&block.to_le_bytes());
    hash[8..16].copy_from_slice(&content.to_le_bytes());
    let mut prints = [0; PAGES_PER_BLOCK];
    if content > 0 {
        prints = [block as u32 | 1; PAGES_PER_BLOCK];
        prints[content as usize % PAGES_PER_BLOCK] ^= 0x0001_0000;
    }
    BlockRow { hash: BlockHash::from_bytes(hash), prints }
}

/// What an end holds under `piece`: the contents that aren't 1.
fn held(piece: &Probe, blocks: u64, contents: &BTreeMap<u64, u64>) -> Vec<u8> {
    let content = |block| contents.get(&block).copied().unwrap_or(1);
    let (mut out, mut hasher) = (Vec::new(), NodeHasher::new(&SALT));
    for node in piece.nodes.iter().flat_map(|run| run.first..run.end()) {
        if piece.level == WalkLevel::Pages {
            let prints = short_prints(Some(&row(node, content(node))));
            prints.iter().for_each(|print| out.extend_from_slice(&print.to_le_bytes()));
            continue;
        }
        let first = node * piece.level.blocks();
        for block in first..(first + piece.level.blocks()).min(blocks) {
            hasher.block(Some(&row(block, content(block))));
        }
        out.extend_from_slice(&hasher.value());
    }
    out
}

#[derive(Default)]
struct Cost {
    /// Bytes of the frames before the last part, without offer and parts.
    bytes: usize,
    /// Times the sender waited for the receiver.
    round_trips: u32,
    found: BTreeSet<u64>,
}

struct Ends {
    sender: Sender,
    receiver: Receiver,
    blocks: u64,
    mine: BTreeMap<u64, u64>,
    theirs: BTreeMap<u64, u64>,
    walk: Walk,
    parts: u32,
    cost: Cost,
}

impl Ends {
    fn new(size_bytes: u64, held_bytes: u64, mine: BTreeMap<u64, u64>) -> Self {
        let offer = Offer { size_bytes, data_bytes: 0, allocated_zero: Vec::new(), ..offer() };
        let blocks = comparable_blocks(size_bytes, held_bytes);
        let mut receiver = Receiver::new();
        receiver.handle_message(offer.clone().into()).expect("first");
        receiver.poll_event();
        let start = WalkStart { size_bytes: held_bytes, salt: SALT };
        receiver.accept_walk(start).expect("some blocks can be compared");
        let mut sender = Sender::new(offer).expect("a good offer");
        sender.poll_transmit();
        Self {
            sender,
            receiver,
            blocks,
            mine,
            theirs: BTreeMap::new(),
            walk: Walk::new(blocks),
            parts: 0,
            cost: Cost::default(),
        }
    }

    /// Talks until the receipt.
    fn run(mut self) -> Cost {
        while !(self.sender.is_finished() && self.receiver.is_finished()) {
            let mut came = Vec::new();
            loop {
                let Some(event) = self.receiver.poll_event() else {
                    let Some(message) = self.receiver.poll_transmit() else { break };
                    came.push(message);
                    continue;
                };
                self.receiver_event(event);
            }
            let probing = came.iter().any(|message| matches!(message, Message::Values(_)));
            self.cost.round_trips += u32::from(probing);
            came.into_iter().for_each(|message| {
                let frame = message.encode().expect("keeps the rules");
                let counts = matches!(message, Message::Accept(_) | Message::Values(_));
                self.cost.bytes += if counts { frame.len() } else { 0 };
                self.sender.handle_message(decode(&frame).expect("good")).expect("honest");
            });
            while let Some(event) = self.sender.poll_event() {
                self.sender_event(event);
            }
            while let Some(message) = self.sender.poll_transmit() {
                let frame = message.encode().expect("keeps the rules");
                self.cost.bytes +=
                    if matches!(message, Message::Probe(_)) { frame.len() } else { 0 };
                self.receiver.handle_message(decode(&frame).expect("good")).expect("honest");
            }
        }
        self.cost
    }

    fn receiver_event(&mut self, event: ReceiverEvent) {
        match event {
            ReceiverEvent::NeedValues(piece) => {
                let bytes = held(&piece, self.blocks, &self.theirs);
                self.receiver.handle_values(bytes).expect("asked for");
            }
            ReceiverEvent::Part(part) => {
                self.receiver.handle_planned(part.number, vec![]).expect("a part");
            }
            ReceiverEvent::Complete => self.receiver.handle_committed(receipt()).expect("whole"),
            other => panic!("{other:?}"),
        }
    }

    fn sender_event(&mut self, event: SenderEvent) {
        match event {
            SenderEvent::Walk(start) => assert_eq!(start.salt, SALT),
            SenderEvent::Values { piece, bytes } => {
                assert_eq!(self.walk.next_piece(), Some(piece.clone()));
                let mine = held(&piece, self.blocks, &self.mine);
                if piece.level == WalkLevel::Pages {
                    self.cost.found.extend(piece.nodes.iter().flat_map(|r| r.first..r.end()));
                }
                self.walk.handle_piece(&piece, &bytes, &mine);
            }
            SenderEvent::NeedPart => {
                if let Some(probe) = self.walk.next_probe() {
                    self.sender.handle_probe(probe).expect("a part was asked for");
                    return;
                }
                // One part, so that the dialogue goes on after a walk as it does without.
                self.parts += 1;
                if self.parts > 1 || self.cost.found.is_empty() {
                    self.sender.handle_parts_end().expect("asked for");
                    return;
                }
                let index = *self.cost.found.first().expect("not empty");
                let hash = BlockHash::from_bytes([1; 32]);
                let blocks = vec![ChangedBlock { index, dirty: 1, zero: 1, hash }];
                self.sender.handle_part(RecipePart { blocks, ..RecipePart::default() }).expect("");
            }
            SenderEvent::Done(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whatever_differs_is_found_whatever_the_sizes() {
    let mut rounds = 0;
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let most = if rng.once_in(3) { 60 << 30 } else { 1 << 28 };
        let size = 65_537 + rng.below(most);
        let held_bytes = match rng.below(3) {
            0 => size,
            1 => 65_537 + rng.below(size),
            _ => size + rng.below(1 << 24),
        };
        let blocks = comparable_blocks(size, held_bytes);
        let clustered = rng.once_in(2);
        let mut mine = BTreeMap::new();
        let mut at = 0;
        for _ in 0..rng.below(300) {
            at = if clustered { at + rng.below(40) } else { rng.below(blocks) } % blocks;
            mine.insert(at, [0, 2, 3][rng.below(3) as usize]);
        }
        let cost = Ends::new(size, held_bytes, mine.clone()).run();
        assert!(cost.found.iter().eq(mine.keys()), "seed {seed}");
        assert!(cost.round_trips <= 4, "seed {seed}: {} round trips", cost.round_trips);
        rounds += cost.round_trips;
    }
    assert!(rounds > 100, "{rounds}");
}

/// The row of the issue, counted in whole frames: 100 GiB with 26,214 of its pages changed.
#[test]
fn a_thousandth_of_100_gib_costs_4_round_trips_and_less_than_4_mib() {
    let size = 100u64 << 30;
    let mut rng = Rng(16);
    let pages = (0..size / 4096 / 1000).map(|_| rng.below(size / BLOCK_BYTES as u64));
    let changed: BTreeMap<u64, u64> = pages.map(|block| (block, 2)).collect();
    let count = changed.len();
    let cost = Ends::new(size, size, changed.clone()).run();
    say("uniform", &cost, count);
    assert!(cost.found.iter().eq(changed.keys()));
    assert!(cost.round_trips <= 4, "{} round trips", cost.round_trips);
    assert!(cost.bytes <= 4 << 20, "{} bytes", cost.bytes);
    // The same pages in runs of 256 KiB.
    let runs = (0..size / 4096 / 1000 / 64).map(|_| rng.below(size / BLOCK_BYTES as u64 - 4));
    let changed: BTreeMap<u64, u64> = runs.flat_map(|b| (b..b + 4).map(|b| (b, 2))).collect();
    let cost = Ends::new(size, size, changed.clone()).run();
    say("clustered", &cost, changed.len());
    assert!(cost.found.iter().eq(changed.keys()) && cost.bytes <= 512 << 10);
    let cost = Ends::new(size, size, BTreeMap::new()).run();
    say("equal", &cost, 0);
    assert!(cost.round_trips == 1 && cost.bytes <= 52 << 10);
}

fn say(what: &str, cost: &Cost, blocks: usize) {
    use std::io::Write;
    let Cost { bytes, round_trips, .. } = cost;
    let line = format!("walk of 100 GiB, {what}: {blocks} blocks differ, {bytes} bytes, ");
    let line = format!("{line}{round_trips} round trips\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is there");
}

fn code<T>(result: blockferry_wire::Result<T>) -> &'static str {
    result.map_or_else(|error| error.code(), |_| "good")
}

fn walking(size_bytes: u64) -> Receiver {
    let mut receiver = Receiver::new();
    let offer = Offer { size_bytes, data_bytes: 0, allocated_zero: Vec::new(), ..offer() };
    receiver.handle_message(offer.into()).expect("first");
    receiver.accept_walk(WalkStart { size_bytes, salt: SALT }).expect("comparable");
    receiver
}

/// Gives the answer that is due; panics when none is.
fn answer(receiver: &mut Receiver) {
    let piece = std::iter::from_fn(|| receiver.poll_event())
        .find_map(|event| match event {
            ReceiverEvent::NeedValues(piece) => Some(piece),
            _ => None,
        })
        .expect("an answer is due");
    let bytes = piece.count() as usize * piece.level.answer_bytes();
    assert_eq!(code(receiver.handle_values(vec![0; bytes + 6])), "API_MISUSE");
    receiver.handle_values(vec![0; bytes]).expect("asked for");
    assert_eq!(code(receiver.handle_values(vec![0; bytes])), "API_MISUSE", "twice");
}

#[test]
fn a_sender_that_breaks_the_rules_of_the_walk_is_named() {
    let size = 1 << 30;
    let ask = |runs: &[(u64, u64)], level| Message::from(probe(level, runs));
    let early = ask(&[(0, 1)], WalkLevel::Blocks);
    assert_eq!(code(walking(size).handle_message(early)), "WRONG_STATE", "an answer is due");
    assert_eq!(code(walking(size).handle_message(part().into())), "WRONG_STATE");
    let end = PartsEnd { parts: 0, blocks: 0 };
    assert_eq!(code(walking(size).handle_message(end.into())), "WRONG_STATE");
    let after = |probes: &[Message]| {
        let mut receiver = walking(size);
        let mut last = "good";
        for probe in probes {
            answer(&mut receiver);
            while receiver.poll_transmit().is_some() {}
            last = code(receiver.handle_message(probe.clone()));
        }
        last
    };
    let blocks = |runs: &[(u64, u64)]| ask(runs, WalkLevel::Blocks);
    assert_eq!(after(&[blocks(&[(3, 2)]), blocks(&[(5, 1)])]), "good");
    assert_eq!(after(&[blocks(&[(3, 2)]), blocks(&[(4, 1)])]), "UNREQUESTED", "asked twice");
    assert_eq!(after(&[blocks(&[(3, 2)]), ask(&[(3, 1)], WalkLevel::Pages)]), "good");
    assert_eq!(after(&[blocks(&[((1 << 30) / 65_536, 1)])]), "UNREQUESTED", "beyond the end");
    assert_eq!(after(&[ask(&[(0, 1)], WalkLevel::Groups)]), "UNREQUESTED", "the first probe's");
    let mut plain = Receiver::new();
    plain.handle_message(offer().into()).expect("first");
    plain.accept(None, false).expect("an offer is open");
    assert_eq!(code(plain.handle_message(blocks(&[(0, 1)]))), "WRONG_STATE", "no walk");
}

#[test]
fn a_receiver_that_breaks_the_rules_of_the_walk_is_named() {
    let size_bytes = 1 << 30;
    let fresh = |older| {
        let offer = offer();
        let offer = Offer { size_bytes, data_bytes: 0, allocated_zero: vec![], older, ..offer };
        Sender::new(offer).expect("a good offer")
    };
    let accept = |size_bytes| {
        let walk = Some(WalkStart { size_bytes, salt: SALT });
        Message::from(Accept { base: None, dictionaries: false, walk })
    };
    let values = |level, bytes| Message::from(Values { level, bytes: vec![0; bytes] });
    assert_eq!(code(fresh(None).handle_message(accept(size_bytes))), "WRONG_BASE", "not offered");
    assert_eq!(code(fresh(Some(vec![])).handle_message(accept(65_536))), "WRONG_BASE");
    let walking = || {
        let mut sender = fresh(Some(vec![]));
        sender.handle_message(accept(size_bytes)).expect("comparable");
        sender
    };
    // 1 GiB has 1024 groups.
    let whole = values(WalkLevel::Groups, 1024 * 6);
    assert_eq!(code(walking().handle_message(whole.clone())), "good");
    assert_eq!(code(walking().handle_message(values(WalkLevel::Groups, 6))), "UNREQUESTED");
    assert_eq!(code(walking().handle_message(values(WalkLevel::Blocks, 6144))), "UNREQUESTED");
    let mut sender = walking();
    sender.handle_message(whole.clone()).expect("asked for");
    assert_eq!(code(sender.handle_message(whole)), "UNREQUESTED", "twice");
    let mut sender = walking();
    let early = probe(WalkLevel::Blocks, &[(0, 1)]);
    assert_eq!(code(sender.handle_probe(early)), "API_MISUSE", "no part was asked for");
    assert_eq!(code(sender.handle_parts_end()), "API_MISUSE");
}
