//! Input: what a request says besides its method, read within limits and refused as a problem.
//!
//! A body is a JSON object of at most [`budget::HTTP_BODY_BYTES_MAX`], sent within
//! [`budget::HTTP_BODY_DEADLINE`]; what it doesn't know it refuses, so that nobody believes that a
//! misspelt field did something. No body, and `null`, is an empty object.

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;
use crate::budget;

/// Whole numbers below this are exact as floats.
const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

/// A JSON body.
pub(crate) struct Said<T>(pub(crate) T);

/// The query of the address.
pub(crate) struct Asked<T>(pub(crate) T);

/// The names in the path.
pub(crate) struct Named<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Said<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = whole(body).await?;
        if bytes.is_empty() || bytes == b"null" {
            return parse(b"{}");
        }
        if !is_json(&parts.headers) {
            return Err(Problem::new("HTTP_TYPE", "the body must be application/json"));
        }
        parse(&bytes)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Said<T>, Problem> {
    // serde takes a list for an object whose fields may all be absent; a list names nothing.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::bad("bad body: an object is expected"));
    }
    let wrong = |error| Problem::bad(format!("bad body: {error}"));
    serde_json::from_slice(bytes)
        .or_else(|error| parse_whole(bytes).ok_or(error))
        .map(Said)
        .map_err(wrong)
}

/// The same where a whole number is written as `7.0`, which is one to JSON Schema and none to serde.
fn parse_whole<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut object: serde_json::Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let mut changed = false;
    for value in object.values_mut() {
        let number = value.as_f64().filter(|_| value.is_f64());
        // Beyond 2^53 a float is not exact: then it is none.
        if let Some(number) = number.filter(|n| n.fract() == 0.0 && n.abs() < EXACT_BELOW) {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
            let whole = number as i64;
            (*value, changed) = (whole.into(), true);
        }
    }
    if changed { serde_json::from_value(Value::Object(object)).ok() } else { None }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// A whole body, in time.
pub(crate) async fn whole(body: Body) -> Result<Vec<u8>, Problem> {
    let deadline = budget::HTTP_BODY_DEADLINE;
    let read = tokio::time::timeout(deadline, bytes_of(body)).await;
    let slow = format!("the body was not there after {} s", deadline.as_secs());
    read.map_err(|_| Problem::new("HTTP_SLOW", slow))?
}

/// Reads a body; never more than the limit, whatever its length is said to be.
async fn bytes_of(mut body: Body) -> Result<Vec<u8>, Problem> {
    let max = budget::HTTP_BODY_BYTES_MAX;
    let too_long = || Problem::new("CONTROL_TOO_LONG", format!("a body of more than {max} bytes"));
    if body.size_hint().lower() > max as u64 {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame else { return Ok(bytes) };
        let broken = |_| Problem::bad("the body ended too early");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if data.len() > max - bytes.len() {
            return Err(too_long());
        }
        bytes.extend_from_slice(&data);
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wrong =
            |error: axum::extract::rejection::QueryRejection| Problem::bad(error.body_text());
        Query::try_from_uri(&parts.uri).map(|Query(asked)| Self(asked)).map_err(wrong)
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong =
            |error: axum::extract::rejection::PathRejection| Problem::bad(error.body_text());
        let Path(names) = Path::from_request_parts(parts, state).await.map_err(wrong)?;
        Ok(Self(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Affected;

    fn seconds(text: &str) -> Option<Option<u64>> {
        parse::<Affected>(text.as_bytes()).ok().map(|Said(what)| what.for_seconds)
    }

    #[test]
    fn whole_numbers_are_numbers_and_nothing_else_is_let_through() {
        assert_eq!(seconds("{}"), Some(None));
        assert_eq!(seconds(r#" {"for_seconds": 7}"#), Some(Some(7)));
        assert_eq!(seconds(r#"{"for_seconds": 7.0}"#), Some(Some(7)));
        assert_eq!(seconds(r#"{"for_seconds": 7e3}"#), Some(Some(7000)));
        for bad in [
            "",
            "[]",
            "7",
            r#"{"for_seconds": 7.5}"#,
            r#"{"for_seconds": -7.0}"#,
            r#"{"for_seconds": 1e300}"#,
            r#"{"for_seconds": "7"}"#,
            r#"{"for_seconds": 7.0, "more": 1}"#,
            r#"{"for_seconds": 7, "for_seconds": 8}"#,
            r#"{"for_seconds": 7.0} x"#,
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
