//! The page without JavaScript, of a real pair: what stands in the matrix, forms, login, who may what,
//! what a screen may load, and that nothing written by others is taken for markup.

use std::collections::BTreeSet;

use blockferry_node::api::{Request, Role};
use serde_json::json;

use crate::client::{Ask, Reply};
use crate::running::{Running, node, noise, until};
use crate::served::{Served, plain, served};

const OURS: &str = "http://localhost:7780";

/// A hub and a branch, and an image of which both have generation 1.
struct Pair {
    hub: Served,
    branch: Option<Running>,
}

fn pair(dir: &std::path::Path) -> Pair {
    let hub = served(dir);
    let branch = node(dir, "branch");
    let images = hub.node.add_store();
    branch.join(&hub.node.invite(Role::Writer));
    std::fs::write(images.join("disk.img"), noise(1, 3 << 20)).expect("written");
    hub.node.publish("disk.img");
    hub.node.wait("disk.img");
    Pair { hub, branch: Some(branch) }
}

impl Pair {
    fn page(&self, path: &str) -> Reply {
        let reply = self.hub.ask(Ask::get(path));
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        whole(&reply);
        reply
    }

    fn live(&self) -> String {
        self.page("/?part=live").body
    }

    fn post(&self, path: &str, form: &str) -> Reply {
        self.hub.ask(Ask::new("POST", path).header("Origin", OURS).form(form))
    }
}

/// What holds for every screen.
fn whole(reply: &Reply) {
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = reply.header("content-security-policy").expect("a policy");
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("referrer-policy"), Some("same-origin"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    // Nothing that the policy would stop, nothing from elsewhere.
    for barred in [" style=", "<style", "onclick", "onload", "javascript:", "//cdn", "https://"] {
        assert!(!reply.body.contains(barred), "{barred}: {}", reply.body);
    }
    for script in reply.body.split("<script").skip(1) {
        assert!(script.starts_with(" src=\"/assets/"), "{script}");
    }
}

/// The addresses of all assets that a screen names.
fn assets(body: &str) -> BTreeSet<String> {
    let named = body.split('"').filter(|part| part.starts_with("/assets/"));
    named.map(str::to_owned).collect()
}

#[test]
fn the_matrix_says_how_it_stands_and_the_forms_change_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut pair = pair(dir.path());
    let first = pair.page("/").body;
    for said in ["May I promote?", "Yes, promote.", "disk.img", ">branch</a>", "Promote @1"] {
        assert!(first.contains(said), "{said}: {first}");
    }
    assert!(first.contains("class=\"cell good\"") && first.contains("1 of 1"), "{first}");
    promoted(&pair);
    paused(&pair);
    offline(&mut pair);
    let (all, history) = (pair.page("/history").body, pair.page("/history/vdisks/disk.img").body);
    for said in ["vdisks/disk.img</a> @1", "class=\"bar", ">branch</td>"] {
        assert!(all.contains(said) && history.contains(said), "{said}: {all}");
    }
    let csv = pair.hub.ask(Ask::get("/history/vdisks/disk.img/csv"));
    assert!(
        csv.body.starts_with("generation,recorded,") && csv.body.contains(",vdisks/disk.img\r\n")
    );
    let health = pair.page("/health").body;
    for said in ["PROMOTED", "RECEIPT", "PEER_DOWN", "Yes.", "vdisks"] {
        assert!(health.contains(said), "{said}: {health}");
    }
}

fn promoted(pair: &Pair) {
    let form = "store=vdisks&image=disk.img&generation=1&require=2";
    let refused = pair.post("/promote", form);
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("is not promoted") && refused.body.contains("NOT_IN_SYNC"));
    whole(&refused);
    let done = pair.post("/promote", "store=vdisks&image=disk.img&generation=1");
    assert_eq!(
        (done.status, done.header("location")),
        (303, Some("/images/vdisks/disk.img?done=promoted"))
    );
    let image = pair.page("/images/vdisks/disk.img?done=promoted").body;
    for said in ["Promoted.", "by token admin on hub", "current", "changed 3 MiB", "scan here"] {
        assert!(image.contains(said), "{said}: {image}");
    }
    assert!(pair.live().contains("Promoted."));
    let plan = pair.page("/images/vdisks/disk.img?plan=branch").body;
    assert!(plan.contains("on the wire") && plan.contains("kept 3 MiB"), "{plan}");
    // A generation that was looked at and isn't the current one any more.
    let unknown = pair.post("/promote", "store=vdisks&image=disk.img&generation=9");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("GENERATION_UNKNOWN"), "{unknown:?}");
}

fn paused(pair: &Pair) {
    let done = pair.post("/pause", "peer=branch&seconds=3600");
    assert_eq!((done.status, done.header("location")), (303, Some("/?done=paused")));
    std::fs::write(pair.hub.node.dir.join("images/disk.img"), noise(2, 3 << 20)).expect("written");
    pair.hub.node.publish("disk.img");
    let page = pair.page("/?done=paused").body;
    for said in
        ["Paused. What came", "cell paused", "Paused: everything for branch", "Not yet.", "End it"]
    {
        assert!(page.contains(said), "{said}: {page}");
    }
    let peer = pair.page("/peers/branch").body;
    for said in
        ["connected", "paused by an operator", "3 MiB in 1 image", "/images/vdisks/disk.img"]
    {
        assert!(peer.contains(said), "{said}: {peer}");
    }
    assert_eq!(pair.post("/pause", "peer=nobody").status, 404);
    assert_eq!(pair.post("/pause", "seconds=soon").status, 400);
    assert_eq!(pair.post("/pause", "moon=full").status, 400);
    let done = pair.post("/resume", "peer=branch&store=&image=");
    assert_eq!((done.status, done.header("location")), (303, Some("/?done=resumed")));
    until("it is there", || pair.live().contains("Yes, promote."));
}

fn offline(pair: &mut Pair) {
    drop(pair.branch.take());
    until("it is seen to be gone", || pair.live().contains("branch offline since"));
    std::fs::write(pair.hub.node.dir.join("images/disk.img"), noise(3, 3 << 20)).expect("written");
    pair.hub.node.publish("disk.img");
    let page = pair.live();
    assert!(page.contains("cell offline") && page.contains("Not yet."), "{page}");
    let peers = pair.page("/peers").body;
    assert!(peers.contains("offline") && peers.contains("since"), "{peers}");
}

#[test]
fn a_received_image_says_where_its_bytes_came_from() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = served(dir.path());
    let branch = node(dir.path(), "branch");
    // The other way round: what the hub holds came from the branch.
    let images = branch.add_store();
    hub.node.join(&branch.invite(Role::Writer));
    let mut bytes = noise(1, 3 << 20);
    std::fs::write(images.join("disk.img"), &bytes).expect("written");
    branch.publish("disk.img");
    branch.wait("disk.img");
    bytes[..4096].copy_from_slice(&noise(2, 4096));
    std::fs::write(images.join("disk.img"), &bytes).expect("written");
    branch.publish("disk.img");
    branch.wait("disk.img");
    let page = hub.ask(Ask::get("/images/vdisks/disk.img")).body;
    assert!(page.contains("kept 3 MiB, sent 4 KiB"), "{page}");
    assert!(page.contains("sent 3 MiB") && page.contains("class=\"sent\""), "{page}");
    let row: serde_json::Value = hub.ask(Ask::get("/api/v1/images/vdisks/disk.img/history")).json()
        ["generations"][0]
        .clone();
    let came = &row["came"];
    assert_eq!((&came["sent_bytes"], &came["found_bytes"]), (&json!(4096), &json!(0)), "{row}");
}

#[test]
fn who_isnt_known_is_shown_the_login() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = served(dir.path());
    let ask = |ask: Ask| ask.at(hub.at);
    for (path, to) in [
        ("/", "/login"),
        ("/images/a/b?plan=x", "/login?next=%2Fimages%2Fa%2Fb%3Fplan%3Dx"),
        ("/health", "/login?next=%2Fhealth"),
    ] {
        let sent = ask(Ask::get(path));
        assert_eq!((sent.status, sent.header("location")), (303, Some(to)), "{path}");
    }
    let login = ask(Ask::get("/login?next=%2Fhealth"));
    whole(&login);
    assert!(login.body.contains("name=\"next\" value=\"/health\""), "{login:?}");
    let begin = |token: &str, next: &str| {
        let form = format!("token={token}&next={next}");
        ask(Ask::new("POST", "/login").header("Origin", OURS).form(&form))
    };
    let wrong = begin("bft_wrong", "%2Fhealth");
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    assert!(wrong.body.contains("No such token"));
    let known = begin(&hub.read, "https%3A%2F%2Fevil.example%2F");
    assert_eq!((known.status, known.header("location")), (303, Some("/")));
    let cookie = known.header("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(&hub.read) && !cookie.contains("Secure"), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let with = |ask_: Ask| ask(ask_.header("Cookie", &cookie));
    let page = with(Ask::get("/"));
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Log out") && page.body.contains("read"), "{page:?}");
    // The token may only read, so there are no forms, and sending one all the same is refused.
    assert!(!page.body.contains("action=\"/pause\""), "{page:?}");
    let form = Ask::new("POST", "/pause").header("Origin", OURS).form("");
    assert_eq!(with(form.clone()).status, 403);
    // A session may look by the API, and follow events; it changes nothing there.
    assert_eq!(with(Ask::get("/api/v1/status")).status, 200);
    assert_eq!(with(Ask::get("/api/v1/events?follow=false")).status, 200);
    let pause = Ask::new("POST", "/api/v1/pause").say(&json!({}));
    assert_eq!(with(pause).code(), "HTTP_TOKEN");
    // The end of it.
    let out = with(Ask::new("POST", "/logout").header("Origin", OURS).form(""));
    assert!(out.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert_eq!(with(Ask::get("/")).status, 303);
    // A part of a screen is told to load anew, not given the login in its place.
    let part = ask(Ask::get("/?part=live").header("HX-Request", "true"));
    assert_eq!((part.status, part.header("hx-refresh")), (401, Some("true")));
    // Who comes by a link of another site sends no strict cookie with it: asked again by ourselves.
    let linked = ask(Ask::get("/peers").header("Sec-Fetch-Site", "cross-site"));
    assert_eq!(linked.status, 200);
    assert!(linked.body.contains("url=/peers\""), "{linked:?}");
}

#[test]
fn a_form_of_another_site_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = served(dir.path());
    let login = Ask::new("POST", "/login").header("Origin", OURS);
    let known = login.form(&format!("token={}", hub.admin)).at(hub.at);
    let cookie = known.header("set-cookie").and_then(|c| c.split(';').next()).expect("a cookie");
    let post = |origin: Option<&str>| {
        let ask = Ask::new("POST", "/pause").header("Cookie", cookie);
        let ask = match origin {
            Some(origin) => ask.header("Origin", origin),
            None => ask,
        };
        ask.form("").at(hub.at)
    };
    for origin in [None, Some("null"), Some("http://evil.example"), Some("http://localhost:7781")] {
        let refused = post(origin);
        assert_eq!(refused.status, 403, "{origin:?}: {refused:?}");
        assert!(refused.body.contains("HTTP_ORIGIN"), "{refused:?}");
    }
    assert_eq!(post(Some(OURS)).status, 303);
    let foreign = Ask::new("POST", "/login").form(&format!("token={}", hub.admin)).at(hub.at);
    assert_eq!(foreign.status, 403, "nobody is logged in by another site");
    let json = Ask::new("POST", "/pause").header("Cookie", cookie).header("Origin", OURS);
    assert_eq!(json.say(&json!({})).at(hub.at).status, 415);
}

#[test]
fn without_tokens_everybody_looks_and_nobody_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (node, at) = plain(dir.path(), |_| {});
    let page = Ask::get("/").at(at);
    assert_eq!(page.status, 200);
    whole(&page);
    assert!(page.body.contains("No images yet") && !page.body.contains("action=\"/pause\""));
    let refused = Ask::new("POST", "/pause").header("Origin", OURS).form("").at(at);
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("no token is configured"), "{refused:?}");
    let login = Ask::get("/login").at(at);
    assert!(login.body.contains("No token is configured"), "{login:?}");
    assert!(node.status().stores.is_empty());
}

#[test]
fn what_others_write_is_never_markup() {
    let dir = tempfile::tempdir().expect("a directory");
    let hub = served(dir.path());
    let branch = node(dir.path(), "branch");
    let images = hub.node.add_store();
    branch.join(&hub.node.invite(Role::Writer));
    // What a peer is called is said by whoever runs it, and a file may be called anything.
    let hostile = "<script>alert(1)</script>\"'&";
    std::fs::write(images.join("<script>alert(1)<.script>"), b"x").expect("written");
    let renamed: Result<serde_json::Value, _> = hub.node.try_ask(&Request::PeerSet {
        peer: "branch".to_owned(),
        key: "name".to_owned(),
        value: hostile.to_owned(),
    });
    eprintln!("a peer may be called so: {}", renamed.is_ok());
    let path = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22'%26";
    let mut pages = vec!["/".to_owned(), "/peers".to_owned(), "/health".to_owned()];
    pages.push(format!("/images/vdisks/{path}"));
    pages.push(format!("/images/{path}/x?plan={path}"));
    pages.push(format!("/peers/{path}"));
    pages.push(format!("/login?next={path}"));
    pages.extend(["/schedules".to_owned(), "/history".to_owned()]);
    pages.push(format!("/schedules/{path}"));
    pages.push(format!("/history/vdisks/{path}"));
    for page in &pages {
        let reply = hub.ask(Ask::get(page));
        assert!(matches!(reply.status, 200 | 400 | 404), "{page}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"), "{page}");
        for barred in ["<script>", "alert(1)<", "\"'&\"", "<.script"] {
            assert!(!reply.body.contains(barred), "{page}: {barred} in {}", reply.body);
        }
        assert!(reply.header("content-security-policy").is_some_and(|p| !p.contains("unsafe")));
    }
    let missing = hub.ask(Ask::get(&pages[3]));
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("&#60;script&#62;alert(1)"), "{missing:?}");
    // Nor does a word of the address become text of the page.
    assert_eq!(hub.ask(Ask::get("/?done=%3Cscript%3E")).status, 400);
}

#[test]
fn the_first_screen_is_small_and_what_it_loads_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let pair = pair(dir.path());
    let page = pair.page("/");
    let assets = assets(&page.body);
    assert_eq!(assets.len(), 6, "{assets:?}");
    let mut sum = page.body.len() + page.head.len();
    for asset in &assets {
        let bytes = Ask::get(asset).header("Accept-Encoding", "gzip, br").bytes();
        let answer = crate::client::said(pair.hub.at, &bytes);
        let reply = Reply::parse(&answer);
        assert_eq!(reply.status, 200, "{asset}");
        assert_eq!(reply.header("cache-control"), Some("public, max-age=31536000, immutable"));
        let vendored = reply.header("content-encoding") == Some("gzip");
        assert_eq!(vendored, asset.contains(".min."), "{asset}");
        sum += answer.len();
        // Who takes no gzip gets it plain, and another hash leads nowhere.
        let plain = Ask::get(asset).at(pair.hub.at);
        assert!(plain.header("content-encoding").is_none() && !plain.body.is_empty(), "{asset}");
        let (_, name) = asset.rsplit_once('/').expect("a name");
        assert_eq!(
            Ask::get(&format!("/assets/0123456789abcdef/{name}")).at(pair.hub.at).status,
            404
        );
    }
    eprintln!("the first screen: {sum} bytes in {} answers", assets.len() + 1);
    assert!(sum < 150_000, "{sum} bytes");
}
