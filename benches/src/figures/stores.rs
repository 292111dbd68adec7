//! 500 stores and 50 peers at one node: how long it takes to start, what it takes of memory and of a
//! processor with nothing to do, and how long a scrape of its metrics is.
//!
//! Fifty-one real processes on loopback. The node shares all its stores with each of the fifty; these
//! hold one of them, so that fifty branches fit onto one machine, and connect as they would.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::answers::{free_tcp, get, parts};
use super::node::{Node, without_own_settings};
use super::pair::{free_address, text};
use super::process::{cpu_seconds, number_in};
use super::table::{Amount, Row, Table};
use super::tools::run as run_tool;
use super::{Setup, say};

/// What the node is called: its memory has a bound of its own.
pub(crate) const HUB: &str = "node-of-500-stores";
const STORES: usize = 500;
const PEERS: usize = 50;
/// Start, until it answers; the first one makes all stores.
const START_SECONDS: f64 = 5.0;
const MEMORY_BYTES: u64 = 500 << 20;
/// Of one processor.
const IDLE_SHARE: f64 = 0.02;
const IDLE: Duration = Duration::from_secs(60);
/// What connecting leaves to be done is over after this time.
const SETTLE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(120);
const ANSWERS: usize = 100;
const SCRAPE_BYTES: u64 = 4 << 20;
const ANSWER_SECONDS: f64 = 0.1;

/// All of it.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("500 stores and 50 peers");
    let parent = setup.work.join("stores");
    fs::create_dir(&parent)?;
    let create = |name, at| Node::create(&setup.binary, &parent, name, (None, at), &setup.memory);
    let (at, http) = (free_address()?, free_tcp()?);
    let mut hub = create(HUB, at)?;
    hub.set("BLOCKFERRY_ADMIN_HTTP", &http.to_string());
    let mut branches = Vec::new();
    let mut ids = Vec::new();
    for number in 1..=PEERS {
        // A few dozen names, for as long as the program runs.
        let name: &'static str = Box::leak(format!("branch-{number:02}").into_boxed_str());
        branches.push(create(name, free_address()?)?);
        ids.push(id(setup, &parent.join(name))?);
    }
    configure(&parent.join(HUB), &ids)?;
    starts(&mut hub, table)?;
    connect(&hub, &mut branches)?;
    idle(&hub, table)?;
    scrape(http, table)?;
    for node in branches.iter_mut().chain([&mut hub]) {
        node.stop()?;
    }
    Ok(fs::remove_dir_all(&parent)?)
}

/// The id of a node.
fn id(setup: &Setup, directory: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(&setup.binary);
    without_own_settings(&mut command);
    let id = run_tool(command.args(["id", "--config"]).arg(directory.join("blockferry.toml")))?;
    Ok(id.trim().to_owned())
}

/// The node's stores and peers, beside what `init` wrote.
fn configure(directory: &Path, ids: &[String]) -> anyhow::Result<()> {
    let mut config = String::new();
    let names: Vec<String> = (0..STORES).map(|number| format!("store-{number:03}")).collect();
    for name in &names {
        let path = directory.join("images").join(name);
        fs::create_dir(&path)?;
        writeln!(config, "[stores.{name}]\npath = \"{}\"", text(&path)?)?;
    }
    let all = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    for (number, id) in (1..).zip(ids) {
        writeln!(config, "[peers.branch-{number:02}]\nid = \"{id}\"\nstores = [{all}]")?;
    }
    let over = directory.join("conf.d");
    fs::create_dir_all(&over)?;
    Ok(fs::write(over.join("stores.toml"), config)?)
}

/// The first start makes the stores; the others open them, after a stop and after a kill.
fn starts(hub: &mut Node, table: &mut Table) -> anyhow::Result<()> {
    let mut add = |what: &str, took: Duration| {
        let seconds = took.as_secs_f64();
        say(&format!("   {what}: {seconds:.2} s"));
        let figure = format!("start of a node with 500 stores, {what}");
        table.add(Row::at_most(&figure, Amount::Seconds(START_SECONDS), Amount::Seconds(seconds)));
    };
    add("which makes them", hub.start()?);
    hub.stop()?;
    add("after a stop", hub.start()?);
    hub.kill()?;
    add("after kill -9", hub.start()?);
    Ok(())
}

/// Starts the branches, and has each take part in one store.
fn connect(hub: &Node, branches: &mut [Node]) -> anyhow::Result<()> {
    for (number, branch) in branches.iter_mut().enumerate() {
        branch.start()?;
        let store = format!("store-{number:03}");
        let invitation = hub.ask(&["invite", "--store", &store, "--role", "mirror"])?;
        let ticket = invitation["ticket"].as_str().context("no ticket")?;
        branch.ask(&["join", ticket, "--path", text(&branch.images())?])?;
    }
    let began = Instant::now();
    loop {
        let status = hub.ask(&["status"])?;
        let peers = status["peers"].as_array().context("no peers")?;
        let up = peers.iter().filter(|peer| peer["connected"] == true).count();
        if up == PEERS {
            say(&format!("   all are connected after {:.1} s", began.elapsed().as_secs_f64()));
            return Ok(());
        }
        ensure!(began.elapsed() < LONG, "{up} of {PEERS} are connected");
        thread::sleep(Duration::from_millis(250));
    }
}

/// What it takes with nothing to do.
fn idle(hub: &Node, table: &mut Table) -> anyhow::Result<()> {
    thread::sleep(SETTLE);
    let pid = hub.pid()?;
    let before = cpu_seconds(pid)?;
    thread::sleep(IDLE);
    let share = (cpu_seconds(pid)? - before) / IDLE.as_secs_f64();
    let figure = "500 stores, 50 peers, nothing to do: share of one processor";
    table.add(Row::at_most(figure, Amount::Share(IDLE_SHARE), Amount::Share(share)));
    let kib = |name| number_in(pid, "status", name).map(|kib| Amount::bytes(kib * 1024));
    let (now, peak) = (kib("VmRSS")?, kib("VmHWM")?);
    say(&format!("   resident {now}, at its peak {peak}, {share:.4} of a processor"));
    let figure = "500 stores, 50 peers: resident memory at its peak";
    let threads = number_in(pid, "status", "Threads")?;
    let words = format!("now {now}, {threads} threads");
    table.add(Row::at_most(figure, Amount::bytes(MEMORY_BYTES), peak).noting(&words));
    Ok(())
}

/// How large a scrape is, and how long answers take.
fn scrape(http: SocketAddr, table: &mut Table) -> anyhow::Result<()> {
    for path in ["/metrics", "/readyz", "/api/v1/status"] {
        let (mut seconds, mut body) = (Vec::new(), String::new());
        for _ in 0..ANSWERS {
            let began = Instant::now();
            let (status, answer) = get(http, path)?;
            seconds.push(began.elapsed().as_secs_f64());
            ensure!(status == 200, "{path}: {status}");
            body = answer;
        }
        let figure = format!("500 stores, 50 peers: {path}, 99 of 100 within");
        let (limit, p99) = (Amount::Seconds(ANSWER_SECONDS), Amount::Seconds(parts(&seconds)[1]));
        let bytes = Amount::bytes(body.len() as u64);
        table.add(Row::at_most(&figure, limit, p99).noting(&bytes.to_string()));
        if path == "/metrics" {
            let series = body.lines().filter(|line| !line.starts_with('#')).count();
            let row = Row::at_most("the same: bytes", Amount::bytes(SCRAPE_BYTES), bytes);
            table.add(row.noting(&format!("{series} series")));
        }
    }
    Ok(())
}
