//! What was measured: every run of every cell with what it depends on, as it is kept in
//! `compare.json`. A cell without a run says why.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::WRONG_IMAGE;
use super::job::Run;
use super::night::Night;
use super::side::NO_END;
use super::summary::METRICS;
use crate::link::LINKS;
use crate::workload;

/// A cell in which so many runs failed is given up.
const FAILURES_MAX: usize = 2;
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
    /// BLAKE3 of the measured program's file.
    #[serde(default)]
    pub(super) binary: String,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WorkloadInfo {
    pub(super) name: String,
    pub(super) words: String,
    /// Why it is not the real one.
    pub(super) stands_in: Option<String>,
    pub(super) image_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) changed_page_bytes: Option<u64>,
}

impl WorkloadInfo {
    /// What it is, and of which bytes.
    fn shown(&self) -> String {
        let WorkloadInfo { words, image_bytes, allocated_bytes, changed_page_bytes, .. } = self;
        let kind = if self.stands_in.is_some() { ", a stand-in" } else { "" };
        format!(
            "\"{words}\"{kind} ({image_bytes} bytes, {allocated_bytes} on disk, \
             {changed_page_bytes:?} in changed pages)"
        )
    }
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Why there is no run, or a run less.
    pub(super) reason: Option<String>,
    /// Runs of this call that failed and have no figure.
    #[serde(default)]
    pub(super) failures: usize,
    /// What was typed at each end in its first run.
    pub(super) lines: Vec<String>,
}

impl Cell {
    /// Those whose image arrived.
    pub(super) fn good(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.identical)
    }

    /// Whether something else arrived than was sent.
    pub(super) fn has_wrong_image(&self) -> bool {
        self.runs.iter().any(|run| !run.identical)
    }

    /// Whether it is not tried any more: it can't be measured, fails again and again, or a run
    /// brought a wrong image, which is the result.
    pub(super) fn is_over(&self) -> bool {
        let hopeless = self.reason.is_some() && self.failures == 0;
        hopeless || self.failures >= FAILURES_MAX || self.has_wrong_image()
    }

    /// Notes a run that failed. One failure is no reason to do without the other runs; one that
    /// took all of its time is, as each costs as much.
    pub(super) fn fail(&mut self, why: String) {
        let more = if why.contains(NO_END) { FAILURES_MAX } else { 1 };
        self.failures += more;
        self.reason = Some(why);
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
            binary: String::new(),
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
                failures: 0,
                lines: Vec::new(),
            });
        }
        &mut self.cells[at]
    }

    /// Takes over the runs of an earlier, interrupted call, if they are of the same seed, sizes,
    /// images, links and build. Cells without a run, and those of a tool that has another version
    /// now, are measured again. Gives how many runs there are.
    ///
    /// # Errors
    /// If the file can't be read, or anything else was measured.
    pub(super) fn resume(&mut self, path: &Path) -> anyhow::Result<usize> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let old: Results = serde_json::from_str(&text).context("not of this program's version")?;
        self.is_of_the_same(&old)
            .with_context(|| format!("{} can't be gone on with", path.display()))?;
        // What only the earlier call measured stays, with what it was.
        let known: Vec<String> = self.workloads.iter().map(|info| info.name.clone()).collect();
        self.workloads.extend(old.workloads.iter().filter(|w| !known.contains(&w.name)).cloned());
        let known: Vec<String> = self.links.iter().map(|info| info.name.clone()).collect();
        self.links.extend(old.links.iter().filter(|l| !known.contains(&l.name)).cloned());
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
        let taken_over = |cell: &Cell| {
            let reason = cell.has_wrong_image().then(|| WRONG_IMAGE.to_owned());
            Cell { reason, failures: 0, ..cell.clone() }
        };
        self.cells = cells.map(taken_over).collect();
        Ok(self.cells.iter().map(|cell| cell.runs.len()).sum())
    }

    /// Whether runs of `old` may stand beside runs of this call.
    fn is_of_the_same(&self, old: &Results) -> anyhow::Result<()> {
        ensure!(old.schema == self.schema, "it has another form");
        let ours = (self.seed, self.image_bytes);
        ensure!((old.seed, old.image_bytes) == ours, "it has another seed or size");
        ensure!(
            old.binary == self.binary,
            "another build of blockferry was measured: BLAKE3 {:?}, now {:?}",
            old.binary,
            self.binary
        );
        for now in &self.workloads {
            let was = old.workloads.iter().find(|was| was.name == now.name);
            if let Some(was) = was.filter(|was| *was != now) {
                bail!("other images of {}: {}; now {}", now.name, was.shown(), now.shown());
            }
        }
        for now in &self.links {
            let was = old.links.iter().find(|was| was.name == now.name);
            if let Some(was) = was.filter(|was| *was != now) {
                bail!("another link {}: {was:?}; now {now:?}", now.name);
            }
        }
        Ok(())
    }

    /// Cells in the order of the report, whatever was measured first.
    pub(super) fn sort(&mut self) {
        let links = LINKS.map(|(name, _)| name);
        let tools: Vec<&str> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        let place = |names: &[&str], name: &str| names.iter().position(|known| *known == name);
        self.links.sort_by_key(|info| place(&links, &info.name));
        self.workloads.sort_by_key(|info| place(&workload::NAMES, &info.name));
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

    /// One that differs from another only in what `change` does.
    fn changed(change: fn(&mut Results)) -> Results {
        let mut results = results(1, "3");
        results.binary = "b1".to_owned();
        results.workloads.push(WorkloadInfo {
            name: "real-small-day".to_owned(),
            words: "a small day".to_owned(),
            stands_in: None,
            image_bytes: 3 << 30,
            allocated_bytes: 2 << 30,
            changed_page_bytes: Some(20 << 20),
        });
        results.links.push(LinkInfo {
            name: "unshaped".to_owned(),
            words: "fast".to_owned(),
            bits_per_second: None,
            counted: "by the interfaces".to_owned(),
        });
        results.cell_mut("unshaped", "real-small-day", "rsync").runs.push(run(1.0, None));
        change(&mut results);
        results
    }

    #[test]
    fn runs_of_other_images_links_or_builds_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compare.json");
        fs::write(&path, changed(|_| ()).json().unwrap().to_string()).unwrap();
        let refused = |change| {
            let error = changed(change).resume(&path).unwrap_err();
            format!("{error:#}")
        };
        let words = refused(|results| results.workloads[0].stands_in = Some("none".to_owned()));
        assert!(words.contains("other images of real-small-day"), "{words}");
        assert!(words.contains("a stand-in"), "{words}");
        let words = refused(|results| results.workloads[0].changed_page_bytes = Some(1));
        assert!(words.contains("other images of real-small-day"), "{words}");
        let words = refused(|results| results.links[0].counted = "not counted".to_owned());
        assert!(words.contains("another link unshaped"), "{words}");
        let words = refused(|results| results.binary = "b2".to_owned());
        assert!(words.contains("another build of blockferry"), "{words}");

        // What this call doesn't ask for keeps its runs and what is known of it.
        let mut fewer = changed(|results| {
            results.workloads.clear();
            results.links.clear();
        });
        assert_eq!(fewer.resume(&path).unwrap(), 1);
        assert_eq!((fewer.workloads.len(), fewer.links.len()), (1, 1));
    }

    #[test]
    fn one_failure_is_not_the_end_of_a_cell() {
        let mut results = results(1, "3");
        let cell = results.cell_mut("unshaped", "touched", "rsync");
        cell.fail("failed: by chance".to_owned());
        assert!(!cell.is_over());
        cell.fail("failed: again".to_owned());
        assert!(cell.is_over());
        let cell = results.cell_mut("unshaped", "touched", "bita");
        cell.fail(format!("failed: {NO_END}"));
        assert!(cell.is_over());
        let cell = results.cell_mut("unshaped", "touched", "casync");
        cell.reason = Some("not installed".to_owned());
        assert!(cell.is_over());
    }
}
