//! Schedules: what the calendars say, as a grid and as rules, and how one of them is changed.
//!
//! What is shown is what is in force; with it goes the tag of the file that it was read from. A change
//! names the tag that it is based on and is refused where the file, or what is in force, is another one
//! by then. The file itself is changed by who knows its form ([`crate::config::ConfigFile`]).

use std::sync::Arc;

use crate::admin::requests::done;
use crate::api::{
    Answer, RateText, ScheduleEdit, ScheduleRow, ScheduleRule, ScheduleState, SchedulesReport,
    Schema,
};
use crate::core::{Core, blocking};
use crate::error::{Error, Result};
use crate::events::now_unix_ms;
use crate::ledger::rfc3339;
use crate::rate::calendar::{Calendar, Clock, Days, Grid, Rate, Rule, Source, State, When};
use crate::rate::rates::Rates;
use crate::reload;

/// A change that fits whatever is there.
const ANY: &str = "*";

/// The calendars in force, or one of them.
pub(crate) async fn report(core: &Arc<Core>, name: Option<&str>) -> Result<Answer> {
    done(&now(core, name)?)
}

/// Changes a calendar, in the file and then here.
pub(crate) async fn set(
    core: &Arc<Core>,
    name: String,
    tag: Option<String>,
    edit: ScheduleEdit,
) -> Result<Answer> {
    known(core, &name)?;
    let tag = tag.ok_or(Error::ConfigTag)?;
    let (to, of) = (core.clone(), name.clone());
    let change = move || {
        reload::change(&to, |file| {
            // Asked when it is our turn: who was before us may have changed it.
            let here = to.live().file_tag.clone().unwrap_or_default();
            if tag != ANY && tag != here {
                return Err(Error::ConfigChanged { path: "the configuration".into() });
            }
            file.set_schedule(&of, &edit, &here)
        })
    };
    blocking("changing the configuration", change).await?;
    done(&now(core, Some(&name))?)
}

fn known(core: &Core, name: &str) -> Result<()> {
    let unknown = || Error::ScheduleUnknown { name: name.to_owned() };
    core.live().schedules.contains_key(name).then_some(()).ok_or_else(unknown)
}

/// What there is now.
pub(crate) fn now(core: &Core, name: Option<&str>) -> Result<SchedulesReport> {
    name.map_or(Ok(()), |name| known(core, name))?;
    let live = core.live();
    let in_force = core.limit.in_force();
    let at = now_unix_ms();
    let row = |(name, calendar): (&String, &Arc<Calendar>)| {
        let by = live.deadlines.get(name).copied();
        row(name, calendar, by, users(core, in_force.rates(), name), at)
    };
    let wanted = live.schedules.iter().filter(|(of, _)| name.is_none_or(|name| name == *of));
    Ok(SchedulesReport {
        schema: Schema,
        tag: live.file_tag.clone(),
        writable: core.config.file.as_ref().is_some_and(|file| file.is_writable()),
        schedules: wanted.map(row).collect(),
    })
}

/// Who goes by a calendar.
fn users(core: &Core, rates: &Rates, name: &str) -> Vec<String> {
    let goes = |schedule: &Option<String>| schedule.as_deref() == Some(name);
    let mut users = Vec::new();
    users.extend(goes(&rates.node.schedule).then(|| "limits".to_owned()));
    let stores = rates.stores.iter().filter(|(_, send)| goes(&send.schedule));
    users.extend(stores.map(|(store, _)| format!("stores.{store}")));
    let peers = rates.peers.iter().filter(|(_, send)| goes(&send.schedule));
    users.extend(peers.map(|(id, _)| format!("peers.{}", core.name_of(id))));
    users
}

fn row(
    name: &str,
    calendar: &Calendar,
    by: Option<Clock>,
    used_by: Vec<String>,
    at_unix_ms: i64,
) -> ScheduleRow {
    let decision = calendar.decide(at_unix_ms);
    let (grid, count) = calendar.grid();
    ScheduleRow {
        name: name.to_owned(),
        zone: calendar.zone.name().to_owned(),
        at: rfc3339(at_unix_ms),
        clock: calendar.zone.civil(at_unix_ms.div_euclid(1000)).to_string(),
        now: state(&decision.now),
        until: decision.until_unix_ms.map(rfc3339),
        next: decision.next.as_ref().map(state),
        default: text(calendar.default),
        polite: calendar.polite,
        by: by.map(|by| by.to_string()),
        dfsr: calendar.dfsr.as_ref().map(ToString::to_string),
        grid: cells(&grid),
        grid_rules: count as u64,
        rules: calendar.rules.iter().map(rule).collect(),
        used_by,
    }
}

fn text(rate: Rate) -> RateText {
    RateText(rate.to_string())
}

fn cells(grid: &Grid) -> Vec<Vec<Option<RateText>>> {
    let day = |cells: &[Option<Rate>; _]| cells.iter().map(|rate| rate.map(text)).collect();
    grid.cells.iter().map(day).collect()
}

fn state(state: &State) -> ScheduleState {
    let (source, rule) = match state.source {
        Source::Default => ("default", None),
        Source::Dfsr => ("dfsr", None),
        Source::Rule(number) => ("rule", Some(number as u64)),
    };
    ScheduleState {
        rate: text(state.rate),
        rate_limit_bits_per_second: state.rate.bits_per_second(),
        source: source.to_owned(),
        rule,
        polite: state.polite,
    }
}

/// A rule as it may be said again: what is as without it is left out.
fn rule(rule: &Rule) -> ScheduleRule {
    let mut said = ScheduleRule {
        days: None,
        dates: None,
        from: None,
        to: None,
        once: None,
        rate: text(rule.rate),
        polite: rule.polite,
    };
    match &rule.when {
        When::Often { days, dates, from, to } => {
            said.days = (*days != Days::ALL).then(|| days.to_string());
            let dates: Vec<String> = dates.iter().map(ToString::to_string).collect();
            said.dates = (!dates.is_empty()).then_some(dates);
            if (*from, *to) != (Clock::MIDNIGHT, Clock::MIDNIGHT) {
                said.from = Some(from.to_string());
                said.to = Some(to.to_string());
            }
        }
        When::Once(windows) => {
            said.once = Some(windows.iter().map(ToString::to_string).collect());
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::calendar::Zone;

    #[test]
    fn a_row_says_what_is_in_force_and_shows_the_week() {
        let often = |days: &str, from: &str, to: &str| When::Often {
            days: days.parse().expect("days"),
            dates: vec![],
            from: from.parse().expect("a time"),
            to: to.parse().expect("a time"),
        };
        let window = "2026-12-24 18:00..2026-12-27 06:00".parse().expect("a window");
        let fast = Rate::Limited(200_000_000);
        let rules = vec![
            Rule { when: often("Mon-Fri", "18:00", "07:00"), rate: fast, polite: None },
            Rule { when: When::Once(vec![window]), rate: Rate::Pause, polite: Some(true) },
            Rule { when: often("Mon-Sun", "00:00", "00:00"), rate: fast, polite: None },
        ];
        let zone = Zone::named("Europe/Oslo").expect("a zone");
        let default = Rate::Limited(5_000_000);
        let mut calendar = Calendar { zone, default, polite: false, dfsr: None, rules };
        let shown = |calendar: &Calendar| row("night", calendar, None, vec![], 1_795_000_000_000);
        assert_eq!(shown(&calendar).now.rule, Some(3));
        assert_eq!(shown(&calendar).until, None);
        let last = serde_json::to_string(&shown(&calendar).rules[2]).expect("JSON");
        assert_eq!(last, r#"{"rate":"200 Mbit/s"}"#);
        calendar.rules.pop();
        let row = shown(&calendar);
        assert_eq!(row.clock, "2026-11-18 12:06:40");
        assert_eq!((row.now.rate.0.as_str(), row.now.source.as_str()), ("5 Mbit/s", "default"));
        assert_eq!(row.until.as_deref(), Some("2026-11-18T17:00:00.000Z"));
        assert_eq!(row.next.map(|next| next.rule), Some(Some(1)));
        assert_eq!((row.grid.len(), row.grid[4].len(), row.grid_rules), (7, 24, 1));
        assert_eq!(row.grid[4][18], Some(RateText("200 Mbit/s".to_owned())));
        let once = serde_json::to_value(&row.rules[1]).expect("JSON");
        assert_eq!(once["once"][0], "2026-12-24 18:00..2026-12-27 06:00");
        assert_eq!((&once["days"], &once["polite"]), (&serde_json::Value::Null, &true.into()));
    }
}
