//! The configuration of an rsync daemon that offers a directory, and nothing else.

use std::net::SocketAddr;
use std::path::Path;

use super::tools::is_root;

/// For `rsync --daemon --config`: the files of `images`, read only, as module `images`.
pub(crate) fn config(address: SocketAddr, log: &Path, images: &Path) -> String {
    // A daemon that root starts would serve as nobody, who may not read the images.
    let who = if is_root() { "uid = 0\ngid = 0\n" } else { "" };
    format!(
        "address = {}\nport = {}\nuse chroot = no\nreverse lookup = no\nlog file = {}\n\
         {who}[images]\npath = {}\nread only = yes\n",
        address.ip(),
        address.port(),
        log.display(),
        images.display(),
    )
}
