//! A link in memory: two directions of ordered bytes with a delay, in simulated ticks. What is on
//! the way when it is cut is lost. Everything that is sent leaves its mark in a trace.

use std::collections::VecDeque;

use blockferry_wire::{FrameDecoder, Message};

use crate::rng::Rng;

/// A hash over everything that was said, in order: one seed, one trace. And what packs came to.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    /// Packs without and with a dictionary.
    pub packs: [u64; 2],
    /// Encoded bytes of the pages in them.
    pub pack_bytes: [u64; 2],
    /// Their raw bytes.
    pub page_bytes: [u64; 2],
}

impl Trace {
    /// Adds bytes that came from `from`.
    pub fn add(&mut self, from: u8, bytes: &[u8]) {
        self.hasher.update(&[from]);
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    /// The hash so far.
    pub fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    fn count(&mut self, message: &Message) {
        if let Message::Pack(pack) = message {
            let kind = usize::from(!pack.dictionary.is_empty());
            self.packs[kind] += 1;
            self.pack_bytes[kind] += pack.bytes.len() as u64;
            self.page_bytes[kind] += u64::from(pack.raw_bytes);
        }
    }
}

/// One direction of a link.
#[derive(Debug, Default)]
struct Lane {
    /// (tick of arrival, bytes).
    flying: VecDeque<(u64, Vec<u8>)>,
    decoder: FrameDecoder,
}

/// Both directions; direction 0 is from the offerer.
#[derive(Debug)]
pub struct Link {
    lanes: [Lane; 2],
    now: u64,
    rng: Rng,
    /// Frames after which the link is cut.
    frames_left: u64,
}

impl Link {
    /// A link that is cut after `frames`.
    pub fn new(rng: Rng, frames: u64) -> Link {
        Link { lanes: Default::default(), now: 0, rng, frames_left: frames }
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.frames_left == 0
    }

    /// Sends a message; it arrives in pieces, later.
    pub fn send(&mut self, lane: usize, message: &Message, trace: &mut Trace) {
        let bytes = message.encode().expect("what a side says can be said");
        trace.add(lane as u8, &told(message, &bytes));
        trace.count(message);
        self.frames_left = self.frames_left.saturating_sub(1);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let most = rest.len() as u64;
            let piece = if self.rng.chance(1, 3) { 1 + self.rng.below(most) } else { most };
            let (head, tail) = rest.split_at(piece as usize);
            let lane = &mut self.lanes[lane];
            let soonest = lane.flying.back().map_or(self.now, |(at, _)| *at);
            let at = soonest.max(self.now + self.rng.below(6));
            lane.flying.push_back((at, head.to_vec()));
            rest = tail;
        }
    }

    /// Time passes; what has arrived on a lane can be read.
    pub fn tick(&mut self) {
        self.now += 1;
        for lane in &mut self.lanes {
            while lane.flying.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = lane.flying.pop_front().expect("looked at above");
                lane.decoder.push(&bytes);
            }
        }
    }

    /// The next message that arrived on a lane.
    pub fn receive(&mut self, lane: usize) -> Option<Message> {
        let frame = self.lanes[lane].decoder.next_frame().expect("frames arrive as sent");
        frame.map(|frame| Message::decode(frame).expect("messages arrive as sent"))
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.flying.is_empty())
    }
}

/// What of a message goes into the trace: all but the wall clock's time in an offer.
fn told(message: &Message, bytes: &[u8]) -> Vec<u8> {
    match message {
        Message::Offer(offer) => {
            let mut offer = offer.clone();
            offer.recorded_unix_ms = 0;
            Message::Offer(offer).encode().expect("it was encoded before")
        }
        _ => bytes.to_vec(),
    }
}
