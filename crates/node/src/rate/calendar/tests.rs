//! Days, dates, clocks that jump: what is in force, until when, and what comes next.

use super::*;

fn unix_ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("an instant").as_millisecond()
}

fn often(days: &str, dates: &[&str], from: &str, to: &str) -> When {
    When::Often {
        days: days.parse().expect("days"),
        dates: dates.iter().map(|d| d.parse().expect("dates")).collect(),
        from: from.parse().expect("a time"),
        to: to.parse().expect("a time"),
    }
}

fn once(windows: &[&str]) -> When {
    When::Once(windows.iter().map(|w| w.parse().expect("a window")).collect())
}

fn state(rate: Rate, source: Source) -> State {
    State { rate, source, polite: false }
}

fn mbit(n: u64) -> Rate {
    Rate::Limited(n * 1_000_000)
}

fn calendar(zone: &str, rules: Vec<(When, Rate)>) -> Calendar {
    Calendar {
        zone: Zone::named(zone).expect("a zone"),
        default: mbit(5),
        polite: false,
        dfsr: None,
        rules: rules.into_iter().map(|(when, rate)| Rule { when, rate, polite: None }).collect(),
    }
}

/// The rates in force from an instant on, with the instants at which they begin.
fn course(calendar: &Calendar, from: &str, changes: usize) -> Vec<(String, Rate)> {
    let mut at = unix_ms(from);
    let mut course = Vec::new();
    for _ in 0..=changes {
        let shown = jiff::Timestamp::from_millisecond(at).expect("in range").to_string();
        let decision = calendar.decide(at);
        course.push((shown, decision.now.rate));
        let Some(until) = decision.until_unix_ms else { break };
        assert!(until > at, "{until} is not after {at}");
        at = until;
    }
    course
}

fn times(course: &[(String, Rate)]) -> Vec<&str> {
    course.iter().map(|(at, _)| at.as_str()).collect()
}

#[test]
fn a_night_belongs_to_the_day_on_which_it_begins() {
    let night = calendar("Europe/Oslo", vec![(often("Mon-Fri", &[], "18:00", "07:00"), mbit(200))]);
    // From Thursday noon: two nights, then the weekend, then Monday's.
    let course = course(&night, "2026-11-19T11:00:00Z", 5);
    assert_eq!(
        times(&course),
        [
            "2026-11-19T11:00:00Z",
            "2026-11-19T17:00:00Z",
            "2026-11-20T06:00:00Z",
            "2026-11-20T17:00:00Z",
            "2026-11-21T06:00:00Z",
            "2026-11-23T17:00:00Z",
        ]
    );
    let rates: Vec<Rate> = course.iter().map(|(_, rate)| *rate).collect();
    assert_eq!(rates, [mbit(5), mbit(200), mbit(5), mbit(200), mbit(5), mbit(200)]);
}

#[test]
fn the_last_rule_that_matches_wins_and_is_named() {
    let rules = vec![
        (often("Mon-Sun", &[], "18:00", "07:00"), mbit(200)),
        (often("Mon-Sun", &["2026-12-24..2026-12-26"], "00:00", "24:00"), Rate::Pause),
        (once(&["2026-12-25 03:00..2026-12-25 03:30"]), Rate::Unlimited),
    ];
    let calendar = calendar("Europe/Oslo", rules);
    let decision = calendar.decide(unix_ms("2026-12-24T12:00:00Z"));
    assert_eq!(decision.now, state(Rate::Pause, Source::Rule(2)));
    assert_eq!(decision.until_unix_ms, Some(unix_ms("2026-12-25T02:00:00Z")));
    assert_eq!(decision.next, Some(state(Rate::Unlimited, Source::Rule(3))));
    let last = calendar.decide(unix_ms("2026-12-26T22:59:59.999Z"));
    assert_eq!(last.now.rate, Rate::Pause, "the last day is a part of the range");
    assert_eq!(last.until_unix_ms, Some(unix_ms("2026-12-26T23:00:00Z")));
    assert_eq!(last.next.map(|s| s.source), Some(Source::Rule(1)));
}

#[test]
fn what_lies_far_off_is_found_and_what_never_comes_is_not() {
    let far = calendar(
        "UTC",
        vec![(often("Mon-Sun", &["2031-02-28..2031-03-01"], "23:00", "01:00"), Rate::Pause)],
    );
    let course = course(&far, "2026-01-01T00:00:00Z", 9);
    assert_eq!(
        times(&course),
        [
            "2026-01-01T00:00:00Z",
            "2031-02-28T23:00:00Z",
            "2031-03-01T01:00:00Z",
            "2031-03-01T23:00:00Z",
            "2031-03-02T01:00:00Z",
        ]
    );
    let weekend_in_a_week = often("Sat,Sun", &["2026-11-23..2026-11-27"], "00:00", "24:00");
    let never = calendar("UTC", vec![(weekend_in_a_week, Rate::Pause)]);
    assert_eq!(never.decide(unix_ms("2026-01-01T00:00:00Z")).until_unix_ms, None);
    let always = Calendar::constant(Rate::Pause).decide(0);
    assert_eq!((always.now.rate, always.until_unix_ms, always.next), (Rate::Pause, None, None));
    let all_week =
        calendar("Europe/Oslo", vec![(often("Mon-Sun", &[], "09:00", "09:00"), mbit(1))]);
    let decision = all_week.decide(unix_ms("2026-01-01T00:00:00Z"));
    assert_eq!((decision.now.rate, decision.until_unix_ms), (mbit(1), None));
}

#[test]
fn a_skipped_hour_is_passed_at_once() {
    // 2026-03-29 in Oslo: 02:00 is followed by 03:00, at 01:00 UTC.
    let rules = vec![
        (often("Sun", &[], "02:15", "02:45"), mbit(1)),
        (often("Mon-Sun", &[], "01:30", "02:30"), mbit(2)),
        (often("Mon-Sun", &[], "02:30", "04:00"), mbit(3)),
    ];
    let course = course(&calendar("Europe/Oslo", rules), "2026-03-29T00:00:00Z", 3);
    let expected = [
        ("2026-03-29T00:00:00Z", mbit(5)),
        ("2026-03-29T00:30:00Z", mbit(2)),
        ("2026-03-29T01:00:00Z", mbit(3)),
        ("2026-03-29T02:00:00Z", mbit(5)),
    ];
    let course: Vec<(&str, Rate)> = course.iter().map(|(at, rate)| (at.as_str(), *rate)).collect();
    assert_eq!(course, expected);
}

#[test]
fn a_repeated_hour_does_not_begin_anything_again() {
    // 2026-10-25 in Oslo: 03:00 is followed by 02:00, at 01:00 UTC.
    let rules = vec![
        (often("Mon-Sun", &[], "02:00", "02:30"), mbit(1)),
        (often("Mon-Sun", &[], "02:30", "03:00"), mbit(2)),
    ];
    let course = course(&calendar("Europe/Oslo", rules), "2026-10-24T23:00:00Z", 3);
    let expected = [
        ("2026-10-24T23:00:00Z", mbit(5)),
        ("2026-10-25T00:00:00Z", mbit(1)),
        ("2026-10-25T00:30:00Z", mbit(2)),
        // The clock stands at its highest until it is passed.
        ("2026-10-25T02:00:00Z", mbit(5)),
    ];
    let course: Vec<(&str, Rate)> = course.iter().map(|(at, rate)| (at.as_str(), *rate)).collect();
    assert_eq!(course, expected);
}

#[test]
fn a_day_that_a_zone_skipped_is_no_day() {
    // Samoa left out 2011-12-30.
    let rules = vec![(often("Fri", &[], "00:00", "24:00"), Rate::Pause)];
    let course = course(&calendar("Pacific/Apia", rules), "2011-12-28T12:00:00Z", 1);
    assert_eq!(times(&course), ["2011-12-28T12:00:00Z", "2012-01-05T10:00:00Z"]);
}

#[test]
fn a_clock_first_shows_a_reading_at_one_instant() {
    for name in ["Europe/Oslo", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "UTC"] {
        let zone = Zone::named(name).expect("a zone");
        let start = unix_ms("2011-12-01T00:00:00Z") / 1000;
        let mut before = zone.civil(start - 1);
        for second in (start..start + 366 * 86_400).step_by(607) {
            let shows = zone.civil(second);
            assert!(shows >= before, "{name} goes back at {second}");
            let first = zone.first(shows);
            assert!(first <= second && zone.civil(first) >= shows, "{name} at {second}");
            assert!(zone.civil(first - 1) < shows, "{name}: {shows} was shown before {first}");
            before = shows;
        }
    }
}

#[test]
fn dfsr_weeks_are_taken_digit_for_digit() {
    let all = "0123456789abcdefFEDCBA9876543210".repeat(3);
    let week: Dfsr = all.parse().expect("a day for every day");
    let calendar = Calendar { dfsr: Some(week.clone()), ..Calendar::constant(Rate::Pause) };
    let kbit = |n: u64| Rate::Limited(n * 1000);
    let expected = [
        Rate::Pause,
        kbit(16),
        kbit(64),
        kbit(128),
        kbit(256),
        kbit(512),
        mbit(1),
        mbit(2),
        mbit(4),
        mbit(8),
        mbit(16),
        mbit(32),
        mbit(64),
        mbit(128),
        mbit(256),
        Rate::Unlimited,
    ];
    let midnight = unix_ms("2026-11-22T00:00:00Z");
    for (quarter, rate) in (0..).zip(expected.iter().chain(expected.iter().rev())) {
        for ms in [0, 899_999] {
            let at = midnight + quarter * 900_000 + ms;
            assert_eq!(calendar.rate(at), *rate, "quarter {quarter}");
        }
    }
    assert_eq!(calendar.decide(midnight).until_unix_ms, Some(midnight + 900_000));
    let (f, twice) = (midnight + 15 * 900_000, midnight + 17 * 900_000);
    assert_eq!(calendar.decide(f).until_unix_ms, Some(twice), "two equal quarters are one");
    assert_eq!(week.to_string(), all.to_lowercase());
    assert_eq!(week.spans(0)[15], (15, 17, Rate::Unlimited));
}

#[test]
fn dfsr_weeks_have_three_forms() {
    let (off, full) = ("0".repeat(96), "f".repeat(96));
    let seven = format!("{full} {off},{off}\n{off}{off}{off} {full}");
    let week: Dfsr = seven.parse().expect("seven days, Sunday first");
    let named: Dfsr = format!("Mon-Fri={off} Sat,Sun={full}").parse().expect("named days");
    assert_eq!(week, named);
    assert_eq!(named.to_string().parse::<Dfsr>().expect("its own form"), named);
    let part: Dfsr = format!("Tue={off}").parse().expect("one day");
    let calendar = Calendar { dfsr: Some(part), ..Calendar::constant(mbit(9)) };
    let monday = unix_ms("2026-11-23T12:00:00Z");
    let decision = calendar.decide(monday);
    assert_eq!(decision.now, state(mbit(9), Source::Default));
    assert_eq!(decision.until_unix_ms, Some(unix_ms("2026-11-24T00:00:00Z")));
    for bad in [
        String::new(),
        "f".repeat(95),
        "f".repeat(97),
        "g".repeat(96),
        "f".repeat(96 * 2),
        format!("Mon={off} Mon={full}"),
        format!("Mon={off} {full}"),
        format!("Noday={off}"),
        "f".repeat(10_000),
        "\u{e9}".repeat(48),
        "\u{e9}".repeat(336),
    ] {
        assert!(bad.parse::<Dfsr>().is_err(), "{bad:.40}");
    }
}

#[test]
fn texts_are_read_or_refused_with_an_example() {
    for (text, shown) in [
        ("Mon-Fri", "Mon-Fri"),
        ("sat, SUNDAY", "Sat-Sun"),
        ("Fri-Mon", "Mon,Fri-Sun"),
        ("Mon,Wed-Thu", "Mon,Wed-Thu"),
        ("Tue", "Tue"),
    ] {
        assert_eq!(text.parse::<Days>().expect(text).to_string(), shown);
    }
    for text in ["", "Mo", "Mon-", "Mon,,Tue", "1", "Mon Fri"] {
        assert!(text.parse::<Days>().is_err(), "{text}");
    }
    for text in ["00:00", "23:59:30", "24:00"] {
        assert_eq!(text.parse::<Clock>().expect(text).to_string(), text);
    }
    for text in ["", "7:00", "24:01", "12:60", "12", "12:00:60", "noon", "+1:00", "12:00:00:00"] {
        assert!(text.parse::<Clock>().is_err(), "{text}");
    }
    for text in ["2028-02-29", "2026-12-31..2027-01-01"] {
        assert_eq!(text.parse::<Dates>().expect(text).to_string(), text);
    }
    for text in ["", "2026-02-29", "2026-12-26..2026-12-24", "26-12-24", "2026-12-24.."] {
        assert!(text.parse::<Dates>().is_err(), "{text}");
    }
    let window = "2026-12-24 18:00..2026-12-27 06:00";
    assert_eq!(window.parse::<Window>().expect("a window").to_string(), window);
    for text in ["", "2026-12-24", "2026-12-24 18:00..2026-12-24 18:00", "x..y"] {
        assert!(text.parse::<Window>().is_err(), "{text}");
    }
    assert!(Zone::named("Europe/Olso").is_none() && Zone::named("../etc/passwd").is_none());
}

#[test]
fn moments_are_read_by_the_zones_own_clock() {
    let zone = Zone::named("Europe/Oslo").expect("a zone");
    let now = unix_ms("2026-11-22T10:00:00Z"); // a Sunday, 11:00 in Oslo
    for (text, expected) in [
        ("Mon 09:00", "2026-11-23T08:00:00Z"),
        ("sunday 11:00", "2026-11-22T10:00:00Z"),
        ("Sun 10:59", "2026-11-29T09:59:00Z"),
        ("09:00", "2026-11-23T08:00:00Z"),
        ("12:30", "2026-11-22T11:30:00Z"),
        ("2026-07-01 12:00", "2026-07-01T10:00:00Z"),
        ("2026-07-01", "2026-06-30T22:00:00Z"),
        ("2026-07-01T12:00:00Z", "2026-07-01T12:00:00Z"),
    ] {
        assert_eq!(parse_at(text, now, &zone), Ok(unix_ms(expected)), "{text}");
    }
    for text in ["", "tomorrow", "Mon", "Mon 9", "2026-13-01 00:00"] {
        assert!(parse_at(text, now, &zone).is_err(), "{text}");
    }
}

#[test]
fn instants_beyond_all_calendars_are_survived() {
    let night = calendar("Europe/Oslo", vec![(often("Mon-Fri", &[], "18:00", "07:00"), mbit(200))]);
    for at in [i64::MIN, -1, 0, i64::MAX / 2, i64::MAX] {
        let _decision = night.decide(at);
    }
}

#[test]
fn politeness_is_a_change_like_any_other() {
    let often = |from: &str, to: &str| When::Often {
        days: Days::ALL,
        dates: vec![],
        from: from.parse().expect("a time"),
        to: to.parse().expect("a time"),
    };
    let mut calendar = calendar("UTC", vec![(often("08:00", "12:00"), mbit(5))]);
    calendar.rules[0].polite = Some(true);
    let day = calendar.decide(unix_ms("2026-11-23T09:00:00Z"));
    assert!(day.now.polite && day.now.rate == mbit(5));
    // The rate stays, the manner doesn't.
    assert_eq!(day.until_unix_ms, Some(unix_ms("2026-11-23T12:00:00Z")));
    assert_eq!(day.next, Some(state(mbit(5), Source::Default)));
    calendar.polite = true;
    calendar.rules[0].polite = None;
    assert!(calendar.decide(unix_ms("2026-11-23T09:00:00Z")).now.polite);
    calendar.rules[0].polite = Some(false);
    assert!(!calendar.decide(unix_ms("2026-11-23T09:00:00Z")).now.polite);
    assert!(calendar.decide(unix_ms("2026-11-23T13:00:00Z")).now.polite);
}
