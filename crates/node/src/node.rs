//! A running node: started from a [`Config`], changed at run time, stopped without loss.
//!
//! Starting opens in this order: the ledger (its lock keeps a second process out), the members,
//! the sockets, the stores. A store that can't be opened keeps the rest from nothing: it is told
//! as an event and tried again. Stopping finishes nothing and loses nothing: what is half-done is
//! resumed or recovered at the next start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use blockferry_delta::NodeId;
use blockferry_store::Error as StoreError;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::admin::socket;
use crate::api::PeerState;
use crate::backlog::Backlog;
use crate::budget;
use crate::config::{Config, PeerConfig, Setting, StoreConfig, check_store};
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::{Events, Note, now_unix_ms};
use crate::ledger::Ledger;
use crate::link::dialing;
use crate::link::peer::Peer;
use crate::link::transport::{Transport, close};
use crate::local::absent;
use crate::local::looking;
use crate::local::opening;
use crate::local::stores::{self, OpenStore, Origin};
use crate::membership::members::Members;
use crate::membership::trust::Trust;
use crate::monitoring::trends;
use crate::planner::foresight;
use crate::promotion::witness::{self, Witness};
use crate::rate::limit::{self, Limit};
use crate::rate::overrides::Overrides;
use crate::rate::rates;
use crate::reload::{self, Reloaded};
use crate::transfer::encoded::Encoded;
use crate::transfer::sending;
use crate::transfer::workers::Workers;

/// A node stops waiting for commits and scans after this time; they are recovered at the start.
const STOP_WAIT: Duration = Duration::from_secs(20);

/// A running node.
pub struct Node {
    core: Arc<Core>,
    tasks: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
}

impl Node {
    /// Starts a node. Call it within a tokio runtime.
    pub async fn start(config: Config) -> Result<Self> {
        config.check()?;
        let dir = config.state_dir.clone();
        let settle = config.settle;
        let (ledger, members) = blocking("opening the state", move || {
            make_private_dir(&dir)?;
            let ledger = Ledger::open(&dir.join("node.redb"))?;
            Ok((ledger, Members::load(&dir.join("managed.toml"), settle)?))
        })
        .await?;
        let ledger = Arc::new(ledger);
        let trust = Arc::new(trust_of(&config, &members, &ledger)?);
        let mut rates = config.rates();
        rates.overrides = Overrides::new(ledger.overrides()?);
        let transport = Transport::bind(&config.identity, trust.clone(), &config.listen)?;
        let (events, writer) = Events::new(ledger.clone());
        let witness = Witness::load(&ledger)?;
        let core = Arc::new(Core {
            witness,
            proving: Mutex::default(),
            read_backs: [(); 2].map(|()| Arc::new(Semaphore::new(1))),
            trust,
            ledger,
            events,
            transport,
            limit: Arc::new(Limit::new(rates, config.hold)),
            workers: Workers::start()?,
            encoded: Encoded::new(config.memory().encoded_bytes),
            counts: Arc::default(),
            watching: Arc::default(),
            http: Default::default(),
            members: Mutex::new(members),
            stores: RwLock::default(),
            peers: RwLock::new(BTreeMap::new()),
            backlog: Mutex::new(Backlog::default()),
            measured: Mutex::default(),
            trends: Mutex::default(),
            misses: Mutex::default(),
            above: Mutex::default(),
            sent: Mutex::default(),
            backlog_wake: Notify::new(),
            jobs: Arc::new(Semaphore::new(budget::STORE_JOBS_MAX)),
            disk: Default::default(),
            absent: Default::default(),
            looks: Semaphore::new(budget::STORES_LOOKING_MAX),
            receiving: Arc::default(),
            receives: Arc::new(Semaphore::new(config.memory().receive_units())),
            tries: Mutex::default(),
            tokens_shown: Mutex::default(),
            changed: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            started: Instant::now(),
            live: RwLock::new(Arc::new(config.clone())),
            rereading: Mutex::default(),
            instance: crate::link::session::new_instance()?,
            config,
        });
        let (tasks, writer) = (Vec::new(), tokio::spawn(writer.run()));
        let mut node = Self { core, tasks, writer };
        node.populate().await?;
        Ok(node)
    }

    /// Our id.
    pub fn id(&self) -> NodeId {
        self.core.config.identity.id()
    }

    /// The UDP addresses that are listened on, with the ports the system chose.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.core.transport.local_addresses()
    }

    /// Where HTTP is served, with the port that the system chose.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.core.http.address()
    }

    /// Packs that were read and compressed, and packs that served one more peer after that.
    pub fn pack_counts(&self) -> (u64, u64) {
        self.core.encoded.counts()
    }

    /// One line about the state of things, for systemd's `STATUS=`.
    pub fn status_line(&self) -> String {
        let peers = self.core.all_peers();
        let up = peers.iter().filter(|p| p.state() == PeerState::Up).count();
        let stores = self.core.all_stores().len();
        let waiting = lock(&self.core.backlog).items().len();
        format!(
            "{stores} stores, {up} of {} peers connected, {waiting} in the backlog",
            peers.len()
        )
    }

    /// Puts a configuration into force that was read again, without ending a transfer; `restart` are
    /// keys beside it that need a restart. Says what changed, as an event too (`CONFIG_RELOADED`).
    ///
    /// # Errors
    /// It can't be meant; nothing has changed, and an event says so (`CONFIG_REJECTED`).
    pub fn reload(&self, config: Config, restart: Vec<String>) -> Result<Reloaded> {
        reload::reload_or_reject(&self.core, config, restart)
    }

    /// Reads the configuration file again and puts it into force, as [`Node::reload`] does. Blocks for
    /// as long as that takes.
    ///
    /// # Errors
    /// As [`Node::reload`]; the file can't be used, or the configuration is from no file.
    pub fn reread(&self) -> Result<Reloaded> {
        reload::reread(&self.core)
    }

    /// Stops: connections are closed, what runs is waited for a while, nothing is lost.
    pub async fn stop(self) {
        info!("stopping");
        self.core.stop.send_replace(true);
        self.core.transport.close(close::STOPPING, "STOPPING").await;
        let all = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let quiet = async {
            // Whoever holds a slot is inside a commit or a scan.
            let receives = self
                .core
                .receives
                .acquire_many(all(self.core.config.memory().receive_units()))
                .await;
            let jobs = self.core.jobs.acquire_many(all(budget::STORE_JOBS_MAX)).await;
            receives.is_ok() && jobs.is_ok()
        };
        if tokio::time::timeout(STOP_WAIT, quiet).await.is_err() {
            warn!("work is still under way; it is recovered at the next start");
        }
        for task in self.tasks {
            task.abort();
        }
        if let Some(socket) = &self.core.config.admin_socket
            && let Err(error) = std::fs::remove_file(socket)
        {
            debug!(%error, "the admin socket is gone already");
        }
        // Dropping the core ends the event writer when it has written everything.
        drop(self.core);
        if tokio::time::timeout(Duration::from_secs(5), self.writer).await.is_err() {
            warn!("not all events were written");
        }
    }

    async fn populate(&mut self) -> Result<()> {
        let core = self.core.clone();
        let members = lock(&core.members).clone();
        let of_file = |store: &StoreConfig| core.config.stores.iter().any(|s| s.name == store.name);
        let added = members.stores.into_values().filter(|store| !of_file(store));
        let stores = core.config.stores.iter().cloned().map(|store| (store, true));
        let stores = stores.chain(added.map(|store| (store, false))).collect();
        self.tasks.extend(opening::all(&core, stores).await?);
        for peer in core.config.peers.clone() {
            self.tasks.push(start_peer(&core, peer, true));
        }
        for peer in members.peers.into_values() {
            if !core.config.peers.iter().any(|p| p.id == peer.id) {
                self.tasks.push(start_peer(&core, peer, false));
            }
        }
        if !core.config.listen.is_empty() {
            for endpoint in core.transport.endpoints() {
                self.tasks.push(tokio::spawn(dialing::accept(core.clone(), endpoint.clone())));
            }
        }
        self.tasks.push(tokio::spawn(limit::run(core.clone())));
        self.tasks.push(tokio::spawn(sending::run(core.clone())));
        self.tasks.push(tokio::spawn(foresight::run(core.clone())));
        self.tasks.push(tokio::spawn(trends::run(core.clone())));
        self.tasks.push(tokio::spawn(witness::run(core.clone())));
        self.tasks.push(tokio::spawn(crate::monitoring::watermarks::run(core.clone())));
        if let Some(path) = core.config.admin_socket.clone() {
            let listener = socket::bind(&path)?;
            self.tasks.push(tokio::spawn(socket::run(core.clone(), listener)));
        }
        let served = core.http.prepare(core.config.http.as_ref())?;
        core.http.apply(&core, served, &mut Reloaded::default());
        let listen: Vec<_> = self.local_addresses().iter().map(ToString::to_string).collect();
        info!(node = %core.config.name, id = %self.id(), ?listen, "started");
        core.events.note(Note::info("STARTED", format!("{} started", core.config.name)));
        Ok(())
    }
}

/// Opens a store and starts its task.
pub(crate) async fn serve_store(
    core: &Arc<Core>,
    store: StoreConfig,
    configured: bool,
    origin: Origin,
) -> Result<()> {
    let (ledger, free_min) = (core.ledger.clone(), core.config.store_free_min);
    // As many as there will be: a cache keeps its size.
    let expected = core.config.stores.len() + lock(&core.members).stores.len();
    let stores = expected.max(core.all_stores().len() + 1);
    let cache_bytes = core.config.memory().store_cache_bytes(stores);
    let (open, report) = blocking("opening a store", move || {
        stores::open(&store, configured, origin, (free_min, cache_bytes), &ledger)
    })
    .await?;
    let open = Arc::new(open);
    let name = open.config.name.clone();
    if !report.finished.is_empty() || !report.abandoned.is_empty() {
        let text = format!(
            "after a crash {} commits were finished and {} dropped",
            report.finished.len(),
            report.abandoned.len()
        );
        core.events.note(Note::warning("RECOVERED", text).store(&name));
    }
    if report.catalog_made_anew {
        let text = "the catalog could not be read and is made anew from the images and what peers \
                    know; the old one is kept in .blockferry/quarantine";
        core.events.note(Note::warning("INDEX_REBUILDING", text.to_owned()).store(&name));
    }
    core.absent.forget(&name);
    core.insert_store(open.clone());
    for peer in core.all_peers() {
        core.review_peer(&peer);
        if peer.shares(&name) {
            peer.introduce(name.clone());
        }
    }
    let (to, opened) = (core.clone(), open.clone());
    blocking("introducing a store", move || looking::introduce(&to, &opened)).await?;
    info!(store = %name, path = %open.config.path.display(), "in service");
    tokio::spawn(looking::run(core.clone(), open));
    Ok(())
}

/// Takes a new store into service and remembers it.
pub(crate) async fn take_store(core: &Arc<Core>, store: StoreConfig, origin: Origin) -> Result<()> {
    let mut others: Vec<_> = core.all_stores().iter().map(|s| s.config.clone()).collect();
    // One that was moved is added where it is now: its marker says whether it is that store.
    let (moved, absent): (Vec<_>, Vec<_>) = absent::all(core)
        .into_iter()
        .partition(|(absent, configured)| !configured && absent.name == store.name);
    others.extend(absent.into_iter().map(|(absent, _)| absent));
    check_store(&store, &others)?;
    let served = serve_store(core, store.clone(), false, origin).await;
    served.map_err(|error| match error {
        Error::Store(StoreError::StoreMissing) if !moved.is_empty() => Error::StoreExists {
            name: store.name.to_string(),
            what: format!("a name is used once, and {} doesn't hold it", store.path.display()),
        },
        other => other,
    })?;
    let text = format!("store {} is in service at {}", store.name, store.path.display());
    core.events.note(Note::info("STORE_ADDED", text).store(&store.name));
    change_members(core, move |members| {
        members.stores.insert(store.name.clone(), store);
    })
    .await
}

/// Takes a store out of service; its files stay.
pub(crate) async fn remove_store(core: &Arc<Core>, name: &str) -> Result<()> {
    if absent::all(core).iter().any(|(store, _)| store.name.as_str() == name) {
        return absent::remove(core, name).await;
    }
    let store = core.store(name)?;
    if store.configured.load(Ordering::Relaxed) {
        return Err(Error::Configured { what: format!("store {name}") });
    }
    close_store(core, &store);
    let key = store.config.name.clone();
    let (ledger, gone) = (core.ledger.clone(), key.clone());
    blocking("forgetting a store", move || ledger.note_store(&gone, None)).await?;
    change_members(core, move |members| {
        members.stores.remove(&key);
    })
    .await?;
    Ok(())
}

/// Ends what is done with a store; its files stay.
pub(crate) fn close_store(core: &Core, store: &OpenStore) {
    store.close();
    let name = store.config.name.clone();
    core.remove_store(&name);
    lock(&core.backlog).handle_store_gone(&name);
    lock(&core.sent).retain(|sent, _| sent.store != name);
    let text = format!("store {name} is out of service; its files stay");
    core.events.note(Note::info("STORE_REMOVED", text).store(&name));
}

/// Makes a peer of a node that has paired, or shares one more store with a known one. A new one isn't
/// dialled yet.
pub(crate) async fn admit_peer(core: &Arc<Core>, new: PeerConfig) -> Result<dialing::Admitted> {
    core.trust.pardon(&new.id);
    let known = core.peer(&new.id);
    let mut config = known.as_ref().map_or_else(|| new.clone(), |peer| peer.config());
    for store in &new.stores {
        config.mirrors.retain(|s| s != store);
        if !config.stores.contains(store) {
            config.stores.push(store.clone());
        }
    }
    config.mirrors.extend(new.mirrors);
    if !new.addresses.is_empty() {
        config.addresses = new.addresses;
    }
    config.addresses.truncate(budget::ADDRESSES_MAX);
    config.name = free_name(core, &config);
    let (id, kept) = (config.id, config.clone());
    let configured = known.as_ref().is_some_and(|peer| peer.configured.load(Ordering::Relaxed));
    change_members(core, move |members| {
        members.revoked.remove(&id);
        if !configured {
            members.peers.insert(id, kept);
        }
    })
    .await?;
    let text = format!("{} is a peer now", config.name);
    core.events.note(Note::info("PEER_ADDED", text).peer(&config.name));
    if let Some(peer) = known {
        let shares_more = peer.config().stores != config.stores;
        peer.set_config(config, true);
        core.trust.admit(id);
        core.review_peer(&peer);
        if shares_more {
            peer.reconnect(close::MEMBERSHIP, "MEMBERSHIP_CHANGED");
        }
        return Ok(dialing::Admitted { peer, is_new: false });
    }
    Ok(dialing::Admitted { peer: core.add_peer(config, false), is_new: true })
}

/// Ends the pairing with a peer: its key is revoked, its connection closed.
pub(crate) async fn remove_peer(core: &Arc<Core>, text: &str) -> Result<String> {
    let peer = core.find_peer(text)?;
    let name = peer.name();
    if peer.configured.load(Ordering::Relaxed) {
        return Err(Error::Configured { what: format!("peer {name}") });
    }
    let (id, now) = (peer.id, now_unix_ms());
    core.trust.revoke(id, now);
    change_members(core, move |members| {
        members.peers.remove(&id);
        members.revoked.insert(id, now);
    })
    .await?;
    drop_peer(core, &peer, "PEER_REVOKED");
    Ok(name)
}

/// Ends everything with a peer; `reason` is what its connection is told.
pub(crate) fn drop_peer(core: &Core, peer: &Peer, reason: &str) {
    let (id, name) = (peer.id, peer.name());
    core.remove_peer(&id);
    peer.forget(close::NOT_A_MEMBER, reason);
    lock(&core.backlog).handle_peer_gone(id);
    lock(&core.measured).handle_peer_gone(&id);
    lock(&core.sent).retain(|sent, _| sent.peer != id);
    core.wake();
    let text = format!("{name} is no peer any more");
    core.events.note(Note::info("PEER_REMOVED", text).peer(&name));
}

/// Changes a setting of a peer.
pub(crate) async fn set_peer(
    core: &Arc<Core>,
    text: &str,
    setting: &str,
    value: &str,
) -> Result<Arc<crate::link::peer::Peer>> {
    let peer = core.find_peer(text)?;
    if peer.configured.load(Ordering::Relaxed) {
        return Err(Error::Configured { what: format!("peer {}", peer.name()) });
    }
    let mut config = peer.config();
    let wrong = |what: &str| Error::Control { what: what.to_owned() };
    match setting {
        "name" => {
            let good = blockferry_delta::StoreName::new(value);
            config.name = good.map_err(|e| wrong(&e.to_string()))?.to_string();
            if core.all_peers().iter().any(|p| p.id != peer.id && p.name() == config.name) {
                return Err(wrong("another peer has this name"));
            }
        }
        "address" => {
            let list = value.split(',').map(|a| a.trim().to_owned());
            config.addresses = list.filter(|a| !a.is_empty()).collect();
            if config.addresses.len() > budget::ADDRESSES_MAX {
                return Err(wrong("too many addresses"));
            }
        }
        "compression" => {
            config.compression = Some(value.parse::<Setting>().map_err(|e| wrong(&e))?);
        }
        "schedule" => {
            let name = Some(value.to_owned()).filter(|name| !name.is_empty());
            if let Some(name) = &name
                && !core.live().schedules.contains_key(name)
            {
                return Err(Error::ScheduleUnknown { name: name.clone() });
            }
            config.send.schedule = name;
        }
        "polite" => {
            let polite = value.parse::<bool>();
            config.send.polite = polite.map_err(|_| wrong("polite is true or false"))?;
        }
        "weight" => config.send.weight = rates::weight(value).map_err(|e| wrong(&e))?,
        _ => {
            let all = "name, address, compression, schedule, polite and weight";
            return Err(wrong(&format!("a peer has the settings {all}")));
        }
    }
    let (id, kept) = (config.id, config.clone());
    change_members(core, move |members| {
        members.peers.insert(id, kept);
    })
    .await?;
    if config.send != peer.config().send {
        let send = config.send.clone();
        core.limit.change(|rates| rates.peers.insert(id, send));
    }
    peer.set_config(config, true);
    Ok(peer)
}

/// Addresses at which others may reach us.
pub(crate) fn advertised(core: &Core) -> Vec<String> {
    let advertise = core.live().advertise.clone();
    if !advertise.is_empty() {
        return advertise;
    }
    if core.config.listen.is_empty() {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for local in core.transport.local_addresses() {
        if !local.ip().is_unspecified() {
            addresses.push(local.to_string());
            continue;
        }
        let reachable = own_addresses(local.is_ipv6());
        addresses.extend(reachable.iter().map(|ip| SocketAddr::new(*ip, local.port()).to_string()));
    }
    addresses.truncate(budget::ADDRESSES_MAX);
    addresses
}

/// The addresses that the system would send from, as far as it has routes; loopback without any.
fn own_addresses(ipv6: bool) -> Vec<IpAddr> {
    // Addresses for documentation: connecting a UDP socket sends nothing.
    let v4 = source_towards("0.0.0.0:0", "192.0.2.1:9");
    let v6 = source_towards("[::]:0", "[2001:db8::1]:9").filter(|_| ipv6);
    let found: Vec<IpAddr> = [v4, v6].into_iter().flatten().collect();
    if found.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { found }
}

fn source_towards(from: &str, to: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn start_peer(core: &Arc<Core>, config: PeerConfig, configured: bool) -> JoinHandle<()> {
    let peer = core.add_peer(config, configured);
    tokio::spawn(dialing::keep(core.clone(), peer))
}

/// Changes the members and writes them; the file is old or new, never half.
pub(crate) async fn change_members(
    core: &Arc<Core>,
    change: impl FnOnce(&mut Members) + Send + 'static,
) -> Result<()> {
    let core = core.clone();
    blocking("writing the members", move || {
        let mut members = lock(&core.members);
        change(&mut members);
        members.save()
    })
    .await
}

fn free_name(core: &Core, config: &PeerConfig) -> String {
    let taken: Vec<String> =
        core.all_peers().iter().filter(|p| p.id != config.id).map(|p| p.name()).collect();
    let numbered = (2..).map(|n| format!("{}-{n}", config.name));
    let mut names = std::iter::once(config.name.clone()).chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_else(|| config.id.short())
}

fn trust_of(config: &Config, members: &Members, ledger: &Ledger) -> Result<Trust> {
    let trust = Trust::default();
    for (id, unix_ms) in &members.revoked {
        // The configuration file is the operator's own word: it outranks a removal by command.
        if !config.peers.iter().any(|p| p.id == *id) {
            trust.revoke(*id, *unix_ms);
        }
    }
    let (until, newest) = ledger.tickets_out(now_unix_ms())?;
    trust.set_tickets(until, newest);
    Ok(trust)
}

fn make_private_dir(dir: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|e| Error::io("create", dir, e))
}
