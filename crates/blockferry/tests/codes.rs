//! Every error code that the crates can give is in the table of exit statuses and remedies.
//!
//! The codes are read off the sources that define them, so that a new error
//! can't be forgotten in the table.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use blockferry_node::api::code_rows;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All texts in quotes on a line that look like a code.
fn codes(line: &str) -> impl Iterator<Item = &str> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    line.split('"').skip(1).step_by(2).filter(move |text| text.len() > 1 && plain(text))
}

#[test]
fn every_code_has_a_row() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for name in ["store", "wire", "node"] {
        sources(&crates.join(name).join("src"), &mut files);
    }
    files.retain(|file| file.ends_with("error.rs") || file.ends_with("refusal.rs"));
    assert!(files.len() >= 4, "{files:?}");
    let mut found = BTreeMap::new();
    for file in files {
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            found.extend(codes(line).map(|code| (code.to_owned(), file.clone())));
        }
    }
    assert!(found.len() > 60, "{found:?}");
    let known: Vec<&str> = code_rows().iter().map(|row| row.code).collect();
    let missing: Vec<_> =
        found.iter().filter(|(code, _)| !known.contains(&code.as_str())).collect();
    assert!(missing.is_empty(), "add to crates/node/src/api/codes.rs: {missing:#?}");
}
