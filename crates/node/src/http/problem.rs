//! Problems: an error as HTTP tells it, `application/problem+json` (RFC 9457) with our code and remedy.
//!
//! The one place where a code becomes a status of HTTP: by its own row here, else by the exit status
//! that the table of codes gives it. 400 is what doesn't fit the description, 422 what fits it and
//! makes no sense here.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Denied;
use crate::admin::requests;
use crate::api::{AdminError, Exit, exit_for};
use crate::error::Error;

/// The code of a request that can't be understood, and what to do about it over HTTP.
const BAD: &str = "CONTROL_BAD_REQUEST";
const READ_ON: &str = "see /openapi.json for what this address takes";
const MEND: &str = "it was understood; correct what the message says, and ask again";

/// An error of a request.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) error: AdminError,
    status: StatusCode,
}

/// What is answered instead of the object that was asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// `urn:blockferry:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What HTTP calls the status.
    title: &'a str,
    /// Status of HTTP.
    status: u16,
    /// What failed, naming what it concerns.
    detail: &'a str,
    /// Stable code, `SCREAMING_SNAKE`, the same as on the command line.
    code: &'a str,
    /// What to do.
    remedy: &'a str,
}

impl Problem {
    pub(crate) fn new(code: &str, message: impl AsRef<str>) -> Self {
        AdminError::new(code, message).into()
    }

    /// A request that can't be understood.
    pub(crate) fn bad(message: impl AsRef<str>) -> Self {
        AdminError::new(BAD, message).with_remedy(READ_ON).into()
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let told = requests::admin_error(error);
        // What the node refuses was understood: it is what is asked for that can't be.
        if told.code == BAD {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Self { error: told.with_remedy(MEND), status };
        }
        told.into()
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        let status = status_of(&error.code);
        Self { error, status }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Host(host) => {
                Self::new("HTTP_HOST", format!("{host:?} is no name of this node"))
            }
            Denied::Origin(origin) => {
                Self::new("HTTP_ORIGIN", format!("a page of {origin:?} may not ask this node"))
            }
            Denied::Token => Self::new("HTTP_TOKEN", "a token that is known here is needed"),
            Denied::NoTokens => Self::new(
                "HTTP_TOKEN",
                "no token is configured, so that nothing can be changed over HTTP",
            ),
            Denied::Scope { name, needs } => {
                let needs = needs.as_str();
                Self::new("HTTP_SCOPE", format!("token {name} has not the scope {needs}"))
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = ProblemBody {
            kind: format!("urn:blockferry:problem:{}", self.error.code),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &self.error.message,
            code: &self.error.code,
            remedy: &self.error.remedy,
        };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Which status of HTTP a code has.
fn status_of(code: &str) -> StatusCode {
    match code {
        BAD => return StatusCode::BAD_REQUEST,
        "HTTP_TOKEN" => return StatusCode::UNAUTHORIZED,
        "TICKET_INVALID" => return StatusCode::FORBIDDEN,
        "HTTP_HOST" => return StatusCode::MISDIRECTED_REQUEST,
        "HTTP_ROUTE" => return StatusCode::NOT_FOUND,
        "HTTP_METHOD" => return StatusCode::METHOD_NOT_ALLOWED,
        "HTTP_TYPE" => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "HTTP_SLOW" => return StatusCode::REQUEST_TIMEOUT,
        "CONFIG_CHANGED" => return StatusCode::PRECONDITION_FAILED,
        "CONFIG_TAG" => return StatusCode::PRECONDITION_REQUIRED,
        "CONTROL_TOO_LONG" => return StatusCode::PAYLOAD_TOO_LARGE,
        // The configuration file is in the way of the request, not broken.
        "CONFIG_ERROR" | "PEER_DOWN" | "MIRROR" => return StatusCode::CONFLICT,
        "RATE_LIMITED" => return StatusCode::TOO_MANY_REQUESTS,
        _ => {}
    }
    match exit_for(code) {
        Exit::Usage => StatusCode::UNPROCESSABLE_ENTITY,
        Exit::Unknown => StatusCode::NOT_FOUND,
        Exit::Refused => StatusCode::FORBIDDEN,
        Exit::Partly | Exit::Locked | Exit::Diverged => StatusCode::CONFLICT,
        Exit::OutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
        Exit::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        Exit::Unreachable | Exit::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
        Exit::Done | Exit::Failed | Exit::VerifyFailed | Exit::Config => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::code_rows;

    #[test]
    fn every_code_has_a_status_that_is_an_error() {
        for row in code_rows() {
            let status = status_of(row.code);
            assert!(status.is_client_error() || status.is_server_error(), "{}", row.code);
            assert!(status.canonical_reason().is_some(), "{}", row.code);
        }
        assert_eq!(status_of("IMAGE_UNKNOWN"), StatusCode::NOT_FOUND);
        assert_eq!(status_of("DISK_FULL"), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(status_of("DIVERGED"), StatusCode::CONFLICT);
        assert_eq!(status_of("HTTP_ORIGIN"), StatusCode::FORBIDDEN);
        assert_eq!(status_of("HTTP_SCOPE"), StatusCode::FORBIDDEN);
        assert_eq!(status_of("SOMETHING_NEW"), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn what_cant_be_read_is_another_thing_than_what_cant_be() {
        let unread = Problem::bad("no JSON");
        assert_eq!(unread.status(), StatusCode::BAD_REQUEST);
        let refused = Problem::from(&Error::Control { what: "it ends before it begins".into() });
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.error.code, unread.error.code);
        assert_ne!(refused.error.remedy, unread.error.remedy);
        assert_eq!(status_of("BAD_NAME"), StatusCode::UNPROCESSABLE_ENTITY);
    }
}
