//! One end of a job: the process below which everything runs that a tool does at that end.
//!
//! It is a subreaper, so that what daemonises stays below it, and it waits for whatever ends, so
//! that the kernel adds CPU time and disk bytes of ended processes to its own account. It does
//! nothing else: measuring is done by others, from the outside. Requests are lines of JSON on its
//! standard input; when that closes, everything below it is killed and it ends too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

use super::tree;
use crate::ground::node::without_own_settings;

const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What the end is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Starts a program, with nothing to read and files for what it writes.
    Start { args: Vec<String>, env: Vec<(String, String)>, out: PathBuf, err: PathBuf },
    /// Waits until a program has ended, or for so long.
    Wait { pid: u32, limit_ms: u64 },
    /// SIGTERM.
    Stop { pid: u32 },
    /// Waits for whatever has ended.
    Reap,
}

/// What it says to that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Started {
        pid: u32,
    },
    /// The exit status, or 128 and the signal's number.
    Ended {
        status: i32,
    },
    Running,
    Done,
    Failed {
        why: String,
    },
}

/// What is known of those who have ended: process id and status.
type Statuses = BTreeMap<u32, i32>;

/// The hidden command `end`.
pub(crate) fn run() -> anyhow::Result<()> {
    set_child_subreaper(Some(rustix::process::getpid())).context("become a subreaper")?;
    let requests = read_requests();
    let mut ended = Statuses::new();
    let mut out = std::io::stdout().lock();
    while let Ok(request) = requests.recv() {
        let answer = match handle(request, &mut ended, &requests) {
            Ok(Some(answer)) => answer,
            Ok(None) => break,
            Err(error) => Answer::Failed { why: format!("{error:#}") },
        };
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    kill_all(&mut ended)
}

/// Requests as they come. The channel closes with the standard input, also while a request is
/// being handled.
fn read_requests() -> Receiver<Request> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let request = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(request) = request else { break };
            if sender.send(request).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The answer; none when nobody waits for one any more.
fn handle(
    request: Request,
    ended: &mut Statuses,
    requests: &Receiver<Request>,
) -> anyhow::Result<Option<Answer>> {
    Ok(Some(match request {
        Request::Start { args, env, out, err } => {
            let (program, args) = args.split_first().context("which program?")?;
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::null());
            command.stdout(File::create(&out).with_context(|| out.display().to_string())?);
            command.stderr(File::create(&err).with_context(|| err.display().to_string())?);
            without_own_settings(&mut command);
            let child = command.envs(env).spawn().with_context(|| program.clone())?;
            Answer::Started { pid: child.id() }
        }
        Request::Wait { pid, limit_ms } => {
            let deadline = Instant::now() + Duration::from_millis(limit_ms);
            loop {
                let any = reap(ended);
                match ended.remove(&pid) {
                    Some(status) => break Answer::Ended { status },
                    None if Instant::now() >= deadline => break Answer::Running,
                    None => ensure!(any, "{pid} is not below this end"),
                }
                if matches!(requests.try_recv(), Err(TryRecvError::Disconnected)) {
                    return Ok(None);
                }
                thread::sleep(LOOK_EVERY);
            }
        }
        Request::Stop { pid } => {
            // It may have ended by itself.
            let _ = kill(pid, Signal::TERM);
            Answer::Done
        }
        Request::Reap => {
            reap(ended);
            Answer::Done
        }
    }))
}

/// Waits for all who have ended; whether there is anybody left.
fn reap(ended: &mut Statuses) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let status = status.exit_status().or(status.terminating_signal().map(|n| 128 + n));
                if let (Ok(pid), Some(status)) = (u32::try_from(pid.as_raw_pid()), status) {
                    ended.insert(pid, status);
                }
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Kills until nobody is left: orphans become children of this process.
fn kill_all(ended: &mut Statuses) -> anyhow::Result<()> {
    while reap(ended) {
        for pid in tree::Tree::below(std::process::id()).members()? {
            // It may have ended since.
            let _ = kill(pid, Signal::KILL);
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn kill(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("process 0")?;
    Ok(kill_process(pid, signal)?)
}
