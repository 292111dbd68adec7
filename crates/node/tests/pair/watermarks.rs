//! A backlog that is too large is an event, once, and so is its end; a doctor sees both nodes.

use blockferry_node::api::{
    Affected, DoctorReport, Event, OrdersReport, Request, Role, Severity, WaitReason,
};
use blockferry_node::config::Marks;

use crate::running::{Running, config, node, noise, start, until};

fn told(node: &Running, code: &str) -> Vec<Event> {
    node.events().into_iter().filter(|event| event.code == code).collect()
}

#[test]
fn a_backlog_above_its_mark_is_an_event_until_it_is_below_the_low_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut settings = config(&dir.path().join("hub"), "hub", 0);
    settings.watermarks.backlog = Marks { high_bytes: 100_000, low_bytes: 50_000 };
    let (hub, branch) = (start(settings), node(dir.path(), "branch"));
    let images = hub.add_store();
    branch.join(&hub.invite(Role::Mirror));
    until("connected", || hub.status().peers.iter().any(|peer| peer.connected));
    let _: OrdersReport = hub.ask(&Request::Pause(Affected::default()));
    std::fs::write(images.join("a.img"), noise(1, 300_000)).expect("written");
    hub.publish("a.img");
    until("it is told", || !told(&hub, "BACKLOG_HIGH").is_empty());
    let high = told(&hub, "BACKLOG_HIGH");
    assert_eq!((high.len(), high[0].severity), (1, Severity::Warning));
    assert_eq!(high[0].peer.as_deref(), Some("branch"));
    assert!(high[0].remedy.as_deref().is_some_and(|fix| fix.contains("backlog_high")), "{high:?}");
    let backlog: blockferry_node::api::BacklogReport = hub.ask(&Request::Backlog { peer: None });
    assert_eq!(backlog.items[0].reason, WaitReason::Paused);
    let _: OrdersReport = hub.ask(&Request::Resume(Affected::default()));
    until("its end is told", || !told(&hub, "BACKLOG_LOW").is_empty());
    assert_eq!(told(&hub, "BACKLOG_HIGH").len(), 1, "once");
    assert_eq!(told(&hub, "BACKLOG_LOW")[0].remedy, None, "as it should be");

    let report: DoctorReport = hub.ask(&Request::Doctor {});
    assert!(report.online && report.errors == 0, "{report:?}");
    let found = |code: &str| report.findings.iter().any(|finding| finding.code == code);
    // Both run this version by one clock.
    assert!(!found("CLOCK_ADRIFT") && !found("PEER_VERSION"), "{report:?}");
}
