//! Sessions: how a browser that was shown a token once goes on being known.
//!
//! A session stands for a token: it may what the token may, and ends with it. The browser holds 32
//! random bytes in a cookie that scripts don't see and that other sites' pages can't send along; here
//! only their hash is kept, in memory, bounded in number and time. A restart ends all sessions.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use axum::http::header::{COOKIE, HeaderMap};
use blockferry_delta::NodeId;
use data_encoding::BASE32_NOPAD;

use crate::budget;
use crate::core::lock;
use crate::error::{Error, Result};
use crate::http::settings::TokenHash;

/// For what the hash is: a hash for another purpose fits none.
const HASH_PURPOSE: &str = "blockferry 2026 session of the page v1";

/// The sessions of a site.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Of this node: cookies know no ports, and several nodes may be on one machine.
    cookie: String,
    list: Mutex<Vec<Session>>,
}

#[derive(Debug)]
struct Session {
    hash: blake3::Hash,
    token: TokenHash,
    until: Instant,
}

impl Sessions {
    pub(crate) fn new(node: &NodeId) -> Self {
        let cookie = format!("blockferry-{}", node.short().to_ascii_lowercase());
        Self { cookie, list: Mutex::default() }
    }

    /// Begins one for the holder of a token; what `Set-Cookie` says.
    pub(crate) fn begin(&self, token: TokenHash, secure: bool, now: Instant) -> Result<String> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| Error::Crypto { what: "random bytes" })?;
        let secret = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        let mut list = lock(&self.list);
        list.retain(|session| session.until > now);
        if list.len() >= budget::PAGE_SESSIONS_MAX {
            // The oldest is the first: all live equally long.
            list.remove(0);
        }
        let until = now + budget::PAGE_SESSION_LIFE;
        list.push(Session { hash: hash(&secret), token, until });
        Ok(self.said(&secret, secure, budget::PAGE_SESSION_LIFE))
    }

    /// The token that a request's session stands for.
    pub(crate) fn token(&self, headers: &HeaderMap) -> Option<TokenHash> {
        self.token_at(headers, Instant::now())
    }

    fn token_at(&self, headers: &HeaderMap, now: Instant) -> Option<TokenHash> {
        let hash = hash(self.secret(headers)?);
        let list = lock(&self.list);
        let found = list.iter().find(|session| session.hash == hash && session.until > now);
        found.map(|session| session.token)
    }

    /// Ends the session of a request; what `Set-Cookie` says.
    pub(crate) fn end(&self, headers: &HeaderMap, secure: bool) -> String {
        if let Some(secret) = self.secret(headers) {
            let hash = hash(secret);
            lock(&self.list).retain(|session| session.hash != hash);
        }
        self.said("", secure, Duration::ZERO)
    }

    fn said(&self, secret: &str, secure: bool, life: Duration) -> String {
        let (name, seconds) = (&self.cookie, life.as_secs());
        let secure = if secure { "; Secure" } else { "" };
        format!("{name}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    fn secret<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|one| {
            let (name, value) = one.trim().split_once('=')?;
            (name == self.cookie).then_some(value)
        });
        pairs.next()
    }
}

fn hash(secret: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key(HASH_PURPOSE, secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn sessions() -> Sessions {
        Sessions { cookie: "blockferry-a".to_owned(), list: Mutex::default() }
    }

    fn with(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(cookie).expect("a value"));
        headers
    }

    /// What a browser sends back.
    fn sent(said: &str) -> HeaderMap {
        with(&format!("other=1; {}", said.split(';').next().expect("a pair")))
    }

    #[test]
    fn it_is_known_until_it_ends() {
        let (sessions, now) = (sessions(), Instant::now());
        let (one, other) = (TokenHash::of("one"), TokenHash::of("other"));
        let first = sessions.begin(one, false, now).expect("random");
        let second = sessions.begin(other, true, now).expect("random");
        assert!(
            first.contains("HttpOnly; SameSite=Strict") && !first.contains("Secure"),
            "{first}"
        );
        assert!(second.ends_with("; Secure"), "{second}");
        assert_eq!(sessions.token_at(&sent(&first), now), Some(one));
        assert_eq!(sessions.token_at(&sent(&second), now), Some(other));
        for stranger in ["", "blockferry-a=", "blockferry-a=x", "blockferry-b=x"] {
            assert_eq!(sessions.token_at(&with(stranger), now), None, "{stranger}");
        }
        assert!(sessions.end(&sent(&first), false).contains("Max-Age=0"));
        assert_eq!(sessions.token_at(&sent(&first), now), None);
        let later = now + budget::PAGE_SESSION_LIFE;
        assert_eq!(sessions.token_at(&sent(&second), later), None);
    }

    #[test]
    fn there_are_only_so_many() {
        let (sessions, now) = (sessions(), Instant::now());
        let token = TokenHash::of("one");
        let first = sessions.begin(token, false, now).expect("random");
        for _ in 0..budget::PAGE_SESSIONS_MAX {
            sessions.begin(token, false, now).expect("random");
        }
        assert_eq!(lock(&sessions.list).len(), budget::PAGE_SESSIONS_MAX);
        assert_eq!(sessions.token_at(&sent(&first), now), None, "the oldest goes");
        let later = now + budget::PAGE_SESSION_LIFE;
        sessions.begin(token, false, later).expect("random");
        assert_eq!(lock(&sessions.list).len(), 1, "what is over is forgotten");
    }
}
