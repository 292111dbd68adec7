//! Session: one connection with a peer, from the hellos to the goodbye.
//!
//! The dialler opens the control stream. Hellos first, then both sides say what they hold of the
//! stores they share, then each new generation as it comes. Every other stream is a transfer that
//! the one who opened it offers. When the control stream ends the connection ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, Lineage, StoreId, StoreName};
use blockferry_wire::{
    Control, ControlEvent, FEATURE_DELETIONS, Head, Hello, Inventory, InventoryEntry, Message,
};
use quinn::{RecvStream, SendStream};
use tokio::sync::oneshot;
use tracing::{debug, info};

use crate::api::PeerState;
use crate::budget;
use crate::config::Dialect;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::lineage::rewound;
use crate::link::gossip::Gossip;
use crate::link::peer::{Active, Adoption, Peer};
use crate::link::refusal;
use crate::link::stream::{MessageReader, write_frame};
use crate::link::transport::{Link, close, closed, deadline};
use crate::local::stores::OpenStore;
use crate::promotion::witness;
use crate::transfer::judge::Version;
use crate::transfer::receiving::receive;
use crate::transfer::sending::end_connection_if_due;

/// A peer that lives answers a ping within this time.
const PROBE_WAIT: Duration = Duration::from_millis(800);
/// The peer has this long to say what it holds before we begin to offer.
const INVENTORY_WAIT: Duration = Duration::from_secs(5);

/// A number for one start of a node.
pub(crate) fn new_instance() -> Result<u64> {
    let mut bytes = [0; 8];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| Error::Crypto { what: "random bytes" })?;
    Ok(u64::from_le_bytes(bytes))
}

/// Runs a connection until it ends.
pub(crate) async fn run(core: Arc<Core>, peer: Arc<Peer>, link: Link) -> Result<()> {
    let active = adopt(&core, &peer, link.clone()).await?;
    let result = tokio::select! {
        result = serve(&core, &peer, &active) => result,
        () = core.stopped() => Err(Error::Stopping),
    };
    if let Err(error) = &result {
        end_connection_if_due(&link, error);
        link.connection.close(close::STOPPING.into(), error.code().as_bytes());
    }
    if peer.drop_link(&link) {
        peer.known.note_down(result.as_ref().err(), Instant::now());
        lock(&core.backlog).handle_peer_down(peer.id);
        core.wake();
        if !core.is_stopping() && !peer.is_gone() && !refusal::is_refusal(&result) {
            let why = result.as_ref().err().map_or("closed".into(), ToString::to_string);
            let text = format!("{} is not connected any more: {why}", peer.name());
            core.events.note(Note::info("PEER_DOWN", text).peer(&peer.name()));
        }
    }
    result
}

/// Makes the link the peer's connection, or ends it when another one is kept.
async fn adopt(core: &Arc<Core>, peer: &Arc<Peer>, link: Link) -> Result<Active> {
    let us = core.config.identity.id();
    match peer.adopt(link.clone(), us, Instant::now()) {
        Adoption::Adopted(active) => Ok(active),
        Adoption::Doubtful(old) if old.answers(PROBE_WAIT).await => {
            debug!(peer = %peer.name(), "a second connection is closed");
            link.connection.close(close::DUPLICATE.into(), b"DUPLICATE_CONNECTION");
            let reason = "another connection is kept".into();
            Err(Error::PeerClosed { peer: peer.name(), code: "DUPLICATE_CONNECTION", reason })
        }
        Adoption::Doubtful(_) => Ok(peer.adopt_anyway(link, Instant::now())),
    }
}

/// The control stream with what it still expects.
struct Dialogue<'a> {
    core: &'a Arc<Core>,
    peer: &'a Arc<Peer>,
    active: &'a Active,
    control: Control,
    stream: SendStream,
    probes: Vec<oneshot::Sender<()>>,
    pings: u64,
    /// Stores whose inventory the peer has not finished.
    awaited: BTreeSet<StoreId>,
    /// Stores that the peer introduced later, and that we answered.
    answered: BTreeSet<StoreId>,
    up: bool,
    gossip: Gossip,
}

async fn serve(core: &Arc<Core>, peer: &Arc<Peer>, active: &Active) -> Result<()> {
    let (stream, mut stream_in) = control_stream(&active.link, &peer.name()).await?;
    let name = peer.name();
    let agent = concat!("blockferry/", env!("CARGO_PKG_VERSION"));
    let Dialect { version_min, version_max, features } = core.config.dialect;
    let instance = Some(core.instance);
    let known = Hello::new(&core.config.name, agent);
    let clock_unix_ms = u64::try_from(now_unix_ms()).ok();
    let hello = Hello { version_min, version_max, features, instance, clock_unix_ms, ..known };
    let control = if active.link.dialled { Control::dial(hello) } else { Control::listen(hello) };
    let mut dialogue = Dialogue {
        core,
        peer,
        active,
        control,
        stream,
        probes: Vec::new(),
        pings: 0,
        awaited: BTreeSet::new(),
        answered: BTreeSet::new(),
        up: false,
        gossip: Gossip::default(),
    };
    dialogue.transmit().await?;
    let mut reader = MessageReader::default();
    dialogue.hellos(&mut reader, &mut stream_in).await?;
    let late = tokio::time::sleep(INVENTORY_WAIT);
    tokio::pin!(late);
    loop {
        tokio::select! {
            message = reader.next(&name, &mut stream_in, Duration::MAX) => {
                let Some((message, _)) = message? else { return Ok(()) };
                dialogue.take(message).await?;
            }
            streams = active.link.connection.accept_bi() => {
                let streams = streams.map_err(|e| closed(&name, &e))?;
                let (core, peer) = (core.clone(), peer.clone());
                tokio::spawn(receive(core, peer, active.link.clone(), streams));
            }
            () = active.outbox.wake.notified() => dialogue.speak().await?,
            () = &mut late, if !dialogue.up => dialogue.set_up(),
        }
    }
}

/// The dialler opens it, the dialled accepts it.
async fn control_stream(link: &Link, name: &str) -> Result<(SendStream, RecvStream)> {
    let wait = budget::HANDSHAKE_DEADLINE;
    let streams = if link.dialled {
        deadline("the control stream", wait, link.connection.open_bi()).await?
    } else {
        deadline("the control stream", wait, link.connection.accept_bi()).await?
    };
    let (stream, stream_in) = streams.map_err(|e| closed(name, &e))?;
    // Control overtakes queued bulk.
    let _closed = stream.set_priority(100);
    Ok((stream, stream_in))
}

impl Dialogue<'_> {
    async fn hellos(&mut self, reader: &mut MessageReader, stream: &mut RecvStream) -> Result<()> {
        let name = self.peer.name();
        while !self.control.is_ready() {
            let next = reader.next(&name, stream, budget::HANDSHAKE_DEADLINE).await?;
            let Some((message, _)) = next else {
                let what = "it closed the control stream".to_owned();
                return Err(Error::Unreachable { peer: name, what });
            };
            self.take(message).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<()> {
        let event = self.control.handle_message(message)?;
        self.transmit().await?;
        match event {
            Some(ControlEvent::Ready {
                node_name,
                agent,
                version,
                features,
                instance,
                clock_unix_ms,
            }) => {
                self.active.note_features(features);
                self.active.note_version(version);
                self.note_instance(instance);
                info!(peer = %self.peer.name(), node_name, agent, version, "connected");
                let rtt = self.active.link.connection.rtt();
                self.peer.known.note_hello(agent, clock_unix_ms, now_unix_ms(), rtt);
                self.gossip.begin(features);
                self.active.outbox.wake.notify_one();
                self.greet().await
            }
            Some(ControlEvent::Inventory(inventory)) => {
                self.inventory(inventory);
                Ok(())
            }
            Some(ControlEvent::Head(Head { store, entry })) => {
                self.head(store, entry);
                self.core.wake();
                Ok(())
            }
            Some(ControlEvent::Resume(resume)) => {
                self.gossip.resume(self.core, self.peer, resume);
                self.active.outbox.wake.notify_one();
                Ok(())
            }
            Some(ControlEvent::Statement(statement)) => {
                witness::hear(self.core, self.peer, statement)
            }
            Some(ControlEvent::Pong { .. }) => {
                // Whoever asked may have stopped waiting.
                for probe in self.probes.drain(..) {
                    let _waiting = probe.send(());
                }
                Ok(())
            }
            Some(ControlEvent::Goodbye(goodbye)) => Err(Error::PeerClosed {
                peer: self.peer.name(),
                code: goodbye.code.code(),
                reason: goodbye.text.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Notices when a key is shown by two places.
    fn note_instance(&self, instance: Option<u64>) {
        let lasts = self.core.config.twins;
        let news = |instance| lock(&self.peer.twins).handle_hello(instance, Instant::now(), lasts);
        if instance.is_some_and(news) {
            witness::doubt(self.core, self.peer.id);
            let name = self.peer.name();
            let text = format!(
                "{name}: two places show its key: a machine was cloned, or a backup runs beside \
                 it. Nothing is taken from either until one has stopped or has a key of its own"
            );
            let note = Note::error("IDENTITY_DUPLICATE", text);
            self.core.events.note(note.peer(&name));
        }
    }

    /// Says what we hold of the stores we share.
    async fn greet(&mut self) -> Result<()> {
        self.peer.set_state(PeerState::Up);
        // What changes from now on is announced; what is said twice does no harm.
        let stores: Vec<_> = self
            .core
            .all_stores()
            .into_iter()
            .filter(|s| self.peer.shares(&s.config.name))
            .collect();
        self.awaited = stores.iter().map(|s| s.store.identity().id).collect();
        for store in stores {
            self.introduce(&store).await?;
        }
        if self.awaited.is_empty() {
            self.set_up();
        }
        Ok(())
    }

    /// Says what we hold of a store.
    async fn introduce(&mut self, store: &Arc<OpenStore>) -> Result<()> {
        let (core, held) = (self.core.clone(), store.clone());
        let deletions = self.active.knows(FEATURE_DELETIONS);
        let entries = blocking("an inventory", move || entries(&core, &held, deletions)).await?;
        let id = store.store.identity().id;
        for inventory in Inventory::split(id, &store.config.name, entries) {
            self.say(inventory.into()).await?;
        }
        Ok(())
    }

    fn inventory(&mut self, inventory: Inventory) {
        let Inventory { store, store_name, entries, last } = inventory;
        let ours = self.core.store(store_name.as_str()).ok();
        if ours.is_some_and(|s| s.store.identity().id != store && self.peer.shares(&store_name)) {
            let name = self.peer.name();
            let text = format!("store {store_name} of {name} is another store of this name");
            self.core
                .events
                .note(Note::warning("WRONG_STORE", text).store(&store_name).peer(&name));
        }
        for entry in entries {
            self.head(store, entry);
        }
        if last {
            if let Some(ours) = self.shared(store) {
                let name = &ours.config.name;
                lock(&self.core.backlog).handle_inventory(self.peer.id, name);
            }
            self.awaited.remove(&store);
            // It shares the store only now, and what we said of it before fell on deaf ears.
            if self.up && self.shared(store).is_some() && self.answered.insert(store) {
                self.active.outbox.introduce(store_name);
            }
            if self.awaited.is_empty() && !self.up {
                self.set_up();
            }
        }
        self.core.wake();
    }

    fn head(&mut self, store: StoreId, entry: InventoryEntry) {
        let InventoryEntry { image, number, root, lineage, .. } = entry;
        if let Some(ours) = self.shared(store) {
            rewound::check(self.core, &ours, &self.peer.name(), &image, &lineage);
            let held = Version { number, root, lineage };
            let name = ours.config.name.clone();
            lock(&self.core.backlog).handle_peer_head(self.peer.id, name, image, held);
        }
    }

    fn shared(&self, id: StoreId) -> Option<Arc<OpenStore>> {
        self.core.store_by_id(&id).filter(|s| self.peer.shares(&s.config.name))
    }

    /// From now on we offer.
    fn set_up(&mut self) {
        self.up = true;
        lock(&self.core.backlog).handle_peer_up(self.peer.id);
        let name = self.peer.name();
        let note = Note::info("PEER_UP", format!("{name} is connected"));
        self.core.events.note(note.peer(&name));
        self.core.wake();
    }

    /// Says what was queued for this peer.
    async fn speak(&mut self) -> Result<()> {
        let probes = self.active.outbox.take_probes();
        if !probes.is_empty() {
            self.probes.extend(probes);
            self.pings += 1;
            self.control.ping(self.pings);
            self.transmit().await?;
        }
        for name in self.active.outbox.take_introductions() {
            let shared = self.core.store(name.as_str()).ok().filter(|_| self.peer.shares(&name));
            if let Some(store) = shared {
                self.introduce(&store).await?;
            }
        }
        for (store, image) in self.active.outbox.take_announcements() {
            let head = current(self.core, store, image).await?;
            let told =
                |head: &Head| head.entry.size_bytes > 0 || self.active.knows(FEATURE_DELETIONS);
            if let Some(head) = head.filter(told) {
                self.say(head.into()).await?;
            }
        }
        for _ in 0..budget::STATEMENTS_AT_ONCE {
            let Some(message) = self.gossip.next(self.core, self.peer) else { return Ok(()) };
            self.say(message).await?;
        }
        // There may be more; what the peer says is looked at first.
        self.active.outbox.wake.notify_one();
        Ok(())
    }

    async fn transmit(&mut self) -> Result<()> {
        while let Some(message) = self.control.poll_transmit() {
            self.say(message).await?;
        }
        Ok(())
    }

    async fn say(&mut self, message: Message) -> Result<()> {
        let frame = message.encode()?;
        write_frame(&self.peer.name(), &mut self.stream, &[&frame], None, None).await
    }
}

/// Our current generations of a store, as far as they are for others. Blocking.
fn entries(core: &Core, store: &OpenStore, deletions: bool) -> Result<Vec<InventoryEntry>> {
    let mut generations = store.store.heads()?;
    generations.retain(|g| core.is_told(store, g) && (deletions || !g.is_deleted()));
    Ok(generations.into_iter().map(|g| entry_of(store, g)).collect())
}

fn entry_of(store: &OpenStore, generation: blockferry_store::Generation) -> InventoryEntry {
    let damage = store.store.mending(&generation.image);
    let (root, lineage) = match damage.filter(|damage| damage.is_of(&generation)) {
        // What rotted is older than whatever somebody made: whoever has it right offers it.
        Some(damage) => (damage.found(), Lineage::default()),
        None => (generation.root, generation.lineage),
    };
    InventoryEntry {
        image: generation.image,
        number: generation.number,
        root,
        lineage,
        size_bytes: generation.size_bytes,
    }
}

/// The current generation of an image as a message; `None` when it is not for others.
async fn current(core: &Arc<Core>, store: StoreName, image: ImageName) -> Result<Option<Head>> {
    // A store that was removed meanwhile has nothing to announce.
    let Ok(store) = core.store(store.as_str()) else { return Ok(None) };
    let core = core.clone();
    blocking("a head", move || {
        let generation = store.store.current(&image)?.filter(|g| core.is_told(&store, g));
        let id = store.store.identity().id;
        Ok(generation.map(|g| Head { store: id, entry: entry_of(&store, g) }))
    })
    .await
}
