//! Zone: whose wall clock it is, and which instant a reading of it means.
//!
//! The only file of the calendar that knows time zones. Its clock never goes back: in an hour that
//! is repeated it stands at its highest reading, so that every reading is first reached at exactly
//! one instant ([`Zone::first`]) and `civil(t) >= c` holds exactly from `first(c)` on. Readings that
//! are skipped are reached at the jump.

use std::fmt;

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, civil};

/// No clock was ever put back further than this, in seconds: a day at the date line, and some.
const FOLD_SECONDS_MAX: i64 = 26 * 3600;
/// Instants at whose wall-clock time every zone has a date, in seconds since 1970: years 0 to 9000.
const SECONDS: std::ops::RangeInclusive<i64> = -62_167_219_200..=221_845_392_000;

/// A reading of a wall clock: seconds since 1970-01-01 00:00 on that clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Civil(pub i64);

impl Civil {
    /// Seconds of a day.
    pub const DAY: i64 = 86_400;

    /// Midnight at the beginning of day number `day`, counted from 1970-01-01.
    pub fn midnight(day: i64) -> Self {
        Self(day.saturating_mul(Self::DAY))
    }

    /// Its day, counted from 1970-01-01.
    pub fn day(self) -> i64 {
        self.0.div_euclid(Self::DAY)
    }

    /// Seconds since midnight.
    pub fn second_of_day(self) -> i64 {
        self.0.rem_euclid(Self::DAY)
    }

    pub(super) fn of(moment: civil::DateTime) -> Self {
        let timestamp = Offset::UTC.to_timestamp(moment);
        Self(timestamp.map_or(*SECONDS.end(), Timestamp::as_second))
    }

    pub(super) fn date_time(self) -> civil::DateTime {
        Offset::UTC.to_datetime(timestamp(self.0))
    }
}

/// `2026-12-24 18:00`.
impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.date_time();
        write!(f, "{} {:02}:{:02}", at.date(), at.hour(), at.minute())?;
        if at.second() == 0 { Ok(()) } else { write!(f, ":{:02}", at.second()) }
    }
}

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

impl Zone {
    /// `Europe/Oslo`, from the system's database, else from the one built in; `None`: no such zone.
    pub fn named(name: &str) -> Option<Self> {
        let rules = TimeZone::get(name).ok()?;
        let name = rules.iana_name().unwrap_or(name).to_owned();
        Some(Self { name, rules })
    }

    /// A clock that needs no database.
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), rules: TimeZone::UTC }
    }

    /// Its name in the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of all zones that there are, in no order.
    pub fn names() -> Vec<String> {
        jiff::tz::db().available().map(|name| name.to_string()).collect()
    }

    /// What the clock shows at an instant (seconds since 1970), never less than it showed before.
    pub fn civil(&self, unix_seconds: i64) -> Civil {
        let at = timestamp(unix_seconds);
        let seconds = at.as_second();
        let mut shows = seconds + self.offset(at);
        // From one second later, so that a change at this very instant counts.
        for change in self.rules.preceding(timestamp(seconds + 1)) {
            let moment = change.timestamp().as_second();
            if seconds - moment > FOLD_SECONDS_MAX {
                break;
            }
            let before = timestamp(moment - 1);
            shows = shows.max(before.as_second() + self.offset(before));
        }
        Civil(shows)
    }

    /// The first instant, in seconds since 1970, at which the clock shows `civil` or more.
    pub fn first(&self, civil: Civil) -> i64 {
        let offset = self.rules.to_ambiguous_timestamp(civil.date_time()).offset();
        match offset {
            AmbiguousOffset::Unambiguous { offset } => civil.0 - seconds(offset),
            AmbiguousOffset::Fold { before, .. } => civil.0 - seconds(before),
            AmbiguousOffset::Gap { before, after } => {
                let jump = self.rules.following(timestamp(civil.0 - seconds(after))).next();
                jump.map_or(civil.0 - seconds(before), |jump| jump.timestamp().as_second())
            }
        }
    }

    fn offset(&self, at: Timestamp) -> i64 {
        seconds(self.rules.to_offset(at))
    }
}

fn seconds(offset: Offset) -> i64 {
    i64::from(offset.seconds())
}

fn timestamp(unix_seconds: i64) -> Timestamp {
    let seconds = unix_seconds.clamp(*SECONDS.start(), *SECONDS.end());
    Timestamp::from_second(seconds).expect("years 0 to 9000 are in range")
}
