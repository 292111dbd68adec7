//! Directories that held images before they were stores.

use std::path::Path;

use blockferry_node::api::{HistoryReport, Joined, Request, Role};

use crate::running::{Running, config, edit, equal, node, noise, start, until};

/// Makes `to` a copy of `from` as `cp -a` does.
fn seed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
    std::fs::copy(from, to).expect("copied");
    let time = std::fs::metadata(from).and_then(|m| m.modified()).expect("looked at");
    let file = std::fs::OpenOptions::new().write(true).open(to).expect("opened");
    file.set_modified(time).expect("set");
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("looked at"))
}

impl Running {
    fn join_at(&self, ticket: &str, path: &Path) {
        let path = Some(path.to_owned());
        let request = Request::Join { ticket: ticket.to_owned(), path, name: None };
        let _: Joined = self.ask(&request);
    }

    fn newest(&self, image: &str) -> (u64, String) {
        let request = Request::ImageHistory { image: format!("vdisks/{image}") };
        let history: HistoryReport = self.ask(&request);
        (history.generations[0].wire_bytes, history.generations[0].root.clone())
    }
}

#[test]
fn directories_that_hold_the_images_are_adopted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b, c) = (node(dir.path(), "a"), node(dir.path(), "b"), node(dir.path(), "c"));
    let [a_images, b_images, c_images] = ["a", "b", "c"].map(|n| dir.path().join(n).join("images"));
    std::fs::create_dir_all(&a_images).expect("a directory");
    let image = a_images.join("disk.img");
    std::fs::write(&image, noise(1, 6 << 20)).expect("written");
    // One is seeded with the same copy, the other with an older one.
    seed(&image, &c_images.join("disk.img"));
    a.add_store();
    until("it is recorded", || {
        a.try_ask::<serde_json::Value>(&Request::ImageHistory { image: "vdisks/disk.img".into() })
            .is_ok()
    });
    edit(&image, 123_456, b"edited here");
    let (_, older) = a.newest("disk.img");
    a.publish("disk.img");
    seed(&image, &b_images.join("disk.img"));
    let before = inode(&b_images.join("disk.img"));
    b.join_at(&a.invite(Role::Writer), &b_images);
    c.join_at(&a.invite(Role::Writer), &c_images);
    assert!(a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img") && equal(&a_images, &c_images, "disk.img"));
    let (bytes, root) = b.newest("disk.img");
    assert_eq!((bytes, inode(&b_images.join("disk.img"))), (0, before), "it wasn't touched");
    assert!(root != older && c.newest("disk.img") != (0, root.clone()));
    let (bytes, same) = c.newest("disk.img");
    assert!(same == root && bytes < 10_000, "{bytes} bytes for one page");

    // The catalog of one is lost.
    let b_dir = b.stop();
    std::fs::remove_file(b_images.join(".blockferry/catalog.redb")).expect("it was there");
    edit(&image, 3 << 20, b"meanwhile");
    a.publish("disk.img");
    let b = start(config(&b_dir, "b", 0));
    assert!(a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img"));
    let (bytes, _) = b.newest("disk.img");
    assert!(bytes < 10_000, "{bytes} bytes for one page");
}

#[test]
fn a_strangers_file_in_a_mirror_is_kept_and_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    std::fs::write(a_images.join("disk.img"), noise(1, 2 << 20)).expect("written");
    a.publish("disk.img");
    let b_images = dir.path().join("b/images");
    std::fs::create_dir_all(&b_images).expect("a directory");
    std::fs::write(b_images.join("disk.img"), noise(2, 1 << 20)).expect("written");
    b.join_at(&a.invite(Role::Mirror), &b_images);
    assert!(a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img"));
    let kept = std::fs::read(b_images.join(".blockferry/kept/disk.img.1")).expect("kept");
    assert!(kept == noise(2, 1 << 20));
    let told = b.events().into_iter().find(|event| event.code == "ADOPTED_SET_ASIDE");
    assert!(told.expect("an event").message.contains("kept/disk.img"));
}
