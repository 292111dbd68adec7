//! Reports: the objects that requests end with, put together from what the node knows.
//!
//! Nothing here changes anything. What reads a catalog blocks and says so.

use blockferry_delta::{ImageName, NodeId};
use blockferry_store::{CommitMode, Discover, Generation, LookState};

use crate::api::{
    BacklogItem, BacklogReport, GenerationRow, HistoryReport, ImagePeer, ImageRow, ImageState,
    NodeRow, PairState, PeerReady, PeerRow, ReadyReport, Require, Role, Schema, StatusReport,
    StoreRow, WaitReason,
};
use crate::backlog::{Item, Reason};
use crate::core::{Core, key, lock};
use crate::error::Result;
use crate::events::now_unix_ms;
use crate::ledger::rfc3339;
use crate::node;
use crate::overrides::Scope;
use crate::peer::Peer;
use crate::recording::{self, Deferred};
use crate::sets;
use crate::stores::{Activity, OpenStore};

/// `status`. Blocking.
pub(crate) fn status(core: &Core) -> Result<StatusReport> {
    let stores = core.all_stores();
    Ok(StatusReport {
        schema: Schema,
        node: NodeRow {
            id: core.config.identity.id().to_string(),
            name: core.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: core.started.elapsed().as_secs(),
            listen: listen(core),
        },
        peers: core.all_peers().iter().map(|p| peer_row(core, p)).collect(),
        stores: stores.iter().map(|s| store_row(core, s)).collect::<Result<_>>()?,
    })
}

fn listen(core: &Core) -> Vec<String> {
    if core.config.listen.is_empty() {
        return Vec::new();
    }
    core.transport.local_addresses().iter().map(ToString::to_string).collect()
}

/// One peer.
pub(crate) fn peer_row(core: &Core, peer: &Peer) -> PeerRow {
    let config = peer.config();
    let active = peer.active();
    let items = lock(&core.backlog).items();
    let lacks = items.iter().filter(|item| item.key.peer == peer.id);
    let verdict = core.limit.verdict(&Scope::peer(peer.id));
    PeerRow {
        id: peer.id.to_string(),
        name: config.name,
        connected: active.is_some(),
        rtt_ms: active.map(|a| a.link.connection.rtt().as_secs_f64() * 1000.0),
        rate_limit_bits_per_second: verdict.rate.bits_per_second(),
        backlog_bytes: lacks.clone().fold(0, |sum, item| sum.saturating_add(item.bytes)),
        backlog_images: lacks.count() as u64,
        state: peer.state(),
        addresses: config.addresses,
        stores: config.stores.iter().map(ToString::to_string).collect(),
        schedule: config.send.schedule,
        limited_by: verdict.because.to_string(),
        limit_until: verdict.until_unix_ms.map(rfc3339),
    }
}

/// One store. Blocking.
pub(crate) fn store_row(core: &Core, store: &OpenStore) -> Result<StoreRow> {
    let images = store.store.images()?;
    let sharers = core.sharers(&store.config.name);
    let backlog = lock(&core.backlog);
    let synced = images.iter().filter(|g| core.travels(store, g)).all(|g| {
        let name = &store.config.name;
        sharers.iter().all(|p| backlog.in_sync(&key(p.id, name, &g.image)))
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
    })
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
    }
}

/// One recorded image.
pub(crate) fn image_row(core: &Core, store: &OpenStore, generation: &Generation) -> ImageRow {
    let image = &generation.image;
    let sharers = core.sharers(&store.config.name);
    let peers: Vec<ImagePeer> =
        sharers.iter().map(|p| image_peer(core, store, generation, p)).collect();
    let diverged = peers.iter().any(|p| p.state == PairState::Diverged);
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
        Reason::Failing => WaitReason::Other,
    }
}

/// `backlog`. Blocking.
pub(crate) fn backlog(core: &Core, peer: Option<NodeId>) -> BacklogReport {
    let items = lock(&core.backlog).items();
    let wanted = items.into_iter().filter(|item| peer.is_none_or(|id| item.key.peer == id));
    let items = wanted.map(|item| BacklogItem {
        store: item.key.store.to_string(),
        image: item.key.image.to_string(),
        peer: core.name_of(&item.key.peer),
        bytes: item.bytes,
        eta: eta(core, &item).map(rfc3339),
        reason: wait_reason(item.reason),
        holder: None,
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
                eta: None,
                reason: deferred.reason,
                holder: deferred.holder.clone(),
            }),
        }
    }
}

/// When an item will be at its peer, in milliseconds since 1970: by the calendar and the limits, at
/// most as fast as was measured. Saving is not known beforehand, so it may be sooner.
fn eta(core: &Core, item: &Item) -> Option<i64> {
    if !matches!(item.reason, Reason::Transferring | Reason::Schedule) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    let link = item.bytes_per_second.map(|rate| (rate * 8.0).max(1.0) as u64);
    let planned = core.limit.finish(&Scope::from(&item.key), item.queued_bytes, link);
    planned.or_else(|| {
        let ms = i64::try_from(item.eta?.as_millis()).unwrap_or(i64::MAX);
        Some(now_unix_ms().saturating_add(ms))
    })
}

/// `image history`. Blocking.
pub(crate) fn history(core: &Core, store: &OpenStore, image: &ImageName) -> Result<HistoryReport> {
    let receipts = store.store.receipts(image)?;
    let rows = store.store.history(image)?.into_iter().map(|g| {
        let holds = |(_, number, root): &&(NodeId, u64, _)| *number == g.number && *root == g.root;
        let peers = receipts.iter().filter(holds).map(|(id, _, _)| core.name_of(id));
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
            peers: peers.collect(),
        }
    });
    let generations = rows.collect();
    Ok(HistoryReport { schema: Schema, image: store.full_name(image), generations })
}

/// How a generation was found, in the words of the contract.
pub(crate) fn discovered(generation: &Generation) -> &'static str {
    match generation.discover {
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

/// `ready`: who holds `generation` of an image, by verified receipt. Blocking.
pub(crate) fn ready(
    core: &Core,
    store: &OpenStore,
    generation: &Generation,
    require: &Require,
) -> Result<ReadyReport> {
    let image = &generation.image;
    let receipts = store.store.receipts(image)?;
    let newer: Vec<_> = store.store.history(image)?;
    let newer: Vec<_> = newer.iter().filter(|g| g.number >= generation.number).collect();
    let holds = |id: NodeId| {
        let of_peer = receipts.iter().filter(|(peer, _, _)| *peer == id);
        of_peer
            .clone()
            .any(|(_, number, root)| newer.iter().any(|g| g.number == *number && g.root == *root))
    };
    let asked = match require {
        Require::Peers(names) => {
            names.iter().map(|name| core.find_peer(name)).collect::<Result<Vec<_>>>()?
        }
        Require::All | Require::Count(_) => core.sharers(&store.config.name),
    };
    let peers: Vec<PeerReady> = asked
        .iter()
        .map(|peer| {
            let ready = holds(peer.id);
            let key = key(peer.id, &store.config.name, image);
            let reason = lock(&core.backlog).reason(&key).map(wait_reason);
            let reason = if ready { None } else { Some(reason.unwrap_or(WaitReason::Other)) };
            PeerReady { peer: peer.name(), ready, reason }
        })
        .collect();
    let count = peers.iter().filter(|p| p.ready).count();
    let ready = match require {
        // Nobody to ask is no proof that it is anywhere.
        Require::All | Require::Peers(_) => !peers.is_empty() && count == peers.len(),
        Require::Count(least) => count as u64 >= u64::from(*least),
    };
    Ok(ReadyReport {
        schema: Schema,
        image: store.full_name(image),
        generation: generation.number,
        ready,
        peers,
    })
}

/// Addresses for `invite`, when there are none to give.
pub(crate) fn reachable(core: &Core) -> bool {
    !node::advertised(core).is_empty()
}
