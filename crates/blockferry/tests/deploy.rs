//! What is in `deploy/` is used here: each file by the tool it is for, where that is installed.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Ten times the score that `systemd-analyze security` may give at most.
const EXPOSURE_TENTHS_MAX: u32 = 15;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(name)).unwrap()
}

/// The output of systemd-analyze, or nothing where it isn't installed.
fn analyze(args: &[&str]) -> Option<std::process::Output> {
    match Command::new("systemd-analyze").args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("systemd-analyze: {error}: skipped");
            None
        }
    }
}

#[test]
fn the_unit_is_hardened() {
    let unit = root().join("deploy/blockferry.service");
    let threshold = format!("--threshold={EXPOSURE_TENTHS_MAX}");
    let Some(output) = analyze(&["security", "--offline=true", &threshold, unit.to_str().unwrap()])
    else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("Overall") {
        assert!(output.status.success(), "{text}");
    } else {
        // Before version 250 it can't read a unit that isn't installed.
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_unit_is_valid_with_and_without_the_drop_in() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("blockferry.service");
    let binary = env!("CARGO_BIN_EXE_blockferry");
    // The man page is not installed here.
    let text = read("blockferry.service").replace("/usr/bin/blockferry", binary);
    let text = text.replace("Documentation=man:blockferry(1)\n", "");
    std::fs::write(&unit, text).unwrap();
    let verify = || {
        let Some(output) = analyze(&["verify", unit.to_str().unwrap()]) else { return };
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> =
            complaints.lines().filter(|line| line.contains("blockferry")).collect();
        assert!(ours.is_empty(), "{ours:?}");
    };
    verify();
    let drop_ins = directory.path().join("blockferry.service.d");
    std::fs::create_dir(&drop_ins).unwrap();
    for name in ["owners.conf", "schedules.conf"] {
        std::fs::write(drop_ins.join(name), read(&format!("drop-ins/{name}"))).unwrap();
        verify();
    }
}

#[test]
fn the_unit_says_what_the_binary_does() {
    let unit = read("blockferry.service");
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/blockferry serve",
        "RestartPreventExitStatus=78",
        "StateDirectory=blockferry",
        "RuntimeDirectory=blockferry",
        "ConfigurationDirectory=blockferry",
        "ConditionPathExists=/etc/blockferry/blockferry.toml",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    assert!(
        read("sysusers.d/blockferry.conf").lines().any(|line| line.starts_with("u blockferry "))
    );
    assert!(unit.contains("User=blockferry\n"));
    // The unit and tmpfiles.d make the same directories; they would change each other's at every start.
    let directories = read("tmpfiles.d/blockferry.conf");
    let mode = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap().to_owned()
    };
    for (path, key) in [
        ("/etc/blockferry", "ConfigurationDirectoryMode"),
        ("/var/lib/blockferry", "StateDirectoryMode"),
    ] {
        let line = directories.lines().find(|line| line.split_whitespace().nth(1) == Some(path));
        assert_eq!(line.unwrap().split_whitespace().nth(2), Some(mode(key).as_str()), "{path}");
    }
}

#[test]
fn the_container_file_copies_what_exists() {
    let text = read("Containerfile").replace("\\\n", " ");
    let mut stages = Vec::new();
    let mut copies = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", _, "AS", name] => stages.push(*name),
            ["COPY", from, ..] if from.starts_with("--from=") => {
                assert!(stages.contains(&from.trim_start_matches("--from=")), "{line}");
            }
            ["COPY", sources @ .., _] => {
                for source in sources {
                    assert!(root().join(source).exists(), "{source}");
                    copies += 1;
                }
            }
            _ => {}
        }
    }
    assert!(copies > 5, "{copies}");
    // Cargo wants every member, also those that aren't built.
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|line| line.starts_with("members = ")).unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        let member = member.trim_end_matches("/*");
        assert!(text.contains(&format!("COPY {member} {member}\n")), "{member}");
    }
    assert!(text.contains("CMD [\"serve\"]") && text.contains("7700/udp"));
}

#[test]
fn the_sysctl_file_names_real_keys() {
    let text = read("sysctl.d/30-blockferry.conf");
    let settings: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(settings.len(), 2);
    for line in settings {
        let (key, value) = line.split_once(" = ").unwrap();
        // Less, and the service would warn of it on every machine that has the file.
        assert_eq!(value.parse(), Ok(blockferry_node::budget::SOCKET_BUFFER_BYTES), "{line}");
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        // Not every key is visible from inside a network namespace, but its directory is.
        assert!(path.exists() || path.parent().unwrap().exists(), "{}", path.display());
    }
}

#[test]
fn banned_versions_are_not_in_the_lock_file() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let version = |name: &str| -> Option<Vec<u32>> {
        let entry = lock
            .split("[[package]]")
            .find(|entry| entry.contains(&format!("name = \"{name}\"\n")))?;
        let version = entry.split("version = \"").nth(1)?.split('"').next()?;
        Some(version.split('.').filter_map(|part| part.parse().ok()).collect())
    };
    let deny = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    for (name, least) in
        [("quinn-proto", [0, 11, 15]), ("rustls-webpki", [0, 103, 13]), ("redb", [4, 5, 0])]
    {
        assert!(deny.contains(&format!("\"{name}@<")), "{name}");
        if let Some(found) = version(name) {
            assert!(found.as_slice() >= least.as_slice(), "{name} {found:?}");
        }
    }
}
