//! A schedule that is changed by request in a real service: in its file, with the comments, and at
//! once in force.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use blockferry_node::api::{Client, Request, Role, ScheduleEdit, SchedulesReport};
use clean::clean;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEDULE: &str = r#"
# Agreed with the branch in March.
[schedules.night]
zone = "Europe/Oslo"
default = "5 Mbit/s" # what is left by day
"#;

fn command(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.args(args);
    command
}

/// A service that ends with the test.
struct Service {
    file: PathBuf,
    child: Child,
}

impl Service {
    fn start(directory: &Path) -> Service {
        Service::named(directory, "a")
    }

    fn named(directory: &Path, name: &str) -> Service {
        let made = command(&["init", "--name", name, "--listen", "127.0.0.1:0", "--dir"]);
        assert!({ made }.arg(directory).output().unwrap().status.success());
        let file = directory.join("blockferry.toml");
        let text = std::fs::read_to_string(&file).unwrap() + SCHEDULE;
        std::fs::write(&file, text).unwrap();
        let child = command(&["serve", "--until-stdin-closes", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let service = Service { file, child };
        let start = Instant::now();
        while Client::connect(&service.socket()).is_err() {
            assert!(start.elapsed() < PATIENCE, "it never answers");
            std::thread::sleep(Duration::from_millis(50));
        }
        service
    }

    fn socket(&self) -> PathBuf {
        self.file.with_file_name("admin.sock")
    }

    fn ask(&self, request: &Request) -> Result<Value, String> {
        let mut client = Client::connect(&self.socket()).unwrap();
        client.set_timeout(Some(PATIENCE));
        client.ask(request).map_err(|error| error.to_string())
    }

    fn schedules(&self) -> SchedulesReport {
        let report = self.ask(&Request::Schedules { name: None }).unwrap();
        serde_json::from_value(report).unwrap()
    }

    fn set(&self, tag: &str, edit: Value) -> Result<Value, String> {
        let edit: ScheduleEdit = serde_json::from_value(edit).unwrap();
        let (name, tag) = ("night".to_owned(), Some(tag.to_owned()));
        self.ask(&Request::ScheduleSet { name, tag, edit })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

#[test]
fn a_schedule_is_changed_in_its_file_and_in_force_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path());
    let before = std::fs::read_to_string(&service.file).unwrap();
    let seen = service.schedules();
    assert!(seen.writable);
    let row = &seen.schedules[0];
    assert_eq!((row.name.as_str(), row.zone.as_str()), ("night", "Europe/Oslo"));
    assert_eq!(row.now.rate_limit_bits_per_second, Some(5_000_000));
    let tag = seen.tag.unwrap();
    let all = vec![vec![json!("pause"); 24]; 7];
    let changed = service.set(&tag, json!({ "grid": all })).unwrap();
    assert_eq!(changed["schedules"][0]["now"]["rate_limit_bits_per_second"], 0);
    let rule = "\n[[schedules.night.rule]]\nrate = \"pause\"\n";
    assert_eq!(std::fs::read_to_string(&service.file).unwrap(), format!("{before}{rule}"));
    let test = command(&["schedule", "test", "night", "--json", "--config"]);
    let test = { test }.arg(&service.file).output().unwrap();
    let test: Value = serde_json::from_slice(&test.stdout).unwrap();
    assert_eq!(test["schedules"][0]["now"]["rate"], "pause", "the file says what is in force");
    // What was looked at is old now, and so is what the service has read when somebody edits the file.
    let refused = service.set(&tag, json!({ "default": "1 Mbit/s" })).unwrap_err();
    assert!(refused.contains("CONFIG_CHANGED"), "{refused}");
    let tag = service.schedules().tag.unwrap();
    std::fs::write(&service.file, before).unwrap();
    let refused = service.set(&tag, json!({ "default": "1 Mbit/s" })).unwrap_err();
    assert!(refused.contains("CONFIG_CHANGED"), "{refused}");
    let id = service.child.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    let start = Instant::now();
    while service.schedules().tag.as_ref() == Some(&tag) {
        assert!(start.elapsed() < PATIENCE, "it is never read again");
        std::thread::sleep(Duration::from_millis(20));
    }
    let tag = service.schedules().tag.unwrap();
    service.set(&tag, json!({ "default": "1 Mbit/s" })).unwrap();
    assert_eq!(service.schedules().schedules[0].default.0, "1 Mbit/s");
}

#[test]
fn show_knows_who_was_given_a_schedule_by_command() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Service::named(&directory.path().join(name), name));
    let images = directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let (store, role) = ("s".to_owned(), Role::Writer);
    a.ask(&Request::StoreAdd { name: store.clone(), path: images, role }).unwrap();
    let invited = a.ask(&Request::Invite { store, role, ttl_seconds: 60 }).unwrap();
    let ticket = invited["ticket"].as_str().unwrap().to_owned();
    b.ask(&Request::Join { ticket, path: None, name: None }).unwrap();
    let show = |text: bool| {
        let format: &[&str] = if text { &[] } else { &["--json"] };
        let shown = command(&["schedule", "show", "--config"]).arg(&a.file).args(format).output();
        String::from_utf8(shown.unwrap().stdout).unwrap()
    };
    let users = || {
        let report: Value = serde_json::from_str(&show(false)).unwrap();
        report["schedules"][0]["used_by"].clone()
    };
    assert_eq!(users(), json!([]));
    let (peer, key, value) = ("b".to_owned(), "schedule".to_owned(), "night".to_owned());
    a.ask(&Request::PeerSet { peer, key, value }).unwrap();
    assert_eq!(users(), json!(["peers.b"]));
    assert!(show(true).contains("used by  peers.b"), "{}", show(true));
}
