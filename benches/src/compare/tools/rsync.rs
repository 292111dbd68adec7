//! rsync: a daemon at the sender, the receiver pulls: so sums are made at the receiver and matched
//! at the sender, and there is no ssh in between. Always `--sparse`, as its manual says for images;
//! `--fuzzy` for its deltas, so that it finds an old image under another name.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;

use super::super::side::{Line, Process};
use super::{Job, Split, Tool, version_of};
use crate::ground::rsyncd;

/// A way to use it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    name: &'static str,
    words: &'static str,
    options: &'static [&'static str],
}

pub(super) const WHOLE: Way =
    Way { name: "rsync-whole", words: "whole files from a daemon", options: &["-W", "--sparse"] };
pub(super) const DELTA: Way = Way {
    name: "rsync",
    words: "deltas from a daemon",
    options: &["--no-whole-file", "--sparse", "--fuzzy"],
};
pub(super) const IN_PLACE: Way = Way {
    name: "rsync-inplace",
    words: "deltas from a daemon, written into the old file: readers see a mix of old and new",
    options: &["--no-whole-file", "--sparse", "--fuzzy", "--inplace"],
};
pub(super) const COMPRESSED: Way = Way {
    name: "rsync-zstd",
    words: "deltas from a daemon, compressed by zstd",
    options: &["--no-whole-file", "--sparse", "--fuzzy", "-z", "--zc=zstd"],
};

/// The tool.
#[derive(Debug)]
pub(super) struct Rsync {
    way: Way,
    daemon: Option<(Process, SocketAddr)>,
}

impl Rsync {
    pub(super) fn new(way: Way) -> Rsync {
        Rsync { way, daemon: None }
    }
}

impl Tool for Rsync {
    fn name(&self) -> &'static str {
        self.way.name
    }

    fn words(&self) -> &'static str {
        self.way.words
    }

    fn version(&self, _blockferry: &Path) -> Result<String, String> {
        let line = version_of("rsync", "--version")?;
        Ok(line.split(" protocol").next().unwrap_or(&line).to_owned())
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        let address = job.sender.free_address()?;
        let config = job.sender.path("rsyncd.conf")?;
        let log = job.sender.path("rsyncd.log")?;
        let text = rsyncd::config(address, log.as_ref(), &job.sender.images());
        fs::write(&config, &text)?;
        job.sender.note(&format!("rsyncd.conf: {}", text.trim().replace('\n', "; ")));
        let line = Line::new("rsync").args(["--daemon", "--no-detach", "--config"]).arg(config);
        let daemon = job.sender.spawn(&line)?;
        job.sender.wait_for_port(("tcp", address.port()), &daemon, job.deadline)?;
        self.daemon = Some((daemon, address));
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let (_, address) = self.daemon.as_ref().context("not set up")?;
        let url = format!("rsync://{address}/images/{}", job.name());
        let line = Line::new("rsync").args(self.way.options.iter().copied());
        let line = line.args(["--times", "--perms"]).arg(url).arg(job.target()?);
        job.receiver.run(&line, job.deadline)?;
        Ok(Vec::new())
    }

    fn tear_down(&mut self) {
        self.daemon = None;
    }
}
