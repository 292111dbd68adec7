//! `doctor`, `bundle` and `status --watch` of real services: what is broken is found, what is secret
//! stays, the terminal is left as it was, and the journal gets fields.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use clean::clean;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const BINARY: &str = env!("CARGO_BIN_EXE_blockferry");

/// A node in a directory of its own, and its service when it runs.
struct Node {
    directory: TempDir,
    service: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Node {
    fn new() -> Node {
        let directory = tempfile::tempdir().unwrap();
        let mut init = clean(Command::new(BINARY));
        init.args(["init", "--name", "test", "--listen", "127.0.0.1:0", "--dir"]);
        assert!(init.arg(directory.path()).output().unwrap().status.success());
        Node { directory, service: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Appends to the configuration.
    fn configure(&self, text: &str) {
        let path = self.path("blockferry.toml");
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, before + "\n" + text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(Command::new(BINARY));
        command.args(args).arg("--config").arg(self.path("blockferry.toml")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn start(&mut self) {
        let mut serve = self.command(&["serve"]);
        self.service = Some(serve.stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while self.run(&["status", "-q"]).0 != 0 {
            assert!(Instant::now() < deadline, "the service doesn't start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            signal("-TERM", &service);
            let _ = service.wait();
        }
    }

    /// The exit status of `doctor`, and its report.
    fn doctor(&self, args: &[&str]) -> (i32, Value) {
        let (status, stdout, stderr) = self.run(&[&["doctor", "--json"], args].concat());
        (status, serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}")))
    }
}

fn signal(name: &str, child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// What was found of a kind.
fn found<'a>(report: &'a Value, code: &str) -> Vec<&'a Value> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().filter(|finding| finding["code"] == code).collect()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn doctor_without_a_service() {
    let node = Node::new();
    let (status, report) = node.doctor(&[]);
    assert_eq!((status, &report["online"]), (10, &Value::Bool(false)));
    assert_eq!(found(&report, "SERVICE_UNREACHABLE").len(), 1);
    // Asked not to look for it, its absence is none.
    let (_, report) = node.doctor(&["--offline"]);
    assert_eq!((&report["schema"], &report["errors"]), (&"v1".into(), &0.into()), "{report}");
    set_mode(&node.path("state"), 0o755);
    set_mode(&node.path("identity.key"), 0o644);
    set_mode(&node.path("blockferry.toml"), 0o666);
    let (status, report) = node.doctor(&["--offline"]);
    assert_eq!(status, 1);
    assert_eq!(found(&report, "KEY_UNSAFE").len(), 1, "{report}");
    let unsafe_files = found(&report, "FILE_UNSAFE");
    assert_eq!(unsafe_files.len(), 2, "{report}");
    assert!(unsafe_files.iter().all(|f| f["fix"].as_str().unwrap().starts_with("chmod ")));
    node.configure("[stores.a]\npath = \"/nonexistent/images\"\n");
    let (_, report) = node.doctor(&["--offline"]);
    assert_eq!(found(&report, "STORE_MISSING").len(), 1, "{report}");
    node.configure("[stores.b]\npaht = \"/x\"\n[admin]\nhttp = \"0.0.0.0:7780\"\n");
    let (status, report) = node.doctor(&["--offline"]);
    assert_eq!(status, 78);
    assert!(!found(&report, "CONFIG_ERROR").is_empty(), "{report}");
    let (_, stdout, stderr) = node.run(&["doctor", "--offline"]);
    assert!(stdout.contains("[CONFIG_ERROR]\n        fix: "), "{stdout}");
    assert!(stderr.contains("without the service"), "{stderr}");
}

#[test]
fn doctor_finds_what_is_broken_in_a_running_node() {
    let mut node = Node::new();
    let images = node.path("images");
    std::fs::create_dir(&images).unwrap();
    node.configure(&format!("[stores.vdisks]\npath = {images:?}\n"));
    node.configure(
        "[peers.gone]\nid = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n\
                    address = [\"no-such-host.invalid:7700\"]\nstores = [\"vdisks\"]\n",
    );
    node.start();
    let (_, report) = node.doctor(&[]);
    assert_eq!((&report["online"], &report["errors"]), (&true.into(), &0.into()), "{report}");
    assert_eq!(found(&report, "NO_ADDRESS")[0]["about"], "peer gone");
    set_mode(&images, 0o777);
    std::fs::rename(images.join(".blockferry/store"), node.path("marker")).unwrap();
    let (status, report) = node.doctor(&[]);
    assert_eq!(status, 1);
    let missing = found(&report, "STORE_MISSING");
    assert_eq!(missing.len(), 1, "{report}");
    assert_eq!(missing[0]["about"], "store vdisks");
    std::fs::rename(node.path("marker"), images.join(".blockferry/store")).unwrap();
    let (_, report) = node.doctor(&[]);
    assert_eq!(found(&report, "STORE_UNSAFE").len(), 1, "{report}");
}

/// Every text of an archive, by name.
fn unpacked(path: &Path) -> Vec<(String, String)> {
    let file = std::fs::File::open(path).unwrap();
    let mut tar = tar::Archive::new(zstd::Decoder::new(file).unwrap());
    let mut texts = Vec::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        texts.push((name, text));
    }
    texts
}

/// The forms that bytes may be written in.
fn forms(bytes: &[u8]) -> Vec<String> {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    vec![
        hex.to_uppercase(),
        hex,
        data_encoding::BASE64.encode(bytes),
        data_encoding::BASE64URL_NOPAD.encode(bytes),
        data_encoding::BASE32_NOPAD.encode(bytes),
        data_encoding::BASE32_NOPAD.encode(bytes).to_lowercase(),
    ]
}

/// A running node with a store, an image and a token; the secrets that it has and gave out, in all
/// forms that they may be written in.
fn node_with_secrets() -> (Node, Vec<String>) {
    let mut node = Node::new();
    let (_, made, _) = node.run(&["token", "new", "prometheus", "--scope", "read", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let (token, hash) = (made["token"].as_str().unwrap(), made["hash"].as_str().unwrap());
    let images = node.path("images");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("a.raw"), vec![7; 100_000]).unwrap();
    node.configure(&format!(
        "[stores.vdisks]\npath = {images:?}\nsettle = \"100ms\"\n\
         [admin.tokens.prometheus]\nhash = {hash:?}\nscope = \"read\"\n"
    ));
    node.start();
    let (_, ticket, _) = node.run(&["invite", "--store", "vdisks"]);
    let ticket = ticket.trim();
    assert!(ticket.starts_with("bf1"), "{ticket}");
    // A secret where people put it by mistake.
    assert_ne!(node.run(&["join", ticket]).0, 0);

    let mut secrets = vec![token.to_owned(), token.trim_start_matches("bft_").to_owned()];
    secrets.push(hash.trim_start_matches("blake3:").to_owned());
    secrets.push(ticket.to_owned());
    let whole = data_encoding::BASE64URL_NOPAD.decode(&ticket.as_bytes()[3..]).unwrap();
    let decoded = blockferry_node::membership::ticket::Ticket::decode(ticket).unwrap();
    secrets.extend(forms(&whole));
    secrets.extend(forms(&decoded.secret));
    secrets.extend(forms(&decoded.secret_hash()));
    let pem = std::fs::read_to_string(node.path("identity.key")).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
    secrets.push(body);
    // The 32 bytes of the key, wherever they lie in its PKCS#8.
    secrets.extend(der.windows(32).flat_map(forms));
    let marker = std::fs::read(images.join(".blockferry/store")).unwrap();
    secrets.extend(forms(&marker[marker.len() - 32..]));
    (node, secrets)
}

#[test]
fn a_bundle_holds_no_secret() {
    let (mut node, secrets) = node_with_secrets();
    let out = node.path("support.tar.zst");
    let (status, stdout, stderr) = node.run(&["bundle", "--out", out.to_str().unwrap()]);
    assert_eq!((status, stdout.trim()), (0, out.to_str().unwrap()), "{stderr}");
    let mode = std::fs::metadata(&out).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let (_, id, _) = node.run(&["id"]);
    let texts = unpacked(&out);
    for (name, text) in &texts {
        assert!(stderr.contains(name), "{name} is listed: {stderr}");
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{name} holds {secret}");
        }
        assert!(!text.contains("BEGIN") && !text.contains(id.trim()), "{name}");
    }
    // And it is of use.
    for (name, part) in [
        ("README.txt", "Secrets are left out"),
        ("version.json", "\"kernel\""),
        ("machine.json", "net.core.rmem_max"),
        ("machine.json", "\"store\": \"vdisks\""),
        ("doctor.json", "\"online\": true"),
        ("status.json", "\"name\": \"vdisks\""),
        ("images.json", "a.raw"),
        ("backlog.json", "\"items\""),
        ("plans.json", "\"plans\""),
        ("orders.json", "\"orders\""),
        ("conflicts.json", "\"conflicts\""),
        ("config.json", "admin.tokens.prometheus.scope"),
        ("events.jsonl", "\"code\":\"STARTED\""),
        ("metrics.txt", "blockferry_uptime_seconds"),
        ("log.txt", "not there"),
    ] {
        let found = texts.iter().find(|(found, _)| found == name);
        let (_, text) = found.unwrap_or_else(|| panic!("{name} is not there"));
        assert!(text.contains(part), "{name}: {text}");
    }
    let (status, _, stderr) = node.run(&["bundle", "--out", out.to_str().unwrap()]);
    assert_eq!(status, 2, "never over what is there: {stderr}");
    node.stop();
    let other = node.path("offline.tar.zst");
    let (status, stdout, _) = node.run(&["bundle", "--json", "--out", other.to_str().unwrap()]);
    assert_eq!(status, 0, "without the service there is less in it");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["entries"].as_array().unwrap().len(), texts.len());
    let unreached = |(name, text): &(String, String)| {
        name == "status.json" && text.contains("SERVICE_UNREACHABLE")
    };
    assert!(unpacked(&other).iter().any(unreached));
}

/// The lines that a command prints, as they come.
fn lines(child: &mut Child) -> Receiver<String> {
    let stdout = child.stdout.take().unwrap();
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

fn wait_for(lines: &Receiver<String>, what: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("{what} was not said"));
        if line.contains(what) {
            return line;
        }
    }
}

#[test]
fn watching_without_a_terminal_prints_what_changes() {
    let mut node = Node::new();
    node.start();
    let watch = |args: &[&str]| {
        let mut command = node.command(&[&["status", "--watch"], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (mut blocks, mut objects) = (watch(&[]), watch(&["--json"]));
    let (text, json) = (lines(&mut blocks), lines(&mut objects));
    wait_for(&text, "no stores");
    wait_for(&json, "\"stores\":[]");
    let images = node.path("images");
    std::fs::create_dir(&images).unwrap();
    assert_eq!(node.run(&["store", "add", "vdisks", images.to_str().unwrap()]).0, 0);
    wait_for(&text, "vdisks");
    let line = wait_for(&json, "vdisks");
    let object: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["schema"], "v1");
    for child in [&mut blocks, &mut objects] {
        signal("-INT", child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}

#[test]
fn watching_on_a_terminal_leaves_it_as_it_was() {
    let mut node = Node::new();
    node.start();
    // script(1) is a terminal for whom it runs.
    let line = format!(
        "stty rows 10 cols 40; exec {BINARY} status --watch --config {}",
        node.path("blockferry.toml").display()
    );
    let mut script = clean(Command::new("script"));
    script.args(["-qfec", &line, "/dev/null"]).env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = script.spawn() else {
        eprintln!("script: not there: skipped (Debian: bsdutils)");
        return;
    };
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (sender, frames) = channel();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
            let _ = sender.send(String::from_utf8_lossy(&all).matches("Ctrl-C ends").count());
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    let deadline = Instant::now() + PATIENCE;
    while frames.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap() < 2 {}
    stdin.write_all(&[3]).unwrap();
    let status = child.wait().unwrap();
    let all = reader.join().unwrap();
    assert_eq!(status.code(), Some(130), "{all:?}");
    let count = |what: &str| all.matches(what).count();
    assert_eq!((count("\u{1b}[?1049h"), count("\u{1b}[?1049l")), (1, 1), "{all:?}");
    assert_eq!((count("\u{1b}[?25l"), count("\u{1b}[?25h")), (1, 1), "the cursor is back");
    let (_, after) = all.split_once("\u{1b}[?1049l").unwrap();
    assert!(!after.contains("\u{1b}["), "nothing is drawn afterwards: {after:?}");
    assert_eq!(count("\u{1b}[2J"), 0, "a cleared screen would flicker");
    for frame in all.split("\u{1b}[H").skip(1) {
        let rows = frame.split("\u{1b}[?2026l").next().unwrap().split("\r\n").count();
        assert!(rows <= 10, "{rows} rows: {frame:?}");
    }
}

#[test]
fn the_journal_gets_codes_and_priorities() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("the journal's place takes root: skipped");
        return;
    }
    let node = Node::new();
    let journal = node.path("journal");
    std::fs::create_dir(&journal).unwrap();
    let socket = UnixDatagram::bind(journal.join("socket")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Where journald listens, for this process alone.
    let line = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
         mount --bind {} /run/systemd/journal && \
         exec env BLOCKFERRY_LOG_FORMAT=journald {BINARY} serve --config {}",
        journal.display(),
        node.path("blockferry.toml").display()
    );
    let mut command = clean(Command::new("unshare"));
    let Ok(mut child) = command.args(["-m", "sh", "-c", &line]).stdin(Stdio::null()).spawn() else {
        eprintln!("unshare: not there: skipped");
        return;
    };
    let mut bytes = vec![0; 1 << 16];
    let entry = loop {
        if let Some(status) = child.try_wait().unwrap() {
            eprintln!("no mount namespace ({status}): skipped");
            return;
        }
        let count = socket.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if text.contains("BLOCKFERRY_CODE") {
            break text;
        }
    };
    signal("-TERM", &child);
    child.wait().unwrap();
    for (name, value) in
        [("BLOCKFERRY_CODE", "STARTED"), ("PRIORITY", "6"), ("SYSLOG_IDENTIFIER", "blockferry")]
    {
        // A field with its length, as the journal's protocol has it.
        let length = String::from_utf8((value.len() as u64).to_le_bytes().to_vec()).unwrap();
        let field = format!("{name}\n{length}{value}\n");
        assert!(entry.contains(&field), "{name}: {entry:?}");
    }
}
