//! The offering end of a transfer, from the offer to the receipt.
//!
//! A value without I/O: the driver feeds it messages and answers its events, and sends what
//! `poll_transmit` gives. What it holds is bounded: [`PARTS_OPEN_MAX`] parts (two bitmaps each),
//! their wants, [`PACKS_IN_FLIGHT`] packs. A page travels at most twice. After an error of the peer
//! the value is of no more use; the driver closes the connection with the error's number.

use std::collections::{BTreeMap, VecDeque};

use blockferry_delta::{PageExtent, Probe, RecipePart, Root};

use crate::bulk::check_pack;
use crate::error::{Error, PeerMisbehaved, Result, wrong_state};
use crate::limits::{PACKS_IN_FLIGHT, PARTS_IN_FLIGHT, PARTS_OPEN_MAX};
use crate::manifest::Manifest;
use crate::message::{
    Abort, Accept, Failed, Message, Offer, Pack, PartsEnd, Receipt, Refuse, Values, WalkStart, Want,
};
use crate::refusal::Refusal;
use crate::walk::Probing;
use crate::wants::{BadPage, PartPages, WantQueue, Wanted, extents_bytes};

/// What a sender tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderEvent {
    /// The receiver starts from this base: the recipe is to be made against it. When it is the
    /// offer's own root no part is asked for.
    Accepted {
        /// One of the offer's bases, its own root, or none.
        base: Option<Root>,
        /// Packs may have pages of that base as dictionaries.
        dictionaries: bool,
    },
    /// The receiver starts from a content that is none of the bases: compare with it. The answer to
    /// the first probe of a [`Walk`](blockferry_delta::Walk) comes unasked, before a part is asked
    /// for.
    Walk(WalkStart),
    /// What the receiver holds under these nodes.
    Values {
        /// The nodes: a piece of the open probe.
        piece: Probe,
        /// As many bytes for each node as the level has.
        bytes: Vec<u8>,
    },
    /// Answer with [`Sender::handle_part`] or [`Sender::handle_parts_end`]; in a walk also with
    /// [`Sender::handle_probe`].
    NeedPart,
    /// Answer with [`Sender::handle_pack`]. Several may be asked for at a time; answer in order.
    NeedPack {
        /// The part the pages belong to.
        part: u32,
        /// At most 512 pages.
        extents: Vec<PageExtent>,
        /// It may have a dictionary: the receiver can read the base and doesn't ask again.
        dictionary: bool,
    },
    /// The receiver has it; the signature is for the driver to verify.
    Done(Receipt),
    /// The receiver does not want it now.
    Refused(Refuse),
    /// It came to nothing at the receiver.
    Failed(Failed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Offer queued or sent, no answer yet.
    Offered,
    /// Accepted: parts and packs travel.
    Sending,
    /// Everything the recipe has was sent; wants may still come.
    Ending,
    /// A receipt, a refusal or a failure has come.
    Ended,
    /// Given up by this side; what the peer still says is ignored.
    Cancelled,
    /// The peer broke the rules.
    Broken,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Offered => "an offer is open",
            State::Sending => "parts are being sent",
            State::Ending => "a receipt is awaited",
            State::Ended => "the transfer has ended",
            State::Cancelled => "the transfer was cancelled",
            State::Broken => "the transfer is broken",
        }
    }
}

#[derive(Debug)]
struct OpenPart {
    pages: PartPages,
    /// Its first want has come.
    planned: bool,
    /// Pages wanted that were not yet given to the driver to send.
    pages_due: u64,
}

/// The offering end of one transfer.
#[derive(Debug)]
pub struct Sender {
    offer: Offer,
    state: State,
    /// The receiver takes dictionaries.
    dictionaries: bool,
    manifest: Manifest,
    open: BTreeMap<u32, OpenPart>,
    wants: WantQueue,
    /// Packs asked of the driver, oldest first.
    asked: VecDeque<Wanted>,
    packs_queued: usize,
    part_asked: bool,
    walk: Option<Probing>,
    wanted_bytes: u64,
    sent_bytes: u64,
    transmit: VecDeque<Message>,
    events: VecDeque<SenderEvent>,
}

impl Sender {
    /// A transfer that begins with `offer`.
    ///
    /// # Errors
    /// `API_MISUSE` when the offer breaks the rules of the protocol.
    pub fn new(offer: Offer) -> Result<Self> {
        offer.check().map_err(|_| Error::ApiMisuse("offer breaks the rules of the protocol"))?;
        Ok(Self {
            manifest: Manifest::new(&offer),
            transmit: VecDeque::from([Message::Offer(offer.clone())]),
            offer,
            state: State::Offered,
            dictionaries: false,
            open: BTreeMap::new(),
            wants: WantQueue::default(),
            asked: VecDeque::new(),
            packs_queued: 0,
            part_asked: false,
            walk: None,
            wanted_bytes: 0,
            sent_bytes: 0,
            events: VecDeque::new(),
        })
    }

    /// What is offered.
    pub fn offer(&self) -> &Offer {
        &self.offer
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

    /// Raw bytes of the pages given to the driver to send so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        let message = self.transmit.pop_front()?;
        if let Message::Pack(pack) = &message {
            self.packs_queued -= 1;
            self.sent_bytes += u64::from(pack.raw_bytes);
            if let Some(part) = self.open.get_mut(&pack.part) {
                part.pages_due -= count_pages(&pack.extents);
            }
            self.ask();
        }
        Some(message)
    }

    /// The next thing to do or to know.
    pub fn poll_event(&mut self) -> Option<SenderEvent> {
        self.events.pop_front()
    }

    /// Takes a message of the receiver.
    ///
    /// # Errors
    /// Of the peer; the transfer is then over.
    pub fn handle_message(&mut self, message: Message) -> Result<()> {
        let result = self.take_message(message);
        if result.is_err() {
            self.end(State::Broken);
        }
        result
    }

    fn take_message(&mut self, message: Message) -> Result<()> {
        let name = message.name();
        match (self.state, message) {
            (State::Cancelled, Message::Accept(_) | Message::Want(_) | Message::Filled(_)) => {
                Ok(())
            }
            (State::Cancelled, Message::Refuse(_) | Message::Receipt(_) | Message::Failed(_)) => {
                Ok(())
            }
            (State::Cancelled, Message::Values(_)) => Ok(()),
            (State::Offered, Message::Accept(accept)) => self.accepted(accept),
            (State::Sending, Message::Values(values)) if self.walk.is_some() => self.values(values),
            (State::Offered, Message::Refuse(refuse)) => self.ended(SenderEvent::Refused(refuse)),
            (State::Offered, Message::Receipt(receipt)) => self.receipt(receipt),
            (State::Ending, Message::Receipt(receipt)) if self.open.is_empty() => {
                self.receipt(receipt)
            }
            (State::Sending | State::Ending, Message::Want(want)) => self.wanted(want),
            (State::Sending | State::Ending, Message::Filled(filled)) => self.filled(filled.part),
            (State::Sending | State::Ending, Message::Failed(failed)) => {
                self.ended(SenderEvent::Failed(failed))
            }
            (state, _) => Err(wrong_state(name, state.name())),
        }
    }

    fn accepted(&mut self, accept: Accept) -> Result<()> {
        let Accept { base, dictionaries, walk } = accept;
        let offered = |root: &Root| *root == self.offer.root || self.offer.bases.contains(root);
        if !base.as_ref().is_none_or(offered) {
            return Err(PeerMisbehaved::WrongBase.into());
        }
        if let Some(start) = walk {
            let offered = self.offer.older.as_ref();
            let walk = offered.and_then(|_| Probing::begin(self.offer.size_bytes, &start));
            self.walk = Some(walk.ok_or(PeerMisbehaved::WrongBase)?);
            self.events.push_back(SenderEvent::Walk(start));
            self.state = State::Sending;
            return Ok(());
        }
        self.dictionaries = dictionaries && base.is_some_and(|base| base != self.offer.root);
        let dictionaries = self.dictionaries;
        self.events.push_back(SenderEvent::Accepted { base, dictionaries });
        self.state = State::Sending;
        if base == Some(self.offer.root) {
            self.send_parts_end()
        } else {
            self.ask()
        }
        Ok(())
    }

    fn values(&mut self, Values { level, bytes }: Values) -> Result<()> {
        let unrequested = |rule| Error::from(PeerMisbehaved::Unrequested { rule });
        let piece = self.walk.as_mut().and_then(Probing::next_piece);
        let piece = piece.ok_or_else(|| unrequested("nothing was asked about"))?;
        let due = piece.count() * level.answer_bytes() as u64;
        if level != piece.level || bytes.len() as u64 != due {
            return Err(unrequested("values of other nodes"));
        }
        self.events.push_back(SenderEvent::Values { piece, bytes });
        self.ask();
        Ok(())
    }

    fn wanted(&mut self, want: Want) -> Result<()> {
        let Want { part: number, again, extents } = want;
        let unrequested = |rule| Error::from(PeerMisbehaved::Unrequested { rule });
        let part = self.open.get_mut(&number).ok_or_else(|| unrequested("part is not open"))?;
        if part.planned != again {
            return Err(unrequested("a part has one first want, then others"));
        }
        if again && extents.is_empty() {
            return Err(unrequested("nothing is wanted again"));
        }
        part.pages.mark(&extents, again).map_err(|bad| match bad {
            BadPage::Outside(page) => PeerMisbehaved::BadRange { part: number, page },
            BadPage::Twice(page) => PeerMisbehaved::WantLimit { part: number, page },
        })?;
        part.planned = true;
        part.pages_due += count_pages(&extents);
        self.wanted_bytes += extents_bytes(&extents, self.offer.size_bytes);
        self.wants.push(number, again, extents);
        self.ask();
        Ok(())
    }

    fn filled(&mut self, number: u32) -> Result<()> {
        match self.open.get(&number) {
            Some(part) if part.planned && part.pages_due == 0 => {
                self.open.remove(&number);
                self.ask();
                Ok(())
            }
            Some(_) => Err(wrong_state("Filled", "pages of the part are due")),
            None => Err(PeerMisbehaved::Unrequested { rule: "part is not open" }.into()),
        }
    }

    fn receipt(&mut self, receipt: Receipt) -> Result<()> {
        if !receipt.answers(&self.offer) {
            return Err(PeerMisbehaved::WrongReceipt.into());
        }
        self.ended(SenderEvent::Done(receipt))
    }

    fn ended(&mut self, event: SenderEvent) -> Result<()> {
        self.end(State::Ended);
        self.events.push_back(event);
        Ok(())
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.open.clear();
        self.wants = WantQueue::default();
        self.asked.clear();
        self.walk = None;
        self.packs_queued = 0;
        self.transmit.clear();
        self.events.clear();
    }

    /// Takes the part that was asked for.
    ///
    /// # Errors
    /// `API_MISUSE` when none was asked for or the part breaks the rules of the protocol.
    pub fn handle_part(&mut self, part: RecipePart) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if !self.part_asked {
            return Err(Error::ApiMisuse("no part was asked for"));
        }
        self.manifest.add(&part).map_err(Error::ApiMisuse)?;
        self.part_asked = false;
        let pages = PartPages::new(&part, self.offer.size_bytes);
        self.open.insert(part.number, OpenPart { pages, planned: false, pages_due: 0 });
        self.transmit.push_back(Message::Part(part));
        self.ask();
        Ok(())
    }

    /// Asks about what the receiver holds, instead of giving the part that was asked for. The part
    /// is asked for again when the answer is complete.
    ///
    /// # Errors
    /// `API_MISUSE` when no part was asked for, outside a walk, or for nodes that may not be asked
    /// about.
    pub fn handle_probe(&mut self, probe: Probe) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        let walk = self.walk.as_mut().filter(|_| self.part_asked);
        let walk = walk.ok_or(Error::ApiMisuse("nothing is to be asked about"))?;
        walk.ask(probe.clone()).map_err(Error::ApiMisuse)?;
        self.part_asked = false;
        self.transmit.push_back(Message::Probe(probe));
        Ok(())
    }

    /// There are no more parts.
    ///
    /// # Errors
    /// `API_MISUSE` when no part was asked for.
    pub fn handle_parts_end(&mut self) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if !self.part_asked {
            return Err(Error::ApiMisuse("no part was asked for"));
        }
        self.part_asked = false;
        self.send_parts_end();
        Ok(())
    }

    /// Takes the oldest pack that was asked for.
    ///
    /// # Errors
    /// `API_MISUSE` when it is not that one or breaks the rules of the protocol.
    pub fn handle_pack(&mut self, pack: Pack) -> Result<()> {
        if self.is_over() {
            return Ok(());
        }
        check_pack(&pack).map_err(Error::ApiMisuse)?;
        let asked = self.asked.front().is_some_and(|wanted| {
            let may_have = self.dictionaries && !wanted.again;
            wanted.part == pack.part
                && wanted.extents == pack.extents
                && extents_bytes(&pack.extents, self.offer.size_bytes) == pack.raw_bytes.into()
                && (pack.dictionary.is_empty() || may_have)
        });
        if !asked {
            return Err(Error::ApiMisuse("not the oldest pack that was asked for"));
        }
        self.asked.pop_front();
        self.packs_queued += 1;
        self.transmit.push_back(Message::Pack(pack));
        Ok(())
    }

    /// Gives up: the source is torn, the node goes down, an operator said so. Harmless when the
    /// transfer is over.
    pub fn handle_cancel(&mut self, code: Refusal, text: &str) {
        if self.is_over() {
            return;
        }
        // The stream must begin with the offer, even when it never left.
        let offer = self.transmit.pop_front().filter(|m| matches!(m, Message::Offer(_)));
        self.end(State::Cancelled);
        self.transmit.extend(offer);
        self.transmit.push_back(Message::Abort(Abort::new(code, text)));
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Cancelled | State::Broken)
    }

    fn send_parts_end(&mut self) {
        self.state = State::Ending;
        let (parts, blocks) = (self.manifest.parts(), self.manifest.blocks());
        self.transmit.push_back(Message::PartsEnd(PartsEnd { parts, blocks }));
    }

    /// Asks the driver for whatever there is room for.
    fn ask(&mut self) {
        let unplanned = self.open.values().filter(|part| !part.planned).count();
        let room = unplanned < PARTS_IN_FLIGHT && self.open.len() < PARTS_OPEN_MAX;
        let probing = self.walk.as_ref().is_some_and(Probing::is_open);
        if self.state == State::Sending && !self.part_asked && room && !probing {
            self.part_asked = true;
            self.events.push_back(SenderEvent::NeedPart);
        }
        while self.asked.len() + self.packs_queued < PACKS_IN_FLIGHT
            && let Some(wanted) = self.wants.pop()
        {
            let Wanted { part, again, extents } = wanted.clone();
            self.asked.push_back(wanted);
            let dictionary = self.dictionaries && !again;
            self.events.push_back(SenderEvent::NeedPack { part, extents, dictionary });
        }
    }
}

fn count_pages(extents: &[PageExtent]) -> u64 {
    extents.iter().map(|extent| u64::from(extent.count)).sum()
}
