//! `compare`: Blockferry, full copies and the best tools there are, each with its best documented
//! settings, on the same workloads over the same links.
//!
//! A cell is one tool on one workload over one link; it ends as a figure or as the reason why
//! there is none. Runs are interleaved: the first of all cells of a link, then the second of all,
//! so that whatever changes on the machine meanwhile changes for all. What is there is written
//! after each workload, so that `--resume` can go on after an interruption.

mod disk;
mod end;
mod job;
mod judge;
mod markdown;
mod night;
mod options;
mod plots;
mod results;
mod sampler;
mod side;
mod summary;
mod tools;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::ground::image::{blake3, outside};
use crate::ground::machine;
use crate::ground::say;
use crate::ground::tools::{commit_of, find_binary};
use crate::link::{Link, Shape, UNSHAPED};
use crate::workload::{self, Request, Workload};
use job::Place;
use options::{Options, Part};
use results::{LinkInfo, Results, ToolInfo, WorkloadInfo};
use summary::{Spreading, WIRE, WIRE_THERE};
use tools::{FULL_COPY, OURS, Tool};

pub(crate) use end::run as end;
pub(crate) use tools::stream;

/// What networks carry unless they are told otherwise.
const MTU: u32 = 1500;
/// Of a work directory's name; the process id follows.
const WORK: &str = "compare-";
const JSON: &str = "compare.json";
/// Reasons that are failures begin like this; others are that a cell can't be measured here.
const FAILED: &str = "failed: ";
const WRONG_IMAGE: &str = "failed: what arrived is not what was sent";

/// A call.
struct Session {
    options: Options,
    plan: Vec<Part>,
    binary: PathBuf,
    /// Where ends live; gone afterwards.
    work: PathBuf,
    workloads: BTreeMap<&'static str, Result<Workload, String>>,
    results: Results,
}

/// Measures what is asked for and writes the report.
pub(crate) fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let options = Options::parse(args)?;
    let plan = options.plan()?;
    let parent = options.work.clone().unwrap_or_else(std::env::temp_dir);
    fs::create_dir_all(&parent)?;
    fs::create_dir_all(&options.out)?;
    let parent = parent.canonicalize()?;
    remove_leftovers(&parent)?;
    let work = parent.join(format!("{WORK}{}", std::process::id()));
    fs::create_dir(&work)?;
    let binary = find_binary(options.binary.as_deref())?;
    let selection = options.selection.name();
    let results = Results::new(selection, options.seed, options.size_bytes, options.runs);
    let workloads = BTreeMap::new();
    let mut session = Session { options, plan, binary, work: work.clone(), workloads, results };
    let outcome = session.all();
    fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
    outcome
}

impl Session {
    fn all(&mut self) -> anyhow::Result<ExitCode> {
        let began = Instant::now();
        self.results.conditions = machine::conditions(&self.work);
        let cache = ("page cache".to_owned(), disk::forgetting().to_owned());
        self.results.conditions.push(cache);
        self.results.conditions.push(("largest packet".to_owned(), format!("{MTU} bytes")));
        self.find_tools();
        self.results.binary = blake3(&self.binary)?;
        let build = self.build();
        self.results.conditions.push(("measured build".to_owned(), build));
        for part in &self.plan {
            let missing = Link::missing(&part.shape);
            self.results.links.push(LinkInfo::new(part.link, &part.shape, missing));
        }
        self.prepare();
        if self.options.resume {
            let runs = self.results.resume(&self.options.out.join(JSON))?;
            say(&format!("{runs} runs are there already"));
        }
        for part in self.plan.clone() {
            self.part(&part)?;
        }
        let took = Duration::from_secs(began.elapsed().as_secs());
        self.results.conditions.push(("took".to_owned(), format!("{took:?}")));
        self.results.night = Some(night::ask(&self.results));
        self.write()?;
        self.judge()
    }

    /// What of Blockferry is measured: its version, the commit, what its file holds.
    fn build(&self) -> String {
        let ours = self.results.tools.iter().find(|info| info.name == OURS);
        let version = ours.and_then(|info| info.version.clone());
        let named = self.options.binary.is_some();
        let commit = commit_of(&self.binary, named).unwrap_or_else(|| "unknown".to_owned());
        let version = version.unwrap_or_else(|| "of no version".to_owned());
        format!("{version}, commit {commit}, BLAKE3 {:.16}", self.results.binary)
    }

    fn find_tools(&mut self) {
        for tool in tools::all() {
            let version = tool.version(&self.binary);
            say(&format!("{}: {}", tool.name(), version.clone().unwrap_or_else(|why| why)));
            self.results.tools.push(ToolInfo {
                name: tool.name().to_owned(),
                words: tool.words().to_owned(),
                version: version.clone().ok(),
                missing: version.err(),
            });
        }
    }

    /// Makes the workloads, or says why it can't.
    fn prepare(&mut self) {
        // With a directory of the user's own they stay for the next time.
        let dir = match &self.options.work {
            Some(dir) => dir.join("workloads"),
            None => self.work.join("workloads"),
        };
        let Options { seed, size_bytes: image_bytes, images: real_images, .. } = &self.options;
        let (seed, image_bytes, real_images) = (*seed, *image_bytes, real_images.clone());
        let request = Request { seed, image_bytes, dir, real_images };
        for name in workload::NAMES {
            if !self.plan.iter().any(|part| part.workloads.contains(&name)) {
                continue;
            }
            let began = Instant::now();
            let made = workload::prepare(name, &request).map_err(|error| format!("{error:#}"));
            let seconds = began.elapsed().as_secs_f64();
            let words = made.as_ref().map_or_else(Clone::clone, |made| made.words.clone());
            say(&format!("workload {name} ({seconds:.1} s): {words}"));
            if let Ok(made) = &made {
                self.results.workloads.push(info(made));
            }
            self.workloads.insert(name, made);
        }
    }

    /// All rounds on one link.
    fn part(&mut self, part: &Part) -> anyhow::Result<()> {
        for (name, tool) in part
            .workloads
            .iter()
            .flat_map(|name| part.left_out.iter().map(move |tool| (name, tool)))
        {
            let why = format!("not in this selection: --only {},{tool} measures it", part.link);
            self.results.cell_mut(part.link, name, tool).reason = Some(why);
        }
        let mut tools = tools::all();
        tools.retain(|tool| part.tools.contains(&tool.name()));
        for round in 1..=self.options.rounds() {
            for name in &part.workloads {
                for tool in &mut tools {
                    if round > self.options.runs_of(name, tool.name()) {
                        continue;
                    }
                    self.step(part, round, name, tool.as_mut())?;
                }
                self.write_json()?;
            }
            self.write()?;
        }
        Ok(())
    }

    /// One run, if the cell needs one and it can be done.
    fn step(
        &mut self,
        part: &Part,
        round: usize,
        name: &str,
        tool: &mut dyn Tool,
    ) -> anyhow::Result<()> {
        let cell = self.results.cell_mut(part.link, name, tool.name());
        if cell.is_over() || cell.runs.len() >= round {
            return Ok(());
        }
        let began = Instant::now();
        if let Some(why) = self.obstacle(part, name, tool.name()) {
            say(&format!("{}, {name}, {}: {why}", part.link, tool.name()));
            self.results.cell_mut(part.link, name, tool.name()).reason = Some(why);
            return Ok(());
        }
        let outcome = self.measured(part, name, tool);
        let took = began.elapsed().as_secs_f64();
        let shown = format!("{}, {name}, {} ({round}, {took:.1} s)", part.link, tool.name());
        let cell = self.results.cell_mut(part.link, name, tool.name());
        match outcome {
            Ok((run, lines)) => {
                say(&format!("{shown}: {}", markdown::short(&run)));
                if !run.identical {
                    cell.reason = Some(WRONG_IMAGE.to_owned());
                }
                cell.runs.push(run);
                if cell.lines.is_empty() {
                    cell.lines = lines;
                }
            }
            Err(why) => {
                say(&format!("{shown}: {why}"));
                cell.fail(why);
            }
        }
        Ok(())
    }

    fn measured(
        &self,
        part: &Part,
        name: &str,
        tool: &mut dyn Tool,
    ) -> Result<(job::Run, Vec<String>), String> {
        let failed = |error: anyhow::Error| format!("{FAILED}{error:#}");
        let Some(Ok(workload)) = self.workloads.get(name) else {
            return Err(format!("{FAILED}no workload"));
        };
        // A new one for each run: its losses are the same, and no end remembers another run's.
        let link = match Link::missing(&part.shape) {
            Some(_) => None,
            None => Some(Link::up(part.shape, MTU).map_err(failed)?),
        };
        let place = Place {
            directory: &self.work.join("job"),
            blockferry: &self.binary,
            link: link.as_ref(),
            limit: part.limit,
        };
        let (run, lines) = job::measure(tool, workload, &place).map_err(failed)?;
        Ok((run, lines.iter().map(|line| self.without_paths(line)).collect()))
    }

    /// A command line as it would be elsewhere.
    fn without_paths(&self, line: &str) -> String {
        let mut line = line.to_owned();
        let directory = self.work.join("job");
        for (path, name) in [(&self.binary, "blockferry"), (&directory, "DIR")] {
            line = line.replace(&path.display().to_string(), name);
        }
        line.replace(&side::this_program(), "blockferry-benches")
    }

    /// Why a cell can't be measured, if so.
    fn obstacle(&self, part: &Part, name: &str, tool: &str) -> Option<String> {
        let info = self.results.tools.iter().find(|info| info.name == tool)?;
        if let Some(why) = &info.missing {
            return Some(why.clone());
        }
        let workload = match self.workloads.get(name)? {
            Ok(workload) => workload,
            Err(why) => return Some(format!("no workload: {why}")),
        };
        let rate = part.shape.bits_per_second?;
        if let Some(why) = Link::missing(&part.shape) {
            return Some(why.to_owned());
        }
        let measured = self.results.cell(UNSHAPED, name, tool).and_then(|c| WIRE_THERE.median(c));
        let bytes = match measured {
            Some(bytes) => bytes,
            None if tool == FULL_COPY => fs::metadata(&workload.after.path).ok()?.len() as f64,
            None => return None,
        };
        let seconds = bytes * 8.0 / rate as f64;
        let limit = part.limit.as_secs();
        (seconds > part.limit.as_secs_f64()).then(|| {
            format!("would need at least {seconds:.0} s at this rate; a run may take {limit} s")
        })
    }

    /// Everything that is there so far, for a later `--resume` too.
    fn write_json(&mut self) -> anyhow::Result<()> {
        self.results.sort();
        let text = format!("{:#}\n", self.results.json()?);
        write_whole(&self.options.out.join(JSON), &text)
    }

    /// The same for people.
    fn write(&mut self) -> anyhow::Result<()> {
        self.write_json()?;
        let out = &self.options.out;
        let plots = plots::draw(&self.results, out)?;
        write_whole(&out.join("compare.md"), &markdown::report(&self.results, &plots))
    }

    /// Says what is wrong with what is in the file, if anything.
    fn judge(&self) -> anyhow::Result<ExitCode> {
        let path = self.options.out.join(JSON);
        let kept: Results = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let wrong = judge::judge(&kept, &self.plan)?;
        let measured = kept.cells.iter().filter(|cell| !cell.runs.is_empty());
        let counted = measured.clone().filter(|cell| WIRE.median(cell).is_some());
        say(&format!(
            "{} of {} cells counted the bytes of their interfaces",
            counted.count(),
            measured.count()
        ));
        if let Some(Spreading { percent, bytes, place }) = summary::worst_spread(&kept, OURS) {
            say(&format!(
                "wire bytes of {OURS} between runs of the same seed: at most {percent:.2} % apart \
                 ({bytes:.0} bytes, {place})"
            ));
        }
        for why in &wrong {
            say(&format!("WRONG: {why}"));
        }
        say(&format!("written: {}", path.with_extension("md").display()));
        Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What is to be known of a workload.
fn info(made: &Workload) -> WorkloadInfo {
    let after = &made.after.path;
    WorkloadInfo {
        name: made.name.to_owned(),
        words: made.words.clone(),
        stands_in: made.stands_in.clone(),
        image_bytes: fs::metadata(after).map_or(0, |stat| stat.len()),
        allocated_bytes: outside(after).map_or(0, |outside| outside.allocated_bytes),
        changed_page_bytes: made.changed_page_bytes,
    }
}

impl LinkInfo {
    fn new(name: &str, shape: &Shape, missing: Option<&str>) -> LinkInfo {
        let Shape { bits_per_second, round_trip, loss_per_mille } = *shape;
        let words = match bits_per_second {
            None => "as fast as the machine".to_owned(),
            Some(rate) => format!(
                "{} Mbit/s each way, {} ms round trip, {} % of the packets lost",
                rate as f64 / 1e6,
                round_trip.as_millis(),
                loss_per_mille / 10.0
            ),
        };
        let counted = match missing {
            None => "by the interfaces of both ends, with all headers".to_owned(),
            Some(why) => format!("not counted, over loopback: a link of its own {why}"),
        };
        LinkInfo { name: name.to_owned(), words, bits_per_second, counted }
    }
}

/// What runs that were killed left.
fn remove_leftovers(parent: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(parent)?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(WORK)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Never half a file, even when the run is interrupted.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let coming = path.with_extension("coming");
    fs::write(&coming, text).with_context(|| coming.display().to_string())?;
    Ok(fs::rename(coming, path)?)
}
