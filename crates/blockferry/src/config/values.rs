//! Sizes, rates, durations, shares and levels as people write them.
//!
//! Each is a newtype that keeps the exact number and reads the text with a kept parser: rates by
//! `human-bandwidth` (bits) and then by `bytesize` with `/s` (bytes), sizes by `bytesize`,
//! durations by jiff's friendly format. Zero is refused everywhere: it never means "unlimited".

use blockferry_node::config::Setting;
use blockferry_node::rate::calendar;
use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest text that is looked at, in bytes: parsers need not be trusted with more.
const TEXT_BYTES_MAX: usize = 64;

/// A rate: bits per second, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["5 Mbit/s", "400 MB/s", "unlimited"]))]
pub(crate) struct Rate {
    bits_per_second: Option<u64>,
}

impl Rate {
    /// `None`: unlimited.
    pub(crate) fn bits_per_second(self) -> Option<u64> {
        self.bits_per_second
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let text = bounded(text)?;
        if text == "unlimited" {
            return Ok(Rate { bits_per_second: None });
        }
        let bits = match human_bandwidth::parse_bandwidth(text) {
            Ok(bandwidth) => u64::try_from(bandwidth.as_bps()).ok(),
            Err(_) => bytes_per_second(text).and_then(|bytes| bytes.checked_mul(8)),
        };
        match bits {
            Some(0) => {
                Err("a rate of 0 stops everything; leave the key out, or \"unlimited\"".into())
            }
            Some(bits) => Ok(Rate { bits_per_second: Some(bits) }),
            None => Err(format!(
                "{text:?} is not a rate such as \"5 Mbit/s\", \"400 MB/s\", \"unlimited\""
            )),
        }
    }
}

/// A rate of a calendar: a rate, no limit, or nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["5 Mbit/s", "unlimited", "pause"]))]
pub(crate) struct ScheduleRate(pub(crate) calendar::Rate);

impl FromStr for ScheduleRate {
    type Err = String;

    fn from_str(text: &str) -> Result<ScheduleRate, String> {
        let text = bounded(text)?;
        if text == "pause" {
            return Ok(ScheduleRate(calendar::Rate::Pause));
        }
        if text == "full" {
            return Err("\"full\" is DFS-R's word; here it is \"unlimited\"".into());
        }
        let rate: Rate = text.parse().map_err(|error: String| {
            error.replace("leave the key out, or \"unlimited\"", "that is \"pause\"")
        })?;
        Ok(ScheduleRate(calendar::Rate::from_bits_per_second(rate.bits_per_second())))
    }
}

impl fmt::Display for ScheduleRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! calendar_texts {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $example:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("examples" = [$example]))]
        pub(crate) struct $name(pub(crate) $inner);

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<$name, String> {
                Ok($name(text.parse()?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

calendar_texts! {
    /// Days of the week.
    DaysText(calendar::Days), "Mon-Fri";
    /// A time of day.
    ClockText(calendar::Clock), "18:00";
    /// Dates, the last one included.
    DatesText(calendar::Dates), "2026-12-24..2026-12-26";
    /// From a moment to another, the end not included.
    WindowText(calendar::Window), "2026-12-24 18:00..2026-12-27 06:00";
    /// DFS-R's digits.
    DfsrText(calendar::Dfsr), "ffff0000...";
}

fn bytes_per_second(text: &str) -> Option<u64> {
    let size: ByteSize = text.strip_suffix("/s")?.trim_end().parse().ok()?;
    Some(size.as_u64())
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits_per_second {
            None => f.write_str("unlimited"),
            Some(bits) => f.write_str(&bits_text(bits)),
        }
    }
}

/// Bits per second in the largest unit that loses nothing; 0 is a pause.
pub(crate) fn bits_text(bits: u64) -> String {
    calendar::Rate::from_bits_per_second(Some(bits)).to_string()
}

/// Free space to keep: a number of bytes or a share of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["10%", "20 GiB"]))]
pub(crate) enum Reserve {
    /// Bytes.
    Bytes(u64),
    /// Per cent of the file system's size.
    Percent(u8),
}

impl FromStr for Reserve {
    type Err = String;

    fn from_str(text: &str) -> Result<Reserve, String> {
        let text = bounded(text)?;
        if let Some(number) = text.strip_suffix('%') {
            return match number.trim_end().parse::<u8>() {
                Ok(percent @ 1..=99) => Ok(Reserve::Percent(percent)),
                _ => Err(format!("{text:?} is not a share from \"1%\" to \"99%\"")),
            };
        }
        Ok(Reserve::Bytes(text.parse::<Size>()?.bytes()))
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reserve::Bytes(bytes) => Size(*bytes).fmt(f),
            Reserve::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A number of bytes above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["100 GiB"]))]
pub(crate) struct Size(u64);

impl Size {
    pub(crate) fn of(bytes: u64) -> Size {
        Size(bytes)
    }

    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let text = bounded(text)?;
        match text.parse::<ByteSize>().map(|size| size.as_u64()) {
            Ok(0) => Err("a size of 0".into()),
            Ok(bytes) => Ok(Size(bytes)),
            Err(_) => Err(format!("{text:?} is not a size such as \"1 GiB\" or \"500 MB\"")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, name) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0.trailing_zeros() >= shift {
                return write!(f, "{} {name}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// A length of time above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("examples" = ["30s", "2h 30m"]))]
pub(crate) struct Period(Duration);

impl Period {
    pub(crate) fn duration(self) -> Duration {
        self.0
    }

    /// Whole seconds, rounded up.
    pub(crate) fn seconds(self) -> u64 {
        self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0)
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Period, String> {
        let text = bounded(text)?;
        let wrong = || format!("{text:?} is not a duration such as \"30s\", \"15m\", \"2h 30m\"");
        let span: Span = text.parse().map_err(|_| wrong())?;
        let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        let length = Duration::try_from(length).map_err(|_| format!("{text:?} is negative"))?;
        if length.is_zero() { Err("a duration of 0".into()) } else { Ok(Period(length)) }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

/// How hard what travels is compressed: `"auto"`, `"none"`, or a level of zstd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "TextOrNumber")]
#[schemars(with = "TextOrNumber", extend("examples" = ["auto", "none", 9]))]
pub(crate) struct Compression(pub(crate) Setting);

/// A number may be written as one; a variable of the environment is always text.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"auto\", \"none\" or a level from 1 to 19")]
enum TextOrNumber {
    Text(String),
    Number(i64),
}

impl TryFrom<TextOrNumber> for Compression {
    type Error = String;

    fn try_from(value: TextOrNumber) -> Result<Compression, String> {
        match value {
            TextOrNumber::Text(text) => bounded(&text)?.parse().map(Compression),
            TextOrNumber::Number(number) => number.to_string().parse().map(Compression),
        }
    }
}

impl Compression {
    /// As it would be written.
    pub(crate) fn to_toml(self) -> toml::Value {
        let text = self.0.to_string();
        match text.parse() {
            Ok(number) => toml::Value::Integer(number),
            Err(_) => toml::Value::String(text),
        }
    }
}

/// Which images belong together: `"auto"`, or a list of patterns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "TextOrList")]
#[schemars(with = "TextOrList", extend("examples" = ["auto", ["win11*"]]))]
pub(crate) enum SetsChoice {
    Auto,
    Globs(Vec<String>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"auto\" or a list of patterns")]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

impl TryFrom<TextOrList> for SetsChoice {
    type Error = String;

    fn try_from(value: TextOrList) -> Result<SetsChoice, String> {
        match value {
            TextOrList::Text(text) if text == "auto" => Ok(SetsChoice::Auto),
            TextOrList::Text(_) => Err("expected \"auto\" or a list of patterns".to_owned()),
            TextOrList::List(globs) => Ok(SetsChoice::Globs(globs)),
        }
    }
}

fn bounded(text: &str) -> Result<&str, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("a value of {} characters", text.len()));
    }
    Ok(text.trim())
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<$name, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}

as_text!(Rate, Reserve, Size, Period, ScheduleRate);
as_text!(DaysText, ClockText, DatesText, WindowText, DfsrText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, bits) in [
            ("5 Mbit/s", Some(5_000_000)),
            ("20Mbps", Some(20_000_000)),
            ("1 Gbit/s", Some(1_000_000_000)),
            ("64 kbit/s", Some(64_000)),
            ("400 MB/s", Some(3_200_000_000)),
            ("1 MiB/s", Some(8 << 20)),
            ("unlimited", None),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits_per_second(), bits, "{text}");
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate, "{text}");
        }
    }

    #[test]
    fn rates_of_calendars() {
        for text in ["pause", "unlimited", "64 kbit/s"] {
            assert_eq!(text.parse::<ScheduleRate>().unwrap().to_string(), text);
        }
        let zero = "0 Mbit/s".parse::<ScheduleRate>().unwrap_err();
        assert!(zero.contains("\"pause\""), "{zero}");
        assert!("full".parse::<ScheduleRate>().unwrap_err().contains("unlimited"));
    }

    #[test]
    fn rubbish_is_refused_with_an_example() {
        for text in [
            "",
            "fast",
            "5",
            "-1 Mbit/s",
            "5 Mbit",
            "0 Mbit/s",
            "0 MB/s",
            "1e99 GB/s",
            "99999999999999999999 Gbit/s",
            "18446744073709551615 Gbps",
            "20000000 TB/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for text in ["", "big", "-1 GiB", "0", "0 GiB", "1 Gigantic"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "soon", "-5s", "0s", "5 parsecs", "1 month"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        for text in ["0%", "100%", "300%", "-1%", "%", "ten%"] {
            assert!(text.parse::<Reserve>().is_err(), "{text}");
        }
        assert!("5 Mbit/s".repeat(100).parse::<Rate>().is_err());
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30s", 30), ("15m", 900), ("2h 30m", 9000), ("1d", 86400), ("500ms", 1)]
        {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.seconds(), seconds, "{text}");
            assert_eq!(period.to_string().parse::<Period>().unwrap(), period, "{text}");
        }
    }

    #[test]
    fn levels() {
        let read = |text: &str| {
            let value: toml::Value = text.parse().map_err(|_| ()).or_else(|()| {
                text.parse::<i64>().map(toml::Value::Integer).map_err(|_| text.to_owned())
            })?;
            Compression::deserialize(value).map_err(|error| error.message().to_owned())
        };
        for (text, shown) in
            [("\"auto\"", "auto"), ("\"none\"", "none"), ("9", "9"), ("\"19\"", "19")]
        {
            let level = read(text).unwrap();
            assert_eq!(level.0.to_string(), shown);
            assert_eq!(Compression::deserialize(level.to_toml()).unwrap(), level);
        }
        for text in ["0", "20", "-1", "\"fast\"", "true", "[3]"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_shares() {
        assert_eq!("1 GiB".parse::<Size>().unwrap().bytes(), 1 << 30);
        assert_eq!("500 MB".parse::<Size>().unwrap().bytes(), 500_000_000);
        assert_eq!("2GiB".parse::<Size>().unwrap().to_string(), "2 GiB");
        assert_eq!("10%".parse::<Reserve>().unwrap(), Reserve::Percent(10));
        assert_eq!("1 MiB".parse::<Reserve>().unwrap().to_string(), "1 MiB");
    }
}
