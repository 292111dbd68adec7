//! A configuration that is read again while real services run: limits that bite in mid-transfer,
//! stores and peers that come and go, files that are bad.
//!
//! What goes over the wire is counted by a relay of UDP packets between the two.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use blockferry_node::api::{
    Answer, Client, Event, Invitation, Joined, PeersReport, ReadyReport, Request, Require, Role,
    Severity, StatusReport, StoresReport,
};
use clean::clean;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody is there: who is told this address must not find a way past the relay.
const NO_WAY: &str = "node.advertise = [\"127.0.0.1:9\"]\n";

fn command(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.args(args);
    command
}

/// A service in a directory of its own.
struct Service {
    directory: PathBuf,
    id: String,
    child: Option<Child>,
}

impl Service {
    /// Makes a node, and starts it with this beside its own configuration.
    fn new(parent: &TempDir, name: &str, more: &str) -> Service {
        let directory = parent.path().join(name);
        let made = command(&["init", "--name", name, "--listen", "127.0.0.1:0", "--dir"])
            .arg(&directory)
            .output()
            .unwrap();
        assert!(made.status.success());
        let id = command(&["id", "--config"]).arg(directory.join("blockferry.toml")).output();
        let id = String::from_utf8(id.unwrap().stdout).unwrap().trim().to_owned();
        let mut service = Service { directory, id, child: None };
        service.write(more);
        service.start();
        service
    }

    fn start(&mut self) {
        let child = command(&["serve", "--until-stdin-closes", "--config"])
            .arg(self.directory.join("blockferry.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        until("it answers", || Client::connect(&self.socket()).is_ok());
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// What the configuration says beside the file that `init` wrote.
    fn write(&self, text: &str) {
        let directory = self.directory.join("conf.d");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("50-test.toml"), text).unwrap();
    }

    /// `config check`, as an object and as text.
    fn check(&self) -> (serde_json::Value, String) {
        let run = |args: &[&str]| {
            let file = self.directory.join("blockferry.toml");
            let output = command(args).arg("--config").arg(file).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let object = run(&["config", "check", "--json"]);
        (serde_json::from_str(&object).unwrap(), run(&["config", "check"]))
    }

    /// Writes it and has it read.
    fn reload(&self, text: &str) {
        self.write(text);
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        let mut client = Client::connect(&self.socket()).unwrap();
        client.set_timeout(Some(PATIENCE));
        client.ask(request).unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }

    fn address(&self) -> String {
        self.ask::<StatusReport>(&Request::Status {}).node.listen[0].clone()
    }

    fn events(&self, code: &str) -> Vec<Event> {
        let mut client = Client::connect(&self.socket()).unwrap();
        let request = Request::Events { follow: false, since_seconds: None };
        let event = |answer| match answer {
            Ok(Answer::Event(event)) => Some(event),
            _ => None,
        };
        let all = client.call(&request).unwrap().filter_map(event);
        all.filter(|event: &Event| event.code == code).collect()
    }

    /// Waits for so many events of a code; the last of them.
    fn told(&self, code: &str, count: usize) -> Event {
        until(code, || self.events(code).len() >= count);
        self.events(code).pop().unwrap()
    }

    fn connected(&self, peer: &str) -> bool {
        let report: PeersReport = self.ask(&Request::PeerLs {});
        report.peers.iter().any(|row| row.name == peer && row.connected)
    }

    fn publish(&self, image: &str) {
        let (image, changed, since) = (format!("s/{image}"), None, None);
        let _: serde_json::Value = self.ask(&Request::Publish { image, changed, since });
    }

    fn wait(&self, image: &str) {
        let report: ReadyReport = self.ask(&Request::Wait {
            image: format!("s/{image}"),
            require: Require::All,
            timeout_seconds: Some(PATIENCE.as_secs()),
        });
        assert!(report.ready, "{report:?}");
    }

    fn join(&self, other: &Service) -> PathBuf {
        let (store, role) = ("s".to_owned(), Role::Writer);
        let invitation: Invitation = other.ask(&Request::Invite { store, role, ttl_seconds: 60 });
        let (ticket, path, name) = (invitation.ticket, None, None);
        self.ask::<Joined>(&Request::Join { ticket, path, name }).path.into()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < PATIENCE, "{what} never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that don't compress and differ by seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Forwards packets between whoever sends to it and a service; counts what the service sends.
struct Relay {
    address: SocketAddr,
    back: UdpSocket,
    sent: Arc<Mutex<u64>>,
}

impl Relay {
    fn new() -> Relay {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (front, back, sent) = (socket(), socket(), Arc::new(Mutex::new(0)));
        let relay = Relay {
            address: front.local_addr().unwrap(),
            back: back.try_clone().unwrap(),
            sent: sent.clone(),
        };
        let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (inwards, outwards, from) =
            (front.try_clone().unwrap(), back.try_clone().unwrap(), client.clone());
        std::thread::spawn(move || {
            let mut packet = [0; 65_536];
            while let Ok((bytes, source)) = inwards.recv_from(&mut packet) {
                *from.lock().unwrap() = Some(source);
                let _ = outwards.send(&packet[..bytes]);
            }
        });
        std::thread::spawn(move || {
            let mut packet = [0; 65_536];
            loop {
                let Ok(bytes) = back.recv(&mut packet) else { continue };
                *sent.lock().unwrap() += bytes as u64 + 28;
                if let Some(to) = *client.lock().unwrap() {
                    let _ = front.send_to(&packet[..bytes], to);
                }
            }
        });
        relay
    }

    fn total(&self) -> u64 {
        *self.sent.lock().unwrap()
    }

    /// Megabit per second during the next so long.
    fn measure(&self, length: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.total());
        std::thread::sleep(length);
        (self.total() - before) as f64 * 8e-6 / start.elapsed().as_secs_f64()
    }
}

fn store_of(directory: &Path) -> String {
    format!("[stores.s]\npath = \"{}\"\nsettle = \"1h\"\n", directory.display())
}

#[test]
fn a_limit_changed_in_mid_transfer_bites_and_the_transfer_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let relay = Relay::new();
    let base = format!("node.advertise = [\"{}\"]\n{}", relay.address, store_of(&images));
    let limited = |rate: &str| format!("{base}[limits]\nsend = \"{rate}\"\n");
    let a = Service::new(&directory, "a", &limited("20 Mbit/s"));
    relay.back.connect(a.address().parse::<SocketAddr>().unwrap()).unwrap();
    let b = Service::new(&directory, "b", NO_WAY);
    let copies = b.join(&a);
    std::fs::write(images.join("x.img"), noise(1, 10_000_000)).unwrap();
    a.publish("x.img");
    until("it travels", || relay.total() > 1_000_000);
    // The first dial may have come before the other side had written down who we are.
    let ended = a.events("PEER_DOWN").len();
    a.reload(&limited("4 Mbit/s"));
    std::thread::sleep(Duration::from_millis(500));
    let rate = relay.measure(Duration::from_secs(1));
    assert!((1.0..4.4).contains(&rate), "{rate} Mbit/s half a second after a limit of 4");
    let event = a.told("CONFIG_RELOADED", 1);
    assert!(event.message.contains("in force now: limits.send"), "{}", event.message);

    // What is bad leaves that in force, and is named with file, line and key.
    a.reload(&limited("fast"));
    let event = a.told("CONFIG_REJECTED", 1);
    assert_eq!(event.severity, Severity::Error);
    let line = limited("fast").lines().count();
    for what in [format!("50-test.toml:{line}:"), "limits.send".into(), "stays in force".into()] {
        assert!(event.message.contains(&what), "{what}: {}", event.message);
    }
    let status: StatusReport = a.ask(&Request::Status {});
    assert_eq!(status.peers[0].rate_limit_bits_per_second, Some(4_000_000));
    assert!(status.peers[0].finish.is_some(), "a limit says when: {:?}", status.peers[0]);

    // A calendar that comes by reload counts as well.
    let pausing = "[peers.none]\nid = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n\
                   [limits]\nschedule = \"never\"\n[schedules.never]\nzone = \"UTC\"\n\
                   default = \"pause\"\n";
    a.reload(&format!("{base}{pausing}"));
    a.told("CONFIG_RELOADED", 2);
    std::thread::sleep(Duration::from_millis(500));
    let rate = relay.measure(Duration::from_secs(1));
    assert!(rate < 0.2, "{rate} Mbit/s during a pause");
    a.reload(&base);
    a.wait("x.img");
    assert_eq!(std::fs::read(copies.join("x.img")).unwrap(), noise(1, 10_000_000));
    let total = relay.total();
    assert!(total < 10_000_000 * 107 / 100 + 100_000, "{total} bytes for 10 MB: sent twice?");
    let names = a.events("PEER_DOWN");
    assert_eq!(names.len(), ended, "no connection ended: {names:?}");
    let event = a.told("CONFIG_RELOADED", 3);
    for key in ["limits.schedule", "schedules.never", "peers.none"] {
        assert!(event.message.contains(key), "{key}: {}", event.message);
    }
}

#[test]
fn stores_and_peers_come_and_go_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let (a, b) = (Service::new(&directory, "a", ""), Service::new(&directory, "b", ""));
    let peer = |name: &str, other: &Service, address: bool, stores: &str| {
        let address = if address { format!("\"{}\"", other.address()) } else { String::new() };
        let id = &other.id;
        format!("[peers.{name}]\nid = \"{id}\"\naddress = [{address}]\nstores = [{stores}]\n")
    };
    a.reload(&peer("b", &b, false, ""));
    a.told("CONFIG_RELOADED", 1);
    b.reload(&peer("a", &a, true, ""));
    until("they are connected", || a.connected("b") && b.connected("a"));

    // A store of the file, a second node that joins it, and what travels.
    a.reload(&format!("{}{}", store_of(&images), peer("b", &b, false, "\"s\"")));
    let event = a.told("CONFIG_RELOADED", 2);
    assert!(event.message.contains("stores.s") && event.message.contains("peers.b.stores"));
    a.told("STORE_ADDED", 1);
    let stores: StoresReport = a.ask(&Request::StoreLs {});
    assert_eq!((stores.stores.len(), stores.stores[0].name.as_str()), (1, "s"));
    let copies = b.join(&a);
    std::fs::write(images.join("x.img"), noise(1, 300_000)).unwrap();
    a.publish("x.img");
    a.wait("x.img");

    // What is not shared any more doesn't travel; shared again it does, on the same connection.
    until("they are connected", || a.connected("b") && b.connected("a"));
    std::thread::sleep(Duration::from_secs(1));
    let ups = b.events("PEER_UP").len();
    b.reload(&peer("a", &a, true, "\"s\""));
    b.told("CONFIG_RELOADED", 2);
    b.reload(&peer("a", &a, true, ""));
    b.told("CONFIG_RELOADED", 3);
    std::fs::write(copies.join("y.img"), noise(2, 300_000)).unwrap();
    b.publish("y.img");
    std::thread::sleep(Duration::from_millis(700));
    assert!(!images.join("y.img").exists(), "the store is not shared");
    b.reload(&peer("a", &a, true, "\"s\""));
    b.wait("y.img");
    assert_eq!(std::fs::read(images.join("y.img")).unwrap(), noise(2, 300_000));
    assert_eq!(b.events("PEER_UP").len(), ups, "on the same connection");

    // Both go.
    a.reload("");
    a.told("PEER_REMOVED", 1);
    a.told("STORE_REMOVED", 1);
    until("it is not connected", || !b.connected("a"));
    let status: StatusReport = a.ask(&Request::Status {});
    assert_eq!((status.peers.len(), status.stores.len()), (0, 0));
}

/// A token's secret, and the lines that know it.
fn token(name: &str) -> (String, String) {
    let made = command(&["token", "new", name, "--scope", "read", "--json"]).output().unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    (text("token"), text("config"))
}

/// The first line of what HTTP answers; `None`: nobody listens there.
fn status_over_http(at: SocketAddr, token: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    let ask = format!(
        "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().next().map(str::to_owned)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Keys of the first reload in mid-transfer.
const CHANGED: [&str; 8] = [
    "admin.http",
    "admin.tokens.page",
    "admin.tokens.night",
    "stores.new",
    "stores.old",
    "stores.s.include",
    "stores.s.lane",
    "peers.c",
];

/// Weight and manner of peer c, if there is one.
fn weight(status: &StatusReport) -> Option<(u32, bool)> {
    let of_c = status.peers.iter().find(|peer| peer.name == "c");
    of_c.map(|peer| (peer.weight, peer.polite))
}

#[test]
fn all_that_may_change_does_in_mid_transfer() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["images", "old", "new"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let relay = Relay::new();
    let ((one, first), (two, second)) = (token("page"), token("night"));
    let (here, there) = (free(), free());
    let base = format!("node.advertise = [\"{}\"]\n", relay.address);
    let http = |at: SocketAddr, token: &str| format!("[admin]\nhttp = \"{at}\"\n{token}\n");
    let store = |name: &str, more: &str| {
        format!("[stores.{name}]\npath = \"{}\"\nsettle = \"1h\"\n{more}", path(name).display())
    };
    let peer =
        |more: &str| format!("[peers.c]\nid = \"{}\"\nstores = [\"s\"]\n{more}", "A".repeat(52));
    let limit = "[limits]\nsend = \"8 Mbit/s\"\n";
    let s = store_of(&path("images"));
    let before = format!("{base}{}{limit}{s}{}", http(here, &first), store("old", ""));
    let a = Service::new(&directory, "a", &before);
    relay.back.connect(a.address().parse::<SocketAddr>().unwrap()).unwrap();
    let b = Service::new(&directory, "b", NO_WAY);
    let copies = b.join(&a);
    std::fs::write(path("images").join("x.img"), noise(7, 8_000_000)).unwrap();
    a.publish("x.img");
    until("it travels", || relay.total() > 500_000);
    let ended = a.events("PEER_DOWN").len();
    assert_eq!(status_over_http(here, &one).unwrap(), "HTTP/1.1 200 OK");

    // A store comes, one goes, one takes other names; a peer comes; another token, another address.
    let s = format!("{s}include = [\"*.img\"]\nlane = \"urgent\"\n");
    let after = |c: &str| {
        format!(
            "{base}{}{limit}{s}{}{c}",
            http(there, &second),
            store("new", "include = [\"*.raw\"]\n")
        )
    };
    a.reload(&after(&peer("weight = 5\n")));
    let told = a.told("CONFIG_RELOADED", 1);
    for key in CHANGED {
        assert!(told.message.contains(key), "{key}: {}", told.message);
    }
    assert!(!told.message.contains("restart"), "{}", told.message);
    let status: StatusReport = a.ask(&Request::Status {});
    assert_eq!(weight(&status), Some((5, false)));
    a.told("STORE_ADDED", 1);
    a.told("STORE_REMOVED", 1);
    assert_eq!(status_over_http(there, &two).unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(status_over_http(there, &one).unwrap(), "HTTP/1.1 401 Unauthorized");
    until("nobody listens there", || status_over_http(here, &one).is_none());

    // It changes, and it goes.
    a.reload(&after(&peer("weight = 9\npolite = true\n")));
    let told = a.told("CONFIG_RELOADED", 2);
    assert!(told.message.contains("peers.c.weight, peers.c.polite"), "{}", told.message);
    assert_eq!(weight(&a.ask(&Request::Status {})), Some((9, true)));
    a.reload(&after(""));
    a.told("PEER_REMOVED", 1);
    let total = relay.total();
    assert!(total < 8_000_000, "all of this was in mid-transfer: {total}");
    a.wait("x.img");
    assert_eq!(std::fs::read(copies.join("x.img")).unwrap(), noise(7, 8_000_000));
    assert_eq!(a.events("PEER_DOWN").len(), ended, "no connection ended");
    let total = relay.total();
    assert!(total < 8_000_000 * 107 / 100 + 100_000, "{total} bytes for 8 MB: sent twice?");
    let status: StatusReport = a.ask(&Request::Status {});
    let names: Vec<&str> = status.stores.iter().map(|store| store.name.as_str()).collect();
    assert_eq!((names, status.peers.len()), (vec!["new", "s"], 1));
}

#[test]
fn what_needs_a_restart_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let images = directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let store = store_of(&images);
    let mut a = Service::new(&directory, "a", &store);
    let (object, text) = a.check();
    assert_eq!((&object["reload"], &object["restart"]), (&json!([]), &json!([])), "as it runs");
    assert_eq!(text.lines().count(), 1, "{text}");
    let changed = format!(
        "{}role = \"mirror\"\nexclude = [\"*.tmp\"]\n[log]\nlevel = \"debug\"\n\
         [limits]\nmemory = \"400 MiB\"\ndisk_read = \"50 MB/s\"\n",
        store.replace("1h", "2h")
    );
    a.write(&changed);
    let (object, text) = a.check();
    let reload = json!(["limits.disk_read", "stores.s.exclude", "stores.s.settle"]);
    let restart = json!(["log.level", "limits.memory", "stores.s.role"]);
    assert_eq!((&object["reload"], &object["restart"]), (&reload, &restart));
    assert!(text.contains("in force after a restart: log.level, limits.memory"), "{text}");
    assert!(a.events("CONFIG_RELOADED").is_empty(), "it was only looked at");
    a.reload(&changed);
    let event = a.told("CONFIG_RELOADED", 1);
    assert_eq!(event.severity, Severity::Warning);
    let (now, later) = event.message.split_once(';').unwrap();
    for key in ["stores.s.exclude", "stores.s.settle", "limits.disk_read"] {
        assert!(now.contains(key), "{key}: {}", event.message);
    }
    for key in ["log.level", "stores.s.role", "limits.memory"] {
        assert!(later.contains("next restart") && later.contains(key), "{key}: {}", event.message);
    }
    let stores: StoresReport = a.ask(&Request::StoreLs {});
    assert_eq!(stores.stores[0].role, Role::Writer, "as it was opened");
    a.reload(&store);
    let event = a.told("CONFIG_RELOADED", 2);
    assert!(!event.message.contains("restart"), "it is as at the start: {}", event.message);
    a.reload(&store);
    assert!(a.told("CONFIG_RELOADED", 3).message.contains("unchanged"));
    // Without a service there is nobody to compare with.
    let mut child = a.child.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let (object, _) = a.check();
    assert_eq!((&object["ok"], &object["restart"]), (&json!(true), &json!(null)));
}
