//! What the command line asks for, and which cells follow from it: links, workloads and tools, how
//! large and how often.
//!
//! The default has to end within 45 minutes on two cores, `--quick` within 8, `--smoke` (for CI)
//! within 90 s. So the shaped links, where each second is spent waiting, have two workloads and
//! the tools that differ there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::tools;
use crate::link::{LINKS, Shape};
use crate::workload;

const MIB: u64 = 1 << 20;
/// The workloads of shaped links.
const SHAPED_WORKLOADS: [&str; 2] = ["real-small-day", "random-1"];
/// The tools of shaped links: those that send least, and what they are compared with. To make
/// others ready (syncthing, ffsync), all has to go over the slow link first.
const SHAPED_TOOLS: [&str; 5] = ["full-copy", "rsync", "rsync-zstd", "bita", "blockferry"];
/// The workloads of `--quick`: one of each kind.
const QUICK_WORKLOADS: [&str; 8] = [
    "first-copy",
    "real-big-update",
    "real-small-day",
    "random-1",
    "database",
    "new-layout",
    "new-name",
    "container-qcow2",
];
const SMOKE_TOOLS: [&str; 3] = ["full-copy", "rsync", "blockferry"];
const SMOKE_WORKLOADS: [&str; 2] = ["first-copy", "random-1"];
/// The cell of `--smoke` that is measured twice, so that two runs of a seed can be compared.
const SMOKE_TWICE: (&str, &str) = ("random-1", tools::OURS);

/// How much is done unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    Default,
    Quick,
    Smoke,
}

impl Selection {
    pub(super) fn name(self) -> &'static str {
        match self {
            Selection::Default => "default",
            Selection::Quick => "quick",
            Selection::Smoke => "smoke",
        }
    }
}

/// The command line.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) selection: Selection,
    pub(super) out: PathBuf,
    pub(super) work: Option<PathBuf>,
    pub(super) images: Option<PathBuf>,
    pub(super) seed: u64,
    pub(super) size_bytes: u64,
    pub(super) only: Vec<String>,
    pub(super) runs: usize,
    pub(super) binary: Option<PathBuf>,
    pub(super) resume: bool,
}

impl Options {
    pub(super) fn parse(args: &[String]) -> anyhow::Result<Options> {
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let selection = match (has("--quick"), has("--smoke")) {
            (true, true) => bail!("--quick or --smoke, not both"),
            (true, false) => Selection::Quick,
            (false, true) => Selection::Smoke,
            (false, false) => Selection::Default,
        };
        let (size_bytes, runs) = match selection {
            Selection::Default => (64 * MIB, 3),
            Selection::Quick => (64 * MIB, 1),
            Selection::Smoke => (32 * MIB, 1),
        };
        let mut options = Options {
            selection,
            out: "docs/benchmarks".into(),
            work: None,
            images: None,
            seed: 1,
            size_bytes,
            only: Vec::new(),
            runs,
            binary: None,
            resume: has("--resume"),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if ["--quick", "--smoke", "--resume"].contains(&arg.as_str()) {
                continue;
            }
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--out" => options.out = value()?.into(),
                "--dir" => options.work = Some(value()?.into()),
                "--images" => options.images = Some(value()?.into()),
                "--seed" => options.seed = value()?.parse()?,
                "--size" => options.size_bytes = value()?.parse()?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--runs" => options.runs = value()?.parse()?,
                "--bin" => options.binary = Some(value()?.into()),
                _ => bail!("unknown option {arg}"),
            }
        }
        ensure!(options.runs > 0, "--runs 0 measures nothing");
        Ok(options)
    }

    /// How often the cells of a workload and a tool are measured.
    pub(super) fn runs_of(&self, workload: &str, tool: &str) -> usize {
        let twice = self.selection == Selection::Smoke && (workload, tool) == SMOKE_TWICE;
        if twice { self.runs.max(2) } else { self.runs }
    }

    /// How often any cell is measured at most.
    pub(super) fn rounds(&self) -> usize {
        self.runs_of(SMOKE_TWICE.0, SMOKE_TWICE.1)
    }

    /// What is to be measured, in this order.
    pub(super) fn plan(&self) -> anyhow::Result<Vec<Part>> {
        let tools: Vec<&str> = tools::all().iter().map(|tool| tool.name()).collect();
        let links = LINKS.map(|(name, _)| name);
        for name in &self.only {
            let known = tools.contains(&name.as_str())
                || links.contains(&name.as_str())
                || workload::NAMES.contains(&name.as_str());
            ensure!(
                known,
                "--only {name}: tools are {}; workloads {}; links {}",
                tools.join(", "),
                workload::NAMES.join(", "),
                links.join(", ")
            );
        }
        let parts = LINKS.iter().map(|(name, shape)| self.part(name, *shape, &tools));
        let mut parts: Vec<Part> = parts.collect();
        parts.retain(|part| !part.workloads.is_empty() && !part.tools.is_empty());
        ensure!(!parts.is_empty(), "--only leaves nothing");
        Ok(parts)
    }

    fn part(&self, link: &'static str, shape: Shape, tools: &[&'static str]) -> Part {
        let shaped = shape.bits_per_second.is_some();
        let pick = |all: &[&'static str], usual: &[&'static str]| -> Vec<&'static str> {
            let named: Vec<_> = all.iter().copied().filter(|name| self.names(name)).collect();
            match named.is_empty() {
                true => all.iter().copied().filter(|name| usual.contains(name)).collect(),
                false => named,
            }
        };
        let linked = self.only.iter().any(|name| LINKS.iter().any(|(link, _)| link == name));
        let (workloads, usual): (&[_], &[_]) = match self.selection {
            Selection::Smoke => (&SMOKE_WORKLOADS, &SMOKE_TOOLS),
            _ if shaped => (&SHAPED_WORKLOADS, &SHAPED_TOOLS),
            Selection::Quick => (&QUICK_WORKLOADS, tools),
            _ => (&workload::NAMES, tools),
        };
        let wanted = match (linked, self.selection) {
            (true, _) => self.names(link),
            (false, Selection::Smoke) => !shaped,
            (false, Selection::Quick) => !shaped || link == LINKS[2].0,
            (false, Selection::Default) => true,
        };
        let limit = match (self.selection, shaped) {
            (Selection::Default, true) => Duration::from_secs(45),
            (Selection::Quick, true) => Duration::from_secs(20),
            (Selection::Default, false) => Duration::from_secs(300),
            (_, false) | (Selection::Smoke, _) => Duration::from_secs(60),
        };
        let picked = pick(tools, usual);
        let left_out = tools.iter().copied().filter(|tool| !picked.contains(tool));
        Part {
            link,
            shape,
            workloads: if wanted { pick(&workload::NAMES, workloads) } else { Vec::new() },
            left_out: if self.only.is_empty() { left_out.collect() } else { Vec::new() },
            tools: picked,
            limit,
        }
    }

    fn names(&self, name: &str) -> bool {
        self.only.iter().any(|only| only == name)
    }
}

/// What is measured on one link.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) link: &'static str,
    pub(super) shape: Shape,
    pub(super) workloads: Vec<&'static str>,
    pub(super) tools: Vec<&'static str>,
    /// Tools that would be measured if they were asked for.
    pub(super) left_out: Vec<&'static str>,
    /// How long a run may take.
    pub(super) limit: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Vec<Part> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Options::parse(&args).unwrap().plan().unwrap()
    }

    #[test]
    fn the_default_is_everything_unshaped_and_some_of_it_shaped() {
        let parts = plan(&[]);
        assert_eq!(parts.len(), LINKS.len());
        assert_eq!(parts[0].workloads, workload::NAMES);
        assert_eq!(parts[0].tools.len(), tools::all().len());
        for part in &parts[1..] {
            assert_eq!(part.workloads, SHAPED_WORKLOADS);
            assert_eq!(part.tools, SHAPED_TOOLS);
            assert_eq!(part.left_out.len(), tools::all().len() - SHAPED_TOOLS.len());
        }
    }

    #[test]
    fn the_smoke_compares_two_runs_of_a_cell() {
        let options = Options::parse(&["--smoke".to_owned()]).unwrap();
        let part = &options.plan().unwrap()[0];
        assert!(part.workloads.contains(&SMOKE_TWICE.0) && part.tools.contains(&SMOKE_TWICE.1));
        assert_eq!((options.rounds(), options.runs_of("random-1", "blockferry")), (2, 2));
        assert_eq!(options.runs_of("first-copy", "blockferry"), 1);
        let options = Options::parse(&["--quick".to_owned()]).unwrap();
        assert_eq!((options.rounds(), options.runs_of("random-1", "blockferry")), (1, 1));
    }

    #[test]
    fn only_names_links_workloads_and_tools() {
        let parts = plan(&["--smoke", "--only", "touched,bita"]);
        assert_eq!(parts.len(), 1);
        assert_eq!(
            (&parts[0].workloads[..], &parts[0].tools[..]),
            (&["touched"][..], &["bita"][..])
        );
        let parts = plan(&["--quick", "--only", "100mbit,casync"]);
        assert_eq!((parts.len(), parts[0].link), (1, "100mbit"));
        assert_eq!(parts[0].workloads, SHAPED_WORKLOADS);
        let args = ["--only".to_owned(), "nonsense".to_owned()];
        assert!(Options::parse(&args).unwrap().plan().is_err());
    }
}
