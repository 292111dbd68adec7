//! What was measured: every run of every cell with what it depends on, as it is kept in
//! `compare.json`. A cell without a run says why.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::job::Run;
use super::night::Night;
use super::summary::METRICS;
use crate::link::LINKS;
use crate::workload;

/// Of the file's form.
const SCHEMA: &str = "v1";

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) schema: String,
    pub(super) selection: String,
    pub(super) seed: u64,
    pub(super) image_bytes: u64,
    pub(super) runs: usize,
    pub(super) conditions: Vec<(String, String)>,
    pub(super) tools: Vec<ToolInfo>,
    pub(super) workloads: Vec<WorkloadInfo>,
    pub(super) links: Vec<LinkInfo>,
    pub(super) cells: Vec<Cell>,
    /// The off-peak question.
    pub(super) night: Option<Night>,
}

/// A tool, with its version or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ToolInfo {
    pub(super) name: String,
    pub(super) words: String,
    pub(super) version: Option<String>,
    pub(super) missing: Option<String>,
}

/// A workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WorkloadInfo {
    pub(super) name: String,
    pub(super) words: String,
    /// Why it is not the real one.
    pub(super) stands_in: Option<String>,
    pub(super) image_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) changed_page_bytes: Option<u64>,
}

/// A link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LinkInfo {
    pub(super) name: String,
    pub(super) words: String,
    pub(super) bits_per_second: Option<u64>,
    /// How its bytes are counted; why they aren't.
    pub(super) counted: String,
}

/// One tool on one workload over one link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) link: String,
    pub(super) workload: String,
    pub(super) tool: String,
    pub(super) runs: Vec<Run>,
    /// Why there is no run, or no further one.
    pub(super) reason: Option<String>,
    /// What was typed at each end in its first run.
    pub(super) lines: Vec<String>,
}

impl Cell {
    /// Those whose image arrived.
    pub(super) fn good(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.identical)
    }
}

impl Results {
    pub(super) fn new(selection: &str, seed: u64, image_bytes: u64, runs: usize) -> Results {
        Results {
            schema: SCHEMA.to_owned(),
            selection: selection.to_owned(),
            seed,
            image_bytes,
            runs,
            conditions: Vec::new(),
            tools: Vec::new(),
            workloads: Vec::new(),
            links: Vec::new(),
            cells: Vec::new(),
            night: None,
        }
    }

    pub(super) fn cell(&self, link: &str, workload: &str, tool: &str) -> Option<&Cell> {
        self.cells.iter().find(|c| c.link == link && c.workload == workload && c.tool == tool)
    }

    /// The cell, which is made if there is none.
    pub(super) fn cell_mut(&mut self, link: &str, workload: &str, tool: &str) -> &mut Cell {
        let same = |c: &Cell| c.link == link && c.workload == workload && c.tool == tool;
        let at = self.cells.iter().position(same).unwrap_or(self.cells.len());
        if at == self.cells.len() {
            self.cells.push(Cell {
                link: link.to_owned(),
                workload: workload.to_owned(),
                tool: tool.to_owned(),
                runs: Vec::new(),
                reason: None,
                lines: Vec::new(),
            });
        }
        &mut self.cells[at]
    }

    /// Takes over the runs of an earlier, interrupted call, if they are of the same seed, size and
    /// versions. Cells without a run are tried again.
    pub(super) fn resume(&mut self, path: &Path) -> anyhow::Result<usize> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let old: Results = serde_json::from_str(&text).context("not of this program's version")?;
        let same = old.schema == self.schema
            && (old.seed, old.image_bytes) == (self.seed, self.image_bytes);
        anyhow::ensure!(same, "{} has another seed, size or form", path.display());
        let version = |results: &Results, tool: &str| {
            results
                .tools
                .iter()
                .find(|info| info.name == tool)
                .and_then(|info| info.version.clone())
        };
        let cells = old.cells.iter().filter(|cell| {
            !cell.runs.is_empty() && version(self, &cell.tool) == version(&old, &cell.tool)
        });
        self.cells = cells.cloned().map(|cell| Cell { reason: None, ..cell }).collect();
        Ok(self.cells.iter().map(|cell| cell.runs.len()).sum())
    }

    /// Cells in the order of the report, whatever was measured first.
    pub(super) fn sort(&mut self) {
        let links = LINKS.map(|(name, _)| name);
        let tools: Vec<&str> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        let place = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
        self.cells.sort_by_key(|cell| {
            (
                place(&links, &cell.link),
                place(&workload::NAMES, &cell.workload),
                place(&tools, &cell.tool),
            )
        });
    }

    /// For scripts: all of it, and the medians with their spread.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        for (cell, shown) in
            self.cells.iter().zip(value["cells"].as_array_mut().into_iter().flatten())
        {
            let summary: BTreeMap<&str, Value> = METRICS
                .iter()
                .map(|metric| {
                    let spread = metric.spread(cell);
                    let spread =
                        spread.map(|s| json!({"min": s.min, "median": s.median, "max": s.max}));
                    (metric.name, json!(spread))
                })
                .collect();
            shown["summary"] = json!(summary);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::run;
    use super::*;

    fn results(seed: u64, version: &str) -> Results {
        let mut results = Results::new("quick", seed, 1 << 20, 1);
        for name in ["rsync", "bita"] {
            results.tools.push(ToolInfo {
                name: name.to_owned(),
                words: String::new(),
                version: Some(version.to_owned()),
                missing: None,
            });
        }
        results
    }

    #[test]
    fn an_interrupted_run_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compare.json");
        let mut old = results(1, "3");
        old.cell_mut("unshaped", "touched", "bita").runs.push(run(1.0, None));
        old.cell_mut("unshaped", "random-1", "rsync").runs.push(run(2.0, Some([1, 2])));
        old.cell_mut("unshaped", "random-1", "bita").reason = Some("not installed".to_owned());
        fs::write(&path, old.json().unwrap().to_string()).unwrap();

        let mut new = results(1, "3");
        assert_eq!(new.resume(&path).unwrap(), 2);
        new.cell_mut("unshaped", "random-1", "bita").reason = Some("why".to_owned());
        new.sort();
        let shown: Vec<_> = new.cells.iter().map(|c| (&c.workload[..], &c.tool[..])).collect();
        assert_eq!(shown, [("random-1", "rsync"), ("random-1", "bita"), ("touched", "bita")]);
        assert_eq!(new.cells[0].runs[0].wire_bytes, Some([1, 2]));

        assert!(results(2, "3").resume(&path).is_err());
        assert_eq!(results(1, "4").resume(&path).unwrap(), 0);
    }
}
