//! One node: a directory made by `init` and the real `serve` process, asked through the command
//! line as a user would. It stops when this process does: it reads a pipe that we hold.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::process::Memory;
use super::tools::run;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(2);

/// Settings of every service here: images are published by hand, never by the clock.
pub(crate) const SETTINGS: [(&str, &str); 2] =
    [("BLOCKFERRY_NODE_SETTLE", "10h"), ("BLOCKFERRY_LIMITS_STORE_FREE_MIN", "1 MiB")];

/// Leaves out what the user, or the system, set for a service of its own.
pub(crate) fn without_own_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BLOCKFERRY_") {
            command.env_remove(name);
        }
    }
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
}

/// Whether the service of the node in `directory` answers `status`.
pub(crate) fn answers(directory: &Path) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(directory.join("admin.sock"))?;
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        stream.write_all(b"{\"cmd\":\"status\"}\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    answer().is_ok_and(|line| line.starts_with("{\"done\":"))
}

/// A node and, while it runs, its process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: &'static str,
    directory: PathBuf,
    binary: PathBuf,
    namespace: Option<String>,
    memory: Memory,
    /// Further settings of the service, as environment.
    settings: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Node {
    /// Makes a node below `parent`; it doesn't run yet.
    pub(crate) fn create(
        binary: &Path,
        parent: &Path,
        name: &'static str,
        (namespace, listen): (Option<String>, SocketAddr),
        memory: &Memory,
    ) -> anyhow::Result<Node> {
        let directory = parent.join(name);
        let settings = SETTINGS.map(|(name, value)| (name, value.to_owned())).to_vec();
        let node = Node {
            name,
            directory,
            binary: binary.to_owned(),
            namespace,
            memory: memory.clone(),
            settings,
            child: None,
        };
        let listen = listen.to_string();
        let args = ["init", "--quiet", "--name", name, "--listen", &listen, "--dir"];
        run(node.command(None).args(args).arg(&node.directory))?;
        std::fs::create_dir_all(node.images())?;
        Ok(node)
    }

    /// Adds a setting, for the next start.
    pub(crate) fn set(&mut self, variable: &'static str, value: &str) {
        self.settings.push((variable, value.to_owned()));
    }

    /// Where its images are.
    pub(crate) fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// Where an image of it is.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.images().join(name)
    }

    /// What its services wrote, one after the other.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("serve.log")
    }

    /// The process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        Ok(child.id())
    }

    /// The binary without the user's settings.
    fn command(&self, namespace: Option<&str>) -> Command {
        let mut command = match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        without_own_settings(&mut command);
        command
    }

    /// Starts the service; gives how long it took until it answered.
    pub(crate) fn start(&mut self) -> anyhow::Result<Duration> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let path = self.log();
        let log = File::options().append(true).create(true).open(&path)?;
        let mut command = self.command(self.namespace.as_deref());
        command.arg("--config").arg(self.directory.join("blockferry.toml"));
        command.args(["serve", "--until-stdin-closes"]);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        self.memory.watch(child.id(), self.name);
        self.child = Some(child);
        while !answers(&self.directory) {
            let ended = self.child.as_mut().is_some_and(|c| !matches!(c.try_wait(), Ok(None)));
            if ended || began.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let last = log.lines().last().unwrap_or("nothing in its log");
                bail!("{} doesn't start ({}): {last}", self.name, path.display());
            }
            thread::sleep(POLL);
        }
        Ok(began.elapsed())
    }

    /// Asks through the command line; the last line of the answer.
    pub(crate) fn ask(&self, args: &[&str]) -> anyhow::Result<Value> {
        let (status, mut lines) = self.try_ask(args)?;
        let last =
            lines.pop().with_context(|| format!("{args:?} on {} said nothing", self.name))?;
        ensure!(status == 0, "{args:?} on {} ended with {status}: {last}", self.name);
        Ok(last)
    }

    /// Asks through the command line: exit status and the lines of the answer.
    pub(crate) fn try_ask(&self, args: &[&str]) -> anyhow::Result<(i32, Vec<Value>)> {
        let mut command = self.command(None);
        command.arg("--config").arg(self.directory.join("blockferry.toml")).arg("--json");
        let output = command.args(args).stdin(Stdio::null()).output()?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let lines = lines.with_context(|| format!("{args:?} on {}: {text}", self.name))?;
        Ok((output.status.code().unwrap_or(-1), lines))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            self.memory.leave(child.id());
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops it as it wants to be stopped.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.memory.leave(child.id());
        drop(child.stdin.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{} didn't stop within {STOP_TIMEOUT:?} and was killed", self.name);
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody is left to tell what went wrong here.
        let _ = self.kill();
    }
}
