//! Reads: the routes that look and change nothing. Each makes one request of the admin protocol.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::{Asked, Named};
use super::problem::Problem;
use super::site::{Asker, Reply, Shared};
use crate::api::{
    BacklogReport, ConflictsReport, HistoryReport, ImagesReport, OrdersReport, PeersReport,
    PlanReport, ReadyReport, Request, Require, StatusReport, StoresReport, TrendsReport,
    history_csv,
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

/// Which image.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfImage {
    /// Only of this image, `STORE/NAME`.
    image: Option<String>,
}

/// What a plan is asked about.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfPlan {
    /// For which peer; absent: the one that lacks most.
    peer: Option<String>,
    /// As if it began then, `Mon 22:00` or `2026-12-24 18:00`, by the clock of the calendar; absent: now,
    /// in its turn.
    #[param(
        pattern = "^(((Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?([01][0-9]|2[0-3]):[0-5][0-9]|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( ([01][0-9]|2[0-3]):[0-5][0-9])?)$"
    )]
    at: Option<String>,
    /// Would it be there by then? `06:00` is the next one after the beginning.
    #[param(
        pattern = "^(((Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?([01][0-9]|2[0-3]):[0-5][0-9]|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( ([01][0-9]|2[0-3]):[0-5][0-9])?)$"
    )]
    by: Option<String>,
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

/// The generations of an image, newest first; as CSV for who accepts that and no JSON
#[utoipa::path(
    get, path = "/api/v1/images/{store}/{image}/history", tag = "images",
    params(("store" = String, Path, description = "Its store"), ("image" = String, Path, description = "Its name")),
    responses((status = 200, content((HistoryReport = "application/json"), (String = "text/csv")))),
)]
pub(crate) async fn history(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    headers: HeaderMap,
    _: Asked<Nothing>,
) -> Reply {
    let request = Request::ImageHistory { image: full(&name) };
    if !wants_csv(&headers) {
        return site.look(request).await;
    }
    let (report, _) = site.ask(&Asker::default(), request).await?;
    let report: HistoryReport = serde_json::from_value(report)
        .map_err(|error| Problem::new("INTERNAL", format!("a history is none: {error}")))?;
    Ok(as_csv(Body::from(history_csv(&report))))
}

/// A table for spreadsheets.
pub(crate) fn as_csv(table: Body) -> Response {
    let mut response = Response::new(table);
    let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// CSV is named among what is accepted, and JSON isn't.
pub(crate) fn wants_csv(headers: &HeaderMap) -> bool {
    let all = || headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let kinds = || all().flat_map(|value| value.split(',')).filter_map(|one| one.split(';').next());
    let named = |name: &str| kinds().any(|kind| kind.trim().eq_ignore_ascii_case(name));
    named("text/csv") && !named("application/json")
}

/// What would travel to a peer; sends nothing
#[utoipa::path(
    get, path = "/api/v1/images/{store}/{image}/plan", tag = "images",
    params(
        ("store" = String, Path, description = "Its store"),
        ("image" = String, Path, description = "Its name"),
        OfPlan,
    ),
    responses((status = 200, body = PlanReport)),
)]
pub(crate) async fn plan(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    Asked(of): Asked<OfPlan>,
) -> Reply {
    let OfPlan { peer, at, by } = of;
    site.look(Request::Plan { image: full(&name), peer, at, by }).await
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
    let image = meant(&name, of.generation);
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

/// What went out in the last day under which limit, and what was lacking in the last week
#[utoipa::path(
    get, path = "/api/v1/trends", tag = "node", params(OfPeer),
    responses((status = 200, body = TrendsReport)),
)]
pub(crate) async fn trends(State(site): State<Shared>, Asked(of): Asked<OfPeer>) -> Reply {
    site.look(Request::Trends { peer: of.peer }).await
}

/// Contents that diverged
#[utoipa::path(
    get, path = "/api/v1/conflicts", tag = "images", params(OfImage),
    responses((status = 200, body = ConflictsReport)),
)]
pub(crate) async fn conflicts(State(site): State<Shared>, Asked(of): Asked<OfImage>) -> Reply {
    site.look(Request::Conflicts { image: of.image }).await
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

/// The same with a generation, where one is named.
pub(crate) fn meant(name: &(String, String), generation: Option<u64>) -> String {
    let image = full(name);
    generation.map_or(image.clone(), |number| format!("{image}@{number}"))
}

/// Who must hold something, as a query or a body says it.
pub(crate) fn require(text: &str) -> Result<Require, Problem> {
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
    fn who_wants_csv_says_so() {
        let wants = |accept: &'static str| {
            wants_csv(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(wants("text/csv") && wants("Text/CSV; q=0.9, */*; q=0.1"));
        assert!(!wants("*/*") && !wants("application/json, text/csv") && !wants("text/html"));
        assert!(!wants_csv(&HeaderMap::new()));
    }

    #[test]
    fn who_must_hold_it() {
        assert_eq!(require("all").expect("all"), Require::All);
        assert_eq!(require("2").expect("two"), Require::Count(2));
        let two = Require::Peers(vec!["a".into(), "b-2".into()]);
        assert_eq!(require("a, b-2").expect("peers"), two);
        for bad in ["", "99999999999"] {
            let error = require(bad).expect_err(bad);
            assert_eq!(error.error.code, "CONTROL_BAD_REQUEST");
        }
    }
}
