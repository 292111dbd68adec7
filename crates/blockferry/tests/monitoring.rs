//! What is in `deploy/monitoring/` against the metrics that are served: rules by `promtool`, where that
//! is installed, and every name in rules and dashboard against the code.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/monitoring").canonicalize().unwrap()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(directory().join(name)).unwrap()
}

/// All words that begin like a metric.
fn named(text: &str) -> BTreeSet<&str> {
    let other = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    text.split(other).filter(|word| word.starts_with("blockferry_")).collect()
}

/// What is served under a name in a query, by the code that writes it: the name of its family without
/// prefix, unit and suffix stands there in quotes.
fn is_served(metric: &str, code: &str) -> bool {
    let mut name = metric.strip_prefix("blockferry_").unwrap_or(metric);
    for suffix in ["_total", "_bucket", "_info"] {
        name = name.strip_suffix(suffix).unwrap_or(name);
    }
    let plain = ["_bytes", "_seconds"].iter().find_map(|unit| name.strip_suffix(unit));
    [Some(name), plain].into_iter().flatten().any(|name| code.contains(&format!("\"{name}\"")))
}

#[test]
fn rules_and_dashboard_name_only_what_is_served() {
    let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/src/http/metrics/text.rs");
    let code = std::fs::read_to_string(code).unwrap();
    for file in ["blockferry.rules.yml", "blockferry.rules.test.yml", "grafana.json"] {
        let text = read(file);
        let names = named(&text);
        assert!(names.len() >= 5, "{file}: {names:?}");
        for name in names {
            assert!(is_served(name, &code), "{file}: nothing serves {name}");
        }
    }
    assert!(!is_served("blockferry_moon_phase_seconds", &code));
}

#[test]
fn the_dashboard_is_json_whose_panels_do_not_overlap() {
    let board: serde_json::Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() > 10, "{}", panels.len());
    let side = |panel: &serde_json::Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()));
        for x in side(panel, "x")..side(panel, "x") + side(panel, "w") {
            for y in side(panel, "y")..side(panel, "y") + side(panel, "h") {
                assert!(x < 24 && taken.insert((x, y)), "{} lies over another", panel["title"]);
            }
        }
    }
}

#[test]
fn the_alert_rules_are_right_and_fire() {
    for args in
        [["check", "rules", "blockferry.rules.yml"], ["test", "rules", "blockferry.rules.test.yml"]]
    {
        match Command::new("promtool").args(args).current_dir(directory()).output() {
            Ok(output) => assert!(
                output.status.success(),
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => eprintln!("promtool: {error}: skipped (Debian: prometheus)"),
        }
    }
}
