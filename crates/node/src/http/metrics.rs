//! Metrics: what a monitor scrapes, gathered at the moment it asks.
//!
//! One look at what the node holds in memory and one `statvfs` per store; no catalog is read, so a
//! scrape costs milliseconds and waits for no transfer. What a label can say is bounded: names of
//! stores and peers, codes, and pairs of image and peer up to [`budget::METRICS_PAIRS_MAX`], those that
//! are behind first. `text` writes it down.

mod text;

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use blockferry_delta::NodeId;

use super::body::Asked;
use super::health;
use super::problem::Problem;
use super::reads::Nothing;
use super::site::{Reply, Shared};
use crate::admin::reports;
use crate::api::PeerState;
use crate::backlog::{Item, Pairs, Sum};
use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::events::now_unix_ms;
use crate::monitoring::counts::Totals;
use crate::planner::forecast::{Finish, Forecast};
use crate::planner::foresight;
use crate::rate::overrides::Scope;

/// What OpenMetrics is sent as.
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything at one moment.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) version: &'static str,
    pub(crate) uptime_seconds: f64,
    pub(crate) pairs: Vec<PairSample>,
    pub(crate) hidden_pairs: u64,
    pub(crate) peers: Vec<PeerSample>,
    /// How many images wait, by why.
    pub(crate) waiting: BTreeMap<String, u64>,
    pub(crate) stores: Vec<StoreSample>,
    pub(crate) totals: Totals,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

/// One image at one peer.
#[derive(Debug)]
pub(crate) struct PairSample {
    pub(crate) image: String,
    pub(crate) peer: String,
    pub(crate) in_sync: bool,
    pub(crate) lag_seconds: f64,
}

/// One peer.
#[derive(Debug, Default)]
pub(crate) struct PeerSample {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) rtt_seconds: Option<f64>,
    pub(crate) rate_limit_bits_per_second: Option<u64>,
    pub(crate) backlog_bytes: u64,
    pub(crate) backlog_images: u64,
    /// Of the images that it shares.
    pub(crate) images_in_sync: u64,
    pub(crate) images_behind: u64,
    /// Age of the oldest generation that it lacks.
    pub(crate) lag_seconds: f64,
    /// It is above its watermark.
    pub(crate) backlog_high: bool,
    pub(crate) backlog_eta_seconds: Option<f64>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) lost_packets: u64,
}

/// One store.
#[derive(Debug)]
pub(crate) struct StoreSample {
    pub(crate) name: String,
    pub(crate) in_service: bool,
    pub(crate) degraded: bool,
    pub(crate) free_bytes: Option<u64>,
    /// Room promised to transfers under way.
    pub(crate) staging_bytes: u64,
    /// It is above its watermark.
    pub(crate) staging_high: bool,
}

/// Metrics in OpenMetrics text
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")),
)]
pub(crate) async fn metrics(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    let (core, scrapes) = (site.core.clone(), site.scrapes.clone());
    let looked = async move {
        let place = scrapes.acquire_owned().await;
        // One that hangs keeps its place: the next ones wait here and take no thread.
        let scrape = move || (text::written(gather(&core)), place).0;
        blocking("a scrape", move || Ok(scrape())).await
    };
    let text = match tokio::time::timeout(budget::HTTP_ANSWER_DEADLINE, looked).await {
        Ok(text) => text.map_err(|error| Problem::from(&error))?,
        Err(_) => return Err(Problem::new("DEADLINE", "a file system doesn't answer")),
    };
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(KIND));
    Ok(response)
}

/// Looks at everything. Blocking, for a file system may not answer.
fn gather(core: &Core) -> Scrape {
    let names = names(core);
    let name = |id: &NodeId| names.get(id).cloned().unwrap_or_else(|| core.name_of(id));
    let (items, pairs) = {
        let backlog = lock(&core.backlog);
        (backlog.items(), backlog.pairs())
    };
    let Pairs { shown, hidden, sums } = pairs;
    let now = now_unix_ms();
    let pairs = shown.into_iter().map(|pair| PairSample {
        image: format!("{}/{}", pair.key.store, pair.key.image),
        peer: name(&pair.key.peer),
        in_sync: pair.in_sync,
        lag_seconds: if pair.in_sync { 0.0 } else { seconds(now - pair.recorded_unix_ms) },
    });
    let pairs = pairs.collect();
    let mut waiting = BTreeMap::new();
    for item in &items {
        let reason = serde_json::to_value(reports::wait_reason(item.reason)).unwrap_or_default();
        *waiting.entry(reason.as_str().unwrap_or("other").to_owned()).or_default() += 1;
    }
    Scrape {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: core.started.elapsed().as_secs_f64(),
        pairs,
        hidden_pairs: hidden as u64,
        peers: peers(core, (&items, &sums), &names, (&foresight::now(core), now)),
        waiting,
        stores: stores(core),
        totals: core.counts.totals(),
        errors: core.events.errors(),
    }
}

/// What each peer is called. A name that two have (one was configured, one paired) gets an id, for no
/// series may be there twice.
fn names(core: &Core) -> BTreeMap<NodeId, String> {
    let mut taken = BTreeSet::new();
    let mut names = BTreeMap::new();
    for peer in core.all_peers() {
        let mut name = peer.name();
        if !taken.insert(name.clone()) {
            name = format!("{name}~{}", peer.id.short());
        }
        names.insert(peer.id, name);
    }
    names
}

fn peers(
    core: &Core,
    (items, sums): (&[Item], &BTreeMap<NodeId, Sum>),
    names: &BTreeMap<NodeId, String>,
    (ahead, now_unix_ms): (&Forecast, i64),
) -> Vec<PeerSample> {
    let mut lacking: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for item in items {
        let (bytes, images) = lacking.entry(item.key.peer).or_default();
        *bytes = bytes.saturating_add(item.bytes);
        *images += 1;
    }
    let high = lock(&core.above).backlogs.above().clone();
    let sample = |(id, name): (&NodeId, &String)| {
        let peer = core.peer(id)?;
        let (bytes, images) = lacking.get(id).copied().unwrap_or_default();
        // The last of what can be foreseen says when the peer has all of it.
        let eta = ahead.last(|key| key.peer == *id).and_then(Finish::unix_ms);
        let carried = peer.carried();
        let sum = sums.get(id).copied().unwrap_or_default();
        Some(PeerSample {
            name: name.clone(),
            up: peer.state() == PeerState::Up,
            rtt_seconds: peer.active().map(|a| a.link.connection.rtt().as_secs_f64()),
            rate_limit_bits_per_second: core
                .limit
                .verdict(&Scope::peer(*id))
                .rate
                .bits_per_second(),
            backlog_bytes: bytes,
            backlog_images: images,
            images_in_sync: sum.in_sync,
            images_behind: sum.behind,
            lag_seconds: sum.oldest_unix_ms.map_or(0.0, |oldest| seconds(now_unix_ms - oldest)),
            backlog_high: high.contains(&peer.name()),
            backlog_eta_seconds: if images == 0 {
                Some(0.0)
            } else {
                eta.map(|at| seconds(at.saturating_sub(now_unix_ms)))
            },
            sent_bytes: carried.sent_bytes,
            received_bytes: carried.received_bytes,
            lost_packets: carried.lost_packets,
        })
    };
    names.iter().filter_map(sample).collect()
}

fn stores(core: &Core) -> Vec<StoreSample> {
    let high = lock(&core.above).stagings.above().clone();
    let serving = core.all_stores().into_iter().map(|store| StoreSample {
        name: store.config.name.to_string(),
        in_service: true,
        degraded: store.store.is_degraded(),
        free_bytes: health::room(&store.config.path).map(|room| room.free_bytes),
        staging_bytes: store.store.staging_bytes(),
        staging_high: high.contains(store.config.name.as_str()),
    });
    let missing = health::out_of_service(core).into_iter().map(|name| StoreSample {
        name,
        in_service: false,
        degraded: false,
        free_bytes: None,
        staging_bytes: 0,
        staging_high: false,
    });
    serving.chain(missing).collect()
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(ms: i64) -> f64 {
    ms.max(0) as f64 / 1000.0
}
