//! Lineage on real nodes: what a touch and a rename of a large image send, how long a rollback takes until
//! three nodes have it, how soon an edit on a mirror is undone, and that a deletion beside a change
//! that was made offline loses nothing.
//!
//! The stores lie on XFS, where a history costs no copies; the image is the second generation.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};

use super::edit;
use super::image::same_bytes;
use super::mount::{Volume, missing};
use super::node::Node;
use super::pair::{Pair, STORE, free_address, text};
use super::table::{Amount, Row, Table};
use super::tools::place;
use super::{Setup, say};
use crate::link::{Link, Shape};

const NAME: &str = "server.raw";
const RENAMED: &str = "renamed.raw";
const NO_DATA_BYTES: u64 = 100 << 10;
const ROLLBACK_SECONDS: f64 = 5.0;
const RESTORED_SECONDS: f64 = 60.0;
const LONG: Duration = Duration::from_secs(600);
/// A watched directory has been looked at by then.
const LOOKED: Duration = Duration::from_secs(3);
const PAGE: usize = 4096;

/// Everything about lineage.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if let Some(why) = missing("xfs") {
        table.add(Row::skipped("lineage: touch, rename, rollback, mirror, deletion", &why));
        return Ok(());
    }
    let size_bytes = fs::metadata(&setup.images[1])?.len() * 8 + (1 << 30);
    let volume = Volume::new("xfs", &setup.work, size_bytes)?;
    say("a touch and a rename");
    names(setup, table, volume.path())?;
    say("a rollback on three nodes");
    rollback(setup, table, volume.path())?;
    say("an edit on a mirror");
    mirror(setup, table, volume.path())?;
    say("a deletion beside an offline change");
    deletion(setup, table, volume.path())
}

/// Nodes that run and share a store with the first of them.
fn nodes<const N: usize>(
    setup: &Setup,
    parent: &Path,
    names: [&'static str; N],
    (role, settle): (&str, Option<&str>),
) -> anyhow::Result<Vec<Node>> {
    fs::create_dir(parent)?;
    let mut nodes: Vec<Node> = Vec::new();
    for name in names {
        let address = (None, free_address()?);
        let mut node = Node::create(&setup.binary, parent, name, address, &setup.memory)?;
        if let Some(settle) = settle {
            node.set("BLOCKFERRY_NODE_SETTLE", settle);
        }
        node.start()?;
        match nodes.first() {
            None => drop(node.ask(&["store", "add", STORE, text(&node.images())?])?),
            Some(first) => {
                let invitation = first.ask(&["invite", "--store", STORE, "--role", role])?;
                let ticket = invitation["ticket"].as_str().context("no ticket")?;
                node.ask(&["join", ticket, "--path", text(&node.images())?])?;
            }
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// Seconds until it is so.
fn until(what: &str, mut met: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<f64> {
    let began = Instant::now();
    while !met()? {
        ensure!(began.elapsed() < LONG, "{what} never happened");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(began.elapsed().as_secs_f64())
}

fn publish(node: &Node, name: &str) -> anyhow::Result<()> {
    node.ask(&["publish", &format!("{STORE}/{name}")])?;
    node.ask(&["push", &format!("{STORE}/{name}"), "--wait"]).map(drop)
}

/// Root and bytes on the wire of the newest generation.
fn newest(node: &Node, name: &str) -> anyhow::Result<(String, u64)> {
    let history = node.ask(&["image", "history", &format!("{STORE}/{name}")])?;
    let newest = &history["generations"][0];
    let root = newest["root"].as_str().context("no root")?.to_owned();
    Ok((root, newest["wire_bytes"].as_u64().unwrap_or(0)))
}

fn has_event(node: &Node, code: &str) -> anyhow::Result<bool> {
    let (_, lines) = node.try_ask(&["events", "--since", "1h"])?;
    Ok(lines.iter().any(|line| line.get("event").unwrap_or(line)["code"] == code))
}

/// What a touch and a rename of an image send, packets and acknowledgements included.
fn names(setup: &Setup, table: &mut Table, work: &Path) -> anyhow::Result<()> {
    if let Some(why) = Link::missing(&Shape::UNSHAPED) {
        table.add(Row::skipped("bytes on the wire for a touch and a rename", why));
        return Ok(());
    }
    let ground = super::pair::Ground { work, ..setup.ground() };
    let link = Link::up(Shape::UNSHAPED, setup.mtu)?;
    let pair = Pair::joined(&ground, "names", Some(link))?;
    pair.place(&setup.images[1], NAME)?;
    pair.transfer(NAME)?;
    pair.settle()?;
    let size = Amount::bytes(fs::metadata(pair.sender.image(NAME))?.len());
    let limit = Amount::bytes(NO_DATA_BYTES);
    let mut row = |what: &str, bytes: [u64; 2]| {
        let bytes = Amount::bytes(bytes[0] + bytes[1]);
        table.add(Row::at_most(
            &format!("{what} of an image of {size}: on the wire"),
            limit,
            bytes,
        ));
    };

    let before = pair.wire_bytes()?;
    let file = OpenOptions::new().write(true).open(pair.sender.image(NAME))?;
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))?;
    drop(file);
    pair.transfer(NAME)?;
    row("touch", pair.wire_bytes_since(before)?.context("no wire")?);

    pair.settle()?;
    let before = pair.wire_bytes()?;
    fs::rename(pair.sender.image(NAME), pair.sender.image(RENAMED))?;
    thread::sleep(LOOKED);
    pair.transfer(RENAMED)?;
    let gone = pair.receiver.image(NAME);
    until("the old name goes", || Ok(!gone.exists()))?;
    pair.settle()?;
    row("rename", pair.wire_bytes_since(before)?.context("no wire")?);
    ensure!(same_bytes(&pair.sender.image(RENAMED), &pair.receiver.image(RENAMED))?, "not equal");
    ensure!(!has_event(&pair.sender, "MASS_DELETION")?, "a rename was taken for an accident");
    pair.end()
}

/// From the command at one node until all three have the earlier content again.
fn rollback(setup: &Setup, table: &mut Table, work: &Path) -> anyhow::Result<()> {
    let names = ["hub", "branch-1", "branch-2"];
    let nodes = nodes(setup, &work.join("rollback"), names, ("writer", None))?;
    let [hub, branch, _] = &nodes[..] else { unreachable!("three were made") };
    place(&setup.images[1], &hub.image(NAME))?;
    publish(hub, NAME)?;
    let (first, _) = newest(hub, NAME)?;
    edit::turn_into(&hub.image(NAME), &setup.images[1], &setup.images[2])?;
    publish(hub, NAME)?;
    let changed = newest(hub, NAME)?.0;
    until("it is everywhere", || all_have(&nodes, &changed))?;
    super::process::wait_until_idle(&pids(&nodes)?, super::pair::IDLE_LIMIT)?;
    let began = Instant::now();
    branch.ask(&["rollback", &format!("{STORE}/{NAME}@1")])?;
    let there = began.elapsed().as_secs_f64();
    until("it is everywhere", || all_have(&nodes, &first))?;
    let seconds = began.elapsed().as_secs_f64();
    let row = Row::at_most(
        "rollback, until three nodes that kept the generation have it again",
        Amount::Seconds(ROLLBACK_SECONDS),
        Amount::Seconds(seconds),
    );
    table.add(row.noting(&format!("{there:.2} s at the first")));
    let others = nodes.iter().map(|node| Ok(newest(node, NAME)?.1));
    let most = others.collect::<anyhow::Result<Vec<u64>>>()?.into_iter().max().unwrap_or(0);
    let figure = "rollback: on the wire to each of the others, by its own account";
    table.add(Row::at_most(figure, Amount::bytes(NO_DATA_BYTES), Amount::bytes(most)));
    for node in &nodes {
        ensure!(same_bytes(&setup.images[1], &node.image(NAME))?, "{} is not back", node.name);
    }
    end(nodes)
}

fn all_have(nodes: &[Node], root: &str) -> anyhow::Result<bool> {
    for node in nodes {
        if newest(node, NAME)?.0 != root {
            return Ok(false);
        }
    }
    Ok(true)
}

fn pids(nodes: &[Node]) -> anyhow::Result<Vec<u32>> {
    nodes.iter().map(Node::pid).collect()
}

/// From an edit on a mirror, with the settings that everybody has, until it is undone.
fn mirror(setup: &Setup, table: &mut Table, work: &Path) -> anyhow::Result<()> {
    let parent = work.join("mirror");
    let nodes = nodes(setup, &parent, ["hub", "mirror"], ("mirror", Some("30s")))?;
    let [hub, mirror] = &nodes[..] else { unreachable!("two were made") };
    place(&setup.images[1], &hub.image(NAME))?;
    publish(hub, NAME)?;
    super::process::wait_until_idle(&pids(&nodes)?, super::pair::IDLE_LIMIT)?;
    let edited = OpenOptions::new().write(true).open(mirror.image(NAME))?;
    let noise = [0xa5; PAGE];
    edited.write_all_at(&noise, 0)?;
    drop(edited);
    let began = Instant::now();
    let undone = || Ok(!begins_with(&mirror.image(NAME), &noise)?);
    until("it is undone", undone)?;
    let seconds = Amount::Seconds(began.elapsed().as_secs_f64());
    let figure = "an edit of a page on a mirror, settle = 30s: undone after";
    table.add(Row::at_most(figure, Amount::Seconds(RESTORED_SECONDS), seconds));
    until("it is told", || has_event(mirror, "MIRROR_RESTORED"))?;
    let kept = fs::read_dir(mirror.images().join(".blockferry/kept"))?;
    let mut is_kept = false;
    for entry in kept {
        is_kept |= begins_with(&entry?.path(), &noise)?;
    }
    let equal = same_bytes(&hub.image(NAME), &mirror.image(NAME))?;
    let history = hub.ask(&["image", "history", &format!("{STORE}/{NAME}")])?;
    let unsent = history["generations"].as_array().is_some_and(|all| all.len() == 1);
    let met = is_kept && equal && unsent;
    let words = format!("kept {is_kept}, equal to the hub's {equal}, not sent {unsent}");
    table.add(Row::check("an edit on a mirror is kept and not sent", "so it is", met, words));
    end(nodes)
}

fn begins_with(path: &Path, bytes: &[u8; PAGE]) -> anyhow::Result<bool> {
    let mut read = [0; PAGE];
    match File::open(path).and_then(|file| file.read_exact_at(&mut read, 0)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| read == *bytes).with_context(|| path.display().to_string()),
    }
}

/// One node deletes an image, another one changes it while it is away.
fn deletion(setup: &Setup, table: &mut Table, work: &Path) -> anyhow::Result<()> {
    let parent = work.join("deletion");
    let mut nodes = nodes(setup, &parent, ["here", "there"], ("writer", None))?;
    // With a second image its deletion is no accident.
    for name in [NAME, "other.raw"] {
        place(&setup.images[1], &nodes[0].image(name))?;
        publish(&nodes[0], name)?;
    }
    nodes[1].stop()?;
    fs::remove_file(nodes[0].image(NAME))?;
    thread::sleep(LOOKED);
    nodes[0].ask(&["publish", &format!("{STORE}/{NAME}")])?;
    let noise = [0x5a; PAGE];
    OpenOptions::new().write(true).open(nodes[1].image(NAME))?.write_all_at(&noise, 0)?;
    nodes[1].start()?;
    nodes[1].ask(&["publish", &format!("{STORE}/{NAME}")])?;
    let open = |node: &Node| -> anyhow::Result<bool> {
        let (_, lines) = node.try_ask(&["conflicts"])?;
        Ok(lines.last().is_some_and(|report| report["open"].as_u64().unwrap_or(0) > 0))
    };
    until("it is told", || open(&nodes[0]))?;
    let kept = begins_with(&nodes[1].image(NAME), &noise)?;
    nodes[0].ask(&["resolve", &format!("{STORE}/{NAME}"), "--keep", "there"])?;
    until("it is back", || begins_with(&nodes[0].image(NAME), &noise))?;
    until("it is over", || Ok(!open(&nodes[0])? && !open(&nodes[1])?))?;
    let equal = same_bytes(&nodes[0].image(NAME), &nodes[1].image(NAME))?;
    let words = format!("it stays until decided {kept}, and is everywhere then {equal}");
    let figure = "a change made offline beside a deletion: decided by resolve, nothing lost";
    table.add(Row::check(figure, "so it is", kept && equal, words));
    end(nodes)
}

fn end(mut nodes: Vec<Node>) -> anyhow::Result<()> {
    nodes.iter_mut().try_for_each(Node::stop)
}
