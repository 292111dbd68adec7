//! The `.rpm`: what `rpmbuild` makes of the staged tree and `deploy/packages/blockferry.spec`.
//!
//! Nothing of the machine's own setup goes in: no home directory, no host name, no date.

use crate::run::{run, write};
use crate::tree::{Family, stage};
use crate::{DESCRIPTION, Input, architecture, template};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes `blockferry-VERSION-1.ARCH.rpm` in `out`.
pub fn rpm(input: &Input, out: &Path) -> Result<PathBuf> {
    let work = tempfile::tempdir()?;
    let staged = stage(input, Family::Other, &work.path().join("tree"))?;
    let mut files = String::new();
    for directory in ["/usr/share/doc/blockferry", "/usr/share/doc/blockferry/drop-ins"] {
        files.push_str(&format!("%dir %attr(0755, root, root) {directory}\n"));
    }
    for file in &staged.files {
        let text = file.to_str().context("names are ASCII")?;
        let mode = if text.starts_with("usr/bin/") { "0755" } else { "0644" };
        let kind = if text.starts_with("usr/share/doc/") { "%doc " } else { "" };
        files.push_str(&format!("%attr({mode}, root, root) {kind}/{text}\n"));
    }
    let spec = template(&input.root, "blockferry.spec")?
        .replace("@VERSION@", &input.version)
        .replace("@PAYLOAD@", &format!("w{}.zstdio", input.level.zstd()))
        .replace("@DESCRIPTION@", DESCRIPTION)
        .replace("@STAGE@", &staged.directory.display().to_string())
        .replace("@ACCOUNT@", template(&input.root, "account.sh")?.trim_end())
        .replace("@FILES@", &files);
    let path = work.path().join("blockferry.spec");
    write(&path, spec.as_bytes(), 0o644)?;
    let made = work.path().join("made");
    let name = format!("blockferry-{}-1.{}.rpm", input.version, architecture().1);
    let mut command = Command::new("rpmbuild");
    command
        .args(["-bb", "--quiet", "--target", architecture().1])
        .args(["--define", &format!("_topdir {}", work.path().join("top").display())])
        .args(["--define", &format!("_rpmdir {}", made.display())])
        .args(["--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"])
        .arg(&path)
        .env("HOME", work.path())
        .env("SOURCE_DATE_EPOCH", input.epoch.to_string());
    run(&mut command)?;
    let to = out.join(&name);
    std::fs::copy(made.join(&name), &to).with_context(|| name.clone())?;
    Ok(to)
}
