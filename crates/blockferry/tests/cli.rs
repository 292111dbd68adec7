//! The command line as people and scripts meet it: the real binary, real files, no service.
//!
//! Each test has a directory of its own and an environment without `BLOCKFERRY_*`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use clean::clean;
use serde_json::Value;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const COMMANDS: [&str; 35] = [
    "demo",
    "init",
    "serve",
    "id",
    "token",
    "store",
    "invite",
    "join",
    "peer",
    "status",
    "doctor",
    "bundle",
    "image",
    "publish",
    "plan",
    "push",
    "backlog",
    "netcheck",
    "ready",
    "wait",
    "promote",
    "rollback",
    "conflicts",
    "resolve",
    "adopt",
    "verify",
    "pause",
    "resume",
    "boost",
    "limit",
    "schedule",
    "events",
    "config",
    "completions",
    "man",
];

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
        command.args(args).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).output().unwrap())
    }

    /// A node below `node/`, made by `init`.
    fn node(&self) -> String {
        let ran = self.run(&["init", "--dir", "node", "--name", "test", "--listen", "127.0.0.1:0"]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        self.path("node/blockferry.toml").display().to_string()
    }
}

struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

#[test]
fn help_lists_exactly_the_commands() {
    let ran = Place::new().run(&["--help"]);
    assert_eq!(ran.status, 0);
    let section = ran.stdout.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A command's name is indented by two; the continuation of a wrapped text by more.
    let listed: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn every_command_has_help() {
    let place = Place::new();
    for command in COMMANDS {
        let ran = place.run(&[command, "--help"]);
        assert_eq!(ran.status, 0, "{command}");
        assert!(ran.stdout.contains("Usage: blockferry"), "{command}: {}", ran.stdout);
    }
}

#[test]
fn commands_and_values_that_do_not_exist_are_refused() {
    let place = Place::new();
    let ran = place.run(&["ferry"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.starts_with("error[USAGE]: unrecognized subcommand"), "{}", ran.stderr);
    for args in [&["push", "a/b", "--lane", "fast"][..], &["demo", "--fast"]] {
        assert_eq!(place.run(args).status, 2, "{args:?}");
    }
}

#[test]
fn usage_errors_are_two_lines_and_status_2() {
    let ran = Place::new().run(&["publish"]);
    assert_eq!(ran.status, 2);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stderr);
    assert!(lines[0].starts_with("error[USAGE]: "), "{}", lines[0]);
    assert!(lines[1].starts_with("  help: "), "{}", lines[1]);
    assert_eq!(ran.stdout, "");
    let ran = Place::new().run(&["stauts"]);
    assert!(ran.stderr.contains("status"), "a suggestion: {}", ran.stderr);
    assert_eq!(Place::new().run(&[]).status, 2);
    let ran = Place::new().run(&["publish", "a/b", "--since", "3"]);
    assert!(ran.status == 2 && ran.stderr.contains("--changed"), "{}", ran.stderr);
}

#[test]
fn init_makes_a_node_and_id_knows_it() {
    let place = Place::new();
    let ran =
        place.run(&["init", "--dir", "node", "--name", "hub-01", "--listen", "127.0.0.1:7700"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let id = ran.stdout.trim();
    assert_eq!(id.len(), 52, "{id}");
    let mode =
        |name: &str| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("node/identity.key"), 0o600);
    assert_eq!(mode("node/state"), 0o700);
    let config = place.path("node/blockferry.toml");
    let config = config.to_str().unwrap();
    let ran = place.run(&["--config", config, "id"]);
    assert_eq!((ran.status, ran.stdout.trim()), (0, id));
    let ran = place.run(&["id", "--json", "--config", config]);
    let object = ran.json();
    assert_eq!(
        (&object["schema"], &object["id"], &object["name"]),
        (&"v1".into(), &id.into(), &"hub-01".into())
    );
    assert_eq!(place.run(&["config", "check", "--config", config]).status, 0);
}

#[test]
fn init_overwrites_nothing() {
    let place = Place::new();
    let config = place.node();
    let before = std::fs::read(&config).unwrap();
    let key = std::fs::read(place.path("node/identity.key")).unwrap();
    let ran = place.run(&["init", "--dir", "node"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.starts_with("error[ALREADY_INITIALISED]: "), "{}", ran.stderr);
    std::fs::remove_file(&config).unwrap();
    assert_eq!(place.run(&["init", "--dir", "node"]).status, 1, "the key alone is reason enough");
    assert_eq!(std::fs::read(place.path("node/identity.key")).unwrap(), key);
    assert!(!before.is_empty());
}

#[test]
fn init_if_missing_makes_the_key_of_a_configuration_and_nothing_twice() {
    let place = Place::new();
    let key = place.path("state/node.key");
    let text =
        format!("version = 1\n[node]\nidentity = {key:?}\nstate_dir = {:?}\n", place.path("state"));
    let config = place.file("etc/blockferry.toml", &text);
    let first = place.run(&["init", "--if-missing", "--config", &config]);
    assert_eq!(first.status, 0, "{}", first.stderr);
    assert_eq!(first.stdout.trim().len(), 52, "{}", first.stdout);
    let bytes = std::fs::read(&key).unwrap();
    let again = place.run(&["init", "--if-missing", "--config", &config]);
    assert_eq!((again.status, &again.stdout), (0, &first.stdout));
    assert_eq!(std::fs::read(&key).unwrap(), bytes);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    assert_eq!(place.run(&["id", "--config", &config]).stdout, first.stdout);
    // A configuration that can't be used makes no key.
    let bad = place.file("bad/blockferry.toml", "version = 1\n[nod]\n");
    assert_eq!(place.run(&["init", "--if-missing", "--config", &bad]).status, 78);
    assert!(!place.path("bad/identity.key").exists());
}

#[test]
fn init_with_a_bad_name_leaves_no_key() {
    let place = Place::new();
    let ran = place.run(&["init", "--dir", "node", "--name", "../up"]);
    assert_eq!(ran.status, 78, "{}", ran.stderr);
    assert!(!place.path("node/identity.key").exists());
    assert!(!place.path("node/blockferry.toml").exists());
    let ran = place.run(&["init", "--dir", "node", "--name", "quo\"te\n[x]"]);
    assert_eq!(ran.status, 78, "{}", ran.stderr);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let place = Place::new();
    let config = place.node();
    let key = place.path("node/identity.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = place.run(&["id", "--config", &config]);
    assert_eq!(ran.status, 78);
    assert!(ran.stderr.starts_with("error[KEY_UNSAFE]: "), "{}", ran.stderr);
    assert_eq!(place.run(&["serve", "--config", &config]).status, 78);
}

#[test]
fn bad_configuration_is_78_with_line_and_suggestion() {
    let place = Place::new();
    let config = place.file("c.toml", "version = 1\n[node]\n  nmae = \"x\"\n");
    for command in [&["config", "check"][..], &["serve"], &["id"], &["config", "show"]] {
        let mut args = command.to_vec();
        args.extend(["--config", &config]);
        let ran = place.run(&args);
        assert_eq!(ran.status, 78, "{command:?}");
        let expected = format!(
            "error[CONFIG_ERROR]: {config}:3:3: unknown key node.nmae\n  help: did you mean name?\n"
        );
        assert_eq!(ran.stderr, expected, "{command:?}");
    }
    let ran = place.run(&["config", "check", "--json", "--config", &config]);
    let object = ran.json();
    assert_eq!((ran.status, &object["ok"]), (78, &false.into()));
    assert_eq!(object["findings"][0]["place"], format!("{config}:3:3"));
}

#[test]
fn check_reports_everything() {
    let place = Place::new();
    let text = "[limits]\nmemory = \"100 MiB\"\nsend = \"0 Mbit/s\"\n\
                disk_read = \"pause\"\n";
    let config = place.file("c.toml", text);
    let ran = place.run(&["config", "check", "--config", &config]);
    assert_eq!(ran.status, 78);
    assert_eq!(ran.stderr.matches("error[CONFIG_ERROR]").count(), 3, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("the least that works is 300 MiB").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_named_file_must_exist() {
    let ran = Place::new().run(&["config", "check", "--config", "absent.toml"]);
    assert_eq!(ran.status, 78);
    assert!(ran.stderr.contains("absent.toml: No such file"), "{}", ran.stderr);
    assert!(ran.stderr.contains("blockferry init"), "{}", ran.stderr);
}

#[test]
fn layers_and_origins() {
    let place = Place::new();
    let config = place.file("c.toml", "[node]\nname = \"one\"\n[limits]\nsend = \"1 Mbit/s\"\n");
    let over = place.file("conf.d/10-limits.toml", "[limits]\nsend = \"2 Mbit/s\"\n");
    let mut command = place.command(&["config", "show", "--origin"]);
    command.env("BLOCKFERRY_CONFIG", &config).env("BLOCKFERRY_NODE_NAME", "two");
    let ran = Ran::new(command.output().unwrap());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let line =
        |key: &str| ran.stdout.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert_eq!(line("node.name"), "node.name = \"two\"  # BLOCKFERRY_NODE_NAME");
    assert_eq!(line("limits.send"), format!("limits.send = \"2 Mbit/s\"  # {over}:2:8"));
    assert!(line("node.listen").ends_with("# built-in"));
    // What is shown is a configuration again.
    let again = place.file("again.toml", &ran.stdout);
    let ran = place.run(&["config", "check", "--config", &again]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn schema_describes_the_sample() {
    let ran = Place::new().run(&["config", "schema"]);
    assert_eq!(ran.status, 0);
    let schema = ran.json();
    assert_eq!(schema["additionalProperties"], false);
    let store = &schema["properties"]["stores"]["additionalProperties"]["properties"];
    assert!(store["settle"]["description"].as_str().unwrap().contains("quiet"));
}

#[test]
fn the_shipped_sample_is_a_configuration() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/blockferry.toml");
    let sample = sample.canonicalize().unwrap();
    let ran = Place::new().run(&["config", "check", "--config", sample.to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn the_sample_with_everything_switched_on_is_one_too() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/blockferry.toml");
    let text = std::fs::read_to_string(sample).unwrap();
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.starts_with('[') || rest.contains(" = "))
                .unwrap_or(line)
        })
        .collect();
    assert!(uncommented.len() > 30);
    let place = Place::new();
    let config = place.file("all.toml", &uncommented.join("\n"));
    let ran = place.run(&["config", "show", "--config", &config]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for key in [
        "admin.http",
        "admin.tokens.prometheus.scope",
        "stores.vdisks.path",
        "peers.branch-07.id",
        "peers.branch-07.schedule",
        "schedules.branch-night.rule",
        "limits.send",
        "promote.hook_after",
        "log.level",
    ] {
        assert!(ran.stdout.contains(key), "{key}");
    }
}

#[test]
fn unreachable_service_is_10_and_says_how_to_start_it() {
    let place = Place::new();
    let config = place.node();
    for command in
        [&["status"][..], &["store", "ls"], &["publish", "a/b"], &["events"], &["ready", "a/b"]]
    {
        let mut args = command.to_vec();
        args.extend(["--config", &config]);
        let ran = place.run(&args);
        assert_eq!(ran.status, 10, "{command:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error[SERVICE_UNREACHABLE]: "), "{}", ran.stderr);
        assert!(ran.stderr.contains("blockferry serve --config"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn json_errors_are_objects_on_stdout() {
    let place = Place::new();
    let config = place.node();
    let ran = place.run(&["status", "--json", "--config", &config]);
    let object = ran.json();
    assert_eq!((ran.status, &object["schema"]), (10, &"v1".into()));
    assert_eq!(object["error"]["code"], "SERVICE_UNREACHABLE");
    assert_eq!(object["error"]["exit"], 10);
    assert!(!object["error"]["remedy"].as_str().unwrap().is_empty());
    let ran = place.run(&["publish", "--json"]);
    assert_eq!((ran.status, &ran.json()["error"]["code"]), (2, &"USAGE".into()));
}

#[test]
fn colour_is_for_terminals_and_those_who_ask() {
    let place = Place::new();
    let escape = '\u{1b}';
    assert!(!place.run(&["id", "--config", "x"]).stderr.contains(escape), "stderr is a pipe");
    assert!(place.run(&["id", "--config", "x", "--color", "always"]).stderr.contains(escape));
    let mut command = place.command(&["id", "--config", "x"]);
    command.env("NO_COLOR", "1");
    assert!(!Ran::new(command.output().unwrap()).stderr.contains(escape));
}

#[test]
fn taking_away_needs_a_yes() {
    let place = Place::new();
    let config = place.node();
    for args in [["store", "rm", "a"], ["peer", "rm", "b"]] {
        let mut args = args.to_vec();
        args.extend(["--config", &config]);
        let ran = place.run(&args);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("-y"), "{}", ran.stderr);
        args.push("-y");
        assert_eq!(place.run(&args).status, 10, "asked no more");
    }
}

#[test]
fn completions_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = place.run(&["completions", shell]);
        assert_eq!(ran.status, 0);
        assert!(ran.stdout.contains("backlog") && ran.stdout.contains("blockferry"), "{shell}");
    }
    assert_eq!(place.run(&["completions", "tcsh"]).status, 2);
}

#[test]
fn man_pages_for_every_command() {
    let place = Place::new();
    std::fs::create_dir(place.path("man")).unwrap();
    let ran = place.run(&["man", "man"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for page in COMMANDS
        .iter()
        .map(|command| format!("blockferry-{command}.1"))
        .chain(["blockferry.1".into(), "blockferry-store-add.1".into()])
    {
        let text = std::fs::read_to_string(place.path("man").join(&page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let ran = place.run(&["man", "absent"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.starts_with("error[IO]: write absent"), "{}", ran.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let mut child = place
        .command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn bad_values_are_usage_errors() {
    let place = Place::new();
    for args in [
        &["demo", "--size", "0"][..],
        &["demo", "--size", "1 KiB"],
        &["invite", "--store", "a", "--ttl", "soon"],
        &["ready", "a/b", "--require", "0"],
        &["status", "--timeout", "0s"],
        &["init", "--listen", "localhost"],
        &["status", "-q", "-v"],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.status, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error[USAGE]: "), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn serve_without_a_node_says_init() {
    let place = Place::new();
    let config = place.node();
    std::fs::remove_file(place.path("node/identity.key")).unwrap();
    let ran = place.run(&["serve", "--config", &config]);
    assert_eq!(ran.status, 78);
    assert!(
        ran.stderr.contains("error[KEY_MISSING]") && ran.stderr.contains("blockferry init"),
        "{}",
        ran.stderr
    );
}

const OSLO: &str = r#"
[schedules.branch-night]
zone = "Europe/Oslo"
default = "5 Mbit/s"
[[schedules.branch-night.rule]]
days = "Mon-Fri"
from = "18:00"
to = "07:00"
rate = "200 Mbit/s"
"#;

#[test]
fn schedules_are_tested_without_the_service() {
    let place = Place::new();
    let file = place.file("c.toml", OSLO);
    let test = |args: &[&str]| {
        let ran = place.run(&[&["--config", &file, "schedule", "test"], args].concat());
        (ran.status, ran.stdout, ran.stderr)
    };
    let (status, text, _) = test(&["--at", "2026-11-23 12:00"]);
    assert_eq!(status, 0);
    assert!(
        text.contains("branch-night  2026-11-23 12:00 Europe/Oslo  5 Mbit/s (default)"),
        "{text}"
    );
    assert!(text.contains("2026-11-23 18:00 Europe/Oslo  200 Mbit/s (rule 1)"), "{text}");
    let (_, json, _) = test(&["branch-night", "--at", "2026-03-29T00:59:00Z", "--json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    let row = &report["schedules"][0];
    assert_eq!((&report["schema"], &row["now"]["source"]), (&"v1".into(), &"default".into()));
    assert_eq!(row["now"]["rate_limit_bits_per_second"], 5_000_000);
    assert_eq!(row["next"]["rule"], 1);
    // Monday 18:00 in Oslo, summer time by now.
    assert_eq!(row["until"], "2026-03-30T16:00:00.000Z");
    let (status, _, stderr) = test(&["--at", "soon"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("such as \"Mon 09:00\""), "{stderr}");
    let (status, _, stderr) = test(&["branch-nigth"]);
    assert_eq!(status, 5);
    assert!(stderr.contains("SCHEDULE_UNKNOWN") && stderr.contains("did you mean"), "{stderr}");
    let shown = place.run(&["--config", &file, "schedule", "show"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    assert!(
        shown.stdout.contains("rule 1   200 Mbit/s on Mon-Fri 18:00-07:00"),
        "{}",
        shown.stdout
    );
}

#[test]
fn dfsr_weeks_become_configuration() {
    let place = Place::new();
    let (off, full) = ("0".repeat(96), "F".repeat(96));
    let day = format!("{}{}", "0".repeat(32), "5".repeat(64));
    let ran = place.run(&[
        "schedule",
        "import-dfsr",
        "--name",
        "night",
        "--zone",
        "Europe/Oslo",
        &format!("Mon-Fri={day}"),
        &format!("Sat,Sun={full}"),
    ]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("# Mon 00:00-08:00 pause, 08:00-24:00 512 kbit/s"),
        "{}",
        ran.stdout
    );
    let file = place.file("c.toml", &ran.stdout);
    let at = ["--config", &file, "schedule", "test", "night", "--at", "2026-11-27 23:59:59"];
    let tested = place.run(&at);
    assert!(tested.stdout.contains("512 kbit/s (dfsr)"), "{}{}", tested.stdout, tested.stderr);
    assert!(
        tested.stdout.contains("2026-11-28 00:00 Europe/Oslo  unlimited (dfsr)"),
        "{}",
        tested.stdout
    );
    let seven: Vec<&str> =
        [&full, &off, &off, &off, &off, &off, &full].map(String::as_str).to_vec();
    let ran = place.run(&[&["schedule", "import-dfsr", "--json"], &seven[..]].concat());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["days"][6]["day"], "Sun");
    assert_eq!(report["days"][6]["spans"][0]["rate"], "unlimited");
    assert_eq!(report["days"][0]["spans"][0]["rate_limit_bits_per_second"], 0);
    let ran = place.run(&["schedule", "import-dfsr", "0123"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("a day has 96"), "{}", ran.stderr);
}
