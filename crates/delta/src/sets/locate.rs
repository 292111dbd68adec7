//! Where a parent is, by the paths that a child remembers of it: one that leads to a file of the
//! store counts, then the name at the end of any other. The child's users follow the paths as they
//! are written, so that a parent found by its name alone is a *stray*: it is here, and won't be
//! found.

use std::collections::BTreeMap;

use super::SetFile;
use crate::header::{Format, Locator, LocatorKind, ParentLink};
use crate::name::ImageName;

/// Where a parent is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the store, and a path leads there.
    Here(ImageName),
    /// In the store by its name; the path, escaped, leads elsewhere.
    Stray(ImageName, String),
    /// A path leads into the store, to no file: its name, escaped.
    Absent(String),
    /// No path leads into the store: one of them, escaped.
    Outside(String),
}

impl ParentLink {
    /// What qcow2 knows of a file beside it: a path.
    pub(super) fn by_path(path: &str) -> Self {
        let kind =
            if path.starts_with('/') { LocatorKind::Absolute } else { LocatorKind::Relative };
        Self { locators: vec![Locator { kind, path: path.to_owned() }], ..Self::default() }
    }
}

/// Finds the file that a link leads to, among the files of the store in `store_path`.
pub(super) fn locate(
    link: &ParentLink,
    format: Format,
    names: &BTreeMap<&ImageName, &SetFile>,
    store_path: &str,
) -> Place {
    let windows = format != Format::Qcow2;
    let leads: Vec<(Lead, &str)> =
        link.locators.iter().map(|l| (lead(l, windows, store_path), l.path.as_str())).collect();
    let find = |leaf: &str| find(leaf, windows, names);
    let within = leads.iter().filter_map(|(lead, _)| match lead {
        Lead::Within(leaf) => Some(leaf.as_str()),
        Lead::Elsewhere(_) | Lead::Nowhere => None,
    });
    if let Some(name) = within.clone().find_map(find) {
        return Place::Here(name);
    }
    for (lead, path) in &leads {
        if let Lead::Elsewhere(leaf) = lead
            && let Some(name) = find(leaf)
        {
            return Place::Stray(name, escaped(path));
        }
    }
    match within.clone().next() {
        Some(leaf) => Place::Absent(escaped(leaf)),
        None => Place::Outside(leads.first().map_or_else(String::new, |(_, path)| escaped(path))),
    }
}

/// Where one path leads.
enum Lead {
    /// To this name in the child's own directory.
    Within(String),
    /// To this name in another one, or in one that can't be told.
    Elsewhere(String),
    /// To no file.
    Nowhere,
}

fn lead(locator: &Locator, windows: bool, store_path: &str) -> Lead {
    let separators: &[char] = if windows { &['\\', '/'] } else { &['/'] };
    let mut path = locator.path.as_str();
    path = path.strip_prefix("file://").or_else(|| path.strip_prefix("file:")).unwrap_or(path);
    // QEMU's other protocols, and its descriptions in JSON.
    let protocol = path.split('/').next().is_some_and(|first| first.contains(':'));
    if !windows && protocol {
        return Lead::Nowhere;
    }
    while let Some(rest) = path.strip_prefix('.').and_then(|rest| rest.strip_prefix(separators)) {
        path = rest.trim_start_matches(separators);
    }
    match path.rsplit_once(separators) {
        _ if path.is_empty() => Lead::Nowhere,
        None if matches!(locator.kind, LocatorKind::Relative | LocatorKind::Name) => {
            Lead::Within(path.to_owned())
        }
        None => Lead::Elsewhere(path.to_owned()),
        Some((dir, leaf)) if !windows && dir == store_path => Lead::Within(leaf.to_owned()),
        Some((_, leaf)) => Lead::Elsewhere(leaf.to_owned()),
    }
}

/// A file by its name; for Windows the case of letters counts for nothing, if it is the only one.
fn find(leaf: &str, windows: bool, names: &BTreeMap<&ImageName, &SetFile>) -> Option<ImageName> {
    let name = ImageName::new(leaf).ok()?;
    if names.contains_key(&name) {
        return Some(name);
    }
    let mut alike = names.keys().filter(|n| windows && n.as_str().eq_ignore_ascii_case(leaf));
    match (alike.next(), alike.next()) {
        (Some(only), None) => Some((*only).clone()),
        _ => None,
    }
}

/// Characters of a path that are shown.
const SHOWN_CHARS_MAX: usize = 300;

/// A text from outside, fit to be shown.
fn escaped(text: &str) -> String {
    let safe = |c: char| {
        if c.is_control() || !c.is_ascii() { c.escape_default().to_string() } else { c.to_string() }
    };
    text.chars().take(SHOWN_CHARS_MAX).map(safe).collect()
}
