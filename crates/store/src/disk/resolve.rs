//! A path below a directory handle becomes a descriptor, and no symlink is followed on the way.
//!
//! The kernel does it as a whole (`openat2`). A sandbox that can't look into that call's argument
//! refuses the call as if there were none (systemd's `RestrictSUIDSGID=`, which our own unit has):
//! then it is done name by name, each below the handle of the one before. That is no looser, since
//! a path here has no `..` and each name is opened without following it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

/// Opens a path that `path::check` or `path::check_dir` allowed, or `.`.
pub(super) fn open(
    dir: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, flags, mode, resolve) {
        Err(Errno::NOSYS) => by_name(dir, path, flags, mode),
        done => done,
    }
}

fn by_name(
    dir: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    let mut held: Option<OwnedFd> = None;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        if name.is_empty() || name == ".." {
            return Err(Errno::XDEV);
        }
        let at = held.as_ref().map_or(dir, AsFd::as_fd);
        let is_last = names.peek().is_none();
        let (how, mode) = if is_last { (flags, mode) } else { (STEP, Mode::empty()) };
        let opened = openat(at, name, how | OFlags::NOFOLLOW, mode);
        // Of a symlink the kernel says here that it is no directory, and as a whole that it is one.
        let is_link = || {
            let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink())
        };
        match opened {
            Err(Errno::NOTDIR) if !is_last && is_link() => return Err(Errno::LOOP),
            Err(error) => return Err(error),
            Ok(fd) if is_last => return Ok(fd),
            Ok(fd) => held = Some(fd),
        }
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// What there is, as inode numbers: both ways open the same file or fail alike.
    fn outcome(opened: rustix::io::Result<OwnedFd>) -> Result<u64, Errno> {
        opened.map(|fd| rustix::fs::fstat(&fd).expect("open").st_ino)
    }

    #[test]
    fn name_by_name_is_what_the_kernel_does_as_a_whole() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("root");
        std::fs::create_dir_all(root.join("d/e")).expect("made");
        for file in ["f", "d/f", "d/e/f", "../outside"] {
            std::fs::write(root.join(file), file).expect("written");
        }
        for (to, link) in [
            ("d", "to_dir"),
            ("f", "to_file"),
            ("../outside", "out"),
            ("..", "up"),
            ("/etc", "absolute"),
            ("nowhere", "dangling"),
            ("loop", "loop"),
            ("../f", "d/to_file"),
        ] {
            symlink(to, root.join(link)).expect("linked");
        }
        let whole = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let dir = std::fs::File::open(&root).expect("opens");
        let paths = [
            ".",
            "f",
            "d",
            "d/f",
            "d/e",
            "d/e/f",
            "f/x",
            "none",
            "none/x",
            "d/none",
            "to_dir",
            "to_dir/f",
            "to_file",
            "out",
            "up/outside",
            "absolute/passwd",
            "dangling",
            "loop/x",
            "d/to_file",
            "../outside",
            "d/../f",
            "/etc/passwd",
            "d//f",
        ];
        let mut opened = 0;
        for path in paths {
            for how in [OFlags::RDONLY, OFlags::RDONLY | OFlags::DIRECTORY, OFlags::RDWR] {
                let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let one = outcome(openat2(&dir, path, how, Mode::empty(), whole));
                let other = outcome(by_name(dir.as_fd(), path, how, Mode::empty()));
                opened += u32::from(one.is_ok());
                // Such paths get no further than `path::check`; here they are refused.
                if path.contains("..") || path.contains("//") || path.starts_with('/') {
                    assert_eq!(other, Err(Errno::XDEV), "{path}");
                } else {
                    assert_eq!(one, other, "{path} {how:?}");
                }
            }
        }
        assert!(opened > 10, "{opened}");
        let new = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        by_name(dir.as_fd(), "d/new", new, mode).expect("made");
        assert_eq!(by_name(dir.as_fd(), "d/new", new, mode).err(), Some(Errno::EXIST));
        assert_eq!(by_name(dir.as_fd(), "to_dir/new", new, mode).err(), Some(Errno::LOOP));
        assert!(by_name(dir.as_fd(), "dangling", new, mode).is_err());
        assert!(!root.join("nowhere").exists(), "nothing is made behind a symlink");
    }
}
