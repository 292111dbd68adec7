//! Stores whose directory isn't there when a node starts: a disk that is mounted late, or never again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_node::api::{ImagesReport, Removed, Request, Role, StoreRow, StoresReport};
use blockferry_node::config::StoreConfig;

use crate::running::{Running, config, noise, start, until};

fn looking(dir: &Path) -> Running {
    let mut config = config(&dir.join("a"), "a", 0);
    config.rescan = Duration::from_millis(500);
    start(config)
}

/// A node with the stores `vdisks` and `other`, each with an image, that was stopped; their paths.
fn stopped(dir: &Path) -> (PathBuf, PathBuf) {
    let node = looking(dir);
    let (one, two) = (node.add_store(), node.add_store_at("other", "elsewhere"));
    for path in [&one, &two] {
        std::fs::write(path.join("disk.img"), noise(1, 100_000)).expect("written");
    }
    let both = || images(&node, None) == 2;
    until("both are recorded", both);
    node.stop();
    (one, two)
}

fn images(node: &Running, store: Option<&str>) -> usize {
    let list = Request::ImageLs { store: store.map(str::to_owned) };
    let report: ImagesReport = node.ask(&list);
    report.images.iter().filter(|row| row.generation.is_some()).count()
}

fn rows(node: &Running) -> Vec<StoreRow> {
    let report: StoresReport = node.ask(&Request::StoreLs {});
    let known = |rows: &[StoreRow]| {
        rows.iter().map(|row| (row.name.clone(), row.trouble.clone())).collect::<Vec<_>>()
    };
    assert_eq!(known(&node.status().stores), known(&report.stores));
    report.stores
}

fn trouble(node: &Running, name: &str) -> Option<String> {
    let rows = rows(node);
    let row = rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no {name}"));
    let shown: StoresReport = node.ask(&Request::StoreShow { name: name.into() });
    assert_eq!((&shown.stores[0].name, shown.stores.len()), (&row.name, 1));
    row.trouble.clone()
}

#[test]
fn a_missing_store_is_shown_and_comes_back_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, other) = stopped(dir.path());
    let away = dir.path().join("unmounted");
    std::fs::rename(&other, &away).expect("moved");
    let node = looking(dir.path());
    assert_eq!(trouble(&node, "vdisks"), None);
    assert_eq!(trouble(&node, "other").as_deref(), Some("STORE_MISSING"));
    assert_eq!(images(&node, Some("vdisks")), 1, "the rest works");
    assert_eq!(node.refused(&Request::ImageLs { store: Some("other".into()) }), "STORE_MISSING");
    let image = "other/disk.img".to_owned();
    assert_eq!(node.refused(&Request::ImageShow { image }), "STORE_MISSING");
    until("it is told", || node.events().iter().any(|event| event.code == "STORE_MISSING"));
    assert!(!node.events().iter().any(|event| event.code == "IO"), "it has a code of its own");
    let add = |name: &str, path: &Path| Request::StoreAdd {
        name: name.into(),
        path: path.to_owned(),
        role: Role::Writer,
    };
    let free = dir.path().join("free");
    std::fs::create_dir(&free).expect("made");
    assert_eq!(node.refused(&add("other", &free)), "STORE_EXISTS", "the name is taken");

    // An empty directory is a mount point without its disk.
    std::fs::create_dir(&other).expect("made");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(trouble(&node, "other").as_deref(), Some("STORE_MISSING"));
    assert_eq!(std::fs::read_dir(&other).expect("read").count(), 0, "nothing is made in it");
    std::fs::remove_dir(&other).expect("removed");

    std::fs::rename(&away, &other).expect("moved back");
    until("it is in service", || trouble(&node, "other").is_none());
    assert_eq!(images(&node, Some("other")), 1);
    assert_eq!(node.refused(&add("third", &dir.path().join("nowhere"))), "IO", "a wrong path");
}

#[test]
fn a_store_that_never_comes_back_can_be_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, other) = stopped(dir.path());
    let away = dir.path().join("unmounted");
    std::fs::rename(&other, &away).expect("moved");
    let node = looking(dir.path());
    assert_eq!(trouble(&node, "other").as_deref(), Some("STORE_MISSING"));
    let remove = Request::StoreRm { name: "other".into() };
    assert_eq!(node.ask::<Removed>(&remove).removed, "other");
    assert_eq!(rows(&node).len(), 1);
    assert_eq!(node.refused(&remove), "STORE_UNKNOWN");
    std::fs::rename(&away, &other).expect("moved back");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(rows(&node).len(), 1, "nobody takes it up again");
    node.stop();
    let node = looking(dir.path());
    assert_eq!(rows(&node).len(), 1, "nor at the next start");
    // It is added again like any directory that holds a store.
    let add = Request::StoreAdd { name: "other".into(), path: other, role: Role::Writer };
    let _: StoresReport = node.ask(&add);
    assert_eq!(images(&node, Some("other")), 1);
}

#[test]
fn a_store_that_was_moved_is_added_where_it_is_now_and_no_other_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let foreign = tempfile::tempdir().expect("a directory");
    let (_, other) = stopped(dir.path());
    let (_, stranger) = stopped(foreign.path());
    let moved = dir.path().join("moved");
    std::fs::rename(&other, &moved).expect("moved");
    let node = looking(dir.path());
    let add = |path: &Path| Request::StoreAdd {
        name: "other".into(),
        path: path.to_owned(),
        role: Role::Writer,
    };
    assert_eq!(node.refused(&add(&stranger)), "STORE_EXISTS", "it has the name and is another one");
    assert_eq!(trouble(&node, "other").as_deref(), Some("STORE_MISSING"));
    let _: StoresReport = node.ask(&add(&moved));
    assert_eq!(trouble(&node, "other"), None);
    assert_eq!(images(&node, Some("other")), 1);
}

#[test]
fn one_of_the_configuration_file_is_not_removed_by_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(&dir.path().join("a"), "a", 0);
    let name = blockferry_delta::StoreName::new("vdisks").expect("a name");
    let path = dir.path().join("never-there");
    config.stores = vec![StoreConfig::new(name, path, Role::Writer)];
    let node = start(config);
    assert_eq!(trouble(&node, "vdisks").as_deref(), Some("STORE_MISSING"));
    assert_eq!(node.refused(&Request::StoreRm { name: "vdisks".into() }), "CONFIG_ERROR");
}

#[test]
fn a_damaged_marker_is_named_and_taken_from_another_member() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, other) = stopped(dir.path());
    let marker = other.join(".blockferry/store");
    let whole = std::fs::read(&marker).expect("read");
    let mut rotten = whole.clone();
    rotten[20] ^= 1;
    std::fs::write(&marker, rotten).expect("written");
    let node = looking(dir.path());
    assert_eq!(trouble(&node, "other").as_deref(), Some("MARKER_DAMAGED"));
    assert_eq!(images(&node, None), 1, "the other store works");
    let image = "other/disk.img".to_owned();
    assert_eq!(node.refused(&Request::ImageShow { image }), "MARKER_DAMAGED");
    assert!(other.join("disk.img").exists());
    std::fs::write(&marker, whole).expect("written");
    until("it is in service", || trouble(&node, "other").is_none());
    assert_eq!(images(&node, Some("other")), 1, "nothing counts as deleted");
}
