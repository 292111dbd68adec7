//! A mirror whose image was taken away: it comes back from a peer, what was put in its place is
//! kept, and nothing of it travels.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use blockferry_node::api::{HistoryReport, Request, Role};

use crate::running::{Running, equal, node, noise, until};

const BYTES: usize = 2 << 20;

/// A writer and its mirror with one image, equal on both.
fn mirrored(dir: &Path) -> (Running, PathBuf, Running, PathBuf) {
    let (hub, mirror) = (node(dir, "hub"), node(dir, "mirror"));
    let images = hub.add_store();
    let copies = mirror.join(&hub.invite(Role::Mirror));
    std::fs::write(images.join("disk.img"), noise(1, BYTES)).expect("written");
    hub.publish("disk.img");
    assert!(hub.wait("disk.img").ready);
    (hub, images, mirror, copies)
}

/// What lies among the kept contents of an image, whatever it is.
fn kept(copies: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(copies.join(".blockferry/kept")).expect("a directory");
    entries.map(|entry| entry.expect("read").path()).collect()
}

/// The image's file is lost on the mirror by `lose`, and comes back; returns the mirror's directory
/// and the events' codes.
fn lost(dir: &Path, lose: impl FnOnce(&Path)) -> (PathBuf, Vec<String>) {
    let (hub, images, mirror, copies) = mirrored(dir);
    lose(&copies.join("disk.img"));
    until("it is back", || equal(&images, &copies, "disk.img"));
    assert!(hub.wait("disk.img").ready);
    let image = Request::ImageHistory { image: "vdisks/disk.img".into() };
    assert_eq!(hub.ask::<HistoryReport>(&image).generations.len(), 1, "nothing was sent");
    (copies, mirror.events().into_iter().map(|event| event.code.to_string()).collect())
}

fn has(codes: &[String], code: &str) -> bool {
    codes.iter().any(|known| known == code)
}

#[test]
fn an_image_deleted_on_a_mirror_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, codes) = lost(dir.path(), |file| std::fs::remove_file(file).expect("removed"));
    assert!(has(&codes, "SOURCE_MISSING") && has(&codes, "LOCAL_CHANGE"), "{codes:?}");
    assert!(!has(&codes, "DELETED"), "{codes:?}");
}

#[test]
fn an_image_renamed_away_on_a_mirror_comes_back_and_its_copy_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let (copies, _) = lost(dir.path(), |file| {
        std::fs::rename(file, file.with_file_name("mine.img")).expect("renamed");
    });
    assert!(std::fs::read(copies.join("mine.img")).expect("read") == noise(1, BYTES));
}

#[test]
fn an_image_cut_to_nothing_on_a_mirror_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (copies, codes) = lost(dir.path(), |file| std::fs::write(file, b"").expect("cut"));
    assert!(has(&codes, "LOCAL_CHANGE"), "{codes:?}");
    let empty = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
    assert!(kept(&copies).iter().any(empty), "what was in its place is kept");
}

#[test]
fn a_directory_in_an_images_place_on_a_mirror_is_kept_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (copies, _) = lost(dir.path(), |file| {
        std::fs::remove_file(file).expect("removed");
        std::fs::create_dir(file).expect("made");
        std::fs::write(file.join("notes"), b"of somebody").expect("written");
    });
    let notes =
        |path: &PathBuf| std::fs::read(path.join("notes")).is_ok_and(|n| n == b"of somebody");
    assert!(kept(&copies).iter().any(notes), "{:?}", kept(&copies));
}

#[test]
fn a_symbolic_link_in_an_images_place_on_a_mirror_is_kept_and_not_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, b"of somebody").expect("written");
    let (copies, _) = lost(dir.path(), |file| {
        std::fs::remove_file(file).expect("removed");
        symlink(&elsewhere, file).expect("linked");
    });
    let leads = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|to| to == elsewhere);
    assert!(kept(&copies).iter().any(leads), "{:?}", kept(&copies));
    assert!(copies.join("disk.img").symlink_metadata().expect("there").is_file());
    assert_eq!(std::fs::read(&elsewhere).expect("read"), b"of somebody");
}

#[test]
fn what_was_no_image_is_left_alone_on_a_mirror() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_hub, _, mirror, copies) = mirrored(dir.path());
    std::fs::create_dir(copies.join("notes")).expect("made");
    std::fs::write(copies.join("empty"), b"").expect("written");
    until("both are told", || {
        let codes: Vec<_> = mirror.events().into_iter().map(|event| event.code).collect();
        ["SOURCE_NOT_REGULAR", "SOURCE_EMPTY"].iter().all(|code| codes.iter().any(|c| c == code))
    });
    assert!(copies.join("notes").is_dir() && copies.join("empty").is_file());
}
