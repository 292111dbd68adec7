//! The rules of the tree that no compiler checks: which crate may know which, how long a file may
//! be, that each says what it is for, and that the documents name what the code has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines a file may have before its tests.
const FILE_LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust files below the given directories.
fn rust_files(dirs: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = dirs.iter().map(|dir| root().join(dir)).collect();
    let mut files = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("the directory is there") {
            let path = entry.expect("reads").path();
            match path.extension().and_then(|e| e.to_str()) {
                _ if path.is_dir() && path.file_name().is_some_and(|name| name != "target") => {
                    open.push(path);
                }
                Some("rs") => files.push(path),
                _ => {}
            }
        }
    }
    assert!(!files.is_empty(), "no files below {dirs:?}");
    files
}

/// The crates a manifest names as dependencies outside `[dev-dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = read(manifest);
    let (mut inside, mut names) = (false, BTreeSet::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("dev-dependencies");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn tidy_crate_edges() {
    let edges: [(&str, &[&str]); 5] = [
        ("delta", &[]),
        ("wire", &["delta"]),
        ("store", &["delta"]),
        ("node", &["delta", "wire", "store"]),
        ("blockferry", &["delta", "node", "store", "wire"]),
    ];
    for (name, may_know) in edges {
        for other in dependencies(&format!("crates/{name}/Cargo.toml")) {
            let Some(ours) = other.strip_prefix("blockferry-") else { continue };
            assert!(may_know.contains(&ours), "{name} depends on {ours}");
        }
    }
}

#[test]
fn tidy_pure_crates_stay_pure() {
    const BARRED: [&str; 12] = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "std::process",
        "SystemTime",
        "Instant",
        "tokio",
        "quinn",
        "redb",
        "rustix",
        "libc::",
    ];
    for name in ["delta", "wire"] {
        let known = dependencies(&format!("crates/{name}/Cargo.toml"));
        for barred in ["tokio", "quinn", "redb", "rustix", "libc", "socket2"] {
            assert!(!known.contains(barred), "{name} depends on {barred}");
        }
        for path in rust_files(&[&format!("crates/{name}/src")]) {
            let text = std::fs::read_to_string(&path).expect("reads");
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let found = BARRED.iter().find(|barred| code.contains(**barred));
                assert_eq!(found, None, "{}:{}", path.display(), number + 1);
            }
        }
    }
    // Blocking work has no place among tasks, and tasks none near the disk.
    assert!(!dependencies("crates/store/Cargo.toml").contains("tokio"));
}

#[test]
fn tidy_files_are_short_say_what_they_are_for_and_are_ascii() {
    let files = rust_files(&["crates", "tests", "benches", "deploy"]);
    for path in &files {
        let shown = path.display();
        let text = std::fs::read_to_string(path).expect("reads");
        assert!(text.starts_with("//! "), "{shown} doesn't open with what it is for");
        assert!(text.is_ascii(), "{shown} is not ASCII");
        let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
        assert!(code <= FILE_LINES_MAX, "{shown} has {code} lines");
    }
    eprintln!("tidy: {} files", files.len());
}

#[test]
fn tidy_every_integration_module_is_run() {
    let main = read("tests/it/main.rs");
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("tests/it")).expect("reads") {
        let path = entry.expect("reads").path();
        let name = path.file_stem().and_then(|s| s.to_str()).expect("a name").to_owned();
        if name != "main" {
            assert!(main.contains(&format!("mod {name};")), "{name} is never run");
            count += 1;
        }
    }
    assert!(count > 5);
}

#[test]
fn tidy_the_protocol_page_names_every_message() {
    let (page, code) = (read("docs/protocol.md"), read("crates/wire/src/message/mod.rs"));
    let names: Vec<&str> = code
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Kind::")?.split(" => Message::").next())
        .collect();
    assert!(names.len() >= 21, "only {names:?} found");
    for name in names {
        let row = format!("| {name} |");
        assert!(page.contains(&row), "docs/protocol.md has no row for {name}");
    }
    for refusal in blockferry_wire::Refusal::ALL {
        let row = format!("| 0x{:04x} | `{}` |", refusal.number(), refusal.code());
        assert!(page.contains(&row), "docs/protocol.md has no row {row}");
    }
}

#[test]
fn tidy_the_format_page_names_every_table_and_path() {
    let page = read("docs/format.md");
    let catalog =
        ["mod.rs", "kept.rs"].map(|file| read(format!("crates/store/src/catalog/{file}"))).concat();
    let names: Vec<&str> = catalog
        .split("TableDefinition::new(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().expect("split gives one"))
        .collect();
    assert!(names.len() >= 11, "only {names:?} found");
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "docs/format.md has no table {name}");
    }
    let layout = read("crates/store/src/layout.rs");
    let paths = layout.split("= \".blockferry/").skip(1);
    let paths: Vec<&str> = paths.map(|rest| rest.split('"').next().expect("one")).collect();
    assert!(paths.len() >= 5, "only {paths:?} found");
    for path in paths.into_iter().filter(|path| !path.ends_with(".new")) {
        assert!(page.contains(&format!(".blockferry/{path}")), "docs/format.md lacks {path}");
    }
}
