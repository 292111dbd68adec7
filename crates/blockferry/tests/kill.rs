//! Two real services, an image that keeps changing, and `kill -9` at random moments.
//!
//! When the killed service is back, and at once if it was the sender, the receiver's file must be a
//! whole generation, never one older than it showed before; the service must answer within 2 s. At
//! the end both nodes converge and nothing is left in staging or quarantine.
//!
//! `BLOCKFERRY_KILLS` says how many (default 300), `BLOCKFERRY_KILL_SEED` from which seed.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use blockferry_node::api::{
    AdminError, Client, Invitation, Joined, PublishReport, ReadyReport, Request, Require, Role,
    StatusReport, StoresReport, VerifyDone,
};
use clean::clean;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const KILLS: usize = 300;
const IMAGE_BYTES: usize = 24 << 20;
const PAGE_BYTES: usize = 4096;
const READY_LIMIT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);
/// So often both nodes must come to rest.
const REST_EVERY: usize = 25;
const IMAGE: &str = "killed/image.raw";
const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// A sequence of numbers from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn moment(&mut self, longest_ms: u64) -> Duration {
        Duration::from_micros(self.below(longest_ms * 1000))
    }
}

/// A node in a directory of its own, run by the real binary.
struct Service {
    directory: PathBuf,
    child: Option<Child>,
}

impl Service {
    fn create(parent: &Path, name: &str) -> Service {
        let service = Service { directory: parent.join(name), child: None };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listen = socket.local_addr().unwrap().to_string();
        let args = ["init", "--quiet", "--name", name, "--listen", &listen, "--dir"];
        let output = command().args(args).arg(&service.directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::create_dir(service.images()).unwrap();
        service
    }

    fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    fn image(&self) -> PathBuf {
        self.images().join("image.raw")
    }

    /// Names in one of the store's private directories.
    fn private(&self, directory: &str) -> Vec<String> {
        let path = self.images().join(".blockferry").join(directory);
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Starts the service; how long until it answered.
    fn start(&mut self) -> Duration {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let config = self.directory.join("blockferry.toml");
        let mut command = command();
        command.arg("--config").arg(config).args(["serve", "--until-stdin-closes"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let began = Instant::now();
        self.child = Some(command.spawn().unwrap());
        while self.try_ask::<StatusReport>(&Request::Status {}).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ended by itself with {ended:?}\n{}", self.last_words());
            assert!(began.elapsed() < LONG, "never ready\n{}", self.last_words());
            thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "ended by itself\n{}", self.last_words());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn try_ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, AdminError> {
        ask(&self.socket(), request)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        let answer = self.try_ask(request);
        answer.unwrap_or_else(|e| {
            panic!("{request:?}: {}: {}\n{}", e.code, e.message, self.last_words())
        })
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("serve.log")
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(30).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{}:\n{}", self.log().display(), lines.join("\n"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, AdminError> {
    let mut client = Client::connect(socket)?;
    client.set_timeout(Some(LONG));
    client.ask(request)
}

/// The binary without the user's settings: images settle at once, all of the disk may be used.
fn command() -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.env("BLOCKFERRY_NODE_SETTLE", "50ms").env("BLOCKFERRY_NODE_RESCAN", "1s");
    command.env("BLOCKFERRY_LIMITS_STORE_FREE_MIN", "1 MiB");
    command
}

/// When a kill comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While the nodes find each other.
    Connect,
    /// While the receiver builds a new content.
    Transfer,
    /// Right after the receiver's file has become another one.
    Commit,
    /// Whenever.
    Any,
}

/// The services, the image, and what was seen of it.
struct Trial {
    numbers: Numbers,
    services: [Service; 2],
    content: Vec<u8>,
    /// Which generation a hash belongs to.
    known: HashMap<blake3::Hash, usize>,
    latest: usize,
    /// Newest generation that the receiver showed.
    shown: usize,
    worst_ready: Duration,
    /// Kills while a new content was being built.
    staged: usize,
    /// Kills within milliseconds after the receiver's file had become another one.
    committed: usize,
    looks: usize,
    /// Generations that the receiver showed at some look.
    arrived: usize,
    publishing: Option<JoinHandle<Result<PublishReport, AdminError>>>,
}

impl Trial {
    fn new(parent: &Path, seed: u64) -> Trial {
        let mut numbers = Numbers(seed);
        let mut content = vec![0; IMAGE_BYTES];
        for page in content.chunks_mut(PAGE_BYTES) {
            let kind = numbers.below(4);
            fill(page, kind, numbers.next());
        }
        let services = ["sender", "receiver"].map(|name| Service::create(parent, name));
        Trial {
            numbers,
            services,
            content,
            known: HashMap::new(),
            latest: 0,
            shown: 0,
            worst_ready: Duration::ZERO,
            staged: 0,
            committed: 0,
            looks: 0,
            arrived: 0,
            publishing: None,
        }
    }

    /// Starts both and makes them members of one store.
    fn join(&mut self) {
        for service in &mut self.services {
            service.start();
        }
        let [sender, receiver] = &self.services;
        let (name, path) = ("killed".to_owned(), sender.images());
        let _: StoresReport =
            sender.ask(&Request::StoreAdd { name: name.clone(), path, role: Role::Writer });
        let invite = Request::Invite { store: name, role: Role::Mirror, ttl_seconds: 600 };
        let ticket = sender.ask::<Invitation>(&invite).ticket;
        let path = Some(receiver.images());
        let _: Joined = receiver.ask(&Request::Join { ticket, path, name: None });
    }

    /// Changes the image in several places, puts it into the sender's store as a whole, and asks
    /// for a generation of it, which a kill may prevent.
    fn change(&mut self) {
        for _ in 0..1 + self.numbers.below(12) {
            let pages = 1 + self.numbers.below(64) as usize;
            let first =
                self.numbers.below((self.content.len() / PAGE_BYTES - pages) as u64) as usize;
            let (kind, seed) = (self.numbers.below(4), self.numbers.next());
            let span = first * PAGE_BYTES..(first + pages) * PAGE_BYTES;
            for (page, seed) in self.content[span].chunks_mut(PAGE_BYTES).zip(seed..) {
                fill(page, kind, seed);
            }
        }
        // No two generations are equal, and some are longer or shorter than the one before.
        let size = IMAGE_BYTES - self.numbers.below(3) as usize * 1000;
        self.content.resize(size.next_multiple_of(PAGE_BYTES), 7);
        self.latest += 1;
        self.content[..8].copy_from_slice(&(self.latest as u64).to_le_bytes());
        let bytes = &self.content[..size];
        self.known.insert(blake3::hash(bytes), self.latest);
        let sender = &self.services[SENDER];
        let coming = sender.directory.join("coming");
        std::fs::write(&coming, bytes).unwrap();
        std::fs::rename(coming, sender.image()).unwrap();
        let socket = sender.socket();
        let request = Request::Publish { image: IMAGE.into(), changed: None, since: None };
        if self.numbers.below(2) == 0 {
            self.publishing = Some(thread::spawn(move || ask(&socket, &request)));
        }
    }

    /// What the receiver shows must be a generation, and none older than before.
    fn look(&mut self) {
        self.looks += 1;
        let path = self.services[RECEIVER].image();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                assert_eq!(self.shown, 0, "the image is gone: {error}");
                return;
            }
        };
        let generation = self.known.get(&blake3::hash(&bytes)).copied();
        let generation = generation.unwrap_or_else(|| {
            panic!("no generation looks like this, {} bytes; {}", bytes.len(), self.words())
        });
        assert!(generation >= self.shown, "back from {} to {generation}", self.shown);
        self.arrived += usize::from(generation > self.shown);
        self.shown = generation;
    }

    fn words(&self) -> String {
        self.services.iter().map(Service::last_words).collect::<Vec<_>>().join("\n")
    }

    /// Waits for the moment; gives up where it doesn't come.
    fn await_moment(&mut self, moment: Moment) {
        let give_up = Instant::now() + Duration::from_millis(500);
        // Commits exchange the file, or write into it.
        let inode = |path: &Path| {
            std::fs::metadata(path).map_or((0, 0), |stat| (stat.ino(), stat.ctime_nsec()))
        };
        let receiver = &self.services[RECEIVER];
        let path = receiver.image();
        let before = inode(&path);
        let wait = |met: &dyn Fn() -> bool| {
            while !met() && Instant::now() < give_up {
                thread::sleep(Duration::from_micros(200));
            }
            Instant::now() < give_up
        };
        let longest_ms = match moment {
            Moment::Connect => 60,
            Moment::Transfer => {
                wait(&|| !receiver.private("staging").is_empty());
                50
            }
            Moment::Commit => {
                self.committed += usize::from(wait(&|| inode(&path) != before));
                8
            }
            Moment::Any => 250,
        };
        thread::sleep(self.numbers.moment(longest_ms));
    }

    fn kill_one(&mut self) {
        let moments = [Moment::Connect, Moment::Transfer, Moment::Commit, Moment::Any];
        let moment = moments[self.numbers.below(4) as usize];
        self.await_moment(moment);
        let victim = self.numbers.below(2) as usize;
        self.staged += usize::from(!self.services[RECEIVER].private("staging").is_empty());
        self.services[victim].kill();
        // A commit by journal that was cut is finished when the service is up again.
        if victim == SENDER {
            self.look();
        }
        let ready = self.services[victim].start();
        assert!(ready <= READY_LIMIT, "ready after {ready:?}; {}", self.words());
        self.worst_ready = self.worst_ready.max(ready);
        self.look();
        if let Some(publishing) = self.publishing.take_if(|thread| thread.is_finished()) {
            // It may have failed: the service was killed, or records by itself already.
            let _ = publishing.join().unwrap();
        }
    }

    /// Nobody is killed: the receiver must come to show the latest generation.
    fn rest(&mut self) {
        if let Some(publishing) = self.publishing.take() {
            let _ = publishing.join().unwrap();
        }
        let give_up = Instant::now() + LONG;
        while self.shown < self.latest {
            assert!(Instant::now() < give_up, "{} is not shown; {}", self.latest, self.words());
            thread::sleep(Duration::from_millis(5));
            self.look();
        }
    }

    /// After everything: receipts, equal bytes, nothing left behind.
    fn check_end(&mut self) {
        let timeout_seconds = Some(LONG.as_secs());
        let wait = Request::Wait { image: IMAGE.into(), require: Require::All, timeout_seconds };
        let [sender, receiver] = &self.services;
        assert!(sender.ask::<ReadyReport>(&wait).ready);
        let (left, right) = (std::fs::read(sender.image()), std::fs::read(receiver.image()));
        assert!(left.unwrap() == right.unwrap(), "the images differ");
        let give_up = Instant::now() + LONG;
        for service in &self.services {
            while !service.private("staging").is_empty() {
                let left = service.private("staging");
                assert!(
                    Instant::now() < give_up,
                    "left in staging: {left:?}\n{}",
                    service.last_words()
                );
                thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(service.private("quarantine"), Vec::<String>::new());
            let verify = Request::Verify { image: None, deep: false, repair: false };
            assert!(service.ask::<VerifyDone>(&verify).ok);
        }
    }
}

/// A page of zeros, of text, of noise, or of a few bytes.
fn fill(page: &mut [u8], kind: u64, seed: u64) {
    let mut numbers = Numbers(seed);
    match kind {
        0 => page.fill(0),
        1 => {
            for piece in page.chunks_mut(16) {
                let text = format!("line {:010}\n", numbers.below(1000));
                piece.copy_from_slice(&text.as_bytes()[..piece.len()]);
            }
        }
        2 => {
            for piece in page.chunks_mut(8) {
                piece.copy_from_slice(&numbers.next().to_le_bytes()[..piece.len()]);
            }
        }
        _ => {
            page.fill(0);
            page[..8].copy_from_slice(&seed.to_le_bytes());
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

#[test]
fn killed_services_show_whole_generations_and_converge() {
    let kills = setting("BLOCKFERRY_KILLS", KILLS as u64) as usize;
    let seed = setting("BLOCKFERRY_KILL_SEED", 1);
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut trial = Trial::new(directory.path(), seed);
    trial.join();
    trial.change();
    for kill in 1..=kills {
        if trial.shown == trial.latest || trial.numbers.below(8) == 0 {
            trial.change();
        }
        trial.kill_one();
        if kill.is_multiple_of(REST_EVERY) {
            trial.rest();
        }
    }
    trial.rest();
    trial.check_end();
    let Trial { latest, arrived, looks, staged, committed, worst_ready, .. } = trial;
    // Not captured: what a run of CI has shown is to be read in its log.
    writeln!(
        std::io::stderr(),
        "kill -9: {kills} kills in {:.0} s, {staged} of them with a transfer under way, {committed} \
         right after a commit; {latest} generations, {arrived} seen to arrive, {looks} looks, none bad; worst ready {} ms; seed {seed}",
        began.elapsed().as_secs_f64(),
        worst_ready.as_millis(),
    )
    .unwrap();
    assert!(arrived > kills / 20, "too little arrived between the kills to prove anything");
}
