//! `serve` as systemd and people drive it: ready, reload, a second one, the end.
//!
//! Real processes, each with a node of its own on loopback.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use clean::clean;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn command(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.args(args);
    command
}

struct Node {
    directory: TempDir,
}

impl Node {
    fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let node = Node { directory };
        let made = command(&["init", "--name", "test", "--listen", "127.0.0.1:0", "--dir"])
            .arg(node.directory.path())
            .output()
            .unwrap();
        assert!(made.status.success());
        node
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("blockferry.toml")
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = command(args).arg("--config").arg(self.config()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

/// A running service; what it tells systemd and what it logs.
struct Service {
    child: Child,
    stdin: Option<ChildStdin>,
    notices: UnixDatagram,
    log: Receiver<String>,
}

impl Service {
    fn start(node: &Node, args: &[&str]) -> Service {
        let path = node.directory.path().join("notify");
        let _ = std::fs::remove_file(&path);
        let notices = UnixDatagram::bind(&path).unwrap();
        notices.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut child = command(&["serve"])
            .args(args)
            .arg("--config")
            .arg(node.config())
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let stdin = child.stdin.take();
        let service = Service { child, stdin, notices, log };
        service.told("READY=1");
        service
    }

    /// Waits until systemd would have heard this.
    fn told(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        while Instant::now() < deadline {
            let count = self.notices.recv(&mut bytes).unwrap();
            if String::from_utf8_lossy(&bytes[..count]).contains(what) {
                return;
            }
        }
        panic!("{what} was not said");
    }

    /// Waits for a line of the log.
    fn logged(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if self.log.recv_timeout(left).unwrap().contains(what) {
                return;
            }
        }
        panic!("{what} was not logged");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(path: &Path, text: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, before + text).unwrap();
}

#[test]
fn tells_systemd_and_ends_on_sigterm() {
    let node = Node::new();
    let mut service = Service::start(&node, &[]);
    service.told("WATCHDOG=1");
    service.signal("-TERM");
    service.told("STOPPING=1");
    assert_eq!(service.ended().code(), Some(0));
    let mut again = Service::start(&node, &[]);
    again.signal("-INT");
    assert_eq!(again.ended().code(), Some(0));
}

#[test]
fn reload_says_what_it_does_and_keeps_running() {
    let node = Node::new();
    let mut service = Service::start(&node, &[]);
    service.signal("-HUP");
    service.logged("good and unchanged");
    append(&node.config(), "\n[stores.later]\npath = \"/nonexistent/later\"\n");
    service.signal("-HUP");
    service.logged("in force now: stores.later");
    service.logged("/nonexistent/later");
    append(&node.config(), "\nnonsense = 1\n");
    service.signal("-HUP");
    service.logged("unknown key");
    service.logged("the running one stays in force");
    service.signal("-TERM");
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn ends_with_its_starter_when_asked_to() {
    let node = Node::new();
    let mut service = Service::start(&node, &["--until-stdin-closes"]);
    drop(service.stdin.take());
    service.told("STOPPING=1");
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn a_closed_stdin_is_nothing_to_a_service() {
    let node = Node::new();
    let mut service = Service::start(&node, &[]);
    drop(service.stdin.take());
    service.told("WATCHDOG=1");
    service.told("WATCHDOG=1");
    assert!(service.child.try_wait().unwrap().is_none());
}

#[test]
fn a_second_one_is_locked_out() {
    let node = Node::new();
    let _service = Service::start(&node, &[]);
    // Should it not be locked out, it ends by itself: its stdin is empty.
    let (status, _, stderr) = node.run(&["serve", "--until-stdin-closes"]);
    assert_eq!(status, 11, "{stderr}");
    assert!(stderr.contains("error[STORE_LOCKED]: "), "{stderr}");
    assert_eq!(node.run(&["status"]).0, 0, "the first one still answers");
}

#[test]
fn answers_what_it_is_asked() {
    let node = Node::new();
    let _service = Service::start(&node, &[]);
    let (status, stdout, stderr) = node.run(&["status", "--json"]);
    assert_eq!(status, 0, "{stderr}");
    let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&object["schema"], &object["node"]["name"]), (&"v1".into(), &"test".into()));
    let id = node.run(&["id"]).1;
    assert_eq!(object["node"]["id"], id.trim());
    for (args, exit) in [
        (&["store", "show", "nowhere"][..], 5),
        (&["peer", "show", "nobody"], 5),
        (&["image", "show", "nowhere/nothing"], 5),
        (&["publish", "nowhere/nothing"], 5),
        (&["join", "not-a-ticket"], 2),
        (&["invite", "--store", "nowhere"], 5),
    ] {
        let (status, stdout, stderr) = node.run(args);
        assert_eq!((status, stdout.as_str()), (exit, ""), "{args:?}: {stderr}");
    }
    let images = node.directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let (status, stdout, stderr) = node.run(&["store", "add", "a", images.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("writer"), "{stdout}");
    let (status, stdout, _) = node.run(&["invite", "--store", "a"]);
    assert_eq!((status, stdout.lines().count()), (0, 1));
}

#[test]
fn what_rotted_and_nobody_else_has_is_left_as_it_is() {
    let node = Node::new();
    let images = node.directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let service = Service::start(&node, &[]);
    let image = images.join("disk.img");
    std::fs::write(&image, vec![7; 200_000]).unwrap();
    let path = images.to_str().unwrap();
    assert_eq!(node.run(&["store", "add", "vdisks", path]).0, 0);
    assert_eq!(node.run(&["publish", "vdisks/disk.img"]).0, 0);
    assert_eq!(node.run(&["verify", "--deep", "--repair"]).0, 0, "there is nothing to do");
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    let times = file.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", 70_000).unwrap();
    file.set_modified(times).unwrap();
    drop(file);
    let rotten = std::fs::read(&image).unwrap();
    let (status, stdout, _) = node.run(&["verify", "vdisks/disk.img"]);
    assert_eq!((status, stdout.contains("not repaired")), (14, false), "{stdout}");
    let (status, stdout, _) = node.run(&["verify", "vdisks/disk.img", "--repair"]);
    assert_eq!(status, 14, "{stdout}");
    assert!(stdout.contains("not repaired: no connected peer holds this generation"), "{stdout}");
    assert!(std::fs::read(&image).unwrap() == rotten);
    let (status, stdout, _) = node.run(&["verify", "--repair", "--json"]);
    let rows: Vec<Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((status, rows.len()), (14, 2), "{stdout}");
    let (row, sum) = (&rows[0]["item"], &rows[1]["summary"]);
    assert_eq!((&row["repaired"], &sum["repaired_images"]), (&json!(false), &json!(0)));
    assert_eq!((&sum["ok"], &sum["bad_images"]), (&json!(false), &json!(1)));
    drop(service);
}
