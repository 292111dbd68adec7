//! Reads: the routes that look and change nothing. Each makes one request of the admin protocol.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::{Asked, Named};
use super::problem::Problem;
use super::site::{Reply, Shared};
use crate::api::{
    BacklogReport, HistoryReport, ImagesReport, OrdersReport, PeersReport, PlanReport, ReadyReport,
    Request, Require, StatusReport, StoresReport,
};

/// No query at all: what is said all the same is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// Which store.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfStore {
    /// Only this store.
    store: Option<String>,
}

/// Which peer.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfPeer {
    /// A name, an id or the first 8 or more characters of an id.
    pub(crate) peer: Option<String>,
}

/// What ready is asked about.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfReady {
    /// Number of a generation; absent: the current one.
    generation: Option<u64>,
    /// Who must hold it: `all` other members, at least so many, or these peers, separated by commas.
    #[param(pattern = "^(all|[0-9]{1,9}|[A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.,-]*)$")]
    require: Option<String>,
}

/// The node, its peers and its stores at a glance
#[utoipa::path(get, path = "/api/v1/status", tag = "node", responses((status = 200, body = StatusReport)))]
pub(crate) async fn status(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    site.look(Request::Status {}).await
}

/// All stores
#[utoipa::path(get, path = "/api/v1/stores", tag = "stores", responses((status = 200, body = StoresReport)))]
pub(crate) async fn stores(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    site.look(Request::StoreLs {}).await
}

/// One store
#[utoipa::path(
    get, path = "/api/v1/stores/{store}", tag = "stores",
    params(("store" = String, Path, description = "Its name")),
    responses((status = 200, body = StoresReport)),
)]
pub(crate) async fn store(
    State(site): State<Shared>,
    Named(name): Named<String>,
    _: Asked<Nothing>,
) -> Reply {
    site.look(Request::StoreShow { name }).await
}

/// All peers
#[utoipa::path(get, path = "/api/v1/peers", tag = "peers", responses((status = 200, body = PeersReport)))]
pub(crate) async fn peers(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    site.look(Request::PeerLs {}).await
}

/// One peer
#[utoipa::path(
    get, path = "/api/v1/peers/{peer}", tag = "peers",
    params(("peer" = String, Path, description = "Its name or id")),
    responses((status = 200, body = PeersReport)),
)]
pub(crate) async fn peer(
    State(site): State<Shared>,
    Named(peer): Named<String>,
    _: Asked<Nothing>,
) -> Reply {
    site.look(Request::PeerShow { peer }).await
}

/// The images of one store or of all
#[utoipa::path(
    get, path = "/api/v1/images", tag = "images", params(OfStore),
    responses((status = 200, body = ImagesReport)),
)]
pub(crate) async fn images(State(site): State<Shared>, Asked(of): Asked<OfStore>) -> Reply {
    site.look(Request::ImageLs { store: of.store }).await
}

/// One image
#[utoipa::path(
    get, path = "/api/v1/images/{store}/{image}", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    responses((status = 200, body = ImagesReport)),
)]
pub(crate) async fn image(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
) -> Reply {
    site.look(Request::ImageShow { image: full(&name) }).await
}

/// The generations of an image, newest first
#[utoipa::path(
    get, path = "/api/v1/images/{store}/{image}/history", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    responses((status = 200, body = HistoryReport)),
)]
pub(crate) async fn history(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
) -> Reply {
    site.look(Request::ImageHistory { image: full(&name) }).await
}

/// What would travel to a peer; sends nothing
#[utoipa::path(
    get, path = "/api/v1/images/{store}/{image}/plan", tag = "images",
    params(
        ("store" = String, Path, description = "Its store"),
        ("image" = String, Path, description = "Its name"),
        OfPeer,
    ),
    responses((status = 200, body = PlanReport)),
)]
pub(crate) async fn plan(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    Asked(of): Asked<OfPeer>,
) -> Reply {
    site.look(Request::Plan { image: full(&name), peer: of.peer }).await
}

/// Is a generation verified there? Answers 200 whether it is or not
#[utoipa::path(
    get, path = "/api/v1/images/{store}/{image}/ready", tag = "images",
    params(
        ("store" = String, Path, description = "Its store"),
        ("image" = String, Path, description = "Its name"),
        OfReady,
    ),
    responses((status = 200, body = ReadyReport)),
)]
pub(crate) async fn ready(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    Asked(of): Asked<OfReady>,
) -> Reply {
    let mut image = full(&name);
    if let Some(number) = of.generation {
        image = format!("{image}@{number}");
    }
    let require = require(of.require.as_deref().unwrap_or("all"))?;
    site.look(Request::Ready { image, require }).await
}

/// What each peer lacks, and why it waits
#[utoipa::path(
    get, path = "/api/v1/backlog", tag = "node", params(OfPeer),
    responses((status = 200, body = BacklogReport)),
)]
pub(crate) async fn backlog(State(site): State<Shared>, Asked(of): Asked<OfPeer>) -> Reply {
    site.look(Request::Backlog { peer: of.peer }).await
}

/// The orders in force, and the rate towards each peer
#[utoipa::path(get, path = "/api/v1/orders", tag = "orders", responses((status = 200, body = OrdersReport)))]
pub(crate) async fn orders(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    site.look(Request::Orders {}).await
}

/// `STORE/NAME`, as the admin protocol has it.
pub(crate) fn full((store, image): &(String, String)) -> String {
    format!("{store}/{image}")
}

fn require(text: &str) -> Result<Require, Problem> {
    if text == "all" {
        return Ok(Require::All);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let wrong = |_| Problem::bad("require: all, a number or peers");
        return text.parse().map(Require::Count).map_err(wrong);
    }
    Ok(Require::Peers(text.split(',').map(|name| name.trim().to_owned()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_must_hold_it() {
        assert_eq!(require("all").expect("all"), Require::All);
        assert_eq!(require("2").expect("two"), Require::Count(2));
        let two = Require::Peers(vec!["a".into(), "b-2".into()]);
        assert_eq!(require("a, b-2").expect("peers"), two);
        for bad in ["", "99999999999"] {
            let error = require(bad).expect_err(bad);
            assert_eq!(error.0.code, "CONTROL_BAD_REQUEST");
        }
    }
}
