//! HTTP that follows a configuration which is read again: tokens come, go and change what they may do,
//! with the streams of those who hold them; names, the certificate and the address change while it is
//! asked; what can't be had leaves everything as it was.

use std::net::{TcpListener, TcpStream};

use blockferry_node::config::Config;
use blockferry_node::http::{HttpConfig, Scope, Token, new_token};
use serde_json::json;

use crate::client::Ask;
use crate::events::Follower;
use crate::running::{Running, config, start, until};
use crate::served::free;
use crate::tls::{files, over_tls};

fn token(name: &str, scope: Scope) -> (String, Token) {
    let (secret, hash) = new_token().expect("random");
    (secret, Token { name: name.to_owned(), hash, scope })
}

/// A node with these tokens, and its configuration.
fn served(dir: &std::path::Path, tokens: Vec<Token>) -> (Running, Config) {
    let mut config = config(&dir.join("hub"), "hub", 0);
    config.http = Some(HttpConfig { tokens, ..HttpConfig::new(free()) });
    (start(config.clone()), config)
}

fn http(config: &mut Config) -> &mut HttpConfig {
    config.http.as_mut().expect("it is on")
}

fn status_of(config: &Config, token: &str) -> u16 {
    let at = config.http.as_ref().expect("it is on").listen;
    Ask::get("/api/v1/status").token(Some(token)).at(at).status
}

#[test]
fn tokens_come_go_and_change_with_the_next_request() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, page) = token("page", Scope::Read);
    let (two, night) = token("night", Scope::Operate);
    let (three, later) = token("later", Scope::Admin);
    let (node, mut config) = served(dir.path(), vec![page.clone(), night.clone()]);
    let at = http(&mut config).listen;
    let mut gone = Follower::with(at, &one);
    let mut stays = Follower::with(at, &two);
    for follower in [&mut gone, &mut stays] {
        assert_eq!(follower.next().and_then(|b| b.data).expect("told")["code"], "STARTED");
    }
    assert_eq!((status_of(&config, &one), status_of(&config, &three)), (200, 401));

    http(&mut config).tokens = vec![Token { scope: Scope::Read, ..night }, later];
    let done = node.reload(&config).expect("good");
    let tokens = ["later", "night", "page"].map(|name| format!("admin.tokens.{name}"));
    assert_eq!((done.changed, done.restart), (tokens.to_vec(), vec![]));
    let statuses = [&one, &two, &three].map(|secret| status_of(&config, secret));
    assert_eq!(statuses, [401, 200, 200]);
    let pause = |secret: &str| {
        Ask::new("POST", "/api/v1/pause").token(Some(secret)).say(&json!({})).at(at).status
    };
    assert_eq!((pause(&two), pause(&three)), (403, 200), "it may look now, and nothing else");
    // Whose token is gone hears no more; the others hear what happened.
    assert!(gone.rest().iter().all(|block| block.event.is_empty()), "it has ended");
    let codes = [(); 2].map(|()| stays.next().and_then(|block| block.data).expect("told"));
    assert_eq!(codes.map(|event| event["code"].clone()), ["CONFIG_RELOADED", "PAUSED"]);

    // Without any token one may look, and a stream that shows one has ended.
    http(&mut config).tokens.clear();
    node.reload(&config).expect("good");
    assert_eq!(Ask::get("/api/v1/status").at(at).status, 200);
    assert!(stays.rest().len() <= 1);
    let again = node.reload(&config).expect("good");
    assert_eq!((again.changed.len(), again.restart.len()), (0, 0), "nothing has changed");
}

#[test]
fn names_and_the_certificate_change_while_it_is_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let (node, mut config) = served(dir.path(), vec![]);
    let at = http(&mut config).listen;
    let named = || Ask::get("/livez").host("hub.example.net").at(at).status;
    assert_eq!(named(), 421);
    http(&mut config).hosts = vec!["hub.example.net".to_owned()];
    assert_eq!(node.reload(&config).expect("good").changed, ["admin.hosts"]);
    assert_eq!(named(), 200);

    let (pair, root) = files(dir.path());
    http(&mut config).tls = Some(pair.clone());
    assert_eq!(node.reload(&config).expect("good").changed, ["admin.tls"]);
    assert_eq!(over_tls(at, &root, &Ask::get("/livez")).status, 200);
    // A certificate that was renewed in its place.
    let (_, renewed) = files(dir.path());
    assert_eq!(node.reload(&config).expect("good").changed, ["admin.tls"]);
    assert_eq!(over_tls(at, &renewed, &Ask::get("/livez")).status, 200);
    std::fs::write(&pair.cert, "no certificate").expect("written");
    let refused = node.reload(&config).expect_err("it can't be meant");
    assert!(refused.contains("certificate"), "{refused}");
    assert_eq!(over_tls(at, &renewed, &Ask::get("/livez")).status, 200, "as before");
}

/// Both addresses of a port can't be had at once, so the old one stays until a restart: what is only
/// safe on loopback must not come into force there.
#[test]
fn what_is_safe_on_loopback_is_not_served_to_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let (pair, root) = files(dir.path());
    let (secret, page) = token("page", Scope::Read);
    let near = free();
    let all = std::net::SocketAddr::from(([0, 0, 0, 0], near.port()));
    let mut config = config(&dir.path().join("hub"), "hub", 0);
    let tokens = vec![page];
    config.http = Some(HttpConfig { tokens, tls: Some(pair), ..HttpConfig::new(all) });
    let node = start(config.clone());
    let ask = Ask::get("/api/v1/status").token(Some(&secret));
    assert_eq!(over_tls(near, &root, &ask).status, 200);

    let before = config.clone();
    config.http = Some(HttpConfig::new(near));
    let refused = node.reload(&config).expect_err("everybody would read");
    assert!(refused.contains("until a restart"), "{refused}");
    assert_eq!(over_tls(near, &root, &ask).status, 200, "as before");
    assert_eq!(over_tls(near, &root, &Ask::get("/api/v1/status")).status, 401);

    // With both it may move: what is served is as safe as it was.
    config.http = before.http.map(|http| HttpConfig { listen: near, ..http });
    assert_eq!(node.reload(&config).expect("good").restart, ["admin.http"]);
    assert_eq!(over_tls(near, &root, &ask).status, 200);
}

#[test]
fn the_address_moves_and_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (secret, token) = token("page", Scope::Read);
    let (node, mut config) = served(dir.path(), vec![token]);
    let old = http(&mut config).listen;
    let follower = Follower::with(old, &secret);
    // One that somebody else has: nothing changes.
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    http(&mut config).listen = taken.local_addr().expect("an address");
    let refused = node.reload(&config).expect_err("it is taken");
    assert!(refused.contains("listen on"), "{refused}");
    let mut before = config.clone();
    http(&mut before).listen = old;
    assert_eq!(status_of(&before, &secret), 200, "as before");

    http(&mut config).listen = free();
    assert_eq!(node.reload(&config).expect("good").changed, ["admin.http"]);
    assert_eq!(status_of(&config, &secret), 200);
    until("nobody listens there", || TcpStream::connect(old).is_err());
    assert!(follower.rest().len() < 9, "its stream ends with the address");

    let at = http(&mut config).listen;
    config.http = None;
    assert_eq!(node.reload(&config).expect("good").changed, ["admin.http"]);
    until("nobody listens there", || TcpStream::connect(at).is_err());
    assert_eq!(node.status().node.name, "hub", "the socket goes on");
}
