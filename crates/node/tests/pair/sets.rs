//! Sets on whole nodes: chains travel, what is broken waits and says why, and goes on by itself
//! when it is mended.

use std::path::Path;
use std::time::{Duration, SystemTime};

use blockferry_node::api::{
    BacklogReport, HistoryReport, ImageRow, ImageState, ImagesReport, Joined, Request, Role,
    RollbackReport, WaitReason,
};

use crate::disks::{Qcow2, Vhd, VhdKind, Vhdx};
use crate::gone::keeping;
use crate::promote::{everywhere, mesh, promote, ready};
use crate::running::{Running, equal, node, until};

fn row(node: &Running, image: &str) -> Option<ImageRow> {
    let report: ImagesReport = node.ask(&Request::ImageLs { store: None });
    report.images.into_iter().find(|row| row.name == image)
}

fn publish(image: &str) -> Request {
    Request::Publish { image: format!("vdisks/{image}"), changed: None, since: None }
}

fn has_event(node: &Running, code: &str, image: &str) -> bool {
    node.events().iter().any(|e| e.code == code && e.image.as_deref() == Some(image))
}

/// A chain of VHDX with sidecars, as Citrix Provisioning leaves it.
fn put_chain(images: &Path) {
    let base = Vhdx::new(1);
    let child = Vhdx::child(2, &base, "win.vhdx");
    std::fs::write(images.join("win.1.avhdx"), child.bytes()).expect("written");
    std::fs::write(images.join("win.vhdx"), base.bytes()).expect("written");
    for sidecar in ["win.pvp", "win.1.pvp", "win.xml"] {
        std::fs::write(images.join(sidecar), format!("<{sidecar}/>")).expect("written");
    }
}

#[test]
fn a_chain_with_its_sidecars_travels_as_a_set() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    put_chain(&a_images);
    let members = ["win.pvp", "win.vhdx", "win.1.pvp", "win.1.avhdx", "win.xml"];
    until("the set arrives", || members.iter().all(|m| equal(&a_images, &b_images, m)));
    for (node, member) in [&a, &b].into_iter().flat_map(|n| members.map(|m| (n, m))) {
        until("the set is known", || {
            let set = row(node, member).and_then(|row| row.set);
            set.as_deref() == Some("win.vhdx")
        });
    }
    assert!(a.events().iter().all(|e| e.code != "PARENT_MISMATCH"));
}

#[test]
fn a_child_without_its_parent_waits_and_goes_on_when_it_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    let base = Vhdx::new(1);
    let child = Vhdx::child(2, &base, "base.vhdx");
    std::fs::write(a_images.join("child.avhdx"), child.bytes()).expect("written");
    until("it is told", || has_event(&a, "SET_INCOMPLETE", "child.avhdx"));
    assert_eq!(a.refused(&publish("child.avhdx")), "SET_INCOMPLETE");
    assert_eq!(row(&a, "child.avhdx").expect("a row").state, ImageState::SetIncomplete);
    let backlog: BacklogReport = a.ask(&Request::Backlog { peer: None });
    let item = backlog.items.iter().find(|item| item.image == "child.avhdx").expect("it waits");
    assert_eq!((item.reason, item.bytes), (WaitReason::SetIncomplete, 0));
    assert!(!b_images.join("child.avhdx").exists());

    // Another disk under the parent's name doesn't help.
    std::fs::write(a_images.join("base.vhdx"), Vhdx::new(9).bytes()).expect("written");
    until("it is told", || has_event(&a, "PARENT_MISMATCH", "child.avhdx"));
    assert_eq!(row(&a, "child.avhdx").expect("a row").state, ImageState::ParentMismatch);
    assert_eq!(a.refused(&publish("child.avhdx")), "PARENT_MISMATCH");

    std::fs::write(a_images.join("base.vhdx"), base.bytes()).expect("written");
    until("both arrive", || {
        ["base.vhdx", "child.avhdx"].iter().all(|m| equal(&a_images, &b_images, m))
    });
    until("it is a set", || row(&a, "child.avhdx").is_some_and(|r| r.set.is_some()));
}

#[test]
fn every_kind_of_broken_link_of_a_vhd_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let a = node(dir.path(), "a");
    let images = a.add_store();
    let base = Vhd::new(VhdKind::Dynamic, 1);
    let path = images.join("base.vhd");
    std::fs::write(&path, base.bytes()).expect("written");
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    std::fs::File::open(&path).and_then(|file| file.set_modified(made)).expect("dated");
    let good = Vhd::child(2, &base, "base.vhd", 1_700_000_000 - 946_684_800);
    let put = |name: &str, child: &Vhd| {
        std::fs::write(images.join(name), child.bytes()).expect("written");
    };
    a.publish("base.vhd");
    let mut wrong = vec![
        ("time.vhd", Vhd { parent_time: good.parent_time - 60, ..good.clone() }, "PARENT_MISMATCH"),
        ("id.vhd", Vhd { parent_id: [7; 16], ..good.clone() }, "PARENT_MISMATCH"),
        ("size.vhd", Vhd { size_bytes: 2 << 20, ..good.clone() }, "PARENT_MISMATCH"),
    ];
    let gone = Vhd::child(2, &base, "gone.vhd", good.parent_time);
    wrong.push(("gone-child.vhd", gone, "SET_INCOMPLETE"));
    for (name, child, code) in &wrong {
        put(name, child);
        assert_eq!(a.refused(&publish(name)), *code, "{name}");
    }
    let mut bytes = good.bytes();
    bytes[512 + 40] ^= 1;
    std::fs::write(images.join("sum.vhd"), bytes).expect("written");
    assert_eq!(a.refused(&publish("sum.vhd")), "SET_INCOMPLETE");
    put("good.vhd", &good);
    assert!(a.publish("good.vhd").recorded);
}

#[test]
fn disks_that_were_not_closed_well_wait_and_strays_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let a = node(dir.path(), "a");
    let images = a.add_store();
    let open = Vhdx { log_id: [5; 16], ..Vhdx::new(1) };
    std::fs::write(images.join("open.vhdx"), open.bytes()).expect("written");
    let dirty = Qcow2 { version_3: true, size_bytes: 1 << 20, features: 1, ..Qcow2::default() };
    std::fs::write(images.join("dirty.qcow2"), dirty.bytes()).expect("written");
    for name in ["open.vhdx", "dirty.qcow2"] {
        assert_eq!(a.refused(&publish(name)), "UNCLEAN", "{name}");
    }
    std::fs::write(images.join("open.vhdx"), Vhdx::new(1).bytes()).expect("written");
    assert!(a.publish("open.vhdx").recorded, "closed by now");

    std::fs::write(images.join("base.raw"), vec![1; 8192]).expect("written");
    let backing = Some(("/mnt/elsewhere/base.raw".to_owned(), "raw".to_owned()));
    let stray = Qcow2 { backing, features: 0, ..dirty };
    std::fs::write(images.join("stray.qcow2"), stray.bytes()).expect("written");
    a.publish("base.raw");
    assert!(a.publish("stray.qcow2").recorded, "a stray path is told and no fault");
    until("it is told", || has_event(&a, "PARENT_PATH", "stray.qcow2"));

    // The parent moves on under its child.
    std::fs::write(images.join("base.raw"), vec![2; 8192]).expect("written");
    assert!(a.publish("base.raw").recorded);
    until("it is told", || has_event(&a, "PARENT_CHANGED", "base.raw"));
}

#[test]
fn a_parent_that_arrives_anew_is_renamed_or_deleted_is_told_where_children_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    let write = |name: &str, bytes: &[u8]| std::fs::write(a_images.join(name), bytes);
    for name in ["one.raw", "two.raw"] {
        write(name, &[1; 8192]).expect("written");
        a.publish(name);
        let backing = Some((name.to_owned(), "raw".to_owned()));
        let child = Qcow2 { version_3: true, size_bytes: 1 << 20, backing, ..Qcow2::default() };
        let child_name = name.replace(".raw", ".qcow2");
        write(&child_name, &child.bytes()).expect("written");
        a.publish(&child_name);
    }
    let told = |node: &Running, what: &str| {
        let is = |e: &&blockferry_node::api::Event| {
            e.code == "PARENT_CHANGED" && e.message.contains(what)
        };
        node.events().iter().filter(is).count()
    };
    let known = |name: &str| row(&b, name).is_some_and(|row| row.set.is_some());
    until("the sets are known", || known("one.raw") && known("two.raw"));
    assert_eq!((told(&a, ""), told(&b, "")), (0, 0), "they came, and nothing changed");

    write("one.raw", &[2; 8192]).expect("written");
    a.publish("one.raw");
    until("it is told where it came to", || told(&b, "one.raw@2: its content changed") == 1);
    std::fs::remove_file(a_images.join("one.raw")).expect("removed");
    std::fs::rename(a_images.join("two.raw"), a_images.join("zwei.raw")).expect("renamed");
    for gone in ["one.raw@3: it is gone", "two.raw@2: it is gone"] {
        until("it is told where it went", || told(&a, gone) == 1);
        until("and everywhere else", || told(&b, gone) == 1);
    }
    assert!(!b_images.join("one.raw").exists() && !b_images.join("two.raw").exists());
    assert_eq!((told(&a, ""), told(&b, "")), (3, 3), "each once");
}

/// The members of that chain, in the order of need.
const MEMBERS: [&str; 5] = ["win.pvp", "win.vhdx", "win.1.pvp", "win.1.avhdx", "win.xml"];

/// All of the chain changes at once: the base's data, and with it the linkage of the child.
fn put_next(images: &Path) -> [Vec<u8>; 5] {
    let base = Vhdx { size_bytes: 128 << 20, ..Vhdx::new(7) };
    let child = Vhdx::child(8, &base, "win.vhdx");
    let sidecar = |name: &str| format!("<{name} version=\"2\"/>").into_bytes();
    let news =
        [sidecar("win.pvp"), base.bytes(), sidecar("win.1.pvp"), child.bytes(), sidecar("win.xml")];
    for (name, bytes) in MEMBERS.iter().zip(&news).rev() {
        std::fs::write(images.join(name), bytes).expect("written");
    }
    news
}

fn number(node: &Running, image: &str) -> u64 {
    let image = format!("vdisks/{image}");
    let history: HistoryReport = node.ask(&Request::ImageHistory { image });
    history.generations[0].generation
}

#[test]
fn a_chain_goes_back_as_one_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let (a_images, b_images) = (a.add_store(), dir.path().join("b-images"));
    std::fs::create_dir(&b_images).expect("a directory");
    let (ticket, path) = (a.invite(Role::Writer), Some(b_images.clone()));
    let _: Joined = b.ask(&Request::Join { ticket, path, name: None });
    b.stop();
    // Who rolls back is one that received: a writer on this file system may keep nothing.
    let b = keeping(dir.path(), "b", 0, &b_images, Role::Writer);
    let arrived = || MEMBERS.iter().all(|name| equal(&a_images, &b_images, name));
    put_chain(&a_images);
    until("the set arrives", arrived);
    let first = MEMBERS.map(|name| std::fs::read(a_images.join(name)).expect("read"));
    MEMBERS.iter().for_each(|name| assert!(a.wait(name).ready));
    put_next(&a_images);
    until("the next arrives", arrived);
    MEMBERS.iter().for_each(|name| assert!(a.wait(name).ready));

    let broken = |node: &Running| {
        let is = |code: &str| code == "PARENT_MISMATCH" || code == "SET_INCOMPLETE";
        node.events().iter().filter(|event| is(&event.code)).count()
    };
    // While its files were copied in one after the other it may have been.
    let before = [broken(&a), broken(&b)];
    let back = |image: &str| Request::Rollback { image: format!("vdisks/{image}") };
    let done: RollbackReport = b.ask(&back("win.1.avhdx@1"));
    let with: Vec<&str> = done.with.iter().map(|other| other.image.as_str()).collect();
    let others = ["win.pvp", "win.vhdx", "win.1.pvp", "win.xml"].map(|n| format!("vdisks/{n}"));
    assert_eq!(with, others);
    assert!(
        done.recorded && done.with.iter().all(|other| (other.from, other.recorded) == (1, true))
    );
    for images in [&b_images, &a_images] {
        let is_first = |(name, bytes): (&&str, &Vec<u8>)| {
            std::fs::read(images.join(name)).is_ok_and(|read| read == *bytes)
        };
        until("all went back", || MEMBERS.iter().zip(&first).all(is_first));
    }
    until("it is recorded at both", || MEMBERS.iter().all(|name| number(&a, name) == 3));
    assert_eq!([broken(&a), broken(&b)], before, "the chain works");

    // Its base's content of then is lost: nothing moves.
    let kept = std::fs::read_dir(b_images.join(".blockferry/kept")).expect("listed");
    for entry in kept.map(|entry| entry.expect("listed").path()) {
        if entry.file_name().is_some_and(|name| name.to_string_lossy().contains("win.vhdx")) {
            std::fs::remove_file(entry).expect("removed");
        }
    }
    assert_eq!(b.refused(&back("win.1.avhdx@2")), "PARENT_MISMATCH");
    for (name, bytes) in MEMBERS.iter().zip(&first) {
        assert!(std::fs::read(b_images.join(name)).expect("read") == *bytes, "{name} has moved");
    }
}

#[test]
fn a_set_is_ready_and_promoted_as_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let ([a, b], images) = mesh(dir.path(), ["a", "b"]);
    put_chain(&images[0]);
    for name in MEMBERS {
        a.publish(name);
    }
    for name in MEMBERS {
        everywhere(&a, name, 1);
    }
    assert!(promote(&a, "win.vhdx", None).promoted);
    // The base is as it was everywhere; a sidecar has changed at b.
    std::fs::write(images[1].join("win.xml"), "<other/>").expect("written");
    until("it isn't ready", || !ready(&a, "win.vhdx").ready);
    let report = ready(&a, "win.vhdx");
    let row = &report.peers[0];
    assert_eq!(row.of.as_deref(), Some("vdisks/win.xml"), "{report:?}");
    assert_eq!(row.reason, Some(WaitReason::Changed));
    let refused = promote(&a, "win.vhdx", None);
    assert_eq!(refused.code.as_deref(), Some("NOT_IN_SYNC"), "{refused:?}");
    assert!(refused.message.is_some_and(|message| message.contains("win.xml")));
    b.publish("win.xml");
    everywhere(&a, "win.xml", 2);
    until("it may be used", || promote(&a, "win.vhdx", None).promoted);
}

/// Reads the members at one node as somebody does who opens one after the other, children first:
/// what he found of a child must be there of everything below it when he comes to that.
fn order_holds(images: &Path, members: &[&str], news: &[Vec<u8>]) -> bool {
    let shown: Vec<bool> = (0..members.len())
        .rev()
        .map(|at| std::fs::read(images.join(members[at])).is_ok_and(|bytes| bytes == news[at]))
        .collect();
    // From the last child down to what comes first: once new, all that follows is new.
    shown.windows(2).all(|pair| pair[1] || !pair[0])
}

#[test]
fn a_set_becomes_current_as_one_and_no_child_comes_before_its_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (node(dir.path(), "a"), node(dir.path(), "b"));
    let a_images = a.add_store();
    let b_images = b.join(&a.invite(Role::Writer));
    put_chain(&a_images);
    // In the order of need; `a_chain_with_its_sidecars_travels_as_a_set` proves that order.
    let members = ["win.pvp", "win.vhdx", "win.1.pvp", "win.1.avhdx", "win.xml"];
    until("the set arrives", || members.iter().all(|m| equal(&a_images, &b_images, m)));

    let news = put_next(&a_images);
    until("the new set arrives", || {
        assert!(order_holds(&b_images, &members, &news), "a child before its parent");
        members.iter().all(|m| equal(&a_images, &b_images, m))
    });
    for member in members {
        assert!(a.wait(member).ready, "{member}");
    }
    // They became current within one commit: nothing was committed in between.
    let committed: Vec<String> =
        b.events().into_iter().filter(|e| e.code == "COMMITTED").filter_map(|e| e.image).collect();
    let last: std::collections::BTreeSet<&str> =
        committed.iter().rev().take(members.len()).map(String::as_str).collect();
    assert_eq!(last.len(), members.len(), "{committed:?}");
}
