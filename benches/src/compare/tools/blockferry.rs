//! Blockferry: two nodes that share a store, asked through the command line as a user would. The
//! old images went from one to the other before; the new one is published and waited for.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use blockferry_delta::{StoreId, StoreKey, StoreName};
use blockferry_store::disk::RealDisk;
use blockferry_store::{Options, Store, StoreIdentity};
use serde_json::Value;

use super::super::side::{Line, Process, Side, text};
use super::{Job, OURS, POLL, Split, Tool};
use crate::ground::node::{SETTINGS, answers};
use crate::ground::tools::run;

const STORE: &str = "images";

/// The tool.
#[derive(Debug, Default)]
pub(super) struct Blockferry {
    services: Option<[Process; 2]>,
}

/// Makes the store at the sender, with a key that is always the same: chunk borders come from it, so
/// that the same seed sends the same bytes. The receiver is granted the key by its ticket.
fn make_store(directory: &str) -> anyhow::Result<()> {
    let identity = StoreIdentity {
        name: StoreName::new(STORE)?,
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    };
    let disk = Arc::new(RealDisk::open(directory.as_ref())?);
    Store::create(disk, identity, &Options::default())?;
    Ok(())
}

/// Makes the node of an end and starts its service.
fn start(side: &mut Side, binary: &str, deadline: Instant) -> anyhow::Result<Process> {
    let (name, directory) = (side.name, side.path("node")?);
    let listen = side.free_address()?.to_string();
    let args = ["init", "--quiet", "--name", name, "--listen", &listen, "--dir", &directory];
    side.run(&Line::new(binary).args(args), deadline)?;
    let config = format!("{directory}/blockferry.toml");
    let mut line = Line::new(binary).args(["--config", &config, "serve"]);
    for (name, value) in SETTINGS {
        line = line.env(name, value);
    }
    let service = side.spawn(&line)?;
    while !answers(directory.as_ref()) {
        side.running(&service)?;
        ensure!(Instant::now() < deadline, "{name} doesn't start");
        thread::sleep(POLL);
    }
    Ok(service)
}

/// Asks the node of an end; the last line of the answer.
fn ask(
    side: &mut Side,
    (binary, deadline): (&str, Instant),
    args: &[&str],
) -> anyhow::Result<Value> {
    let config = side.path("node/blockferry.toml")?;
    let line = Line::new(binary).args(["--config", &config, "--json"]).args(args.iter().copied());
    let said = side.run(&line, deadline)?.output()?;
    let last = said.lines().last().with_context(|| format!("{args:?}: no answer"))?;
    serde_json::from_str(last).with_context(|| format!("{args:?}: {last}"))
}

/// Publishes the image and waits for the receipt. Gives the seconds of `publish`.
fn carry(job: &mut Job<'_>, name: &str) -> anyhow::Result<f64> {
    let how = (text(job.blockferry)?, job.deadline);
    let image = format!("{STORE}/{name}");
    let began = Instant::now();
    ask(&mut job.sender, how, &["publish", &image])?;
    let published = began.elapsed().as_secs_f64();
    ask(&mut job.sender, how, &["push", &image, "--wait"])?;
    Ok(published)
}

impl Tool for Blockferry {
    fn name(&self) -> &'static str {
        OURS
    }

    fn words(&self) -> &'static str {
        "two nodes; publish by hand (settle is out of the way; by itself a node waits 30 s for an \
         image to be quiet), then push --wait: the receipt says that it is durable. Over links with \
         a rate always zstd 3: which level it chooses there differs from run to run"
    }

    fn version(&self, blockferry: &Path) -> Result<String, String> {
        let said = run(Command::new(blockferry).arg("--version"));
        said.map(|said| said.trim().to_owned()).map_err(|error| error.to_string())
    }

    fn is_service(&self) -> bool {
        true
    }

    fn wants_before_at_receiver(&self) -> bool {
        false
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        let binary = text(job.blockferry)?;
        let how = (binary, job.deadline);
        let sender = start(&mut job.sender, binary, job.deadline)?;
        let receiver = start(&mut job.receiver, binary, job.deadline)?;
        self.services = Some([sender, receiver]);
        let (here, there) = (job.sender.path("images")?, job.receiver.path("images")?);
        make_store(&here)?;
        ask(&mut job.sender, how, &["store", "add", STORE, &here])?;
        let invitation = ask(&mut job.sender, how, &["invite", "--store", STORE])?;
        let ticket = invitation["ticket"].as_str().context("no ticket")?;
        ask(&mut job.receiver, how, &["join", ticket, "--path", &there])?;
        if job.is_shaped {
            // The level that follows the link was 3, 6 or 8 by chance: 3.3 % of the bytes.
            ask(&mut job.sender, how, &["peer", "set", "receiver", "compression=3"])?;
        }
        for old in &job.workload.before {
            carry(job, &old.name)?;
        }
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let began = Instant::now();
        let name = job.name().to_owned();
        let published = carry(job, &name)?;
        let all = began.elapsed().as_secs_f64();
        Ok(vec![("publish".to_owned(), published), ("push".to_owned(), all - published)])
    }

    fn tear_down(&mut self) {
        self.services = None;
    }
}
