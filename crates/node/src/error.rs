//! Everything that can go wrong in a node, as facts with fields.
//!
//! Every variant has a stable code, which users' scripts and the peer see. What is to be *done*
//! about an error is decided in one place only: `verdict`.

use std::io;
use std::path::PathBuf;

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key file can be read or written by others than its owner.
    #[error("key file {path} has mode {mode:04o}: others may read it; chmod 600 it")]
    KeyUnsafe {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is not an Ed25519 private key in PKCS#8 PEM.
    #[error("key file {path} is not an Ed25519 key in PKCS#8 PEM: {what}")]
    KeyInvalid {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// An operation of the operating system failed.
    #[error("{op} {path}: {source}")]
    Io {
        /// What was tried, a verb.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The cryptographic library refused.
    #[error("cryptography: {what}")]
    Crypto {
        /// What was tried.
        what: &'static str,
    },
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] blockferry_store::Error),
    /// The protocol was broken.
    #[error(transparent)]
    Wire(#[from] blockferry_wire::Error),
    /// TLS could not be set up or was refused.
    #[error("TLS refused: {0}")]
    Tls(#[from] rustls::Error),
    /// A peer's key is in no membership we have.
    #[error("peer {id} is not a member here")]
    PeerUnknown {
        /// The key it proved or the name it was asked for by.
        id: String,
    },
    /// A peer's key was revoked.
    #[error("peer {id} was revoked")]
    PeerRevoked {
        /// The key it proved.
        id: String,
    },
    /// Another node answers at the peer's address.
    #[error("another node than {expected} answers there: {what}")]
    WrongPeer {
        /// Who was dialled.
        expected: String,
        /// What the handshake said.
        what: String,
    },
    /// A node with our own key answers at the peer's address.
    #[error("a node with this node's own key answers where {expected} should: it runs twice")]
    OwnKey {
        /// Who was dialled.
        expected: String,
    },
    /// The other side closed the connection and said why.
    #[error("{peer} closed the connection: {reason} ({code})")]
    PeerClosed {
        /// Who.
        peer: String,
        /// The code it gave.
        code: &'static str,
        /// Its words.
        reason: String,
    },
    /// No connection could be made or it was lost.
    #[error("no connection to {peer}: {what}")]
    Unreachable {
        /// Who was dialled.
        peer: String,
        /// What happened.
        what: String,
    },
    /// A handshake or a dialogue took longer than its deadline.
    #[error("{what} took longer than {seconds} s")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The deadline, in seconds.
        seconds: u64,
    },
    /// A name of a host has no address.
    #[error("no address for {host}: {what}")]
    NoAddress {
        /// The name that was looked up.
        host: String,
        /// The answer.
        what: String,
    },
    /// The text is no ticket.
    #[error("not a ticket: {what}")]
    TicketInvalid {
        /// Which rule it breaks.
        what: &'static str,
    },
    /// The ticket was used before.
    #[error("the ticket was used before")]
    TokenUsed,
    /// The ticket's time is over.
    #[error("the ticket has expired")]
    TokenExpired,
    /// The ticket is for another store or role.
    #[error("the ticket is for another store or role")]
    TokenScope,
    /// The ticket was issued by another node.
    #[error("the ticket was issued by another node")]
    TokenWrongHub,
    /// The ticket's secret is not known here.
    #[error("the ticket is not known here")]
    TokenUnknown,
    /// Too many tries from one address.
    #[error("too many tries from {from}; wait a minute")]
    RateLimited {
        /// Whose tries.
        from: String,
    },
    /// There is no such store.
    #[error("no store {name}")]
    StoreUnknown {
        /// The name asked for.
        name: String,
    },
    /// The store is known and not in service.
    #[error("store {name} is not in service: {what}")]
    StoreAbsent {
        /// The name asked for.
        name: String,
        /// Code of the reason.
        code: &'static str,
        /// The reason, with the directory.
        what: String,
    },
    /// There is a store of this name, or one that shares the directory.
    #[error("store {name} exists already: {what}")]
    StoreExists {
        /// The name.
        name: String,
        /// What it collides with.
        what: String,
    },
    /// There is no such image or generation.
    #[error("no image {image}")]
    ImageUnknown {
        /// `store/name` or `store/name@generation`.
        image: String,
    },
    /// Receipts are missing because there is no room for them.
    #[error(
        "{image}: whether it is everywhere can't be told: there are more images times members than \
         this node can keep receipts of ({} MiB, some 600 bytes each)",
        crate::budget::STATEMENTS_BYTES >> 20
    )]
    StatementsFull {
        /// `store/name`.
        image: String,
    },
    /// There is nothing to resolve.
    #[error("{image} has not diverged")]
    NotDiverged {
        /// `store/name`.
        image: String,
    },
    /// The configuration can't be used.
    #[error("configuration: {what}")]
    Config {
        /// Which rule it breaks.
        what: String,
    },
    /// The configuration file has changed since it was read.
    #[error("{path} is not what was looked at: it has changed since")]
    ConfigChanged {
        /// The file.
        path: PathBuf,
    },
    /// The configuration file can't be written by this service.
    #[error("{path} can't be changed by the service: {what}")]
    ConfigReadOnly {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// A change of the configuration that doesn't say what it is based on.
    #[error("the change doesn't say which configuration it is based on")]
    ConfigTag,
    /// What only the configuration file may change was asked to be changed at run time.
    #[error("{what} is set in the configuration file; change it there")]
    Configured {
        /// `store x` or `peer y`.
        what: String,
    },
    /// The node's own database can't be read or written.
    #[error("node state {path}: {what}")]
    State {
        /// The file.
        path: PathBuf,
        /// What the database said.
        what: String,
    },
    /// Another process holds the node's state.
    #[error("{path} is in use by another process")]
    StateLocked {
        /// The file.
        path: PathBuf,
    },
    /// A request on the admin socket can't be understood.
    #[error("bad request: {what}")]
    Control {
        /// What is wrong with it.
        what: String,
    },
    /// A client of the admin socket went away.
    #[error("the client is gone")]
    ClientGone,
    /// There is no such calendar.
    #[error("no schedule {name}")]
    ScheduleUnknown {
        /// The name asked for.
        name: String,
    },
    /// A transfer may not send for longer than it is held open; it goes on when it may.
    #[error("nothing may be sent now: {}", if *paused { "paused" } else { "the schedule says so" })]
    Held {
        /// By an operator; else by a calendar.
        paused: bool,
    },
    /// There is no such generation.
    #[error("no generation {image}")]
    GenerationUnknown {
        /// `store/name@generation`.
        image: String,
    },
    /// A node key asked for what its role doesn't allow.
    #[error("forbidden: {what}")]
    Forbidden {
        /// The right and the store.
        what: String,
    },
    /// The other side refused an offer or failed in it.
    #[error("{peer} refused {image}: {reason} ({code})")]
    Refused {
        /// Who.
        peer: String,
        /// What was offered.
        image: String,
        /// The code it gave.
        code: &'static str,
        /// Its words.
        reason: String,
        /// What the transfer needs there, in bytes, when it said so.
        bytes_needed: Option<u64>,
        /// What is free there, in bytes, when it said so.
        bytes_free: Option<u64>,
    },
    /// The two sides hold changes that don't descend from each other.
    #[error("{image} has diverged: both sides changed it")]
    Diverged {
        /// `store/name`.
        image: String,
    },
    /// The image is being received or published already.
    #[error("{image} is busy: another transfer of it is under way")]
    Busy {
        /// `store/name`.
        image: String,
    },
    /// Somebody has the image open for writing.
    #[error("image {image} is open for writing by {holder}")]
    HeldOpen {
        /// `store/name`.
        image: String,
        /// Who.
        holder: blockferry_store::disk::Holder,
    },
    /// What an image builds upon is not there, or not to be used.
    #[error("{image} is not published: {what}")]
    SetIncomplete {
        /// `store/name`.
        image: String,
        /// What is missing.
        what: String,
    },
    /// Images of a set would not fit each other any more.
    #[error("{image}: {what}")]
    SetWouldBreak {
        /// `store/name`.
        image: String,
        /// Which, and why.
        what: String,
        /// `SET_INCOMPLETE` or `PARENT_MISMATCH`.
        code: &'static str,
    },
    /// What an image builds upon is not what it remembers.
    #[error("{image} is not published: {what}")]
    ParentMismatch {
        /// `store/name`.
        image: String,
        /// In what they differ.
        what: String,
    },
    /// A disk that wasn't closed well: its header says so.
    #[error("{image} was not closed well, or is still open: {what}")]
    Unclean {
        /// `store/name`.
        image: String,
        /// What the header says.
        what: String,
    },
    /// Only a writer makes generations.
    #[error("{image} is in a mirror here; do it on a writer: {}", said(.writers))]
    MirrorOf {
        /// `store/name`.
        image: String,
        /// Names of the writers we know.
        writers: Vec<String>,
    },
    /// The content of a generation isn't kept here.
    #[error("the content of {image}@{number} is not kept here; who had it: {}", said(.peers))]
    NotKept {
        /// `store/name`.
        image: String,
        /// Number of the generation.
        number: u64,
        /// Names of peers that had it once.
        peers: Vec<String>,
    },
    /// A local change on a mirror: it doesn't travel.
    #[error("{image} is in a mirror here: its local changes don't travel")]
    Mirror {
        /// `store/name`.
        image: String,
    },
    /// A receipt whose signature doesn't fit.
    #[error("receipt of {peer} for {image} is not signed by its key")]
    BadReceipt {
        /// Who sent it.
        peer: String,
        /// For what.
        image: String,
    },
    /// A wait was longer than the time given.
    #[error("not ready after {seconds} s")]
    WaitedTooLong {
        /// The time given, in seconds.
        seconds: u64,
    },
    /// A task was cut off by a panic; the node goes on without it.
    #[error("{what} stopped unexpectedly")]
    Broken {
        /// The task.
        what: &'static str,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Names, one after the other.
fn said(names: &[String]) -> String {
    if names.is_empty() { "nobody known here".to_owned() } else { names.join(", ") }
}

impl Error {
    /// The stable code that users' scripts and peers see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyUnsafe { .. } => "KEY_UNSAFE",
            Self::KeyInvalid { .. } => "KEY_INVALID",
            Self::Io { .. } => "IO",
            Self::Crypto { .. } => "CRYPTO",
            Self::Store(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::Tls(_) => "TLS_REFUSED",
            Self::PeerUnknown { .. } => "PEER_UNKNOWN",
            Self::PeerRevoked { .. } => "PEER_REVOKED",
            Self::WrongPeer { .. } => "IDENTITY_REFUSED",
            Self::OwnKey { .. } => "IDENTITY_DUPLICATE",
            Self::PeerClosed { code, .. } => code,
            Self::Unreachable { .. } => "PEER_UNREACHABLE",
            Self::Deadline { .. } => "DEADLINE",
            Self::NoAddress { .. } => "NO_ADDRESS",
            Self::TicketInvalid { .. } => "TICKET_INVALID",
            Self::TokenUsed => "TOKEN_USED",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenScope => "TOKEN_SCOPE",
            Self::TokenWrongHub => "TOKEN_WRONG_HUB",
            Self::TokenUnknown => "TOKEN_UNKNOWN",
            Self::RateLimited { .. } => "RATE_LIMITED",
            Self::StoreUnknown { .. } => "STORE_UNKNOWN",
            Self::StoreAbsent { code, .. } => code,
            Self::StoreExists { .. } => "STORE_EXISTS",
            Self::ImageUnknown { .. } => "IMAGE_UNKNOWN",
            Self::NotDiverged { .. } => "NOT_DIVERGED",
            Self::StatementsFull { .. } => "STATEMENTS_FULL",
            Self::Config { .. } | Self::Configured { .. } => "CONFIG_ERROR",
            Self::ConfigChanged { .. } => "CONFIG_CHANGED",
            Self::ConfigReadOnly { .. } => "CONFIG_READ_ONLY",
            Self::ConfigTag => "CONFIG_TAG",
            Self::State { .. } => "STATE_UNREADABLE",
            Self::StateLocked { .. } => "STATE_LOCKED",
            Self::Control { .. } => "CONTROL_BAD_REQUEST",
            Self::ClientGone => "CONTROL_GONE",
            Self::GenerationUnknown { .. } => "GENERATION_UNKNOWN",
            Self::Forbidden { .. } => "FORBIDDEN",
            Self::Refused { code, .. } | Self::SetWouldBreak { code, .. } => code,
            Self::Diverged { .. } => "DIVERGED",
            Self::Busy { .. } => "BUSY",
            Self::HeldOpen { .. } => "IN_USE",
            Self::Mirror { .. } | Self::MirrorOf { .. } => "MIRROR",
            Self::NotKept { .. } => "NOT_KEPT",
            Self::SetIncomplete { .. } => "SET_INCOMPLETE",
            Self::ParentMismatch { .. } => "PARENT_MISMATCH",
            Self::Unclean { .. } => "UNCLEAN",
            Self::BadReceipt { .. } => "BAD_SIGNATURE",
            Self::WaitedTooLong { .. } => "TIMED_OUT",
            Self::Broken { .. } => "INTERNAL",
            Self::ScheduleUnknown { .. } => "SCHEDULE_UNKNOWN",
            Self::Held { .. } => "HELD",
            Self::Stopping => "STOPPING",
        }
    }

    /// An error of the operating system, with what was tried on what.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { op, path: path.into(), source }
    }
}
