//! ffsync: both ends cut the image into chunks and compare them over QUIC. Each has the index that
//! it keeps beside an image after a run; the receiver, whose image has not changed since, uses it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::super::side::{Line, NO_END, Process, Side};
use super::{Job, POLL, Split, Tool, version_of};

/// What the receiver says when it is done begins like this.
const DONE: &str = "receive: ";

/// The tool.
#[derive(Debug, Default)]
pub(super) struct Ffsync {
    address: Option<SocketAddr>,
}

/// The fingerprint of an end's key, which is made now.
fn fingerprint(side: &mut Side, deadline: Instant) -> anyhow::Result<String> {
    let shown = side.run(&Line::new("ffsync").arg("fingerprints"), deadline)?.output()?;
    let line = shown.lines().find_map(|line| line.strip_prefix("this peer: "));
    Ok(line.context("ffsync has no fingerprint")?.trim().to_owned())
}

/// Brings the image `name` over, until the receiver says that it has it. Gives both processes:
/// version 1.2.0 may take 10 s more to end by QUIC, or the sender of an equal image never does.
fn carry(
    job: &mut Job<'_>,
    address: SocketAddr,
    name: &str,
    from: Option<String>,
) -> anyhow::Result<[Process; 2]> {
    let [here, there] = [&job.sender, &job.receiver].map(|s| s.path(&format!("images/{name}")));
    let (there, port) = (there?, address.port());
    let mut line = Line::new("ffsync").args(["receive", &there, &port.to_string(), "--quic"]);
    if let Some(from) = from {
        line = line.args(["--from", &from]);
    } else if !Path::new(&there).exists() {
        // It wants a file to compare with.
        File::create(&there)?;
    }
    let receiver = job.receiver.spawn(&line)?;
    job.receiver.wait_for_port(("udp", port), &receiver, job.deadline)?;
    let line = Line::new("ffsync").args(["send", &here?, &address.to_string(), "--quic"]);
    let sender = job.sender.spawn(&line)?;
    let said = || format!("the sender said: {}", sender.last_words());
    while !is_done(|| receiver.output(), || job.receiver.running(&receiver).with_context(said))? {
        ensure!(Instant::now() < job.deadline, "{NO_END}; {}", said());
        thread::sleep(POLL);
    }
    Ok([sender, receiver])
}

/// Whether the receiver has said that it has the image; fails when it ended without a word of it.
/// It ends right after that word: who finds it ended has to look once more.
fn is_done(
    output: impl Fn() -> anyhow::Result<String>,
    running: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let said =
        || -> anyhow::Result<bool> { Ok(output()?.lines().any(|line| line.starts_with(DONE))) };
    if said()? {
        return Ok(true);
    }
    match running() {
        Ok(()) => Ok(false),
        Err(ended) => said()?.then_some(true).ok_or(ended),
    }
}

impl Tool for Ffsync {
    fn name(&self) -> &'static str {
        "ffsync"
    }

    fn words(&self) -> &'static str {
        "send and receive over QUIC, the receiver with its index of the old image (--from it when \
         the name is another); until the receiver says that it is done"
    }

    fn version(&self, _blockferry: &Path) -> Result<String, String> {
        version_of("ffsync", "--version")
    }

    fn wants_before_at_receiver(&self) -> bool {
        false
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        let address = job.receiver.free_address()?;
        let here = fingerprint(&mut job.sender, job.deadline)?;
        let there = fingerprint(&mut job.receiver, job.deadline)?;
        job.sender.run(&Line::new("ffsync").args(["trust", &there]), job.deadline)?;
        job.receiver.run(&Line::new("ffsync").args(["trust", &here]), job.deadline)?;
        for old in &job.workload.before {
            let [sender, receiver] = carry(job, address, &old.name, None)?;
            let index = format!("{}.ffsync-index", old.name);
            while ![&job.sender, &job.receiver].iter().all(|s| s.images().join(&index).exists()) {
                ensure!(Instant::now() < job.deadline, "{NO_END}: no {index}");
                thread::sleep(POLL);
            }
            job.receiver.stop(&receiver, job.deadline)?;
            job.sender.stop(&sender, job.deadline)?;
        }
        self.address = Some(address);
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let address = self.address.context("not set up")?;
        let from = if job.is_update() { None } else { job.olds()?.into_iter().next() };
        let name = job.name().to_owned();
        let by_another_name = from.is_some();
        let [_, receiver] = carry(job, address, &name, from)?;
        if by_another_name && !Path::new(&job.target()?).exists() {
            bail!(
                "it writes no file of the new name when the one at --from is equal, and says \
                 \"{}\"",
                receiver.output()?.lines().last().unwrap_or_default()
            );
        }
        Ok(Vec::new())
    }

    fn tear_down(&mut self) {
        self.address = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_last_word_of_one_that_just_ended_counts() {
        let ended = || -> anyhow::Result<()> { bail!("ended") };
        // It says it and ends between our look at the output and that at the process.
        let looks = Cell::new(0);
        let output = || {
            looks.set(looks.get() + 1);
            Ok(if looks.get() > 1 { "receive: done\n" } else { "listening\n" }.to_owned())
        };
        assert!(is_done(output, ended).unwrap());
        let silent = || Ok("listening\n".to_owned());
        assert!(is_done(silent, ended).is_err());
        assert!(!is_done(silent, || Ok(())).unwrap());
    }
}
