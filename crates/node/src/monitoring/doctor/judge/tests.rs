//! Finding by finding: the facts that make it, and those just short of that.

use super::*;

fn place() -> Place {
    Place {
        store: "vdisks".into(),
        path: "/srv/vdisks".into(),
        marked: true,
        known: true,
        mode: 0o750,
        free_bytes: 1 << 40,
        total_bytes: 2 << 40,
        least_bytes: 1 << 37,
        ..Place::default()
    }
}

fn store() -> Held {
    Held { place: place(), reflinks: true, watched: true, ..Held::default() }
}

fn peer(name: &str) -> Far {
    Far {
        name: name.into(),
        state: PeerState::Up,
        dialled: true,
        agent: Some("blockferry/0.1.0".into()),
        clock_ahead_ms: Some(12),
        ..Far::default()
    }
}

fn good() -> Facts {
    let full = 2 * budget::SOCKET_BUFFER_BYTES;
    Facts {
        version: "0.1.0".into(),
        uptime: Duration::from_secs(100 * 86_400),
        process: Process {
            under_systemd: true,
            no_new_privileges: true,
            filtered: true,
            open_files: 100,
            open_files_max: 65_536,
        },
        sockets: vec![[full, full]],
        http: Some(Http {
            listen: "127.0.0.1:7780".parse().expect("an address"),
            tls: false,
            tokens: vec![("prometheus".into(), Some(Duration::from_secs(9)))],
        }),
        peers: vec![peer("a"), peer("b")],
        stores: vec![store()],
        missing: vec![],
    }
}

/// The one finding about these facts.
fn only(facts: &Facts) -> Finding {
    let mut found = judge(facts);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(!found[0].fix.is_empty(), "{found:?}");
    found.remove(0)
}

fn with_peer(change: impl FnOnce(&mut Far)) -> Facts {
    let mut facts = good();
    change(&mut facts.peers[0]);
    facts
}

fn with_store(change: impl FnOnce(&mut Held)) -> Facts {
    let mut facts = good();
    change(&mut facts.stores[0]);
    facts
}

#[test]
fn a_sound_node_has_none() {
    assert_eq!(judge(&good()), []);
    assert_eq!(judge(&Facts::default()), [], "nothing known is nothing found");
}

#[test]
fn open_files() {
    let with = |open_files, open_files_max| {
        let mut facts = good();
        facts.process = Process { open_files, open_files_max, ..facts.process };
        facts
    };
    assert_eq!(judge(&with(2047, 4096)), []);
    for (open, most, severity) in [
        (10, 1024, Severity::Warning),
        (2048, 4096, Severity::Warning),
        (3687, 4096, Severity::Error),
    ] {
        let found = only(&with(open, most));
        assert_eq!(
            (found.code.as_str(), found.severity),
            ("FILE_LIMIT", severity),
            "{open} {most}"
        );
    }
}

#[test]
fn a_unit_without_its_hardening() {
    let mut facts = good();
    facts.process.filtered = false;
    let found = only(&facts);
    assert!(found.code == "UNIT_OPEN" && found.message.contains("SystemCallFilter"), "{found:?}");
    facts.process.no_new_privileges = false;
    assert!(only(&facts).message.contains("NoNewPrivileges, no SystemCallFilter"));
    facts.process.under_systemd = false;
    assert_eq!(judge(&facts), [], "a container or a terminal has other walls");
}

#[test]
fn small_buffers() {
    let mut facts = good();
    facts.sockets.push([2 * budget::SOCKET_BUFFER_BYTES, 425_984]);
    let found = only(&facts);
    assert!(found.code == "SMALL_BUFFERS" && found.message.contains("212992"), "{found:?}");
    assert!(found.fix.contains("net.core.rmem_max=8388608"), "{found:?}");
}

#[test]
fn http_that_is_open() {
    let mut facts = good();
    let http = facts.http.as_mut().expect("there");
    http.tokens.clear();
    assert_eq!(only(&facts).severity, Severity::Info);
    let http = facts.http.as_mut().expect("there");
    http.listen = "0.0.0.0:7780".parse().expect("an address");
    let found = only(&facts);
    assert_eq!((found.code.as_str(), found.severity), ("HTTP_OPEN", Severity::Error));
    assert!(found.fix.contains("[admin.tls]"));
}

#[test]
fn a_token_that_nobody_uses() {
    let mut facts = good();
    let http = facts.http.as_mut().expect("there");
    http.tokens.push(("old".into(), None));
    let found = only(&facts);
    assert_eq!((found.code.as_str(), found.about.as_str()), ("TOKEN_UNUSED", "token old"));
    facts.uptime = TOKEN_IDLE_MAX - Duration::from_secs(1);
    assert_eq!(judge(&facts), [], "the service hasn't run for long enough to know");
}

#[test]
fn a_clock_that_is_off() {
    let limit = i64::try_from(CLOCK_OFF_MAX.as_millis()).expect("small");
    assert_eq!(judge(&with_peer(|p| p.clock_ahead_ms = Some(-limit))), []);
    let found = only(&with_peer(|p| p.clock_ahead_ms = Some(-limit - 1000)));
    assert_eq!((found.code.as_str(), found.about.as_str()), ("CLOCK_ADRIFT", "peer a"));
    assert!(found.message.contains("31 s behind ours"), "{}", found.message);
    // Where most agree that we are off, we are.
    let mut facts = good();
    facts.peers = ["a", "b", "c"].map(peer).to_vec();
    facts.peers.iter_mut().take(2).for_each(|p| p.clock_ahead_ms = Some(90_000));
    let found = only(&facts);
    assert_eq!(found.about, "node");
    assert!(found.message.contains("is 90 s behind those"), "{}", found.message);
    assert_eq!(judge(&with_peer(|p| p.clock_ahead_ms = None)), []);
    assert_eq!(only(&with_peer(|p| p.clock_ahead_ms = Some(i64::MIN))).code, "CLOCK_ADRIFT");
}

#[test]
fn peers_that_are_not_reached() {
    let down = |code: &str| {
        with_peer(|p| {
            p.state = PeerState::Connecting;
            p.down = Some(DOWN_MAX);
            p.trouble = Some((code.into(), "why".into()));
        })
    };
    for code in ["NO_ADDRESS", "PEER_UNREACHABLE", "HANDSHAKE_TIMEOUT"] {
        let found = only(&down(code));
        assert_eq!((found.code.as_str(), found.severity), (code, Severity::Warning));
        assert!(found.message.ends_with("for 1 minutes: why"), "{}", found.message);
    }
    assert_eq!(judge(&with_peer(|p| (p.state, p.down) = (PeerState::Down, None))), []);
    let young = Some(DOWN_MAX - Duration::from_secs(1));
    assert_eq!(judge(&with_peer(|p| (p.state, p.down) = (PeerState::Down, young))), []);
    let silent = with_peer(|p| {
        (p.state, p.down, p.dialled) = (PeerState::Down, Some(DOWN_MAX), false);
    });
    assert!(only(&silent).message.contains("it must dial"));
    let refused = with_peer(|p| {
        p.state = PeerState::Refused;
        p.trouble = Some(("PEER_UNKNOWN".into(), "it knows no such key".into()));
    });
    let found = only(&refused);
    assert_eq!((found.code.as_str(), found.severity), ("PEER_UNKNOWN", Severity::Error));
}

#[test]
fn versions_that_differ() {
    let found = only(&with_peer(|p| p.agent = Some("blockferry/0.0.9".into())));
    assert_eq!((found.code.as_str(), found.severity), ("PEER_VERSION", Severity::Info));
    assert!(found.message.contains("0.0.9") && found.message.contains("0.1.0"));
    assert_eq!(judge(&with_peer(|p| p.agent = None)), []);
}

#[test]
fn what_is_wrong_with_a_store() {
    type Change = fn(&mut Held);
    let cases: [(&str, Severity, Change); 7] = [
        ("DEGRADED", Severity::Error, |s| s.degraded = true),
        ("NO_REFLINK", Severity::Info, |s| s.reflinks = false),
        ("NO_WATCH", Severity::Warning, |s| s.watched = false),
        ("EXTENTS_OFF", Severity::Warning, |s| s.extents_off = true),
        ("MAPS_OFF", Severity::Warning, |s| s.maps_off = true),
        ("STORE_MISSING", Severity::Error, |s| s.place.marked = false),
        ("SPACE_LOW", Severity::Warning, |s| s.place.free_bytes = s.place.least_bytes + 1),
    ];
    for (code, severity, change) in cases {
        let found = only(&with_store(change));
        assert_eq!((found.code.as_str(), found.severity), (code, severity));
        assert_eq!(found.about, "store vdisks");
    }
}

#[test]
fn little_room_with_much_that_is_kept_says_so() {
    let found = only(&with_store(|s| {
        s.place.free_bytes = 0;
        s.kept_bytes = 77;
    }));
    assert_eq!(found.code, "DISK_FULL");
    assert!(found.message.contains("77 bytes") && found.fix.contains("keep_days"), "{found:?}");
}

#[test]
fn conflicts_and_edits_that_wait() {
    let found = only(&with_store(|s| s.diverged = vec!["a.vhdx".into()]));
    assert_eq!((found.code.as_str(), found.about.as_str()), ("DIVERGED", "image vdisks/a.vhdx"));
    assert!(found.fix.contains("resolve vdisks/a.vhdx --keep"), "{}", found.fix);
    let found = only(&with_store(|s| s.edits = vec!["a.vhdx".into()]));
    assert_eq!((found.code.as_str(), found.severity), ("EDIT_WAITS", Severity::Info));
    // A hundred conflicts are not a hundred lines.
    let many = with_store(|s| s.diverged = (0..100).map(|n| n.to_string()).collect());
    let found = judge(&many);
    assert_eq!(found.len(), SHOWN_MAX);
    assert!(found[SHOWN_MAX - 1].message.contains("and 95 more"), "{:?}", found.last());
}

#[test]
fn images_that_never_settle() {
    let waits = |waits, code: Option<&str>, holder: Option<&str>| {
        with_store(|s| {
            s.unsettled = vec![Unsettled {
                image: "a.vhdx".into(),
                waits,
                code: code.map(Into::into),
                holder: holder.map(Into::into),
            }];
        })
    };
    let hour = UNSETTLED_MAX;
    assert_eq!(judge(&waits(hour - Duration::from_secs(1), None, None)), []);
    let found = only(&waits(3 * hour, Some("IN_USE"), Some("qemu (pid 7)")));
    assert_eq!(found.code, "NOT_SETTLED");
    assert!(found.message.contains("for 3 h: qemu (pid 7) has it open"), "{}", found.message);
    let found = only(&waits(hour, Some("PARENT_MISMATCH"), None));
    assert!(found.fix.contains("parent"), "the code's own remedy: {}", found.fix);
    assert!(only(&waits(hour, None, None)).message.contains("again and again"));
}

#[test]
fn a_store_that_is_not_in_service() {
    let mut facts = good();
    facts.missing = vec![Place { trouble: Some("No such file".into()), ..place() }];
    assert!(only(&facts).message.contains("No such file"));
    facts.missing = vec![place()];
    let found = only(&facts);
    assert!(found.code == "STORE_MISSING" && found.fix.contains("events"), "{found:?}");
}
