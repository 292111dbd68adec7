//! Plots: for each link the wall seconds and the bytes on the wire of all tools on all workloads,
//! and when branches are up to date.

use std::path::Path;

use super::night::{self, UPDATES, series};
use super::results::Results;
use super::summary::{Metric, WALL, WIRE};
use crate::report::{Bar, Group, bars, lines};

/// Of files' names.
const LINK_PREFIX: &str = "compare-";
pub(super) const NIGHT_PREFIX: &str = "offpeak-";

/// A plot: what it shows, and the name of its file.
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) file: String,
}

/// Draws all for which there is a figure.
pub(super) fn draw(results: &Results, out: &Path) -> anyhow::Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for link in &results.links {
        let name = link.name.replace(['%', '.'], "");
        for (kind, unit, words, metric) in
            [("wall", "seconds", "wall time", WALL), ("wire", "bytes", "bytes on the wire", WIRE)]
        {
            let groups = groups(results, &link.name, &metric);
            if !groups.iter().flat_map(|group| &group.bars).any(|bar| bar.value.is_some()) {
                continue;
            }
            let title = format!("{words} over {} ({})", link.name, link.words);
            let file = format!("{LINK_PREFIX}{name}-{kind}.svg");
            bars(&out.join(&file), &title, unit, &groups)?;
            plots.push(Plot { title, file });
        }
    }
    if results.night.is_some() {
        for update in UPDATES {
            let Some(lines_of) = series(results, update).filter(|lines| !lines.is_empty()) else {
                continue;
            };
            let title = format!(
                "branches up to date after {} of a 64 GiB image, in turn",
                night::title(results, update)
            );
            let file = format!("{NIGHT_PREFIX}{update}.svg");
            lines(&out.join(&file), &title, "hours", "percent of branches", &lines_of)?;
            plots.push(Plot { title, file });
        }
    }
    remove_others(out, &plots)?;
    Ok(plots)
}

/// Plots of an earlier call with more links or workloads would seem to belong to this one.
fn remove_others(out: &Path, plots: &[Plot]) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(out)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with(LINK_PREFIX) || name.starts_with(NIGHT_PREFIX);
        if ours && name.ends_with(".svg") && !plots.iter().any(|plot| plot.file == name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn groups(results: &Results, link: &str, metric: &Metric) -> Vec<Group> {
    let cells = || results.cells.iter().filter(|cell| cell.link == link);
    let mut names: Vec<&str> = Vec::new();
    for cell in cells() {
        if !names.contains(&cell.workload.as_str()) {
            names.push(&cell.workload);
        }
    }
    let group = |name: &&str| Group {
        label: (*name).to_owned(),
        bars: cells()
            .filter(|cell| cell.workload == *name)
            .map(|cell| Bar { label: cell.tool.clone(), value: metric.spread(cell) })
            .collect(),
    };
    names.iter().map(group).collect()
}
