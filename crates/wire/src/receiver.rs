//! The receiving end of a transfer, from the offer to the receipt.
//!
//! A value without I/O: the driver feeds it messages while it [has room](Receiver::has_room),
//! answers its events and sends what `poll_transmit` gives. What it holds is bounded:
//! [`PARTS_OPEN_MAX`] parts (two bitmaps each), their wants, [`PACKS_UNFILLED_MAX`] packs. Only
//! what was wanted, in the order it was wanted, gets through; whether the bytes are right is for
//! the driver's block hashes.

use std::collections::{BTreeMap, VecDeque};

use blockferry_delta::{PageExtent, Probe, RecipePart, Root};

use crate::error::{Error, PeerMisbehaved, Result, manifest, wrong_state};
use crate::limits::{PACKS_UNFILLED_MAX, PART_PAGES_MAX, PARTS_IN_FLIGHT, PARTS_OPEN_MAX};
use crate::manifest::Manifest;
use crate::message::{
    Abort, Accept, Failed, Filled, Message, Offer, Pack, PartsEnd, Receipt, Refuse, Values,
    WalkStart, Want,
};
use crate::walk::Probing;
use crate::wants::{PartPages, WantQueue, check_extents, extents_bytes, split_packs};

/// A part is complete when and only when nothing is due, of it or of one that it waits for.
const NOTHING_DUE: Error = Error::ApiMisuse("a part is complete when and only when nothing is due");

/// What a receiver tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverEvent {
    /// Judge it, then answer with [`Receiver::accept`], [`Receiver::refuse`] or [`Receiver::have`].
    Offered(Box<Offer>),
    /// Say what is held under these nodes with [`Receiver::handle_values`].
    NeedValues(Probe),
    /// Plan it, then answer with [`Receiver::handle_planned`] or [`Receiver::handle_waiting`].
    Part(RecipePart),
    /// Unpack and fill it, then answer with [`Receiver::handle_filled`]. Its dictionary may lie
    /// beyond the base's end.
    Pack(Pack),
    /// Every part is filled: seal and commit, then answer with [`Receiver::handle_committed`] or
    /// [`Receiver::handle_failed`].
    Complete,
    /// The sender gave up. Keep the staging for the next attempt.
    Cancelled(Abort),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No offer yet.
    Waiting,
    /// The driver judges the offer.
    Judging,
    /// Parts and packs arrive; the bool says that nothing has to (the base is the offer's root).
    Receiving { nothing: bool },
    /// The last part has been announced; packs may still arrive.
    Ending,
    /// Everything is there; the driver commits.
    Committing,
    /// Receipt, refusal or failure queued; what the sender still sends is ignored.
    Ended,
    /// The sender gave up.
    Cancelled,
    /// The peer broke the rules.
    Broken,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Waiting => "an offer is awaited",
            State::Judging => "the offer is being judged",
            State::Receiving { nothing: false } => "parts are being received",
            State::Receiving { nothing: true } => "nothing but the end is awaited",
            State::Ending => "the last packs are awaited",
            State::Committing => "the generation is being committed",
            State::Ended => "the transfer has ended",
            State::Cancelled => "the transfer was cancelled",
            State::Broken => "the transfer is broken",
        }
    }
}

#[derive(Debug)]
struct OpenPart {
    pages: PartPages,
    planned: bool,
    /// Packs wanted that have not come.
    packs_due: usize,
    /// Packs given to the driver that it has not answered.
    packs_filling: usize,
    /// The driver has said that nothing is missing any more.
    complete: bool,
}

/// The receiving end of one transfer.
#[derive(Debug)]
pub struct Receiver {
    state: State,
    /// Packs may have dictionaries.
    dictionaries: bool,
    offer: Option<(Offer, Manifest)>,
    open: BTreeMap<u32, OpenPart>,
    wants: WantQueue,
    packs_unfilled: usize,
    walk: Option<Probing>,
    /// The nodes that the driver is to tell of.
    values_due: Option<Probe>,
    wanted_bytes: u64,
    received_bytes: u64,
    transmit: VecDeque<Message>,
    events: VecDeque<ReceiverEvent>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// The end of a stream that the peer has just opened.
    pub fn new() -> Self {
        Self {
            state: State::Waiting,
            dictionaries: false,
            offer: None,
            open: BTreeMap::new(),
            wants: WantQueue::default(),
            packs_unfilled: 0,
            walk: None,
            values_due: None,
            wanted_bytes: 0,
            received_bytes: 0,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What is offered, once it is.
    pub fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref().map(|(offer, _)| offer)
    }

    /// Whether another message may be handed in. When not, stop reading the stream until packs are
    /// answered with [`handle_filled`](Self::handle_filled).
    pub fn has_room(&self) -> bool {
        self.packs_unfilled < PACKS_UNFILLED_MAX
    }

    /// Nothing more is to be sent or said: the stream may be finished.
    pub fn is_finished(&self) -> bool {
        let over = matches!(self.state, State::Ended | State::Cancelled | State::Broken);
        over && self.transmit.is_empty() && self.events.is_empty()
    }

    /// Raw bytes of the pages wanted so far.
    pub fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// Raw bytes of the pages that have come so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        let message = self.transmit.pop_front()?;
        // One piece of an answer at a time, however long the answer is.
        if matches!(message, Message::Values(_)) {
            self.need_values();
        }
        Some(message)
    }

    /// The next thing to do or to know.
    pub fn poll_event(&mut self) -> Option<ReceiverEvent> {
        self.events.pop_front()
    }

    /// Takes a message of the sender.
    ///
    /// # Errors
    /// Of the peer; the transfer is then over. `API_MISUSE` without [room](Self::has_room).
    pub fn handle_message(&mut self, message: Message) -> Result<()> {
        if !self.has_room() {
            return Err(Error::ApiMisuse("no room for a message"));
        }
        let result = self.take_message(message);
        if result.is_err() {
            self.end(State::Broken);
        }
        result
    }

    fn take_message(&mut self, message: Message) -> Result<()> {
        let name = message.name();
        match (self.state, message) {
            (State::Ended | State::Cancelled, Message::Abort(_)) => Ok(()),
            (State::Ended, Message::Part(_) | Message::PartsEnd(_) | Message::Pack(_)) => Ok(()),
            (State::Ended, Message::Probe(_)) => Ok(()),
            (State::Waiting, Message::Offer(offer)) => {
                self.events.push_back(ReceiverEvent::Offered(Box::new(offer.clone())));
                let manifest = Manifest::new(&offer);
                self.offer = Some((offer, manifest));
                self.state = State::Judging;
                Ok(())
            }
            (_, Message::Part(_) | Message::PartsEnd(_) | Message::Probe(_)) if self.probed() => {
                Err(wrong_state(name, "an answer is due"))
            }
            (State::Receiving { .. }, Message::Probe(probe)) if self.walk.is_some() => {
                self.probe(probe)
            }
            (State::Receiving { nothing: false }, Message::Part(part)) => self.part(part),
            (State::Receiving { .. }, Message::PartsEnd(end)) => self.parts_end(end),
            (State::Receiving { .. } | State::Ending, Message::Pack(pack)) => self.pack(pack),
            (state, Message::Abort(abort)) if !matches!(state, State::Waiting | State::Broken) => {
                self.end(State::Cancelled);
                self.events.push_back(ReceiverEvent::Cancelled(abort));
                Ok(())
            }
            (state, _) => Err(wrong_state(name, state.name())),
        }
    }

    fn part(&mut self, part: RecipePart) -> Result<()> {
        let (offer, rules) = self.offer.as_mut().expect("receiving comes after the offer");
        rules.add(&part).map_err(manifest)?;
        let unplanned = self.open.values().filter(|part| !part.planned).count();
        if unplanned >= PARTS_IN_FLIGHT || self.open.len() >= PARTS_OPEN_MAX {
            return Err(PeerMisbehaved::PartsLimit.into());
        }
        let pages = PartPages::new(&part, offer.size_bytes);
        let (packs_due, packs_filling) = (0, 0);
        let open = OpenPart { pages, planned: false, packs_due, packs_filling, complete: false };
        self.open.insert(part.number, open);
        self.events.push_back(ReceiverEvent::Part(part));
        Ok(())
    }

    fn parts_end(&mut self, end: PartsEnd) -> Result<()> {
        let (_, rules) = self.offer.as_ref().expect("receiving comes after the offer");
        let counts = [
            ("parts", u64::from(end.parts), u64::from(rules.parts())),
            ("blocks", end.blocks, rules.blocks()),
        ];
        for (what, said, counted) in counts {
            if said != counted {
                return Err(PeerMisbehaved::WrongCount { what, said, counted }.into());
            }
        }
        self.state = State::Ending;
        self.complete();
        Ok(())
    }

    fn pack(&mut self, pack: Pack) -> Result<()> {
        let unrequested = |rule| Error::from(PeerMisbehaved::Unrequested { rule });
        let wanted = self.wants.pop().ok_or_else(|| unrequested("no pack is wanted"))?;
        if wanted.part != pack.part || wanted.extents != pack.extents {
            return Err(unrequested("another pack is wanted first"));
        }
        if !pack.dictionary.is_empty() && (wanted.again || !self.dictionaries) {
            return Err(unrequested("no dictionary may be used"));
        }
        let bytes = extents_bytes(&pack.extents, self.size_bytes());
        if bytes != u64::from(pack.raw_bytes) {
            return Err(unrequested("the pages have another length"));
        }
        let part = self.open.get_mut(&pack.part).expect("a part with wants is open");
        part.packs_due -= 1;
        part.packs_filling += 1;
        self.packs_unfilled += 1;
        self.received_bytes += bytes;
        self.events.push_back(ReceiverEvent::Pack(pack));
        Ok(())
    }

    /// Sends for it. `base` is one of the offer's, its own root (then nothing travels), or none.
    /// `dictionaries`: pages of the base can be read while packs come.
    ///
    /// # Errors
    /// `API_MISUSE` when no offer is open or the base was not offered.
    pub fn accept(&mut self, base: Option<Root>, dictionaries: bool) -> Result<()> {
        if !self.judging()? {
            return Ok(());
        }
        let (offer, _) = self.offer.as_ref().expect("judging comes after the offer");
        let offered = |root: &Root| *root == offer.root || offer.bases.contains(root);
        if !base.as_ref().is_none_or(offered) {
            return Err(Error::ApiMisuse("the base was not offered"));
        }
        self.state = State::Receiving { nothing: base == Some(offer.root) };
        self.dictionaries = dictionaries && base.is_some_and(|base| base != offer.root);
        let accept = Accept { base, dictionaries: self.dictionaries, walk: None };
        self.transmit.push_back(Message::Accept(accept));
        Ok(())
    }

    /// Sends for what differs from a content that is held here and is none of the offer's bases.
    ///
    /// # Errors
    /// `API_MISUSE` when no offer is open, when the sender can't compare, or when no block can be
    /// compared: accept without a base instead.
    pub fn accept_walk(&mut self, start: WalkStart) -> Result<()> {
        if !self.judging()? {
            return Ok(());
        }
        let (offer, _) = self.offer.as_ref().expect("judging comes after the offer");
        let walk = offer.older.as_ref().and_then(|_| Probing::begin(offer.size_bytes, &start));
        self.walk = Some(walk.ok_or(Error::ApiMisuse("nothing can be compared"))?);
        self.state = State::Receiving { nothing: false };
        let accept = Accept { base: None, dictionaries: false, walk: Some(start) };
        self.transmit.push_back(Message::Accept(accept));
        self.need_values();
        Ok(())
    }

    /// What is held under the nodes that were asked about last.
    ///
    /// # Errors
    /// `API_MISUSE` when nothing was asked about or it is not as long as it has to be.
    pub fn handle_values(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        let fits = |piece: &Probe| piece.count() * piece.level.answer_bytes() as u64;
        let due = self.values_due.take_if(|piece| fits(piece) == bytes.len() as u64);
        let level = due.ok_or(Error::ApiMisuse("values of other nodes"))?.level;
        self.transmit.push_back(Message::Values(Values { level, bytes }));
        Ok(())
    }

    /// Declines it.
    ///
    /// # Errors
    /// `API_MISUSE` when no offer is open.
    pub fn refuse(&mut self, refuse: Refuse) -> Result<()> {
        if self.judging()? {
            self.finish(Message::Refuse(refuse));
        }
        Ok(())
    }

    /// Says that it is here already.
    ///
    /// # Errors
    /// `API_MISUSE` when no offer is open or the receipt is for something else.
    pub fn have(&mut self, receipt: Receipt) -> Result<()> {
        if self.judging()? {
            self.send_receipt(receipt)?;
        }
        Ok(())
    }

    /// A part is planned: these pages are wanted. When there are none the part must be complete.
    ///
    /// # Errors
    /// `API_MISUSE` when the part was not given out or doesn't have these pages.
    pub fn handle_planned(&mut self, part: u32, wants: Vec<PageExtent>) -> Result<()> {
        let complete = wants.is_empty();
        if self.planned(part, wants)? && complete {
            self.close(part);
        }
        Ok(())
    }

    /// A part is planned: nothing of it is wanted, but it isn't complete before others have come.
    ///
    /// # Errors
    /// `API_MISUSE` when the part was not given out or no other part has packs that are due.
    pub fn handle_waiting(&mut self, part: u32) -> Result<()> {
        if !self.is_over() && !self.is_due_beside(part) {
            return Err(NOTHING_DUE);
        }
        self.planned(part, Vec::new()).map(|_| ())
    }

    /// Says what is wanted of a part; `false` when the transfer is over.
    fn planned(&mut self, part: u32, wants: Vec<PageExtent>) -> Result<bool> {
        if self.is_over() {
            return Ok(false);
        }
        match self.open.get(&part) {
            Some(open) if !open.planned => {}
            _ => return Err(Error::ApiMisuse("the part is not to be planned")),
        }
        self.want(part, wants, false)?;
        Ok(true)
    }

    /// A pack of `part` is filled in. `again` names pages of blocks that failed their hash;
    /// `complete` says that no page of the part is missing any more.
    ///
    /// # Errors
    /// `API_MISUSE` when no pack of the part was given out, when the pages can't be wanted again,
    /// or when nothing is due, of other parts neither, and yet the part isn't complete.
    pub fn handle_filled(
        &mut self,
        part: u32,
        again: Vec<PageExtent>,
        complete: bool,
    ) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if self.open.get(&part).is_none_or(|open| open.packs_filling == 0) {
            return Err(Error::ApiMisuse("no pack of the part is to be filled"));
        }
        self.moved_on(part, again, complete, 1)
    }

    /// What another part brought has moved `part` on; the rest is as in
    /// [`handle_filled`](Self::handle_filled).
    ///
    /// # Errors
    /// `API_MISUSE` when the part is not planned; and as there.
    pub fn handle_brought(
        &mut self,
        part: u32,
        again: Vec<PageExtent>,
        complete: bool,
    ) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if self.open.get(&part).is_none_or(|open| !open.planned) {
            return Err(Error::ApiMisuse("the part waits for nothing"));
        }
        self.moved_on(part, again, complete, 0)
    }

    /// A part has got something: what so many packs held, or what another part brought.
    fn moved_on(
        &mut self,
        part: u32,
        again: Vec<PageExtent>,
        complete: bool,
        packs: usize,
    ) -> Result<()> {
        let waits = self.is_due_beside(part);
        let open = self.open.get_mut(&part).ok_or(Error::ApiMisuse("the part is not open"))?;
        let last = open.packs_due + open.packs_filling == packs && again.is_empty();
        // Packs filled side by side may be told of in any order, so completeness is kept.
        let complete = open.complete || complete;
        if complete && !again.is_empty() || last && !complete && !waits {
            return Err(NOTHING_DUE);
        }
        open.complete = complete;
        open.packs_filling -= packs;
        self.packs_unfilled -= packs;
        if !again.is_empty() {
            self.want(part, again, true)?;
        }
        if last && complete {
            self.close(part);
        }
        Ok(())
    }

    /// Are packs of other parts due?
    fn is_due_beside(&self, part: u32) -> bool {
        let others = self.open.iter().filter(|(number, _)| **number != part);
        others.map(|(_, open)| open).any(|open| open.packs_due + open.packs_filling > 0)
    }

    /// The generation is durable: the last word of the transfer.
    ///
    /// # Errors
    /// `API_MISUSE` when nothing is to be committed or the receipt is for something else.
    pub fn handle_committed(&mut self, receipt: Receipt) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if self.state != State::Committing {
            return Err(Error::ApiMisuse("nothing is to be committed"));
        }
        self.send_receipt(receipt)
    }

    /// It came to nothing here. Harmless when the transfer is over.
    ///
    /// # Errors
    /// `API_MISUSE` before the offer was accepted: refuse it instead.
    pub fn handle_failed(&mut self, failed: Failed) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if matches!(self.state, State::Waiting | State::Judging) {
            return Err(Error::ApiMisuse("an offer that was not accepted is refused"));
        }
        self.finish(Message::Failed(failed));
        Ok(())
    }

    fn probe(&mut self, probe: Probe) -> Result<()> {
        let walk = self.walk.as_mut().expect("there is a walk");
        walk.ask(probe).map_err(|rule| PeerMisbehaved::Unrequested { rule })?;
        self.need_values();
        Ok(())
    }

    /// Is an answer due, or on its way out?
    fn probed(&self) -> bool {
        let unsent = || self.transmit.iter().any(|message| matches!(message, Message::Values(_)));
        self.values_due.is_some() || self.walk.as_ref().is_some_and(|w| w.is_open() || unsent())
    }

    fn need_values(&mut self) {
        if let Some(piece) = self.walk.as_mut().and_then(Probing::next_piece) {
            self.values_due = Some(piece.clone());
            self.events.push_back(ReceiverEvent::NeedValues(piece));
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Cancelled | State::Broken)
    }

    /// Whether an answer to the offer is due; `false` when the transfer is over.
    fn judging(&self) -> Result<bool> {
        match self.state {
            State::Judging => Ok(true),
            _ if self.is_over() => Ok(false),
            _ => Err(Error::ApiMisuse("no offer is to be answered")),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.offer.as_ref().map_or(0, |(offer, _)| offer.size_bytes)
    }

    fn want(&mut self, part: u32, extents: Vec<PageExtent>, again: bool) -> Result<()> {
        check_extents(&extents, PART_PAGES_MAX as u64).map_err(Error::ApiMisuse)?;
        let size_bytes = self.size_bytes();
        let open = self.open.get_mut(&part).ok_or(Error::ApiMisuse("the part is not open"))?;
        let marked = open.pages.mark(&extents, again);
        marked.map_err(|_| Error::ApiMisuse("pages that may not be wanted (again)"))?;
        open.planned = true;
        open.packs_due += split_packs(&extents).len();
        self.wanted_bytes += extents_bytes(&extents, size_bytes);
        self.wants.push(part, again, extents.clone());
        self.transmit.push_back(Message::Want(Want { part, again, extents }));
        Ok(())
    }

    fn close(&mut self, part: u32) {
        self.open.remove(&part);
        self.transmit.push_back(Message::Filled(Filled { part }));
        self.complete();
    }

    fn complete(&mut self) {
        if self.state == State::Ending && self.open.is_empty() {
            self.state = State::Committing;
            self.events.push_back(ReceiverEvent::Complete);
        }
    }

    fn send_receipt(&mut self, receipt: Receipt) -> Result<()> {
        if !self.offer().is_some_and(|offer| receipt.answers(offer)) {
            return Err(Error::ApiMisuse("the receipt is for something else"));
        }
        self.finish(Message::Receipt(receipt));
        Ok(())
    }

    /// Says the last word; what was to be said before still goes out.
    fn finish(&mut self, last: Message) {
        let before = std::mem::take(&mut self.transmit);
        self.end(State::Ended);
        self.transmit = before;
        self.transmit.push_back(last);
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.open.clear();
        self.wants = WantQueue::default();
        self.packs_unfilled = 0;
        (self.walk, self.values_due) = (None, None);
        self.transmit.clear();
        self.events.clear();
    }
}
