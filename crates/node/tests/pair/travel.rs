//! Images on their way between whole nodes, and what stands in their way.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blockferry_delta::StoreName;
use blockferry_node::Node;
use blockferry_node::api::{
    BacklogReport, HistoryReport, ImagesReport, PlanReport, PublishReport, PushDone, ReadyReport,
    Request, Require, Role, VerifyDone, WaitReason,
};
use blockferry_node::config::{Commit, InUse, Setting, StoreConfig};
use blockferry_wire::Compression;

use crate::running::{Running, config, edit, equal, node, noise, start, until};

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
fn a_mirror_publishes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, mirror) = (node(dir.path(), "hub"), node(dir.path(), "mirror"));
    let images = hub.add_store();
    mirror.join(&hub.invite(Role::Mirror));
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
    assert!(a.wait("disk.img").ready);
    // What b states of it may be here a moment before the transfer's receipt.
    until("the receipt is here", || backlog().is_empty());
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
    let (peers, lane) = (vec![], None);
    let push = Request::Push { image: image(), peers, lane, wait: true };
    let pushed: PushDone = a.ask(&push);
    assert!(pushed.in_sync, "{pushed:?}");
    let ask = |at: Option<&str>, by: Option<&str>| Request::Plan {
        image: image(),
        peer: Some("b".into()),
        at: at.map(str::to_owned),
        by: by.map(str::to_owned),
    };
    let plan: PlanReport = a.ask(&ask(None, None));
    assert_eq!((plan.base, plan.send_bytes), (Some(1), 0), "{plan:?}");
    assert_eq!((plan.start, plan.by, plan.fits), (None, None, None));
    let plan: PlanReport = a.ask(&ask(Some("2100-01-04 22:00"), Some("06:00")));
    assert_eq!(plan.start.as_deref(), Some("2100-01-04T22:00:00.000Z"));
    assert_eq!(plan.by.as_deref(), Some("2100-01-05T06:00:00.000Z"), "the next one after that");
    assert_eq!((plan.fits, plan.rate_needed_bits_per_second), (Some(true), Some(0)), "it is there");
    assert_eq!(plan.finish, plan.start);
    assert_eq!(a.refused(&ask(Some("soon"), None)), "CONTROL_BAD_REQUEST");
    assert_eq!(a.refused(&ask(None, Some("2026-01-01"))), "CONTROL_BAD_REQUEST", "long ago");
    let set = |value: &str| Request::PeerSet {
        peer: "b".into(),
        key: "compression".into(),
        value: value.into(),
    };
    let _: serde_json::Value = a.ask(&set("none"));
    assert_eq!(a.refused(&set("best")), "CONTROL_BAD_REQUEST");
    let managed = std::fs::read_to_string(a.dir.join("state/managed.toml")).expect("there");
    assert!(managed.contains("compression = \"none\""), "{managed}");
    let verified: VerifyDone = b.ask(&Request::Verify { image: None, deep: false, repair: false });
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
