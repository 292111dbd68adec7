//! The sending side of a transfer: offer, parts, packs, receipt.
//!
//! Reading and compressing is handed out as [`PackJob`]s, so that several run ahead of the link;
//! everything else happens inside [`SendSide::step`]. Pages are compared with what was recorded as
//! they are read: a file that moved under us ends the transfer, and the peer proves every block.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::{
    ChangedBlock, ChunkParams, ImageName, PAGE_BYTES, PAGES_PER_BLOCK, PageExtent, Probe,
    RecipePart, Root,
};
use blockferry_store::{
    Dictionaries, Error as StoreError, Generation, RecipeCursor, Source, Store,
};
use blockferry_wire::limits::{OLDER_MAX, OLDER_ROOT_BYTES};
use blockferry_wire::{
    Compression, Lane, Message, Offer, Pack, Packer, Receipt, Refusal, Refuse, Sender, SenderEvent,
    SetMember, WalkStart,
};

use super::Step;
use super::dictionary::pressed;
use crate::error::{Error, Result};
use crate::lineage::conflict;
use crate::transfer::encoded::PackKey;
use crate::transfer::level::PackCost;
use crate::transfer::verdict;

/// The beginning of a root.
type RootStart = [u8; OLDER_ROOT_BYTES];

/// How a transfer ended for the sender.
#[derive(Debug)]
pub enum SendOutcome {
    /// The peer has it. Whether the signature is its own is for the caller to verify.
    Receipt(Receipt),
    /// The peer doesn't want it now.
    Refused(Refuse),
    /// It came to nothing at the peer.
    FailedThere {
        /// Why.
        code: Refusal,
        /// Its words.
        text: String,
    },
    /// It came to nothing here; the peer was told.
    FailedHere(StoreError),
}

/// Pages to be read and compressed.
#[derive(Clone, Debug)]
pub struct PackJob {
    number: u64,
    part: u32,
    extents: Vec<PageExtent>,
    root: Root,
    base: Option<Root>,
    source: Arc<Source>,
    /// Where a dictionary may come from, if the pack may have one.
    dictionaries: Option<Arc<Dictionaries>>,
}

/// A pack, or why there is none.
#[derive(Debug)]
pub struct Packed {
    number: u64,
    result: Result<Pack>,
}

impl PackJob {
    /// Which of the transfer's packs it is, counted from 0.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Reads, proves and compresses. Blocking.
    pub fn run(self, packer: &mut Packer, compression: Compression) -> Packed {
        self.run_timed(packer, compression).0
    }

    /// The same, and what it took.
    pub(crate) fn run_timed(
        self,
        packer: &mut Packer,
        compression: Compression,
    ) -> (Packed, Option<PackCost>) {
        let Self { number, part, extents, source, dictionaries, .. } = self;
        let started = Instant::now();
        let pages = match source.read(&extents) {
            Ok(pages) => pages,
            Err(error) => return (Packed { number, result: Err(error.into()) }, None),
        };
        let (raw_bytes, read) = (pages.len(), started.elapsed());
        let result = pressed(packer, dictionaries.as_deref(), part, (extents, pages), compression);
        let press = started.elapsed().saturating_sub(read);
        // What a dictionary does says nothing about the level.
        let plain = result.as_ref().ok().filter(|pack| pack.dictionary.is_empty());
        let cost =
            |pack: &Pack| PackCost { compression, raw_bytes, bytes: pack.bytes.len(), read, press };
        let cost = plain.map(cost);
        (Packed { number, result }, cost)
    }

    /// What this pack has in common with those that other peers want.
    pub(crate) fn key(&self, compression: Compression) -> PackKey {
        PackKey {
            store: self.source.store().identity().id,
            root: self.root,
            base: self.base,
            part: self.part,
            extents: self.extents.clone(),
            dictionary: self.dictionaries.is_some(),
            compression,
        }
    }

    /// Bytes of its pages.
    pub(crate) fn raw_bytes(&self) -> u64 {
        let pages: u64 = self.extents.iter().map(|extent| u64::from(extent.count)).sum();
        pages * PAGE_BYTES as u64
    }

    /// The base that the peer starts from.
    pub(crate) fn base(&self) -> Option<Root> {
        self.base
    }

    /// Answers with a pack that was made for another peer.
    pub(crate) fn answer(self, pack: &Pack) -> Packed {
        Packed { number: self.number, result: Ok(pack.clone()) }
    }
}

impl Packed {
    /// Its place among those of the transfer: they are sent in this order.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The pack, if there is one.
    pub(crate) fn pack(&self) -> Option<&Pack> {
        self.result.as_ref().ok()
    }
}

/// The sending side of one transfer.
#[derive(Debug)]
pub struct SendSide {
    store: Arc<Store>,
    generation: Generation,
    sender: Sender,
    cursor: Option<RecipeCursor>,
    source: Option<Arc<Source>>,
    base: Option<Root>,
    dictionaries: Option<Arc<Dictionaries>>,
    /// Number of the next pack asked for, and of the next one that may be handed over.
    asked: u64,
    handed: u64,
    /// Packed out of order.
    early: BTreeMap<u64, Result<Pack>>,
    /// Bytes of the parts that are travelling, by number.
    open_parts: BTreeMap<u32, u64>,
    done_bytes: u64,
    total_bytes: u64,
    outcome: Option<SendOutcome>,
}

impl SendSide {
    /// Offers the current generation of `image`.
    pub fn new(store: Arc<Store>, image: &ImageName) -> Result<Self> {
        Self::of_set(store, image, Lane::Normal, Vec::new())
    }

    /// Offers the current generation of `image` in a lane, as one of a set if that names any.
    ///
    /// # Errors
    /// `SET_INCOMPLETE` when the set names another content of it: it was recorded anew meanwhile.
    pub fn of_set(
        store: Arc<Store>,
        image: &ImageName,
        lane: Lane,
        set: Vec<SetMember>,
    ) -> Result<Self> {
        let generation =
            store.current(image)?.ok_or_else(|| StoreError::NotFound(image.clone()))?;
        let deleted = generation.is_deleted();
        let mut bases = if deleted { Vec::new() } else { store.bases(image)? };
        bases.retain(|root| *root != generation.root);
        bases.truncate(blockferry_wire::limits::BASES_MAX);
        let older = older_roots(&store, &generation, &bases)?;
        let dirty_bytes = match bases.first() {
            Some(base) => store.dirty_bytes(image, generation.root, Some(*base))?,
            None => generation.data_bytes,
        };
        let named = |m: &SetMember| m.image == *image && m.root == generation.root;
        if !set.is_empty() && !set.iter().any(named) {
            let what = "it was recorded anew just now".to_owned();
            return Err(crate::Error::SetIncomplete { image: image.to_string(), what });
        }
        let offer = offer_of(&store, &generation, bases, older, dirty_bytes);
        let sender = Sender::new(Offer { set, lane, ..offer })?;
        Ok(Self {
            total_bytes: generation.size_bytes,
            store,
            generation,
            sender,
            cursor: None,
            source: None,
            base: None,
            dictionaries: None,
            asked: 0,
            handed: 0,
            early: BTreeMap::new(),
            open_parts: BTreeMap::new(),
            done_bytes: 0,
            outcome: None,
        })
    }

    /// What is offered.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Changed bytes that have arrived, and all of them, as far as is known.
    pub fn progress(&self) -> (u64, u64) {
        (self.done_bytes.min(self.total_bytes), self.total_bytes)
    }

    /// Takes a message of the peer.
    ///
    /// # Errors
    /// The peer broke the protocol; the transfer is over.
    pub fn handle_message(&mut self, message: Message) -> Result<()> {
        if let Message::Filled(filled) = &message {
            let bytes = self.open_parts.remove(&filled.part).unwrap_or(0);
            self.done_bytes = self.done_bytes.saturating_add(bytes);
        }
        Ok(self.sender.handle_message(message)?)
    }

    /// Takes a finished [`PackJob`]; they may come in any order.
    pub fn handle_packed(&mut self, packed: Packed) -> Result<()> {
        self.early.insert(packed.number, packed.result);
        while let Some(result) = self.early.remove(&self.handed) {
            self.handed += 1;
            match result {
                Ok(pack) => self.sender.handle_pack(pack)?,
                Err(Error::Store(error)) => self.fail(error),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Packs that are ready and wait for an earlier one.
    pub fn early_packs(&self) -> usize {
        self.early.len()
    }

    /// Gives the transfer up; the peer is told.
    pub fn cancel(&mut self, code: Refusal, text: &str) {
        self.sender.handle_cancel(code, text);
    }

    /// What to do next.
    pub fn step(&mut self) -> Result<Step<SendOutcome>> {
        loop {
            if let Some(message) = self.sender.poll_transmit() {
                return Ok(Step::Transmit(Box::new(message)));
            }
            let Some(event) = self.sender.poll_event() else { break };
            if let Some(job) = self.take(event)? {
                return Ok(Step::Pack(job));
            }
        }
        match self.outcome.take() {
            Some(outcome) if self.sender.is_finished() => Ok(Step::Done(outcome)),
            outcome => {
                self.outcome = outcome;
                Ok(Step::Wait)
            }
        }
    }

    fn take(&mut self, event: SenderEvent) -> Result<Option<PackJob>> {
        match event {
            SenderEvent::Accepted { base, dictionaries } => self.accepted(base, dictionaries)?,
            SenderEvent::Walk(start) => self.walk(&start),
            SenderEvent::Values { piece, bytes } => self.compare(&piece, &bytes),
            SenderEvent::NeedPart => self.next_part()?,
            SenderEvent::NeedPack { part, extents, dictionary } => {
                return Ok(self.pack(part, extents, dictionary));
            }
            SenderEvent::Done(receipt) => self.outcome = Some(SendOutcome::Receipt(receipt)),
            SenderEvent::Refused(refuse) => self.outcome = Some(SendOutcome::Refused(refuse)),
            SenderEvent::Failed(failed) => {
                let text = failed.text.to_string();
                self.outcome = Some(SendOutcome::FailedThere { code: failed.code, text });
            }
        }
        Ok(None)
    }

    fn accepted(&mut self, base: Option<Root>, dictionaries: bool) -> Result<()> {
        let (image, root) = (self.generation.image.clone(), self.generation.root);
        if base == Some(root) {
            self.total_bytes = 0;
            return Ok(());
        }
        let prepared = self.store.recipe(&image, root, base).and_then(|cursor| {
            let total = match base {
                Some(_) => self.store.dirty_bytes(&image, root, base)?,
                None => self.generation.data_bytes,
            };
            let held = match base.filter(|_| dictionaries) {
                Some(base) => self.store.dictionaries(&image, base)?,
                None => None,
            };
            Ok((cursor, self.store.source(&image, root)?, held, total))
        });
        match prepared {
            Ok((cursor, source, held, total)) => {
                self.cursor = Some(cursor);
                self.source = Some(Arc::new(source));
                self.base = base;
                self.dictionaries = held.map(Arc::new);
                self.total_bytes = total;
            }
            Err(error) => self.fail(error),
        }
        Ok(())
    }

    /// The receiver builds on what no base tells of.
    fn walk(&mut self, start: &WalkStart) {
        let (image, root) = (self.generation.image.clone(), self.generation.root);
        let prepared = self
            .store
            .recipe_by_walk(&image, root, start.size_bytes, start.salt)
            .and_then(|cursor| Ok((cursor, self.store.source(&image, root)?)));
        match prepared {
            Ok((cursor, source)) => {
                self.cursor = Some(cursor);
                self.source = Some(Arc::new(source));
                self.total_bytes = self.generation.data_bytes;
            }
            Err(error) => self.fail(error),
        }
    }

    fn compare(&mut self, piece: &Probe, bytes: &[u8]) {
        let Some(cursor) = &mut self.cursor else { return };
        if let Err(error) = cursor.handle_values(piece, bytes) {
            self.fail(error);
        }
    }

    fn next_part(&mut self) -> Result<()> {
        // Without a cursor the transfer has failed already and the question is stale.
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        match cursor.next_part() {
            Ok(Some(part)) => {
                self.open_parts.insert(part.number, changed_bytes(&part));
                self.sender.handle_part(part)?;
            }
            Ok(None) => match cursor.next_probe() {
                Some(probe) => self.sender.handle_probe(probe)?,
                None => self.sender.handle_parts_end()?,
            },
            Err(error) => self.fail(error),
        }
        Ok(())
    }

    fn pack(&mut self, part: u32, extents: Vec<PageExtent>, dictionary: bool) -> Option<PackJob> {
        let source = self.source.clone()?;
        let number = self.asked;
        self.asked += 1;
        let (root, base) = (self.generation.root, self.base);
        let dictionaries = self.dictionaries.clone().filter(|_| dictionary);
        Some(PackJob { number, part, extents, root, base, source, dictionaries })
    }

    fn fail(&mut self, error: StoreError) {
        if self.outcome.is_none() {
            let code = verdict::refusal_of(&error);
            self.sender.handle_cancel(code, &error.to_string());
            self.outcome = Some(SendOutcome::FailedHere(error));
        }
    }
}

/// Beginnings of the roots of the generations that the current one descends from and that are no
/// bases: those that lost a conflict, and those before it.
fn older_roots(store: &Store, current: &Generation, bases: &[Root]) -> Result<Vec<RootStart>> {
    let mut older = Vec::new();
    let lost = conflict::all(store, &current.image)?.into_iter().map(|kept| kept.generation);
    let lost = lost.filter(|lost| conflict::descends(&current.lineage, &lost.lineage));
    let before = store.history(&current.image)?.into_iter().skip(1);
    for root in lost.chain(before).map(|generation| generation.root) {
        let start = root.as_bytes()[..OLDER_ROOT_BYTES].try_into();
        let start = start.expect("a root is longer");
        if root != current.root && !bases.contains(&root) && !older.contains(&start) {
            older.push(start);
        }
        if older.len() >= OLDER_MAX {
            break;
        }
    }
    Ok(older)
}

fn offer_of(
    store: &Store,
    generation: &Generation,
    bases: Vec<Root>,
    older: Vec<RootStart>,
    dirty_bytes: u64,
) -> Offer {
    Offer {
        store: store.identity().id,
        image: generation.image.clone(),
        number: generation.number,
        root: generation.root,
        size_bytes: generation.size_bytes,
        meta: generation.meta.clone(),
        lineage: generation.lineage.clone(),
        author: generation.author,
        recorded_unix_ms: generation.recorded_unix_ms,
        dirty_bytes: Some(dirty_bytes),
        data_bytes: generation.data_bytes,
        allocated_zero: generation.allocated_zero.clone(),
        older: Some(older),
        set: Vec::new(),
        bases,
        chunk_params: ChunkParams::CURRENT,
        lane: Lane::Normal,
    }
}

/// The pages of a block that changed and aren't zero now.
pub(crate) fn dirty_extents(block: &ChangedBlock) -> Vec<PageExtent> {
    let wanted = block.dirty & !block.zero;
    let first = block.index * PAGES_PER_BLOCK as u64;
    let mut extents: Vec<PageExtent> = Vec::new();
    for page in (0..PAGES_PER_BLOCK as u64).filter(|bit| wanted >> bit & 1 == 1) {
        match extents.last_mut() {
            Some(last) if last.first + u64::from(last.count) == first + page => last.count += 1,
            _ => extents.push(PageExtent { first: first + page, count: 1 }),
        }
    }
    extents
}

/// Bytes of the changed pages of a part that aren't zero now.
fn changed_bytes(part: &RecipePart) -> u64 {
    let pages = part.blocks.iter().map(|b| u64::from((b.dirty & !b.zero).count_ones()));
    pages.sum::<u64>() * PAGE_BYTES as u64
}
