//! Crashes, faults and the catalog over them; what the real disk can't be asked on demand.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;
use crate::disk::{Lease, conformance};

mod catalog;

const MIB: u64 = 1 << 20;

fn disk() -> SimDisk {
    SimDisk::new(1, 64 * MIB)
}

fn plan(seed: u64, keep: Keep) -> CrashPlan {
    CrashPlan { seed, keep, tear: false }
}

fn put(disk: &SimDisk, path: &str, content: &[u8]) -> Box<dyn DiskFile> {
    let file = disk.open(path, Open::Create).unwrap();
    file.write_at(content, 0).unwrap();
    file
}

fn get(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(path, Open::Read).ok()?;
    let mut content = vec![0; file.stat().unwrap().size_bytes as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    Some(content)
}

#[test]
fn conforms_with_and_without_clones() {
    for supported in [true, false] {
        let disk = SimDisk::new(3, 1 << 30);
        disk.set_supports_clone(supported);
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let skipped = conformance::run(&as_disk).unwrap();
        assert_eq!(skipped.len(), usize::from(!supported), "{skipped:?}");
    }
}

#[test]
fn only_what_was_synced_survives_for_sure() {
    let disk = disk();
    put(&disk, "both", b"durable").sync().unwrap();
    disk.sync_dir("").unwrap();
    put(&disk, "both", b"PENDING");
    put(&disk, "name only", b"data");
    disk.sync_dir("").unwrap();
    put(&disk, "data only", b"data").sync().unwrap();
    let lost = disk.crash(plan(1, Keep::Nothing));
    assert_eq!(get(&lost, "both").unwrap(), b"durable");
    assert_eq!(get(&lost, "name only").unwrap(), b"", "a name without its content");
    assert_eq!(get(&lost, "data only"), None, "content without a name");
    assert_eq!((lost.pending(), lost.ops()), (0, 0));
    let kept = disk.crash(plan(1, Keep::Everything));
    assert_eq!(get(&kept, "both").unwrap(), b"PENDING");
    assert_eq!(get(&kept, "data only").unwrap(), b"data");
    assert_eq!(get(&disk, "both").unwrap(), b"PENDING", "the crashed disk itself goes on");
    // A crash of a crash is a disk like any other.
    put(&lost, "both", b"again!!").sync().unwrap();
    let twice = lost.crash(plan(2, Keep::Nothing));
    assert_eq!(get(&twice, "both").unwrap(), b"again!!");
}

#[test]
fn the_same_plan_leaves_the_same_disk() {
    let disk = disk();
    for i in 0..40 {
        put(&disk, &format!("f{}", i % 7), &[i; 3000]);
    }
    let image = |seed, keep, tear| {
        let crashed = disk.crash(CrashPlan { seed, keep, tear });
        (0..7).map(|i| get(&crashed, &format!("f{i}"))).collect::<Vec<_>>()
    };
    for keep in Keep::ALL {
        let images: BTreeSet<_> = (0..50).map(|seed| image(seed, keep, true)).collect();
        assert!((0..50).all(|seed| images.contains(&image(seed, keep, true))));
        let fixed = matches!(keep, Keep::Nothing | Keep::Everything);
        assert_eq!(images.len() == 1, fixed, "{keep:?}: {} images", images.len());
    }
}

/// What of `n` unsynced writes of one page each survived, over many crashes.
fn survivors(keep: Keep) -> BTreeSet<Vec<u8>> {
    let disk = disk();
    put(&disk, "f", &[0; 4 * 4096]).sync().unwrap();
    disk.sync_dir("").unwrap();
    let file = disk.open("f", Open::ReadWrite).unwrap();
    for page in 0..4_u8 {
        file.write_at(&[page + 1; 4096], u64::from(page) * 4096).unwrap();
    }
    let survivors = |seed| {
        let content = get(&disk.crash(plan(seed, keep)), "f").unwrap();
        content.chunks(4096).map(|page| u8::from(page[0] != 0)).collect()
    };
    (0..400).map(survivors).collect()
}

#[test]
fn writes_are_lost_as_planned() {
    assert_eq!(survivors(Keep::Prefix).len(), 5);
    assert_eq!(survivors(Keep::Subset).len(), 16);
    assert_eq!(survivors(Keep::Reordered).len(), 16);
}

#[test]
fn writes_are_torn_at_sectors_only_when_asked() {
    for keep in [Keep::Prefix, Keep::Subset, Keep::Reordered] {
        let disk = disk();
        put(&disk, "f", &[1; 8192]).sync().unwrap();
        disk.sync_dir("").unwrap();
        put(&disk, "f", &[2; 8192]);
        let torn = |tear| {
            let mixed = |seed| {
                let content = get(&disk.crash(CrashPlan { seed, keep, tear }), "f").unwrap();
                assert!(content.chunks(512).all(|sector| sector.iter().all(|b| *b == sector[0])));
                content.chunks(4096).any(|page| page.iter().any(|byte| *byte != page[0]))
            };
            (0..200).filter(|seed| mixed(*seed)).count()
        };
        assert_eq!(torn(false), 0, "{keep:?}");
        assert!(torn(true) > 20, "{keep:?}: {}", torn(true));
    }
}

#[test]
fn lengths_are_lost_apart_from_data() {
    let disk = disk();
    put(&disk, "f", &[1; 100]).sync().unwrap();
    disk.sync_dir("").unwrap();
    let file = disk.open("f", Open::ReadWrite).unwrap();
    file.set_len(10).unwrap();
    file.write_at(&[2; 10], 20).unwrap();
    let lengths: BTreeSet<_> = (0..60)
        .map(|seed| get(&disk.crash(plan(seed, Keep::Subset)), "f").unwrap().len())
        .collect();
    assert_eq!(lengths, BTreeSet::from([10, 30, 100]));
    let shrunk = disk.crash(plan(0, Keep::Everything));
    assert_eq!(get(&shrunk, "f").unwrap()[10..20], [0; 10]);
}

#[test]
fn a_rename_is_undone_or_done_and_never_half() {
    for how in [RenameHow::Replace, RenameHow::Exchange] {
        let disk = disk();
        disk.make_dir("staging").unwrap();
        disk.sync_dir("").unwrap();
        put(&disk, "image", b"old").sync().unwrap();
        disk.sync_dir("").unwrap();
        put(&disk, "staging/x", b"new").sync().unwrap();
        disk.sync_dir("staging").unwrap();
        disk.rename("staging/x", "image", how).unwrap();
        let see = |disk: &SimDisk| (get(disk, "image").unwrap(), get(disk, "staging/x"));
        let before = (b"old".to_vec(), Some(b"new".to_vec()));
        let exchanged = (how == RenameHow::Exchange).then(|| b"old".to_vec());
        let after = (b"new".to_vec(), exchanged);
        let seen: BTreeSet<_> =
            (0..50).map(|seed| see(&disk.crash(plan(seed, Keep::Subset)))).collect();
        assert_eq!(seen, BTreeSet::from([before, after.clone()]));
        disk.sync_dir("").unwrap();
        assert_eq!(see(&disk.crash(plan(0, Keep::Nothing))), after);
    }
}

#[test]
fn a_file_set_aside_is_never_lost_to_its_successor() {
    let disk = disk();
    put(&disk, "image", b"old").sync().unwrap();
    disk.sync_dir("").unwrap();
    // Into a directory whose own name is not durable, replaced by a file whose name isn't either.
    disk.make_dir("aside").unwrap();
    put(&disk, "new", b"new").sync().unwrap();
    disk.rename("image", "aside/image", RenameHow::NoReplace).unwrap();
    disk.rename("new", "image", RenameHow::NoReplace).unwrap();
    let mut images = BTreeSet::new();
    for seed in 0..200 {
        let crashed = disk.crash(plan(seed, Keep::Subset));
        let (image, aside) = (get(&crashed, "image"), get(&crashed, "aside/image"));
        assert!([&image, &aside].contains(&&Some(b"old".to_vec())), "{image:?} {aside:?}");
        images.insert(image);
    }
    assert_eq!(images.len(), 3, "old, new and, between the renames, none");
    disk.sync_dir("").unwrap();
    let crashed = disk.crash(plan(0, Keep::Nothing));
    assert_eq!(get(&crashed, "image").unwrap(), b"new");
    assert_eq!(get(&crashed, "aside/image").unwrap(), b"old");
}

#[test]
fn unrelated_names_are_independent() {
    let disk = disk();
    for name in ["a", "b", "c"] {
        put(&disk, name, b"").sync().unwrap();
    }
    let names = |seed| {
        let crashed = disk.crash(plan(seed, Keep::Subset));
        crashed.list("").unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    let seen: BTreeSet<_> = (0..200).map(names).collect();
    assert_eq!(seen.len(), 8);
    // An unsynced removal may come undone.
    disk.sync_dir("").unwrap();
    disk.remove_file("a").unwrap();
    let seen: BTreeSet<_> = (0..50).map(names).map(|names| names.len()).collect();
    assert_eq!(seen, BTreeSet::from([2, 3]));
}

#[test]
fn a_failed_sync_drops_pages_and_the_next_one_lies() {
    let disk = disk();
    put(&disk, "f", b"old").sync().unwrap();
    disk.sync_dir("").unwrap();
    let file = put(&disk, "f", b"new");
    disk.fail_sync(1);
    assert!(file.sync().is_err());
    assert_eq!(get(&disk, "f").unwrap(), b"new", "still in the cache");
    file.sync().unwrap();
    for keep in Keep::ALL {
        assert_eq!(get(&disk.crash(plan(7, keep)), "f").unwrap(), b"old", "{keep:?}");
    }
    // What is written after it is as durable as ever.
    file.write_at(b"!", 3).unwrap();
    file.sync().unwrap();
    assert_eq!(get(&disk.crash(plan(7, Keep::Nothing)), "f").unwrap(), b"old!");
}

#[test]
fn the_power_goes_at_the_chosen_operation() {
    let disk = disk();
    put(&disk, "f", b"1");
    assert_eq!(disk.ops(), 2, "create and write");
    disk.cut_after(3);
    let file = disk.open("f", Open::ReadWrite).unwrap();
    file.write_at(b"2", 0).unwrap();
    let gone = |outcome: io::Result<()>| PowerGone::is(&outcome.unwrap_err());
    assert!(gone(file.write_at(b"3", 0)) && gone(file.sync()) && gone(disk.sync_dir("")));
    assert!(gone(disk.remove_file("f")) && gone(disk.make_dir("d")));
    assert!(gone(disk.rename("f", "g", RenameHow::Replace)));
    assert_eq!((get(&disk, "f").unwrap(), disk.ops()), (b"2".to_vec(), 3));
    let after = disk.crash(plan(0, Keep::Everything));
    put(&after, "f", b"power is back").sync().unwrap();
}

#[test]
fn chosen_calls_fail_once_and_without_effect() {
    let disk = disk();
    let file = put(&disk, "f", b"x");
    disk.fail_at(OpKind::Write, 2, ErrorKind::StorageFull);
    disk.fail_at(OpKind::Sync, 1, ErrorKind::Other);
    file.write_at(b"a", 0).unwrap();
    assert_eq!(file.write_at(b"b", 0).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(get(&disk, "f").unwrap(), b"a");
    file.write_at(b"c", 0).unwrap();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(get(&disk.crash(plan(0, Keep::Nothing)), "f").unwrap(), b"c");
    disk.fail_at(OpKind::Read, 1, ErrorKind::Other);
    assert!(file.read_at(&mut [0], 0).is_err() && file.read_at(&mut [0], 0).is_ok());
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = SimDisk::new(1, 10 * 4096);
    let file = put(&disk, "f", &[1; 8 * 4096]);
    assert_eq!(disk.space().unwrap().free_bytes, 2 * 4096);
    let error = file.write_at(&[2; 4 * 4096], 7 * 4096).unwrap_err();
    assert_eq!(
        (error.kind(), file.stat().unwrap().size_bytes),
        (ErrorKind::StorageFull, 10 * 4096)
    );
    file.write_at(&[3; 4096], 0).unwrap();
    assert!(file.write_at(&[3], 50 * 4096).is_err());
    file.punch(0, 3 * 4096).unwrap();
    assert_eq!(disk.space().unwrap().free_bytes, 3 * 4096);
    disk.remove_file("f").unwrap();
    assert_eq!(disk.space().unwrap().free_bytes, 3 * 4096, "still open");
    drop(file);
    assert_eq!(disk.space().unwrap().free_bytes, 10 * 4096);
    disk.set_capacity(0);
    assert!(disk.open("g", Open::Create).unwrap().write_at(b"x", 0).is_err());
}

#[test]
fn clones_share_space_until_written() {
    let disk = SimDisk::new(1, 100 * 4096);
    put(&disk, "a", &[1; 40 * 4096]).sync().unwrap();
    let free = || disk.space().unwrap().free_bytes / 4096;
    assert!(disk.clone_file("a", "b").unwrap() && disk.clone_file("b", "c").unwrap());
    assert_eq!(free(), 60);
    let clone = disk.open("b", Open::ReadWrite).unwrap();
    clone.write_at(&[2; 2 * 4096], 0).unwrap();
    clone.write_at(&[3; 2 * 4096], 0).unwrap();
    clone.punch(4 * 4096, 4096).unwrap();
    assert_eq!(free(), 58);
    put(&disk, "a", &[9]);
    assert_eq!(free(), 57, "the source pays for its new page, a clone keeps the old one");
    disk.sync_dir("").unwrap();
    let crashed = disk.crash(plan(0, Keep::Everything));
    assert_eq!(crashed.space().unwrap().free_bytes / 4096, 57);
    drop(clone);
    for (name, left) in [("a", 58), ("c", 61), ("b", 100)] {
        disk.remove_file(name).unwrap();
        assert_eq!(free(), left, "after {name}");
    }
}

#[test]
fn others_hold_files_and_bits_rot() {
    let disk = disk();
    let file = put(&disk, "f", &[0; 5000]);
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    drop(file);
    let file = disk.open("f", Open::Read).unwrap();
    disk.hold_open("f", false).unwrap();
    assert_eq!(
        (file.writer_free().unwrap(), file.sole_opener().unwrap()),
        (Lease::Free, Lease::Held)
    );
    disk.hold_open("f", true).unwrap();
    assert_eq!(
        (file.writer_free().unwrap(), file.sole_opener().unwrap()),
        (Lease::Held, Lease::Held)
    );
    disk.release("f").unwrap();
    assert_eq!(
        (file.writer_free().unwrap(), file.sole_opener().unwrap()),
        (Lease::Free, Lease::Free)
    );
    let (ops, before) = (disk.ops(), file.stat().unwrap());
    disk.flip_bit("f", 4500).unwrap();
    assert_eq!((disk.ops(), file.stat().unwrap()), (ops, before));
    assert_eq!(get(&disk, "f").unwrap()[4500], 1);
    assert_eq!(get(&disk.crash(plan(0, Keep::Nothing)), "f").unwrap()[4500], 1);
}

#[test]
fn the_clock_is_simulated_and_inodes_are_never_reused() {
    let disk = disk();
    disk.set_clock_ns(5_000);
    let file = put(&disk, "f", b"x");
    let first = file.stat().unwrap();
    assert_eq!(
        (first.mtime_ns, first.ctime_ns, disk.clock_ns()),
        (1_005_000, 1_005_000, 2_005_000)
    );
    file.write_at(b"y", 0).unwrap();
    assert_eq!(file.stat().unwrap().mtime_ns, 2_005_000);
    drop(file);
    disk.remove_file("f").unwrap();
    disk.sync_dir("").unwrap();
    let again = put(&disk, "f", b"x").stat().unwrap();
    assert!(again.inode > first.inode);
    let crashed = disk.crash(plan(0, Keep::Nothing));
    assert!(put(&crashed, "f", b"x").stat().unwrap().inode > again.inode);
}
