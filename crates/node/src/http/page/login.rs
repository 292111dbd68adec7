//! Login: a token is typed in once and becomes a session.
//!
//! Where to go afterwards is a path of this site, whatever an address says.

use std::time::Instant;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use axum::response::Response;
use serde::Deserialize;

use super::forms::Form;
use super::frame::Frame;
use super::{Failed, Screen, Viewer, html, is_secure, see};
use crate::http::access::Credential;
use crate::http::body::Asked;
use crate::http::problem::Problem;
use crate::http::settings::{Scope, TokenHash};
use crate::http::site::Shared;

/// Where to go afterwards.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Next {
    #[serde(default)]
    next: String,
}

/// What the form says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    token: String,
    #[serde(default)]
    next: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login {
    frame: Frame,
    next: String,
    wrong: bool,
    tokens: bool,
}

#[derive(Template)]
#[template(path = "again.html")]
struct Again<'a> {
    to: &'a str,
}

/// The form.
pub(crate) async fn show(State(site): State<Shared>, Asked(Next { next }): Asked<Next>) -> Screen {
    Ok(form(&site, &next, false))
}

fn form(site: &Shared, next: &str, wrong: bool) -> Response {
    let tokens = site.access().has_tokens();
    let frame = Frame::new(site, &Viewer::default(), "Log in", "/login");
    let status = if wrong { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
    html(status, &Login { frame, next: inside(next).to_owned(), wrong, tokens })
}

/// Begins a session.
pub(crate) async fn begin(
    State(site): State<Shared>,
    Form(Said { token, next }): Form<Said>,
) -> Screen {
    let hash = TokenHash::of(token.trim());
    if site.access().may(&Credential::of(hash), Scope::Read).is_err() {
        return Ok(form(&site, &next, true));
    }
    let begun = site.sessions.begin(hash, is_secure(&site), Instant::now());
    let cookie = begun.map_err(|error| Failed(Problem::from(&error)))?;
    Ok(with_cookie(see(inside(&next)), &cookie))
}

/// Ends the session.
pub(crate) async fn end(State(site): State<Shared>, headers: HeaderMap) -> Screen {
    let cookie = site.sessions.end(&headers, is_secure(&site));
    Ok(with_cookie(see("/login"), &cookie))
}

/// The way to the form, and back to where one was going.
pub(crate) fn sent_to(path: &str) -> Response {
    let next: String = path.bytes().map(escaped).collect();
    see(&if next == "%2F" { "/login".to_owned() } else { format!("/login?next={next}") })
}

/// The same address once more, asked by ourselves.
pub(crate) fn again(path: &str) -> Response {
    html(StatusCode::OK, &Again { to: inside(path) })
}

fn escaped(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    }
}

/// A path of this site; anything else is its beginning.
fn inside(next: &str) -> &str {
    let bytes = next.as_bytes();
    let plain = bytes.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b'\\');
    let ours = bytes.first() == Some(&b'/') && bytes.get(1) != Some(&b'/');
    if plain && ours { next } else { "/" }
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn afterwards_one_is_still_here() {
        for good in ["/", "/peers", "/images/a/b?x=1&y=%20", "/a//b"] {
            assert_eq!(inside(good), good);
        }
        for bad in [
            "",
            "peers",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a b",
            "/\n",
        ] {
            assert_eq!(inside(bad), "/", "{bad:?}");
        }
        let to = sent_to("/images/a/b?x=1&y=2");
        assert_eq!(to.headers()["location"], "/login?next=%2Fimages%2Fa%2Fb%3Fx%3D1%26y%3D2");
        assert_eq!(sent_to("/").headers()["location"], "/login");
    }
}
