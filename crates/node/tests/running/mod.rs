//! A whole node on a thread of its own, asked through its admin socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blockferry_node::api::{
    AdminError, Answer, Client, Event, Invitation, Joined, PublishReport, ReadyReport, Request,
    Require, Role, StatusReport, StoresReport,
};
use blockferry_node::config::Config;
use blockferry_node::{Identity, Node, Reloaded};
use serde::de::DeserializeOwned;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A node in a directory of its own, on a thread of its own.
pub(crate) struct Running {
    pub(crate) dir: PathBuf,
    pub(crate) stop: Option<tokio::sync::oneshot::Sender<()>>,
    /// Takes a configuration that was read again, and says what came of it.
    pub(crate) reload: tokio::sync::mpsc::UnboundedSender<Again>,
    /// Gives the node's packs made, and those that served once more.
    pub(crate) thread: Option<JoinHandle<(u64, u64)>>,
}

/// A configuration to be put into force, and who hears what came of it.
pub(crate) type Again = (Config, std::sync::mpsc::Sender<Result<Reloaded, String>>);

pub(crate) fn config(dir: &Path, name: &str, port: u16) -> Config {
    std::fs::create_dir_all(dir).expect("a directory");
    let identity = Identity::load_or_create(&dir.join("identity.key")).expect("a key");
    let mut config = Config::new(name, identity, dir.join("state"));
    config.admin_socket = Some(dir.join("admin.sock"));
    config.listen = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
    config.settle = Duration::from_millis(300);
    config.rescan = Duration::from_secs(5);
    config
}

pub(crate) fn start(config: Config) -> Running {
    let dir = config.admin_socket.as_ref().and_then(|s| s.parent()).expect("a dir").to_owned();
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let (reload, mut reloads) = tokio::sync::mpsc::unbounded_channel::<Again>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let node = Node::start(config).await.expect("started");
            ready.send(()).expect("awaited");
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    Some((config, told)) = reloads.recv() => {
                        let done = node.reload(config, Vec::new()).map_err(|e| e.to_string());
                        told.send(done).expect("awaited");
                    }
                }
            }
            let counts = node.pack_counts();
            node.stop().await;
            counts
        })
    });
    is_ready.recv_timeout(LONG).expect("ready");
    Running { dir, stop: Some(stop), reload, thread: Some(thread) }
}

pub(crate) fn node(dir: &Path, name: &str) -> Running {
    start(config(&dir.join(name), name, 0))
}

impl Running {
    /// Has a configuration put into force.
    pub(crate) fn reload(&self, config: &Config) -> Result<Reloaded, String> {
        let (told, hears) = std::sync::mpsc::channel();
        assert!(self.reload.send((config.clone(), told)).is_ok(), "it runs");
        hears.recv_timeout(LONG).expect("answered")
    }

    pub(crate) fn try_ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, AdminError> {
        let mut client = Client::connect(&self.dir.join("admin.sock"))?;
        client.set_timeout(Some(LONG));
        client.ask(request)
    }

    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &Request) -> T {
        self.try_ask(request).unwrap_or_else(|e| panic!("{request:?}: {e}"))
    }

    pub(crate) fn refused(&self, request: &Request) -> String {
        match self.try_ask::<serde_json::Value>(request) {
            Err(error) => error.code,
            Ok(value) => panic!("{request:?} went well: {value}"),
        }
    }

    pub(crate) fn add_store(&self) -> PathBuf {
        self.add_store_at("vdisks", "images")
    }

    pub(crate) fn add_store_at(&self, name: &str, dir: &str) -> PathBuf {
        let path = self.dir.join(dir);
        std::fs::create_dir_all(&path).expect("a directory");
        let (name, role) = (name.to_owned(), Role::Writer);
        let _: StoresReport = self.ask(&Request::StoreAdd { name, path: path.clone(), role });
        path
    }

    pub(crate) fn invite(&self, role: Role) -> String {
        self.invite_to("vdisks", role)
    }

    pub(crate) fn invite_to(&self, store: &str, role: Role) -> String {
        let request = Request::Invite { store: store.to_owned(), role, ttl_seconds: 60 };
        self.ask::<Invitation>(&request).ticket
    }

    pub(crate) fn join(&self, ticket: &str) -> PathBuf {
        let request = Request::Join { ticket: ticket.to_owned(), path: None, name: None };
        self.ask::<Joined>(&request).path.into()
    }

    pub(crate) fn publish(&self, image: &str) -> PublishReport {
        self.ask(&Request::Publish { image: format!("vdisks/{image}"), changed: None, since: None })
    }

    pub(crate) fn wait(&self, image: &str) -> ReadyReport {
        self.ask(&Request::Wait {
            image: format!("vdisks/{image}"),
            require: Require::All,
            timeout_seconds: Some(LONG.as_secs()),
        })
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let mut client = Client::connect(&self.dir.join("admin.sock")).expect("connected");
        let request = Request::Events { follow: false, since_seconds: None };
        let answers = client.call(&request).expect("asked");
        let event = |answer: Result<Answer, AdminError>| match answer.expect("answered") {
            Answer::Event(event) => Some(event),
            _ => None,
        };
        answers.filter_map(event).collect()
    }

    pub(crate) fn status(&self) -> StatusReport {
        self.ask(&Request::Status {})
    }

    pub(crate) fn stop_and_count(mut self) -> (u64, u64) {
        let _gone = self.stop.take().map(|stop| stop.send(()));
        self.thread.take().expect("it runs").join().expect("stopped")
    }

    pub(crate) fn stop(mut self) -> PathBuf {
        self.end();
        self.dir.clone()
    }

    pub(crate) fn end(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _gone = stop.send(());
            thread.join().expect("stopped");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// Bytes that don't compress and differ by seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(crate) fn until(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < LONG, "{what} never happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn equal(a: &Path, b: &Path, image: &str) -> bool {
    match (std::fs::read(a.join(image)), std::fs::read(b.join(image))) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

pub(crate) fn edit(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(bytes, offset).expect("written");
}
