//! What `[schedules]` means, and which of them a node, a store or a peer goes by.
//!
//! Values are right on their own by now; here it is checked that they fit together: a zone that there
//! is, a rate for each rule, a schedule for each name.

use super::file::{RuleSection, ScheduleSection};
use super::known;
use super::settings::{Reader, key};
use super::values::{Rate, ScheduleRate};
use blockferry_node::config::Allowance;
use blockferry_node::rate::calendar::{
    Calendar, Clock, DATES_MAX, Days, RULES_MAX, Rate as CalendarRate, Rule, When, Zone,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a rule means; `None`: it has no rate, or says once beside something else.
pub(super) fn rule(raw: RuleSection) -> Option<Rule> {
    let ScheduleRate(rate) = raw.rate?;
    let often = raw.days.is_some() || raw.dates.is_some() || raw.from.is_some() || raw.to.is_some();
    let when = match raw.once {
        Some(_) if often => return None,
        Some(windows) => When::Once(windows.into_iter().map(|window| window.0).collect()),
        None => When::Often {
            days: raw.days.map_or(Days::ALL, |days| days.0),
            dates: raw.dates.unwrap_or_default().into_iter().map(|dates| dates.0).collect(),
            from: raw.from.map_or(Clock::MIDNIGHT, |from| from.0),
            to: raw.to.map_or(Clock::MIDNIGHT, |to| to.0),
        },
    };
    Some(Rule { when, rate, polite: raw.polite })
}

impl Reader<'_> {
    /// Every schedule that is right.
    pub(super) fn schedules(
        &mut self,
        raw: BTreeMap<String, ScheduleSection>,
    ) -> BTreeMap<String, Arc<Calendar>> {
        let mut schedules = BTreeMap::new();
        for (name, section) in raw {
            if let Some(calendar) = self.schedule(&name, section) {
                schedules.insert(name, Arc::new(calendar));
            }
        }
        schedules
    }

    /// The schedules that say by when everything should be there.
    pub(super) fn deadlines(
        &mut self,
        raw: &BTreeMap<String, ScheduleSection>,
    ) -> BTreeMap<String, Clock> {
        let by = |(name, section): (&String, &ScheduleSection)| {
            let by = section.by.as_ref()?.0;
            self.text(&["schedules", name, "by"], by.to_string());
            Some((name.clone(), by))
        };
        raw.iter().filter_map(by).collect()
    }

    fn schedule(&mut self, name: &str, raw: ScheduleSection) -> Option<Calendar> {
        let place = self.section_place("schedules", name);
        let good = self.name(&place, name);
        let at = |last: &'static str| ["schedules", name, last];
        let zone = self.zone(name, raw.zone);
        let default = raw.default.map_or(CalendarRate::Unlimited, |ScheduleRate(rate)| rate);
        self.text(&at("default"), default.to_string());
        let polite = raw.polite.unwrap_or(false);
        self.show(&at("polite"), polite.into());
        if let Some(week) = &raw.dfsr {
            self.text(&at("dfsr"), week.to_string());
        }
        let raws = raw.rule.unwrap_or_default();
        if let Some(leaf) = self.leaves.get(&key(&at("rule"))) {
            let value = leaf.value.clone();
            self.show(&at("rule"), value);
        }
        if raws.len() > RULES_MAX {
            let place = self.place(&at("rule"));
            self.complain(place, format!("{} rules; at most {RULES_MAX}", raws.len()));
        }
        let rules: Vec<Option<Rule>> = raws
            .into_iter()
            .enumerate()
            .map(|(index, rule)| self.rule(name, index, rule))
            .collect();
        let rules = rules.into_iter().collect::<Option<Vec<Rule>>>()?;
        good?;
        let (zone, dfsr) = (zone?, raw.dfsr.map(|week| week.0));
        Some(Calendar { zone, default, polite, dfsr, rules })
    }

    fn zone(&mut self, name: &str, zone: Option<String>) -> Option<Zone> {
        let parts = ["schedules", name, "zone"];
        let Some(text) = zone else {
            let place = self.section_place("schedules", name);
            let help = "add zone = \"Europe/Oslo\", or \"UTC\"".to_owned();
            self.complain_with(place, format!("schedules.{name} has no zone"), help);
            return None;
        };
        let text = self.text(&parts, text);
        let found = Zone::named(&text);
        if found.is_none() {
            let place = self.place(&parts);
            let names = Zone::names();
            let help = match known::closest(&text, names.iter().map(String::as_str)) {
                Some(closest) => format!("did you mean {closest}?"),
                None => "zones have names such as Europe/Oslo, America/New_York, UTC".to_owned(),
            };
            self.complain_with(place, format!("{text:?} is no time zone"), help);
        }
        found
    }

    fn rule(&mut self, name: &str, index: usize, raw: RuleSection) -> Option<Rule> {
        let list = self.leaves.get(&key(&["schedules", name, "rule"]));
        let place = list.and_then(|leaf| leaf.items.get(index).cloned());
        let place = place.unwrap_or_else(|| self.place(&["schedules", name, "rule"]));
        let number = index + 1;
        if raw.rate.is_none() {
            let what = format!("rule {number} of schedules.{name} has no rate");
            let help = "add rate = \"5 Mbit/s\", \"unlimited\" or \"pause\"".to_owned();
            self.complain_with(place, what, help);
            return None;
        };
        let count =
            raw.dates.as_ref().map_or(0, Vec::len).max(raw.once.as_ref().map_or(0, Vec::len));
        if count > DATES_MAX {
            let what = format!("rule {number} of schedules.{name} has {count} dates");
            self.complain_with(place, what, format!("at most {DATES_MAX}; make it two rules"));
            return None;
        }
        let read = rule(raw);
        if read.is_none() {
            let what = format!(
                "rule {number} of schedules.{name} has once beside days, dates, from or to"
            );
            self.complain_with(place, what, "make it two rules".to_owned());
        }
        read
    }

    /// `send` and `schedule` of a section.
    pub(super) fn allowance(
        &mut self,
        section: &[&str],
        send: Option<Rate>,
        schedule: Option<String>,
        schedules: &[String],
    ) -> Allowance {
        let at =
            |last: &'static str| -> Vec<&str> { section.iter().copied().chain([last]).collect() };
        self.text(&at("send"), send.map_or("unlimited".to_owned(), String::from));
        let limit = CalendarRate::from_bits_per_second(send.and_then(Rate::bits_per_second));
        if let Some(name) = &schedule {
            self.text(&at("schedule"), name.clone());
            let declared = self.leaves.keys().any(|key| {
                key.first().is_some_and(|k| k == "schedules") && key.get(1) == Some(name)
            });
            if !declared {
                let place = self.place(&at("schedule"));
                let help = match known::closest(name, schedules.iter().map(String::as_str)) {
                    Some(closest) => format!("did you mean {closest}?"),
                    None => format!("write a section [schedules.{name}]"),
                };
                self.complain_with(place, format!("there is no schedule {name}"), help);
            }
        }
        Allowance { limit, schedule, ..Allowance::default() }
    }
}
