//! The adoption of a store in a running node: `adopt start | next | back | status | report`. What may
//! follow what, and what is done to the files, is the store's (`store/src/adoption.rs`); here it meets
//! the peers: they are told by the refusal `OBSERVING`, and offer again when a phase has changed.

mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, NodeId, StoreName};
use blockferry_store::{
    AdoptOrder, Error as StoreError, Facts, Generation, Kept, LookState, Phase, Rule, Why,
};
use blockferry_wire::Offer;

use crate::admin::requests::done;
use crate::api::{
    AdoptReport, AdoptRow, AdoptStatus, AdoptStoreRow, AdoptionPhase, Answer, Request, Role, Schema,
};
use crate::budget::{ADOPT_BUSY_WAIT, ADOPT_OFFERS_MAX};
use crate::config::StoreConfig;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::ledger::rfc3339;
use crate::lineage::diverged;
use crate::link::transport::close;
use crate::local::stores::{OpenStore, Origin};
use crate::membership::pairing;
use crate::node;
use crate::transfer::exchange::version_of;

use compare::{Here, Offered, compare};

/// What peers offered of a store last, while it is being adopted.
#[derive(Debug, Default)]
pub(crate) struct Offers(Mutex<BTreeMap<(NodeId, ImageName), Offered>>);

/// A store is being adopted, so that there is something to tell.
pub(crate) fn is_under_way(core: &Core) -> bool {
    core.all_stores().iter().any(|store| store.store.adoption().from != Phase::Off)
}

/// Remembers what was offered, to compare times: a head doesn't say them.
pub(crate) fn note_offer(store: &OpenStore, from: NodeId, offer: &Offer) {
    if store.store.adoption().from == Phase::Off {
        return;
    }
    let mut offers = lock(&store.offers.0);
    let key = (from, offer.image.clone());
    if offers.len() < ADOPT_OFFERS_MAX || offers.contains_key(&key) {
        let (root, size_bytes, mtime_ns) = (offer.root, offer.size_bytes, offer.meta.mtime_ns);
        offers.insert(key, Offered { root, size_bytes, mtime_ns });
    }
}

/// A generation became current: what was received of it before isn't needed beside it. Blocking.
pub(crate) fn note_current(store: &OpenStore, generation: &Generation) {
    if store.store.adoption().from != Phase::Active {
        return;
    }
    if let Err(error) = store.store.release_shadow(&generation.image, None) {
        tracing::debug!(image = %generation.image, code = error.code(), %error, "kept beside");
    }
}

/// One event for a content that was received beside an image.
pub(crate) fn tell_shadow(core: &Core, store: &OpenStore, peer: &str, got: &Generation) {
    let text = format!(
        "{}@{} came from {peer} and is kept beside the image: {} bytes received",
        store.full_name(&got.image),
        got.number,
        got.wire_bytes
    );
    let note = Note::info("SHADOWED", text).store(&store.config.name);
    core.events.note(note.image(&got.image).peer(&peer));
}

/// Answers everything that `adopt` asks.
pub(crate) async fn answer(core: &Arc<Core>, request: Request) -> Result<Answer> {
    match request {
        Request::AdoptStart { store, path, role, ticket, name } => {
            start(core, store, path, role, (ticket, name)).await
        }
        Request::AdoptNext { store, force } => {
            go(core, &core.store(&store)?, AdoptOrder::Next, force).await?;
            status(core, vec![core.store(&store)?]).await
        }
        Request::AdoptBack { store } => {
            go(core, &core.store(&store)?, AdoptOrder::Back, false).await?;
            status(core, vec![core.store(&store)?]).await
        }
        Request::AdoptReport { store } => {
            let (to, store) = (core.clone(), core.store(&store)?);
            done(&blocking("a report", move || report(&to, &store)).await?)
        }
        _ => status(core, core.all_stores()).await,
    }
}

/// A new store that begins by observing, from a ticket or of our own; or a store in service.
async fn start(
    core: &Arc<Core>,
    store: Option<String>,
    path: Option<PathBuf>,
    role: Role,
    (ticket, name): (Option<String>, Option<String>),
) -> Result<Answer> {
    let store = match (store, path, ticket) {
        (None, path, Some(ticket)) => {
            let joined = pairing::join_to_adopt(core, &ticket, path, name).await?;
            core.store(joined.store.name.as_str())?
        }
        (Some(text), Some(path), None) => {
            let bad = |e: blockferry_delta::NameError| Error::Control { what: e.to_string() };
            let mut config = StoreConfig::new(StoreName::new(&text).map_err(bad)?, path, role);
            config.settle = core.live().settle;
            config.adopt = true;
            node::take_store(core, config, Origin::Ours).await?;
            core.store(&text)?
        }
        (Some(text), None, None) => core.store(&text)?,
        _ => {
            let what = "adopt start: a store, a new store and its path, or a ticket".to_owned();
            return Err(Error::Control { what });
        }
    };
    if store.store.adoption().from == Phase::Off {
        go(core, &store, AdoptOrder::Start, false).await?;
    }
    status(core, vec![store]).await
}

/// Does what is ordered. Whoever receives something ends it first: connections begin anew, and with
/// them everything is offered again.
async fn go(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    order: AdoptOrder,
    force: bool,
) -> Result<()> {
    let until = Instant::now() + ADOPT_BUSY_WAIT;
    let before = store.store.adoption();
    let moved = loop {
        let (to, of) = (core.clone(), store.clone());
        let moved = blocking("adopting", move || {
            let facts = if force { Facts::default() } else { facts(&to, &of)? };
            // What waits for its set holds its image.
            of.waiting.clear_all(&of.store);
            let moved = of.store.adopt(order, facts);
            forget_heads(&to, &of)?;
            Ok(moved?)
        });
        match moved.await {
            // What is being received or recorded is ended, or ends.
            Err(Error::Store(StoreError::Busy(_))) if Instant::now() < until => {
                reconnect(core, store);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => break other,
        }
    };
    reconnect(core, store);
    store.wake.notify_one();
    let now = store.store.adoption();
    if now != before {
        let (name, from, to) = (&store.config.name, before.from.word(), now.to.word());
        let text = format!("adoption of store {name}: {from} -> {to}");
        core.events.note(Note::info("ADOPTION", text).store(name));
    }
    moved.map(drop)
}

/// Images of which nothing is known any more are offered to nobody. Blocking.
fn forget_heads(core: &Core, store: &OpenStore) -> Result<()> {
    let name = &store.config.name;
    let known: BTreeSet<ImageName> =
        store.store.heads()?.into_iter().map(|head| head.image).collect();
    for image in lock(&core.backlog).retain_heads(name, &known) {
        core.witness.touch(name, &image);
    }
    Ok(())
}

fn reconnect(core: &Core, store: &OpenStore) {
    lock(&store.offers.0).clear();
    for peer in core.sharers(&store.config.name) {
        peer.reconnect(close::MEMBERSHIP, "ADOPTION_MOVED");
    }
    core.wake();
}

/// What an order depends on. Blocking.
fn facts(core: &Core, store: &OpenStore) -> Result<Facts> {
    let looks = store.store.look()?;
    let unrecorded = looks.iter().filter(|look| {
        matches!(look.state, LookState::New | LookState::Changed) && store.takes(&look.name)
    });
    let images = store.store.images()?;
    let diverged = images.iter().filter(|image| diverged::is_open(core, store, image)).count();
    Ok(Facts { unrecorded: unrecorded.count() as u64, diverged: diverged as u64 })
}

fn phase_of(phase: Phase) -> AdoptionPhase {
    match phase {
        Phase::Off => AdoptionPhase::Off,
        Phase::Observe => AdoptionPhase::Observe,
        Phase::Shadow => AdoptionPhase::Shadow,
        Phase::Active => AdoptionPhase::Active,
    }
}

async fn status(core: &Arc<Core>, stores: Vec<Arc<OpenStore>>) -> Result<Answer> {
    let to = core.clone();
    let rows = blocking("a report", move || {
        stores.iter().map(|store| status_row(&to, store)).collect::<Result<Vec<_>>>()
    });
    done(&AdoptStatus { schema: Schema, stores: rows.await? })
}

/// Blocking.
fn status_row(core: &Core, store: &OpenStore) -> Result<AdoptStoreRow> {
    let now = store.store.adoption();
    let facts = facts(core, store)?;
    let kept = store.store.all_kept()?;
    let of = |why| kept.iter().filter(move |kept: &&Kept| kept.why == why);
    let bytes = |why| of(why).map(|kept| kept.allocated_bytes).sum::<u64>();
    let mut compared = BTreeMap::new();
    for row in rows(core, store)? {
        *compared.entry(row.state).or_insert(0) += 1;
    }
    Ok(AdoptStoreRow {
        store: store.config.name.to_string(),
        path: store.config.path.display().to_string(),
        role: store.config.role,
        phase: phase_of(now.from),
        going_to: (!now.rests()).then(|| phase_of(now.to)),
        recorded: store.store.images()?.len() as u64,
        unrecorded: facts.unrecorded,
        diverged: facts.diverged,
        shadow: of(Why::Shadow).count() as u64,
        shadow_bytes: bytes(Why::Shadow),
        old_tool: of(Why::OldTool).count() as u64,
        old_tool_bytes: bytes(Why::OldTool),
        compared,
    })
}

/// `adopt report`. Blocking.
fn report(core: &Core, store: &OpenStore) -> Result<AdoptReport> {
    Ok(AdoptReport {
        schema: Schema,
        store: store.config.name.to_string(),
        phase: phase_of(store.store.adoption().from),
        peers: core.sharers(&store.config.name).iter().map(|peer| peer.name()).collect(),
        images: rows(core, store)?,
    })
}

/// Each image beside each peer that is connected.
fn rows(core: &Core, store: &OpenStore) -> Result<Vec<AdoptRow>> {
    let name = &store.config.name;
    let ours: BTreeMap<ImageName, Generation> =
        store.store.images()?.into_iter().map(|image| (image.image.clone(), image)).collect();
    let unrecorded: BTreeSet<ImageName> = store.unrecorded().into_iter().collect();
    let shadow: BTreeSet<ImageName> = store
        .store
        .all_kept()?
        .into_iter()
        .filter(|kept| kept.why == Why::Shadow)
        .map(|kept| kept.image)
        .collect();
    let mut rows = Vec::new();
    for peer in core.sharers(name) {
        let Some(theirs) = lock(&core.backlog).peer_heads(peer.id, name) else { continue };
        let images: BTreeSet<&ImageName> =
            ours.keys().chain(theirs.keys()).chain(&unrecorded).collect();
        for image in images {
            let own = ours.get(image);
            let version = own.map(version_of);
            let here = match (own.zip(version.as_ref()), unrecorded.contains(image)) {
                (Some((own, version)), _) => Here::Recorded(version, own.meta.mtime_ns),
                (None, true) => Here::Unrecorded,
                (None, false) => Here::Nothing,
            };
            let head = theirs.get(image);
            let offered = lock(&store.offers.0).get(&(peer.id, image.clone())).copied();
            let Some(state) = compare(here, head, offered.as_ref()) else { continue };
            let offered = offered.filter(|o| head.is_some_and(|head| head.root == o.root));
            let time = |ns: i128| i64::try_from(ns / 1_000_000).map(rfc3339).ok();
            rows.push(AdoptRow {
                image: image.to_string(),
                peer: peer.name(),
                state,
                size_bytes: own.map(|own| own.size_bytes),
                peer_size_bytes: offered.map(|offered| offered.size_bytes),
                root: own.map(|own| own.root.to_string()),
                peer_root: head.map(|head| head.root.to_string()),
                modified: own.and_then(|own| time(own.meta.mtime_ns)),
                peer_modified: offered.and_then(|offered| time(offered.mtime_ns)),
                shadow: shadow.contains(image),
            });
        }
    }
    rows.sort_by(|a, b| (&a.image, &a.peer).cmp(&(&b.image, &b.peer)));
    Ok(rows)
}

/// What is replaced is another tool's, and is kept until the adoption ends: no news of its own.
pub(crate) fn keeps_old(store: &OpenStore) -> bool {
    store.store.adoption().keeps_old()
}

/// Does it mean something when a file is gone, or changed on a mirror? Not where another tool rules.
pub(crate) fn judges_files(store: &OpenStore) -> bool {
    store.store.adoption().rule() == Rule::InPlace
}
