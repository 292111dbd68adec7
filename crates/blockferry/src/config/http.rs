//! What `[admin]` says about HTTP: where, by which names, with which certificate and tokens.
//!
//! What must fit together is decided by the node (`HttpConfig::check`); here it is read and complained
//! about at its place in the file.

use super::file::{AdminSection, ScopeChoice, TlsSection, TokenSection};
use super::settings::Reader;
use blockferry_node::http::{HttpConfig, Scope, TlsFiles, Token, TokenHash};
use std::collections::BTreeMap;

impl Reader<'_> {
    /// HTTP, if it is switched on. What it is told is checked either way.
    pub(super) fn http(&mut self, raw: AdminSection) -> Option<HttpConfig> {
        let hosts: Vec<String> =
            raw.hosts.unwrap_or_default().iter().map(|host| host.to_ascii_lowercase()).collect();
        if !hosts.is_empty() {
            self.list(&["admin", "hosts"], hosts.iter().cloned());
        }
        let tls = self.tls(raw.tls);
        let tokens = self.tokens(raw.tokens);
        let listen = raw.http?;
        self.text(&["admin", "http"], listen.to_string());
        let config = HttpConfig { listen, hosts, tokens, tls };
        if let Err(error) = config.check() {
            let place = self.place(&["admin", "http"]);
            let text = error.to_string();
            let text = text.strip_prefix("configuration: ").unwrap_or(&text).to_owned();
            self.complain(place, text);
        }
        Some(config)
    }

    fn tls(&mut self, raw: TlsSection) -> Option<TlsFiles> {
        match (raw.cert, raw.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(TlsFiles {
                cert: self.path(&["admin", "tls", "cert"], Some(cert), ""),
                key: self.path(&["admin", "tls", "key"], Some(key), ""),
            }),
            (cert, _) => {
                let (there, missing) =
                    if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                let place = self.place(&["admin", "tls", there]);
                self.complain(place, format!("admin.tls has no {missing}"));
                None
            }
        }
    }

    fn tokens(&mut self, raw: BTreeMap<String, TokenSection>) -> Vec<Token> {
        raw.into_iter().filter_map(|(name, token)| self.token(name, token)).collect()
    }

    fn token(&mut self, name: String, raw: TokenSection) -> Option<Token> {
        let at = |last: &'static str| ["admin", "tokens", name.as_str(), last];
        let (Some(hash), Some(scope)) = (raw.hash, raw.scope) else {
            let place = self.section_place("admin", "tokens");
            self.complain_with(
                place,
                format!("admin.tokens.{name} needs a hash and a scope"),
                "make one with: blockferry token new NAME --scope read".to_owned(),
            );
            return None;
        };
        let hash = self.text(&at("hash"), hash);
        self.text(&at("scope"), scope.as_str().to_owned());
        let scope = match scope {
            ScopeChoice::Read => Scope::Read,
            ScopeChoice::Operate => Scope::Operate,
            ScopeChoice::Admin => Scope::Admin,
        };
        match hash.parse::<TokenHash>() {
            Ok(hash) => Some(Token { name, hash, scope }),
            Err(error) => {
                let place = self.place(&at("hash"));
                self.complain(place, format!("admin.tokens.{name}: {error}"));
                None
            }
        }
    }
}
