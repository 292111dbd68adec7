//! The release binary, built so that nothing of this machine is in it.
//!
//! Directories are written as if the source were in `/usr/src/blockferry` and the crates in
//! `/usr/src/cargo`; the target directory is one of its own, for its flags are others than `cargo
//! build`'s.

use crate::crates::cargo;
use crate::run::run;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is built, and what is known of it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The source tree.
    pub root: PathBuf,
    /// Version of the workspace.
    pub version: String,
    /// Seconds since 1970 of the commit, or what `SOURCE_DATE_EPOCH` says.
    pub epoch: u64,
}

impl Source {
    /// The tree that this tool was built from.
    pub fn here() -> Result<Source> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text,
            Err(_) => {
                let mut git = Command::new("git");
                let args = ["log", "-1", "--format=%ct"];
                String::from_utf8(run(git.args(args).current_dir(&root))?)?
            }
        };
        let epoch = epoch.trim().parse().context("SOURCE_DATE_EPOCH is seconds since 1970")?;
        Ok(Source { root, version: env!("CARGO_PKG_VERSION").to_owned(), epoch })
    }
}

/// Directories whose names may not be in the program, and what stands for them. Of two that hold a
/// path the later counts.
fn places(root: &Path, target: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    Ok(vec![
        (cargo, "/usr/src/cargo"),
        (root.to_owned(), "/usr/src/blockferry"),
        (target.to_owned(), "/usr/src/target"),
    ])
}

/// Builds the program by a profile of cargo's and gives its path.
pub fn compile(source: &Source, profile: &str) -> Result<PathBuf> {
    // Absolute and without links, as compilers write it.
    let target = source.root.join("target/dist");
    std::fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
    let target = target.canonicalize()?;
    let mut rust = Vec::new();
    let mut c = String::new();
    for (from, to) in places(&source.root, &target)? {
        rust.push(format!("--remap-path-prefix={}={to}", from.display()));
        c.push_str(&format!(" -ffile-prefix-map={}={to}", from.display()));
    }
    let mut command = Command::new(cargo());
    command
        .args(["build", "--locked", "--package=blockferry", "--profile", profile])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&source.root)
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"))
        .env("CFLAGS", c.trim_start())
        .env("CARGO_INCREMENTAL", "0")
        .env("SOURCE_DATE_EPOCH", source.epoch.to_string())
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null());
    let status = command.status().context("cargo")?;
    ensure!(status.success(), "cargo build: {status}");
    let directory = if profile == "dev" { "debug" } else { profile };
    Ok(target.join(directory).join("blockferry"))
}

/// Paths of this machine that are in a file, and so would make it another file elsewhere.
pub fn leaked(source: &Source, file: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let mut found = Vec::new();
    for (place, _) in places(&source.root, &source.root.join("target"))? {
        let text = place.display().to_string();
        if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(text);
        }
    }
    Ok(found)
}
