//! `schedule show | test | import-dfsr`: the calendars of the configuration, without the service.
//!
//! What is asked is what the service does: the same value decides. Orders (`pause`, `limit`) are the
//! service's; `show` adds them when it answers.

use super::{App, orders};
use crate::args::ScheduleCommand;
use crate::config::{Settings, closest};
use crate::failure::{AdminError, Failure};
use crate::output::{or_dash, table};
use blockferry_node::api::{Exit, OrdersReport, Request, SchedulesReport, Schema};
use blockferry_node::rate::calendar::{
    Calendar, Dfsr, QUARTERS_PER_DAY, Rule, Source, State, When, Zone, parse_at,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

/// A service that doesn't answer by then is left out.
const SERVICE_WAIT: Duration = Duration::from_secs(3);
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

pub(crate) fn run(app: &App, command: ScheduleCommand) -> Result<Exit, Failure> {
    match command {
        ScheduleCommand::Show { name } => show(app, name.as_deref()),
        ScheduleCommand::Test { name, at } => test(app, name.as_deref(), at.as_deref()),
        ScheduleCommand::ImportDfsr { digits, name, zone } => {
            import(app, &digits.join(" "), &name, &zone)
        }
    }
}

type Named<'a> = (&'a str, &'a Calendar);

fn chosen<'a>(settings: &'a Settings, name: Option<&str>) -> Result<Vec<Named<'a>>, Failure> {
    let all = settings.schedules.iter().map(|(name, calendar)| (name.as_str(), calendar.as_ref()));
    let Some(name) = name else { return Ok(all.collect()) };
    let found: Vec<Named> = all.filter(|(known, _)| *known == name).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let error = AdminError::new("SCHEDULE_UNKNOWN", format!("no schedule {name}"));
    Err(match closest(name, settings.schedules.keys().map(String::as_str)) {
        Some(closest) => error.with_remedy(format!("did you mean {closest}?")),
        None => error,
    }
    .into())
}

fn now_unix_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// An instant by the clock of a zone, and how the zone writes it.
fn shown(unix_ms: i64, zone: &Zone) -> String {
    let text = zone.civil(unix_ms.div_euclid(1000)).to_string();
    format!("{text} {}", zone.name())
}

fn rfc3339(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).map_or_else(|_| "-".to_owned(), |at| format!("{at:.3}"))
}

fn source(source: Source) -> String {
    match source {
        Source::Default => "default".to_owned(),
        Source::Dfsr => "dfsr".to_owned(),
        Source::Rule(number) => format!("rule {number}"),
    }
}

fn state_json(state: &State) -> Value {
    let rule = match state.source {
        Source::Rule(number) => Some(number),
        Source::Default | Source::Dfsr => None,
    };
    json!({
        "rate": state.rate.to_string(),
        "rate_limit_bits_per_second": state.rate.bits_per_second(),
        "source": source(state.source).split(' ').next(),
        "rule": rule,
        "polite": state.polite,
    })
}

/// What is in force at an instant.
fn row_json((name, calendar): Named<'_>, at: i64) -> Value {
    let decision = calendar.decide(at);
    json!({
        "name": name,
        "zone": calendar.zone.name(),
        "at": rfc3339(at),
        "now": state_json(&decision.now),
        "until": decision.until_unix_ms.map(rfc3339),
        "next": decision.next.as_ref().map(state_json),
    })
}

fn row_text((name, calendar): Named<'_>, at: i64) -> Vec<String> {
    let decision = calendar.decide(at);
    let state = |state: &State| {
        format!("{}{} ({})", state.rate, polite(state.polite), source(state.source))
    };
    vec![
        name.to_owned(),
        shown(at, &calendar.zone),
        state(&decision.now),
        or_dash(decision.until_unix_ms.map(|at| shown(at, &calendar.zone))),
        or_dash(decision.next.as_ref().map(state)),
    ]
}

fn polite(polite: bool) -> &'static str {
    if polite { ", polite" } else { "" }
}

const NONE: &str = "no schedules: write a section [schedules.NAME]";
const HEADER: [&str; 5] = ["SCHEDULE", "AT", "IN FORCE", "UNTIL", "THEN"];

fn test(app: &App, name: Option<&str>, at: Option<&str>) -> Result<Exit, Failure> {
    let settings = app.location.load()?;
    let now = now_unix_ms();
    let moment = |calendar: &Calendar| match at {
        Some(text) => parse_at(text, now, &calendar.zone)
            .map_err(|error| Failure::from(AdminError::new("USAGE", error))),
        None => Ok(now),
    };
    let mut rows = Vec::new();
    for named in chosen(&settings, name)? {
        rows.push((named, moment(named.1)?));
    }
    if let (true, Some(text)) = (rows.is_empty(), at) {
        parse_at(text, now, &Zone::utc()).map_err(|error| AdminError::new("USAGE", error))?;
    }
    let objects: Vec<Value> = rows.iter().map(|(named, at)| row_json(*named, *at)).collect();
    app.out.either(&json!({ "schema": Schema, "schedules": objects }), || {
        table(&HEADER, rows.iter().map(|(named, at)| row_text(*named, *at)).collect(), NONE)
    })?;
    Ok(Exit::Done)
}

fn show(app: &App, name: Option<&str>) -> Result<Exit, Failure> {
    let settings = app.location.load()?;
    let chosen = chosen(&settings, name)?;
    let now = now_unix_ms();
    // Without a service there are no orders in force.
    let brief = app.with_timeout(Some(app.timeout.unwrap_or(SERVICE_WAIT)));
    let orders: Option<OrdersReport> = brief.ask(&Request::Orders {}).ok();
    let running = brief.ask::<SchedulesReport>(&Request::Schedules { name: None }).ok();
    let users = |name: &str| users(&settings, running.as_ref(), name);
    let object = |named: &Named<'_>| {
        let mut row = row_json(*named, now);
        let (name, calendar) = *named;
        row["default"] = json!(calendar.default.to_string());
        row["dfsr"] = json!(calendar.dfsr.as_ref().map(ToString::to_string));
        row["by"] = json!(settings.deadlines.get(name).map(ToString::to_string));
        row["rules"] = calendar.rules.iter().map(rule).collect();
        row["polite"] = json!(calendar.polite);
        row["used_by"] = json!(users(name));
        row
    };
    let objects: Vec<Value> = chosen.iter().map(object).collect();
    let report = json!({
        "schema": Schema,
        "schedules": objects,
        "orders": orders.as_ref().map(|o| &o.orders),
        "rates": orders.as_ref().map(|o| &o.rates),
    });
    app.out.either(&report, || {
        let mut text =
            table(&HEADER, chosen.iter().map(|named| row_text(*named, now)).collect(), NONE);
        for named in &chosen {
            text.push_str(&format!("\n\n{}", details(&settings, *named, users(named.0))));
        }
        if let Some(orders) = &orders {
            let (given, rates) = (orders::orders(&orders.orders), orders::rates(&orders.rates));
            text.push_str(&format!("\n\n{given}\n\n{rates}"));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// Who goes by a calendar: as the service has it, which also knows what was set by `peer set`; without
/// one as the file says.
fn users(settings: &Settings, running: Option<&SchedulesReport>, name: &str) -> Vec<String> {
    let row = running.and_then(|r| r.schedules.iter().find(|row| row.name == name));
    if let Some(row) = row {
        return row.used_by.clone();
    }
    let by = |schedule: &Option<String>| schedule.as_deref() == Some(name);
    let stores = settings.stores.iter().filter(|s| by(&s.send.schedule));
    let peers = settings.peers.iter().filter(|p| by(&p.send.schedule));
    let node = by(&settings.send.schedule).then(|| "limits".to_owned());
    let stores = stores.map(|s| format!("stores.{}", s.name));
    let peers = peers.map(|p| format!("peers.{}", p.name));
    node.into_iter().chain(stores).chain(peers).collect()
}

fn rule(rule: &Rule) -> Value {
    let Rule { when, rate, polite } = rule;
    let texts = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    match when {
        When::Often { days, dates, from, to } => json!({
            "days": days.to_string(),
            "dates": texts(dates.iter().map(ToString::to_string).collect()),
            "from": from.to_string(),
            "to": to.to_string(),
            "rate": rate.to_string(),
            "polite": polite,
        }),
        When::Once(windows) => json!({
            "once": windows.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "rate": rate.to_string(),
            "polite": polite,
        }),
    }
}

fn details(settings: &Settings, (name, calendar): Named<'_>, users: Vec<String>) -> String {
    let mut lines = vec![format!("{name} ({})", calendar.zone.name())];
    lines.push(format!("  default  {}{}", calendar.default, polite(calendar.polite)));
    if calendar.dfsr.is_some() {
        lines.push("  dfsr     a week of quarter hours".to_owned());
    }
    if let Some(by) = settings.deadlines.get(name) {
        lines.push(format!("  by       {by}"));
    }
    for (index, rule) in calendar.rules.iter().enumerate() {
        let when = match &rule.when {
            When::Often { days, dates, from, to } => {
                let dates: Vec<String> = dates.iter().map(ToString::to_string).collect();
                format!("{days} {from}-{to} {}", dates.join(", ")).trim_end().to_owned()
            }
            When::Once(windows) => {
                windows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
        };
        let manner = polite(rule.polite.unwrap_or(calendar.polite));
        lines.push(format!("  rule {:<3} {}{manner} on {when}", index + 1, rule.rate));
    }
    let users = if users.is_empty() { "nobody".to_owned() } else { users.join(", ") };
    lines.push(format!("  used by  {users}"));
    lines.join("\n")
}

fn import(app: &App, text: &str, name: &str, zone: &str) -> Result<Exit, Failure> {
    let week: Dfsr = text.parse().map_err(|error| {
        let error = AdminError::new("USAGE", format!("not a DFS-R schedule: {error}"));
        error.with_remedy("paste BandwidthDetail of Get-DfsrGroupSchedule")
    })?;
    let good = blockferry_delta::StoreName::new(name);
    good.map_err(|error| AdminError::new("BAD_NAME", error.to_string()))?;
    let Some(zone) = Zone::named(zone) else {
        let error = AdminError::new("USAGE", format!("{zone:?} is no time zone"));
        return Err(error.with_remedy("names are such as Europe/Oslo or UTC").into());
    };
    let spans = |day: usize| {
        let spans = week.spans(day).into_iter();
        spans.map(|(from, to, rate)| (clock(from), clock(to), rate)).collect::<Vec<_>>()
    };
    let days: Vec<Value> = (0..7)
        .map(|day| {
            let spans = spans(day).into_iter().map(|(from, to, rate)| {
                let bits = rate.bits_per_second();
                json!({ "from": from, "to": to, "rate": rate.to_string(),
                    "rate_limit_bits_per_second": bits })
            });
            json!({ "day": DAYS[day], "spans": spans.collect::<Vec<_>>() })
        })
        .collect();
    let digits = week.to_string();
    let object = json!({ "schema": Schema, "name": name, "zone": zone.name(), "dfsr": digits,
        "days": days });
    app.out.either(&object, || {
        let mut lines: Vec<String> = Vec::new();
        for (day, name) in DAYS.iter().enumerate() {
            let spans =
                spans(day).into_iter().map(|(from, to, rate)| format!("{from}-{to} {rate}"));
            let spans: Vec<String> = spans.collect();
            let said = if spans.is_empty() { "the default".to_owned() } else { spans.join(", ") };
            lines.push(format!("# {name} {said}"));
        }
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        lines.push(format!("[schedules.{}]", toml_key(name)));
        lines.push(format!("zone = {}", quoted(zone.name())));
        lines.push(format!("dfsr = {}", quoted(&digits)));
        lines.join("\n")
    })?;
    app.out.prose("put this into the configuration, and schedule = \"NAME\" into a peer's section");
    Ok(Exit::Done)
}

fn toml_key(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

/// The time at which a quarter hour begins.
fn clock(quarter: usize) -> String {
    let quarter = quarter.min(QUARTERS_PER_DAY);
    format!("{:02}:{:02}", quarter / 4, quarter % 4 * 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_times() {
        assert_eq!((clock(0).as_str(), clock(71).as_str()), ("00:00", "17:45"));
        assert_eq!(clock(QUARTERS_PER_DAY), "24:00");
        assert_eq!((toml_key("a-b"), toml_key("a.b")), ("a-b".into(), "\"a.b\"".into()));
    }
}
