//! Caps, pauses and calendars on whole nodes: what really goes over the wire, counted by a relay of
//! UDP packets between the two. The machine may be busy, so tolerances are wide; what must not happen
//! at all (bytes during a pause, bytes sent twice) is counted exactly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blockferry_node::api::{
    AdminError, Affected, Answer, BacklogReport, Client, Invitation, Joined, OrderKind,
    OrdersReport, PublishReport, ReadyReport, Request, Require, Role, StatusReport, StoresReport,
    WaitReason,
};
use blockferry_node::calendar::{Calendar, Rate, Rule, When, Zone};
use blockferry_node::config::Config;
use blockferry_node::{Identity, Node};
use serde::de::DeserializeOwned;

const LONG: Duration = Duration::from_secs(60);
/// Bytes of headers of UDP and IPv4.
const HEADERS: u64 = 28;
/// What may pass during a pause: acknowledgements, pings, probes.
const CHATTER_BYTES: u64 = 20_000;

/// A node in a directory of its own, on a thread of its own.
struct Running {
    dir: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn config(dir: &Path, name: &str) -> Config {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    let identity = Identity::load_or_create(&dir.join("identity.key")).expect("a key");
    let mut config = Config::new(name, identity, dir.join("state"));
    config.admin_socket = Some(dir.join("admin.sock"));
    config.listen = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)];
    config
}

fn start(config: Config) -> Running {
    let dir = config.admin_socket.as_ref().and_then(|s| s.parent()).expect("a dir").to_owned();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let node = Node::start(config).await.expect("started");
            ready.send(()).expect("awaited");
            let _stopped = stopped.await;
            node.stop().await;
        });
    });
    is_ready.recv_timeout(LONG).expect("ready");
    Running { dir, stop: Some(stop), thread: Some(thread) }
}

impl Running {
    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        let answer = |request| -> Result<T, AdminError> {
            let mut client = Client::connect(&self.dir.join("admin.sock"))?;
            client.set_timeout(Some(LONG));
            client.ask(request)
        };
        answer(request).unwrap_or_else(|e| panic!("{request:?}: {e}"))
    }

    fn reason(&self) -> Option<WaitReason> {
        let backlog: BacklogReport = self.ask(&Request::Backlog { peer: None });
        backlog.items.first().map(|item| item.reason)
    }

    fn wait(&self) {
        let report: ReadyReport = self.ask(&Request::Wait {
            image: "vdisks/x.img".into(),
            require: Require::All,
            timeout_seconds: Some(LONG.as_secs()),
        });
        assert!(report.ready);
    }

    fn codes(&self) -> Vec<String> {
        let mut client = Client::connect(&self.dir.join("admin.sock")).expect("connected");
        let request = Request::Events { follow: false, since_seconds: None };
        let answers = client.call(&request).expect("asked");
        let code = |answer: Result<Answer, AdminError>| match answer.expect("answered") {
            Answer::Event(event) => Some(event.code),
            _ => None,
        };
        answers.filter_map(code).collect()
    }

    fn end(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _gone = stop.send(());
            thread.join().expect("stopped");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// Packets from the dialled node to the one that dials through the relay: when, and how many bytes.
type Log = Arc<Mutex<Vec<(Instant, u64)>>>;

struct Relay {
    address: SocketAddr,
    back: UdpSocket,
    log: Log,
}

impl Relay {
    /// Forwards what comes to `address` to `to`, and what that answers back to whoever sent last.
    fn new() -> Relay {
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let (front, back, log) = (socket(), socket(), Log::default());
        let relay = Relay {
            address: front.local_addr().expect("bound"),
            back: back.try_clone().expect("cloned"),
            log: log.clone(),
        };
        let client = Arc::new(Mutex::new(None));
        let (front_in, back_out, from) = (
            front.try_clone().expect("cloned"),
            relay.back.try_clone().expect("cloned"),
            client.clone(),
        );
        std::thread::spawn(move || {
            let mut packet = [0; 65_536];
            while let Ok((bytes, source)) = front_in.recv_from(&mut packet) {
                *from.lock().expect("sound") = Some(source);
                // Before it is connected there is nobody to forward to.
                let _nobody = back_out.send(&packet[..bytes]);
            }
        });
        std::thread::spawn(move || {
            let mut packet = [0; 65_536];
            loop {
                let Ok(bytes) = back.recv(&mut packet) else { continue };
                log.lock().expect("sound").push((Instant::now(), bytes as u64 + HEADERS));
                if let Some(to) = *client.lock().expect("sound") {
                    let _full = front.send_to(&packet[..bytes], to);
                }
            }
        });
        relay
    }

    fn total(&self) -> u64 {
        self.log.lock().expect("sound").iter().map(|(_, bytes)| bytes).sum()
    }

    fn between(&self, from: Instant, to: Instant) -> u64 {
        let log = self.log.lock().expect("sound");
        log.iter().filter(|(at, _)| from <= *at && *at < to).map(|(_, bytes)| bytes).sum()
    }
}

/// Two nodes, the second behind a relay, and an image of noise that has begun to travel.
struct Scene {
    a: Running,
    b: Running,
    relay: Relay,
    config: Config,
    images: [PathBuf; 2],
    _dir: tempfile::TempDir,
}

fn scene(megabytes: usize, change: impl FnOnce(&mut Config)) -> Scene {
    let dir = tempfile::tempdir().expect("a directory");
    let relay = Relay::new();
    let mut hub = config(dir.path(), "a");
    hub.advertise = vec![relay.address.to_string()];
    change(&mut hub);
    let (a, b) = (start(hub.clone()), start(config(dir.path(), "b")));
    let status: StatusReport = a.ask(&Request::Status {});
    let listen: SocketAddr = status.node.listen[0].parse().expect("an address");
    relay.back.connect(listen).expect("connected");
    let images = a.dir.join("images");
    std::fs::create_dir_all(&images).expect("a directory");
    let (name, path, role) = ("vdisks".to_owned(), images.clone(), Role::Writer);
    let _: StoresReport = a.ask(&Request::StoreAdd { name, path, role });
    let request = Request::Invite { store: "vdisks".into(), role: Role::Mirror, ttl_seconds: 60 };
    let ticket = a.ask::<Invitation>(&request).ticket;
    let joined: Joined = b.ask(&Request::Join { ticket, path: None, name: None });
    let mut noise = vec![0; megabytes * 1_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(images.join("x.img"), noise).expect("written");
    let _: PublishReport =
        a.ask(&Request::Publish { image: "vdisks/x.img".into(), changed: None, since: None });
    let images = [images, joined.path.into()];
    Scene { a, b, relay, config: hub, images, _dir: dir }
}

impl Scene {
    fn arrived(&self) -> bool {
        let [here, there] = self.images.clone().map(|dir| std::fs::read(dir.join("x.img")).ok());
        here.is_some() && here == there
    }

    /// Sleeps until so many bytes have gone over the wire.
    fn until_sent(&self, bytes: u64) {
        let start = Instant::now();
        while self.relay.total() < bytes {
            assert!(start.elapsed() < LONG, "only {} bytes were sent", self.relay.total());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Megabit per second over the wire during the next so long.
    fn measure(&self, seconds: f64) -> f64 {
        let from = Instant::now();
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let now = Instant::now();
        self.relay.between(from, now) as f64 * 8e-6 / (now - from).as_secs_f64()
    }
}

fn affected() -> Affected {
    Affected::default()
}

const HALF: Duration = Duration::from_millis(500);

#[test]
fn a_cap_a_change_and_a_pause_in_mid_transfer() {
    let scene = scene(12, |hub| hub.send_limit_bits_per_second = Some(20_000_000));
    let a = &scene.a;
    scene.until_sent(1_000_000);
    let rate = scene.measure(1.0);
    // A busy machine may be slower than the cap, never faster.
    assert!((8.0..21.0).contains(&rate), "{rate} Mbit/s under a cap of 20");

    let set = Request::LimitSet {
        peer: Some("b".into()),
        bits_per_second: 4_000_000,
        for_seconds: Some(3600),
    };
    let report: OrdersReport = a.ask(&set);
    assert_eq!(report.rates[0].rate_limit_bits_per_second, Some(4_000_000));
    std::thread::sleep(HALF);
    let rate = scene.measure(1.0);
    assert!((2.0..4.3).contains(&rate), "{rate} Mbit/s under a cap of 4");

    let report: OrdersReport = a.ask(&Request::Pause(affected()));
    assert_eq!(report.orders.last().map(|o| o.order), Some(OrderKind::Pause));
    let status: StatusReport = a.ask(&Request::Status {});
    assert_eq!(status.peers[0].rate_limit_bits_per_second, Some(0));
    std::thread::sleep(HALF);
    let (paused, before) = (Instant::now(), scene.relay.total());
    std::thread::sleep(Duration::from_millis(1500));
    let during = scene.relay.between(paused, Instant::now());
    assert!(during < CHATTER_BYTES, "{during} bytes during a pause");
    assert!(before > 2_000_000 && !scene.arrived());
    assert_eq!(a.reason(), Some(WaitReason::Paused));

    let _: OrdersReport = a.ask(&Request::LimitClear { peer: Some("b".into()) });
    let report: OrdersReport = a.ask(&Request::Resume(affected()));
    assert_eq!(report.orders, [], "nothing is left in force");
    a.wait();
    assert!(scene.arrived());
    let total = scene.relay.total();
    assert!(total < 12_000_000 * 107 / 100 + 100_000, "{total} bytes for 12 MB: sent twice?");
    let codes = a.codes();
    for code in ["LIMIT_SET", "PAUSED", "LIMIT_CLEARED", "RESUMED"] {
        assert!(codes.iter().any(|c| c == code), "{code} is missing in {codes:?}");
    }
}

/// Not a test of pass or fail: prints how well caps are kept. Alone on a quiet machine, please.
#[test]
#[ignore = "measures; run it with --ignored --nocapture --test-threads 1"]
fn figures_of_caps() {
    for megabit in [1, 5, 20, 100, 500] {
        let bits = megabit * 1_000_000;
        let megabytes = usize::try_from(megabit * 8 / 8 + 2).expect("small");
        let scene = scene(megabytes, |hub| hub.send_limit_bits_per_second = Some(bits));
        scene.until_sent(bits / 8);
        let (from, length) = (Instant::now(), 6 * 1000 - 500);
        let scene = &scene;
        std::thread::sleep(Duration::from_millis(length));
        let windows = |ms: u64| {
            let starts = (0..(length - ms) / 10).map(|n| from + Duration::from_millis(10 * n));
            let share = move |at: Instant| {
                let bytes = scene.relay.between(at, at + Duration::from_millis(ms));
                bytes as f64 * 8000.0 / ms as f64 / bits as f64
            };
            let shares: Vec<f64> = starts.map(share).collect();
            let least = shares.iter().copied().fold(f64::MAX, f64::min);
            (least, shares.iter().copied().fold(0.0, f64::max))
        };
        let (second, quarter) = (windows(1000), windows(250));
        eprintln!(
            "cap {megabit} Mbit/s: 1 s {:.3} to {:.3} of it, 250 ms {:.3} to {:.3}",
            second.0, second.1, quarter.0, quarter.1
        );
    }
}

/// A pause from so many to so many seconds from now on, else 20 Mbit/s.
fn pausing(from: i64, to: i64) -> (Calendar, Instant, Instant) {
    let now = jiff::Timestamp::now();
    let second = now.as_second() + 1;
    let zone = jiff::tz::Offset::UTC;
    let at = |seconds: i64| {
        let instant = jiff::Timestamp::from_second(second + seconds).expect("in range");
        zone.to_datetime(instant).strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    let window = format!("{}..{}", at(from), at(to)).parse().expect("a window");
    let rules = vec![Rule { when: When::Once(vec![window]), rate: Rate::Pause }];
    let default = Rate::Limited(20_000_000);
    let calendar = Calendar { zone: Zone::utc(), default, dfsr: None, rules };
    let to_instant = |seconds: i64| {
        let ms = (second + seconds) * 1000 - now.as_millisecond();
        Instant::now() + Duration::from_millis(u64::try_from(ms).expect("ahead"))
    };
    (calendar, to_instant(from), to_instant(to))
}

#[test]
fn a_calendar_pauses_and_resumes_by_itself() {
    let (calendar, from, to) = pausing(4, 7);
    let scene = scene(20, |hub| {
        hub.schedules.insert("edges".into(), Arc::new(calendar));
        hub.send_schedule = Some("edges".into());
    });
    std::thread::sleep((from + HALF).saturating_duration_since(Instant::now()));
    assert!(scene.relay.total() > 0 && !scene.arrived(), "it is under way");
    assert_eq!(scene.a.reason(), Some(WaitReason::Schedule));
    std::thread::sleep((to + HALF).saturating_duration_since(Instant::now()));
    let during = scene.relay.between(from + HALF, to);
    assert!(during < CHATTER_BYTES, "{during} bytes while the calendar says pause");
    let after = scene.relay.between(to, to + HALF);
    assert!(after > 300_000, "{after} bytes in the half second after the pause");
    scene.a.wait();
    assert!(scene.arrived());
    let total = scene.relay.total();
    assert!(total < 20_000_000 * 107 / 100 + 100_000, "{total} bytes for 20 MB: sent twice?");
    assert!(scene.a.codes().iter().filter(|c| *c == "SCHEDULE").count() >= 3);
}

#[test]
fn a_transfer_that_is_held_for_long_gives_way_and_goes_on_where_it_was() {
    let scene = scene(8, |hub| {
        hub.send_limit_bits_per_second = Some(20_000_000);
        hub.hold = Duration::from_millis(300);
    });
    scene.until_sent(4_500_000);
    let _: OrdersReport = scene.a.ask(&Request::Pause(affected()));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(scene.a.reason(), Some(WaitReason::Paused));
    let during = scene.measure(1.0);
    assert!(during < 0.2, "{during} Mbit/s during a pause");
    let _: OrdersReport = scene.a.ask(&Request::Resume(affected()));
    scene.a.wait();
    assert!(scene.arrived());
    // What lay between the gate and the receiver's staging is lost with the stream: a pack or two.
    let total = scene.relay.total();
    assert!(total < 8_000_000 * 107 / 100 + 4_400_000, "{total} bytes for 8 MB");
    let codes = scene.a.codes();
    assert!(!codes.iter().any(|c| c == "PEER_UNREACHABLE" || c == "HELD"), "{codes:?}");
}

#[test]
fn orders_survive_a_restart_and_end_by_themselves() {
    let mut scene = scene(2, |hub| hub.send_limit_bits_per_second = Some(2_000_000));
    let pause = Affected { peer: Some("b".into()), for_seconds: Some(6), ..affected() };
    let given = Instant::now();
    let report: OrdersReport = scene.a.ask(&Request::Pause(pause));
    assert!(report.orders[0].until.is_some());
    scene.a.end();
    let mut config = scene.config.clone();
    let listen = scene.relay.back.peer_addr().expect("connected");
    config.listen = vec![listen];
    scene.a = start(config);
    let report: OrdersReport = scene.a.ask(&Request::Orders {});
    assert_eq!((report.orders.len(), report.orders[0].order), (1, OrderKind::Pause));
    scene.a.wait();
    let took = given.elapsed().as_secs_f64();
    assert!(took >= 6.0, "it was sent {took} s after a pause of 6 s");
    assert!(scene.arrived());
    let codes = scene.a.codes();
    assert!(codes.iter().any(|c| c == "ORDER_ENDED"), "{codes:?}");
    assert_eq!(scene.a.ask::<OrdersReport>(&Request::Orders {}).orders, []);
    let _: StatusReport = scene.b.ask(&Request::Status {});
}
