//! Arguments of what looks: status, doctor, the support archive.

use clap::{Args, ValueHint};
use std::path::PathBuf;

/// `status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Keep running: draw the screen anew on a terminal, print a block (with --json: a line) at each
    /// change elsewhere
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Don't ask the service: only what can be seen beside it
    #[arg(long)]
    pub(crate) offline: bool,
}

/// `bundle`
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The archive; it must not exist [default: blockferry-NODE-TIME.tar.zst here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,
}
