//! The same on real file systems, each on a loop device of its own. Needs root, mkfs and xfs_io;
//! without them a line says what was not run, or with `BLOCKFERRY_MUST_RUN=1` the test fails.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use blockferry_store::disk::{Disk, Open, RealDisk};
use blockferry_store::{CommitMode, Discover, HoldBase, Options, Recorded, Store};
use blockferry_tests::{Rng, author, cases, image_name, store_identity};

/// Environment: `1` where tests that need a loop mount must not be skipped, as in CI.
const MUST_RUN: &str = "BLOCKFERRY_MUST_RUN";
const DISK_BYTES: u64 = 512 << 20;
const IMAGE_BYTES: u64 = 24 << 20;
const ROUNDS: u64 = 60;
/// Histories on each file system.
const SEEDS: u64 = 3;
const NAME: &str = "vm.raw";

/// A file system in a file, mounted; gone when dropped.
pub(crate) struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// `None`, with the reason on stderr, where it can't be had; a failure where it must be.
    pub(crate) fn new(mkfs: &[&str]) -> Option<Mount> {
        let skip = |why: &str| {
            let must_run = std::env::var(MUST_RUN).is_ok_and(|value| value == "1");
            assert!(!must_run, "{MUST_RUN}=1, but no loop mount of {}: {why}", mkfs[0]);
            eprintln!("skipped: no loop mount of {}: {why}", mkfs[0]);
        };
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let (image, at) = (dir.path().join("disk"), dir.path().join("mnt"));
        File::create(&image).and_then(|f| f.set_len(DISK_BYTES)).expect("a file for the disk");
        std::fs::create_dir(&at).expect("a directory");
        let ok = |c: &mut Command| c.output().is_ok_and(|out| out.status.success());
        if !ok(Command::new("xfs_io").arg("-V")) {
            skip("xfs_io is missing");
            return None;
        }
        if !ok(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image)) {
            skip("mkfs failed or is missing");
            return None;
        }
        if !ok(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at)) {
            skip("mounting needs root and loop devices");
            return None;
        }
        Some(Mount { dir })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(done.is_ok_and(|s| s.success()) || std::thread::panicking(), "umount failed");
    }
}

fn xfs_io(file: &Path, commands: &[String]) {
    let mut command = Command::new("xfs_io");
    command.args(commands.iter().flat_map(|c| ["-c", c.as_str()]));
    let out = command.arg(file).output().expect("xfs_io runs");
    assert!(out.status.success() && out.stderr.is_empty(), "{commands:?}: {out:?}");
}

fn run(tool: &str, args: &[&str]) {
    let done = Command::new(tool).args(args).output().expect("it runs");
    assert!(done.status.success(), "{tool} {args:?}: {done:?}");
}

/// Someone who has written through a mapping of the file, and keeps it without `msync`.
struct Mapper(Child);

impl Mapper {
    fn new(file: &Path, size: u64, (byte, at, bytes): (u64, u64, u64)) -> Mapper {
        let mut xfs_io = Command::new("xfs_io");
        let piped = xfs_io.arg(file).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut mapper = Mapper(piped.spawn().expect("xfs_io runs"));
        // What it does last shows that the rest is done.
        let marker = file.with_file_name("written");
        let size = size.next_multiple_of(4096);
        let commands = format!(
            "mmap -rw 0 {size}\nmwrite -S {byte} {at} {bytes}\nopen -f {}\n",
            marker.display()
        );
        let stdin = mapper.0.stdin.as_mut().expect("piped");
        stdin.write_all(commands.as_bytes()).expect("it listens");
        for _ in 0..1000 {
            if std::fs::remove_file(&marker).is_ok() {
                return mapper;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("xfs_io did not do: {commands}");
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        assert!(ended.is_ok_and(|s| s.success()) || std::thread::panicking(), "xfs_io failed");
    }
}

/// What is done to the image as a whole; it says what.
fn change_whole(dir: &Path, mkfs: &str, rng: &mut Rng) -> String {
    let [file, copy, snapshot] = [NAME, "copy", "snapshot"].map(|name| dir.join(name));
    let [file, copy, snapshot] = [&file, &copy, &snapshot].map(|p| p.to_str().expect("UTF-8"));
    match rng.below(4) {
        0 if mkfs == "mkfs.btrfs" => {
            if Path::new(snapshot).exists() {
                run("btrfs", &["subvolume", "delete", snapshot]);
            }
            run("btrfs", &["subvolume", "snapshot", dir.to_str().expect("UTF-8"), snapshot]);
            "a snapshot".to_owned()
        }
        0 | 1 => {
            let (tool, args): (&str, &[&str]) = match mkfs {
                "mkfs.btrfs" => ("btrfs", &["filesystem", "defragment", "-f", file]),
                _ => ("xfs_fsr", &[file]),
            };
            run(tool, args);
            tool.to_owned()
        }
        way => {
            // The clone takes the place of the image, or gives it its content.
            run("cp", &["--reflink=always", file, copy]);
            let at = rng.below(std::fs::metadata(copy).expect("it is there").len());
            xfs_io(Path::new(copy), &[format!("pwrite -q -S 251 {at} 100")]);
            match way {
                2 => std::fs::rename(copy, file).expect("renamed"),
                _ => run("cp", &["--reflink=always", copy, file]),
            }
            format!(
                "a clone {}, with a change at {at}",
                ["renamed", "cloned back"][way as usize - 2]
            )
        }
    }
}

/// What a user, a hypervisor or an administrator does to a file: it says what, and gives the one
/// who goes on having it mapped.
fn change(dir: &Path, mkfs: &str, rng: &mut Rng) -> (String, Option<Mapper>) {
    let file = dir.join(NAME);
    let size = || std::fs::metadata(&file).expect("it is there").len();
    let whole = rng.chance(1, 4).then(|| change_whole(dir, mkfs, rng));
    let size = size();
    let at = rng.below(size);
    let bytes = (1 + rng.below(300_000)).min(size - at);
    let page = |n: u64| n / 4096 * 4096;
    let byte = 1 + rng.below(250);
    let what = match rng.below(10) {
        0..=2 => vec![format!("pwrite -q -S {byte} {at} {bytes}")],
        3 => {
            let bytes = bytes.min(9000);
            let mapper = rng.chance(1, 2).then(|| Mapper::new(&file, size, (byte, at, bytes)));
            if mapper.is_some() {
                return (format!("{whole:?}, then {bytes} mapped at {at}"), mapper);
            }
            let mut commands = vec![
                format!("mmap -rw 0 {}", size.next_multiple_of(4096)),
                format!("mwrite -S {byte} {at} {bytes}"),
            ];
            // Else it is in the page cache alone when the mapping goes.
            commands.extend(rng.chance(1, 2).then(|| "msync -s".to_owned()));
            commands
        }
        4 => vec![format!("fpunch {at} {bytes}")],
        5 => vec![format!("truncate {}", size.saturating_sub(rng.below(200_000)).max(5000))],
        6 => vec![format!("truncate {}", (size + rng.below(5 << 20)).min(IMAGE_BYTES * 2))],
        7 => {
            let to = page(rng.below(size));
            let from = page(rng.below(size));
            let len = page((size - from.max(to)).min(1 << 20));
            match len > 0 && from.abs_diff(to) >= len {
                true => vec![format!("reflink {} {from} {to} {len}", file.display())],
                false => vec![format!("pwrite -q -S {byte} {at} 1")],
            }
        }
        8 => vec![
            format!("falloc {} {}", page(at), 1 << 20),
            format!("pwrite -q -S {byte} {} 5000", page(at) + 8192),
        ],
        _ => vec![format!("pwrite -q -S {byte} {at} 100")],
    };
    xfs_io(&file, &what);
    (format!("{whole:?}, then {}", what.join("; ")), None)
}

fn history(mkfs: &[&str], seed: u64) -> u64 {
    let Some(mount) = Mount::new(mkfs) else { return 0 };
    let dir = mount.path();
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; IMAGE_BYTES as usize];
    rng.fill(&mut bytes[..16 << 20]);
    std::fs::write(dir.join(NAME), &bytes).expect("written");
    let disk = Arc::new(RealDisk::open(&dir).expect("opens"));
    // Who has it mapped for writing keeps it open.
    let options = Options {
        scan_threads: 2,
        hold_base: HoldBase::Always,
        snapshot: true,
        ..Options::default()
    };
    let store = Arc::new(Store::create(disk, store_identity(), &options).expect("made"));
    assert_eq!(store.commit_mode(), CommitMode::Clone, "{mkfs:?}");
    let name = image_name(NAME);
    let record = || store.record(&name, author(1), 1, &()).expect("records");
    assert_eq!(record().generation().discover, Discover::Scan);
    let (mut by_extents, mut mapped) = (0, 0);
    for round in 0..ROUNDS {
        let (what, mapper) = change(&dir, mkfs[0], &mut rng);
        mapped += u64::from(mapper.is_some());
        let recorded = record();
        drop(mapper);
        let mut bytes = Vec::new();
        let file = File::open(dir.join(NAME)).expect("opens");
        { file }.read_to_end(&mut bytes).expect("reads");
        let at = || format!("{mkfs:?}, seed {seed}, round {round}, after {what}");
        let root = recorded.generation().root;
        assert_eq!(root.as_bytes(), blake3::hash(&bytes).as_bytes(), "{}", at());
        assert!(store.verify(&name, &()).expect("verifies").is_good(), "{}", at());
        assert!(!store.extents_are_off().expect("read"), "a sample was wrong: {}", at());
        if let Recorded::New(new) = recorded
            && new.discover == Discover::Extents
        {
            by_extents += 1;
        }
    }
    assert!(by_extents > ROUNDS / 2, "only {by_extents} of {ROUNDS} by extents on {mkfs:?}");
    assert!(mapped > 0, "nobody had it mapped: seed {seed} on {mkfs:?}");
    by_extents
}

/// Histories with several seeds, beside each other; how many generations were found by extents.
fn histories(mkfs: &[&str]) -> u64 {
    std::thread::scope(|scope| {
        let running = cases(SEEDS).map(|seed| scope.spawn(move || history(mkfs, seed)));
        let running: Vec<_> = running.collect();
        let ended = running.into_iter().map(|one| match one.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.sum()
    })
}

#[test]
fn extents_never_miss_on_xfs() {
    let found = histories(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
    eprintln!("{found} generations found by extents on XFS");
}

#[test]
fn extents_never_miss_on_btrfs() {
    let found = histories(&["mkfs.btrfs", "-q"]);
    eprintln!("{found} generations found by extents on btrfs");
}

/// Scattered pages written into a clone: what they take without the hint, and with it.
#[test]
fn extents_of_a_clone_take_the_room_of_what_is_written() {
    const PAGES: u64 = 500;
    let Some(mount) = Mount::new(&["mkfs.xfs", "-q", "-m", "reflink=1"]) else { return };
    let disk = RealDisk::open(&mount.path()).expect("opens");
    let file = disk.open("a", Open::CreateNew).expect("created");
    file.write_at(&vec![7; 64 << 20], 0).expect("written");
    file.sync().expect("synced");
    let took = [false, true].map(|tight| {
        assert!(disk.clone_file("a", "b").expect("answers"), "XFS clones");
        let clone = disk.open("b", Open::ReadWrite).expect("opens");
        clone.tight_cow(tight);
        let before = disk.space().expect("answers").free_bytes;
        for n in 0..PAGES {
            clone.write_at(&[n as u8; 4096], n * 32 * 4096).expect("written");
        }
        clone.sync().expect("synced");
        let after = disk.space().expect("answers").free_bytes;
        clone.tight_cow(false);
        drop(clone);
        disk.remove_file("b").expect("removed");
        // The room comes back in the background.
        let back = || disk.space().expect("answers").free_bytes + PAGES * 4096 / 2 >= before;
        for _ in 0..200 {
            if back() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        before.saturating_sub(after)
    });
    let written = PAGES * 4096;
    eprintln!(
        "{written} bytes written into a clone took {} bytes, {} with the hint",
        took[0], took[1]
    );
    assert!((written / 2..2 * written).contains(&took[1]), "{} bytes for {written}", took[1]);
    assert!(took[1] < took[0] / 2, "the hint did nothing: {took:?}");
}
