//! What doesn't descend from what is held is kept beside it, whatever made it so: two who changed it,
//! a backup that was restored, a machine that runs twice. A touch costs no data.

use blockferry_store::disk::{CrashPlan, Keep};
use blockferry_store::{Discover, Why};

use super::*;
use crate::lineage::conflict::{self, Choice};

fn current(side: &Side) -> Generation {
    side.store.current(&image()).expect("read").expect("there")
}

fn kept(side: &Side) -> Vec<Vec<u8>> {
    let kept = side.store.kept(&image()).expect("read").into_iter();
    let kept = kept.filter(|kept| kept.why == Why::Conflict && kept.pinned);
    kept.map(|kept| {
        let file = side.disk.open(&kept.path, Open::Read).expect("opened");
        let mut bytes = vec![0; kept.size_bytes as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    })
    .collect()
}

fn is_open(side: &Side) -> bool {
    !conflict::open(&side.store, &current(side)).expect("read").is_empty()
}

/// The offer is received and kept beside what is there; says whether as a fork.
fn kept_as_fork(ended: &Ended) -> bool {
    let SendOutcome::FailedThere { code, .. } = &ended.sent else { panic!("{:?}", ended.sent) };
    assert_eq!(*code, Refusal::Diverged);
    let RecvOutcome::Kept { fork, .. } = &ended.received else { panic!("{:?}", ended.received) };
    *fork
}

/// Writes at a later time, so that it is seen.
fn change(side: &Side, offset: u64, bytes: &[u8]) -> Generation {
    side.disk.set_clock_ns(side.disk.clock_ns() + 1_000_000_000);
    put(side, offset, bytes);
    record(side)
}

fn backup(side: &Side) -> SimDisk {
    side.disk.crash(CrashPlan { seed: 0, keep: Keep::Everything, tear: false })
}

fn restored(lost: &Side, disk: SimDisk) -> Side {
    let options = Options { scan_threads: 1, ..Options::default() };
    let store = Store::open(Arc::new(disk.clone()), &options).expect("opened").0;
    Side { disk, store: Arc::new(store), identity: lost.identity.clone() }
}

#[test]
fn a_touch_is_a_generation_without_data() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 2 << 20));
    record(&a);
    copy(&a, &b);
    a.disk.set_clock_ns(a.disk.clock_ns() + 5_000_000_000);
    let file = a.disk.open("a.img", Open::ReadWrite).expect("opened");
    let mut meta = file.meta().expect("read");
    (meta.mode, meta.mtime_ns) = (0o600, meta.mtime_ns + 7_000_000_000);
    file.set_meta(&meta).expect("set");
    drop(file);
    let touched = record(&a);
    assert_eq!((touched.number, touched.discover), (2, Discover::Metadata));
    let ended = copy(&a, &b);
    assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
    assert!(ended.wire_bytes < 1000, "{} bytes", ended.wire_bytes);
    assert_eq!((current(&b).meta, current(&b).lineage), (meta, touched.lineage));
}

#[test]
fn both_sides_keep_both_and_a_resolution_ends_it_on_both() {
    for clones in [true, false] {
        let of = |seed| if clones { side(seed) } else { side_without_clones(seed) };
        let (a, b) = (of(1), of(2));
        put(&a, 0, &noise(1, 1 << 20));
        record(&a);
        copy(&a, &b);
        change(&a, 0, b"a");
        change(&b, 0, b"b");
        let (of_a, of_b) = (read(&a), read(&b));
        let ended = copy(&a, &b);
        assert!(!kept_as_fork(&ended) && ended.wire_bytes < 20_000, "{}", ended.wire_bytes);
        assert!(!kept_as_fork(&copy(&b, &a)));
        assert!(read(&a) == of_a && read(&b) == of_b, "nothing is overwritten");
        assert!(kept(&a) == [of_b.clone()] && kept(&b) == [of_a.clone()]);
        // Once it is there it needn't travel again.
        let again = copy(&a, &b);
        assert!(matches!(again.sent, SendOutcome::Refused(_)) && again.wire_bytes < 2000);

        let open = conflict::open(&a.store, &current(&a)).expect("read");
        let choice = Choice::Kept(open[0].serial);
        let us = a.identity.id();
        conflict::resolve(&a.store, &image(), (&choice, &[]), us, 1, &()).expect("resolved");
        assert!(read(&a) == of_b && !is_open(&a));
        assert!(a.store.verify(&image(), &()).expect("read").is_good());
        assert!(kept(&a).contains(&of_a), "what lost is kept");
        let ended = copy(&a, &b);
        assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
        assert!(ended.wire_bytes < 2000, "{} bytes for a decision", ended.wire_bytes);
        assert!(read(&b) == of_b && !is_open(&b) && kept(&b).contains(&of_a));
    }
}

#[test]
fn two_decisions_at_once_are_another_conflict_and_no_loss() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 300_000));
    record(&a);
    copy(&a, &b);
    change(&a, 0, b"a");
    change(&b, 0, b"b");
    let (of_a, of_b) = (read(&a), read(&b));
    copy(&a, &b);
    copy(&b, &a);
    for side in [&a, &b] {
        let us = side.identity.id();
        conflict::resolve(&side.store, &image(), (&Choice::Local, &[]), us, 1, &())
            .expect("resolved");
        assert!(!is_open(side));
    }
    kept_as_fork(&copy(&a, &b));
    kept_as_fork(&copy(&b, &a));
    assert!(is_open(&a) && is_open(&b) && read(&a) == of_a && read(&b) == of_b);
    conflict::resolve(&b.store, &image(), (&Choice::Local, &[]), b.identity.id(), 1, &())
        .expect("resolved");
    copy(&b, &a);
    assert!(read(&a) == of_b && !is_open(&a) && kept(&a).contains(&of_a));
}

/// Two contents that were made of one, each known to both.
fn parted() -> (Side, Side) {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 300_000));
    record(&a);
    copy(&a, &b);
    change(&a, 0, b"a");
    change(&b, 0, b"b");
    copy(&a, &b);
    copy(&b, &a);
    (a, b)
}

#[test]
fn what_lost_stays_when_its_author_parts_again() {
    let (a, b) = parted();
    let lost = read(&b);
    let us = a.identity.id();
    conflict::resolve(&a.store, &image(), (&Choice::Local, &[]), us, 1, &()).expect("resolved");
    copy(&a, &b);
    assert!(read(&b) == read(&a) && kept(&a) == [lost.clone()]);
    change(&a, 1 << 16, b"a again");
    change(&b, 1 << 17, b"b again");
    let of_b = read(&b);
    assert!(!kept_as_fork(&copy(&b, &a)));
    // It descends from what lost, and has none of its bytes.
    assert!(is_open(&a) && kept(&a) == [of_b, lost]);
    let all = conflict::all(&a.store, &image()).expect("read");
    assert_eq!(all.len(), 2, "both are listed until somebody lets go of what lost");
}

#[test]
fn an_open_content_that_its_author_has_gone_on_from_is_left_to_the_retention() {
    let (a, b) = parted();
    let first = read(&b);
    change(&b, 1 << 17, b"b again");
    let of_b = read(&b);
    assert!(!kept_as_fork(&copy(&b, &a)));
    assert!(kept(&a) == [of_b], "only the latest is to be decided about");
    let open = conflict::open(&a.store, &current(&a)).expect("read");
    assert_eq!(open.len(), 1);
    let all = a.store.kept(&image()).expect("read");
    let older = all.iter().find(|kept| kept.why == Why::Conflict && !kept.pinned).expect("there");
    let root = blake3::hash(&first);
    assert_eq!(older.root().expect("a generation").as_bytes(), root.as_bytes());
    // The same bytes once more, only touched: nothing is lost with the earlier row.
    b.disk.set_clock_ns(b.disk.clock_ns() + 1_000_000_000);
    let file = b.disk.open("a.img", Open::ReadWrite).expect("opened");
    let mut meta = file.meta().expect("read");
    meta.mtime_ns += 7_000_000_000;
    file.set_meta(&meta).expect("set");
    drop(file);
    record(&b);
    assert!(!kept_as_fork(&copy(&b, &a)));
    assert_eq!(a.store.kept(&image()).expect("read").len(), all.len());
}

#[test]
fn a_backup_that_was_restored_unchanged_is_brought_up_to_date() {
    let (a, b) = (side(1), side(2));
    put(&a, 0, &noise(1, 300_000));
    record(&a);
    copy(&a, &b);
    let old = backup(&a);
    change(&a, 0, b"lost");
    copy(&a, &b);
    let a = restored(&a, old);
    assert!(matches!(copy(&a, &b).sent, SendOutcome::Refused(_)), "it is older");
    assert!(matches!(copy(&b, &a).received, RecvOutcome::Committed(_)));
    assert!(read(&a) == read(&b) && !is_open(&a));
}

#[test]
fn what_a_restored_node_makes_is_told_from_what_it_had_made() {
    // How often it changes the image before it meets the other one.
    for changes in 1..4_u64 {
        let (a, b) = (side(1), side(2));
        put(&a, 0, &noise(1, 300_000));
        record(&a);
        copy(&a, &b);
        let old = backup(&a);
        for at in 0..2 {
            change(&a, at << 16, b"lost");
            copy(&a, &b);
        }
        let a = restored(&a, old);
        for at in 0..changes {
            change(&a, at << 16, b"made since");
        }
        let (of_a, of_b) = (read(&a), read(&b));
        copy(&a, &b);
        copy(&b, &a);
        copy(&a, &b);
        assert!(read(&a) == of_a && read(&b) == of_b, "after {changes}: one was obeyed");
        assert!(is_open(&a) && is_open(&b), "after {changes}: nobody noticed");
        assert!(kept(&a) == [of_b] && kept(&b) == [of_a], "after {changes}");
        if changes < 3 {
            let ids = a.store.writer_ids(a.identity.id()).expect("read");
            assert!(ids.len() > 1, "after {changes}: it counts as before");
        }
        // Whoever decides is believed by both.
        let (from, to) = if changes == 2 { (&b, &a) } else { (&a, &b) };
        let us = from.identity.id();
        conflict::resolve(&from.store, &image(), (&Choice::Local, &[]), us, 1, &())
            .expect("resolved");
        let ended = copy(from, to);
        assert!(matches!(ended.received, RecvOutcome::Committed(_)), "{:?}", ended.received);
        assert!(read(&a) == read(&b) && !is_open(&a) && !is_open(&b), "after {changes}");
    }
}

#[test]
fn a_deletion_beside_a_change_is_decided_where_it_was_deleted() {
    for keep_change in [true, false] {
        let (a, b) = (side(1), side(2));
        put(&a, 0, &noise(1, 300_000));
        record(&a);
        copy(&a, &b);
        a.disk.remove_file("a.img").expect("removed");
        a.store.record_deletion(&image(), a.identity.id(), 1).expect("recorded");
        change(&b, 0, b"b");
        let of_b = read(&b);
        let refused = copy(&a, &b);
        let SendOutcome::Refused(refuse) = &refused.sent else { panic!("{:?}", refused.sent) };
        assert_eq!(refuse.code, Refusal::Diverged);
        assert!(!kept_as_fork(&copy(&b, &a)));
        assert!(read(&b) == of_b && a.store.is_deleted(&image()).expect("read"));
        assert!(is_open(&a) && kept(&a) == [of_b.clone()]);
        let open = conflict::open(&a.store, &current(&a)).expect("read");
        let choice = if keep_change { Choice::Kept(open[0].serial) } else { Choice::Local };
        conflict::resolve(&a.store, &image(), (&choice, &[]), a.identity.id(), 1, &())
            .expect("resolved");
        let ended = copy(&a, &b);
        assert!(matches!(ended.sent, SendOutcome::Receipt(_)), "{:?}", ended.sent);
        assert!(ended.wire_bytes < 2000, "{} bytes for a decision", ended.wire_bytes);
        for side in [&a, &b] {
            let there = side.disk.stat("a.img").expect("looked").is_some();
            assert_eq!((there, is_open(side)), (keep_change, false));
            assert_eq!(side.store.is_deleted(&image()).expect("read"), !keep_change);
            assert!(!keep_change || read(side) == of_b);
            let anywhere = side.store.kept(&image()).expect("read");
            let root = blake3::hash(&of_b);
            let held = |k: &blockferry_store::Kept| {
                k.root().is_some_and(|r| r.as_bytes() == root.as_bytes())
            };
            assert!(keep_change || anywhere.iter().any(held), "what lost is kept");
        }
    }
}
