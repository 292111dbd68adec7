//! Who may ask what: each route with each token and with none, wrong hosts, pages of other sites.

use std::path::Path;

use blockferry_delta::StoreName;
use blockferry_node::api::Role;
use blockferry_node::config::StoreConfig;
use serde_json::{Value, json};

use crate::client::{Ask, Reply};
use crate::served::{Served, plain, served};

/// Method, address and scope of every route, by the node's own description. What is asked there with
/// this query is refused as such when it may be asked at all.
fn routes(served: &Served) -> Vec<(String, String, Option<String>)> {
    let document = served.ask(Ask::get("/openapi.json")).json();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let filled = path.replace("{store}", "s").replace("{image}", "i");
            let target = format!("{}?nonsense=1", filled.replace("{peer}", "p"));
            let scope = operation["x-scope"].as_str().map(str::to_owned);
            routes.push((method.clone(), target, scope));
        }
    }
    assert!(routes.len() > 25, "{routes:?}");
    routes
}

fn denied(reply: &Reply) -> bool {
    matches!(reply.status, 401 | 403)
}

#[test]
fn every_route_with_every_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let order = ["read", "operate", "admin"];
    let rank = |scope: &str| order.iter().position(|known| *known == scope).expect("a scope");
    for (method, target, scope) in routes(&served) {
        let ask = Ask::new(&method, &target);
        let Some(scope) = scope else {
            assert_eq!(ask.at(served.at).status, 200, "{target} is for everybody");
            continue;
        };
        let nobody = ask.at(served.at);
        assert_eq!((nobody.status, nobody.code().as_str()), (401, "HTTP_TOKEN"), "{target}");
        assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
        let stranger = ask.clone().token(Some("bft_x")).at(served.at);
        assert_eq!(stranger.status, 401, "{target}");
        for (held, token) in
            [("read", &served.read), ("operate", &served.operate), ("admin", &served.admin)]
        {
            let reply = ask.clone().token(Some(token)).at(served.at);
            if rank(held) < rank(&scope) {
                assert_eq!((reply.status, reply.code().as_str()), (403, "HTTP_SCOPE"), "{target}");
            } else {
                assert_eq!(reply.code(), "CONTROL_BAD_REQUEST", "{method} {target} {held}");
            }
        }
    }
}

#[test]
fn what_lost_a_conflict_goes_only_with_the_scope_admin() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    let ask = |token: &str, body: Value| {
        let ask = Ask::new("POST", "/api/v1/images/s/i/resolve").say(&body);
        ask.token(Some(token)).at(served.at)
    };
    let decided = ask(&served.operate, json!({"keep": "local"}));
    assert_eq!(decided.code(), "STORE_UNKNOWN", "may be asked");
    let denied = ask(&served.operate, json!({"acknowledge": true}));
    assert_eq!((denied.status, denied.code().as_str()), (403, "HTTP_SCOPE"));
    assert_eq!(ask(&served.admin, json!({"acknowledge": true})).code(), "STORE_UNKNOWN");
}

#[test]
fn no_other_name_and_no_other_site() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served(dir.path());
    for (method, target, _) in routes(&served) {
        let ask = Ask::new(&method, &target);
        let reply = served.ask(ask.clone().host("evil.example"));
        assert_eq!((reply.status, reply.code().as_str()), (421, "HTTP_HOST"), "{target}");
        for origin in ["http://evil.example", "null", "http://localhost:1"] {
            let reply = served.ask(ask.clone().header("Origin", origin));
            assert_eq!((reply.status, reply.code().as_str()), (403, "HTTP_ORIGIN"), "{target}");
        }
        let own = served.ask(ask.header("Origin", "http://localhost:7780"));
        assert!(!denied(&own), "{own:?}");
    }
    // An address that isn't there is no exception.
    assert_eq!(served.ask(Ask::get("/x").host("evil.example")).code(), "HTTP_HOST");
    let twice = served.ask(Ask::get("/livez").header("Host", "localhost"));
    assert!(twice.status == 421 || twice.status == 400, "{twice:?}");
}

#[test]
fn without_tokens_loopback_may_look_and_not_touch() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_node, at) = plain(dir.path(), |_| {});
    assert_eq!(Ask::get("/api/v1/status").at(at).status, 200);
    assert_eq!(Ask::get("/metrics").at(at).status, 200);
    let reply = Ask::new("POST", "/api/v1/pause").say(&json!({})).at(at);
    assert_eq!((reply.status, reply.code().as_str()), (401, "HTTP_TOKEN"));
    assert!(reply.body.contains("no token is configured"), "{reply:?}");
    let orders = Ask::get("/api/v1/orders").at(at).json();
    assert_eq!(orders["orders"], json!([]), "nothing was ordered");
}

#[test]
fn ready_says_why_not_and_tells_strangers_no_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("not-mounted");
    let change = |path: &Path, config: &mut blockferry_node::config::Config| {
        let name = StoreName::new("secret-store").expect("a name");
        config.stores.push(StoreConfig::new(name, path.to_owned(), Role::Writer));
        let (_, hash) = blockferry_node::http::new_token().expect("random");
        let token = blockferry_node::http::Token {
            name: "t".to_owned(),
            hash,
            scope: blockferry_node::http::Scope::Read,
        };
        config.http.as_mut().expect("HTTP").tokens.push(token);
    };
    let (node, at) = plain(dir.path(), |config| change(&missing, config));
    let reply = Ask::get("/readyz").at(at);
    let expected = json!({ "ready": false, "reasons": [{ "code": "STORE_MISSING" }] });
    assert_eq!((reply.status, reply.json()), (503, expected));
    assert_eq!(Ask::get("/livez").at(at).status, 200, "it lives all the same");
    // Where everybody may read, everybody learns which.
    node.stop();
    let (_node, at) = plain(dir.path(), |config| {
        change(&missing, config);
        config.http.as_mut().expect("HTTP").tokens.clear();
    });
    let reply = Ask::get("/readyz").at(at);
    let reason = &reply.json()["reasons"][0];
    assert_eq!((reply.status, &reason["store"]), (503, &Value::from("secret-store")));
    assert!(reason["message"].as_str().expect("words").contains("not in service"));
    // It is mounted: the node takes it into service by itself and is ready.
    std::fs::create_dir(&missing).expect("made");
    crate::running::until("it is ready", || Ask::get("/readyz").at(at).status == 200);
}
