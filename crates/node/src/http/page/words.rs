//! Words: sizes, rates and times as people read them. Pure but for [`Clock::now`].
//!
//! Times are shown by this machine's own clock and its zone is named on every screen; each is written
//! with the instant beside it, for machines and for who hovers.

use std::path::Path;
use std::sync::OnceLock;

use crate::events::now_unix_ms;
use crate::rate::calendar::{Civil, Grid, HOURS_PER_DAY, Zone};

const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// The first of January 1970 was a Thursday.
const FIRST_WEEKDAY: i64 = 3;
/// Where Debian and most others say which zone it is.
const LOCALTIME: &str = "/etc/localtime";

/// Now, on this machine's clock.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    zone: Zone,
    now_unix_ms: i64,
}

/// An instant as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct When {
    /// `14:02`, `Mon 14:02`, `2026-11-02`: as much as is needed.
    pub(crate) text: String,
    /// `2026-11-02 14:02:07`.
    pub(crate) full: String,
    /// For machines, UTC.
    pub(crate) iso: String,
}

impl Clock {
    /// By the machine's zone.
    pub(crate) fn now() -> Self {
        static ZONE: OnceLock<Zone> = OnceLock::new();
        let zone = ZONE.get_or_init(|| local_zone().unwrap_or_else(Zone::utc)).clone();
        Self { zone, now_unix_ms: now_unix_ms() }
    }

    #[cfg(test)]
    pub(crate) fn at(zone: &str, unix_seconds: i64) -> Self {
        let zone = Zone::named(zone).expect("a zone");
        Self { zone, now_unix_ms: unix_seconds * 1000 }
    }

    /// The zone's name.
    pub(crate) fn zone(&self) -> &str {
        self.zone.name()
    }

    /// What the clock shows now, to the second.
    pub(crate) fn time(&self) -> String {
        clock_text(self.zone.civil(self.unix_seconds()), true)
    }

    pub(crate) fn unix_seconds(&self) -> i64 {
        self.now_unix_ms.div_euclid(1000)
    }

    /// The same moment on the clock of a zone; of one that isn't known here: as it is.
    pub(crate) fn in_zone(&self, zone: &str) -> Self {
        let zone = Zone::named(zone).unwrap_or_else(|| self.zone.clone());
        Self { zone, now_unix_ms: self.now_unix_ms }
    }

    /// `Fri 19:30`.
    pub(crate) fn weekday_time(&self) -> String {
        let now = self.zone.civil(self.unix_seconds());
        format!("{} {}", weekday(now), clock_text(now, false))
    }

    /// The hour of the week that the clock stands in, from Monday 00:00.
    pub(crate) fn week_hour(&self) -> usize {
        let (day, hour) = Grid::cell(self.zone.civil(self.unix_seconds()));
        day * HOURS_PER_DAY + hour
    }

    /// How many times the clock shows a full hour until an instant that the API wrote; `None`: that is
    /// none, or it is over.
    pub(crate) fn hours_until(&self, rfc3339: &str) -> Option<usize> {
        let at = rfc3339.parse::<jiff::Timestamp>().ok()?.as_second();
        let hour = |unix_seconds: i64| self.zone.civil(unix_seconds).0.div_euclid(3600);
        usize::try_from(hour(at) - hour(self.unix_seconds())).ok()
    }

    /// An instant that the API wrote; what is none stays as it is.
    pub(crate) fn when(&self, rfc3339: &str) -> When {
        let Ok(at) = rfc3339.parse::<jiff::Timestamp>() else {
            let (text, full) = (rfc3339.to_owned(), rfc3339.to_owned());
            return When { text, full, iso: String::new() };
        };
        let (civil, today) =
            (self.zone.civil(at.as_second()), self.zone.civil(self.unix_seconds()));
        let days = civil.day() - today.day();
        let clock = clock_text(civil, false);
        let weekday = weekday(civil);
        let text = match days {
            0 => clock,
            -6..=6 => format!("{weekday} {clock}"),
            _ => date(civil),
        };
        let full = format!("{weekday} {} {}", date(civil), clock_text(civil, true));
        When { text, full, iso: rfc3339.to_owned() }
    }

    /// The same where there may be none.
    pub(crate) fn when_some(&self, rfc3339: Option<&str>) -> Option<When> {
        rfc3339.map(|text| self.when(text))
    }
}

fn weekday(civil: Civil) -> &'static str {
    let day = (civil.day() + FIRST_WEEKDAY).rem_euclid(7);
    usize::try_from(day).ok().and_then(|day| WEEKDAYS.get(day)).copied().unwrap_or_default()
}

fn date(civil: Civil) -> String {
    civil.to_string().split(' ').next().unwrap_or_default().to_owned()
}

fn clock_text(civil: Civil, seconds: bool) -> String {
    let second = civil.second_of_day();
    let text = format!("{:02}:{:02}", second / 3600, second / 60 % 60);
    if seconds { format!("{text}:{:02}", second % 60) } else { text }
}

/// `TZ` if it names a zone, else what `/etc/localtime` points to.
fn local_zone() -> Option<Zone> {
    if let Some(zone) = std::env::var("TZ").ok().and_then(|name| Zone::named(&name)) {
        return Some(zone);
    }
    let target = std::fs::canonicalize(Path::new(LOCALTIME)).ok()?;
    let (_, name) = target.to_str()?.split_once("/zoneinfo/")?;
    Zone::named(name)
}

/// `3.2 GiB`.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, UNITS[0]);
    for next in &UNITS[1..] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", short(value))
}

/// `200 Mbit/s`; `None`: no limit; 0: paused.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn rate(bits_per_second: Option<u64>) -> String {
    let bits = match bits_per_second {
        None => return "no limit".to_owned(),
        Some(0) => return "paused".to_owned(),
        Some(bits) => bits as f64,
    };
    for (unit, name) in [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")] {
        if bits >= unit {
            return format!("{} {name}", short(bits / unit));
        }
    }
    format!("{bits} bit/s")
}

/// Three digits that say something.
fn short(value: f64) -> String {
    let text = if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// `43 s`, `12 min`, `5 h`, `3 days`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `1 image`, `3 images`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A name as a part of a path.
pub(crate) fn in_path(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (40 << 30, "40 GiB"),
            (1000 << 20, "1 GiB"),
            (999 << 20, "999 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bits, text) in [
            (None, "no limit"),
            (Some(0), "paused"),
            (Some(999), "999 bit/s"),
            (Some(5_000_000), "5 Mbit/s"),
            (Some(2_500_000_000), "2.5 Gbit/s"),
        ] {
            assert_eq!(rate(bits), text);
        }
        assert_eq!((count(1, "image"), count(0, "image")), ("1 image".into(), "0 images".into()));
        assert_eq!((duration(119), duration(7200)), ("119 s".to_owned(), "2 h".to_owned()));
    }

    #[test]
    fn times_are_as_long_as_they_must_be() {
        // Monday 2026-11-02 12:00 in Oslo.
        let clock = Clock::at("Europe/Oslo", 1_793_617_200);
        let text = |at: &str| clock.when(at).text;
        assert_eq!(clock.time(), "12:00:00");
        assert_eq!(text("2026-11-02T20:02:00Z"), "21:02");
        assert_eq!(text("2026-11-02T23:30:00.500Z"), "Tue 00:30");
        assert_eq!(text("2026-10-30T06:00:00Z"), "Fri 07:00");
        assert_eq!(text("2026-12-24T18:00:00Z"), "2026-12-24");
        assert_eq!(text("soon"), "soon");
        let when = clock.when("2026-11-02T20:02:07Z");
        assert_eq!(when.full, "Mon 2026-11-02 21:02:07");
        assert_eq!(when.iso, "2026-11-02T20:02:07Z");
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(in_path("win11.vhdx"), "win11.vhdx");
        assert_eq!(in_path("a b/<c>?#%"), "a%20b%2F%3Cc%3E%3F%23%25");
    }
}
