//! What all tasks of a node share: the decisions' state, the stores, the peers, the ways to wake
//! each other.
//!
//! Locks here are held for moments and never across an await or a disk access. The order, where
//! two are needed: members, stores, peers, one peer, backlog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use blockferry_delta::{ImageName, NodeId, StoreId, StoreName};
use blockferry_store::Generation;
use tokio::sync::{Notify, Semaphore, watch};

use crate::api::Role;
use crate::backlog::{Backlog, Head, Key};
use crate::budget;
use crate::config::{Config, PeerConfig, Setting};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::http;
use crate::ledger::Ledger;
use crate::link::peer::Peer;
use crate::link::transport::Transport;
use crate::link::windows::Receiving;
use crate::local::absent::{self, Absent};
use crate::local::serving::Serving;
use crate::local::stores::OpenStore;
use crate::local::watching::Watching;
use crate::membership::members::Members;
use crate::membership::ticket::Tries;
use crate::membership::trust::Trust;
use crate::monitoring::counts::Counts;
use crate::monitoring::trends::Trends;
use crate::monitoring::watermarks::Above;
use crate::planner::measured::Measured;
use crate::planner::misses::Misses;
use crate::promotion::witness::{Which, Witness};
use crate::rate::disk::DiskRate;
use crate::rate::limit::Limit;
use crate::transfer::encoded::Encoded;
use crate::transfer::exchange::version_of;
use crate::transfer::workers::Workers;

/// What all tasks of a node share.
pub(crate) struct Core {
    /// As it was at the start.
    pub(crate) config: Config,
    /// As it was read last: what may change while it runs is asked here.
    pub(crate) live: RwLock<Arc<Config>>,
    /// One at a time reads or changes the configuration file.
    pub(crate) rereading: Mutex<()>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) events: Events,
    pub(crate) transport: Transport,
    pub(crate) limit: Arc<Limit>,
    pub(crate) workers: Workers,
    pub(crate) encoded: Arc<Encoded>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) watching: Arc<Watching>,
    /// HTTP over TCP.
    pub(crate) http: http::Serving,
    pub(crate) members: Mutex<Members>,
    pub(crate) stores: RwLock<Serving>,
    pub(crate) peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    pub(crate) backlog: Mutex<Backlog>,
    /// How fast links are and how much things take.
    pub(crate) measured: Mutex<Measured>,
    /// Which watermarks are crossed.
    pub(crate) above: Mutex<Above>,
    /// The last day and week.
    pub(crate) trends: Mutex<Trends>,
    /// Which windows will be missed.
    pub(crate) misses: Mutex<Misses>,
    /// Bytes sent in the last transfer of each image to each peer.
    pub(crate) sent: Mutex<BTreeMap<Key, Arc<AtomicU64>>>,
    /// The backlog may have something to offer.
    pub(crate) backlog_wake: Notify,
    /// What nodes have stated, we among them.
    pub(crate) witness: Witness,
    /// Images that are being read back, or are next.
    pub(crate) proving: Mutex<BTreeSet<Which>>,
    /// Turns to read back: whole images, and those of which little was written since the last time.
    pub(crate) read_backs: [Arc<Semaphore>; 2],
    /// Scans and scrubs under way.
    pub(crate) jobs: Arc<Semaphore>,
    /// How fast may be read for them.
    pub(crate) disk: DiskRate,
    /// Why stores are not in service.
    pub(crate) absent: Absent,
    /// Turns to look at a store.
    pub(crate) looks: Semaphore,
    /// Connections that receive something.
    pub(crate) receiving: Arc<Receiving>,
    /// Room for transfers being received, in units of [`budget::RECEIVE_UNIT_BYTES`].
    pub(crate) receives: Arc<Semaphore>,
    pub(crate) tries: Mutex<Tries>,
    /// When each token of HTTP was shown last.
    pub(crate) tokens_shown: Mutex<BTreeMap<String, Instant>>,
    /// Counts receipts, heads and states, so that those who wait look again.
    pub(crate) changed: watch::Sender<u64>,
    /// True: everything ends.
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) started: Instant,
    /// A number that this start of the node has for itself.
    pub(crate) instance: u64,
}

/// A lock whose holder panicked is still good: holders only move values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// The configuration as it was read last. What needs a restart is in `config`.
    pub(crate) fn live(&self) -> Arc<Config> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All stores in service.
    pub(crate) fn all_stores(&self) -> Vec<Arc<OpenStore>> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        stores.all().cloned().collect()
    }

    /// How often another store came into service, or one went out of it.
    pub(crate) fn store_changes(&self) -> u64 {
        self.stores.read().unwrap_or_else(PoisonError::into_inner).changes()
    }

    /// Takes a store into service.
    pub(crate) fn insert_store(&self, store: Arc<OpenStore>) {
        let (name, send) = (store.config.name.clone(), store.config.send.clone());
        self.limit.change(|rates| rates.stores.insert(name, send));
        self.stores.write().unwrap_or_else(PoisonError::into_inner).insert(store);
    }

    /// Takes a store out of service.
    pub(crate) fn remove_store(&self, name: &StoreName) {
        self.limit.change(|rates| {
            rates.pushed.retain(|key, _| key.store != *name);
            rates.stores.remove(name)
        });
        self.stores.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Forgets a peer.
    pub(crate) fn remove_peer(&self, id: &NodeId) {
        self.limit.change(|rates| {
            rates.pushed.retain(|key, _| key.peer != *id);
            rates.peers.remove(id)
        });
        self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// A store by name.
    pub(crate) fn store(&self, name: &str) -> Result<Arc<OpenStore>> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = stores.get(name) {
            return Ok(found.clone());
        }
        drop(stores);
        Err(absent::unknown(self, name))
    }

    /// A store by id.
    pub(crate) fn store_by_id(&self, id: &StoreId) -> Option<Arc<OpenStore>> {
        let stores = self.stores.read().unwrap_or_else(PoisonError::into_inner);
        stores.by_id(id).cloned()
    }

    /// All peers.
    pub(crate) fn all_peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().cloned().collect()
    }

    /// A peer by id.
    pub(crate) fn peer(&self, id: &NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A peer by name, id, or the first 8 or more characters of its id.
    pub(crate) fn find_peer(&self, text: &str) -> Result<Arc<Peer>> {
        let peers = self.all_peers();
        let unknown = || Error::PeerUnknown { id: text.to_owned() };
        if let Some(peer) = peers.iter().find(|p| p.name() == text) {
            return Ok(peer.clone());
        }
        let upper = text.to_ascii_uppercase();
        let mut fits =
            peers.iter().filter(|p| upper.len() >= 8 && p.id.to_string().starts_with(&upper));
        match (fits.next(), fits.next()) {
            (Some(peer), None) => Ok(peer.clone()),
            _ => Err(unknown()),
        }
    }

    /// A peer's name, or the short form of an id we don't know.
    pub(crate) fn name_of(&self, id: &NodeId) -> String {
        self.peer(id).map_or_else(|| id.short(), |p| p.name())
    }

    /// Peers that share a store with us.
    pub(crate) fn sharers(&self, store: &StoreName) -> Vec<Arc<Peer>> {
        let mut peers = self.all_peers();
        peers.retain(|p| p.shares(store));
        peers
    }

    /// Tells the backlog which of our stores a peer shares.
    pub(crate) fn review_peer(&self, peer: &Peer) {
        let ours: BTreeSet<StoreName> =
            self.all_stores().iter().map(|s| s.config.name.clone()).collect();
        let shared = peer.config().stores.into_iter().filter(|s| ours.contains(s)).collect();
        lock(&self.backlog).handle_peer(peer.id, shared);
        self.wake();
    }

    /// Our current generation of an image has changed: the backlog and the peers learn it.
    pub(crate) fn note_head(&self, store: &OpenStore, generation: &Generation, head: Head) {
        let (name, image) = (&store.config.name, &generation.image);
        let travels = self.travels(store, generation);
        if travels {
            lock(&self.backlog).handle_head(name.clone(), image.clone(), head);
        }
        self.witness.touch(name, image);
        if !travels && !generation.is_adopted() {
            return;
        }
        for peer in self.sharers(name) {
            peer.announce(name.clone(), image.clone());
        }
        self.wake();
    }

    /// Whether a generation is for others: what a mirror made itself is not.
    pub(crate) fn travels(&self, store: &OpenStore, generation: &Generation) -> bool {
        store.config.role == Role::Writer || generation.author != self.config.identity.id()
    }

    /// Whether a generation is told to peers: of what a mirror found itself they learn that it is
    /// older than anything they have.
    pub(crate) fn is_told(&self, store: &OpenStore, generation: &Generation) -> bool {
        generation.is_adopted() || self.travels(store, generation)
    }

    /// What an operator wants for what is sent to a peer.
    pub(crate) fn compression_for(&self, peer: &Peer) -> Setting {
        peer.config().compression.unwrap_or_else(|| self.live().compression)
    }

    /// Bytes sent in the last transfer of an image to a peer.
    pub(crate) fn sent_bytes(&self, key: &Key) -> u64 {
        lock(&self.sent).get(key).map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }

    /// Wakes the backlog and everybody who waits for something to change.
    pub(crate) fn wake(&self) {
        self.backlog_wake.notify_one();
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Resolves when the node stops.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as we do.
        let _stopped = stop.wait_for(|stop| *stop).await;
    }

    /// Whether the node is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Makes a peer of `config`, known to the backlog and admitted by TLS.
    pub(crate) fn add_peer(&self, config: PeerConfig, configured: bool) -> Arc<Peer> {
        let send = config.send.clone();
        let peer = Arc::new(Peer::new(config, configured));
        self.limit.change(|rates| rates.peers.insert(peer.id, send));
        self.trust.admit(peer.id);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.insert(peer.id, peer.clone());
        drop(peers);
        self.review_peer(&peer);
        peer
    }
}

/// A job that blocks, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(job).await.unwrap_or(Err(Error::Broken { what }))
}

/// What the backlog knows of a generation, with the changes that led to it. Blocking.
pub(crate) fn head_of(store: &OpenStore, generation: &Generation) -> Result<Head> {
    let history = store.store.history(&generation.image)?;
    let changed = history.iter().take(budget::HISTORY_IN_HEAD).map(|g| (g.root, g.dirty_bytes));
    Ok(Head {
        version: version_of(generation),
        size_bytes: generation.size_bytes,
        recorded_unix_ms: generation.recorded_unix_ms,
        changed_bytes: changed.collect(),
    })
}

/// The backlog's key.
pub(crate) fn key(peer: NodeId, store: &StoreName, image: &ImageName) -> Key {
    Key { peer, store: store.clone(), image: image.clone() }
}
