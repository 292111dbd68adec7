//! Schedules: what each says now and next by its own clock, the week as a grid that can be painted, and
//! what is planned for tonight.
//!
//! The grid is a form: each hour holds the number of a rate, the rates stand beside it. That works
//! without JavaScript; with it one paints by dragging or with the keys. What a grid can't say (dates,
//! windows, minutes) is shown beside it and is not touched by the form.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::forms::{Done, Form};
use super::frame::Frame;
use super::words::{Clock, When, count, in_path, size};
use super::{Failed, Screen, Viewer, html, see};
use crate::api::{
    BacklogItem, BacklogReport, PeerRow, RateText, Request, ScheduleEdit, ScheduleRow,
    ScheduleRule, ScheduleState, SchedulesReport, StatusReport, WaitReason,
};
use crate::http::body::{Asked, Named};
use crate::http::problem::Problem;
use crate::http::settings::Scope;
use crate::http::site::{Asker, Shared};

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const HOURS: usize = 24;
/// Rates that a grid on the page can hold: each is a digit.
const RATES_MAX: usize = 9;
/// Hours that are looked ahead for what is planned.
const PLANNED_HOURS: usize = 24;

/// What of the screen.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    done: Option<Done>,
}

#[derive(Template)]
#[template(path = "schedules.html")]
struct All {
    frame: Frame,
    schedules: Vec<Line>,
    peers: Vec<PeerLine>,
}

#[derive(Template)]
#[template(path = "schedule.html")]
struct One {
    frame: Frame,
    done: Option<Done>,
    line: Line,
    /// Which configuration it is; empty: nothing can be changed.
    tag: String,
    may_change: bool,
    /// Why there is no form; empty: there is, or nobody would ask.
    barred: &'static str,
    default: String,
    palette: Vec<Rate>,
    days: Vec<Day>,
    beside: Vec<RuleLine>,
    /// A week of quarter hours lies beneath.
    dfsr: bool,
    by: String,
    peers: Vec<PeerLine>,
    planned: Vec<Planned>,
}

/// A schedule in one line.
struct Line {
    name: String,
    href: String,
    zone: String,
    /// What its clock shows.
    there: String,
    now: String,
    paused: bool,
    why: String,
    until: Option<When>,
    next: String,
    used_by: String,
}

/// A peer, by the clock that it is sent to by.
struct PeerLine {
    name: String,
    href: String,
    schedule: String,
    zone: String,
    there: String,
    now: String,
    paused: bool,
    until: Option<When>,
    lacks: String,
    finish: Option<When>,
}

/// A rate that hours are painted with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rate {
    number: usize,
    text: String,
}

struct Day {
    name: &'static str,
    short: &'static str,
    cells: Vec<Cell>,
}

/// An hour of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    field: String,
    /// Number of its rate; empty: what lies beneath, which is no single rate.
    value: String,
    label: String,
    rate: String,
    /// The clock stands in it.
    here: bool,
    /// Something is planned to be sent in it.
    planned: bool,
}

/// A rule that lies over the grid.
struct RuleLine {
    number: usize,
    when: String,
    rate: String,
    polite: bool,
    /// It is the one in force.
    here: bool,
}

/// Something that will be sent.
struct Planned {
    image: String,
    href: String,
    peer: String,
    bytes: String,
    reason: &'static str,
    finish: Option<When>,
}

/// All schedules, and all peers by their own clocks.
pub(crate) async fn all(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Asked(_): Asked<Wanted>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, "Schedules", "/schedules");
    let report: SchedulesReport = site.told(Request::Schedules { name: None }).await?;
    let status: StatusReport = site.told(Request::Status {}).await?;
    let schedules = report.schedules.iter().map(|row| line(row, &frame.clock)).collect();
    let peers = peers(&status.peers, &report.schedules, &frame.clock, |_| true);
    Ok(html(StatusCode::OK, &All { schedules, peers, frame }))
}

/// One schedule.
pub(crate) async fn one(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Named(name): Named<String>,
    headers: HeaderMap,
    Asked(wanted): Asked<Wanted>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, &name, "/schedules");
    let report: SchedulesReport =
        site.told(Request::Schedules { name: Some(name.clone()) }).await?;
    let gone = || Failed::from(Problem::new("SCHEDULE_UNKNOWN", format!("no schedule {name}")));
    let row = report.schedules.first().ok_or_else(gone)?;
    let status: StatusReport = site.told(Request::Status {}).await?;
    let backlog: BacklogReport = site.told(Request::Backlog { peer: None }).await?;
    let clock = frame.clock.in_zone(&row.zone);
    let goes = |peer: &PeerRow| goes_by(row, peer);
    let waits: Vec<&BacklogItem> = backlog
        .items
        .iter()
        .filter(|item| {
            let store = row.used_by.contains(&format!("stores.{}", item.store));
            store || status.peers.iter().any(|peer| peer.name == item.peer && goes(peer))
        })
        .collect();
    let palette = palette(row);
    let may = site.check_who(&headers, Scope::Admin).is_ok();
    let barred = match () {
        () if palette.len() > RATES_MAX => "More rates than this grid can show: use the API.",
        () if !may => "",
        () if report.tag.is_none() => "This node was not started from a file.",
        () if !report.writable => "The service can't write its configuration file.",
        () => "",
    };
    let screen = One {
        done: wanted.done,
        line: line(row, &frame.clock),
        tag: report.tag.clone().unwrap_or_default(),
        may_change: may && barred.is_empty(),
        barred,
        default: row.default.0.clone(),
        days: days(row, &palette, &hours_planned(row, &waits, &clock), clock.week_hour()),
        palette: filled(palette, may && barred.is_empty()),
        beside: beside(row),
        dfsr: row.dfsr.is_some(),
        by: row.by.clone().unwrap_or_default(),
        peers: peers(&status.peers, std::slice::from_ref(row), &frame.clock, goes),
        planned: waits.into_iter().map(|item| planned(item, &clock)).collect(),
        frame,
    };
    Ok(html(StatusCode::OK, &screen))
}

/// What the form says becomes a change of the file.
pub(crate) async fn paint(
    State(site): State<Shared>,
    Extension(asker): Extension<Asker>,
    Named(name): Named<String>,
    Form(mut fields): Form<BTreeMap<String, String>>,
) -> Screen {
    let tag = fields.remove("tag").filter(|tag| !tag.is_empty());
    let edit = edit(&fields)?;
    let request = Request::ScheduleSet { name: name.clone(), tag, edit };
    let _now: SchedulesReport = site.answer(&asker, request).await?;
    Ok(see(&format!("/schedules/{}?done={}", in_path(&name), Done::Scheduled.word())))
}

/// The change that a form asks for.
fn edit(fields: &BTreeMap<String, String>) -> Result<ScheduleEdit, Problem> {
    let bad = |what: String| Problem::bad(what);
    let known = |name: &str| {
        let parts = name.strip_prefix('c').and_then(|rest| rest.split_at_checked(1));
        let cell = parts.and_then(|(day, hour)| {
            Some((day.parse::<usize>().ok()?, hour.parse::<usize>().ok()?))
        });
        let rate = name.strip_prefix('r').and_then(|number| number.parse::<usize>().ok());
        cell.is_some_and(|(day, hour)| field(day, hour) == name && day < DAYS.len() && hour < HOURS)
            || rate.is_some_and(|number| (1..=RATES_MAX).contains(&number))
            || name == "default"
    };
    if let Some(name) = fields.keys().find(|name| !known(name)) {
        return Err(bad(format!("the form has a field {name:?}")));
    }
    let rate = |number: &str, at: &str| -> Result<RateText, Problem> {
        let text = fields.get(&format!("r{number}")).map(|text| text.trim());
        let text = text.filter(|text| !text.is_empty());
        text.map(|text| RateText(text.to_owned()))
            .ok_or_else(|| bad(format!("{at} has the rate {number:?}, which isn't there")))
    };
    let mut grid = Vec::new();
    for (day, name) in DAYS.iter().enumerate() {
        let cell = |hour: usize| match fields.get(&field(day, hour)).map(|text| text.trim()) {
            None => Err(bad(format!("{name} {hour:02}:00 is missing"))),
            Some("") => Ok(None),
            Some(number) => rate(number, &format!("{name} {hour:02}:00")).map(Some),
        };
        grid.push((0..HOURS).map(cell).collect::<Result<Vec<_>, _>>()?);
    }
    let default = fields.get("default").map(|text| RateText(text.trim().to_owned()));
    Ok(ScheduleEdit { default, grid: Some(grid), rules: None })
}

fn field(day: usize, hour: usize) -> String {
    format!("c{day}{hour:02}")
}

fn line(row: &ScheduleRow, clock: &Clock) -> Line {
    let there = clock.in_zone(&row.zone);
    let why = |state: &ScheduleState| match state.rule {
        Some(number) => format!("rule {number}"),
        None => state.source.clone(),
    };
    Line {
        name: row.name.clone(),
        href: format!("/schedules/{}", in_path(&row.name)),
        zone: row.zone.clone(),
        there: there.weekday_time(),
        now: row.now.rate.0.clone(),
        paused: row.now.rate_limit_bits_per_second == Some(0),
        why: why(&row.now),
        until: there.when_some(row.until.as_deref()),
        next: row.next.as_ref().map_or(String::new(), |next| next.rate.0.clone()),
        used_by: users(&row.used_by),
    }
}

/// Who goes by a schedule: by name where they are few, else how many.
fn users(of: &[String]) -> String {
    let mut said: Vec<String> = Vec::new();
    for (kind, one) in [("peers.", "peer"), ("stores.", "store")] {
        let mut names: Vec<&str> = of.iter().filter_map(|user| user.strip_prefix(kind)).collect();
        names.sort_unstable();
        match names.as_slice() {
            [] => {}
            [name] => said.push(format!("{one} {name}")),
            few @ ([_, _] | [_, _, _]) => said.push(format!("{one}s {}", few.join(", "))),
            many => said.push(count(many.len(), one)),
        }
    }
    if of.iter().any(|user| user == "limits") {
        said.push("this node".to_owned());
    }
    if said.is_empty() { "nobody".to_owned() } else { said.join(", ") }
}

/// Whether a peer is sent to by a schedule: its own, or the node's.
fn goes_by(row: &ScheduleRow, peer: &PeerRow) -> bool {
    let named = |name: &str| row.used_by.iter().any(|user| user == name);
    named(&format!("peers.{}", peer.name)) || named("limits")
}

/// Peers, each by the clock of a schedule that it goes by.
fn peers(
    peers: &[PeerRow],
    schedules: &[ScheduleRow],
    clock: &Clock,
    wanted: impl Fn(&PeerRow) -> bool,
) -> Vec<PeerLine> {
    let line = |peer: &PeerRow| {
        let own = format!("peers.{}", peer.name);
        let row = schedules.iter().find(|row| row.used_by.contains(&own));
        let row = row.or_else(|| schedules.iter().find(|row| goes_by(row, peer)));
        let there = row.map_or_else(|| clock.clone(), |row| clock.in_zone(&row.zone));
        PeerLine {
            name: peer.name.clone(),
            href: format!("/peers/{}", in_path(&peer.name)),
            schedule: row.map_or("\u{2013}".to_owned(), |row| row.name.clone()),
            zone: there.zone().to_owned(),
            there: there.weekday_time(),
            now: super::words::rate(peer.rate_limit_bits_per_second),
            paused: peer.rate_limit_bits_per_second == Some(0),
            // An edge at which nothing changes is none to speak of.
            until: there.when_some(peer.limit_until.as_deref().filter(|_| {
                peer.next_rate_limit_bits_per_second != peer.rate_limit_bits_per_second
            })),
            lacks: match peer.backlog_images {
                0 => "nothing".to_owned(),
                1 => format!("1 image, {}", size(peer.backlog_bytes)),
                more => format!("{more} images, {}", size(peer.backlog_bytes)),
            },
            finish: there.when_some(peer.finish.as_deref()),
        }
    };
    let mut lines: Vec<PeerLine> = peers.iter().filter(|peer| wanted(peer)).map(line).collect();
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    lines
}

/// The rates of a grid, the slowest first.
fn palette(row: &ScheduleRow) -> Vec<String> {
    let mut rates: Vec<&str> = Vec::new();
    let cells = row.grid.iter().flatten().flatten();
    for rate in cells.chain([&row.default]) {
        if !rates.contains(&rate.0.as_str()) {
            rates.push(&rate.0);
        }
    }
    rates.sort_by_key(|rate| speed(rate));
    rates.into_iter().map(str::to_owned).collect()
}

/// Bits per second of a rate as the API writes it: for the order of colours only.
fn speed(text: &str) -> u64 {
    match text {
        "pause" => return 0,
        "unlimited" => return u64::MAX,
        _ => {}
    }
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let scale = match unit {
        "Gbit/s" => 1_000_000_000,
        "Mbit/s" => 1_000_000,
        "kbit/s" => 1_000,
        _ => 1,
    };
    number.parse::<u64>().map_or(0, |number| number.saturating_mul(scale))
}

/// The rates with their numbers, and rooms for more where there can be more.
fn filled(palette: Vec<String>, may_change: bool) -> Vec<Rate> {
    if !may_change {
        return (1..).zip(palette).map(|(number, text)| Rate { number, text }).collect();
    }
    let spare = ["pause", "unlimited"].map(str::to_owned);
    let missing: Vec<String> = spare.into_iter().filter(|rate| !palette.contains(rate)).collect();
    let all = palette.into_iter().chain(missing).chain(std::iter::repeat(String::new()));
    (1..=RATES_MAX).zip(all).map(|(number, text)| Rate { number, text }).collect()
}

fn days(row: &ScheduleRow, palette: &[String], planned: &[usize], here: usize) -> Vec<Day> {
    let cell = |day: usize, hour: usize, rate: &Option<RateText>| {
        let text = rate.as_ref().map_or("several", |rate| &rate.0);
        let number = rate.as_ref().and_then(|rate| palette.iter().position(|one| *one == rate.0));
        let at = day * HOURS + hour;
        Cell {
            field: field(day, hour),
            value: number.map_or(String::new(), |number| (number + 1).to_string()),
            label: format!("{} {hour:02}:00", DAYS[day]),
            rate: text.to_owned(),
            here: at == here,
            planned: planned.contains(&at),
        }
    };
    let rows = row.grid.iter().take(DAYS.len()).enumerate();
    rows.map(|(day, rates)| Day {
        name: DAYS[day],
        short: &DAYS[day][..3],
        cells: rates.iter().enumerate().map(|(hour, rate)| cell(day, hour, rate)).collect(),
    })
    .collect()
}

/// The hours of the week, up to a day ahead, in which something is on its way by the forecast.
fn hours_planned(row: &ScheduleRow, waits: &[&BacklogItem], clock: &Clock) -> Vec<usize> {
    let ends = waits.iter().filter_map(|item| clock.hours_until(item.eta.as_deref()?));
    let Some(last) = ends.max() else { return Vec::new() };
    let from = clock.week_hour();
    let rate = |at: usize| row.grid.get(at / HOURS).and_then(|day| day.get(at % HOURS));
    let open = |at: &usize| {
        rate(*at).is_some_and(|rate| rate.as_ref().is_none_or(|rate| rate.0 != "pause"))
    };
    let hours =
        (0..=last.min(PLANNED_HOURS - 1)).map(|ahead| (from + ahead) % (DAYS.len() * HOURS));
    hours.filter(open).collect()
}

fn beside(row: &ScheduleRow) -> Vec<RuleLine> {
    let first = usize::try_from(row.grid_rules).unwrap_or(usize::MAX);
    let rules = (1..).zip(&row.rules).skip(first);
    rules
        .map(|(number, rule): (usize, &ScheduleRule)| RuleLine {
            number,
            when: when(rule),
            rate: rule.rate.0.clone(),
            polite: rule.polite == Some(true),
            here: row.now.rule == Some(number as u64),
        })
        .collect()
}

fn when(rule: &ScheduleRule) -> String {
    if let Some(windows) = &rule.once {
        return windows.join(", ");
    }
    let mut parts = vec![rule.days.clone().unwrap_or_else(|| "every day".to_owned())];
    if let (Some(from), Some(to)) = (&rule.from, &rule.to) {
        parts.push(format!("{from}\u{2013}{to}"));
    }
    parts.extend(rule.dates.as_ref().map(|dates| dates.join(", ")));
    parts.join(" ")
}

fn planned(item: &BacklogItem, clock: &Clock) -> Planned {
    Planned {
        image: format!("{}/{}", item.store, item.image),
        href: format!("/images/{}/{}", in_path(&item.store), in_path(&item.image)),
        peer: item.peer.clone(),
        bytes: size(item.bytes),
        reason: match item.reason {
            WaitReason::Transferring => "on its way, or next",
            WaitReason::Schedule => "waits for the schedule",
            WaitReason::Paused => "paused",
            WaitReason::PeerDown => "the peer is offline",
            other => other.as_str(),
        },
        finish: clock.when_some(item.eta.as_deref()),
    }
}

#[cfg(test)]
mod tests;
