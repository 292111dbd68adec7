//! Dialing: keeps one connection to every peer that has an address, and takes those that come in.
//!
//! Lost and refused connections are dialled again with a growing wait and a jitter that comes from
//! the node's seed, so that a hundred branches don't return in step after a hub's restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quinn::Endpoint;
use tracing::debug;

use crate::api::PeerState;
use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::now_unix_ms;
use crate::link::peer::Peer;
use crate::link::refusal;
use crate::link::session;
use crate::link::transport::{self, Link, close};
use crate::membership::pairing;
use crate::membership::tls::Purpose;
use crate::membership::trust::Standing;

/// A connection that lived this long was a good one: the next wait starts small again.
const GOOD: Duration = Duration::from_secs(5);

/// Accepts connections until the node stops.
pub(crate) async fn accept(core: Arc<Core>, endpoint: Endpoint) {
    let under_way = Arc::new(AtomicUsize::new(0));
    loop {
        let incoming = tokio::select! {
            () = core.stopped() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let count = under_way.fetch_add(1, Ordering::Relaxed);
        if count >= budget::INCOMING_MAX {
            incoming.ignore();
            under_way.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (core, under_way) = (core.clone(), under_way.clone());
        tokio::spawn(async move {
            let admitted = transport::admit(incoming, count).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            match admitted {
                Ok(Some(link)) => welcome(core, link).await,
                Ok(None) => {}
                Err(error) => debug!(code = error.code(), %error, "an incoming connection ended"),
            }
        });
    }
}

/// What a proved key may do: a member has a session, and whoever has a ticket the pairing dialogue.
async fn welcome(core: Arc<Core>, link: Link) {
    // Asked again: membership may have changed since the handshake began.
    let (standing, peer) = (core.trust.standing(&link.peer), core.peer(&link.peer));
    let knocks = standing == Standing::Member || core.trust.may_knock(&link.peer, now_unix_ms());
    let result = match (link.purpose, standing, peer) {
        (Purpose::Session, Standing::Member, Some(peer)) => {
            let ended = session::run(core.clone(), peer.clone(), link).await;
            if refusal::is_refusal(&ended)
                && let Err(error) = &ended
            {
                refusal::note(&core, &peer, error);
            }
            ended
        }
        (Purpose::Pairing, _, _) if knocks => pairing::host(core, link).await,
        (_, Standing::Revoked, _) => {
            link.connection.close(close::NOT_A_MEMBER.into(), b"PEER_REVOKED");
            return;
        }
        _ => {
            link.connection.close(close::NOT_A_MEMBER.into(), b"PEER_UNKNOWN");
            return;
        }
    };
    if let Err(error) = result {
        debug!(code = error.code(), %error, "a connection ended");
    }
}

/// A peer that was admitted and is not dialled yet, if it is a new one.
pub(crate) struct Admitted {
    pub(crate) peer: Arc<Peer>,
    pub(crate) is_new: bool,
}

impl Admitted {
    /// Connects to it from now on: it knows us.
    pub(crate) fn dial(self, core: &Arc<Core>) -> Arc<Peer> {
        if self.is_new {
            tokio::spawn(keep(core.clone(), self.peer.clone()));
        }
        self.peer
    }
}

/// Keeps a connection to `peer` until the node stops or it is no peer any more.
pub(crate) async fn keep(core: Arc<Core>, peer: Arc<Peer>) {
    let mut jitter = Jitter::new(core.config.seed, &peer);
    let mut failures = 0_u32;
    while !peer.is_gone() {
        let idle = peer.active().is_some() || peer.config().addresses.is_empty();
        let wait = if idle {
            // Woken when the connection ends or an address is given.
            Duration::from_secs(3600)
        } else {
            match connect(&core, &peer).await {
                Ok(lived) => {
                    failures = if lived > GOOD { 0 } else { failures.saturating_add(1) };
                    jitter.spread(wait_after(failures))
                }
                Err(error) => {
                    refusal::note(&core, &peer, &error);
                    if peer.active().is_none() {
                        peer.known.note_down(Some(&error), Instant::now());
                    }
                    failures = failures.saturating_add(1);
                    jitter.spread(wait_after(failures))
                }
            }
        };
        tokio::select! {
            () = core.stopped() => return,
            () = tokio::time::sleep(wait) => {}
            // The end of a connection wakes us, but the wait before dialling again still holds.
            () = peer.dial_wake.notified(), if idle => {}
            () = peer.redial.notified() => failures = 0,
        }
    }
}

fn wait_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    budget::DIAL_FIRST.saturating_mul(1 << doublings).min(budget::DIAL_LONGEST)
}

/// Dials the peer's addresses one after the other and runs the session; how long it lived.
async fn connect(core: &Arc<Core>, peer: &Arc<Peer>) -> Result<Duration> {
    peer.set_state(PeerState::Connecting);
    let dialled = tokio::select! {
        dialled = dial(core, peer) => dialled,
        () = peer.redial.notified() => {
            // What we were dialling is out of date: begin anew, at once.
            peer.redial.notify_one();
            let what = "its addresses have changed".to_owned();
            Err(Error::Unreachable { peer: peer.name(), what })
        }
    };
    let link = match dialled {
        Ok(link) => link,
        Err(error) => {
            if peer.active().is_none() {
                peer.set_state(PeerState::Down);
            }
            return Err(error);
        }
    };
    let started = Instant::now();
    let result = session::run(core.clone(), peer.clone(), link).await;
    match result {
        // A refusal by the peer arrives right after a handshake that seemed to go well.
        Err(error @ Error::PeerClosed { code: "PEER_UNKNOWN" | "PEER_REVOKED", .. }) => Err(error),
        Err(error) if error.code() == "VERSION_UNSUPPORTED" => Err(error),
        _ => Ok(started.elapsed()),
    }
}

async fn dial(core: &Arc<Core>, peer: &Arc<Peer>) -> Result<Link> {
    let mut last = Error::Unreachable { peer: peer.name(), what: "it has no address".into() };
    for host in peer.config().addresses {
        let found = match transport::lookup(&host).await {
            Ok(found) => found,
            Err(error) => {
                last = error;
                continue;
            }
        };
        for address in found {
            match core.transport.dial(address, peer.id, Purpose::Session).await {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

/// Spreads waits by up to a quarter.
struct Jitter(u64);

impl Jitter {
    fn new(seed: u64, peer: &Peer) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *peer.id.as_bytes();
        Self(seed ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    fn spread(&mut self, wait: Duration) -> Duration {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let quarter = u32::try_from((z >> 33) % 256).unwrap_or(0);
        wait + wait / 4 * quarter / 256
    }
}
