//! What must go, goes; what support needs, stays.

use super::*;
use blockferry_delta::StoreName;
use blockferry_node::Identity;
use blockferry_node::api::Role;
use blockferry_node::http::new_token;
use blockferry_node::membership::ticket::Ticket;
use serde_json::json;

/// Secrets of every kind that there is, made anew.
fn secrets() -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.key");
    let identity = Identity::create(&path).unwrap();
    let pem = std::fs::read_to_string(path).unwrap();
    let body: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let (token, hash) = new_token().unwrap();
    let store = StoreName::new("vdisks").unwrap();
    let addresses = vec!["hub:7700".to_owned()];
    let ticket = Ticket::new(identity.id(), addresses, store, Role::Writer, 7).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let hash = hash.to_string();
    vec![
        body.join(""),
        token.clone(),
        token.trim_start_matches("bft_").to_owned(),
        hash.trim_start_matches("blake3:").to_owned(),
        ticket.encode(),
        hex(&ticket.secret),
        hex(&ticket.secret_hash()),
        hex(&identity.sign(b"x")),
    ]
}

#[test]
fn no_secret_survives_in_any_text() {
    for _ in 0..50 {
        let mut redactor = Redactor::default();
        redactor.know_name("vdisks");
        for secret in secrets() {
            for around in [
                "{}",
                "token {} used",
                "key={}",
                "a/{}",
                "\"{}\"",
                "x: {}.",
                "[{}]",
                "blake3:{}",
                "-{}-",
            ] {
                let text = around.replace("{}", &secret);
                let seen = redactor.text(&text);
                assert!(!seen.contains(&secret), "{text} -> {seen}");
                // Nor enough of it to go on from.
                let part: String = secret.chars().take(secret.len() * 2 / 3).collect();
                assert!(!seen.contains(&part), "{text} -> {seen}");
            }
        }
    }
}

#[test]
fn no_secret_survives_in_any_field() {
    let redactor = Redactor::default();
    for secret in secrets() {
        let object = json!({
            "message": format!("ticket {secret} was used"),
            "token": secret, "hash": secret, "anything": { "new": [secret, 7] },
            "peers": [{ "name": "b", "id": secret, "key": secret }],
            secret.clone(): "b",
        });
        let seen = redactor.object(&object).to_string();
        assert!(!seen.contains(&secret), "{seen}");
        assert!(seen.contains('7'), "numbers stay: {seen}");
    }
    assert!(redactor.count() > 20);
}

/// Nearly one secret in two hundred has so few digits that counting changes alone takes it for a word.
#[test]
fn a_secret_with_one_digit_goes_from_a_path_too() {
    let redactor = Redactor::default();
    let secret = "lgiayuanzwysiyhmbpmmwplkkwxjbwdyviprryehapcpddh7fxmq";
    assert_eq!(redactor.text(&format!("a/{secret}")), GONE);
    let path = "/srv/vdisks/windows-server-golden-image/blockferry-2024/a.vhdx";
    assert_eq!(redactor.text(path), path);
}

#[test]
fn a_key_in_a_text_goes_as_a_whole() {
    let pem = "before\n-----BEGIN PRIVATE KEY-----\nabc\ndef\n-----END PRIVATE KEY-----\nafter\n";
    assert_eq!(Redactor::default().text(pem), "before\n[redacted]\nafter\n");
    let cut = "x -----BEGIN PRIVATE KEY-----\nabc\n";
    assert_eq!(Redactor::default().text(cut), "[redacted]\n");
    let one = "-----BEGIN PRIVATE KEY----- abc -----END PRIVATE KEY-----\nrest\n";
    assert_eq!(Redactor::default().text(one), "[redacted]\nrest\n");
}

#[test]
fn what_is_announced_goes_even_if_it_is_short() {
    let redactor = Redactor::default();
    for text in ["Authorization: Bearer abc12345", "password=hunter22", "secret: a1b2c3d4"] {
        let seen = redactor.text(text);
        assert!(seen.ends_with("[redacted]") || !seen.contains(['1', '2']), "{seen}");
    }
}

#[test]
fn what_support_needs_stays() {
    let mut redactor = Redactor::default();
    redactor.know_name("WindowsServer2022DatacenterGold7.vhdx");
    for text in [
        "2026-11-22T15:06:12.123Z branch-07 [::1]:7700 hub-01.example.net:7700",
        "/var/lib/blockferry/node.redb: Permission denied (os error 13)",
        "store vdisks: 107374182400 bytes are free, 0 stay so (limits.store_free_min)",
        "vdisks/win11-golden-2026.vhdx@7: 4096 bytes changed, 1048576 bytes read in 12 ms",
        "WindowsServer2022DatacenterGold7.vhdx and /srv/vdisks/WindowsServer2022DatacenterGold7.vhdx",
        "blockferry_backlog_bytes{peer=\"branch-07\"} 12884901888",
        "CONFIG_ERROR: unknown key stores.vdisks.settl (did you mean settle?)",
    ] {
        assert_eq!(redactor.text(text), text);
    }
    assert_eq!(redactor.count(), 0);
}

#[test]
fn ids_are_cut_short_wherever_they_stand() {
    let id = Identity::generate().unwrap().id().to_string();
    let mut redactor = Redactor::default();
    redactor.know_id(&id);
    let short: String = id.chars().take(8).collect();
    assert_eq!(redactor.text(&format!("peer {id}, up")), format!("peer {short}, up"));
    let seen = redactor.object(&json!({ "id": id, "root": "00112233445566778899", "name": id }));
    assert_eq!(seen, json!({ "id": short, "root": "001122334455", "name": short }));
}

#[test]
fn settings_are_seen_by_their_key() {
    let redactor = Redactor::default();
    let text = |text: &str| toml::Value::String(text.to_owned());
    let hash = format!("blake3:{}", "0f".repeat(32));
    for (key, value, seen) in [
        ("node.name", "hub-01", "hub-01"),
        ("admin.tokens.prometheus.scope", "read", "read"),
        ("admin.tokens.prometheus.hash", &hash, GONE),
        ("admin.tokens.prometheus.hash", "short", GONE),
        ("peers.b.id", "K4MZ7QXAAAAAAAAAAAAAAAA", "K4MZ7QXA"),
        ("peers.b.address", "b.example.net:7700", "b.example.net:7700"),
        ("stores.vdisks.path", "/srv/vdisks", "/srv/vdisks"),
        ("someday.password", "x", GONE),
        ("node.name", "bft_aaaaaaaaaaaaaaaa", GONE),
    ] {
        assert_eq!(redactor.setting(key, &text(value)), json!(seen), "{key}");
    }
}
