//! History: the last generations of all images, and one image's course over its generations.

use askama::Template;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::frame::Frame;
use super::image::{Generation, generation};
use super::plot::{Plot, Series, Unit, bars};
use super::words::{Clock, count, duration, in_path, size};
use super::{Failed, Screen, Viewer, as_file, html};
use crate::api::{GenerationRow, HistoryReport, Request, history_csv};
use crate::budget;
use crate::core::blocking;
use crate::http::body::{Asked, Named};
use crate::http::problem::Problem;
use crate::http::reads::{Nothing, full};
use crate::http::site::Shared;
use crate::monitoring::recent::{Recorded, recent};

/// Generations that are drawn: more would be bars that nobody sees.
const BARS_MAX: usize = 120;

#[derive(Template)]
#[template(path = "history.html")]
struct All {
    frame: Frame,
    lines: Vec<Line>,
    said: String,
    most: usize,
}

#[derive(Template)]
#[template(path = "history-image.html")]
struct One {
    frame: Frame,
    store: String,
    name: String,
    href: String,
    csv: String,
    said: String,
    trends: Vec<Plot>,
    lines: Vec<Line>,
}

/// A generation of an image.
struct Line {
    image: String,
    href: String,
    one: Generation,
}

/// The last generations of all images.
pub(crate) async fn all(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    _: Asked<Nothing>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, "History", "/history");
    let (core, most) = (site.core.clone(), budget::PAGE_ROWS_MAX);
    let read = blocking("a history", move || recent(&core, most)).await;
    let read = read.map_err(|error| Problem::from(&error))?;
    let lines: Vec<Line> = read.iter().map(|one| line(one, &frame.clock)).collect();
    let said = sum(read.iter().map(|one| &one.row));
    Ok(html(StatusCode::OK, &All { lines, said, most, frame }))
}

/// One image's.
pub(crate) async fn one(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
) -> Screen {
    let image = full(&name);
    let frame = Frame::new(&site, &viewer, &format!("History of {image}"), "/history");
    let report: HistoryReport = site.told(Request::ImageHistory { image }).await?;
    let shown = report.generations.iter().take(budget::PAGE_ROWS_MAX);
    let recorded = |row: &GenerationRow| Recorded {
        store: name.0.clone(),
        image: name.1.clone(),
        row: row.clone(),
    };
    let path = format!("{}/{}", in_path(&name.0), in_path(&name.1));
    let screen = One {
        href: format!("/images/{path}"),
        csv: format!("/history/{path}/csv"),
        said: sum(report.generations.iter()),
        trends: plots(&report.generations),
        lines: shown.map(|row| line(&recorded(row), &frame.clock)).collect(),
        store: name.0.clone(),
        name: name.1.clone(),
        frame,
    };
    Ok(html(StatusCode::OK, &screen))
}

/// The same for spreadsheets, all of it.
pub(crate) async fn file(
    State(site): State<Shared>,
    Named(name): Named<(String, String)>,
    _: Asked<Nothing>,
) -> Screen {
    let report: HistoryReport =
        site.told(Request::ImageHistory { image: full(&name) }).await.map_err(Failed::from)?;
    Ok(as_file(Body::from(history_csv(&report)), "attachment; filename=\"history.csv\""))
}

fn line(of: &Recorded, clock: &Clock) -> Line {
    Line {
        image: format!("{}/{}", of.store, of.image),
        href: format!("/history/{}/{}", in_path(&of.store), in_path(&of.image)),
        one: generation(&of.row, false, clock),
    }
}

/// What all of it came to, in words.
fn sum<'a>(rows: impl Iterator<Item = &'a GenerationRow>) -> String {
    let (mut number, mut changed, mut wire, mut seconds) = (0_usize, 0_u64, 0_u64, 0.0);
    for row in rows {
        number += 1;
        changed = changed.saturating_add(row.dirty_bytes);
        wire = wire.saturating_add(row.wire_bytes);
        seconds += row.seconds;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
    let whole = seconds.round() as u64;
    let came =
        if wire == 0 { String::new() } else { format!(", {} came over the wire", size(wire)) };
    let (number, changed, took) = (count(number, "generation"), size(changed), duration(whole));
    format!("{number}: {changed} changed{came}, {took} of work")
}

/// What changed and what travelled with each generation, and the size of the image; oldest first.
fn plots(rows: &[GenerationRow]) -> Vec<Plot> {
    let mut rows: Vec<&GenerationRow> = rows.iter().take(BARS_MAX).rev().collect();
    let labels = |rows: &[&GenerationRow]| -> Vec<String> {
        rows.iter().map(|row| format!("@{}", row.generation)).collect()
    };
    let series = |rows: &[&GenerationRow], name, class, of: fn(&GenerationRow) -> u64| Series {
        name,
        class,
        filled: true,
        values: rows.iter().map(|row| Some(of(row))).collect(),
    };
    let whole = series(&rows, "size", "backlog", |row| row.size_bytes);
    let sizes = bars("Size of the image", Unit::Size, &labels(&rows), &[whole]);
    // All of the first one is new: beside it nothing else would be seen.
    let first = rows.first().filter(|first| first.generation == 1 && rows.len() > 2);
    let note = first.map_or(String::new(), |first| {
        format!("without @1, of which all was new: {}", size(first.dirty_bytes))
    });
    if !note.is_empty() {
        rows.remove(0);
    }
    let changed = series(&rows, "changed", "backlog", |row| row.dirty_bytes);
    let wire = series(&rows, "on the wire", "sent", |row| row.wire_bytes);
    // Where an image is made nothing of it comes over the wire.
    let came = wire.values.iter().flatten().any(|bytes| *bytes > 0);
    let deltas: Vec<Series> = [changed].into_iter().chain(came.then_some(wire)).collect();
    let title = "What changed with each generation";
    vec![Plot { note, ..bars(title, Unit::Size, &labels(&rows), &deltas) }, sizes]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(generation: u64, changed: u64, wire: u64) -> GenerationRow {
        serde_json::from_value(serde_json::json!({
            "generation": generation, "root": "00", "size_bytes": 1 << 30, "author": "hub",
            "recorded": format!("2026-11-0{generation}T00:00:00.000Z"), "discover": "scan",
            "bytes_read": 0, "dirty_bytes": changed, "wire_bytes": wire, "seconds": 1.5, "peers": []
        }))
        .expect("a row")
    }

    #[test]
    fn it_is_summed_up_and_drawn_from_the_oldest_on() {
        let rows = [row(3, 1 << 20, 1 << 19), row(2, 3 << 20, 0), row(1, 1 << 30, 0)];
        assert_eq!(sum(rows[1..2].iter()), "1 generation: 3 MiB changed, 2 s of work");
        let said = sum(rows.iter());
        assert_eq!(said, "3 generations: 1 GiB changed, 512 KiB came over the wire, 5 s of work");
        let clock = Clock::at("UTC", 1_793_617_200);
        let drawn = plots(&rows);
        assert_eq!((drawn.len(), drawn[0].lines.len()), (2, 2));
        assert_eq!((drawn[0].top.as_str(), drawn[1].top.as_str()), ("3 MiB", "1 GiB"));
        assert_eq!(drawn[0].note, "without @1, of which all was new: 1 GiB");
        assert_eq!(drawn[0].ends, Some(("@2".to_owned(), "@3".to_owned())));
        assert!(
            drawn[0].said.contains("@3: changed 1 MiB, on the wire 512 KiB"),
            "{}",
            drawn[0].said
        );
        // Two are shown both, and what never came over the wire is not in the legend.
        let two = plots(&rows[1..]);
        assert_eq!((two[0].top.as_str(), two[0].lines.len()), ("1 GiB", 1));
        assert!(plots(&[])[0].empty);
        let of = Recorded { store: "v d".into(), image: "a#1.raw".into(), row: row(2, 1, 0) };
        let shown = line(&of, &clock);
        assert_eq!(
            (shown.image.as_str(), shown.href.as_str()),
            ("v d/a#1.raw", "/history/v%20d/a%231.raw")
        );
    }
}
