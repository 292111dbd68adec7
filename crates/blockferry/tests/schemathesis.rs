//! What is served against its own description, by schemathesis: every operation with data that fits the
//! description and data that doesn't, with no token and with a wrong one, by methods it doesn't have.
//! Then with what fits and the names of real things (a store, an image with generations, one that
//! diverged, a peer that is there and one that isn't, adoptions), which are put into a copy of the
//! description: every operation must be answered well at least once. Streams end with what is kept.
//!
//! `just schemathesis` makes it ready below `target`; where it isn't, the test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use blockferry_node::api::{
    AdoptStatus, Affected, Client, ConflictsReport, Invitation, Joined, OrdersReport,
    PublishReport, Request, Role, StoresReport,
};
use clean::clean;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than either run takes on two slow cores.
const PATIENCE: Duration = Duration::from_secs(240);
/// Cases that are made for an operation and a way to make them, besides those that cover each rule
/// of the description.
const EXAMPLES: &str = "8";
/// What may be answered to what fits the description: what isn't there, what can't be now, what makes
/// no sense, a schedule that was changed.
const FITTING: &str = r#"["2xx", "401", "403", "404", "409", "412", "422", "429"]"#;
/// What can't be answered well here: there is no ticket, and who is paired by the configuration file
/// isn't parted from by command.
const NEVER_WELL: [(&str, &str); 2] =
    [("post", "/api/v1/join"), ("delete", "/api/v1/peers/{peer}")];

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
    socket: PathBuf,
    images: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Service {
    /// A node with these lines in its configuration, and a directory for images.
    fn start(dir: &Path, name: &str, config: &str) -> Service {
        let (root, images) = (dir.join(name), dir.join(format!("{name}-images")));
        std::fs::create_dir(&images).unwrap();
        let listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut init = command(&["init", "--name", name, "--listen", &listen, "--dir"]);
        let made = init.arg(&root).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::create_dir_all(root.join("conf.d")).unwrap();
        std::fs::write(root.join("conf.d/50-test.toml"), config).unwrap();
        let child = command(&["serve", "--config"])
            .arg(root.join("blockferry.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let service = Service { child: child.unwrap(), socket: root.join("admin.sock"), images };
        until("it answers", || Client::connect(&service.socket).is_ok());
        service
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        Client::connect(&self.socket).unwrap().ask(request).unwrap()
    }

    /// Writes an image and records it.
    fn publish(&self, name: &str, byte: u8) {
        std::fs::write(self.images.join(name), vec![byte; 300_000]).unwrap();
        let image = format!("vdisks/{name}");
        let request = Request::Publish { image, changed: None, since: None };
        until("it is published", || {
            let mut client = Client::connect(&self.socket).unwrap();
            client.ask::<PublishReport>(&request).is_ok()
        });
    }
}

fn until(what: &str, mut met: impl FnMut() -> bool) {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A hub, a branch, and where and by which token the hub is asked.
struct Pair {
    hub: Service,
    branch: Service,
    at: SocketAddr,
    token: String,
    dir: PathBuf,
}

impl Pair {
    fn start(dir: &Path) -> Pair {
        std::fs::create_dir(dir).unwrap();
        let made = command(&["token", "new", "all", "--scope", "admin", "--json"]).output();
        let made: Value = serde_json::from_slice(&made.unwrap().stdout).unwrap();
        let (token, lines) = (made["token"].as_str().unwrap(), made["config"].as_str().unwrap());
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "[admin]\nhttp = \"{at}\"\n{lines}\n[stores.vdisks]\npath = \"{}\"\nsettle = \"1h\"\n\
             [peers.away]\nid = \"{}\"\nstores = [\"vdisks\"]\n[schedules.night]\nzone = \"UTC\"\n",
            dir.join("hub-images").display(),
            "A".repeat(52),
        );
        let hub = Service::start(dir, "hub", &config);
        let branch = Service::start(dir, "branch", "");
        for generation in 1..=2 {
            hub.publish("disk.img", generation);
        }
        hub.publish("odd.img", 3);
        std::fs::create_dir(dir.join("spare")).unwrap();
        for name in ["old", "forward", "back"] {
            std::fs::create_dir(dir.join(name)).unwrap();
            let (store, path) = (name.to_owned(), dir.join(name));
            let add = Request::StoreAdd { name: store, path, role: Role::Writer };
            let _: StoresReport = hub.ask(&add);
            if name != "old" {
                let adopt = json!({ "cmd": "adopt_start", "store": name });
                let _: AdoptStatus = hub.ask(&serde_json::from_value(adopt).unwrap());
            }
            if name == "back" {
                let next = Request::AdoptNext { store: name.to_owned(), force: false };
                let _: AdoptStatus = hub.ask(&next);
            }
        }
        let (at, token, dir) = (at, token.to_owned(), dir.to_owned());
        let pair = Pair { hub, branch, at, token, dir };
        pair.diverge();
        pair
    }

    /// Pairs the two, and lets both change an image while they are apart.
    fn diverge(&self) {
        let (hub, branch) = (&self.hub, &self.branch);
        let store = "vdisks".to_owned();
        let invite = Request::Invite { store, role: Role::Writer, ttl_seconds: 600 };
        let Invitation { ticket, .. } = hub.ask(&invite);
        let path = Some(branch.images.clone());
        let _: Joined = branch.ask(&Request::Join { ticket, path, name: None });
        for image in ["disk.img", "odd.img"] {
            let whole = |dir: &Path| std::fs::read(dir.join(image)).ok();
            until("the branch has it", || whole(&branch.images) == whole(&hub.images));
        }
        let _: OrdersReport = hub.ask(&Request::Pause(Affected::default()));
        branch.publish("odd.img", 4);
        hub.publish("odd.img", 5);
        let _: OrdersReport = hub.ask(&Request::Resume(Affected::default()));
        let conflicts = Request::Conflicts { image: None };
        until("it diverged", || hub.ask::<ConflictsReport>(&conflicts).open > 0);
    }

    /// Has everything asked that this description allows, and in the mode `all` what it doesn't; what was
    /// answered: method, address, status.
    fn asked(&self, program: &Path, schema: &str, mode: &str) -> Vec<(String, String, u64)> {
        let (config, said) = (self.dir.join("schemathesis.toml"), self.dir.join("said"));
        let report = self.dir.join("report.har");
        let lines = format!(
            "base-url = \"http://{}\"\n[reports.har]\npath = \"{}\"\n\
             [checks.positive_data_acceptance]\nexpected-statuses = {FITTING}\n\
             [[operations]]\ninclude-path = \"/api/v1/events\"\nparameters = {{ follow = \"false\" }}\n\
             [[operations]]\ninclude-path = \"/api/v1/schedules/{{schedule}}\"\n\
             [operations.checks.missing_required_header]\nexpected-statuses = [\"401\", \"404\", \"428\"]\n",
            self.at,
            report.display(),
        );
        std::fs::write(&config, lines).unwrap();
        let mut asking = Command::new(program)
            .arg("--config-file")
            .arg(&config)
            .args(["--no-color", "run", schema])
            .args(["-H", &format!("Authorization: Bearer {}", self.token)])
            .args(["--phases", "examples,coverage,fuzzing", "--mode", mode, "--checks", "all"])
            .args([
                "--max-examples",
                EXAMPLES,
                "--request-timeout",
                "20",
                "--seed",
                "1",
                "--max-response-time",
                "15",
            ])
            // Python 3.11's parser counts its depth for all threads together and fails at random in two.
            .args(["--workers", "1"])
            .current_dir(&self.dir)
            .stdout(std::fs::File::create(&said).unwrap())
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
        let said = std::fs::read_to_string(said).unwrap();
        assert!(status.success(), "{status} after {:?}:\n{said}", began.elapsed());
        let cases = said.lines().rev().take(4).collect::<Vec<_>>();
        eprintln!("{:?}: {cases:?}", began.elapsed());
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        let entries = report["log"]["entries"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let told = entries.map(|entry| {
            let (request, status) = (&entry["request"], entry["response"]["status"].as_u64());
            (text(&request["method"]).to_lowercase(), text(&request["url"]), status.unwrap())
        });
        told.collect()
    }

    /// The description, with the names of what there is in the places where names are asked for.
    fn real(&self, program: &Path) -> Value {
        let client = program.with_file_name("python3");
        let get = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())";
        let url = format!("http://{}/openapi.json", self.at);
        let got = Command::new(client).args(["-c", get, &url]).output().unwrap();
        let mut document: Value = serde_json::from_slice(&got.stdout).unwrap();
        for (path, methods) in document["paths"].as_object_mut().unwrap() {
            for (method, operation) in methods.as_object_mut().unwrap() {
                let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
                for parameter in parameters.into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap_or_default();
                    if let Some(names) = named(method, path, name) {
                        parameter["schema"] = json!({ "type": "string", "enum": names });
                    }
                }
            }
        }
        let spare = self.dir.join("spare").display().to_string();
        let schemas = &mut document["components"]["schemas"];
        let mut set = |object: &str, field: &str, schema: Value| {
            let place = &mut schemas[object]["properties"][field];
            assert!(!place.is_null(), "{object} has no {field}");
            *place = schema;
        };
        let some = |names: &[&str]| json!({ "type": "string", "enum": names });
        let images = ["vdisks/disk.img", "vdisks/odd.img"];
        set("Affected", "peer", some(&["branch", "away"]));
        set("Affected", "store", some(&["vdisks"]));
        set("Affected", "image", some(&images));
        set("PushOrder", "peers", json!({ "type": "array", "items": some(&["branch", "away"]) }));
        // Who is away is waited for in vain: not for long.
        set("PushOrder", "wait_seconds", json!({ "type": "integer", "minimum": 1, "maximum": 2 }));
        set(
            "RollbackOrder",
            "generation",
            json!({ "type": "integer", "minimum": 1, "maximum": 3 }),
        );
        set("ResolveOrder", "keep", some(&["local", "both", "branch"]));
        set("LimitOrder", "peer", some(&["branch", "away"]));
        set("VerifyOrder", "image", some(&[&images[..], &["vdisks"]].concat()));
        set("NewTicket", "store", some(&["vdisks"]));
        set("NewStore", "path", some(&[&spare]));
        set("PeerSetting", "key", some(&["compression", "polite", "schedule", "weight"]));
        set("PeerSetting", "value", some(&["3", "true", "night"]));
        document
    }
}

/// What stands for a name of an address.
fn named(method: &str, path: &str, name: &str) -> Option<Vec<&'static str>> {
    Some(match (name, path) {
        // What is taken away is something that nothing else needs.
        ("store", "/api/v1/stores/{store}") if method == "delete" => vec!["old"],
        ("peer", "/api/v1/peers/{peer}") if method == "delete" => vec!["away"],
        ("store", "/api/v1/adoption/{store}/back") => vec!["back"],
        ("store", path) if path.starts_with("/api/v1/adoption/") => vec!["forward"],
        ("store", _) => vec!["vdisks"],
        ("image", "/api/v1/conflicts") => vec!["vdisks/odd.img", "vdisks/disk.img"],
        ("image", path) if path.ends_with("/resolve") => vec!["odd.img"],
        ("image", _) => vec!["disk.img"],
        ("peer", path) if path.starts_with("/api/v1/peers/") => vec!["branch"],
        ("peer", _) => vec!["branch", "away"],
        ("require", _) => vec!["all", "1", "branch", "branch,away"],
        ("schedule", _) => vec!["night"],
        ("If-Match", _) => vec!["*"],
        _ => return None,
    })
}

/// The operation that an address belongs to, of those that are described.
fn operation<'a>(paths: &'a serde_json::Map<String, Value>, url: &str) -> Option<&'a str> {
    let path = url.split("://").nth(1)?.split_once('/')?.1.split('?').next()?;
    let fits = |template: &str| {
        let (own, said) = (template.trim_start_matches('/').split('/'), path.split('/'));
        own.clone().count() == said.clone().count()
            && own.zip(said).all(|(own, said)| own.starts_with('{') || own == said)
    };
    let mut found: Vec<&str> =
        paths.keys().map(String::as_str).filter(|template| fits(template)).collect();
    found.sort_by_key(|template| template.matches('{').count());
    found.first().copied()
}

#[test]
fn what_is_served_is_what_is_described() {
    let Some(program) = program() else {
        eprintln!("skipped: schemathesis is not there (just schemathesis)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut made_up = Pair::start(&dir.path().join("made-up"));
    made_up.asked(&program, &format!("http://{}/openapi.json", made_up.at), "all");
    assert!(made_up.hub.child.try_wait().unwrap().is_none(), "it still runs");
    // It reads names in answers and takes away what it finds: the next run shall find all of it.
    drop(made_up);
    let mut pair = Pair::start(&dir.path().join("real"));
    let real = pair.real(&program);
    let file = dir.path().join("real.json");
    std::fs::write(&file, real.to_string()).unwrap();
    let answers = pair.asked(&program, file.to_str().unwrap(), "positive");
    assert!(pair.hub.child.try_wait().unwrap().is_none(), "it still runs");
    let paths = real["paths"].as_object().unwrap();
    let well: BTreeSet<(&str, &str)> = answers
        .iter()
        .filter(|(_, _, status)| (200..300).contains(status))
        .filter_map(|(method, url, _)| Some((method.as_str(), operation(paths, url)?)))
        .collect();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let one = (method.as_str(), path.as_str());
            let of_it = |(method, url, _): &&(String, String, u64)| {
                method == one.0 && operation(paths, url) == Some(one.1)
            };
            let met = NEVER_WELL.contains(&one) || well.contains(&one);
            assert!(met, "{one:?}: {:?}", answers.iter().filter(of_it).collect::<Vec<_>>());
        }
    }
    let all = answers.iter().filter(|(_, _, status)| (200..300).contains(status)).count();
    eprintln!("{} cases with real names, {all} of them answered well", answers.len());
}
