//! The off-peak question, asked with what was measured here.

use serde::{Deserialize, Serialize};

use super::results::Results;
use super::summary::{WALL, WIRE};
use crate::link::{Link, Shape};
use crate::offpeak::{Demand, Question, Serving, check, lines, table};
use crate::report::Series;

/// Tools that are asked about, and whose figures they are from.
const TOOLS: [&str; 4] = ["full-copy", "rsync", "rsync-zstd", "blockferry"];
/// Updates that are asked about.
pub(super) const UPDATES: [&str; 2] = ["real-small-day", "real-big-update"];

/// The answer in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Night {
    pub(super) words: String,
    /// The update and a table of Markdown.
    pub(super) tables: Vec<(String, String)>,
    /// What a run with time scaled down says to that; why there is none.
    pub(super) checked: String,
}

/// What each tool would send for an update, from the unshaped link.
fn demands(results: &Results, question: &Question, update: &str) -> Option<Vec<Demand>> {
    let link = &results.links.first()?.name;
    let info = results.workloads.iter().find(|info| info.name == update)?;
    let demand = |tool: &&str| {
        let cell = results.cell(link, update, tool);
        let (bytes, seconds) = cell.and_then(|cell| WIRE.median(cell).zip(WALL.median(cell)))?;
        let measured = (bytes as u64, seconds);
        Some(Demand::measured(tool, measured, info.image_bytes, question.image_bytes))
    };
    let all = TOOLS.iter().map(|tool| {
        demand(tool).unwrap_or_else(|| Demand::unknown(tool, "bytes were not measured"))
    });
    Some(all.collect())
}

/// Computes it, and plays the full copy once on a link of our own.
pub(super) fn ask(results: &Results) -> Night {
    let question = Question::tuesday_noon();
    let words = format!(
        "an image of {} GiB changes on a Tuesday at noon; {} branches; {}",
        question.image_bytes >> 30,
        question.branches,
        question.calendar.words()
    );
    let tables = UPDATES.iter().filter_map(|update| {
        let demands = demands(results, &question, update)?;
        Some(((*update).to_owned(), table(&question, &demands)))
    });
    let tables: Vec<_> = tables.collect();
    let checked = match tables.is_empty() {
        true => "no update was measured to ask about".to_owned(),
        false => checked(results, &question),
    };
    Night { words, tables, checked }
}

fn checked(results: &Results, question: &Question) -> String {
    let shape = Shape { bits_per_second: Some(100_000_000), ..Shape::UNSHAPED };
    if results.selection == "smoke" {
        return "not in this selection".to_owned();
    }
    if let Some(why) = Link::missing(&shape) {
        return format!("not checked: {why}");
    }
    match Link::up(shape, super::MTU).and_then(|link| check(question, &link, super::MTU)) {
        Ok(played) => format!(
            "a full copy played on a link with time and bytes scaled down by {}: {:.2} s predicted, {:.2} s \
             measured ({:+.1} %)",
            played.scale,
            played.predicted_seconds,
            played.measured_seconds,
            100.0 * (played.measured_seconds / played.predicted_seconds - 1.0)
        ),
        Err(error) => format!("the check failed: {error:#}"),
    }
}

/// A plot's lines for an update.
pub(super) fn series(results: &Results, update: &str) -> Option<Vec<Series>> {
    let question = Question::tuesday_noon();
    let demands = demands(results, &question, update)?;
    Some(lines(&question, &demands, Serving::UplinkInTurn))
}
