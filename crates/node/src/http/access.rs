//! Access: who may ask what over HTTP, decided from the request's head alone. Pure.
//!
//! Two questions. *Where from?* The Host must be an address, `localhost` or a name of ours, so that no
//! foreign name that leads here (DNS rebinding) serves; an Origin, if there is one, must be that very
//! host: no other site's page may ask. *Who?* A token in `Authorization: Bearer`. Without any token
//! in the configuration everybody who reaches us may read and nobody may write: loopback proves
//! nothing about who asks.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};

use super::settings::{HttpConfig, Scope, Token, TokenHash};

/// Who may ask what.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    hosts: Vec<String>,
    tokens: Vec<Token>,
    /// Whoever reaches us may do everything: the file system has decided.
    open: bool,
}

/// What somebody showed when asking: a token's hash, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credential(Option<TokenHash>);

impl Credential {
    /// What the holder of a token would show.
    pub(crate) fn of(token: TokenHash) -> Self {
        Self(Some(token))
    }

    /// Whether nothing was shown.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The Host is none of ours.
    Host(String),
    /// Another site's page asks.
    Origin(String),
    /// There is no token, or none that is known.
    Token,
    /// No token is configured, so that nothing may be changed.
    NoTokens,
    /// The token may not do this.
    Scope {
        /// Whose token.
        name: String,
        /// What it would have to allow.
        needs: Scope,
    },
}

impl Access {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        Self { hosts: config.hosts.clone(), tokens: config.tokens.clone(), open: false }
    }

    /// Of the admin socket: who may open it may do everything, as with the command line.
    pub(crate) fn socket() -> Self {
        Self { hosts: Vec::new(), tokens: Vec::new(), open: true }
    }

    /// Whether the request was meant for us and comes from no other site.
    pub(crate) fn check_where(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let host = only(headers, &HOST).flatten().unwrap_or_default();
        if !self.is_ours(host) {
            return Err(Denied::Host(host.to_owned()));
        }
        let foreign = |origin: &str| Err(Denied::Origin(origin.to_owned()));
        match only(headers, &ORIGIN) {
            None => foreign("several"),
            Some(None) => Ok(()),
            Some(Some(origin)) => {
                let there = origin.strip_prefix("http://");
                let there = there.or_else(|| origin.strip_prefix("https://"));
                let same = there.is_some_and(|there| there.eq_ignore_ascii_case(host));
                if same { Ok(()) } else { foreign(origin) }
            }
        }
    }

    /// Whether who asks may do what `needs` this scope; the name of the token.
    pub(crate) fn check_who(&self, headers: &HeaderMap, needs: Scope) -> Result<&str, Denied> {
        self.may(&self.credential(headers)?, needs)
    }

    /// What who asks shows.
    pub(crate) fn credential(&self, headers: &HeaderMap) -> Result<Credential, Denied> {
        if self.open {
            return Ok(Credential(None));
        }
        let Some(said) = only(headers, &AUTHORIZATION).ok_or(Denied::Token)? else {
            return Ok(Credential(None));
        };
        let (kind, secret) = said.split_once(' ').ok_or(Denied::Token)?;
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Token);
        }
        Ok(Credential(Some(TokenHash::of(secret.trim()))))
    }

    /// Whether who has shown this may do what `needs` this scope; the name of the token.
    pub(crate) fn may(&self, shown: &Credential, needs: Scope) -> Result<&str, Denied> {
        if self.open {
            return Ok("admin socket");
        }
        let Some(hash) = shown.0 else {
            return match (self.tokens.is_empty(), needs) {
                (true, Scope::Read) => Ok(""),
                (true, _) => Err(Denied::NoTokens),
                (false, _) => Err(Denied::Token),
            };
        };
        let token = self.tokens.iter().find(|token| token.hash == hash).ok_or(Denied::Token)?;
        if token.scope < needs {
            return Err(Denied::Scope { name: token.name.clone(), needs });
        }
        Ok(&token.name)
    }

    /// Whether there is anything to log in with.
    pub(crate) fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        let name = name.to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok()
            || name == "localhost"
            || self.hosts.contains(&name)
    }
}

/// The host without its port; `None`: that is no host.
fn name_of(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') {
        host.find(']')? + 1
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let (name, port) = host.split_at_checked(end)?;
    let port = port.strip_prefix(':').unwrap_or(port);
    (port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty()).then_some(name)
}

/// The header, if it is there; `None`: it is there several times or is no text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a str>> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Some(None),
        (Some(value), None) => value.to_str().ok().map(Some),
        (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::settings::new_token;
    use axum::http::HeaderValue;

    fn access(hosts: &[&str]) -> (Access, Vec<String>) {
        let mut config = HttpConfig::new("127.0.0.1:7780".parse().expect("an address"));
        config.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut secrets = Vec::new();
        for scope in [Scope::Read, Scope::Operate, Scope::Admin] {
            let (secret, hash) = new_token().expect("random");
            secrets.push(secret);
            config.tokens.push(Token { name: scope.as_str().to_owned(), hash, scope });
        }
        (Access::new(&config), secrets)
    }

    fn head(rows: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn only_our_names_serve() {
        let (access, _) = access(&["hub.example.net"]);
        for good in [
            "127.0.0.1",
            "127.0.0.1:7780",
            "[::1]:7780",
            "192.0.2.7:80",
            "localhost:7780",
            "LocalHost",
            "hub.example.net",
            "HUB.example.net:443",
        ] {
            assert_eq!(access.check_where(&head(&[("host", good)])), Ok(()), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "hub.example.net.evil.example:7780",
            "hub.example.net:80x",
            "hub.example.net:80:80",
            "[::1",
            "[::1]evil.example",
            "127.0.0.1@evil.example",
            ":80",
        ] {
            let denied = access.check_where(&head(&[("host", bad)]));
            assert_eq!(denied, Err(Denied::Host(bad.to_owned())), "{bad}");
        }
        let twice = head(&[("host", "localhost"), ("host", "localhost")]);
        assert!(access.check_where(&twice).is_err());
        assert!(access.check_where(&head(&[])).is_err());
    }

    #[test]
    fn no_other_site_may_ask() {
        let (access, _) = access(&["hub.example.net"]);
        let asked = |host: &str, origin: &str| {
            access.check_where(&head(&[("host", host), ("origin", origin)]))
        };
        assert_eq!(asked("localhost:7780", "http://localhost:7780"), Ok(()));
        assert_eq!(asked("hub.example.net", "https://hub.example.net"), Ok(()));
        for (host, origin) in [
            ("localhost:7780", "http://localhost:8080"),
            ("localhost:7780", "http://localhost"),
            ("localhost:7780", "null"),
            ("localhost:7780", ""),
            ("localhost:7780", "http://evil.example"),
            ("localhost:7780", "http://localhost:7780.evil.example"),
            ("localhost:7780", "localhost:7780"),
            ("127.0.0.1:7780", "http://localhost:7780"),
        ] {
            assert_eq!(asked(host, origin), Err(Denied::Origin(origin.to_owned())), "{origin}");
        }
    }

    #[test]
    fn a_token_may_do_what_its_scope_says() {
        let (access, secrets) = access(&[]);
        let scopes = [Scope::Read, Scope::Operate, Scope::Admin];
        for (held, secret) in scopes.iter().zip(&secrets) {
            for needs in scopes {
                let said = format!("Bearer {secret}");
                let allowed = access.check_who(&head(&[("authorization", &said)]), needs);
                assert_eq!(allowed.is_ok(), *held >= needs, "{held:?} {needs:?}");
            }
        }
        let right = format!("bearer {}", secrets[2]);
        assert_eq!(
            access.check_who(&head(&[("authorization", &right)]), Scope::Admin),
            Ok("admin")
        );
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer x", &secrets[2], &format!("Basic {}", secrets[2])]
        {
            let denied = access.check_who(&head(&[("authorization", wrong)]), Scope::Read);
            assert_eq!(denied, Err(Denied::Token), "{wrong}");
        }
        let twice = head(&[("authorization", &right), ("authorization", &right)]);
        assert_eq!(access.check_who(&twice, Scope::Read), Err(Denied::Token));
        assert_eq!(access.check_who(&head(&[]), Scope::Read), Err(Denied::Token));
    }

    #[test]
    fn without_tokens_one_may_look_and_nothing_else() {
        let config = HttpConfig::new("127.0.0.1:7780".parse().expect("an address"));
        let access = Access::new(&config);
        assert_eq!(access.check_who(&head(&[]), Scope::Read), Ok(""));
        for needs in [Scope::Operate, Scope::Admin] {
            assert_eq!(access.check_who(&head(&[]), needs), Err(Denied::NoTokens));
        }
        // Who says a token means it: an unknown one is told.
        let said = head(&[("authorization", "Bearer bft_x")]);
        assert_eq!(access.check_who(&said, Scope::Read), Err(Denied::Token));
    }
}
