//! What was measured, against what was promised: rows, as Markdown for people and JSON for
//! scripts. A row that could not be measured says why and fails nothing; a row that misses its
//! bound fails the run.

use std::fmt;

use serde_json::{Value, json};

/// A measured or promised amount.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Bytes(f64),
    Seconds(f64),
    /// Bytes in a second.
    Speed(f64),
    /// One thing as a multiple of another.
    Times(f64),
    /// A part of 1.
    Share(f64),
}

impl Amount {
    #[expect(clippy::cast_precision_loss, reason = "exact to 8 PiB")]
    pub(crate) fn bytes(bytes: u64) -> Amount {
        Amount::Bytes(bytes as f64)
    }

    pub(crate) fn value(self) -> f64 {
        match self {
            Amount::Bytes(value)
            | Amount::Seconds(value)
            | Amount::Speed(value)
            | Amount::Times(value)
            | Amount::Share(value) => value,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Amount::Bytes(_) => "bytes",
            Amount::Seconds(_) => "seconds",
            Amount::Speed(_) => "bytes_per_second",
            Amount::Times(_) => "times",
            Amount::Share(_) => "share",
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Amount::Bytes(bytes) if bytes < 10_240.0 => write!(f, "{bytes:.0} B"),
            Amount::Bytes(bytes) if bytes < 10_485_760.0 => write!(f, "{:.1} KiB", bytes / 1024.0),
            Amount::Bytes(bytes) => write!(f, "{:.1} MiB", bytes / 1_048_576.0),
            Amount::Seconds(seconds) if seconds < 0.1 => write!(f, "{:.2} ms", seconds * 1e3),
            Amount::Seconds(seconds) => write!(f, "{seconds:.2} s"),
            Amount::Speed(speed) => write!(f, "{:.2} GB/s", speed / 1e9),
            Amount::Times(times) => write!(f, "{times:.2} x"),
            Amount::Share(share) => write!(f, "{:.3} %", share * 100.0),
        }
    }
}

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// Not measured here.
    Skipped,
    /// Nothing was promised: for information.
    Noted,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    figure: String,
    bound: String,
    measured: String,
    numbers: Option<(Amount, Option<Amount>)>,
    /// CPU seconds of sender and receiver.
    cpu: Option<[f64; 2]>,
    verdict: Verdict,
}

impl Row {
    fn new(figure: &str, bound: String, measured: String, verdict: Verdict) -> Row {
        let figure = figure.to_owned();
        Row { figure, bound, measured, numbers: None, cpu: None, verdict }
    }

    /// `value` must not be above `limit`.
    pub(crate) fn at_most(figure: &str, limit: Amount, value: Amount) -> Row {
        let met = value.value() <= limit.value();
        Row::against(figure, "<=", limit, value, met)
    }

    /// `value` must not be below `limit`.
    pub(crate) fn at_least(figure: &str, limit: Amount, value: Amount) -> Row {
        let met = value.value() >= limit.value();
        Row::against(figure, ">=", limit, value, met)
    }

    fn against(figure: &str, sign: &str, limit: Amount, value: Amount, met: bool) -> Row {
        let verdict = if met { Verdict::Met } else { Verdict::Missed };
        let row = Row::new(figure, format!("{sign} {limit}"), value.to_string(), verdict);
        Row { numbers: Some((value, Some(limit))), ..row }
    }

    /// Something that holds or doesn't.
    pub(crate) fn check(figure: &str, bound: &str, met: bool, measured: String) -> Row {
        let verdict = if met { Verdict::Met } else { Verdict::Missed };
        Row::new(figure, bound.to_owned(), measured, verdict)
    }

    /// Not measured, and why.
    pub(crate) fn skipped(figure: &str, why: &str) -> Row {
        Row::new(figure, "-".to_owned(), format!("skipped: {why}"), Verdict::Skipped)
    }

    /// Measured, but nothing was promised.
    pub(crate) fn noted(figure: &str, value: Amount) -> Row {
        let row = Row::new(figure, "-".to_owned(), value.to_string(), Verdict::Noted);
        Row { numbers: Some((value, None)), ..row }
    }

    /// The same with the CPU seconds of sender and receiver.
    pub(crate) fn with_cpu(self, cpu: [f64; 2]) -> Row {
        Row { cpu: Some(cpu), ..self }
    }

    /// The same with words after the bound.
    pub(crate) fn bound_is(mut self, words: &str) -> Row {
        self.bound.push_str(&format!(" ({words})"));
        self
    }

    /// The same with words after what was measured.
    pub(crate) fn noting(mut self, words: &str) -> Row {
        self.measured.push_str(&format!("; {words}"));
        self
    }

    fn ok(&self) -> &'static str {
        match self.verdict {
            Verdict::Met => "yes",
            Verdict::Missed => "**no**",
            Verdict::Skipped | Verdict::Noted => "-",
        }
    }

    fn cells(&self) -> [String; 5] {
        let cpu = self.cpu.map_or_else(|| "-".to_owned(), |[a, b]| format!("{a:.1} + {b:.1}"));
        [&self.figure, &self.bound, &self.measured, &cpu, &self.ok().to_owned()]
            .map(|cell| cell.replace('|', "\\|"))
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "figure": self.figure,
            "bound": self.bound,
            "measured": self.measured,
            "cpu_seconds": self.cpu,
            "ok": match self.verdict {
                Verdict::Met => Some(true),
                Verdict::Missed => Some(false),
                Verdict::Skipped | Verdict::Noted => None,
            },
        });
        if let Some((value, limit)) = self.numbers {
            object["value"] = json!(value.value());
            object["limit"] = json!(limit.map(Amount::value));
            object["unit"] = json!(value.unit());
        }
        object
    }
}

/// All rows, in the order they were measured.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Where and with what it was measured.
    pub(crate) conditions: Vec<(String, String)>,
    rows: Vec<Row>,
}

impl Table {
    /// No rows yet.
    pub(crate) fn new(conditions: Vec<(String, String)>) -> Table {
        Table { conditions, rows: Vec::new() }
    }

    /// Adds a row and says it on stderr at once: a run takes long.
    pub(crate) fn add(&mut self, row: Row) {
        let [figure, bound, measured, cpu, ok] = row.cells();
        super::say(&format!("   => {figure}: {measured} (bound {bound}, CPU s {cpu}, ok {ok})"));
        self.rows.push(row);
    }

    /// No row misses its bound.
    pub(crate) fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Missed)
    }

    /// For people.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.conditions {
            text.push_str(&format!("- {name}: {value}\n"));
        }
        let header = ["row", "bound", "measured", "CPU s (sender + receiver)", "ok"];
        text.push_str(&format!("\n| {} |\n|---|---|---|---|---|\n", header.join(" | ")));
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.cells().join(" | ")));
        }
        text
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let conditions: serde_json::Map<String, Value> =
            self.conditions.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "schema": "v1",
            "ok": self.all_met(),
            "conditions": conditions,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_by_their_bound() {
        let limit = Amount::Bytes(10.0);
        let rows = [
            (Row::at_most("a", limit, Amount::Bytes(10.0)), true),
            (Row::at_most("a", limit, Amount::Bytes(10.5)), false),
            (Row::at_least("a", limit, Amount::Bytes(9.0)), false),
            (Row::at_least("a", limit, Amount::Bytes(10.0)), true),
            (Row::at_most("a", limit, Amount::Bytes(f64::NAN)), false),
            (Row::skipped("a", "no root"), true),
            (Row::noted("a", limit), true),
        ];
        for (row, met) in rows {
            let mut table = Table::new(Vec::new());
            table.rows.push(row.clone());
            assert_eq!(table.all_met(), met, "{row:?}");
            assert_eq!(table.json()["ok"], met);
        }
    }

    #[test]
    fn amounts_have_units() {
        for (amount, text) in [
            (Amount::Bytes(512.0), "512 B"),
            (Amount::Bytes(102_400.0), "100.0 KiB"),
            (Amount::Bytes(3.0 * 1_073_741_824.0), "3072.0 MiB"),
            (Amount::Seconds(0.0123), "12.30 ms"),
            (Amount::Seconds(2.0), "2.00 s"),
            (Amount::Speed(3.25e9), "3.25 GB/s"),
            (Amount::Times(4.0), "4.00 x"),
            (Amount::Share(0.001), "0.100 %"),
        ] {
            assert_eq!(amount.to_string(), text);
        }
    }

    #[test]
    fn a_pipe_does_not_end_a_cell() {
        let mut table = Table::new(Vec::new());
        table.rows.push(Row::check("a | b", "x", true, "y".into()));
        assert!(table.markdown().contains("| a \\| b | x | y | - | yes |"));
    }
}
