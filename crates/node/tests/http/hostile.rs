//! Input that nobody means well: too long, too slow, too many, none of it HTTP. The node refuses it by
//! name where there is somebody to tell, holds little for it, and serves the others meanwhile.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_node::budget;
use serde_json::json;

use crate::client::{Ask, Reply, connect, said};
use crate::served::served;

fn lives(at: SocketAddr) {
    assert_eq!(Ask::get("/livez").at(at).status, 200);
}

#[test]
fn what_is_no_request_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let refused = |ask: Ask| {
        let reply = served.ask(ask);
        (reply.status, reply.code())
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    let pause = || Ask::new("POST", "/api/v1/pause");
    assert_eq!(refused(Ask::get("/nothing/here")), is(404, "HTTP_ROUTE"));
    assert_eq!(refused(Ask::get("/api/v1/../../etc/passwd")), is(404, "HTTP_ROUTE"));
    for method in ["POST", "DELETE", "TRACE", "OPTIONS", "BREW"] {
        assert_eq!(refused(Ask::new(method, "/livez")), is(405, "HTTP_METHOD"), "{method}");
    }
    assert_eq!(refused(pause().say(&json!({ "per": "x" }))), is(400, "CONTROL_BAD_REQUEST"));
    assert_eq!(refused(pause().say(&json!([]))), is(400, "CONTROL_BAD_REQUEST"));
    assert_eq!(refused(pause().say(&json!({ "for_seconds": -1 }))), is(400, "CONTROL_BAD_REQUEST"));
    assert_eq!(refused(pause().say(&json!({ "peer": "nobody" }))), is(404, "PEER_UNKNOWN"));
    assert_eq!(refused(pause().say(&json!({ "image": "a/b/c@d" }))), is(404, "IMAGE_UNKNOWN"));
    let nowhere = json!({ "name": "x", "path": "/nonexistent/x" });
    let nowhere = Ask::new("POST", "/api/v1/stores").say(&nowhere);
    assert_eq!(refused(nowhere), is(404, "SOURCE_MISSING"));
    let zero = Ask::new("PUT", "/api/v1/limit").say(&json!({ "bits_per_second": 0 }));
    assert_eq!(refused(zero), is(422, "CONTROL_BAD_REQUEST"));
    let long = json!({ "peer": "x".repeat(budget::HTTP_BODY_BYTES_MAX) });
    assert_eq!(refused(pause().say(&long)), is(413, "CONTROL_TOO_LONG"));
    let image = Ask::get("/api/v1/images/vdisks/%2e%2e%2fetc?x=1");
    assert_eq!(refused(image), is(400, "CONTROL_BAD_REQUEST"));
    assert_eq!(refused(Ask::get("/api/v1/images/vdisks/%2e%2e%2fetc")), is(404, "IMAGE_UNKNOWN"));
    assert_eq!(refused(Ask::get("/api/v1/stores/%ff")), is(400, "CONTROL_BAD_REQUEST"));
    let kind = |kind: &str| {
        let text = String::from_utf8(pause().token(Some(&served.admin)).say(&json!({})).bytes());
        let text = text.expect("ASCII").replace("application/json", kind);
        Reply::parse(&said(served.at, text.as_bytes()))
    };
    for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let reply = kind(bad);
        assert_eq!((reply.status, reply.code()), is(415, "HTTP_TYPE"), "{bad}");
    }
    assert_eq!(kind("Application/JSON; charset=utf-8").status, 200);
    lives(served.at);
}

#[test]
fn what_is_no_http_ends_the_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let wide = "y".repeat(budget::HTTP_HEAD_BYTES_MAX);
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let head = "POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let token =
        format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", served.admin);
    let inputs: [(Vec<u8>, &[u16]); 10] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400, 505, 405, 421]),
        (b"{\"cmd\":\"status\"}\n{\"cmd\":\"status\"}\n".to_vec(), &[400]),
        (vec![0; 100_000], &[400]),
        (format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").into_bytes(), &[431]),
        (
            format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {wide}\r\n\r\n").into_bytes(),
            &[431],
        ),
        (format!("GET /{wide} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes(), &[414, 431]),
        (format!("{head}{token}Content-Length: 999999999999\r\n\r\n{{").into_bytes(), &[413]),
        (
            format!("{head}{token}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{{")
                .into_bytes(),
            &[400, 413],
        ),
        (format!("{head}{token}Content-Length: {}\r\n\r\n{deep}", deep.len()).into_bytes(), &[400]),
    ];
    for (input, statuses) in inputs {
        let answer = said(served.at, &input);
        // A connection that is reset before its answer is read tells nothing: also fine.
        if !answer.is_empty() {
            let status = Reply::parse(&answer).status;
            assert!(
                statuses.contains(&status),
                "{status} to {:?}",
                String::from_utf8_lossy(&input[..40.min(input.len())])
            );
        }
        lives(served.at);
    }
}

#[test]
fn every_cut_and_many_flips_of_a_request_are_survived() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let request = Ask::get("/api/v1/orders").token(Some(&served.read)).bytes();
    for bit in (0..request.len() * 8).step_by(7) {
        let mut bad = request.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut stream = connect(served.at);
        stream.write_all(&bad).expect("said");
        stream.shutdown(std::net::Shutdown::Write).expect("no more");
        let _answer = stream.read(&mut [0; 64]);
    }
    for length in (0..request.len()).step_by(3) {
        let mut stream = connect(served.at);
        stream.write_all(&request[..length]).expect("said");
    }
    lives(served.at);
}

#[test]
fn who_is_slow_is_hung_up_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let at = served.at;
    // Silence, a head in drops, and a body that doesn't come.
    let silent = thread::spawn(move || ends(at, b"", false));
    let dripping = thread::spawn(move || ends(at, b"GET /livez HTTP/1.1\r\n", true));
    let body = format!(
        "POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{{",
        served.admin
    );
    let waiting = thread::spawn(move || ends(at, body.as_bytes(), false));
    let most = budget::HTTP_HEAD_DEADLINE.max(budget::HTTP_BODY_DEADLINE) + Duration::from_secs(20);
    for (what, client) in [("silence", silent), ("drops", dripping), ("no body", waiting)] {
        let (took, answer) = client.join().expect("it ends");
        assert!(took < most, "{what}: {took:?}");
        if what == "no body" {
            let reply = Reply::parse(&answer);
            assert_eq!((reply.status, reply.code().as_str()), (408, "HTTP_SLOW"));
        }
    }
    lives(at);
}

/// How long it takes until the other side ends a connection on which this was said, and what it said.
fn ends(at: SocketAddr, bytes: &[u8], drip: bool) -> (Duration, Vec<u8>) {
    let started = Instant::now();
    let mut stream = connect(at);
    stream.write_all(bytes).expect("said");
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    while started.elapsed() < Duration::from_secs(60) {
        if drip && stream.write_all(b"X: y\r\n").is_err() {
            break;
        }
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    (started.elapsed(), answer)
}

#[test]
fn connections_are_bounded_and_come_free_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let held: Vec<_> = (0..budget::HTTP_CONNECTIONS_MAX).map(|_| connect(served.at)).collect();
    // The node takes them one after the other; then the next one is hung up on.
    let started = Instant::now();
    while !said(served.at, &Ask::get("/livez").bytes()).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "never full");
    }
    drop(held);
    let started = Instant::now();
    while said(served.at, &Ask::get("/livez").bytes()).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "never free again");
        thread::sleep(Duration::from_millis(50));
    }
    // Followers leave room for questions.
    let mut followers = Vec::new();
    for _ in 0..budget::HTTP_FOLLOWERS_MAX {
        let mut stream = connect(served.at);
        let ask = Ask::get("/api/v1/events").token(Some(&served.read));
        stream.write_all(&ask.bytes()).expect("asked");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer begins");
        followers.push(stream);
    }
    let reply = served.ask(Ask::get("/api/v1/events"));
    assert_eq!((reply.status, reply.code().as_str()), (503, "CONTROL_BUSY"));
    assert_eq!(served.ask(Ask::get("/api/v1/status")).status, 200);
}
