//! Health: is the node fit for work, has it room, and what happened lately that somebody should know?

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::frame::Frame;
use super::parts::{EventLine, Mark};
use super::words::{duration, size};
use super::{Screen, Viewer, html};
use crate::api::{Event, Request, Role, Severity, StatusReport, StoreRow, remedy_for};
use crate::budget;
use crate::core::blocking;
use crate::http::body::Asked;
use crate::http::health::{Reason, reasons};
use crate::http::problem::Problem;
use crate::http::reads::Nothing;
use crate::http::site::Shared;

#[derive(Template)]
#[template(path = "health.html")]
struct Health {
    frame: Frame,
    reasons: Vec<Why>,
    id: String,
    uptime: String,
    listen: String,
    stores: Vec<Store>,
    /// Warnings and errors.
    notable: Vec<EventLine>,
    events: Vec<EventLine>,
}

/// Why the node is not fit.
struct Why {
    code: &'static str,
    message: String,
    remedy: &'static str,
}

/// A store.
struct Store {
    name: String,
    path: String,
    role: &'static str,
    mode: String,
    images: u64,
    mark: Mark,
    word: &'static str,
    free: String,
    kept: String,
}

impl Why {
    fn new(reason: Reason) -> Self {
        let message = reason.message.or(reason.store).unwrap_or_default();
        Self { code: reason.code, message, remedy: remedy_for(reason.code) }
    }
}

impl Store {
    fn new(row: StoreRow) -> Self {
        let (mark, word) =
            if row.in_sync { (Mark::Good, "in sync") } else { (Mark::Waiting, "behind") };
        Self {
            role: if row.role == Role::Mirror { "mirror" } else { "writer" },
            free: row.free_bytes.map_or("\u{2013}".to_owned(), size),
            kept: match row.kept {
                0 => "\u{2013}".to_owned(),
                kept => format!("{kept}, {}", size(row.kept_bytes)),
            },
            name: row.name,
            path: row.path,
            mode: row.commit_mode,
            images: row.images,
            mark,
            word,
        }
    }
}

/// The screen.
pub(crate) async fn show(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    _: Asked<Nothing>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, "Health", "/health");
    let status: StatusReport = site.told(Request::Status {}).await?;
    let core = site.core.clone();
    let looked = blocking("a look at the stores", move || Ok(reasons(&core)));
    let reasons = match tokio::time::timeout(budget::HTTP_READY_DEADLINE, looked).await {
        Ok(reasons) => reasons.map_err(|error| Problem::from(&error))?,
        Err(_) => return Err(Problem::new("DEADLINE", "a file system doesn't answer").into()),
    };
    let notable = events(&site, |event| event.severity > Severity::Info).await?;
    let events = events(&site, |_| true).await?;
    let clock = &frame.clock;
    let screen = Health {
        reasons: reasons.into_iter().map(Why::new).collect(),
        id: status.node.id,
        uptime: duration(status.node.uptime_seconds),
        listen: status.node.listen.join(", "),
        stores: status.stores.into_iter().map(Store::new).collect(),
        notable: notable.iter().map(|event| EventLine::new(event, clock)).collect(),
        events: events.iter().map(|event| EventLine::new(event, clock)).collect(),
        frame,
    };
    Ok(html(StatusCode::OK, &screen))
}

/// The latest events of a kind, the newest first.
pub(crate) async fn events(
    site: &Shared,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Vec<Event>, Problem> {
    let ledger = site.core.ledger.clone();
    let read = blocking("reading events", move || {
        let (_, newest) = ledger.events_kept()?;
        ledger.events_after(newest.saturating_sub(EVENTS_LOOKED_AT), i64::MIN)
    });
    let mut events = read.await.map_err(|error| Problem::from(&error))?;
    events.retain(|event| wanted(event));
    events.reverse();
    events.truncate(budget::PAGE_EVENTS_MAX);
    Ok(events)
}

/// Of so many the ones that are wanted are shown.
const EVENTS_LOOKED_AT: u64 = 1000;
