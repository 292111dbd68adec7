//! Programs that are called, and files that are read and written: each failure says which.

use anyhow::{Context, Result, bail};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Runs a program to its end and gives what it wrote to stdout; fails with what it wrote to stderr.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Sorted and written the same everywhere.
    command.env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("{name}: is it installed?"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(output.stdout)
}

pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Writes a file with a mode, whatever umask there is; makes the directories above it, too.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let shown = || path.display().to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(shown)?;
    }
    std::fs::write(path, bytes).with_context(shown)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).with_context(shown)
}

/// All below a directory, directories before what is in them, by name.
pub(crate) fn walk(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        let inner = if path.is_dir() { walk(&path)? } else { Vec::new() };
        found.push(path);
        found.extend(inner);
    }
    Ok(found)
}

/// Gives a directory and all below it one time, and directories one mode.
pub(crate) fn settle(directory: &Path, epoch: u64) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
    let mut paths = walk(directory)?;
    paths.push(directory.to_owned());
    for path in paths {
        let shown = || path.display().to_string();
        if path.is_dir() {
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).with_context(shown)?;
        }
        File::open(&path).and_then(|file| file.set_modified(time)).with_context(shown)?;
    }
    Ok(())
}
