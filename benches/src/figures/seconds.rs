//! How long it takes, beside rsync on the same files: a first copy and a small day, each several
//! times, one after the other, with nothing in the page cache at either end.
//!
//! Ours is from before `publish` to after the receipt, over loopback, with everything on disk at
//! the end. rsync's is from start to exit, from a daemon on loopback; it doesn't sync.

use std::path::Path;

use anyhow::ensure;

use super::image::same_bytes;
use super::pair::{Pair, Transfer};
use super::rsync::{Cost, DELTAS, Daemon, WHOLE, WHOLE_SYNCED};
use super::table::{Amount, Row, Table};
use super::tools::{copy, drop_caches, is_root, median};
use super::{Setup, say};

const NAME: &str = "server.raw";
const DELTA_TIMES: f64 = 4.0;

/// What one round gave.
#[derive(Debug, Default)]
struct Measured {
    first: Vec<Transfer>,
    update: Vec<Transfer>,
    day: Vec<Transfer>,
    whole: Vec<Cost>,
    whole_synced: Vec<Cost>,
    deltas: [Vec<Cost>; DELTAS.len()],
}

/// All rounds, then the rows.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let cache = if is_root() { "dropped before each run" } else { "NOT dropped (needs root)" };
    table.conditions.push(("page cache".to_owned(), cache.to_owned()));
    let daemon = if Daemon::available() {
        table.conditions.push(("measured against".to_owned(), Daemon::version()));
        Some(Daemon::start(&setup.directory, &setup.work)?)
    } else {
        None
    };
    let mut measured = Measured::default();
    for number in 1..=setup.runs {
        say(&format!("seconds, round {number} of {}", setup.runs));
        round(setup, daemon.as_ref(), &mut measured)?;
    }
    rows(&measured, table);
    Ok(())
}

/// Ours and rsync's in turn, on two new nodes.
fn round(setup: &Setup, daemon: Option<&Daemon>, all: &mut Measured) -> anyhow::Result<()> {
    let [g1, g2, g3] = &setup.images;
    let pair = Pair::joined(&setup.ground(), "seconds", None)?;
    all.first.push(cold(&pair, g1)?);
    let target = setup.work.join("rsync.raw");
    if let Some(daemon) = daemon {
        all.whole.push(fetch(daemon, WHOLE, g1, &target)?);
        std::fs::remove_file(&target)?;
        all.whole_synced.push(fetch(daemon, WHOLE_SYNCED, g1, &target)?);
    }
    all.update.push(cold(&pair, g2)?);
    all.day.push(cold(&pair, g3)?);
    if let Some(daemon) = daemon {
        for (how, costs) in DELTAS.iter().zip(&mut all.deltas) {
            copy(g2, &target)?;
            costs.push(fetch(daemon, how, g3, &target)?);
        }
        std::fs::remove_file(&target)?;
    }
    pair.end()
}

/// One transfer of ours with cold caches; both nodes are idle before and after.
fn cold(pair: &Pair, source: &Path) -> anyhow::Result<Transfer> {
    pair.place(source, NAME)?;
    pair.settle()?;
    drop_caches()?;
    let transfer = pair.transfer(NAME)?;
    let idle = pair.settle()?;
    ensure!(same_bytes(source, &pair.receiver.image(NAME))?, "{} differs", source.display());
    say(&format!(
        "   blockferry {}: {:.2} s, of it publish {:.2} s; idle {:.1} s later",
        shown(source),
        transfer.seconds,
        transfer.publish_seconds,
        idle.as_secs_f64()
    ));
    Ok(transfer)
}

fn fetch(daemon: &Daemon, how: &[&str], source: &Path, target: &Path) -> anyhow::Result<Cost> {
    let cost = daemon.fetch(how, &shown(source), target)?;
    ensure!(same_bytes(source, target)?, "rsync {how:?} left something else");
    say(&format!("   rsync {} {}: {:.2} s", how.join(" "), shown(source), cost.seconds));
    Ok(cost)
}

fn shown(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn rows(all: &Measured, table: &mut Table) {
    let (first, first_cpu) = ours(&all.first);
    let (update, update_cpu) = ours(&all.update);
    let (day, day_cpu) = ours(&all.day);
    let seconds = Amount::Seconds;
    table.add(Row::noted("seconds, g1 to g2", seconds(update)).with_cpu(update_cpu));
    if all.whole.is_empty() {
        table.add(Row::noted("seconds, first copy", seconds(first)).with_cpu(first_cpu));
        table.add(Row::noted("seconds, g2 to g3", seconds(day)).with_cpu(day_cpu));
        table.add(Row::skipped("the same against rsync", "rsync is not installed"));
        return;
    }
    for (how, costs) in [(WHOLE, &all.whole), (WHOLE_SYNCED, &all.whole_synced)] {
        let (took, cpu) = theirs(costs);
        let name = format!("seconds, rsync {} g1", how.join(" "));
        table.add(Row::noted(&name, seconds(took)).with_cpu(cpu));
    }
    let (whole, _) = theirs(&all.whole);
    let row = Row::at_most("seconds, first copy of g1", seconds(whole), seconds(first));
    table.add(row.bound_is("rsync -W").with_cpu(first_cpu));

    let (mut fastest, mut whole_file) = (f64::INFINITY, f64::INFINITY);
    for (how, costs) in DELTAS.iter().zip(&all.deltas) {
        let (took, cpu) = theirs(costs);
        fastest = fastest.min(took);
        if !how.contains(&"--inplace") {
            whole_file = whole_file.min(took);
        }
        let name = format!("seconds, rsync {} g2 to g3", how.join(" "));
        table.add(Row::noted(&name, seconds(took)).with_cpu(cpu));
    }
    let row = Row::at_most("seconds, g2 to g3", seconds(fastest / DELTA_TIMES), seconds(day));
    let [times, whole_times] = [fastest, whole_file].map(|took| Amount::Times(took / day));
    let row = row.bound_is("a quarter of rsync's fastest").with_cpu(day_cpu);
    table.add(row.noting(&format!(
        "{times} as fast; {whole_times} as fast as its fastest without --inplace, which shows \
         readers a mix of old and new"
    )));
}

/// Medians of seconds and CPU seconds.
fn ours(transfers: &[Transfer]) -> (f64, [f64; 2]) {
    let costs: Vec<Cost> =
        transfers.iter().map(|t| Cost { seconds: t.seconds, cpu: t.cpu }).collect();
    theirs(&costs)
}

fn theirs(costs: &[Cost]) -> (f64, [f64; 2]) {
    let of = |value: fn(&Cost) -> f64| median(&costs.iter().map(value).collect::<Vec<_>>());
    (of(|cost| cost.seconds), [of(|cost| cost.cpu[0]), of(|cost| cost.cpu[1])])
}
