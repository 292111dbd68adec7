//! Events over HTTP: a stream of Server-Sent Events that goes on where it stopped.
//!
//! The number of an event is its id. Whoever comes back with `Last-Event-ID` gets all that is kept
//! since; what is not kept any more is said as `missed`. One task reads the ledger and then listens; a
//! client that is too slow for that is sent to the ledger again, so that it misses nothing and holds
//! nobody up. What waits for a client is bounded, and a client that takes nothing is hung up on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};
use utoipa::{IntoParams, ToSchema};

use super::access::{Access, Credential};
use super::body::Asked;
use super::problem::Problem;
use super::settings::Scope;
use super::site::{Reply, Shared};
use crate::api::Event;
use crate::budget;
use crate::core::{Core, blocking};
use crate::error::Result;
use crate::events::now_unix_ms;

/// What a browser is told to wait before it comes back, in milliseconds.
const RETRY_MS: u32 = 3000;

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfEvents {
    /// Only events of the last so many seconds; absent: all that are kept.
    since_seconds: Option<u64>,
    /// `false`: end with what is kept.
    follow: Option<bool>,
}

/// One of the stream, as its fields are called there.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is described, and written by hand")]
pub(crate) struct Told {
    /// Number of the event, with which a client comes back; none: nothing has happened, something is said.
    id: Option<String>,
    /// `message`, or `missed`: events that are not kept any more.
    event: Option<String>,
    /// An `Event`, as JSON; of `missed` the numbers `from` and `to`.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What happened, as Server-Sent Events
///
/// The id of each is its number. `Last-Event-ID` goes on behind it; `event: missed` says that what lay
/// between is not kept any more. The data of an event is an object as of `blockferry events`.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "node",
    params(OfEvents, ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event seen")),
    responses((status = 200, body = Told, content_type = "text/event-stream")),
)]
pub(crate) async fn events(
    State(site): State<Shared>,
    Extension(credential): Extension<Credential>,
    headers: HeaderMap,
    Asked(of): Asked<OfEvents>,
) -> Reply {
    let seen = seen(&headers)?;
    let busy = |_| Problem::new("CONTROL_BUSY", "too many follow the events already");
    let place = site.followers.clone().try_acquire_owned().map_err(busy)?;
    let since_unix_ms = of.since_seconds.map_or(i64::MIN, |seconds| {
        let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        now_unix_ms().saturating_sub(ms)
    });
    let (sender, receiver) = mpsc::channel(budget::HTTP_EVENTS_QUEUED);
    let teller = Teller {
        live: site.core.events.follow(),
        core: site.core.clone(),
        seen,
        since_unix_ms,
        follow: of.follow.unwrap_or(true),
        sender,
    };
    tokio::spawn(teller.run(revoked(site.accesses(), credential)));
    let mut response = Response::new(Body::new(Stream { receiver, _place: place }));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Resolves when who has shown this may not look any more.
async fn revoked(mut access: watch::Receiver<Arc<Access>>, credential: Credential) {
    while access.borrow_and_update().may(&credential, Scope::Read).is_ok() {
        if access.changed().await.is_err() {
            // Nobody is left to change it: the stream ends with its connection.
            return std::future::pending().await;
        }
    }
}

/// The last event that was seen; `None`: the client begins.
fn seen(headers: &HeaderMap) -> std::result::Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Problem::bad("Last-Event-ID is the number of an event");
    number.map(Some).ok_or_else(wrong)
}

/// The one who tells a client.
struct Teller {
    core: Arc<Core>,
    live: broadcast::Receiver<Event>,
    seen: Option<u64>,
    since_unix_ms: i64,
    follow: bool,
    sender: mpsc::Sender<Bytes>,
}

impl Teller {
    async fn run(mut self, revoked: impl Future<Output = ()>) {
        let stopped = self.core.clone();
        tokio::select! {
            () = stopped.stopped() => {}
            () = revoked => {}
            // Ends when the client is gone.
            _ended = self.tell() => {}
        }
    }

    /// Tells until there is nobody to tell; `None`: that is so.
    async fn tell(&mut self) -> Option<()> {
        self.say(format!("retry: {RETRY_MS}\n\n")).await?;
        let mut last = self.past(None).await?;
        if !self.follow {
            return Some(());
        }
        loop {
            let quiet = tokio::time::sleep(budget::HTTP_EVENTS_SIGN_EVERY);
            let gone = self.sender.clone();
            let heard = tokio::select! {
                heard = self.live.recv() => heard,
                () = gone.closed() => return None,
                () = quiet => {
                    self.say(": still here\n\n".to_owned()).await?;
                    continue;
                }
            };
            match heard {
                Ok(event) if event.number <= last => {}
                Ok(event) => {
                    last = event.number;
                    self.say(written(&event)).await?;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => last = self.past(Some(last)).await?,
                Err(broadcast::error::RecvError::Closed) => return Some(()),
            }
        }
    }

    /// Tells what the ledger has behind `last`; the number of the last event there is.
    async fn past(&mut self, last: Option<u64>) -> Option<u64> {
        let seen = last.or(self.seen);
        let (ledger, since) = (self.core.ledger.clone(), self.since_unix_ms);
        let read = blocking("reading events", move || -> Result<_> {
            let kept = ledger.events_kept()?;
            // Numbers beyond what is kept are those of a database that is gone: begin anew.
            let after = seen.filter(|seen| *seen <= kept.1).unwrap_or(0);
            Ok((kept, after, ledger.events_after(after, since)?))
        });
        let ((first, newest), after, events) = read.await.ok()?;
        if seen.is_some() && after + 1 < first {
            let lost = format!("{{\"from\":{},\"to\":{}}}", after + 1, first - 1);
            self.say(format!("event: missed\ndata: {lost}\n\n")).await?;
        }
        for event in &events {
            self.say(written(event)).await?;
        }
        Some(events.last().map_or(newest, |event| event.number))
    }

    async fn say(&self, text: String) -> Option<()> {
        self.sender.send(text.into()).await.ok()
    }
}

/// An event as SSE writes it: JSON has no line breaks outside its strings, and none inside.
fn written(event: &Event) -> String {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\ndata: {data}\n\n", event.number)
}

/// The body that is read off the teller, as fast as the client takes it.
struct Stream {
    receiver: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        self.receiver.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
