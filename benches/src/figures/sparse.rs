//! A large image with little in it: 100 GiB, a fifth of them data, on XFS with a held base. A
//! thousandth of its pages change; how long it takes to find them, and in how much memory.
//!
//! The data lie in pieces all over the image, and so do the pages that change: each is a place of
//! its own on disk. Beside that the same again with pages that lie together in runs of 256 KiB.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};

use super::mount::{Volume, missing};
use super::node::Node;
use super::pair::{IDLE_LIMIT, STORE, free_address, text};
use super::process::{disk_traffic, peak_bytes, wait_until_idle};
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, drop_caches};
use super::{MEMORY_BYTES, Setup, say};

const NAME: &str = "large.raw";
const SEED: u64 = 20_260_104;
const SIZE_BYTES: u64 = 100 << 30;
/// Of each of these spans ...
const SPAN_BYTES: u64 = 320 << 20;
/// ... the first bytes are data.
const DATA_BYTES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 4096;
const DIRTY_BYTES: u64 = 20 * (1 << 30) / 1000;
const DISCOVERY_SECONDS: f64 = 1.0;

/// The rows of such an image.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let figure = "100 GiB with 20 GiB of data, 0.1 % dirty";
    if let Some(why) = missing("xfs") {
        table.add(Row::skipped(figure, &why));
        return Ok(());
    }
    say("an image of 100 GiB with 20 GiB of data, on XFS");
    let volume = Volume::new("xfs", &setup.work, SIZE_BYTES * 3 / 2)?;
    let mut node = Node::create(
        &setup.binary,
        volume.path(),
        "sender",
        (None, free_address()?),
        &setup.memory,
    )?;
    node.start()?;
    let image = node.image(NAME);
    node.ask(&["store", "add", STORE, text(&node.images())?])?;
    fill(&image)?;
    let scanned = publish(setup, &node)?;
    ensure!(scanned.discover == "scan", "found by {}", scanned.discover);
    let figure = format!("{figure}: the first scan");
    table.add(Row::noted(&figure, Amount::Seconds(scanned.seconds)));
    for (what, run_bytes) in [("pages here and there", PAGE_BYTES), ("runs of 256 KiB", 256 << 10)]
    {
        edit(&image, run_bytes)?;
        let found = publish(setup, &node)?;
        ensure!(found.discover == "extents", "found by {}", found.discover);
        let figure = format!("100 GiB with 20 GiB of data, 0.1 % dirty, {what}: discovery");
        let limit = Amount::Seconds(DISCOVERY_SECONDS);
        let row = Row::at_most(&figure, limit, Amount::Seconds(found.seconds));
        let read = format!("{} read", Amount::bytes(found.read_bytes));
        table.add(row.noting(&read).with_cpu(found.cpu));
        let figure = format!("the same, {what}: resident memory, peak");
        let limit = Amount::bytes(MEMORY_BYTES);
        table.add(Row::at_most(&figure, limit, Amount::bytes(found.peak_bytes)));
    }
    node.stop()
}

/// What recording it came to.
struct Found {
    discover: String,
    seconds: f64,
    read_bytes: u64,
    peak_bytes: u64,
    cpu: [f64; 2],
}

fn publish(setup: &Setup, node: &Node) -> anyhow::Result<Found> {
    let pid = node.pid()?;
    wait_until_idle(&[pid], IDLE_LIMIT)?;
    drop_caches()?;
    setup.memory.begin(pid);
    let (read, cpu) = (disk_traffic(pid)?, super::process::cpu_seconds(pid)?);
    node.ask(&["publish", &format!("{STORE}/{NAME}")])?;
    let after = disk_traffic(pid)?;
    let cpu = super::process::cpu_seconds(pid)? - cpu;
    let history = node.ask(&["image", "history", &format!("{STORE}/{NAME}")])?;
    let newest = &history["generations"][0];
    let found = Found {
        discover: newest["discover"].as_str().unwrap_or_default().to_owned(),
        seconds: newest["seconds"].as_f64().context("no seconds in the history")?,
        read_bytes: after[0] - read[0],
        peak_bytes: peak_bytes(pid)?,
        cpu: [cpu, 0.0],
    };
    say(&format!(
        "   {}: {:.3} s, {} read, peak {}",
        found.discover,
        found.seconds,
        Amount::bytes(found.read_bytes),
        Amount::bytes(found.peak_bytes)
    ));
    Ok(found)
}

/// Where data begin, one after the other.
fn pieces() -> impl Iterator<Item = u64> {
    (0..SIZE_BYTES / SPAN_BYTES).map(|span| span * SPAN_BYTES)
}

/// Makes the image: noise where there are data, holes elsewhere.
fn fill(image: &Path) -> anyhow::Result<()> {
    // Published when it is whole.
    let draft = image.with_extension("draft");
    let file = OpenOptions::new().write(true).create_new(true).open(&draft)?;
    file.set_len(SIZE_BYTES)?;
    let mut numbers = Numbers(SEED);
    let mut piece = vec![0; usize::try_from(DATA_BYTES)?];
    for at in pieces() {
        numbers.fill(&mut piece);
        file.write_all_at(&piece, at)?;
    }
    file.sync_all()?;
    fs::rename(&draft, image)?;
    Ok(())
}

/// Fills as many pages as are to change with noise, in runs of so many bytes.
fn edit(image: &Path, run_bytes: u64) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    let mut numbers = Numbers(SEED ^ run_bytes);
    let mut run = vec![0; usize::try_from(run_bytes)?];
    let starts: Vec<u64> = pieces().collect();
    for _ in 0..DIRTY_BYTES / run_bytes {
        let piece = usize::try_from(numbers.below(starts.len() as u64))?;
        let start = starts.get(piece).context("no such piece")?;
        let within = numbers.below(DATA_BYTES / run_bytes) * run_bytes;
        numbers.fill(&mut run);
        file.write_all_at(&run, start + within)?;
    }
    file.sync_all()?;
    Ok(())
}
