//! What rots on one node's disk is found by `verify` and fetched again from another one. Rot is made as
//! closely as files allow: other bytes, with the time of modification put back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_node::api::{
    Answer, Client, HistoryReport, Request, ResolveReport, Role, VerifiedImage, VerifyDone,
};

use tempfile::TempDir;

use crate::running::{Running, config, edit, equal, node, noise, start, until};

const IMAGE: &str = "vdisks/disk.img";

/// A node that doesn't record anything by itself for an hour.
fn slow(dir: &Path, name: &str) -> Running {
    let mut config = config(&dir.join(name), name, 0);
    config.settle = Duration::from_secs(3600);
    start(config)
}

/// An image of noise that both have.
struct Scene {
    hub: Running,
    branch: Running,
    images: PathBuf,
    copies: PathBuf,
}

fn scene(dir: &TempDir, bytes: usize) -> Scene {
    let (hub, branch) = (node(dir.path(), "hub"), slow(dir.path(), "branch"));
    let images = hub.add_store();
    let copies = branch.join(&hub.invite(Role::Writer));
    std::fs::write(images.join("disk.img"), noise(1, bytes)).expect("written");
    hub.publish("disk.img");
    assert!(hub.wait("disk.img").ready);
    Scene { hub, branch, images, copies }
}

fn rot(path: &Path, places: &[u64]) {
    let times = std::fs::metadata(path).expect("there").modified().expect("a time");
    places.iter().for_each(|at| edit(path, *at, b"rot"));
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    file.set_modified(times).expect("set");
}

fn verify(of: &Running, repair: bool) -> (VerifyDone, Vec<VerifiedImage>) {
    let mut client = Client::connect(&of.dir.join("admin.sock")).expect("connected");
    let request = Request::Verify { image: Some(IMAGE.into()), deep: repair, repair };
    let (mut rows, mut done) = (Vec::new(), None);
    for answer in client.call(&request).expect("asked") {
        match answer.expect("answered") {
            Answer::Item(row) => rows.push(serde_json::from_value(row).expect("a row")),
            Answer::Done(object) => done = Some(serde_json::from_value(object).expect("a sum")),
            _ => {}
        }
    }
    (done.expect("it ended"), rows)
}

fn message(of: &Running, code: &str) -> String {
    let find = || of.events().into_iter().rfind(|event| event.code == code);
    until(code, || find().is_some());
    find().expect("it was there").message
}

fn generations(of: &Running) -> usize {
    let history: HistoryReport = of.ask(&Request::ImageHistory { image: IMAGE.into() });
    history.generations.len()
}

#[test]
fn what_rotted_is_fetched_from_a_peer_and_nothing_else_travels() {
    let dir = tempfile::tempdir().expect("a directory");
    let Scene { hub, branch, images, copies } = scene(&dir, 9 << 20);
    let copy = copies.join("disk.img");
    rot(&copy, &[70_000, 5 << 20]);
    let rotten = std::fs::read(&copy).expect("read");

    let (found, _) = verify(&branch, false);
    assert_eq!((found.ok, found.bad_images, found.repaired_images), (false, 1, 0), "{found:?}");
    assert!(std::fs::read(&copy).expect("read") == rotten, "it only looked");
    let (done, rows) = verify(&branch, true);
    assert_eq!((done.ok, done.bad_images, done.repaired_images), (true, 1, 1), "{rows:?}");
    assert_eq!((rows[0].repaired, rows[0].bad_bytes), (true, 2 << 16), "{rows:?}");
    assert!(equal(&images, &copies, "disk.img"));
    let told = message(&branch, "REPAIRED");
    let wire_bytes = told.split(" has, ").nth(1).and_then(|rest| rest.split(' ').next());
    let wire_bytes: u64 =
        wire_bytes.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{told}"));
    assert!((8192..40_000).contains(&wire_bytes), "{wire_bytes} bytes for two pages");
    let path = told.split(" is kept as ").nth(1).and_then(|rest| rest.split(" until").next());
    let kept = std::fs::read(path.unwrap_or_else(|| panic!("{told}"))).expect("read");
    assert!(kept == rotten, "what was there is kept");
    assert_eq!((generations(&hub), generations(&branch)), (1, 1), "it is the same generation");
    assert!(verify(&branch, false).0.bad_images == 0 && hub.wait("disk.img").ready);
    let acknowledge = Request::Resolve { image: IMAGE.into(), keep: None, acknowledge: true };
    assert_eq!(branch.ask::<ResolveReport>(&acknowledge).released, 1);

    // The node goes on from the file as it is now.
    edit(&images.join("disk.img"), 1 << 20, b"edited");
    hub.publish("disk.img");
    assert!(hub.wait("disk.img").ready && equal(&images, &copies, "disk.img"));
}

#[test]
fn without_a_peer_that_has_it_nothing_is_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let Scene { hub, branch, copies, .. } = scene(&dir, 1 << 20);
    hub.stop();
    let copy = copies.join("disk.img");
    rot(&copy, &[70_000]);
    let rotten = std::fs::read(&copy).expect("read");
    let (done, rows) = verify(&branch, true);
    assert_eq!((done.ok, done.bad_images, done.repaired_images), (false, 1, 0), "{rows:?}");
    let why = rows[0].not_repaired.as_deref().unwrap_or_default();
    assert!(why.contains("no connected peer holds"), "{rows:?}");
    assert!(message(&branch, "REPAIR_FAILED").contains("no connected peer holds"));
    assert!(std::fs::read(&copy).expect("read") == rotten, "nothing was touched");
    let kept = std::fs::read_dir(copies.join(".blockferry/kept")).expect("a directory").count();
    assert_eq!(kept, 0);
}

#[test]
fn a_change_is_no_rot_and_is_not_undone() {
    let dir = tempfile::tempdir().expect("a directory");
    let Scene { hub: _hub, branch, images, copies } = scene(&dir, 1 << 20);
    edit(&copies.join("disk.img"), 70_000, b"somebody's work");
    let edited = std::fs::read(copies.join("disk.img")).expect("read");
    let (done, rows) = verify(&branch, true);
    assert_eq!((done.skipped_images, done.repaired_images), (1, 0), "{rows:?}");
    assert!(rows[0].skipped.as_deref().unwrap_or_default().contains("changed"), "{rows:?}");
    assert!(std::fs::read(copies.join("disk.img")).expect("read") == edited);
    branch.publish("disk.img");
    assert!(branch.wait("disk.img").ready && equal(&images, &copies, "disk.img"));
}
