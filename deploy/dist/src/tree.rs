//! The one list of what is installed where, and the staging of it below a directory.
//!
//! Man pages and completions are written by the program itself, so they say what it does.

use crate::run::{read, run, settle, walk, write};
use crate::{Input, Level};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of the source tree, and where they go.
const FILES: &[(&str, &str)] = &[
    ("deploy/blockferry.service", "usr/lib/systemd/system/blockferry.service"),
    ("deploy/sysusers.d/blockferry.conf", "usr/lib/sysusers.d/blockferry.conf"),
    ("deploy/tmpfiles.d/blockferry.conf", "usr/lib/tmpfiles.d/blockferry.conf"),
    ("deploy/sysctl.d/30-blockferry.conf", "usr/lib/sysctl.d/30-blockferry.conf"),
    ("README.md", "usr/share/doc/blockferry/README.md"),
    ("deploy/README.md", "usr/share/doc/blockferry/deploy.md"),
    ("deploy/blockferry.toml", "usr/share/doc/blockferry/blockferry.toml"),
    ("deploy/drop-ins/owners.conf", "usr/share/doc/blockferry/drop-ins/owners.conf"),
    ("deploy/monitoring/blockferry.rules.yml", "usr/share/doc/blockferry/blockferry.rules.yml"),
    ("deploy/monitoring/grafana.json", "usr/share/doc/blockferry/grafana.json"),
];

/// Licences, one after the other in `copyright`.
const LICENCES: [&str; 3] = ["LICENSE", "LICENSE-MIT", "LICENSE-APACHE"];
const DOC: &str = "usr/share/doc/blockferry";
const BINARY: &str = "usr/bin/blockferry";

/// Who installs it: they differ in where shells look for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Debian and what comes from it.
    Debian,
    /// Everybody else.
    Other,
}

impl Family {
    fn zsh(self) -> &'static str {
        match self {
            Family::Debian => "usr/share/zsh/vendor-completions/_blockferry",
            Family::Other => "usr/share/zsh/site-functions/_blockferry",
        }
    }
}

/// A tree as it will be installed.
#[derive(Debug)]
pub struct Staged {
    /// The directory that stands for `/`.
    pub directory: PathBuf,
    /// Files below it, relative, by name.
    pub files: Vec<PathBuf>,
    /// All of them together.
    pub bytes: u64,
}

/// Puts everything below `directory`, which must not exist yet.
pub fn stage(input: &Input, family: Family, directory: &Path) -> Result<Staged> {
    ensure!(!directory.exists(), "{} is there already", directory.display());
    program(input, &directory.join(BINARY))?;
    for (from, to) in FILES {
        let bytes = std::fs::read(input.root.join(from)).with_context(|| (*from).to_owned())?;
        write(&directory.join(to), &bytes, 0o644)?;
    }
    let mut licences = String::new();
    for name in LICENCES {
        licences.push_str(&read(&input.root.join(name))?);
        licences.push('\n');
    }
    write(&directory.join(DOC).join("copyright"), licences.as_bytes(), 0o644)?;
    zipped(&directory.join(DOC).join("changelog"), &read(&input.root.join("CHANGELOG.md"))?)?;
    if let Some(notices) = &input.notices {
        zipped(&directory.join(DOC).join("third-party"), notices)?;
    }
    generated(family, directory)?;
    settle(directory, input.epoch)?;
    let mut staged = Staged { directory: directory.to_owned(), files: Vec::new(), bytes: 0 };
    for path in walk(directory)?.into_iter().filter(|path| !path.is_dir()) {
        staged.bytes += path.metadata()?.len();
        staged.files.push(path.strip_prefix(directory)?.to_owned());
    }
    Ok(staged)
}

/// The program without what only a debugger reads; names of functions stay, for backtraces.
fn program(input: &Input, to: &Path) -> Result<()> {
    let bytes = std::fs::read(&input.binary).with_context(|| input.binary.display().to_string())?;
    write(to, &bytes, 0o755)?;
    run(Command::new("strip").args(["--strip-debug", "--remove-section=.comment"]).arg(to))?;
    Ok(())
}

/// A file as `gzip` writes it without name and time.
fn zipped(path: &Path, text: &str) -> Result<()> {
    write(path, text.as_bytes(), 0o644)?;
    run(Command::new("gzip").args(["-9", "--no-name"]).arg(path))?;
    Ok(())
}

/// What the program writes about itself.
fn generated(family: Family, directory: &Path) -> Result<()> {
    let program = || {
        let mut command = Command::new(directory.join(BINARY));
        command.env_clear();
        command
    };
    let man = directory.join("usr/share/man/man1");
    std::fs::create_dir_all(&man)?;
    run(program().arg("man").arg(&man))?;
    for page in walk(&man)? {
        zipped(&page, &read(&page)?)?;
    }
    for (shell, to) in [
        ("bash", "usr/share/bash-completion/completions/blockferry"),
        ("zsh", family.zsh()),
        ("fish", "usr/share/fish/vendor_completions.d/blockferry.fish"),
    ] {
        let script = run(program().args(["completions", shell]))?;
        ensure!(script.len() > 1000, "no completions for {shell}");
        write(&directory.join(to), &script, 0o644)?;
    }
    Ok(())
}

impl Level {
    /// The level of zstd.
    pub(crate) fn zstd(self) -> i32 {
        match self {
            Level::Fast => 1,
            Level::Small => 19,
        }
    }
}
