//! History: the last generations of all images, and one image's course over its generations.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, HeaderValue};

use super::frame::Frame;
use super::image::{Generation, generation};
use super::plot::{Plot, Series, Unit, plot};
use super::words::{Clock, count, duration, in_path, size};
use super::{Failed, Screen, Viewer, html};
use crate::api::{GenerationRow, HistoryReport, Request};
use crate::budget;
use crate::core::blocking;
use crate::http::body::{Asked, Named};
use crate::http::problem::Problem;
use crate::http::reads::{Nothing, csv, full};
use crate::http::site::Shared;
use crate::monitoring::recent::{Recorded, recent};

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
        trends: plots(&report.generations, &frame.clock),
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
    let mut response = csv(&report);
    let file = HeaderValue::from_static("attachment; filename=\"history.csv\"");
    response.headers_mut().insert(CONTENT_DISPOSITION, file);
    Ok(response)
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
fn plots(rows: &[GenerationRow], clock: &Clock) -> Vec<Plot> {
    let rows: Vec<&GenerationRow> = rows.iter().rev().collect();
    let times: Vec<&str> = rows.iter().map(|row| row.recorded.as_str()).collect();
    let series = |name, class, filled, of: fn(&GenerationRow) -> u64| Series {
        name,
        class,
        filled,
        values: rows.iter().map(|row| Some(of(row))).collect(),
    };
    let deltas = [
        series("changed", "backlog", true, |row| row.dirty_bytes),
        series("on the wire", "sent", false, |row| row.wire_bytes),
    ];
    let sizes = [series("size", "sent", true, |row| row.size_bytes)];
    vec![
        plot("What changed with each generation", Unit::Size, &times, &deltas, clock),
        plot("Size of the image", Unit::Size, &times, &sizes, clock),
    ]
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
        let drawn = plots(&rows, &clock);
        assert_eq!((drawn.len(), drawn[0].lines.len()), (2, 2));
        assert_eq!(drawn[0].top, "1 GiB");
        assert_eq!(
            drawn[0].from.as_ref().map(|from| from.full.as_str()),
            Some("Sun 2026-11-01 00:00:00")
        );
        assert!(drawn[0].said.contains("on the wire 512 KiB"), "{}", drawn[0].said);
        assert!(plots(&[], &clock)[0].empty);
        let of = Recorded { store: "v d".into(), image: "a#1.raw".into(), row: row(2, 1, 0) };
        let shown = line(&of, &clock);
        assert_eq!(
            (shown.image.as_str(), shown.href.as_str()),
            ("v d/a#1.raw", "/history/v%20d/a%231.raw")
        );
    }
}
