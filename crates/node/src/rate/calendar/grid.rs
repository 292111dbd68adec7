//! Grid: a week of hours as people paint it, and the rules that say the same.
//!
//! Exact both ways. [`Calendar::grid`] shows what the first rules come to, as far as they speak of
//! whole hours of weekdays and of nothing else; the rules after those (dates, minutes, windows) lie
//! over it and are shown beside it. [`Calendar::painted`] gives the rules that make another grid of it:
//! what is right already stays as it is written, few rules take the place of the others, and those
//! beside it stay where they are. Pure.

use super::rule::{Clock, Days, Rule, When};
use super::zone::Civil;
use super::{Calendar, RULES_MAX, Rate};

/// Days of a week, Monday first.
pub const DAYS_PER_WEEK: usize = 7;
/// Hours of a day of the grid. A wall clock shows no other, whatever DST does.
pub const HOURS_PER_DAY: usize = 24;
/// Seconds of an hour.
const HOUR: i64 = 3600;
/// The quarters of an hour, in seconds: DFS-R's week has a rate for each.
const QUARTERS: [i64; 4] = [0, 900, 1800, 2700];

// A grid in which no two hours are alike takes a rule for each.
const _: () = assert!(DAYS_PER_WEEK * HOURS_PER_DAY + 64 <= RULES_MAX);

/// Rates by weekday and hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Of each day, Monday first, of each hour. `None`: what lies beneath, which is no single rate
    /// in this hour (DFS-R's quarter hours).
    pub cells: [[Option<Rate>; HOURS_PER_DAY]; DAYS_PER_WEEK],
}

impl Grid {
    /// The same rate, or what lies beneath, in all hours.
    pub fn all(rate: Option<Rate>) -> Self {
        Self { cells: [[rate; HOURS_PER_DAY]; DAYS_PER_WEEK] }
    }

    /// The cell that a reading of the clock lies in: the day from Monday, and the hour.
    pub fn cell(at: Civil) -> (usize, usize) {
        let day = (at.day() + 3).rem_euclid(7);
        let whole = |number: i64| usize::try_from(number).unwrap_or(0);
        (whole(day), whole(at.second_of_day() / HOUR))
    }

    /// The hours in which `is` holds.
    fn hours(&self, is: impl Fn(usize, usize, Option<Rate>) -> bool) -> Hours {
        let mut hours = Hours::default();
        for (day, cells) in self.cells.iter().enumerate() {
            for (hour, rate) in cells.iter().enumerate() {
                if is(day, hour, *rate) {
                    hours.0[day] |= 1 << hour;
                }
            }
        }
        hours
    }

    fn paint(&mut self, hours: &Hours, rate: Rate) {
        for (day, cells) in self.cells.iter_mut().enumerate() {
            for (hour, cell) in cells.iter_mut().enumerate() {
                if hours.0[day] >> hour & 1 == 1 {
                    *cell = Some(rate);
                }
            }
        }
    }
}

/// A set of hours of the week: a bit for each hour of each day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hours([u32; DAYS_PER_WEEK]);

impl Hours {
    fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(one, other)| one & !other == 0)
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = *self;
        left.0.iter_mut().zip(other.0).for_each(|(one, other)| *one &= !other);
        left
    }

    fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        both.0.iter_mut().zip(other.0).for_each(|(one, other)| *one &= other);
        both
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|hours| hours.count_ones()).sum()
    }
}

/// The same hours on some days: from an hour on, so many of them, up to a whole day.
#[derive(Clone, Copy, Debug)]
struct Span {
    days: Days,
    from: usize,
    length: usize,
}

impl Span {
    /// Of a rule that a grid can say; `None`: it can't.
    fn of(rule: &Rule) -> Option<Self> {
        let When::Often { days, dates, from, to } = &rule.when else { return None };
        let whole = |clock: &Clock| clock.0 % HOUR == 0;
        if !dates.is_empty() || rule.polite.is_some() || !whole(from) || !whole(to) {
            return None;
        }
        let end = if to > from { to.0 } else { to.0 + Civil::DAY };
        let hours = |seconds: i64| usize::try_from(seconds / HOUR).ok();
        Some(Self { days: *days, from: hours(from.0)?, length: hours(end - from.0)? })
    }

    fn rule(self, rate: Rate) -> Rule {
        let clock = |hour: usize| Clock(i64::try_from(hour).unwrap_or(0) * HOUR);
        let end = self.from + self.length;
        let whole_day = self.from == 0 && self.length == HOURS_PER_DAY;
        let to = match end {
            _ if whole_day => Clock::MIDNIGHT,
            end if end <= HOURS_PER_DAY => clock(end),
            end => clock(end - HOURS_PER_DAY),
        };
        let when = When::Often { days: self.days, dates: Vec::new(), from: clock(self.from), to };
        Rule { when, rate, polite: None }
    }

    /// The bits of the day on which it begins, and of the next.
    fn bits(self) -> (u32, u32) {
        let bits = ((1_u64 << self.length) - 1) << self.from;
        let low = |bits: u64| u32::try_from(bits & 0x00ff_ffff).unwrap_or(0);
        (low(bits), low(bits >> HOURS_PER_DAY))
    }

    fn hours(self) -> Hours {
        let (first, second) = self.bits();
        let mut hours = Hours::default();
        for day in 0..DAYS_PER_WEEK {
            if self.days.0 >> day & 1 == 1 {
                hours.0[day] |= first;
                hours.0[(day + 1) % DAYS_PER_WEEK] |= second;
            }
        }
        hours
    }
}

impl Calendar {
    /// The grid that the first rules come to over what lies beneath, and how many rules those are.
    /// Exact as long as no rule after them says otherwise.
    pub fn grid(&self) -> (Grid, usize) {
        let mut grid = self.beneath();
        let mut count = 0;
        for span in self.rules.iter().map_while(Span::of) {
            grid.paint(&span.hours(), self.rules[count].rate);
            count += 1;
        }
        (grid, count)
    }

    /// The rules that make this of the grid: all rules of the calendar, those beside the grid among
    /// them. A cell of `None` is left to what lies beneath.
    pub fn painted(&self, grid: &Grid) -> Vec<Rule> {
        let (before, count) = self.grid();
        if before == *grid {
            return self.rules.clone();
        }
        let beneath = self.beneath();
        let (old, beside) = self.rules.split_at(count);
        let mut open =
            grid.hours(|day, hour, rate| rate.is_some() && rate != beneath.cells[day][hour]);
        // Whatever order rules are in, one is right whose hours all have its rate.
        let is_right = |rule: &Rule| {
            let of_rate = grid.hours(|_, _, rate| rate == Some(rule.rate));
            Span::of(rule).is_some_and(|span| span.hours().is_within(&of_rate))
        };
        for rule in old.iter().filter(|rule| is_right(rule)) {
            open = Span::of(rule).map_or(open, |span| open.without(&span.hours()));
        }
        let mut fresh = cover(grid, open);
        let mut rules = Vec::new();
        for rule in old {
            if is_right(rule) {
                rules.push(rule.clone());
            } else if let Some(place) = fresh.iter().position(|new| new.rate == rule.rate) {
                // What was said about this rate is still said beside it.
                rules.push(fresh.remove(place));
            }
        }
        rules.extend(fresh);
        rules.extend_from_slice(beside);
        rules
    }

    /// What there is without any rule.
    fn beneath(&self) -> Grid {
        let mut grid = Grid::all(Some(self.default));
        let Some(week) = &self.dfsr else { return grid };
        for (day, cells) in (4..).zip(&mut grid.cells) {
            for (hour, cell) in (0..).zip(cells) {
                // Day 4 since 1970 was a Monday.
                let at = |seconds: i64| Civil(Civil::midnight(day).0 + hour * HOUR + seconds);
                let rates = QUARTERS.map(|seconds| week.rate(at(seconds)).unwrap_or(self.default));
                *cell = Some(rates[0]).filter(|first| rates.iter().all(|rate| rate == first));
            }
        }
        grid
    }
}

/// Few rules that give the open hours what the grid says, and no hour anything else.
fn cover(grid: &Grid, mut open: Hours) -> Vec<Rule> {
    let mut rules = Vec::new();
    while let Some(rate) = first(grid, &open) {
        let allowed = grid.hours(|_, _, other| other == Some(rate));
        while let Some(span) = longest(&allowed, &open.and(&allowed)) {
            open = open.without(&span.hours());
            rules.push(span.rule(rate));
        }
    }
    rules
}

/// The rate of the first hour of these.
fn first(grid: &Grid, hours: &Hours) -> Option<Rate> {
    let day = hours.0.iter().position(|bits| *bits != 0)?;
    let hour = usize::try_from(hours.0[day].trailing_zeros()).ok()?;
    grid.cells[day].get(hour).copied().flatten()
}

/// The span within `allowed` that covers most of what is open, and little else.
fn longest(allowed: &Hours, open: &Hours) -> Option<Span> {
    let mut best: Option<(u32, u32, Span)> = None;
    for from in 0..HOURS_PER_DAY {
        for length in 1..=HOURS_PER_DAY {
            let mut span = Span { days: Days(0), from, length };
            let (first, second) = span.bits();
            for day in 0..DAYS_PER_WEEK {
                let next = (day + 1) % DAYS_PER_WEEK;
                let fits = first & !allowed.0[day] == 0 && second & !allowed.0[next] == 0;
                if fits && (first & open.0[day] != 0 || second & open.0[next] != 0) {
                    span.days.0 |= 1 << day;
                }
            }
            let hours = span.hours();
            let (gain, all) = (hours.and(open).count(), hours.count());
            let better =
                best.is_none_or(|(most, least, _)| gain > most || (gain == most && all < least));
            if gain > 0 && better {
                best = Some((gain, all, span));
            }
        }
    }
    best.map(|(_, _, span)| span)
}

#[cfg(test)]
mod tests;
