//! Which limit is in force: the tightest, and who says so.

use super::*;
use crate::rate::calendar::{Rule, When, Zone};
use blockferry_delta::ImageName;

const MBIT: u64 = 1_000_000;
/// 2026-11-23 00:00 UTC, a Monday.
const MONDAY: i64 = 1_795_392_000_000;
const HOUR: i64 = 3_600_000;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn store() -> StoreName {
    StoreName::new("vdisks").expect("a name")
}

fn scope() -> Scope {
    let image = Some(ImageName::new("a.img").expect("a name"));
    Scope { peer: Some(node(1)), store: Some(store()), image }
}

fn limited(bits: u64) -> Allowance {
    Allowance { limit: Rate::Limited(bits), ..Allowance::default() }
}

fn rule(when: When, rate: Rate) -> Rule {
    Rule { when, rate, polite: None }
}

/// 5 Mbit/s by day, 200 from 18:00 to 07:00, nothing on the 25th.
fn calendar() -> Calendar {
    let often = |dates: &[&str], from: &str, to: &str| When::Often {
        days: "Mon-Sun".parse().expect("days"),
        dates: dates.iter().map(|d| d.parse().expect("dates")).collect(),
        from: from.parse().expect("a time"),
        to: to.parse().expect("a time"),
    };
    Calendar {
        zone: Zone::utc(),
        default: Rate::Limited(5 * MBIT),
        polite: false,
        dfsr: None,
        rules: vec![
            rule(often(&[], "18:00", "07:00"), Rate::Limited(200 * MBIT)),
            rule(often(&["2026-11-25"], "00:00", "24:00"), Rate::Pause),
        ],
    }
}

/// With Arcs around, for `at`.
fn at(rates: &Rates, unix_ms: i64) -> InForce {
    Arc::new(rates.clone()).at(unix_ms)
}

fn night() -> Rates {
    let mut rates = Rates::default();
    rates.calendars.insert("night".into(), Arc::new(calendar()));
    let schedule = Some("night".to_owned());
    rates.peers.insert(node(1), Allowance { schedule, ..Allowance::default() });
    rates
}

#[test]
fn the_tightest_wins() {
    let mut rates = night();
    let shown = |rates: &Rates, hours: i64| {
        let verdict = at(rates, MONDAY + hours * HOUR).verdict(&scope());
        (verdict.rate, verdict.because.to_string())
    };
    assert_eq!(shown(&rates, 12), (Rate::Limited(5 * MBIT), "schedule night, default".to_owned()));
    assert_eq!(shown(&rates, 20), (Rate::Limited(200 * MBIT), "schedule night, rule 1".to_owned()));
    rates.node = limited(100 * MBIT);
    assert_eq!(shown(&rates, 20), (Rate::Limited(100 * MBIT), "the node's limit".to_owned()));
    rates.stores.insert(store(), limited(50 * MBIT));
    assert_eq!(shown(&rates, 20).1, "store vdisks's limit");
    rates.overrides.give(Order::Limit(MBIT), Scope::peer(node(1)), 0, None);
    assert_eq!(
        shown(&rates, 20),
        (Rate::Limited(MBIT), "the peer's limit, set by command".to_owned())
    );
    let other = Scope { peer: Some(node(2)), ..scope() };
    let verdict = at(&rates, MONDAY).verdict(&other);
    assert_eq!(verdict.rate, Rate::Limited(50 * MBIT), "another peer has no calendar");
}

#[test]
fn a_boost_lifts_calendars_and_a_pause_everything() {
    let mut rates = night();
    rates.node = limited(500 * MBIT);
    let (wednesday, until) = (MONDAY + 60 * HOUR, Some(MONDAY + 61 * HOUR));
    let verdict = at(&rates, wednesday).verdict(&scope());
    assert_eq!((verdict.rate, verdict.hold), (Rate::Pause, Some(Hold::Schedule)));
    assert_eq!(verdict.until_unix_ms, Some(MONDAY + 72 * HOUR), "to the end of the 25th");
    rates.overrides.give(Order::Boost, Scope::peer(node(1)), wednesday, until);
    let verdict = at(&rates, wednesday).verdict(&scope());
    assert_eq!((verdict.rate, verdict.hold), (Rate::Limited(500 * MBIT), None));
    assert!(verdict.boosted && !verdict.caps.contains(&Cap::Calendar(Level::Peer(node(1)))));
    assert_eq!(verdict.until_unix_ms, until);
    rates.overrides.give(Order::Pause, Scope::default(), wednesday, None);
    let verdict = at(&rates, wednesday).verdict(&scope());
    assert_eq!((verdict.rate, verdict.hold), (Rate::Pause, Some(Hold::Paused)));
    assert_eq!(verdict.because, Because::Paused);
}

#[test]
fn a_calendar_that_is_gone_lets_nothing_through() {
    let mut rates = night();
    rates.calendars.clear();
    let verdict = at(&rates, MONDAY).verdict(&scope());
    assert_eq!((verdict.rate, verdict.hold), (Rate::Pause, Some(Hold::Schedule)));
    assert_eq!(verdict.because, Because::Unknown("night".into()));
}

#[test]
fn what_is_in_force_says_until_when() {
    let mut rates = night();
    let in_force = at(&rates, MONDAY + 12 * HOUR);
    assert_eq!(in_force.until_unix_ms(), Some(MONDAY + 18 * HOUR));
    rates.overrides.give(Order::Pause, Scope::default(), 0, Some(MONDAY + 13 * HOUR));
    let in_force = at(&rates, MONDAY + 12 * HOUR);
    assert_eq!(in_force.until_unix_ms(), Some(MONDAY + 13 * HOUR));
    assert_eq!(at(&Rates::default(), MONDAY).until_unix_ms(), None);
}

#[test]
fn polite_is_whoever_is_told_so_by_anybody() {
    let polite = |rates: &Rates| at(rates, MONDAY + 12 * HOUR).verdict(&scope()).polite;
    let mut rates = night();
    assert!(!polite(&rates));
    let mut by_day = calendar();
    by_day.polite = true;
    by_day.rules[0].polite = Some(false);
    rates.calendars.insert("night".into(), Arc::new(by_day));
    assert!(polite(&rates) && !at(&rates, MONDAY + 20 * HOUR).verdict(&scope()).polite);
    // A boost lifts the calendar, not the peer's own setting.
    rates.overrides.give(Order::Boost, Scope::peer(node(1)), 0, None);
    assert!(!polite(&rates));
    rates.peers.get_mut(&node(1)).expect("a peer").polite = true;
    assert!(polite(&rates));
    let other = Scope { peer: Some(node(2)), ..scope() };
    assert!(!at(&rates, MONDAY + 12 * HOUR).verdict(&other).polite);
}

#[test]
fn until_is_of_what_is_asked_about() {
    let (mut rates, noon, evening) = (night(), MONDAY + 12 * HOUR, Some(MONDAY + 18 * HOUR));
    let (one, two) = (Scope::peer(node(1)), Scope::peer(node(2)));
    let until = |rates: &Rates, scope: &Scope| at(rates, noon).verdict(scope).until_unix_ms;
    assert_eq!((until(&rates, &one), until(&rates, &two)), (evening, None));
    let soon = Some(noon + HOUR);
    rates.overrides.give(Order::Limit(MBIT), two.clone(), noon, soon);
    assert_eq!((until(&rates, &one), until(&rates, &two)), (evening, soon));
    rates.node.schedule = Some("night".to_owned());
    rates.overrides.clear_limit(&two);
    assert_eq!(until(&rates, &two), evening, "the node's calendar is everybody's");
    // What no calendar limits now, none changes by itself.
    rates.overrides.give(Order::Boost, two.clone(), noon, None);
    assert_eq!((until(&rates, &one), until(&rates, &two)), (evening, None));
    rates.overrides.give(Order::Pause, one.clone(), noon, None);
    assert_eq!(until(&rates, &one), None);
}
