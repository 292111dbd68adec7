//! Adoption over HTTP: how far each store has been taken over from another tool, what differs, and the
//! step forward or back. It begins on the command line, where its directory or ticket is named.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::body::{Asked, Named, Said};
use super::reads::{Nothing, as_csv, wants_csv};
use super::site::{Reply, Shared};
use super::writes::Empty;
use crate::api::{AdoptReport, AdoptStatus, Request, adoption_csv};

/// How a step forward is meant.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// Also where images aren't recorded yet, or wait for a decision.
    #[serde(default)]
    force: bool,
}

/// How far each store has been adopted; those that aren't have the phase `off`
#[utoipa::path(
    get, path = "/api/v1/adoption", tag = "adoption", responses((status = 200, body = AdoptStatus)),
)]
pub(crate) async fn adoptions(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    site.look(Request::AdoptStatus {}).await
}

/// Each image beside what each connected peer has of it; as CSV for who accepts that and no JSON
#[utoipa::path(
    get, path = "/api/v1/adoption/{store}", tag = "adoption",
    params(("store" = String, Path, description = "Its name")),
    responses((status = 200, content((AdoptReport = "application/json"), (String = "text/csv")))),
)]
pub(crate) async fn adoption(
    State(site): State<Shared>,
    Named(store): Named<String>,
    headers: HeaderMap,
    _: Asked<Nothing>,
) -> Reply {
    let request = Request::AdoptReport { store };
    if !wants_csv(&headers) {
        return site.look(request).await;
    }
    let report: AdoptReport = site.told(request).await?;
    Ok(as_csv(Body::from(adoption_csv(&report))))
}

/// The next phase; after the last one it is over, and what was replaced is let go of
#[utoipa::path(
    post, path = "/api/v1/adoption/{store}/next", tag = "adoption",
    params(("store" = String, Path, description = "Its name")),
    request_body = Option<Step>, responses((status = 200, body = AdoptStatus)),
)]
pub(crate) async fn adoption_next(
    State(site): State<Shared>,
    Named(store): Named<String>,
    _: Asked<Nothing>,
    Said(step): Said<Step>,
) -> Reply {
    site.act(Request::AdoptNext { store, force: step.force }).await
}

/// The phase before
#[utoipa::path(
    post, path = "/api/v1/adoption/{store}/back", tag = "adoption",
    params(("store" = String, Path, description = "Its name")),
    request_body = Option<Empty>, responses((status = 200, body = AdoptStatus)),
)]
pub(crate) async fn adoption_back(
    State(site): State<Shared>,
    Named(store): Named<String>,
    _: Asked<Nothing>,
    _: Said<Empty>,
) -> Reply {
    site.act(Request::AdoptBack { store }).await
}
