//! What rotted is received once more: on simulated disks, where a bit flips and nothing else moves.

use std::sync::Arc;

use blockferry_store::{Damage, Why};

use super::*;

/// `b` holds what `a` holds: data, a hole with a page in it, and a segment of zeros.
fn two(clones: bool) -> (Side, Side) {
    let (a, b) = match clones {
        true => (side(1), side(2)),
        false => (side_without_clones(1), side_without_clones(2)),
    };
    put(&a, 0, &noise(1, 5 << 20));
    put(&a, 40 << 20, &noise(2, 10_000));
    put(&a, (40 << 20) + 60_000, &[1]);
    record(&a);
    assert!(matches!(copy(&a, &b).received, RecvOutcome::Committed(_)));
    (a, b)
}

/// Bits flip in these places, and the image is to be mended.
fn rot(side: &Side, places: &[u64]) -> Arc<Damage> {
    places.iter().for_each(|at| side.disk.flip_bit("a.img", *at).expect("flipped"));
    let report = side.store.verify(&image(), &()).expect("read");
    assert_eq!(report.bad.len(), places.len(), "{report:?}");
    side.store.begin_mending(side.store.damage(&image(), &report).expect("rot")).expect("the first")
}

fn mended(from: &Side, to: &Side) -> usize {
    let before = to.store.current(&image()).expect("read");
    let ended = copy(from, to);
    let RecvOutcome::Mended { generation, .. } = &ended.received else {
        panic!("{:?}", ended.received)
    };
    assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
    assert_eq!(Some(generation.as_ref()), before.as_ref(), "its record stays as it was");
    assert_eq!(to.store.current(&image()).expect("read"), before);
    assert!(read(to) == read(from));
    assert!(to.store.verify(&image(), &()).expect("read").is_good());
    assert!(to.store.mending(&image()).is_none());
    ended.wire_bytes
}

#[test]
fn what_rotted_travels_again_and_the_rotten_file_is_kept() {
    for clones in [true, false] {
        let (a, b) = two(clones);
        // In data twice, in the zeros of a block that has data, and in a segment of zeros.
        let damage = rot(&b, &[100, 3 << 20, (40 << 20) + 20_000, 20 << 20]);
        assert_eq!(damage.bytes(), (3 << 16) + 60_001);
        let report = b.store.verify(&image(), &()).expect("read");
        let again = b.store.damage(&image(), &report).expect("rot");
        assert!(b.store.begin_mending(again).is_none(), "it is being mended already");
        assert!(damage.found() != damage.generation().root);
        let rotten = read(&b);
        let wire_bytes = mended(&a, &b);
        assert!((8192..20_000).contains(&wire_bytes), "{wire_bytes} bytes for two pages of data");
        let kept = b.store.kept(&image()).expect("read");
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!((kept[0].why, kept[0].pinned, kept[0].root()), (Why::Damaged, true, None));
        let mut bytes = vec![0; rotten.len()];
        let file = b.disk.open(&kept[0].path, Open::Read).expect("opened");
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert!(bytes == rotten, "as it was");
        assert!(matches!(copy(&a, &b).received, RecvOutcome::AlreadyHere { .. }));
        b.store.acknowledge(&image(), kept[0].serial).expect("let go of");
        // It is an image like any other: the next change travels and is built on it.
        put(&a, 70_000, b"changed");
        record(&a);
        let ended = copy(&a, &b);
        assert!(ended.wire_bytes < 20_000 && read(&a) == read(&b), "{}", ended.wire_bytes);
        assert!(b.store.verify(&image(), &()).expect("read").is_good());
    }
}

#[test]
fn a_newer_generation_that_comes_meanwhile_is_not_built_on_what_rotted() {
    for clones in [true, false] {
        let (a, b) = two(clones);
        rot(&b, &[100]);
        put(&a, 3 << 20, b"newer");
        record(&a);
        let ended = copy(&a, &b);
        assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
        assert!(ended.wire_bytes < 20_000, "{} bytes", ended.wire_bytes);
        assert!(read(&b) == read(&a));
        assert!(b.store.verify(&image(), &()).expect("read").is_good());
        let kept = b.store.kept(&image()).expect("read");
        assert_eq!(kept.iter().map(|kept| kept.why).collect::<Vec<_>>(), [Why::Damaged]);
    }
}

#[test]
fn a_link_that_breaks_at_any_message_leaves_the_file_and_it_is_mended_later() {
    for clones in [true, false] {
        let mut cuts = 0;
        for cut in 1.. {
            let (a, b) = two(clones);
            rot(&b, &[100, 3 << 20]);
            let rotten = read(&b);
            if carry(&a, &b, cut).is_some() {
                break;
            }
            cuts += 1;
            assert!(read(&b) == rotten || read(&b) == read(&a), "cut at {cut}");
            if b.store.mending(&image()).is_some() {
                mended(&a, &b);
            }
        }
        assert!(cuts >= 4, "{cuts}");
    }
}

#[test]
fn what_is_wrong_there_too_changes_nothing() {
    // With clones it would be read from the one that is held.
    let (a, b) = two(false);
    rot(&b, &[100]);
    a.disk.flip_bit("a.img", 200).expect("flipped");
    let rotten = read(&b);
    let ended = copy(&a, &b);
    assert!(!matches!(ended.received, RecvOutcome::Mended { .. }), "{:?}", ended.received);
    assert!(read(&b) == rotten && b.store.kept(&image()).expect("read").is_empty());
    b.store.end_mending(&image());
    assert!(matches!(copy(&a, &b).received, RecvOutcome::AlreadyHere { .. }), "as ever");
}

#[test]
fn what_somebody_wrote_or_may_write_is_no_rot() {
    let (_a, b) = two(true);
    b.disk.flip_bit("a.img", 100).expect("flipped");
    let report = b.store.verify(&image(), &()).expect("read");
    b.disk.hold_open("a.img", true).expect("held");
    assert_eq!(b.store.damage(&image(), &report).expect_err("in use").code(), "IN_USE");
    b.disk.release("a.img").expect("released");
    b.disk.set_clock_ns(b.disk.clock_ns() + 1_000_000_000);
    put(&b, 0, b"work");
    let report = b.store.verify(&image(), &()).expect("read");
    assert_eq!(b.store.damage(&image(), &report).expect_err("changed").code(), "LOCAL_CHANGE");
}
