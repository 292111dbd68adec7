//! Deletions, renames and rollbacks between whole nodes: nothing is lost by any of them, and no
//! image data travels.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blockferry_delta::StoreName;
use blockferry_node::api::{
    HistoryReport, ImagesReport, Joined, PublishReport, Request, Role, RollbackReport,
};
use blockferry_node::config::StoreConfig;

use crate::running::{Running, config, equal, node, noise, start, until};

/// More than what an offer and its answer take.
const NO_DATA_BYTES: u64 = 20_000;

fn has(running: &Running, code: &str) -> bool {
    running.events().iter().any(|event| event.code == code)
}

fn history(running: &Running, image: &str) -> HistoryReport {
    running.ask(&Request::ImageHistory { image: format!("vdisks/{image}") })
}

fn kept(images: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(images.join(".blockferry/kept")).expect("a directory");
    entries.map(|entry| entry.expect("read").path()).collect()
}

fn write(images: &Path, name: &str, seed: u64, bytes: usize) -> Vec<u8> {
    let content = noise(seed, bytes);
    std::fs::write(images.join(name), &content).expect("written");
    content
}

#[test]
fn a_deleted_image_is_kept_and_made_again_it_descends_from_the_deletion() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    let content = write(&a_images, "disk.img", 1, 3 << 20);
    write(&a_images, "other.img", 2, 1 << 20);
    until("both arrive", || {
        equal(&a_images, &b_images, "disk.img") && equal(&a_images, &b_images, "other.img")
    });
    assert!(a.wait("disk.img").ready);

    std::fs::remove_file(a_images.join("disk.img")).expect("removed");
    until("the deletion arrives", || !b_images.join("disk.img").exists());
    assert!(a.wait("disk.img").ready, "a receipt for the deletion");
    let kept = kept(&b_images);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(std::fs::read(&kept[0]).expect("read") == content, "as it was");
    assert!(has(&a, "DELETED") && has(&b, "DELETED"));
    let images: ImagesReport = b.ask(&Request::ImageLs { store: None });
    assert_eq!(images.images.len(), 1, "{images:?}");
    let newest = &history(&b, "disk.img").generations[0];
    assert_eq!((newest.generation, newest.discover.as_str()), (2, "deleted"));

    // The receiver, too, may make it again.
    write(&b_images, "disk.img", 3, 1 << 20);
    until("it is there again", || equal(&a_images, &b_images, "disk.img"));
    // The file has its name a moment before the catalog has the generation.
    until("it descends from the deletion", || {
        let again: HistoryReport = history(&a, "disk.img");
        again.generations.iter().map(|g| g.generation).collect::<Vec<_>>() == [3, 2, 1]
    });
    assert!(!has(&a, "DIVERGED") && !has(&b, "DIVERGED"));
}

#[test]
fn an_emptied_store_is_an_accident_until_somebody_says_otherwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Mirror));
    let names = ["one.img", "two.img", "three.img"];
    for (seed, name) in (1..).zip(names) {
        write(&a_images, name, seed, 300_000);
    }
    until("all arrive", || names.iter().all(|name| equal(&a_images, &b_images, name)));
    let saved = dir.path().join("saved");
    std::fs::create_dir(&saved).expect("a directory");
    for name in names {
        std::fs::rename(a_images.join(name), saved.join(name)).expect("moved");
    }
    until("it is noticed", || has(&a, "MASS_DELETION"));
    // Longer than a deletion has to rest.
    std::thread::sleep(Duration::from_secs(2));
    assert!(names.iter().all(|name| b_images.join(name).exists()), "nothing is recorded");
    assert!(!has(&a, "DELETED"));

    std::fs::rename(saved.join("two.img"), a_images.join("two.img")).expect("moved");
    let said: PublishReport = a.publish("one.img");
    assert_eq!((said.discover.as_str(), said.generation, said.size_bytes), ("deleted", 2, 0));
    until("one goes", || !b_images.join("one.img").exists());
    assert!(b_images.join("two.img").exists());
    let unknown = Request::Publish { image: "vdisks/x.img".into(), changed: None, since: None };
    assert_eq!(a.refused(&unknown), "IMAGE_UNKNOWN");

    // Without its marker the directory is no store, whatever is missing in it.
    std::fs::rename(a_images.join(".blockferry/store"), saved.join("store")).expect("moved");
    std::fs::remove_file(a_images.join("two.img")).expect("removed");
    let two = Request::Publish { image: "vdisks/two.img".into(), changed: None, since: None };
    assert_eq!(a.refused(&two), "STORE_MISSING");
    until("it is noticed", || has(&a, "STORE_MISSING"));
    assert!(b_images.join("two.img").exists());
}

#[test]
fn a_renamed_image_and_a_touched_one_move_no_data() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Mirror));
    let content = write(&a_images, "old.img", 1, 8 << 20);
    until("it arrives", || equal(&a_images, &b_images, "old.img"));
    assert!(a.wait("old.img").ready);

    let file = std::fs::File::options().write(true).open(a_images.join("old.img"));
    file.expect("opened").set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
    a.publish("old.img");
    assert!(a.wait("old.img").ready);
    let touched = &history(&b, "old.img").generations[0];
    assert_eq!(touched.generation, 2);
    assert!(touched.wire_bytes < NO_DATA_BYTES, "{touched:?}");
    let there = std::fs::metadata(b_images.join("old.img")).expect("there").modified();
    assert_eq!(there.expect("a time"), std::time::SystemTime::UNIX_EPOCH);

    // The only image of the store: gone, but not lost.
    std::fs::rename(a_images.join("old.img"), a_images.join("new.img")).expect("renamed");
    until("the new name arrives", || equal(&a_images, &b_images, "new.img"));
    until("the old one goes", || !b_images.join("old.img").exists());
    assert!(a.wait("new.img").ready && a.wait("old.img").ready);
    assert!(std::fs::read(b_images.join("new.img")).expect("read") == content);
    let renamed = &history(&b, "new.img").generations[0];
    assert!(renamed.wire_bytes < NO_DATA_BYTES, "{renamed:?}");
    assert!(has(&a, "RENAMED") && !has(&a, "MASS_DELETION"));
}

#[test]
fn a_renamed_image_is_not_deleted_before_its_new_name_is_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Mirror));
    write(&a_images, "one.img", 1, 1 << 20);
    write(&a_images, "two.img", 2, 1 << 20);
    let both = ["one.img", "two.img"];
    until("both arrive", || both.iter().all(|name| equal(&a_images, &b_images, name)));

    // Whoever has it open keeps its new name from being recorded.
    let open = std::fs::File::options().write(true).open(a_images.join("one.img"));
    std::fs::rename(a_images.join("one.img"), a_images.join("uno.img")).expect("renamed");
    until("it waits", || has(&a, "IN_USE"));
    // Longer than a deletion has to rest.
    std::thread::sleep(Duration::from_secs(2));
    assert!(b_images.join("one.img").exists() && !has(&a, "DELETED"));
    drop(open);
    until("the new name arrives", || equal(&a_images, &b_images, "uno.img"));
    until("the old one goes", || !b_images.join("one.img").exists());

    // All that the store has, at once.
    for (from, to) in [("uno.img", "eins.img"), ("two.img", "zwei.img")] {
        std::fs::rename(a_images.join(from), a_images.join(to)).expect("renamed");
    }
    let names = ["eins.img", "zwei.img"];
    until("both arrive", || names.iter().all(|name| equal(&a_images, &b_images, name)));
    until("both go", || ["uno.img", "two.img"].iter().all(|name| !b_images.join(name).exists()));
    assert!(!has(&a, "MASS_DELETION") && !has(&a, "DELETED"));
}

pub(crate) fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.local_addr().expect("an address").port()
}

/// A node whose store keeps three earlier contents, whatever the file system can.
pub(crate) fn keeping(dir: &Path, name: &str, port: u16, images: &Path, role: Role) -> Running {
    std::fs::create_dir_all(images).expect("a directory");
    let mut config = config(&dir.join(name), name, port);
    let store = StoreName::new("vdisks").expect("a name");
    let mut store = StoreConfig::new(store, images.to_owned(), role);
    store.settle = config.settle;
    store.keep_generations = Some(3);
    config.stores = vec![store];
    start(config)
}

#[test]
fn a_rollback_takes_the_content_from_every_nodes_own_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = ["a", "b", "c"].map(|name| dir.path().join(name).join("images"));
    let a = keeping(dir.path(), "a", free_port(), &images[0], Role::Writer);
    let mut others = Vec::new();
    for (name, at, role) in [("b", 1, Role::Writer), ("c", 2, Role::Mirror)] {
        let joining = node(dir.path(), name);
        std::fs::create_dir_all(&images[at]).expect("a directory");
        let (ticket, path) = (a.invite(role), Some(images[at].clone()));
        let _: Joined = joining.ask(&Request::Join { ticket, path, name: None });
        joining.stop();
        others.push(keeping(dir.path(), name, 0, &images[at], role));
    }
    let everywhere = || images[1..].iter().all(|to| equal(&images[0], to, "disk.img"));
    let first = write(&images[0], "disk.img", 1, 8 << 20);
    until("the first arrives", everywhere);
    assert!(a.wait("disk.img").ready);
    std::fs::write(images[0].join("disk.img"), noise(2, 8 << 20)).expect("written");
    a.publish("disk.img");
    until("the second arrives", everywhere);
    assert!(a.wait("disk.img").ready);

    // The one that rolls back is one that received: a writer on this file system may have nothing.
    let to = Request::Rollback { image: "vdisks/disk.img@1".into() };
    assert_eq!(others[1].refused(&to), "MIRROR");
    let unknown = Request::Rollback { image: "vdisks/disk.img@7".into() };
    assert_eq!(others[0].refused(&unknown), "GENERATION_UNKNOWN");
    let which = Request::Rollback { image: "vdisks/disk.img".into() };
    assert_eq!(others[0].refused(&which), "CONTROL_BAD_REQUEST");
    let began = Instant::now();
    let done: RollbackReport = others[0].ask(&to);
    assert_eq!((done.from, done.recorded, done.generation), (1, true, 3));
    assert!(std::fs::read(images[1].join("disk.img")).expect("read") == first);
    until("it is everywhere", || {
        images.iter().all(|at| std::fs::read(at.join("disk.img")).is_ok_and(|read| read == first))
    });
    eprintln!("rolled back on three nodes in {:?}", began.elapsed());
    assert!(others[0].wait("disk.img").ready);
    // The file changes places a moment before the catalog knows.
    until("it is current", || history(&others[1], "disk.img").generations[0].generation == 3);
    let newest = &history(&others[1], "disk.img").generations[0];
    assert!(newest.wire_bytes < NO_DATA_BYTES && newest.kept, "{newest:?}");
    let rows = history(&others[1], "disk.img").generations;
    assert!(rows.iter().all(|row| row.kept), "{rows:?}");
}
