//! HTTP: the same node, asked by monitors, scripts and browsers.
//!
//! Off unless configured. Each request becomes one of the admin protocol (`site`), or reads what the
//! node counts (`metrics`, `health`), or follows its events (`events`). `routes` is the list of all
//! addresses, `access` decides who may ask, `problem` says what went wrong. This file listens: bounded
//! connections, deadlines for every step, HTTP/1.1 only, TLS 1.3 where it is configured.

mod access;
mod adoption;
mod body;
mod doctor;
mod events;
pub(crate) mod health;
mod metrics;
mod openapi;
mod page;
mod patient;
mod problem;
mod reads;
mod routes;
mod schedules;
mod service;
mod settings;
mod site;
mod writes;

use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result};
use access::Access;
use patient::Patient;
use site::{Asker, Site};

pub(crate) use service::Serving;
pub use settings::{HttpConfig, Scope, TlsFiles, Token, TokenHash, new_token};

/// A key file that these may read is refused: the world.
const KEY_MODE_BARRED: u32 = 0o007;

/// Where requests come in, and who may come.
struct Door {
    listener: TcpListener,
    access: watch::Receiver<Arc<Access>>,
    tls: watch::Receiver<Option<TlsAcceptor>>,
    closed: watch::Receiver<bool>,
}

/// How TLS is answered with the certificate of these files, and the certificate.
fn acceptor(files: &TlsFiles) -> Result<(TlsAcceptor, Vec<CertificateDer<'static>>)> {
    let wrong = |what: String| Error::Config { what };
    let key_info = std::fs::metadata(&files.key).map_err(|e| Error::io("open", &files.key, e))?;
    if key_info.permissions().mode() & KEY_MODE_BARRED != 0 {
        let mode = key_info.permissions().mode() & 0o7777;
        return Err(Error::KeyUnsafe { path: files.key.clone(), mode });
    }
    let unread = |what: &str, path: &std::path::Path, error: rustls::pki_types::pem::Error| {
        wrong(format!("{what} {}: {error}", path.display()))
    };
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(|e| unread("certificate", &files.cert, e))?
        .collect();
    let chain: Vec<CertificateDer<'static>> =
        chain.map_err(|e| unread("certificate", &files.cert, e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key);
    let key = key.map_err(|e| unread("key", &files.key, e))?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)
            .map_err(|e| wrong(format!("certificate {}: {e}", files.cert.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), chain))
}

/// Serves until the node stops or the door is closed.
async fn run(core: Arc<Core>, door: Door) {
    let Door { listener, access, tls, closed } = door;
    let router = routes::router(&Arc::new(Site::new(core.clone(), access)));
    let places = Arc::new(Semaphore::new(budget::HTTP_CONNECTIONS_MAX));
    let address = listener.local_addr().ok();
    info!(?address, tls = tls.borrow().is_some(), "HTTP is served");
    loop {
        let accepted = tokio::select! {
            () = over(&core, &closed) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "HTTP can't accept");
                tokio::time::sleep(budget::PROGRESS_EVERY).await;
                continue;
            }
        };
        // Who finds no place is hung up on at once: waiting costs us more than trying again costs them.
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let (core, router, closed) = (core.clone(), router.clone(), closed.clone());
                let tls = tls.borrow().clone();
                tokio::spawn(meet(core, router, tls, stream, (closed, place)));
            }
            Err(_) => debug!(%from, "too many connections"),
        }
    }
}

/// Resolves when the node stops or the door is closed.
async fn over(core: &Core, closed: &watch::Receiver<bool>) {
    let mut closed = closed.clone();
    tokio::select! {
        () = core.stopped() => {}
        // A door whose owner is gone is closed, too.
        _closed = async { closed.wait_for(|closed| *closed).await.is_ok() } => {}
    }
}

/// HTTP on the admin socket: the same routes, for who may open the socket.
pub(crate) struct Local {
    core: Arc<Core>,
    router: OnceLock<Router>,
    /// Who may open the socket may do everything: that never changes.
    access: watch::Sender<Arc<Access>>,
    closed: watch::Sender<bool>,
}

impl Local {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let access = watch::Sender::new(Arc::new(Access::socket()));
        Self { core, router: OnceLock::new(), access, closed: watch::Sender::new(false) }
    }

    /// Serves one connection of this user, from its first byte to its last.
    pub(crate) async fn talk<S>(&self, stream: S, who: String)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let site = || Arc::new(Site::new(self.core.clone(), self.access.subscribe()));
        let router = self.router.get_or_init(|| routes::router(&site())).clone();
        let stream = Patient::new(stream, budget::HTTP_WRITE_DEADLINE);
        let closed = self.closed.subscribe();
        talk(&self.core, router, stream, (Some(Asker(who.into())), closed)).await;
    }
}

/// One connection, from its first byte to its last.
async fn meet(
    core: Arc<Core>,
    router: Router,
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    (closed, _place): (watch::Receiver<bool>, OwnedSemaphorePermit),
) {
    // Small answers are the rule; a failure only makes them slower.
    let _slower = stream.set_nodelay(true);
    let stream = Patient::new(stream, budget::HTTP_WRITE_DEADLINE);
    match tls {
        None => talk(&core, router, stream, (None, closed)).await,
        Some(tls) => {
            match tokio::time::timeout(budget::HANDSHAKE_DEADLINE, tls.accept(stream)).await {
                Ok(Ok(stream)) => talk(&core, router, stream, (None, closed)).await,
                Ok(Err(error)) => debug!(%error, "no TLS"),
                Err(_) => debug!("no TLS in time"),
            }
        }
    }
}

/// `asker`: who it is, where the connection says that.
async fn talk<S>(
    core: &Core,
    router: Router,
    stream: S,
    (asker, closed): (Option<Asker>, watch::Receiver<bool>),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(budget::HTTP_HEAD_DEADLINE)
        .max_headers(budget::HTTP_HEADERS_MAX)
        .max_buf_size(budget::HTTP_HEAD_BYTES_MAX);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(asker) = &asker {
            request.extensions_mut().insert(asker.clone());
        }
        router.call(request)
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = over(core, &closed) => {
            // What is being answered is answered; then it is over.
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(budget::HTTP_STOP_WAIT, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended");
    }
}
