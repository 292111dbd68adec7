//! One sender and many receivers that want the same: what eight cost the sender, beside one.
//!
//! The images are the first GiB of g1 and g2, so that nine copies fit. All receivers have g1
//! before the clock starts; then g2 goes to all of them at once.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, ensure};

use super::image::same_bytes;
use super::node::Node;
use super::pair::{Pair, STORE, free_address, text};
use super::process::{cpu_seconds, wait_until_idle};
use super::table::{Amount, Row, Table};
use super::{Setup, say};

const NAME: &str = "server.raw";
const IMAGE_BYTES: u64 = 1 << 30;
const CPU_TIMES: f64 = 2.0;
const FURTHER: [&str; 7] = [
    "receiver-2",
    "receiver-3",
    "receiver-4",
    "receiver-5",
    "receiver-6",
    "receiver-7",
    "receiver-8",
];

/// One receiver, then eight.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let [g1, g2, _] = &setup.images;
    let parts = [setup.work.join("many-1.raw"), setup.work.join("many-2.raw")];
    for (image, part) in [g1, g2].into_iter().zip(&parts) {
        head(image, part)?;
    }
    let one = to(setup, &parts, &[])?;
    let eight = to(setup, &parts, &FURTHER)?;
    for part in parts {
        fs::remove_file(part)?;
    }
    table.add(Row::noted("CPU of the sender, an update to 1 receiver", Amount::Seconds(one)));
    let limit = Amount::Seconds(one * CPU_TIMES);
    let row = Row::at_most(
        "CPU of the sender, the same update to 8 receivers at once",
        limit,
        Amount::Seconds(eight),
    );
    table.add(row.bound_is(&format!("{CPU_TIMES} x that for one")));
    Ok(())
}

/// The first bytes of an image, with its holes.
fn head(image: &Path, part: &Path) -> anyhow::Result<()> {
    let whole = part.with_extension("whole");
    super::tools::copy_unsynced(image, &whole)?;
    let file = File::options().write(true).open(&whole)?;
    file.set_len(IMAGE_BYTES.min(file.metadata()?.len()))?;
    file.sync_all()?;
    Ok(fs::rename(&whole, part)?)
}

/// CPU seconds of the sender from before `publish` until all receivers have the second part.
fn to(
    setup: &Setup,
    parts: &[std::path::PathBuf; 2],
    further: &[&'static str],
) -> anyhow::Result<f64> {
    say(&format!("one sender, {} receivers", further.len() + 1));
    let pair = Pair::joined(&setup.ground(), "many", None)?;
    let mut others = Vec::new();
    for name in further {
        others.push(joined(setup, &pair, name)?);
    }
    let image = format!("{STORE}/{NAME}");
    pair.place(&parts[0], NAME)?;
    pair.sender.ask(&["publish", &image])?;
    pair.sender.ask(&["wait", &image, "--timeout", "10m"])?;
    let mut pids = pair.pids()?.to_vec();
    for node in &others {
        pids.push(node.pid()?);
    }
    wait_until_idle(&pids, super::pair::IDLE_LIMIT)?;
    pair.place(&parts[1], NAME)?;
    let before = cpu_seconds(pids[0])?;
    pair.sender.ask(&["publish", &image])?;
    pair.sender.ask(&["wait", &image, "--timeout", "10m"])?;
    let spent = cpu_seconds(pids[0])? - before;
    for node in [&pair.receiver].into_iter().chain(&others) {
        ensure!(same_bytes(&parts[1], &node.image(NAME))?, "{} has another image", node.name);
    }
    say(&format!("   {spent:.2} CPU s of the sender"));
    for mut node in others {
        node.stop()?;
    }
    pair.end()?;
    Ok(spent)
}

/// A further node that takes part in the sender's store.
fn joined(setup: &Setup, pair: &Pair, name: &'static str) -> anyhow::Result<Node> {
    let address = (None, free_address()?);
    let mut node = Node::create(&setup.binary, pair.directory(), name, address, &setup.memory)?;
    node.start()?;
    let invitation = pair.sender.ask(&["invite", "--store", STORE])?;
    let ticket = invitation["ticket"].as_str().context("no ticket")?;
    node.ask(&["join", ticket, "--path", text(&node.images())?])?;
    Ok(node)
}
