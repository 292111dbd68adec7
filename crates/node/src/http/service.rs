//! Service: HTTP over TCP as the configuration says it, also when that is read again.
//!
//! What a reload brings is made ready first (the address bound, the certificate read), so that one that
//! can't be meant changes nothing. Then tokens and names are in force with the next request, a
//! certificate with the next connection; another address is listened on before the old one is let go.
//! Whoever follows events with a token that is gone is hung up on.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::settings::{HttpConfig, Token};
use super::{Door, acceptor, run};
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::reload::Reloaded;

/// HTTP over TCP, if there is any.
#[derive(Default)]
pub(crate) struct Serving(Mutex<Option<Running>>);

/// What is served now.
struct Running {
    config: HttpConfig,
    address: Option<SocketAddr>,
    chain: Vec<CertificateDer<'static>>,
    access: watch::Sender<Arc<Access>>,
    tls: watch::Sender<Option<TlsAcceptor>>,
    /// True: nobody is answered here any more.
    closed: watch::Sender<bool>,
}

/// A configuration that is ready to come into force.
pub(crate) struct Prepared {
    config: Option<HttpConfig>,
    /// Another address than before.
    listener: Option<tokio::net::TcpListener>,
    tls: Option<TlsAcceptor>,
    chain: Vec<CertificateDer<'static>>,
}

impl Serving {
    /// Where it is served, with the port that the system chose.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        lock(&self.0).as_ref().and_then(|running| running.address)
    }

    /// The configuration that is served now.
    pub(crate) fn config(&self) -> Option<HttpConfig> {
        lock(&self.0).as_ref().map(|running| running.config.clone())
    }

    /// Makes everything ready; what is served stays as it is. Within a runtime.
    pub(crate) fn prepare(&self, config: Option<&HttpConfig>) -> Result<Prepared> {
        let Some(config) = config else {
            return Ok(Prepared { config: None, listener: None, tls: None, chain: Vec::new() });
        };
        let (tls, chain) = config.tls.as_ref().map(acceptor).transpose()?.unzip();
        let running = lock(&self.0);
        let listener = match &*running {
            Some(now) if now.config.listen == config.listen => None,
            // Both of one port can be in each other's way: then the old one stays until a restart.
            Some(now) if now.config.listen.port() == config.listen.port() => {
                let listener = bind(config.listen).ok();
                if listener.is_none() {
                    safe_at(now.config.listen, config)?;
                }
                listener
            }
            _ => Some(bind(config.listen)?),
        };
        let (config, chain) = (Some(config.clone()), chain.unwrap_or_default());
        Ok(Prepared { config, listener, tls, chain })
    }

    /// Puts into force what was made ready, and says which keys that were.
    pub(crate) fn apply(&self, core: &Arc<Core>, new: Prepared, done: &mut Reloaded) {
        let mut running = lock(&self.0);
        done.changed.extend(changed(running.as_ref(), &new));
        let Prepared { config, listener, tls, chain } = new;
        let Some(mut config) = config else {
            *running = None;
            return;
        };
        let access = Arc::new(Access::new(&config));
        match (listener, running.as_mut()) {
            (None, Some(now)) => {
                now.tls.send_replace(tls);
                now.access.send_replace(access);
                if config.listen != now.config.listen {
                    done.restart.push("admin.http".to_owned());
                    config.listen = now.config.listen;
                }
                (now.config, now.chain) = (config, chain);
            }
            (Some(listener), _) => {
                let (access, tls) = (watch::Sender::new(access), watch::Sender::new(tls));
                let closed = watch::Sender::new(false);
                let address = listener.local_addr().ok();
                let door = Door {
                    listener,
                    access: access.subscribe(),
                    tls: tls.subscribe(),
                    closed: closed.subscribe(),
                };
                tokio::spawn(run(core.clone(), door));
                // What was there before ends as it is dropped.
                *running = Some(Running { config, address, chain, access, tls, closed });
            }
            (None, None) => {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

/// Whether a configuration may come into force where the old one listens: what is safe on loopback may
/// not be at an address that others reach.
fn safe_at(stays: SocketAddr, config: &HttpConfig) -> Result<()> {
    let there = HttpConfig { listen: stays, ..config.clone() };
    there.check().map_err(|error| {
        let what = format!("admin.http stays at {stays} until a restart, and there: {error}");
        Error::Config { what }
    })
}

fn bind(at: SocketAddr) -> Result<tokio::net::TcpListener> {
    let failed = |e| Error::io("listen on", format!("tcp {at}"), e);
    let listener = TcpListener::bind(at).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map_err(failed)
}

/// Keys of the configuration in which the two differ.
fn changed(now: Option<&Running>, new: &Prepared) -> Vec<String> {
    let mut keys = Vec::new();
    let (before, after) = (now.map(|now| &now.config), new.config.as_ref());
    let mut differs = |key: &str, differs: bool| {
        if differs {
            keys.push(format!("admin.{key}"));
        }
    };
    differs("http", new.listener.is_some() || (before.is_some() && after.is_none()));
    let (Some(before), Some(after)) = (before, after) else { return keys };
    differs("hosts", before.hosts != after.hosts);
    let other_chain = now.is_some_and(|now| now.chain != new.chain);
    differs("tls", before.tls != after.tls || other_chain);
    let other = |all: &[Token], token: &Token| !all.contains(token);
    let gone = before.tokens.iter().filter(|token| other(&after.tokens, token));
    let new = after.tokens.iter().filter(|token| other(&before.tokens, token));
    let mut names: Vec<&String> = gone.chain(new).map(|token| &token.name).collect();
    names.sort();
    names.dedup();
    names.iter().for_each(|name| differs(&format!("tokens.{name}"), true));
    keys
}
