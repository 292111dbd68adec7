//! ffsync: both ends cut the image into chunks and compare them over QUIC. Each has the index that
//! it keeps beside an image after a run; the receiver, whose image has not changed since, uses it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::super::side::{Line, NO_END, Process, Side};
use super::{Job, POLL, Split, Tool, version_of};

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
    while !receiver.output()?.lines().any(|line| line.starts_with("receive: ")) {
        let said = || format!("the sender said: {}", sender.last_words());
        job.receiver.running(&receiver).with_context(said)?;
        ensure!(Instant::now() < job.deadline, "{NO_END}; {}", said());
        thread::sleep(POLL);
    }
    Ok([sender, receiver])
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
        carry(job, address, &name, from)?;
        Ok(Vec::new())
    }

    fn tear_down(&mut self) {
        self.address = None;
    }
}
