//! The page of a demonstration's node: a port that is free, and a token that lives as long as it does.

use crate::failure::{AdminError, Failure, on_path};
use blockferry_node::http::{Scope, new_token};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Where a node's page is, and what opens it.
#[derive(Clone, Debug)]
pub(super) struct Web {
    pub(super) address: SocketAddr,
    pub(super) token: String,
}

impl Web {
    /// Has the node in `directory` serve it: what the configuration needs is put beside it.
    pub(super) fn prepare(directory: &Path) -> Result<Web, Failure> {
        let found = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address =
            found.map_err(|error| AdminError::new("IO", format!("no free TCP port: {error}")))?;
        let (token, hash) = new_token()?;
        let scope = Scope::Operate.as_str();
        let lines = format!(
            "[admin]\nhttp = \"{address}\"\n[admin.tokens.demo]\nhash = \"{hash}\"\nscope = \"{scope}\"\n"
        );
        let beside = directory.join("conf.d");
        let file = beside.join("page.toml");
        std::fs::create_dir_all(&beside).map_err(|error| on_path("make", &beside, &error))?;
        std::fs::write(&file, lines).map_err(|error| on_path("write", &file, &error))?;
        Ok(Web { address, token })
    }
}
