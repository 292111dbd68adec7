//! Promotion between whole nodes: the story of the update on server 3, what else refuses one, and
//! what follows one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_node::api::{
    Affected, HistoryReport, ImagesReport, PromoteReport, ReadyReport, Request, Require, Role,
    WaitReason,
};

use crate::running::{Running, config, edit, equal, node, noise, start, until};

/// Nodes that record only what they are told to, each paired with each.
pub(crate) fn mesh<const N: usize>(dir: &Path, names: [&str; N]) -> ([Running; N], Vec<PathBuf>) {
    let nodes = names.map(|name| by_hand(dir, name));
    let mut images = vec![nodes[0].add_store()];
    for joiner in 1..N {
        let joined = nodes[joiner].join(&nodes[0].invite(Role::Writer));
        for inviter in 1..joiner {
            nodes[joiner].join(&nodes[inviter].invite(Role::Writer));
        }
        images.push(joined);
    }
    let connected = |n: &Running| n.status().peers.iter().filter(|p| p.connected).count();
    until("all are connected", || nodes.iter().all(|n| connected(n) == N - 1));
    (nodes, images)
}

/// A node that records only what it is told to.
pub(crate) fn by_hand(dir: &Path, name: &str) -> Running {
    let mut config = config(&dir.join(name), name, 0);
    config.settle = Duration::from_secs(3600);
    start(config)
}

pub(crate) fn promote(node: &Running, image: &str, require: Option<Require>) -> PromoteReport {
    node.ask(&Request::Promote { image: format!("vdisks/{image}"), require })
}

/// It is refused with this code and these words, when what happened elsewhere has been heard.
fn refused(node: &Running, image: &str, code: &str, words: &[&str]) {
    let start = std::time::Instant::now();
    loop {
        let report = promote(node, image, None);
        assert!(!report.promoted, "{report:?}");
        let message = report.message.as_deref().unwrap_or_default();
        let coded = report.code.as_deref() == Some(code);
        if coded && words.iter().all(|word| message.contains(word)) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{code} {words:?}: {report:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn ready(node: &Running, image: &str) -> ReadyReport {
    let image = format!("vdisks/{image}");
    node.ask(&Request::Ready { image, require: Require::All })
}

/// Waits until a node has heard of a generation and that it is everywhere; what it says then.
pub(crate) fn everywhere(node: &Running, image: &str, generation: u64) -> ReadyReport {
    let mut last = None;
    until("it is known to be everywhere", || {
        let (image, require) = (format!("vdisks/{image}"), Require::All);
        // It may not have heard of the image yet.
        let report = node.try_ask::<ReadyReport>(&Request::Ready { image, require }).ok();
        last = report.filter(|report| report.ready && report.generation == generation);
        last.is_some()
    });
    last.expect("asked")
}

#[test]
fn the_update_on_server_3_survives_the_promotion_on_server_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let ([one, two, three], images) = mesh(dir.path(), ["server-1", "server-2", "server-3"]);
    // The new version: a small file with nothing in it yet. It is everywhere at once.
    std::fs::write(images[0].join("vm.avhd"), vec![0; 300_000]).expect("written");
    one.publish("vm.avhd");
    assert!(one.wait("vm.avhd").ready);

    // Load balancing boots the maintenance machine from server 3: the work is done there.
    edit(&images[2].join("vm.avhd"), 70_000, b"the updates of this month");
    let changed = |node: &Running| {
        ready(node, "vm.avhd").peers.iter().any(|p| p.reason == Some(WaitReason::Changed))
    };
    until("the others hear of the change", || changed(&one) && changed(&two));
    refused(&one, "vm.avhd", "NOT_IN_SYNC", &["changed on server-3"]);
    refused(&two, "vm.avhd", "NOT_IN_SYNC", &["changed on server-3"]);
    refused(&three, "vm.avhd", "LOCAL_CHANGE", &["publish it"]);

    // It is recorded, and what it takes to bring it to the others is held up.
    let _: serde_json::Value = three.ask(&Request::Pause(Affected::default()));
    assert_eq!(three.publish("vm.avhd").generation, 2);
    for node in [&one, &two] {
        until("it is heard of", || ready(node, "vm.avhd").generation == 2);
        refused(node, "vm.avhd@1", "SUPERSEDED", &["server-3 holds vdisks/vm.avhd@2", "newer"]);
        refused(node, "vm.avhd", "SUPERSEDED", &["server-3 holds vdisks/vm.avhd@2"]);
        let there = ready(node, "vm.avhd");
        assert!(!there.ready && there.generation == 2, "{there:?}");
    }
    refused(&three, "vm.avhd", "NOT_IN_SYNC", &["server-1 holds @1 (paused)"]);
    assert!(std::fs::read(images[0].join("vm.avhd")).expect("read").iter().all(|b| *b == 0));

    // It arrives, and may be promoted wherever one happens to be.
    let _: serde_json::Value = three.ask(&Request::Resume(Affected::default()));
    for node in [&one, &two, &three] {
        everywhere(node, "vm.avhd", 2);
        let report = promote(node, "vm.avhd@2", None);
        assert!(report.promoted && report.receipts.len() == 2, "{report:?}");
    }
    assert!(equal(&images[0], &images[2], "vm.avhd") && equal(&images[1], &images[2], "vm.avhd"));

    // What the promotion itself writes on server 1 is one more generation, on top of the work.
    edit(&images[0].join("vm.avhd"), 5, b"activated");
    assert_eq!(one.publish("vm.avhd").generation, 3);
    everywhere(&three, "vm.avhd", 3);
    let file = std::fs::read(images[2].join("vm.avhd")).expect("read");
    assert!(file[70_000..].starts_with(b"the updates of this month"));
    assert!(file[5..].starts_with(b"activated"));
    check_history(&three);
    for node in [&one, &two, &three] {
        until("all know", || node.events().iter().filter(|e| e.code == "PROMOTED").count() == 3);
    }
}

fn check_history(node: &Running) {
    let image = "vdisks/vm.avhd".to_owned();
    let history: HistoryReport = node.ask(&Request::ImageHistory { image: image.clone() });
    let promoted = |g: &blockferry_node::api::GenerationRow| (g.generation, g.promoted.len());
    let rows: Vec<_> = history.generations.iter().map(promoted).collect();
    assert_eq!(rows, [(3, 0), (2, 3), (1, 0)]);
    let row = &history.generations[1].promoted[0];
    assert_eq!((row.node.as_str(), row.generation), ("server-1", 2));
    assert_eq!(row.receipts, ["server-2", "server-3"].map(String::from));
    assert!(row.by.starts_with("uid "), "{row:?}");
    let shown: ImagesReport = node.ask(&Request::ImageShow { image });
    let last = shown.images[0].promoted.as_ref().expect("shown");
    assert_eq!((last.node.as_str(), last.generation), ("server-3", 2));
}

#[test]
fn what_went_its_own_way_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let ([a, b], images) = mesh(dir.path(), ["a", "b"]);
    std::fs::write(images[0].join("x.img"), noise(1, 100_000)).expect("written");
    a.publish("x.img");
    everywhere(&b, "x.img", 1);
    for node in [&a, &b] {
        let _: serde_json::Value = node.ask(&Request::Pause(Affected::default()));
    }
    edit(&images[0].join("x.img"), 0, b"aaaa");
    edit(&images[1].join("x.img"), 0, b"bbbb");
    a.publish("x.img");
    b.publish("x.img");
    refused(&a, "x.img", "DIVERGED", &["b holds vdisks/x.img@2", "went its own way"]);
    refused(&b, "x.img", "DIVERGED", &["a holds vdisks/x.img@2"]);
    let there = ready(&a, "x.img");
    assert_eq!(there.peers[0].reason, Some(WaitReason::Diverged), "{there:?}");
}

#[test]
fn who_must_hold_it_can_be_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let alone = by_hand(dir.path(), "alone");
    std::fs::write(alone.add_store().join("x.img"), noise(1, 5000)).expect("written");
    alone.publish("x.img");
    refused(&alone, "x.img", "NOT_IN_SYNC", &["no other member"]);
    assert_eq!(
        alone.refused(&Request::Promote { image: "vdisks/x.img@7".into(), require: None }),
        "GENERATION_UNKNOWN"
    );
    let none = Request::Promote { image: "vdisks/none".into(), require: None };
    assert_eq!(alone.refused(&none), "IMAGE_UNKNOWN");

    let ([a, b, c], images) = mesh(dir.path(), ["a", "b", "c"]);
    std::fs::write(images[0].join("x.img"), noise(2, 100_000)).expect("written");
    a.publish("x.img");
    assert!(a.wait("x.img").ready);
    let c_dir = c.stop();
    let first = promote(&a, "x.img@1", None);
    assert!(first.promoted, "receipts of who is offline now count: {first:?}");
    edit(&images[0].join("x.img"), 9, b"more");
    a.publish("x.img");
    until("b hears of it", || ready(&b, "x.img").generation == 2);
    let named = |names: &[&str]| Require::Peers(names.iter().map(|n| (*n).into()).collect());
    let ask = |require| Request::Wait {
        image: "vdisks/x.img".into(),
        require,
        timeout_seconds: Some(60),
    };
    // A list of all names, our own among them, can be the same on every node.
    assert!(b.ask::<ReadyReport>(&ask(named(&["a", "b"]))).ready);
    assert!(b.ask::<ReadyReport>(&ask(Require::Count(1))).ready);
    assert!(a.ask::<ReadyReport>(&ask(named(&["b"]))).ready);
    refused(&a, "x.img", "NOT_IN_SYNC", &["c holds @1 (peer_down)"]);
    assert!(!promote(&a, "x.img", Some(Require::Count(2))).promoted);
    assert!(!promote(&a, "x.img", Some(named(&["b", "c"]))).promoted);
    let second = promote(&a, "x.img", Some(Require::Count(1)));
    assert!(second.promoted && second.receipts == ["b"], "{second:?}");
    refused(&a, "x.img@1", "SUPERSEDED", &["@2 is: promote that"]);
    drop(c_dir);
}

#[test]
fn the_hook_runs_once_and_what_it_changes_is_a_new_generation() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let hook = dir.path().join("hook");
    let script = "#!/bin/sh\ntest -n \"$BLOCKFERRY_ROOT\" || exit 9\n\
                  case $1 in vdisks/x.img@1) ;; *) echo once is enough; exit 3 ;; esac\n\
                  printf activated | dd of=\"$2\" conv=notrunc bs=1 seek=3 2>/dev/null\n";
    std::fs::write(&hook, script).expect("written");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut with_hook = config(&dir.path().join("a"), "a", 0);
    with_hook.promote.hook_after = Some(hook);
    let (a, b) = (start(with_hook), node(dir.path(), "b"));
    let images = a.add_store();
    let copies = b.join(&a.invite(Role::Mirror));
    std::fs::write(images.join("x.img"), noise(1, 100_000)).expect("written");
    a.publish("x.img");
    assert!(a.wait("x.img").ready);
    let report = promote(&a, "x.img", None);
    let ran = report.hook.expect("it ran");
    assert!(report.promoted && ran.ok, "{ran:?}");
    until("what it wrote arrives", || {
        let copy = std::fs::read(copies.join("x.img")).expect("read");
        copy[3..].starts_with(b"activated")
    });
    let history: HistoryReport = a.ask(&Request::ImageHistory { image: "vdisks/x.img".into() });
    let newest = &history.generations[0];
    assert_eq!((newest.generation, newest.author.as_str()), (2, "a"));
    assert!(newest.promoted.is_empty() && history.generations[1].promoted.len() == 1);

    // It fails this time, and says so.
    everywhere(&a, "x.img", 2);
    let report = promote(&a, "x.img@2", None);
    let ran = report.hook.expect("it ran");
    assert!(report.promoted && !ran.ok && ran.said.contains("once is enough"), "{ran:?}");
    until("an event", || a.events().iter().any(|e| e.code == "HOOK_FAILED"));
    let history: HistoryReport = a.ask(&Request::ImageHistory { image: "vdisks/x.img".into() });
    assert_eq!(history.generations[0].promoted.len(), 1, "recorded all the same");
}

#[test]
fn asked_of_a_mirror_the_hook_of_the_writer_runs() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let (hook, ran) = (dir.path().join("hook"), dir.path().join("ran"));
    let script = format!(
        "#!/bin/sh\necho \"$BLOCKFERRY_NODE $1\" >> {}\n\
         printf activated | dd of=\"$2\" conv=notrunc bs=1 seek=3 2>/dev/null\n",
        ran.display()
    );
    std::fs::write(&hook, script).expect("written");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let [a, b] = ["a", "b"].map(|name| {
        let mut with_hook = config(&dir.path().join(name), name, 0);
        with_hook.promote.hook_after = Some(hook.clone());
        start(with_hook)
    });
    let images = a.add_store();
    let copies = b.join(&a.invite(Role::Mirror));
    std::fs::write(images.join("x.img"), noise(1, 100_000)).expect("written");
    a.publish("x.img");
    everywhere(&b, "x.img", 1);
    let report = promote(&b, "x.img", None);
    assert!(report.promoted && report.hook.is_none(), "{report:?}");
    until("the writer's ran", || a.events().iter().any(|e| e.code == "HOOK_RAN"));
    until("what it wrote arrives", || {
        let copy = std::fs::read(copies.join("x.img")).expect("read");
        copy[3..].starts_with(b"activated")
    });
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "a vdisks/x.img@1\n", "once");
    assert!(!b.events().iter().any(|e| e.code == "MIRROR_RESTORED"), "nothing was changed there");
    let history: HistoryReport = a.ask(&Request::ImageHistory { image: "vdisks/x.img".into() });
    let first = history.generations.iter().find(|g| g.generation == 1).expect("it was there");
    assert_eq!(first.promoted.len(), 1, "the writer has heard of it");
}
