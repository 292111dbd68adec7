//! The tools that are compared, one file for each: how it is made ready, what is timed, which of
//! its documented settings are used.

mod bita;
mod blockferry;
mod casync;
mod ffsync;
mod nginx;
mod rsync;
mod stream;
mod syncthing;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::job::Job;
use crate::ground::tools::has;

pub(crate) use stream::stream;

/// The copy that sends everything, which others are compared with.
pub(super) const FULL_COPY: &str = "full-copy";
/// The tool that this project is.
pub(super) const OURS: &str = "blockferry";
/// Those that send everything whatever the receiver has.
pub(super) const WHOLE: [&str; 2] = [FULL_COPY, "rsync-whole"];

const POLL: Duration = Duration::from_millis(5);

/// Seconds of the parts of a run.
pub(super) type Split = Vec<(String, f64)>;

/// A way to bring a changed file over.
pub(super) trait Tool {
    fn name(&self) -> &'static str;

    /// How it is used here, in a line.
    fn words(&self) -> &'static str;

    /// Its version as it says it; why it can't be used here.
    fn version(&self, blockferry: &Path) -> Result<String, String>;

    /// Whether its processes stay and may work after a run.
    fn is_service(&self) -> bool {
        false
    }

    /// Whether the receiver is given the old images, or gets them by the tool itself.
    fn wants_before_at_receiver(&self) -> bool {
        true
    }

    /// The old images are in place: brings both ends to the state they have after the tool has
    /// brought that generation over. Not timed.
    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()>;

    /// The new image is in place at the sender: brings it over. This is what is timed.
    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split>;

    /// Forgets the job. What still runs is killed with its end.
    fn tear_down(&mut self);
}

/// All of them, in the order of the report.
pub(super) fn all() -> Vec<Box<dyn Tool>> {
    vec![
        Box::new(stream::FullCopy::default()),
        Box::new(rsync::Rsync::new(rsync::WHOLE)),
        Box::new(rsync::Rsync::new(rsync::DELTA)),
        Box::new(rsync::Rsync::new(rsync::IN_PLACE)),
        Box::new(rsync::Rsync::new(rsync::COMPRESSED)),
        Box::new(casync::Casync::default()),
        Box::new(bita::Bita::default()),
        Box::new(syncthing::Syncthing::default()),
        Box::new(ffsync::Ffsync::default()),
        Box::new(blockferry::Blockferry::default()),
    ]
}

/// The first line that a program says to `--version` or the like.
fn version_of(program: &str, option: &str) -> Result<String, String> {
    if !has(program) {
        return Err("not installed".to_owned());
    }
    let output = Command::new(program).arg(option).output().map_err(|error| error.to_string())?;
    // nginx says it on the other one.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().next().unwrap_or_default();
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}
