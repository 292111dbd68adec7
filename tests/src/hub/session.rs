//! The hub's end of a connection, as `link/session.rs` and `link/gossip.rs` of the service have it:
//! hellos, what is held of each shared store, questions where to go on, then what is new. Control
//! stream and feeds are the service's own. Both directions take time: a delay, and a rate at which
//! frames follow one another, so that nobody says more than the line takes.

use std::collections::BTreeSet;
use std::time::Duration;

use blockferry_delta::{NodeId, StoreId};
use blockferry_node::backlog::Key;
use blockferry_node::budget;
use blockferry_node::promotion::feeds::Feeds;
use blockferry_node::promotion::statements::{Signed, Taken};
use blockferry_node::transfer::judge::Version;
use blockferry_wire::{
    Control, ControlEvent, FrameDecoder, Head, InventoryEntry, Message, Resume, Statement,
};

use super::branch::{at, hello};
use super::tasks::Task;
use super::{Event, Hub, LINK_BITS};
use crate::rng::Rng;

/// A branch has this long to say what it holds before offers begin.
const INVENTORY_WAIT: Duration = Duration::from_secs(5);
/// What a branch needs to receive an image, as far as this simulation goes.
const TRANSFER: Duration = Duration::from_secs(1);

/// The hub's end of a connection.
pub(super) struct Line {
    control: Control,
    decoder: FrameDecoder,
    feeds: Feeds,
    ready: bool,
    /// Stores of which it was said what is held, and those asked about.
    greeted: usize,
    asked: usize,
    /// Heads to be announced.
    announced: BTreeSet<(usize, usize)>,
    /// Stores whose inventory the branch has not finished.
    awaited: BTreeSet<StoreId>,
    pub(super) up: bool,
    /// (hub, branch): it will speak.
    speaks: (bool, bool),
    delay: Duration,
    /// When the line is free: from the hub, and to it.
    free: [Duration; 2],
}

impl Line {
    pub(super) fn new(rng: &mut Rng) -> Line {
        Line {
            control: Control::listen(hello("hub")),
            decoder: FrameDecoder::new(),
            feeds: Feeds::default(),
            ready: false,
            greeted: 0,
            asked: 0,
            announced: BTreeSet::new(),
            awaited: BTreeSet::new(),
            up: false,
            speaks: (false, false),
            delay: Duration::from_millis(5 + rng.below(75)),
            free: [Duration::ZERO; 2],
        }
    }
}

impl Hub {
    pub(super) fn connects(&mut self, peer: usize) {
        self.at(self.now + INVENTORY_WAIT, Event::Late(peer));
        self.task_at(budget::KEEP_ALIVE, Task::KeepAlive(peer));
        self.branch_may_speak(peer);
    }

    /// Puts a frame onto a line; when it arrives.
    fn carry(&mut self, peer: usize, by_hub: bool, message: &Message) -> (Duration, Vec<u8>) {
        let frame = message.encode().expect("what is said can be said");
        self.counts.messages += 1;
        self.counts.bytes += frame.len() as u64;
        *self.kinds.entry((by_hub, message.name())).or_default() += 1;
        self.last_said = self.now;
        let (line, bits) = (&mut self.lines[peer], frame.len() as u64 * 8);
        let free = &mut line.free[usize::from(!by_hub)];
        *free = self.now.max(*free) + Duration::from_nanos(bits * 1_000_000_000 / LINK_BITS);
        (*free + line.delay, frame)
    }

    fn say(&mut self, peer: usize, message: Message) {
        let (at, frame) = self.carry(peer, true, &message);
        self.at(at, Event::AtBranch(peer, frame));
    }

    pub(super) fn branch_may_speak(&mut self, peer: usize) {
        if !std::mem::replace(&mut self.lines[peer].speaks.1, true) {
            self.at(self.now.max(self.lines[peer].free[1]), Event::BranchSpeaks(peer));
        }
    }

    /// A branch says a few things; the rest when the line is free.
    pub(super) fn branch_speaks(&mut self, peer: usize) {
        self.lines[peer].speaks.1 = false;
        for _ in 0..budget::STATEMENTS_AT_ONCE {
            let Some(message) = self.branches[peer].next(&self.scene) else { return };
            let (at, frame) = self.carry(peer, false, &message);
            self.at(at, Event::AtHub(peer, frame));
        }
        self.branch_may_speak(peer);
    }

    fn hub_may_speak(&mut self, peer: usize) {
        let line = &mut self.lines[peer];
        if line.ready && !std::mem::replace(&mut line.speaks.0, true) {
            let free = line.free[0];
            self.at(self.now.max(free), Event::HubSpeaks(peer));
        }
    }

    /// The hub says what is next for a branch; the rest when the line is free.
    pub(super) fn hub_speaks(&mut self, peer: usize) {
        self.lines[peer].speaks.0 = false;
        self.counts.wakes += 1;
        for _ in 0..budget::STATEMENTS_AT_ONCE {
            let next = self.next_for(peer);
            if next.is_empty() {
                return;
            }
            next.into_iter().for_each(|message| self.say(peer, message));
        }
        self.hub_may_speak(peer);
    }

    /// What is held of the next store, or a new head, or a question, or a statement.
    fn next_for(&mut self, peer: usize) -> Vec<Message> {
        let (line, scene) = (&mut self.lines[peer], &self.scene);
        self.counts.polls += 1;
        if line.greeted < scene.stores.len() {
            line.greeted += 1;
            return scene.inventories(line.greeted - 1).into_iter().map(Message::from).collect();
        }
        if let Some((store, image)) = line.announced.pop_first() {
            let (store, entry) = (scene.stores[store].0, scene.entry(store, image));
            return vec![Head { store, entry }.into()];
        }
        let id = scene.branches[peer].id;
        if let Some((store, _)) = scene.stores.get(line.asked) {
            line.asked += 1;
            let heard = self.heard.get(&(id, *store)).copied().unwrap_or_default();
            let (own_log, (known_log, known_place)) = (self.book.log(), heard);
            return vec![Resume { store: *store, own_log, known_log, known_place }.into()];
        }
        line.feeds.next(&self.book, &id, |_| true).map(Message::from).into_iter().collect()
    }

    /// The current generation of an image is to be told to a branch.
    pub(super) fn announce(&mut self, peer: usize, store: usize, image: usize) {
        self.lines[peer].announced.insert((store, image));
        self.hub_may_speak(peer);
    }

    /// A frame of a branch.
    pub(super) fn at_hub(&mut self, peer: usize, frame: &[u8]) {
        self.counts.wakes += 1;
        self.lines[peer].decoder.push(frame);
        loop {
            let line = &mut self.lines[peer];
            let frame = line.decoder.next_frame().expect("frames arrive as sent");
            let Some(frame) = frame else { return };
            let message = Message::decode(frame).expect("messages arrive as sent");
            let event = line.control.handle_message(message).expect("branches keep the rules");
            self.polled(1);
            while let Some(message) = self.lines[peer].control.poll_transmit() {
                self.say(peer, message);
            }
            if let Some(event) = event {
                self.take(peer, event);
            }
        }
    }

    fn take(&mut self, peer: usize, event: ControlEvent) {
        match event {
            ControlEvent::Ready { .. } => {
                let line = &mut self.lines[peer];
                line.ready = true;
                line.awaited = self.scene.stores.iter().map(|(id, _)| *id).collect();
                self.hub_may_speak(peer);
            }
            ControlEvent::Inventory(inventory) => {
                for entry in inventory.entries {
                    self.head(peer, &inventory.store, entry);
                }
                if inventory.last {
                    self.polled(1);
                    let name = &self.scene.stores[at(&inventory.store)].1;
                    self.backlog.handle_inventory(self.scene.branches[peer].id, name);
                    let line = &mut self.lines[peer];
                    line.awaited.remove(&inventory.store);
                    if line.awaited.is_empty() {
                        self.set_up(peer);
                    }
                }
                self.wake();
            }
            ControlEvent::Head(Head { store, entry }) => {
                self.head(peer, &store, entry);
                self.wake();
            }
            ControlEvent::Resume(resume) => {
                self.polled(1);
                let (us, id) = (self.scene.hub.id, self.scene.branches[peer].id);
                if self.lines[peer].feeds.resume(&self.book, &resume, &us) {
                    self.heard.insert((id, resume.store), (resume.own_log, 0));
                }
                self.hub_may_speak(peer);
            }
            ControlEvent::Statement(statement) => self.hear(peer, statement),
            other => panic!("a branch doesn't say {other:?}"),
        }
    }

    fn head(&mut self, peer: usize, store: &StoreId, entry: InventoryEntry) {
        let InventoryEntry { image, number, root, lineage, .. } = entry;
        self.polled(1);
        let (name, held) = (&self.scene.stores[at(store)].1, Version { number, root, lineage });
        let id = self.scene.branches[peer].id;
        self.backlog.handle_peer_head(id, name.clone(), image, held);
    }

    /// From now on the hub offers.
    fn set_up(&mut self, peer: usize) {
        if !std::mem::replace(&mut self.lines[peer].up, true) {
            self.polled(1);
            self.backlog.handle_peer_up(self.scene.branches[peer].id);
            self.wake();
        }
    }

    pub(super) fn late(&mut self, peer: usize) {
        self.set_up(peer);
    }

    /// As the service's `witness` does it, but for the signature.
    fn hear(&mut self, peer: usize, statement: Statement) {
        let (place, id) = (statement.place, self.scene.branches[peer].id);
        let signed = Signed::from_wire(statement).expect("a statement");
        if let Some(at) = self.heard.get_mut(&(id, signed.said.store)) {
            at.1 = at.1.max(place);
        }
        let slot = signed.slot().expect("of a kind that is known");
        self.polled(1);
        let known = self.book.get(&slot);
        if known.is_some_and(|known| known.said.sequence >= signed.said.sequence) {
            return;
        }
        self.taken_up(signed, Some(id));
    }

    /// The book takes a statement; those who didn't say it are told.
    pub(super) fn taken_up(&mut self, signed: Signed, from: Option<NodeId>) {
        self.polled(1);
        match self.book.take(signed, from) {
            Taken::Known => {}
            Taken::Full => self.refused += 1,
            Taken::New => {
                for peer in 0..self.plan.peers {
                    if Some(self.scene.branches[peer].id) != from {
                        self.hub_may_speak(peer);
                    }
                }
                self.wake();
            }
        }
    }

    /// Begins a transfer, which goes well.
    pub(super) fn offered(&mut self, key: &Key) {
        self.counts.offers += 1;
        let peer = self.scene.branches.iter().position(|who| who.id == key.peer);
        let store = self.scene.stores.iter().position(|(_, name)| *name == key.store);
        let (peer, store) = (peer.expect("a branch"), store.expect("a store"));
        self.at(self.now + TRANSFER, Event::Received(peer, store));
    }

    pub(super) fn received(&mut self, peer: usize, store: usize) {
        for (image, name) in self.scene.images.iter().enumerate() {
            let (version, id) = (self.scene.version(store, image), self.scene.branches[peer].id);
            let (store, image) = (self.scene.stores[store].1.clone(), name.clone());
            let key = Key { peer: id, store, image };
            self.counts.polls += 1;
            self.backlog.handle_receipt(key, version.number, version.root);
        }
        self.branches[peer].received(store, &self.scene);
        self.branch_may_speak(peer);
        self.wake();
    }
}
