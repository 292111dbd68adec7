//! How much room the files below a directory take, and how they are put out of the page cache.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::Advice;

use crate::ground::tools::is_root;

/// Bytes allocated for files below `directory`, each once; also for those that the processes
/// `pids` have open there but that have no name any more.
pub(super) fn allocated_bytes(directory: &Path, pids: &[u32]) -> io::Result<u64> {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    walk(directory, &mut |path| {
        // Files come and go meanwhile.
        if let Ok(stat) = fs::symlink_metadata(path)
            && seen.insert((stat.dev(), stat.ino()))
        {
            bytes += stat.blocks() * 512;
        }
    })?;
    for pid in pids {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let nameless = target.to_string_lossy().ends_with(" (deleted)");
            if nameless
                && target.starts_with(directory)
                && let Ok(stat) = fs::metadata(file.path())
                && seen.insert((stat.dev(), stat.ino()))
            {
                bytes += stat.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

/// Calls `file` for whatever is below a directory, directories included.
fn walk(directory: &Path, file: &mut impl FnMut(&Path)) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        file(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, file)?;
        }
    }
    Ok(())
}

/// How `forget` does it here.
pub(super) fn forgetting() -> &'static str {
    if is_root() {
        "sync, then /proc/sys/vm/drop_caches before each run"
    } else {
        "sync, then POSIX_FADV_DONTNEED for the files of both ends before each run (not root: \
         metadata and what others hold in memory stay)"
    }
}

/// Everything on disk, and the files below `directories` not in memory.
pub(super) fn forget(directories: &[&Path]) -> anyhow::Result<()> {
    rustix::fs::sync();
    if is_root() {
        return fs::write("/proc/sys/vm/drop_caches", "3").context("drop the page cache");
    }
    for directory in directories {
        walk(directory, &mut |path| {
            // Sockets and what may not be read have nothing to forget.
            if path.is_file()
                && let Ok(file) = File::open(path)
            {
                let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            }
        })?;
    }
    Ok(())
}

/// Waits until the file system of `path` has everything on disk.
pub(super) fn sync(path: &Path) -> anyhow::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_nameless_files_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        fs::create_dir(path.join("below")).unwrap();
        let empty = allocated_bytes(&path, &[]).unwrap();
        fs::write(path.join("below/a"), vec![1; 1 << 20]).unwrap();
        sync(&path).unwrap();
        let one = allocated_bytes(&path, &[]).unwrap();
        assert!(one - empty >= 1 << 20);
        fs::hard_link(path.join("below/a"), path.join("b")).unwrap();
        assert_eq!(allocated_bytes(&path, &[]).unwrap(), one);
        let open = File::open(path.join("b")).unwrap();
        fs::remove_file(path.join("b")).unwrap();
        fs::remove_file(path.join("below/a")).unwrap();
        assert_eq!(allocated_bytes(&path, &[]).unwrap(), empty);
        assert_eq!(allocated_bytes(&path, &[std::process::id()]).unwrap(), one);
        drop(open);
    }
}
