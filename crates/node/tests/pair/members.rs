//! Who may take part: tickets, further stores, keys that were removed or are strange.

use std::time::Duration;

use blockferry_node::api::{
    Invitation, PeerState, PublishReport, ReadyReport, Request, Require, Role,
};
use blockferry_node::config::PeerConfig;

use crate::running::{LONG, Running, config, equal, node, noise, start, until};

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
fn whoever_has_just_paired_is_refused_by_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = node(dir.path(), "hub");
    hub.add_store();
    for name in ["one", "two", "three"] {
        let branch = node(dir.path(), name);
        let ticket = hub.invite(Role::Mirror);
        // Each side may dial the other as soon as it knows it.
        let refused = |node: &Running| {
            node.status().peers.iter().any(|peer| peer.state == PeerState::Refused)
        };
        let joined = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watched = scope.spawn(|| {
                let connected = || {
                    let up = |peer: &&blockferry_node::api::PeerRow| peer.name == name;
                    hub.status().peers.iter().find(up).is_some_and(|peer| peer.connected)
                };
                until("they are connected", || {
                    assert!(!refused(&hub) && !refused(&branch), "{name}: refused at first");
                    joined.load(std::sync::atomic::Ordering::Relaxed) && connected()
                });
            });
            branch.join(&ticket);
            joined.store(true, std::sync::atomic::Ordering::Relaxed);
            watched.join().expect("never refused");
        });
        branch.stop();
    }
}
