//! Whole nodes on loopback, driven through their admin sockets as the command line does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blockferry_delta::StoreName;
use blockferry_node::api::{
    AdminError, Answer, BacklogReport, Client, Event, HistoryReport, ImagesReport, Invitation,
    Joined, PeerState, PlanReport, PublishReport, PushDone, ReadyReport, Request, Require, Role,
    StatusReport, StoresReport, VerifyDone, WaitReason,
};
use blockferry_node::config::{Commit, Config, InUse, PeerConfig, Setting, StoreConfig};
use blockferry_node::{Identity, Node};
use blockferry_wire::Compression;
use serde::de::DeserializeOwned;

const LONG: Duration = Duration::from_secs(60);

/// A node in a directory of its own, on a thread of its own.
struct Running {
    dir: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    /// Gives the node's packs made, and those that served once more.
    thread: Option<JoinHandle<(u64, u64)>>,
}

fn config(dir: &Path, name: &str, port: u16) -> Config {
    std::fs::create_dir_all(dir).expect("a directory");
    let identity = Identity::load_or_create(&dir.join("identity.key")).expect("a key");
    let mut config = Config::new(name, identity, dir.join("state"));
    config.admin_socket = Some(dir.join("admin.sock"));
    config.listen = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
    config.settle = Duration::from_millis(300);
    config.rescan = Duration::from_secs(5);
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
            let counts = node.pack_counts();
            node.stop().await;
            counts
        })
    });
    is_ready.recv_timeout(LONG).expect("ready");
    Running { dir, stop: Some(stop), thread: Some(thread) }
}

fn node(dir: &Path, name: &str) -> Running {
    start(config(&dir.join(name), name, 0))
}

impl Running {
    fn try_ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, AdminError> {
        let mut client = Client::connect(&self.dir.join("admin.sock"))?;
        client.set_timeout(Some(LONG));
        client.ask(request)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        self.try_ask(request).unwrap_or_else(|e| panic!("{request:?}: {e}"))
    }

    fn refused(&self, request: &Request) -> String {
        match self.try_ask::<serde_json::Value>(request) {
            Err(error) => error.code,
            Ok(value) => panic!("{request:?} went well: {value}"),
        }
    }

    fn add_store(&self) -> PathBuf {
        self.add_store_at("vdisks", "images")
    }

    fn add_store_at(&self, name: &str, dir: &str) -> PathBuf {
        let path = self.dir.join(dir);
        std::fs::create_dir_all(&path).expect("a directory");
        let (name, role) = (name.to_owned(), Role::Writer);
        let _: StoresReport = self.ask(&Request::StoreAdd { name, path: path.clone(), role });
        path
    }

    fn invite(&self, role: Role) -> String {
        self.invite_to("vdisks", role)
    }

    fn invite_to(&self, store: &str, role: Role) -> String {
        let request = Request::Invite { store: store.to_owned(), role, ttl_seconds: 60 };
        self.ask::<Invitation>(&request).ticket
    }

    fn join(&self, ticket: &str) -> PathBuf {
        let request = Request::Join { ticket: ticket.to_owned(), path: None, name: None };
        self.ask::<Joined>(&request).path.into()
    }

    fn publish(&self, image: &str) -> PublishReport {
        self.ask(&Request::Publish { image: format!("vdisks/{image}"), changed: None, since: None })
    }

    fn wait(&self, image: &str) -> ReadyReport {
        self.ask(&Request::Wait {
            image: format!("vdisks/{image}"),
            require: Require::All,
            timeout_seconds: Some(LONG.as_secs()),
        })
    }

    fn events(&self) -> Vec<Event> {
        let mut client = Client::connect(&self.dir.join("admin.sock")).expect("connected");
        let request = Request::Events { follow: false, since_seconds: None };
        let answers = client.call(&request).expect("asked");
        let event = |answer: Result<Answer, AdminError>| match answer.expect("answered") {
            Answer::Event(event) => Some(event),
            _ => None,
        };
        answers.filter_map(event).collect()
    }

    fn status(&self) -> StatusReport {
        self.ask(&Request::Status {})
    }

    fn stop_and_count(mut self) -> (u64, u64) {
        let _gone = self.stop.take().map(|stop| stop.send(()));
        self.thread.take().expect("it runs").join().expect("stopped")
    }

    fn stop(mut self) -> PathBuf {
        self.end();
        self.dir.clone()
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

/// Bytes that don't compress and differ by seed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn until(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < LONG, "{what} never happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn equal(a: &Path, b: &Path, image: &str) -> bool {
    match (std::fs::read(a.join(image)), std::fs::read(b.join(image))) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn edit(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(bytes, offset).expect("written");
}

#[test]
fn an_image_appears_is_edited_and_travels_both_ways() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    std::fs::write(a_images.join("disk.img"), noise(1, 6 << 20)).expect("written");
    until("the image arrives", || equal(&a_images, &b_images, "disk.img"));
    let ready = a.wait("disk.img");
    assert!(ready.ready && ready.peers.len() == 1, "{ready:?}");

    edit(&a_images.join("disk.img"), 123_456, b"edited here");
    until("the edit arrives", || equal(&a_images, &b_images, "disk.img"));
    a.wait("disk.img");
    let history: HistoryReport = b.ask(&Request::ImageHistory { image: "vdisks/disk.img".into() });
    let newest = &history.generations[0];
    assert_eq!((newest.generation, newest.discover.as_str()), (2, "received"));
    assert!(newest.wire_bytes < 50_000, "{} bytes for one page", newest.wire_bytes);
    let file = std::fs::read(b_images.join("disk.img")).expect("read");
    assert_eq!(newest.root, blake3::hash(&file).to_hex().as_str());

    edit(&b_images.join("disk.img"), 3 << 20, b"edited there");
    let published = b.publish("disk.img");
    assert!(published.recorded && published.generation == 3, "{published:?}");
    assert!(b.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img"));
    let codes: Vec<String> = a.events().into_iter().map(|e| e.code).collect();
    for code in ["STARTED", "PEER_UP", "RECORDED", "RECEIPT", "COMMITTED"] {
        assert!(codes.iter().any(|c| c == code), "{code} is missing in {codes:?}");
    }
}

/// A spare is kept only while a tenth of the file system is free, and only where nothing is cloned.
fn keeps_spares(images: &Path) -> bool {
    let space = rustix::fs::statvfs(images).expect("looked at");
    space.f_bavail > space.f_blocks / 8 && images.join(".blockferry/spare/disk.img").exists()
}

#[test]
fn the_spare_is_brought_up_to_date_in_the_quiet_after_a_commit() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    std::fs::write(a_images.join("disk.img"), noise(1, 6 << 20)).expect("written");
    a.publish("disk.img");
    assert!(a.wait("disk.img").ready);
    for generation in 2..5 {
        edit(&a_images.join("disk.img"), generation << 16, b"edited here");
        a.publish("disk.img");
        assert!(a.wait("disk.img").ready, "an update waits for the upkeep of the one before");
        if !keeps_spares(&b_images) {
            eprintln!("skipped: no spares are kept on this file system");
            return;
        }
        let spare = b_images.join(".blockferry/spare");
        until("the spare is the image", || equal(&b_images, &spare, "disk.img"));
    }
}

#[test]
fn tickets_admit_once_and_only_as_they_say() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, first, second) =
        (node(dir.path(), "hub"), node(dir.path(), "first"), node(dir.path(), "second"));
    hub.add_store();
    let ticket = hub.invite(Role::Mirror);
    first.join(&ticket);
    let again = |node: &Running, ticket: &str| {
        node.refused(&Request::Join { ticket: ticket.to_owned(), path: None, name: None })
    };
    assert_eq!(again(&second, &ticket), "TOKEN_USED");
    assert_eq!(again(&second, "bf1garbage"), "TICKET_INVALID");
    let short = Request::Invite { store: "vdisks".into(), role: Role::Mirror, ttl_seconds: 1 };
    let expired = hub.ask::<Invitation>(&short).ticket;
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(again(&second, &expired), "TOKEN_EXPIRED");
    let unknown = Request::Invite { store: "none".into(), role: Role::Mirror, ttl_seconds: 1 };
    assert_eq!(hub.refused(&unknown), "STORE_UNKNOWN");
    until("the first is connected", || hub.status().peers.iter().all(|p| p.connected));
    assert_eq!(hub.status().peers.len(), 1);
    assert_eq!(first.status().stores[0].role, Role::Mirror);
}

#[test]
fn a_member_joins_a_further_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, branch) = (node(dir.path(), "hub"), node(dir.path(), "branch"));
    hub.add_store();
    let spent = hub.invite(Role::Mirror);
    branch.join(&spent);
    until("connected", || hub.status().peers[0].connected);
    let images = hub.add_store_at("golden", "golden");
    std::fs::write(images.join("disk.img"), vec![7; 300_000]).expect("written");
    let golden = |image: &str| Request::Publish {
        image: format!("golden/{image}"),
        changed: None,
        since: None,
    };
    let _: PublishReport = hub.ask(&golden("disk.img"));
    let there = branch.join(&hub.invite_to("golden", Role::Mirror));
    let _: ReadyReport = hub.ask(&Request::Wait {
        image: "golden/disk.img".into(),
        require: Require::All,
        timeout_seconds: Some(LONG.as_secs()),
    });
    assert!(equal(&images, &there, "disk.img"));
    assert_eq!(hub.status().peers.len(), 1, "the same peer, with two stores");
    assert_ne!(branch.join(&spent), there, "its own ticket again changes nothing");
    assert_eq!(branch.status().stores.len(), 2);
}

#[test]
fn a_peer_that_was_removed_is_refused_until_it_pairs_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, branch) = (node(dir.path(), "hub"), node(dir.path(), "branch"));
    let images = hub.add_store();
    branch.join(&hub.invite(Role::Mirror));
    until("connected", || hub.status().peers[0].connected);
    let _: serde_json::Value = hub.ask(&Request::PeerRm { peer: "branch".into() });
    let state = || branch.status().peers[0].state;
    until("the branch is refused", || state() == PeerState::Refused);
    std::fs::write(images.join("secret.img"), noise(1, 100_000)).expect("written");
    hub.publish("secret.img");
    assert!(hub.status().peers.is_empty());
    let dir = branch.dir.join("state/stores/vdisks");
    assert!(!dir.join("secret.img").exists());
    branch.join(&hub.invite(Role::Mirror));
    until("it is a member again", || dir.join("secret.img").exists());
}

#[test]
fn a_stranger_key_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = node(dir.path(), "hub");
    hub.add_store();
    let mut stranger = config(&dir.path().join("stranger"), "stranger", 0);
    let status = hub.status();
    stranger.peers.push(PeerConfig {
        name: "hub".into(),
        id: status.node.id.parse().expect("an id"),
        addresses: status.node.listen.clone(),
        stores: vec![],
        mirrors: vec![],
        compression: None,
        send: Default::default(),
    });
    let stranger = start(stranger);
    until("it is refused", || stranger.status().peers[0].state == PeerState::Refused);
    assert!(hub.status().peers.is_empty());
}

#[test]
fn a_mirror_relays_nothing_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, mirror) = (node(dir.path(), "hub"), node(dir.path(), "mirror"));
    let images = hub.add_store();
    let copies = mirror.join(&hub.invite(Role::Mirror));
    std::fs::write(images.join("a.img"), noise(1, 300_000)).expect("written");
    hub.publish("a.img");
    hub.wait("a.img");
    assert_eq!(
        mirror.refused(&Request::Publish {
            image: "vdisks/a.img".into(),
            changed: None,
            since: None
        }),
        "MIRROR"
    );
    edit(&copies.join("a.img"), 0, b"not for others");
    until("it is told", || mirror.events().iter().any(|e| e.code == "LOCAL_CHANGE"));
    edit(&images.join("a.img"), 0, b"for others");
    hub.publish("a.img");
    let reason = || {
        let backlog: BacklogReport = hub.ask(&Request::Backlog { peer: None });
        backlog.items.first().map(|item| item.reason)
    };
    until("it waits for the operator", || reason() == Some(WaitReason::InUse));
    let kept = std::fs::read(copies.join("a.img")).expect("read");
    assert!(kept.starts_with(b"not for others"), "nothing is overwritten");
}

#[test]
fn an_image_in_use_waits_and_whoever_holds_it_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = dir.path().join("disks");
    std::fs::create_dir(&images).expect("a directory");
    let mut config = config(&dir.path().join("a"), "a", 0);
    let name = StoreName::new("vdisks").expect("a name");
    let mut store = StoreConfig::new(name, images.clone(), Role::Writer);
    // Without reflinks there are no snapshots: it is put off.
    (store.in_use, store.commit) = (InUse::Snapshot, Commit::Copy);
    store.settle = Duration::from_millis(200);
    config.stores.push(store);
    let (a, b) = (start(config), node(dir.path(), "b"));
    let copies = b.join(&a.invite(Role::Writer));
    let told = |code: &str| a.events().into_iter().find(|e| e.code == code);
    assert!(told("SNAPSHOT_UNSUPPORTED").is_some_and(|e| e.message.contains("reflinks")));

    std::fs::write(images.join("disk.img"), noise(1, 300_000)).expect("written");
    until("the image arrives", || equal(&images, &copies, "disk.img"));
    let mut file = std::fs::OpenOptions::new();
    let file = file.append(true).open(images.join("disk.img")).expect("opened");
    edit(&images.join("disk.img"), 0, b"edited here");
    let image = "vdisks/disk.img".to_owned();
    let publish = Request::Publish { image: image.clone(), changed: None, since: None };
    let refused = a.try_ask::<PublishReport>(&publish).expect_err("somebody has it open");
    let me = format!("(pid {})", std::process::id());
    assert_eq!(refused.code, "IN_USE");
    assert!(refused.message.contains(&me), "{}", refused.message);
    until("an event says so", || told("IN_USE").is_some_and(|e| e.message.contains(&me)));
    let backlog = || a.ask::<BacklogReport>(&Request::Backlog { peer: None }).items;
    until("the backlog says so", || !backlog().is_empty());
    let item = backlog().remove(0);
    assert_eq!((item.image.as_str(), item.peer.as_str()), ("disk.img", "b"));
    assert_eq!((item.reason, item.bytes), (WaitReason::InUse, 0));
    assert!(item.holder.as_ref().is_some_and(|h| h.ends_with(&me)), "{item:?}");
    drop(file);
    assert_eq!(a.publish("disk.img").generation, 2);
    assert!(a.wait("disk.img").ready && backlog().is_empty());
    assert!(equal(&images, &copies, "disk.img"));
}

#[test]
fn a_map_of_changes_is_used_refused_or_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(&dir.path().join("a"), "a", 0);
    config.settle = Duration::from_secs(3600);
    let a = start(config);
    let images = a.add_store();
    let disk = images.join("disk.img");
    std::fs::write(&disk, noise(1, 9 << 20)).expect("written");
    let publish = |changed: &str, since| {
        let changed = Some(changed.to_owned());
        let image = "vdisks/disk.img".to_owned();
        a.try_ask::<PublishReport>(&Request::Publish { image, changed, since })
    };
    let first = a.publish("disk.img");
    assert_eq!((first.generation, first.discover.as_str()), (1, "scan"));
    edit(&disk, 5 << 20, b"edited here");
    let map = dir.path().join("map");
    let map = map.to_str().expect("a plain path");
    std::fs::write(
        map,
        format!(
            "0 {0} same\n{0} 4096 data\n{1} {2} same\n",
            5 << 20,
            (5 << 20) + 4096,
            (4 << 20) - 4096
        ),
    )
    .expect("written");
    assert_eq!(publish(map, None).expect_err("no base").code, "BAD_MAP");
    assert_eq!(publish(map, Some(2)).expect_err("a later base").code, "BAD_MAP");
    assert_eq!(publish("map", Some(1)).expect_err("relative").code, "BAD_MAP");
    let second = publish(map, Some(1)).expect("it fits");
    assert!(["map", "extents"].contains(&second.discover.as_str()), "{second:?}");
    assert!(second.bytes_read < 8 << 20, "{second:?}");
    assert_eq!(second.root, blake3::hash(&std::fs::read(&disk).expect("read")).to_hex().as_str());
    let unchanged = a.publish("disk.img");
    assert_eq!((unchanged.recorded, unchanged.discover.as_str()), (false, "unchanged"));
    let history: HistoryReport = a.ask(&Request::ImageHistory { image: "vdisks/disk.img".into() });
    assert_eq!(history.generations[0].discover, second.discover);
    assert_eq!(history.generations[0].bytes_read, second.bytes_read);

    edit(&disk, 5 << 20, b"edited again");
    std::fs::write(images.join("disk.img.changed"), "0 1\n").expect("written");
    let third = a.publish("disk.img");
    assert_eq!(third.generation, 3);
    if third.discover == "scan" {
        until("an event says why", || a.events().iter().any(|e| e.code == "MAP_UNUSED"));
    }
    let report: ImagesReport = a.ask(&Request::ImageLs { store: None });
    assert_eq!(report.images.len(), 1, "a map is no image: {report:?}");
    let alone = Request::Publish { image: "vdisks/disk.img".into(), changed: None, since: Some(1) };
    assert_eq!(a.refused(&alone), "CONTROL_BAD_REQUEST");
}

#[test]
fn both_sides_changed_is_told_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    std::fs::write(a_images.join("x.img"), noise(1, 200_000)).expect("written");
    a.publish("x.img");
    a.wait("x.img");
    let b_dir = b.stop();
    edit(&a_images.join("x.img"), 0, b"aaaa");
    a.publish("x.img");
    edit(&b_images.join("x.img"), 0, b"bbbb");
    let b = start(config(&b_dir, "b", 0));
    b.publish("x.img");
    let diverged = |node: &Running| {
        let backlog: BacklogReport = node.ask(&Request::Backlog { peer: None });
        backlog.items.iter().any(|item| item.reason == WaitReason::Diverged)
    };
    until("both know", || diverged(&a) && diverged(&b));
    assert!(std::fs::read(a_images.join("x.img")).expect("read").starts_with(b"aaaa"));
    assert!(std::fs::read(b_images.join("x.img")).expect("read").starts_with(b"bbbb"));
}

#[test]
fn a_restart_loses_nothing_and_receipts_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Mirror));
    std::fs::write(a_images.join("x.img"), noise(1, 200_000)).expect("written");
    a.publish("x.img");
    a.wait("x.img");
    let b_dir = b.stop();
    edit(&a_images.join("x.img"), 0, b"while it was away");
    a.publish("x.img");
    let ready = Request::Ready { image: "vdisks/x.img".into(), require: Require::All };
    let report: ReadyReport = a.ask(&ready);
    assert!(!report.ready && report.peers[0].reason == Some(WaitReason::PeerDown), "{report:?}");
    let older = Request::Ready { image: "vdisks/x.img@1".into(), require: Require::All };
    assert!(a.ask::<ReadyReport>(&older).ready, "the receipt for the first stays");
    let a_dir = a.stop();
    let b = start(config(&b_dir, "b", 0));
    // The address of `a` changes with its restart: it is `a` who dials... nobody. Tell `b`.
    let a = start(config(&a_dir, "a", 0));
    let address = a.status().node.listen.join(",");
    let request = Request::PeerSet { peer: "a".into(), key: "address".into(), value: address };
    let _: serde_json::Value = b.ask(&request);
    a.wait("x.img");
    assert!(equal(&a_images, &b_images, "x.img"));
}

#[test]
fn plan_push_verify_and_bad_requests() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let images = a.add_store();
    let copies = b.join(&a.invite(Role::Mirror));
    std::fs::write(images.join("x.img"), noise(1, 1_000_000)).expect("written");
    a.publish("x.img");
    let image = || "vdisks/x.img".to_owned();
    let (peers, lane) = (vec![], Default::default());
    let push = Request::Push { image: image(), peers, lane, wait: true };
    let pushed: PushDone = a.ask(&push);
    assert!(pushed.in_sync, "{pushed:?}");
    let plan: PlanReport = a.ask(&Request::Plan { image: image(), peer: Some("b".into()) });
    assert_eq!((plan.base, plan.send_bytes), (Some(1), 0), "{plan:?}");
    let set = |value: &str| Request::PeerSet {
        peer: "b".into(),
        key: "compression".into(),
        value: value.into(),
    };
    let _: serde_json::Value = a.ask(&set("none"));
    assert_eq!(a.refused(&set("best")), "CONTROL_BAD_REQUEST");
    let managed = std::fs::read_to_string(a.dir.join("state/managed.toml")).expect("there");
    assert!(managed.contains("compression = \"none\""), "{managed}");
    let verified: VerifyDone = b.ask(&Request::Verify { image: None });
    assert!(verified.ok && verified.images == 1 && verified.bytes >= 1_000_000, "{verified:?}");
    let times = std::fs::metadata(copies.join("x.img")).expect("there").modified().expect("time");
    edit(&copies.join("x.img"), 500_000, b"rot");
    let file = std::fs::File::options().write(true).open(copies.join("x.img")).expect("opened");
    file.set_modified(times).expect("set");
    let listed: ImagesReport = a.ask(&Request::ImageLs { store: None });
    assert_eq!(listed.images[0].peers[0].generation, Some(1));
    assert_eq!(a.refused(&Request::ImageShow { image: "vdisks/none".into() }), "IMAGE_UNKNOWN");
    assert_eq!(a.refused(&Request::ImageShow { image: "none/x".into() }), "STORE_UNKNOWN");
    let newer = Request::Ready { image: "vdisks/x.img@9".into(), require: Require::All };
    assert_eq!(a.refused(&newer), "GENERATION_UNKNOWN");
    assert_eq!(a.refused(&Request::PeerShow { peer: "nobody".into() }), "PEER_UNKNOWN");
}

#[test]
fn three_nodes_at_once_and_a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let nodes = [node(dir.path(), "a"), node(dir.path(), "b"), node(dir.path(), "c")];
    let images = nodes[0].add_store();
    let copies: Vec<PathBuf> =
        nodes[1..].iter().map(|n| n.join(&nodes[0].invite(Role::Mirror))).collect();
    for (seed, name) in ["one.img", "two.img", "three.img", "four.img"].iter().enumerate() {
        std::fs::write(images.join(name), noise(seed as u64, 700_000)).expect("written");
    }
    for name in ["one.img", "two.img", "three.img", "four.img"] {
        until(name, || copies.iter().all(|copy| equal(&images, copy, name)));
    }
    let second = config(&nodes[0].dir, "a", 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let error = runtime.expect("a runtime").block_on(async { Node::start(second).await.err() });
    assert_eq!(error.expect("kept out").code(), "STATE_LOCKED");
}

/// Halves that do and don't compress, so that packs are of both kinds.
fn mixed(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = noise(seed, bytes);
    for half in content.chunks_mut(8192) {
        let end = half.len() / 2;
        half[..end].fill(seed as u8 + 1);
    }
    content
}

#[test]
fn what_three_peers_want_is_read_and_compressed_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixed = config(&dir.path().join("hub"), "hub", 0);
    fixed.settle = Duration::from_secs(600);
    fixed.compression = Setting::Fixed(Compression::zstd(3));
    let hub = start(fixed);
    let branches = ["a", "b", "c"].map(|name| node(dir.path(), name));
    let images = hub.add_store();
    let copies: Vec<PathBuf> =
        branches.iter().map(|branch| branch.join(&hub.invite(Role::Mirror))).collect();
    until("all are connected", || hub.status().peers.iter().filter(|p| p.connected).count() == 3);
    // 7 MiB fit what is kept, so it doesn't matter who is ahead of whom.
    let raw_bytes = 14 << 20;
    std::fs::write(images.join("disk.img"), mixed(1, raw_bytes)).expect("written");
    hub.publish("disk.img");
    assert!(hub.wait("disk.img").ready);
    // The same edits for all three, from the base that all three hold.
    for at in 0..40 {
        edit(&images.join("disk.img"), at * 300_000, &noise(at, 20_000));
    }
    hub.publish("disk.img");
    assert!(hub.wait("disk.img").ready);
    assert!(copies.iter().all(|copy| equal(&images, copy, "disk.img")));
    let (made, shared) = hub.stop_and_count();
    // Parts of 8 MiB in packs of 2 MiB: 7 for the image, at most 2 for the edits.
    assert!((8..=10).contains(&made), "{made} packs were made");
    assert_eq!(shared, 2 * made, "the others took those");
}

#[test]
fn a_send_limit_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut limited = config(&dir.path().join("a"), "a", 0);
    limited.send_limit_bits_per_second = Some(16_000_000);
    let (a, b) = (start(limited), node(dir.path(), "b"));
    let images = a.add_store();
    let copies = b.join(&a.invite(Role::Mirror));
    std::fs::write(images.join("x.img"), noise(1, 4 << 20)).expect("written");
    a.publish("x.img");
    let started = Instant::now();
    a.wait("x.img");
    let took = started.elapsed().as_secs_f64();
    // 4 MiB at 2 MB/s, counted with what the wire adds, less the burst.
    assert!((1.9..6.0).contains(&took), "took {took} s");
    assert!(equal(&images, &copies, "x.img"));
    let limit = a.status().peers[0].rate_limit_bits_per_second;
    assert_eq!(limit, Some(16_000_000));
}

/// Makes `to` a copy of `from` as `cp -a` does.
fn seed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
    std::fs::copy(from, to).expect("copied");
    let time = std::fs::metadata(from).and_then(|m| m.modified()).expect("looked at");
    let file = std::fs::OpenOptions::new().write(true).open(to).expect("opened");
    file.set_modified(time).expect("set");
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("looked at"))
}

impl Running {
    fn join_at(&self, ticket: &str, path: &Path) {
        let path = Some(path.to_owned());
        let request = Request::Join { ticket: ticket.to_owned(), path, name: None };
        let _: Joined = self.ask(&request);
    }

    fn newest(&self, image: &str) -> (u64, String) {
        let request = Request::ImageHistory { image: format!("vdisks/{image}") };
        let history: HistoryReport = self.ask(&request);
        (history.generations[0].wire_bytes, history.generations[0].root.clone())
    }
}

#[test]
fn directories_that_hold_the_images_are_adopted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b, c) = (node(dir.path(), "a"), node(dir.path(), "b"), node(dir.path(), "c"));
    let [a_images, b_images, c_images] = ["a", "b", "c"].map(|n| dir.path().join(n).join("images"));
    std::fs::create_dir_all(&a_images).expect("a directory");
    let image = a_images.join("disk.img");
    std::fs::write(&image, noise(1, 6 << 20)).expect("written");
    // One is seeded with the same copy, the other with an older one.
    seed(&image, &c_images.join("disk.img"));
    a.add_store();
    until("it is recorded", || {
        a.try_ask::<serde_json::Value>(&Request::ImageHistory { image: "vdisks/disk.img".into() })
            .is_ok()
    });
    edit(&image, 123_456, b"edited here");
    let (_, older) = a.newest("disk.img");
    a.publish("disk.img");
    seed(&image, &b_images.join("disk.img"));
    let before = inode(&b_images.join("disk.img"));
    b.join_at(&a.invite(Role::Writer), &b_images);
    c.join_at(&a.invite(Role::Writer), &c_images);
    assert!(a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img") && equal(&a_images, &c_images, "disk.img"));
    let (bytes, root) = b.newest("disk.img");
    assert_eq!((bytes, inode(&b_images.join("disk.img"))), (0, before), "it wasn't touched");
    assert!(root != older && c.newest("disk.img") != (0, root.clone()));
    let (bytes, same) = c.newest("disk.img");
    assert!(same == root && bytes < 10_000, "{bytes} bytes for one page");

    // The catalog of one is lost.
    let b_dir = b.stop();
    std::fs::remove_file(b_images.join(".blockferry/catalog.redb")).expect("it was there");
    edit(&image, 3 << 20, b"meanwhile");
    a.publish("disk.img");
    let b = start(config(&b_dir, "b", 0));
    assert!(a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img"));
    let (bytes, _) = b.newest("disk.img");
    assert!(bytes < 10_000, "{bytes} bytes for one page");
}

#[test]
fn a_strangers_file_in_a_mirror_is_kept_and_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    std::fs::write(a_images.join("disk.img"), noise(1, 2 << 20)).expect("written");
    a.publish("disk.img");
    let b_images = dir.path().join("b/images");
    std::fs::create_dir_all(&b_images).expect("a directory");
    std::fs::write(b_images.join("disk.img"), noise(2, 1 << 20)).expect("written");
    b.join_at(&a.invite(Role::Mirror), &b_images);
    assert!(a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img"));
    let kept = std::fs::read(b_images.join(".blockferry/quarantine/disk.img.0")).expect("kept");
    assert!(kept == noise(2, 1 << 20));
    let told = b.events().into_iter().find(|event| event.code == "ADOPTED_SET_ASIDE");
    assert!(told.expect("an event").message.contains("quarantine/disk.img"));
}
