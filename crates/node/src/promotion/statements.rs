//! The book of statements: what nodes have signed about themselves, the newest of each kind.
//!
//! Pure. A place in the book is given anew each time an entry changes, so that "everything after
//! place N" is what somebody who knew N lacks: that is how statements go from peer to peer, over any
//! number of hubs. What may be said by whom is decided in `roster`, signatures are checked by who
//! hears. The book is bounded: what nobody needs to know whether an image is everywhere goes first, the
//! oldest of it first; then what doesn't fit is not taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use blockferry_delta::{ImageName, NodeId, Root, StoreId};
use blockferry_wire::{Holding, Promotion, Resolution, Roster, Said, Statement, What};

use crate::budget;
use crate::membership::identity::PublicKey;

/// What a statement is about: a later one about the same takes its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// With whom the node shares the store.
    Roster,
    /// What the node holds of an image.
    Holding(ImageName),
    /// That the node promoted a content of an image.
    Promotion(ImageName, Root),
    /// How a conflict about an image is to end.
    Resolution(ImageName),
}

/// Whose statement about what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The store.
    pub store: StoreId,
    /// Who signed.
    pub node: NodeId,
    /// About what.
    pub topic: Topic,
}

/// A statement with what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub said: Said,
    /// The bytes that were signed.
    pub body: Vec<u8>,
    /// The signature over them.
    pub signature: [u8; 64],
}

impl Signed {
    /// A statement that came; its signature isn't checked by this.
    pub fn from_wire(statement: Statement) -> blockferry_wire::Result<Self> {
        let said = statement.said()?;
        Ok(Self { said, body: statement.body, signature: statement.signature })
    }

    /// The statement as it travels.
    pub fn to_wire(&self, place: u64) -> Statement {
        Statement { place, body: self.body.clone(), signature: self.signature }
    }

    /// Is it signed by the key that it names?
    pub fn is_genuine(&self) -> bool {
        let key = PublicKey::from_bytes(self.said.key);
        key.verify(&Statement::signed_bytes(&self.body), &self.signature)
    }

    /// Who signed.
    pub fn node(&self) -> NodeId {
        PublicKey::from_bytes(self.said.key).node_id()
    }

    /// Whose it is, about what; `None` for a kind that isn't known here.
    pub fn slot(&self) -> Option<Slot> {
        let topic = match &self.said.what {
            What::Roster(_) => Topic::Roster,
            What::Holding(holding) => Topic::Holding(holding.image.clone()),
            What::Promotion(p) => Topic::Promotion(p.image.clone(), p.root),
            What::Resolution(resolution) => Topic::Resolution(resolution.image.clone()),
            What::Unknown(_) => return None,
        };
        Some(Slot { store: self.said.store, node: self.node(), topic })
    }

    /// What it takes in memory, in bytes, about: once as bytes and once as what they say.
    fn weight(&self) -> u64 {
        2 * self.body.len() as u64 + 256
    }

    /// Whether it gives way to receipts and rosters: it says what was, not what is there.
    fn gives_way(&self) -> bool {
        match &self.said.what {
            What::Promotion(_) | What::Resolution(_) => true,
            What::Holding(holding) => holding.root == Root::NOTHING,
            What::Roster(_) | What::Unknown(_) => false,
        }
    }
}

/// What became of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is news.
    New,
    /// It or a later one was known.
    Known,
    /// There is no room for it.
    Full,
}

#[derive(Debug)]
struct Entry {
    place: u64,
    /// Which peer it came from; `None`: from here or from the ledger.
    from: Option<NodeId>,
    signed: Arc<Signed>,
}

/// The newest statements.
#[derive(Debug)]
pub struct Book {
    log: u64,
    last_place: u64,
    /// The highest place that was given to a roster.
    last_roster: u64,
    entries: BTreeMap<Slot, Entry>,
    /// By store and place: what somebody lacks is asked for one store at a time.
    places: BTreeMap<(StoreId, u64), Slot>,
    /// By place alone: which store it belongs to.
    stores: BTreeMap<u64, StoreId>,
    bytes: u64,
    /// What gives way, by the order in which it was said.
    spare: BTreeSet<(u64, Slot)>,
    /// What has given way and isn't told to the ledger yet.
    gone: Vec<Slot>,
}

impl Book {
    /// An empty book; `log` is a number that no other run of any node has for its places, not 0.
    pub fn new(log: u64) -> Self {
        let (entries, places, stores) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (spare, gone) = (BTreeSet::new(), Vec::new());
        let (log, last_place, last_roster, bytes) = (log.max(1), 0, 0, 0);
        Self { log, last_place, last_roster, entries, places, stores, bytes, spare, gone }
    }

    /// The number of this list of places.
    pub fn log(&self) -> u64 {
        self.log
    }

    /// The highest place given so far.
    pub fn last_place(&self) -> u64 {
        self.last_place
    }

    /// The highest place given to a roster so far.
    pub fn last_roster(&self) -> u64 {
        self.last_roster
    }

    /// Takes a statement whose signature is good, said by somebody who may.
    pub fn take(&mut self, signed: Signed, from: Option<NodeId>) -> Taken {
        let Some(slot) = signed.slot() else { return Taken::Known };
        let before = self.entries.get(&slot);
        if before.is_some_and(|b| b.signed.said.sequence >= signed.said.sequence) {
            return Taken::Known;
        }
        let old = before.map_or(0, |b| b.signed.weight());
        let needed = signed.weight();
        let is_over = |bytes: u64| bytes - old + needed > budget::STATEMENTS_BYTES;
        while is_over(self.bytes) && !signed.gives_way() {
            let oldest = self.spare.first().filter(|(_, spare)| *spare != slot).cloned();
            let Some((_, oldest)) = oldest else { break };
            self.forget(&oldest);
            self.gone.push(oldest);
        }
        if is_over(self.bytes) {
            return Taken::Full;
        }
        self.forget(&slot);
        if signed.gives_way() {
            self.spare.insert((signed.said.sequence, slot.clone()));
        }
        self.bytes += signed.weight();
        self.last_place += 1;
        let place = self.last_place;
        if slot.topic == Topic::Roster {
            self.last_roster = place;
        }
        self.stores.insert(place, slot.store);
        self.places.insert((slot.store, place), slot.clone());
        self.entries.insert(slot, Entry { place, from, signed: Arc::new(signed) });
        Taken::New
    }

    /// Forgets a statement.
    pub fn forget(&mut self, slot: &Slot) -> bool {
        let Some(entry) = self.entries.remove(slot) else { return false };
        self.spare.remove(&(entry.signed.said.sequence, slot.clone()));
        self.stores.remove(&entry.place);
        self.places.remove(&(slot.store, entry.place));
        self.bytes -= entry.signed.weight();
        true
    }

    /// Forgets what a node says it holds and what it has decided, of all stores: it is to say it
    /// again. With whom it shares stays, for that only adds who must be asked; so does what it
    /// promoted.
    pub fn forget_said_by(&mut self, node: &NodeId) -> Vec<Slot> {
        let is_meant = |slot: &&Slot| {
            slot.node == *node && matches!(slot.topic, Topic::Holding(_) | Topic::Resolution(_))
        };
        let slots: Vec<Slot> = self.entries.keys().filter(is_meant).cloned().collect();
        for slot in &slots {
            self.forget(slot);
        }
        slots
    }

    /// Takes the slots of what has given way to others.
    pub fn take_gone(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.gone)
    }

    /// The first statement after `place` that is for whoever shares `store`; what came from `peer`
    /// after `echo_from` is not told it again.
    pub fn next_after(
        &self,
        store: &StoreId,
        place: u64,
        peer: &NodeId,
        echo_from: u64,
    ) -> Option<(u64, Arc<Signed>)> {
        let later = self.places.range((*store, place.saturating_add(1))..=(*store, u64::MAX));
        let mut fits = later.filter_map(|((_, place), slot)| {
            let entry = self.entries.get(slot)?;
            let echo = entry.from.as_ref() == Some(peer) && *place > echo_from;
            (!echo).then(|| (*place, entry.signed.clone()))
        });
        fits.next()
    }

    /// The stores of all places after this one, as often as they have such a place.
    pub fn stores_after(&self, place: u64) -> impl Iterator<Item = StoreId> {
        self.stores.range(place.saturating_add(1)..).map(|(_, store)| *store)
    }

    /// One statement.
    pub fn get(&self, slot: &Slot) -> Option<Arc<Signed>> {
        self.entries.get(slot).map(|entry| entry.signed.clone())
    }

    /// What a node says it holds of an image.
    pub fn holding(&self, store: &StoreId, node: &NodeId, image: &ImageName) -> Option<Holding> {
        let topic = Topic::Holding(image.clone());
        let signed = self.get(&Slot { store: *store, node: *node, topic })?;
        match &signed.said.what {
            What::Holding(holding) => Some(holding.clone()),
            _ => None,
        }
    }

    /// How a node has decided a conflict about an image, if it couldn't end it itself.
    pub fn resolution(
        &self,
        store: &StoreId,
        node: &NodeId,
        image: &ImageName,
    ) -> Option<Resolution> {
        let topic = Topic::Resolution(image.clone());
        let signed = self.get(&Slot { store: *store, node: *node, topic })?;
        match &signed.said.what {
            What::Resolution(resolution) => Some(resolution.clone()),
            _ => None,
        }
    }

    /// With whom a node says it shares a store.
    pub fn roster(&self, store: &StoreId, node: &NodeId) -> Option<Roster> {
        let signed = self.get(&Slot { store: *store, node: *node, topic: Topic::Roster })?;
        match &signed.said.what {
            What::Roster(roster) => Some(roster.clone()),
            _ => None,
        }
    }

    /// The rosters of a store as they lead from `from` to ever further members: whoever knows that
    /// `from` is one knows of each that it is, before its roster comes. Those with a place after
    /// `place`.
    pub fn rosters(&self, store: &StoreId, from: &NodeId, place: u64) -> Vec<Arc<Signed>> {
        let (mut seen, mut next) = (BTreeSet::from([*from]), VecDeque::from([*from]));
        let mut rosters = Vec::new();
        while let Some(node) = next.pop_front() {
            let slot = Slot { store: *store, node, topic: Topic::Roster };
            let Some(entry) = self.entries.get(&slot) else { continue };
            if let What::Roster(roster) = &entry.signed.said.what {
                let members = roster.members.iter().map(|member| member.node);
                next.extend(members.filter(|member| seen.insert(*member)));
            }
            if entry.place > place {
                rosters.push(entry.signed.clone());
            }
        }
        rosters
    }

    /// Who promoted what of an image and when (milliseconds since 1970), oldest first.
    pub fn promotions(&self, store: &StoreId, image: &ImageName) -> Vec<(NodeId, i64, Promotion)> {
        let first = Slot { store: *store, node: NodeId::from_bytes([0; 32]), topic: Topic::Roster };
        let of_store = self.entries.range(first..).take_while(|(slot, _)| slot.store == *store);
        let mut all: Vec<_> = of_store
            .filter_map(|(slot, entry)| match &entry.signed.said.what {
                What::Promotion(promotion) if promotion.image == *image => {
                    Some((slot.node, entry.signed.said.unix_ms, promotion.clone()))
                }
                _ => None,
            })
            .collect();
        all.sort_by_key(|(node, unix_ms, _)| (*unix_ms, *node));
        all
    }

    /// Slots of a node's promotions of an image that are older than the newest
    /// [`budget::PROMOTIONS_KEPT`].
    pub fn old_promotions(&self, store: &StoreId, node: &NodeId, image: &ImageName) -> Vec<Slot> {
        let first = Slot { store: *store, node: *node, topic: Topic::Roster };
        let mut all: Vec<(u64, Slot)> = self
            .entries
            .range(first..)
            .take_while(|(slot, _)| slot.store == *store && slot.node == *node)
            .filter(|(slot, _)| matches!(&slot.topic, Topic::Promotion(of, _) if of == image))
            .map(|(slot, entry)| (entry.signed.said.sequence, slot.clone()))
            .collect();
        all.sort();
        let old = all.len().saturating_sub(budget::PROMOTIONS_KEPT);
        all.into_iter().take(old).map(|(_, slot)| slot).collect()
    }
}

#[cfg(test)]
mod tests;
