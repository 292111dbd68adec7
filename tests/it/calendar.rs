//! Calendars against an oracle that knows nothing of instants at which things change.
//!
//! The oracle walks minute by minute through two years and more, reads the wall clock off the zone's
//! offset, keeps it from going back, and looks through all rules. `decide` must agree at every minute,
//! name each change to the second, skip none and invent none. One seed is one zone and one calendar.

use blockferry_node::rate::calendar::{
    Calendar, Dates, Days, Dfsr, Rate, Rule, Source, State, When, Window, Zone,
};
use blockferry_tests::{Rng, across};
use jiff::Timestamp;
use jiff::tz::TimeZone;

const ZONES: [&str; 20] = [
    "Europe/Oslo",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Asia/Kolkata",
    "Pacific/Chatham",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "UTC",
    "Asia/Tehran",
    "Europe/London",
    "America/Santiago",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Africa/Cairo",
    "Pacific/Kiritimati",
    "America/Havana",
    "Europe/Istanbul",
    "Asia/Beirut",
];
const MINUTES_PER_DAY: i64 = 1440;
/// Two years, and what the clock may be put back by before them.
const DAYS: i64 = 2 * 366;

/// A rule as the oracle knows it; minutes and days of the wall clock since 1970-01-01.
struct Plain {
    days: [bool; 7],
    dates: Vec<(i64, i64)>,
    from: i64,
    to: i64,
    windows: Vec<(i64, i64)>,
    rate: Rate,
    polite: Option<bool>,
}

impl Plain {
    fn matches(&self, minute: i64) -> bool {
        if !self.windows.is_empty() {
            return self.windows.iter().any(|(start, end)| *start <= minute && minute < *end);
        }
        let today = minute.div_euclid(MINUTES_PER_DAY);
        [today - 1, today].into_iter().any(|day| {
            let weekday = usize::try_from((day + 3).rem_euclid(7)).expect("0 to 6");
            let dated = self.dates.is_empty()
                || self.dates.iter().any(|(first, last)| *first <= day && day <= *last);
            let since = minute - day * MINUTES_PER_DAY - self.from;
            let length = (self.to - self.from).rem_euclid(MINUTES_PER_DAY);
            let length = if length == 0 { MINUTES_PER_DAY } else { length };
            self.days[weekday] && dated && 0 <= since && since < length
        })
    }

    fn rule(&self) -> Rule {
        if !self.windows.is_empty() {
            let text =
                |(start, end): &(i64, i64)| format!("{}..{}", reading(*start), reading(*end));
            let windows = self.windows.iter().map(|w| parsed::<Window>(&text(w)));
            let when = When::Once(windows.collect());
            return Rule { when, rate: self.rate, polite: self.polite };
        }
        let names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        let held: Vec<&str> =
            names.iter().zip(self.days).filter(|(_, held)| *held).map(|(name, _)| *name).collect();
        let date = |day: i64| reading(day * MINUTES_PER_DAY)[..10].to_owned();
        let dates = self
            .dates
            .iter()
            .map(|(first, last)| parsed::<Dates>(&format!("{}..{}", date(*first), date(*last))));
        let when = When::Often {
            days: parsed::<Days>(&held.join(",")),
            dates: dates.collect(),
            from: parsed(&clock(self.from)),
            to: parsed(&clock(self.to)),
        };
        Rule { when, rate: self.rate, polite: self.polite }
    }
}

fn parsed<T: std::str::FromStr<Err = String>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn clock(minute: i64) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn reading(minute: i64) -> String {
    let at = Timestamp::from_second(minute * 60).expect("in range").to_string();
    at[..16].replace('T', " ")
}

fn rate(rng: &mut Rng) -> Rate {
    match rng.below(6) {
        0 => Rate::Pause,
        1 => Rate::Unlimited,
        n => Rate::Limited(n * 1_000_000),
    }
}

/// Times near those at which clocks are changed come up often.
fn minute(rng: &mut Rng) -> i64 {
    let within = if rng.chance(1, 2) { 240 } else { MINUTES_PER_DAY as u64 };
    let step = *rng.pick(&[1, 15, 30, 60]);
    i64::try_from(rng.below(within) / step * step).expect("small")
}

fn plain(rng: &mut Rng, first_day: i64) -> Plain {
    let day =
        |rng: &mut Rng| first_day + i64::try_from(rng.below(DAYS as u64 + 60)).expect("small");
    let mut days = [true; 7];
    if rng.chance(2, 3) {
        days = std::array::from_fn(|_| rng.chance(1, 2));
        days[rng.below(7) as usize] = true;
    }
    let (mut dates, mut windows) = (Vec::new(), Vec::new());
    match rng.below(4) {
        0 => {
            for _ in 0..=rng.below(4) {
                let first = day(rng);
                dates.push((first, first + i64::try_from(rng.below(40)).expect("small")));
            }
        }
        1 => {
            for _ in 0..=rng.below(3) {
                let start = day(rng) * MINUTES_PER_DAY + minute(rng);
                windows.push((start, start + 1 + i64::try_from(rng.below(5000)).expect("small")));
            }
        }
        _ => {}
    }
    let polite = *rng.pick(&[None, Some(true), Some(false)]);
    Plain { days, dates, from: minute(rng), to: minute(rng), windows, rate: rate(rng), polite }
}

struct Case {
    calendar: Calendar,
    rules: Vec<Plain>,
    week: Option<Dfsr>,
    zone: TimeZone,
    start: i64,
}

fn case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let name = ZONES[usize::try_from(seed - 1).expect("small") % ZONES.len()];
    // Days of the year 2009 to 2030.
    let first_day = 14_245 + i64::try_from(rng.below(20 * 365)).expect("small");
    let rules: Vec<Plain> = (0..1 + rng.below(8)).map(|_| plain(&mut rng, first_day)).collect();
    let week = rng.chance(1, 4).then(|| {
        let digits = (0..7 * 96 / 8).map(|_| rng.pick(&["0", "f", "5"]).repeat(8));
        parsed::<Dfsr>(&digits.collect::<String>())
    });
    let calendar = Calendar {
        zone: Zone::named(name).expect("a zone"),
        default: rate(&mut rng),
        polite: rng.chance(1, 2),
        dfsr: week.clone(),
        rules: rules.iter().map(Plain::rule).collect(),
    };
    let zone = TimeZone::get(name).expect("a zone");
    Case { calendar, rules, week, zone, start: first_day * MINUTES_PER_DAY }
}

impl Case {
    /// What the wall clock shows, in minutes.
    fn shows(&self, minute: i64) -> i64 {
        let at = Timestamp::from_second(minute * 60).expect("in range");
        minute + i64::from(self.zone.to_offset(at).seconds()) / 60
    }

    fn state(&self, shown: i64) -> State {
        let found = self.rules.iter().enumerate().rev().find(|(_, rule)| rule.matches(shown));
        if let Some((index, rule)) = found {
            let polite = rule.polite.unwrap_or(self.calendar.polite);
            return State { rate: rule.rate, source: Source::Rule(index + 1), polite };
        }
        let polite = self.calendar.polite;
        let quarter = blockferry_node::rate::calendar::Civil(shown * 60);
        match self.week.as_ref().and_then(|week| week.rate(quarter)) {
            Some(rate) => State { rate, source: Source::Dfsr, polite },
            None => State { rate: self.calendar.default, source: Source::Default, polite },
        }
    }
}

#[test]
fn calendar_agrees_with_an_oracle_that_walks_by_the_minute() {
    let checked = across(
        "calendar_agrees_with_an_oracle_that_walks_by_the_minute",
        ZONES.len() as u64,
        "minutes",
        |seed| {
            let case = case(seed);
            // The highest it has shown, from two days before: no clock is put back further.
            let before = case.start - 2 * MINUTES_PER_DAY..case.start;
            let mut shown = before.map(|m| case.shows(m)).max().expect("two days");
            let mut promised: Option<(Option<i64>, State, Option<State>)> = None;
            let mut changes = 0;
            for minute in case.start..case.start + DAYS * MINUTES_PER_DAY {
                shown = shown.max(case.shows(minute));
                let expected = case.state(shown);
                let ms = minute * 60_000;
                let over = promised.as_ref().is_none_or(|(until, _, _)| *until == Some(ms));
                if over {
                    let decision = case.calendar.decide(ms);
                    assert_eq!(decision.now, expected, "at {}", reading(minute));
                    if let Some((until, before, next)) = promised {
                        assert_eq!((until, next), (Some(ms), Some(expected)));
                        let just_before = case.calendar.decide(ms - 1);
                        assert_eq!((just_before.now, just_before.until_unix_ms), (before, until));
                        changes += 1;
                    }
                    promised = Some((decision.until_unix_ms, decision.now, decision.next));
                }
                let (until, now, _) = promised.as_ref().expect("asked");
                assert_eq!(*now, expected, "a change at {} is skipped", reading(minute));
                assert!(until.is_none_or(|until| until > ms), "{until:?} is past at {ms}");
                // Asked at any moment, the answer is the same: nothing is remembered.
                if minute % 9973 == 0 {
                    let again = case.calendar.decide(ms + 59_999);
                    assert_eq!((again.now, again.until_unix_ms), (*now, *until));
                }
            }
            assert!(changes > 0 || case.rules.len() < 3, "nothing ever changes");
            u64::try_from(DAYS * MINUTES_PER_DAY).expect("positive")
        },
    );
    assert!(checked > 0);
}
