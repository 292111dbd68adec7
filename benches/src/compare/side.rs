//! Where one end of a job lives: a directory, an address, and below a process of its own
//! everything that a tool runs there.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::end::{Answer, Request};
use super::tree::{Tree, Usage};

/// What a program said last is shown up to this.
const WORDS_MAX: usize = 200;
/// Why something was given up.
pub(super) const NO_END: &str = "no end within the time limit";
const POLL: Duration = Duration::from_millis(2);
/// In a namespace of its own every port is free; these are not used by the system.
const FIRST_PORT: u16 = 21_000;

/// A command line of a tool.
#[derive(Clone, Debug)]
pub(super) struct Line {
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Line {
    pub(super) fn new(program: impl Into<String>) -> Line {
        Line { args: vec![program.into()], env: Vec::new() }
    }

    pub(super) fn arg(mut self, arg: impl Into<String>) -> Line {
        self.args.push(arg.into());
        self
    }

    pub(super) fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Line {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl Into<String>) -> Line {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// As one would type it.
    fn shown(&self) -> String {
        let env = self.env.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        env.chain(self.args.iter().map(|arg| quoted(arg))).collect::<Vec<_>>().join(" ")
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A program that was started at an end.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pid: u32,
    shown: String,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// What it wrote to its standard output so far.
    pub(super) fn output(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.out)?).into_owned())
    }

    /// The last that it said.
    pub(super) fn last_words(&self) -> String {
        let text =
            |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let said = [text(&self.err), text(&self.out)];
        let line = said
            .iter()
            .find_map(|text| text.split(['\n', '\r']).rfind(|line| !line.trim().is_empty()));
        line.unwrap_or("it said nothing").trim().chars().take(WORDS_MAX).collect()
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: &'static str,
    address: IpAddr,
    /// Everything of the tool and the images below it.
    pub(super) directory: PathBuf,
    logs: PathBuf,
    next_port: Option<u16>,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    started: u32,
    lines: Vec<String>,
}

impl Side {
    /// Makes the directory and starts the process; in `namespace`, if there is one.
    pub(super) fn start(
        name: &'static str,
        parent: &Path,
        (namespace, address): (Option<&str>, IpAddr),
    ) -> anyhow::Result<Side> {
        let directory = parent.join(name);
        let logs = parent.join(format!("{name}-logs"));
        for below in ["images", "home", "tmp"] {
            fs::create_dir_all(directory.join(below))?;
        }
        fs::create_dir_all(&logs)?;
        let exe = this_program();
        let mut command = match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(exe);
                command
            }
            None => Command::new(exe),
        };
        // Not interrupted together with us: it has to end what is below it.
        command.arg("end").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("an end without an output")?);
        let next_port = namespace.map(|_| FIRST_PORT);
        let (started, lines) = (0, Vec::new());
        Ok(Side {
            name,
            address,
            directory,
            logs,
            next_port,
            child,
            requests,
            answers,
            started,
            lines,
        })
    }

    /// Where the images are.
    pub(super) fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// A path below the directory, as text for a command line.
    pub(super) fn path(&self, below: &str) -> anyhow::Result<String> {
        text(&self.directory.join(below)).map(str::to_owned)
    }

    /// Where nobody listens yet.
    pub(super) fn free_address(&mut self) -> anyhow::Result<SocketAddr> {
        let port = match &mut self.next_port {
            Some(port) => {
                *port += 1;
                *port
            }
            None => TcpListener::bind((self.address, 0))?.local_addr()?.port(),
        };
        Ok(SocketAddr::new(self.address, port))
    }

    /// Starts a program.
    pub(super) fn spawn(&mut self, line: &Line) -> anyhow::Result<Process> {
        self.started += 1;
        let [out, err] =
            ["out", "err"].map(|kind| self.logs.join(format!("{}.{kind}", self.started)));
        let shown = line.shown();
        self.note(&shown);
        // A tool of the user's own, with settings and keys, is not what is measured.
        let mut env =
            vec![("HOME".to_owned(), self.path("home")?), ("TMPDIR".to_owned(), self.path("tmp")?)];
        env.extend(line.env.iter().cloned());
        let args = line.args.clone();
        let start = Request::Start { args, env, out: out.clone(), err: err.clone() };
        match self.ask(&start)? {
            Answer::Started { pid } => Ok(Process { pid, shown, out, err }),
            answer => bail!("{shown}: {answer:?}"),
        }
    }

    /// Waits until a program ends well; what it said last is the error when it doesn't.
    pub(super) fn wait(&mut self, process: &Process, deadline: Instant) -> anyhow::Result<()> {
        let limit_ms = millis(deadline.saturating_duration_since(Instant::now()));
        match self.ask(&Request::Wait { pid: process.pid, limit_ms })? {
            Answer::Ended { status: 0 } => Ok(()),
            Answer::Ended { status } => {
                let program = process.shown.split(' ').next().unwrap_or_default();
                let program = program.rsplit('/').next().unwrap_or_default();
                bail!("{program} ended with {status}: {}", process.last_words())
            }
            Answer::Running => bail!(NO_END),
            answer => bail!("{}: {answer:?}", process.shown),
        }
    }

    /// Runs a program to its end.
    pub(super) fn run(&mut self, line: &Line, deadline: Instant) -> anyhow::Result<Process> {
        let process = self.spawn(line)?;
        self.wait(&process, deadline)?;
        Ok(process)
    }

    /// Whether a program still runs; one that has ended says why.
    pub(super) fn running(&mut self, process: &Process) -> anyhow::Result<()> {
        match self.ask(&Request::Wait { pid: process.pid, limit_ms: 0 })? {
            Answer::Running => Ok(()),
            answer => bail!("{}: {answer:?}: {}", process.shown, process.last_words()),
        }
    }

    /// Ends a service as it wants to be ended.
    pub(super) fn stop(&mut self, process: &Process, deadline: Instant) -> anyhow::Result<()> {
        self.ask(&Request::Stop { pid: process.pid })?;
        let limit_ms = millis(deadline.saturating_duration_since(Instant::now()));
        let answer = self.ask(&Request::Wait { pid: process.pid, limit_ms })?;
        ensure!(matches!(answer, Answer::Ended { .. }), "{} doesn't stop", process.shown);
        Ok(())
    }

    /// Waits until somebody at this end listens on a port of `protocol` (tcp or udp).
    pub(super) fn wait_for_port(
        &mut self,
        (protocol, port): (&str, u16),
        process: &Process,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        // A socket that listens is in state 10; UDP's that is bound in state 7.
        let state = if protocol == "tcp" { "0A" } else { "07" };
        let port_shown = format!(":{port:04X}");
        loop {
            for table in [protocol.to_owned(), format!("{protocol}6")] {
                let table = format!("/proc/{}/net/{table}", self.child.id());
                let text = fs::read_to_string(table).unwrap_or_default();
                let found = text.lines().any(|line| {
                    let mut fields = line.split_whitespace().skip(1);
                    fields.next().is_some_and(|local| local.ends_with(&port_shown))
                        && fields.nth(1) == Some(state)
                });
                if found {
                    return Ok(());
                }
            }
            self.running(process)?;
            ensure!(Instant::now() < deadline, "{}: no answer", process.shown);
            thread::sleep(POLL);
        }
    }

    /// What everything here used so far.
    pub(super) fn usage(&mut self) -> anyhow::Result<Usage> {
        self.ask(&Request::Reap)?;
        self.tree().usage()
    }

    /// The processes of this end.
    pub(super) fn tree(&self) -> Tree {
        Tree::below(self.child.id())
    }

    /// Keeps a line that is part of how the tool is used, for the report.
    pub(super) fn note(&mut self, line: &str) {
        self.lines.push(format!("{}: {line}", self.name));
    }

    /// The lines since the last call.
    pub(super) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let requests = self.requests.as_mut().context("an end that has ended")?;
        requests.write_all(&line)?;
        requests.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("the {} end: {answer}", self.name))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It kills what is below it when its input closes, and ends.
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}

/// This program, also if its file has been replaced meanwhile.
pub(super) fn this_program() -> String {
    format!("/proc/{}/exe", std::process::id())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A path for a command line and a configuration: these are text.
pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_typed() {
        let line = Line::new("rsync").args(["-z", "a b", "it's"]).env("TMPDIR", "/x");
        assert_eq!(line.shown(), r"TMPDIR=/x rsync -z 'a b' 'it'\''s'");
    }
}
