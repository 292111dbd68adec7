//! Updates where both ends have reflinks: two XFS in files, changes made in place, so that the
//! sender holds what the receiver still has. What travels is compared with what the changed pages
//! come to, and with the same update between two nodes that hold nothing.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::edit::turn_into;
use super::image::{changed_pages, outside};
use super::mount::{Mount, make, missing};
use super::pair::{Pair, Transfer};
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, copy};
use super::{Setup, say};
use crate::link::{Link, Shape};
use crate::workload::{Request, prepare};

const SEED: u64 = 20_261_122;
const PAGE_BYTES: usize = 4096;
/// The synthetic image with the database.
const DATABASE_IMAGE_BYTES: u64 = 1 << 30;
/// Rebuilt libraries: how many, how long they are at least, bytes put in at a place.
const LIBRARIES: usize = 300;
const LIBRARY_BYTES_MIN: u64 = 64 << 10;
const INSERTION_BYTES: std::ops::RangeInclusive<u64> = 8..=200;
/// From publish to receipt.
const DAY_SECONDS_MAX: f64 = 1.5;

/// All rows of this file.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if let Some(why) = missing("xfs") {
        for what in ["g2 to g3", "database-like edits", "rebuilt libraries"] {
            table.add(Row::skipped(&format!("held base, wire bytes, {what}"), &why));
        }
        return Ok(());
    }
    let held = Ends::on_xfs(setup)?;
    day(setup, &held.pair, table)?;
    database(setup, &held.pair, table)?;
    libraries(setup, &held.pair, table)?;
    held.end()
}

/// Two nodes, each with its images on an XFS of its own.
struct Ends {
    pair: Pair,
    mounts: [Mount; 2],
}

impl Ends {
    fn on_xfs(setup: &Setup) -> anyhow::Result<Ends> {
        let link = match Link::missing(&Shape::UNSHAPED) {
            Some(_) => None,
            None => Some(Link::up(Shape::UNSHAPED, setup.mtu)?),
        };
        let mut pair = Pair::start(&setup.ground(), "held", link)?;
        let bytes: u64 =
            setup.images.iter().map(|i| outside(i).map_or(0, |o| o.allocated_bytes)).sum();
        let mount = |name: &str, point: PathBuf| {
            let file = setup.work.join(format!("{name}.xfs"));
            make("xfs", &file, 2 * bytes + 4 * DATABASE_IMAGE_BYTES)?;
            Mount::new(&file, &point, "loop")
        };
        let mounts =
            [mount("sender", pair.sender.images())?, mount("receiver", pair.receiver.images())?];
        pair.join()?;
        Ok(Ends { pair, mounts })
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.pair.sender.stop()?;
        self.pair.receiver.stop()?;
        drop(self.mounts);
        self.pair.end()
    }
}

/// Brings `before` over, then `after`, written over it in place; gives what that cost.
fn update(pair: &Pair, name: &str, before: &Path, after: &Path) -> anyhow::Result<Transfer> {
    let image = pair.sender.image(name);
    copy(before, &image)?;
    pair.transfer(name)?;
    pair.settle()?;
    turn_into(&image, before, after)?;
    let transfer = pair.transfer(name)?;
    pair.settle()?;
    Ok(transfer)
}

/// A row of bytes that travelled, with what else is known of the transfer.
fn row(pair: &Pair, what: &str, limit: f64, transfer: &Transfer) -> Row {
    let figure = format!("held base, wire bytes, {what}");
    let images = pair.sender.images();
    let row = Row::at_most(&figure, Amount::Bytes(limit), Amount::bytes(transfer.bytes()));
    let [sent, received] = transfer.told_bytes.map(Amount::bytes);
    row.with_cpu(transfer.cpu).noting(&format!(
        "without packet headers {sent} by the sender's count, {received} by the receiver's; \
         {:.2} s, of it publish {:.2} s; images in {}",
        transfer.seconds,
        transfer.publish_seconds,
        super::tools::file_system(&images),
    ))
}

fn day(setup: &Setup, pair: &Pair, table: &mut Table) -> anyhow::Result<()> {
    say("held base: g2 to g3, in place");
    let [_, g2, g3] = &setup.images;
    let transfer = update(pair, "day.raw", g2, g3)?;
    let changed = changed_pages(g2, g3)?;
    let limit = 0.80 * Amount::bytes(changed.zstd_bytes).value();
    let words = format!("0.80 x zstd -3 of {} changed pages", changed.count);
    table.add(row(pair, "g2 to g3 (small day)", limit, &transfer).bound_is(&words));
    let figure = "held base, publish to receipt, g2 to g3";
    let (limit, value) = (Amount::Seconds(DAY_SECONDS_MAX), Amount::Seconds(transfer.seconds));
    table.add(Row::at_most(figure, limit, value).with_cpu(transfer.cpu));
    Ok(())
}

fn database(setup: &Setup, pair: &Pair, table: &mut Table) -> anyhow::Result<()> {
    say("held base: edits in a database");
    let request = Request {
        seed: SEED,
        image_bytes: DATABASE_IMAGE_BYTES,
        dir: setup.work.join("workloads"),
        real_images: None,
    };
    let made = prepare("database", &request)?;
    let before = &made.before.first().context("an update has something before")?.path;
    let transfer = update(pair, "database.raw", before, &made.after.path)?;
    let dirty = changed_pages(before, &made.after.path)?.count * PAGE_BYTES as u64;
    let limit = 0.15 * Amount::bytes(dirty).value();
    let words = format!("0.15 x {} of dirty pages", Amount::bytes(dirty));
    table.add(row(pair, "database-like edits", limit, &transfer).bound_is(&words));
    Ok(())
}

fn libraries(setup: &Setup, pair: &Pair, table: &mut Table) -> anyhow::Result<()> {
    say("held base: libraries rebuilt with insertions");
    let [_, _, g3] = &setup.images;
    let made = setup.work.join("rebuilt.raw");
    copy(g3, &made)?;
    let count = rebuild_libraries(&made, &setup.work.join("guest"))?;
    let transfer = update(pair, "libraries.raw", g3, &made)?;
    say("the same without a held base");
    let plain = Pair::joined(&setup.ground(), "plain", None)?;
    let without = update(&plain, "libraries.raw", g3, &made)?;
    plain.end()?;
    std::fs::remove_file(&made)?;
    // Both by the nodes' own count: the second pair has no wire of its own.
    let [with, without] = [transfer, without].map(|t| t.told_bytes[0].max(t.told_bytes[1]));
    let what = format!("{count} libraries rebuilt in place");
    let words = format!("0.15 x {} without dictionaries", Amount::bytes(without));
    let told = Transfer { wire_bytes: None, told_bytes: [with; 2], ..transfer };
    let limit = 0.15 * Amount::bytes(without).value();
    table.add(row(pair, &what, limit, &told).bound_is(&words));
    Ok(())
}

/// Rewrites long files of the file system in `image` in place, with a few bytes put in here and
/// there; gives how many.
fn rebuild_libraries(image: &Path, point: &Path) -> anyhow::Result<usize> {
    let guest = Mount::new(image, point, "loop")?;
    let mut files = Vec::new();
    long_files(&point.join("usr/lib"), &mut files)?;
    files.sort();
    ensure!(files.len() >= LIBRARIES, "only {} long files in {}", files.len(), image.display());
    let mut numbers = Numbers(SEED);
    let step = files.len() / LIBRARIES;
    let chosen = files.iter().step_by(step).take(LIBRARIES);
    for path in chosen {
        let mut bytes = std::fs::read(path)?;
        for _ in 0..=numbers.below(3) {
            let more = INSERTION_BYTES.start()
                + numbers.below(INSERTION_BYTES.end() - INSERTION_BYTES.start() + 1);
            let mut inserted = vec![0; usize::try_from(more)?];
            numbers.fill(&mut inserted);
            let at = usize::try_from(numbers.below(bytes.len() as u64))?;
            bytes.splice(at..at, inserted);
        }
        OpenOptions::new().write(true).open(path)?.write_all(&bytes)?;
    }
    guest.end()?;
    Ok(LIBRARIES)
}

/// Regular files below a directory that are long enough, each name once.
fn long_files(directory: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            long_files(&entry.path(), found)?;
        } else if kind.is_file() && entry.metadata()?.len() >= LIBRARY_BYTES_MIN {
            found.push(entry.path());
        }
    }
    Ok(())
}
