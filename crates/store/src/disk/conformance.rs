//! The checks every [`Disk`] must pass; run on the real and on the simulated disk.
//!
//! A check that fails panics with what it saw. What a filesystem may lack (extended attributes,
//! leases, clones) is skipped there, and the line that says so is handed back.

mod bytes;

use std::io::{self, ErrorKind};
use std::sync::Arc;

use self::bytes::{
    bulk_is_the_same_bytes, clones_truly_or_not_at_all, copies_extents, holds_a_catalog,
    holes_are_made_and_found, reads_what_was_written,
};
use super::{Disk, DiskFile, Kind, Lease, Meta, Open, RenameHow};

type Check = fn(&dyn Disk, &mut Vec<String>) -> io::Result<()>;

/// Runs every check on an empty disk. Gives a line for each thing the disk lacks.
pub fn run(disk: &Arc<dyn Disk>) -> io::Result<Vec<String>> {
    let checks: [(&str, Check); 14] = [
        ("open", open_as_asked),
        ("read and write", reads_what_was_written),
        ("bulk", bulk_is_the_same_bytes),
        ("holes", holes_are_made_and_found),
        ("directories", directories_hold_names),
        ("rename", renames_three_ways),
        ("removed but open", removed_files_live_while_open),
        ("paths", refuses_paths_that_escape),
        ("metadata", carries_metadata),
        ("leases", answers_about_openers),
        ("space", tells_room),
        ("clone", clones_truly_or_not_at_all),
        ("copy", copies_extents),
        ("catalog", holds_a_catalog),
    ];
    let mut skipped = Vec::new();
    for (name, check) in checks {
        check(disk.as_ref(), &mut skipped).map_err(|error| {
            io::Error::new(error.kind(), format!("conformance check '{name}': {error}"))
        })?;
    }
    Ok(skipped)
}

fn kind_of<T: std::fmt::Debug>(outcome: io::Result<T>) -> ErrorKind {
    outcome.expect_err("this call has to be refused").kind()
}

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i % 253) as u8 ^ (i >> 9) as u8 ^ seed).collect()
}

/// A new file with content.
fn put(disk: &dyn Disk, path: &str, content: &[u8]) -> io::Result<Box<dyn DiskFile>> {
    let file = disk.open(path, Open::CreateNew)?;
    file.write_at(content, 0)?;
    Ok(file)
}

fn get(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let mut content = vec![0; file.stat()?.size_bytes as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

fn inode(disk: &dyn Disk, path: &str) -> io::Result<u64> {
    Ok(disk.stat(path)?.ok_or(ErrorKind::NotFound)?.inode)
}

fn open_as_asked(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    assert_eq!(kind_of(disk.open("o", Open::Read)), ErrorKind::NotFound);
    assert_eq!(kind_of(disk.open("o", Open::ReadWrite)), ErrorKind::NotFound);
    assert_eq!(kind_of(disk.open("no/o", Open::Create)), ErrorKind::NotFound);
    assert_eq!(disk.stat("o")?, None);
    put(disk, "o", b"kept")?;
    assert_eq!(kind_of(disk.open("o", Open::CreateNew)), ErrorKind::AlreadyExists);
    let file = disk.open("o", Open::Create)?;
    let stat = file.stat()?;
    assert_eq!(disk.stat("o")?, Some(stat));
    assert_eq!((stat.kind, stat.size_bytes, stat.mode, stat.links), (Kind::File, 4, 0o600, 1));
    let reader = disk.open("o", Open::Read)?;
    assert!(reader.write_at(b"x", 0).is_err(), "a handle for reading must not write");
    assert_eq!(get(disk, "o")?, b"kept");
    disk.open("o2", Open::Create)?;
    assert_eq!(disk.stat("o2")?.map(|stat| (stat.size_bytes, stat.mode)), Some((0, 0o600)));
    assert_eq!(kind_of(disk.open("o/below", Open::Create)), ErrorKind::NotADirectory);
    Ok(())
}

fn directories_hold_names(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    disk.make_dir("d")?;
    disk.make_dir("d")?;
    disk.make_dir("d/e")?;
    assert_eq!(kind_of(disk.make_dir("missing/x")), ErrorKind::NotFound);
    put(disk, "d/f", b"1")?;
    put(disk, "d/caf\u{e9}", b"2")?;
    assert_eq!(kind_of(disk.make_dir("d/f")), ErrorKind::AlreadyExists);
    let mut names: Vec<_> = disk.list("d")?.into_iter().map(|e| (e.name, e.kind)).collect();
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let expected = [("caf\u{e9}", Kind::File), ("e", Kind::Dir), ("f", Kind::File)];
    assert_eq!(names, expected.map(|(name, kind)| (name.into(), kind)));
    assert!(disk.list("")?.iter().any(|entry| entry.name == "d" && entry.kind == Kind::Dir));
    assert!(disk.list("d/e")?.is_empty());
    assert_eq!(kind_of(disk.list("nowhere")), ErrorKind::NotFound);
    assert_eq!(kind_of(disk.list("d/f")), ErrorKind::NotADirectory);
    let dir = disk.stat("d")?.ok_or(ErrorKind::NotFound)?;
    assert_eq!((dir.kind, dir.mode), (Kind::Dir, 0o700));
    assert_eq!(disk.stat("")?.map(|root| root.kind), Some(Kind::Dir));
    assert_eq!(disk.stat("nowhere/x")?, None);
    assert_eq!(kind_of(disk.open("d", Open::Read)), ErrorKind::IsADirectory);
    assert!(disk.open("d", Open::ReadWrite).is_err() && disk.open("d", Open::Create).is_err());
    for dir in ["", "d", "d/e"] {
        disk.sync_dir(dir)?;
    }
    assert_eq!(kind_of(disk.sync_dir("nowhere")), ErrorKind::NotFound);
    disk.remove_file("d/f")?;
    disk.remove_file("d/f")?;
    disk.remove_file("nowhere/f")?;
    assert_eq!(disk.stat("d/f")?, None);
    assert!(disk.remove_file("d").is_err(), "a directory is no file");
    Ok(())
}

fn renames_three_ways(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    disk.make_dir("r")?;
    put(disk, "r/a", b"A")?;
    put(disk, "b", b"B")?;
    let (a, b) = (inode(disk, "r/a")?, inode(disk, "b")?);
    let no_replace = disk.rename("r/a", "b", RenameHow::NoReplace);
    assert_eq!(kind_of(no_replace), ErrorKind::AlreadyExists);
    disk.rename("r/a", "b", RenameHow::Exchange)?;
    assert_eq!((inode(disk, "r/a")?, inode(disk, "b")?), (b, a));
    assert_eq!((get(disk, "r/a")?, get(disk, "b")?), (b"B".to_vec(), b"A".to_vec()));
    disk.rename("r/a", "r/c", RenameHow::NoReplace)?;
    assert_eq!((disk.stat("r/a")?, inode(disk, "r/c")?), (None, b));
    let open = disk.open("b", Open::Read)?;
    disk.rename("r/c", "b", RenameHow::Replace)?;
    assert_eq!((disk.stat("r/c")?, inode(disk, "b")?), (None, b));
    // Who had the old file open keeps it.
    let mut byte = [0];
    open.read_exact_at(&mut byte, 0)?;
    assert_eq!((&byte, open.stat()?.links, open.stat()?.inode), (b"A", 0, a));
    let missing = |how| kind_of(disk.rename("none", "b", how));
    assert_eq!(missing(RenameHow::Replace), ErrorKind::NotFound);
    assert_eq!(missing(RenameHow::Exchange), ErrorKind::NotFound);
    let exchange = disk.rename("b", "none", RenameHow::Exchange);
    assert_eq!(kind_of(exchange), ErrorKind::NotFound);
    assert_eq!(kind_of(disk.rename("b", "r", RenameHow::Replace)), ErrorKind::IsADirectory);
    disk.sync_dir("r")?;
    disk.sync_dir("")
}

fn removed_files_live_while_open(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    let file = put(disk, "gone", b"still here")?;
    disk.remove_file("gone")?;
    put(disk, "gone", b"another")?;
    file.write_at(b"S", 0)?;
    let mut buf = [0; 10];
    file.read_exact_at(&mut buf, 0)?;
    assert_eq!(&buf, b"Still here");
    assert_eq!(get(disk, "gone")?, b"another");
    assert_ne!(file.stat()?.inode, inode(disk, "gone")?);
    Ok(())
}

fn refuses_paths_that_escape(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    put(disk, "inside", b"x")?;
    let long = "x".repeat(256);
    for path in ["../x", "..", "/etc/passwd", "d/../../x", "./x", "d//x", "d/", "a\0b", &long] {
        let refused = |outcome: ErrorKind| {
            let expected = [ErrorKind::InvalidInput, ErrorKind::InvalidFilename];
            assert!(expected.contains(&outcome), "{path:?}: {outcome}");
        };
        refused(kind_of(disk.open(path, Open::Create)));
        refused(kind_of(disk.open(path, Open::Read)));
        refused(kind_of(disk.stat(path)));
        refused(kind_of(disk.list(path)));
        refused(kind_of(disk.make_dir(path)));
        refused(kind_of(disk.remove_file(path)));
        refused(kind_of(disk.rename("inside", path, RenameHow::Replace)));
        refused(kind_of(disk.rename(path, "inside", RenameHow::Replace)));
        refused(kind_of(disk.sync_dir(path)));
        refused(kind_of(disk.clone_file("inside", path)));
        refused(kind_of(disk.copy_extents(path, "inside", &[])));
        refused(kind_of(disk.backend(path)));
    }
    assert_eq!(get(disk, "inside")?, b"x");
    Ok(())
}

fn carries_metadata(disk: &dyn Disk, skipped: &mut Vec<String>) -> io::Result<()> {
    let file = put(disk, "meta", b"content")?;
    let now = file.meta()?;
    let stat = file.stat()?;
    assert_eq!((now.mode, now.mtime_ns, now.uid), (0o600, stat.mtime_ns, stat.uid));
    let mut meta = Meta { mode: 0o640, mtime_ns: 1_234_567_890_123_456_789, ..now };
    let outcome = file.set_meta(&meta)?;
    assert!(!outcome.owner_refused && !outcome.mtime_inexact, "{outcome:?}");
    assert_eq!(file.meta()?, meta);
    let set = file.stat()?;
    assert_eq!((set.mode, set.mtime_ns), (0o640, 1_234_567_890_123_456_789));
    assert!(set.ctime_ns >= stat.ctime_ns, "the ctime is the disk's own");
    // Before 1970, with a fraction.
    meta.mtime_ns = -1_500_000_001;
    assert!(!file.set_meta(&meta)?.mtime_inexact);
    assert_eq!(file.meta()?.mtime_ns, -1_500_000_001);

    let old = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![0, 255, 10])];
    meta.xattrs.clone_from(&old);
    let refused = file.set_meta(&meta)?.xattrs_refused;
    if refused.is_empty() {
        assert_eq!(file.meta()?, meta);
        meta.xattrs = vec![old[1].clone(), (b"user.c".to_vec(), Vec::new())];
        file.set_meta(&meta)?;
        assert_eq!(disk.open("meta", Open::Read)?.meta()?, meta);
    } else {
        skipped.push("extended attributes: this filesystem has none".to_owned());
    }
    meta.xattrs.push((b"security.selinux".to_vec(), b"label".to_vec()));
    assert!(file.set_meta(&meta)?.xattrs_refused.contains(&b"security.selinux".to_vec()));
    file.sync()
}

fn answers_about_openers(disk: &dyn Disk, skipped: &mut Vec<String>) -> io::Result<()> {
    put(disk, "lease", b"x")?;
    let reader = disk.open("lease", Open::Read)?;
    if reader.writer_free()? == Lease::Unknown {
        skipped.push("leases: this filesystem or user has none".to_owned());
        return Ok(());
    }
    for _ in 0..2 {
        assert_eq!((reader.writer_free()?, reader.sole_opener()?), (Lease::Free, Lease::Free));
    }
    // Handles of our own are never taken for somebody else's.
    let second = disk.open("lease", Open::Read)?;
    assert_eq!((reader.writer_free()?, reader.sole_opener()?), (Lease::Free, Lease::Unknown));
    drop(second);
    let writer = disk.open("lease", Open::ReadWrite)?;
    assert_eq!((reader.writer_free()?, reader.sole_opener()?), (Lease::Unknown, Lease::Unknown));
    assert_eq!(writer.writer_free()?, Lease::Unknown);
    drop(reader);
    assert_eq!((writer.writer_free()?, writer.sole_opener()?), (Lease::Free, Lease::Free));
    shuts_others_out(disk, writer.as_ref())
}

fn shuts_others_out(disk: &dyn Disk, writer: &dyn DiskFile) -> io::Result<()> {
    assert_eq!(writer.shut_out()?, Lease::Free);
    assert_eq!(kind_of(disk.open("lease", Open::Read)), ErrorKind::WouldBlock);
    writer.write_at(b"y", 0)?;
    assert!(writer.let_in()?, "it was short");
    assert_eq!(get(disk, "lease")?, b"y");
    assert!(writer.let_in()?, "twice is no harm");
    let reader = disk.open("lease", Open::Read)?;
    assert_eq!(writer.shut_out()?, Lease::Unknown, "a handle of our own is in the way");
    assert_eq!(get(disk, "lease")?, b"y");
    drop(reader);
    // The end of the handle ends it, too.
    let second = disk.open("lease2", Open::Create)?;
    assert_eq!(second.shut_out()?, Lease::Free);
    drop(second);
    disk.open("lease2", Open::Read)?;
    Ok(())
}

fn tells_room(disk: &dyn Disk, _: &mut Vec<String>) -> io::Result<()> {
    let space = disk.space()?;
    assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
    Ok(())
}
