//! Writes: the routes that change something. Each makes one request of the admin protocol.
//!
//! What takes long is answered when it is over; who hangs up lets go of it and doesn't cancel it. Only
//! the wait for receipts, which may never come, ends by itself. What names files of this machine (maps
//! of changes) is for the command line only.

use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{Asked, Named, Said};
use super::problem::Problem;
use super::reads::{Nothing, OfPeer, full, meant, require};
use super::settings::Scope;
use super::site::{Asker, Reply, Shared, json};
use crate::api::{
    Affected, Invitation, Joined, Lane, OrdersReport, PeersReport, PromoteReport, PublishReport,
    PushDone, Removed, Request, ResolveReport, Role, RollbackReport, StoresReport, VerifiedImage,
    VerifyDone,
};
use crate::budget;

/// Nothing to say.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

/// How an image is pushed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PushOrder {
    /// To whom; none: to every other member of the store.
    #[serde(default)]
    peers: Vec<String>,
    /// Which lane.
    #[serde(default)]
    lane: Option<Lane>,
    /// Answer when the receipts are there, with 200; with 202 if they aren't in time.
    #[serde(default)]
    wait: bool,
    /// With `wait`: how long, in seconds; absent: 10.
    #[schema(minimum = 1, maximum = 3600)]
    wait_seconds: Option<u64>,
}

/// A promotion.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromoteOrder {
    /// Number of a generation; absent: the current one.
    generation: Option<u64>,
    /// Who must hold it: `all` other members, at least so many, or these peers, separated by commas;
    /// absent: as configured.
    #[schema(pattern = "^(all|[0-9]{1,9}|[A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.,-]*)$")]
    require: Option<String>,
}

/// Where to go back to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackOrder {
    /// Number of the generation whose content becomes the current one again.
    generation: u64,
}

/// A decision about contents that diverged.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolveOrder {
    /// `local`, a peer, or `both`; absent: nothing is decided.
    keep: Option<String>,
    /// What lost may go.
    #[serde(default)]
    acknowledge: bool,
}

/// One more limit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitOrder {
    /// Only what goes to this peer; absent: everything.
    peer: Option<String>,
    /// On the wire; above 0.
    #[schema(minimum = 1)]
    bits_per_second: i64,
    /// It ends by itself after so many seconds; absent: never.
    #[schema(minimum = 1, maximum = 316224000)]
    for_seconds: Option<u64>,
}

/// What is verified.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyOrder {
    /// `STORE/NAME` or a store; absent: everything.
    image: Option<String>,
    /// From the device, also what the page cache has.
    #[serde(default)]
    deep: bool,
    /// Fetch again, from a peer that holds the same generation, what isn't as recorded.
    #[serde(default)]
    repair: bool,
}

/// What verifying came to: the sum, and a row for each image up to 1,000.
#[derive(Serialize, ToSchema)]
pub(crate) struct Verified {
    /// The sum.
    #[serde(flatten)]
    #[schema(value_type = VerifyDone)]
    done: Value,
    /// The images.
    #[schema(value_type = Vec<VerifiedImage>)]
    rows: Vec<Value>,
}

/// A directory that becomes a store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewStore {
    /// Its name on every member.
    #[schema(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
    name: String,
    /// Absolute path of an existing directory.
    #[schema(pattern = "^/.+")]
    path: String,
    /// Role of this node.
    #[serde(default)]
    role: Role,
}

/// A ticket to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTicket {
    /// Store that it admits to.
    store: String,
    /// Role of the node that joins.
    #[serde(default)]
    role: Role,
    /// How long it is good for, in seconds.
    #[schema(minimum = 1, maximum = 86400)]
    ttl_seconds: u64,
}

/// A ticket to be used.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UseTicket {
    /// The line that `invite` printed.
    ticket: String,
    /// Where the store shall live; absent: below the service's state directory.
    path: Option<String>,
    /// What to call the inviter here; absent: as it calls itself.
    name: Option<String>,
}

/// A setting of a peer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerSetting {
    /// `name`, `address`, `compression`, `schedule` or `polite`.
    key: String,
    /// The new value.
    value: String,
}

/// Record a generation now; answers when that is done
#[utoipa::path(
    post, path = "/api/v1/images/{store}/{image}/publish", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    request_body = Option<Empty>, responses((status = 200, body = PublishReport)),
)]
pub(crate) async fn publish(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
    _: Said<Empty>,
) -> Reply {
    site.act(Request::Publish { image: full(&name), changed: None, since: None }).await
}

/// Offer an image now, and perhaps wait for the receipts
#[utoipa::path(
    post, path = "/api/v1/images/{store}/{image}/push", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    request_body = Option<PushOrder>,
    responses(
        (status = 200, body = PushDone),
        (status = 202, body = PushDone, description = "Offered; the time to wait is over before all hold it"),
    ),
)]
pub(crate) async fn push(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
    Said(order): Said<PushOrder>,
) -> Reply {
    let PushOrder { peers, lane, wait, wait_seconds } = order;
    let patience = wait_seconds.map_or(budget::HTTP_WAIT, Duration::from_secs);
    if patience.is_zero() || patience > budget::HTTP_WAIT_MAX {
        let most = budget::HTTP_WAIT_MAX.as_secs();
        return Err(Problem::bad(format!("wait_seconds: 1 to {most}")));
    }
    let push =
        |wait| site.act(Request::Push { image: full(&name), peers: peers.clone(), lane, wait });
    if wait && let Ok(reply) = tokio::time::timeout(patience, push(true)).await {
        return reply;
    }
    // How it stands now.
    let mut reply = push(false).await?;
    if wait {
        *reply.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(reply)
}

/// Say that a generation may be used. Answers 200 whether it is promoted or not
#[utoipa::path(
    post, path = "/api/v1/images/{store}/{image}/promote", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    request_body = Option<PromoteOrder>, responses((status = 200, body = PromoteReport)),
)]
pub(crate) async fn promote(
    State(site): State<Shared>,
    Extension(asker): Extension<Asker>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
    Said(order): Said<PromoteOrder>,
) -> Reply {
    let require = order.require.as_deref().map(require).transpose()?;
    site.act_for(&asker, Request::Promote { image: meant(&name, order.generation), require }).await
}

/// Make the content of an earlier generation the current one again
#[utoipa::path(
    post, path = "/api/v1/images/{store}/{image}/rollback", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    request_body = RollbackOrder, responses((status = 200, body = RollbackReport)),
)]
pub(crate) async fn rollback(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
    Said(order): Said<RollbackOrder>,
) -> Reply {
    site.act(Request::Rollback { image: meant(&name, Some(order.generation)) }).await
}

/// Decide about contents that diverged, or let go of those that have lost (scope admin)
#[utoipa::path(
    post, path = "/api/v1/images/{store}/{image}/resolve", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    request_body = ResolveOrder, responses((status = 200, body = ResolveReport)),
)]
pub(crate) async fn resolve(
    State(site): State<Shared>,
    headers: HeaderMap,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
    Said(order): Said<ResolveOrder>,
) -> Reply {
    let ResolveOrder { keep, acknowledge } = order;
    if acknowledge {
        // The only thing that is asked for here after which a content may be nowhere any more.
        site.access().check_who(&headers, Scope::Admin).map_err(Problem::from)?;
    }
    site.act(Request::Resolve { image: full(&name), keep, acknowledge }).await
}

/// Offer and send nothing of what is named; nothing named: of everything
#[utoipa::path(
    post, path = "/api/v1/pause", tag = "orders",
    request_body = Option<Affected>, responses((status = 200, body = OrdersReport)),
)]
pub(crate) async fn pause(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(what): Said<Affected>,
) -> Reply {
    site.act(Request::Pause(what)).await
}

/// End pauses and boosts of what is named
#[utoipa::path(
    post, path = "/api/v1/resume", tag = "orders",
    request_body = Option<Affected>, responses((status = 200, body = OrdersReport)),
)]
pub(crate) async fn resume(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(what): Said<Affected>,
) -> Reply {
    site.act(Request::Resume(what)).await
}

/// Send what is named whatever calendars say; limits hold
#[utoipa::path(
    post, path = "/api/v1/boost", tag = "orders",
    request_body = Option<Affected>, responses((status = 200, body = OrdersReport)),
)]
pub(crate) async fn boost(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(what): Said<Affected>,
) -> Reply {
    site.act(Request::Boost(what)).await
}

/// One more limit, besides those of the configuration
#[utoipa::path(
    put, path = "/api/v1/limit", tag = "orders",
    request_body = LimitOrder, responses((status = 200, body = OrdersReport)),
)]
pub(crate) async fn limit_set(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(order): Said<LimitOrder>,
) -> Reply {
    let LimitOrder { peer, bits_per_second, for_seconds } = order;
    let negative = |_| Problem::bad("a rate below 0");
    let bits_per_second = u64::try_from(bits_per_second).map_err(negative)?;
    site.act(Request::LimitSet { peer, bits_per_second, for_seconds }).await
}

/// Drop what was set for the same peer, or for everything
#[utoipa::path(
    delete, path = "/api/v1/limit", tag = "orders", params(OfPeer),
    responses((status = 200, body = OrdersReport)),
)]
pub(crate) async fn limit_clear(State(site): State<Shared>, Asked(of): Asked<OfPeer>) -> Reply {
    site.act(Request::LimitClear { peer: of.peer }).await
}

/// Re-hash local data against the catalog; answers when that is done, whatever was found
#[utoipa::path(
    post, path = "/api/v1/verify", tag = "node",
    request_body = Option<VerifyOrder>, responses((status = 200, body = Verified)),
)]
pub(crate) async fn verify(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(order): Said<VerifyOrder>,
) -> Reply {
    let VerifyOrder { image, deep, repair } = order;
    let request = Request::Verify { image, deep, repair };
    let (done, rows) = site.ask(&Asker::default(), request).await?;
    Ok(json(&Verified { done, rows }))
}

/// Take a directory into service as a store
#[utoipa::path(
    post, path = "/api/v1/stores", tag = "stores",
    request_body = NewStore, responses((status = 201, body = StoresReport)),
)]
pub(crate) async fn store_add(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(store): Said<NewStore>,
) -> Reply {
    let NewStore { name, path, role } = store;
    let added = site.act(Request::StoreAdd { name, path: path.into(), role }).await;
    // A directory that can't be opened is the request's fault, not the service's.
    let missing = |problem: Problem| match problem.error.code.as_str() {
        "IO" => Problem::new("SOURCE_MISSING", problem.error.message),
        _ => problem,
    };
    let mut reply = added.map_err(missing)?;
    *reply.status_mut() = StatusCode::CREATED;
    Ok(reply)
}

/// Take a store out of service; its files stay
#[utoipa::path(
    delete, path = "/api/v1/stores/{store}", tag = "stores",
    params(("store" = String, Path, description = "Its name")),
    responses((status = 200, body = Removed)),
)]
pub(crate) async fn store_remove(
    State(site): State<Shared>,
    Named(name): Named<String>,
    _: Asked<Nothing>,
) -> Reply {
    site.act(Request::StoreRm { name }).await
}

/// Make a one-time ticket for another node
#[utoipa::path(
    post, path = "/api/v1/invitations", tag = "peers",
    request_body = NewTicket, responses((status = 201, body = Invitation)),
)]
pub(crate) async fn invite(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(ticket): Said<NewTicket>,
) -> Reply {
    let NewTicket { store, role, ttl_seconds } = ticket;
    let mut reply = site.act(Request::Invite { store, role, ttl_seconds }).await?;
    *reply.status_mut() = StatusCode::CREATED;
    Ok(reply)
}

/// Pair with the node that made the ticket, and take part in its store
#[utoipa::path(
    post, path = "/api/v1/join", tag = "peers",
    request_body = UseTicket, responses((status = 200, body = Joined)),
)]
pub(crate) async fn join(
    State(site): State<Shared>,
    _: Asked<Nothing>,
    Said(ticket): Said<UseTicket>,
) -> Reply {
    let UseTicket { ticket, path, name } = ticket;
    site.act(Request::Join { ticket, path: path.map(Into::into), name }).await
}

/// End the pairing; what was received stays
#[utoipa::path(
    delete, path = "/api/v1/peers/{peer}", tag = "peers",
    params(("peer" = String, Path, description = "Its name or id")),
    responses((status = 200, body = Removed)),
)]
pub(crate) async fn peer_remove(
    State(site): State<Shared>,
    Named(peer): Named<String>,
    _: Asked<Nothing>,
) -> Reply {
    site.act(Request::PeerRm { peer }).await
}

/// Change a setting of a peer
#[utoipa::path(
    patch, path = "/api/v1/peers/{peer}", tag = "peers",
    params(("peer" = String, Path, description = "Its name or id")),
    request_body = PeerSetting, responses((status = 200, body = PeersReport)),
)]
pub(crate) async fn peer_set(
    State(site): State<Shared>,
    Named(peer): Named<String>,
    _: Asked<Nothing>,
    Said(setting): Said<PeerSetting>,
) -> Reply {
    let PeerSetting { key, value } = setting;
    site.act(Request::PeerSet { peer, key, value }).await
}
