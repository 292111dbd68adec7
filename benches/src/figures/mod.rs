//! `figures`: every bound that the project promises on real images, measured on this machine with
//! the real release binary, and judged.
//!
//! Two nodes are made, paired and asked through the command line, as a user would; what they say
//! is compared with what can be seen from the outside. The images are three generations of one
//! disk image (`g1.raw`, `g2.raw`, `g3.raw`) in a directory of the user's choice.

mod answers;
mod bytes;
mod caps;
mod change;
mod control;
mod edit;
mod held;
mod hub;
mod index;
mod inuse;
mod lineage;
mod links;
mod many;
mod pair;
mod ready;
mod room;
mod rsync;
mod scan;
mod seconds;
mod shaped;
mod sparse;
mod stores;
mod table;

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use crate::ground::process::Memory;
use crate::ground::{image, machine, mount, node, process, say, tools};
use pair::Ground;
use table::{Amount, Row, Table};

const MEMORY_BYTES: u64 = 300 << 20;
/// What networks carry unless they are told otherwise.
const MTU: u32 = 1500;
/// Groups of rows, in the order they are measured.
const GROUPS: [&str; 20] = [
    "scan", "look", "index", "links", "sharing", "caps", "control", "bytes", "held", "room",
    "seconds", "shaped", "inuse", "change", "sparse", "many", "hub", "lineage", "answers",
    "stores",
];
/// Those that need no images.
const IMAGELESS: [&str; 10] =
    ["look", "index", "links", "sharing", "caps", "control", "sparse", "hub", "answers", "stores"];

/// What the command line says.
#[derive(Debug, Default)]
struct Options {
    images: Option<PathBuf>,
    work: Option<PathBuf>,
    json: Option<PathBuf>,
    binary: Option<PathBuf>,
    only: Vec<String>,
    runs: Option<usize>,
    mtu: Option<u32>,
    keep: bool,
}

impl Options {
    fn parse(args: &[String]) -> anyhow::Result<Options> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--keep" {
                options.keep = true;
                continue;
            }
            let value = args.next().with_context(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--images" => options.images = Some(value.into()),
                "--dir" => options.work = Some(value.into()),
                "--json" => options.json = Some(value.into()),
                "--bin" => options.binary = Some(value.into()),
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--mtu" => options.mtu = Some(value.parse()?),
                "--runs" => options.runs = Some(value.parse()?),
                _ => bail!("unknown option {arg}"),
            }
        }
        for group in &options.only {
            ensure!(GROUPS.contains(&group.as_str()), "groups are {}", GROUPS.join(", "));
        }
        Ok(options)
    }

    fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == group)
    }

    /// Where the images are, if a group is measured that needs them.
    fn directory(&self) -> anyhow::Result<PathBuf> {
        let needed = GROUPS.iter().any(|group| self.wants(group) && !IMAGELESS.contains(group));
        match &self.images {
            Some(images) => images.canonicalize().context("--images"),
            None if needed => bail!("--images DIR: where g1.raw to g3.raw are"),
            None => Ok(PathBuf::new()),
        }
    }
}

/// What every group needs.
#[derive(Debug)]
struct Setup {
    /// Where the images are.
    directory: PathBuf,
    /// The three of them.
    images: [PathBuf; 3],
    work: PathBuf,
    binary: PathBuf,
    memory: Memory,
    runs: usize,
    /// Of the wire that bytes are counted on.
    mtu: u32,
    /// Bytes of the first copy, which others are compared with.
    first_copy_bytes: Cell<Option<u64>>,
}

impl Setup {
    fn ground(&self) -> Ground<'_> {
        Ground { binary: &self.binary, work: &self.work, memory: &self.memory }
    }
}

/// What the group `index` measures.
pub(crate) use index::serve as index_end;

/// Measures, prints the table, and fails when a row misses its bound.
pub(crate) fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let options = Options::parse(args)?;
    let directory = options.directory()?;
    let images = ["g1.raw", "g2.raw", "g3.raw"].map(|name| directory.join(name));
    for image in images.iter().filter(|_| options.images.is_some()) {
        ensure!(image.is_file(), "no {}", image.display());
    }
    let parent = options.work.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&parent)?;
    let work = parent.canonicalize()?.join(format!("figures-{}", std::process::id()));
    std::fs::create_dir(&work)?;
    let (memory, sampler) = Memory::start();
    let setup = Setup {
        directory,
        images,
        binary: tools::find_binary(options.binary.as_deref())?,
        memory: memory.clone(),
        runs: options.runs.unwrap_or(3).max(1),
        mtu: options.mtu.unwrap_or(MTU),
        first_copy_bytes: Cell::new(None),
        work: work.clone(),
    };
    let mut table = Table::new(conditions(&setup));
    let outcome = groups(&setup, &options, &mut table);
    memory.stop();
    sampler.join().ok().context("the memory sampler failed")?;
    if outcome.is_err() {
        say(&last_words(&work));
    }
    if options.keep {
        say(&format!("kept {}", work.display()));
    } else {
        std::fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
    }
    write!(std::io::stdout().lock(), "{}", table.markdown())?;
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", table.json()))?;
    }
    outcome?;
    Ok(if table.all_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn groups(setup: &Setup, options: &Options, table: &mut Table) -> anyhow::Result<()> {
    for group in GROUPS.iter().filter(|group| options.wants(group)) {
        match *group {
            "scan" => scan::record(setup, table),
            "look" => scan::look(setup, table),
            "index" => index::run(setup, table),
            "links" => links::run(setup, table),
            "sharing" => links::sharing(setup, table),
            "caps" => caps::run(setup, table),
            "control" => control::run(setup, table),
            "bytes" => bytes::run(setup, table),
            "held" => held::run(setup, table),
            "room" => room::run(setup, table),
            "change" => change::run(setup, table),
            "sparse" => sparse::run(setup, table),
            "shaped" => shaped::run(setup, table),
            "many" => many::run(setup, table),
            "hub" => hub::run(setup, table),
            "lineage" => lineage::run(setup, table),
            "answers" => answers::run(setup, table),
            "stores" => stores::run(setup, table),
            "inuse" => inuse::run(setup, table),
            _ => seconds::run(setup, table),
        }
        .with_context(|| format!("group {group}"))?;
    }
    let mut peaks = setup.memory.peaks();
    // Of many alike the largest is enough.
    let alike = peaks.extract_if(.., |name, _| name.starts_with("branch-"));
    if let Some(largest) = alike.map(|(_, bytes)| bytes).max() {
        peaks.insert("branches, the largest".to_owned(), largest);
    }
    // It has a bound of its own.
    peaks.remove(stores::HUB);
    for (name, peak) in peaks {
        let figure = format!("resident memory of the {name}, peak of everything above");
        table.add(Row::at_most(&figure, Amount::bytes(MEMORY_BYTES), Amount::bytes(peak)));
    }
    Ok(())
}

/// What the figures depend on.
fn conditions(setup: &Setup) -> Vec<(String, String)> {
    let mut rows = machine::conditions(&setup.work);
    let runs = format!("{} of each, interleaved; the median counts", setup.runs);
    rows.push(("timed runs".to_owned(), runs));
    for (name, path) in ["g1", "g2", "g3"].iter().zip(&setup.images) {
        let Ok(outside) = image::outside(path) else { continue };
        let bytes = std::fs::metadata(path).map_or(0, |stat| stat.len());
        let [bytes, allocated] = [bytes, outside.allocated_bytes].map(Amount::bytes);
        rows.push(((*name).to_owned(), format!("{bytes}, {allocated} allocated")));
    }
    rows
}

/// The ends of the nodes' logs.
fn last_words(work: &Path) -> String {
    let mut text = String::new();
    for group in [
        "bytes", "held", "plain", "room", "seconds", "shaped", "shaped", "inuse", "change", "many",
        "answers",
    ] {
        for node in ["sender", "receiver"] {
            let path = work.join(group).join(node).join("serve.log");
            let Ok(log) = std::fs::read_to_string(&path) else { continue };
            let lines: Vec<&str> = log.lines().rev().take(8).collect();
            text.push_str(&format!("--- {}\n", path.display()));
            for line in lines.iter().rev() {
                text.push_str(&format!("{line}\n"));
            }
        }
    }
    text
}
