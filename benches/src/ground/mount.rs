//! File systems in files: the image whose files are laid out anew, the receiver without room, and
//! stores with reflinks. Needs root, loop devices, and the program that makes the kind wanted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::{has, is_root, run};

/// Why there can be no file system of this `kind` (`ext4`, `xfs`, `btrfs`) here, if so.
pub(crate) fn missing(kind: &str) -> Option<String> {
    if !is_root() {
        return Some("needs root for loop mounts".into());
    }
    let mkfs = format!("mkfs.{kind}");
    let programs = [mkfs.as_str(), "mount", "umount", "losetup"];
    programs.iter().any(|p| !has(p)).then(|| format!("needs {mkfs} and mount"))
}

/// An empty file system of this `kind` and `size_bytes` in a new file, of which only what is
/// written takes room.
pub(crate) fn make(kind: &str, path: &Path, size_bytes: u64) -> anyhow::Result<()> {
    File::create_new(path)?.set_len(size_bytes)?;
    let options: &[&str] = match kind {
        "ext4" => &["-F", "-E", "lazy_itable_init=0"],
        "xfs" => &["-m", "reflink=1"],
        _ => &[],
    };
    run(Command::new(format!("mkfs.{kind}")).arg("-q").args(options).arg(path))?;
    Ok(())
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

/// A loop device on `file` that reads and writes it directly: many requests at a time, as a disk
/// does, and nothing of it in the page cache. It is gone when nothing has it mounted any more.
fn mount_directly(file: &Path, point: &Path) -> anyhow::Result<Mount> {
    let attach = ["--find", "--show", "--direct-io=on"];
    let device = run(Command::new("losetup").args(attach).arg(file))?;
    let device = Path::new(device.trim());
    let mounted = Mount::new(device, point, "defaults");
    run(Command::new("losetup").arg("--detach").arg(device))?;
    mounted
}

/// A file system of its own in a file of its own, mounted; both are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    mount: Option<Mount>,
    file: PathBuf,
}

impl Volume {
    /// Makes one of `size_bytes` below `parent`.
    pub(crate) fn new(kind: &str, parent: &Path, size_bytes: u64) -> anyhow::Result<Volume> {
        let mut volume = Volume { mount: None, file: parent.join(format!("{kind}.volume")) };
        make(kind, &volume.file, size_bytes)?;
        volume.mount = Some(mount_directly(&volume.file, &parent.join(kind))?);
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

/// Makes `target`: a fresh file system of the same size with the files of the one in `source`.
pub(crate) fn lay_out_anew(source: &Path, target: &Path, work: &Path) -> anyhow::Result<()> {
    make("ext4", target, std::fs::metadata(source)?.len())?;
    let old = Mount::new(source, &work.join("old-layout"), "loop,ro,noload")?;
    let new = Mount::new(target, &work.join("new-layout"), "loop")?;
    run(Command::new("cp").arg("-a").arg(old.point.join(".")).arg(&new.point))?;
    new.end()?;
    old.end()
}
