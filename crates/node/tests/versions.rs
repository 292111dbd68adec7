//! Nodes of other versions: one of before, that has no features and says nothing of what came later;
//! one of after, that speaks versions nobody here knows, says fields and messages nobody knows yet, and
//! claims every feature; and those with which nothing is in common. The node is whole; the doubles
//! are the transfer drivers with a store of their own and a control stream of their own words.

#[expect(dead_code, reason = "the tests of pairs use the rest")]
mod running;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockferry_delta::{ImageName, NodeId, StoreId, StoreKey, StoreName};
use blockferry_node::Identity;
use blockferry_node::api::{BacklogReport, Event, PeerRow, PeersReport, Request, Role, Severity};
use blockferry_node::config::{Config, Dialect, PeerConfig, StoreConfig};
use blockferry_node::link::transport::{Link, Transport, closed};
use blockferry_node::membership::tls::Purpose;
use blockferry_node::membership::trust::Trust;
use blockferry_node::transfer::exchange::{RecvOutcome, RecvSide, SendOutcome, SendSide, Step};
use blockferry_store::disk::RealDisk;
use blockferry_store::{CommitMode, Generation, Options, Store, StoreIdentity};
use blockferry_wire::{
    Compression, FLAG_OPTIONAL, FrameDecoder, Head, Hello, Inventory, InventoryEntry, Kind,
    Message, Packer, limits,
};
use quinn::{RecvStream, SendStream};

use crate::running::{LONG, Running, noise, start, until};

/// One of before: version 1 alone, no features.
const PREVIOUS: Dialect = Dialect { version_min: 1, version_max: 1, features: 0 };
/// One of after: version 1 is the oldest that it speaks.
const NEXT: Dialect = Dialect { version_min: 1, version_max: 7, features: u64::MAX };
/// One with which nothing is in common.
const FAR: Dialect = Dialect { version_min: 2, version_max: 3, features: u64::MAX };

fn store_identity() -> StoreIdentity {
    let name = StoreName::new("vdisks").expect("a name");
    StoreIdentity { name, id: StoreId::from_bytes([5; 16]), key: StoreKey::from_bytes([6; 32]) }
}

/// A store in a directory of its own.
fn store(dir: &Path) -> Store {
    std::fs::create_dir_all(dir).expect("a directory");
    let options = Options { commit: Some(CommitMode::Copy), ..Options::default() };
    let disk = Arc::new(RealDisk::open(dir).expect("opened"));
    Store::create(disk, store_identity(), &options).expect("made")
}

/// A node with the store, which knows the double.
fn hub(dir: &Path, double: NodeId) -> (Running, NodeId, PathBuf) {
    let images = dir.join("hub/images");
    drop(store(&images));
    let mut config = by_hand(dir, "hub");
    config.stores = vec![StoreConfig::new(store_identity().name, images.clone(), Role::Writer)];
    config.stores[0].settle = LONG;
    config.peers = vec![PeerConfig {
        name: "double".into(),
        id: double,
        addresses: vec![],
        stores: vec![store_identity().name],
        mirrors: vec![],
        compression: None,
        send: Default::default(),
    }];
    let id = config.identity.id();
    (start(config), id, images)
}

/// A node that records by hand only.
fn by_hand(dir: &Path, name: &str) -> Config {
    let mut config = running::config(&dir.join(name), name, 0);
    (config.settle, config.rescan) = (LONG, LONG);
    config
}

/// A connection on which a hello was said.
struct Dialled {
    link: Link,
    transport: Transport,
    control: SendStream,
    heard: RecvStream,
}

/// A node of another version.
struct Double {
    link: Link,
    _transport: Transport,
    control: tokio::sync::Mutex<SendStream>,
    dialect: Dialect,
    store: Arc<Store>,
    identity: Identity,
    hub: NodeId,
}

impl Double {
    /// Dials the hub, and says what one of its version says first.
    async fn dial(hub: (&Running, NodeId), identity: &Identity, dialect: Dialect) -> Dialled {
        let trust = Arc::new(Trust::default());
        let here = "127.0.0.1:0".parse().expect("an address");
        let transport = Transport::bind(identity, trust, &[here]).expect("bound");
        let at = hub.0.status().node.listen[0].parse().expect("an address");
        let link = transport.dial(at, hub.1, Purpose::Session).await.expect("dialled");
        let Dialect { version_min, version_max, features } = dialect;
        let hello = Hello::new("double", "double/0.9");
        let hello = Hello { version_min, version_max, features, ..hello };
        let (mut control, heard) = link.connection.open_bi().await.expect("opened");
        say(&mut control, dialect, hello.into()).await;
        Dialled { link, transport, control, heard }
    }

    /// The same until both have said what they hold.
    async fn meet(
        hub: (&Running, NodeId),
        dir: &Path,
        identity: &Identity,
        dialect: Dialect,
    ) -> Double {
        let dialled = Double::dial(hub, identity, dialect).await;
        let Dialled { link, transport, mut control, mut heard } = dialled;
        let mut decoder = FrameDecoder::new();
        let Message::HelloAck(ack) = hear(&mut heard, &mut decoder).await else { panic!("no ack") };
        assert_eq!(ack.version, 1, "the highest that both know");
        let StoreIdentity { name, id, .. } = store_identity();
        for inventory in Inventory::split(id, &name, []) {
            say(&mut control, dialect, inventory.into()).await;
        }
        tokio::spawn(async move {
            loop {
                let message = hear(&mut heard, &mut decoder).await;
                let later = matches!(message.kind(), Kind::Resume | Kind::Statement);
                assert!(!later || dialect.features != 0, "{message:?} to one that has none");
            }
        });
        let store = Arc::new(store(dir));
        let identity = identity.clone();
        let (hub, _transport, control) = (hub.1, transport, tokio::sync::Mutex::new(control));
        Double { link, _transport, control, dialect, store, identity, hub }
    }

    /// Records an image and says so.
    async fn record(&self, image: &ImageName) {
        self.store.record(image, self.identity.id(), 0, &()).expect("recorded");
        let current = self.store.current(image).expect("read").expect("recorded");
        let Generation { number, root, lineage, size_bytes, .. } = current;
        let entry = InventoryEntry { image: image.clone(), number, root, lineage, size_bytes };
        let head = Head { store: store_identity().id, entry };
        say(&mut *self.control.lock().await, self.dialect, head.into()).await;
    }

    /// Offers an image to the hub.
    async fn send(&self, name: &ImageName) -> SendOutcome {
        let (mut out, mut heard) = self.link.connection.open_bi().await.expect("opened");
        let mut side = SendSide::new(self.store.clone(), name).expect("recorded");
        let (mut packer, mut decoder) = (Packer::new().expect("memory"), FrameDecoder::new());
        loop {
            match side.step().expect("goes on") {
                Step::Transmit(message) => say(&mut out, self.dialect, *message).await,
                Step::Pack(job) => {
                    let packed = job.run(&mut packer, Compression::zstd(1));
                    side.handle_packed(packed).expect("asked for");
                }
                Step::Wait => {
                    let message = hear(&mut heard, &mut decoder).await;
                    side.handle_message(message).expect("in order");
                }
                Step::Done(outcome) => return outcome,
            }
        }
    }

    /// Takes the next image that the hub offers and that isn't here.
    async fn receive(&self) -> RecvOutcome {
        loop {
            match self.receive_one().await {
                RecvOutcome::AlreadyHere { .. } => {}
                outcome => return outcome,
            }
        }
    }

    async fn receive_one(&self) -> RecvOutcome {
        let (mut out, mut heard) = self.link.connection.accept_bi().await.expect("offered");
        let mut side = RecvSide::new(self.store.clone(), self.identity.clone(), self.hub, None);
        let mut decoder = FrameDecoder::new();
        loop {
            match side.step().expect("goes on") {
                Step::Transmit(message) => say(&mut out, self.dialect, *message).await,
                Step::Pack(_) => unreachable!("only a sender packs"),
                Step::Wait => {
                    let message = hear(&mut heard, &mut decoder).await;
                    side.handle_message(message, 0).expect("in order");
                }
                Step::Done(outcome) => {
                    out.finish().expect("open");
                    let _read = out.stopped().await;
                    return outcome;
                }
            }
        }
    }
}

/// Says a message as a node of this version does.
async fn say(stream: &mut SendStream, dialect: Dialect, message: Message) {
    let bytes = if dialect == PREVIOUS { before(message) } else { after(message) };
    stream.write_all(&bytes).await.expect("written");
}

/// Without what came later.
fn before(message: Message) -> Vec<u8> {
    let message = match message {
        Message::Offer(mut offer) => {
            (offer.older, offer.set) = (None, Vec::new());
            offer.into()
        }
        Message::Accept(mut accept) => {
            accept.dictionaries = false;
            accept.into()
        }
        Message::Hello(hello) => Hello { instance: None, ..hello }.into(),
        other => other,
    };
    message.encode().expect("encodes")
}

/// With a message before it, and a field in it, that nobody knows yet.
fn after(message: Message) -> Vec<u8> {
    let kind = message.kind();
    let mut frame = message.encode().expect("encodes");
    let cbor = !matches!(kind, Kind::Part | Kind::Pack | Kind::Values);
    let body = frame[limits::FRAME_HEADER_BYTES];
    // 200: true
    let field = [0x18, 0xc8, 0xf5];
    let length = frame.len() - limits::FRAME_HEADER_BYTES + field.len();
    if cbor && body < 0xb7 && length <= kind.payload_bytes_max() {
        frame[limits::FRAME_HEADER_BYTES] += 1;
        frame.extend_from_slice(&field);
        let length = u32::try_from(length).expect("small");
        frame[4..8].copy_from_slice(&length.to_le_bytes());
    }
    // The first frame of all is the hello, whatever the version.
    if kind == Kind::Hello {
        return frame;
    }
    let mut bytes = vec![0x7e, FLAG_OPTIONAL, 0, 0, 9, 0, 0, 0];
    bytes.extend_from_slice(b"from 2030");
    bytes.extend(frame);
    bytes
}

async fn hear(stream: &mut RecvStream, decoder: &mut FrameDecoder) -> Message {
    loop {
        if let Some(frame) = decoder.next_frame().expect("a frame") {
            return Message::decode(frame).expect("a message");
        }
        let chunk = tokio::time::timeout(LONG, stream.read_chunk(1 << 16, true)).await;
        match chunk.expect("in time") {
            Ok(Some(chunk)) => decoder.push(&chunk.bytes),
            // The node has stopped: so does whoever listens.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

fn row(node: &Running, peer: &str) -> PeerRow {
    let report: PeersReport = node.ask(&Request::PeerShow { peer: peer.to_owned() });
    report.peers.into_iter().next().expect("a row")
}

fn troubles(node: &Running) -> Vec<Event> {
    let events = node.events().into_iter();
    events.filter(|event| event.severity != Severity::Info).collect()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(LONG * 2, test).await.expect("in time") })
}

/// Images go both ways, whole and as updates, between a node and one of another version.
fn both_ways(dialect: Dialect) {
    let dir = tempfile::tempdir().expect("a directory");
    let identity = Identity::generate().expect("a key");
    let (node, hub_id, images) = hub(dir.path(), identity.id());
    let (theirs, name) = (dir.path().join("double"), |n: &str| ImageName::new(n).expect("a name"));
    run(async {
        let double = Double::meet((&node, hub_id), &theirs, &identity, dialect).await;
        let (here, there) = (name("here.img"), name("there.img"));
        let mut bytes = noise(1, 1 << 20);
        for number in 1..=2 {
            std::fs::write(images.join("here.img"), &bytes).expect("written");
            let of = {
                let images = images.clone();
                move |n: &str| std::fs::read(images.join(n))
            };
            assert_eq!(node.publish("here.img").generation, number);
            let outcome = double.receive().await;
            assert!(matches!(outcome, RecvOutcome::Committed(_)), "{outcome:?}");
            assert_eq!(std::fs::read(theirs.join("here.img")).expect("there"), bytes);
            assert_eq!(double.store.current(&here).expect("read").map(|g| g.number), Some(number));

            std::fs::write(theirs.join("there.img"), &bytes).expect("written");
            double.record(&there).await;
            let outcome = double.send(&there).await;
            let SendOutcome::Receipt(receipt) = &outcome else { panic!("{outcome:?}") };
            assert_eq!((receipt.node, receipt.number), (hub_id, number));
            assert_eq!(of("there.img").expect("there"), bytes);
            bytes[300_000..300_100].fill(number as u8);
        }
        let row = row(&node, "double");
        assert_eq!((row.connected, row.protocol), (true, Some(1)));
        assert_eq!((row.agent.as_deref(), row.refused), (Some("double/0.9"), None));
        let items = || node.ask::<BacklogReport>(&Request::Backlog { peer: None }).items;
        assert!(items().iter().all(|item| item.image == "there.img"), "what it gave a receipt for");
        assert_eq!(troubles(&node), [], "nothing is wrong with it");
    });
}

#[test]
fn one_of_before_is_served_as_it_was() {
    both_ways(PREVIOUS);
}

#[test]
fn one_of_after_may_say_more_than_is_known() {
    both_ways(NEXT);
}

#[test]
fn one_with_nothing_in_common_is_told_so_and_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let identity = Identity::generate().expect("a key");
    let (node, hub_id, images) = hub(dir.path(), identity.id());
    std::fs::write(images.join("x.img"), noise(2, 100_000)).expect("written");
    node.publish("x.img");
    run(async {
        for _ in 0..2 {
            let dialled = Double::dial((&node, hub_id), &identity, FAR).await;
            let error = closed("hub", &dialled.link.connection.closed().await);
            assert_eq!(error.code(), "VERSION_UNSUPPORTED", "{error}");
            assert!(error.to_string().contains("ours 1 to 1, theirs 2 to 3"), "{error}");
        }
    });
    until("it is shown", || row(&node, "double").refused.is_some());
    assert_eq!(row(&node, "double").refused.as_deref(), Some("VERSION_UNSUPPORTED"));
    let backlog: BacklogReport = node.ask(&Request::Backlog { peer: None });
    assert_eq!(backlog.items[0].refused.as_deref(), Some("VERSION_UNSUPPORTED"));
    until("it is told", || !troubles(&node).is_empty());
    let told: Vec<Event> = troubles(&node);
    assert_eq!(told.len(), 1, "once: {told:?}");
    assert_eq!(
        (told[0].code.as_str(), told[0].peer.as_deref()),
        ("VERSION_UNSUPPORTED", Some("double"))
    );
    // It was updated: all is well again, and what waited goes.
    run(async {
        let theirs = dir.path().join("double");
        let double = Double::meet((&node, hub_id), &theirs, &identity, NEXT).await;
        let outcome = double.receive().await;
        assert!(matches!(outcome, RecvOutcome::Committed(_)), "{outcome:?}");
        assert_eq!(row(&node, "double").refused, None);
    });
}

#[test]
fn both_of_two_nodes_show_that_they_have_no_version_in_common() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = start(by_hand(dir.path(), "ours"));
    let mut far = by_hand(dir.path(), "far");
    far.dialect = FAR;
    let far = start(far);
    ours.add_store();
    far.join(&ours.invite(Role::Mirror));
    for (node, peer) in [(&ours, "far"), (&far, "ours")] {
        // The first dial may have come before the other side had written down who we are.
        until("it is shown", || row(node, peer).refused.as_deref() == Some("VERSION_UNSUPPORTED"));
        let row = row(node, peer);
        assert!(!row.connected && row.protocol.is_none());
        until("it is told", || !troubles(node).is_empty());
        let told = troubles(node);
        assert_eq!((told.len(), told[0].code.as_str()), (1, "VERSION_UNSUPPORTED"), "{told:?}");
    }
    assert!(!far.events().iter().any(|event| event.code == "PEER_DOWN"), "it was never up");
}
