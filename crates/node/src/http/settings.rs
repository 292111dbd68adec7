//! What HTTP is told: where it listens, by which names, with which tokens and certificate.
//!
//! A token is 32 random bytes that only its holder has; the configuration keeps their hash. What a
//! token may do is its scope. [`HttpConfig::check`] refuses what would be open to the network: beyond
//! loopback there is TLS and there are tokens, or there is no HTTP.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use aws_lc_rs::rand;
use data_encoding::BASE32_NOPAD;

use crate::budget;
use crate::error::{Error, Result};

/// What every token begins with, so that one is known where it should not be.
const TOKEN_PREFIX: &str = "bft_";
/// What every hash begins with.
const HASH_PREFIX: &str = "blake3:";
/// For what the hash is: a hash for another purpose fits none.
const HASH_PURPOSE: &str = "blockferry 2026 token of the admin API v1";

/// What the holder of a token may do. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look: status, images, events, metrics.
    Read,
    /// Publish, push, promote, roll back, resolve, verify, pause, resume, boost, limit.
    Operate,
    /// Stores and peers: add, remove, invite, join.
    Admin,
}

impl Scope {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Read, Self::Operate, Self::Admin];
        let found = all.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no scope: read, operate or admin"))
    }
}

/// The hash of a token: what may be written down. Comparing two takes the same time whatever they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    /// The hash of what somebody says is a token.
    pub fn of(secret: &str) -> Self {
        Self(blake3::Hash::from_bytes(blake3::derive_key(HASH_PURPOSE, secret.as_bytes())))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{}", self.0.to_hex())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a hash is blake3: and 64 digits: blockferry token new prints it".to_owned();
        let hex = text.strip_prefix(HASH_PREFIX).ok_or_else(wrong)?;
        blake3::Hash::from_hex(hex).map(Self).map_err(|_| wrong())
    }
}

/// A new token: the secret itself, which is said once, and its hash.
pub fn new_token() -> Result<(String, TokenHash)> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Error::Crypto { what: "random bytes" })?;
    let secret = format!("{TOKEN_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase());
    let hash = TokenHash::of(&secret);
    Ok((secret, hash))
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, for the log.
    pub name: String,
    /// What is kept of it.
    pub hash: TokenHash,
    /// What it may do.
    pub scope: Scope,
}

/// Where the certificate is, and its key; both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that lead to a root.
    pub cert: PathBuf,
    /// Its key; the world may not read it.
    pub key: PathBuf,
}

/// HTTP of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it listens (TCP).
    pub listen: SocketAddr,
    /// Names by which it is reached, besides addresses and `localhost`: lower case, without a port.
    pub hosts: Vec<String>,
    /// Who may do what. None: everybody who reaches it may read, nobody may write.
    pub tokens: Vec<Token>,
    /// The certificate; `None`: plain HTTP, on loopback only.
    pub tls: Option<TlsFiles>,
}

impl HttpConfig {
    /// Plain HTTP at an address, without tokens.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, hosts: Vec::new(), tokens: Vec::new(), tls: None }
    }

    /// Refuses what can't be meant.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config { what });
        let listen = self.listen;
        if !listen.ip().is_loopback() {
            if self.tls.is_none() {
                let why = "set [admin.tls] cert and key, or listen on 127.0.0.1";
                return wrong(format!("admin.http {listen} is beyond loopback without TLS: {why}"));
            }
            if self.tokens.is_empty() {
                let why = "make one with blockferry token new NAME --scope read";
                return wrong(format!("admin.http {listen} is beyond loopback, no token: {why}"));
            }
        }
        if self.tokens.len() > budget::HTTP_TOKENS_MAX {
            return wrong(format!("at most {} tokens", budget::HTTP_TOKENS_MAX));
        }
        let mut names = BTreeSet::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let twin = self.tokens.iter().take(at).any(|other| other.hash == token.hash);
            if twin || !names.insert(&token.name) {
                return wrong(format!("token {} is there twice", token.name));
            }
        }
        for host in &self.hosts {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
            if host.is_empty() || !host.bytes().all(plain) {
                return wrong(format!("{host:?} is no host's name: lower case, without a port"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str) -> Token {
        let (_, hash) = new_token().expect("random");
        Token { name: name.to_owned(), hash, scope: Scope::Read }
    }

    fn refused(config: &HttpConfig) -> String {
        let error = config.check().expect_err("refused");
        assert_eq!(error.code(), "CONFIG_ERROR");
        error.to_string()
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let (secret, hash) = new_token().expect("random");
        assert!(secret.starts_with(TOKEN_PREFIX) && secret.len() == 4 + 52, "{secret}");
        assert_eq!(TokenHash::of(&secret), hash);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_ne!(TokenHash::of(&secret.to_ascii_uppercase()), hash);
        assert_ne!(new_token().expect("random").0, secret);
        for bad in ["", "blake3:", "blake3:00", &secret, &hash.to_string()[7..]] {
            assert!(bad.parse::<TokenHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes_include_one_another_in_order() {
        assert!(Scope::Read < Scope::Operate && Scope::Operate < Scope::Admin);
        for scope in [Scope::Read, Scope::Operate, Scope::Admin] {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("root".parse::<Scope>().is_err());
    }

    #[test]
    fn beyond_loopback_there_is_tls_and_there_are_tokens() {
        let loopback = HttpConfig::new("127.0.0.1:7780".parse().expect("an address"));
        loopback.check().expect("loopback may be plain");
        HttpConfig::new("[::1]:0".parse().expect("an address")).check().expect("loopback");
        for listen in ["0.0.0.0:7780", "[::]:7780", "192.0.2.1:7780"] {
            let mut config = HttpConfig::new(listen.parse().expect("an address"));
            assert!(refused(&config).contains("[admin.tls]"));
            config.tls = Some(TlsFiles { cert: "/c".into(), key: "/k".into() });
            assert!(refused(&config).contains("blockferry token new"));
            config.tokens.push(token("prometheus"));
            config.check().expect("both are there");
        }
    }

    #[test]
    fn twins_and_names_that_are_none_are_refused() {
        let mut config = HttpConfig::new("127.0.0.1:0".parse().expect("an address"));
        config.tokens = vec![token("a"), token("b")];
        config.check().expect("two");
        config.tokens[1].name = "a".to_owned();
        assert!(refused(&config).contains("twice"));
        config.tokens[1] = Token { name: "c".to_owned(), ..config.tokens[0].clone() };
        assert!(refused(&config).contains("twice"));
        config.tokens = (0..=budget::HTTP_TOKENS_MAX).map(|n| token(&n.to_string())).collect();
        assert!(refused(&config).contains("at most"));
        config.tokens.clear();
        for host in ["", "Hub", "hub:80", "http://hub", "hub/"] {
            config.hosts = vec![host.to_owned()];
            assert!(refused(&config).contains("no host"), "{host}");
        }
        config.hosts = vec!["hub-01.example.net".to_owned()];
        config.check().expect("a name");
    }
}
