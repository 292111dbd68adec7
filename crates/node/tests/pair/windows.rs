//! Windows that are missed: said ahead of time, and taken back when it fits again.

use std::sync::Arc;

use blockferry_node::api::Role;
use blockferry_node::rate::calendar::{Calendar, Rate};

use crate::running::{config, node, noise, start, until};

#[test]
fn a_peer_that_is_down_misses_its_window_and_fits_when_it_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut hub = config(&dir.path().join("a"), "a", 0);
    let by = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(30);
    let by = by.strftime("%H:%M").to_string().parse().expect("a time");
    hub.schedules.insert("night".into(), Arc::new(Calendar::constant(Rate::Limited(100_000_000))));
    hub.deadlines.insert("night".into(), by);
    hub.send_schedule = Some("night".into());
    let a = start(hub);
    let images = a.add_store();
    let b = node(dir.path(), "b");
    b.join(&a.invite(Role::Mirror));
    b.stop();
    std::fs::write(images.join("x.img"), noise(1, 100_000)).expect("written");
    a.publish("x.img");
    let said = |code: &str| a.events().into_iter().find(|event| event.code == code);
    until("it is told", || said("WINDOW_MISSED").is_some());
    let text = format!("{:?}", said("WINDOW_MISSED"));
    assert!(text.contains("1 image for b") && text.contains("(1 peer_down)"), "{text}");
    assert!(said("WINDOW_FITS").is_none());
    let _b = node(dir.path(), "b");
    assert!(a.wait("x.img").ready);
    until("it is taken back", || said("WINDOW_FITS").is_some());
}
