//! A directory that another tool has kept so far: compared, filled beside it, taken over, given back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blockferry_node::api::{
    AdoptReport, AdoptStatus, AdoptionPhase, BacklogReport, Compared, Request, Role, WaitReason,
};

use crate::running::{Running, config, edit, equal, node, noise, start, until};

/// What a tool that looks at names, inodes, times and bytes would see.
fn seen(dir: &Path) -> BTreeMap<String, (u64, SystemTime, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let entries =
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.file_type().expect("a type").is_file());
    files
        .map(|entry| {
            let info = entry.metadata().expect("looked at");
            let bytes = std::fs::read(entry.path()).expect("read");
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, (info.ino(), info.modified().expect("a time"), bytes))
        })
        .collect()
}

fn copy(from: &Path, to: &Path, name: &str) {
    std::fs::copy(from.join(name), to.join(name)).expect("copied");
    let time = std::fs::metadata(from.join(name)).and_then(|info| info.modified());
    touch(&to.join(name), time.expect("a time"));
}

fn touch(path: &Path, time: SystemTime) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("opened");
    file.set_modified(time).expect("set");
}

impl Running {
    fn order(&self, request: &Request) -> AdoptionPhase {
        let status: AdoptStatus = self.ask(request);
        assert_eq!(status.stores[0].going_to, None, "{status:?}");
        status.stores[0].phase
    }

    fn next(&self) -> AdoptionPhase {
        self.order(&Request::AdoptNext { store: "vdisks".into(), force: false })
    }

    fn back(&self) -> AdoptionPhase {
        self.order(&Request::AdoptBack { store: "vdisks".into() })
    }

    fn compared(&self) -> BTreeMap<String, Compared> {
        let report: AdoptReport = self.ask(&Request::AdoptReport { store: "vdisks".into() });
        report.images.into_iter().map(|row| (row.image, row.state)).collect()
    }

    fn row(&self) -> blockferry_node::api::AdoptStoreRow {
        let status: AdoptStatus = self.ask(&Request::AdoptStatus {});
        status.stores.into_iter().find(|row| row.store == "vdisks").expect("a row")
    }

    fn waits_for(&self) -> Vec<WaitReason> {
        let report: BacklogReport = self.ask(&Request::Backlog { peer: None });
        report.items.into_iter().map(|item| item.reason).collect()
    }
}

/// A hub with images, and a branch where another tool left some of them.
fn scene(dir: &Path) -> (Running, Running, PathBuf, PathBuf) {
    let (hub, branch) = (node(dir, "hub"), node(dir, "branch"));
    let theirs = hub.add_store();
    for (seed, name) in [(1, "equal.img"), (2, "stale.img"), (3, "times.img")] {
        std::fs::write(theirs.join(name), noise(seed, 1 << 20)).expect("written");
    }
    let ours = dir.join("branch/images");
    std::fs::create_dir_all(&ours).expect("a directory");
    for name in ["equal.img", "stale.img", "times.img"] {
        copy(&theirs, &ours, name);
    }
    touch(&ours.join("times.img"), SystemTime::now() - Duration::from_secs(86_400));
    std::fs::write(ours.join("only.img"), noise(4, 100_000)).expect("written");
    edit(&theirs.join("stale.img"), 5000, b"newer at the hub");
    std::fs::write(theirs.join("missing.img"), noise(5, 300_000)).expect("written");
    for name in ["equal.img", "stale.img", "times.img", "missing.img"] {
        hub.publish(name);
    }
    let ticket = Some(hub.invite(Role::Mirror));
    let (store, name) = (None, None);
    let path = Some(ours.clone());
    let request = Request::AdoptStart { store, path, role: Role::Mirror, ticket, name };
    assert_eq!(branch.order(&request), AdoptionPhase::Observe);
    (hub, branch, theirs, ours)
}

#[test]
fn a_directory_is_taken_over_phase_by_phase_and_given_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, branch, theirs, ours) = scene(dir.path());
    let before = seen(&ours);
    let expected = [
        ("equal.img", Compared::Equal),
        ("missing.img", Compared::Missing),
        ("only.img", Compared::OnlyHere),
        ("stale.img", Compared::Stale),
        ("times.img", Compared::TimesAdrift),
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|(name, state)| (name.to_owned(), state)).collect();
    until("all are compared", || branch.compared() == expected);
    until("the hub knows why", || hub.waits_for().contains(&WaitReason::Observing));
    assert!(!hub.waits_for().contains(&WaitReason::Other), "{:?}", hub.waits_for());
    assert_eq!(seen(&ours), before, "observed");

    assert_eq!(branch.next(), AdoptionPhase::Shadow);
    until("what differs lies beside it", || branch.row().shadow == 2);
    assert_eq!(seen(&ours), before, "in shadow");
    // Something newer takes the place of what lies beside it.
    edit(&theirs.join("stale.img"), 9000, b"newer again");
    hub.publish("stale.img");
    let newest = std::fs::read(theirs.join("stale.img")).expect("read");
    let beside = || {
        let entries = std::fs::read_dir(ours.join(".blockferry/kept")).expect("a directory");
        let mut files = entries.map(|entry| std::fs::read(entry.expect("an entry").path()));
        files.any(|bytes| bytes.is_ok_and(|bytes| bytes == newest))
    };
    until("the newer one lies beside it", || beside() && branch.row().shadow == 2);
    assert_eq!(seen(&ours), before, "still in shadow");

    assert_eq!(branch.next(), AdoptionPhase::Active);
    let all = ["equal.img", "missing.img", "stale.img", "times.img"];
    until("all is as at the hub", || all.iter().all(|name| equal(&theirs, &ours, name)));
    until("what lay beside is not needed", || branch.row().shadow == 0);
    until("times too", || seen(&ours)["times.img"].1 == seen(&theirs)["times.img"].1);
    assert_eq!(branch.row().old_tool, 2, "what was replaced is kept");
    assert!(hub.wait("stale.img").ready);

    assert_eq!(branch.back(), AdoptionPhase::Shadow);
    assert_eq!(seen(&ours), before, "given back");
    until("what was in its place lies beside it", || branch.row().shadow == 3);
    assert_eq!(branch.back(), AdoptionPhase::Observe);
    assert_eq!((seen(&ours), branch.row().shadow), (before, 0));
    until("it is compared again", || branch.compared() == expected);

    assert_eq!((branch.next(), branch.next()), (AdoptionPhase::Shadow, AdoptionPhase::Active));
    until("all is as at the hub again", || all.iter().all(|name| equal(&theirs, &ours, name)));
    assert_eq!(branch.next(), AdoptionPhase::Off);
    let row = branch.row();
    assert_eq!((row.old_tool, row.shadow, row.diverged), (0, 0, 0));
    assert_eq!(branch.refused(&Request::AdoptBack { store: "vdisks".into() }), "ADOPTION_NOT_NOW");
    assert!(seen(&ours).contains_key("only.img"), "nobody touched it");
    edit(&theirs.join("equal.img"), 77, b"life goes on");
    hub.publish("equal.img");
    assert!(hub.wait("equal.img").ready && equal(&theirs, &ours, "equal.img"));
}

#[test]
fn what_the_other_tool_does_meanwhile_is_its_own_affair() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, branch, theirs, ours) = scene(dir.path());
    assert_eq!(
        branch.refused(&Request::AdoptStart {
            store: Some("vdisks".into()),
            path: Some(ours.clone()),
            role: Role::Mirror,
            ticket: None,
            name: None,
        }),
        "STORE_EXISTS"
    );
    until("all are recorded", || branch.row().unrecorded == 0 && branch.row().recorded == 4);
    // It brings one image, changes another and deletes a third.
    copy(&theirs, &ours, "missing.img");
    edit(&ours.join("only.img"), 0, b"changed");
    std::fs::remove_file(ours.join("equal.img")).expect("removed");
    until("it is compared again", || {
        let now = branch.compared();
        now.get("missing.img") == Some(&Compared::Equal)
            && now.get("equal.img") == Some(&Compared::Equal)
            && branch.row().unrecorded == 0
    });
    let events = branch.events();
    let strange = events.iter().find(|e| e.code == "MASS_DELETION" || e.code == "DELETED");
    assert!(strange.is_none(), "{strange:?}");
    assert!(theirs.join("equal.img").exists());

    // A restart changes nothing of it.
    let before = seen(&ours);
    let branch_dir = branch.stop();
    let branch = start(config(&branch_dir, "branch", 0));
    assert_eq!(branch.row().phase, AdoptionPhase::Observe);
    until("the hub is told again", || hub.waits_for().contains(&WaitReason::Observing));
    assert_eq!(seen(&ours), before);
}
