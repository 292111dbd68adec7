//! Two nodes in one directory, each a real `serve` process of this very binary.
//!
//! They listen on loopback, know nothing of the user's configuration and stop when this process
//! does: they read a pipe whose other end it holds. Dropping the cluster stops them.

use super::web::Web;
use crate::failure::{AdminError, Failure, on_path};
use blockferry_node::api::{Client, Request, StatusReport};
use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// The demonstration may use all but this of the disk it runs on.
const FREE_MIN: &str = "1 MiB";

/// The processes, to be stopped from wherever it becomes necessary.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes(Arc<Mutex<Vec<Child>>>);

impl Processes {
    fn push(&self, child: Child) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// The last one started, if it has ended already.
    fn last_ended(&self) -> bool {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        children.last_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Closes the pipes and waits; what doesn't stop by itself is killed.
    pub(super) fn stop(&self) {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for child in children.iter_mut() {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for mut child in children.drain(..) {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            // Fails when it has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One of the two nodes.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    /// Its page, if that was asked for.
    pub(super) web: Option<Web>,
    directory: PathBuf,
}

impl Member {
    /// Makes a node below `parent` and starts its service.
    pub(super) fn start(
        parent: &Path,
        name: &'static str,
        processes: &Processes,
        web: bool,
    ) -> Result<Member, Failure> {
        let mut member = Member { name, web: None, directory: parent.join(name) };
        let images = member.images();
        std::fs::create_dir_all(&images).map_err(|error| on_path("make", &images, &error))?;
        let init = ["init", "--quiet", "--name", name, "--listen", &free_address()?, "--dir"];
        let status = command()?.args(init).arg(&member.directory).stdout(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(
                AdminError::new("INTERNAL", format!("node {name} could not be made")).into()
            );
        }
        if web {
            member.web = Some(Web::prepare(&member.directory)?);
        }
        let log = member.log();
        let file = File::create(&log).map_err(|error| on_path("make", &log, &error))?;
        let config = member.directory.join("blockferry.toml");
        let child = command()?
            .arg("--config")
            .arg(config)
            .args(["serve", "--until-stdin-closes"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(file)
            // The terminal's Ctrl-C is for us alone.
            .process_group(0)
            .spawn()
            .map_err(|error| AdminError::new("IO", format!("start node {name}: {error}")))?;
        processes.push(child);
        member.await_answer(processes)?;
        Ok(member)
    }

    /// Where its images are.
    pub(super) fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// A connection to its service.
    pub(super) fn client(&self) -> Result<Client, AdminError> {
        Client::connect(&self.directory.join("admin.sock"))
    }

    fn log(&self) -> PathBuf {
        self.directory.join("serve.log")
    }

    fn await_answer(&self, processes: &Processes) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = self.client().and_then(|mut client| {
                client.set_timeout(Some(START_TIMEOUT));
                client.ask::<StatusReport>(&Request::Status {})
            });
            let Err(error) = answer else { return Ok(()) };
            if processes.last_ended() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or("its log is empty").to_owned();
                let message = format!("node {} does not start ({}): {last}", self.name, error.code);
                return Err(AdminError::new("INTERNAL", message).into());
            }
            std::thread::sleep(POLL);
        }
    }
}

/// This binary without the user's settings.
fn command() -> Result<Command, Failure> {
    let path = std::env::current_exe()
        .map_err(|error| AdminError::new("IO", format!("where is this program: {error}")))?;
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BLOCKFERRY_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("JOURNAL_STREAM");
    command.env("BLOCKFERRY_LIMITS_STORE_FREE_MIN", FREE_MIN);
    Ok(command)
}

/// A UDP port that was free a moment ago.
fn free_address() -> Result<String, Failure> {
    let found = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let address =
        found.map_err(|error| AdminError::new("IO", format!("no free UDP port: {error}")))?;
    Ok(address.to_string())
}
