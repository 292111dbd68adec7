//! Whole nodes, one of which was cloned with its key: what either states proves nothing, and when
//! the other one is gone all of it counts again, without a restart.

use std::time::Duration;

use blockferry_node::api::{ReadyReport, Request, Require, Role};

use crate::diverged::copy_dir;
use crate::running::{Running, config, edit, equal, node, noise, start, until};

/// Two places count as two for so long after they were seen here.
const TWINS_TIME: Duration = Duration::from_secs(6);

fn is_ready(node: &Running) -> bool {
    let (image, require) = ("vdisks/disk.img".to_owned(), Require::All);
    node.ask::<ReadyReport>(&Request::Ready { image, require }).ready
}

#[test]
fn a_clone_proves_nothing_and_when_it_is_gone_its_original_is_believed_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut of_a = config(&dir.path().join("a"), "a", 0);
    of_a.twins = TWINS_TIME;
    let (a, b) = (start(of_a), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    std::fs::write(a_images.join("disk.img"), noise(1, 1 << 20)).expect("written");
    a.publish("disk.img");
    assert!(a.wait("disk.img").ready);

    let b_dir = b.stop();
    let clone_dir = dir.path().join("clone");
    copy_dir(&b_dir, &clone_dir);
    let managed = clone_dir.join("state/managed.toml");
    let text = std::fs::read_to_string(&managed).expect("read");
    let text = text.replace(b_dir.to_str().expect("text"), clone_dir.to_str().expect("text"));
    std::fs::write(&managed, text).expect("written");
    let b = node(dir.path(), "b");
    let clone = start(config(&clone_dir, "b", 0));

    let noticed = || a.events().iter().any(|event| event.code == "IDENTITY_DUPLICATE");
    until("it is noticed", noticed);
    assert!(!is_ready(&a), "one of two holds it, and nobody knows which");

    clone.stop();
    until("b is believed again", || is_ready(&a));
    edit(&b_images.join("disk.img"), 4096, b"of b alone");
    b.publish("disk.img");
    assert!(b.wait("disk.img").ready && a.wait("disk.img").ready);
    assert!(equal(&a_images, &b_images, "disk.img"));
}
