//! Whole nodes that disagree: both contents stay on both, an operator or a policy decides for all,
//! backups that were restored and mirrors that were edited give nobody their content.

use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_delta::StoreName;
use blockferry_node::api::{
    BacklogReport, ConflictRow, ConflictState, ConflictsReport, HistoryReport, ImageState,
    ImagesReport, Request, ResolveReport, Role, WaitReason,
};
use blockferry_node::config::StoreConfig;

use crate::running::{Running, config, edit, equal, node, noise, start, until};

const IMAGE: &str = "vdisks/disk.img";

fn conflicts(node: &Running) -> ConflictsReport {
    node.ask(&Request::Conflicts { image: None })
}

fn open_row(node: &Running) -> Option<ConflictRow> {
    conflicts(node).conflicts.into_iter().find(|row| row.open)
}

fn resolve(node: &Running, keep: &str) -> ResolveReport {
    node.ask(&Request::Resolve { image: IMAGE.into(), keep: Some(keep.into()), acknowledge: false })
}

fn acknowledge(node: &Running) -> u64 {
    let request = Request::Resolve { image: IMAGE.into(), keep: None, acknowledge: true };
    node.ask::<ResolveReport>(&request).released
}

fn has_event(node: &Running, code: &str) -> bool {
    node.events().iter().any(|event| event.code == code)
}

/// Two writers with one image, equal on both.
fn pair(dir: &Path) -> (Running, PathBuf, Running, PathBuf) {
    let (a, b) = (node(dir, "a"), node(dir, "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    std::fs::write(a_images.join("disk.img"), noise(1, 2 << 20)).expect("written");
    a.publish("disk.img");
    assert!(a.wait("disk.img").ready);
    (a, a_images, b, b_images)
}

/// Both change the image while they don't see each other, and meet.
fn part_and_meet(dir: &Path) -> (Running, PathBuf, Running, PathBuf) {
    let (a, a_images, b, b_images) = pair(dir);
    b.stop();
    edit(&a_images.join("disk.img"), 0, b"changed by a");
    a.publish("disk.img");
    edit(&b_images.join("disk.img"), 1 << 20, b"changed by b");
    let b = node(dir, "b");
    b.publish("disk.img");
    until("both say so", || open_row(&a).is_some() && open_row(&b).is_some());
    (a, a_images, b, b_images)
}

#[test]
fn both_contents_stay_on_both_until_an_operator_decides_for_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, a_images, b, b_images) = part_and_meet(dir.path());
    let (of_a, of_b) = (a_images.join("disk.img"), b_images.join("disk.img"));
    let (of_a, of_b) = (std::fs::read(of_a).expect("read"), std::fs::read(of_b).expect("read"));
    assert!(of_a.starts_with(b"changed by a") && !of_b.starts_with(b"changed by a"));
    for (node, ours, theirs, author) in [(&a, &of_a, &of_b, "b"), (&b, &of_b, &of_a, "a")] {
        let row = open_row(node).expect("open");
        let states: Vec<_> = row.contents.iter().map(|content| content.state).collect();
        assert_eq!(states, [ConflictState::Current, ConflictState::Open]);
        let read = |at: usize| std::fs::read(&row.contents[at].path).expect("read");
        assert!(read(0) == *ours && read(1) == *theirs, "nothing is overwritten");
        assert_eq!(
            (row.contents[1].author.as_str(), &row.contents[1].peers[..]),
            (author, &[author.to_owned()][..])
        );
        let images: ImagesReport = node.ask(&Request::ImageShow { image: IMAGE.into() });
        assert_eq!(images.images[0].state, ImageState::Diverged);
        let backlog: BacklogReport = node.ask(&Request::Backlog { peer: None });
        assert_eq!(backlog.items[0].reason, WaitReason::Diverged);
        assert!(has_event(node, "DIVERGED") && !has_event(node, "HISTORY_FORK"));
        let nothing = Request::Resolve { image: IMAGE.into(), keep: None, acknowledge: false };
        assert_eq!(node.refused(&nothing), "CONTROL_BAD_REQUEST");
        assert_eq!(acknowledge(node), 0, "what waits for a decision stays");
    }
    let resolved = resolve(&a, "b");
    assert!(a.wait("disk.img").ready);
    assert!(std::fs::read(a_images.join("disk.img")).expect("read") == of_b);
    assert!(equal(&a_images, &b_images, "disk.img"));
    assert_eq!(resolved.root, blake3::hash(&of_b).to_hex().as_str());
    until("it is over on both", || open_row(&a).is_none() && open_row(&b).is_none());
    let keep =
        Request::Resolve { image: IMAGE.into(), keep: Some("local".into()), acknowledge: false };
    assert_eq!(b.refused(&keep), "NOT_DIVERGED");
    // What lost is there until somebody says that it may go.
    for node in [&a, &b] {
        let report = conflicts(node);
        let lost = report.conflicts[0].contents.last().expect("some");
        assert_eq!((report.open, lost.state), (0, ConflictState::Resolved));
        assert!(std::fs::read(&lost.path).expect("read") == of_a);
        assert_eq!(acknowledge(node), 1);
        assert_eq!(conflicts(node).conflicts, []);
    }
}

#[test]
fn both_makes_an_image_of_the_other_content() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, a_images, b, b_images) = part_and_meet(dir.path());
    let of_b = std::fs::read(b_images.join("disk.img")).expect("read");
    let resolved = resolve(&a, "both");
    assert_eq!(resolved.beside, ["vdisks/disk.b.img"]);
    assert!(a.wait("disk.img").ready && a.wait("disk.b.img").ready);
    for name in ["disk.img", "disk.b.img"] {
        assert!(equal(&a_images, &b_images, name), "{name}");
    }
    assert!(std::fs::read(b_images.join("disk.b.img")).expect("read") == of_b);
    until("it is over on both", || open_row(&a).is_none() && open_row(&b).is_none());
}

#[test]
fn both_that_was_interrupted_after_the_decision_is_asked_for_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, a_images, b, b_images) = part_and_meet(dir.path());
    let of_b = std::fs::read(b_images.join("disk.img")).expect("read");
    // A crash right after the decision leaves what `local` leaves: a content that lost.
    assert_eq!(resolve(&a, "local").beside, [""; 0]);
    assert_eq!(resolve(&a, "both").beside, ["vdisks/disk.b.img"]);
    assert!(a.wait("disk.img").ready && a.wait("disk.b.img").ready);
    assert!(std::fs::read(a_images.join("disk.b.img")).expect("read") == of_b);
    assert!(equal(&a_images, &b_images, "disk.b.img"));
    // B keeps it as what lost, too, but it is an image by now.
    for node in [&a, &b] {
        let request =
            Request::Resolve { image: IMAGE.into(), keep: Some("both".into()), acknowledge: false };
        assert_eq!(node.refused(&request), "NOT_DIVERGED");
    }
}

#[test]
fn a_policy_decides_by_itself_and_keeps_what_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let images = dir.path().join("disks");
    std::fs::create_dir(&images).expect("a directory");
    let mut config = config(&dir.path().join("a"), "a", 0);
    let name = StoreName::new("vdisks").expect("a name");
    let mut store = StoreConfig::new(name, images.clone(), Role::Writer);
    (store.settle, store.prefer) = (Duration::from_millis(200), Some("b".into()));
    config.stores.push(store);
    let (a, b) = (start(config), node(dir.path(), "b"));
    let copies = b.join(&a.invite(Role::Writer));
    std::fs::write(images.join("disk.img"), noise(1, 300_000)).expect("written");
    a.publish("disk.img");
    assert!(a.wait("disk.img").ready);
    b.stop();
    edit(&images.join("disk.img"), 0, b"changed by a");
    a.publish("disk.img");
    let lost = std::fs::read(images.join("disk.img")).expect("read");
    edit(&copies.join("disk.img"), 100_000, b"changed by b");
    let b = node(dir.path(), "b");
    until("the policy has decided", || has_event(&a, "RESOLVED"));
    until("both are equal", || equal(&images, &copies, "disk.img"));
    until("it is over on both", || open_row(&a).is_none() && open_row(&b).is_none());
    let now = std::fs::read(images.join("disk.img")).expect("read");
    assert!(now[100_000..].starts_with(b"changed by b") && !now.starts_with(b"changed by a"));
    let kept = &conflicts(&a).conflicts[0].contents[1];
    assert!(std::fs::read(&kept.path).expect("read") == lost, "even then it is kept");
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("looked at") {
            kind if kind.is_dir() => copy_dir(&path, &to),
            kind if kind.is_file() => drop(std::fs::copy(&path, &to).expect("copied")),
            _ => {}
        }
    }
}

/// The store alone is restored, and the node's ledger tells; or all of the node, and its peer does.
fn a_restored_backup(whole: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, a_images, b, b_images) = pair(dir.path());
    edit(&b_images.join("disk.img"), 0, b"first of b");
    b.publish("disk.img");
    assert!(b.wait("disk.img").ready);
    let b_dir = b.stop();
    let (what, backup) = (if whole { b_dir } else { b_images.clone() }, dir.path().join("backup"));
    copy_dir(&what, &backup);
    let b = node(dir.path(), "b");
    edit(&b_images.join("disk.img"), 4096, b"second of b");
    b.publish("disk.img");
    assert!(b.wait("disk.img").ready);
    let published = std::fs::read(a_images.join("disk.img")).expect("read");
    b.stop();
    std::fs::remove_dir_all(&what).expect("removed");
    copy_dir(&backup, &what);
    // Restored, it goes on with what it has.
    edit(&b_images.join("disk.img"), 8192, b"another second of b");
    let restored = std::fs::read(b_images.join("disk.img")).expect("read");
    let b = node(dir.path(), "b");
    b.publish("disk.img");
    until("it is noticed", || has_event(&b, "HISTORY_FORK"));
    until("both say so", || open_row(&a).is_some() && open_row(&b).is_some());
    assert!(std::fs::read(a_images.join("disk.img")).expect("read") == published);
    assert!(std::fs::read(b_images.join("disk.img")).expect("read") == restored);
    let kept = &open_row(&a).expect("open").contents[1];
    assert!(std::fs::read(&kept.path).expect("read") == restored);
    resolve(&a, "local");
    assert!(a.wait("disk.img").ready);
    assert!(std::fs::read(b_images.join("disk.img")).expect("read") == published);
}

#[test]
fn a_store_restored_from_a_backup_is_noticed_by_the_ledger() {
    a_restored_backup(false);
}

#[test]
fn a_machine_restored_from_a_backup_is_noticed_by_its_peer() {
    a_restored_backup(true);
}

#[test]
fn an_edit_on_a_mirror_is_undone_kept_and_not_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, mirror) = (node(dir.path(), "hub"), node(dir.path(), "mirror"));
    let images = hub.add_store();
    let copies = mirror.join(&hub.invite(Role::Mirror));
    std::fs::write(images.join("disk.img"), noise(1, 2 << 20)).expect("written");
    hub.publish("disk.img");
    assert!(hub.wait("disk.img").ready);
    edit(&copies.join("disk.img"), 70_000, b"not for others");
    let edited = std::fs::read(copies.join("disk.img")).expect("read");
    until("it is undone", || has_event(&mirror, "MIRROR_RESTORED"));
    assert!(equal(&images, &copies, "disk.img"));
    let event = mirror.events().into_iter().find(|event| event.code == "MIRROR_RESTORED");
    let message = event.expect("there").message;
    let path = message.split(" is kept as ").nth(1).and_then(|rest| rest.split(" until").next());
    let kept = std::fs::read(path.unwrap_or_else(|| panic!("{message}"))).expect("read");
    assert!(kept == edited, "the edit is kept");
    let history: HistoryReport = hub.ask(&Request::ImageHistory { image: IMAGE.into() });
    assert_eq!(history.generations.len(), 1, "nothing was sent");
    let undone: HistoryReport = mirror.ask(&Request::ImageHistory { image: IMAGE.into() });
    let wire_bytes = undone.generations[0].wire_bytes;
    assert!(wire_bytes < 20_000, "{wire_bytes} bytes to undo one page");
    assert!(hub.wait("disk.img").ready && open_row(&mirror).is_none());
    assert_eq!(acknowledge(&mirror), 1);
}

#[test]
fn a_mirror_serves_what_it_has_to_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hub, mirror) = (node(dir.path(), "hub"), node(dir.path(), "mirror"));
    let branch = node(dir.path(), "branch");
    let images = hub.add_store();
    mirror.join(&hub.invite(Role::Mirror));
    let far = branch.join(&mirror.invite(Role::Mirror));
    std::fs::write(images.join("disk.img"), noise(1, 2 << 20)).expect("written");
    hub.publish("disk.img");
    until("it arrives by the mirror", || equal(&images, &far, "disk.img"));
    edit(&images.join("disk.img"), 70_000, b"for all");
    hub.publish("disk.img");
    until("so does the change", || equal(&images, &far, "disk.img"));
}
