//! What a command says: data on stdout, progress and prose on stderr.
//!
//! The only file that writes to the terminal. Colour is for terminals, unless `NO_COLOR` or
//! `--color` say otherwise; a bar is drawn on a terminal only. A closed stdout is not an error.

use crate::args::{ColorChoice, Global};
use crate::failure::{AdminError, Failure, on_stdout};
use blockferry_node::api::{Progress, Schema};
use bytesize::ByteSize;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use std::io::{IsTerminal, Write};

/// How a command may speak.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
    /// Colour on stderr.
    color: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Output {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !no_color && std::io::stderr().is_terminal(),
        };
        Output { json: global.json, quiet: global.quiet, verbose: global.verbose, color }
    }

    /// Before the command line is understood.
    pub(crate) fn bare(json: bool) -> Output {
        Output { json, quiet: false, verbose: 0, color: false }
    }

    /// Data: a line (or lines) on stdout.
    pub(crate) fn data(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let text = lines(text.trim_end_matches('\n'));
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| on_stdout(&error))
    }

    /// One object as one line on stdout.
    pub(crate) fn object<T: Serialize>(&self, object: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(object)
            .map_err(|error| AdminError::new("INTERNAL", format!("no JSON form: {error}")))?;
        self.data(&text)
    }

    /// The object with `--json`, else the text.
    pub(crate) fn either<T: Serialize>(
        &self,
        object: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json { self.object(object) } else { self.data(&text()) }
    }

    /// The last line of a long job: its object under `summary`, or the text.
    pub(crate) fn summary<T: Serialize>(
        &self,
        object: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        self.either(&json!({ "schema": Schema, "summary": object }), text)
    }

    /// One of several results of a long job.
    pub(crate) fn item<T: Serialize>(
        &self,
        object: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        self.either(&json!({ "schema": Schema, "item": object }), text)
    }

    /// Prose: a line on stderr. A stderr that nobody reads is no reason to stop.
    pub(crate) fn prose(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{}", lines(text));
        }
    }

    /// The error, for people on stderr, for scripts on stdout.
    pub(crate) fn error(&self, error: &AdminError) {
        let (red, plain) = if self.color { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
        let (code, message) = (cell(&error.code), cell(&error.message));
        let mut text = format!("{red}error[{code}]{plain}: {message}");
        if !error.remedy.is_empty() {
            text.push_str(&format!("\n  help: {}", cell(&error.remedy)));
        }
        let _ = writeln!(std::io::stderr().lock(), "{text}");
        if self.json {
            let object = json!({ "schema": Schema, "error": error });
            let _ = writeln!(std::io::stdout().lock(), "{object}");
        }
    }

    /// A bar on stderr when that is a terminal, else nothing at all.
    pub(crate) fn bar(&self) -> Bar {
        let bar = ProgressBar::no_length();
        let hidden = self.quiet || !std::io::stderr().is_terminal();
        bar.set_draw_target(if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        });
        Bar { bar, with_length: false }
    }
}

/// A progress bar for one job.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    with_length: bool,
}

const SPINNER: &str = "{spinner} {msg} [{elapsed}]";
const LENGTH: &str =
    "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}";

impl Bar {
    /// Shows how far the job is.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let with_length = progress.total_bytes > 0;
        if with_length != self.with_length || self.bar.position() == 0 {
            let template = if with_length { LENGTH } else { SPINNER };
            let style = ProgressStyle::with_template(template);
            self.bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
            );
            self.with_length = with_length;
        }
        if with_length {
            self.bar.set_length(progress.total_bytes);
            self.bar.set_position(progress.done_bytes.min(progress.total_bytes));
        }
        self.bar.set_message(message(progress));
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn message(progress: &Progress) -> String {
    let mut text = progress.phase.clone();
    if let Some(image) = &progress.image {
        text.push_str(&format!(" {image}"));
    }
    if let Some(peer) = &progress.peer {
        text.push_str(&format!(" to {peer}"));
    }
    if progress.wire_bytes > 0 {
        text.push_str(&format!(" ({} on the wire)", size(progress.wire_bytes)));
    }
    text
}

/// A table without lines: a header, then rows; nothing but a sentence when it is empty.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec()).add_rows(rows);
    for column in 0..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_padding((0, 2));
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Text that may hold names from outside, made safe for a terminal: line ends and tabs stay, other
/// control characters are escaped.
fn lines(text: &str) -> String {
    escape(text, |c| c != '\n' && c != '\t')
}

/// The same for what must be on one line.
fn cell(text: &str) -> String {
    escape(text, |_| true)
}

fn escape(text: &str, bad: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && bad(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A number with its noun: `1 image`, `2 images`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Seconds for people: `12.3 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole =
        std::time::Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |length| length.as_secs());
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86400);
    match (hours, days) {
        (0, _) => format!("{minutes} min {} s", whole % 60),
        (_, 0) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// What is not known is a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A value of a documented enumeration as it is written in JSON.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text.replace('_', " "),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (value, text) in [
            (0.0, "0.0 s"),
            (59.94, "59.9 s"),
            (60.0, "1 min 0 s"),
            (250.0, "4 min 10 s"),
            (11_100.0, "3 h 5 min"),
            (187_200.0, "2 d 4 h"),
        ] {
            assert_eq!(seconds(value), text);
        }
        assert!(seconds(f64::MAX).ends_with('h'));
    }

    #[test]
    fn tables_have_no_lines_and_no_trailing_blanks() {
        let text = table(
            &["NAME", "SIZE"],
            vec![vec!["a".into(), "1 KiB".into()], vec!["long-name".into(), String::new()]],
            "none",
        );
        assert_eq!(text, "NAME       SIZE\na          1 KiB\nlong-name");
        assert_eq!(table(&["NAME"], vec![], "none"), "none");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size(3 << 30), "3.0 GiB");
        assert_eq!(size(5), "5 B");
    }
}
