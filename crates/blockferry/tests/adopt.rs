//! Adoption by real services: `kill -9` in the middle of each move and while images are replaced, and
//! the walk through `docs/adoption.md`, whose commands are run as they stand there.
//!
//! `BLOCKFERRY_ADOPT_KILLS` says how many kills (default 30), `BLOCKFERRY_ADOPT_SEED` from which seed.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use clean::clean;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const IMAGES: usize = 12;

/// A node in a directory of its own, run by the real binary.
struct Service {
    directory: PathBuf,
    child: Option<Child>,
}

impl Service {
    fn new(parent: &Path, name: &str) -> Service {
        let service = Service { directory: parent.join(name), child: None };
        let mut init = program();
        init.args(["init", "-q", "--name", name, "--listen", "127.0.0.1:0", "--dir"]);
        good(&init.arg(&service.directory).output().unwrap());
        std::fs::create_dir(service.images()).unwrap();
        service
    }

    fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("blockferry.toml")
    }

    fn start(&mut self) {
        let log = self.directory.join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut serve = program();
        serve.arg("--config").arg(self.config()).args(["serve", "--until-stdin-closes"]);
        serve.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.child = Some(serve.spawn().unwrap());
        let until = Instant::now() + LONG;
        while !self.run(&["status"]).status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        good(&self.run(arguments))
    }

    /// The row of the store in `adopt status`.
    fn row(&self) -> serde_json::Value {
        let text = self.good(&["--json", "adopt", "status"]);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        status["stores"][0].clone()
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = (child.kill(), child.wait());
        }
    }
}

/// The binary without the user's settings; images settle at once.
fn program() -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.env("BLOCKFERRY_NODE_SETTLE", "50ms").env("BLOCKFERRY_NODE_RESCAN", "1s");
    command.env("BLOCKFERRY_LIMITS_STORE_FREE_MIN", "1 MiB");
    command
}

fn good(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn until(what: &str, services: &[&Service], mut met: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !met() {
        let logs = || services.iter().map(|s| s.log()).collect::<Vec<_>>().join("\n--\n");
        assert!(Instant::now() < end, "{what} never happened\n{}", logs());
        thread::sleep(Duration::from_millis(20));
    }
}

type Seen = BTreeMap<String, (u64, i64, i64, Vec<u8>)>;

fn seen(directory: &Path) -> Seen {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|entry| {
            let info = entry.metadata().unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, (info.ino(), info.mtime(), info.mtime_nsec(), bytes))
        })
        .collect()
}

fn contents(seen: &Seen) -> BTreeMap<&str, &[u8]> {
    seen.iter().map(|(name, (.., bytes))| (name.as_str(), bytes.as_slice())).collect()
}

fn image(number: usize, version: u8) -> Vec<u8> {
    let mut bytes = vec![0; 40_000];
    let seed = [number as u8, 7];
    blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut bytes);
    bytes[20_000..20_100].fill(version);
    bytes
}

/// A hub and a branch where the old tool left an older copy of most images.
fn scene(parent: &Path) -> (Service, Service) {
    let (mut hub, mut branch) = (Service::new(parent, "hub"), Service::new(parent, "branch"));
    for number in 0..IMAGES {
        let name = format!("disk-{number:02}.img");
        std::fs::write(hub.images().join(&name), image(number, 2)).unwrap();
        if number > 1 {
            std::fs::write(branch.images().join(&name), image(number, 1)).unwrap();
        }
    }
    std::fs::write(branch.images().join("only-here.img"), image(99, 1)).unwrap();
    hub.start();
    branch.start();
    hub.good(&["store", "add", "vdisks", hub.images().to_str().unwrap()]);
    let ticket = hub.good(&["-q", "invite", "--store", "vdisks", "--role", "mirror"]);
    let at = branch.images();
    let start = ["adopt", "start", "--ticket", ticket.trim(), "--at", at.to_str().unwrap()];
    branch.good(&start);
    until("it is recorded", &[&branch], || {
        let row = branch.row();
        row["unrecorded"] == 0 && row["recorded"] == IMAGES - 1
    });
    (hub, branch)
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().expect(name))
}

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

#[test]
fn adoption_killed_in_each_move_goes_on_or_back() {
    let kills = setting("BLOCKFERRY_ADOPT_KILLS", 30);
    let mut numbers = Numbers(setting("BLOCKFERRY_ADOPT_SEED", 1));
    let directory = tempfile::tempdir().unwrap();
    let (hub, mut branch) = scene(directory.path());
    let (old, new) = (seen(&branch.images()), seen(&hub.images()));
    let began = Instant::now();
    let (mut half_way, mut moves) = (0, BTreeMap::<String, u64>::new());
    for kill in 0..kills {
        let phase = branch.row()["phase"].as_str().unwrap().to_owned();
        let order = match phase.as_str() {
            "observe" => "next",
            _ if numbers.below(4) > 0 => "next",
            _ => "back",
        };
        // From active only back: the end is tried last.
        let order = if phase == "active" { "back" } else { order };
        *moves.entry(format!("{phase} {order}")).or_default() += 1;
        if phase == "active" && numbers.below(2) == 0 {
            until("all is replaced", &[&hub, &branch], || {
                let now = seen(&branch.images());
                contents(&new).iter().all(|(name, bytes)| contents(&now).get(name) == Some(bytes))
            });
        }
        let mut asked = branch.command(&["adopt", order, "vdisks"]);
        let mut asked = asked.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(numbers.below(120_000)));
        branch.kill();
        asked.wait().unwrap();
        let found = seen(&branch.images());
        half_way +=
            u64::from(found != old && found.values().any(|file| old.values().any(|o| o == file)));
        // Whatever is there is one whole image or the other.
        for (name, (.., bytes)) in &found {
            let may_be = [old.get(name), new.get(name)].into_iter().flatten();
            assert!(may_be.map(|file| &file.3).any(|known| known == bytes), "{kill}: {name}");
        }
        branch.start();
        let row = branch.row();
        assert!(row["going_to"].is_null(), "{kill}: {row}");
        if row["phase"] != "active" {
            assert!(seen(&branch.images()) == old, "{kill}: not as it was, in {}", row["phase"]);
        }
    }
    // The end, killed too: it goes on to the end.
    while branch.row()["phase"] != "active" {
        until("everything is recorded", &[&branch], || branch.row()["unrecorded"] == 0);
        branch.good(&["adopt", "next", "vdisks"]);
    }
    until("all is replaced", &[&hub, &branch], || branch.row()["old_tool"] == IMAGES - 2);
    let mut asked = branch.command(&["-y", "adopt", "next", "vdisks"]).spawn().unwrap();
    thread::sleep(Duration::from_micros(numbers.below(60_000)));
    branch.kill();
    asked.wait().unwrap();
    branch.start();
    if branch.row()["phase"] == "active" {
        branch.good(&["-y", "adopt", "next", "vdisks"]);
    }
    let row = branch.row();
    assert_eq!((&row["phase"], &row["old_tool"]), (&"off".into(), &0.into()), "{row}");
    let now = seen(&branch.images());
    assert!(contents(&new).iter().all(|(name, bytes)| contents(&now)[name] == *bytes));
    assert!(now["only-here.img"] == old["only-here.img"]);
    writeln!(
        std::io::stderr(),
        "kill -9 in adoption: {kills} kills in {:.0} s, {half_way} with some images replaced and some \
         not; {moves:?}; none bad",
        began.elapsed().as_secs_f64()
    )
    .unwrap();
    assert!(half_way > 0, "no kill came in the middle of a move");
}

/// The commands of a page: what follows ```sh HOST until the fence ends, line by line.
fn commands(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut host = None::<String>;
    for line in page.lines() {
        match (line.strip_prefix("```"), &host) {
            (Some(info), None) => {
                host = info.strip_prefix("sh ").map(str::to_owned).or(Some(String::new()));
            }
            (Some(_), Some(_)) => host = None,
            (None, Some(host)) if !host.is_empty() => found.push((host.clone(), line.to_owned())),
            _ => {}
        }
    }
    found
}

#[test]
fn the_walk_through_adoption_goes_as_it_is_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/adoption.md");
    let page = std::fs::read_to_string(page).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut services = BTreeMap::new();
    for name in ["hub", "branch"] {
        let mut service = Service::new(directory.path(), name);
        let version = if name == "hub" { 2 } else { 1 };
        std::fs::write(service.images().join("win11.vhdx.raw"), image(1, version)).unwrap();
        std::fs::write(service.images().join("tools.iso"), image(2, 0)).unwrap();
        service.start();
        services.insert(name.to_owned(), service);
    }
    let export = directory.path().join("dfsr.txt");
    std::fs::write(
        &export,
        "GroupName : RG\r\nFolderName : vdisks\r\nFileNameToExclude : {~*}\r\n",
    )
    .unwrap();
    let (mut ticket, mut ran) = (String::new(), 0);
    for (host, line) in commands(&page) {
        let service = &services[&host];
        let line = line
            .replace("TICKET", ticket.trim())
            .replace("dfsr.txt", export.to_str().unwrap())
            .replace("/srv/vdisks", service.images().to_str().unwrap());
        let Some(arguments) = line.strip_prefix("blockferry ") else {
            panic!("the page has a command that isn't ours: {line}");
        };
        let arguments: Vec<&str> = arguments.split(' ').collect();
        // What the page says is true a moment later.
        let end = Instant::now() + LONG;
        let output = loop {
            let output = service.run(&arguments);
            let code = output.status.code();
            let report = arguments[..2] == ["adopt", "report"];
            if output.status.success() || report && code == Some(3) {
                break output;
            }
            assert!(code == Some(3) && Instant::now() < end, "{line}: {output:?}");
            thread::sleep(Duration::from_millis(100));
        };
        if arguments[0] == "invite" || arguments[1] == "invite" {
            ticket = String::from_utf8(output.stdout).unwrap();
        }
        ran += 1;
    }
    assert!(ran >= 10, "only {ran} commands");
    let (hub, branch) = (&services["hub"], &services["branch"]);
    let equal = || contents(&seen(&hub.images())) == contents(&seen(&branch.images()));
    until("the branch has what the hub has", &[hub, branch], equal);
    assert_eq!(branch.row()["phase"], "off");
}
