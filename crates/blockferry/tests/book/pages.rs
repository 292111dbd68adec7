//! The pages: which there are, and the blocks on them.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A page of the book.
pub(crate) struct Page {
    /// Its path below `docs`, with slashes.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) text: String,
}

/// All pages, in the order of their names.
pub(crate) fn pages() -> Vec<Page> {
    let docs = root().join("docs");
    let (mut open, mut found) = (vec![docs.clone()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                let name = path.strip_prefix(&docs).unwrap().to_str().unwrap().to_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(Page { name, path, text });
            }
        }
    }
    assert!(found.len() > 30, "only {} pages", found.len());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A fenced block: its language (with what follows it) and the number of its first line inside,
/// from 0, and its lines.
pub(crate) struct Block<'a> {
    pub(crate) info: &'a str,
    pub(crate) first: usize,
    pub(crate) lines: Vec<&'a str>,
}

/// The fenced blocks of a page. Hidden lines (`<!-- prepare` to `-->`) are a block `prepare`.
pub(crate) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found: Vec<Block<'_>> = Vec::new();
    let mut end: Option<&str> = None;
    for (number, line) in text.lines().enumerate() {
        if end.is_some_and(|end| line.trim() == end) {
            end = None;
        } else if end.is_some() {
            found.last_mut().unwrap().lines.push(line);
        } else if let Some(info) = line.trim_start().strip_prefix("```") {
            end = Some("```");
            found.push(Block { info, first: number + 1, lines: Vec::new() });
        } else if line == "<!-- prepare" {
            end = Some("-->");
            found.push(Block { info: "prepare", first: number + 1, lines: Vec::new() });
        }
    }
    assert!(end.is_none(), "a block has no end: {:?}", found.last().map(|block| &block.lines));
    found
}
