//! A node with many stores: opened beside each other, each on its own account, as they were left.

use std::path::Path;

use blockferry_delta::StoreName;
use blockferry_node::api::{ImagesReport, Request, Role, Severity};
use blockferry_node::config::{Config, StoreConfig};

use crate::running::{LONG, Running, config, noise, start};

const STORES: usize = 40;

fn name(n: usize) -> String {
    format!("store-{n:02}")
}

/// A node of many stores that records by hand only.
fn many(dir: &Path) -> Config {
    let mut config = config(&dir.join("hub"), "hub", 0);
    (config.settle, config.rescan) = (LONG, LONG);
    for n in 0..STORES {
        let path = dir.join("images").join(name(n));
        let store = StoreName::new(&name(n)).expect("a name");
        config
            .stores
            .push(StoreConfig { settle: LONG, ..StoreConfig::new(store, path, Role::Writer) });
    }
    config
}

#[test]
fn many_stores_are_opened_each_on_its_own_account() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = many(dir.path());
    // The directory of one is not there.
    for store in config.stores.iter().filter(|store| store.name.as_str() != name(7)) {
        std::fs::create_dir_all(&store.path).expect("a directory");
    }
    let node = start(config.clone());
    let status = node.status();
    let (last, stores) = status.stores.split_last().expect("there are some");
    assert_eq!((last.name.as_str(), last.trouble.as_deref()), (&*name(7), Some("STORE_MISSING")));
    let names: Vec<&str> = stores.iter().map(|store| store.name.as_str()).collect();
    let all: Vec<String> = (0..STORES).map(name).filter(|other| *other != name(7)).collect();
    assert_eq!(names, all, "all but the one, in their order");
    let missing = |events: &[blockferry_node::api::Event]| {
        let of = events.iter().filter(|event| event.severity == Severity::Error);
        of.map(|event| event.store.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(missing(&node.events()), [name(7)]);
    for n in [0, STORES - 1] {
        let path = dir.path().join("images").join(name(n)).join("x.img");
        std::fs::write(path, noise(n as u64, 50_000)).expect("written");
        let image = format!("{}/x.img", name(n));
        let publish = Request::Publish { image, changed: None, since: None };
        let _: serde_json::Value = node.ask(&publish);
    }
    node.stop();

    // What each of them held it holds again; one that was known and is gone is not made anew.
    std::fs::remove_dir_all(dir.path().join("images").join(name(3))).expect("removed");
    std::fs::create_dir(dir.path().join("images").join(name(3))).expect("made");
    std::fs::create_dir(dir.path().join("images").join(name(7))).expect("made");
    let node = start(config);
    let serving = |node: &Running| {
        node.status().stores.iter().filter(|store| store.trouble.is_none()).count()
    };
    assert_eq!(serving(&node), STORES - 1);
    let events = node.events();
    assert_eq!(missing(&events)[1..], [name(3)]);
    for n in [0, STORES - 1] {
        let report: ImagesReport = node.ask(&Request::ImageLs { store: Some(name(n)) });
        assert_eq!(report.images.len(), 1, "{report:?}");
    }
}
