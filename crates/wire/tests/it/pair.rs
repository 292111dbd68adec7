//! A sender and a receiver over a simulated link: bytes take their time, drivers answer late and in
//! any order, what the receiver believes to have is often wrong. In the end the image is there, or
//! both ends know that it is not. A failing run is a seed.

use std::collections::{BTreeMap, VecDeque};

use blockferry_delta::{
    BLOCK_BYTES, ChangedBlock, PAGE_BYTES, PAGES_PER_BLOCK, PageExtent, RecipePart, Root,
    block_hash, block_len, verify_block,
};
use blockferry_wire::limits::{PACKS_IN_FLIGHT, PACKS_UNFILLED_MAX, PARTS_OPEN_MAX};
use blockferry_wire::{
    Compression, Failed, FrameDecoder, Message, Offer, Pack, Packer, Receipt, Receiver,
    ReceiverEvent, Refusal, Refuse, Sender, SenderEvent, extents_bytes, unpack,
};

use crate::rng::Rng;
use crate::samples::{offer, receipt, root};

/// How a run is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Undisturbed,
    Refuse,
    Have,
    SameBytes,
    CancelAt(u64),
    FailAt(u64),
}

/// How a run ended, as each end knows it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    sender: Option<&'static str>,
    receiver: Option<&'static str>,
}

/// One direction of a stream.
#[derive(Default)]
struct Line {
    /// Bytes with the time at which they arrive; in order.
    bytes: VecDeque<(u64, Vec<u8>)>,
    decoder: FrameDecoder,
    /// Messages that arrived and were not yet taken.
    messages: VecDeque<Message>,
}

impl Line {
    fn send(&mut self, message: &Message, now: u64, rng: &mut Rng) {
        let mut frame = message.encode().expect("keeps the rules");
        while !frame.is_empty() {
            let rest = frame.split_off((1 + rng.below(200_000) as usize).min(frame.len()));
            let due = now + 5 + rng.below(40);
            let due = self.bytes.back().map_or(due, |(last, _)| due.max(*last));
            self.bytes.push_back((due, std::mem::replace(&mut frame, rest)));
        }
    }

    fn arrive(&mut self, now: u64) {
        while let Some((_, bytes)) = self.bytes.pop_front_if(|(due, _)| *due <= now) {
            self.decoder.push(&bytes);
            while let Some(frame) = self.decoder.next_frame().expect("good frames") {
                self.messages.push_back(Message::decode(frame).expect("good messages"));
            }
        }
    }
}

/// The image being built: what a store's staging does, in small.
struct Staging {
    data: Vec<u8>,
    /// Pages missing of each open part.
    missing: BTreeMap<u32, u32>,
    blocks: BTreeMap<u64, Building>,
}

/// A block that is not yet verified.
struct Building {
    row: ChangedBlock,
    part: u32,
    /// Pages under way.
    missing: u16,
    /// Pages that came over the wire.
    received: u16,
    again: bool,
}

impl Staging {
    fn plan(&mut self, part: &RecipePart, truth: &[u8], rng: &mut Rng) -> Vec<PageExtent> {
        let (mut wants, mut missing) = (Vec::new(), 0);
        for segment in &part.zero_segments {
            let start = *segment as usize * 64 * BLOCK_BYTES;
            let end = (start + 64 * BLOCK_BYTES).min(self.data.len());
            self.data[start..end].fill(0);
        }
        for row in &part.blocks {
            let mut want = row.dirty & !row.zero;
            for page in pages(row.dirty) {
                let range = self.page(row.index, page);
                if row.zero & (1 << page) != 0 {
                    self.data[range].fill(0);
                } else if rng.once_in(3) {
                    // A chunk that the receiver believes to have found; often it has not.
                    want &= !(1 << page);
                    let lie = u8::from(rng.once_in(6));
                    self.data[range.clone()].copy_from_slice(&truth[range.clone()]);
                    self.data[range.start] ^= lie;
                }
            }
            if want == 0 && !self.verify(row) {
                want = self.all_pages(row.index);
            }
            if want != 0 {
                let (received, again) = (0, false);
                let building =
                    Building { row: *row, part: part.number, missing: want, received, again };
                self.blocks.insert(row.index, building);
                push_pages(&mut wants, row.index, want);
                missing += want.count_ones();
            }
        }
        if missing > 0 {
            self.missing.insert(part.number, missing);
        }
        wants
    }

    /// Fills pages in: (pages wanted again, complete).
    fn fill(&mut self, pack: &Pack, bytes: &[u8]) -> (Vec<PageExtent>, bool) {
        let (mut again, mut at) = (Vec::new(), 0);
        for number in pack.extents.iter().flat_map(|e| e.first..e.first + u64::from(e.count)) {
            let (index, page) = (number / 16, (number % 16) as usize);
            let range = self.page(index, page);
            let length = range.len();
            self.data[range].copy_from_slice(&bytes[at..at + length]);
            at += length;
            let mut building = self.blocks.remove(&index).expect("wanted blocks are being built");
            assert!(building.missing & (1 << page) != 0, "a page that was wanted");
            building.missing &= !(1 << page);
            building.received |= 1 << page;
            let left = self.missing.get_mut(&building.part).expect("an open part");
            *left -= 1;
            if building.missing == 0 && !self.verify(&building.row) {
                assert!(!building.again, "what came over the wire twice is right");
                building.again = true;
                building.missing = self.all_pages(index) & !building.received;
                push_pages(&mut again, index, building.missing);
                *self.missing.get_mut(&building.part).expect("an open part") +=
                    building.missing.count_ones();
            }
            if building.missing != 0 {
                self.blocks.insert(index, building);
            }
        }
        assert_eq!(at, bytes.len());
        (again, self.missing[&pack.part] == 0)
    }

    fn page(&self, index: u64, page: usize) -> std::ops::Range<usize> {
        let start = index as usize * BLOCK_BYTES + page * PAGE_BYTES;
        start..(start + PAGE_BYTES).min(self.data.len())
    }

    fn all_pages(&self, index: u64) -> u16 {
        blockferry_delta::block_pages_mask(index, self.data.len() as u64)
    }

    fn verify(&self, row: &ChangedBlock) -> bool {
        let size = self.data.len() as u64;
        let start = row.index as usize * BLOCK_BYTES;
        let block = &self.data[start..start + block_len(row.index, size)];
        verify_block(row.index, block, size, &row.hash)
    }
}

fn pages(mask: u16) -> impl Iterator<Item = usize> {
    (0..PAGES_PER_BLOCK).filter(move |page| mask & (1 << page) != 0)
}

fn push_pages(extents: &mut Vec<PageExtent>, index: u64, mask: u16) {
    pages(mask).for_each(|page| PageExtent::push(extents, index * 16 + page as u64));
}

/// An old and a new image that differ here and there.
fn images(rng: &mut Rng) -> (Vec<u8>, Vec<u8>) {
    let size = (1 + rng.below(6 << 20)) as usize;
    let mut old = vec![0; size];
    for page in old.chunks_mut(PAGE_BYTES) {
        let fill = rng.next();
        page.iter_mut().enumerate().for_each(|(i, b)| *b = (fill >> (i % 57)) as u8);
    }
    let mut new = old.clone();
    let dense = rng.once_in(2);
    for page in new.chunks_mut(PAGE_BYTES) {
        match rng.below(if dense { 3 } else { 24 }) {
            0 => page[0] ^= 0x5a,
            1 => page.fill(0),
            _ => {}
        }
    }
    (old, new)
}

/// The recipe between them, in parts of a few blocks.
fn recipe(old: &[u8], new: &[u8], rng: &mut Rng) -> VecDeque<RecipePart> {
    let (size, mut parts) = (new.len() as u64, VecDeque::new());
    let mut part = RecipePart::default();
    for (index, block) in new.chunks(BLOCK_BYTES).enumerate() {
        let (mut dirty, mut zero) = (0u16, 0u16);
        for (page, bytes) in block.chunks(PAGE_BYTES).enumerate() {
            let start = index * BLOCK_BYTES + page * PAGE_BYTES;
            if old[start..start + bytes.len()] != *bytes {
                dirty |= 1 << page;
                zero |= u16::from(bytes.iter().all(|b| *b == 0)) << page;
            }
        }
        if dirty != 0 {
            let index = index as u64;
            let hash = block_hash(index, block, size);
            part.blocks.push(ChangedBlock { index, dirty, zero, hash });
        }
        if !part.blocks.is_empty() && rng.once_in(3) {
            parts.push_back(std::mem::take(&mut part));
        }
    }
    if !part.blocks.is_empty() {
        parts.push_back(part);
    }
    parts.iter_mut().zip(0..).for_each(|(part, number)| part.number = number);
    parts
}

/// Work that a driver has given to its threads.
enum Job {
    Pack(Pack),
    Plan(u32, Vec<PageExtent>),
    Fill(u32, Vec<PageExtent>, bool),
}

struct Pair {
    rng: Rng,
    now: u64,
    sender: Sender,
    receiver: Receiver,
    to_receiver: Line,
    to_sender: Line,
    parts: VecDeque<RecipePart>,
    truth: Vec<u8>,
    staging: Staging,
    /// Packs are answered in the order they were asked for, parts and fills in any.
    sender_jobs: VecDeque<(u64, Job)>,
    receiver_jobs: Vec<(u64, Job)>,
    packer: Packer,
    plan: Plan,
    outcome: Outcome,
    agains: u32,
}

impl Pair {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut rng = Rng(seed);
        let (old, truth) = images(&mut rng);
        let parts = recipe(&old, &truth, &mut rng);
        let offer = Offer {
            size_bytes: truth.len() as u64,
            data_bytes: truth.len() as u64,
            allocated_zero: Vec::new(),
            ..offer()
        };
        let (missing, blocks) = (BTreeMap::new(), BTreeMap::new());
        Self {
            now: 0,
            sender: Sender::new(offer).expect("a good offer"),
            receiver: Receiver::new(),
            to_receiver: Line::default(),
            to_sender: Line::default(),
            parts,
            truth,
            staging: Staging { data: old, missing, blocks },
            sender_jobs: VecDeque::new(),
            receiver_jobs: Vec::new(),
            packer: Packer::new().expect("memory"),
            plan,
            outcome: Outcome { sender: None, receiver: None },
            agains: 0,
            rng,
        }
    }

    fn run(mut self) -> Self {
        while !(self.sender.is_finished() && self.receiver.is_finished()) {
            self.now += 1;
            assert!(self.now < 200_000, "no end in sight");
            self.disturb();
            self.to_receiver.arrive(self.now);
            self.to_sender.arrive(self.now);
            self.step_sender();
            self.step_receiver();
        }
        self
    }

    fn disturb(&mut self) {
        if self.plan == Plan::CancelAt(self.now) {
            self.sender.handle_cancel(Refusal::SourceTorn, "changed");
            self.outcome.sender.get_or_insert("cancelled");
        }
        if matches!(self.plan, Plan::FailAt(at) if self.now >= at)
            && self.outcome.receiver.is_none()
            && self.receiver.handle_failed(Failed::new(Refusal::DiskError, "EIO")).is_ok()
        {
            self.outcome.receiver = Some("failed");
        }
    }

    fn step_sender(&mut self) {
        while let Some(message) = self.to_sender.messages.pop_front() {
            self.sender.handle_message(message).expect("an honest receiver");
        }
        while let Some((_, job)) = self.sender_jobs.pop_front_if(|(due, _)| *due <= self.now) {
            let Job::Pack(pack) = job else { panic!("a sender only packs") };
            self.sender.handle_pack(pack).expect("in order");
        }
        while let Some(event) = self.sender.poll_event() {
            self.sender_event(event);
        }
        while let Some(message) = self.sender.poll_transmit() {
            self.to_receiver.send(&message, self.now, &mut self.rng);
        }
        assert!(self.sender_jobs.len() <= PACKS_IN_FLIGHT);
    }

    fn sender_event(&mut self, event: SenderEvent) {
        match event {
            SenderEvent::Accepted { base, .. } => {
                let same = base == Some(self.sender.offer().root);
                assert_eq!(same, self.plan == Plan::SameBytes);
            }
            SenderEvent::Walk(_) | SenderEvent::Values { .. } => panic!("no walk"),
            SenderEvent::NeedPart => match self.parts.pop_front() {
                Some(part) => self.sender.handle_part(part).expect("asked for"),
                None => self.sender.handle_parts_end().expect("asked for"),
            },
            SenderEvent::NeedPack { part, extents, .. } => {
                let read = extents.iter().flat_map(|e| {
                    let start = e.offset() as usize;
                    &self.truth[start..start + e.bytes_in(self.truth.len() as u64) as usize]
                });
                let bytes = read.copied().collect();
                let pack = self
                    .packer
                    .pack(part, extents, bytes, Compression::zstd(1))
                    .expect("what was asked for");
                let due = self.now + self.rng.below(9);
                self.sender_jobs.push_back((due, Job::Pack(pack)));
            }
            SenderEvent::Done(receipt) => {
                assert_eq!(receipt, receipt_of_sample());
                self.outcome.sender = Some("done");
            }
            SenderEvent::Refused(refuse) => {
                assert_eq!(refuse.bytes_free, Some(4096));
                self.outcome.sender = Some("refused");
            }
            SenderEvent::Failed(_) => self.outcome.sender = Some("failed"),
        }
    }

    fn step_receiver(&mut self) {
        while self.receiver.has_room()
            && let Some(message) = self.to_receiver.messages.pop_front()
        {
            self.receiver.handle_message(message).expect("an honest sender");
            while let Some(event) = self.receiver.poll_event() {
                self.receiver_event(event);
            }
        }
        while let Some(at) = self.receiver_jobs.iter().position(|(due, _)| *due <= self.now) {
            match self.receiver_jobs.swap_remove(at).1 {
                Job::Plan(part, wants) => self.receiver.handle_planned(part, wants),
                Job::Fill(part, again, done) => self.receiver.handle_filled(part, again, done),
                Job::Pack(_) => panic!("a receiver does not pack"),
            }
            .expect("an honest driver");
            while let Some(event) = self.receiver.poll_event() {
                self.receiver_event(event);
            }
        }
        while let Some(message) = self.receiver.poll_transmit() {
            self.to_sender.send(&message, self.now, &mut self.rng);
        }
        assert!(self.receiver_jobs.len() <= PARTS_OPEN_MAX + PACKS_UNFILLED_MAX);
    }

    fn receiver_event(&mut self, event: ReceiverEvent) {
        let due = self.now + self.rng.below(25);
        match event {
            ReceiverEvent::Offered(offer) => self.answer(&offer),
            ReceiverEvent::Part(part) => {
                let wants = self.staging.plan(&part, &self.truth, &mut self.rng);
                self.receiver_jobs.push((due, Job::Plan(part.number, wants)));
            }
            ReceiverEvent::Pack(pack) => {
                let due_bytes = extents_bytes(&pack.extents, self.truth.len() as u64);
                let bytes = unpack(&pack, due_bytes).expect("a good pack");
                let (again, complete) = self.staging.fill(&pack, &bytes);
                self.agains += u32::from(!again.is_empty());
                self.receiver_jobs.push((due, Job::Fill(pack.part, again, complete)));
            }
            ReceiverEvent::Complete => {
                assert!(self.staging.blocks.is_empty());
                self.receiver.handle_committed(receipt_of_sample()).expect("complete");
                self.outcome.receiver = Some("committed");
            }
            ReceiverEvent::NeedValues(piece) => panic!("no walk: {piece:?}"),
            ReceiverEvent::Cancelled(abort) => {
                assert_eq!(abort.code, Refusal::SourceTorn);
                self.outcome.receiver = Some("cancelled");
            }
        }
    }

    fn answer(&mut self, offer: &Offer) {
        let answered = match self.plan {
            Plan::Refuse => {
                self.outcome.receiver = Some("refused");
                self.receiver.refuse(Refuse::disk_full("no room", offer.size_bytes, 4096))
            }
            Plan::Have => {
                self.outcome.receiver = Some("had it");
                self.receiver.have(receipt_of_sample())
            }
            Plan::SameBytes => {
                self.staging.data.clone_from(&self.truth);
                self.receiver.accept(Some(offer.root), false)
            }
            _ => self.receiver.accept(base(), false),
        };
        answered.expect("an offer is open");
    }
}

fn base() -> Option<Root> {
    Some(root(0xbb))
}

fn receipt_of_sample() -> Receipt {
    receipt()
}

#[test]
fn whatever_the_latencies_the_image_arrives() {
    let (mut agains, mut bytes) = (0, 0);
    for seed in 0..120 {
        let pair = Pair::new(seed, Plan::Undisturbed).run();
        let done = Outcome { sender: Some("done"), receiver: Some("committed") };
        assert_eq!(pair.outcome, done, "seed {seed}");
        assert!(pair.staging.data == pair.truth, "seed {seed}: the image differs");
        assert_eq!(pair.sender.sent_bytes(), pair.receiver.received_bytes(), "seed {seed}");
        assert_eq!(pair.sender.wanted_bytes(), pair.sender.sent_bytes(), "seed {seed}");
        agains += pair.agains;
        bytes += pair.sender.sent_bytes();
    }
    assert!(agains > 200, "wrong hints were met {agains} times");
    assert!(bytes > 20 << 20, "{bytes} bytes travelled");
}

#[test]
fn refusals_and_known_bytes_end_at_once() {
    for seed in 0..20 {
        let end = |plan| {
            let pair = Pair::new(seed, plan).run();
            assert_eq!(pair.sender.sent_bytes(), 0);
            pair.outcome
        };
        let both = |sender, receiver| Outcome { sender: Some(sender), receiver: Some(receiver) };
        assert_eq!(end(Plan::Refuse), both("refused", "refused"));
        assert_eq!(end(Plan::Have), both("done", "had it"));
        assert_eq!(end(Plan::SameBytes), both("done", "committed"));
    }
}

#[test]
fn a_sender_may_give_up_at_any_moment() {
    let mut cancelled = 0;
    for seed in 0..60 {
        let pair = Pair::new(seed, Plan::CancelAt(1 + seed * 7)).run();
        let known = match pair.outcome {
            Outcome { sender: Some("done"), receiver: Some("committed") } => 0,
            Outcome { sender: Some("cancelled"), receiver: Some("cancelled" | "committed") } => 1,
            ref other => panic!("seed {seed}: {other:?}"),
        };
        cancelled += known;
        if pair.outcome.receiver == Some("committed") {
            assert!(pair.staging.data == pair.truth, "seed {seed}");
        }
    }
    assert!(cancelled > 20, "{cancelled}");
}

#[test]
fn a_receiver_may_fail_at_any_moment() {
    let mut failed = 0;
    for seed in 0..60 {
        let pair = Pair::new(seed, Plan::FailAt(1 + seed * 7)).run();
        match pair.outcome {
            Outcome { sender: Some("done"), receiver: Some("committed") } => {}
            Outcome { sender: Some("failed"), receiver: Some("failed") } => failed += 1,
            ref other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(failed > 20, "{failed}");
}
