//! How long a peer takes to answer while the link to it is full: questions on the control stream beside
//! a transfer, on a link that is really that slow, with and without a limit of our own as high.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::caps::noise;
use super::pair::Pair;
use super::table::{Amount, Row, Table};
use super::{Setup, say};
use crate::link::{Link, Shape};

const LINK: Shape = Shape::shaped(10, 40, 0.0);
const LIMIT: &str = "10 Mbit/s";
const QUESTIONS: &str = "200";
const SECONDS: f64 = 0.1;
/// It travels for longer than the questions take.
const IMAGE_MIB: u64 = 32;
const SETTLING: Duration = Duration::from_secs(4);
const FIGURE: &str = "control round trip on a full link of 10 Mbit/s with 40 ms: 99 of 100 within";

/// With a limit, then without.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if let Some(why) = Link::missing(&LINK) {
        table.add(Row::skipped(FIGURE, why));
        return Ok(());
    }
    say(&format!("control: {LINK:?}"));
    let [idle, full, share] = beside(setup, Some(LIMIT))?;
    let own = LINK.round_trip.as_secs_f64();
    let words = format!("100 ms and the link's own {}", Amount::Seconds(own));
    let row = Row::at_most(FIGURE, Amount::Seconds(SECONDS + own), Amount::Seconds(full));
    let idle = Amount::Seconds(idle);
    let share = Amount::Share(share);
    let noted = format!("{idle} with nothing to send; {share} of the link was used meanwhile");
    table.add(row.bound_is(&words).noting(&noted));
    let [_, full, share] = beside(setup, None)?;
    let row = Row::noted("the same without a limit of our own", Amount::Seconds(full));
    table.add(row.noting(&format!("{} of the link", Amount::Share(share))));
    Ok(())
}

/// The 99th of 100 questions with nothing to send and beside a transfer, in seconds; and what part of
/// the link was used meanwhile.
fn beside(setup: &Setup, limit: Option<&str>) -> anyhow::Result<[f64; 3]> {
    let link = Link::up(LINK, setup.mtu)?;
    let mut pair = Pair::joined(&setup.ground(), "control", Some(link))?;
    if let Some(limit) = limit {
        pair.sender.ask(&["limit", "set", limit])?;
    }
    let image = noise(&pair, "noise.raw", 21, IMAGE_MIB)?;
    pair.settle()?;
    let idle = asked(&pair)?;
    pair.sender.ask(&["publish", &image])?;
    thread::sleep(SETTLING);
    let delivered = |pair: &Pair| pair.link().context("no link")?.delivered_bytes();
    let (before, began) = (delivered(&pair)?, std::time::Instant::now());
    let full = asked(&pair)?;
    let (bytes, took) = (delivered(&pair)? - before, began.elapsed().as_secs_f64());
    let (_, lines) = pair.sender.try_ask(&["push", &image])?;
    let last = lines.last().context("push said nothing")?;
    let peers = last["peers"].as_array().or_else(|| last["summary"]["peers"].as_array());
    let there = peers.is_none_or(|peers| peers.iter().all(|peer| peer["state"] == "in_sync"));
    ensure!(!there, "the image was there before all questions were answered");
    pair.sender.kill()?;
    pair.receiver.kill()?;
    pair.end()?;
    let bits = LINK.bits_per_second.map_or(f64::NAN, |bits| Amount::bytes(bits).value());
    Ok([idle, full, Amount::bytes(bytes).value() * 8.0 / took / bits])
}

fn asked(pair: &Pair) -> anyhow::Result<f64> {
    let report: Value = pair.sender.ask(&["netcheck", "receiver", "--count", QUESTIONS])?;
    Ok(report["control_p99_ms"].as_f64().context("no round trips")? / 1e3)
}
