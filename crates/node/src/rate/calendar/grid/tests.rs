//! Grids and rules that say the same, in the words of people and at random.

use proptest::prelude::*;

use super::*;
use crate::rate::calendar::Zone;

const SLOW: Rate = Rate::Limited(5_000_000);
const FAST: Rate = Rate::Limited(200_000_000);

fn often(days: &str, from: &str, to: &str, rate: Rate) -> Rule {
    let (days, dates) = (days.parse().expect("days"), Vec::new());
    let (from, to) = (from.parse().expect("a time"), to.parse().expect("a time"));
    Rule { when: When::Often { days, dates, from, to }, rate, polite: None }
}

fn calendar(rules: Vec<Rule>) -> Calendar {
    let zone = Zone::named("Europe/Oslo").expect("a zone");
    Calendar { zone, default: SLOW, polite: false, dfsr: None, rules }
}

/// Its rules as people would write them.
fn said(rules: &[Rule]) -> Vec<String> {
    let say = |rule: &Rule| match &rule.when {
        When::Often { days, dates, from, to } => {
            format!("{days} {from}-{to} {}{}", rule.rate, if dates.is_empty() { "" } else { " *" })
        }
        When::Once(_) => format!("once {}", rule.rate),
    };
    rules.iter().map(say).collect()
}

#[test]
fn nights_are_one_rule_and_weekends_two() {
    let nights = calendar(vec![often("Mon-Fri", "18:00", "07:00", FAST)]);
    let (mut grid, count) = nights.grid();
    assert_eq!(count, 1);
    let fast = |grid: &Grid| grid.hours(|_, _, rate| rate == Some(FAST)).count();
    assert_eq!(fast(&grid), 5 * 13);
    assert_eq!((grid.cells[0][17], grid.cells[0][18]), (Some(SLOW), Some(FAST)));
    assert_eq!((grid.cells[5][6], grid.cells[5][7]), (Some(FAST), Some(SLOW)));
    let fresh = calendar(Vec::new());
    assert_eq!(said(&fresh.painted(&grid)), ["Mon-Fri 18:00-07:00 200 Mbit/s"]);
    // The weekend too, up to Monday morning.
    for (day, hours) in [(5, 0..24), (6, 0..24), (0, 0..7)] {
        grid.cells[day][hours].fill(Some(FAST));
    }
    let rules = fresh.painted(&grid);
    assert_eq!(said(&rules), ["Mon-Sun 18:00-07:00 200 Mbit/s", "Sat-Sun 07:00-18:00 200 Mbit/s"]);
    // What is right stays as it was written, and in its place.
    let rules = nights.painted(&grid);
    assert_eq!(said(&rules)[0], "Mon-Fri 18:00-07:00 200 Mbit/s");
    assert_eq!(calendar(rules).grid().0, grid);
}

#[test]
fn an_hour_less_is_said_without_a_rule_for_the_default() {
    let nights = calendar(vec![often("Mon-Fri", "18:00", "07:00", FAST)]);
    let (mut grid, _) = nights.grid();
    grid.cells[2][2] = Some(SLOW);
    let rules = nights.painted(&grid);
    assert!(rules.iter().all(|rule| rule.rate == FAST), "{:?}", said(&rules));
    assert_eq!(rules.len(), 3, "{:?}", said(&rules));
    let painted = calendar(rules);
    assert_eq!(painted.grid(), (grid, 3));
}

#[test]
fn what_a_grid_cannot_say_lies_beside_it() {
    let mut holidays = often("Mon-Sun", "00:00", "00:00", Rate::Pause);
    if let When::Often { dates, .. } = &mut holidays.when {
        dates.push("2026-12-24..2026-12-26".parse().expect("dates"));
    }
    let mut polite = often("Sat", "00:00", "24:00", FAST);
    polite.polite = Some(true);
    let minutes = often("Mon", "06:30", "07:00", FAST);
    for beside in [holidays, polite, minutes] {
        let night = often("Mon-Fri", "18:00", "07:00", FAST);
        let late = often("Sun", "10:00", "11:00", FAST);
        let all = calendar(vec![night.clone(), beside.clone(), late.clone()]);
        let (mut grid, count) = all.grid();
        assert_eq!(count, 1, "a rule after another one goes over it");
        grid.cells = [[Some(Rate::Pause); HOURS_PER_DAY]; DAYS_PER_WEEK];
        let rules = all.painted(&grid);
        assert_eq!(said(&rules[..1]), ["Mon-Sun 00:00-00:00 pause"]);
        assert_eq!(rules[1..], [beside, late]);
    }
}

#[test]
fn quarter_hours_beneath_stay_where_nothing_is_painted() {
    let mut day = "f".repeat(96);
    day.replace_range(4..5, "0");
    let mut all = calendar(Vec::new());
    all.dfsr = Some(day.parse().expect("a week"));
    let (mut grid, _) = all.grid();
    assert_eq!(grid.cells[3][..3], [Some(Rate::Unlimited), None, Some(Rate::Unlimited)]);
    assert_eq!(all.painted(&grid), []);
    grid.cells[3][1] = Some(SLOW);
    all.rules = all.painted(&grid);
    assert_eq!(said(&all.rules), ["Thu 01:00-02:00 5 Mbit/s"]);
    assert_eq!(all.grid().0, grid);
}

#[test]
fn the_worst_grid_fits() {
    let mut grid = Grid::all(None);
    let cells = grid.cells.iter_mut().flatten();
    (1..).zip(cells).for_each(|(bits, cell)| *cell = Some(Rate::Limited(bits)));
    let rules = calendar(Vec::new()).painted(&grid);
    assert_eq!(rules.len(), DAYS_PER_WEEK * HOURS_PER_DAY);
    assert_eq!(calendar(rules).grid(), (grid, DAYS_PER_WEEK * HOURS_PER_DAY));
}

fn rates() -> impl Strategy<Value = Rate> {
    prop_oneof![Just(SLOW), Just(FAST), Just(Rate::Pause), Just(Rate::Unlimited)]
}

/// Grids as people paint them: rectangles over one another.
fn grids() -> impl Strategy<Value = Grid> {
    let rectangle = (0..7_usize, 0..24_usize, 1..8_usize, 1..25_usize, rates());
    (rates(), prop::collection::vec(rectangle, 0..8)).prop_map(|(rate, rectangles)| {
        let mut grid = Grid::all(Some(rate));
        for (day, hour, days, hours, rate) in rectangles {
            for cells in grid.cells.iter_mut().skip(day).take(days) {
                cells.iter_mut().skip(hour).take(hours).for_each(|cell| *cell = Some(rate));
            }
        }
        grid
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let minute = prop_oneof![4 => Just(0_i64), 1 => Just(30)];
    let polite = prop_oneof![4 => Just(None), 1 => Just(Some(true))];
    (1..128_u8, 0..24_i64, 0..25_i64, minute, rates(), polite).prop_map(
        |(days, from, to, minute, rate, polite)| {
            let to = Clock((to * HOUR + minute * 60).min(Civil::DAY));
            let when =
                When::Often { days: Days(days), dates: vec![], from: Clock(from * HOUR), to };
            Rule { when, rate, polite }
        },
    )
}

/// Zones, and the beginning of a week of each in which its clock is changed.
const WEEKS: [(&str, i64); 4] = [
    ("Europe/Oslo", 1_774_220_400),
    ("Europe/Oslo", 1_792_364_400),
    ("America/New_York", 1_772_427_600),
    ("Australia/Lord_Howe", 1_774_789_200),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_calendar_is_the_grid_in_every_minute_of_a_week(
        before in prop::collection::vec(rules(), 0..6),
        grid in grids(),
        week in 0..WEEKS.len(),
    ) {
        let (zone, monday) = WEEKS[week];
        let mut all = calendar(before);
        all.zone = Zone::named(zone).expect("a zone");
        let beside = all.rules[all.grid().1..].to_vec();
        let rules = all.painted(&grid);
        prop_assert!(rules.ends_with(&beside));
        // What lies beside goes over it: the grid is what there is without.
        all.rules = rules[..rules.len() - beside.len()].to_vec();
        for minute in 0..8 * 24 * 60 {
            let at = monday + minute * 60;
            let (day, hour) = Grid::cell(all.zone.civil(at));
            prop_assert_eq!(Some(all.rate(at * 1000)), grid.cells[day][hour], "{} {}", zone, at);
        }
    }
}
