//! A peer: what we know of it and the one connection to it.
//!
//! Of two connections between a pair one survives: a new one takes the place of an old one, unless
//! both were just made; then the one that the node with the smaller id dialled is kept. A peer that
//! dials while we believe to be connected has usually been restarted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, NodeId, StoreName};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::api::{PeerState, Role};
use crate::budget;
use crate::config::PeerConfig;
use crate::core::lock;
use crate::events::now_unix_ms;
use crate::link::known::Known;
use crate::link::transport::Link;
use crate::membership::twins::Twins;
use crate::transfer::level::Chooser;
use crate::transfer::workers;

/// Connections this young may have crossed on the way.
const CROSSING: Duration = Duration::from_secs(5);

/// Images whose current generation is to be told to the peer.
type Announcements = BTreeSet<(StoreName, ImageName)>;

/// A peer.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    /// It stands in the configuration file.
    pub(crate) configured: AtomicBool,
    config: RwLock<PeerConfig>,
    /// The stores among it: asked for each store and each peer.
    shared: RwLock<BTreeSet<StoreName>>,
    /// How often what we were told of it has changed.
    changes: AtomicU64,
    active: Mutex<Option<Active>>,
    /// What connections that are gone have carried.
    past: Mutex<Carried>,
    state: Mutex<PeerState>,
    /// Why the two don't talk, since they did last.
    refused: Mutex<Option<&'static str>>,
    /// When it was connected or lost last, in milliseconds since 1970.
    since_unix_ms: AtomicI64,
    /// The connection has ended.
    pub(crate) dial_wake: Notify,
    /// What we know of it has changed: dial now, don't wait.
    pub(crate) redial: Notify,
    /// Level of what is sent to it, when it follows the link.
    pub(crate) chooser: Mutex<Chooser>,
    /// Room for transfers being received from it, in units of [`budget::RECEIVE_UNIT_BYTES`].
    pub(crate) receives: Arc<Semaphore>,
    /// Whether two places show its key.
    pub(crate) twins: Mutex<Twins>,
    /// What it said of itself, and why it isn't connected.
    pub(crate) known: Known,
    /// It is no peer any more: its tasks end.
    gone: tokio::sync::watch::Sender<bool>,
}

/// The connection to a peer.
#[derive(Clone)]
pub(crate) struct Active {
    pub(crate) link: Link,
    since: Instant,
    pub(crate) outbox: Arc<Outbox>,
    /// Feature bits both have.
    features: Arc<AtomicU64>,
    version: Arc<OnceLock<u16>>,
}

/// It has been neither connected nor lost.
const UNKNOWN: i64 = i64::MIN;

/// What connections to a peer have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// UDP payload.
    pub(crate) sent_bytes: u64,
    /// UDP payload.
    pub(crate) received_bytes: u64,
    pub(crate) lost_packets: u64,
}

impl Carried {
    fn and(self, link: &Link) -> Self {
        let stats = link.connection.stats();
        Self {
            sent_bytes: self.sent_bytes.saturating_add(stats.udp_tx.bytes),
            received_bytes: self.received_bytes.saturating_add(stats.udp_rx.bytes),
            lost_packets: self.lost_packets.saturating_add(stats.path.lost_packets),
        }
    }
}

/// What is to be said on the control stream.
#[derive(Default)]
pub(crate) struct Outbox {
    announcements: Mutex<Announcements>,
    /// Stores of which everything is to be told.
    introductions: Mutex<BTreeSet<StoreName>>,
    probes: Mutex<Vec<oneshot::Sender<()>>>,
    pub(crate) wake: Notify,
}

impl Outbox {
    /// Takes what is to be announced.
    pub(crate) fn take_announcements(&self) -> Announcements {
        std::mem::take(&mut *lock(&self.announcements))
    }

    /// Has everything of a store told.
    pub(crate) fn introduce(&self, store: StoreName) {
        lock(&self.introductions).insert(store);
        self.wake.notify_one();
    }

    /// Takes the stores of which everything is to be told.
    pub(crate) fn take_introductions(&self) -> BTreeSet<StoreName> {
        std::mem::take(&mut *lock(&self.introductions))
    }

    /// Takes those who wait for a sign of life.
    pub(crate) fn take_probes(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut *lock(&self.probes))
    }
}

/// What is to be done with a new connection.
pub(crate) enum Adoption {
    /// It is the connection now; the old one, if any, was closed.
    Adopted(Active),
    /// The old one is kept if it still lives.
    Doubtful(Active),
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, configured: bool) -> Self {
        // A core is left to the connection; a transfer keeps so many at work.
        let workers = workers::threads().saturating_sub(1).clamp(1, budget::PACKS_AHEAD);
        Self {
            id: config.id,
            configured: AtomicBool::new(configured),
            shared: RwLock::new(config.stores.iter().cloned().collect()),
            changes: AtomicU64::new(0),
            config: RwLock::new(config),
            active: Mutex::new(None),
            past: Mutex::default(),
            state: Mutex::new(PeerState::Down),
            refused: Mutex::default(),
            since_unix_ms: AtomicI64::new(UNKNOWN),
            dial_wake: Notify::new(),
            redial: Notify::new(),
            chooser: Mutex::new(Chooser::new(workers)),
            receives: Arc::new(Semaphore::new(budget::RECEIVE_UNITS_PER_PEER)),
            twins: Mutex::default(),
            known: Known::new(Instant::now()),
            gone: tokio::sync::watch::Sender::new(false),
        }
    }

    /// What we were told of it.
    pub(crate) fn config(&self) -> PeerConfig {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what we were told of it; `redial`: where it is, too.
    pub(crate) fn set_config(&self, config: PeerConfig, redial: bool) {
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) =
            config.stores.iter().cloned().collect();
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.changes.fetch_add(1, Ordering::Release);
        if redial {
            self.redial.notify_one();
        }
    }

    /// What we call it.
    pub(crate) fn name(&self) -> String {
        self.config.read().unwrap_or_else(PoisonError::into_inner).name.clone()
    }

    /// Whether it shares a store.
    pub(crate) fn shares(&self, store: &StoreName) -> bool {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).contains(store)
    }

    /// How often what we were told of it has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Its role in a store, as far as we know: tickets say who is a mirror.
    pub(crate) fn role(&self, store: &StoreName) -> Option<Role> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        config.mirrors.contains(store).then_some(Role::Mirror)
    }

    /// How it is reached.
    pub(crate) fn state(&self) -> PeerState {
        *lock(&self.state)
    }

    /// Notes how it is reached.
    pub(crate) fn set_state(&self, state: PeerState) {
        if state == PeerState::Up {
            *lock(&self.refused) = None;
        }
        let before = std::mem::replace(&mut *lock(&self.state), state);
        if (before == PeerState::Up) != (state == PeerState::Up) {
            self.since_unix_ms.store(now_unix_ms(), Ordering::Relaxed);
        }
    }

    /// Since when it is connected, or isn't any more, in milliseconds since 1970; `None`: it has not
    /// been since the start.
    pub(crate) fn since_unix_ms(&self) -> Option<i64> {
        Some(self.since_unix_ms.load(Ordering::Relaxed)).filter(|at| *at != UNKNOWN)
    }

    /// Why the two don't talk, by a stable code; `None`: nothing is known against it.
    pub(crate) fn refused(&self) -> Option<&'static str> {
        *lock(&self.refused)
    }

    /// Notes why the two don't talk; whether that is news.
    pub(crate) fn note_refused(&self, code: &'static str) -> bool {
        lock(&self.refused).replace(code) != Some(code)
    }

    /// The connection.
    pub(crate) fn active(&self) -> Option<Active> {
        lock(&self.active).clone()
    }

    /// Takes a new connection, or says that there is a young one that must prove it lives.
    pub(crate) fn adopt(&self, link: Link, us: NodeId, now: Instant) -> Adoption {
        let mut active = lock(&self.active);
        if let Some(old) = active.as_ref() {
            let young = now.saturating_duration_since(old.since) < CROSSING;
            let smaller = us < self.id;
            let preferred = |link: &Link| link.dialled == smaller;
            if young && preferred(&old.link) && !preferred(&link) {
                return Adoption::Doubtful(old.clone());
            }
        }
        self.count(&active);
        Adoption::Adopted(replace(&mut active, link, now))
    }

    /// Takes a new connection whatever was there.
    pub(crate) fn adopt_anyway(&self, link: Link, now: Instant) -> Active {
        let mut active = lock(&self.active);
        self.count(&active);
        replace(&mut active, link, now)
    }

    /// Forgets a connection that has ended; says whether it was the current one.
    pub(crate) fn drop_link(&self, link: &Link) -> bool {
        let mut active = lock(&self.active);
        let current = active.as_ref().is_some_and(|a| same(&a.link, link));
        if current {
            self.count(&active);
            *active = None;
            self.set_state(PeerState::Down);
            self.dial_wake.notify_one();
        }
        current
    }

    /// What it was sent and has sent since the start, over all connections.
    pub(crate) fn carried(&self) -> Carried {
        let active = lock(&self.active);
        let past = *lock(&self.past);
        active.as_ref().map_or(past, |active| past.and(&active.link))
    }

    /// Keeps what a connection that goes has carried.
    fn count(&self, going: &Option<Active>) {
        if let Some(going) = going {
            let mut past = lock(&self.past);
            *past = past.and(&going.link);
        }
    }

    /// Has the current generation of an image told to the peer.
    pub(crate) fn announce(&self, store: StoreName, image: ImageName) {
        if let Some(active) = self.active() {
            lock(&active.outbox.announcements).insert((store, image));
            active.outbox.wake.notify_one();
        }
    }

    /// Has everything that we hold of a store told to the peer, which answers with what it holds.
    pub(crate) fn introduce(&self, store: StoreName) {
        if let Some(active) = self.active() {
            active.outbox.introduce(store);
        }
    }

    /// There is something new to say on the control stream.
    pub(crate) fn nudge(&self) {
        if let Some(active) = self.active() {
            active.outbox.wake.notify_one();
        }
    }

    /// Ends the connection so that a new one begins with what both have.
    pub(crate) fn reconnect(&self, code: u32, reason: &str) {
        if let Some(active) = self.active() {
            active.link.connection.close(code.into(), reason.as_bytes());
        }
        self.redial.notify_one();
    }

    /// Ends everything that concerns this peer.
    pub(crate) fn forget(&self, code: u32, reason: &str) {
        self.gone.send_replace(true);
        if let Some(active) = lock(&self.active).take() {
            active.link.connection.close(code.into(), reason.as_bytes());
        }
        self.redial.notify_one();
    }

    /// Whether it is no peer any more.
    pub(crate) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }
}

impl Active {
    /// Notes what both sides can do.
    pub(crate) fn note_features(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    /// Notes which version of the protocol the hellos came to.
    pub(crate) fn note_version(&self, version: u16) {
        // There is one hello for each connection.
        let _first = self.version.set(version);
    }

    /// The version of the protocol, once hellos were exchanged.
    pub(crate) fn version(&self) -> Option<u16> {
        self.version.get().copied()
    }

    /// Can both sides do this?
    pub(crate) fn knows(&self, feature: u64) -> bool {
        self.features.load(Ordering::Relaxed) & feature != 0
    }

    /// Whether the other side answers within `limit`.
    pub(crate) async fn answers(&self, limit: Duration) -> bool {
        let (sender, receiver) = oneshot::channel();
        lock(&self.outbox.probes).push(sender);
        self.outbox.wake.notify_one();
        tokio::time::timeout(limit, receiver).await.is_ok_and(|answer| answer.is_ok())
    }
}

fn replace(slot: &mut Option<Active>, link: Link, now: Instant) -> Active {
    let active = Active {
        link,
        since: now,
        outbox: Arc::default(),
        features: Arc::default(),
        version: Arc::default(),
    };
    if let Some(old) = slot.replace(active.clone()) {
        let code = crate::link::transport::close::DUPLICATE;
        old.link.connection.close(code.into(), b"DUPLICATE_CONNECTION");
    }
    active
}

fn same(a: &Link, b: &Link) -> bool {
    a.connection.stable_id() == b.connection.stable_id()
}
