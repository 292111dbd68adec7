//! The chunk index with 20 million chunks: bytes on disk, memory at rest and at most in a commit,
//! look-ups of chunks that nobody has, and how long a store takes to open after its process was
//! killed in the middle of an insert.
//!
//! What is measured runs in processes of its own (`blockferry-benches index-end`), so that memory
//! and read calls are those of the index and so that there is something to kill.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::process::number_in;
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, drop_caches, is_root, median};
use super::{Setup, say};
use crate::chunk_index::{Index, PART_CHUNKS, options, real_disk, store};

const CHUNKS: u32 = 20_000_000;
const DISK_BYTES: u64 = 1 << 30;
const MEMORY_BYTES: u64 = 64 << 20;
const MISSES_READ: f64 = 0.001;
const OPEN_SECONDS: f64 = 2.0;
/// Of the catalog while memory is measured: small, so that the rest is easy to see.
const CACHE_BYTES: usize = 1 << 20;
/// Parts of unknown, and of known, chunks that are looked up.
const PARTS: u32 = 50;
/// Chunks of one insertion that is killed.
const INSERT_CHUNKS: u32 = 65_536;
const KILLS: usize = 7;
const KILLED_WITHIN_MS: u64 = 800;
/// Insertions in a row while memory is measured: all that wait go into their rows several times.
const INSERTIONS: u32 = 6;
/// Chunks of the large insertion, those of a new image.
const IMAGE_CHUNKS: u32 = 1_000_000;
/// Another number of chunks than [`CHUNKS`], to try this out. Bounds are those of the full number.
const INDEX_CHUNKS: &str = "BLOCKFERRY_BENCH_INDEX_CHUNKS";
/// Where an index that was made before is kept.
const INDEX_DIR: &str = "BLOCKFERRY_BENCH_INDEX_DIR";

/// Measures all of it.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let kept = std::env::var_os(INDEX_DIR).map(PathBuf::from);
    let directory = kept.unwrap_or_else(|| setup.work.join("index"));
    let chunks = chunks()?;
    say(&format!("an index of {chunks} chunks below {}", directory.display()));
    let began = Instant::now();
    end("make", &directory)?.wait_with_output()?;
    say(&format!("made in {:.0} s", began.elapsed().as_secs_f64()));
    let home = home(&directory)?;
    let catalog = std::fs::metadata(home.join(".blockferry/catalog.redb"))?;
    drop_caches()?;
    let said: Value = serde_json::from_slice(&end("look", &directory)?.wait_with_output()?.stdout)?;
    let number = |name: &str| said[name].as_f64().with_context(|| format!("no {name} in {said}"));
    ensure!(number("chunks")? > f64::from(chunks) * 0.99, "too few chunks: {said}");

    let words = format!("file of {}", Amount::bytes(catalog.len()));
    let figure = format!("{chunks} chunks: catalog on disk, chunk lists and index");
    let on_disk = Amount::bytes(catalog.blocks() * 512);
    table.add(Row::at_most(&figure, Amount::bytes(DISK_BYTES), on_disk).noting(&words));
    let figure = "the same: memory beside the catalog's cache";
    let limit = Amount::bytes(MEMORY_BYTES);
    let words = format!("{} by its own account", Amount::Bytes(number("told_bytes")?));
    let row = Row::at_most(figure, limit, Amount::Bytes(number("memory_bytes")?));
    table.add(row.bound_is("all of the process but the cache").noting(&words));
    grown(&directory, table)?;
    let figure = "the same: look-ups of unknown chunks that read";
    let (calls, misses) = (number("miss_reads")?, number("misses")?);
    let share = Amount::Share(calls / misses);
    let words = format!(
        "{calls} for {misses}; {:.2} us each; without the filter {:.2} calls, {:.1} us",
        number("miss_seconds")? * 1e6 / misses,
        number("bare_reads")? / misses,
        number("bare_seconds")? * 1e6 / misses
    );
    table.add(Row::at_most(figure, Amount::Share(MISSES_READ), share).noting(&words));
    let figure = "the same: a look-up of a known chunk anywhere";
    let each = number("hit_seconds")? / number("hits")?;
    let words = format!("{:.2} read calls", number("hit_reads")? / number("hits")?);
    table.add(Row::noted(figure, Amount::Seconds(each)).noting(&words));
    let figure = "the same: filling the filter in the background";
    table.add(Row::noted(figure, Amount::Seconds(number("prepare_seconds")?)));
    let (opens, insert) = opened_after_kills(&directory)?;
    let figure = format!("the same: inserting {INSERT_CHUNKS} chunks and making them durable");
    table.add(Row::noted(&figure, Amount::Seconds(insert)));
    let figure = format!("the same: open after kill -9 amid inserts, worst of {KILLS}");
    let cold = if is_root() { "page cache dropped" } else { "page cache as it was" };
    let worst = Amount::Seconds(opens.iter().copied().fold(0.0, f64::max));
    let words = format!("median {}; {cold}", Amount::Seconds(median(&opens)));
    table.add(Row::at_most(&figure, Amount::Seconds(OPEN_SECONDS), worst).noting(&words));
    Ok(())
}

/// Inserts in a process of its own, and judges the most memory that this took.
fn grown(directory: &Path, table: &mut Table) -> anyhow::Result<()> {
    let output = end("grow", directory)?.wait_with_output()?;
    ensure!(output.status.success(), "inserting: {}", output.status);
    let said: Value = serde_json::from_slice(&output.stdout)?;
    for (name, what) in [
        ("small", format!("{INSERT_CHUNKS} chunks, {INSERTIONS} times")),
        ("large", format!("{IMAGE_CHUNKS} chunks at once")),
    ] {
        let number = |of: &str| said[name][of].as_f64().with_context(|| format!("no {name} {of}"));
        let figure = format!("the same: peak memory beside the cache, commit of {what}");
        let (before, planning, commit) =
            (number("before")?, number("planning")?, number("commit")?);
        let words = format!(
            "{} before; {} while its recipe was planned, which the staging holds",
            Amount::Bytes(before),
            Amount::Bytes(planning)
        );
        let peak = Amount::Bytes(commit);
        let row = Row::at_most(&figure, Amount::bytes(MEMORY_BYTES), peak);
        table.add(row.bound_is("all of the process but the cache").noting(&words));
    }
    Ok(())
}

/// Kills a process that inserts, again and again: the seconds that opening took after it, and those
/// of a whole insertion.
fn opened_after_kills(directory: &Path) -> anyhow::Result<(Vec<f64>, f64)> {
    let (mut opens, mut insert) = (Vec::new(), f64::NAN);
    let mut numbers = Numbers(5);
    for kill in 0..=KILLS {
        let mut child = end("insert", directory)?;
        let mut lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        ensure!(lines.next().transpose()?.as_deref() == Some("inserting"), "it doesn't insert");
        if kill == 0 {
            insert = lines.next().context("no figure")??.parse()?;
        } else {
            thread::sleep(Duration::from_millis(numbers.below(KILLED_WITHIN_MS)));
        }
        child.kill()?;
        child.wait()?;
        drop_caches()?;
        let began = Instant::now();
        let opened = store(&real_disk(&home(directory)?)?, &options(false))?;
        let seconds = began.elapsed().as_secs_f64();
        say(&format!("opened in {seconds:.3} s"));
        opens.push(seconds);
        drop(opened);
    }
    Ok((opens, insert))
}

fn chunks() -> anyhow::Result<u32> {
    let told = std::env::var(INDEX_CHUNKS).ok();
    told.map_or(Ok(CHUNKS), |told| told.parse().context(INDEX_CHUNKS))
}

fn home(directory: &Path) -> anyhow::Result<PathBuf> {
    Ok(directory.join(format!("index-{}", chunks()?)))
}

/// This program as a process that does one thing to the index.
fn end(what: &str, directory: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("index-end").arg(what).arg(directory).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

/// What such a process does.
pub(crate) fn serve(args: &[String]) -> anyhow::Result<()> {
    let [what, directory] = args else { bail!("index-end WHAT DIR") };
    let directory = Path::new(directory);
    match what.as_str() {
        "make" => drop(Index::kept(directory, chunks()?)?),
        "look" => writeln!(std::io::stdout(), "{}", look(&home(directory)?)?)?,
        "insert" => insert(&home(directory)?)?,
        "grow" => writeln!(std::io::stdout(), "{}", grow(&home(directory)?)?)?,
        _ => bail!("no {what}"),
    }
    Ok(())
}

/// Inserts until it is killed; what the first whole insertion took is a line.
fn insert(home: &Path) -> anyhow::Result<()> {
    let mut index = Index::of(store(&real_disk(home)?, &options(false))?, chunks()?)?;
    let mut out = std::io::stdout();
    // Taking out what was inserted the time before is work of the same kind.
    loop {
        let insertion = index.insertion(INSERT_CHUNKS)?;
        writeln!(out, "inserting")?;
        let began = Instant::now();
        insertion.run()?;
        writeln!(out, "{}", began.elapsed().as_secs_f64())?;
        index.forget_insertion()?;
    }
}

/// The most memory of this process that no file is behind, since it was begun.
struct Peak {
    /// Bytes of pages that a file is behind, the program above all. They only become more, and what
    /// is added counts as if it were memory.
    of_files: u64,
}

impl Peak {
    fn begin() -> anyhow::Result<Self> {
        give_back();
        // The kernel's mark goes down to what is resident now.
        std::fs::write("/proc/self/clear_refs", "5").context("reset VmHWM")?;
        let of_files = resident_bytes("VmRSS")?.saturating_sub(resident_bytes("RssAnon")?);
        Ok(Self { of_files })
    }

    fn bytes(&self) -> anyhow::Result<u64> {
        Ok(resident_bytes("VmHWM")?.saturating_sub(self.of_files))
    }
}

/// Gives the kernel back what was freed: it would hide what is allocated next, or count as used.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
fn give_back() {
    // SAFETY: only a number is passed; nothing that is in use is touched.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

fn resident_bytes(what: &str) -> anyhow::Result<u64> {
    Ok(number_in(std::process::id(), "status", what)? * 1024)
}

/// Inserts, as a receiver does with its filter ready, and says what memory that took.
fn grow(home: &Path) -> anyhow::Result<Value> {
    let empty = resident_bytes("RssAnon")?;
    let options = blockferry_store::Options { cache_bytes: CACHE_BYTES, ..options(false) };
    let mut index = Index::of(store(&real_disk(home)?, &options)?, chunks()?)?;
    ensure!(index.prepare()?.filtered, "the filter isn't ready");
    let small = inserted(&mut index, INSERT_CHUNKS, INSERTIONS, empty)?;
    let large = inserted(&mut index, IMAGE_CHUNKS, 1, empty)?;
    index.forget_insertion()?;
    Ok(json!({ "small": small, "large": large }))
}

/// Bytes of memory without the `empty` process and the catalog's cache: before insertions, at most
/// until they are sealed, and at most in their commits, which is where the index grows.
fn inserted(index: &mut Index, chunks: u32, times: u32, empty: u64) -> anyhow::Result<Value> {
    give_back();
    let before = resident_bytes("RssAnon")?;
    let (mut planning, mut commit) = (0, 0);
    for _ in 0..times {
        let peak = Peak::begin()?;
        let insertion = index.insertion(chunks)?;
        planning = planning.max(peak.bytes()?);
        let peak = Peak::begin()?;
        insertion.run()?;
        commit = commit.max(peak.bytes()?);
    }
    let less = empty + CACHE_BYTES as u64;
    let [before, planning, commit] = [before, planning, commit].map(|b| b.saturating_sub(less));
    Ok(json!({ "before": before, "planning": planning, "commit": commit }))
}

/// Looks chunks up and says what that cost.
fn look(home: &Path) -> anyhow::Result<Value> {
    let resident = || number_in(std::process::id(), "status", "RssAnon");
    let empty = resident()?;
    let options = blockferry_store::Options { cache_bytes: CACHE_BYTES, ..options(false) };
    let mut index = Index::of(store(&real_disk(home)?, &options)?, chunks()?)?;
    let (bare_reads, bare_seconds) = looked_up(&mut index, Index::unknown)?;
    let began = Instant::now();
    let report = index.prepare()?;
    let prepare_seconds = began.elapsed().as_secs_f64();
    ensure!(report.filtered, "the filter isn't ready");
    let (miss_reads, miss_seconds) = looked_up(&mut index, Index::unknown)?;
    let (hit_reads, hit_seconds) = looked_up(&mut index, Index::known)?;
    let memory = (resident()? - empty) * 1024;
    Ok(json!({
        "chunks": report.chunks,
        "told_bytes": report.memory_bytes,
        "memory_bytes": memory.saturating_sub(CACHE_BYTES as u64),
        "prepare_seconds": prepare_seconds,
        "misses": PARTS * PART_CHUNKS,
        "bare_reads": bare_reads,
        "bare_seconds": bare_seconds,
        "miss_reads": miss_reads,
        "miss_seconds": miss_seconds,
        "hits": PARTS * PART_CHUNKS,
        "hit_reads": hit_reads,
        "hit_seconds": hit_seconds,
    }))
}

type Parts = fn(&mut Index, u32) -> anyhow::Result<crate::chunk_index::LookUp>;

/// Read calls and seconds of looking up parts made by `part`.
fn looked_up(index: &mut Index, part: Parts) -> anyhow::Result<(u64, f64)> {
    let calls = || number_in(std::process::id(), "io", "syscr");
    // Asking costs read calls, too.
    let first = calls()?;
    let asking = calls()? - first;
    let (mut reads, mut seconds) = (0, 0.0);
    for _ in 0..PARTS {
        let part = part(index, PART_CHUNKS)?;
        let (before, began) = (calls()?, Instant::now());
        let done = part.run()?;
        seconds += began.elapsed().as_secs_f64();
        reads += (calls()? - before).saturating_sub(asking);
        done.undo()?;
    }
    Ok((reads, seconds))
}
