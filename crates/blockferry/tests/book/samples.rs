//! Samples: every line of every `console` block is run, and must print what the page shows.
//!
//! `NAME$ COMMAND` is a command on a server; lines with `> ` go on with it, what follows is what it
//! prints, `? N` its exit status if that isn't 0. `[..]` stands for anything in a line, `...` for any
//! lines; blanks count as one, because columns are as wide as what is in them. A line
//! `TICKET` stands for the line that comes, and in later commands for what it was. `<!-- prepare` hides
//! commands that a reader needn't see. A `toml` block that begins with `# NAME: PATH` is that file.
//!
//! `UPDATE_BOOK=1` writes what was printed into the page, to be shortened by hand again.

use crate::pages::{Block, Page, blocks, pages};
use crate::server::Servers;

/// A line that stands for what was printed, and for that in later commands.
const TICKET: &str = "TICKET";
/// What can't be run: packages, systemd, containers, an hour of benchmarks. How many blocks of which page.
const IGNORED: [(&str, usize); 4] =
    [("benchmarks.md", 3), ("http.md", 2), ("install.md", 4), ("testing.md", 1)];
/// What isn't run: output, files of others, formats.
const SHOWN: [&str; 6] = ["text", "ini", "json", "yaml", "rust", "cddl"];

/// Pages of which a block without a language shows bytes and messages.
const BYTES: [&str; 2] = ["format.md", "protocol.md"];

/// Pages whose blocks a test of their own runs, and how these begin.
const ELSEWHERE: [(&str, &str); 1] = [("adoption.md", "sh ")];

/// A command with what it is to print.
struct Step {
    server: String,
    command: String,
    /// Lines of the page that it is to print, from and to, counted from 0.
    expected: (usize, usize),
    status: i32,
    hidden: bool,
}

enum Act<'a> {
    Run(Step),
    Write { server: &'a str, path: &'a str, text: String },
}

/// `hub-01$ blockferry status` as server and command.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (server, command) = line.split_once("$ ")?;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (!server.is_empty() && server.chars().all(good)).then_some((server, command))
}

fn steps(block: &Block<'_>) -> Vec<Step> {
    let mut found: Vec<Step> = Vec::new();
    for (number, line) in block.lines.iter().enumerate() {
        let number = block.first + number;
        if let Some((server, command)) = prompt(line) {
            found.push(Step {
                server: server.to_owned(),
                command: command.to_owned(),
                expected: (number + 1, number + 1),
                status: 0,
                hidden: block.info == "prepare",
            });
            continue;
        }
        let step = found.last_mut().expect("a block begins with a command");
        if step.expected == (number, number) && line.starts_with("> ") {
            step.command.push('\n');
            step.command.push_str(&line[2..]);
            step.expected = (number + 1, number + 1);
        } else if let Some(status) = line.strip_prefix("? ") {
            step.status = status.parse().expect("an exit status");
        } else {
            step.expected.1 = number + 1;
        }
    }
    found
}

/// What a page does, in order.
fn acts(page: &Page) -> Vec<Act<'_>> {
    let mut found = Vec::new();
    for block in blocks(&page.text) {
        if matches!(block.info, "console" | "prepare") {
            found.extend(steps(&block).into_iter().map(Act::Run));
        } else if let Some((server, path)) = target(&block) {
            found.push(Act::Write { server, path, text: block.lines.join("\n") + "\n" });
        }
    }
    found
}

/// The file that a block is: `# hub-01: /etc/blockferry/conf.d/x.toml`.
fn target<'a>(block: &Block<'a>) -> Option<(&'a str, &'a str)> {
    if block.info != "toml" {
        return None;
    }
    let (server, path) = block.lines.first()?.strip_prefix("# ")?.split_once(": ")?;
    path.starts_with('/').then_some((server, path))
}

/// The servers that a page names.
fn servers(page: &Page) -> Vec<&str> {
    let line = page.text.lines().find_map(|line| line.strip_prefix("<!-- servers: "));
    line.and_then(|line| line.strip_suffix(" -->"))
        .map_or(vec![], |names| names.split(' ').collect())
}

/// Runs a page; what was not as it is shown.
fn play(page: &Page) -> Vec<String> {
    let names = servers(page);
    assert!(
        !names.is_empty(),
        "docs/{} has samples and no line <!-- servers: NAMES -->",
        page.name
    );
    let servers = Servers::start(&names);
    let lines: Vec<&str> = page.text.lines().collect();
    let (mut ticket, mut wrong) = (String::new(), Vec::new());
    let mut changes: Vec<((usize, usize), String)> = Vec::new();
    let mut count = 0;
    for act in acts(page) {
        let step = match act {
            Act::Run(step) => step,
            Act::Write { server, path, text } => {
                servers.write(server, path, &text);
                continue;
            }
        };
        count += 1;
        let command = step.command.replace(TICKET, &ticket);
        let (status, said) = servers.run(&step.server, &command);
        let said: Vec<&str> = said.trim_end().lines().collect();
        let expected = &lines[step.expected.0..step.expected.1];
        let shown = step.hidden || fits(expected, &said, &mut ticket);
        if !shown || status != step.status {
            let Step { server, command, .. } = &step;
            wrong.push(format!(
                "docs/{}:{}: {server}$ {command}\n  exit status {status}, and it printed\n{}",
                page.name,
                step.expected.0,
                said.join("\n")
            ));
            changes.push((step.expected, said.join("\n")));
        }
    }
    eprintln!("docs/{}: {count} commands", page.name);
    if std::env::var_os("UPDATE_BOOK").is_some() {
        update(page, &lines, changes);
    }
    wrong
}

/// Writes what was printed into the page.
fn update(page: &Page, lines: &[&str], changes: Vec<((usize, usize), String)>) {
    let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    for ((from, to), said) in changes.into_iter().rev() {
        lines.splice(from..to, said.lines().map(str::to_owned));
    }
    std::fs::write(&page.path, lines.join("\n") + "\n").unwrap();
}

/// Whether what was printed is what the page shows.
fn fits(shown: &[&str], said: &[&str], ticket: &mut String) -> bool {
    match shown {
        [] => said.is_empty(),
        ["...", rest @ ..] => (0..=said.len()).any(|skip| fits(rest, &said[skip..], ticket)),
        [line, rest @ ..] => {
            let [first, after @ ..] = said else { return false };
            if *line == TICKET {
                first.trim().clone_into(ticket);
                return fits(rest, after, ticket);
            }
            line_fits(&blanks(line), &blanks(first)) && fits(rest, after, ticket)
        }
    }
}

fn blanks(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `[..]` stands for anything.
fn line_fits(shown: &str, said: &str) -> bool {
    let Some((before, rest)) = shown.split_once("[..]") else { return shown == said };
    let Some(after) = said.strip_prefix(before) else { return false };
    let ends = after.char_indices().map(|(at, _)| at).chain([after.len()]);
    ends.into_iter().any(|at| line_fits(rest, &after[at..]))
}

#[test]
fn samples_do_what_they_show() {
    let pages = pages();
    let runs = |page: &&Page| blocks(&page.text).iter().any(|block| block.info == "console");
    let pages: Vec<&Page> = pages.iter().filter(runs).collect();
    assert!(pages.len() >= 8, "only {} pages have samples", pages.len());
    // Two at a time: most of it is waiting.
    let wrong = std::thread::scope(|scope| {
        let lanes = [0, 1].map(|lane| {
            let mine: Vec<&Page> = pages.iter().copied().skip(lane).step_by(2).collect();
            scope.spawn(move || mine.into_iter().flat_map(play).collect::<Vec<_>>())
        });
        lanes.map(|lane| lane.join().expect("a lane doesn't panic")).concat()
    });
    assert!(wrong.is_empty(), "UPDATE_BOOK=1 writes it into the pages\n\n{}", wrong.join("\n\n"));
}

#[test]
fn configurations_are_good() {
    let servers = Servers::start(&["hub-01"]);
    let mut count = 0;
    for page in pages() {
        let alone = |block: &Block<'_>| block.info == "toml" && target(block).is_none();
        for block in blocks(&page.text).into_iter().filter(alone) {
            servers.write("hub-01", "/etc/blockferry/conf.d/sample.toml", &block.lines.join("\n"));
            let (status, said) = servers.run("hub-01", "blockferry config check");
            assert_eq!(status, 0, "docs/{}:{}: {said}", page.name, block.first);
            count += 1;
        }
    }
    assert!(count > 0, "no configuration was checked");
}

#[test]
fn what_is_not_run_is_counted() {
    for page in pages().iter().filter(|page| !page.name.contains('/')) {
        let mut ignored = 0;
        for block in blocks(&page.text) {
            let place = format!("docs/{}:{}", page.name, block.first);
            if block.info.ends_with(",ignore") {
                ignored += 1;
                eprintln!("{place}: not run: {}", block.lines.first().unwrap_or(&""));
            } else if matches!(block.info, "console" | "prepare") {
                assert!(!steps(&block).is_empty(), "{place}: no command");
            } else {
                let bytes = block.info.is_empty() && BYTES.contains(&page.name.as_str());
                let mut own = ELSEWHERE.iter().filter(|(name, _)| *name == page.name);
                let elsewhere = own.any(|(_, begin)| block.info.starts_with(begin));
                let shown = SHOWN.contains(&block.info) || block.info == "toml";
                let known = shown || bytes || elsewhere;
                assert!(known, "{place}: {:?} is neither run nor known", block.info);
                let command = block.lines.iter().find(|line| prompt(line).is_some());
                assert!(command.is_none(), "{place}: {command:?} isn't run");
            }
        }
        let counted = IGNORED.iter().find(|(name, _)| *name == page.name).map_or(0, |row| row.1);
        assert_eq!(ignored, counted, "docs/{}: blocks that aren't run", page.name);
    }
}

#[test]
fn shown_and_said() {
    let mut ticket = String::new();
    let mut fit = |shown: &str, said: &str| {
        let (shown, said): (Vec<&str>, Vec<&str>) =
            (shown.lines().collect(), said.lines().collect());
        fits(&shown, &said, &mut ticket)
    };
    assert!(fit("a  b\n...\nc[..]e", "a b\nx\ny\ncde"));
    assert!(fit("...", "") && fit("[..]", "x") && fit("a[..]", "a"));
    assert!(!fit("a", "a\nb") && !fit("a\nb", "a") && !fit("a[..]c", "ab") && !fit("", "a"));
    assert!(fit("TICKET\nx", "bf1abc\nx"));
    assert_eq!(ticket, "bf1abc");
}
