//! The same on real file systems, each on a loop device of its own. Needs root, mkfs and xfs_io;
//! without them a line says what was not run.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use blockferry_store::disk::{Disk, Open, RealDisk};
use blockferry_store::{CommitMode, Discover, HoldBase, Options, Recorded, Store};
use blockferry_tests::{Rng, author, image_name, store_identity};

const DISK_BYTES: u64 = 512 << 20;
const IMAGE_BYTES: u64 = 24 << 20;
const ROUNDS: u64 = 60;
const NAME: &str = "vm.raw";

/// A file system in a file, mounted; gone when dropped.
pub(crate) struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// `None`, with the reason on stderr, where it can't be had.
    pub(crate) fn new(mkfs: &[&str]) -> Option<Mount> {
        let skip = |why: &str| eprintln!("skipped: no loop mount of {}: {why}", mkfs[0]);
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

/// What a user, a hypervisor or an administrator does to a file.
fn change(dir: &Path, mkfs: &str, rng: &mut Rng) -> String {
    let file = dir.join(NAME);
    let size = std::fs::metadata(&file).expect("it is there").len();
    let at = rng.below(size);
    let bytes = (1 + rng.below(300_000)).min(size - at);
    let page = |n: u64| n / 4096 * 4096;
    let byte = 1 + rng.below(250);
    let what = match rng.below(10) {
        0..=2 => vec![format!("pwrite -q -S {byte} {at} {bytes}")],
        3 => vec![
            format!("mmap -rw 0 {}", size.next_multiple_of(4096)),
            format!("mwrite -S {byte} {at} {}", bytes.min(9000)),
            "msync -s".to_owned(),
        ],
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
        _ => {
            let (tool, args): (&str, &[&str]) = match mkfs {
                "mkfs.btrfs" => ("btrfs", &["filesystem", "defragment", "-f"]),
                _ => ("xfs_fsr", &[]),
            };
            let done = Command::new(tool).args(args).arg(&file).output().expect("it runs");
            assert!(done.status.success(), "{tool}: {done:?}");
            vec![format!("pwrite -q -S {byte} {at} 100")]
        }
    };
    xfs_io(&file, &what);
    what.join("; ")
}

fn history(mkfs: &[&str], seed: u64) -> u64 {
    let Some(mount) = Mount::new(mkfs) else { return 0 };
    let dir = mount.path();
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; IMAGE_BYTES as usize];
    rng.fill(&mut bytes[..16 << 20]);
    std::fs::write(dir.join(NAME), &bytes).expect("written");
    let disk = Arc::new(RealDisk::open(&dir).expect("opens"));
    let options = Options { scan_threads: 2, hold_base: HoldBase::Always, ..Options::default() };
    let store = Arc::new(Store::create(disk, store_identity(), &options).expect("made"));
    assert_eq!(store.commit_mode(), CommitMode::Clone, "{mkfs:?}");
    let name = image_name(NAME);
    let record = || store.record(&name, author(1), 1, &()).expect("records");
    assert_eq!(record().generation().discover, Discover::Scan);
    let mut by_extents = 0;
    for round in 0..ROUNDS {
        let what = change(&dir, mkfs[0], &mut rng);
        let recorded = record();
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
    by_extents
}

#[test]
fn extents_never_miss_on_xfs() {
    let found = history(&["mkfs.xfs", "-q", "-m", "reflink=1"], 1);
    eprintln!("{found} generations found by extents on XFS");
}

#[test]
fn extents_never_miss_on_btrfs() {
    let found = history(&["mkfs.btrfs", "-q"], 2);
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
