//! Nodes with HTTP, and tokens for it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use blockferry_node::config::Config;
use blockferry_node::http::{HttpConfig, Scope, Token, new_token};

use crate::client::{Ask, Reply};
use crate::running::{Running, config, start};

/// A node that is asked over HTTP.
pub(crate) struct Served {
    pub(crate) node: Running,
    pub(crate) at: SocketAddr,
    pub(crate) read: String,
    pub(crate) operate: String,
    pub(crate) admin: String,
}

/// A port that is free now.
pub(crate) fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("an address")
}

/// A node without tokens, changed before it starts.
pub(crate) fn plain(dir: &Path, change: impl FnOnce(&mut Config)) -> (Running, SocketAddr) {
    let at = free();
    let mut config = config(&dir.join("hub"), "hub", 0);
    config.http = Some(HttpConfig::new(at));
    change(&mut config);
    (start(config), at)
}

/// A node with a token for each scope.
pub(crate) fn served(dir: &Path) -> Served {
    served_by(dir, |_| {})
}

/// The same, changed before it starts.
pub(crate) fn served_by(dir: &Path, change: impl FnOnce(&mut Config)) -> Served {
    let mut secrets = Vec::new();
    let (node, at) = plain(dir, |config| {
        let http = config.http.as_mut().expect("HTTP");
        for scope in [Scope::Read, Scope::Operate, Scope::Admin] {
            let (secret, hash) = new_token().expect("random");
            http.tokens.push(Token { name: scope.as_str().to_owned(), hash, scope });
            secrets.push(secret);
        }
        change(config);
    });
    let [read, operate, admin] = secrets.try_into().expect("three");
    Served { node, at, read, operate, admin }
}

impl Served {
    /// Asks with the token that may do everything.
    pub(crate) fn ask(&self, ask: Ask) -> Reply {
        ask.token(Some(&self.admin)).at(self.at)
    }
}
