//! The licences of what is linked in, as those licences ask: each text once, with the crates that
//! came with it.

use crate::crates::Crates;
use crate::run::walk;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How a file's name begins that is a licence.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
/// A licence is not longer than this.
const LICENCE_BYTES_MAX: u64 = 256 << 10;
const RULE: &str =
    "--------------------------------------------------------------------------------";

/// The text that goes along with the program.
pub fn notices(crates: &Crates) -> Result<String> {
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut heads = String::from("Blockferry is built with these crates.\n\n");
    for ((name, version), found) in &crates.all {
        if !found.linked || found.checksum.is_none() {
            continue;
        }
        let licence = found.licence.as_deref().unwrap_or("see its licence");
        heads.push_str(&format!("{name} {version}: {licence}\n"));
        for text in licences(&found.directory, name.ends_with("-sys"))? {
            texts.entry(text).or_default().insert(format!("{name} {version}"));
        }
    }
    // By who they belong to, not by how they begin.
    let mut blocks: Vec<(String, String)> = texts
        .into_iter()
        .map(|(text, owners)| (owners.into_iter().collect::<Vec<_>>().join(", "), text))
        .collect();
    blocks.sort();
    for (owners, text) in blocks {
        heads.push_str(&format!("\n{RULE}\n{owners}\n{RULE}\n\n{}\n", text.trim_end()));
    }
    Ok(heads)
}

/// The texts in a crate's directory; what a crate bundles has its own one directory below.
fn licences(directory: &Path, bundles: bool) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut texts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().to_uppercase());
        let named = NAMES.iter().any(|begin| name.as_ref().is_some_and(|n| n.starts_with(begin)));
        if path.is_dir() {
            if named {
                // REUSE's LICENSES/ holds one text each.
                for path in walk(&path)? {
                    texts.extend(text(&path)?);
                }
            } else if bundles {
                texts.extend(licences(&path, false)?);
            }
        } else if named {
            texts.extend(text(&path)?);
        }
    }
    Ok(texts)
}

fn text(path: &Path) -> Result<Option<String>> {
    let info = path.metadata()?;
    if !info.is_file() || info.len() > LICENCE_BYTES_MAX {
        return Ok(None);
    }
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_linked_crate_is_named_and_bundled_c_too() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let crates = Crates::resolve(&root).expect("cargo answers");
        let text = notices(&crates).expect("made");
        for (name, version) in crates.all.keys() {
            let linked = crates.all[&(name.clone(), version.clone())].linked;
            let ours = name.starts_with("blockferry");
            assert_eq!(text.contains(&format!("\n{name} {version}: ")), linked && !ours, "{name}");
        }
        assert!(text.contains("Meta Platforms"), "what zstd-sys bundles");
        assert!(text.matches("Permission is hereby granted").count() > 20);
        assert_eq!(text, notices(&crates).expect("again"));
    }
}
