//! Configuration texts and what is made of them.

use super::layers::Layers;
use super::{Finding, Place, SetsChoice, Settings, known};
use blockferry_node::api::Require;
use blockferry_node::config::{FreeMin, Marks, Watermarks};
use std::path::Path;

const FILE: &str = "/etc/blockferry/blockferry.toml";

fn read(texts: &[&str], environment: &[(&str, &str)]) -> (Option<Settings>, Vec<Finding>) {
    let directory = std::env::temp_dir().join(format!("blockferry-config-{}", std::process::id()));
    let variables: Vec<_> =
        environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    let mut layers = Layers::load(&directory.join("absent.toml"), false, &[]);
    let shape = known::shape();
    for (number, text) in texts.iter().enumerate() {
        let path = if number == 0 {
            FILE.to_owned()
        } else {
            format!("/etc/blockferry/conf.d/{number}.toml")
        };
        layers.add_text(Path::new(&path), text, &shape);
    }
    let last = Layers::load(&directory.join("absent.toml"), false, &variables);
    layers.leaves.extend(last.leaves);
    layers.findings.extend(last.findings);
    Settings::from_layers(Path::new(FILE), layers)
}

/// The only finding, as `LINE:COLUMN message | help`.
fn finding(text: &str) -> String {
    let (_, findings) = read(&[text], &[]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    first_finding(text)
}

fn first_finding(text: &str) -> String {
    let (settings, findings) = read(&[text], &[]);
    assert!(settings.is_none(), "{text}");
    let place = findings[0].place.to_string().replace(FILE, "");
    let help = findings[0].help.as_deref().unwrap_or("");
    format!("{} {} | {help}", place.trim_start_matches(':'), findings[0].message)
}

#[test]
fn nothing_at_all_is_fine() {
    let (settings, findings) = read(&[""], &[]);
    assert_eq!(findings, []);
    let settings = settings.unwrap();
    assert_eq!(settings.listen, ["[::]:7700".parse().unwrap()]);
    assert_eq!(settings.socket, Path::new("/run/blockferry/admin.sock"));
    assert_eq!(settings.identity, Path::new("/etc/blockferry/identity.key"));
    assert_eq!(settings.send.limit.bits_per_second(), None);
    assert!(settings.shown.iter().all(|shown| shown.place == Place::BuiltIn));
}

#[test]
fn everything_is_read() {
    let text = r#"
version = 1
[node]
name = "hub-01"
listen = ["127.0.0.1:7700", "[::1]:7701"]
state_dir = "state"
[stores.vdisks]
path = "/srv/vdisks"
role = "mirror"
include = ["*.vhdx"]
settle = "2m"
in_use = "snapshot"
commit = "copy"
warm = true
keep_generations = 9
lane = "bulk"
prefer = "branch-07"
[peers.branch-07]
id = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
address = ["branch-07.example.net:7700", "[2001:db8::7]:7700"]
stores = ["vdisks"]
compression = "none"
weight = 3
[limits]
send = "400 MB/s"
compression = 9
store_free_min = "10%"
[promote]
require = ["branch-07"]
hook_after = "/etc/blockferry/hooks/promoted"
"#;
    let (settings, findings) = read(&[text], &[]);
    assert_eq!(findings, []);
    let settings = settings.unwrap();
    let promote = &settings.promote;
    assert_eq!(promote.require, Require::Peers(vec!["branch-07".into()]));
    assert_eq!(promote.hook_after.as_deref(), Some(Path::new("/etc/blockferry/hooks/promoted")));
    assert_eq!(settings.state_dir, Path::new("/etc/blockferry/state"));
    assert_eq!(settings.send.limit.bits_per_second(), Some(3_200_000_000));
    let store = &settings.stores[0];
    assert_eq!((store.name.as_str(), store.keep_generations), ("vdisks", Some(9)));
    assert_eq!((store.settle.as_secs(), store.role.as_str()), (120, "mirror"));
    assert_eq!((store.in_use.as_str(), store.commit.as_str()), ("snapshot", "copy"));
    assert!(store.warm);
    let weight = settings.peers[0].send.weight;
    assert_eq!((store.send.lane, weight), (blockferry_node::config::Lane::Bulk, 3));
    assert_eq!(store.prefer.as_deref(), Some("branch-07"));
    assert_eq!(
        (&store.include[..], &store.exclude[..]),
        (&["*.vhdx".to_owned()][..], &["*.lok".to_owned()][..])
    );
    assert_eq!(settings.peers[0].address.len(), 2);
    let compression = settings.peers[0].compression.map(|level| level.0.to_string());
    assert_eq!(
        (settings.compression.0.to_string(), compression),
        ("9".into(), Some("none".into()))
    );
    assert_eq!(settings.peers[0].stores[0].as_str(), "vdisks");
}

#[test]
fn profiles_and_sets() {
    let store = |more: &str| {
        let text = format!("[stores.a]\npath = \"/a\"\n{more}\n");
        let (settings, findings) = read(&[&text], &[]);
        assert_eq!(findings, [], "{more}");
        settings.unwrap().stores.remove(0)
    };
    let plain = store("");
    assert_eq!(
        (&plain.include[..], &plain.exclude[..]),
        (&["*".into()][..], &["*.lok".into()][..])
    );
    assert_eq!(plain.sets, SetsChoice::Auto);
    let pvs = store("profile = \"pvs\"\nexclude = [\"old*\"]");
    assert!(pvs.include.contains(&"*.pvp".to_owned()));
    assert_eq!(pvs.exclude, ["old*"], "what is written counts");
    let named = store("profile = \"hyper-v\"\nsets = [\"sql*\", \"web*\"]");
    assert_eq!(named.sets, SetsChoice::Globs(vec!["sql*".into(), "web*".into()]));
    assert_eq!(store("sets = []").sets, SetsChoice::Globs(Vec::new()));
    for (more, expected) in [
        ("profile = \"vmware\"", "unknown variant `vmware`"),
        ("sets = \"always\"", "expected \"auto\" or a list of patterns"),
        ("sets = [\"[\"]", "is no pattern"),
    ] {
        let found = finding(&format!("[stores.a]\npath = \"/a\"\n{more}\n"));
        assert!(found.starts_with("3:") && found.contains(expected), "{found}");
    }
}

#[test]
fn mistakes_are_named_where_they_are() {
    for (text, expected) in [
        ("[node]\nnmae = \"a\"\n", "2:1 unknown key node.nmae | did you mean name?"),
        ("[nod]\nname = \"a\"\n", "1:2 unknown key nod | did you mean node?"),
        (
            "[stores.a]\npath = \"/a\"\n  setle = \"3s\"\n",
            "3:3 unknown key stores.a.setle | did you mean settle?",
        ),
        (
            "[limits]\nsend = \"fast\"\n",
            "2:8 limits.send: \"fast\" is not a rate such as \"5 Mbit/s\", \"400 MB/s\", \
             \"unlimited\" | ",
        ),
        (
            "[limits]\nsend = \"0 Mbit/s\"\n",
            "2:8 limits.send: a rate of 0 stops everything; leave the key out, or \"unlimited\" | ",
        ),
        ("[promote]\nhook_after = \"promoted\"\n", "2:14 a hook is an absolute path | "),
        (
            "[promote]\nrequire = 0\n",
            "2:11 promote.require: 0 members are always ready: 1 or more | ",
        ),
        (
            "[limits]\nsend = 5\n",
            "2:8 limits.send: invalid type: integer `5`, expected a string | ",
        ),
        (
            "[limits]\ncompression = \"best\"\n",
            "2:15 limits.compression: \"best\" is not \"auto\", \"none\" or a level from 1 to 19 | ",
        ),
        (
            "[limits]\ncompression = true\n",
            "2:15 limits.compression: expected \"auto\", \"none\" or a level from 1 to 19 | ",
        ),
        ("node = 3\n", "1:8 node must be a table | "),
        ("version = 2\n", "1:11 version 2, this blockferry reads version 1 | "),
        ("[stores.a]\n", "1:1 stores.a has no path | "),
        ("[node]\nlisten = []\n", "2:10 node.listen is empty: nobody could reach this node | "),
        (
            "[stores.a]\npath = \"/a\"\ninclude = [\"[\"]\n",
            "3:11 \"[\" is no pattern: unclosed character class; missing ']' | ",
        ),
        (
            "[peers.b]\nid = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\nweight = 101\n",
            "3:10 a weight of 101: 1 to 100 | ",
        ),
        (
            "[peers.b]\nid = \"K4MZ\"\n",
            "2:6 \"K4MZ\" is no node id: 52 characters, as blockferry id prints them | ",
        ),
        (
            "[log]\nlevel = \"blockferry=loud\"\n",
            "2:9 log.level \"blockferry=loud\": \
             error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \
             \"debug\", \"trace\", or a number 0-5 | ",
        ),
    ] {
        assert_eq!(finding(text), expected, "{text}");
    }
}

const NIGHT: &str = r#"
[peers.branch-07]
id = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
schedule = "branch-night"
send = "50 Mbit/s"
[stores.vdisks]
path = "/srv/vdisks"
send = "100 Mbit/s"
[limits]
schedule = "branch-night"
[schedules.branch-night]
zone = "Europe/Oslo"
default = "5 Mbit/s"
by = "06:30"
[[schedules.branch-night.rule]]
days = "Mon-Fri"
from = "18:00"
to = "07:00"
rate = "200 Mbit/s"
[[schedules.branch-night.rule]]
dates = ["2026-12-24..2026-12-26"]
rate = "pause"
[[schedules.branch-night.rule]]
once = ["2026-12-25 03:00..2026-12-25 03:30"]
rate = "unlimited"
"#;

#[test]
fn schedules_are_read() {
    let (settings, findings) = read(&[NIGHT], &[]);
    assert_eq!(findings, []);
    let settings = settings.unwrap();
    let calendar = &settings.schedules["branch-night"];
    assert_eq!(settings.deadlines["branch-night"].to_string(), "06:30");
    let rate = |instant: &str| {
        let at = instant.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        calendar.rate(at).to_string()
    };
    assert_eq!(rate("2026-11-23T12:00:00Z"), "5 Mbit/s");
    assert_eq!(rate("2026-11-23T17:00:00Z"), "200 Mbit/s");
    assert_eq!(rate("2026-12-24T17:00:00Z"), "pause");
    assert_eq!(rate("2026-12-25T02:29:59Z"), "unlimited");
    let peer = &settings.peers[0].send;
    assert_eq!(peer.schedule.as_deref(), Some("branch-night"));
    assert_eq!(peer.limit.bits_per_second(), Some(50_000_000));
    assert_eq!(settings.stores[0].send.limit.bits_per_second(), Some(100_000_000));
    assert_eq!(settings.send.schedule.as_deref(), Some("branch-night"));
    assert!(!peer.polite && !calendar.polite && calendar.rules[0].polite.is_none());
    let polite = "[peers.branch-07]\npolite = true\n[schedules.branch-night]\npolite = true\n\
                  [[schedules.branch-night.rule]]\nrate = \"5 Mbit/s\"\npolite = false\n";
    let (settings, findings) = read(&[NIGHT, polite], &[]);
    assert_eq!(findings, []);
    let settings = settings.unwrap();
    let calendar = &settings.schedules["branch-night"];
    assert!(settings.peers[0].send.polite && calendar.polite);
    assert_eq!(calendar.rules[0].polite, Some(false));
    // A later layer takes the place of the whole list.
    let over = "[[schedules.branch-night.rule]]\nrate = \"pause\"\n";
    let (settings, _) = read(&[NIGHT, over], &[]);
    assert_eq!(settings.unwrap().schedules["branch-night"].rules.len(), 1);
}

#[test]
fn mistakes_in_schedules_are_named_where_they_are() {
    let zone = "[schedules.a]\nzone = \"UTC\"\n";
    for (text, expected) in [
        ("default = \"fast\"\n", "3:11 schedules.a.default: \"fast\" is not a rate"),
        ("default = \"0 Mbit/s\"\n", "3:11 schedules.a.default: a rate of 0 stops everything"),
        ("dfsr = \"fff\"\n", "3:8 schedules.a.dfsr: 3 digits: a day has 96"),
        (
            "rule = 3\n",
            "3:8 schedules.a.rule must be a list of tables | write [[schedules.a.rule]]",
        ),
        ("[[schedules.a.rule]]\n", "3:1 rule 1 of schedules.a has no rate | add rate"),
        (
            "[[schedules.a.rule]]\nrate = \"pause\"\n[[schedules.a.rule]]\ndays = \"Mo\"\n",
            "6:8 schedules.a.rule.days: \"Mo\" are no days such as",
        ),
        (
            "[[schedules.a.rule]]\nrate = \"pause\"\n  form = \"18:00\"\n",
            "5:3 unknown key schedules.a.rule.form | did you mean from?",
        ),
        (
            "[[schedules.a.rule]]\nrate = \"pause\"\ndates = [\"2026-02-30\"]\n",
            "5:9 schedules.a.rule.dates: \"2026-02-30\" is no date",
        ),
        (
            "[[schedules.a.rule]]\nrate = \"pause\"\nto = \"7\"\n",
            "5:6 schedules.a.rule.to: \"7\" is no time of day",
        ),
        (
            "[[schedules.a.rule]]\nrate = \"pause\"\ndays = \"Mon\"\n\
             once = [\"2026-01-01 00:00..2026-01-01 01:00\"]\n",
            "3:1 rule 1 of schedules.a has once beside days",
        ),
        ("[limits]\nschedule = \"b\"\n", "4:12 there is no schedule b | did you mean a?"),
    ] {
        let text = format!("{zone}{text}");
        let found = match text.as_str() {
            // A rule with a mistake lacks it: the mistake comes first, what follows from it after.
            text if text.contains("Mo\"") => first_finding(text),
            text => finding(text),
        };
        assert!(found.starts_with(expected), "{text}: {found}");
    }
    for (text, expected) in [
        ("[schedules.a]\ndefault = \"pause\"\n", "2:11 schedules.a has no zone | add zone"),
        (
            "[schedules.a]\nzone = \"Europe/Olso\"\n",
            "2:8 \"Europe/Olso\" is no time zone | did you mean Europe/Oslo?",
        ),
        ("[limits]\nschedule = \"b\"\n", "2:12 there is no schedule b | write a section"),
    ] {
        assert!(finding(text).starts_with(expected), "{text}: {}", finding(text));
    }
}

#[test]
fn what_of_the_machine_is_taken() {
    let text = "[limits]\nmemory = \"1 GiB\"\ndisk_read = \"400 MB/s\"\n";
    let (settings, findings) = read(&[text], &[]);
    assert_eq!(findings, []);
    let settings = settings.unwrap();
    assert_eq!((settings.memory, settings.disk_read), (Some(1 << 30), Some(400_000_000)));
    let (settings, _) = read(&[""], &[]);
    let settings = settings.unwrap();
    assert_eq!((settings.memory, settings.disk_read), (None, None));
    let shown = |key: &str| {
        let shown = settings.shown.iter().find(|shown| shown.key == key).unwrap();
        shown.value.to_string()
    };
    assert_eq!(shown("limits.memory"), "\"300 MiB\"");
    assert_eq!(shown("limits.disk_read"), "\"unlimited\"");
    for text in ["[limits]\nmemory = \"200 MiB\"\n", "[limits]\nmemory = \"1 B\"\n"] {
        let found = finding(text);
        assert!(found.starts_with("2:10 limits.memory is "), "{found}");
        assert!(found.contains("the least that works is 300 MiB"), "{found}");
    }
    assert!(finding("[limits]\ndisk_read = \"0 MB/s\"\n").contains("a rate of 0"));
    assert!(finding("[limits]\ndisk_read = \"pause\"\n").contains("is not a rate"));
}

#[test]
fn syntax_errors_have_a_place() {
    assert!(finding("[node]\nname = \n").starts_with("2:8 "), "{}", finding("[node]\nname = \n"));
    assert!(
        finding("a = 1\na = 2\n").contains("duplicate key")
            || finding("a = 1\na = 2\n").starts_with('2')
    );
}

#[test]
fn bad_names_and_overlaps() {
    assert!(finding("[stores.\"../x\"]\npath = \"/a\"\n").contains("bad name ../x"));
    assert!(finding("[node]\nname = \"-rf\"\n").contains("bad name -rf"));
    let overlap = "[stores.a]\npath = \"/srv/a\"\n[stores.b]\npath = \"/srv/b/../a/inner\"\n";
    assert_eq!(finding(overlap), format!("4:8 /srv/a/inner overlaps store a ({FILE}:2:8) | "));
    let state = "[node]\nstate_dir = \"/srv/a/state\"\n[stores.a]\npath = \"/srv/a\"\n";
    assert!(finding(state).contains("holds node.state_dir"));
}

#[test]
fn later_layers_win_and_origins_are_kept() {
    let file = "[node]\nname = \"one\"\n[limits]\nsend = \"1 Mbit/s\"\n[stores.a]\npath = \"/a\"\n";
    let over = "[limits]\nsend = \"2 Mbit/s\"\n[stores.a]\nsettle = \"5s\"\n";
    let variables =
        [("BLOCKFERRY_NODE_NAME", "two"), ("BLOCKFERRY_NODE_LISTEN", "127.0.0.1:1, 127.0.0.1:2")];
    let (settings, findings) = read(&[file, over], &variables);
    assert_eq!(findings, []);
    let settings = settings.unwrap();
    assert_eq!(settings.node_name.as_str(), "two");
    assert_eq!(settings.listen.len(), 2);
    assert_eq!(settings.send.limit.bits_per_second(), Some(2_000_000));
    let origin = |key: &str| {
        let shown = settings.shown.iter().find(|shown| shown.key == key);
        shown.map(|shown| shown.place.to_string()).unwrap()
    };
    assert_eq!(origin("node.name"), "BLOCKFERRY_NODE_NAME");
    assert_eq!(origin("limits.send"), "/etc/blockferry/conf.d/1.toml:2:8");
    assert_eq!(origin("stores.a.path"), format!("{FILE}:6:8"));
    assert_eq!(origin("stores.a.settle"), "/etc/blockferry/conf.d/1.toml:4:10");
    assert_eq!(origin("stores.a.role"), "built-in");
}

#[test]
fn bad_environment_is_named() {
    let (settings, findings) =
        read(&[""], &[("BLOCKFERRY_LIMITS_SEND", "fast"), ("BLOCKFERRY_NODE_NAM", "x")]);
    assert!(settings.is_none());
    assert_eq!(findings.len(), 2);
    assert_eq!(findings[0].place.to_string(), "BLOCKFERRY_LIMITS_SEND");
    assert_eq!(findings[1].help.as_deref(), Some("did you mean BLOCKFERRY_NODE_NAME?"));
}

#[test]
fn every_cut_and_flip_of_a_file_is_handled() {
    let text =
        "[node]\nname = \"a\"\nlisten = [\"[::]:1\"]\n[stores.a]\npath = \"/a\"\nsettle = \"3s\"\n";
    for length in 0..text.len() {
        let _ = read(&[&text[..length]], &[]);
    }
    for bit in 0..text.len() * 8 {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = read(&[&text], &[]);
        }
    }
}

#[test]
fn watermarks_have_a_low_mark_below_the_high_one() {
    let marks = |text: &str| read(&[text], &[]).0.unwrap().watermarks;
    assert_eq!(marks(""), Watermarks::default());
    let set = marks("[limits]\nbacklog_high = \"8 GiB\"\nstaging_high = \"30%\"\n");
    assert_eq!(set.backlog, Marks { high_bytes: 8 << 30, low_bytes: 4 << 30 });
    assert_eq!((set.staging_high, set.staging_low), (FreeMin::Percent(30), FreeMin::Percent(15)));
    let equal = marks("[limits]\nstaging_high = \"1 GiB\"\nstaging_low = \"1 GiB\"\n");
    assert_eq!(
        (equal.staging_high, equal.staging_low),
        (FreeMin::Bytes(1 << 30), FreeMin::Bytes(1 << 30))
    );
    for text in [
        "[limits]\nbacklog_low = \"101 GiB\"\n",
        "[limits]\nstaging_high = \"10%\"\nstaging_low = \"11%\"\n",
        "[limits]\nstaging_low = \"1 GiB\"\n",
    ] {
        let found = finding(text);
        assert!(found.contains("_low is not below limits."), "{found}");
    }
}
