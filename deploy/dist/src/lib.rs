//! What is handed out: one list of files (`tree`), and from it a `.deb`, an `.rpm` and an archive;
//! the bill of materials (`sbom`) and the licences of what is linked in (`notices`).
//!
//! The same commit gives the same bytes in any directory, at any time: no date but the commit's, no
//! owner but root, sorted names, no path of the machine that built it. What packs are the tools of
//! the formats' own (`dpkg-deb`, `rpmbuild`, GNU tar); what may depend on their defaults is said.

mod archive;
mod compile;
mod crates;
mod deb;
mod notices;
mod rpm;
mod run;
mod sbom;
mod tree;

pub use archive::{archive, sums};
pub use compile::{Source, compile, leaked};
pub use crates::Crates;
pub use deb::deb;
pub use notices::notices;
pub use rpm::rpm;
pub use sbom::sbom;
pub use tree::{Family, Staged, stage};

use std::path::{Path, PathBuf};

/// What packages are made of and how.
#[derive(Clone, Debug)]
pub struct Input {
    /// The source tree: `deploy/` and the licences are taken from it.
    pub root: PathBuf,
    /// The program, as it was linked.
    pub binary: PathBuf,
    /// What packages say their version is, `0.1.0`.
    pub version: String,
    /// Seconds since 1970 that every file's time is.
    pub epoch: u64,
    /// How hard packages are compressed.
    pub level: Level,
    /// Licences of what is linked in, if they go along.
    pub notices: Option<String>,
}

/// How hard packages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For tests.
    Fast,
    /// For people.
    Small,
}

/// This machine's architecture as Debian calls it, then as RPM and Rust do.
pub fn architecture() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", "x86_64"),
        "aarch64" => ("arm64", "aarch64"),
        other => (other, other),
    }
}

/// A file of `deploy/packages`.
fn template(root: &Path, name: &str) -> anyhow::Result<String> {
    run::read(&root.join("deploy/packages").join(name))
}

/// What a package manager shows of Blockferry.
const DESCRIPTION: &str = "\
A service that keeps stores of multi-gigabyte disk images (VHD, VHDX, qcow2,
raw) equal on many servers. It finds what changed, sends only that when the
schedule allows, and commits atomically: a reader sees the old image or the
new one, whole, never a mix.";
