//! An axis, as a coordinate of a chart: which range it shows, linear or logarithmic, and at which
//! values it has ticks with which words.

use std::ops::Range;

use plotters::coord::ranged1d::{
    KeyPointHint, KeyPointWeight, NoDefaultFormatting, Ranged, ValueFormatter,
};

/// With values that differ by more than this, small ones would vanish on a linear axis.
const LINEAR_RATIO_MAX: f64 = 50.0;
/// About as many as an axis has.
const TICKS: f64 = 8.0;

/// A range of values and how it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
    unit: String,
}

impl Axis {
    /// From 0, or, if the values above 0 are of very different sizes, logarithmic.
    pub(crate) fn fitting(values: impl Iterator<Item = f64> + Clone, unit: &str) -> Axis {
        let high = values.clone().fold(0.0, f64::max);
        let low = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        if high > low * LINEAR_RATIO_MAX {
            Axis::logarithmic(low, high, unit)
        } else {
            let high = if high > 0.0 { high } else { 1.0 };
            let step = nice_step(high);
            Axis::linear((high / step).ceil().max(1.0) * step, step, unit)
        }
    }

    /// From 0 to `count`, for things that have names of their own.
    pub(crate) fn counting(count: usize) -> Axis {
        Axis { ticks: Vec::new(), ..Axis::linear(count.max(1) as f64, 1.0, "") }
    }

    /// From 0 to exactly `high`.
    pub(crate) fn up_to(high: f64, unit: &str) -> Axis {
        Axis::linear(high, nice_step(high), unit)
    }

    fn linear(high: f64, step: f64, unit: &str) -> Axis {
        // A hair more: a sum of steps may miss the end by a rounding.
        let count = (high / step + 1e-6).floor() as u32;
        let ticks = (0..=count).map(|number| f64::from(number) * step).collect();
        Axis { low: 0.0, high, logarithmic: false, ticks, unit: unit.to_owned() }
    }

    fn logarithmic(low: f64, high: f64, unit: &str) -> Axis {
        let first = low.log10().floor() as i32;
        let mut last = high.log10().ceil() as i32;
        // A bar on the lowest line would have no height.
        let first = if low <= 10f64.powi(first) * 1.05 { first - 1 } else { first };
        last = last.max(first + 1);
        let ticks = (first..=last).map(|power| 10f64.powi(power)).collect();
        let (low, high) = (10f64.powi(first), 10f64.powi(last));
        Axis { low, high, logarithmic: true, ticks, unit: unit.to_owned() }
    }

    /// The low end: where bars begin.
    pub(crate) fn low(&self) -> f64 {
        self.low
    }

    /// Where a value is: 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }

    /// What stands beside the axis.
    pub(crate) fn description(&self) -> String {
        let scale = if self.logarithmic { " (logarithmic)" } else { "" };
        format!("{}{scale}", self.unit)
    }

    fn words(&self, value: f64) -> String {
        if !self.unit.ends_with("bytes") {
            return plain(value);
        }
        let prefixes = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
        let fits = prefixes.iter().find(|(size, _)| value >= *size * 0.999_999);
        match fits {
            Some((size, prefix)) => format!("{} {prefix}", plain(value / size)),
            None => format!("{} B", plain(value)),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        begin + (f64::from(end - begin) * self.place(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            KeyPointWeight::Any | KeyPointWeight::Bold => self.ticks.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.words(*value)
    }
}

/// Without the noise of binary fractions.
fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 1, 2 or 5 times a power of ten, so that there are about as many ticks as wanted.
fn nice_step(high: f64) -> f64 {
    let rough = high / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| power * times >= rough * 0.999_999);
    power * times.unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.format_ext(tick)).collect()
    }

    #[test]
    fn a_linear_axis_begins_at_0_and_ends_at_a_tick() {
        let axis = Axis::fitting([3.0, 41.0].into_iter(), "seconds");
        assert_eq!(words(&axis), ["0", "10", "20", "30", "40", "50"]);
        assert!((axis.place(25.0) - 0.5).abs() < 1e-9);
        assert_eq!(axis.description(), "seconds");
        let axis = Axis::fitting([0.3].into_iter(), "seconds");
        assert_eq!(words(&axis), ["0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3"]);
    }

    #[test]
    fn a_logarithmic_axis_has_decades() {
        let axis = Axis::fitting([0.0, 2e4, 6e6].into_iter(), "wire bytes");
        assert_eq!(words(&axis), ["10 kB", "100 kB", "1 MB", "10 MB"]);
        assert!((axis.place(1e6) - 2.0 / 3.0).abs() < 1e-9 && axis.place(0.0) == 0.0);
        assert_eq!(axis.description(), "wire bytes (logarithmic)");
        // The smallest bar can still be seen.
        let axis = Axis::fitting([10.0, 6000.0].into_iter(), "bytes");
        assert_eq!(words(&axis), ["1 B", "10 B", "100 B", "1 kB", "10 kB"]);
    }

    #[test]
    fn no_values_or_only_nothing() {
        assert_eq!(words(&Axis::fitting([0.0].into_iter(), "s")).first().unwrap(), "0");
        assert_eq!(words(&Axis::fitting([].into_iter(), "s")).last().unwrap(), "1");
    }

    #[test]
    fn an_axis_of_a_given_end() {
        let axis = Axis::up_to(33.0, "hours");
        assert_eq!(words(&axis), ["0", "5", "10", "15", "20", "25", "30"]);
        assert!((axis.place(33.0) - 1.0).abs() < 1e-9);
    }
}
