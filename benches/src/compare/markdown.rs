//! The report for people: how it was measured, a table for each workload on each link, what was
//! typed. Each row has everything that a run costs, so that no figure stands alone.

use super::job::Run;
use super::plots::{NIGHT_PREFIX, Plot};
use super::results::{Cell, Results, WorkloadInfo};
use super::summary::{
    AFTERWARDS, CPU, EXTRA, MEMORY, Metric, READ, STANDING, SYNC, Spreading, WALL, WIRE, WIRE_BACK,
    WIRE_THERE, WRITTEN, Yardsticks, worst_spread, yardsticks,
};
use super::tools::OURS;

const MIB: f64 = 1_048_576.0;

const COLUMNS: [&str; 16] = [
    "tool",
    "wall s",
    "of full copy",
    "of best peer",
    "then until on disk s",
    "CPU s",
    "wire MiB there + back",
    "of full copy",
    "of best peer",
    "disk read MiB",
    "disk written MiB",
    "peak memory MiB",
    "peak extra disk MiB",
    "standing disk MiB",
    "afterwards s (CPU s)",
    "identical",
];

const LEGEND: &str = "\
Medians; wall seconds and wire bytes with the least and the largest of all runs. `a + b` are \
sender and receiver, or there and back. *Of full copy* is the ratio to the lesser figure \
of `full-copy` and `rsync-whole`, *of best peer* to the least of the tools that are neither \
Blockferry nor copy everything. *Wall* is \
from the changed file in place at the sender until the receiver has it whole; *then until on disk* \
is `syncfs` at the receiver after that: what a tool that doesn't sync leaves to be written. *CPU* \
is that of all processes of an end, ended ones included, not the kernel's work for the network in \
the other end's name. *Disk written* is what went into the page cache to be written, or directly. \
*Peak memory* is the sum of resident memory of all processes of an end, looked at every 20 ms; \
pages that two share count twice. *Peak extra disk* is what an end's directory took at most above \
what it took at the start, looked at as often (an end of many files less often); *standing disk* is what it held at the start \
besides the images: indexes, chunk stores, spares, logs. *Afterwards* is what a service did until \
it rested. `-` is said below the table.";

/// The whole report.
pub(super) fn report(results: &Results, plots: &[Plot]) -> String {
    let mut text = String::from("# Comparison\n\nWritten by `blockferry-benches compare`.\n\n");
    text.push_str(&conditions(results));
    text.push_str(&format!("\n{LEGEND}\n"));
    for link in &results.links {
        text.push_str(&format!(
            "\n## Link: {}\n\n{}. Wire bytes: {}.\n",
            link.name, link.words, link.counted
        ));
        for plot in plots.iter().filter(|plot| plot.title.contains(&format!("over {} ", link.name)))
        {
            text.push_str(&format!("\n![{}]({})\n", plot.title, plot.file));
        }
        let is_here = |info: &&WorkloadInfo| {
            results.cells.iter().any(|c| c.link == link.name && c.workload == info.name)
        };
        for info in results.workloads.iter().filter(is_here) {
            text.push_str(&table(results, &link.name, info));
        }
        let others: Vec<&str> = results
            .workloads
            .iter()
            .filter(|info| !is_here(info))
            .map(|info| info.name.as_str())
            .collect();
        if let Some(first) = others.first() {
            text.push_str(&format!(
                "\nNot in this selection over {0}: {1}. `--only {0},{first}` measures the first.\n",
                link.name,
                others.join(", ")
            ));
        }
    }
    if let Some(night) = &results.night {
        text.push_str(&format!("\n## The off-peak question\n\n{}.\n", night.words));
        for (update, table) in &night.tables {
            text.push_str(&format!("\n### After {update}\n\n{table}"));
        }
        text.push_str(&format!("\nChecked: {}.\n", night.checked));
        for plot in plots.iter().filter(|plot| plot.file.starts_with(NIGHT_PREFIX)) {
            text.push_str(&format!("\n![{}]({})\n", plot.title, plot.file));
        }
    }
    text.push_str(&lines(results));
    text
}

fn conditions(results: &Results) -> String {
    let mut text = String::new();
    let runs = format!("{} of each cell, interleaved", results.runs);
    let rest = [
        ("selection".to_owned(), results.selection.clone()),
        ("seed".to_owned(), results.seed.to_string()),
        ("runs".to_owned(), runs),
    ];
    for (name, value) in results.conditions.iter().chain(&rest) {
        text.push_str(&format!("- {name}: {value}\n"));
    }
    if let Some(Spreading { percent, place, .. }) = worst_spread(results, OURS) {
        text.push_str(&format!(
            "- wire bytes of {OURS} between runs of the same seed: {percent:.2} % apart at most ({place})\n"
        ));
    }
    text.push_str("\n| tool | version | how it is used |\n|---|---|---|\n");
    for tool in &results.tools {
        let version = tool.version.as_ref().or(tool.missing.as_ref()).map_or("", String::as_str);
        text.push_str(&format!("| {} | {} | {} |\n", tool.name, cell(version), cell(&tool.words)));
    }
    text
}

/// The table of one workload on one link.
fn table(results: &Results, link: &str, info: &WorkloadInfo) -> String {
    let mut text = format!("\n### {} over {link}\n\n{}", info.name, info.words);
    if let Some(bytes) = info.changed_page_bytes {
        text.push_str(&format!("; {} MiB of pages differ", mib(bytes as f64)));
    }
    if let Some(why) = &info.stands_in {
        text.push_str(&format!(". **A synthetic image stands in**: {why}"));
    }
    text.push_str(&format!(".\n\n| {} |\n|---|", COLUMNS.join(" | ")));
    text.push_str(&"---:|".repeat(COLUMNS.len() - 1));
    text.push('\n');
    let wall = yardsticks(results, link, &info.name, &WALL);
    let wire = yardsticks(results, link, &info.name, &WIRE);
    let mut reasons = String::new();
    for cell in results.cells.iter().filter(|c| c.link == link && c.workload == info.name) {
        let name = if cell.tool == OURS { format!("**{OURS}**") } else { cell.tool.clone() };
        text.push_str(&format!("| {name} | {} |\n", row(cell, wall, wire).join(" | ")));
        if let Some(why) = &cell.reason {
            let runs = cell.runs.len();
            let beside = if runs > 0 { format!(" (beside {runs} runs)") } else { String::new() };
            reasons.push_str(&format!("- {}{beside}: {why}\n", cell.tool));
        }
        for trouble in cell.runs.iter().filter_map(|run| run.link_trouble.as_ref()) {
            reasons.push_str(&format!("- {}: the machine was too busy: {trouble}\n", cell.tool));
        }
    }
    if !reasons.is_empty() {
        text.push_str(&format!("\n{reasons}"));
    }
    text
}

/// All columns but the name.
fn row(cell: &Cell, wall: Yardsticks, wire: Yardsticks) -> Vec<String> {
    let pair = |metrics: &[Metric; 2], shown: fn(f64) -> String| {
        let [left, right] = metrics.map(|metric| metric.median(cell).map(shown));
        left.zip(right).map_or_else(dash, |(left, right)| format!("{left} + {right}"))
    };
    let ratio = |metric: &Metric, to: Option<f64>| {
        let both = metric.median(cell).zip(to);
        both.map_or_else(dash, |(value, to)| times(value / to))
    };
    let wire_text = match (WIRE_THERE.median(cell), WIRE_BACK.median(cell), WIRE.spread(cell)) {
        (Some(there), Some(back), Some(all)) => {
            format!("{} + {} ({}-{})", mib(there), mib(back), mib(all.min), mib(all.max))
        }
        _ => dash(),
    };
    let identical = match (cell.runs.is_empty(), cell.runs.iter().all(|run| run.identical)) {
        (true, _) => dash(),
        (_, true) => format!("yes, {} of {}", cell.runs.len(), cell.runs.len()),
        (_, false) => format!("**no**, {} of {}", cell.good().count(), cell.runs.len()),
    };
    let wall_text = WALL.spread(cell).map_or_else(dash, |all| {
        format!("{} ({}-{})", seconds(all.median), seconds(all.min), seconds(all.max))
    });
    let [after, after_cpu] = AFTERWARDS.map(|metric| metric.median(cell));
    vec![
        wall_text,
        ratio(&WALL, wall.full_copy),
        ratio(&WALL, wall.best_peer),
        SYNC.median(cell).map_or_else(dash, seconds),
        pair(&CPU, seconds),
        wire_text,
        ratio(&WIRE, wire.full_copy),
        ratio(&WIRE, wire.best_peer),
        pair(&READ, mib),
        pair(&WRITTEN, mib),
        pair(&MEMORY, mib),
        pair(&EXTRA, mib),
        pair(&STANDING, mib),
        after
            .zip(after_cpu)
            .map_or_else(dash, |(s, cpu)| format!("{} ({})", seconds(s), seconds(cpu))),
        identical,
    ]
}

/// What was typed, once for each tool: on the workload that most tools have a run of.
fn lines(results: &Results) -> String {
    let mut text = String::from(
        "\n## What was typed\n\nAfter `--- timed` is what was timed. `DIR` is the work directory; \
         `HOME` and `TMPDIR` of all tools are below their end's. For other workloads and links see \
         `compare.json`.\n",
    );
    for tool in &results.tools {
        let of_tool = || results.cells.iter().filter(|cell| cell.tool == tool.name);
        let with_lines = || of_tool().filter(|cell| !cell.lines.is_empty());
        // One with something before, rather than a first copy.
        let cell =
            with_lines().find(|cell| cell.workload.contains('-') && cell.workload != "first-copy");
        let Some(cell) = cell.or(with_lines().next()) else { continue };
        text.push_str(&format!("\n{} ({} over {}):\n\n```\n", tool.name, cell.workload, cell.link));
        for line in &cell.lines {
            text.push_str(&format!("{line}\n"));
        }
        text.push_str("```\n");
    }
    text
}

/// A run in a line, for whoever is waiting.
pub(super) fn short(run: &Run) -> String {
    let wire = run
        .wire_bytes
        .map_or_else(dash, |[there, back]| format!("{} + {}", mib(there as f64), mib(back as f64)));
    let pair = |[left, right]: [u64; 2]| format!("{} + {}", mib(left as f64), mib(right as f64));
    let split: Vec<String> =
        run.split.iter().map(|(name, took)| format!("{name} {}", seconds(*took))).collect();
    format!(
        "{} s [{}], sync {} s, CPU {} + {} s, wire {wire} MiB, memory {} MiB, extra {} MiB{}",
        seconds(run.wall_seconds),
        split.join(", "),
        seconds(run.sync_seconds),
        seconds(run.cpu_seconds[0]),
        seconds(run.cpu_seconds[1]),
        pair(run.peak_memory_bytes),
        pair(run.peak_extra_disk_bytes),
        if run.identical { "" } else { ", DIFFERENT" }
    )
}

fn dash() -> String {
    "-".to_owned()
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.2}")
}

/// Bytes in MiB, with about three digits.
fn mib(bytes: f64) -> String {
    let mib = bytes / MIB;
    match mib {
        _ if mib >= 100.0 => format!("{mib:.0}"),
        _ if mib >= 10.0 => format!("{mib:.1}"),
        _ if mib >= 0.01 || mib == 0.0 => format!("{mib:.2}"),
        _ => format!("{mib:.4}"),
    }
}

fn times(ratio: f64) -> String {
    match ratio {
        _ if ratio >= 10.0 => format!("{ratio:.1}"),
        _ if ratio >= 0.1 => format!("{ratio:.2}"),
        _ => format!("{ratio:.4}"),
    }
}

/// Text of others in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::super::results::LinkInfo;
    use super::super::summary::tests::run;
    use super::*;

    #[test]
    fn every_cell_is_a_figure_or_a_reason() {
        let mut results = Results::new("quick", 1, 1 << 20, 1);
        results.workloads.push(WorkloadInfo {
            name: "random-1".to_owned(),
            words: "words".to_owned(),
            stands_in: None,
            image_bytes: 1 << 20,
            allocated_bytes: 1 << 20,
            changed_page_bytes: Some(4096),
        });
        results
            .cell_mut("l", "random-1", "full-copy")
            .runs
            .push(run(2.0, Some([2 << 20, 1 << 20])));
        results.cell_mut("l", "random-1", OURS).runs.push(run(1.0, None));
        results.cell_mut("l", "random-1", "bita").reason = Some("not installed".to_owned());
        let text = table(&results, "l", &results.workloads[0]);
        let columns: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.matches('|').count())
            .collect();
        assert_eq!(columns, vec![COLUMNS.len() + 1; 5], "{text}");
        assert!(text.contains("| full-copy | 2.00 (2.00-2.00) | 1.00 |"), "{text}");
        assert!(text.contains("| **blockferry** | 1.00 (1.00-1.00) | 0.50 | - |"), "{text}");
        assert!(text.contains("- bita: not installed"), "{text}");
    }

    #[test]
    fn what_was_not_selected_over_a_link_is_named() {
        let mut results = Results::new("default", 1, 1 << 20, 1);
        for name in ["random-1", "touched"] {
            results.workloads.push(WorkloadInfo {
                name: name.to_owned(),
                words: "words".to_owned(),
                stands_in: None,
                image_bytes: 1 << 20,
                allocated_bytes: 1 << 20,
                changed_page_bytes: None,
            });
        }
        results.links.push(LinkInfo {
            name: "slow".to_owned(),
            words: "words".to_owned(),
            bits_per_second: None,
            counted: "by nobody".to_owned(),
        });
        results.cell_mut("slow", "random-1", OURS).runs.push(run(1.0, None));
        let text = report(&results, &[]);
        assert!(text.contains("Not in this selection over slow: touched. `--only slow,touched`"));
        results.cell_mut("slow", "touched", OURS).reason = Some("why".to_owned());
        assert!(!report(&results, &[]).contains("Not in this selection"), "each has a cell");
    }
}
