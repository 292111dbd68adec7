//! Parse: days, times, dates and windows as people write them, bounded, with an example in each error.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;

use super::rule::{Clock, Dates, Days, Window};
use super::zone::{Civil, Zone};

/// Longest text of one value, in bytes.
const TEXT_BYTES_MAX: usize = 128;

const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LONG: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

fn bounded(text: &str) -> Result<&str, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("a value of {} characters", text.len()));
    }
    Ok(text.trim())
}

fn weekday(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let fits = |name: &str| name == lower || (lower.len() == 3 && name.starts_with(&lower));
    LONG.iter().position(|name| fits(name)).and_then(|index| i64::try_from(index).ok())
}

/// `Mon-Fri`, `Sat,Sun`, `Mon,Wed-Fri`, `Fri-Mon`.
impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = bounded(text)?;
        let wrong = || format!("{text:?} are no days such as \"Mon-Fri\" or \"Sat,Sun\"");
        let mut bits = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) =
                (weekday(first).ok_or_else(wrong)?, weekday(last).ok_or_else(wrong)?);
            for day in first..=first + (last - first).rem_euclid(7) {
                bits |= 1 << (day % 7);
            }
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = |day: usize| self.0 >> day & 1 == 1;
        let mut before = "";
        let mut day = 0;
        while day < 7 {
            if !held(day) {
                day += 1;
                continue;
            }
            let first = day;
            while day < 7 && held(day) {
                day += 1;
            }
            match day - first {
                1 => write!(f, "{before}{}", NAMES[first])?,
                _ => write!(f, "{before}{}-{}", NAMES[first], NAMES[day - 1])?,
            }
            before = ",";
        }
        Ok(())
    }
}

/// `07:00`, `23:59:30`, `24:00`.
impl FromStr for Clock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = bounded(text)?;
        let wrong = || format!("{text:?} is no time of day such as \"18:00\"");
        let number = |part: Option<&str>| -> Result<i64, String> {
            let part = part.filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|p| p.parse().ok()).ok_or_else(wrong)
        };
        let mut parts = text.split(':');
        let (hours, minutes) = (number(parts.next())?, number(parts.next())?);
        let seconds = parts.next().map_or(Ok(0), |part| number(Some(part)))?;
        let all = hours * 3600 + minutes * 60 + seconds;
        if parts.next().is_some() || minutes > 59 || seconds > 59 || all > Civil::DAY {
            return Err(wrong());
        }
        Ok(Self(all))
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 3600, self.0 / 60 % 60)?;
        if self.0 % 60 == 0 { Ok(()) } else { write!(f, ":{:02}", self.0 % 60) }
    }
}

fn date(text: &str) -> Option<i64> {
    // Nothing but YYYY-MM-DD: jiff also reads forms that nobody means here.
    let text = text.trim();
    let date: Date = Some(text).filter(|t| t.len() == 10)?.parse().ok()?;
    Some(Civil::of(date.to_datetime(jiff::civil::Time::midnight())).day())
}

/// `2026-12-24` or `2026-12-24..2026-12-26`, the last day included.
impl FromStr for Dates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = bounded(text)?;
        let wrong =
            || format!("{text:?} is no date such as \"2026-12-24\" or \"2026-12-24..2026-12-26\"");
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let first = date(first).ok_or_else(wrong)?;
        let last = date(last).ok_or_else(wrong)?;
        if last < first {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Dates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |day| Civil::midnight(day).date_time().date();
        write!(f, "{}", date(self.first))?;
        if self.first == self.last { Ok(()) } else { write!(f, "..{}", date(self.last)) }
    }
}

fn reading(text: &str) -> Option<Civil> {
    let text = text.trim();
    let (day, time) = text.split_once(['T', ' '])?;
    let clock: Clock = time.trim().parse().ok()?;
    Some(Civil(Civil::midnight(date(day)?).0 + clock.0))
}

/// `2026-12-24 18:00..2026-12-27 06:00`, the end not included.
impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = bounded(text)?;
        let wrong =
            || format!("{text:?} is no window such as \"2026-12-24 18:00..2026-12-27 06:00\"");
        let (start, end) = text.split_once("..").ok_or_else(wrong)?;
        let start = reading(start).ok_or_else(wrong)?;
        let end = reading(end).ok_or_else(wrong)?;
        if end <= start {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Self { start, end })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A moment as people write it on a command line, in milliseconds since 1970: `Mon 09:00` and
/// `09:00` are the next such reading of the zone's clock, `2026-12-24 18:00` is a reading,
/// `2026-12-24T18:00:00Z` an instant.
pub fn parse_at(text: &str, now_unix_ms: i64, zone: &Zone) -> Result<i64, String> {
    let text = bounded(text)?;
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant.as_millisecond());
    }
    let wrong = || {
        format!(
            "{text:?} is no moment such as \"Mon 09:00\", \"09:00\", \"2026-12-24 18:00\" or \
             \"2026-12-24T17:00:00Z\""
        )
    };
    let now = zone.civil(now_unix_ms.div_euclid(1000));
    let found = match text.rsplit_once(' ') {
        _ if date(text).is_some() => date(text).map(Civil::midnight),
        _ if text.get(..10).and_then(date).is_some() => reading(text),
        Some((day, time)) => {
            let (day, clock) = (weekday(day), time.parse::<Clock>());
            day.zip(clock.ok()).map(|(day, clock)| next(now, clock, Days(1 << day)))
        }
        None => text.parse::<Clock>().ok().map(|clock| next(now, clock, Days::ALL)),
    };
    let found = found.ok_or_else(wrong)?;
    Ok(zone.first(found).saturating_mul(1000))
}

/// The next time, now included, that the clock shows `clock` on one of `days`.
fn next(now: Civil, clock: Clock, days: Days) -> Civil {
    let readings = (now.day()..now.day() + 8).filter(|day| days.hold(*day));
    let mut readings = readings.map(|day| Civil(Civil::midnight(day).0 + clock.0));
    readings.find(|reading| *reading >= now).unwrap_or(now)
}
