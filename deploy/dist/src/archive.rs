//! The archive for everybody else, and the list of sums over what is handed out.

use crate::run::{run, write};
use crate::tree::{Family, stage};
use crate::{Input, architecture};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes `blockferry-VERSION-linux-ARCH.tar.zst` in `out`: one directory that holds `usr/`.
pub fn archive(input: &Input, out: &Path) -> Result<PathBuf> {
    let work = tempfile::tempdir()?;
    let name = format!("blockferry-{}-linux-{}", input.version, architecture().1);
    stage(input, Family::Other, &work.path().join(&name))?;
    let tar = work.path().join("tar");
    let mut command = Command::new("tar");
    command
        .args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0", &format!("--mtime=@{}", input.epoch)])
        .arg(format!("--directory={}", work.path().display()))
        .arg(format!("--file={}", tar.display()))
        .arg(&name);
    run(&mut command)?;
    let path = out.join(format!("{name}.tar.zst"));
    let shown = || path.display().to_string();
    let to = File::create(&path).with_context(shown)?;
    let mut encoder = zstd::Encoder::new(to, input.level.zstd())?;
    encoder.include_checksum(true)?;
    std::io::copy(&mut File::open(&tar)?, &mut encoder).with_context(shown)?;
    encoder.finish()?.flush()?;
    Ok(path)
}

/// Writes `SHA256SUMS` over files of `out`, as `sha256sum --check` reads it.
pub fn sums(out: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let mut names: Vec<_> = files.iter().filter_map(|path| path.file_name()).collect();
    names.sort();
    let text = run(Command::new("sha256sum").args(&names).current_dir(out))?;
    let path = out.join("SHA256SUMS");
    write(&path, &text, 0o644)?;
    Ok(path)
}
