//! File systems in files: the image whose files are laid out anew, the receiver without room, and
//! stores with reflinks.
//! Needs root, `mkfs.ext4`, for reflinks `mkfs.xfs`, and loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{has, is_root, run};

/// Why it can't be done here, if so.
pub(crate) fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("needs root for loop mounts");
    }
    let programs = ["mkfs.ext4", "mkfs.xfs", "mount", "umount"];
    programs.iter().any(|p| !has(p)).then_some("needs mkfs.ext4, mkfs.xfs and mount")
}

/// The same for file systems with reflinks.
pub(crate) fn missing_xfs() -> Option<&'static str> {
    missing().or((!has("mkfs.xfs")).then_some("needs mkfs.xfs"))
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts the file `image` at `point`, which is made.
    pub(crate) fn new(image: &Path, point: &Path, options: &str) -> anyhow::Result<Mount> {
        std::fs::create_dir_all(point)?;
        run(Command::new("mount").args(["-o", options]).arg(image).arg(point))?;
        Ok(Mount { point: point.to_owned() })
    }

    /// Unmounts it, so that everything is in the file.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.point))?;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // After `end` there is nothing to do, and this fails.
        let _ = Command::new("umount").arg("-l").arg(&self.point).output();
    }
}

/// A file system of its own in a file of its own, mounted; both are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    mount: Option<Mount>,
    file: PathBuf,
}

impl Volume {
    /// Why there can be none of this `kind` (`xfs`, `btrfs`, `ext4`) here, if so.
    pub(crate) fn missing(kind: &str) -> Option<String> {
        let program = format!("mkfs.{kind}");
        if !is_root() {
            return Some("needs root for loop mounts".into());
        }
        (!has(&program)).then(|| format!("needs {program}"))
    }

    /// Makes one of `size_bytes`, of which only what is written takes room.
    pub(crate) fn make(kind: &str, parent: &Path, size_bytes: u64) -> anyhow::Result<Volume> {
        let file = parent.join(format!("{kind}.volume"));
        File::create_new(&file)?.set_len(size_bytes)?;
        let mut volume = Volume { mount: None, file };
        let force = if kind == "ext4" { "-F" } else { "-f" };
        run(Command::new(format!("mkfs.{kind}")).args(["-q", force]).arg(&volume.file))?;
        volume.mount = Some(Mount::new(&volume.file, &parent.join(kind), "loop")?);
        Ok(volume)
    }

    /// Its root.
    pub(crate) fn path(&self) -> &Path {
        self.mount.as_ref().map_or(&self.file, |mount| &mount.point)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(self.mount.take());
        let _ = std::fs::remove_file(&self.file);
    }
}

/// An empty ext4 of `size_bytes` in a new file.
pub(crate) fn make_ext4(path: &Path, size_bytes: u64) -> anyhow::Result<()> {
    File::create_new(path)?.set_len(size_bytes)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(path))?;
    Ok(())
}

/// An empty XFS with reflinks of `size_bytes` in a new file.
pub(crate) fn make_xfs(path: &Path, size_bytes: u64) -> anyhow::Result<()> {
    File::create_new(path)?.set_len(size_bytes)?;
    run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(path))?;
    Ok(())
}

/// Makes `target`: a fresh file system of the same size with the files of the one in `source`.
pub(crate) fn lay_out_anew(source: &Path, target: &Path, work: &Path) -> anyhow::Result<()> {
    make_ext4(target, std::fs::metadata(source)?.len())?;
    let old = Mount::new(source, &work.join("old-layout"), "loop,ro,noload")?;
    let new = Mount::new(target, &work.join("new-layout"), "loop")?;
    run(Command::new("cp").arg("-a").arg(old.point.join(".")).arg(&new.point))?;
    new.end()?;
    old.end()
}
