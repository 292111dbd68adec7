//! What commands make of a service's answers: text, JSON, exit status; an interrupt; a hang.
//!
//! The service is a thread that answers each request with lines written here.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use blockferry_node::api::{Affected, LineBuffer, REQUEST_BYTES_MAX, Request, parse_request};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ID: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

struct Service {
    directory: TempDir,
    requests: Receiver<Request>,
}

/// Reads one request and answers it; then keeps the connection until the client goes.
fn answer(mut stream: UnixStream, lines: &[Value]) -> Option<Request> {
    let mut buffer = LineBuffer::new(REQUEST_BYTES_MAX);
    let mut bytes = [0; 4096];
    let line = loop {
        if let Some(line) = buffer.next_line().unwrap() {
            break line;
        }
        let count = stream.read(&mut bytes).unwrap();
        if count == 0 {
            return None;
        }
        buffer.push(&bytes[..count]);
    };
    for line in lines {
        writeln!(stream, "{line}").unwrap();
    }
    let _ = stream.read(&mut bytes);
    Some(parse_request(&line).unwrap())
}

impl Service {
    /// A service that answers everything with these lines.
    fn new(lines: Vec<Value>) -> Service {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("c.toml"), "[admin]\nsocket = \"s\"\n").unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if let Some(request) = answer(stream.unwrap(), &lines) {
                    let _ = sender.send(request);
                }
            }
        });
        Service { directory, requests }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockferry"));
        command.env("BLOCKFERRY_CONFIG", self.directory.path().join("c.toml"));
        command.args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

fn done(object: &Value) -> Service {
    Service::new(vec![json!({ "done": object })])
}

fn failing(code: &str, exit: u8) -> Service {
    let error = json!({ "code": code, "message": "what", "remedy": "do this", "exit": exit });
    Service::new(vec![json!({ "error": error })])
}

fn status_report() -> Value {
    json!({
        "schema": "v1",
        "node": { "id": ID, "name": "hub-01", "version": "0.1.0", "uptime_seconds": 11_100 },
        "peers": [{ "id": ID, "name": "branch-07", "connected": true, "rtt_ms": 40.25,
            "rate_limit_bits_per_second": 5_000_000, "backlog_bytes": 3 << 20,
            "backlog_images": 2, "state": "up", "from_the_future": 1 }],
        "stores": [{ "name": "vdisks", "path": "/srv/vdisks", "role": "writer",
            "commit_mode": "clone", "images": 12, "in_sync": false }],
    })
}

#[test]
fn status_is_one_screen() {
    let (status, stdout, stderr) = done(&status_report()).run(&["status"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let expected = format!(
        "hub-01  version 0.1.0  up 3 h 5 min\nid {ID}\n\n\
         STORE   ROLE    COMMIT  IMAGES  SYNC         PEERS  KEPT  PATH\n\
         vdisks  writer  clone   12      not in sync         -     /srv/vdisks\n\n\
         PEER       ID        STATE  RTT      LIMIT     BACKLOG\n\
         branch-07  AAAAAAAA  up     40.2 ms  5 Mbit/s  2 images, 3.0 MiB\n"
    );
    assert_eq!(stdout, expected);
}

#[test]
fn json_has_the_documented_fields() {
    let (status, stdout, _) = done(&status_report()).run(&["status", "--json"]);
    assert_eq!(status, 0);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    let expected = status_report();
    for key in ["id", "name", "version", "uptime_seconds"] {
        assert_eq!(object["node"][key], expected["node"][key], "{key}");
    }
    for key in ["rtt_ms", "rate_limit_bits_per_second", "backlog_bytes", "backlog_images", "state"]
    {
        assert_eq!(object["peers"][0][key], expected["peers"][0][key], "{key}");
    }
    assert_eq!(object["stores"][0]["commit_mode"], "clone");
    assert_eq!(stdout.lines().count(), 1);
}

#[test]
fn the_services_error_is_the_commands() {
    for (code, exit) in [("IMAGE_UNKNOWN", 5), ("IN_USE", 11), ("DISK_FULL", 13), ("DIVERGED", 15)]
    {
        let (status, stdout, stderr) = failing(code, exit).run(&["publish", "a/b"]);
        assert_eq!(status, i32::from(exit));
        assert_eq!(stdout, "");
        assert_eq!(stderr, format!("error[{code}]: what\n  help: do this\n"));
    }
}

#[test]
fn ready_and_not_ready() {
    let report = |ready: bool| {
        json!({ "schema": "v1", "image": "a/b", "generation": 7, "ready": ready,
            "peers": [{ "peer": "p", "ready": ready, "reason": (!ready).then_some("peer_down") }] })
    };
    let service = done(&report(true));
    assert_eq!(service.run(&["ready", "a/b@7", "--require", "p,q"]).0, 0);
    let expected = json!({ "cmd": "ready", "image": "a/b@7", "require": { "peers": ["p", "q"] } });
    assert_eq!(serde_json::to_value(service.requests.recv().unwrap()).unwrap(), expected);
    let (status, stdout, _) = done(&report(false)).run(&["wait", "a/b", "--timeout", "2h"]);
    assert_eq!(status, 3);
    assert_eq!(stdout, "a/b@7 is not ready\n  p: not yet (peer down)\n");
}

#[test]
fn a_promotion_done_refused_and_with_a_hook_that_failed() {
    let report = |code: Option<&str>, hook: Value| {
        json!({ "schema": "v1", "image": "a/b", "generation": 7, "promoted": code.is_none(),
            "code": code, "message": code.map(|_| "p holds a/b@8"), "remedy": code.map(|_| "look"),
            "peers": [{ "peer": "p", "ready": false, "reason": "verifying", "generation": 8,
                "eta": "2026-01-01T00:00:00Z" }],
            "receipts": ["p"], "hook": hook })
    };
    let hook = |ok| json!({ "program": "/h", "ok": ok, "said": "exit status: 3", "seconds": 0.1 });
    let service = done(&report(None, Value::Null));
    let (status, stdout, _) = service.run(&["promote", "a/b@7", "--require", "2"]);
    assert_eq!((status, stdout.as_str()), (0, "a/b@7 is promoted, with receipts of p\n"));
    let expected = json!({ "cmd": "promote", "image": "a/b@7", "require": { "count": 2 } });
    assert_eq!(serde_json::to_value(service.requests.recv().unwrap()).unwrap(), expected);
    assert_eq!(done(&report(None, hook(true))).run(&["promote", "a/b"]).0, 0);
    let (status, stdout, _) = done(&report(None, hook(false))).run(&["promote", "a/b"]);
    assert_eq!(status, 1);
    assert!(stdout.ends_with("  /h failed: exit status: 3\n"), "{stdout}");
    for (code, exit) in [("SUPERSEDED", 3), ("NOT_IN_SYNC", 3), ("DIVERGED", 15)] {
        let refused = done(&report(Some(code), Value::Null));
        let (status, stdout, _) = refused.run(&["promote", "a/b"]);
        assert_eq!(status, exit);
        let told = format!("  {code}: p holds a/b@8\n  help: look\n  p: not yet (verifying), ");
        assert!(stdout.contains(&told), "{stdout}");
    }
}

#[test]
fn long_jobs_are_lines_with_a_summary() {
    let image = json!({ "image": "a/b", "generation": 1, "ok": false, "bytes": 4096,
        "bad_bytes": 4096, "bad": [[0, 4096]] });
    let summary = json!({ "schema": "v1", "ok": false, "images": 1, "bad_images": 1,
        "skipped_images": 0, "bytes": 4096, "seconds": 0.5 });
    let progress = json!({ "phase": "verify", "done_bytes": 1, "total_bytes": 2 });
    let service = Service::new(vec![
        json!({ "progress": progress }),
        json!({ "item": image }),
        json!({ "done": summary }),
    ]);
    let (status, stdout, stderr) = service.run(&["verify", "--json"]);
    assert_eq!((status, stderr.as_str()), (14, ""), "no bar where there is no terminal");
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[0]["schema"], &lines[0]["item"]["bad"]),
        (&json!("v1"), &json!([[0, 4096]]))
    );
    assert_eq!((&lines[1]["schema"], &lines[1]["summary"]["ok"]), (&json!("v1"), &json!(false)));
    let (status, stdout, _) = service.run(&["verify"]);
    assert_eq!(status, 14);
    assert!(stdout.starts_with("a/b@1: 4.0 KiB are wrong\n  4096 bytes at 0\n"), "{stdout}");
}

#[test]
fn invite_prints_the_ticket_alone() {
    let invitation = json!({ "schema": "v1", "ticket": "bf1-secret", "store": "a",
        "role": "mirror", "expires": "2026-01-01T00:00:00Z" });
    let service = done(&invitation);
    let (status, stdout, stderr) = service.run(&["invite", "--store", "a", "--role", "mirror"]);
    assert_eq!((status, stdout.as_str()), (0, "bf1-secret\n"));
    assert!(stderr.contains("as mirror of a until 2026"), "{stderr}");
    let expected = json!({ "cmd": "invite", "store": "a", "role": "mirror", "ttl_seconds": 900 });
    assert_eq!(serde_json::to_value(service.requests.recv().unwrap()).unwrap(), expected);
    assert_eq!(service.run(&["-q", "invite", "--store", "a"]).2, "");
}

#[test]
fn paths_are_made_absolute_for_the_service() {
    let service = done(&json!({ "schema": "v1", "stores": [] }));
    let output = service.command(&["store", "add", "a", "images"]).current_dir("/tmp").output();
    assert!(output.unwrap().status.success());
    let Request::StoreAdd { path, .. } = service.requests.recv().unwrap() else { panic!() };
    assert_eq!(path, std::path::Path::new("/tmp/images"));
}

#[test]
fn an_interrupt_detaches_with_130() {
    let service = Service::new(vec![json!({ "progress": { "phase": "scan" } })]);
    let mut child = service
        .command(&["publish", "a/b"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It is interruptible once it listens to the signal; before that the signal just ends it.
    std::thread::sleep(Duration::from_millis(500));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("the job goes on"), "{stderr}");
}

#[test]
fn a_service_that_hangs_is_left_in_time() {
    let began = Instant::now();
    let (status, _, stderr) = Service::new(vec![]).run(&["status", "--timeout", "200ms"]);
    assert_eq!(status, 4, "{stderr}");
    assert!(stderr.starts_with("error[TIMED_OUT]: "), "{stderr}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn hostile_text_cannot_steer_the_terminal() {
    let mut report = status_report();
    report["peers"][0]["name"] = json!("\u{1b}[2J\u{7}evil\nline");
    let (_, stdout, _) = done(&report).run(&["status"]);
    assert!(!stdout.contains('\u{1b}') && !stdout.contains('\u{7}'), "{stdout:?}");
    assert!(stdout.contains("evil"));
}

#[test]
fn orders_ask_for_what_was_meant() {
    let report = json!({
        "schema": "v1",
        "orders": [{ "order": "pause", "peer": "branch-07", "store": "vdisks", "image": null,
            "bits_per_second": null, "since": "2026-11-22T08:00:00.000Z",
            "until": "2026-11-22T10:00:00.000Z" }],
        "rates": [{ "peer": "branch-07", "rate_limit_bits_per_second": 0,
            "limited_by": "paused by command", "until": "2026-11-22T10:00:00.000Z",
            "schedule": null }],
    });
    let service = done(&report);
    let (status, stdout, stderr) =
        service.run(&["pause", "--peer", "branch-07", "--store", "vdisks", "--for", "2h"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(
        stdout.contains("pause  vdisks  branch-07  -     2026-11-22T10:00:00.000Z"),
        "{stdout}"
    );
    assert!(stdout.contains("branch-07  pause  paused by command"), "{stdout}");
    let affected = Affected {
        peer: Some("branch-07".into()),
        store: Some("vdisks".into()),
        image: None,
        for_seconds: Some(7200),
    };
    assert_eq!(service.requests.recv().unwrap(), Request::Pause(affected));
    service.run(&["boost", "--store", "vdisks", "--image", "a.img"]);
    let Request::Boost(affected) = service.requests.recv().unwrap() else { panic!("no boost") };
    assert_eq!(affected.image.as_deref(), Some("vdisks/a.img"));
    service.run(&["limit", "set", "--peer", "b", "2 MB/s", "--for", "1h"]);
    let asked = Request::LimitSet {
        peer: Some("b".into()),
        bits_per_second: 16_000_000,
        for_seconds: Some(3600),
    };
    assert_eq!(service.requests.recv().unwrap(), asked);
    service.run(&["limit", "clear"]);
    assert_eq!(service.requests.recv().unwrap(), Request::LimitClear { peer: None });
    let (status, _, stderr) = service.run(&["limit", "set", "unlimited"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("limit clear"), "{stderr}");
}
