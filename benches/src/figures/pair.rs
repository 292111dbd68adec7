//! Two nodes with one store in common, and the one thing that is measured again and again: an
//! image goes from the first to the second, from publish to receipt.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::node::Node;
use super::process::{Memory, cpu_seconds, interface_bytes, peak_bytes, wait_until_idle};
use super::table::Amount;
use super::tools::place;
use crate::link::Link;

/// The store.
pub(crate) const STORE: &str = "images";
/// Where nodes listen that have a link of their own.
const PORT: u16 = 7700;
/// How long the receiver's work after a commit is waited for.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// After the receipt: acknowledgements that are still on their way.
const AFTERMATH: Duration = Duration::from_millis(300);

/// What two nodes need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) work: &'a Path,
    pub(crate) memory: &'a Memory,
}

/// Two nodes that run, and the wire between them if it is one of their own.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) sender: Node,
    pub(crate) receiver: Node,
    directory: PathBuf,
    link: Option<Link>,
    memory: Memory,
}

/// What it cost to bring one generation over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// From before `publish` to after the receipt.
    pub(crate) seconds: f64,
    /// Of that, `publish`.
    pub(crate) publish_seconds: f64,
    /// Of sender and receiver.
    pub(crate) cpu: [f64; 2],
    /// To the receiver and back, by the counters of the wire, if it is one of our own.
    pub(crate) wire_bytes: Option<[u64; 2]>,
    /// By the sender's and the receiver's own account.
    pub(crate) told_bytes: [u64; 2],
    /// Resident memory of sender and receiver at their peaks.
    pub(crate) peak_bytes: [u64; 2],
}

impl Transfer {
    /// By the wire where there is one, else by the larger of what the nodes say.
    pub(crate) fn bytes(&self) -> u64 {
        let [sender, receiver] = self.told_bytes;
        self.wire_bytes.map_or(sender.max(receiver), |[there, back]| there + back)
    }

    /// How many times the nodes' own count the wire carried: packet headers, acknowledgements.
    pub(crate) fn header_times(&self) -> f64 {
        let [sender, receiver] = self.told_bytes;
        Amount::bytes(self.bytes()).value() / Amount::bytes(sender.max(receiver).max(1)).value()
    }
}

impl Pair {
    /// Makes two nodes in `directory` below the work directory and starts them, unacquainted.
    pub(crate) fn start(
        ground: &Ground<'_>,
        directory: &str,
        link: Option<Link>,
    ) -> anyhow::Result<Pair> {
        let Ground { binary, memory, .. } = *ground;
        let directory = ground.work.join(directory);
        std::fs::create_dir(&directory)?;
        let [a, b] = match &link {
            Some(link) => ends(link),
            None => [(None, free_address()?), (None, free_address()?)],
        };
        let sender = Node::create(binary, &directory, "sender", a, memory)?;
        let receiver = Node::create(binary, &directory, "receiver", b, memory)?;
        Ok(Pair { sender, receiver, directory, link, memory: memory.clone() })
    }

    /// Starts the services and makes them members of one store.
    pub(crate) fn join(&mut self) -> anyhow::Result<()> {
        self.sender.start()?;
        self.receiver.start()?;
        let (here, there) = (self.sender.images(), self.receiver.images());
        self.sender.ask(&["store", "add", STORE, text(&here)?])?;
        let invitation = self.sender.ask(&["invite", "--store", STORE])?;
        let ticket = invitation["ticket"].as_str().context("no ticket")?;
        self.receiver.ask(&["join", ticket, "--path", text(&there)?])?;
        Ok(())
    }

    /// Two nodes that share a store.
    pub(crate) fn joined(
        ground: &Ground<'_>,
        directory: &str,
        link: Option<Link>,
    ) -> anyhow::Result<Pair> {
        let mut pair = Pair::start(ground, directory, link)?;
        pair.join()?;
        Ok(pair)
    }

    /// The wire, if it is one of our own.
    pub(crate) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Where both nodes are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts `source` where the sender has image `name`.
    pub(crate) fn place(&self, source: &Path, name: &str) -> anyhow::Result<()> {
        place(source, &self.sender.image(name))
    }

    /// Waits until both nodes have done what they do after a commit.
    pub(crate) fn settle(&self) -> anyhow::Result<Duration> {
        wait_until_idle(&self.pids()?, IDLE_LIMIT)
    }

    /// Publishes image `name` and waits for the receipt.
    pub(crate) fn transfer(&self, name: &str) -> anyhow::Result<Transfer> {
        let image = format!("{STORE}/{name}");
        let pids = self.pids()?;
        for pid in pids {
            self.memory.begin(pid);
        }
        let cpu = self.cpu()?;
        let wire = self.wire_bytes()?;
        let began = Instant::now();
        let published = self.sender.ask(&["publish", &image])?;
        let publish_seconds = began.elapsed().as_secs_f64();
        let pushed = self.sender.ask(&["push", &image, "--wait"])?;
        let seconds = began.elapsed().as_secs_f64();
        thread::sleep(AFTERMATH);
        let wire_bytes = self.wire_bytes_since(wire)?;
        let after = self.cpu()?;
        let peers = &pushed["summary"]["peers"];
        let sender_says = peers
            .as_array()
            .map_or(0, |peers| peers.iter().filter_map(|peer| peer["wire_bytes"].as_u64()).sum());
        let newest = self.newest(&self.receiver, name)?;
        ensure!(newest["root"] == published["root"], "{newest} is not {published}");
        Ok(Transfer {
            seconds,
            publish_seconds,
            cpu: [after[0] - cpu[0], after[1] - cpu[1]],
            wire_bytes,
            told_bytes: [sender_says, newest["wire_bytes"].as_u64().unwrap_or(0)],
            peak_bytes: [peak_bytes(pids[0])?, peak_bytes(pids[1])?],
        })
    }

    /// The newest generation of an image, as a node tells it.
    pub(crate) fn newest(&self, node: &Node, name: &str) -> anyhow::Result<Value> {
        let history = node.ask(&["image", "history", &format!("{STORE}/{name}")])?;
        let newest = history["generations"].get(0).cloned();
        newest.with_context(|| format!("{} has no generation of {name}", node.name))
    }

    pub(crate) fn pids(&self) -> anyhow::Result<[u32; 2]> {
        Ok([self.sender.pid()?, self.receiver.pid()?])
    }

    fn cpu(&self) -> anyhow::Result<[f64; 2]> {
        let [sender, receiver] = self.pids()?;
        Ok([cpu_seconds(sender)?, cpu_seconds(receiver)?])
    }

    /// What went to the receiver and back so far, if the wire is one of our own.
    pub(crate) fn wire_bytes(&self) -> anyhow::Result<Option<[u64; 2]>> {
        let Some(link) = &self.link else { return Ok(None) };
        interface_bytes(self.sender.pid()?, link.interface()).map(Some)
    }

    /// The same since an earlier look.
    pub(crate) fn wire_bytes_since(
        &self,
        before: Option<[u64; 2]>,
    ) -> anyhow::Result<Option<[u64; 2]>> {
        let both = self.wire_bytes()?.zip(before);
        Ok(both.map(|(after, before)| [after[0] - before[0], after[1] - before[1]]))
    }

    /// Stops both and removes everything but their logs, which are kept in the work directory.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        for node in [&mut self.receiver, &mut self.sender] {
            node.stop()?;
            let log = format!("{}.log", node.name);
            std::fs::rename(node.log(), self.directory.with_extension(log))?;
        }
        std::fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}

/// A path for a command line and a configuration: these are text.
pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// The namespaces of sender and receiver, and where each listens.
fn ends(link: &Link) -> [(Option<String>, SocketAddr); 2] {
    let ([a, b], [here, there]) = (link.namespaces(), link.addresses());
    let end = |name: &str, address| (Some(name.to_owned()), SocketAddr::new(address, PORT));
    [end(a, here), end(b, there)]
}

/// A UDP port that was free a moment ago.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}
