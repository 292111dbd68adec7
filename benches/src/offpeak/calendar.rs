//! A day's calendar of a link, and when a number of bytes is through it.
//!
//! Exact: bits and nanoseconds in whole numbers, from one edge of the calendar to the next. Times
//! are those on a wall; nights in which clocks change are not known here.

use jiff::civil::{DateTime, Time};
use jiff::{SignedDuration, ToSpan};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// As a rate: the link is no limit.
pub(crate) const UNLIMITED: u64 = u64::MAX;
/// As a rate: nothing goes through.
pub(crate) const PAUSED: u64 = 0;

/// A time of day with a rate, every day; over midnight if it ends before it begins, the whole day
/// if it ends when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: Time,
    pub(crate) to: Time,
    pub(crate) bits_per_second: u64,
}

impl Window {
    fn holds(&self, time: Time) -> bool {
        let (from, to) = (self.from, self.to);
        if from < to { (from..to).contains(&time) } else { time >= from || time < to }
    }
}

/// The windows of a day, the first that holds counts, and the rate outside of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Calendar {
    pub(crate) windows: Vec<Window>,
    pub(crate) otherwise_bits_per_second: u64,
}

impl Calendar {
    /// 100 Mbit/s from 18:00 to 07:00, 5 Mbit/s by day.
    pub(crate) fn off_peak() -> Calendar {
        let night = Window {
            from: Time::constant(18, 0, 0, 0),
            to: Time::constant(7, 0, 0, 0),
            bits_per_second: 100_000_000,
        };
        Calendar { windows: vec![night], otherwise_bits_per_second: 5_000_000 }
    }

    /// The rate at a time of day.
    pub(crate) fn rate(&self, time: Time) -> u64 {
        let window = self.windows.iter().find(|window| window.holds(time));
        window.map_or(self.otherwise_bits_per_second, |window| window.bits_per_second)
    }

    /// The next time after `now` at which the rate may be another; none if it never is.
    pub(crate) fn next_edge(&self, now: DateTime) -> Option<DateTime> {
        let times = self.windows.iter().flat_map(|window| [window.from, window.to]);
        let next = |time| {
            let today = now.date().to_datetime(time);
            if today > now { Some(today) } else { today.checked_add(1.day()).ok() }
        };
        times.filter_map(next).min()
    }

    fn can_carry(&self) -> bool {
        let times = self.windows.iter().flat_map(|window| [window.from, window.to]);
        // Between two edges the rate is that of the earlier one.
        self.rate(Time::midnight()) != PAUSED || times.into_iter().any(|it| self.rate(it) != PAUSED)
    }

    /// In words, for the heading of a table.
    pub(crate) fn words(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for Window { from, to, bits_per_second } in &self.windows {
            let (from, to) = (from.strftime("%H:%M"), to.strftime("%H:%M"));
            parts.push(format!("{} from {from} to {to}", rate_words(*bits_per_second)));
        }
        parts.push(format!("{} otherwise", rate_words(self.otherwise_bits_per_second)));
        parts.join(", ")
    }
}

fn rate_words(bits_per_second: u64) -> String {
    match bits_per_second {
        PAUSED => "nothing".to_owned(),
        UNLIMITED => "no limit".to_owned(),
        rate => format!("{} Mbit/s", rate as f64 / 1e6),
    }
}

/// When that many bytes are through, to the nanosecond, rounded up; none if never.
pub(crate) fn finish(start: DateTime, bytes: u64, calendar: &Calendar) -> Option<DateTime> {
    let mut now = start;
    // A rate of 1 bit/s is 10^-9 bits a nanosecond: in this unit every step is whole.
    let mut left = u128::from(bytes) * 8 * NANOS_PER_SECOND;
    while left > 0 {
        let rate = calendar.rate(now.time());
        if rate == UNLIMITED {
            break;
        }
        let edge = calendar.next_edge(now);
        if !calendar.can_carry() {
            return None;
        }
        // None: beyond the last year that there is a date for, or not at this rate.
        let through = match rate {
            PAUSED => None,
            rate => nanoseconds(left.div_ceil(u128::from(rate)))
                .and_then(|takes| now.checked_add(takes).ok()),
        };
        if let Some(through) = through.filter(|it| edge.is_none_or(|edge| *it <= edge)) {
            return Some(through);
        }
        let edge = edge?;
        let passes = u128::try_from(edge.duration_since(now).as_nanos()).ok()?;
        left -= passes * u128::from(rate);
        now = edge;
    }
    Some(now)
}

fn nanoseconds(count: u128) -> Option<SignedDuration> {
    let seconds = i64::try_from(count / NANOS_PER_SECOND).ok()?;
    let rest = i32::try_from(count % NANOS_PER_SECOND).ok()?;
    Some(SignedDuration::new(seconds, rest))
}

#[cfg(test)]
mod tests {
    use jiff::civil::{date, time};

    use super::*;

    fn at(day: i8, hour: i8, minute: i8, second: i8) -> DateTime {
        date(2026, 6, day).at(hour, minute, second, 0)
    }

    fn window(from: i8, to: i8, bits_per_second: u64) -> Window {
        Window { from: time(from, 0, 0, 0), to: time(to, 0, 0, 0), bits_per_second }
    }

    #[test]
    fn by_day_only() {
        // 5 Mbit/s are 625000 bytes a second: an hour's worth.
        let end = finish(at(2, 12, 0, 0), 625_000 * 3600, &Calendar::off_peak());
        assert_eq!(end, Some(at(2, 13, 0, 0)));
        // Just the last of the day, and a byte more: 80 ns at 100 Mbit/s.
        let six_hours = 625_000 * 6 * 3600;
        let end = finish(at(2, 12, 0, 0), six_hours, &Calendar::off_peak());
        assert_eq!(end, Some(at(2, 18, 0, 0)));
        let end = finish(at(2, 12, 0, 0), six_hours + 1, &Calendar::off_peak());
        assert_eq!(end, Some(date(2026, 6, 2).at(18, 0, 0, 80)));
    }

    #[test]
    fn a_full_copy_of_64_gib_from_noon() {
        // 13.5 GB by 18:00; the other 55 219 476 736 bytes take 4417.558 138 88 s.
        let end = finish(at(2, 12, 0, 0), 64 << 30, &Calendar::off_peak());
        assert_eq!(end, Some(date(2026, 6, 2).at(19, 13, 37, 558_138_880)));
    }

    #[test]
    fn across_midnight_into_the_next_day() {
        // 23:00 to 07:00 at 12.5 MB/s are 360 GB; 625 000 more take a second of the day.
        let bytes = 12_500_000 * 8 * 3600 + 625_000;
        let end = finish(at(2, 23, 0, 0), bytes, &Calendar::off_peak());
        assert_eq!(end, Some(at(3, 7, 0, 1)));
    }

    #[test]
    fn paused_by_day() {
        let night = window(22, 2, 8_000_000);
        let calendar = Calendar { windows: vec![night], otherwise_bits_per_second: PAUSED };
        // 4 hours a night at 1 MB/s: the second night's first ten seconds.
        let end = finish(at(2, 12, 0, 0), 1_000_000 * (4 * 3600 + 10), &calendar);
        assert_eq!(end, Some(at(3, 22, 0, 10)));
        assert_eq!(finish(at(2, 12, 0, 0), 0, &calendar), Some(at(2, 12, 0, 0)));
        let never = Calendar { windows: vec![], otherwise_bits_per_second: PAUSED };
        assert_eq!(finish(at(2, 12, 0, 0), 1, &never), None);
        let never = Calendar { windows: vec![window(1, 2, PAUSED)], ..never };
        assert_eq!(finish(at(2, 12, 0, 0), 1, &never), None);
    }

    #[test]
    fn unlimited_is_at_once_when_it_begins() {
        let night = window(18, 7, UNLIMITED);
        let calendar = Calendar { windows: vec![night], otherwise_bits_per_second: 8 };
        let end = finish(at(2, 12, 0, 0), 1 << 40, &calendar);
        assert_eq!(end, Some(at(2, 18, 0, 0)));
        assert_eq!(finish(at(2, 20, 0, 0), 1 << 40, &calendar), Some(at(2, 20, 0, 0)));
        assert_eq!(finish(at(2, 12, 0, 0), 30, &calendar), Some(at(2, 12, 0, 30)));
    }

    #[test]
    fn several_windows_the_first_counts() {
        let windows = vec![window(12, 13, 80), window(12, 14, 800), window(20, 20, 8)];
        let calendar = Calendar { windows, otherwise_bits_per_second: 1 };
        // 10 bytes/s until 13:00, 100 until 14:00, then 1 (the window that is the whole day).
        let bytes = 10 * 3600 + 100 * 3600 + 5;
        assert_eq!(finish(at(2, 12, 0, 0), bytes, &calendar), Some(at(2, 14, 0, 5)));
    }

    #[test]
    fn a_calendar_in_words() {
        let words = Calendar::off_peak().words();
        assert_eq!(words, "100 Mbit/s from 18:00 to 07:00, 5 Mbit/s otherwise");
    }
}
