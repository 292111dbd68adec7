//! What several of the commands need from the machine they run on: programs of the system, what
//! `/proc` says of a process, a node with its service, file systems in files, and what an image
//! is, found out without any of Blockferry's code.

pub(crate) mod image;
pub(crate) mod machine;
pub(crate) mod mount;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod rsyncd;
pub(crate) mod tools;

use std::io::Write;

/// Says on stderr how far the run is.
pub(crate) fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
