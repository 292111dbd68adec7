//! Routes: every address that is served, with the scope that it takes. The one list of them.
//!
//! The gate stands before each route that has a scope; what has none tells nothing that a stranger may
//! not know. Before all of them stands the entrance: which host was meant, which page asks.

use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use tracing::info;

use super::page;
use super::problem::Problem;
use super::settings::Scope;
use super::site::{Asker, Shared};
use super::{adoption, doctor, events, health, metrics, openapi, reads, schedules, writes};
use crate::core::lock;

/// What nothing that is served here needs: only the page allows itself more.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'";

/// One route, a screen of the page, or what a form of one is sent to.
pub(crate) struct Row {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// `None`: everybody may ask.
    pub(crate) scope: Option<Scope>,
    pub(crate) handler: MethodRouter<Shared>,
}

pub(crate) fn row(
    method: Method,
    path: &'static str,
    scope: impl Into<Option<Scope>>,
    handler: MethodRouter<Shared>,
) -> Row {
    Row { method, path, scope: scope.into(), handler }
}

/// All routes.
pub(crate) fn table() -> Vec<Row> {
    use Scope::{Admin, Operate, Read};
    vec![
        row(Method::GET, "/livez", None, get(health::livez)),
        row(Method::GET, "/readyz", None, get(health::readyz)),
        row(Method::GET, "/metrics", Read, get(metrics::metrics)),
        row(Method::GET, "/openapi.json", None, get(openapi::serve)),
        row(Method::GET, "/api/v1/status", Read, get(reads::status)),
        row(Method::GET, "/api/v1/stores", Read, get(reads::stores)),
        row(Method::POST, "/api/v1/stores", Admin, post(writes::store_add)),
        row(Method::GET, "/api/v1/stores/{store}", Read, get(reads::store)),
        row(Method::DELETE, "/api/v1/stores/{store}", Admin, delete(writes::store_remove)),
        row(Method::GET, "/api/v1/peers", Read, get(reads::peers)),
        row(Method::GET, "/api/v1/peers/{peer}", Read, get(reads::peer)),
        row(Method::PATCH, "/api/v1/peers/{peer}", Admin, patch(writes::peer_set)),
        row(Method::DELETE, "/api/v1/peers/{peer}", Admin, delete(writes::peer_remove)),
        row(Method::POST, "/api/v1/invitations", Admin, post(writes::invite)),
        row(Method::POST, "/api/v1/join", Admin, post(writes::join)),
        row(Method::GET, "/api/v1/images", Read, get(reads::images)),
        row(Method::GET, "/api/v1/images/{store}/{image}", Read, get(reads::image)),
        row(Method::GET, "/api/v1/images/{store}/{image}/history", Read, get(reads::history)),
        row(Method::GET, "/api/v1/images/{store}/{image}/plan", Read, get(reads::plan)),
        row(Method::GET, "/api/v1/images/{store}/{image}/ready", Read, get(reads::ready)),
        row(Method::POST, "/api/v1/images/{store}/{image}/publish", Operate, post(writes::publish)),
        row(Method::POST, "/api/v1/images/{store}/{image}/push", Operate, post(writes::push)),
        row(Method::POST, "/api/v1/images/{store}/{image}/promote", Operate, post(writes::promote)),
        row(
            Method::POST,
            "/api/v1/images/{store}/{image}/rollback",
            Operate,
            post(writes::rollback),
        ),
        row(Method::POST, "/api/v1/images/{store}/{image}/resolve", Operate, post(writes::resolve)),
        row(Method::GET, "/api/v1/conflicts", Read, get(reads::conflicts)),
        row(Method::GET, "/api/v1/backlog", Read, get(reads::backlog)),
        row(Method::GET, "/api/v1/doctor", Read, get(doctor::doctor)),
        row(Method::GET, "/api/v1/adoption", Read, get(adoption::adoptions)),
        row(Method::GET, "/api/v1/adoption/{store}", Read, get(adoption::adoption)),
        row(Method::POST, "/api/v1/adoption/{store}/next", Admin, post(adoption::adoption_next)),
        row(Method::POST, "/api/v1/adoption/{store}/back", Admin, post(adoption::adoption_back)),
        row(Method::GET, "/api/v1/trends", Read, get(reads::trends)),
        row(Method::GET, "/api/v1/orders", Read, get(reads::orders)),
        row(Method::GET, "/api/v1/schedules", Read, get(schedules::all)),
        row(Method::GET, "/api/v1/schedules/{schedule}", Read, get(schedules::one)),
        row(Method::PUT, "/api/v1/schedules/{schedule}", Admin, put(schedules::set)),
        row(Method::POST, "/api/v1/pause", Operate, post(writes::pause)),
        row(Method::POST, "/api/v1/resume", Operate, post(writes::resume)),
        row(Method::POST, "/api/v1/boost", Operate, post(writes::boost)),
        row(Method::PUT, "/api/v1/limit", Operate, put(writes::limit_set)),
        row(Method::DELETE, "/api/v1/limit", Operate, delete(writes::limit_clear)),
        row(Method::POST, "/api/v1/verify", Operate, post(writes::verify)),
        row(Method::GET, "/api/v1/events", Read, get(events::events)),
    ]
}

/// Everything that is served.
pub(crate) fn router(site: &Shared) -> Router {
    let mut router = Router::new();
    for Row { path, scope, handler, .. } in table() {
        let handler = match scope {
            Some(scope) => handler.route_layer(from_fn_with_state((site.clone(), scope), gate)),
            None => handler,
        };
        router = router.route(path, handler);
    }
    page::attach(router, site)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(site.clone(), entrance))
        .with_state(site.clone())
}

/// Asks where a request is from before anything else, and says how an answer may be used.
async fn entrance(State(site): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = match site.access().check_where(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => Problem::from(denied).into_response(),
    };
    let set: [(HeaderName, &str); 4] = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in set {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Lets through who has the scope. What changes something is logged with whose token it was.
async fn gate(
    State((site, scope)): State<(Shared, Scope)>,
    mut request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (access, headers) = (site.access(), request.headers());
    // A session is sent along by a browser whoever made it ask: by it one may look, not change.
    let shown = match scope {
        Scope::Read => site.credential(headers),
        _ => access.credential(headers),
    };
    let let_in = shown.and_then(|shown| Ok((access.may(&shown, scope)?, shown)));
    let (token, credential) = match let_in {
        Ok(let_in) => let_in,
        Err(denied) => return Problem::from(denied).into_response(),
    };
    request.extensions_mut().insert(credential);
    lock(&site.core.tokens_shown).insert(token.to_owned(), Instant::now());
    if scope > Scope::Read {
        info!(token, %method, path, "asked over HTTP");
    }
    // On the admin socket the connection knows better: the user.
    if request.extensions().get::<Asker>().is_none() {
        request.extensions_mut().insert(Asker(format!("token {token}").into()));
    }
    next.run(request).await
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new("HTTP_ROUTE", format!("nothing is served at {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new("HTTP_METHOD", format!("{} does not take {method}", uri.path()))
}
