//! Which paths a disk takes, the same for both disks and checked before the kernel sees them.
//!
//! The kernel refuses what escapes anyway (`openat2`); this makes the answer the same everywhere.

use std::io;

/// Longest path in bytes (the kernel's `PATH_MAX` with its NUL).
const PATH_BYTES_MAX: usize = 4095;
/// Longest component in bytes (the kernel's `NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// Refuses what is not a plain relative path: `InvalidInput`, or `InvalidFilename` when too long.
pub(super) fn check(path: &str) -> io::Result<()> {
    if path.len() > PATH_BYTES_MAX {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    path.split('/').try_for_each(check_name)
}

/// As [`check`], but the empty path is the root.
pub(super) fn check_dir(path: &str) -> io::Result<()> {
    if path.is_empty() { Ok(()) } else { check(path) }
}

fn check_name(name: &str) -> io::Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    if matches!(name, "" | "." | "..") || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain relative path"));
    }
    Ok(())
}

/// Splits a checked path into directory (`""`: the root) and name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Puts a name below a directory (`""`: the root).
pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_plain_relative_paths_only() {
        for good in ["a", "a/b", ".blockferry/staging/x", "a..b", "-rf", "caf\u{e9}"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "/etc", "a//b", "a/", "a/../b", "./a", "../x", "a\0b"] {
            assert_eq!(check(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(check(&"x".repeat(255)).is_ok());
        assert!(check(&"x".repeat(256)).is_err());
        assert!(check(&"x/".repeat(4000)).is_err());
        assert!(check_dir("").is_ok() && check_dir("..").is_err());
    }

    #[test]
    fn splits_and_joins() {
        assert_eq!(split("a/b/c"), ("a/b", "c"));
        assert_eq!(split("c"), ("", "c"));
        assert_eq!(join("", "c"), "c");
        assert_eq!(join("a", "c"), "a/c");
    }
}
