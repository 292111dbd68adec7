//! What only a real filesystem can be asked: symlinks, FIFOs, other processes, the page cache.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::disk::{AlignedBuf, Lease, conformance, sys};

/// Beside the test program: `/tmp` may be in memory only.
fn temp_dir() -> TempDir {
    let program = std::env::current_exe().unwrap();
    TempDir::new_in(program.parent().unwrap()).unwrap()
}

fn disk() -> (TempDir, RealDisk) {
    let dir = temp_dir();
    let disk = RealDisk::open(dir.path()).unwrap();
    (dir, disk)
}

#[test]
fn conforms() {
    let (_dir, disk) = disk();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    for line in conformance::run(&disk).unwrap() {
        writeln!(std::io::stderr(), "skipped {line}").unwrap();
    }
}

#[test]
fn conforms_on_tmpfs_without_direct_io_or_sparse_quirks() {
    if !Path::new("/dev/shm").is_dir() {
        return;
    }
    let dir = TempDir::new_in("/dev/shm").unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    conformance::run(&disk).unwrap();
}

#[test]
fn follows_no_symlink() {
    let (dir, disk) = disk();
    let outside = temp_dir();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    std::fs::write(dir.path().join("file"), b"file").unwrap();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    symlink("file", dir.path().join("inner")).unwrap();
    symlink("/proc/self/fd/0", dir.path().join("magic")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();

    for name in ["out", "link", "inner", "magic", "dangling"] {
        assert_eq!(disk.stat(name).unwrap().unwrap().kind, Kind::Symlink, "{name}");
        for how in [Open::Read, Open::ReadWrite, Open::Create, Open::CreateNew] {
            assert!(disk.open(name, how).is_err(), "{name} {how:?}");
        }
        assert!(disk.backend(name).is_err() && disk.list(name).is_err());
        assert_eq!(disk.make_dir(name).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    assert!(!dir.path().join("nowhere").exists());
    for path in ["out/secret", "out/new"] {
        assert!(disk.open(path, Open::Create).is_err() && disk.stat(path).is_err());
        assert!(disk.make_dir(path).is_err() && disk.remove_file(path).is_err());
        assert!(disk.rename("file", path, RenameHow::Replace).is_err());
        assert!(disk.rename(path, "file", RenameHow::Replace).is_err());
    }
    let listed = disk.list("").unwrap();
    assert_eq!(listed.iter().filter(|entry| entry.kind == Kind::Symlink).count(), 5);
    // Removing and renaming are about the link itself.
    disk.remove_file("link").unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn neither_blocks_on_nor_opens_a_fifo() {
    let (dir, disk) = disk();
    let path = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for name in ["fifo", "socket"] {
        assert_eq!(disk.stat(name).unwrap().unwrap().kind, Kind::Other);
        assert!(disk.list("").unwrap().iter().any(|e| e.name == name && e.kind == Kind::Other));
        for how in [Open::Read, Open::ReadWrite, Open::Create] {
            assert!(disk.open(name, how).is_err(), "{name} {how:?}");
        }
    }
    assert_eq!(disk.open("fifo", Open::Read).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn lists_names_that_are_no_text() {
    let (dir, disk) = disk();
    let name = OsStr::from_bytes(b"bad\xff\n\x1bname");
    std::fs::write(dir.path().join(name), b"").unwrap();
    assert_eq!(disk.list("").unwrap()[0].name, name);
}

#[test]
fn sets_modes_whatever_the_umask() {
    // A child of our own, since the umask belongs to the whole process.
    const CHILD: &str = "BLOCKFERRY_TEST_UMASK_DIR";
    if let Some(path) = std::env::var_os(CHILD) {
        rustix::process::umask(Mode::from_raw_mode(0o277));
        let disk = RealDisk::open(Path::new(&path)).unwrap();
        disk.open("f", Open::Create).unwrap();
        disk.make_dir("d").unwrap();
        return;
    }
    let (dir, _disk) = disk();
    let name = "disk::real::tests::sets_modes_whatever_the_umask";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let status = child.args([name, "--exact"]).env(CHILD, dir.path()).status().unwrap();
    assert!(status.success());
    let mode = |name| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!((mode("f") & 0o7777, mode("d") & 0o7777), (0o600, 0o700));
}

/// A process that holds a file open until it is dropped.
struct Opener(Child);

impl Opener {
    fn new(path: &Path, redirect: &str) -> Opener {
        let script = format!("exec 9{redirect}\"$0\"; echo ready; read line");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(path);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh runs");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Opener(child)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn sees_who_else_has_a_file_open() {
    let (dir, disk) = disk();
    disk.open("f", Open::Create).unwrap();
    let path = dir.path().join("f");
    let file = disk.open("f", Open::Read).unwrap();
    if file.writer_free().unwrap() == Lease::Unknown {
        return;
    }
    let answers = |file: &dyn DiskFile| (file.writer_free().unwrap(), file.sole_opener().unwrap());
    {
        let _reader = Opener::new(&path, "<");
        assert_eq!(answers(file.as_ref()), (Lease::Free, Lease::Held));
    }
    {
        let _writer = Opener::new(&path, ">>");
        assert_eq!(answers(file.as_ref()), (Lease::Held, Lease::Held));
        // With a writable handle of our own in the way it can't be told whose it is.
        let own = disk.open("f", Open::ReadWrite).unwrap();
        assert_eq!(answers(file.as_ref()), (Lease::Unknown, Lease::Unknown));
        assert_eq!(answers(own.as_ref()), (Lease::Unknown, Lease::Unknown));
    }
    assert_eq!(answers(file.as_ref()), (Lease::Free, Lease::Free));
}

#[test]
fn asking_about_openers_survives_one_who_opens_meanwhile() {
    let (dir, disk) = disk();
    disk.open("f", Open::Create).unwrap();
    let path = dir.path().join("f");
    let script = "for i in $(seq 2000); do : >>\"$0\"; done";
    let mut racer = Command::new("sh").args(["-c", script]).arg(&path).spawn().unwrap();
    let mut asked = 0;
    while racer.try_wait().unwrap().is_none() {
        let file = disk.open("f", Open::Read).unwrap();
        file.writer_free().unwrap();
        file.sole_opener().unwrap();
        asked += 1;
    }
    // Neither side was killed by the kernel's signal.
    assert!(racer.wait().unwrap().success() && asked > 10);
}

#[test]
fn bulk_reads_leave_the_page_cache_as_it_was() {
    let (_dir, disk) = disk();
    const BYTES: usize = 8 << 20;
    let file = disk.file("f", Open::CreateNew).unwrap();
    file.write_at(&vec![7; BYTES], 0).unwrap();
    file.sync().unwrap();
    let cached = || sys::cachestat(file.fd(), 0, BYTES as u64).map(|stat| stat.cached);
    let Ok(all) = cached() else { return };
    assert!(all > 0, "just written");
    let reader = disk.open("f", Open::Read).unwrap();
    let mut buf = AlignedBuf::with_capacity(1 << 20);
    let mut read_all = || {
        for offset in (0..BYTES).step_by(1 << 20) {
            assert_eq!(reader.read_bulk_at(&mut buf, offset as u64, 1 << 20).unwrap(), 1 << 20);
            assert!(buf.iter().all(|byte| *byte == 7));
        }
    };
    read_all();
    assert_eq!(cached().unwrap(), all, "what was cached stays");
    rustix::fs::fadvise(file.fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let before = cached().unwrap();
    assert!(before < all / 2, "{before} of {all} pages still cached");
    read_all();
    let after = cached().unwrap();
    assert!(after <= before + all / 20, "bulk reads cached {after} of {all} pages");
}

#[test]
fn bulk_writes_pass_the_page_cache() {
    let (_dir, disk) = disk();
    const BYTES: u64 = 16 << 20;
    let file = disk.file("f", Open::CreateNew).unwrap();
    let part = vec![9; 1 << 20];
    for offset in (0..BYTES).step_by(1 << 20) {
        file.write_bulk_at(&part, offset).unwrap();
    }
    file.sync().unwrap();
    let Ok(stat) = sys::cachestat(file.fd(), 0, BYTES) else { return };
    let pages = BYTES / sys::page_bytes();
    assert!(stat.cached <= pages / 4, "{} of {pages} pages cached", stat.cached);
}

#[test]
fn bulk_writes_pass_the_page_cache_of_older_kernels() {
    let (_dir, disk) = disk();
    const BLOCK: u64 = 64 << 10;
    // Two spans that are full, one that isn't, and one behind a hole.
    const BLOCKS: u64 = 160;
    let file = disk.file("f", Open::CreateNew).unwrap();
    file.refuse_dontcache();
    for block in (0..BLOCKS).chain([BLOCKS + 1]) {
        file.write_bulk_at(&[block as u8; BLOCK as usize], block * BLOCK).unwrap();
    }
    file.sync().unwrap();
    if let Ok(stat) = sys::cachestat(file.fd(), 0, (BLOCKS + 2) * BLOCK) {
        let pages = BLOCK / sys::page_bytes();
        assert!(stat.cached <= pages, "{} pages cached, {pages} in a block", stat.cached);
    }
    let mut found = [0; BLOCK as usize];
    for block in 0..BLOCKS + 2 {
        let byte = if block == BLOCKS { 0 } else { block as u8 };
        file.read_exact_at(&mut found, block * BLOCK).unwrap();
        assert!(found.iter().all(|found| *found == byte), "block {block}");
    }
}

#[test]
fn what_is_written_in_passing_leaves_the_page_cache_where_it_was_cold() {
    const PAGE: u64 = 4096;
    let (_dir, disk) = disk();
    put_cold(&disk, "f", 1);
    let file = disk.file("f", Open::ReadWrite).unwrap();
    let cached = |first: u64, pages: u64| {
        let bytes = file.cached_bytes(first * PAGE, pages * PAGE).unwrap();
        bytes.map(|bytes| bytes / PAGE)
    };
    if sys::page_bytes() != PAGE || cached(0, 256) != Some(0) {
        return;
    }
    // Two pages that somebody reads, and no more: written, they are cached without reading ahead.
    file.write_at(&[2; 2 * PAGE as usize], 18 * PAGE).unwrap();
    file.sync().unwrap();
    assert_eq!(cached(0, 256), Some(2));
    // One alone, one at the end of a range, and a range around those that are read.
    for (first, pages) in [(3, 1), (255, 1), (12, 16), (100, 40)] {
        let bytes = vec![3; (pages * PAGE) as usize];
        file.write_passing_at(&bytes, first * PAGE).unwrap();
    }
    assert_eq!(cached(0, 256), Some(1 + 1 + 16 + 40), "they go through the cache");
    file.sync().unwrap();
    assert_eq!(cached(18, 2), Some(2), "what was there stays");
    assert_eq!(cached(0, 256), Some(2), "what wasn't leaves");
    let mut page = [0; PAGE as usize];
    for (at, byte) in [(2, 1), (3, 3), (19, 3), (255, 3)] {
        file.read_exact_at(&mut page, at * PAGE).unwrap();
        assert_eq!(page, [byte; PAGE as usize], "page {at}");
    }
}

/// Writes a megabyte that is on disk and no longer in the page cache.
fn put_cold(disk: &RealDisk, path: &str, byte: u8) {
    let file = disk.file(path, Open::CreateNew).unwrap();
    file.write_at(&vec![byte; 1 << 20], 0).unwrap();
    file.sync().unwrap();
    rustix::fs::fadvise(file.fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn a_path_that_leads_elsewhere_by_now_is_not_read() {
    let (_dir, disk) = disk();
    put_cold(&disk, "f", 1);
    put_cold(&disk, "g", 2);
    let file = disk.open("f", Open::Read).unwrap();
    disk.rename("g", "f", RenameHow::Replace).unwrap();
    let mut buf = AlignedBuf::with_capacity(1 << 20);
    assert_eq!(file.read_bulk_at(&mut buf, 0, 1 << 20).unwrap(), 1 << 20);
    assert!(buf.iter().all(|byte| *byte == 1));
}

#[test]
fn the_second_descriptor_of_bulk_reads_is_no_other_opener() {
    let (_dir, disk) = disk();
    put_cold(&disk, "f", 1);
    let file = disk.open("f", Open::Read).unwrap();
    let mut buf = AlignedBuf::with_capacity(1 << 20);
    for _ in 0..2 {
        file.read_bulk_at(&mut buf, 0, 1 << 20).unwrap();
        assert_ne!(file.sole_opener().unwrap(), Lease::Held);
        assert_ne!(file.writer_free().unwrap(), Lease::Held);
    }
}

#[test]
fn a_device_read_goes_around_what_is_cached_and_leaves_it() {
    let (_dir, disk) = disk();
    let file = disk.file("f", Open::CreateNew).unwrap();
    file.write_at(&vec![7; (1 << 20) + 100], 0).unwrap();
    file.sync().unwrap();
    let cached = || file.cached_bytes(0, 1 << 20).unwrap();
    let before = cached();
    let reader = disk.open("f", Open::Read).unwrap();
    let mut buf = AlignedBuf::with_capacity(1 << 20);
    assert_eq!(reader.read_device_at(&mut buf, 0, 1 << 20).unwrap(), 1 << 20);
    assert!(buf.iter().all(|byte| *byte == 7));
    assert_eq!(reader.read_device_at(&mut buf, 1 << 20, 1 << 20).unwrap(), 100);
    assert_eq!(reader.read_device_at(&mut buf, 5, 100).unwrap(), 100, "not aligned");
    assert_eq!(cached(), before);
    assert!(reader.read_device_at(&mut buf, 0, (1 << 20) + 1).is_err());
}
