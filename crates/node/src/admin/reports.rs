//! Reports: the objects that requests end with, put together from what the node knows.
//!
//! Nothing here changes anything. What reads a catalog blocks and says so.

use std::time::Instant;

use blockferry_delta::{ImageName, NodeId};
use blockferry_store::{CommitMode, Discover, Generation, LookState};

use crate::api::{
    BacklogItem, BacklogReport, GenerationRow, HistoryReport, ImagePeer, ImageRow, ImageState,
    NodeRow, PairState, PeerRow, Role, Schema, StatusReport, StoreRow, WaitReason,
};
use crate::backlog::{Item, Key, Reason};
use crate::core::{Core, key, lock};
use crate::error::Result;
use crate::events::now_unix_ms;
use crate::http::health::room;
use crate::ledger::rfc3339;
use crate::lineage::diverged;
use crate::lineage::retention;
use crate::link::peer::{Active, Peer};
use crate::local::absent;
use crate::local::recording::{self, Deferred};
use crate::local::sets;
use crate::local::stores::{Activity, OpenStore};
use crate::node;
use crate::planner::forecast::{Finish, Forecast};
use crate::planner::foresight;
use crate::promotion::promote;
use crate::promotion::readiness::far_peers;
use crate::rate::overrides::Scope;

/// `status`. Blocking.
pub(crate) fn status(core: &Core) -> Result<StatusReport> {
    let ahead = foresight::now(core);
    Ok(StatusReport {
        schema: Schema,
        node: NodeRow {
            id: core.config.identity.id().to_string(),
            name: core.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: core.started.elapsed().as_secs(),
            listen: listen(core),
        },
        peers: core.all_peers().iter().map(|p| peer_row(core, p, &ahead)).collect(),
        stores: store_rows(core, &ahead)?,
    })
}

fn listen(core: &Core) -> Vec<String> {
    if core.config.listen.is_empty() {
        return Vec::new();
    }
    core.transport.local_addresses().iter().map(ToString::to_string).collect()
}

/// One peer.
pub(crate) fn peer_row(core: &Core, peer: &Peer, ahead: &Forecast) -> PeerRow {
    let config = peer.config();
    let active = peer.active();
    let lacks = lock(&core.backlog).items_of(peer.id);
    let verdict = core.limit.verdict(&Scope::peer(peer.id));
    let protocol = active.as_ref().and_then(Active::version);
    PeerRow {
        id: peer.id.to_string(),
        name: config.name,
        // Before the hellos nobody knows whether the two can talk.
        connected: protocol.is_some(),
        rtt_ms: active.map(|a| a.link.connection.rtt().as_secs_f64() * 1000.0),
        rate_limit_bits_per_second: verdict.rate.bits_per_second(),
        backlog_bytes: lacks.iter().fold(0, |sum, item| sum.saturating_add(item.bytes)),
        backlog_images: lacks.len() as u64,
        state: peer.state(),
        addresses: config.addresses,
        stores: config.stores.iter().map(ToString::to_string).collect(),
        schedule: config.send.schedule,
        weight: verdict.weight,
        polite: verdict.polite,
        limited_by: verdict.because.to_string(),
        limit_until: verdict.until_unix_ms.map(rfc3339),
        next_rate_limit_bits_per_second: verdict
            .until_unix_ms
            .and_then(|at| next_rate(core, peer, at)),
        since: peer.since_unix_ms().map(rfc3339),
        finish: last(ahead, |key| key.peer == peer.id),
        refused: peer.refused().map(str::to_owned),
        protocol,
        agent: protocol.and_then(|_| peer.known.glance(Instant::now()).agent),
    }
}

/// The limit towards a peer from an instant on.
fn next_rate(core: &Core, peer: &Peer, unix_ms: i64) -> Option<u64> {
    let rates = core.limit.in_force().shared_rates();
    rates.at(unix_ms).verdict(&Scope::peer(peer.id)).rate.bits_per_second()
}

/// When the last of these will be there.
fn last(ahead: &Forecast, belongs: impl Fn(&Key) -> bool) -> Option<String> {
    ahead.last(belongs).and_then(Finish::unix_ms).map(rfc3339)
}

/// One store. Blocking.
pub(crate) fn store_row(core: &Core, store: &OpenStore, ahead: &Forecast) -> Result<StoreRow> {
    let images = store.store.images()?;
    let (kept, kept_bytes) = retention::kept(store)?;
    let sharers = core.sharers(&store.config.name);
    let synced = images.iter().filter(|g| core.travels(store, g)).all(|g| {
        let name = &store.config.name;
        sharers.iter().all(|p| lock(&core.backlog).in_sync(&key(p.id, name, &g.image)))
            && far_peers(core, store, g).iter().all(|p| p.state == PairState::InSync)
    });
    let quiet = images.iter().all(|g| store.seen(g.image.as_str()).is_none());
    Ok(StoreRow {
        name: store.config.name.to_string(),
        path: store.config.path.display().to_string(),
        role: store.config.role,
        commit_mode: match store.store.commit_mode() {
            CommitMode::Clone => "clone".to_owned(),
            CommitMode::Journal => "journal".to_owned(),
            CommitMode::Copy => "copy".to_owned(),
        },
        images: images.len() as u64,
        in_sync: synced && quiet && store.unrecorded().is_empty(),
        id: store.store.identity().id.to_string(),
        peers: sharers.iter().map(|p| p.name()).collect(),
        finish: last(ahead, |key| key.store == store.config.name),
        free_bytes: room(&store.config.path).map(|room| room.free_bytes),
        kept,
        kept_bytes,
        trouble: None,
    })
}

/// All stores, those that are not in service last. Blocking.
pub(crate) fn store_rows(core: &Core, ahead: &Forecast) -> Result<Vec<StoreRow>> {
    let absent = absent::all(core);
    let serving = core.all_stores();
    let rows = serving.iter().map(|store| store_row(core, store, ahead));
    rows.chain(absent.iter().map(|(store, _)| Ok(absent::row(core, store)))).collect()
}

/// The images of a store, recorded or not. Blocking.
pub(crate) fn image_rows(core: &Core, store: &OpenStore) -> Result<Vec<ImageRow>> {
    let mut rows = Vec::new();
    for generation in store.store.images()? {
        rows.push(image_row(core, store, &generation));
    }
    for image in store.unrecorded() {
        let known = rows.iter().any(|row| row.name == image.as_str());
        if !known {
            rows.push(new_row(store, &image));
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// A file that no generation is known of.
fn new_row(store: &OpenStore, image: &ImageName) -> ImageRow {
    let path = store.config.path.join(image.as_str());
    ImageRow {
        store: store.config.name.to_string(),
        name: image.to_string(),
        generation: None,
        root: None,
        size_bytes: std::fs::symlink_metadata(path).map_or(0, |info| info.len()),
        state: match lock(&store.activity).get(image) {
            Some(Activity::Recording) => ImageState::Recording,
            Some(Activity::Receiving) => ImageState::Receiving,
            None => sets::state_of(store, image).unwrap_or(ImageState::Changed),
        },
        set: sets::name_of(store, image),
        peers: Vec::new(),
        promoted: None,
    }
}

/// One recorded image.
pub(crate) fn image_row(core: &Core, store: &OpenStore, generation: &Generation) -> ImageRow {
    let image = &generation.image;
    let sharers = core.sharers(&store.config.name);
    let mut peers: Vec<ImagePeer> =
        sharers.iter().map(|p| image_peer(core, store, generation, p)).collect();
    peers.extend(far_peers(core, store, generation));
    let diverged = peers.iter().any(|p| p.state == PairState::Diverged)
        || diverged::is_open(core, store, generation);
    let activity = lock(&store.activity).get(image).copied();
    let state = match (activity, store.seen(image.as_str())) {
        (Some(Activity::Recording), _) => ImageState::Recording,
        (Some(Activity::Receiving), _) => ImageState::Receiving,
        (_, Some(LookState::Missing)) => ImageState::Missing,
        _ if diverged => ImageState::Diverged,
        (_, Some(_)) => sets::state_of(store, image).unwrap_or(ImageState::Changed),
        (_, None) => ImageState::Current,
    };
    ImageRow {
        store: store.config.name.to_string(),
        name: image.to_string(),
        generation: Some(generation.number),
        root: Some(generation.root.to_string()),
        size_bytes: generation.size_bytes,
        state,
        set: sets::name_of(store, image),
        peers,
        promoted: promote::rows(core, store, image).pop().map(|(_, row)| row),
    }
}

fn image_peer(core: &Core, store: &OpenStore, generation: &Generation, peer: &Peer) -> ImagePeer {
    let key = key(peer.id, &store.config.name, &generation.image);
    let state = pair_state(core, &key);
    let age_ms = now_unix_ms().saturating_sub(generation.recorded_unix_ms).max(0);
    #[expect(clippy::cast_precision_loss, reason = "a lag for people")]
    let lag = match state {
        PairState::InSync => Some(0.0),
        PairState::Unknown => None,
        _ => Some(age_ms as f64 / 1000.0),
    };
    ImagePeer {
        peer: peer.name(),
        generation: lock(&core.backlog).receipt(&key).map(|(number, _)| number),
        state,
        lag_seconds: lag,
    }
}

/// How an image stands at a peer.
pub(crate) fn pair_state(core: &Core, key: &crate::backlog::Key) -> PairState {
    let backlog = lock(&core.backlog);
    if backlog.head(&key.store, &key.image).is_none() {
        return PairState::Unknown;
    }
    if backlog.in_sync(key) {
        return PairState::InSync;
    }
    match backlog.reason(key) {
        Some(Reason::Diverged) => PairState::Diverged,
        Some(Reason::Transferring) if backlog.progress(key).is_some() => PairState::Transferring,
        Some(_) => PairState::Waiting,
        None => PairState::Unknown,
    }
}

/// Why an image waits, in the words of the contract.
pub(crate) fn wait_reason(reason: Reason) -> WaitReason {
    match reason {
        Reason::PeerDown => WaitReason::PeerDown,
        Reason::Transferring => WaitReason::Transferring,
        Reason::InUse => WaitReason::InUse,
        Reason::Space => WaitReason::Space,
        Reason::Diverged => WaitReason::Diverged,
        Reason::Schedule => WaitReason::Schedule,
        Reason::Paused => WaitReason::Paused,
        Reason::SetIncomplete => WaitReason::SetIncomplete,
        Reason::Observing => WaitReason::Observing,
        Reason::Failing => WaitReason::Other,
    }
}

/// `backlog`. Blocking.
pub(crate) fn backlog(core: &Core, peer: Option<NodeId>) -> BacklogReport {
    // Two statements: the forecast takes the backlog's lock itself.
    let items: Vec<_> = {
        let backlog = lock(&core.backlog);
        let wanted = |item: &Item| peer.is_none_or(|id| item.key.peer == id);
        let items = backlog.items().into_iter().filter(wanted);
        let done = |item: &Item| backlog.progress(&item.key).filter(|(_, total)| *total > 0);
        items.map(|item| (done(&item).map(|(done, _)| done), item)).collect()
    };
    let ahead = foresight::now(core);
    let items = items.into_iter().map(|(done_bytes, item)| BacklogItem {
        store: item.key.store.to_string(),
        image: item.key.image.to_string(),
        peer: core.name_of(&item.key.peer),
        bytes: item.bytes,
        done_bytes,
        eta: ahead.finish(&item.key).and_then(Finish::unix_ms).map(rfc3339),
        reason: wait_reason(item.reason),
        holder: None,
        refused: refused(core, &item),
    });
    let mut items: Vec<BacklogItem> = items.collect();
    for store in core.all_stores().iter().filter(|s| s.config.role == Role::Writer) {
        let sharers = core.sharers(&store.config.name);
        let peers = sharers.iter().filter(|p| peer.is_none_or(|id| p.id == id));
        let peers: Vec<String> = peers.map(|p| p.name()).collect();
        if !peers.is_empty() {
            recording::deferred(store).iter().for_each(|d| defer(&mut items, store, d, &peers));
        }
    }
    BacklogReport { schema: Schema, items }
}

/// Why the peer that something waits for and we don't talk, if that is so.
fn refused(core: &Core, item: &Item) -> Option<String> {
    let peer = core.peer(&item.key.peer).filter(|_| item.reason == Reason::PeerDown)?;
    peer.refused().map(str::to_owned)
}

/// Adds what waits here for whoever writes it: no generation of it exists that a peer could lack.
fn defer(items: &mut Vec<BacklogItem>, store: &OpenStore, deferred: &Deferred, peers: &[String]) {
    let (store, image) = (store.config.name.to_string(), deferred.image.to_string());
    for peer in peers {
        let same = |i: &&mut BacklogItem| i.peer == *peer && i.store == store && i.image == image;
        match items.iter_mut().find(same) {
            // An earlier generation is still to go: that is what is waited for first.
            Some(item) => item.holder.clone_from(&deferred.holder),
            None => items.push(BacklogItem {
                store: store.clone(),
                image: image.clone(),
                peer: peer.clone(),
                bytes: 0,
                done_bytes: None,
                eta: None,
                reason: deferred.reason,
                holder: deferred.holder.clone(),
                refused: None,
            }),
        }
    }
}

/// `image history`. Blocking.
pub(crate) fn history(core: &Core, store: &OpenStore, image: &ImageName) -> Result<HistoryReport> {
    let receipts = store.store.receipts(image)?;
    let promotions = promote::rows(core, store, image);
    let here = retention::roots(store, image)?;
    let rows = store.store.history(image)?.into_iter().map(|g| {
        let holds = |(_, number, root): &&(NodeId, u64, _)| *number == g.number && *root == g.root;
        let peers = receipts.iter().filter(holds).map(|(id, _, _)| core.name_of(id));
        let far = far_peers(core, store, &g).into_iter();
        let far = far.filter(|peer| peer.state == PairState::InSync).map(|peer| peer.peer);
        #[expect(clippy::cast_precision_loss, reason = "a duration for people")]
        let seconds = g.millis as f64 / 1000.0;
        GenerationRow {
            generation: g.number,
            root: g.root.to_string(),
            size_bytes: g.size_bytes,
            author: author(core, &g.author),
            recorded: rfc3339(g.recorded_unix_ms),
            discover: discovered(&g).to_owned(),
            bytes_read: g.bytes_read,
            dirty_bytes: g.dirty_bytes,
            wire_bytes: g.wire_bytes,
            seconds,
            peers: peers.chain(far).collect(),
            promoted: promotions
                .iter()
                .filter(|(of, _)| of.root == g.root && of.lineage == g.lineage)
                .map(|(_, row)| row.clone())
                .collect(),
            kept: here.contains(&g.root),
            came: core.counts.came(&g),
        }
    });
    let generations = rows.collect();
    Ok(HistoryReport { schema: Schema, image: store.full_name(image), generations })
}

/// How a generation was found, in the words of the contract.
pub(crate) fn discovered(generation: &Generation) -> &'static str {
    match generation.discover {
        _ if generation.is_deleted() => "deleted",
        Discover::Scan => "scan",
        Discover::Extents => "extents",
        Discover::Map => "map",
        Discover::Metadata => "metadata",
        Discover::Received => "received",
    }
}

fn author(core: &Core, id: &NodeId) -> String {
    if *id == core.config.identity.id() { core.config.name.clone() } else { core.name_of(id) }
}

/// Addresses for `invite`, when there are none to give.
pub(crate) fn reachable(core: &Core) -> bool {
    !node::advertised(core).is_empty()
}
