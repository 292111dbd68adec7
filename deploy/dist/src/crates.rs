//! Which crates the program is made of: as cargo resolves them for this target, with the features
//! that the program alone asks for, and nothing that only tests use.

use crate::run::{read, run};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that the program is built from.
const PROGRAM: &str = "blockferry";
/// How many there are at least; fewer were not understood.
const CRATES_MIN: usize = 50;

/// A crate's name and version.
pub(crate) type Key = (String, String);

/// A crate of the program.
#[derive(Clone, Debug)]
pub(crate) struct Crate {
    /// As its manifest says, in SPDX's words.
    pub(crate) licence: Option<String>,
    /// SHA-256 of what the registry serves, in hex; none for our own.
    pub(crate) checksum: Option<String>,
    /// Where its source is on the web.
    pub(crate) repository: Option<String>,
    /// Where its source is here.
    pub(crate) directory: PathBuf,
    /// It is compiled into the program, not only used while that is built.
    pub(crate) linked: bool,
    /// What it depends on, of those that are here.
    pub(crate) needs: BTreeSet<Key>,
}

/// All crates of the program, itself among them.
#[derive(Clone, Debug)]
pub struct Crates {
    pub(crate) all: BTreeMap<Key, Crate>,
    pub(crate) program: Key,
}

impl Crates {
    /// Asks cargo about the workspace at `root`.
    pub fn resolve(root: &Path) -> Result<Crates> {
        let linked = tree(root, "normal")?;
        let used = tree(root, "normal,build")?;
        let mut command = Command::new(cargo());
        command.args(["metadata", "--format-version=1", "--locked", "--filter-platform"]);
        let metadata: Value =
            serde_json::from_slice(&run(command.arg(target()).current_dir(root))?)?;
        let checksums = checksums(&read(&root.join("Cargo.lock"))?);
        let mut keys = BTreeMap::new();
        let mut all = BTreeMap::new();
        for package in metadata["packages"].as_array().context("cargo metadata: no packages")? {
            let text = |name: &str| package[name].as_str().map(str::to_owned);
            let (name, version) = (text("name"), text("version"));
            let key = (name.context("no name")?, version.context("no version")?);
            let Some(id) = text("id").filter(|_| used.contains(&key)) else { continue };
            keys.insert(id, key.clone());
            let manifest = PathBuf::from(text("manifest_path").context("no manifest")?);
            let found = Crate {
                licence: text("license").map(|licence| licence.replace('/', " OR ")),
                checksum: checksums.get(&key).cloned(),
                repository: text("repository"),
                directory: manifest.parent().unwrap_or(root).to_owned(),
                linked: linked.contains(&key),
                needs: BTreeSet::new(),
            };
            all.insert(key, found);
        }
        let nodes = metadata["resolve"]["nodes"].as_array().context("nothing resolved")?;
        for node in nodes {
            let Some(from) = node["id"].as_str().and_then(|id| keys.get(id)) else { continue };
            let needs = node["deps"].as_array().into_iter().flatten().filter_map(|dep| {
                let kinds = dep["dep_kinds"].as_array()?;
                let real = kinds.iter().any(|kind| kind["kind"] != "dev");
                dep["pkg"].as_str().filter(|_| real).and_then(|id| keys.get(id)).cloned()
            });
            let needs: BTreeSet<Key> = needs.collect();
            all.get_mut(from).context("a node without a package")?.needs = needs;
        }
        ensure!(all.len() >= CRATES_MIN, "only {} crates", all.len());
        let program = all.keys().find(|(name, _)| name == PROGRAM).context("no program")?.clone();
        Ok(Crates { all, program })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }
}

/// The cargo that runs us, if one does.
pub(crate) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The target that is built for, which is the machine's own.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// What is used along these kinds of edges.
fn tree(root: &Path, edges: &str) -> Result<BTreeSet<Key>> {
    let mut command = Command::new(cargo());
    command.args(["tree", "--locked", "--package", PROGRAM, "--prefix=none", "--format={p}"]);
    command.args(["--edges", edges, "--target", &target()]).current_dir(root);
    let text = String::from_utf8(run(&mut command)?)?;
    let keys = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        Some((name, words.next()?.strip_prefix('v')?.to_owned()))
    });
    Ok(keys.collect())
}

fn checksums(lock: &str) -> BTreeMap<Key, String> {
    let mut found = BTreeMap::new();
    for entry in lock.split("[[package]]").skip(1) {
        let value = |name: &str| {
            let line = entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|line| line.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) =
            (value("name"), value("version"), value("checksum"))
        {
            found.insert((name, version), sum);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_has_sums() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"00ff\"\n\
                    dependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
        let found = checksums(lock);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&("a".to_owned(), "1.0.0".to_owned())], "00ff");
    }
}
