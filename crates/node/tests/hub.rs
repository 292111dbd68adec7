//! A hub and its branches: whole nodes on loopback, in one process. The hub's limit is what they share;
//! what counts is how the bytes are shared out while all of them receive, not how long it takes.

#[expect(dead_code, reason = "the tests of pairs use the rest")]
mod running;

use std::path::Path;
use std::time::Duration;

use blockferry_node::api::{
    Lane, NetcheckReport, PeersReport, PushDone, Request, Role, StatusReport,
};
use blockferry_node::config::Config;

use crate::running::{LONG, Running, noise, start, until};

const MEGABYTE: usize = 1 << 20;

/// A node that records by hand only.
fn config(dir: &Path, name: &str) -> Config {
    let mut config = running::config(&dir.join(name), name, 0);
    (config.settle, config.rescan) = (LONG, LONG);
    config
}

/// A hub with a limit, and branches that hold its store.
fn hub_and_branches(dir: &Path, bits: u64, branches: usize) -> (Running, Vec<Running>) {
    let mut hub = config(dir, "hub");
    hub.send_limit_bits_per_second = Some(bits);
    // Packs of noise; no branch is served by another's.
    let hub = start(hub);
    hub.add_store();
    let join = |n| {
        let branch = start(config(dir, &format!("b{n:02}")));
        branch.join(&hub.invite(Role::Mirror));
        branch
    };
    let all: Vec<Running> = (0..branches).map(join).collect();
    until("all are connected", || {
        let status: StatusReport = hub.status();
        status.peers.iter().filter(|peer| peer.connected).count() == branches
    });
    (hub, all)
}

/// Bytes of an image that were sent to each peer so far, in the order of their names.
fn sent(hub: &Running, image: &str) -> Vec<f64> {
    let (image, wait) = (format!("vdisks/{image}"), false);
    let push: PushDone = hub.ask(&Request::Push { image, peers: vec![], lane: None, wait });
    let mut rows: Vec<(String, u64)> =
        push.peers.into_iter().map(|row| (row.peer, row.wire_bytes)).collect();
    rows.sort();
    rows.into_iter().map(|(_, bytes)| bytes as f64).collect()
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares.max(1.0))
}

fn weigh(hub: &Running, peer: &str, weight: u32) {
    let (peer, key, value) = (peer.to_owned(), "weight".to_owned(), weight.to_string());
    let report: PeersReport = hub.ask(&Request::PeerSet { peer, key, value });
    assert_eq!(report.peers[0].weight, weight);
}

/// Sixteen branches at once: equal ones get the same in every stretch of the run, one of three times
/// the weight gets three times as much, and all have it in the end.
#[test]
fn sixteen_branches_are_served_at_once_and_by_weight() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, branches) = hub_and_branches(dir.path(), 24_000_000, 16);
    std::fs::write(dir.path().join("hub/images/x.img"), noise(1, MEGABYTE)).expect("written");
    hub.publish("x.img");
    let all_began = || sent(&hub, "x.img").iter().all(|bytes| *bytes >= 64_000.0);
    until("all have begun", all_began);
    let before = sent(&hub, "x.img");
    until("half is there", || sent(&hub, "x.img").iter().sum::<f64>() >= 8e6);
    let after = sent(&hub, "x.img");
    let shares: Vec<f64> =
        after.iter().zip(&before).map(|(after, before)| after - before).collect();
    assert!(jain(&after) >= 0.95, "{after:?}");
    assert!(jain(&shares) >= 0.95, "{shares:?}");
    assert!(hub.wait("x.img").ready);

    weigh(&hub, "b05", 3);
    std::fs::write(dir.path().join("hub/images/y.img"), noise(2, MEGABYTE)).expect("written");
    hub.publish("y.img");
    let of_heavy = || sent(&hub, "y.img")[5];
    until("the heavy one has most of it", || of_heavy() >= 800_000.0);
    let mut shares = sent(&hub, "y.img");
    shares[5] /= 3.0;
    assert!(jain(&shares) >= 0.9, "{shares:?}");
    assert!(hub.wait("y.img").ready);
    drop((hub, branches));
}

/// Bulk fills the hub's limit; what is urgent comes through at once, the control stream is answered
/// meanwhile, and the bulk arrives too.
#[test]
fn urgent_overtakes_bulk_and_control_waits_for_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, branches) = hub_and_branches(dir.path(), 16_000_000, 2);
    let images = dir.path().join("hub/images");
    std::fs::write(images.join("bulk.img"), noise(3, 16 * MEGABYTE)).expect("written");
    std::fs::write(images.join("urgent.img"), noise(4, 100_000)).expect("written");
    hub.publish("bulk.img");
    let push = |image: &str, lane, wait| {
        let (image, peers) = (format!("vdisks/{image}"), vec![]);
        hub.ask::<PushDone>(&Request::Push { image, peers, lane: Some(lane), wait })
    };
    push("bulk.img", Lane::Bulk, false);
    until("bulk travels", || sent(&hub, "bulk.img").iter().all(|bytes| *bytes > 1e6));
    let check = Request::Netcheck { peer: "b00".into(), count: 50 };
    let report: NetcheckReport = hub.ask(&check);
    // Its own turn would take half a second.
    assert!(report.control_median_ms < 250.0, "{report:?}");
    let done = || sent(&hub, "bulk.img").iter().sum::<f64>();
    let before = done();
    hub.publish("urgent.img");
    let urgent = push("urgent.img", Lane::Urgent, true);
    let (beside, all) = (done() - before, 2.0 * 16.0 * MEGABYTE as f64);
    assert!(urgent.in_sync, "{urgent:?}");
    assert!(beside < 4e6 && done() < all, "{beside} bytes of bulk went beside 200 kB of urgent");
    assert!(hub.wait("bulk.img").ready);
    std::thread::sleep(Duration::from_millis(10));
    drop((hub, branches));
}
