//! The off-peak question, asked with what was measured here.

use serde::{Deserialize, Serialize};

use super::results::{Results, WorkloadInfo};
use super::summary::{WALL, WIRE};
use crate::link::{Link, Shape, UNSHAPED};
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
    /// The update in words, and its tables in Markdown.
    pub(super) tables: Vec<(String, String)>,
    /// What a run with time scaled down says to that; why there is none.
    pub(super) checked: String,
}

/// The update in words: a synthetic one says that it is no more than that.
pub(super) fn title(results: &Results, update: &str) -> String {
    let synthetic = info(results, update).is_some_and(|info| info.stands_in.is_some());
    if synthetic { format!("a synthetic stand-in for {update}") } else { update.to_owned() }
}

fn info<'a>(results: &'a Results, update: &str) -> Option<&'a WorkloadInfo> {
    results.workloads.iter().find(|info| info.name == update)
}

/// Bytes and local seconds of a tool's update. Where it wasn't measured without a limit, the bytes
/// of a link that has one serve, which is named; its wall time is not local work.
fn figures(results: &Results, update: &str, tool: &str) -> Option<(u64, Option<f64>, String)> {
    let on = |link: &str| {
        let cell = results.cell(link, update, tool)?;
        Some((WIRE.median(cell)? as u64, WALL.median(cell)))
    };
    if let Some((bytes, seconds)) = on(UNSHAPED) {
        return Some((bytes, seconds, UNSHAPED.to_owned()));
    }
    results.links.iter().find_map(|link| Some((on(&link.name)?.0, None, link.name.clone())))
}

/// What each tool would send for an update.
fn demands(results: &Results, question: &Question, update: &str) -> Option<Vec<Demand>> {
    let info = info(results, update)?;
    let demand = |tool: &&str| match figures(results, update, tool) {
        Some((bytes, seconds, _)) => {
            Demand::measured(tool, (bytes, seconds), info.image_bytes, question.image_bytes)
        }
        None => Demand::unknown(tool, "bytes were not measured"),
    };
    Some(TOOLS.iter().map(demand).collect())
}

/// What to know about an update's table.
fn notes(results: &Results, question: &Question, update: &str) -> String {
    let measured = info(results, update).map_or(question.image_bytes, |info| info.image_bytes);
    let mut text = String::new();
    let times = question.image_bytes as f64 / measured.max(1) as f64;
    if times > 1.0 {
        text.push_str(&format!(
            "\nBytes and local work are {times:.0} times what an image of {} MiB took. Local work \
             has the start of programs and connections in it, which doesn't grow like that: it is \
             too much, the more so the less of it was work on the image.\n",
            measured >> 20
        ));
    }
    for tool in TOOLS {
        let figures = figures(results, update, tool);
        if let Some((.., link)) = figures.filter(|(.., link)| link != UNSHAPED) {
            text.push_str(&format!(
                "\n{tool}: bytes as over {link}; not measured on the unshaped link, so local work \
                 is left out.\n"
            ));
        }
    }
    text
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
        let text = table(&question, &demands) + &notes(results, &question, update);
        Some((title(results, update), text))
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

#[cfg(test)]
mod tests {
    use super::super::results::LinkInfo;
    use super::super::summary::tests::run;
    use super::*;

    const UPDATE: &str = UPDATES[0];

    fn results(links: &[&str], stands_in: Option<String>) -> Results {
        let mut results = Results::new("quick", 1, 64 << 20, 1);
        let (words, image_bytes) = (String::new(), 64 << 20);
        results.workloads.push(WorkloadInfo {
            name: UPDATE.to_owned(),
            words,
            stands_in,
            image_bytes,
            allocated_bytes: image_bytes,
            changed_page_bytes: None,
        });
        for (name, seconds) in links.iter().zip([40.0, 2.0]) {
            results.links.push(LinkInfo {
                name: (*name).to_owned(),
                words: String::new(),
                bits_per_second: None,
                counted: String::new(),
            });
            let cell = results.cell_mut(name, UPDATE, "rsync");
            cell.runs.push(run(seconds, Some([1000, 24])));
        }
        results
    }

    #[test]
    fn the_wall_time_of_a_shaped_link_is_no_local_work() {
        let question = Question::tuesday_noon();
        let local = |results: &Results| {
            let all = demands(results, &question, UPDATE).unwrap();
            let rsync = all.into_iter().find(|demand| demand.tool == "rsync").unwrap();
            assert_eq!(rsync.bytes, Ok(1024 * 1024));
            rsync.local_seconds
        };
        // Wherever it is in the list.
        assert_eq!(local(&results(&["100mbit", UNSHAPED], None)), Some(2.0 * 1024.0));
        let shaped = results(&["100mbit"], None);
        assert_eq!(local(&shaped), None);
        let text = notes(&shaped, &question, UPDATE);
        assert!(text.contains("rsync: bytes as over 100mbit"), "{text}");
        assert!(text.contains("1024 times what an image of 64 MiB took"), "{text}");
    }

    #[test]
    fn what_is_synthetic_says_so() {
        let words = |stands_in| title(&results(&[UNSHAPED], stands_in), UPDATE);
        assert_eq!(words(None), "real-small-day");
        assert_eq!(words(Some("none".to_owned())), "a synthetic stand-in for real-small-day");
    }
}
