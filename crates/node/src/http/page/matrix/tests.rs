//! Every state that a cell and a verdict can have, from reports as the API writes them.

use serde_json::{Value, json};

use super::*;

fn peer(name: &str, since: Option<&str>) -> PeerRow {
    serde_json::from_value(json!({
        "id": "A", "name": name, "connected": since.is_none(), "rtt_ms": 1.0,
        "rate_limit_bits_per_second": null, "backlog_bytes": 0, "backlog_images": 0,
        "state": if since.is_none() { "up" } else { "down" }, "since": since,
    }))
    .expect("a peer")
}

fn image(state: &str, promoted: Value) -> ImageRow {
    serde_json::from_value(json!({
        "store": "vdisks", "name": "win11.vhdx", "generation": 7, "root": "aa", "size_bytes": 40_u64 << 30,
        "state": state, "set": null, "peers": [], "promoted": promoted,
    }))
    .expect("an image")
}

/// Of (name, reason or null for ready, when).
fn ready(peers: &[(&str, Value, Option<&str>)]) -> ReadyReport {
    let rows: Vec<Value> = peers
        .iter()
        .map(|(name, reason, eta)| {
            json!({ "peer": name, "ready": reason.is_null(), "reason": reason, "generation": 6, "eta": eta })
        })
        .collect();
    let all = peers.iter().all(|(_, reason, _)| reason.is_null()) && !peers.is_empty();
    let report = json!({
        "schema": "v1", "image": "vdisks/win11.vhdx", "generation": 7, "ready": all, "peers": rows,
    });
    serde_json::from_value(report).expect("a report")
}

fn item(peer: &str, done: Option<u64>, bytes: u64) -> BacklogItem {
    serde_json::from_value(json!({
        "store": "vdisks", "image": "win11.vhdx", "peer": peer, "bytes": bytes, "done_bytes": done,
        "eta": null, "reason": "transferring",
    }))
    .expect("an item")
}

fn row(image: ImageRow, report: Option<ReadyReport>, backlog: &[BacklogItem]) -> Row {
    let clock = Clock::at("UTC", 1_793_617_200);
    let enough = report.as_ref().is_some_and(|report| report.ready);
    let peers = [peer("b1", None), peer("b2", Some("2026-11-02T09:02:00Z"))];
    let known = Known {
        images: &[image],
        ready: &[report],
        enough: &[enough],
        backlog,
        peers: &peers,
        clock: &clock,
    };
    known.matrix().rows.remove(0)
}

fn cell(reason: Value, eta: Option<&str>, backlog: &[BacklogItem]) -> Cell {
    let report = ready(&[("b1", reason, eta)]);
    row(image("current", Value::Null), Some(report), backlog).cells.remove(0)
}

#[test]
fn each_reason_has_its_mark_and_its_word() {
    for (reason, mark, text) in [
        (Value::Null, Mark::Good, "OK"),
        (json!("transferring"), Mark::Waiting, "next"),
        (json!("verifying"), Mark::Moving, "verifying"),
        (json!("schedule"), Mark::Waiting, "calendar"),
        (json!("paused"), Mark::Paused, "paused"),
        (json!("peer_down"), Mark::Offline, "offline"),
        (json!("changed"), Mark::Drift, "drift"),
        (json!("diverged"), Mark::Diverged, "diverged"),
        (json!("damaged"), Mark::Bad, "damaged"),
        (json!("space"), Mark::Bad, "no room"),
        (json!("in_use"), Mark::Waiting, "in use"),
        (json!("set_incomplete"), Mark::Waiting, "set"),
        (json!("moonlight"), Mark::Unknown, "behind"),
    ] {
        let cell = cell(reason.clone(), None, &[]);
        assert_eq!((cell.mark, cell.text.as_str()), (mark, text), "{reason}");
    }
    assert_eq!(cell(json!("schedule"), Some("2026-11-02T21:30:00Z"), &[]).text, "by 21:30");
}

#[test]
fn a_transfer_shows_how_far_it_is_and_never_all_of_it() {
    for (done, left, percent) in [(0, 10, 0), (43, 57, 43), (10, 0, 99), (u64::MAX, u64::MAX, 50)] {
        let cell = cell(json!("transferring"), None, &[item("b1", Some(done), left)]);
        assert_eq!(cell.percent, Some(percent), "{done} of {left}");
        assert_eq!((cell.mark, cell.text), (Mark::Moving, format!("{percent} %")));
    }
    assert_eq!(cell(json!("transferring"), None, &[item("b1", None, 5)]).percent, None);
    assert_eq!(cell(json!("transferring"), None, &[item("b1", Some(0), 0)]).percent, None);
    assert_eq!(cell(json!("transferring"), None, &[item("b2", Some(1), 1)]).percent, None);
}

#[test]
fn who_is_gone_is_shown_since_when() {
    let report = ready(&[("b1", Value::Null, None), ("b2", json!("peer_down"), None)]);
    let row = row(image("current", Value::Null), Some(report), &[]);
    assert_eq!((row.cells[1].mark, row.cells[1].text.as_str()), (Mark::Offline, "since 09:02"));
    assert_eq!((row.held, row.members), (1, 2));
    assert_eq!(row.verdict.answer, Answer::NotYet);
    assert_eq!(row.verdict.detail, "b2 offline since 09:02");
}

#[test]
fn the_verdict_is_that_of_ready() {
    let good = || Some(ready(&[("b1", Value::Null, None)]));
    let yes = row(image("current", Value::Null), good(), &[]);
    assert_eq!(
        (yes.verdict.answer, yes.verdict.detail.as_str()),
        (Answer::Yes, "verified on 1 node")
    );
    let promotion = |root: &str| {
        json!({ "generation": 7, "root": root, "node": "hub", "by": "token ops",
            "at": "2026-11-02T10:00:00Z", "receipts": [] })
    };
    let done = row(image("current", promotion("aa")), good(), &[]);
    assert_eq!(
        (done.verdict.answer, done.verdict.detail.as_str()),
        (Answer::Promoted, "by token ops on hub")
    );
    // Another content was.
    let before = row(image("current", promotion("bb")), good(), &[]);
    assert_eq!(before.verdict.answer, Answer::Yes);
    for (state, answer) in [
        ("diverged", Answer::No),
        ("missing", Answer::No),
        ("damaged", Answer::No),
        ("set_incomplete", Answer::No),
        ("parent_mismatch", Answer::No),
        ("changed", Answer::NotYet),
        ("recording", Answer::NotYet),
        ("receiving", Answer::Yes),
        ("other", Answer::Yes),
    ] {
        let row = row(image(state, Value::Null), good(), &[]);
        assert_eq!(row.verdict.answer, answer, "{state}");
    }
    assert_eq!(row(image("current", Value::Null), None, &[]).verdict.answer, Answer::NotYet);
    let alone = row(image("current", Value::Null), Some(ready(&[])), &[]);
    assert_eq!((alone.verdict.answer, alone.verdict.text.as_str()), (Answer::No, "Only here"));
}

#[test]
fn not_yet_says_until_when_if_that_is_known_of_all() {
    let early = Some("2026-11-02T13:00:00Z");
    let late = Some("2026-11-02T15:00:00Z");
    let waits = |first, second| {
        let rows = [("b1", json!("transferring"), first), ("b2", json!("schedule"), second)];
        row(image("current", Value::Null), Some(ready(&rows)), &[]).verdict
    };
    let verdict = waits(early, late);
    assert_eq!((verdict.answer, verdict.text.as_str()), (Answer::NotYet, "Not yet"));
    assert_eq!(verdict.when.expect("a time").text, "15:00");
    assert_eq!(waits(early, None).when, None);
    // What waits for somebody has the word.
    let rows = [("b1", json!("transferring"), early), ("b2", json!("changed"), None)];
    let stuck = row(image("current", Value::Null), Some(ready(&rows)), &[]).verdict;
    assert_eq!((stuck.answer, stuck.detail.as_str()), (Answer::No, "b2: drift, 1 more"));
}

#[test]
fn the_sentence_on_top() {
    let told = |counts: &[(&'static str, usize)]| {
        let counts = counts.iter().copied().collect();
        let (answer, text, rest) = tally(&counts);
        (answer, format!("{text} {rest}"))
    };
    for (counts, answer, text) in [
        (&[][..], Answer::NotYet, "No images yet. Add a store, or join one."),
        (
            &[("yes", 1)],
            Answer::Yes,
            "Yes, promote. The image is on every required node, verified.",
        ),
        (
            &[("yes", 2), ("promoted", 1)],
            Answer::Yes,
            "Yes, promote. All 3 images are on every required node, verified.",
        ),
        (
            &[("promoted", 3)],
            Answer::Promoted,
            "All promoted. All 3 images are on every required node, verified.",
        ),
        (&[("notyet", 1)], Answer::NotYet, "Not yet. 1 image is on the way."),
        (&[("no", 2)], Answer::No, "No. 2 images need somebody to act."),
        (
            &[("yes", 3), ("notyet", 2)],
            Answer::NotYet,
            "3 of 5 may be promoted. 2 images are on the way.",
        ),
        (
            &[("yes", 3), ("notyet", 1), ("no", 1)],
            Answer::Part,
            "3 of 5 may be promoted. 1 image is on the way, 1 image needs somebody to act.",
        ),
    ] {
        assert_eq!(told(counts), (answer, text.to_owned()), "{counts:?}");
    }
}
