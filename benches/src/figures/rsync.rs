//! rsync, as the measure of seconds: a daemon on loopback that offers the images, and a client
//! that brings one of them over in one of its ways.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::process::children_cpu_seconds;
use super::tools::{drop_caches, has, run};
use crate::ground::rsyncd;

/// The ways to bring a changed file over.
pub(crate) const DELTAS: [&[&str]; 4] = [
    &["--no-whole-file"],
    &["--no-whole-file", "--inplace"],
    &["--no-whole-file", "-z", "--zc=zstd"],
    &["--no-whole-file", "--inplace", "-z", "--zc=zstd"],
];
/// The way to bring a new file over.
pub(crate) const WHOLE: &[&str] = &["-W"];
/// The same with what Blockferry promises: it is on disk when it is said to be there.
pub(crate) const WHOLE_SYNCED: &[&str] = &["-W", "--fsync"];

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Of daemon and client.
    pub(crate) cpu: [f64; 2],
}

/// A daemon; ended when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    /// Whether rsync is here.
    pub(crate) fn available() -> bool {
        has("rsync")
    }

    /// Its version, as it says it.
    pub(crate) fn version() -> String {
        let said = run(Command::new("rsync").arg("--version")).unwrap_or_default();
        said.lines().next().unwrap_or("rsync").split("  protocol").next().unwrap_or("").to_owned()
    }

    /// Offers the files of `images`, read only, on loopback.
    pub(crate) fn start(images: &Path, work: &Path) -> anyhow::Result<Daemon> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = address.port();
        let config = work.join("rsyncd.conf");
        let text = rsyncd::config(address, &work.join("rsyncd.log"), images);
        std::fs::write(&config, text)?;
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--config"]).arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Daemon { child: command.spawn()?, port };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "the rsync daemon does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Brings `image` into the file `target`, nothing of either in the page cache.
    pub(crate) fn fetch(&self, how: &[&str], image: &str, target: &Path) -> anyhow::Result<Cost> {
        drop_caches()?;
        let cpu = self.cpu()?;
        let url = format!("rsync://127.0.0.1:{}/images/{image}", self.port);
        let mut command = Command::new("rsync");
        command.args(how).args(["--times", "--perms"]).arg(url).arg(target);
        let began = Instant::now();
        run(&mut command)?;
        let seconds = began.elapsed().as_secs_f64();
        // The daemon waits for its child a moment after the client has gone.
        thread::sleep(Duration::from_millis(300));
        let after = self.cpu()?;
        Ok(Cost { seconds, cpu: [after[0] - cpu[0], after[1] - cpu[1]] })
    }

    /// CPU seconds of those who served, and of those who fetched.
    fn cpu(&self) -> anyhow::Result<[f64; 2]> {
        let daemon = children_cpu_seconds(self.child.id()).context("the rsync daemon is gone")?;
        Ok([daemon, children_cpu_seconds(std::process::id())?])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
