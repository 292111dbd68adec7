//! Plot: a few series over time, or a bar for each generation, as a drawing that needs no script, with
//! the figures beside it for the script that makes it one to point at. Pure.

use serde_json::json;

use super::words::{Clock, When};

/// Width and height of a drawing in its own units; the style sheet stretches it.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;
/// Share of its place that a bar takes: of the first series, and of those before it.
const BARS: [f64; 2] = [0.62, 0.3];
/// A bar is never wider, nor lower if there is anything at all.
const BAR_WIDTH_MAX: f64 = 90.0;
const BAR_HEIGHT_MIN: f64 = 2.0;

/// What the values are, for labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bits per second.
    Rate,
    /// Bytes.
    Size,
}

impl Unit {
    fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Size => "size",
        }
    }

    fn text(self, value: u64) -> String {
        match self {
            Self::Rate if value == 0 => "0".to_owned(),
            Self::Rate => super::words::rate(Some(value)),
            Self::Size => super::words::size(value),
        }
    }
}

/// One series.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// Class of the style sheet.
    pub(crate) class: &'static str,
    /// Filled down to 0.
    pub(crate) filled: bool,
    /// `None`: there is no value.
    pub(crate) values: Vec<Option<u64>>,
}

/// A drawing.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    /// What isn't shown; may be empty.
    pub(crate) note: String,
    /// Too few points for a line.
    pub(crate) empty: bool,
    /// What stands below both ends of it, where those are no times.
    pub(crate) ends: Option<(String, String)>,
    pub(crate) lines: Vec<Line>,
    /// What the top of the drawing stands for.
    pub(crate) top: String,
    pub(crate) from: Option<When>,
    pub(crate) to: Option<When>,
    /// What it shows, in words.
    pub(crate) said: String,
    /// The figures, for the script.
    pub(crate) data: String,
}

/// One line of a drawing.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    pub(crate) path: String,
}

/// Draws series whose values belong to these instants (RFC 3339), which ascend.
pub(crate) fn plot(
    title: &str,
    unit: Unit,
    times: &[&str],
    series: &[Series],
    clock: &Clock,
) -> Plot {
    let seconds: Vec<i64> = times
        .iter()
        .map(|at| at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second))
        .collect();
    let top = series.iter().flat_map(|one| one.values.iter().flatten()).copied().max().unwrap_or(0);
    // A little air above the highest value.
    let ceiling = top.saturating_add(top / 10).max(1);
    let place = |at: i64, value: u64| place(&seconds, at, value, ceiling);
    let lines = series.iter().map(|one| Line {
        name: one.name,
        class: one.class,
        path: path(&seconds, one, place),
    });
    let named = |one: &Series| {
        let last = one.values.last().copied().flatten();
        last.map(|value| format!("{} {}", one.name, unit.text(value)))
    };
    let now: Vec<String> = series.iter().filter_map(named).collect();
    let values: Vec<&Vec<Option<u64>>> = series.iter().map(|one| &one.values).collect();
    let names: Vec<&str> = series.iter().map(|one| one.name).collect();
    let classes: Vec<&str> = series.iter().map(|one| one.class).collect();
    let (unit_word, zone) = (unit.word(), clock.zone());
    let data = json!({
        "unit": unit_word, "zone": zone, "names": names, "classes": classes, "times": seconds,
        "values": values,
    });
    Plot {
        title: title.to_owned(),
        note: String::new(),
        empty: seconds.len() < 2,
        ends: None,
        lines: lines.collect(),
        top: unit.text(top),
        from: times.first().map(|at| clock.when(at)),
        to: times.last().map(|at| clock.when(at)),
        said: format!("{title}: now {}; highest {}", now.join(", "), unit.text(top)),
        data: data.to_string(),
    }
}

/// Draws a bar of each series for each of these labels, the first series behind the others.
pub(crate) fn bars(title: &str, unit: Unit, labels: &[String], series: &[Series]) -> Plot {
    let top = series.iter().flat_map(|one| one.values.iter().flatten()).copied().max().unwrap_or(0);
    let ceiling = top.saturating_add(top / 10).max(1);
    let line = |(at, one): (usize, &Series)| Line {
        name: one.name,
        class: one.class,
        path: outline(&one.values, BARS[at.min(1)], ceiling),
    };
    let last = |one: &Series| {
        one.values
            .last()
            .copied()
            .flatten()
            .map(|value| format!("{} {}", one.name, unit.text(value)))
    };
    let now: Vec<String> = series.iter().filter_map(last).collect();
    let values: Vec<&Vec<Option<u64>>> = series.iter().map(|one| &one.values).collect();
    let names: Vec<&str> = series.iter().map(|one| one.name).collect();
    let classes: Vec<&str> = series.iter().map(|one| one.class).collect();
    let places: Vec<usize> = (1..=labels.len()).collect();
    let data = json!({
        "unit": unit.word(), "names": names, "classes": classes, "labels": labels,
        "times": places, "values": values,
    });
    let (first, newest) = (labels.first(), labels.last());
    let said = newest.map_or(String::new(), |newest| format!("{newest}: {}; ", now.join(", ")));
    Plot {
        title: title.to_owned(),
        note: String::new(),
        empty: labels.is_empty(),
        ends: first.zip(newest).map(|(first, newest)| (first.clone(), newest.clone())),
        lines: series.iter().enumerate().map(line).collect(),
        top: unit.text(top),
        from: None,
        to: None,
        said: format!("{title}, for {} of them: {said}highest {}", labels.len(), unit.text(top)),
        data: data.to_string(),
    }
}

/// The outline of bars, one for each value that is there and above 0.
fn outline(values: &[Option<u64>], share: f64, ceiling: u64) -> String {
    let mut text = String::new();
    #[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
    let slot = WIDTH / values.len().max(1) as f64;
    let width = (slot * share).min(BAR_WIDTH_MAX);
    for (at, value) in values.iter().enumerate() {
        let Some(value) = value.filter(|value| *value > 0) else { continue };
        #[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
        let (left, high) = (
            slot * (at as f64 + 0.5) - width / 2.0,
            (value as f64 / ceiling as f64 * HEIGHT).max(BAR_HEIGHT_MIN),
        );
        let (right, high) = (left + width, HEIGHT - high);
        text.push_str(&format!("M{left:.1} {HEIGHT:.0}V{high:.1}H{right:.1}V{HEIGHT:.0}Z"));
    }
    text
}

fn place(seconds: &[i64], at: i64, value: u64, ceiling: u64) -> (i64, i64) {
    let (first, last) =
        (seconds.first().copied().unwrap_or(0), seconds.last().copied().unwrap_or(0));
    #[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
    let (x, y) = (
        (at - first) as f64 / (last - first).max(1) as f64 * WIDTH,
        HEIGHT - value as f64 / ceiling as f64 * HEIGHT,
    );
    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    let placed = (x.round() as i64, y.round() as i64);
    placed
}

/// A path with a gap wherever there is no value. A filled one has an outline to 0 of each piece.
fn path(seconds: &[i64], series: &Series, place: impl Fn(i64, u64) -> (i64, i64)) -> String {
    let mut text = String::new();
    let mut piece: Vec<(i64, i64)> = Vec::new();
    let mut end = |piece: &mut Vec<(i64, i64)>| {
        let (Some(first), Some(last)) = (piece.first().copied(), piece.last().copied()) else {
            return;
        };
        text.push_str(&format!("M{} {}", first.0, first.1));
        for (x, y) in piece.drain(..).skip(1) {
            text.push_str(&format!("L{x} {y}"));
        }
        if series.filled {
            #[expect(clippy::cast_possible_truncation, reason = "a small number")]
            let floor = HEIGHT as i64;
            text.push_str(&format!("V{floor}H{}Z", first.0));
        } else if first == last {
            text.push_str("h1");
        }
    };
    for (at, value) in seconds.iter().zip(&series.values) {
        match value {
            Some(value) => {
                let placed = place(*at, *value);
                // What lies on a level line needn't be said.
                let level = |last: &[(i64, i64)]| matches!(last, [.., a, b] if a.1 == b.1 && b.1 == placed.1);
                if level(&piece) {
                    piece.pop();
                }
                piece.push(placed);
            }
            None => end(&mut piece),
        }
    }
    end(&mut piece);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::at("UTC", 1_793_617_200)
    }

    fn series(values: &[Option<u64>], filled: bool) -> Series {
        Series { name: "sent", class: "sent", filled, values: values.to_vec() }
    }

    #[test]
    fn lines_have_gaps_and_areas_a_floor() {
        let times = ["1970-01-01T00:00:00Z", "1970-01-01T00:00:10Z", "1970-01-01T00:00:20Z"];
        let draw = |values: &[Option<u64>], filled| {
            let drawn = plot("Rate", Unit::Rate, &times, &[series(values, filled)], &clock());
            assert!(!drawn.empty);
            drawn
        };
        let line = draw(&[Some(0), Some(1000), Some(0)], false);
        assert_eq!(line.lines[0].path, "M0 200L500 18L1000 200");
        assert_eq!(line.top, "1 kbit/s");
        assert_eq!(draw(&[Some(0), Some(0), Some(0)], false).lines[0].path, "M0 200L1000 200");
        assert_eq!(draw(&[Some(1), None, Some(1)], false).lines[0].path, "M0 0h1M1000 0h1");
        assert_eq!(draw(&[Some(0), Some(0), None], true).lines[0].path, "M0 200L500 200V200H0Z");
        assert_eq!(draw(&[None, None, None], false).lines[0].path, "");
        assert!(line.data.contains("\"times\":[0,10,20]"), "{}", line.data);
    }

    #[test]
    fn each_generation_has_a_bar() {
        let labels = ["@1", "@2"].map(str::to_owned);
        let series = [series(&[Some(1000), Some(0)], true), series(&[None, Some(1)], false)];
        let drawn = bars("Changed", Unit::Size, &labels, &series);
        assert!(!drawn.empty);
        assert_eq!(drawn.lines[0].path, "M205.0 200V18.2H295.0V200Z");
        assert_eq!(drawn.lines[1].path, "M705.0 200V198.0H795.0V200Z", "little is seen, too");
        assert_eq!(drawn.ends, Some(("@1".to_owned(), "@2".to_owned())));
        assert!(drawn.data.contains(r#""labels":["@1","@2"]"#), "{}", drawn.data);
        assert!(bars("Changed", Unit::Size, &[], &[]).empty);
    }

    #[test]
    fn nothing_is_no_drawing() {
        assert!(plot("Rate", Unit::Size, &[], &[series(&[], true)], &clock()).empty);
        let one = plot("Rate", Unit::Size, &["soon"], &[series(&[Some(5)], true)], &clock());
        assert!(one.empty && one.said.contains("now sent 5 B"), "{}", one.said);
    }
}
