//! QUIC endpoints: the only file that knows sockets.
//!
//! Sockets are made with large buffers (asked, read back, warned about once), every quinn limit
//! that defaults to generous is set from `budget`, and nothing before a proved key takes longer
//! than the handshake deadline. What comes out is a [`Link`]: a connection with its proved key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use aws_lc_rs::hmac;
use blockferry_delta::NodeId;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig,
    IdleTimeout, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

use crate::budget;
use crate::error::{Error, Result};
use crate::link::congestion;
use crate::link::meter::Metered;
use crate::membership::identity::{Identity, PublicKey, SERVER_NAME};
use crate::membership::tls::{self, Purpose};
use crate::membership::trust::Trust;

/// Close codes of the connection, sent with the stable code as the reason.
pub mod close {
    /// The node is stopping; dial again later.
    pub const STOPPING: u32 = 1;
    /// Another connection between the two nodes is kept.
    pub const DUPLICATE: u32 = 2;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 3;
    /// The peer is no member (any more).
    pub const NOT_A_MEMBER: u32 = 4;
    /// A pairing dialogue is over.
    pub const PAIRED: u32 = 5;
    /// The two share other stores now: dial again and tell each other what there is.
    pub const MEMBERSHIP: u32 = 6;
    /// No protocol version is in common; the reason has both ranges.
    pub const VERSION: u32 = blockferry_wire::VERSION_UNSUPPORTED as u32;
}

/// A connection whose other side has proved its key.
#[derive(Clone, Debug)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// The proved key.
    pub key: PublicKey,
    /// Its id.
    pub peer: NodeId,
    /// Whether we dialled.
    pub dialled: bool,
    /// What it was dialled for.
    pub purpose: Purpose,
}

/// The endpoints of a node.
#[derive(Clone)]
pub struct Transport {
    identity: Identity,
    endpoints: Vec<Endpoint>,
    /// What each socket was granted to receive and to send, in bytes, as the kernel counts.
    granted: Vec<[usize; 2]>,
    transport: Arc<TransportConfig>,
}

impl Transport {
    /// Binds every address of `listen`; with none it can dial only.
    pub fn bind(identity: &Identity, trust: Arc<Trust>, listen: &[SocketAddr]) -> Result<Self> {
        let transport = Arc::new(transport_config());
        let tls = tls::server_config(identity, trust)?;
        let crypto = QuicServerConfig::try_from(tls)
            .map_err(|_| Error::Crypto { what: "no initial cipher suite" })?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(transport.clone())
            .max_incoming(budget::INCOMING_MAX)
            .incoming_buffer_size(budget::INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(budget::INCOMING_BUFFER_BYTES_TOTAL);
        let (mut endpoints, mut granted) = (Vec::new(), Vec::new());
        for address in listen {
            let (endpoint, buffers) = endpoint(identity, *address, Some(server.clone()))?;
            endpoints.push(endpoint);
            granted.push(buffers);
        }
        if endpoints.is_empty() {
            let (endpoint, buffers) = dialling_endpoint(identity)?;
            endpoints.push(endpoint);
            granted.push(buffers);
        }
        Ok(Self { identity: identity.clone(), endpoints, granted, transport })
    }

    /// What each socket was granted to receive and to send, in bytes; the kernel counts each twice.
    pub fn granted(&self) -> &[[usize; 2]] {
        &self.granted
    }

    /// The addresses that are listened on, with the ports the system chose.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.endpoints.iter().filter_map(|e| e.local_addr().ok()).collect()
    }

    /// The endpoints, to accept from.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Dials one address and proves that it is `expected` who answers.
    pub async fn dial(
        &self,
        address: SocketAddr,
        expected: NodeId,
        purpose: Purpose,
    ) -> Result<Link> {
        let tls = tls::client_config(&self.identity, expected, purpose)?;
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|_| Error::Crypto { what: "no initial cipher suite" })?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let unreachable = |what: String| Error::Unreachable { peer: address.to_string(), what };
        let endpoint = self.endpoint_for(address)?;
        let connecting = endpoint
            .connect_with(config, address, SERVER_NAME)
            .map_err(|e| unreachable(e.to_string()))?;
        let connection = deadline("handshake", budget::HANDSHAKE_DEADLINE, connecting)
            .await?
            .map_err(|e| refused_by_us(expected, &e))?;
        link(connection, true)
    }

    /// Closes all connections with `code` and waits until the peers know.
    pub async fn close(&self, code: u32, reason: &str) {
        for endpoint in &self.endpoints {
            endpoint.close(VarInt::from_u32(code), reason.as_bytes());
        }
        for endpoint in &self.endpoints {
            let idle = endpoint.wait_idle();
            if tokio::time::timeout(Duration::from_secs(2), idle).await.is_err() {
                debug!("a peer did not confirm the close");
            }
        }
    }

    /// An endpoint whose address family can reach `address`.
    fn endpoint_for(&self, address: SocketAddr) -> Result<Endpoint> {
        let reaches = |e: &&Endpoint| match e.local_addr() {
            Ok(local) => local.is_ipv6() || address.is_ipv4(),
            Err(_) => false,
        };
        // A socket bound to loopback can't reach beyond it, and the other way round.
        let same_reach = |e: &&Endpoint| match e.local_addr() {
            Ok(local) => {
                local.ip().is_unspecified()
                    || local.ip().is_loopback() == address.ip().is_loopback()
            }
            Err(_) => false,
        };
        match self.endpoints.iter().filter(reaches).find(same_reach) {
            Some(endpoint) => Ok(endpoint.clone()),
            None => dialling_endpoint(&self.identity).map(|(endpoint, _)| endpoint),
        }
    }
}

/// Finishes one incoming handshake. An address that has not proved itself is sent a Retry when
/// many are under way; `None` then.
pub async fn admit(incoming: quinn::Incoming, under_way: usize) -> Result<Option<Link>> {
    if under_way > budget::INCOMING_RETRY_FROM && !incoming.remote_address_validated() {
        if incoming.retry().is_err() {
            debug!("an address that had proved itself was asked again");
        }
        return Ok(None);
    }
    let from = incoming.remote_address().to_string();
    let connecting = incoming.accept().map_err(|e| closed(&from, &e))?;
    let connection = deadline("handshake", budget::HANDSHAKE_DEADLINE, connecting)
        .await?
        .map_err(|e| closed(&from, &e))?;
    link(connection, false).map(Some)
}

/// Addresses of `host:port`.
pub async fn lookup(host: &str) -> Result<Vec<SocketAddr>> {
    let nowhere = |what: String| Error::NoAddress { host: host.to_owned(), what };
    let found = tokio::net::lookup_host(host).await.map_err(|e| nowhere(e.to_string()))?;
    let found: Vec<_> = found.take(budget::ADDRESSES_MAX).collect();
    if found.is_empty() { Err(nowhere("none".into())) } else { Ok(found) }
}

/// What a lost or refused connection means, with the code the other side gave.
pub fn closed(peer: &str, error: &ConnectionError) -> Error {
    let peer = peer.to_owned();
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = printable(&close.reason);
            let code = match u32::try_from(close.error_code.into_inner()) {
                Ok(close::STOPPING) => "STOPPING",
                Ok(close::DUPLICATE) => "DUPLICATE_CONNECTION",
                Ok(close::NOT_A_MEMBER) if reason == "PEER_UNKNOWN" => "PEER_UNKNOWN",
                Ok(close::NOT_A_MEMBER) => "PEER_REVOKED",
                Ok(close::PAIRED) => "PAIRED",
                Ok(close::MEMBERSHIP) => "MEMBERSHIP_CHANGED",
                Ok(close::VERSION) => "VERSION_UNSUPPORTED",
                _ => "PROTOCOL",
            };
            Error::PeerClosed { peer, code, reason }
        }
        ConnectionError::ConnectionClosed(close) => {
            let number = u64::from(close.error_code);
            let reason = close.error_code.to_string();
            match number.checked_sub(0x100).map(u8::try_from) {
                Some(Ok(alert)) => {
                    Error::PeerClosed { peer, code: tls::code_of_alert(alert), reason }
                }
                _ => Error::Unreachable { peer, what: reason },
            }
        }
        ConnectionError::TransportError(error) => {
            let number = u64::from(error.code);
            let what = error.to_string();
            match number.checked_sub(0x100).map(u8::try_from) {
                Some(Ok(alert)) => {
                    Error::PeerClosed { peer, code: tls::code_of_alert(alert), reason: what }
                }
                _ => Error::Unreachable { peer, what },
            }
        }
        other => Error::Unreachable { peer, what: other.to_string() },
    }
}

/// A handshake that failed while dialling: our own refusal means that somebody else answers there.
fn refused_by_us(expected: NodeId, error: &ConnectionError) -> Error {
    match error {
        ConnectionError::TransportError(ours) if u64::from(ours.code) >= 0x100 => {
            let (expected, what) = (expected.short(), ours.to_string());
            match what.contains(tls::OWN_KEY) {
                true => Error::OwnKey { expected },
                false => Error::WrongPeer { expected, what },
            }
        }
        other => closed(&expected.short(), other),
    }
}

/// Text of a peer, safe to print, at most 200 characters.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(200).flat_map(char::escape_default).collect()
}

/// Waits for `future` no longer than `limit`.
pub async fn deadline<T>(
    what: &'static str,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Result<T> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| Error::Deadline { what, seconds: limit.as_secs() })
}

fn link(connection: Connection, dialled: bool) -> Result<Link> {
    let missing = Error::Crypto { what: "a connection without a certificate" };
    let Some(identity) = connection.peer_identity() else { return Err(missing) };
    let agreed = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let purpose = agreed.and_then(|data| data.protocol).and_then(|alpn| Purpose::of_alpn(&alpn));
    let Some(purpose) = purpose else {
        return Err(Error::Crypto { what: "a connection that agreed on no protocol" });
    };
    let Ok(chain) = identity.downcast::<Vec<CertificateDer<'static>>>() else {
        return Err(missing);
    };
    let Some(end_entity) = chain.first() else { return Err(missing) };
    let key = tls::key_of(end_entity)?;
    Ok(Link { connection, key, peer: key.node_id(), dialled, purpose })
}

fn transport_config() -> TransportConfig {
    let window = |bytes: u64| VarInt::from_u64(bytes).expect("windows are far below 2^62");
    let mut config = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10));
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(budget::DATAGRAM_BYTES_MAX);
    let idle = IdleTimeout::try_from(budget::IDLE_TIMEOUT).expect("30 s fit");
    config
        .congestion_controller_factory(Arc::new(Metered(Arc::new(congestion::Factory))))
        .stream_receive_window(window(budget::WINDOW_POOL_BYTES))
        .receive_window(window(budget::IDLE_WINDOW_BYTES))
        .send_window(budget::WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(budget::BIDI_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(budget::UNI_STREAMS_MAX))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(budget::KEEP_ALIVE))
        .datagram_receive_buffer_size(None)
        .ack_frequency_config(Some(acks))
        .mtu_discovery_config(Some(mtu))
        .send_fairness(false);
    config
}

/// An endpoint that only dials, on a port the system chooses; IPv4 where IPv6 is not to be had.
fn dialling_endpoint(identity: &Identity) -> Result<(Endpoint, [usize; 2])> {
    let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    endpoint(identity, any6, None).or_else(|_| endpoint(identity, any4, None))
}

/// The reset key is the same at every start: packets for connections of a killed process are
/// answered with a stateless reset, and the peer need not wait for its idle timeout.
fn endpoint(
    identity: &Identity,
    address: SocketAddr,
    server: Option<ServerConfig>,
) -> Result<(Endpoint, [usize; 2])> {
    let at = |op| move |e| Error::io(op, address.to_string(), e);
    let (socket, granted) = socket(address).map_err(at("bind"))?;
    let secret = identity.derive("blockferry stateless reset 1");
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config
        .max_udp_payload_size(budget::DATAGRAM_BYTES_MAX)
        .expect("the limit lies between 1200 and 65,527");
    let endpoint = Endpoint::new(config, server, socket, Arc::new(TokioRuntime));
    Ok((endpoint.map_err(at("listen on"))?, granted))
}

/// A socket, and what it was granted to receive and to send.
fn socket(address: SocketAddr) -> std::io::Result<(UdpSocket, [usize; 2])> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // The kernel clamps silently to net.core.{r,w}mem_max; what was granted is read back.
    socket.set_recv_buffer_size(budget::SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(budget::SOCKET_BUFFER_BYTES)?;
    let granted = [socket.recv_buffer_size()?, socket.send_buffer_size()?];
    if buffers_remedy(granted).is_some() {
        // With CAP_NET_ADMIN the kernel gives more than its default limit; without, this fails.
        let bytes = budget::SOCKET_BUFFER_BYTES;
        let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, bytes)
            .and_then(|()| rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, bytes));
        debug!(?forced, "asked for larger UDP buffers");
    }
    let granted = [socket.recv_buffer_size()?, socket.send_buffer_size()?];
    if let Some(remedy) = buffers_remedy(granted) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            warn!(
                asked_bytes = budget::SOCKET_BUFFER_BYTES,
                granted_bytes = granted[0].min(granted[1]) / KERNEL_DOUBLES,
                "small UDP buffers drop packets under load: {remedy}"
            );
        });
    }
    socket.bind(&address.into())?;
    Ok((socket.into(), granted))
}

/// What the kernel says that it granted is twice that: it counts what it needs itself.
const KERNEL_DOUBLES: usize = 2;

/// What an operator must do for the buffers that were asked for, if the kernel says that it granted
/// so many bytes to receive and to send.
fn buffers_remedy(granted: [usize; 2]) -> Option<String> {
    let bytes = budget::SOCKET_BUFFER_BYTES;
    let small = ["rmem", "wmem"].into_iter().zip(granted);
    let small = small.filter(|(_, granted)| *granted < bytes * KERNEL_DOUBLES);
    let keys: Vec<String> = small.map(|(key, _)| format!("net.core.{key}_max={bytes}")).collect();
    (!keys.is_empty())
        .then(|| format!("sysctl -w {} (and into /etc/sysctl.d, to stay)", keys.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::Key;
    use crate::rate::limit::{Flow, Limit, Room};
    use crate::rate::rates::{Allowance, Rates};
    use blockferry_delta::{ImageName, StoreName};

    #[test]
    fn small_buffers_are_answered_with_the_setting_to_change() {
        let full = 2 * budget::SOCKET_BUFFER_BYTES;
        assert_eq!(buffers_remedy([full, full]), None);
        let both = buffers_remedy([425_984, 425_984]).expect("far too small");
        assert!(both.starts_with("sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608"));
        let one = buffers_remedy([full, full - 1]).expect("too small");
        assert!(one.contains("wmem_max") && !one.contains("rmem_max"), "{one}");
    }

    fn loopback() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    fn bound(identity: &Identity, trust: Arc<Trust>) -> Transport {
        Transport::bind(identity, trust, &[loopback()]).expect("bound")
    }

    /// Accepts one connection in the background; gives what came of it.
    fn accept_one(transport: &Transport) -> tokio::task::JoinHandle<Result<Option<Link>>> {
        let endpoint = transport.endpoints()[0].clone();
        tokio::spawn(async move {
            let incoming = endpoint.accept().await.expect("an incoming connection");
            admit(incoming, 0).await
        })
    }

    /// Two members, one of which accepts a connection.
    struct Members {
        hub: Identity,
        branch: Identity,
        server: Transport,
        client: Transport,
        accepted: tokio::task::JoinHandle<Result<Option<Link>>>,
    }

    fn members() -> Members {
        let (hub, branch) = (Identity::generate().expect("a"), Identity::generate().expect("b"));
        let trust = Arc::new(Trust::default());
        trust.admit(branch.id());
        let server = bound(&hub, trust);
        let client = bound(&branch, Arc::new(Trust::default()));
        let accepted = accept_one(&server);
        Members { hub, branch, server, client, accepted }
    }

    #[test]
    fn both_sides_know_the_proved_key() {
        runtime().block_on(async {
            let Members { hub, branch, server, client, accepted } = members();
            let dialled = client
                .dial(server.local_addresses()[0], hub.id(), Purpose::Session)
                .await
                .expect("dialled");
            let accepted = accepted.await.expect("ran").expect("accepted").expect("no retry");
            assert_eq!((dialled.peer, accepted.peer), (hub.id(), branch.id()));
            assert!(dialled.dialled && !accepted.dialled);
            server.close(close::STOPPING, "STOPPING").await;
            let error = dialled.connection.closed().await;
            assert_eq!(closed("hub", &error).code(), "STOPPING");
        });
    }

    #[test]
    fn refusals_carry_their_code() {
        runtime().block_on(async {
            let (hub, branch) =
                (Identity::generate().expect("a"), Identity::generate().expect("b"));
            for (revoked, code) in [(false, "PEER_UNKNOWN"), (true, "PEER_REVOKED")] {
                let trust = Arc::new(Trust::default());
                if revoked {
                    trust.revoke(branch.id(), 0);
                }
                let server = bound(&hub, trust);
                let client = bound(&branch, Arc::new(Trust::default()));
                let accepted = accept_one(&server);
                let at = server.local_addresses()[0];
                // In TLS 1.3 the client finishes first and learns of the refusal right after.
                let error = match client.dial(at, hub.id(), Purpose::Session).await {
                    Ok(link) => closed("hub", &link.connection.closed().await),
                    Err(error) => error,
                };
                assert_eq!(error.code(), code, "{error}");
                assert!(accepted.await.expect("ran").is_err());
            }
        });
    }

    #[test]
    fn another_node_at_the_address_is_refused() {
        runtime().block_on(async {
            let Members { server, client, accepted, .. } = members();
            let other = Identity::generate().expect("other");
            let result =
                client.dial(server.local_addresses()[0], other.id(), Purpose::Session).await;
            assert_eq!(result.expect_err("another node").code(), "IDENTITY_REFUSED");
            assert!(accepted.await.expect("ran").is_err());
        });
    }

    #[test]
    fn a_silent_address_ends_at_the_deadline() {
        runtime().block_on(async {
            let silent = UdpSocket::bind(loopback()).expect("bound");
            let node = Identity::generate().expect("a");
            let client = bound(&node, Arc::new(Trust::default()));
            tokio::time::pause();
            let address = silent.local_addr().expect("bound");
            let error =
                client.dial(address, node.id(), Purpose::Session).await.expect_err("silent");
            assert_eq!(error.code(), "DEADLINE");
        });
    }

    #[test]
    fn a_connection_counts_what_it_carries() {
        runtime().block_on(async {
            let Members { hub, server, client, accepted, .. } = members();
            let at = server.local_addresses()[0];
            let link = client.dial(at, hub.id(), Purpose::Session).await.expect("dialled");
            let there = accepted.await.expect("ran").expect("accepted").expect("no retry");
            let before = crate::link::meter::carried(&link.connection).expect("metered");
            let (mut stream, _back) = link.connection.open_bi().await.expect("opened");
            let reader = tokio::spawn(async move {
                let (_forth, mut stream) = there.connection.accept_bi().await.expect("opened");
                let read = stream.read_to_end(2 << 20).await.expect("read").len();
                (read, there)
            });
            stream.write_all(&vec![7; 1 << 20]).await.expect("written");
            stream.finish().expect("open");
            stream.stopped().await.expect("all was confirmed");
            let (read, _there) = reader.await.expect("ran");
            let after = crate::link::meter::carried(&link.connection).expect("metered");
            assert_eq!(read, 1 << 20);
            assert!(after.bytes - before.bytes >= 1 << 20, "{after:?}");
            assert!(after.held_bytes <= after.bytes && after.window_bytes > 0, "{after:?}");
            assert!(after.held_bytes > 0, "the first window is smaller than that: {after:?}");
            for polite in [true, false] {
                congestion::set_polite(&link.connection, polite);
                assert_eq!(congestion::is_polite(&link.connection), Some(polite));
            }
        });
    }

    struct Nothing;

    impl Room for Nothing {
        fn is_used(&self) -> bool {
            false
        }
        fn is_in_the_way(&self) -> bool {
            false
        }
        fn stalled(&self, _: bool) {}
    }

    #[test]
    fn who_comes_from_another_address_is_still_sent_to_politely() {
        runtime().block_on(async {
            let Members { hub, branch, server, client, accepted } = members();
            let at = server.local_addresses()[0];
            let link = client.dial(at, hub.id(), Purpose::Session).await.expect("dialled");
            let there = accepted.await.expect("ran").expect("accepted").expect("no retry");
            let mut rates = Rates::default();
            rates.peers.insert(branch.id(), Allowance { polite: true, ..Allowance::default() });
            let limit = Arc::new(Limit::new(rates, Duration::MAX));
            let store = StoreName::new("s").expect("a name");
            let image = ImageName::new("a.img").expect("a name");
            let key = Key { peer: branch.id(), store, image };
            let connection = there.connection.clone();
            let mut flow = Flow::new(limit.clone(), &key, connection, Arc::new(Nothing));
            flow.may_send(1).await.expect("nothing holds it");
            assert_eq!(congestion::is_polite(&there.connection), Some(true));
            let before = there.connection.remote_address();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).expect("bound");
            client.endpoints()[0].rebind(socket).expect("another address");
            while there.connection.remote_address() == before {
                tokio::time::sleep(budget::SEND_WINDOW_EVERY).await;
            }
            assert_eq!(congestion::is_polite(&there.connection), Some(false), "made anew");
            tokio::time::sleep(budget::SEND_WINDOW_EVERY).await;
            flow.may_send(1).await.expect("nothing holds it");
            assert_eq!(congestion::is_polite(&there.connection), Some(true));
            drop(link);
        });
    }

    #[test]
    fn what_a_peer_says_is_safe_to_print() {
        assert_eq!(printable(b"a\x1b[2J\n"), "a\\u{1b}[2J\\n");
    }
}
