//! Conflicts that a node never meets: it is behind others, which hold one of the contents and keep the
//! other. It sees them, doesn't call the image ready, and decides for all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blockferry_delta::{ImageName, NodeId, StoreName};
use blockferry_node::api::{
    ConflictRow, ConflictState, ConflictsReport, ImageState, ImagesReport, PromoteReport, Request,
    ResolveReport, Role, WaitReason,
};
use blockferry_node::config::StoreConfig;
use blockferry_store::disk::RealDisk;
use blockferry_store::{Options, Store};

use crate::gone::free_port;
use crate::promote::{promote, ready};
use crate::running::{Running, config, edit, equal, noise, start, until};

const IMAGE: &str = "vdisks/disk.img";

fn open_row(node: &Running) -> Option<ConflictRow> {
    let report: ConflictsReport = node.ask(&Request::Conflicts { image: None });
    report.conflicts.into_iter().find(|row| row.open)
}

fn resolve(node: &Running, keep: &str) -> ResolveReport {
    node.ask(&Request::Resolve { image: IMAGE.into(), keep: Some(keep.into()), acknowledge: false })
}

fn read(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("disk.img")).expect("read")
}

fn all_equal(images: &[PathBuf]) -> bool {
    images[1..].iter().all(|other| equal(&images[0], other, "disk.img"))
}

/// A node that records only what it is told to, and is found again after a restart.
fn by_hand(dir: &Path, name: &str, port: u16) -> Running {
    let mut config = config(&dir.join(name), name, port);
    config.settle = Duration::from_secs(3600);
    start(config)
}

/// Nodes of which each joins the one that `hub` says, with one image; then the last one, and the
/// first one that isn't its neighbour, change it while the last one is away. It comes back.
fn torn(
    dir: &Path,
    names: &[&str],
    hub: impl Fn(usize) -> usize,
    author: usize,
) -> (Vec<Running>, Vec<PathBuf>, Vec<u16>) {
    let ports: Vec<u16> = names.iter().map(|_| free_port()).collect();
    let begin = |at: usize| by_hand(dir, names[at], ports[at]);
    let mut nodes: Vec<Running> = (0..names.len()).map(begin).collect();
    let mut images = vec![nodes[0].add_store()];
    for joiner in 1..names.len() {
        images.push(nodes[joiner].join(&nodes[hub(joiner)].invite(Role::Writer)));
    }
    std::fs::write(images[0].join("disk.img"), noise(1, 1 << 20)).expect("written");
    nodes[0].publish("disk.img");
    until("it is everywhere", || all_equal(&images));
    for node in &nodes {
        assert!(node.wait("disk.img").ready);
    }
    let last = nodes.pop().expect("one");
    let away = names.len() - 1;
    last.stop();
    part(&nodes, (&images[..away], author), &images[away]);
    let last = begin(away);
    last.publish("disk.img");
    nodes.push(last);
    (nodes, images, ports)
}

/// One of the nodes changes the image, all of them have it, and it is changed on one that is away.
fn part(nodes: &[Running], (images, author): (&[PathBuf], usize), away: &Path) {
    edit(&images[author].join("disk.img"), 0, b"changed here");
    nodes[author].publish("disk.img");
    until("the others have it", || all_equal(images));
    edit(&away.join("disk.img"), 1 << 19, b"changed there");
}

/// Everybody sees it, and nobody says that it is ready.
fn all_see(nodes: &[Running]) {
    for node in nodes {
        until("it is seen", || open_row(node).is_some());
        until("it isn't ready", || {
            let report = ready(node, "disk.img");
            let torn = |reason| reason == Some(WaitReason::Diverged);
            !report.ready && report.peers.iter().any(|peer| torn(peer.reason))
        });
        until("it shows as diverged", || {
            let images: ImagesReport = node.ask(&Request::ImageShow { image: IMAGE.into() });
            images.images[0].state == ImageState::Diverged
        });
        let refused: PromoteReport = promote(node, "disk.img", None);
        assert_eq!(refused.code.as_deref(), Some("DIVERGED"), "{refused:?}");
        assert!(node.events().iter().any(|event| event.code == "DIVERGED"));
    }
}

fn over(nodes: &[Running], images: &[PathBuf], wanted: &[u8]) {
    until("all hold what was decided", || images.iter().all(|dir| read(dir) == wanted));
    for node in nodes {
        until("it is over", || open_row(node).is_none());
        assert!(node.wait("disk.img").ready);
    }
}

#[test]
fn a_conflict_at_the_other_end_of_a_chain_is_seen_and_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let (nodes, images, _) = torn(dir.path(), &["a", "b", "c"], |joiner| joiner - 1, 0);
    all_see(&nodes);
    let row = open_row(&nodes[0]).expect("open");
    let far = &row.contents[1];
    assert_eq!((far.state, far.author.as_str(), far.path.as_str()), (ConflictState::Open, "c", ""));
    assert_eq!((&far.peers[..], &far.kept_at[..]), (&["c".to_owned()][..], &["b".to_owned()][..]));
    // What the first one holds goes on: it makes that itself.
    let wanted = read(&images[0]);
    assert_eq!(resolve(&nodes[0], "local").told, None);
    over(&nodes, &images, &wanted);
}

#[test]
fn a_decision_for_a_content_that_is_elsewhere_is_carried_out_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let (nodes, images, _) = torn(dir.path(), &["a", "b", "c"], |joiner| joiner - 1, 0);
    all_see(&nodes);
    let wanted = read(&images[2]);
    let nobody =
        Request::Resolve { image: IMAGE.into(), keep: Some("x".into()), acknowledge: false };
    assert_eq!(nodes[0].refused(&nobody), "PEER_UNKNOWN");
    let asked = resolve(&nodes[0], "c");
    assert_eq!(asked.told.as_deref(), Some("b"), "{asked:?}");
    assert_eq!(asked.root, blake3::hash(&wanted).to_hex().as_str());
    over(&nodes, &images, &wanted);
    // It was decided once: asking once more finds nothing.
    let again =
        Request::Resolve { image: IMAGE.into(), keep: Some("c".into()), acknowledge: false };
    assert_eq!(nodes[0].refused(&again), "NOT_DIVERGED");
}

#[test]
fn a_policy_knows_a_member_behind_a_hub() {
    let dir = tempfile::tempdir().expect("a directory");
    let (images, port) = (dir.path().join("disks"), free_port());
    std::fs::create_dir(&images).expect("a directory");
    let preferring = || {
        let mut config = config(&dir.path().join("a"), "a", port);
        let name = StoreName::new("vdisks").expect("a name");
        let mut store = StoreConfig::new(name, images.clone(), Role::Writer);
        (store.settle, store.prefer) = (Duration::from_secs(3600), Some("c".into()));
        config.stores.push(store);
        start(config)
    };
    let (a, b) = (preferring(), by_hand(dir.path(), "b", 0));
    let c = by_hand(dir.path(), "c", 0);
    let at_b = b.join(&a.invite(Role::Writer));
    let at_c = c.join(&b.invite(Role::Writer));
    let all = [images.clone(), at_b.clone(), at_c.clone()];
    std::fs::write(images.join("disk.img"), noise(1, 300_000)).expect("written");
    a.publish("disk.img");
    until("all have it", || all_equal(&all));
    assert!(a.wait("disk.img").ready);
    a.stop();
    edit(&images.join("disk.img"), 0, b"changed by a");
    edit(&at_c.join("disk.img"), 100_000, b"changed by c");
    c.publish("disk.img");
    until("the hub has what c made", || equal(&at_b, &at_c, "disk.img"));
    let wanted = read(&at_c);
    let a = preferring();
    a.publish("disk.img");
    until("the policy has decided", || a.events().iter().any(|event| event.code == "RESOLVED"));
    until("all hold what c made", || all.iter().all(|dir| read(dir) == wanted));
}

#[test]
fn a_branch_of_a_hub_of_four_keeps_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = ["hub", "north", "east", "west"];
    let (mut nodes, images, _) = torn(dir.path(), &names, |_| 0, 2);
    all_see(&nodes);
    let (wanted, other) = (read(&images[1]), read(&images[3]));
    // North has met nothing of it: east made what it holds, west the other one. Who is asked records
    // what it finds beside.
    let north = nodes.remove(1);
    let asked = resolve(&north, "both");
    assert_eq!(asked.told.as_deref(), Some("hub"), "{asked:?}");
    nodes.insert(1, north);
    over(&nodes, &images, &wanted);
    let beside = || images[0].join("disk.west.img");
    until("the other is an image of its own", || beside().exists());
    assert!(std::fs::read(beside()).expect("read") == other);
    nodes[0].publish("disk.west.img");
    until("everywhere", || images[1..].iter().all(|dir| equal(&images[0], dir, "disk.west.img")));
}

#[test]
fn a_decision_waits_for_the_member_that_is_to_carry_it_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut nodes, images, ports) = torn(dir.path(), &["a", "b", "c"], |joiner| joiner - 1, 0);
    all_see(&nodes);
    let wanted = read(&images[2]);
    let b = nodes.remove(1);
    b.stop();
    until("it is away", || nodes[0].status().peers.iter().all(|peer| !peer.connected));
    assert_eq!(resolve(&nodes[0], "c").told.as_deref(), Some("b"));
    assert!(open_row(&nodes[0]).is_some(), "nobody has ended it yet");
    nodes.insert(1, by_hand(dir.path(), "b", ports[1]));
    over(&nodes, &images, &wanted);
}

#[test]
fn a_second_decision_is_carried_out_whoever_made_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = ["hub", "north", "east", "west"];
    let (mut nodes, images, ports) = torn(dir.path(), &names, |_| 0, 2);
    // The resolution of who comes first by its id is found first, also when it is over.
    let mut deciders = [1, 2];
    deciders.sort_by_key(|at| nodes[*at].status().node.id.parse::<NodeId>().expect("a node id"));
    for (round, decider) in deciders.into_iter().enumerate() {
        if round > 0 {
            nodes.pop().expect("one").stop();
            edit(&images[2].join("disk.img"), 4096, b"once more");
            part(&nodes, (&images[..3], 2), &images[3]);
            edit(&images[3].join("disk.img"), 8192, b"once more");
            let west = by_hand(dir.path(), "west", ports[3]);
            west.publish("disk.img");
            nodes.push(west);
        }
        all_see(&nodes);
        let wanted = read(&images[3]);
        assert_eq!(resolve(&nodes[decider], "west").told.as_deref(), Some("hub"));
        over(&nodes, &images, &wanted);
    }
    let hub = nodes[0].events();
    assert!(hub.iter().all(|event| event.code != "RESOLVE_OUTDATED"), "what is over isn't told");
}

#[test]
fn both_that_was_interrupted_after_the_decision_is_brought_to_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut nodes, images, ports) = torn(dir.path(), &["a", "b", "c"], |joiner| joiner - 1, 0);
    all_see(&nodes);
    let (wanted, other) = (read(&images[1]), read(&images[2]));
    let b = nodes.remove(1);
    let us = b.status().node.id;
    b.stop();
    until("it is away", || nodes[0].status().peers.iter().all(|peer| !peer.connected));
    assert_eq!(resolve(&nodes[0], "both").told.as_deref(), Some("b"));
    decided_and_cut(&images[1], &us);
    nodes.insert(1, by_hand(dir.path(), "b", ports[1]));
    over(&nodes, &images, &wanted);
    let beside = || images[1].join("disk.c.img");
    until("the other is an image of its own", || beside().exists());
    assert!(std::fs::read(beside()).expect("read") == other);
}

/// Makes the generation that ends the conflict, and no more, as a crash leaves it.
fn decided_and_cut(images: &Path, us: &str) {
    let disk = RealDisk::open(images).expect("there");
    let (store, _) = Store::open(Arc::new(disk), &Options::default()).expect("opened");
    let image = ImageName::new("disk.img").expect("a name");
    let kept = store.kept(&image).expect("read").into_iter().filter(|kept| kept.pinned);
    let others: Vec<_> = kept.filter_map(|kept| Some(kept.generation?.lineage)).collect();
    assert_eq!(others.len(), 1);
    let us: NodeId = us.parse().expect("a node id");
    store.descend(&image, &others, us, Some(us), 1).expect("decided");
}
