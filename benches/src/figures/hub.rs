//! A hub and its branches: sixteen receivers of one sender under its limit. How evenly they get on, what
//! a slow and a stopped one cost the others, how fast an urgent image overtakes, and how long a branch
//! takes to answer while everything is full.
//!
//! Real processes on loopback; the images are noise, so that every byte travels.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::node::Node;
use super::pair::{STORE, free_address, text};
use super::process::{cpu_seconds, peak_bytes};
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, run as run_tool};
use super::{Setup, say};
use crate::link::{Link, Shape};

const BRANCHES: [&str; 16] = [
    "branch-01",
    "branch-02",
    "branch-03",
    "branch-04",
    "branch-05",
    "branch-06",
    "branch-07",
    "branch-08",
    "branch-09",
    "branch-10",
    "branch-11",
    "branch-12",
    "branch-13",
    "branch-14",
    "branch-15",
    "branch-16",
];
const LIMIT: &str = "40 Mbit/s";
const LIMIT_BITS: f64 = 40e6;
const IMAGE_BYTES: usize = 6 << 20;
const JAIN: f64 = 0.95;
const SLOWER_TIMES: f64 = 1.05;
/// The limit under which branches are asked, and how often.
const CONTROL_LIMIT: &str = "10 Mbit/s";
const QUESTIONS: &str = "500";
const CONTROL_SECONDS: f64 = 0.1;
const OVERTAKES_SECONDS: f64 = 0.5;
const MEMORY_BYTES: u64 = 300 << 20;
const LONG: Duration = Duration::from_secs(600);

/// Nodes that run, and where.
struct Hub {
    hub: Node,
    branches: Vec<Node>,
    numbers: Numbers,
    images: u32,
}

/// What the last branch is really on in the end.
const CRAWLING: Shape = Shape {
    bits_per_second: Some(64_000),
    round_trip: Duration::from_millis(40),
    loss_per_mille: 0.0,
};
/// Where nodes listen on a link, from this port on.
const PORT: u16 = 7700;

/// How the branches came on with one image.
struct Run {
    /// Seconds from publish to receipt, by branch.
    seconds: Vec<(String, f64)>,
    /// Bytes sent to each when half of all had been sent.
    half: Vec<f64>,
    cpu: f64,
}

/// Everything about a hub.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("a hub and sixteen branches");
    let mut hub = Hub::start(setup, "hub", None)?;
    hub.hub.ask(&["limit", "set", LIMIT])?;
    let pid = hub.hub.pid()?;
    let all = hub.deliver(BRANCHES.len())?;
    fairness(table, &all, peak_bytes(pid)?);
    hub.slow(table)?;
    hub.urgent(table)?;
    hub.control(table)?;
    hub.stop()?;
    crawling(setup, table)
}

/// Fifteen without the sixteenth and beside it, which is on a link of 64 kbit/s.
fn crawling(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let figure = "15 branches beside one on a link of 64 kbit/s: the last receipt";
    if let Some(why) = Link::missing(&CRAWLING) {
        table.add(Row::skipped(figure, why));
        return Ok(());
    }
    say("   one on a link of 64 kbit/s");
    let link = Link::up(CRAWLING, setup.mtu)?;
    let mut hub = Hub::start(setup, "crawling", Some(&link))?;
    hub.hub.ask(&["limit", "set", LIMIT])?;
    hub.hub.ask(&["pause", "--peer", BRANCHES[15]])?;
    let [_, alone] = ends(&hub.deliver(15)?.seconds);
    hub.hub.ask(&["resume", "--peer", BRANCHES[15]])?;
    let [_, beside] = ends(&hub.deliver(15)?.seconds);
    let words = format!("{SLOWER_TIMES} x the {alone:.2} s without it");
    let there = link.delivered_bytes()?;
    let (limit, value) = (Amount::Seconds(alone * SLOWER_TIMES), Amount::Seconds(beside));
    let row = Row::at_most(figure, limit, value).bound_is(&words);
    table.add(row.noting(&format!("{} went over its link", Amount::bytes(there))));
    // It would take a quarter of an hour for each image.
    for node in hub.branches.iter_mut().chain([&mut hub.hub]) {
        node.kill()?;
    }
    Ok(())
}

fn fairness(table: &mut Table, all: &Run, peak: u64) {
    let speeds: Vec<f64> = all.seconds.iter().map(|(_, seconds)| 1.0 / seconds).collect();
    let [first, last] = ends(&all.seconds);
    let times: Vec<String> =
        all.seconds.iter().map(|(name, seconds)| format!("{name} {seconds:.2} s")).collect();
    say(&format!("   {}", times.join(", ")));
    let sum = (BRANCHES.len() * IMAGE_BYTES) as f64;
    let row = Row::noted("16 branches under 40 Mbit/s: the last receipt", Amount::Seconds(last));
    let least = sum * 8.0 / LIMIT_BITS;
    table.add(row.noting(&format!("the first {first:.2} s; 40 Mbit/s take {least:.2} s")));
    let figure = "16 branches of equal weight: Jain index of the bytes at half time";
    table.add(Row::at_least(figure, Amount::Times(JAIN), Amount::Times(jain(&all.half))));
    let figure = "16 branches of equal weight: Jain index of the speeds";
    table.add(Row::at_least(figure, Amount::Times(JAIN), Amount::Times(jain(&speeds))));
    let figure = "the hub's CPU for these 16";
    table.add(Row::noted(figure, Amount::Seconds(all.cpu)));
    let (limit, peak) = (Amount::bytes(MEMORY_BYTES), Amount::bytes(peak));
    table.add(Row::at_most("the hub's resident memory at its peak", limit, peak));
}

impl Hub {
    /// All on loopback, or all but the last branch at one end of a link.
    fn start(setup: &Setup, directory: &str, link: Option<&Link>) -> anyhow::Result<Hub> {
        let parent = setup.work.join(directory);
        fs::create_dir(&parent)?;
        let mut ports = PORT..;
        let mut create = |name| {
            let port = ports.next().context("no port")?;
            let place = match link {
                Some(link) => {
                    let end = usize::from(name == BRANCHES[15]);
                    let namespace = Some(link.namespaces()[end].to_owned());
                    (namespace, (link.addresses()[end], port).into())
                }
                None => (None, free_address()?),
            };
            Node::create(&setup.binary, &parent, name, place, &setup.memory)
        };
        let mut hub = create("hub")?;
        hub.start()?;
        hub.ask(&["store", "add", STORE, text(&hub.images())?])?;
        let mut branches = Vec::new();
        for name in BRANCHES {
            let mut branch = create(name)?;
            branch.start()?;
            let invitation = hub.ask(&["invite", "--store", STORE, "--role", "mirror"])?;
            let ticket = invitation["ticket"].as_str().context("no ticket")?;
            branch.ask(&["join", ticket, "--path", text(&branch.images())?])?;
            branches.push(branch);
        }
        Ok(Hub { hub, branches, numbers: Numbers(16), images: 0 })
    }

    /// A new image of noise, published; its name and the hub's time of that.
    fn publish(&mut self, bytes: usize) -> anyhow::Result<(String, Timestamp)> {
        self.images += 1;
        let name = format!("image-{}.raw", self.images);
        let mut noise = vec![0; bytes];
        self.numbers.fill(&mut noise);
        fs::write(self.hub.image(&name), noise)?;
        let at = Timestamp::now();
        self.hub.ask(&["publish", &format!("{STORE}/{name}")])?;
        Ok((name, at))
    }

    /// Rows of `push` without waiting: what was sent to each branch so far.
    fn sent(&self, name: &str) -> anyhow::Result<Vec<(String, f64, bool)>> {
        let (_, lines) = self.hub.try_ask(&["push", &format!("{STORE}/{name}")])?;
        let last = lines.last().context("push said nothing")?;
        let peers = last["peers"].as_array().or_else(|| last["summary"]["peers"].as_array());
        let row = |peer: &Value| {
            let name = peer["peer"].as_str().unwrap_or_default().to_owned();
            let there = peer["state"] == "in_sync";
            (name, peer["wire_bytes"].as_f64().unwrap_or(0.0), there)
        };
        Ok(peers.context("push names no peers")?.iter().map(row).collect())
    }

    /// Publishes an image and waits until the first `count` branches have it.
    fn deliver(&mut self, count: usize) -> anyhow::Result<Run> {
        let pid = self.hub.pid()?;
        let before = cpu_seconds(pid)?;
        let (name, at) = self.publish(IMAGE_BYTES)?;
        let began = Instant::now();
        let wanted = &BRANCHES[..count];
        let mut half = Vec::new();
        loop {
            ensure!(began.elapsed() < LONG, "{name} doesn't arrive");
            thread::sleep(Duration::from_millis(250));
            let mut rows = self.sent(&name)?;
            rows.retain(|(peer, ..)| wanted.contains(&peer.as_str()));
            let sum: f64 = rows.iter().map(|(_, bytes, _)| bytes).sum();
            if half.is_empty() && sum >= (count * IMAGE_BYTES) as f64 / 2.0 {
                half = rows.iter().map(|(_, bytes, _)| *bytes).collect();
            }
            if rows.iter().all(|(_, _, there)| *there) {
                break;
            }
        }
        let cpu = cpu_seconds(pid)? - before;
        let mut seconds = self.receipts(&name, at)?;
        seconds.retain(|(peer, _)| wanted.contains(&peer.as_str()));
        ensure!(seconds.len() == count, "{} receipts", seconds.len());
        Ok(Run { seconds, half, cpu })
    }

    /// When the receipts for an image came, in seconds since `at`.
    fn receipts(&self, name: &str, at: Timestamp) -> anyhow::Result<Vec<(String, f64)>> {
        let (_, lines) = self.hub.try_ask(&["events", "--since", "1h"])?;
        let mut receipts = Vec::new();
        let events = lines.iter().map(|line| line.get("event").unwrap_or(line));
        for event in events.filter(|e| e["code"] == "RECEIPT" && e["image"] == name) {
            let time: Timestamp = event["time"].as_str().context("no time")?.parse()?;
            let peer = event["peer"].as_str().context("no peer")?.to_owned();
            receipts.push((peer, time.duration_since(at).as_secs_f64()));
        }
        Ok(receipts)
    }

    /// The others with the last branch left out, crawling, and stopped.
    fn slow(&mut self, table: &mut Table) -> anyhow::Result<()> {
        let slow = BRANCHES[15];
        say("   fifteen without the sixteenth");
        self.hub.ask(&["pause", "--peer", slow])?;
        let [_, alone] = ends(&self.deliver(15)?.seconds);
        let limit = Amount::Seconds(alone * SLOWER_TIMES);
        say("   with one of 64 kbit/s");
        self.hub.ask(&["limit", "set", "--peer", slow, "64 kbit/s"])?;
        self.hub.ask(&["resume", "--peer", slow])?;
        let [_, beside] = ends(&self.deliver(15)?.seconds);
        let words = format!("{SLOWER_TIMES} x the {alone:.2} s without it");
        let figure = "15 branches beside one of 64 kbit/s: the last receipt";
        table.add(Row::at_most(figure, limit, Amount::Seconds(beside)).bound_is(&words));
        say("   with one that is stopped");
        self.hub.ask(&["limit", "clear", "--peer", slow])?;
        thread::sleep(Duration::from_secs(2));
        let pid = self.branches[15].pid()?.to_string();
        run_tool(Command::new("kill").args(["-STOP", &pid]))?;
        let beside = self.deliver(15);
        run_tool(Command::new("kill").args(["-CONT", &pid]))?;
        let [_, beside] = ends(&beside?.seconds);
        let figure = "15 branches beside one that is stopped: the last receipt";
        table.add(Row::at_most(figure, limit, Amount::Seconds(beside)).bound_is(&words));
        self.all_there()
    }

    /// A small image pushed as urgent while a large one travels as bulk.
    fn urgent(&mut self, table: &mut Table) -> anyhow::Result<()> {
        say("   urgent beside bulk");
        self.hub.ask(&["pause", "--store", STORE])?;
        let (bulk, _) = self.publish(IMAGE_BYTES)?;
        self.hub.try_ask(&["push", &format!("{STORE}/{bulk}"), "--lane", "bulk"])?;
        self.hub.ask(&["resume", "--store", STORE])?;
        thread::sleep(Duration::from_secs(4));
        let (name, at) = self.publish(4096)?;
        let urgent = format!("{STORE}/{name}");
        self.hub.ask(&["push", &urgent, BRANCHES[0], "--lane", "urgent", "--wait"])?;
        let there = self.sent(&bulk)?.iter().filter(|(_, _, there)| *there).count();
        ensure!(there == 0, "the bulk image was there already");
        let receipts = self.receipts(&name, at)?;
        let first = receipts.iter().find(|(peer, _)| peer == BRANCHES[0]).context("no receipt")?;
        let figure = "4 KiB pushed as urgent beside bulk to 16 under 40 Mbit/s: publish to receipt";
        let limit = Amount::Seconds(OVERTAKES_SECONDS);
        table.add(Row::at_most(figure, limit, Amount::Seconds(first.1)));
        self.all_there()
    }

    /// How long a branch takes to answer while all sixteen are sent to.
    fn control(&mut self, table: &mut Table) -> anyhow::Result<()> {
        say("   the control stream");
        let idle = self.hub.ask(&["netcheck", BRANCHES[0], "--count", QUESTIONS])?;
        self.hub.ask(&["limit", "set", CONTROL_LIMIT])?;
        let (name, _) = self.publish(IMAGE_BYTES)?;
        thread::sleep(Duration::from_secs(3));
        let full = self.hub.ask(&["netcheck", BRANCHES[0], "--count", QUESTIONS])?;
        let there = self.sent(&name)?.iter().filter(|(_, _, there)| *there).count();
        ensure!(there == 0, "the image was there before all questions were answered");
        let p99 = |report: &Value| report["control_p99_ms"].as_f64().unwrap_or(f64::NAN) / 1e3;
        let figure = "control round trip under a full 10 Mbit/s: 99 of 100 within";
        let (limit, value) = (Amount::Seconds(CONTROL_SECONDS), Amount::Seconds(p99(&full)));
        let idle = format!("{:.1} ms with nothing to send", p99(&idle) * 1e3);
        table.add(Row::at_most(figure, limit, value).noting(&idle));
        self.hub.ask(&["limit", "set", LIMIT])?;
        self.all_there()
    }

    /// Waits until every branch has everything.
    fn all_there(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let backlog = self.hub.ask(&["backlog"])?;
            if backlog["items"].as_array().is_some_and(Vec::is_empty) {
                return Ok(());
            }
            ensure!(began.elapsed() < LONG, "some branch lacks something: {backlog}");
            thread::sleep(Duration::from_millis(250));
        }
    }

    fn stop(mut self) -> anyhow::Result<()> {
        for node in self.branches.iter_mut().chain([&mut self.hub]) {
            node.stop()?;
        }
        Ok(())
    }
}

/// The first and the last of them.
fn ends(seconds: &[(String, f64)]) -> [f64; 2] {
    let all = || seconds.iter().map(|(_, seconds)| *seconds);
    [all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max)]
}

/// 1: all the same; one of so many: one has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let count = shares.len() as f64;
    sum * sum / (count * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_one() {
        assert!((jain(&[2.0; 7]) - 1.0).abs() < 1e-9);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
    }
}
