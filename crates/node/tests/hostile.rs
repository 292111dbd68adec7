//! Peers that break the rules: what they get, and that nobody else notices.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blockferry_delta::{ImageName, Lineage, NodeId, Root, StoreId, StoreName};
use blockferry_node::api::{Client, ReadyReport, Request, Require, Role};
use blockferry_node::config::{Config, PeerConfig, StoreConfig};
use blockferry_node::link::transport::{Link, Transport, closed};
use blockferry_node::membership::ticket::Ticket;
use blockferry_node::membership::tls::Purpose;
use blockferry_node::membership::trust::Trust;
use blockferry_node::{Identity, Node};
use blockferry_wire::{
    Encoding, FEATURE_STATEMENTS, FrameDecoder, Hello, Holding, Join, Message, Pack, Proof,
    Receipt, Refusal, Resume, Said, Statement, What, limits,
};
use quinn::{RecvStream, SendStream};

const LONG: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

fn store_name() -> StoreName {
    StoreName::new("vdisks").expect("a name")
}

/// A node with one store that knows `member`.
async fn hub(dir: &Path, member: NodeId) -> Node {
    let identity = Identity::generate().expect("a key");
    let images = dir.join("images");
    std::fs::create_dir_all(&images).expect("a directory");
    let mut config = Config::new("hub", identity, dir.join("state"));
    config.listen = vec![loopback()];
    config.stores = vec![StoreConfig::new(store_name(), images, Role::Writer)];
    config.peers = vec![PeerConfig {
        name: "member".into(),
        id: member,
        addresses: vec![],
        stores: vec![store_name()],
        mirrors: vec![],
        compression: None,
        send: Default::default(),
    }];
    Node::start(config).await.expect("started")
}

async fn dial(identity: &Identity, hub: &Node) -> Link {
    dial_for(Purpose::Session, identity, hub).await
}

async fn dial_for(purpose: Purpose, identity: &Identity, hub: &Node) -> Link {
    let trust = Arc::new(Trust::default());
    let transport = Transport::bind(identity, trust, &[loopback()]).expect("bound");
    transport.dial(hub.local_addresses()[0], hub.id(), purpose).await.expect("dialled")
}

async fn say(stream: &mut SendStream, message: impl Into<Message>) {
    let frame = message.into().encode().expect("encodes");
    stream.write_all(&frame).await.expect("written");
}

async fn hear(stream: &mut RecvStream) -> Message {
    let mut decoder = FrameDecoder::new();
    loop {
        if let Some(frame) = decoder.next_frame().expect("a frame") {
            return Message::decode(frame).expect("a message");
        }
        let chunk = stream.read_chunk(1 << 16, true).await.expect("read").expect("not the end");
        decoder.push(&chunk.bytes);
    }
}

/// Opens the control stream and exchanges the hellos.
async fn greet(link: &Link) -> (SendStream, RecvStream) {
    let (mut send, mut receive) = link.connection.open_bi().await.expect("opened");
    say(&mut send, Hello::new("member", "test/1")).await;
    let answer = tokio::time::timeout(LONG, hear(&mut receive)).await.expect("answered");
    assert!(matches!(answer, Message::HelloAck(_)), "{answer:?}");
    (send, receive)
}

/// Why the hub closed the connection.
async fn reason(link: &Link) -> String {
    let error = tokio::time::timeout(LONG, link.connection.closed()).await.expect("closed");
    closed("hub", &error).to_string()
}

async fn still_serves(hub: &Node, identity: &Identity) {
    let link = dial(identity, hub).await;
    greet(&link).await;
}

fn run(test: impl AsyncFnOnce(&Node, &Identity)) {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let member = Identity::generate().expect("a key");
        let node = hub(dir.path(), member.id()).await;
        test(&node, &member).await;
        still_serves(&node, &member).await;
        node.stop().await;
    });
}

#[test]
fn garbage_on_the_control_stream_closes_with_its_code() {
    run(async |hub, member| {
        for garbage in [&[0xff; 64][..], &[0; 64], b"GET / HTTP/1.1\r\n\r\n"] {
            let link = dial(member, hub).await;
            let (mut send, _receive) = link.connection.open_bi().await.expect("opened");
            send.write_all(garbage).await.expect("written");
            let reason = reason(&link).await;
            assert!(
                ["BAD_FRAME", "UNKNOWN_MESSAGE"].iter().any(|c| reason.contains(c)),
                "{reason}"
            );
        }
    });
}

#[test]
fn a_second_hello_is_out_of_order() {
    run(async |hub, member| {
        let link = dial(member, hub).await;
        let (mut send, _receive) = greet(&link).await;
        say(&mut send, Hello::new("member", "test/1")).await;
        let reason = reason(&link).await;
        assert!(reason.contains("WRONG_STATE"), "{reason}");
    });
}

#[test]
fn a_pack_that_nobody_asked_for_closes_the_connection() {
    run(async |hub, member| {
        let link = dial(member, hub).await;
        let (_send, _receive) = greet(&link).await;
        let (mut send, _receive) = link.connection.open_bi().await.expect("opened");
        let extents = vec![blockferry_delta::PageExtent { first: 0, count: 1 }];
        let bytes = vec![0; 4096].into();
        let raw_bytes = 4096;
        let (encoding, dictionary) = (Encoding::Stored, Vec::new());
        say(&mut send, Pack { part: 0, extents, encoding, dictionary, raw_bytes, bytes }).await;
        let reason = reason(&link).await;
        assert!(reason.contains("WRONG_STATE"), "{reason}");
    });
}

#[test]
fn a_frame_longer_than_its_limit_is_refused_by_its_header() {
    run(async |hub, member| {
        let link = dial(member, hub).await;
        let (_send, _receive) = greet(&link).await;
        let (mut send, _receive) = link.connection.open_bi().await.expect("opened");
        let length = u32::try_from(limits::OFFER_BYTES_MAX + 1).expect("small");
        let mut header = vec![0x20, 0, 0, 0];
        header.extend_from_slice(&length.to_le_bytes());
        send.write_all(&header).await.expect("written");
        let reason = reason(&link).await;
        assert!(reason.contains("FRAME_TOO_LARGE"), "{reason}");
    });
}

#[test]
fn an_offer_for_a_store_that_is_not_shared_is_refused_as_if_there_were_none() {
    run(async |hub, member| {
        let link = dial(member, hub).await;
        let (_send, _receive) = greet(&link).await;
        let (mut send, mut receive) = link.connection.open_bi().await.expect("opened");
        let offer = blockferry_wire::Offer {
            store: StoreId::from_bytes([9; 16]),
            image: ImageName::new("a.img").expect("a name"),
            number: 1,
            root: Root::from_bytes([1; 32]),
            size_bytes: 4096,
            meta: blockferry_delta::Meta::default(),
            lineage: blockferry_delta::Lineage::from_entries([(member.id(), 1)]).expect("valid"),
            author: member.id(),
            recorded_unix_ms: 0,
            bases: vec![],
            chunk_params: blockferry_delta::ChunkParams::CURRENT,
            lane: blockferry_wire::Lane::Normal,
            dirty_bytes: None,
            data_bytes: 4096,
            allocated_zero: vec![],
            older: None,
            set: Vec::new(),
        };
        say(&mut send, offer).await;
        let Message::Refuse(refuse) = hear(&mut receive).await else { panic!("a refusal") };
        assert_eq!(refuse.code, Refusal::StoreUnknown);
    });
}

#[test]
fn a_receipt_for_nothing_is_out_of_order() {
    run(async |hub, member| {
        let link = dial(member, hub).await;
        let (_send, _receive) = greet(&link).await;
        let (mut send, _receive) = link.connection.open_bi().await.expect("opened");
        let mut receipt = Receipt {
            node: member.id(),
            store: StoreId::from_bytes([9; 16]),
            image: ImageName::new("a.img").expect("a name"),
            number: 1,
            root: Root::from_bytes([1; 32]),
            signature: [0; 64],
        };
        receipt.signature = member.sign(&receipt.signed_bytes());
        say(&mut send, receipt).await;
        assert!(reason(&link).await.contains("WRONG_STATE"));
    });
}

#[test]
fn a_stranger_with_a_ticket_out_may_only_join_and_not_guess() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let member = Identity::generate().expect("a key");
        let node = hub(dir.path(), member.id()).await;
        let ticket = invite(dir.path()).await;
        let stranger = Identity::generate().expect("a key");

        let link = dial(&stranger, &node).await;
        assert!(reason(&link).await.contains("PEER_UNKNOWN"), "a session is for members");
        let link = dial_for(Purpose::Pairing, &stranger, &node).await;
        let (mut send, _receive) = link.connection.open_bi().await.expect("opened");
        say(&mut send, Hello::new("stranger", "test/1")).await;
        assert!(reason(&link).await.contains("WRONG_STATE"), "nothing but a join");

        for _ in 0..5 {
            assert_eq!(try_join(&stranger, &node, [0; 16]).await, Some(Refusal::TicketUnknown));
        }
        assert_eq!(try_join(&stranger, &node, [0; 16]).await, Some(Refusal::RateLimited));
        let right = try_join(&stranger, &node, ticket.secret).await;
        assert_eq!(right, Some(Refusal::RateLimited), "the right one, too late");
        still_serves(&node, &member).await;
        node.stop().await;
    });
}

async fn invite(dir: &Path) -> Ticket {
    let socket = dir.join("state/admin.sock");
    let line = tokio::task::spawn_blocking(move || {
        let mut client = blockferry_node::api::Client::connect(&socket).expect("connected");
        let request = blockferry_node::api::Request::Invite {
            store: "vdisks".into(),
            role: Role::Mirror,
            ttl_seconds: 60,
        };
        client.ask::<blockferry_node::api::Invitation>(&request).expect("invited").ticket
    });
    Ticket::decode(&line.await.expect("ran")).expect("a ticket")
}

async fn try_join(stranger: &Identity, hub: &Node, secret: [u8; 16]) -> Option<Refusal> {
    let link = dial_for(Purpose::Pairing, stranger, hub).await;
    let (mut send, mut receive) = link.connection.open_bi().await.expect("opened");
    let node_name = "stranger".to_owned();
    say(&mut send, Join { secret, node_name, store: store_name(), addresses: vec![] }).await;
    match hear(&mut receive).await {
        Message::JoinRefused(refused) => Some(refused.code),
        _ => None,
    }
}

#[test]
fn noise_on_the_port_is_dropped() {
    run(async |hub, _member| {
        let socket = UdpSocket::bind(loopback()).expect("bound");
        let mut seed = 1_u64;
        for length in (0..1200).step_by(3) {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33).to_le_bytes()[0]
                })
                .collect();
            socket.send_to(&bytes, hub.local_addresses()[0]).expect("sent");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
}

/// What `by` holds of `x.img`, signed by `signer`.
fn holding(by: &Identity, signer: &Identity, store: StoreId, number: u64) -> Statement {
    let root = Root::from_bytes([number as u8; 32]);
    let lineage = Lineage::from_entries([(NodeId::from_bytes([1; 32]), number)]).expect("valid");
    let image = ImageName::new("x.img").expect("a name");
    let (proof, rivals) = (Proof::ReadBack, Vec::new());
    let what = What::Holding(Holding { image, number, root, lineage, proof, rivals });
    let said = Said { key: by.public().to_bytes(), store, sequence: number, unix_ms: 0, what };
    let body = said.encode().expect("keeps the rules");
    let signature = signer.sign(&Statement::signed_bytes(&body));
    Statement { place: number, body, signature }
}

/// Greets as one that has statements; the store's id as the hub says it.
async fn greet_with_statements(link: &Link) -> (SendStream, RecvStream, StoreId) {
    let (mut send, mut receive) = link.connection.open_bi().await.expect("opened");
    let hello = Hello { features: FEATURE_STATEMENTS, ..Hello::new("member", "test/1") };
    say(&mut send, hello).await;
    let mut decoder = FrameDecoder::new();
    loop {
        let chunk = receive.read_chunk(1 << 16, true).await.expect("read").expect("not the end");
        decoder.push(&chunk.bytes);
        while let Some(frame) = decoder.next_frame().expect("a frame") {
            if let Message::Resume(resume) = Message::decode(frame).expect("a message") {
                let (store, own_log) = (resume.store, 5);
                say(&mut send, Resume { store, own_log, known_log: 0, known_place: 0 }).await;
                return (send, receive, store);
            }
        }
    }
}

/// Which generation of `x.img` the hub takes for the newest, and how many members it knows of.
async fn newest(socket: std::path::PathBuf) -> Option<(u64, usize)> {
    let ask = move || {
        let mut client = Client::connect(&socket).expect("connected");
        let request = Request::Ready { image: "vdisks/x.img".into(), require: Require::All };
        client.ask::<ReadyReport>(&request).ok()
    };
    let report = tokio::task::spawn_blocking(ask).await.expect("asked")?;
    Some((report.generation, report.peers.iter().filter(|peer| peer.ready).count()))
}

#[test]
fn a_statement_counts_when_a_member_signed_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("state/admin.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let member = Identity::generate().expect("a key");
        let stranger = Identity::generate().expect("a key");
        let node = hub(dir.path(), member.id()).await;
        let link = dial(&member, &node).await;
        let (mut send, _receive, store) = greet_with_statements(&link).await;
        say(&mut send, holding(&stranger, &stranger, store, 9)).await;
        say(&mut send, holding(&member, &member, store, 7)).await;
        let heard = async {
            while newest(socket.clone()).await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, heard).await.expect("heard");
        assert_eq!(newest(socket.clone()).await, Some((7, 1)), "the stranger's doesn't count");
        say(&mut send, holding(&member, &stranger, store, 8)).await;
        let reason = reason(&link).await;
        assert!(reason.contains("BAD_SIGNATURE"), "{reason}");
        assert_eq!(newest(socket.clone()).await, Some((7, 1)), "nor does a forged one");
        still_serves(&node, &member).await;
        node.stop().await;
    });
}
