//! Requests: what each command of the admin socket does.
//!
//! One function per command, short ones here, the ones that take time in `jobs`. Each ends with
//! the object that its variant of [`Request`] names.

use std::sync::Arc;
use std::time::Duration;

use blockferry_delta::{ImageName, StoreName};
use blockferry_store::Generation;

use crate::admin::jobs;
use crate::admin::orders;
use crate::admin::reports;
use crate::admin::socket::Client;
use crate::admin::verifying::{self, How};
use crate::api::{
    AdminError, Affected, Answer, EventsDone, ImagesReport, Invitation, Joined, PeersReport,
    Removed, Request, Role, Schema, StoresReport,
};
use crate::config::StoreConfig;
use crate::core::{Core, blocking};
use crate::error::{Error, Result};
use crate::events::now_unix_ms;
use crate::ledger::rfc3339;
use crate::lineage::diverged;
use crate::lineage::rollback;
use crate::link::netcheck;
use crate::local::absent;
use crate::local::adoption;
use crate::local::stores::{OpenStore, Origin};
use crate::membership::pairing;
use crate::monitoring::doctor;
use crate::monitoring::trends;
use crate::node;
use crate::planner::foresight;
use crate::planner::planning;
use crate::promotion::promote;
use crate::promotion::readiness;
use crate::rate::overrides::Order;
use crate::rate::schedules;
use crate::reload;

/// An image of a store, perhaps with a generation's number, as a user writes it.
pub(crate) struct Spec {
    pub(crate) store: Arc<OpenStore>,
    pub(crate) image: ImageName,
    pub(crate) number: Option<u64>,
}

/// Does what is asked; the last line of the answer.
pub(crate) async fn handle(
    core: &Arc<Core>,
    request: Request,
    client: &mut Client,
) -> Result<Answer> {
    match request {
        Request::Status {} => {
            let to = core.clone();
            done(&blocking("a report", move || reports::status(&to)).await?)
        }
        request @ (Request::StoreAdd { .. }
        | Request::StoreLs {}
        | Request::StoreShow { .. }
        | Request::StoreRm { .. }
        | Request::Invite { .. }
        | Request::Join { .. }
        | Request::PeerLs {}
        | Request::PeerShow { .. }
        | Request::PeerRm { .. }
        | Request::PeerSet { .. }) => membership(core, request).await,
        request @ (Request::ImageLs { .. }
        | Request::ImageShow { .. }
        | Request::ImageHistory { .. }
        | Request::Publish { .. }
        | Request::Plan { .. }
        | Request::Push { .. }
        | Request::Ready { .. }
        | Request::Wait { .. }
        | Request::Promote { .. }
        | Request::Rollback { .. }
        | Request::Verify { .. }
        | Request::Conflicts { .. }
        | Request::Resolve { .. }) => images(core, request, client).await,
        request @ (Request::Pause(_)
        | Request::Resume(_)
        | Request::Boost(_)
        | Request::LimitSet { .. }
        | Request::LimitClear { .. }
        | Request::Orders {}) => order(core, request).await,
        request @ (Request::AdoptStart { .. }
        | Request::AdoptNext { .. }
        | Request::AdoptBack { .. }
        | Request::AdoptStatus {}
        | Request::AdoptReport { .. }) => adoption::answer(core, request).await,
        Request::Netcheck { peer, count } => netcheck::netcheck(core, &peer, count).await,
        Request::Doctor {} => doctor::examine(core).await,
        Request::Backlog { peer } => backlog(core, peer).await,
        Request::ConfigCheck {} => {
            let to = core.clone();
            done(&blocking("reading the configuration", move || reload::pending(&to)).await?)
        }
        Request::Schedules { name } => schedules::report(core, name.as_deref()).await,
        Request::ScheduleSet { name, tag, edit } => schedules::set(core, name, tag, edit).await,
        Request::Trends { peer } => done(&trends::report(core, peer.as_deref())?),
        Request::Events { follow, since_seconds } => {
            events(core, follow, since_seconds, client).await
        }
    }
}

/// A request that [`handle`] gave to the wrong function.
fn misdirected() -> Error {
    Error::Broken { what: "a request of another kind" }
}

/// Stores and peers.
async fn membership(core: &Arc<Core>, request: Request) -> Result<Answer> {
    match request {
        Request::StoreAdd { name, path, role } => store_add(core, &name, path, role).await,
        Request::StoreLs {} => {
            let to = core.clone();
            let rows = move || reports::store_rows(&to, &foresight::now(&to));
            let stores = blocking("a report", rows).await?;
            done(&StoresReport { schema: Schema, stores })
        }
        Request::StoreShow { name } => store_show(core, &name).await,
        Request::StoreRm { name } => {
            node::remove_store(core, &name).await?;
            done(&Removed { schema: Schema, removed: name })
        }
        Request::Invite { store, role, ttl_seconds } => {
            invite(core, store, role, Duration::from_secs(ttl_seconds)).await
        }
        Request::Join { ticket, path, name } => join(core, &ticket, path, name).await,
        Request::PeerLs {} => peers(core, core.all_peers()).await,
        Request::PeerShow { peer } => peers(core, vec![core.find_peer(&peer)?]).await,
        Request::PeerRm { peer } => {
            let removed = node::remove_peer(core, &peer).await?;
            done(&Removed { schema: Schema, removed })
        }
        Request::PeerSet { peer, key, value } => {
            let changed = node::set_peer(core, &peer, &key, &value).await?;
            peers(core, vec![changed]).await
        }
        _ => Err(misdirected()),
    }
}

/// Images and what becomes of them.
async fn images(core: &Arc<Core>, request: Request, client: &mut Client) -> Result<Answer> {
    match request {
        Request::ImageLs { store } => image_ls(core, store).await,
        Request::ImageShow { image } => image_show(core, &image).await,
        Request::ImageHistory { image } => history(core, &image).await,
        Request::Publish { image, changed, since } => {
            jobs::publish(core, &spec(core, &image)?, changed, since, client).await
        }
        Request::Plan { image, peer, at, by } => {
            planning::plan(core, spec(core, &image)?, peer.as_deref(), (at, by)).await
        }
        Request::Push { image, peers, lane, wait } => {
            jobs::push(core, &spec(core, &image)?, &peers, (lane, wait), client).await
        }
        Request::Ready { image, require } => {
            let spec = Arc::new(spec(core, &image)?);
            done(&readiness::ready(core, &spec, None, &require).await?.1)
        }
        Request::Wait { image, require, timeout_seconds } => {
            let limit = timeout_seconds.map(Duration::from_secs);
            readiness::wait(core, spec(core, &image)?, &require, limit, client).await
        }
        Request::Promote { image, require } => {
            promote::promote(core, spec(core, &image)?, require, client).await
        }
        Request::Rollback { image } => rollback::rollback(core, &spec(core, &image)?).await,
        Request::Verify { image, deep, repair } => {
            verifying::verify(core, image.as_deref(), How { deep, repair }, client).await
        }
        Request::Conflicts { image } => diverged::conflicts(core, image).await,
        Request::Resolve { image, keep, acknowledge } => {
            diverged::answer(core, &image, keep, acknowledge).await
        }
        _ => Err(misdirected()),
    }
}

/// Orders and limits.
async fn order(core: &Arc<Core>, request: Request) -> Result<Answer> {
    match request {
        Request::Pause(what) => orders::give(core, Order::Pause, &what).await,
        Request::Resume(what) => orders::give(core, Order::Resume, &what).await,
        Request::Boost(what) => orders::give(core, Order::Boost, &what).await,
        Request::LimitSet { bits_per_second: 0, .. } => {
            Err(Error::Control { what: "a limit of 0: use pause".to_owned() })
        }
        Request::LimitSet { peer, bits_per_second, for_seconds } => {
            let what = Affected { peer, for_seconds, ..Affected::default() };
            orders::give(core, Order::Limit(bits_per_second), &what).await
        }
        Request::LimitClear { peer } => orders::clear_limit(core, peer).await,
        Request::Orders {} => orders::report(core),
        _ => Err(misdirected()),
    }
}

async fn history(core: &Arc<Core>, image: &str) -> Result<Answer> {
    let spec = spec(core, image)?;
    let to = core.clone();
    let report = move || reports::history(&to, &spec.store, &spec.image);
    done(&blocking("a report", report).await?)
}

async fn backlog(core: &Arc<Core>, peer: Option<String>) -> Result<Answer> {
    let peer = peer.map(|text| core.find_peer(&text)).transpose()?;
    let to = core.clone();
    let report = move || Ok(reports::backlog(&to, peer.map(|p| p.id)));
    done(&blocking("a report", report).await?)
}

/// An error as the client reads it, with advice that fits.
pub(crate) fn admin_error(error: &Error) -> AdminError {
    let mut told = AdminError::new(error.code(), error.to_string());
    if let Error::Refused { bytes_needed: Some(needed), bytes_free: Some(free), .. } = error {
        let missing = needed.saturating_sub(*free);
        told = told.with_remedy(format!("free {missing} more bytes there; it is tried again"));
    }
    told
}

/// The last line of an answer that went well.
pub(crate) fn done<T: serde::Serialize>(object: &T) -> Result<Answer> {
    Ok(Answer::done(object))
}

/// Reads `STORE/NAME` or `STORE/NAME@7`.
pub(crate) fn spec(core: &Core, text: &str) -> Result<Spec> {
    let unknown = || Error::ImageUnknown { image: text.to_owned() };
    let (store, rest) = text.split_once('/').ok_or_else(unknown)?;
    let (name, number) = match rest.split_once('@') {
        Some((name, number)) => (name, Some(number.parse().map_err(|_| unknown())?)),
        None => (rest, None),
    };
    let image = ImageName::new(name).map_err(|_| unknown())?;
    Ok(Spec { store: core.store(store)?, image, number })
}

/// The generation that is meant: the named one, or the current one.
pub(crate) async fn generation(spec: &Spec) -> Result<Generation> {
    let (store, image, number) = (spec.store.clone(), spec.image.clone(), spec.number);
    let name = store.full_name(&image);
    let found = blocking("looking up an image", move || {
        let current = store.store.current(&image)?;
        match (current, number) {
            (Some(_), Some(number)) => {
                let history = store.store.history(&image)?;
                Ok((true, history.into_iter().find(|g| g.number == number)))
            }
            (current, _) => Ok((current.is_some(), current)),
        }
    })
    .await?;
    match (found, number) {
        ((_, Some(generation)), _) => Ok(generation),
        ((true, None), Some(number)) => {
            Err(Error::GenerationUnknown { image: format!("{name}@{number}") })
        }
        _ => Err(Error::ImageUnknown { image: name }),
    }
}

async fn store_add(
    core: &Arc<Core>,
    name: &str,
    path: std::path::PathBuf,
    role: Role,
) -> Result<Answer> {
    let bad = |e: blockferry_delta::NameError| Error::Control { what: e.to_string() };
    let mut config = StoreConfig::new(StoreName::new(name).map_err(bad)?, path, role);
    config.settle = core.live().settle;
    node::take_store(core, config, Origin::Ours).await?;
    stores(core, vec![core.store(name)?]).await
}

async fn store_show(core: &Arc<Core>, name: &str) -> Result<Answer> {
    let absent = absent::all(core).into_iter().find(|(store, _)| store.name.as_str() == name);
    match absent {
        Some((store, _)) => {
            done(&StoresReport { schema: Schema, stores: vec![absent::row(core, &store)] })
        }
        None => stores(core, vec![core.store(name)?]).await,
    }
}

async fn stores(core: &Arc<Core>, stores: Vec<Arc<OpenStore>>) -> Result<Answer> {
    let to = core.clone();
    let rows = blocking("a report", move || {
        let ahead = foresight::now(&to);
        stores.iter().map(|s| reports::store_row(&to, s, &ahead)).collect::<Result<Vec<_>>>()
    });
    done(&StoresReport { schema: Schema, stores: rows.await? })
}

/// Off the threads that serve: with a long backlog the forecast takes a while.
async fn peers(core: &Arc<Core>, peers: Vec<Arc<crate::link::peer::Peer>>) -> Result<Answer> {
    let to = core.clone();
    let rows = blocking("a report", move || {
        let ahead = foresight::now(&to);
        Ok(peers.iter().map(|p| reports::peer_row(&to, p, &ahead)).collect())
    });
    done(&PeersReport { schema: Schema, peers: rows.await? })
}

async fn image_ls(core: &Arc<Core>, store: Option<String>) -> Result<Answer> {
    let stores = match store {
        Some(name) => vec![core.store(&name)?],
        None => core.all_stores(),
    };
    let to = core.clone();
    let rows = blocking("a report", move || {
        let rows = stores.iter().map(|s| reports::image_rows(&to, s));
        Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    });
    done(&ImagesReport { schema: Schema, images: rows.await? })
}

async fn image_show(core: &Arc<Core>, image: &str) -> Result<Answer> {
    let Spec { store, image, .. } = spec(core, image)?;
    let (to, name) = (core.clone(), store.full_name(&image));
    let rows = blocking("a report", move || {
        let mut rows = reports::image_rows(&to, &store)?;
        rows.retain(|row| row.name == image.as_str());
        Ok(rows)
    });
    let images = rows.await?;
    if images.is_empty() {
        return Err(Error::ImageUnknown { image: name });
    }
    done(&ImagesReport { schema: Schema, images })
}

async fn invite(core: &Arc<Core>, store: String, role: Role, ttl: Duration) -> Result<Answer> {
    if !reports::reachable(core) {
        let what = "this node listens nowhere: set [node] listen".to_owned();
        return Err(Error::Config { what });
    }
    let (ticket, expires_unix_ms) = pairing::invite(core, &store, role, ttl).await?;
    let (ticket, expires) = (ticket.encode(), rfc3339(expires_unix_ms));
    done(&Invitation { schema: Schema, ticket, store, role, expires })
}

async fn join(
    core: &Arc<Core>,
    ticket: &str,
    path: Option<std::path::PathBuf>,
    name: Option<String>,
) -> Result<Answer> {
    let joined = pairing::join(core, ticket, path, name).await?;
    done(&Joined {
        schema: Schema,
        store: joined.store.name.to_string(),
        path: joined.store.path.display().to_string(),
        role: joined.store.role,
        peer: joined.peer.name,
        peer_id: joined.peer.id.to_string(),
    })
}

async fn events(
    core: &Arc<Core>,
    follow: bool,
    since_seconds: Option<u64>,
    client: &mut Client,
) -> Result<Answer> {
    // Subscribed before the past is read, so that nothing falls between.
    let mut live = core.events.follow();
    let since = since_seconds.map_or(i64::MIN, |seconds| {
        let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        now_unix_ms().saturating_sub(ms)
    });
    let ledger = core.ledger.clone();
    let past = blocking("reading events", move || ledger.events(since)).await?;
    let (mut count, mut last) = (past.len() as u64, 0);
    for event in past {
        last = event.number;
        client.say(&Answer::Event(event)).await?;
    }
    if follow {
        count += tell_live(&mut live, last, client).await?;
    }
    done(&EventsDone { schema: Schema, events: count })
}

/// Tells the client what happens, until the node stops or the client goes away.
async fn tell_live(
    live: &mut tokio::sync::broadcast::Receiver<crate::api::Event>,
    last: u64,
    client: &mut Client,
) -> Result<u64> {
    use tokio::sync::broadcast::error::RecvError;
    let mut count = 0;
    loop {
        match live.recv().await {
            Ok(event) if event.number <= last => {}
            Ok(event) => {
                count += 1;
                client.say(&Answer::Event(event)).await?;
            }
            // A slow client misses some; `events` shows them again.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(count),
        }
    }
}
