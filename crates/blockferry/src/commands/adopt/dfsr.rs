//! `adopt import-dfsr`: what DFS-R's cmdlets say becomes sections of the configuration, with comments
//! about what has no counterpart. It is printed; nothing is changed.

use super::super::App;
use super::export::{self, Record};
use crate::failure::{AdminError, Failure, on_path};
use blockferry_delta::StoreName;
use blockferry_node::api::{Exit, Schema};
use blockferry_node::rate::calendar::{Dfsr, Zone};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Names of the property, the newer one first.
const FILE_FILTERS: [&str; 3] = ["FileNameToExclude", "FileFilter", "DefaultFileFilter"];
const DIRECTORY_FILTERS: [&str; 3] =
    ["DirectoryNameToExclude", "DirectoryFilter", "DefaultDirectoryFilter"];
const FOLDERS: [&str; 2] = ["FolderName", "ReplicatedFolderName"];
const GROUPS: [&str; 2] = ["GroupName", "ReplicationGroupName"];

/// What the files say.
#[derive(Debug, Default)]
struct Found {
    schedules: BTreeMap<String, Schedule>,
    folders: BTreeMap<String, Folder>,
}

#[derive(Debug)]
struct Schedule {
    of: String,
    week: Dfsr,
    utc: bool,
}

/// A replicated folder, which becomes a store.
#[derive(Debug, Default)]
struct Folder {
    of: String,
    files: Vec<String>,
    directories: Vec<String>,
    /// Where it lies on which server, and whether that one only receives.
    members: Vec<(String, String, bool)>,
}

pub(super) fn import(app: &App, files: &[PathBuf], zone: &str) -> Result<Exit, Failure> {
    let Some(zone) = Zone::named(zone) else {
        let error = AdminError::new("USAGE", format!("{zone:?} is no time zone"));
        return Err(error.with_remedy("names are such as Europe/Oslo or UTC").into());
    };
    let mut found = Found::default();
    for file in files {
        let wrong = |what: String| {
            let error = AdminError::new("USAGE", format!("{}: {what}", file.display()));
            error.with_remedy("write it with: Get-DfsReplicatedFolder | Export-Clixml FILE")
        };
        let records = export::records(&read(file)?).map_err(wrong)?;
        for record in &records {
            found.take(record).map_err(wrong)?;
        }
    }
    if found.schedules.is_empty() && found.folders.is_empty() {
        let error = AdminError::new("USAGE", "no schedule, replicated folder or membership in it");
        return Err(error.with_remedy("see: blockferry adopt import-dfsr --help").into());
    }
    let toml = found.toml(zone.name());
    let object = json!({ "schema": Schema, "schedules": found.schedules.keys().collect::<Vec<_>>(),
        "stores": found.folders.keys().collect::<Vec<_>>(), "toml": toml });
    app.out.either(&object, || toml.trim_end().to_owned())?;
    app.out.prose("nothing was changed; put what fits into the configuration of the nodes");
    Ok(Exit::Done)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| on_path("read", path, &error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(export::FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > export::FILE_BYTES_MAX {
        let most = export::FILE_BYTES_MAX;
        let error = AdminError::new("USAGE", format!("{}: over {most} bytes", path.display()));
        return Err(error.into());
    }
    Ok(bytes)
}

/// The first value of the first of these properties that has one.
fn value<'a>(record: &'a Record, names: &[&str]) -> Option<&'a str> {
    let mut values = names.iter().filter_map(|name| record.get(*name)?.first());
    values.next().map(String::as_str)
}

/// All values of the first of these properties that is there; WMI has them in one text.
fn values(record: &Record, names: &[&str]) -> Option<Vec<String>> {
    let found = names.iter().find_map(|name| record.get(*name))?;
    Some(found.iter().flat_map(|value| export::split(value)).collect())
}

fn yes(record: &Record, name: &str) -> bool {
    value(record, &[name]).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// A name of ours that looks like theirs.
fn named(text: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = text.chars().map(good).take(64).collect();
    let name = name.trim_start_matches(['.', '-']).to_owned();
    if StoreName::new(&name).is_ok() { name } else { "dfsr".to_owned() }
}

impl Found {
    fn take(&mut self, record: &Record) -> Result<(), String> {
        let group = value(record, &GROUPS).unwrap_or("dfsr");
        if let Some(digits) = record.get("BandwidthDetail") {
            self.take_schedule(record, group, &digits.concat())?;
        }
        let Some(folder) = value(record, &FOLDERS) else { return Ok(()) };
        let found = self.folders.entry(named(folder)).or_default();
        found.of = format!("replicated folder {folder} of group {group}");
        if let Some(files) = values(record, &FILE_FILTERS) {
            found.files = files;
        }
        if let Some(directories) = values(record, &DIRECTORY_FILTERS) {
            found.directories = directories;
        }
        if let Some(path) = value(record, &["ContentPath"]) {
            let server = value(record, &["ComputerName", "MemberName"]).unwrap_or("a server");
            found.members.push((server.to_owned(), path.to_owned(), yes(record, "ReadOnly")));
        }
        Ok(())
    }

    fn take_schedule(&mut self, record: &Record, group: &str, digits: &str) -> Result<(), String> {
        let from = value(record, &["SourceComputerName"]);
        let to = value(record, &["DestinationComputerName"]);
        let (name, of) = match (from, to) {
            (Some(from), Some(to)) => {
                (format!("{group}-{from}-{to}"), format!("connection {from} -> {to} of {group}"))
            }
            _ => (group.to_owned(), format!("replication group {group}")),
        };
        let week = digits.parse().map_err(|error| format!("{of}: {error}"))?;
        let utc = yes(record, "UseUTC");
        self.schedules.insert(named(&name), Schedule { of, week, utc });
        Ok(())
    }

    fn toml(&self, zone: &str) -> String {
        let mut lines = vec!["# From DFS-R by blockferry adopt import-dfsr.".to_owned()];
        for (name, schedule) in &self.schedules {
            lines.push(String::new());
            lines.push(comment(&format!("The schedule of {}.", schedule.of)));
            if !schedule.utc {
                lines.push(comment(&format!(
                    "It went by the receiver's clock; here it goes by that of {zone} (--zone)."
                )));
            }
            lines.push(comment(&format!("It counts for a peer with: schedule = {}", quoted(name))));
            lines.push(format!("[schedules.{}]", quoted(name)));
            lines.push(format!("zone = {}", quoted(if schedule.utc { "UTC" } else { zone })));
            lines.push(format!("dfsr = {}", quoted(&schedule.week.to_string())));
        }
        for (name, folder) in &self.folders {
            lines.push(String::new());
            folder.write(name, &mut lines);
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Folder {
    fn write(&self, name: &str, lines: &mut Vec<String>) {
        lines.push(comment(&format!("The {}.", self.of)));
        for (server, path, read_only) in &self.members {
            let role = if *read_only { "; it was read-only: role = \"mirror\"" } else { "" };
            lines.push(comment(&format!("On {server} it was {path}{role}")));
        }
        if !self.directories.is_empty() {
            lines.push(comment(&format!(
                "Subfolders called {} were left out: a store takes the files of one directory and no \
                 subfolders at all.",
                self.directories.join(", ")
            )));
        }
        lines.push(format!("[stores.{}]", quoted(name)));
        lines.push(comment("path = \"/srv/...\""));
        lines.push("adopt = true".to_owned());
        if !self.files.is_empty() {
            lines.push(comment("Letters count as they are written; DFS-R took large for small."));
            let globs: Vec<String> = self.files.iter().flat_map(|text| globs(text)).collect();
            let quoted: Vec<String> = globs.iter().map(|glob| quoted(glob)).collect();
            lines.push(format!("exclude = [{}]", quoted.join(", ")));
        }
    }
}

/// A filter as patterns: only the asterisk means something in it.
fn globs(filter: &str) -> Vec<String> {
    let one = |c: char| match c {
        '?' | '[' | ']' | '{' | '}' => format!("[{c}]"),
        c => c.to_string(),
    };
    let pattern = |text: &str| text.chars().map(one).collect::<String>();
    let (small, large) = (pattern(filter), pattern(&filter.to_uppercase()));
    if small == large { vec![small] } else { vec![small, large] }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// One line, whatever is in it.
fn comment(text: &str) -> String {
    format!("# {}", text.chars().filter(|c| !c.is_control()).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Found {
        let mut found = Found::default();
        for record in export::records(text.as_bytes()).unwrap() {
            found.take(&record).unwrap();
        }
        found
    }

    #[test]
    fn what_is_printed_is_toml_with_everything_that_has_a_counterpart() {
        let day = format!("{}{}", "F".repeat(48), "4".repeat(48));
        let text = format!(
            "GroupName : RG vDisks\nUseUTC : False\nBandwidthDetail : {day}\n\n\
             GroupName : RG vDisks\nSourceComputerName : SRV01\nDestinationComputerName : SRV02\n\
             UseUTC : True\nBandwidthDetail : {}\n\n\
             GroupName : RG vDisks\nFolderName : vDisk Store\n\
             FileNameToExclude : {{~*, *.bak, *.tmp, *.LOK}}\nDirectoryNameToExclude : {{WriteCache}}\n\n\
             GroupName : RG vDisks\nFolderName : vDisk Store\nComputerName : SRV02\n\
             ContentPath : D:\\Store\nReadOnly : True\n",
            "0".repeat(672)
        );
        let toml = found(&text).toml("Europe/Oslo");
        let table: toml::Table = toml.parse().unwrap();
        let group = &table["schedules"]["RG-vDisks"];
        assert_eq!(group["zone"].as_str(), Some("Europe/Oslo"));
        assert_eq!(group["dfsr"].as_str(), Some(day.to_lowercase().as_str()));
        assert_eq!(table["schedules"]["RG-vDisks-SRV01-SRV02"]["zone"].as_str(), Some("UTC"));
        let store = &table["stores"]["vDisk-Store"];
        assert_eq!(store["adopt"].as_bool(), Some(true));
        let exclude: Vec<_> =
            store["exclude"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
        assert_eq!(exclude, ["~*", "*.bak", "*.BAK", "*.tmp", "*.TMP", "*.LOK"]);
        for said in
            ["WriteCache", "On SRV02 it was D:\\Store; it was read-only", "receiver's clock"]
        {
            assert!(toml.contains(said), "{said}\n{toml}");
        }
    }

    #[test]
    fn filters_hold_nothing_but_asterisks() {
        assert_eq!(globs("a[1]?*"), ["a[[]1[]][?]*", "A[[]1[]][?]*"]);
        assert_eq!(globs("~*"), ["~*"]);
        for filter in ["a[1]{b}!?*", "~$*"] {
            for glob in globs(filter) {
                globset::Glob::new(&glob).unwrap_or_else(|e| panic!("{glob}: {e}"));
            }
        }
    }

    #[test]
    fn bad_schedules_and_names_are_told() {
        let records = export::records(b"GroupName : x\nBandwidthDetail : FFFF\n").unwrap();
        let error = Found::default().take(&records[0]).unwrap_err();
        assert!(error.contains("replication group x") && error.contains("4 digits"), "{error}");
        assert_eq!((named("../a b").as_str(), named("\u{e9}").as_str()), ("a-b", "dfsr"));
        assert_eq!(comment("a\nb = 1"), "# ab = 1");
    }
}
