//! What is served against its own description, by schemathesis: every operation with data that fits the
//! description and data that doesn't, with no token and with a wrong one, by methods it doesn't have, with
//! names that are made up and some that answers named. Streams end with what is kept.
//!
//! `just schemathesis` makes it ready below `target`; where it isn't, the test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use blockferry_node::api::{Client, PublishReport, Request};
use clean::clean;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than both runs take together on two slow cores.
const PATIENCE: Duration = Duration::from_secs(240);
/// Cases that are made for an operation and a way to make them, besides those that cover each rule
/// of the description.
const EXAMPLES: &str = "8";

fn command(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.args(args);
    command
}

/// Where schemathesis is, if it is.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("BLOCKFERRY_SCHEMATHESIS") {
        return Some(named.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_blockferry")).ancestors().nth(2)?;
    let own = target.join("schemathesis/bin/schemathesis");
    own.is_file().then_some(own)
}

/// A service that ends with the test.
struct Service {
    child: Child,
    at: SocketAddr,
    token: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Service {
    /// A node with a store, an image in it, a peer that is away, a calendar and a token for everything.
    fn start(dir: &Path) -> Service {
        let (root, images) = (dir.join("node"), dir.join("images"));
        std::fs::create_dir(&images).unwrap();
        let made = command(&["init", "--name", "hub", "--listen", "127.0.0.1:0", "--dir"])
            .arg(&root)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let made =
            command(&["token", "new", "all", "--scope", "admin", "--json"]).output().unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        let (token, lines) = (made["token"].as_str().unwrap(), made["config"].as_str().unwrap());
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "[admin]\nhttp = \"{at}\"\n{lines}\n[stores.vdisks]\npath = \"{}\"\nsettle = \"1h\"\n\
             [peers.branch]\nid = \"{}\"\nstores = [\"vdisks\"]\n[schedules.night]\nzone = \"UTC\"\n",
            images.display(),
            "A".repeat(52),
        );
        std::fs::create_dir_all(root.join("conf.d")).unwrap();
        std::fs::write(root.join("conf.d/50-test.toml"), config).unwrap();
        let child = command(&["serve", "--config"])
            .arg(root.join("blockferry.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let service = Service { child: child.unwrap(), at, token: token.to_owned() };
        let socket = root.join("admin.sock");
        let started = Instant::now();
        let mut client = loop {
            if let Ok(client) = Client::connect(&socket) {
                break client;
            }
            assert!(started.elapsed() < PATIENCE, "it never answers");
            std::thread::sleep(Duration::from_millis(20));
        };
        for generation in 1..=2_u8 {
            std::fs::write(images.join("disk.img"), vec![generation; 300_000]).unwrap();
            let image = "vdisks/disk.img".to_owned();
            let publish = Request::Publish { image, changed: None, since: None };
            let _: PublishReport = client.ask(&publish).unwrap();
        }
        service
    }

    /// Has everything asked that the description allows, and what it doesn't.
    fn ask(&self, program: &Path, dir: &Path, names: &str) {
        let config = dir.join("schemathesis.toml");
        let events = "[[operations]]\ninclude-path = \"/api/v1/events\"\n\
                      parameters = { follow = \"false\" }\n";
        std::fs::write(&config, format!("{names}{events}")).unwrap();
        let mut asking = Command::new(program)
            .arg("--config-file")
            .arg(&config)
            .args(["--no-color", "run", &format!("http://{}/openapi.json", self.at)])
            .args(["-H", &format!("Authorization: Bearer {}", self.token)])
            .args(["--phases", "examples,coverage,fuzzing", "--mode", "all", "--checks", "all"])
            .args(["--max-examples", EXAMPLES, "--request-timeout", "20", "--seed", "1"])
            .args(["--workers", "2"])
            .current_dir(dir)
            .stdout(std::fs::File::create(dir.join("said")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = asking.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > PATIENCE {
                asking.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let said = std::fs::read_to_string(dir.join("said")).unwrap();
        assert!(status.success(), "{status} after {:?}:\n{said}", began.elapsed());
        let cases = said.lines().rev().take(4).collect::<Vec<_>>();
        eprintln!("{:?}: {cases:?}", began.elapsed());
    }
}

#[test]
fn what_is_served_is_what_is_described() {
    let Some(program) = program() else {
        eprintln!("skipped: schemathesis is not there (just schemathesis)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(dir.path());
    service.ask(&program, dir.path(), "");
    assert!(service.child.try_wait().unwrap().is_none(), "it still runs");
}
