//! The page in a real browser: a hub with twelve branches, all of them whole nodes in this process, a
//! service that was started from a file, for what is written there, and `tests/page/run.mjs`, which
//! looks at them by Chromium. Skipped with a line where there is no Chromium, no Node.js or no `npm ci`
//! in `tests/page`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../node/tests/running/mod.rs"]
#[expect(dead_code, reason = "the node's own tests use the rest")]
mod running;

mod clean;

use clean::clean;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use blockferry_node::api::{
    Affected, Client, OrdersReport, PeersReport, PublishReport, Request, Role, StatusReport,
};
use blockferry_node::http::{HttpConfig, Scope, Token, new_token};
use blockferry_node::rate::calendar::{Calendar, Days, Rate, Rule, When, Zone};
use serde_json::json;

use running::{LONG, Running, config, edit, noise, start, until};

const BRANCHES: usize = 12;
/// Name, bytes of data, and how long the file is.
const IMAGES: [(&str, usize, u64); 6] = [
    ("kiosk-2026.raw", 300_000, 48 << 20),
    ("lab-linux.raw", 500_000, 24 << 20),
    ("office-win11.raw", 900_000, 64 << 20),
    ("pos-terminal.raw", 200_000, 8 << 20),
    ("server-2025.raw", 700_000, 64 << 20),
    ("teaching-win11.raw", 400_000, 32 << 20),
];
/// The one whose transfer is watched.
const WATCHED: &str = "office-win11.raw";
/// The one that has a history: how much changed with each generation after the first.
const AGED: &str = "server-2025.raw";
const CHANGES: [usize; 7] = [90_000, 140_000, 60_000, 2_300_000, 110_000, 35_000, 420_000];

/// What somebody wrote into a configuration, with what they wanted to be remembered.
const SCHEDULE: &str = r#"
# Agreed with the branch in March.
[schedules.branch-night]
zone = "Europe/Oslo" # where they are
default = "5 Mbit/s"

[[schedules.branch-night.rule]]
days = "Mon-Fri"
from = "18:00"
to = "07:00"
rate = "200 Mbit/s"

# Nobody is there at Christmas.
[[schedules.branch-night.rule]]
dates = ["2026-12-24..2026-12-26"]
rate = "pause"
"#;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/page").canonicalize().unwrap()
}

/// The browser, if all that is needed is there; else what isn't.
fn browser() -> Result<PathBuf, &'static str> {
    let found = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].map(PathBuf::from);
    let chromium = found.into_iter().find(|path| path.exists());
    let chromium = chromium.ok_or("chromium is not installed")?;
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).status();
    if !node.is_ok_and(|status| status.success()) {
        return Err("node is not installed");
    }
    if !tests().join("node_modules/playwright-core").exists() {
        return Err("npm ci was not run in tests/page");
    }
    Ok(chromium)
}

struct Hub {
    node: Running,
    at: SocketAddr,
    admin: String,
    operate: String,
    branches: Vec<Option<Running>>,
}

/// By day 20 Mbit/s, by night ten times as much.
fn night() -> Calendar {
    let (from, to) = ("18:00".parse().unwrap(), "07:00".parse().unwrap());
    let when = When::Often { days: Days::ALL, dates: Vec::new(), from, to };
    let rule = Rule { when, rate: Rate::Limited(200_000_000), polite: None };
    let default = Rate::Limited(20_000_000);
    let zone = Zone::named("Europe/Oslo").unwrap();
    Calendar { zone, default, polite: false, dfsr: None, rules: vec![rule] }
}

fn hub(dir: &Path) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let mut config = config(&dir.join("hub-01"), "hub-01", 0);
    let mut http = HttpConfig::new(at);
    let mut secrets = Vec::new();
    for scope in [Scope::Admin, Scope::Operate] {
        let (secret, hash) = new_token().unwrap();
        http.tokens.push(Token { name: scope.as_str().to_owned(), hash, scope });
        secrets.push(secret);
    }
    config.http = Some(http);
    config.trend_every = Duration::from_secs(1);
    (config.settle, config.rescan) = (LONG, LONG);
    config.schedules.insert("branch-night".to_owned(), Arc::new(night()));
    let node = start(config);
    let images = node.add_store();
    for (at, (name, data, bytes)) in IMAGES.into_iter().enumerate() {
        let file = std::fs::File::create(images.join(name)).unwrap();
        file.set_len(bytes).unwrap();
        drop(file);
        edit(&images.join(name), 0, &noise(at as u64, data));
        node.publish(name);
    }
    for (seed, changed) in CHANGES.into_iter().enumerate() {
        edit(&images.join(AGED), 3 << 20, &noise(50 + seed as u64, changed));
        node.publish(AGED);
    }
    let [admin, operate] = secrets.try_into().unwrap();
    let branches = (1..=BRANCHES).map(|number| Some(branch(dir, &node, number))).collect();
    let hub = Hub { node, at, admin, operate, branches };
    for (name, _, _) in IMAGES {
        hub.node.wait(name);
    }
    for number in 1..=BRANCHES {
        hub.set(number, "schedule", "branch-night");
    }
    hub
}

fn branch(dir: &Path, hub: &Running, number: usize) -> Running {
    let name = format!("branch-{number:02}");
    let mut config = config(&dir.join(&name), &name, 0);
    (config.settle, config.rescan) = (LONG, LONG);
    let node = start(config);
    node.join(&hub.invite(Role::Writer));
    node
}

impl Hub {
    fn set(&self, number: usize, key: &str, value: &str) {
        let (peer, key, value) = (format!("branch-{number:02}"), key.to_owned(), value.to_owned());
        let _: PeersReport = self.node.ask(&Request::PeerSet { peer, key, value });
    }

    fn change(&self, image: &str, seed: u64, bytes: usize) {
        edit(&self.node.dir.join("images").join(image), 1 << 20, &noise(seed, bytes));
        let publish =
            Request::Publish { image: format!("vdisks/{image}"), changed: None, since: None };
        // A branch may be offering its own content of it.
        until("it is published", || match self.node.try_ask::<PublishReport>(&publish) {
            Ok(_) => true,
            Err(error) if error.code == "BUSY" => false,
            Err(error) => panic!("{image}: {error}"),
        });
    }

    fn hold(&self, peer: usize, paused: bool) {
        let peer = Some(format!("branch-{peer:02}"));
        let for_seconds = paused.then_some(14_400);
        let what = Affected { peer, for_seconds, ..Affected::default() };
        let ask = if paused { Request::Pause(what) } else { Request::Resume(what) };
        let _: OrdersReport = self.node.ask(&ask);
    }

    /// What a hub knows on a bad day: one branch is gone, one is held, one went its own way, one was
    /// changed by hand; all the rest is well.
    fn trouble(&mut self) {
        drop(self.branches[8].take());
        until("it is gone", || {
            let status: StatusReport = self.node.status();
            status.peers.iter().filter(|peer| peer.connected).count() == BRANCHES - 1
        });
        self.hold(11, true);
        let away = self.branches[10].as_ref().unwrap();
        edit(&store_of(away).join("lab-linux.raw"), 0, &noise(100, 5000));
        away.publish("lab-linux.raw");
        self.change("lab-linux.raw", 101, 9000);
        self.change("teaching-win11.raw", 102, 120_000);
        self.hold(11, false);
        self.hold(4, true);
        self.change("kiosk-2026.raw", 103, 40_000);
        edit(&store_of(self.branches[5].as_ref().unwrap()).join("server-2025.raw"), 0, b"by hand");
        std::thread::sleep(Duration::from_secs(3));
    }
}

/// Where a branch keeps the store that it joined.
fn store_of(node: &Running) -> PathBuf {
    let status: StatusReport = node.status();
    PathBuf::from(&status.stores[0].path)
}

/// A service with a configuration file, which ends with the test.
struct Filed {
    child: Child,
    file: PathBuf,
    at: SocketAddr,
    admin: String,
}

impl Drop for Filed {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Filed {
    fn start(dir: &Path) -> Filed {
        let run = |args: &[&str]| {
            clean(Command::new(env!("CARGO_BIN_EXE_blockferry"))).args(args).output()
        };
        let (root, images) = (dir.join("filed"), dir.join("taken"));
        let root_text = root.to_str().unwrap();
        let made = run(&["init", "--name", "filed", "--listen", "127.0.0.1:0", "--dir", root_text]);
        assert!(made.unwrap().status.success());
        std::fs::create_dir(&images).unwrap();
        std::fs::write(images.join("found.raw"), noise(7, 200_000)).unwrap();
        let token = run(&["token", "new", "admin", "--scope", "admin", "--json"]).unwrap();
        let token: serde_json::Value = serde_json::from_slice(&token.stdout).unwrap();
        let (admin, lines) = (token["token"].as_str().unwrap(), token["config"].as_str().unwrap());
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let over = format!(
            "[admin]\nhttp = \"{at}\"\n{lines}\n[stores.taken]\npath = \"{}\"\nadopt = true\n\
             [peers.branch-07]\nid = \"{}\"\nstores = [\"taken\"]\nschedule = \"branch-night\"\n",
            images.display(),
            "A".repeat(52),
        );
        std::fs::create_dir_all(root.join("conf.d")).unwrap();
        std::fs::write(root.join("conf.d/50-test.toml"), over).unwrap();
        let file = root.join("blockferry.toml");
        let text = std::fs::read_to_string(&file).unwrap() + SCHEDULE;
        std::fs::write(&file, text).unwrap();
        let mut serve = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
        serve.arg("serve").arg("--config").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = serve.spawn().unwrap();
        let filed = Filed { child, file, at, admin: admin.to_owned() };
        until("it answers", || Client::connect(&root.join("admin.sock")).is_ok());
        filed
    }
}

#[test]
fn the_page_in_a_browser() {
    let chromium = match browser() {
        Ok(chromium) => chromium,
        Err(why) => return eprintln!("{why}: skipped"),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut hub = hub(dir.path());
    let filed = Filed::start(dir.path());
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    let vendor = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/web/vendor");
    let about = json!({
        "url": format!("http://{}", hub.at), "admin": hub.admin, "operate": hub.operate, "watched": WATCHED,
        "aged": AGED, "generations": CHANGES.len() + 1,
        "filed": { "url": format!("http://{}", filed.at), "admin": filed.admin, "file": filed.file },
        "images": hub.node.dir.join("images"), "shots": shots, "chromium": chromium, "vendor": vendor,
    });
    let mut child = Command::new("node")
        .arg("run.mjs")
        .current_dir(tests())
        .env("PAGE", about.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = child.stdin.take().unwrap();
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap();
        eprintln!("{last}");
        if last == "please: trouble" {
            hub.trouble();
            writeln!(says, "done").unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{last}");
    let text = std::fs::read_to_string(&filed.file).unwrap();
    for kept in ["# Agreed with the branch in March.", "# where they are", "# Nobody is there at"] {
        assert!(text.contains(kept), "{kept:?} is gone from {text}");
    }
}
