//! How fast a service answers while it works: `/readyz`, `/metrics`, the status as REST, the page and
//! the command line, at a steady rate, while 3 GiB go from one node to another on the same machine.
//!
//! Every question has its time, whether the one before was answered or not: an answer that comes late
//! makes those after it late as well, and they are measured from when they were due.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::node::Node;
use super::pair::Pair;
use super::table::{Amount, Row, Table};
use super::tools::Numbers;
use super::{Setup, say};

const NAME: &str = "large.raw";
const IMAGE_BYTES: usize = 3 << 30;
const PIECE_BYTES: usize = 1 << 20;
/// 99 of 100 answers.
const ANSWER_SECONDS: f64 = 0.1;
/// Each address is asked this often, and the command line that often.
const ASK_EVERY: Duration = Duration::from_millis(100);
const COMMAND_EVERY: Duration = Duration::from_millis(250);
/// How long a service is asked that has nothing to do.
const IDLE: Duration = Duration::from_secs(5);
const LATE_MAX: Duration = Duration::from_secs(30);
const PATHS: [&str; 4] = ["/readyz", "/metrics", "/api/v1/status", "/"];

/// What was asked how, and how long each answer took, in seconds.
struct Asked {
    what: String,
    seconds: Vec<f64>,
}

/// Idle, then while the copy runs.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("answers while 3 GiB are copied");
    let mut pair = Pair::start(&setup.ground(), "answers", None)?;
    let addresses = [free_tcp()?, free_tcp()?];
    for (node, at) in [&mut pair.sender, &mut pair.receiver].into_iter().zip(addresses) {
        node.set("BLOCKFERRY_ADMIN_HTTP", &at.to_string());
    }
    pair.join()?;
    let image = setup.work.join("large.raw");
    make(&image)?;
    pair.place(&image, NAME)?;
    std::fs::remove_file(&image)?;
    let idle = asking(&pair, addresses, || {
        thread::sleep(IDLE);
        Ok(())
    })?;
    let mut took = 0.0;
    let busy = asking(&pair, addresses, || {
        let transfer = pair.transfer(NAME)?;
        took = transfer.seconds;
        Ok(())
    })?;
    say(&format!("   the copy took {took:.2} s"));
    for (busy, idle) in busy.iter().zip(&idle) {
        table.add(row(busy, idle));
    }
    pair.end()
}

fn row(busy: &Asked, idle: &Asked) -> Row {
    let figure = format!("{} while 3 GiB are copied: 99 of 100 within", busy.what);
    if busy.seconds.is_empty() {
        return Row::skipped(&figure, "it is not served");
    }
    let [median, p99, most] = parts(&busy.seconds);
    let words = format!(
        "median {}, longest {}, of {}; with nothing to do 99 of 100 within {}",
        Amount::Seconds(median),
        Amount::Seconds(most),
        busy.seconds.len(),
        Amount::Seconds(parts(&idle.seconds)[1]),
    );
    say(&format!("   {}: {} ({words})", busy.what, Amount::Seconds(p99)));
    Row::at_most(&figure, Amount::Seconds(ANSWER_SECONDS), Amount::Seconds(p99)).noting(&words)
}

/// The median, what 99 of 100 are within, and the longest.
pub(crate) fn parts(seconds: &[f64]) -> [f64; 3] {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |hundredths: usize| {
        let index = (sorted.len() * hundredths).div_ceil(100).max(1) - 1;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    };
    [at(50), at(99), at(100)]
}

/// Asks both nodes while something is done.
fn asking(
    pair: &Pair,
    addresses: [SocketAddr; 2],
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Asked>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut askers = Vec::new();
        for (name, at) in ["sender", "receiver"].into_iter().zip(addresses) {
            for path in PATHS {
                let over = &over;
                askers.push(scope.spawn(move || {
                    let what = format!("{path} of the {name}");
                    steadily(what, ASK_EVERY, over, || Ok(get(at, path)?.0 != 404))
                }));
            }
        }
        for node in [&pair.sender, &pair.receiver] {
            let over = &over;
            askers.push(scope.spawn(move || {
                let what = format!("`blockferry status` of the {}", node.name);
                steadily(what, COMMAND_EVERY, over, || status(node))
            }));
        }
        let done = work();
        over.store(true, Ordering::Relaxed);
        let asked = askers.into_iter().map(|asker| match asker.join() {
            Ok(asked) => asked,
            Err(_) => Err(anyhow::anyhow!("somebody who asks panicked")),
        });
        let asked = asked.collect();
        done.and(asked)
    })
}

fn status(node: &Node) -> anyhow::Result<bool> {
    node.ask(&["status"]).map(|_| true)
}

/// Asks at a steady rate until it is over; `false`: there is nothing to be asked.
fn steadily(
    what: String,
    every: Duration,
    over: &AtomicBool,
    ask: impl Fn() -> anyhow::Result<bool>,
) -> anyhow::Result<Asked> {
    let mut seconds = Vec::new();
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if !ask().with_context(|| what.clone())? {
            break;
        }
        let took = due.elapsed();
        ensure!(took < LATE_MAX, "{what}: no answer within {LATE_MAX:?}");
        seconds.push(took.as_secs_f64());
        due += every;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(Asked { what, seconds })
}

/// Status and body of what is answered at a path.
pub(crate) fn get(at: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(LATE_MAX))?;
    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("{path}: no status in {answer:.100}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// A TCP port that was free a moment ago.
pub(crate) fn free_tcp() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// An image of which half compresses, so that both processors have something to do at both ends.
fn make(path: &Path) -> anyhow::Result<()> {
    let (mut numbers, mut piece) = (Numbers(3), vec![0; PIECE_BYTES]);
    let mut file = File::create(path)?;
    for number in 0..IMAGE_BYTES / PIECE_BYTES {
        for (at, block) in piece.chunks_mut(64 << 10).enumerate() {
            let (noise, text) = block.split_at_mut(32 << 10);
            numbers.fill(noise);
            let line = format!("line {number} of block {at}, and what follows is like it; ");
            for (to, from) in text.iter_mut().zip(line.bytes().cycle()) {
                *to = from;
            }
        }
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_hundred() {
        let seconds: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let [median, p99, most] = parts(&seconds);
        assert!(near(median, 100.0) && near(p99, 198.0) && near(most, 200.0));
        assert!(parts(&[]).iter().all(|part| part.is_nan()));
        assert!(near(parts(&[7.0])[1], 7.0));
    }
}
