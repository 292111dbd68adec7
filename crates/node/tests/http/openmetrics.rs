//! A checker of OpenMetrics text: the rules that a scraper holds us to.

use std::collections::BTreeSet;

/// Families whose types and samples follow the rules; their names.
pub(crate) fn check(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.strip_suffix("# EOF\n").expect("an end").lines().collect();
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let (mut family, mut kind, mut typed) = (String::new(), String::new(), false);
    for line in lines {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let what = words.next().expect("a word");
            let (name, value) = (words.next().expect("a name"), words.next().expect("a value"));
            if what == "HELP" {
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                (family, typed) = (name.to_owned(), false);
                assert!(!value.is_empty());
            }
            assert_eq!(name, family, "{line}");
            match what {
                "HELP" => {}
                "TYPE" => (kind, typed) = (value.to_owned(), true),
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        assert!(typed, "no type before {line}");
        let (name, rest) = split(line);
        assert!(name.starts_with("blockferry_"), "{line}");
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line}"));
        let allowed: &[&str] = match kind.as_str() {
            "gauge" => &[""],
            "counter" => &["_total"],
            "histogram" => &["_sum", "_count", "_bucket"],
            "info" => &["_info"],
            other => panic!("{other}"),
        };
        assert!(allowed.contains(&suffix), "{line} in a {kind}");
        let (labels, value) = labels(rest);
        assert!(series.insert(format!("{name}{labels}")), "{line} comes twice");
        value.parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    families
}

/// The value of a series, which is written as here.
pub(crate) fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    found.parse().unwrap_or_else(|e| panic!("{series}: {e}"))
}

fn split(line: &str) -> (&str, &str) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    line.split_at(end)
}

/// The labels with their braces, which end at the first quote that isn't escaped, and the value.
fn labels(rest: &str) -> (&str, &str) {
    if let Some(value) = rest.strip_prefix(' ') {
        return ("", value);
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => {
                let (labels, value) = rest.split_at(at + 1);
                return (labels, value.strip_prefix(' ').expect("a value"));
            }
            _ => {}
        }
    }
    panic!("labels without an end: {rest}");
}

#[test]
fn the_checker_finds_faults() {
    let good = "# HELP blockferry_a x\n# TYPE blockferry_a counter\nblockferry_a_total{b=\"}\\\"\"} 1\n# EOF\n";
    assert_eq!(check(good).len(), 1);
    for (from, to) in [
        ("# EOF\n", ""),
        ("a_total", "a"),
        ("a_total", "b_total"),
        ("} 1", "} x"),
        ("# TYPE blockferry_a counter\n", ""),
        ("# EOF", "blockferry_a_total{b=\"}\\\"\"} 1\n# EOF"),
        ("\\\"\"}", "\""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(std::panic::catch_unwind(|| check(&bad)).is_err(), "{bad}");
    }
}
