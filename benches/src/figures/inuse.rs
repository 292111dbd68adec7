//! An image that somebody writes all the time, in a store that takes snapshots: how much of its
//! speed the writer keeps while the image is frozen, recorded and sent, and how long a single write
//! waits at most. The image is on XFS; the receiver's disk is memory where there is enough of it, as
//! it would be another machine's.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use blockferry_store::disk::AlignedBuf;

use super::mount::{Mount, make, missing};
use super::node::Node;
use super::pair::{STORE, free_address, text};
use super::table::{Amount, Row, Table};
use super::tools::Numbers;
use super::{Setup, say};

const NAME: &str = "busy.raw";
const IMAGE_BYTES: u64 = 1 << 30;
/// Room for the image, what is held of it, and what is frozen.
const DISK_BYTES: u64 = 6 << 30;
/// Bytes a second that the writer wants to write.
const SPEED: f64 = 200e6;
const WRITE_BYTES: usize = 256 << 10;
/// The writer may make up for so much lost time, no more: who waits longer has lost speed.
const MADE_UP_MAX: Duration = Duration::from_millis(100);
/// How long it writes alone, and beside the service.
const ALONE: Duration = Duration::from_secs(10);
const BESIDE: Duration = Duration::from_secs(60);
/// A generation in this time at most; freezing too often is for the service to avoid.
const SETTLE: &str = "2s";
const KEPT: f64 = 0.95;
const GENERATIONS_MIN: u64 = 2;
/// Memory that is a disk.
const MEMORY_DISK: &str = "/dev/shm";

/// How the writer writes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// As hypervisors do without a cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What the writer came to.
#[derive(Clone, Copy, Debug)]
struct Written {
    bytes_per_second: f64,
    longest_wait: Duration,
}

/// Measures both ways of writing.
pub(super) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    for (way, what) in [(Way::Direct, "direct"), (Way::Buffered, "through the page cache")] {
        let figure = format!("a writer at 200 MB/s ({what}) while its image is recorded and sent");
        if let Some(why) = missing("xfs") {
            table.add(Row::skipped(&figure, &why));
            continue;
        }
        say(&figure);
        let work = setup.work.join("inuse");
        std::fs::create_dir(&work)?;
        let memory = tempfile::tempdir_in(MEMORY_DISK).ok().filter(|_| is_roomy());
        let there = memory.as_ref().map_or(work.as_path(), tempfile::TempDir::path);
        let measured = measure(setup, &work, there, way);
        std::fs::remove_dir_all(&work)?;
        let (alone, beside, generations) = measured?;
        let kept = beside.bytes_per_second / alone.bytes_per_second;
        table.add(Row::at_least(&figure, Amount::Times(KEPT), Amount::Times(kept)));
        for (who, writer) in [("alone", alone), ("beside", beside)] {
            let speed = Amount::Speed(writer.bytes_per_second);
            table.add(Row::noted(&format!("{figure}: speed {who}"), speed));
            let wait = Amount::Seconds(writer.longest_wait.as_secs_f64());
            table.add(Row::noted(&format!("{figure}: longest wait {who}"), wait));
        }
        let enough = generations >= GENERATIONS_MIN;
        let seen = format!("{generations} in {} s", BESIDE.as_secs());
        let bound = format!("at least {GENERATIONS_MIN} arrive");
        table.add(Row::check(&format!("{figure}: generations"), &bound, enough, seen));
    }
    Ok(())
}

fn is_roomy() -> bool {
    let space = rustix::fs::statvfs(MEMORY_DISK).ok();
    space.is_some_and(|space| space.f_bavail * space.f_frsize > 4 * IMAGE_BYTES)
}

/// Speeds alone and beside the service, and how many generations the receiver got meanwhile.
fn measure(
    setup: &Setup,
    here: &Path,
    there: &Path,
    way: Way,
) -> anyhow::Result<(Written, Written, u64)> {
    let create = |parent, name| {
        let address = (None, free_address()?);
        Node::create(&setup.binary, parent, name, address, &setup.memory)
    };
    let (mut sender, mut receiver) = (create(here, "sender")?, create(there, "receiver")?);
    let disk = here.join("disk.xfs");
    make("xfs", &disk, DISK_BYTES)?;
    let mount = Mount::new(&disk, &sender.images(), "loop")?;
    let mut config =
        OpenOptions::new().append(true).open(here.join("sender").join("blockferry.toml"))?;
    let images = sender.images();
    writeln!(
        config,
        "\n[stores.{STORE}]\npath = {:?}\nsettle = {SETTLE:?}\nin_use = \"snapshot\"",
        text(&images)?
    )?;
    let image = sender.image(NAME);
    fill(&image)?;
    sender.start()?;
    receiver.start()?;
    let invitation = sender.ask(&["invite", "--store", STORE])?;
    let ticket = invitation["ticket"].as_str().context("no ticket")?;
    receiver.ask(&["join", ticket, "--path", text(&receiver.images())?])?;
    let name = format!("{STORE}/{NAME}");
    sender.ask(&["publish", &name])?;
    sender.ask(&["push", &name, "--wait"])?;

    sender.stop()?;
    let alone = write(image.clone(), way, ALONE)?;
    sender.start()?;
    let before = newest(&receiver, &name)?;
    let beside = write(image, way, BESIDE)?;
    let after = newest(&receiver, &name)?;
    // It must be right, too: the last content arrives and is what the file holds.
    sender.ask(&["publish", &name])?;
    sender.ask(&["push", &name, "--wait"])?;
    let same = std::fs::read(sender.image(NAME))? == std::fs::read(receiver.image(NAME))?;
    ensure!(same, "the copy is not the image");
    sender.stop()?;
    receiver.stop()?;
    mount.end()?;
    Ok((alone, beside, after - before))
}

/// Number of the newest generation that a node has.
fn newest(node: &Node, name: &str) -> anyhow::Result<u64> {
    let history = node.ask(&["image", "history", name])?;
    let newest = history["generations"].get(0).context("no generation")?;
    newest["generation"].as_u64().context("no number")
}

/// An image of bytes that don't compress.
fn fill(path: &Path) -> anyhow::Result<()> {
    let (mut numbers, mut file) = (Numbers(1), File::create(path)?);
    let mut piece = vec![0; 4 << 20];
    for _ in 0..IMAGE_BYTES / piece.len() as u64 {
        numbers.fill(&mut piece);
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

/// Writes all over the image for so long, at most at the wanted speed.
fn write(image: PathBuf, way: Way, time: Duration) -> anyhow::Result<Written> {
    let mut options = OpenOptions::new();
    options.write(true);
    if matches!(way, Way::Direct) {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(image)?;
    let writer = thread::spawn(move || -> anyhow::Result<Written> {
        let mut numbers = Numbers(2);
        let mut buf = AlignedBuf::with_capacity(WRITE_BYTES);
        buf.set_len(WRITE_BYTES);
        numbers.fill(buf.filled_mut());
        let pause = Duration::from_secs_f64(Amount::bytes(WRITE_BYTES as u64).value() / SPEED);
        let (began, mut longest_wait, mut bytes) = (Instant::now(), Duration::ZERO, 0);
        let mut due = began;
        while began.elapsed() < time {
            let now = Instant::now();
            if due > now {
                thread::sleep(due - now);
            }
            due = (due + pause).max(now.checked_sub(MADE_UP_MAX).unwrap_or(now));
            let at = numbers.below(IMAGE_BYTES / WRITE_BYTES as u64) * WRITE_BYTES as u64;
            numbers.fill(&mut buf.filled_mut()[..4096]);
            let asked = Instant::now();
            file.write_all_at(buf.filled_mut(), at)?;
            longest_wait = longest_wait.max(asked.elapsed());
            bytes += WRITE_BYTES as u64;
        }
        let bytes_per_second = Amount::bytes(bytes).value() / began.elapsed().as_secs_f64();
        Ok(Written { bytes_per_second, longest_wait })
    });
    writer.join().ok().context("the writer failed")?
}
