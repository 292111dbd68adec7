//! How well a link is used, and what is left to others on it: one transfer of what doesn't compress,
//! over links between network namespaces, beside rsync and beside a TCP stream of this machine's
//! kernel. Counted from the outside: seconds, interface counters, what the link dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::net::sockopt::set_tcp_congestion;

use super::image::same_bytes;
use super::pair::{Pair, STORE};
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, has, run as run_program};
use super::{Setup, say};
use crate::ground::rsyncd;
use crate::link::{Link, Shape};

const NAME: &str = "random.raw";
const GOODPUT_LONG: f64 = 0.92;
const GOODPUT_LOSSY: f64 = 0.60;
const GOODPUT_BRANCH: f64 = 0.85;
const PART_BESIDE_TCP: f64 = 0.60;
const RUNS_DIFFER: f64 = 0.01;
const POLITE_ALONE: f64 = 0.90;
const TCP_KEEPS: f64 = 0.90;
/// What is in flight on the link of the blackout: a round trip's worth, a queue as long, and probes.
const BLACKOUT_BYTES: u64 = 1 << 20;
const BLACKOUT: Duration = Duration::from_secs(20);
/// How long a flow takes to find its part, and how long is measured then.
const SETTLING: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(20);
const CUBIC: &str = "cubic";
const PORT_TCP: u16 = 7801;
const PORT_RSYNC: u16 = 7802;
/// A packet of TCP, and what of it is payload (headers of IP and TCP, time stamps).
const TCP_PACKET: [f64; 2] = [1500.0, 1448.0];
const SEED: u64 = 11;

const PLAIN: Shape = Shape::shaped(100, 0, 0.0);
const LONG: Shape = Shape::shaped(100, 50, 0.0);
const LOSSY: Shape = Shape::shaped(50, 80, 10.0);
const BRANCH: Shape = Shape::shaped(20, 40, 1.0);
const CLEAN: Shape = Shape::shaped(50, 40, 0.0);

/// One transfer that has a link to itself.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if !possible(table) {
        return Ok(());
    }
    long(setup, table)?;
    lossy(setup, table)?;
    branch(setup, table)?;
    plain(setup, table)?;
    blackout(setup, table)
}

/// A transfer and a TCP stream on one link.
pub(crate) fn sharing(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if !possible(table) {
        return Ok(());
    }
    beside(setup, table)?;
    polite(setup, table)
}

/// Whether there can be links; the table says why not, or what TCP is like here.
fn possible(table: &mut Table) -> bool {
    if let Some(why) = Link::missing(&CLEAN) {
        table.add(Row::skipped("links", why));
        return false;
    }
    let usual = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    let usual = usual.unwrap_or_default();
    let congestion = format!("{CUBIC} beside us, {} under rsync", usual.trim());
    table.conditions.push(("TCP's congestion control".to_owned(), congestion));
    true
}

fn long(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let sole = Sole::measure(setup, LONG, 160, None)?;
    let row = Amount::Share(sole.share);
    let row = Row::at_least("goodput, 100 Mbit/s with 50 ms", Amount::Share(GOODPUT_LONG), row);
    table.add(row.noting(&sole.words()));
    if !has("rsync") {
        table.add(Row::skipped("the same against rsync -W", "rsync is not installed"));
        return Ok(());
    }
    let theirs = rsync(setup, LONG, 160)?;
    let (limit, value) = (Amount::Seconds(theirs), Amount::Seconds(sole.seconds));
    table.add(Row::at_most("the same in seconds", limit, value).bound_is("rsync -W"));
    Ok(())
}

fn lossy(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let sole = Sole::measure(setup, LOSSY, 96, None)?;
    let tcp = tcp_alone(setup, LOSSY)?;
    let row = Amount::Share(sole.share);
    let name = "goodput, 50 Mbit/s with 80 ms, 1 % lost";
    let row = Row::at_least(name, Amount::Share(GOODPUT_LOSSY), row);
    table.add(row.noting(&format!("TCP there {}; {}", Amount::Share(tcp), sole.words())));
    Ok(())
}

fn branch(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let sole = Sole::measure(setup, BRANCH, 40, None)?;
    let row = Amount::Share(sole.share);
    let name = "goodput, 20 Mbit/s with 40 ms, 0.1 % lost";
    let row = Row::at_least(name, Amount::Share(GOODPUT_BRANCH), row);
    table.add(row.noting(&sole.words()));
    Ok(())
}

/// Equal runs on a plain link: what differs was sent again.
fn plain(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut words = Vec::new();
    for _ in 0..setup.runs.max(2) {
        let sole = Sole::measure(setup, PLAIN, 64, None)?;
        bytes.push(Amount::bytes(sole.wire_bytes).value());
        words.push(sole.words());
    }
    let (least, most) =
        bytes.iter().fold((f64::MAX, 0.0f64), |(a, b), bytes| (a.min(*bytes), b.max(*bytes)));
    let (limit, value) = (Amount::Share(RUNS_DIFFER), Amount::Share(most / least - 1.0));
    let row = Row::at_most("equal runs on 100 Mbit/s, difference in wire bytes", limit, value);
    table.add(row.noting(&words.join("; ")));
    Ok(())
}

/// A transfer joins a TCP stream that has the link.
fn beside(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let travel = Travel::prepare(setup, "beside", CLEAN, 288)?;
    let stream = Stream::start(travel.link()?)?;
    thread::sleep(Duration::from_secs(3));
    travel.begin()?;
    thread::sleep(SETTLING);
    let (all, tcp) = travel.parts(&stream, CLEAN)?;
    stream.end()?;
    let (limit, value) = (Amount::Share(PART_BESIDE_TCP), Amount::Share(all - tcp));
    let name = "part of 50 Mbit/s with 40 ms, beside one TCP stream";
    table.add(Row::at_most(name, limit, value).noting(&format!("TCP {}", Amount::Share(tcp))));
    travel.end()
}

/// Alone, beside TCP, and normal again in the same transfer.
fn polite(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let alone = tcp_alone(setup, CLEAN)?;
    let travel = Travel::prepare(setup, "polite", CLEAN, 320)?;
    travel.pair.sender.ask(&["peer", "set", "receiver", "polite=true"])?;
    travel.begin()?;
    thread::sleep(SETTLING / 2);
    let ours = travel.part(CLEAN, Duration::from_secs(10))?;
    let name = "polite, alone on 50 Mbit/s with 40 ms";
    table.add(Row::at_least(name, Amount::Share(POLITE_ALONE), Amount::Share(ours)));
    let stream = Stream::start(travel.link()?)?;
    thread::sleep(SETTLING);
    let (all, tcp) = travel.parts(&stream, CLEAN)?;
    let (limit, value) = (Amount::Share(TCP_KEEPS), Amount::Share(tcp / alone));
    let row = Row::at_least("polite beside TCP: TCP keeps, of what it has alone", limit, value);
    table.add(row.noting(&format!("ours {}", Amount::Share(all - tcp))));
    travel.pair.sender.ask(&["peer", "set", "receiver", "polite=false"])?;
    thread::sleep(SETTLING);
    let (all, tcp) = travel.parts(&stream, CLEAN)?;
    let name = "no longer polite beside TCP, in the same transfer";
    table.add(Row::noted(name, Amount::Share(all - tcp)));
    travel.pair.sender.ask(&["peer", "set", "receiver", "polite=true"])?;
    thread::sleep(Duration::from_millis(500));
    let half_second_later = travel.part_beside(&stream, CLEAN, Duration::from_secs(1))?;
    let name = "polite again: our part in the second after half a second";
    table.add(Row::noted(name, Amount::Share(half_second_later)));
    stream.end()?;
    travel.end()
}

/// The same transfer with and without a time in which nothing gets through.
fn blackout(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let without = Sole::measure(setup, CLEAN, 48, None)?;
    let with = Sole::measure(setup, CLEAN, 48, Some(BLACKOUT))?;
    let more = with.wire_bytes.saturating_sub(without.wire_bytes);
    let (limit, value) = (Amount::bytes(BLACKOUT_BYTES), Amount::bytes(more));
    let row = Row::at_most("sent again after a blackout of 20 s, 50 Mbit/s", limit, value);
    let after = with.seconds - without.seconds - BLACKOUT.as_secs_f64();
    table.add(row.noting(&format!("{} lost beyond it", Amount::Seconds(after))));
    Ok(())
}

/// Two nodes on a link and an image that is ready to go.
struct Travel {
    pair: Pair,
    image: String,
}

impl Travel {
    fn prepare(setup: &Setup, name: &str, shape: Shape, mib: u64) -> anyhow::Result<Travel> {
        say(&format!("{name}: {shape:?}, {mib} MiB"));
        let link = Link::up(shape, setup.mtu)?;
        let pair = Pair::joined(&setup.ground(), name, Some(link))?;
        pair.place(&random(setup, mib)?, NAME)?;
        pair.settle()?;
        Ok(Travel { pair, image: format!("{STORE}/{NAME}") })
    }

    fn link(&self) -> anyhow::Result<&Link> {
        self.pair.link().context("no link")
    }

    /// Publishes, and doesn't wait.
    fn begin(&self) -> anyhow::Result<()> {
        self.pair.sender.ask(&["publish", &self.image])?;
        Ok(())
    }

    /// Everything's part of the link, headers included, from now on for a while.
    fn part(&self, shape: Shape, time: Duration) -> anyhow::Result<f64> {
        let before = self.link()?.delivered_bytes()?;
        thread::sleep(time);
        let bytes = self.link()?.delivered_bytes()? - before;
        Ok(share(Amount::bytes(bytes).value(), time, shape))
    }

    /// Everything's part and that of TCP.
    fn parts(&self, stream: &Stream, shape: Shape) -> anyhow::Result<(f64, f64)> {
        let before = stream.bytes();
        let all = self.part(shape, MEASURED)?;
        let bytes = stream.wire(stream.bytes() - before);
        Ok((all, share(bytes, MEASURED, shape)))
    }

    /// What is not TCP's.
    fn part_beside(&self, stream: &Stream, shape: Shape, time: Duration) -> anyhow::Result<f64> {
        let before = stream.bytes();
        let all = self.part(shape, time)?;
        Ok(all - share(stream.wire(stream.bytes() - before), time, shape))
    }

    /// The rest of the transfer is of no interest.
    fn end(mut self) -> anyhow::Result<()> {
        self.pair.sender.kill()?;
        self.pair.receiver.kill()?;
        self.pair.end()
    }
}

/// One transfer that has a link to itself.
struct Sole {
    seconds: f64,
    /// Image bytes, as a part of what the link carries.
    share: f64,
    wire_bytes: u64,
    packets: [u64; 3],
}

impl Sole {
    fn measure(
        setup: &Setup,
        shape: Shape,
        mib: u64,
        blackout: Option<Duration>,
    ) -> anyhow::Result<Sole> {
        let travel = Travel::prepare(setup, "sole", shape, mib)?;
        let pair = &travel.pair;
        let before = travel.link()?.packets()?;
        let transfer = thread::scope(|scope| {
            let travel = &travel;
            if let Some(time) = blackout {
                scope.spawn(move || dark(travel, shape, time));
            }
            pair.transfer(NAME)
        })?;
        let after = travel.link()?.packets()?;
        let packets = [0, 1, 2].map(|i| after[i] - before[i]);
        let (source, target) = (pair.sender.image(NAME), pair.receiver.image(NAME));
        ensure!(same_bytes(&source, &target)?, "the copy differs");
        if let Some(trouble) = travel.link()?.trouble()? {
            say(&format!("   a busy machine: {trouble}"));
        }
        let seconds = transfer.seconds - transfer.publish_seconds;
        let bytes = Amount::bytes(mib << 20).value();
        let share = share(bytes, Duration::from_secs_f64(seconds), shape);
        let wire_bytes = transfer.bytes();
        travel.pair.end()?;
        Ok(Sole { seconds, share, wire_bytes, packets })
    }

    fn words(&self) -> String {
        let [sent, dropped, lost] = self.packets;
        format!("of {sent} packets the queue dropped {dropped}, the link lost {lost}")
    }
}

/// Nothing gets through for a while.
fn dark(travel: &Travel, shape: Shape, time: Duration) -> anyhow::Result<()> {
    thread::sleep(Duration::from_secs(4));
    let link = travel.link()?;
    link.set_rate(0)?;
    thread::sleep(time);
    link.set_rate(shape.bits_per_second.context("no rate")?)
}

/// As a part of what a link carries in a time.
fn share(bytes: f64, time: Duration, shape: Shape) -> f64 {
    let bits = shape.bits_per_second.map_or(f64::NAN, |bits| Amount::bytes(bits).value());
    bytes * 8.0 / time.as_secs_f64() / bits
}

/// A file of so many MiB that don't compress; made once.
fn random(setup: &Setup, mib: u64) -> anyhow::Result<PathBuf> {
    let path = setup.work.join(format!("random-{mib}.raw"));
    if !path.exists() {
        let mut file = File::create(&path)?;
        let (mut numbers, mut block) = (Numbers(SEED), vec![0; 1 << 20]);
        for _ in 0..mib {
            numbers.fill(&mut block);
            file.write_all(&block)?;
        }
        file.sync_all()?;
    }
    Ok(path)
}

/// What a TCP stream gets of a link that it has to itself.
fn tcp_alone(setup: &Setup, shape: Shape) -> anyhow::Result<f64> {
    let link = Link::up(shape, setup.mtu)?;
    let stream = Stream::start(&link)?;
    thread::sleep(SETTLING);
    let before = stream.bytes();
    thread::sleep(MEASURED);
    let bytes = stream.wire(stream.bytes() - before);
    stream.end()?;
    Ok(share(bytes, MEASURED, shape))
}

/// A TCP stream from end 0 to end 1 that always has more to send.
struct Stream {
    received: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(link: &Link) -> anyhow::Result<Stream> {
        let there = (link.addresses()[1], PORT_TCP);
        let listener = link.inside(1, || Ok(TcpListener::bind(there)?))?;
        let mut sender = link.inside(0, || Ok(TcpStream::connect(there)?))?;
        set_tcp_congestion(&sender, CUBIC).context("TCP without cubic")?;
        let (mut receiver, _) = listener.accept()?;
        let received = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (stop, count) = (Arc::clone(&over), Arc::clone(&received));
        let send = thread::spawn(move || {
            let block = vec![7; 64 << 10];
            while !stop.load(Ordering::Relaxed) && sender.write_all(&block).is_ok() {}
        });
        let receive = thread::spawn(move || {
            let mut block = vec![0; 64 << 10];
            while let Some(bytes) = receiver.read(&mut block).ok().filter(|bytes| *bytes > 0) {
                count.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
        Ok(Stream { received, over, threads: vec![send, receive] })
    }

    fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// What so much payload is on the link.
    fn wire(&self, bytes: u64) -> f64 {
        let [packet, payload] = TCP_PACKET;
        Amount::bytes(bytes).value() * packet / payload
    }

    fn end(self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            ensure!(thread.join().is_ok(), "the TCP stream failed");
        }
        Ok(())
    }
}

/// Seconds that `rsync -W` takes for the same file on such a link.
fn rsync(setup: &Setup, shape: Shape, mib: u64) -> anyhow::Result<f64> {
    let link = Link::up(shape, setup.mtu)?;
    let image = random(setup, mib)?;
    let [here, there] = link.namespaces();
    let address = (link.addresses()[0], PORT_RSYNC).into();
    let config = setup.work.join("rsyncd-links.conf");
    let log = setup.work.join("rsyncd-links.log");
    std::fs::write(&config, rsyncd::config(address, &log, &setup.work))?;
    let inside = |namespace: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "rsync"]);
        command
    };
    let mut daemon = inside(here);
    daemon.args(["--daemon", "--no-detach", "--config"]).arg(&config);
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _daemon = Ended(daemon.spawn()?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while link.inside(1, || Ok(TcpStream::connect(address)?)).is_err() {
        if Instant::now() > deadline {
            bail!("the rsync daemon does not answer");
        }
        thread::sleep(Duration::from_millis(20));
    }
    let name = image.file_name().context("no name")?.to_string_lossy().into_owned();
    let target = setup.work.join("rsync-links.raw");
    let mut fetch = inside(there);
    fetch.args(["-W", "--times", "--perms"]).arg(format!("rsync://{address}/images/{name}"));
    let began = Instant::now();
    run_program(fetch.arg(&target))?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(same_bytes(&image, &target)?, "rsync left something else");
    remove(&target)?;
    Ok(seconds)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).with_context(|| path.display().to_string())
}

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
