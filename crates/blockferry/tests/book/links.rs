//! Links, anchors, completeness: what the book names is there, and what is there is in the book.

use crate::pages::{Page, blocks, pages, root};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The text outside of blocks, hidden lines and code in a line.
fn prose(page: &Page) -> String {
    let inside: BTreeSet<usize> = blocks(&page.text)
        .iter()
        .flat_map(|block| block.first - 1..=block.first + block.lines.len())
        .collect();
    let lines = page.text.lines().enumerate().filter(|(number, _)| !inside.contains(number));
    let text = lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    text.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// Where the links of a text lead: `[..](here)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors that the headings of a page get.
fn anchors(page: &Page) -> BTreeSet<String> {
    let inside: BTreeSet<usize> = blocks(&page.text)
        .iter()
        .flat_map(|block| block.first..block.first + block.lines.len())
        .collect();
    let headings = page
        .text
        .lines()
        .enumerate()
        .filter(|(number, line)| !inside.contains(number) && line.starts_with('#'));
    headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
}

/// As mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn links_lead_to_pages_and_headings() {
    let all = pages();
    let known: BTreeMap<&str, BTreeSet<String>> =
        all.iter().map(|page| (page.name.as_str(), anchors(page))).collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in &all {
        let text = prose(page);
        for link in links(&text).filter(|link| !link.contains("://")) {
            count += 1;
            if let Some(why) = broken(&page.name, link, &known) {
                wrong.push(format!("docs/{}: ({link}): {why}", page.name));
            }
        }
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for link in links(&readme).filter(|link| !link.contains("://")) {
        count += 1;
        if !root().join(link.split('#').next().unwrap()).exists() {
            wrong.push(format!("README.md: ({link}): not there"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 60, "only {count} links");
}

/// Why a link of a page leads nowhere. It must not leave the book: in the built one nothing is there.
fn broken(from: &str, link: &str, known: &BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
    let mut place: Vec<&str> = from.split('/').collect();
    if file.is_empty() {
        place = from.split('/').collect();
    } else {
        place.pop();
        for part in file.split('/') {
            match part {
                ".." if place.pop().is_none() => return Some("it leaves the book".into()),
                ".." | "." => {}
                part => place.push(part),
            }
        }
    }
    let target = place.join("/");
    match known.get(target.as_str()) {
        Some(anchors) if fragment.is_empty() || anchors.contains(fragment) => None,
        Some(anchors) => Some(format!("no such heading; there are {anchors:?}")),
        None if fragment.is_empty() && root().join("docs").join(&target).is_file() => None,
        None => Some("no such page".into()),
    }
}

#[test]
fn every_page_is_in_the_contents() {
    let all = pages();
    let contents = all.iter().find(|page| page.name == "SUMMARY.md").unwrap();
    let wanted = with_missing(&contents.text, &all);
    if std::env::var_os("UPDATE_BOOK").is_some() {
        std::fs::write(&contents.path, &wanted).unwrap();
    }
    assert_eq!(contents.text, wanted, "UPDATE_BOOK=1 adds what is missing to docs/SUMMARY.md");
    let listed: Vec<&str> = links(&contents.text).filter(|link| !link.is_empty()).collect();
    let twice: BTreeSet<&&str> =
        listed.iter().filter(|one| listed.iter().filter(|two| two == one).count() > 1).collect();
    assert!(twice.is_empty(), "in docs/SUMMARY.md twice: {twice:?}");
}

/// The contents with what it lacks: pages at the end of their first part, decision records at the
/// end of all.
fn with_missing(contents: &str, all: &[Page]) -> String {
    let is_decision = |line: &str| line.contains("](decisions/");
    let line = |page: &Page| {
        let title = page.text.lines().next().unwrap_or_default().trim_start_matches("# ");
        format!("- [{title}]({})", page.name)
    };
    let mut lines: Vec<String> =
        contents.lines().filter(|line| !is_decision(line)).map(str::to_owned).collect();
    for page in all.iter().filter(|page| page.name != "SUMMARY.md") {
        if Path::new(&page.name).starts_with("decisions") {
            lines.push(format!("  {}", line(page)));
        } else if !links(contents).any(|link| link == page.name) {
            let part = lines.iter().rposition(|line| line == "# Look it up").expect("the part");
            lines.insert(part - 1, line(page));
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn every_page_begins_with_its_question() {
    // Written beside the book; what they answer stands in the table of docs/README.md.
    let older = [
        "ARCHITECTURE",
        "adoption",
        "benchmarks",
        "format",
        "glossary",
        "http",
        "protocol",
        "testing",
    ];
    for page in pages() {
        let name = page.name.trim_end_matches(".md");
        if name.contains('/') || name == "SUMMARY" || older.contains(&name) {
            continue;
        }
        let mut lines = page.text.lines().filter(|line| !line.is_empty());
        assert!(lines.next().is_some_and(|line| line.starts_with("# ")), "docs/{}", page.name);
        let question = lines.next().unwrap_or_default();
        let asks = question.starts_with('*') && question.ends_with("?*");
        assert!(asks, "docs/{} begins with {question:?}, not with its question", page.name);
    }
}

#[test]
fn anchors_are_as_mdbook_makes_them() {
    for (heading, made) in [
        ("Who may ask", "who-may-ask"),
        ("In sync, ready, promoted", "in-sync-ready-promoted"),
        ("`[admin.tls]`", "admintls"),
        ("4.6 Walk", "46-walk"),
    ] {
        assert_eq!(anchor(heading), made);
    }
}
