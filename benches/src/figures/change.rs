//! What an update costs when the image is changed in place: XFS and btrfs, where the base is held
//! and extents tell what changed, and ext4, where the image is read once.
//!
//! Each file system lies in a file of its own and has both stores. Time is from before `publish`
//! to after the receipt, with nothing in the page cache; disk bytes are what the kernel counts for
//! each service, until it is idle again.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::fs::{OFlags, SeekFrom, seek};

use super::edit::{self, Edited};
use super::image::{changed_pages, same_bytes};
use super::mount::{Volume, missing};
use super::pair::{Ground, Pair, Transfer};
use super::process::disk_traffic;
use super::table::{Amount, Row, Table};
use super::tools::{drop_caches, run as tool};
use super::{Setup, say};
use crate::link::{Link, Shape};

const NAME: &str = "server.raw";
const SEED: u64 = 20_260_102;
const STEP_BYTES: usize = 4 << 20;
const ALIGN_BYTES: usize = 4096;
const UPDATE_SECONDS: f64 = 1.5;
const READ_TIMES: f64 = 2.0;
const WRITTEN_TIMES: f64 = 1.3;
const WRITTEN_TIMES_JOURNAL: f64 = 2.3;
const SCAN_TIMES: f64 = 50.0;
const DISK_TIMES: f64 = 1.3;
const NOISE_TIMES: f64 = 1.05;
const ROWS_TIMES: f64 = 0.15;
const HELD_TIMES: f64 = 0.8;

/// One update and what the kernel saw of it.
struct Update {
    transfer: Transfer,
    /// Bytes that the sender read from disk.
    read_bytes: u64,
    /// Bytes that the receiver wrote to disk.
    written_bytes: u64,
    /// How the sender found what changed, and how long that took.
    discover: String,
    discover_seconds: f64,
}

/// The rows of each file system.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    for kind in ["xfs", "btrfs", "ext4"] {
        if let Some(why) = no_place(kind) {
            table.add(Row::skipped(&format!("{kind}: an update in place"), &why));
            continue;
        }
        say(&format!("an update in place, {kind}"));
        let size_bytes = fs::metadata(&setup.images[1])?.len() * 8;
        let volume = Volume::new(kind, &setup.work, size_bytes)?;
        let ground = Ground { work: volume.path(), ..setup.ground() };
        let link = Link::up(Shape::UNSHAPED, setup.mtu)?;
        let pair = Pair::joined(&ground, "change", Some(link))?;
        // The bounds of wire bytes are multiples of zstd -3.
        pair.sender.ask(&["peer", "set", "receiver", "compression=3"])?;
        pair.place(&setup.images[1], NAME)?;
        pair.transfer(NAME)?;
        small_day(setup, (&pair, table), kind)?;
        random(&pair, table, kind)?;
        if kind != "ext4" {
            cold_scan(&pair, table, kind)?;
        }
        pair.end()?;
    }
    Ok(())
}

fn update(pair: &Pair) -> anyhow::Result<Update> {
    pair.settle()?;
    drop_caches()?;
    let [sender, receiver] = pair.pids()?;
    let before = [disk_traffic(sender)?, disk_traffic(receiver)?];
    let transfer = pair.transfer(NAME)?;
    pair.settle()?;
    // What a service wrote counts when it is written, by whomever.
    tool(&mut std::process::Command::new("sync"))?;
    let after = [disk_traffic(sender)?, disk_traffic(receiver)?];
    ensure!(same_bytes(&pair.sender.image(NAME), &pair.receiver.image(NAME))?, "copies differ");
    let newest = pair.newest(&pair.sender, NAME)?;
    let found = Update {
        transfer,
        read_bytes: after[0][0] - before[0][0],
        written_bytes: after[1][1] - before[1][1],
        discover: newest["discover"].as_str().unwrap_or_default().to_owned(),
        discover_seconds: newest["seconds"].as_f64().context("no seconds in the history")?,
    };
    say(&format!(
        "   {:.2} s, publish {:.2} s ({}, {:.3} s), {} read, {} written, {} on the wire",
        found.transfer.seconds,
        found.transfer.publish_seconds,
        found.discover,
        found.discover_seconds,
        Amount::bytes(found.read_bytes),
        Amount::bytes(found.written_bytes),
        Amount::bytes(found.transfer.bytes()),
    ));
    Ok(found)
}

/// g2 becomes g3, page by page.
fn small_day(setup: &Setup, (pair, table): (&Pair, &mut Table), kind: &str) -> anyhow::Result<()> {
    let [_, g2, g3] = &setup.images;
    pair.settle()?;
    let edited = edit::turn_into(&pair.sender.image(NAME), g2, g3)?;
    // A disk that others use, too, isn't equally fast at all times: before and after.
    let read_before = if kind == "ext4" { read_once(&pair.sender.image(NAME))? } else { 0.0 };
    let found = update(pair)?;
    let figure = |what: &str| format!("{kind}, g2 to g3, {what}");
    let dirty = Amount::bytes(edited.page_bytes).value();
    let seconds = Amount::Seconds(found.transfer.seconds);
    let times = if kind == "ext4" {
        let read_after = read_once(&pair.sender.image(NAME))?;
        let once = f64::midpoint(read_before, read_after);
        let row = Row::at_most(&figure("seconds"), Amount::Seconds(once * DISK_TIMES), seconds);
        let words = format!(
            "{DISK_TIMES} x reading its data once: {read_before:.2} s before, {read_after:.2} after"
        );
        table.add(row.bound_is(&words).with_cpu(found.transfer.cpu));
        WRITTEN_TIMES_JOURNAL
    } else {
        let row = Row::at_most(&figure("seconds"), Amount::Seconds(UPDATE_SECONDS), seconds);
        table.add(row.with_cpu(found.transfer.cpu));
        let blocks = Amount::bytes(edited.block_bytes).value();
        let limit = Amount::Bytes(blocks * READ_TIMES);
        let read = Amount::bytes(found.read_bytes);
        let row = Row::at_most(&figure("read at the source"), limit, read);
        table.add(row.bound_is(&format!("{READ_TIMES} x the dirty blocks")));
        let zstd = Amount::bytes(changed_pages(g2, g3)?.zstd_bytes).value();
        wire_row(table, &figure("wire"), zstd * HELD_TIMES, &found, "0.8 x zstd -3 of its pages");
        WRITTEN_TIMES
    };
    let written = Amount::bytes(found.written_bytes);
    let row = Row::at_most(&figure("written at the target"), Amount::Bytes(dirty * times), written);
    table.add(row.bound_is(&format!("{times} x the dirty pages")));
    Ok(())
}

/// Uniform random pages of noise, then a few bytes in many pages.
fn random(pair: &Pair, table: &mut Table, kind: &str) -> anyhow::Result<()> {
    let noise = edit::noise(&pair.sender.image(NAME), 1, SEED)?;
    let found = update(pair)?;
    let limit = Amount::bytes(noise.page_bytes).value() * NOISE_TIMES;
    let figure = format!("{kind}, wire, 0.1 % random pages of noise");
    wire_row(table, &figure, limit, &found, &format!("{NOISE_TIMES} x the dirty pages"));
    let rows = edit::rows(&pair.sender.image(NAME), 10, SEED)?;
    let found = update(pair)?;
    let figure = format!("{kind}, wire, a few bytes in 1 % of the pages");
    if kind == "ext4" {
        table.add(Row::noted(&figure, Amount::bytes(found.transfer.bytes())));
        return Ok(());
    }
    let limit = Amount::bytes(rows.page_bytes).value() * ROWS_TIMES;
    wire_row(table, &figure, limit, &found, &format!("{ROWS_TIMES} x the dirty pages"));
    Ok(())
}

fn wire_row(table: &mut Table, figure: &str, limit: f64, found: &Update, words: &str) {
    let bytes = Amount::bytes(found.transfer.bytes());
    let [sender, _] = found.transfer.told_bytes;
    let row = Row::at_most(figure, Amount::Bytes(limit), bytes).bound_is(words);
    let told = format!("without packet headers {}", Amount::bytes(sender));
    table.add(row.noting(&told).with_cpu(found.transfer.cpu));
}

/// One page changes, found by extents; then again without what was held, so that all is read.
fn cold_scan(pair: &Pair, table: &mut Table, kind: &str) -> anyhow::Result<()> {
    let image = pair.sender.image(NAME);
    let one = |seed| -> anyhow::Result<Edited> { edit::noise(&image, 1, seed) };
    one(SEED + 1)?;
    let held = update(pair)?;
    ensure!(held.discover == "extents", "found by {}", held.discover);
    one(SEED + 2)?;
    let kept = pair.sender.images().join(".blockferry/base");
    for entry in fs::read_dir(&kept).with_context(|| kept.display().to_string())? {
        fs::remove_file(entry?.path())?;
    }
    let lost = update(pair)?;
    ensure!(lost.discover == "scan", "found by {}", lost.discover);
    let times = lost.discover_seconds / held.discover_seconds.max(0.001);
    let figure = format!("{kind}, discovery against a cold scan");
    let bound = if kind == "xfs" { SCAN_TIMES } else { 1.0 };
    let row = Row::at_least(&figure, Amount::Times(bound), Amount::Times(times));
    let words = format!("{:.3} s against {:.2} s", held.discover_seconds, lost.discover_seconds);
    table.add(row.noting(&words));
    Ok(())
}

/// Seconds to read what a file has storage for once, directly, 4 MiB at a time.
fn read_once(image: &Path) -> anyhow::Result<f64> {
    drop_caches()?;
    let flags = i32::try_from(OFlags::DIRECT.bits())?;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(image)?;
    let size_bytes = file.metadata()?.len();
    let mut room = vec![0; STEP_BYTES + ALIGN_BYTES];
    let start = room.as_ptr().align_offset(ALIGN_BYTES);
    let buffer = &mut room[start..start + STEP_BYTES];
    let began = Instant::now();
    let mut at = 0;
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(data)).unwrap_or(size_bytes);
        at = data;
        while at < end {
            let bytes = usize::try_from(end - at)?.min(STEP_BYTES).next_multiple_of(ALIGN_BYTES);
            let count = file.read_at(&mut buffer[..bytes], at)?;
            ensure!(count > 0, "{} became shorter", image.display());
            at += count as u64;
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Why there can be no such file system, or no wire, here.
fn no_place(kind: &str) -> Option<String> {
    missing(kind).or_else(|| Link::missing(&Shape::UNSHAPED).map(str::to_owned))
}
