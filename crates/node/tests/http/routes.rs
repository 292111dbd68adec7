//! Every route once, with what it is for, on a hub and a branch.

use std::collections::BTreeSet;

use blockferry_node::api::{
    AdoptReport, AdoptStatus, AdoptionPhase, Compared, ImagesReport, OrdersReport, PeersReport,
    PublishReport, PushDone, ReadyReport, Role, SchedulesReport, StatusReport,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Ask, Reply};
use crate::openmetrics;
use crate::running::{Running, node, noise, until};
use crate::schedules::with_file;
use crate::served::{Served, served_by};

/// A hub, a branch that has one image of it, and which routes were asked.
struct Pair {
    hub: Served,
    branch: Running,
    asked: BTreeSet<(String, String)>,
    /// The ETag that is sent along.
    matching: Option<String>,
}

impl Pair {
    /// Asks `method` at the route `path`, whose names stand for what they are here.
    fn ask(&mut self, method: &str, path: &str, query: &str, body: Option<Value>) -> Reply {
        self.asked.insert((method.to_owned(), path.to_owned()));
        let target = path.replace("{store}", "vdisks").replace("{image}", "disk.img");
        let target = target.replace("{schedule}", "night");
        let ask = Ask::new(method, &format!("{}{query}", target.replace("{peer}", "branch")));
        let ask = match &body {
            Some(body) => ask.say(body),
            None => ask,
        };
        let ask = match &self.matching {
            Some(tag) => ask.header("If-Match", &format!("\"{tag}\"")),
            None => ask,
        };
        let reply = self.hub.ask(ask);
        assert!(matches!(reply.status, 200 | 201), "{method} {path}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        reply
    }

    fn get<T: DeserializeOwned>(&mut self, path: &str, query: &str) -> T {
        let reply = self.ask("get", path, query, None);
        serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{path}: {e}: {reply:?}"))
    }
}

#[test]
fn every_route_does_what_it_is_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = served_by(dir.path(), with_file);
    let branch = node(dir.path(), "branch");
    let mut pair = Pair { hub, branch, asked: BTreeSet::new(), matching: None };
    stores_and_peers(&mut pair);
    images(&mut pair);
    orders(&mut pair);
    schedules(&mut pair);
    for path in ["/livez", "/readyz"] {
        pair.ask("get", path, "", None);
    }
    let text = pair.ask("get", "/metrics", "", None);
    assert!(text.header("content-type").is_some_and(|kind| kind.contains("openmetrics-text")));
    measured(&text.body);
    let doctor: Value = pair.get("/api/v1/doctor", "");
    assert!(doctor["online"] == json!(true) && doctor["findings"].is_array(), "{doctor}");
    let events = pair.ask("get", "/api/v1/events", "?follow=false", None);
    assert!(events.body.contains("\"code\":\"RECEIPT\""), "{events:?}");
    waiting(&mut pair);
    adoption(&mut pair);
    removed(&mut pair);
    let document: Value = pair.get("/openapi.json", "");
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        described.extend(
            methods.as_object().expect("methods").keys().map(|m| (m.clone(), path.clone())),
        );
    }
    assert_eq!(pair.asked, described, "a route was not asked");
}

fn stores_and_peers(pair: &mut Pair) {
    let images = pair.hub.node.dir.join("images");
    std::fs::create_dir_all(&images).expect("a directory");
    let new = json!({ "name": "vdisks", "path": images, "role": "writer" });
    assert_eq!(pair.ask("post", "/api/v1/stores", "", Some(new)).status, 201);
    let ticket = json!({ "store": "vdisks", "role": "writer", "ttl_seconds": 60 });
    let invited = pair.ask("post", "/api/v1/invitations", "", Some(ticket)).json();
    pair.branch.join(invited["ticket"].as_str().expect("a ticket"));
    // The other way round, by HTTP: the branch has a store that the hub joins.
    pair.branch.add_store_at("second", "second");
    let ticket = pair.branch.invite_to("second", Role::Writer);
    let joined = pair.ask("post", "/api/v1/join", "", Some(json!({ "ticket": ticket }))).json();
    assert_eq!(
        (joined["store"].as_str(), joined["peer"].as_str()),
        (Some("second"), Some("branch"))
    );
    let stores: Value = pair.get("/api/v1/stores", "");
    assert_eq!(stores["stores"].as_array().expect("stores").len(), 2);
    let store: Value = pair.get("/api/v1/stores/{store}", "");
    assert_eq!(store["stores"][0]["name"], "vdisks");
    let peers: PeersReport = pair.get("/api/v1/peers", "");
    assert_eq!(peers.peers.len(), 1);
    let peer: PeersReport = pair.get("/api/v1/peers/{peer}", "");
    assert_eq!(peer.peers[0].name, "branch");
    let setting = json!({ "key": "compression", "value": "3" });
    pair.ask("patch", "/api/v1/peers/{peer}", "", Some(setting));
    let status: StatusReport = pair.get("/api/v1/status", "");
    assert_eq!((status.node.name.as_str(), status.stores.len()), ("hub", 2));
}

fn images(pair: &mut Pair) {
    std::fs::write(pair.hub.node.dir.join("images/disk.img"), noise(1, 3 << 20)).expect("written");
    let path = "/api/v1/images/{store}/{image}";
    let published = pair.ask("post", &format!("{path}/publish"), "", None);
    let published: PublishReport = serde_json::from_str(&published.body).expect("a report");
    assert_eq!(published.generation, 1);
    let pushed = pair.ask("post", &format!("{path}/push"), "", Some(json!({ "wait": true })));
    let pushed: PushDone = serde_json::from_str(&pushed.body).expect("a report");
    assert!(pushed.in_sync && pushed.peers.len() == 1, "{pushed:?}");
    // The branch reads it back first, at its leisure.
    until("it is verified there", || {
        let one = "?generation=1&require=branch";
        pair.get::<ReadyReport>(&format!("{path}/ready"), one).ready
    });
    let ready: ReadyReport = pair.get(&format!("{path}/ready"), "?require=2");
    assert!(!ready.ready, "there are not two");
    let history: Value = pair.get(&format!("{path}/history"), "");
    assert_eq!(history["generations"][0]["root"], published.root);
    let csv = Ask::get("/api/v1/images/vdisks/disk.img/history").header("Accept", "text/csv");
    let csv = pair.hub.ask(csv);
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert!(csv.body.starts_with("generation,recorded,root,"), "{}", csv.body);
    assert!(csv.body.contains(&format!("Z,{},", published.root)), "{}", csv.body);
    let plan: Value = pair.get(&format!("{path}/plan"), "?peer=branch");
    assert_eq!((&plan["send_bytes"], &plan["fits"]), (&json!(0), &Value::Null));
    let plan: Value = pair.get(&format!("{path}/plan"), "?at=Mon%2022:00&by=Tue%2006:00");
    assert!(plan["start"].is_string() && plan["by"].is_string(), "{plan}");
    let all: ImagesReport = pair.get("/api/v1/images", "?store=vdisks");
    let one: ImagesReport = pair.get(path, "");
    assert_eq!((all.images.len(), &all.images[0].name), (1, &one.images[0].name));
    let backlog: Value = pair.get("/api/v1/backlog", "?peer=branch");
    assert_eq!(backlog["items"], json!([]));
    let trends: Value = pair.get("/api/v1/trends", "?peer=branch");
    assert_eq!(trends["peer"], "branch");
    decided(pair, path);
    let order = json!({ "image": "vdisks/disk.img" });
    let verified = pair.ask("post", "/api/v1/verify", "", Some(order)).json();
    assert_eq!((&verified["ok"], &verified["rows"][0]["ok"]), (&json!(true), &json!(true)));
}

/// A promotion that is refused and one that isn't, conflicts that there aren't, and the way back.
fn decided(pair: &mut Pair, path: &str) {
    let promote = format!("{path}/promote");
    let refused = pair.ask("post", &promote, "", Some(json!({ "require": "2" }))).json();
    assert_eq!((&refused["promoted"], &refused["code"]), (&json!(false), &json!("NOT_IN_SYNC")));
    let order = json!({ "generation": 1, "require": "branch" });
    let promoted = pair.ask("post", &promote, "", Some(order)).json();
    assert_eq!((&promoted["promoted"], &promoted["receipts"]), (&json!(true), &json!(["branch"])));
    let one: ImagesReport = pair.get(path, "");
    let row = one.images[0].promoted.as_ref().expect("it is shown");
    assert_eq!((row.by.as_str(), row.node.as_str()), ("token admin", "hub"));
    let conflicts: Value = pair.get("/api/v1/conflicts", "?image=vdisks/disk.img");
    assert_eq!((&conflicts["open"], &conflicts["conflicts"]), (&json!(0), &json!([])));
    let acknowledge = json!({ "acknowledge": true });
    let resolved = pair.ask("post", &format!("{path}/resolve"), "", Some(acknowledge)).json();
    assert_eq!((&resolved["generation"], &resolved["released"]), (&json!(1), &json!(0)));
    // What is current is where one is already.
    let back = pair.ask("post", &format!("{path}/rollback"), "", Some(json!({ "generation": 1 })));
    assert_eq!(back.json()["recorded"], false);
}

fn orders(pair: &mut Pair) {
    let only = json!({ "peer": "branch", "for_seconds": 3600 });
    for order in ["pause", "boost", "resume"] {
        let given = pair.ask("post", &format!("/api/v1/{order}"), "", Some(only.clone()));
        let given: OrdersReport = serde_json::from_str(&given.body).expect("a report");
        // What a resume ends is gone, and the resume with it.
        assert_eq!(given.orders.is_empty(), order == "resume", "{order}: {given:?}");
    }
    let limit = json!({ "peer": "branch", "bits_per_second": 5_000_000 });
    pair.ask("put", "/api/v1/limit", "", Some(limit));
    let orders: OrdersReport = pair.get("/api/v1/orders", "");
    assert_eq!(orders.rates[0].rate_limit_bits_per_second, Some(5_000_000));
    pair.ask("delete", "/api/v1/limit", "?peer=branch", None);
    let orders: OrdersReport = pair.get("/api/v1/orders", "");
    assert_eq!(orders.rates[0].rate_limit_bits_per_second, None);
}

/// A calendar, and a change of it in a file that the test is.
fn schedules(pair: &mut Pair) {
    let all: SchedulesReport = pair.get("/api/v1/schedules", "");
    assert_eq!((all.schedules.len(), all.writable), (1, true));
    let path = "/api/v1/schedules/{schedule}";
    let one: SchedulesReport = pair.get(path, "");
    assert_eq!((one.schedules[0].name.as_str(), &one.tag), ("night", &all.tag));
    pair.matching = one.tag;
    let changed = pair.ask("put", path, "", Some(json!({ "default": "pause" })));
    let changed: SchedulesReport = serde_json::from_str(&changed.body).expect("a report");
    assert_eq!(changed.schedules[0].now.rate_limit_bits_per_second, Some(0));
    pair.matching = None;
}

/// What the metrics say after one image has travelled.
fn measured(text: &str) {
    let families = openmetrics::check(text);
    for name in [
        "build",
        "image_in_sync",
        "image_lag_seconds",
        "backlog_bytes",
        "backlog_eta_seconds",
        "wire_bytes",
        "logical_bytes",
        "saved_bytes",
        "rate_limit_bits_per_second",
        "peer_up",
        "peer_rtt_seconds",
        "quic_lost_packets",
        "discover_seconds",
        "scan_bytes",
        "commit_seconds",
        "verify_failures",
        "store_free_bytes",
        "errors",
    ] {
        assert!(families.contains(&format!("blockferry_{name}")), "{name} is missing");
    }
    let value = |series: &str| openmetrics::value(text, series);
    assert_eq!(value(r#"blockferry_image_in_sync{image="vdisks/disk.img",peer="branch"}"#), 1.0);
    assert_eq!(value(r#"blockferry_peer_up{peer="branch"}"#), 1.0);
    let sent = value(r#"blockferry_wire_bytes_total{peer="branch",direction="sent"}"#);
    assert!(sent > f64::from(3 << 20), "{sent} bytes for noise");
    let logical = value(r#"blockferry_logical_bytes_total{direction="sent"}"#);
    assert_eq!(logical, f64::from(3 << 20));
    assert_eq!(value("blockferry_scan_bytes_total{}"), f64::from(3 << 20));
    assert_eq!(value(r#"blockferry_discover_seconds_count{discover="scan"}"#), 1.0);
    assert_eq!(value(r#"blockferry_store_in_service{store="vdisks"}"#), 1.0);
    assert_eq!(value(r#"blockferry_errors_total{code="DIVERGED"}"#), 0.0);
}

/// A wait for a receipt that doesn't come ends by itself.
fn waiting(pair: &mut Pair) {
    pair.ask("post", "/api/v1/pause", "", Some(json!({})));
    std::fs::write(pair.hub.node.dir.join("images/disk.img"), noise(2, 3 << 20)).expect("written");
    let path = "/api/v1/images/vdisks/disk.img";
    let say = |what: &str, body: Value| Ask::new("POST", &format!("{path}/{what}")).say(&body);
    assert_eq!(pair.hub.ask(say("publish", json!({}))).status, 200);
    let late = pair.hub.ask(say("push", json!({ "wait": true, "wait_seconds": 1 })));
    assert_eq!((late.status, &late.json()["in_sync"]), (202, &json!(false)), "{late:?}");
    for bad in [0, 3601] {
        let refused = pair.hub.ask(say("push", json!({ "wait": true, "wait_seconds": bad })));
        assert_eq!(refused.status, 400, "{refused:?}");
    }
    pair.ask("post", "/api/v1/resume", "", Some(json!({})));
    let there = pair.hub.ask(say("push", json!({ "wait": true, "wait_seconds": 60 })));
    assert_eq!((there.status, &there.json()["in_sync"]), (200, &json!(true)), "{there:?}");
}

/// Two steps of an adoption, and what there is to compare.
fn adoption(pair: &mut Pair) {
    let resting: Value = pair.get("/api/v1/adoption", "");
    assert_eq!(resting["stores"].as_array().map(Vec::len), Some(2));
    let start = json!({ "cmd": "adopt_start", "store": "vdisks" });
    let start = serde_json::from_value(start).expect("a request");
    let begun: AdoptStatus = pair.hub.node.ask(&start);
    assert_eq!(begun.stores[0].phase, AdoptionPhase::Observe);
    let path = "/api/v1/adoption/{store}";
    until("the branch is there again", || {
        let report: AdoptReport = pair.get(path, "");
        report.images.iter().any(|row| row.state == Compared::Equal)
    });
    let csv = Ask::get("/api/v1/adoption/vdisks").header("Accept", "text/csv");
    let csv = pair.hub.ask(csv);
    assert!(csv.body.starts_with("image,peer,state,"), "{csv:?}");
    assert!(csv.body.contains("\r\ndisk.img,branch,equal,3145728,"), "{csv:?}");
    let page = pair.hub.ask(Ask::get("/health"));
    assert!(page.body.contains("Being taken over") && page.body.contains("1 equal"), "{page:?}");
    let file = pair.hub.ask(Ask::get("/health/adoption/vdisks/csv"));
    assert_eq!((file.status, &file.body), (200, &csv.body));
    let forward = pair.ask("post", &format!("{path}/next"), "", Some(json!({ "force": false })));
    assert_eq!(forward.json()["stores"][0]["phase"], "shadow");
    let back = pair.ask("post", &format!("{path}/back"), "", None).json();
    assert_eq!(back["stores"][0]["phase"], "observe");
    let refused = pair.hub.ask(Ask::new("POST", "/api/v1/adoption/vdisks/back"));
    assert_eq!((refused.status, refused.code().as_str()), (409, "ADOPTION_NOT_NOW"));
}

fn removed(pair: &mut Pair) {
    let removed = pair.ask("delete", "/api/v1/peers/{peer}", "", None).json();
    assert_eq!(removed["removed"], "branch");
    let reply = pair.hub.ask(Ask::get("/api/v1/peers/branch"));
    assert_eq!((reply.status, reply.code().as_str()), (404, "PEER_UNKNOWN"));
    until("the store is idle", || {
        pair.hub.ask(Ask::get("/api/v1/images/vdisks/disk.img")).json()["images"][0]["state"]
            == "current"
    });
    pair.ask("delete", "/api/v1/stores/{store}", "", None);
    let reply = pair.hub.ask(Ask::get("/api/v1/stores/vdisks"));
    assert_eq!((reply.status, reply.code().as_str()), (404, "STORE_UNKNOWN"));
}

#[test]
fn the_admin_socket_speaks_http_too() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().expect("a directory");
    let node = node(dir.path(), "hub");
    let said = |ask: Ask| {
        let socket = node.dir.join("admin.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("connected");
        stream.write_all(&ask.bytes()).expect("asked");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        Reply::parse(&answer)
    };
    assert_eq!(said(Ask::get("/api/v1/status")).json()["node"]["name"], "hub");
    // Who may open the socket may do what the command line does.
    let paused = said(Ask::new("POST", "/api/v1/pause").say(&json!({})));
    assert_eq!(paused.json()["orders"][0]["order"], "pause", "{paused:?}");
    assert_eq!(said(Ask::get("/livez").host("evil.example")).code(), "HTTP_HOST");
    // There the kernel says who asks.
    node.add_store();
    std::fs::write(node.dir.join("images/disk.img"), noise(1, 1 << 20)).expect("written");
    let path = "/api/v1/images/vdisks/disk.img";
    assert_eq!(said(Ask::new("POST", &format!("{path}/publish"))).json()["generation"], 1);
    let order = json!({ "require": "0" });
    let promoted = said(Ask::new("POST", &format!("{path}/promote")).say(&order)).json();
    assert_eq!(promoted["promoted"], true, "{promoted}");
    let image = said(Ask::get(path)).json();
    let by = image["images"][0]["promoted"]["by"].as_str().expect("who").to_owned();
    assert!(by.starts_with("uid "), "{by}");
    // And the command line itself is understood as before.
    assert_eq!(node.status().node.name, "hub");
}
