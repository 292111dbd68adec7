//! Full mesh, hub and spokes, chain: a change reaches those who never meet its author, receipts
//! come back to it, and every node knows whether it is everywhere.

use std::path::{Path, PathBuf};

use blockferry_node::api::{HistoryReport, PeersReport, ReadyReport, Request, Role};

use crate::promote::{by_hand, everywhere, mesh, promote, ready};
use crate::running::{Running, config, edit, equal, noise, start, until};

/// Nodes of which each joins the one that `hub` says.
fn paired(
    dir: &Path,
    names: &[&str],
    hub: impl Fn(usize) -> usize,
) -> (Vec<Running>, Vec<PathBuf>) {
    let nodes: Vec<Running> = names.iter().map(|name| by_hand(dir, name)).collect();
    let mut images = vec![nodes[0].add_store()];
    for joiner in 1..names.len() {
        images.push(nodes[joiner].join(&nodes[hub(joiner)].invite(Role::Writer)));
    }
    (nodes, images)
}

/// Says who is asked and stands how, by name.
fn stands(report: &ReadyReport) -> Vec<(&str, bool)> {
    report.peers.iter().map(|p| (p.peer.as_str(), p.ready)).collect()
}

fn newest(node: &Running) -> (u64, String) {
    let history: HistoryReport = node.ask(&Request::ImageHistory { image: "vdisks/x.img".into() });
    (history.generations[0].generation, history.generations[0].root.clone())
}

/// A change on each node in turn reaches all others, whichever way, and each node knows it.
fn goes_around(nodes: &[Running], images: &[PathBuf]) {
    std::fs::write(images[0].join("x.img"), noise(1, 200_000)).expect("written");
    for (number, author) in (1..).zip(0..nodes.len()) {
        edit(&images[author].join("x.img"), number * 5000, format!("by {author}").as_bytes());
        let published = nodes[author].publish("x.img");
        assert_eq!(published.generation, number, "it descends from what came here before");
        for node in nodes {
            // Whoever is asked waits for the same.
            let report = everywhere(node, "x.img", number);
            assert_eq!(report.peers.len(), nodes.len() - 1);
            assert_eq!(newest(node), (number, published.root.clone()));
        }
        assert!(images.iter().all(|dir| equal(dir, &images[author], "x.img")));
    }
    let events = |node: &Running| node.events().iter().filter(|e| e.code == "PROMOTED").count();
    for (count, node) in (1..).zip(nodes) {
        let report = promote(node, "x.img", None);
        assert!(report.promoted && report.receipts.len() == nodes.len() - 1, "{report:?}");
        until("it is told to all", || nodes.iter().all(|node| events(node) == count));
    }
    for node in nodes {
        assert!(!node.events().iter().any(|e| e.code == "DIVERGED"), "nothing diverged");
    }
}

#[test]
fn full_mesh() {
    let dir = tempfile::tempdir().expect("a directory");
    let (nodes, images) = mesh(dir.path(), ["a", "b", "c"]);
    goes_around(&nodes, &images);
}

#[test]
fn hub_and_spokes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (nodes, images) = paired(dir.path(), &["hub", "east", "west"], |_| 0);
    goes_around(&nodes, &images);
    let peers: PeersReport = nodes[1].ask(&Request::PeerLs {});
    assert_eq!(peers.peers.len(), 1, "the spokes never met");
}

#[test]
fn chain() {
    let dir = tempfile::tempdir().expect("a directory");
    let (nodes, images) = paired(dir.path(), &["a", "b", "c", "d"], |joiner| joiner - 1);
    goes_around(&nodes, &images);
}

#[test]
fn a_far_member_counts_while_it_is_away_and_until_it_is_taken_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut nodes, images) = paired(dir.path(), &["hub", "east", "west"], |_| 0);
    let east = nodes.remove(1);
    std::fs::write(images[1].join("x.img"), noise(1, 200_000)).expect("written");
    east.publish("x.img");
    assert_eq!(stands(&east.wait("x.img")), [("hub", true), ("west", true)]);
    let west = nodes.remove(1);
    west.stop();
    let hub = nodes.remove(0);
    edit(&images[1].join("x.img"), 7, b"while west is away");
    east.publish("x.img");
    until("the hub has it", || stands(&ready(&east, "x.img"))[0].1);
    assert_eq!(stands(&ready(&east, "x.img")), [("hub", true), ("west", false)]);
    let at_hub = || stands(&ready(&hub, "x.img")) == [("east", true), ("west", false)];
    until("the hub has heard of east's", at_hub);
    assert!(ready(&east, "x.img@1").ready, "its receipt for the first stays");

    // What was heard outlives a restart of who heard it.
    let east_dir = east.stop();
    let mut config = config(&east_dir, "east", 0);
    config.settle = std::time::Duration::from_secs(3600);
    let east = start(config);
    assert!(ready(&east, "x.img@1").ready);
    until("the hub is back", || east.status().peers.iter().all(|p| p.connected));

    let _: serde_json::Value = hub.ask(&Request::PeerRm { peer: "west".into() });
    until("west is no member for east either", || {
        stands(&ready(&east, "x.img")) == [("hub", true)]
    });
    assert!(ready(&east, "x.img").ready);
}

#[test]
fn a_mirror_between_two_passes_receipts_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let [a, relay, c] = ["a", "relay", "c"].map(|name| by_hand(dir.path(), name));
    let images = a.add_store();
    relay.join(&a.invite(Role::Mirror));
    let far = c.join(&relay.invite(Role::Mirror));
    std::fs::write(images.join("x.img"), noise(3, 200_000)).expect("written");
    a.publish("x.img");
    assert_eq!(stands(&a.wait("x.img")), [("c", true), ("relay", true)]);
    assert!(equal(&images, &far, "x.img"));
    everywhere(&c, "x.img", 1);
}
