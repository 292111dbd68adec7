//! Overview: the first screen. May I promote? What holds it up, until when, and what limits it?
//!
//! Two parts of it are fetched anew by themselves where there is JavaScript: what stands now when
//! something happens, the plots once a minute.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::forms::Done;
use super::frame::Frame;
use super::matrix::{Answer, Known, Matrix, tally};
use super::parts::{Mark, OrderLine, RateLine, rate_lines};
use super::plot::{Plot, Series, Unit, plot};
use super::words::{Clock, When, count, size};
use super::{Screen, Viewer, html};
use crate::api::{
    BacklogReport, ImageRow, ImagesReport, OrdersReport, PairState, PeerRow, ReadyReport, Request,
    Require, StatusReport, TrendsReport,
};
use crate::budget;
use crate::http::body::Asked;
use crate::http::problem::Problem;
use crate::http::site::Shared;

/// While something is on its way, what stands now is fetched this often, in milliseconds.
const POLL_BUSY_MS: u32 = 2_000;
/// And this often while nothing is.
const POLL_IDLE_MS: u32 = 20_000;

/// What of the screen.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    part: Option<Part>,
    done: Option<Done>,
    #[serde(default)]
    page: usize,
}

/// A part that is fetched by itself.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Live,
    Trends,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    live: Live,
    trends: Vec<Plot>,
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "live.html")]
struct LivePart {
    frame: Frame,
    live: Live,
}

#[derive(Template)]
#[template(path = "trends.html")]
struct TrendsPart {
    trends: Vec<Plot>,
}

/// What stands now.
struct Live {
    answer: Answer,
    headline: String,
    rest: String,
    matrix: Matrix,
    peers_up: String,
    peers_mark: Mark,
    peers_detail: String,
    backlog: String,
    backlog_detail: String,
    backlog_finish: Option<When>,
    rates: Vec<RateLine>,
    orders: Vec<OrderLine>,
    /// For the form that pauses.
    peer_names: Vec<String>,
    poll_ms: u32,
    page: usize,
    pages: usize,
    images: usize,
}

/// The screen, or a part of it.
pub(crate) async fn show(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Asked(wanted): Asked<Wanted>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, "Overview", "/");
    let screen = match wanted.part {
        Some(Part::Live) => {
            let live = live(&site, &frame.clock, wanted.page).await?;
            html(StatusCode::OK, &LivePart { frame, live })
        }
        Some(Part::Trends) => {
            let trends = trends(&site, &frame.clock).await?;
            html(StatusCode::OK, &TrendsPart { trends })
        }
        None => {
            let live = live(&site, &frame.clock, wanted.page).await?;
            let trends = trends(&site, &frame.clock).await?;
            html(StatusCode::OK, &Overview { frame, live, trends, done: wanted.done })
        }
    };
    Ok(screen)
}

/// Whether an image is held by those who must hold it, under what is configured.
pub(crate) async fn ready(
    site: &Shared,
    image: &ImageRow,
) -> Result<(Option<ReadyReport>, bool), Problem> {
    if image.generation.is_none() {
        return Ok((None, false));
    }
    let name = format!("{}/{}", image.store, image.name);
    let ask = |require| Request::Ready { image: name.clone(), require };
    let all: ReadyReport = match site.told(ask(Require::All)).await {
        Ok(all) => all,
        // It went while we asked.
        Err(Problem { error, .. }) if error.code == "IMAGE_UNKNOWN" => return Ok((None, false)),
        Err(problem) => return Err(problem),
    };
    let required = site.core.live().promote.require.clone();
    let enough = match required {
        Require::All => all.ready,
        other => match site.told::<ReadyReport>(ask(other)).await {
            Ok(enough) => enough.ready,
            // Somebody is required who isn't a member of this store.
            Err(_) => false,
        },
    };
    // About what is here: a newer one that others hold is not what would be promoted.
    let here = image.generation == Some(all.generation);
    Ok((Some(all), enough && here))
}

/// Those that are behind first, if there is more than one screen of them.
fn order(images: &mut [ImageRow]) {
    if images.len() > budget::PAGE_ROWS_MAX {
        let synced = |image: &ImageRow| image.peers.iter().all(|p| p.state == PairState::InSync);
        images.sort_by_key(synced);
    }
}

async fn live(site: &Shared, clock: &Clock, page: usize) -> Result<Live, Problem> {
    let status: StatusReport = site.told(Request::Status {}).await?;
    let mut images: ImagesReport = site.told(Request::ImageLs { store: None }).await?;
    let backlog: BacklogReport = site.told(Request::Backlog { peer: None }).await?;
    let orders: OrdersReport = site.told(Request::Orders {}).await?;
    order(&mut images.images);
    let all = images.images.len();
    let pages = all.div_ceil(budget::PAGE_ROWS_MAX).max(1);
    let page = page.min(pages - 1);
    let from = page * budget::PAGE_ROWS_MAX;
    let shown = &images.images[from..all.min(from + budget::PAGE_ROWS_MAX)];
    let (mut known, mut enough) = (Vec::new(), Vec::new());
    for image in shown {
        let (report, is) = ready(site, image).await?;
        known.push(report);
        enough.push(is);
    }
    let matrix = Known {
        images: shown,
        ready: &known,
        enough: &enough,
        backlog: &backlog.items,
        peers: &status.peers,
        clock,
    }
    .matrix();
    let mut answers = std::collections::BTreeMap::new();
    for row in &matrix.rows {
        *answers.entry(row.verdict.answer.class()).or_default() += 1;
    }
    let (answer, headline, rest) = tally(&answers);
    let moving = |mark| matches!(mark, Mark::Moving);
    let busy = matrix.rows.iter().flat_map(|row| &row.cells).any(|cell| moving(cell.mark))
        || matrix.rows.iter().any(|row| row.verdict.answer == Answer::NotYet);
    let (peers_mark, peers_up, peers_detail) = peers_tile(&status.peers, clock);
    let bytes = backlog.items.iter().fold(0_u64, |sum, item| sum.saturating_add(item.bytes));
    let finish = status.peers.iter().filter_map(|peer| peer.finish.as_deref()).max();
    Ok(Live {
        answer,
        headline,
        rest,
        matrix,
        peers_up,
        peers_mark,
        peers_detail,
        backlog: size(bytes),
        backlog_detail: match backlog.items.len() {
            0 => "nothing waits".to_owned(),
            items => format!("{} to bring", count(items, "image")),
        },
        backlog_finish: clock.when_some(finish),
        rates: rate_lines(&status.peers, clock),
        orders: orders.orders.iter().map(|order| OrderLine::new(order, clock)).collect(),
        peer_names: status.peers.into_iter().map(|peer| peer.name).collect(),
        poll_ms: if busy { POLL_BUSY_MS } else { POLL_IDLE_MS },
        page,
        pages,
        images: all,
    })
}

fn peers_tile(peers: &[PeerRow], clock: &Clock) -> (Mark, String, String) {
    let away: Vec<&PeerRow> = peers.iter().filter(|peer| !peer.connected).collect();
    let up = format!("{} of {}", peers.len() - away.len(), peers.len());
    let detail = match away.as_slice() {
        [] if peers.is_empty() => "no peers yet".to_owned(),
        [] => "all connected".to_owned(),
        [one] => {
            let since = clock.when_some(one.since.as_deref());
            let since = since.map_or(String::new(), |since| format!(" since {}", since.text));
            format!("{} offline{since}", one.name)
        }
        [one, more @ ..] => format!("{} and {} more offline", one.name, more.len()),
    };
    let mark = if away.is_empty() { Mark::Good } else { Mark::Offline };
    (mark, up, detail)
}

async fn trends(site: &Shared, clock: &Clock) -> Result<Vec<Plot>, Problem> {
    let report: TrendsReport = site.told(Request::Trends { peer: None }).await?;
    let mut plots = vec![rate_plot("Sent, against the limit", &report, clock)];
    let times: Vec<&str> = report.backlog.iter().map(|point| point.time.as_str()).collect();
    let values = report.backlog.iter().map(|point| Some(point.bytes)).collect();
    let series = [Series { name: "backlog", class: "backlog", filled: true, values }];
    plots.push(plot("Backlog", Unit::Size, &times, &series, clock));
    Ok(plots)
}

/// Rates of a report as a plot.
pub(crate) fn rate_plot(title: &str, report: &TrendsReport, clock: &Clock) -> Plot {
    let times: Vec<&str> = report.rates.iter().map(|point| point.time.as_str()).collect();
    let of = |value: fn(&crate::api::RatePoint) -> Option<u64>| {
        report.rates.iter().map(value).collect::<Vec<_>>()
    };
    let series = [
        Series {
            name: "sent",
            class: "sent",
            filled: true,
            values: of(|point| Some(point.sent_bits_per_second)),
        },
        Series {
            name: "limit",
            class: "limit",
            filled: false,
            values: of(|point| point.limit_bits_per_second),
        },
    ];
    plot(title, Unit::Rate, &times, &series, clock)
}
