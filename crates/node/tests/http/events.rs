//! Events as they are streamed: from the past into the present, and on where it stopped.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use blockferry_node::api::{Affected, Request, Severity};
use blockferry_node::ledger::{Happening, Ledger};
use serde_json::Value;

use crate::client::{Ask, connect};
use crate::running::config;
use crate::served::{plain, served};

/// One block of a stream.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) id: Option<u64>,
    pub(crate) event: String,
    pub(crate) data: Option<Value>,
}

/// A client that follows, as a browser would.
pub(crate) struct Follower(BufReader<TcpStream>);

impl Follower {
    fn at(at: SocketAddr, query: &str, last: Option<u64>) -> Follower {
        let last = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
        Follower::saying(at, query, &last)
    }

    /// Follows what happens with a token.
    pub(crate) fn with(at: SocketAddr, token: &str) -> Follower {
        Follower::saying(at, "", &format!("Authorization: Bearer {token}\r\n"))
    }

    fn saying(at: SocketAddr, query: &str, last: &str) -> Follower {
        let mut stream = connect(at);
        // HTTP/1.0 has no chunks: what comes is the stream itself.
        let ask = format!("GET /api/v1/events{query} HTTP/1.0\r\nHost: localhost\r\n{last}\r\n");
        stream.write_all(ask.as_bytes()).expect("asked");
        let mut follower = Follower(BufReader::new(stream));
        let mut head = String::new();
        while follower.line().is_some_and(|line| {
            head += &line;
            head += "\n";
            !line.is_empty()
        }) {}
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        follower
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.0.read_line(&mut line).expect("read in time");
        (count > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next block that is an event; `None`: the stream has ended.
    pub(crate) fn next(&mut self) -> Option<Block> {
        let mut block = Block::default();
        loop {
            let line = self.line()?;
            if let Some(id) = line.strip_prefix("id: ") {
                block.id = Some(id.parse().expect("a number"));
            } else if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut block.event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                block.data = Some(serde_json::from_str(data).expect("JSON"));
            } else if line.is_empty() && block.data.is_some() {
                return Some(block);
            } else {
                assert!(
                    line.is_empty() || line.starts_with(':') || line.starts_with("retry:"),
                    "{line}"
                );
            }
        }
    }

    pub(crate) fn rest(mut self) -> Vec<Block> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

#[test]
fn a_stream_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let (node, at) = plain(dir.path(), |_| {});
    let mut first = Follower::at(at, "", None);
    let started = first.next().expect("the past");
    let data = started.data.expect("data");
    assert_eq!((data["code"].as_str(), data["number"].as_u64()), (Some("STARTED"), started.id));
    // Live: an order is an event at once.
    let pause = Request::Pause(Affected::default());
    let _: Value = node.ask(&pause);
    let paused = first.next().expect("the present");
    assert_eq!(paused.data.as_ref().expect("data")["code"], "PAUSED");
    let last = paused.id.expect("a number");
    drop(first);
    // What happens while nobody listens is told when somebody is back, once and in order.
    for _ in 0..3 {
        let _: Value = node.ask(&pause);
    }
    let mut again = Follower::at(at, "", Some(last));
    let numbers: Vec<u64> = (0..3).map(|_| again.next().and_then(|b| b.id).expect("one")).collect();
    assert_eq!(numbers, [last + 1, last + 2, last + 3]);
    let _: Value = node.ask(&pause);
    assert_eq!(again.next().expect("the present").id, Some(last + 4));
    // Without following it ends; what is seen is left out; numbers from elsewhere begin anew.
    let ended: Vec<_> = Follower::at(at, "?follow=false", Some(last + 3)).rest();
    assert_eq!(ended.iter().map(|b| b.id).collect::<Vec<_>>(), [Some(last + 4)]);
    assert_eq!(Follower::at(at, "?follow=false", Some(1_000_000)).rest().len() as u64, last + 4);
    assert!(Follower::at(at, "?follow=false&since_seconds=0", None).rest().len() < 2);
    // A node that stops doesn't wait for those who listen.
    let stopping = Instant::now();
    node.stop();
    assert!(stopping.elapsed() < Duration::from_secs(15), "{:?}", stopping.elapsed());
    assert!(again.rest().is_empty());
}

#[test]
fn what_is_not_kept_any_more_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = config(&dir.path().join("hub"), "hub", 0).state_dir;
    std::fs::create_dir_all(&state).expect("a directory");
    let ledger = Ledger::open(&state.join("node.redb")).expect("opened");
    let kept = blockferry_node::budget::EVENTS_KEPT;
    let happening = Happening {
        unix_ms: 0,
        code: "OLD",
        severity: Severity::Info,
        message: "line\nbreak".to_owned(),
        store: None,
        image: None,
        peer: None,
    };
    let many = usize::try_from(kept).expect("few") + 100;
    ledger.append(&vec![happening; many]).expect("written");
    let (first, last) = ledger.events_kept().expect("read");
    assert!(first > 50 && last == kept + 100, "{first} {last}");
    drop(ledger);
    let (_node, at) = plain(dir.path(), |_| {});
    let mut stream = Follower::at(at, "?follow=false", Some(3));
    let missed = stream.next().expect("told");
    let span = missed.data.expect("data");
    assert_eq!((missed.event.as_str(), missed.id), ("missed", None));
    assert_eq!(span["from"], 4);
    let next = stream.next().expect("the oldest");
    assert_eq!(span["to"].as_u64().map(|to| to + 1), next.id);
    assert_eq!(next.data.expect("data")["message"], "line\nbreak");
    let count = stream.rest().len() as u64 + 1;
    assert!(count >= kept - 50, "{count}");
}

#[test]
fn a_bad_place_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    for bad in ["x", "-1", "1.5", ""] {
        let reply = served.ask(Ask::get("/api/v1/events").header("Last-Event-ID", bad));
        assert_eq!((reply.status, reply.code().as_str()), (400, "CONTROL_BAD_REQUEST"), "{bad:?}");
    }
}
