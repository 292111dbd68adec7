//! One run of one tool on one workload over one link: made ready, measured from the outside, and
//! what arrived compared with what was sent.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::disk;
use super::sampler::Sampler;
use super::side::Side;
use super::tools::Tool;
use super::tree::Usage;
use crate::ground::image::same_bytes;
use crate::ground::process::{QUIET, wait_until_idle};
use crate::ground::tools::copy_unsynced;
use crate::link::Link;
use crate::workload::{Placed, Workload};

/// After the end of a run: acknowledgements on their way, children not waited for yet.
const AFTERMATH: Duration = Duration::from_millis(300);
/// How long a service's work after a run is followed.
const REST_LIMIT: Duration = Duration::from_secs(30);
/// How long making ready may take.
const SET_UP_LIMIT: Duration = Duration::from_secs(600);

/// What both ends are and what they are to do.
pub(super) struct Job<'a> {
    pub(super) sender: Side,
    pub(super) receiver: Side,
    pub(super) workload: &'a Workload,
    pub(super) blockferry: &'a Path,
    /// The link has a rate.
    pub(super) is_shaped: bool,
    /// When what is being done now must be over.
    pub(super) deadline: Instant,
}

impl Job<'_> {
    /// The image's name.
    pub(super) fn name(&self) -> &str {
        &self.workload.after.name
    }

    /// Where the new image is at the sender.
    pub(super) fn source(&self) -> anyhow::Result<String> {
        self.sender.path(&format!("images/{}", self.name()))
    }

    /// Where it has to be at the receiver.
    pub(super) fn target(&self) -> anyhow::Result<String> {
        self.receiver.path(&format!("images/{}", self.name()))
    }

    /// The images that the receiver has.
    pub(super) fn olds(&self) -> anyhow::Result<Vec<String>> {
        let path = |old: &Placed| self.receiver.path(&format!("images/{}", old.name));
        self.workload.before.iter().map(path).collect()
    }

    /// Whether the receiver has an image of that name.
    pub(super) fn is_update(&self) -> bool {
        self.workload.before.iter().any(|old| old.name == self.workload.after.name)
    }
}

/// What one run came to. Pairs are of the sender and of the receiver.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) wall_seconds: f64,
    /// Parts of it that the tool does one after the other.
    pub(super) split: Vec<(String, f64)>,
    /// Until the receiver's file system has it on disk; nothing to do if the tool has seen to it.
    pub(super) sync_seconds: f64,
    pub(super) cpu_seconds: [f64; 2],
    /// What left each end, by its interface; none without a link of its own.
    pub(super) wire_bytes: Option<[u64; 2]>,
    pub(super) disk_read_bytes: [u64; 2],
    pub(super) disk_written_bytes: [u64; 2],
    pub(super) peak_memory_bytes: [u64; 2],
    /// At the peak, above what was taken at the start.
    pub(super) peak_extra_disk_bytes: [u64; 2],
    /// Taken at the start by anything but the images: indexes, chunk stores, spares.
    pub(super) standing_disk_bytes: [u64; 2],
    /// What a service did after the run until it rested.
    pub(super) afterwards: Option<Afterwards>,
    pub(super) identical: bool,
    pub(super) load_before: f64,
    /// What this machine did to packets that a real link would not have done.
    pub(super) link_trouble: Option<String>,
    /// What it took to make both ends ready, which is no part of the run.
    pub(super) set_up_seconds: f64,
}

/// Work after the receiver had the image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Afterwards {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: [f64; 2],
    pub(super) disk_read_bytes: [u64; 2],
    pub(super) disk_written_bytes: [u64; 2],
}

/// Where a job is done.
pub(super) struct Place<'a> {
    /// A directory that is made and removed again.
    pub(super) directory: &'a Path,
    pub(super) blockferry: &'a Path,
    pub(super) link: Option<&'a Link>,
    /// How long a run may take.
    pub(super) limit: Duration,
}

/// Does it once. Gives what it came to, and the command lines of both ends.
pub(super) fn measure(
    tool: &mut dyn Tool,
    workload: &Workload,
    place: &Place<'_>,
) -> anyhow::Result<(Run, Vec<String>)> {
    let directory = place.directory;
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let outcome = in_directory(tool, workload, place);
    let outcome = outcome.and_then(|outcome| {
        fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
        Ok(outcome)
    });
    // What a run that failed left must not be in the way of the next.
    let _ = fs::remove_dir_all(directory);
    outcome
}

fn in_directory(
    tool: &mut dyn Tool,
    workload: &Workload,
    place: &Place<'_>,
) -> anyhow::Result<(Run, Vec<String>)> {
    let ends: [_; 2] = match place.link {
        Some(link) => {
            let ([a, b], [here, there]) = (link.namespaces(), link.addresses());
            [(Some(a), here), (Some(b), there)]
        }
        None => [(None, [127, 0, 0, 1].into()), (None, [127, 0, 0, 1].into())],
    };
    let mut job = Job {
        sender: Side::start("sender", place.directory, ends[0])?,
        receiver: Side::start("receiver", place.directory, ends[1])?,
        workload,
        blockferry: place.blockferry,
        is_shaped: place.link.is_some_and(Link::is_shaped),
        deadline: Instant::now() + SET_UP_LIMIT,
    };
    let began = Instant::now();
    make_ready(tool, &mut job).context("set up")?;
    let set_up_seconds = began.elapsed().as_secs_f64();
    let measured = timed(tool, &mut job, place);
    tool.tear_down();
    let mut run = measured?;
    run.set_up_seconds = set_up_seconds;
    let same = same_bytes(&workload.after.path, job.target()?.as_ref());
    run.identical = same.context("compare what arrived")?;
    let lines = [job.sender.take_lines(), job.receiver.take_lines()].concat();
    Ok((run, lines))
}

/// Both ends as they are after the last generation, and the new image in place at the sender.
fn make_ready(tool: &mut dyn Tool, job: &mut Job<'_>) -> anyhow::Result<()> {
    for old in &job.workload.before {
        put(old, &job.sender)?;
        if tool.wants_before_at_receiver() {
            put(old, &job.receiver)?;
        }
    }
    tool.set_up(job)?;
    put(&job.workload.after, &job.sender)?;
    if tool.is_service() {
        wait_until_idle(&members(job)?, REST_LIMIT)?;
    }
    disk::forget(&[&job.sender.directory, &job.receiver.directory])
}

/// Copies an image to an end: written elsewhere, then renamed, so that nobody sees half of it.
fn put(image: &Placed, side: &Side) -> anyhow::Result<()> {
    let coming = side.directory.join("coming");
    copy_unsynced(&image.path, &coming)?;
    fs::rename(coming, side.images().join(&image.name))?;
    Ok(())
}

/// What can be counted at a moment.
struct Counts {
    usage: [Usage; 2],
    wire_bytes: Option<[u64; 2]>,
}

fn count(job: &mut Job<'_>, link: Option<&Link>) -> anyhow::Result<Counts> {
    let usage = [job.sender.usage()?, job.receiver.usage()?];
    Ok(Counts { usage, wire_bytes: link.map(Link::sent_bytes).transpose()? })
}

fn timed(tool: &mut dyn Tool, job: &mut Job<'_>, place: &Place<'_>) -> anyhow::Result<Run> {
    let load_before = load();
    let held = [held_bytes(&job.sender, job.workload)?, held_bytes(&job.receiver, job.workload)?];
    let before = count(job, place.link)?;
    job.sender.note("--- timed");
    job.receiver.note("--- timed");
    let sampler = Sampler::start([&job.sender, &job.receiver]);
    let began = Instant::now();
    job.deadline = began + place.limit;
    let outcome = tool.run(job);
    let wall_seconds = began.elapsed().as_secs_f64();
    let synced = Instant::now();
    if outcome.is_ok() {
        disk::sync(&job.receiver.directory)?;
    }
    let sync_seconds = synced.elapsed().as_secs_f64();
    let peaks = sampler.finish()?;
    let split = outcome?;
    thread::sleep(AFTERMATH);
    let after = count(job, place.link)?;
    let afterwards = tool.is_service().then(|| follow(job, &after.usage)).transpose()?;
    let used = [0, 1].map(|end| after.usage[end] - before.usage[end]);
    let wire = after.wire_bytes.zip(before.wire_bytes);
    Ok(Run {
        wall_seconds,
        split,
        sync_seconds,
        cpu_seconds: used.map(|used| used.cpu_seconds),
        wire_bytes: wire.map(|(after, before)| [after[0] - before[0], after[1] - before[1]]),
        disk_read_bytes: used.map(|used| used.read_bytes),
        disk_written_bytes: used.map(|used| used.written_bytes),
        peak_memory_bytes: peaks.map(|peak| peak.memory_bytes),
        peak_extra_disk_bytes: [0, 1].map(|end| peaks[end].disk_bytes.saturating_sub(held[end].0)),
        standing_disk_bytes: held.map(|(all, images)| all.saturating_sub(images)),
        afterwards,
        identical: false,
        load_before,
        link_trouble: place.link.map(Link::trouble).transpose()?.flatten(),
        set_up_seconds: 0.0,
    })
}

/// What services do until they rest.
fn follow(job: &mut Job<'_>, before: &[Usage; 2]) -> anyhow::Result<Afterwards> {
    let took = wait_until_idle(&members(job)?, REST_LIMIT)?;
    let used = [job.sender.usage()? - before[0], job.receiver.usage()? - before[1]];
    Ok(Afterwards {
        // That nothing happens any more has to be seen for a while.
        seconds: took.saturating_sub(QUIET).as_secs_f64(),
        cpu_seconds: used.map(|used| used.cpu_seconds),
        disk_read_bytes: used.map(|used| used.read_bytes),
        disk_written_bytes: used.map(|used| used.written_bytes),
    })
}

/// All processes of both ends.
fn members(job: &Job<'_>) -> anyhow::Result<Vec<u32>> {
    Ok([job.sender.tree().members()?, job.receiver.tree().members()?].concat())
}

/// Bytes on disk at an end: all, and those of the images themselves.
fn held_bytes(side: &Side, workload: &Workload) -> anyhow::Result<(u64, u64)> {
    let names: BTreeSet<&str> =
        workload.before.iter().chain([&workload.after]).map(|image| image.name.as_str()).collect();
    let allocated =
        |name: &str| fs::metadata(side.images().join(name)).map_or(0, |s| s.blocks() * 512);
    let images = names.into_iter().map(allocated).sum();
    Ok((disk::allocated_bytes(&side.directory, &[])?, images))
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
