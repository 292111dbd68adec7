//! Rules: when a rate is in force, in wall-clock time. Arithmetic on seconds, no time zone.
//!
//! A window belongs to the day on which it begins: `Fri 18:00 to 07:00` reaches into Saturday. With
//! equal ends (or none) it is a whole day. Between two edges of its dates a rule repeats every seven
//! days: [`When::edges`] is what the search for the next change leans on.

use super::Rate;
use super::zone::Civil;

/// Days of the week; bit 0 is Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub(super) u8);

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    /// Whether it holds day number `day`, counted from 1970-01-01, a Thursday.
    pub fn hold(self, day: i64) -> bool {
        self.hold_weekday((day + 3).rem_euclid(7))
    }

    /// Whether it holds a day of the week, 0 being Monday.
    pub(super) fn hold_weekday(self, weekday: i64) -> bool {
        self.0 >> weekday & 1 == 1
    }
}

/// A time of day: seconds since midnight, at most 86,400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clock(pub(super) i64);

impl Clock {
    /// 00:00, and as the end of a window 24:00.
    pub const MIDNIGHT: Self = Self(0);

    /// Seconds since midnight.
    pub fn seconds(self) -> i64 {
        self.0
    }
}

/// Dates from the first to the last, both included; days counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dates {
    pub(super) first: i64,
    pub(super) last: i64,
}

/// From a reading of the clock up to, but not including, a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub(super) start: Civil,
    pub(super) end: Civil,
}

/// When a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Again and again.
    Often {
        /// On which days it may begin.
        days: Days,
        /// On which dates it may begin; empty: on all.
        dates: Vec<Dates>,
        /// When it begins.
        from: Clock,
        /// When it ends: on the day after if that is not later than `from`.
        to: Clock,
    },
    /// In these windows only.
    Once(Vec<Window>),
}

/// A rate and when it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// When.
    pub when: When,
    /// The rate.
    pub rate: Rate,
    /// Whether other traffic goes first; `None`: as the calendar has it.
    pub polite: Option<bool>,
}

impl When {
    /// Whether it matches what the clock shows.
    pub fn covers(&self, at: Civil) -> bool {
        let inside = |window: Window| window.start <= at && at < window.end;
        match self {
            // What began yesterday may still last.
            Self::Often { .. } => {
                let day = at.day();
                [day - 1, day].into_iter().any(|d| self.begins_on(d) && inside(self.window(d)))
            }
            Self::Once(windows) => windows.iter().copied().any(inside),
        }
    }

    /// The first reading after `at` where a window begins or ends; there may be no change at it.
    pub(super) fn next_boundary(&self, at: Civil) -> Option<Civil> {
        let after = |window: Window| [window.start, window.end].into_iter().find(|c| *c > at);
        let Self::Often { days, dates, from, to } = self else {
            let Self::Once(windows) = self else { return None };
            return windows.iter().copied().filter_map(after).min();
        };
        if *days == Days::ALL && dates.is_empty() && (*from, *to) == (Clock::MIDNIGHT, *from) {
            return None;
        }
        let mut day = at.day() - 1;
        loop {
            if !dates.is_empty() && !dates.iter().any(|d| d.first <= day && day <= d.last) {
                day = dates.iter().map(|d| d.first).filter(|first| *first > day).min()?;
            }
            if self.begins_on(day)
                && let Some(next) = after(self.window(day))
            {
                return Some(next);
            }
            day += 1;
        }
    }

    /// Where a weekly repetition ends or begins anew.
    pub(super) fn edges(&self) -> Vec<Civil> {
        match self {
            Self::Often { dates, .. } => {
                let both = |d: &Dates| [Civil::midnight(d.first), Civil::midnight(d.last + 1)];
                dates.iter().flat_map(both).collect()
            }
            Self::Once(windows) => windows.iter().flat_map(|w| [w.start, w.end]).collect(),
        }
    }

    fn begins_on(&self, day: i64) -> bool {
        match self {
            Self::Often { days, dates, .. } => {
                let dated = |d: &Dates| d.first <= day && day <= d.last;
                days.hold(day) && (dates.is_empty() || dates.iter().any(dated))
            }
            Self::Once(_) => false,
        }
    }

    fn window(&self, day: i64) -> Window {
        let (from, to) = match self {
            Self::Often { from, to, .. } => (from.0, to.0),
            Self::Once(_) => (0, 0),
        };
        let start = Civil::midnight(day).0 + from;
        let end = Civil::midnight(day).0 + if to > from { to } else { to + Civil::DAY };
        Window { start: Civil(start), end: Civil(end) }
    }
}
