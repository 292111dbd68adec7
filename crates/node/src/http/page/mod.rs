//! The page: what people look at in a browser, made of the API's own answers.
//!
//! A screen asks the node what the command line asks it (`Site::ask`), turns the answers into a view
//! (pure functions of reports and a clock) and writes that by a template, which escapes everything.
//! It works without JavaScript; with it, parts of a screen are fetched anew when something happens.
//! This file has the one list of screens and of what stands in the navigation, and the gate before
//! them: a token or a session, and for every form an `Origin` that is ours. How a screen is added
//! stands in `templates/README.md`.

mod assets;
mod forms;
mod frame;
mod health;
mod history;
mod image;
mod login;
mod matrix;
mod overview;
mod parts;
mod peers;
mod plot;
mod schedules;
mod session;
mod words;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    HeaderName, HeaderValue, LOCATION, ORIGIN, REFERRER_POLICY,
};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use tracing::info;

use super::access::Denied;
use super::problem::Problem;
use super::reads::as_csv;
use super::routes::{Row, row};
use super::settings::Scope;
use super::site::{Asker, Shared};

pub(crate) use session::Sessions;

/// What a screen may load and do: nothing that isn't served here, and nothing written into it.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// What stands in the navigation: address and name, in this order.
pub(crate) const NAVIGATION: [(&str, &str); 5] = [
    ("/", "Overview"),
    ("/peers", "Peers"),
    ("/schedules", "Schedules"),
    ("/history", "History"),
    ("/health", "Health"),
];

/// All screens and forms.
fn table() -> Vec<Row> {
    use Scope::{Admin, Operate, Read};
    vec![
        row(Method::GET, "/", Read, get(overview::show)),
        row(Method::GET, "/images/{store}/{image}", Read, get(image::show)),
        row(Method::GET, "/peers", Read, get(peers::all)),
        row(Method::GET, "/peers/{peer}", Read, get(peers::one)),
        row(Method::GET, "/schedules", Read, get(schedules::all)),
        row(Method::GET, "/schedules/{schedule}", Read, get(schedules::one)),
        row(Method::POST, "/schedules/{schedule}", Admin, post(schedules::paint)),
        row(Method::GET, "/history", Read, get(history::all)),
        row(Method::GET, "/history/{store}/{image}", Read, get(history::one)),
        row(Method::GET, "/history/{store}/{image}/csv", Read, get(history::file)),
        row(Method::GET, "/health", Read, get(health::show)),
        row(Method::GET, "/health/adoption/{store}/csv", Read, get(health::adoption)),
        row(Method::POST, "/promote", Operate, post(forms::promote)),
        row(Method::POST, "/pause", Operate, post(forms::pause)),
        row(Method::POST, "/resume", Operate, post(forms::resume)),
        row(Method::GET, "/login", None, get(login::show)),
        row(Method::POST, "/login", None, post(login::begin)),
        row(Method::POST, "/logout", None, post(login::end)),
        row(Method::GET, assets::ROUTE, None, get(assets::serve)),
    ]
}

/// Adds the page to what is served.
pub(crate) fn attach(mut router: Router<Shared>, site: &Shared) -> Router<Shared> {
    for Row { method, path, scope, handler } in table() {
        let handler = match scope {
            Some(scope) => handler.route_layer(from_fn_with_state((site.clone(), scope), gate)),
            None => handler,
        };
        let handler = match method {
            Method::POST => handler.route_layer(from_fn(own_form)),
            _ => handler,
        };
        router = router.route(path, handler);
    }
    router
}

/// Who looks at the page: said by the gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Viewer {
    /// Name of the token; empty: nobody in particular.
    name: String,
    /// Forms that change something are for them.
    may_operate: bool,
    /// They are here by a session, which they can end.
    session: bool,
    /// There are tokens, so that one can log in for more.
    tokens: bool,
}

/// Lets through who may look; others are shown where to log in.
async fn gate(
    State((site, scope)): State<(Shared, Scope)>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let name = match site.check_who(headers, scope) {
        Ok(name) => name,
        Err(denied) => return refused(&request, denied),
    };
    let viewer = Viewer {
        may_operate: site.check_who(headers, Scope::Operate).is_ok(),
        session: !headers.contains_key(AUTHORIZATION) && site.sessions.token(headers).is_some(),
        tokens: site.access().has_tokens(),
        name: name.clone(),
    };
    if scope > Scope::Read {
        info!(token = name, path = request.uri().path(), "asked on the page");
    }
    if request.extensions().get::<Asker>().is_none() {
        request.extensions_mut().insert(Asker(format!("token {name}").into()));
    }
    request.extensions_mut().insert(viewer);
    next.run(request).await
}

/// A form must come from a page of ours. The entrance has compared an `Origin` that is there; here one
/// must be there, for a session comes with whatever the browser sends.
async fn own_form(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return next.run(request).await;
    }
    trouble(&Problem::from(Denied::Origin("none".to_owned())))
}

/// What is answered to who may not.
fn refused(request: &Request, denied: Denied) -> Response {
    let headers = request.headers();
    let says = |name: &str, what: &str| headers.get(name).is_some_and(|value| value == what);
    if denied != Denied::Token || headers.contains_key(AUTHORIZATION) {
        return trouble(&Problem::from(denied));
    }
    if says("hx-request", "true") {
        // A part of a screen that is open: all of it is loaded anew, which leads to the login.
        let mut response = plain(StatusCode::UNAUTHORIZED, String::new());
        response
            .headers_mut()
            .insert(HeaderName::from_static("hx-refresh"), HeaderValue::from_static("true"));
        return response;
    }
    if request.method() != Method::GET {
        return trouble(&Problem::from(denied));
    }
    let to = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if says("sec-fetch-site", "cross-site") {
        // Who follows a link of another site (a monitor's mail) sends no strict cookie; asked again by
        // ourselves, the browser does.
        return login::again(to);
    }
    login::sent_to(to)
}

/// A screen.
pub(crate) fn html(status: StatusCode, screen: &impl askama::Template) -> Response {
    match screen.render() {
        Ok(text) => plain(status, text),
        Err(error) => {
            tracing::error!(%error, "a template can't be written");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error".to_owned())
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        // With no-referrer a browser would send `Origin: null` with our own forms.
        (REFERRER_POLICY, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A table to be kept, for spreadsheets.
fn as_file(table: Body, kept: &'static str) -> Response {
    let mut response = as_csv(table);
    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(kept));
    response
}

/// After a form: go and look.
fn see(path: &str) -> Response {
    let mut response = plain(StatusCode::SEE_OTHER, String::new());
    let path = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, path);
    response
}

/// What went wrong, as a screen.
pub(crate) fn trouble(problem: &Problem) -> Response {
    html(problem.status(), &frame::Trouble::new(problem))
}

/// What a screen answers.
pub(crate) type Screen = Result<Response, Failed>;

/// What went wrong, to be shown as a screen.
pub(crate) struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl axum::response::IntoResponse for Failed {
    fn into_response(self) -> Response {
        trouble(&self.0)
    }
}

/// Whether a browser asks over TLS, as it is served now.
fn is_secure(site: &Shared) -> bool {
    site.core.http.config().is_some_and(|http| http.tls.is_some())
}
