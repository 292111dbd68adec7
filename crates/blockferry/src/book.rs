//! The pages of the book that say what the code says: commands, configuration, codes, events.
//!
//! The tests here compare the pages with the definitions. `UPDATE_BOOK=1 cargo test -p blockferry book`
//! writes them anew; what only a person can say, the meaning of a code, stays as it is on the page,
//! and a code without one fails the test.

use crate::args::Cli;
use crate::config::schema;
use blockferry_node::api::{CodeRow, Exit, code_rows};
use clap::{Arg, Command, CommandFactory};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MADE: &str = "<!-- Made from the code: UPDATE_BOOK=1 cargo test -p blockferry book -->\n";
const CODES: &str = "| code | exit | means | what to do |\n|---|---|---|---|\n";
const EVENTS: &str = "| code | severity | means | what to do |\n|---|---|---|---|\n";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// The page must be this, or becomes it.
fn compare(name: &str, expected: &str) {
    let path = docs().join(name);
    if std::env::var_os("UPDATE_BOOK").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert!(
        page == expected,
        "docs/{name} isn't what the code says: UPDATE_BOOK=1 cargo test -p blockferry book\n{differs:#?}"
    );
}

/// Text for a cell of a table: one line, nothing that Markdown would read.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn heading(depth: usize, text: &str) -> String {
    format!("\n{} {text}\n\n", "#".repeat(depth))
}

#[test]
fn book_has_every_command() {
    let mut root = Cli::command();
    root.build();
    let mut page =
        format!("# Commands\n\n*Which command does it, and what does it take?*\n\n{MADE}\n");
    page.push_str(
        "`blockferry help COMMAND` says the same on the terminal, `blockferry man DIR` writes it as man pages. \
         Exit statuses are in\n[troubleshooting](troubleshooting.md#exit-statuses).\n",
    );
    page.push_str(&heading(2, "Options of every command"));
    page.push_str(&arguments(root.get_arguments().filter(|arg| arg.is_global_set())));
    commands(&root, "", &mut page);
    compare("commands.md", &page);
}

fn commands(parent: &Command, prefix: &str, page: &mut String) {
    let inner = parent.get_subcommands().filter(|inner| inner.get_name() != "help");
    for command in inner.filter(|inner| !inner.is_hide_set()) {
        let name = format!("{prefix}{}", command.get_name());
        page.push_str(&heading(name.split(' ').count() + 1, &name));
        let about = command.get_long_about().or(command.get_about());
        page.push_str(&format!("{}\n", about.map(ToString::to_string).unwrap_or_default()));
        if command.has_subcommands() {
            commands(command, &format!("{name} "), page);
            continue;
        }
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").replace(" [OPTIONS]", "");
        page.push_str(&format!("\n```text\n{usage}\n```\n"));
        let own = command.get_arguments().filter(|arg| !arg.is_global_set());
        let table = arguments(own);
        if !table.is_empty() {
            page.push_str(&format!("\n{table}"));
        }
    }
}

fn arguments<'a>(all: impl Iterator<Item = &'a Arg>) -> String {
    let shown =
        |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let rows: String = all.filter(shown).map(argument).collect();
    if rows.is_empty() { rows } else { format!("| argument | means |\n|---|---|\n{rows}") }
}

fn argument(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string);
    let values = values.collect::<Vec<_>>().join(" ");
    let takes = arg.get_action().takes_values();
    let name = match (arg.get_short(), arg.get_long()) {
        (None, None) => values,
        (short, long) => {
            let short = short.map(|short| format!("-{short}"));
            let long = long.map(|long| format!("--{long}"));
            let names = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
            if takes { format!("{names} {values}") } else { names }
        }
    };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
    let mut text = cell(&help.unwrap_or_default());
    let named = arg.get_possible_values();
    let choices: Vec<String> = named.iter().filter_map(choice).collect();
    if takes && !choices.is_empty() {
        text.push_str(&format!(". {}", choices.join("; ")));
    }
    let default: Vec<_> =
        arg.get_default_values().iter().filter_map(|text| text.to_str()).collect();
    if takes && !default.is_empty() {
        text.push_str(&format!(". Default: {}", code(&default.join(" "))));
    }
    if let Some(variable) = arg.get_env().and_then(|name| name.to_str()) {
        text.push_str(&format!(". Variable: {}", code(variable)));
    }
    format!("| {} | {text} |\n", code(&name))
}

fn choice(value: &clap::builder::PossibleValue) -> Option<String> {
    let name = code(value.get_name());
    let help = value.get_help().map(ToString::to_string);
    (!value.is_hide_set()).then(|| match help {
        Some(help) => format!("{name}: {}", cell(&help)),
        None => name,
    })
}

#[test]
fn book_has_every_key() {
    let mut page =
        format!("# Configuration\n\n*Which keys are there, and what do they mean?*\n\n{MADE}\n");
    page.push_str(
        "`/etc/blockferry/blockferry.toml`, over it `conf.d/*.toml` beside it, over them variables \
         (`BLOCKFERRY_LIMITS_SEND`). Everything has\na default. `blockferry config schema` prints this as a JSON \
         Schema, which editors read. [How to check, show and reload](install.md#configuration).\n",
    );
    let mut keys = 0;
    section(&schema(), "", &mut page, &mut keys);
    assert!(keys > 60, "only {keys} keys found");
    compare("configuration.md", &page);
}

/// The keys of a section as a table, then the sections in it.
fn section(schema: &Value, name: &str, page: &mut String, keys: &mut usize) {
    let properties = schema["properties"].as_object().expect("a section has properties");
    let (mut rows, mut inner) = (String::new(), Vec::new());
    for (key, value) in properties {
        let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        let sections = [
            (value, path.clone(), format!("[{path}]")),
            (&value["additionalProperties"], format!("{path}.NAME"), format!("[{path}.NAME]")),
            (&value["items"], path.clone(), format!("[[{path}]]")),
        ];
        match sections.into_iter().find(|(section, ..)| section["properties"].is_object()) {
            Some(section) => inner.push(section),
            None => {
                *keys += 1;
                rows.push_str(&format!("| {} | {} |\n", code(key), key_means(value)));
            }
        }
    }
    if !name.is_empty() {
        let about = schema["description"].as_str().unwrap_or_default();
        page.push_str(&format!("{about}\n"));
    }
    if !rows.is_empty() {
        page.push_str(&format!("\n| key | means |\n|---|---|\n{rows}"));
    }
    for (schema, path, title) in inner {
        page.push_str(&heading(2, &format!("`{title}`")));
        section(schema, &path, page, keys);
    }
}

fn key_means(value: &Value) -> String {
    let mut text = cell(value["description"].as_str().unwrap_or_default());
    assert!(!text.is_empty(), "a key without a description: {value}");
    let examples = value["examples"].as_array().into_iter().flatten();
    let examples: Vec<String> = examples.map(|example| code(&example.to_string())).collect();
    if !examples.is_empty() {
        text.push_str(&format!(" For example {}.", examples.join(", ")));
    }
    text
}

#[test]
fn book_has_every_code_and_event() {
    let page = std::fs::read_to_string(docs().join("troubleshooting.md")).unwrap();
    let ends = |row: &&CodeRow| row.exit != Exit::Done;
    let rows = code_rows()
        .iter()
        .filter(ends)
        .map(|row| (row.code, vec![row.exit.status().to_string()], vec![cell(row.remedy)]));
    let page = table(&page, CODES, rows.collect());
    let mut severities = severities();
    for row in code_rows().iter().filter(|row| row.exit == Exit::Done) {
        // No command ends with it: an event, or what a look at the node finds.
        severities
            .entry(row.code.to_owned())
            .or_insert_with(|| BTreeSet::from(["event or finding"]));
    }
    let rows = severities.iter().map(|(code, severities)| {
        let all = severities.iter().copied().collect::<Vec<_>>().join(", ");
        let row = code_rows().iter().find(|row| row.code == code);
        let remedy = row.map_or("-", |row| row.remedy);
        (code.as_str(), vec![all], vec![cell(remedy)])
    });
    compare("troubleshooting.md", &table(&page, EVENTS, rows.collect()));
}

/// The page with the rows below the header made anew: code, cells, what the page says that it
/// means, cells.
fn table(page: &str, header: &str, rows: Vec<(&str, Vec<String>, Vec<String>)>) -> String {
    let (before, rest) = page.split_once(header).expect("troubleshooting.md has the table");
    let old = rest.lines().take_while(|line| line.starts_with('|'));
    let end = old.clone().map(|line| line.len() + 1).sum::<usize>().min(rest.len());
    let meanings: BTreeMap<&str, &str> = old.filter_map(meaning).collect();
    let mut missing = Vec::new();
    let mut made = String::new();
    for (name, first, last) in rows {
        let means = meanings.get(name).copied().unwrap_or_default();
        if means.is_empty() {
            missing.push(name);
        }
        let cells: Vec<String> = [vec![code(name)], first, vec![means.to_owned()], last].concat();
        made.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    let page = format!("{before}{header}{made}{}", &rest[end..]);
    if !missing.is_empty() && std::env::var_os("UPDATE_BOOK").is_some() {
        std::fs::write(docs().join("troubleshooting.md"), &page).unwrap();
    }
    assert!(missing.is_empty(), "say in docs/troubleshooting.md what these mean: {missing:?}");
    page
}

/// Code and meaning of a row.
fn meaning(row: &str) -> Option<(&str, &str)> {
    let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
    let name = cells.next()?.trim_matches('`');
    Some((name, cells.nth(1)?))
}

/// Events and how severe they are, by the sources of the service.
fn severities() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/src")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                events(code, &mut found);
            }
        }
    }
    assert!(found.len() > 40, "only {found:?}");
    found
}

/// Every `Note::warning("CODE", ..)` of a source.
fn events(source: &str, found: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    for rest in source.split("Note::").skip(1) {
        for severity in ["info", "warning", "error"] {
            let Some(rest) = rest.strip_prefix(severity) else { continue };
            let Some(rest) = rest.strip_prefix('(') else { continue };
            let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
            let name = rest.split('"').next().unwrap_or_default();
            found.entry(name.to_owned()).or_default().insert(severity);
        }
    }
}
