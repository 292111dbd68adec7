//! Health: is the node fit for work, has it room, and what happened lately that somebody should know?

use askama::Template;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::frame::Frame;
use super::parts::{EventLine, Mark, event_lines};
use super::words::{Clock, duration, in_path, size};
use super::{Screen, Viewer, as_file, html};
use crate::api::{
    AdoptReport, AdoptStatus, AdoptStoreRow, AdoptionPhase, Compared, Event, Request, Role,
    Severity, StatusReport, StoreRow, adoption_csv, remedy_for,
};
use crate::budget;
use crate::core::blocking;
use crate::http::body::{Asked, Named};
use crate::http::health::{Reason, reasons};
use crate::http::problem::Problem;
use crate::http::reads::Nothing;
use crate::http::site::Shared;
use crate::local::adoption::is_under_way;

#[derive(Template)]
#[template(path = "health.html")]
struct Health {
    frame: Frame,
    reasons: Vec<Why>,
    id: String,
    uptime: String,
    listen: String,
    stores: Vec<Store>,
    adopted: Vec<Adopted>,
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

/// A store that is taken over from another tool.
struct Adopted {
    name: String,
    phase: String,
    means: &'static str,
    /// How many images stand how, those that need a look first.
    compared: Vec<(Mark, String)>,
    beside: String,
    replaced: String,
    csv: String,
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

impl Adopted {
    fn new(row: &AdoptStoreRow) -> Self {
        let (word, means) = phase(row.phase);
        let kept = |count: u64, bytes: u64| match count {
            0 => "\u{2013}".to_owned(),
            count => format!("{count}, {}", size(bytes)),
        };
        let mut compared: Vec<(Mark, String)> = row
            .compared
            .iter()
            .map(|(state, images)| (compared(*state), format!("{images} {}", spoken(*state))))
            .collect();
        if row.diverged > 0 {
            compared.push((Mark::Diverged, format!("{} diverged", row.diverged)));
        }
        compared.sort_by_key(|(mark, _)| std::cmp::Reverse(*mark));
        Self {
            phase: match row.going_to {
                Some(to) => format!("{word}, on its way to {}", phase(to).0),
                None => word.to_owned(),
            },
            means,
            compared,
            beside: kept(row.shadow, row.shadow_bytes),
            replaced: kept(row.old_tool, row.old_tool_bytes),
            csv: format!("/health/adoption/{}/csv", in_path(&row.store)),
            name: row.store.clone(),
        }
    }
}

fn phase(phase: AdoptionPhase) -> (&'static str, &'static str) {
    match phase {
        AdoptionPhase::Off => ("over", ""),
        AdoptionPhase::Observe => ("observe", "images are compared, nothing is touched"),
        AdoptionPhase::Shadow => ("shadow", "what peers have is received beside the images"),
        AdoptionPhase::Active => ("active", "images are replaced, what they were is kept"),
        AdoptionPhase::Other => ("unknown", ""),
    }
}

fn compared(state: Compared) -> Mark {
    match state {
        Compared::Equal => Mark::Good,
        Compared::Unrecorded => Mark::Waiting,
        Compared::TimesAdrift | Compared::Missing | Compared::Stale => Mark::Drift,
        Compared::Differs => Mark::Diverged,
        Compared::NewerHere | Compared::OnlyHere | Compared::Other => Mark::Unknown,
    }
}

fn spoken(state: Compared) -> String {
    match state {
        Compared::Unrecorded => "not read yet".to_owned(),
        other => other.as_str().replace('_', " "),
    }
}

/// How an adoption stands, image by image, for spreadsheets.
pub(crate) async fn adoption(
    State(site): State<Shared>,
    Named(store): Named<String>,
    _: Asked<Nothing>,
) -> Screen {
    let report: AdoptReport = site.told(Request::AdoptReport { store }).await?;
    Ok(as_file(Body::from(adoption_csv(&report)), "attachment; filename=\"adoption.csv\""))
}

/// Stores that are being adopted. To look at all of them takes a while, so it isn't done where none is.
async fn adopted(site: &Shared) -> Result<Vec<Adopted>, Problem> {
    if !is_under_way(&site.core) {
        return Ok(Vec::new());
    }
    let status: AdoptStatus = site.told(Request::AdoptStatus {}).await?;
    let under_way =
        |row: &&AdoptStoreRow| row.phase != AdoptionPhase::Off || row.going_to.is_some();
    Ok(status.stores.iter().filter(under_way).map(Adopted::new).collect())
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
    let clock = &frame.clock;
    let notable = events(&site, clock, |event| event.severity > Severity::Info).await?;
    let events = events(&site, clock, |_| true).await?;
    let screen = Health {
        reasons: reasons.into_iter().map(Why::new).collect(),
        id: status.node.id,
        uptime: duration(status.node.uptime_seconds),
        listen: status.node.listen.join(", "),
        stores: status.stores.into_iter().map(Store::new).collect(),
        adopted: adopted(&site).await?,
        notable,
        events,
        frame,
    };
    Ok(html(StatusCode::OK, &screen))
}

/// The latest events of a kind, the newest first.
pub(crate) async fn events(
    site: &Shared,
    clock: &Clock,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Vec<EventLine>, Problem> {
    let ledger = site.core.ledger.clone();
    let read = blocking("reading events", move || {
        let (_, newest) = ledger.events_kept()?;
        ledger.events_after(newest.saturating_sub(EVENTS_LOOKED_AT), i64::MIN)
    });
    let mut events = read.await.map_err(|error| Problem::from(&error))?;
    events.retain(|event| wanted(event));
    events.reverse();
    Ok(event_lines(&events, budget::PAGE_EVENTS_MAX, clock))
}

/// Of so many the ones that are wanted are shown.
const EVENTS_LOOKED_AT: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_adoption_says_first_what_needs_a_look() {
        let row = AdoptStoreRow {
            store: "v d".into(),
            path: "/srv".into(),
            role: Role::Mirror,
            phase: AdoptionPhase::Observe,
            going_to: Some(AdoptionPhase::Shadow),
            recorded: 4,
            unrecorded: 1,
            diverged: 0,
            shadow: 1,
            shadow_bytes: 2048,
            old_tool: 0,
            old_tool_bytes: 0,
            compared: BTreeMap::from([
                (Compared::Equal, 2),
                (Compared::TimesAdrift, 1),
                (Compared::Unrecorded, 1),
            ]),
        };
        let shown = Adopted::new(&row);
        assert_eq!(shown.phase, "observe, on its way to shadow");
        let words: Vec<&str> = shown.compared.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(words, ["1 times adrift", "1 not read yet", "2 equal"]);
        assert_eq!((shown.beside.as_str(), shown.replaced.as_str()), ("1, 2 KiB", "\u{2013}"));
        assert_eq!(shown.csv, "/health/adoption/v%20d/csv");
    }
}
