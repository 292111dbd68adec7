//! Caps as the others on a line see them: what an interface counts while one transfer runs under a
//! limit, from 1 to 500 Mbit/s; and how soon a limit, a pause and a calendar bite in mid-transfer.
//!
//! Two nodes in namespaces of their own, joined by a veth pair; bytes are those of IP packets (the
//! interface counts Ethernet headers besides; they are taken off). The images are noise.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::pair::{Pair, STORE};
use super::process::interface_sent;
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, run as run_tool};
use super::{Setup, say};
use crate::link::{Link, Shape};

/// In Mbit/s.
const CAPS: [u64; 5] = [1, 5, 20, 100, 500];
const SLACK: f64 = 0.03;
const SLACK_PACKETS: f64 = 3.0;
const SECOND: Duration = Duration::from_secs(1);
const QUARTER: Duration = Duration::from_millis(250);
/// How many seconds are looked at after the first one.
const MEASURED: Duration = Duration::from_secs(7);
const IN_FORCE_SECONDS: f64 = 0.5;
/// For each order.
const ORDER: Duration = Duration::from_millis(2500);
const RUNS_DIFFER: f64 = 0.01;
const ORDERS_MIB: u64 = 24;
/// The rate before each order, and after a limit, in Mbit/s.
const BEFORE: u64 = 20;
const AFTER: u64 = 5;
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
const ETHERNET_HEADER_BYTES: u64 = 14;
const LONG: Duration = Duration::from_secs(120);

/// Everything about caps.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if let Some(why) = Link::missing(&Shape::UNSHAPED) {
        table.add(Row::skipped("caps", why));
        return Ok(());
    }
    for megabits in CAPS {
        cap(setup, table, megabits)?;
    }
    orders(setup, table)
}

/// What had been sent at an instant, in bytes of IP packets.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    bytes: u64,
}

/// Looks at the sender's interface all the time.
struct Watch {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<Vec<Sample>>>,
}

impl Watch {
    fn start(pair: &Pair) -> anyhow::Result<Watch> {
        let pid = pair.sender.pid()?;
        let interface = pair.link().context("no link")?.interface();
        let (over, sent): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (stop, told) = (Arc::clone(&over), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let ip_bytes = || -> anyhow::Result<u64> {
                let [bytes, packets] = interface_sent(pid, interface)?;
                Ok(bytes - ETHERNET_HEADER_BYTES * packets)
            };
            let (before, mut samples) = (ip_bytes()?, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let bytes = ip_bytes()? - before;
                samples.push(Sample { at: Instant::now(), bytes });
                told.store(bytes, Ordering::Relaxed);
                thread::sleep(SAMPLE_EVERY);
            }
            Ok(samples)
        });
        Ok(Watch { over, sent, thread })
    }

    /// Sleeps until so many bytes have gone out.
    fn until(&self, bytes: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.sent.load(Ordering::Relaxed) < bytes {
            ensure!(began.elapsed() < LONG && !self.thread.is_finished(), "nothing is sent");
            thread::sleep(SAMPLE_EVERY);
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<Vec<Sample>> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the watch failed")?
    }
}

/// A stretch of at least some length: when it begins, seconds, bytes.
type Window = (Instant, f64, f64);

/// All stretches of a length.
fn windows(samples: &[Sample], length: Duration) -> Vec<Window> {
    let mut end = 0;
    let mut all = Vec::new();
    for first in samples {
        while samples.get(end).is_some_and(|last| last.at - first.at < length) {
            end += 1;
        }
        let Some(last) = samples.get(end) else { break };
        let bytes = Amount::bytes(last.bytes - first.bytes).value();
        all.push((first.at, (last.at - first.at).as_secs_f64(), bytes));
    }
    all
}

/// What a cap allows in so many seconds, and how far from that is as good as there.
fn allowed(bits: f64, seconds: f64, mtu: u32) -> (f64, f64) {
    let bytes = bits / 8.0 * seconds;
    (bytes, (bytes * SLACK).max(SLACK_PACKETS * f64::from(mtu)))
}

/// A transfer that runs for longer than is looked at, under one cap.
fn cap(setup: &Setup, table: &mut Table, megabits: u64) -> anyhow::Result<()> {
    say(&format!("caps: {megabits} Mbit/s"));
    let bits = megabits * 1_000_000;
    let seconds = (SECOND + MEASURED).as_secs() + 2;
    let mut pair = start(setup, megabits)?;
    let image = noise(&pair, "cap.raw", megabits, ((bits / 8 * seconds) >> 20) + 2)?;
    pair.settle()?;
    let watch = Watch::start(&pair)?;
    pair.sender.ask(&["publish", &image])?;
    // Talk before that is no transfer.
    watch.until(20_000 + bits / 80)?;
    let began = Instant::now();
    thread::sleep(SECOND + MEASURED);
    let samples = watch.end()?;
    // The rest of the transfer is of no interest.
    pair.sender.kill()?;
    pair.receiver.kill()?;
    pair.end()?;
    table.add(judged(&samples, began + SECOND, megabits, setup.mtu));
    Ok(())
}

/// Whether a cap was kept, and used.
fn judged(samples: &[Sample], from: Instant, megabits: u64, mtu: u32) -> Row {
    let bits = megabits as f64 * 1e6;
    let (mut met, mut least, mut most, mut peak) = (true, f64::MAX, 0.0_f64, 0.0_f64);
    for (_, seconds, bytes) in windows(samples, SECOND).iter().filter(|(at, ..)| *at >= from) {
        let (share, slack) = allowed(bits, *seconds, mtu);
        met &= (bytes - share).abs() <= slack;
        (least, most) = (least.min(bytes / share), most.max(bytes / share));
    }
    for (_, seconds, bytes) in windows(samples, QUARTER) {
        let (share, slack) = allowed(bits, seconds, mtu);
        met &= bytes <= share + slack;
        peak = peak.max(bytes / share);
    }
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let [least, most, peak] = [least, most, peak].map(percent);
    let figure = format!("rate under a cap of {megabits} Mbit/s, by the interface's counters");
    let bound = "3 % or 3 packets in every 1 s after the first, no more in any 250 ms";
    let words = format!("1 s: {least} to {most} of it; 250 ms: {peak} at most");
    Row::check(&figure, bound, met && least != percent(f64::MAX), words)
}

/// A limit, a pause and a calendar in one transfer; and the same transfer without.
fn orders(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("caps: orders in mid-transfer");
    let pair = start(setup, BEFORE)?;
    noise(&pair, "plain.raw", 77, ORDERS_MIB)?;
    pair.settle()?;
    let plain = pair.transfer("plain.raw")?.bytes();
    let image = noise(&pair, "orders.raw", 78, ORDERS_MIB)?;
    pair.settle()?;
    let before = pair.wire_bytes()?;
    let watch = Watch::start(&pair)?;
    pair.sender.ask(&["publish", &image])?;
    watch.until(2 << 20)?;
    let limit = ordered(&pair, &["limit", "set", &rate(AFTER)])?;
    pair.sender.ask(&["limit", "set", &rate(BEFORE)])?;
    thread::sleep(SECOND);
    let pause = ordered(&pair, &["pause"])?;
    pair.sender.ask(&["resume"])?;
    thread::sleep(SECOND);
    let edge = calendar(&pair)?;
    pair.sender.ask(&["push", &image, "--wait"])?;
    let samples = watch.end()?;
    let all: u64 = pair.wire_bytes_since(before)?.context("no wire")?.iter().sum();
    let last = samples.last().context("no samples")?.at;
    ensure!(last > edge + ORDER, "it was there before the calendar's pause was over");
    pair.end()?;
    for (name, from, megabits) in
        [("limit set", limit, AFTER), ("pause", pause, 0), ("a calendar's edge", edge, 0)]
    {
        let seconds = late(&samples, from, megabits as f64 * 1e6, setup.mtu);
        let figure = format!("{name} in mid-transfer: in force after");
        let bound = Amount::Seconds(IN_FORCE_SECONDS);
        table.add(Row::at_most(&figure, bound, Amount::Seconds(seconds)));
    }
    let [all, plain] = [all, plain].map(Amount::bytes);
    let share = Amount::Share(all.value() / plain.value() - 1.0);
    let figure = "sent again in a transfer with these three";
    let row = Row::at_most(figure, Amount::Share(RUNS_DIFFER), share);
    table.add(row.noting(&format!("{all} instead of {plain}")));
    Ok(())
}

/// Orders something and waits; when it was ordered.
fn ordered(pair: &Pair, order: &[&str]) -> anyhow::Result<Instant> {
    let at = Instant::now();
    pair.sender.ask(order)?;
    thread::sleep(ORDER.saturating_sub(at.elapsed()));
    Ok(at)
}

/// Puts a calendar in force that pauses in a moment; when that is.
fn calendar(pair: &Pair) -> anyhow::Result<Instant> {
    let (clock, now) = (Timestamp::now(), Instant::now());
    let edge = clock.as_second() + 3;
    let text = |seconds: i64| -> anyhow::Result<String> {
        let at = Timestamp::from_second(seconds)?.to_zoned(TimeZone::UTC);
        Ok(at.strftime("%Y-%m-%d %H:%M:%S").to_string())
    };
    let window = format!("{}..{}", text(edge)?, text(edge + 1 + ORDER.as_secs() as i64)?);
    let schedule = format!(
        "\n[schedules.edge]\nzone = \"UTC\"\n\n[[schedules.edge.rule]]\nonce = [\"{window}\"]\n\
         rate = \"pause\"\n"
    );
    let path = pair.directory().join("sender/blockferry.toml");
    File::options().append(true).open(&path)?.write_all(schedule.as_bytes())?;
    run_tool(Command::new("kill").args(["-HUP", &pair.sender.pid()?.to_string()]))?;
    let began = Instant::now();
    while pair.sender.try_ask(&["peer", "set", "receiver", "schedule=edge"])?.0 != 0 {
        ensure!(began.elapsed() < SECOND, "the schedule doesn't come into force");
        thread::sleep(Duration::from_millis(50));
    }
    let wait = u64::try_from(edge * 1000 - clock.as_millisecond())?;
    let at = now + Duration::from_millis(wait);
    thread::sleep((at + ORDER).saturating_duration_since(Instant::now()));
    Ok(at)
}

/// Seconds after which a rate was kept for good, of the time for one order.
fn late(samples: &[Sample], from: Instant, bits: f64, mtu: u32) -> f64 {
    let all = windows(samples, QUARTER);
    let above = all.iter().rev().find(|(at, seconds, bytes)| {
        let (share, slack) = allowed(bits, *seconds, mtu);
        let end = *at + Duration::from_secs_f64(*seconds);
        *at >= from && end < from + ORDER && *bytes > share + slack
    });
    above.map_or(0.0, |(at, ..)| (*at - from).as_secs_f64())
}

fn rate(megabits: u64) -> String {
    format!("{megabits} Mbit/s")
}

fn start(setup: &Setup, megabits: u64) -> anyhow::Result<Pair> {
    let link = Link::up(Shape::UNSHAPED, setup.mtu)?;
    let pair = Pair::joined(&setup.ground(), "caps", Some(link))?;
    pair.sender.ask(&["limit", "set", &rate(megabits)])?;
    Ok(pair)
}

/// An image of noise that the sender has; its full name.
pub(super) fn noise(pair: &Pair, name: &str, seed: u64, mib: u64) -> anyhow::Result<String> {
    let coming = pair.directory().join(name);
    let (mut file, mut numbers) = (File::create(&coming)?, Numbers(seed));
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        numbers.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()?;
    fs::rename(coming, pair.sender.image(name))?;
    Ok(format!("{STORE}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of a sender that keeps a rate until an instant and another one from then on.
    fn sent(first: u64, then: u64, change: Duration) -> (Instant, Vec<Sample>) {
        let start = Instant::now();
        let mut bytes = 0;
        let sample = |step: u64| {
            let at = Duration::from_millis(5 * step);
            bytes += if at <= change { first } else { then } / 8 / 200;
            Sample { at: start + at, bytes }
        };
        (start, (0..2000).map(sample).collect())
    }

    #[test]
    fn a_cap_is_kept_or_not() {
        let met = |bits: u64| {
            let (start, samples) = sent(bits, bits, MEASURED);
            let row = judged(&samples, start + SECOND, 20, 1500);
            let mut table = Table::new(Vec::new());
            table.add(row);
            table.all_met()
        };
        assert!(met(20_000_000) && met(20_500_000) && met(19_500_000));
        assert!(!met(20_700_000) && !met(19_200_000));
    }

    #[test]
    fn what_is_late_is_measured() {
        let change = Duration::from_millis(1400);
        let (start, samples) = sent(20_000_000, 0, change);
        let from = start + Duration::from_millis(1100);
        let seconds = late(&samples, from, 0.0, 1500);
        assert!((0.28..=0.31).contains(&seconds), "{seconds}");
        assert!(late(&samples, from, 20e6, 1500) < 1e-9);
    }
}
