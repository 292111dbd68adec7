//! Image: one image at all nodes, its generations, and where the bytes of each came from.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::forms::Done;
use super::frame::Frame;
use super::matrix::{Known, Row};
use super::words::{Clock, When, count, size};
use super::{Failed, Screen, Viewer, html, overview};
use crate::api::{
    BacklogReport, GenerationRow, HistoryReport, ImagesReport, PlanReport, Request, StatusReport,
};
use crate::budget;
use crate::http::body::{Asked, Named};
use crate::http::problem::Problem;
use crate::http::reads::full;
use crate::http::site::Shared;

/// What of the screen.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    done: Option<Done>,
    /// What would travel to this peer is asked, too.
    plan: Option<String>,
}

#[derive(Template)]
#[template(path = "image.html")]
struct Image {
    frame: Frame,
    done: Option<Done>,
    full: String,
    root: String,
    row: Row,
    generations: Vec<Generation>,
    more: bool,
    plan: Option<Plan>,
    /// Whom a plan can be asked for.
    peers: Vec<String>,
}

/// One generation.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) current: bool,
    pub(super) recorded: When,
    pub(super) author: String,
    pub(super) size: String,
    pub(super) changed: String,
    /// What travelled to bring it here; empty: it was recorded here.
    pub(super) wire: String,
    pub(super) took: String,
    pub(super) discover: String,
    pub(super) kept: bool,
    pub(super) holders: String,
    pub(super) promoted: Option<When>,
    pub(super) promoted_by: String,
    pub(super) bar: Bar,
}

/// Where bytes came from, as a bar and in words.
pub(super) struct Bar {
    pub(super) pieces: Vec<Piece>,
    pub(super) said: String,
}

/// One piece of a bar, in thousandths of it.
pub(super) struct Piece {
    pub(super) class: &'static str,
    pub(super) from: u64,
    pub(super) width: u64,
}

/// What would travel.
struct Plan {
    peer: String,
    base: String,
    wire: String,
    finish: Option<When>,
    bar: Bar,
}

/// The screen.
pub(crate) async fn show(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Named(name): Named<(String, String)>,
    Asked(wanted): Asked<Wanted>,
) -> Screen {
    let full = full(&name);
    let frame = Frame::new(&site, &viewer, &full, "/");
    let images: ImagesReport = site.told(Request::ImageShow { image: full.clone() }).await?;
    let gone = || Failed::from(Problem::new("IMAGE_UNKNOWN", format!("no image {full}")));
    let image = images.images.first().ok_or_else(gone)?;
    let status: StatusReport = site.told(Request::Status {}).await?;
    let backlog: BacklogReport = site.told(Request::Backlog { peer: None }).await?;
    let (report, enough) = overview::ready(&site, image).await?;
    let known = Known {
        images: std::slice::from_ref(image),
        ready: &[report],
        enough: &[enough],
        backlog: &backlog.items,
        peers: &status.peers,
        clock: &frame.clock,
    };
    let row = known.matrix().rows.into_iter().next().ok_or_else(gone)?;
    let generations = history(&site, &full, image.generation, &frame.clock).await?;
    let plan = match wanted.plan {
        Some(peer) => Some(plan(&site, &full, peer, &frame.clock).await?),
        None => None,
    };
    let screen = Image {
        done: wanted.done,
        root: image.root.clone().unwrap_or_default(),
        row,
        more: generations.len() > budget::PAGE_ROWS_MAX,
        generations: generations.into_iter().take(budget::PAGE_ROWS_MAX).collect(),
        plan,
        peers: image.peers.iter().map(|peer| peer.peer.clone()).collect(),
        full,
        frame,
    };
    Ok(html(StatusCode::OK, &screen))
}

/// Newest first.
async fn history(
    site: &Shared,
    full: &str,
    current: Option<u64>,
    clock: &Clock,
) -> Result<Vec<Generation>, Problem> {
    let history: Result<HistoryReport, Problem> =
        site.told(Request::ImageHistory { image: full.to_owned() }).await;
    let rows = match history {
        Ok(history) => history.generations,
        // A file that no generation is known of has no history.
        Err(Problem { error, .. }) if error.code == "IMAGE_UNKNOWN" => Vec::new(),
        Err(problem) => return Err(problem),
    };
    let is_current = |row: &GenerationRow| current == Some(row.generation);
    Ok(rows.iter().map(|row| generation(row, is_current(row), clock)).collect())
}

pub(super) fn generation(row: &GenerationRow, current: bool, clock: &Clock) -> Generation {
    let promoted = row.promoted.last();
    Generation {
        number: row.generation,
        current,
        recorded: clock.when(&row.recorded),
        author: row.author.clone(),
        size: size(row.size_bytes),
        changed: size(row.dirty_bytes),
        wire: if row.wire_bytes == 0 { String::new() } else { size(row.wire_bytes) },
        took: format!("{:.1} s", row.seconds),
        discover: row.discover.clone(),
        kept: row.kept,
        holders: match row.peers.len() {
            0 => "\u{2013}".to_owned(),
            1..=2 => row.peers.join(", "),
            more => count(more, "node"),
        },
        promoted: promoted.map(|promoted| clock.when(&promoted.at)),
        promoted_by: promoted.map_or(String::new(), |promoted| promoted.by.clone()),
        bar: match row.came {
            Some(came) => bar(&[
                ("kept", "keep", came.keep_bytes),
                ("found", "found", came.found_bytes),
                ("zero", "zero", came.zero_bytes),
                ("sent", "sent", came.sent_bytes),
            ]),
            None => bar(&[
                ("unchanged", "keep", row.size_bytes.saturating_sub(row.dirty_bytes)),
                ("changed", "changed", row.dirty_bytes.min(row.size_bytes)),
            ]),
        },
    }
}

/// A bar of (word, class, bytes). What is there at all is seen, however little it is.
fn bar(parts: &[(&str, &'static str, u64)]) -> Bar {
    let all: u128 = parts.iter().map(|(_, _, bytes)| u128::from(*bytes)).sum();
    let (mut pieces, mut from) = (Vec::new(), 0);
    for (_, class, bytes) in parts.iter().filter(|(_, _, bytes)| *bytes > 0) {
        let share = u128::from(*bytes) * 1000 / all.max(1);
        let width = u64::try_from(share).unwrap_or(1000).max(6);
        pieces.push(Piece { class, from, width });
        from += width;
    }
    // What was made wider takes it from the widest.
    let over = from.saturating_sub(1000);
    if let Some(widest) = (0..pieces.len()).max_by_key(|at| pieces[*at].width) {
        pieces[widest].width = pieces[widest].width.saturating_sub(over);
        for piece in pieces.iter_mut().skip(widest + 1) {
            piece.from = piece.from.saturating_sub(over);
        }
    }
    let shown = parts.iter().filter(|(_, _, bytes)| *bytes > 0);
    let said: Vec<String> =
        shown.map(|(word, _, bytes)| format!("{word} {}", size(*bytes))).collect();
    let said = if said.is_empty() { "nothing".to_owned() } else { said.join(", ") };
    Bar { pieces, said }
}

async fn plan(site: &Shared, full: &str, peer: String, clock: &Clock) -> Result<Plan, Problem> {
    let (at, by) = (None, None);
    let ask = Request::Plan { image: full.to_owned(), peer: Some(peer.clone()), at, by };
    let report: PlanReport = site.told(ask).await?;
    let found = report.found_bytes.unwrap_or(0);
    Ok(Plan {
        peer: report.peer.unwrap_or(peer),
        base: report.base.map_or("from nothing".to_owned(), |base| format!("upon @{base}")),
        wire: size(report.wire_bytes_estimate),
        finish: clock.when_some(report.finish.as_deref()),
        bar: bar(&[
            ("kept", "keep", report.keep_bytes),
            ("found there", "found", found),
            ("zero", "zero", report.zero_bytes),
            ("to send, at most", "sent", report.send_bytes),
        ]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_whole_and_shows_little_things() {
        let drawn = bar(&[("kept", "keep", 1 << 40), ("found", "found", 1), ("sent", "sent", 1)]);
        assert_eq!(drawn.said, "kept 1 TiB, found 1 B, sent 1 B");
        let ends: Vec<u64> = drawn.pieces.iter().map(|p| p.from + p.width).collect();
        assert_eq!(drawn.pieces[1].from, ends[0]);
        assert_eq!((drawn.pieces[1].width, ends[2]), (6, 1000));
        assert!(bar(&[("kept", "keep", 0)]).pieces.is_empty());
        let even = bar(&[("a", "keep", 5), ("b", "found", 5)]);
        assert_eq!((even.pieces[1].from, even.pieces[1].width), (500, 500));
    }
}
