//! Backlog: who lacks what, and why it waits.
//!
//! Pure: events and time in, offers to make out. A peer lacks an image until it has given a
//! receipt for exactly our current generation; only then is it done. Refusals and failures come
//! back with a growing wait, a diverged image is offered once, so that it is kept there beside the
//! other content, and then waits until a head changes, and nothing here is
//! kept on disk: receipts are, and the rest is learned anew from the peers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, NodeId, Order as Descent, Root, StoreName};
use blockferry_wire::Lane;

use crate::budget;
use crate::rate::overrides::Scope;
use crate::rate::rates::{Hold, InForce};
use crate::rate::turns::Order;
use crate::transfer::judge::Version;

mod heads;
mod pairs;

pub use pairs::{Pair, Pairs, Sum};

/// Wait after a lost connection, unless the peer is back sooner.
const LOST_WAIT: Duration = Duration::from_secs(1);

/// One image that one peer lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Who lacks it.
    pub peer: NodeId,
    /// Its store.
    pub store: StoreName,
    /// Its name.
    pub image: ImageName,
}

/// Our current generation of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number, content and descent.
    pub version: Version,
    /// Size of the image, in bytes.
    pub size_bytes: u64,
    /// When it was recorded, in milliseconds since 1970; for lag, not for decisions.
    pub recorded_unix_ms: i64,
    /// (content, bytes changed to get there) of the newest generations, newest first.
    pub changed_bytes: Vec<(Root, u64)>,
}

/// Why an image has not arrived at a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The peer is not connected.
    PeerDown,
    /// It is on its way, or next.
    Transferring,
    /// Somebody has it open, here or there.
    InUse,
    /// The peer has no room.
    Space,
    /// Others of its set are missing, here or there.
    SetIncomplete,
    /// The calendar.
    Schedule,
    /// An operator.
    Paused,
    /// Histories that don't descend from one another.
    Diverged,
    /// The peer adopts the store from another tool and only looks yet.
    Observing,
    /// It was refused or failed for another reason; it is tried again.
    Failing,
}

/// What came of an offer other than a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// Try again after a growing wait.
    Retry(Reason),
    /// Try again as soon as the peer is back; the connection was lost.
    Lost,
    /// Wait until a head changes: the histories diverged.
    Diverged,
    /// Wait until a head changes: the peer's generation is newer.
    Older,
}

/// Why and since when an entry waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due,
    Transferring,
    NotBefore { at: Instant, reason: Reason },
    UntilHeadChanges { diverged: bool },
}

impl State {
    fn is_for_set(self) -> bool {
        matches!(self, State::NotBefore { reason: Reason::SetIncomplete, .. })
    }
}

#[derive(Debug)]
struct Entry {
    state: State,
    failures: u32,
    /// The head moved on while the older one was travelling.
    moved_on: bool,
    done_bytes: u64,
    total_bytes: u64,
    /// Both are known.
    told: bool,
}

impl Entry {
    fn new() -> Self {
        let (done_bytes, total_bytes, told) = (0, 0, false);
        let state = State::Due;
        Self { state, failures: 0, moved_on: false, done_bytes, total_bytes, told }
    }
}

#[derive(Debug, Default)]
struct Peer {
    up: bool,
    stores: BTreeSet<StoreName>,
    /// What it said it holds.
    heads: BTreeMap<(StoreName, ImageName), Version>,
    /// What is on its way, and the lane it was begun in.
    sending: BTreeMap<(StoreName, ImageName), Lane>,
    /// What its link takes, in bytes per second on the wire, as far as it was measured.
    link_bytes_per_second: Option<f64>,
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Who lacks what.
    pub key: Key,
    /// Changed bytes that are not there yet, before any saving.
    pub bytes: u64,
    /// Why it waits.
    pub reason: Reason,
}

/// Who lacks what, and what to offer next.
#[derive(Debug, Default)]
pub struct Backlog {
    heads: BTreeMap<(StoreName, ImageName), Head>,
    peers: BTreeMap<NodeId, Peer>,
    receipts: BTreeMap<Key, (u64, Root)>,
    entries: BTreeMap<Key, Entry>,
    sending: usize,
    /// Whose turn it is to have a transfer begun.
    order: Order,
    /// What calendars and operators hold back.
    rates: Option<Arc<InForce>>,
}

impl Backlog {
    /// A peer is configured to share these stores.
    pub fn handle_peer(&mut self, peer: NodeId, stores: BTreeSet<StoreName>) {
        let not_shared = |key: &&Key| !stores.contains(&key.store);
        let gone: Vec<Key> =
            self.entries_of(peer).map(|(key, _)| key).filter(not_shared).cloned().collect();
        for key in gone {
            self.end_sending(&key);
            self.entries.remove(&key);
        }
        // Only what is new to it is looked at: a node has many stores and many peers.
        let new: BTreeSet<StoreName> = match self.peers.get(&peer) {
            Some(known) => stores.difference(&known.stores).cloned().collect(),
            None => stores.clone(),
        };
        self.peers.entry(peer).or_default().stores = stores;
        self.review_stores(peer, &new);
    }

    /// A peer is gone for good.
    pub fn handle_peer_gone(&mut self, peer: NodeId) {
        if let Some(gone) = self.peers.remove(&peer) {
            self.sending -= gone.sending.len();
        }
        self.entries.retain(|key, _| key.peer != peer);
        self.receipts.retain(|key, _| key.peer != peer);
    }

    /// A peer is connected and has said what it holds.
    pub fn handle_peer_up(&mut self, peer: NodeId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.up = true;
        let kept_there = State::UntilHeadChanges { diverged: true };
        let entries = self.entries.range_mut(first_key(peer)..);
        for (_, entry) in entries.take_while(|(key, _)| key.peer == peer) {
            if matches!(entry.state, State::NotBefore { .. }) || entry.state == kept_there {
                entry.state = State::Due;
                entry.failures = 0;
            }
        }
        let stores = known_stores(&self.peers, peer);
        self.review_stores(peer, &stores);
    }

    /// The connection to a peer is lost.
    pub fn handle_peer_down(&mut self, peer: NodeId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.up = false;
        known.heads.clear();
    }

    /// What a peer holds of an image.
    pub fn handle_peer_head(
        &mut self,
        peer: NodeId,
        store: StoreName,
        image: ImageName,
        held: Version,
    ) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if !known.stores.contains(&store) || known.heads.len() >= budget::BACKLOG_MAX {
            return;
        }
        let slot = (store.clone(), image.clone());
        let changed = known.heads.insert(slot, held.clone()).as_ref() != Some(&held);
        let key = Key { peer, store, image };
        // What it says itself counts for more than what it once gave a receipt for: it was restored
        // from a backup, or is a mirror that was edited.
        let ours = self.head(&key.store, &key.image).map(|head| &head.version);
        let lost = |ours: &Version| match ours.lineage.compare(&held.lineage) {
            Descent::Newer => true,
            // Equal, and other bytes: both were found, or somebody was set back.
            Descent::Concurrent | Descent::Equal => ours.root != held.root,
            Descent::Older => false,
        };
        if ours.is_some_and(lost) {
            self.receipts.remove(&key);
        }
        self.review(key, changed);
    }

    /// A peer has said all that it holds of a store: of the rest it holds nothing, whatever it once gave
    /// receipts for.
    pub fn handle_inventory(&mut self, peer: NodeId, store: &StoreName) {
        let Some(known) = self.peers.get(&peer) else { return };
        // Only what is of this peer and store is looked at: there are as many pairs as there are
        // inventories when all of them connect at once.
        let first = Key { peer, store: store.clone(), image: least_name() };
        let of = self.receipts.range(first..).map(|(key, _)| key);
        let of = of.take_while(|key| key.peer == peer && key.store == *store);
        let lost = |key: &&Key| !known.heads.contains_key(&(key.store.clone(), key.image.clone()));
        let lost: Vec<Key> = of.filter(lost).cloned().collect();
        for key in lost {
            self.receipts.remove(&key);
            self.review(key, true);
        }
    }

    /// Our current generation of an image.
    pub fn handle_head(&mut self, store: StoreName, image: ImageName, head: Head) {
        let slot = (store.clone(), image.clone());
        let changed = self.heads.get(&slot).map(|h| &h.version) != Some(&head.version);
        self.heads.insert(slot, head);
        let sharing: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, p)| p.stores.contains(&store))
            .map(|(id, _)| *id)
            .collect();
        for peer in sharing {
            self.review(Key { peer, store: store.clone(), image: image.clone() }, changed);
        }
    }

    /// A peer's verified receipt, from now or from the catalog.
    pub fn handle_receipt(&mut self, key: Key, number: u64, root: Root) {
        self.end_sending(&key);
        let older = self.receipts.get(&key).is_some_and(|(n, _)| *n > number);
        if !older {
            self.receipts.insert(key.clone(), (number, root));
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            *entry = Entry::new();
        }
        self.review(key, false);
    }

    /// How far a transfer is, in changed bytes.
    pub fn handle_progress(&mut self, key: &Key, done_bytes: u64, total_bytes: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.done_bytes = done_bytes.min(total_bytes);
            entry.total_bytes = total_bytes;
            entry.told = true;
        }
    }

    /// What a peer's link takes, in bits per second on the wire.
    pub fn handle_link(&mut self, peer: NodeId, bits_per_second: u64) {
        if let Some(known) = self.peers.get_mut(&peer) {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let bytes = bits_per_second as f64 / 8.0;
            known.link_bytes_per_second = Some(bytes);
        }
    }

    /// What calendars and operators hold back from now on.
    pub fn handle_rates(&mut self, rates: Arc<InForce>) {
        self.rates = Some(rates);
    }

    /// Whether a calendar or an operator holds it back.
    pub fn hold(&self, key: &Key) -> Option<Hold> {
        self.rates.as_ref()?.hold(&Scope::from(key))
    }

    /// An offer came to nothing.
    pub fn handle_setback(&mut self, key: &Key, setback: Setback, now: Instant) {
        self.end_sending(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        (entry.done_bytes, entry.total_bytes, entry.told) = (0, 0, false);
        let moved_on = std::mem::take(&mut entry.moved_on);
        entry.state = match setback {
            _ if moved_on => State::Due,
            // The loss of the connection itself may be told a moment later.
            Setback::Lost => State::NotBefore { at: now + LOST_WAIT, reason: Reason::Transferring },
            Setback::Diverged => State::UntilHeadChanges { diverged: true },
            Setback::Older => State::UntilHeadChanges { diverged: false },
            Setback::Retry(reason) => {
                let doublings = entry.failures.min(16);
                entry.failures = entry.failures.saturating_add(1);
                let wait = budget::RETRY_FIRST.saturating_mul(1 << doublings);
                State::NotBefore { at: now + wait.min(budget::RETRY_LONGEST), reason }
            }
        };
    }

    /// An operator wants it tried now. Says whether the peer lacks it at all.
    pub fn handle_push(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if entry.state != State::Transferring {
            entry.state = State::Due;
            entry.failures = 0;
        }
        true
    }

    /// What images that waited for others of their set waited for may be there.
    pub fn handle_set_moved(&mut self, store: &StoreName, images: &[ImageName]) {
        for (key, entry) in &mut self.entries {
            let waits = State::is_for_set(entry.state);
            if waits && key.store == *store && images.contains(&key.image) {
                entry.state = State::Due;
            }
        }
    }

    fn entries_of(&self, peer: NodeId) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.range(first_key(peer)..).take_while(move |(key, _)| key.peer == peer)
    }

    /// When `poll_offer` may have something new without an event.
    pub fn next_wake(&self) -> Option<Instant> {
        // What waits for those that aren't connected is not looked at: it may be everything.
        let up = self.peers.iter().filter(|(_, peer)| peer.up);
        let entries = up.flat_map(|(peer, _)| self.entries_of(*peer));
        let waits = entries.filter_map(|(key, entry)| match entry.state {
            State::NotBefore { at, .. } if self.hold(key).is_none() => Some(at),
            _ => None,
        });
        waits.min()
    }

    /// Whether the peer holds our current generation, by its receipt.
    pub fn in_sync(&self, key: &Key) -> bool {
        let Some(head) = self.heads.get(&(key.store.clone(), key.image.clone())) else {
            return true;
        };
        self.receipts.get(key) == Some(&(head.version.number, head.version.root))
    }

    /// The newest generation a peer gave a receipt for.
    pub fn receipt(&self, key: &Key) -> Option<(u64, Root)> {
        self.receipts.get(key).copied()
    }

    /// What a peer holds of an image, as far as it said so or gave a receipt.
    pub fn held(&self, key: &Key) -> Option<Root> {
        let said = self.peer_head(key).map(|version| version.root);
        said.or_else(|| self.receipt(key).map(|(_, root)| root))
    }

    /// How many transfers to a peer are under way.
    pub fn sending(&self, peer: NodeId) -> usize {
        self.peers.get(&peer).map_or(0, |known| known.sending.len())
    }

    /// Whose turn it is, as things are now.
    pub fn order(&self) -> Order {
        self.order.clone()
    }

    /// How many connected peers lack exactly this generation and hold exactly this base of it.
    pub fn sharing(
        &self,
        store: &StoreName,
        image: &ImageName,
        root: Root,
        base: Option<Root>,
    ) -> usize {
        let is_head = self.head(store, image).is_some_and(|head| head.version.root == root);
        self.lacking(store, image).filter(|key| is_head && self.held(key) == base).count()
    }

    /// Whether any connected peer lacks our current generation of an image.
    pub fn is_wanted(&self, store: &StoreName, image: &ImageName) -> bool {
        self.lacking(store, image).next().is_some()
    }

    /// Whether any is being sent it, or about to be.
    pub fn is_travelling(&self, store: &StoreName, image: &ImageName) -> bool {
        self.lacking(store, image).any(|key| self.reason(&key) == Some(Reason::Transferring))
    }

    /// Which connected peers lack our current generation of an image.
    fn lacking(&self, store: &StoreName, image: &ImageName) -> impl Iterator<Item = Key> {
        let of = |(id, peer): (&NodeId, &Peer)| {
            let key = Key { peer: *id, store: store.clone(), image: image.clone() };
            (peer.up && self.entries.contains_key(&key)).then_some(key)
        };
        self.peers.iter().filter_map(of)
    }

    /// Our current generation of an image.
    pub fn head(&self, store: &StoreName, image: &ImageName) -> Option<&Head> {
        self.heads.get(&(store.clone(), image.clone()))
    }

    /// What a peer said it holds of an image.
    pub fn peer_head(&self, key: &Key) -> Option<&Version> {
        self.peers.get(&key.peer)?.heads.get(&(key.store.clone(), key.image.clone()))
    }

    /// Why the peer doesn't have it; `None`: it has, or holds something newer.
    pub fn reason(&self, key: &Key) -> Option<Reason> {
        let entry = self.entries.get(key)?;
        match entry.state {
            State::UntilHeadChanges { diverged: false } => None,
            State::UntilHeadChanges { diverged: true } => Some(Reason::Diverged),
            _ if !self.is_up(&key.peer) => Some(Reason::PeerDown),
            _ if self.is_diverged(key) => Some(Reason::Diverged),
            state => match (self.hold(key), state) {
                (Some(Hold::Paused), _) => Some(Reason::Paused),
                (Some(Hold::Schedule), _) => Some(Reason::Schedule),
                (None, State::NotBefore { reason, .. }) => Some(reason),
                (None, _) => Some(Reason::Transferring),
            },
        }
    }

    /// How often it was refused or failed in a row.
    pub fn failures(&self, key: &Key) -> u32 {
        self.entries.get(key).map_or(0, |entry| entry.failures)
    }

    /// How far a transfer that is under way has come: changed bytes done, and all of them.
    pub fn progress(&self, key: &Key) -> Option<(u64, u64)> {
        let entry = self.entries.get(key)?;
        (entry.state == State::Transferring).then_some((entry.done_bytes, entry.total_bytes))
    }

    /// Everything that some peer lacks, in the order of the keys.
    pub fn items(&self) -> Vec<Item> {
        self.items_in(self.entries.iter())
    }

    /// Everything that one peer lacks.
    pub fn items_of(&self, peer: NodeId) -> Vec<Item> {
        self.items_in(self.entries_of(peer))
    }

    fn items_in<'a>(&self, entries: impl Iterator<Item = (&'a Key, &'a Entry)>) -> Vec<Item> {
        let item = |(key, entry): (&Key, &Entry)| {
            let reason = self.reason(key)?;
            Some(Item { key: key.clone(), bytes: self.bytes(key, entry), reason })
        };
        entries.filter_map(item).collect()
    }

    /// What is not there yet, in changed bytes: what the generations since the peer's changed, or
    /// the whole image when we don't know where it stands.
    fn bytes(&self, key: &Key, entry: &Entry) -> u64 {
        if entry.total_bytes > 0 {
            return entry.total_bytes - entry.done_bytes;
        }
        let Some(head) = self.head(&key.store, &key.image) else { return 0 };
        let Some(held) = self.held(key) else { return head.size_bytes };
        let Some(at) = head.changed_bytes.iter().position(|(root, _)| *root == held) else {
            return head.size_bytes;
        };
        let since = head.changed_bytes.iter().take(at).map(|(_, bytes)| *bytes);
        since.fold(0, u64::saturating_add).min(head.size_bytes)
    }

    fn is_up(&self, peer: &NodeId) -> bool {
        self.peers.get(peer).is_some_and(|p| p.up)
    }

    fn end_sending(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.state == State::Transferring {
            entry.state = State::Due;
            self.sending -= 1;
            if let Some(peer) = self.peers.get_mut(&key.peer) {
                peer.sending.remove(&(key.store.clone(), key.image.clone()));
            }
        }
    }

    fn review_stores(&mut self, peer: NodeId, stores: &BTreeSet<StoreName>) {
        let slots: Vec<_> = stores.iter().flat_map(|store| self.images_of(store)).collect();
        for (store, image) in slots {
            self.review(Key { peer, store, image }, false);
        }
    }

    fn images_of(&self, store: &StoreName) -> Vec<(StoreName, ImageName)> {
        let heads = self.heads.range((store.clone(), least_name())..);
        heads.map(|(slot, _)| slot).take_while(|(of, _)| of == store).cloned().collect()
    }

    /// Makes, keeps or drops the entry of `key`. `changed`: a head moved on either side.
    fn review(&mut self, key: Key, changed: bool) {
        if !self.heads.contains_key(&(key.store.clone(), key.image.clone())) {
            return;
        }
        if self.in_sync(&key) {
            self.end_sending(&key);
            self.entries.remove(&key);
            return;
        }
        let waits = self.waits_for_head(&key);
        if !self.entries.contains_key(&key) && self.entries.len() >= budget::BACKLOG_MAX {
            return;
        }
        let entry = self.entries.entry(key).or_insert_with(Entry::new);
        if entry.state == State::Transferring {
            entry.moved_on |= changed;
            return;
        }
        // What is kept there in a conflict needn't be offered again: it waits for another head.
        let waiting = entry.state == State::UntilHeadChanges { diverged: false };
        if waits {
            entry.state = State::UntilHeadChanges { diverged: false };
        } else if changed || waiting {
            entry.state = State::Due;
            entry.failures = 0;
        }
    }

    /// Whether the peer's head forbids an offer: it is newer than ours.
    fn waits_for_head(&self, key: &Key) -> bool {
        let heads = self.peer_head(key).zip(self.head(&key.store, &key.image));
        heads.is_some_and(|(held, ours)| {
            ours.version.lineage.compare(&held.lineage) == Descent::Older
        })
    }

    /// Whether neither of the heads descends from the other.
    fn is_diverged(&self, key: &Key) -> bool {
        let heads = self.peer_head(key).zip(self.head(&key.store, &key.image));
        heads.is_some_and(|(held, ours)| {
            let descent = ours.version.lineage.compare(&held.lineage);
            let apart = matches!(descent, Descent::Concurrent | Descent::Equal);
            ours.version.root != held.root && apart
        })
    }
}

/// Names begin with a letter, a digit or an underscore: this is the least of them.
fn least_name() -> ImageName {
    ImageName::new("0").expect("a good name")
}

/// No key of a peer is less.
fn first_key(peer: NodeId) -> Key {
    let store = StoreName::new("0").expect("a good name");
    Key { peer, store, image: least_name() }
}

fn known_stores(peers: &BTreeMap<NodeId, Peer>, peer: NodeId) -> BTreeSet<StoreName> {
    peers.get(&peer).map(|known| known.stores.clone()).unwrap_or_default()
}

pub mod offers;
#[cfg(test)]
mod tests;
