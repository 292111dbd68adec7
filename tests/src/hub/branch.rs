//! The other end of one of a hub's connections: a stand-in that shares all stores, holds what the
//! hub holds, and says what a branch says when it connects. Its control stream is the service's
//! own; of statements it keeps nothing but their number.

use std::collections::VecDeque;

use blockferry_delta::StoreId;
use blockferry_wire::{
    Control, ControlEvent, FEATURE_DELETIONS, FEATURE_STATEMENTS, FrameDecoder, Head, Hello, Kind,
    Message, Resume,
};

use super::scene::{Scene, Who};

/// Of so many statements it reads one.
const READS: u64 = 64;

/// A branch.
#[derive(Debug)]
pub(super) struct Branch {
    who: Who,
    control: Control,
    decoder: FrameDecoder,
    ready: bool,
    /// Inventories, then questions where to go on: how many were said.
    said: usize,
    /// What is to be said next, before anything else.
    next: VecDeque<Message>,
    /// Stores of which it has still to say what it holds.
    owed: VecDeque<usize>,
    /// Places of what it said.
    place: u64,
    /// Statements that came.
    told: u64,
}

/// What both ends say of themselves.
pub(super) fn hello(name: &str) -> Hello {
    let features = FEATURE_DELETIONS | FEATURE_STATEMENTS;
    Hello { features, instance: Some(7), ..Hello::new(name, "blockferry/sim") }
}

impl Branch {
    pub(super) fn new(who: Who) -> Branch {
        Branch {
            who,
            control: Control::dial(hello("branch")),
            decoder: FrameDecoder::new(),
            ready: false,
            said: 0,
            next: VecDeque::new(),
            owed: VecDeque::new(),
            place: 0,
            told: 0,
        }
    }

    /// Takes what the hub said.
    pub(super) fn take(&mut self, bytes: &[u8], scene: &Scene) {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame().expect("frames arrive as sent") {
            if frame.kind == Kind::Statement {
                self.told += 1;
                if !self.told.is_multiple_of(READS) {
                    continue;
                }
            }
            let message = Message::decode(frame).expect("messages arrive as sent");
            match self.control.handle_message(message).expect("the hub keeps the rules") {
                Some(ControlEvent::Ready { .. }) => self.ready = true,
                Some(ControlEvent::Resume(resume)) => self.owed.push_back(at(&resume.store)),
                Some(ControlEvent::Inventory(inventory)) => {
                    assert!(scene.inventories(at(&inventory.store)).contains(&inventory));
                }
                Some(ControlEvent::Head(_) | ControlEvent::Statement(_)) | None => {}
                other => panic!("a hub doesn't say {other:?}"),
            }
        }
    }

    /// It has received a store's images as they are now.
    pub(super) fn received(&mut self, store: usize, scene: &Scene) {
        for image in 0..scene.images.len() {
            let (store_id, entry) = (scene.stores[store].0, scene.entry(store, image));
            self.next.push_back(Head { store: store_id, entry }.into());
            self.place += 1;
            let signed = scene.holding(self.who, store, image);
            self.next.push_back(signed.to_wire(self.place).into());
        }
    }

    /// The next thing it says.
    pub(super) fn next(&mut self, scene: &Scene) -> Option<Message> {
        if let Some(message) = self.control.poll_transmit() {
            return Some(message);
        }
        if !self.ready {
            return None;
        }
        if let Some(message) = self.next.pop_front() {
            return Some(message);
        }
        let stores = scene.stores.len();
        if self.said < stores {
            self.next.extend(scene.inventories(self.said).into_iter().map(Message::from));
        } else if self.said < 2 * stores {
            let store = scene.stores[self.said - stores].0;
            // The hub's list of places is a new one since its start.
            let (own_log, known_log, known_place) = (9, 1, 1000);
            self.next.push_back(Resume { store, own_log, known_log, known_place }.into());
        } else {
            let store = self.owed.pop_front()?;
            for signed in scene.statements(self.who, store) {
                self.place += 1;
                self.next.push_back(signed.to_wire(self.place).into());
            }
        }
        self.said += 1;
        self.next.pop_front()
    }
}

/// Ids begin with the store's number.
pub(super) fn at(id: &StoreId) -> usize {
    let [a, b, ..] = *id.as_bytes();
    usize::from(u16::from_le_bytes([a, b]))
}
