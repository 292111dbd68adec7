//! The receiving side of a transfer: judge, plan, stage, fill, commit, receipt.
//!
//! Whatever the peer sends passes the store's block hashes before it counts. A refusal is said
//! before the first byte; a failure after it keeps the staging, so that the next attempt resumes
//! inside the image. The receipt is made after the last durable step and never before.

use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::{ImageName, NodeId, Root, comparable_blocks};
use blockferry_store::{
    Discover, Error as StoreError, Generation, Received, Sealed, StageRequest, Staging, Store,
    WalkMap, Why,
};
use blockferry_wire::{
    Failed, Message, Offer, Pack, Receipt, Receiver, ReceiverEvent, Refusal, Refuse, WalkStart,
};
use tracing::warn;

use super::Step;
use super::dictionary::{Unpacked, unpacked};
use super::kept;
use super::travelled::Travelled;
use super::waiting::Waiting;
use crate::api::Role;
use crate::error::Result;
use crate::events::now_unix_ms;
use crate::membership::identity::Identity;
use crate::transfer::judge::{Decision, Held, Offerer, Version, judge};
use crate::transfer::verdict;

mod adoption;
mod keep;
mod mend;
mod set;

/// The content to start from and, when the sender has to compare with it, how.
type Planned = (Option<Root>, Option<(WalkStart, WalkMap)>);

/// How a transfer ended for the receiver.
#[derive(Debug)]
pub enum RecvOutcome {
    /// It is current here, and the receipt was sent.
    Committed(Box<Generation>),
    /// It was here already, and a receipt was sent.
    AlreadyHere {
        /// Which image.
        image: ImageName,
        /// Its generation's number.
        number: u64,
        /// Its content.
        root: Root,
    },
    /// It diverged from ours: it is kept beside it, and the peer was told.
    Kept {
        /// What is kept.
        generation: Box<Generation>,
        /// Not two who changed it, but one history with two contents.
        fork: bool,
    },
    /// It was here already with a file that had rotted, and is right again; the receipt was sent.
    Mended {
        /// Its generation.
        generation: Box<Generation>,
        /// Bytes that travelled for it.
        wire_bytes: u64,
    },
    /// It is kept beside the image, which another tool has; the peer was told.
    Shadowed(Box<Generation>),
    /// We refused it.
    Refused {
        /// Which image.
        image: ImageName,
        /// The code we gave.
        code: Refusal,
        /// Our words.
        text: String,
    },
    /// It came to nothing here; the peer was told.
    FailedHere {
        /// Which image.
        image: ImageName,
        /// Why.
        error: StoreError,
    },
    /// It is sealed here and waits for others of its set; the peer was told.
    Waits {
        /// Which image.
        image: ImageName,
        /// How many images of the set are missing.
        missing: usize,
    },
    /// The peer gave up.
    Cancelled {
        /// Which image.
        image: ImageName,
        /// The code it gave.
        code: Refusal,
        /// Its words.
        text: String,
    },
}

/// The receiving side of one transfer.
#[derive(Debug)]
pub struct RecvSide {
    store: Arc<Store>,
    identity: Identity,
    peer: NodeId,
    peer_role: Option<Role>,
    receiver: Receiver,
    staging: Option<Staging>,
    /// What is held here, for a sender that has no map of it.
    walk: Option<WalkMap>,
    /// What is replaced goes into quarantine.
    sets_aside: bool,
    /// What is replaced is an edit of a mirror.
    undoes_edit: bool,
    /// What is replaced lost a conflict: it is kept until somebody has said that it may go.
    keeps_loser: bool,
    /// It becomes no current content but is kept beside ours; true: as a fork.
    beside: Option<bool>,
    /// It is kept beside the image, which another tool has.
    shadow: bool,
    /// It is current here already, and its file is built again.
    mends: bool,
    /// Our generation under a lineage that says what it doesn't descend from.
    restamped: Option<Generation>,
    /// The generation as it will be recorded here.
    generation: Option<Generation>,
    /// What waits for its set here, from all transfers.
    waiting: Arc<Waiting>,
    /// Members of its set that are newer at the peer than here.
    to_come: Vec<ImageName>,
    /// What became current together with it.
    others: Vec<Generation>,
    wire_bytes: u64,
    found_bytes: u64,
    kept_bytes: u64,
    travelled: Travelled,
    /// Measures the transfer; decides nothing.
    started: Instant,
    outcome: Option<RecvOutcome>,
}

impl RecvSide {
    /// Receives from `peer`, which has `peer_role` in the store if we know it. The offer, which must
    /// be for `store`, is the first message to hand in.
    pub fn new(
        store: Arc<Store>,
        identity: Identity,
        peer: NodeId,
        peer_role: Option<Role>,
    ) -> Self {
        Self {
            store,
            identity,
            peer,
            peer_role,
            receiver: Receiver::new(),
            staging: None,
            walk: None,
            sets_aside: false,
            undoes_edit: false,
            keeps_loser: false,
            beside: None,
            shadow: false,
            mends: false,
            restamped: None,
            generation: None,
            waiting: Arc::default(),
            to_come: Vec::new(),
            others: Vec::new(),
            wire_bytes: 0,
            found_bytes: 0,
            kept_bytes: 0,
            travelled: Travelled::default(),
            started: Instant::now(),
            outcome: None,
        }
    }

    /// How it came, for monitors.
    pub fn travelled(&self) -> &Travelled {
        &self.travelled
    }

    /// Images of sets wait for each other in `waiting`, which all transfers of the store share;
    /// `to_come` are members of the offered set that are newer at the peer than here.
    #[must_use]
    pub fn with_waiting(mut self, waiting: Arc<Waiting>, to_come: Vec<ImageName>) -> Self {
        self.waiting = waiting;
        self.to_come = to_come;
        self
    }

    /// The generations that became current together with it.
    pub fn take_others(&mut self) -> Vec<Generation> {
        std::mem::take(&mut self.others)
    }

    /// Whether another message may be handed in now.
    pub fn has_room(&self) -> bool {
        self.receiver.has_room()
    }

    /// Raw bytes that have come, and those wanted so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.receiver.received_bytes(), self.receiver.wanted_bytes())
    }

    /// Whether the generation is durable here, whatever becomes of the receipt.
    pub fn is_committed(&self) -> bool {
        matches!(self.outcome, Some(RecvOutcome::Committed(_)))
    }

    /// Takes a message of the peer that took `wire_bytes` on the wire.
    ///
    /// # Errors
    /// The peer broke the protocol; the transfer is over.
    pub fn handle_message(&mut self, message: Message, wire_bytes: u64) -> Result<()> {
        self.wire_bytes = self.wire_bytes.saturating_add(wire_bytes);
        Ok(self.receiver.handle_message(message)?)
    }

    /// What to do next. Never says [`Step::Pack`].
    ///
    /// # Errors
    /// The peer sent what contradicts itself; the transfer is over.
    pub fn step(&mut self) -> Result<Step<RecvOutcome>> {
        loop {
            if let Some(message) = self.receiver.poll_transmit() {
                return Ok(Step::Transmit(Box::new(message)));
            }
            let Some(event) = self.receiver.poll_event() else { break };
            match self.take(event) {
                Err(crate::Error::Store(error)) if !verdict::is_peers_doing(&error) => {
                    self.fail(error)?;
                }
                other => other?,
            }
        }
        match self.outcome.take() {
            Some(outcome) if self.receiver.is_finished() => Ok(Step::Done(outcome)),
            outcome => {
                self.outcome = outcome;
                Ok(Step::Wait)
            }
        }
    }

    fn take(&mut self, event: ReceiverEvent) -> Result<()> {
        match event {
            ReceiverEvent::Offered(offer) => self.offered(&offer),
            ReceiverEvent::Part(part) => {
                // Without a staging the transfer has failed already.
                let Some(staging) = &mut self.staging else { return Ok(()) };
                let planned = staging.plan(&part)?;
                self.found_bytes = self.found_bytes.saturating_add(planned.found_bytes);
                self.kept_bytes = self.kept_bytes.saturating_add(planned.kept_bytes);
                self.travelled.note_planned(&planned);
                match planned.complete || !planned.wants.is_empty() {
                    true => self.receiver.handle_planned(part.number, planned.wants)?,
                    false => self.receiver.handle_waiting(part.number)?,
                }
                Ok(())
            }
            ReceiverEvent::NeedValues(piece) => {
                let Some(walk) = &mut self.walk else { return Ok(()) };
                let bytes = walk.answer(&piece)?;
                Ok(self.receiver.handle_values(bytes)?)
            }
            ReceiverEvent::Pack(pack) => {
                self.travelled.note_pack(&pack);
                self.fill(&pack)
            }
            ReceiverEvent::Complete => self.commit(),
            ReceiverEvent::Cancelled(abort) => {
                let image = self.image();
                let (code, text) = (abort.code, abort.text.to_string());
                self.set_down();
                self.outcome = image.map(|image| RecvOutcome::Cancelled { image, code, text });
                Ok(())
            }
        }
    }

    fn offered(&mut self, offer: &Offer) -> Result<()> {
        if offer.store != self.store.identity().id {
            return self.refuse(offer, Refuse::new(Refusal::StoreUnknown, "another store"));
        }
        let ours = self.store.current(&offer.image)?;
        let held = ours.as_ref().map(version_of);
        let offered =
            Version { number: offer.number, root: offer.root, lineage: offer.lineage.clone() };
        let from = Offerer { role: self.peer_role, is_author: offer.author == self.peer };
        let mut generation = generation_of(offer);
        let came_by = self.came_by(ours.as_ref(), offer)?;
        let decision = judge(held.as_ref(), came_by, &offered, from);
        if self.old_tool_rules(offer, ours.as_ref(), &decision)? {
            return Ok(());
        }
        match decision {
            Decision::Accept => self.keeps_loser = self.ends_conflict(ours.as_ref(), offer)?,
            Decision::SetAside => self.set_aside(ours.as_ref()),
            Decision::Merge(lineage) => {
                // Its number must be free here; the lineages tell the two sides who goes on.
                let ours = held.map_or(0, |h| h.number);
                generation.number = ours.max(offer.number).saturating_add(1);
                generation.lineage = lineage;
            }
            Decision::AlreadyHere => {
                if let Some(ours) = self.to_mend(offer)? {
                    return self.mend(offer, ours);
                }
                if came_by != Held::Recorded {
                    self.store.confirm(&generation, now_unix_ms())?;
                }
                return self.already_here(offer);
            }
            Decision::Older => return self.refuse_as(offer, Refusal::GenerationOld),
            Decision::Diverged => return self.keep(offer, generation, None),
            Decision::Fork => return self.keep(offer, generation, ours.as_ref()),
            Decision::Forbidden => return self.refuse_as(offer, Refusal::Forbidden),
        }
        if self.waiting.holds(&offer.image, &offer.root) {
            return self.complete_set(offer, None);
        }
        self.waiting.clear(&self.store, &offer.image);
        if let Some(there) = self.without_transfer(offer, &generation)? {
            self.receiver.have(self.receipt(offer))?;
            self.outcome = Some(RecvOutcome::Committed(Box::new(there)));
            return Ok(());
        }
        if let Some(sealed) = self.sealed_of_kept(offer, &generation)? {
            return self.complete_set(offer, Some((sealed, self.stats())));
        }
        self.stage(offer, generation)
    }

    /// The offered generation, made current without anything being sent: a deletion, or bytes that
    /// are under this name already.
    fn without_transfer(
        &self,
        offer: &Offer,
        generation: &Generation,
    ) -> Result<Option<Generation>> {
        if offer.is_deletion() {
            let kept = match (self.keeps_loser, self.sets_aside) {
                (true, _) => Some(Why::Conflict),
                (false, aside) => aside.then_some(Why::Replaced),
            };
            if let Some(why) = kept {
                self.store.keep_moved(&offer.image, why, true, now_unix_ms())?;
            }
            return Ok(Some(self.store.commit_deletion(generation.clone(), now_unix_ms())?));
        }
        self.confirmed(offer, generation)
    }

    /// The offered content, made of one that is kept here: nothing has to be sent either.
    fn sealed_of_kept(&self, offer: &Offer, generation: &Generation) -> Result<Option<Sealed>> {
        let keeps = self.sets_aside || self.keeps_loser;
        if keeps && !self.takes_shadow() {
            return Ok(None);
        }
        let sealed = kept::sealed_of_kept(&self.store, offer, generation)?;
        Ok(sealed.map(|sealed| sealed.keeping_replaced(keeps)))
    }

    fn stats(&self) -> Received {
        Received {
            recorded_unix_ms: now_unix_ms(),
            wire_bytes: self.wire_bytes,
            millis: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The offered generation, if its bytes are under this name already and only its lineage is new.
    fn confirmed(&self, offer: &Offer, generation: &Generation) -> Result<Option<Generation>> {
        let ours = self.store.current(&offer.image)?;
        match ours.is_some_and(|ours| ours.root == offer.root && ours.meta == offer.meta) {
            true => Ok(self.store.confirm(generation, now_unix_ms())?),
            false => Ok(None),
        }
    }

    fn stage(&mut self, offer: &Offer, generation: Generation) -> Result<()> {
        let staged = self.plan_base(offer).and_then(|(base, walk)| {
            let damage = self.store.mending(&offer.image);
            let rotten_bytes = damage.as_ref().map_or(0, |damage| damage.bytes());
            let request = StageRequest {
                generation: generation.clone(),
                base,
                dirty_bytes: dirty_bytes_max(offer, base).saturating_add(rotten_bytes),
                keep_replaced: self.sets_aside || self.keeps_loser || damage.is_some(),
            };
            Ok((base, walk, self.store.stage(request)?))
        });
        match staged {
            Ok((base, walk, staging)) => {
                let dictionaries = staging.has_base();
                self.staging = Some(staging);
                self.generation = Some(generation);
                match walk {
                    Some((start, map)) => {
                        self.walk = Some(map);
                        Ok(self.receiver.accept_walk(start)?)
                    }
                    None => Ok(self.receiver.accept(base, dictionaries)?),
                }
            }
            Err(error) => {
                let text = error.to_string();
                let refuse = match &error {
                    StoreError::OutOfSpace { needed_bytes, free_bytes } => {
                        Refuse::disk_full(&text, *needed_bytes, *free_bytes)
                    }
                    other => Refuse::new(verdict::refusal_of(other), &text),
                };
                self.refuse(offer, refuse)
            }
        }
    }

    /// What to start from. Where the sender has no map of what is held under this name, but can
    /// compare, that is better than a map of something else.
    fn plan_base(&self, offer: &Offer) -> std::result::Result<Planned, StoreError> {
        if let Some(damage) = self.store.mending(&offer.image) {
            return self.plan_around(offer, &damage);
        }
        let base = self.store.plan_base(offer.root, &offer.bases, &offer.image)?;
        let own = self.store.walk_base(&offer.image)?.filter(|own| {
            offer.older.is_some()
                && base != Some(offer.root)
                && base != Some(own.root)
                && comparable_blocks(offer.size_bytes, own.size_bytes) > 0
        });
        let Some(own) = own else { return Ok((base, None)) };
        let start =
            WalkStart { size_bytes: own.size_bytes, salt: self.store.walk_salt(&offer.root) };
        let map = self.store.walk_map(&offer.image, own.root, offer.size_bytes, start.salt)?;
        Ok((Some(own.root), Some((start, map))))
    }

    /// Whether what the offer replaces goes into quarantine.
    pub fn sets_aside(&self) -> bool {
        self.sets_aside
    }

    fn fill(&mut self, pack: &Pack) -> Result<()> {
        let Some(staging) = &mut self.staging else { return Ok(()) };
        let size = self.receiver.offer().map_or(0, |offer| offer.size_bytes);
        let filled = match unpacked(pack, size, staging)? {
            Unpacked::Sent(pages) => staging.fill(pack.part, &pack.extents, &pages)?,
            Unpacked::Guessed(pages) => staging.fill_guessed(pack.part, &pack.extents, &pages)?,
        };
        self.receiver.handle_filled(pack.part, filled.again, filled.complete)?;
        for other in filled.brought {
            self.receiver.handle_brought(other.part, other.again, other.complete)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let Some(staging) = self.staging.take() else { return Ok(()) };
        self.walk = None;
        let ended = Instant::now();
        let sealed = staging.seal()?;
        if self.mends {
            return self.commit_mended(sealed);
        }
        if self.shadow {
            let kept = self.commit_shadow(sealed);
            self.travelled.commit = ended.elapsed();
            return kept;
        }
        if let Some(fork) = self.beside {
            // It becomes no current content here: the others of its set don't wait for it, nor it
            // for them.
            let kept = self.commit_beside(sealed, self.stats(), fork);
            self.travelled.commit = ended.elapsed();
            return kept;
        }
        let done = self.commit_or_wait(sealed);
        self.travelled.commit = ended.elapsed();
        done
    }

    fn already_here(&mut self, offer: &Offer) -> Result<()> {
        self.receiver.have(self.receipt(offer))?;
        let Offer { image, number, root, .. } = offer.clone();
        self.outcome = Some(RecvOutcome::AlreadyHere { image, number, root });
        Ok(())
    }

    fn refuse_as(&mut self, offer: &Offer, code: Refusal) -> Result<()> {
        let text = match code {
            Refusal::GenerationOld => "a newer generation is here",
            Refusal::Forbidden => "a mirror may not make generations",
            _ => "",
        };
        self.refuse(offer, Refuse::new(code, text))
    }

    fn refuse(&mut self, offer: &Offer, refuse: Refuse) -> Result<()> {
        let (code, text) = (refuse.code, refuse.text.to_string());
        self.receiver.refuse(refuse)?;
        self.outcome = Some(RecvOutcome::Refused { image: offer.image.clone(), code, text });
        Ok(())
    }

    /// Ends the transfer by our own fault. Before the offer was answered it is a refusal.
    fn fail(&mut self, error: StoreError) -> Result<()> {
        let Some(offer) = self.receiver.offer().cloned() else { return Ok(()) };
        let (code, text) = (verdict::refusal_of(&error), error.to_string());
        if self.generation.is_none() {
            return self.refuse(&offer, Refuse::new(code, &text));
        }
        self.set_down();
        self.receiver.handle_failed(Failed::new(code, &text))?;
        self.outcome = Some(RecvOutcome::FailedHere { image: offer.image, error });
        Ok(())
    }

    /// Keeps what has come for the next attempt.
    fn set_down(&mut self) {
        let Some(staging) = self.staging.take() else { return };
        let image = staging.image().clone();
        if let Err(error) = staging.park() {
            warn!(%image, code = error.code(), %error, "what was received can't be kept");
        }
    }

    fn image(&self) -> Option<ImageName> {
        self.receiver.offer().map(|offer| offer.image.clone())
    }

    fn receipt(&self, offer: &Offer) -> Receipt {
        let mut receipt = Receipt {
            node: self.identity.id(),
            store: offer.store,
            image: offer.image.clone(),
            number: offer.number,
            root: offer.root,
            signature: [0; 64],
        };
        receipt.signature = self.identity.sign(&receipt.signed_bytes());
        receipt
    }
}

/// A transfer that a lost link or a broken rule ends is set down like any other.
impl Drop for RecvSide {
    fn drop(&mut self) {
        self.set_down();
    }
}

/// How many bytes of pages may have to be written at most, as the room to reserve.
fn dirty_bytes_max(offer: &Offer, base: Option<Root>) -> u64 {
    match base {
        Some(base) if base == offer.root => 0,
        // What the offer states is against its first base.
        Some(base) if offer.bases.first() == Some(&base) => {
            offer.dirty_bytes.unwrap_or(offer.data_bytes).min(offer.data_bytes)
        }
        _ => offer.data_bytes,
    }
}

/// What judging needs of a generation.
pub(crate) fn version_of(generation: &Generation) -> Version {
    Version {
        number: generation.number,
        root: generation.root,
        lineage: generation.lineage.clone(),
    }
}

/// The generation as it will be recorded here.
fn generation_of(offer: &Offer) -> Generation {
    Generation {
        image: offer.image.clone(),
        number: offer.number,
        root: offer.root,
        size_bytes: offer.size_bytes,
        data_bytes: offer.data_bytes,
        meta: offer.meta.clone(),
        lineage: offer.lineage.clone(),
        author: offer.author,
        recorded_unix_ms: offer.recorded_unix_ms,
        discover: Discover::Received,
        bytes_read: 0,
        dirty_bytes: 0,
        wire_bytes: 0,
        millis: 0,
        allocated_zero: offer.allocated_zero.clone(),
    }
}
