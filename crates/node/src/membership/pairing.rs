//! Pairing: how a ticket makes two strangers members of one store.
//!
//! The joiner dials the hub that the ticket names (its key is pinned), proves its own key in the
//! same handshake and shows the secret; a member does the same for a further store. The hub checks it once and durably, remembers the joiner
//! with the role the ticket grants, and hands over the store's id and key. Nothing else is possible
//! on a connection whose key is no member's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{NodeId, StoreName};
use blockferry_store::StoreIdentity;
use blockferry_wire::{Join, JoinAccepted, JoinRefused, Message, PeerMisbehaved, Refusal};
use tracing::info;

use crate::api::Role;
use crate::budget;
use crate::config::{Allowance, PeerConfig, StoreConfig, check_store};
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::link::dialing::Admitted;
use crate::link::stream::{MessageReader, write_frame};
use crate::link::transport::{self, Link, close, closed, deadline};
use crate::local::stores::Origin;
use crate::membership::ticket::{Ticket, hash_secret};
use crate::membership::tls::Purpose;
use crate::node;

/// The hub's side: one question, one answer, within [`budget::PAIRING_DEADLINE`].
pub(crate) async fn host(core: Arc<Core>, link: Link) -> Result<()> {
    let from = link.connection.remote_address();
    let mut admitted = None;
    let answer = answer(&core, &link, from, &mut admitted);
    let dialogue = deadline("pairing", budget::PAIRING_DEADLINE, answer);
    let result = dialogue.await.and_then(|result| result);
    // Not before the joiner has made a peer of us: it would refuse us as a stranger.
    if let Some(admitted) = admitted {
        admitted.dial(&core);
    }
    let (code, reason) = match &result {
        Ok(()) => (close::PAIRED, "PAIRED"),
        Err(error) => (close::NOT_A_MEMBER, error.code()),
    };
    link.connection.close(code.into(), reason.as_bytes());
    result
}

async fn answer(
    core: &Arc<Core>,
    link: &Link,
    from: SocketAddr,
    admitted: &mut Option<Admitted>,
) -> Result<()> {
    let name = link.peer.short();
    let streams = link.connection.accept_bi().await.map_err(|e| closed(&name, &e))?;
    let (mut stream_out, mut stream_in) = streams;
    let mut reader = MessageReader::default();
    let asked = reader.next(&name, &mut stream_in, budget::PAIRING_DEADLINE).await?;
    let Some((Message::Join(join), _)) = asked else {
        let message = asked.as_ref().map_or("nothing", |(message, _)| message.name());
        let wrong = PeerMisbehaved::WrongState { message, state: "a join is awaited" };
        return Err(Error::Wire(wrong.into()));
    };
    let reply = match admit(core, link.peer, from, join).await {
        Ok((accepted, peer)) => {
            *admitted = Some(peer);
            Message::from(accepted)
        }
        Err(error) => {
            let text = format!("a join of {from} is refused: {error}");
            core.events.note(Note::warning(error.code(), text).peer(&name));
            JoinRefused::new(refusal_of(&error), &error.to_string()).into()
        }
    };
    // The limit is for images; a handful of bytes need not queue behind them.
    write_frame(&name, &mut stream_out, &[&reply.encode()?], None, None).await?;
    let _closed = stream_out.finish();
    // The joiner closes when it has made a peer of us; then nothing can be lost.
    let read = tokio::time::timeout(Duration::from_secs(5), link.connection.closed()).await;
    info!(peer = %name, confirmed = read.is_ok(), "pairing is over");
    Ok(())
}

async fn admit(
    core: &Arc<Core>,
    joiner: NodeId,
    from: SocketAddr,
    join: Join,
) -> Result<(JoinAccepted, Admitted)> {
    let now = Instant::now();
    lock(&core.tries).allowed(from.ip(), now)?;
    let store = core.store(join.store.as_str()).map_err(|_| Error::TokenScope)?;
    let (ledger, hash, name) = (core.ledger.clone(), hash_secret(&join.secret), join.store.clone());
    let revoked_at = core.trust.revoked_at(&joiner);
    let redeemed = blocking("redeeming a ticket", move || {
        ledger.redeem(hash, &name, joiner, revoked_at, now_unix_ms())
    });
    let issued = match redeemed.await {
        Ok(issued) => issued,
        Err(error) => {
            lock(&core.tries).note_wrong(from.ip(), now);
            return Err(error);
        }
    };
    let peer = PeerConfig {
        name: join.node_name,
        id: joiner,
        addresses: join.addresses,
        stores: vec![join.store.clone()],
        mirrors: if issued.role == Role::Mirror { vec![join.store] } else { Vec::new() },
        compression: None,
        send: Allowance::default(),
    };
    let admitted = node::admit_peer(core, peer).await?;
    let identity = store.store.identity().clone();
    let accepted = JoinAccepted {
        store_name: identity.name,
        store: identity.id,
        key: identity.key,
        role: wire_role(issued.role),
        node_name: core.config.name.clone(),
    };
    Ok((accepted, admitted))
}

/// What came of joining.
pub(crate) struct Joined {
    pub(crate) store: StoreConfig,
    pub(crate) peer: PeerConfig,
}

/// The joiner's side: pairs with the hub of `ticket` and takes its store into service at `path`.
pub(crate) async fn join(
    core: &Arc<Core>,
    ticket: &str,
    path: Option<PathBuf>,
    name: Option<String>,
) -> Result<Joined> {
    join_as(core, ticket, (path, name), false).await
}

/// The same; the store begins by observing what another tool left at `path`.
pub(crate) async fn join_to_adopt(
    core: &Arc<Core>,
    ticket: &str,
    path: Option<PathBuf>,
    name: Option<String>,
) -> Result<Joined> {
    join_as(core, ticket, (path, name), true).await
}

async fn join_as(
    core: &Arc<Core>,
    ticket: &str,
    (path, name): (Option<PathBuf>, Option<String>),
    adopt: bool,
) -> Result<Joined> {
    let ticket = Ticket::decode(ticket)?;
    if ticket.hub == core.config.identity.id() {
        return Err(Error::TokenWrongHub);
    }
    let path =
        path.unwrap_or_else(|| core.config.state_dir.join("stores").join(ticket.store.as_str()));
    let mut store = StoreConfig::new(ticket.store.clone(), path, ticket.role);
    store.settle = core.live().settle;
    store.adopt = adopt;
    // What would fail afterwards is refused before the ticket is spent.
    let known = core.store(store.name.as_str()).ok();
    if known.is_none() {
        let others: Vec<_> = core.all_stores().iter().map(|s| s.config.clone()).collect();
        check_store(&store, &others)?;
        std::fs::create_dir_all(&store.path).map_err(|e| Error::io("create", &store.path, e))?;
    }
    let (accepted, link) = ask(core, &ticket).await?;
    store.role = role_of(accepted.role);
    let hub = PeerConfig {
        name: name.unwrap_or(accepted.node_name),
        id: ticket.hub,
        addresses: ticket.addresses,
        stores: vec![store.name.clone()],
        mirrors: Vec::new(),
        compression: None,
        send: Allowance::default(),
    };
    let identity =
        StoreIdentity { name: accepted.store_name, id: accepted.store, key: accepted.key };
    match known {
        Some(known) if known.store.identity().id == identity.id => store = known.config.clone(),
        Some(known) => {
            let what = format!("{} holds another store of this name", known.config.path.display());
            return Err(Error::StoreExists { name: store.name.to_string(), what });
        }
        None => node::take_store(core, store.clone(), Origin::Granted(identity)).await?,
    }
    let peer = node::admit_peer(core, hub).await?.dial(core);
    // The hub dials us when this is over.
    link.connection.close(close::PAIRED.into(), b"PAIRED");
    Ok(Joined { store, peer: peer.config() })
}

/// Shows the ticket to the hub, at the first of its addresses that answers.
async fn ask(core: &Arc<Core>, ticket: &Ticket) -> Result<(JoinAccepted, Link)> {
    let mut last = Error::NoAddress { host: "the ticket's hub".into(), what: "none".into() };
    for host in &ticket.addresses {
        let found = match transport::lookup(host).await {
            Ok(found) => found,
            Err(error) => {
                last = error;
                continue;
            }
        };
        for address in found {
            match core.transport.dial(address, ticket.hub, Purpose::Pairing).await {
                Ok(link) => return Ok((show(core, &link, ticket).await?, link)),
                Err(error) => last = worse(last, error),
            }
        }
    }
    Err(match last {
        Error::WrongPeer { .. } => Error::TokenWrongHub,
        other => told_at_the_door(other, ticket),
    })
}

/// Of two failures the one that says more: a refusal rather than silence.
fn worse(before: Error, now: Error) -> Error {
    match before {
        Error::WrongPeer { .. } | Error::PeerClosed { .. } => before,
        _ => now,
    }
}

/// A hub with no ticket out refuses strangers at the door and can't say why.
fn told_at_the_door(error: Error, ticket: &Ticket) -> Error {
    let expired = u64::try_from(now_unix_ms() / 1000).unwrap_or(0) >= ticket.expires_unix_s;
    match error.code() {
        "PEER_UNKNOWN" if expired => Error::TokenExpired,
        "PEER_UNKNOWN" => Error::TokenUnknown,
        _ => error,
    }
}

async fn show(core: &Arc<Core>, link: &Link, ticket: &Ticket) -> Result<JoinAccepted> {
    let name = ticket.hub.short();
    let dialogue = async {
        let streams = link.connection.open_bi().await.map_err(|e| closed(&name, &e))?;
        let (mut stream_out, mut stream_in) = streams;
        let join = Join {
            secret: ticket.secret,
            node_name: core.config.name.clone(),
            store: ticket.store.clone(),
            addresses: node::advertised(core),
        };
        let frame = Message::from(join).encode()?;
        write_frame(&name, &mut stream_out, &[&frame], None, None).await?;
        let mut reader = MessageReader::default();
        let reply = reader.next(&name, &mut stream_in, budget::PAIRING_DEADLINE).await?;
        match reply {
            Some((Message::JoinAccepted(accepted), _)) => Ok(accepted),
            Some((Message::JoinRefused(refused), _)) => Err(error_of(refused)),
            other => {
                let message = other.as_ref().map_or("nothing", |(message, _)| message.name());
                let wrong = PeerMisbehaved::WrongState { message, state: "joining" };
                Err(Error::Wire(wrong.into()))
            }
        }
    };
    let result = deadline("pairing", budget::PAIRING_DEADLINE, dialogue).await;
    let result = result.and_then(|result| result);
    result.map_err(|error| {
        link.connection.close(close::PAIRED.into(), b"PAIRED");
        told_at_the_door(error, ticket)
    })
}

fn refusal_of(error: &Error) -> Refusal {
    match error {
        Error::TokenUsed => Refusal::TicketUsed,
        Error::TokenExpired => Refusal::TicketExpired,
        Error::TokenScope => Refusal::TicketScope,
        Error::TokenUnknown => Refusal::TicketUnknown,
        Error::RateLimited { .. } => Refusal::RateLimited,
        Error::PeerRevoked { .. } => Refusal::PeerRevoked,
        _ => Refusal::Internal,
    }
}

fn error_of(refused: JoinRefused) -> Error {
    match refused.code {
        Refusal::TicketUsed => Error::TokenUsed,
        Refusal::TicketExpired => Error::TokenExpired,
        Refusal::TicketScope => Error::TokenScope,
        Refusal::TicketUnknown => Error::TokenUnknown,
        Refusal::RateLimited => Error::RateLimited { from: "this address".into() },
        Refusal::PeerRevoked => Error::PeerRevoked { id: "this node".into() },
        other => Error::PeerClosed {
            peer: "the hub".into(),
            code: other.code(),
            reason: refused.text.to_string(),
        },
    }
}

fn wire_role(role: Role) -> blockferry_wire::Role {
    match role {
        Role::Writer => blockferry_wire::Role::Writer,
        Role::Mirror => blockferry_wire::Role::Mirror,
    }
}

fn role_of(role: blockferry_wire::Role) -> Role {
    match role {
        blockferry_wire::Role::Writer => Role::Writer,
        blockferry_wire::Role::Mirror => Role::Mirror,
    }
}

/// A ticket for a store of ours, and when it expires in milliseconds since 1970.
pub(crate) async fn invite(
    core: &Arc<Core>,
    store: &str,
    role: Role,
    ttl: Duration,
) -> Result<(Ticket, i64)> {
    let store: StoreName = core.store(store)?.config.name.clone();
    if ttl.is_zero() || ttl > budget::TICKET_LIFE_MAX {
        let most = budget::TICKET_LIFE_MAX.as_secs();
        return Err(Error::Control { what: format!("a ticket lives 1 to {most} s") });
    }
    let issued_unix_ms = now_unix_ms();
    let life_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let expires_unix_ms = issued_unix_ms.saturating_add(life_ms);
    let expires_unix_s = u64::try_from(expires_unix_ms / 1000).unwrap_or(0);
    let addresses = node::advertised(core);
    let hub = core.config.identity.id();
    let ticket = Ticket::new(hub, addresses, store.clone(), role, expires_unix_s)?;
    let issued = crate::membership::ticket::Issued {
        store,
        role,
        issued_unix_ms,
        expires_unix_ms,
        used_by: None,
    };
    let (ledger, hash) = (core.ledger.clone(), ticket.secret_hash());
    let (until, newest) = blocking("issuing a ticket", move || {
        ledger.issue(hash, &issued, issued_unix_ms)?;
        ledger.tickets_out(issued_unix_ms)
    })
    .await?;
    core.trust.set_tickets(until, newest);
    Ok((ticket, expires_unix_ms))
}
