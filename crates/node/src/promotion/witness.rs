//! Witness: what this node states about itself, and what it has heard from others.
//!
//! One task looks at each image that something happened to and at who shares the stores, says anew
//! what has changed, and keeps in the ledger what was said and heard. A receipt says "durable" as
//! soon as a generation is current here, "read back" when `proving` is through with it, and "changed"
//! while its file isn't what was recorded. What was heard counts only with a good signature and of a
//! member of the store, and not while two places show his key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use blockferry_delta::{ImageName, NodeId, StoreId, StoreName};
use blockferry_store::{LookState, Proven};
use blockferry_wire::{
    Holding, Member, PeerMisbehaved, Promotion, Proof, Resolution, Roster, Said, Statement, What,
};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::api::Role;
use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::ledger::Ledger;
use crate::lineage::conflict;
use crate::lineage::resolutions;
use crate::link::peer::Peer;
use crate::link::transport::close;
use crate::local::stores::OpenStore;
use crate::membership::roster::{self, Known};
use crate::promotion::heard::Heard;
use crate::promotion::statements::{Book, Signed, Slot, Taken, Topic};
use crate::promotion::{promote, proving};

/// An image of a store.
pub(crate) type Which = (StoreName, ImageName);

/// What is known by statements.
pub(crate) struct Witness {
    pub(crate) book: Mutex<Book>,
    /// What of the book the ledger doesn't have yet.
    unsaved: Mutex<BTreeSet<Slot>>,
    /// Images to be looked at.
    due: Mutex<BTreeSet<Which>>,
    wake: Notify,
    /// What was read back: good, or bad with the content that it should have been.
    pub(crate) proven: Mutex<BTreeMap<Which, Found>>,
    /// Where each peer is to go on, and whose statements are doubted.
    pub(crate) heard: Mutex<Heard>,
    /// A statement wasn't taken since the start: what is known may lack receipts.
    full: AtomicBool,
    /// Statements have given way since the start.
    pruned: AtomicBool,
}

/// What reading an image back came to last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) proven: Proven,
    pub(crate) good: bool,
}

impl Witness {
    /// What the ledger has. Blocking.
    pub(crate) fn load(ledger: &Ledger) -> Result<Self> {
        let mut log = [0; 8];
        rand::fill(&mut log).map_err(|_| Error::Crypto { what: "random bytes" })?;
        let mut book = Book::new(u64::from_le_bytes(log));
        for signed in ledger.statements()? {
            // What no longer fits is heard again.
            let _taken = book.take(signed, None);
        }
        Ok(Self {
            book: Mutex::new(book),
            unsaved: Mutex::default(),
            due: Mutex::default(),
            wake: Notify::new(),
            proven: Mutex::default(),
            heard: Mutex::default(),
            full: AtomicBool::new(false),
            pruned: AtomicBool::new(false),
        })
    }

    /// Whether there was no room for a statement since the start: its receipt is not known here.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Something happened to an image: what is stated about it may have to be said anew.
    pub(crate) fn touch(&self, store: &StoreName, image: &ImageName) {
        lock(&self.due).insert((store.clone(), image.clone()));
        self.wake.notify_one();
    }

    /// What a look saw that the one before didn't, or the other way round.
    pub(crate) fn touch_seen(
        &self,
        store: &StoreName,
        before: &BTreeMap<String, LookState>,
        now: &BTreeMap<String, LookState>,
    ) {
        let names = before.keys().chain(now.keys());
        for name in names.filter(|name| before.get(*name) != now.get(*name)) {
            if let Ok(image) = ImageName::new(name) {
                self.touch(store, &image);
            }
        }
    }

    /// Whether two places show the key of `node`: what it stated is no proof.
    pub(crate) fn doubts(&self, node: &NodeId) -> bool {
        lock(&self.heard).is_doubted(node)
    }
}

/// Two places show the key of a peer: until there is one again nothing that is said under it is
/// taken, and what was taken proves nothing. Then it is to be said once more.
pub(crate) fn doubt(core: &Arc<Core>, node: NodeId) {
    if !lock(&core.witness.heard).doubt(node) {
        return;
    }
    core.wake();
    let core = core.clone();
    tokio::spawn(async move {
        let anew = loop {
            match twins_left(&core, &node) {
                Some(left) => tokio::select! {
                    () = core.stopped() => return,
                    () = tokio::time::sleep(left) => {}
                },
                None => {
                    if let Some(anew) = believe(&core, &node) {
                        break anew;
                    }
                }
            }
        };
        for peer in anew.iter().filter_map(|id| core.peer(id)) {
            // A list is asked for at the beginning of a connection only.
            peer.reconnect(close::MEMBERSHIP, "ONE_KEY_AGAIN");
        }
        core.wake();
    });
}

/// For how long two places are still taken to show the key of a peer.
fn twins_left(core: &Core, node: &NodeId) -> Option<Duration> {
    core.peer(node).and_then(|peer| lock(&peer.twins).left(Instant::now()))
}

/// Ends the doubt about a key. Says which peers have something to say again; `None`: the other
/// place showed it once more.
fn believe(core: &Core, node: &NodeId) -> Option<BTreeSet<NodeId>> {
    // Which of the two said it nobody knows. It goes while it isn't believed yet.
    let forgotten = lock(&core.witness.book).forget_said_by(node);
    lock(&core.witness.unsaved).extend(forgotten);
    core.witness.wake.notify_one();
    let mut heard = lock(&core.witness.heard);
    twins_left(core, node).is_none().then(|| heard.believe(node))
}

/// Keeps statements up to date until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut changed = core.changed.subscribe();
    let mut said_of = None;
    loop {
        // With hundreds of stores and dozens of peers rosters are not looked at for every receipt.
        let now = Some(membership(&core));
        if said_of != now {
            said_of = now;
            for store in core.all_stores() {
                refresh_roster(&core, &store);
            }
        }
        attest_due(&core).await;
        save(&core).await;
        tokio::select! {
            () = core.stopped() => break,
            () = core.witness.wake.notified() => {}
            // The core, and with it the sender, lives as long as we do.
            _ = changed.changed() => {}
        }
    }
    save(&core).await;
}

/// What rosters are made of: while this is the same, so are they.
fn membership(core: &Core) -> (Vec<StoreId>, Vec<(NodeId, u64)>) {
    let stores = core.all_stores().iter().map(|store| store.store.identity().id).collect();
    let peers = core.all_peers().iter().map(|peer| (peer.id, peer.changes())).collect();
    (stores, peers)
}

async fn save(core: &Arc<Core>) {
    let slots = std::mem::take(&mut *lock(&core.witness.unsaved));
    if slots.is_empty() {
        return;
    }
    let rows: Vec<_> = {
        let book = lock(&core.witness.book);
        slots.into_iter().map(|slot| (slot.clone(), book.get(&slot))).collect()
    };
    let ledger = core.ledger.clone();
    if let Err(error) = blocking("keeping statements", move || ledger.keep_statements(&rows)).await
    {
        warn!(code = error.code(), %error, "statements are not kept");
    }
}

/// Looks at what is due.
async fn attest_due(core: &Arc<Core>) {
    let due = std::mem::take(&mut *lock(&core.witness.due));
    for which in due {
        let (to, of) = (core.clone(), which.clone());
        match blocking("a statement", move || attest(&to, &of)).await {
            Ok(Some(Proof::Durable)) => proving::prove(core, which),
            Ok(_) => {}
            Err(error) => {
                debug!(image = %which.1, code = error.code(), %error, "not stated");
                again(core, which);
            }
        }
    }
}

/// Something was in the way: looks at an image once more in a while.
fn again(core: &Arc<Core>, which: Which) {
    let core = core.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = core.stopped() => {}
            () = tokio::time::sleep(budget::READ_BACK_RETRY) => core.witness.touch(&which.0, &which.1),
        }
    });
}

/// Says what is held of an image, if that isn't what was said last; how sure we are. Blocking.
fn attest(core: &Core, which: &Which) -> Result<Option<Proof>> {
    let (name, image) = which;
    let Ok(store) = core.store(name.as_str()) else { return Ok(None) };
    let (id, us) = (store.store.identity().id, core.config.identity.id());
    resolutions::carry_out(core, &store, image)?;
    resolutions::tell(core, &store, image)?;
    let before = lock(&core.witness.book).holding(&id, &us, image);
    let current = store.store.current(image)?.filter(|g| core.travels(&store, g));
    let Some(current) = current else {
        // What was held once is not held any more.
        if let Some(before) = before.filter(|before| before.proof != Proof::Changed) {
            let (proof, rivals) = (Proof::Changed, Vec::new());
            say(core, &store, What::Holding(Holding { proof, rivals, ..before }))?;
        }
        return Ok(None);
    };
    let said = before.as_ref().filter(|b| b.root == current.root && b.lineage == current.lineage);
    let found = lock(&core.witness.proven).get(which).copied();
    // A look knows a commit of ours from a change; what it saw may be over by now.
    let changed = store.seen(image.as_str()).is_some() && !store.store.is_as_recorded(image)?;
    let proof = match found.filter(|found| found.proven.root == current.root) {
        // Of a deletion there is nothing to read back.
        _ if current.is_deleted() => Proof::ReadBack,
        _ if changed => Proof::Changed,
        Some(found) if found.good => Proof::ReadBack,
        Some(_) => Proof::Damaged,
        // Said before a restart, and the file wasn't touched since.
        None => said.map_or(Proof::Durable, |said| match said.proof {
            Proof::Changed => Proof::Durable,
            proof => proof,
        }),
    };
    let rivals = conflict::rivals(&store.store, &current)?;
    let (image, number, root) = (image.clone(), current.number, current.root);
    let holding = Holding { image, number, root, lineage: current.lineage, proof, rivals };
    if before.as_ref() != Some(&holding) {
        say(core, &store, What::Holding(holding))?;
    }
    Ok(Some(proof))
}

/// Says with whom a store is shared, if that isn't what was said last.
pub(crate) fn refresh_roster(core: &Core, store: &OpenStore) {
    let mut members = direct(core, store);
    members.sort_by_key(|member| member.node);
    members.truncate(blockferry_wire::limits::ROSTER_MEMBERS_MAX);
    let roster = Roster { node_name: core.config.name.clone(), members };
    let (id, us) = (store.store.identity().id, core.config.identity.id());
    if lock(&core.witness.book).roster(&id, &us).as_ref() == Some(&roster) {
        return;
    }
    if let Err(error) = say(core, store, What::Roster(roster)) {
        warn!(code = error.code(), %error, "can't say who is a member");
    }
}

fn direct(core: &Core, store: &OpenStore) -> Vec<Member> {
    let name = &store.config.name;
    let member = |peer: Arc<Peer>| Member {
        node: peer.id,
        name: peer.name(),
        writer: peer.role(name) != Some(Role::Mirror),
    };
    core.sharers(name).into_iter().map(member).collect()
}

/// The members of a store beside ourselves.
pub(crate) fn members(core: &Core, store: &OpenStore) -> BTreeMap<NodeId, Known> {
    let (id, us) = (store.store.identity().id, core.config.identity.id());
    let direct = direct(core, store);
    let book = lock(&core.witness.book);
    roster::members(&book, &id, &us, direct, |node| core.trust.revoked_at(node).is_some())
}

/// Signs a statement, puts it into the book and has it told to the others.
pub(crate) fn say(core: &Core, store: &OpenStore, what: What) -> Result<Arc<Signed>> {
    let identity = &core.config.identity;
    let (key, unix_ms) = (identity.public().to_bytes(), now_unix_ms());
    let id = store.store.identity().id;
    let mut said = Said { key, store: id, sequence: 0, unix_ms, what };
    let mut book = lock(&core.witness.book);
    let topic = topic_of(&said.what);
    let slot = Slot { store: id, node: identity.id(), topic };
    // Above whatever was said before, also by a copy of this node or before a clock was set back.
    let above = book.get(&slot).map_or(0, |before| before.said.sequence.saturating_add(1));
    said.sequence = above.max(u64::try_from(unix_ms).unwrap_or(0));
    let body = said.encode()?;
    let signature = identity.sign(&Statement::signed_bytes(&body));
    let signed = Signed { said, body, signature };
    let taken = book.take(signed.clone(), None);
    drop(book);
    taken_up(core, store, slot, taken, None);
    Ok(Arc::new(signed))
}

fn topic_of(what: &What) -> Topic {
    match what {
        What::Holding(holding) => Topic::Holding(holding.image.clone()),
        What::Promotion(p) => Topic::Promotion(p.image.clone(), p.root),
        What::Resolution(resolution) => Topic::Resolution(resolution.image.clone()),
        What::Roster(_) | What::Unknown(_) => Topic::Roster,
    }
}

/// Takes what a peer says, of itself or of others.
///
/// # Errors
/// `BAD_SIGNATURE`: it must not have passed that on.
pub(crate) fn hear(core: &Arc<Core>, peer: &Peer, statement: Statement) -> Result<()> {
    let place = statement.place;
    let signed = Signed::from_wire(statement)?;
    let id = signed.said.store;
    let shared = |s: &Arc<OpenStore>| peer.shares(&s.config.name);
    let Some(store) = core.store_by_id(&id).filter(shared) else { return Ok(()) };
    lock(&core.witness.heard).note_place(&peer.id, &id, place);
    let Some(slot) = signed.slot() else { return Ok(()) };
    let known = lock(&core.witness.book).get(&slot);
    if known.is_some_and(|known| known.said.sequence >= signed.said.sequence) {
        return Ok(());
    }
    if !signed.is_genuine() {
        return Err(Error::Wire(PeerMisbehaved::BadSignature.into()));
    }
    let us = slot.node == core.config.identity.id();
    if !us && !members(core, &store).contains_key(&slot.node) {
        debug!(peer = %peer.name(), node = %slot.node.short(), "a statement of no member");
        return Ok(());
    }
    if lock(&core.witness.heard).pass_over(&slot.node, &peer.id, &id) {
        debug!(peer = %peer.name(), node = %slot.node.short(), "two places show its key");
        return Ok(());
    }
    let (what, unix_ms) = (signed.said.what.clone(), signed.said.unix_ms);
    let taken = lock(&core.witness.book).take(signed, Some(peer.id));
    let node = slot.node;
    taken_up(core, &store, slot, taken, Some(peer.id));
    match what {
        What::Promotion(promotion) if taken == Taken::New => {
            told(core, &store, (node, unix_ms), promotion);
        }
        // Somebody with our key says something else: what is true here is said again.
        What::Holding(Holding { image, .. }) if us => {
            core.witness.touch(&store.config.name, &image);
        }
        // A conflict that is to be told here, or one that is to be ended.
        What::Holding(Holding { image, rivals, .. }) if !rivals.is_empty() => {
            core.witness.touch(&store.config.name, &image);
        }
        What::Resolution(Resolution { image, .. }) => {
            core.witness.touch(&store.config.name, &image);
        }
        _ => {}
    }
    Ok(())
}

/// What follows when the book has taken a statement, or couldn't.
fn taken_up(core: &Core, store: &OpenStore, slot: Slot, taken: Taken, from: Option<NodeId>) {
    match taken {
        Taken::Known => return,
        Taken::Full => {
            if !core.witness.full.swap(true, Ordering::Relaxed) {
                let text = format!(
                    "{}: more images times members than this node can keep receipts of ({} MiB): it \
                     can't say of all images that they are everywhere; `ready` says no then",
                    store.config.name,
                    budget::STATEMENTS_BYTES >> 20
                );
                let note = Note::error("STATEMENTS_FULL", text);
                core.events.note(note.store(&store.config.name));
            }
            return;
        }
        Taken::New => {}
    }
    let mut slots = BTreeSet::from([slot.clone()]);
    let gone = lock(&core.witness.book).take_gone();
    if !gone.is_empty() && !core.witness.pruned.swap(true, Ordering::Relaxed) {
        let text = "receipts take all the room that statements have: the oldest promotions, and \
                    what is known of deleted images, give way to them";
        let note = Note::warning("STATEMENTS_PRUNED", text.to_owned());
        core.events.note(note.store(&store.config.name));
    }
    slots.extend(gone);
    if let Topic::Promotion(image, _) = &slot.topic {
        let mut book = lock(&core.witness.book);
        let old = book.old_promotions(&slot.store, &slot.node, image);
        slots.extend(old.into_iter().filter(|old| book.forget(old)));
    }
    lock(&core.witness.unsaved).append(&mut slots);
    core.witness.wake.notify_one();
    for peer in core.sharers(&store.config.name) {
        if Some(peer.id) != from {
            peer.nudge();
        }
    }
    core.wake();
}

/// A promotion that was made elsewhere becomes an event here.
fn told(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    (node, unix_ms): (NodeId, i64),
    promotion: Promotion,
) {
    let known = members(core, store);
    let there = known.get(&node).map_or_else(|| node.short(), |known| known.name.clone());
    let text = format!(
        "{}@{} was promoted on {there} by {}, with receipts of {} members",
        store.full_name(&promotion.image),
        promotion.number,
        promotion.by.as_str(),
        promotion.receipts.len()
    );
    let note = Note::info("PROMOTED", text).store(&store.config.name);
    core.events.note(note.image(&promotion.image).peer(&there));
    let (core, store) = (core.clone(), store.clone());
    tokio::task::spawn_blocking(move || {
        let ran = promote::hook_for_mirror(&core, &store, (node, unix_ms), &promotion);
        if let Err(error) = ran {
            warn!(%error, "whether a hook is to run can't be told");
        }
    });
}
