//! DFS-R's schedule, digit for digit: one hexadecimal digit for each quarter of an hour.
//!
//! A day has 96 digits: 0 is off, F is full bandwidth, the others are rates
//! ([`rate_of`]). `Get-DfsrGroupSchedule` prints seven such days, Sunday first; `Set-DfsrGroupSchedule`
//! takes one and says for which days. Both forms are read, and nothing is rounded.

use std::fmt;
use std::str::FromStr;

use super::Rate;
use super::rule::Days;
use super::zone::Civil;

/// Quarter hours of a day, and digits of its string.
pub const QUARTERS_PER_DAY: usize = 96;
/// Seconds of a quarter of an hour.
const QUARTER_SECONDS: i64 = 900;
/// Longest text that is read, in bytes: seven days with their names and any line ends.
const TEXT_BYTES_MAX: usize = 4096;
/// kbit/s of the digits 1 to E.
const KILOBITS: [u64; 14] =
    [16, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000];

/// A week of quarter hours.
#[derive(Clone, PartialEq, Eq)]
pub struct Dfsr {
    /// Digits of each day, Monday first; `None`: the calendar's default.
    days: [Option<[u8; QUARTERS_PER_DAY]>; 7],
}

/// What a digit from 0 to 15 means.
fn rate_of(digit: u8) -> Rate {
    match digit {
        0 => Rate::Pause,
        1..=14 => Rate::Limited(KILOBITS[usize::from(digit) - 1] * 1000),
        _ => Rate::Unlimited,
    }
}

impl Dfsr {
    /// The rate of the quarter hour that a reading lies in; `None`: nothing is said of that day.
    pub fn rate(&self, at: Civil) -> Option<Rate> {
        let weekday = usize::try_from((at.day() + 3).rem_euclid(7)).ok()?;
        let quarter = usize::try_from(at.second_of_day() / QUARTER_SECONDS).ok()?;
        self.days.get(weekday)?.as_ref()?.get(quarter).copied().map(rate_of)
    }

    pub(super) fn next_boundary(&self, at: Civil) -> Civil {
        Civil((at.0.div_euclid(QUARTER_SECONDS) + 1).saturating_mul(QUARTER_SECONDS))
    }

    /// A day (0 is Monday) as spans of one rate each: quarter hours from, to, and the rate.
    pub fn spans(&self, weekday: usize) -> Vec<(usize, usize, Rate)> {
        let Some(Some(digits)) = self.days.get(weekday) else { return Vec::new() };
        let mut spans: Vec<(usize, usize, Rate)> = Vec::new();
        for (quarter, digit) in digits.iter().enumerate() {
            let rate = rate_of(*digit);
            match spans.last_mut() {
                Some(last) if last.2 == rate => last.1 = quarter + 1,
                _ => spans.push((quarter, quarter + 1, rate)),
            }
        }
        spans
    }
}

impl FromStr for Dfsr {
    type Err = String;

    /// Days separated by blanks or commas: one for every day, seven beginning with Sunday (also in
    /// one piece), or each with its days: `Mon-Fri=0000... Sat,Sun=ffff...`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("a DFS-R schedule of {} characters", text.len()));
        }
        let mut week = Self { days: [None; 7] };
        if text.contains('=') {
            for part in text.split([' ', '\n', '\t', '\r', ';']).filter(|part| !part.is_empty()) {
                let (days, digits) = part
                    .split_once('=')
                    .ok_or_else(|| format!("{:?} has no days: Mon-Fri=HEX", short(part)))?;
                week.set(days.parse()?, day_of(digits)?)?;
            }
            return Ok(week);
        }
        let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
        match digits.len() / QUARTERS_PER_DAY {
            1 if digits.len() == QUARTERS_PER_DAY => week.set(Days::ALL, day_of(&digits)?)?,
            7 if digits.len() == 7 * QUARTERS_PER_DAY => {
                for (index, day) in digits.as_bytes().chunks(QUARTERS_PER_DAY).enumerate() {
                    let day = std::str::from_utf8(day).map_err(|_| not_hex())?;
                    // DFS-R's week begins on Sunday, ours on Monday.
                    week.set(Days(1 << ((index + 6) % 7)), day_of(day)?)?;
                }
            }
            _ => {
                return Err(format!(
                    "{} digits: a day has 96, seven days (Sunday first) have 672",
                    digits.len()
                ));
            }
        }
        Ok(week)
    }
}

impl Dfsr {
    fn set(&mut self, days: Days, digits: [u8; QUARTERS_PER_DAY]) -> Result<(), String> {
        for (weekday, day) in (0..).zip(&mut self.days) {
            if days.hold_weekday(weekday) && day.replace(digits).is_some() {
                return Err("a day is there twice".to_owned());
            }
        }
        Ok(())
    }
}

fn day_of(text: &str) -> Result<[u8; QUARTERS_PER_DAY], String> {
    let mut digits = [0; QUARTERS_PER_DAY];
    if text.len() != QUARTERS_PER_DAY {
        return Err(format!("{} digits: a day has 96, one for each quarter hour", text.len()));
    }
    for (digit, c) in digits.iter_mut().zip(text.chars()) {
        let value = c.to_digit(16).and_then(|v| u8::try_from(v).ok());
        *digit = value.ok_or_else(|| format!("{c:?} is no hexadecimal digit"))?;
    }
    Ok(digits)
}

fn not_hex() -> String {
    "not hexadecimal digits".to_owned()
}

fn short(text: &str) -> String {
    text.chars().take(20).collect()
}

/// The shortest form that reads back as the same: one day, or `days=digits` in order of the week.
impl fmt::Display for Dfsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |day: &[u8; QUARTERS_PER_DAY]| -> String {
            day.iter().filter_map(|digit| char::from_digit(u32::from(*digit), 16)).collect()
        };
        if let Some(first) = &self.days[0]
            && self.days.iter().all(|day| day.as_ref() == Some(first))
        {
            return f.write_str(&hex(first));
        }
        let mut before = "";
        let mut written = 0_u8;
        for (weekday, day) in self.days.iter().enumerate() {
            let Some(digits) = day else { continue };
            if written >> weekday & 1 == 1 {
                continue;
            }
            let same = (0..7).filter(|other| self.days[*other].as_ref() == Some(digits));
            let days = Days(same.fold(0, |bits, other| bits | 1 << other));
            written |= days.0;
            write!(f, "{before}{days}={}", hex(digits))?;
            before = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for Dfsr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dfsr({self})")
    }
}
