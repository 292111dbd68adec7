//! What went wrong and whose fault it was. Variants are facts; each has a stable number, sent as
//! the QUIC close code, and a stable code for people and scripts. `docs/protocol.md` lists both.

use crate::limits;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Number of the close code that says that no protocol version is in common.
pub const VERSION_UNSUPPORTED: u16 = 0x0301;

/// Whose fault it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that are no message.
    #[error("invalid message: {0}")]
    Invalid(#[from] Invalid),
    /// A message that breaks the rules.
    #[error("the peer misbehaved: {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// An honest peer with which nothing is in common.
    #[error("the peer is incompatible: {0}")]
    PeerIncompatible(#[from] PeerIncompatible),
    /// This node's own code used a value wrongly; nothing was sent.
    #[error("protocol misused by this node: {0}")]
    ApiMisuse(&'static str),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A frame or a body that can't be parsed.
    #[error("frame of type {kind:#04x}: {rule} at offset {offset}")]
    BadFrame {
        /// The frame's type.
        kind: u8,
        /// What it breaks.
        rule: &'static str,
        /// Where in the payload (in the stream for a header), in bytes.
        offset: u64,
    },
    /// A type this version does not know, not marked optional.
    #[error("unknown message type {kind:#04x}")]
    UnknownMessage {
        /// The frame's type.
        kind: u8,
    },
    /// A length above the limit of its type.
    #[error("frame of type {kind:#04x} of {bytes} bytes, at most {bytes_max} are allowed")]
    FrameTooLarge {
        /// The frame's type.
        kind: u8,
        /// What the header says.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// A text that is no name.
    #[error("{what} is no valid name")]
    BadName {
        /// Which name.
        what: &'static str,
    },
    /// An offer or a recipe part that contradicts itself or the image.
    #[error("manifest: {rule}")]
    BadManifest {
        /// What it breaks.
        rule: &'static str,
    },
    /// A compressed body that declares another length than the one agreed.
    #[error("compressed body declares {declared:?} bytes where {expected} are due")]
    DecompressLimit {
        /// Bytes that are due.
        expected: u64,
        /// What the body says, if anything.
        declared: Option<u64>,
    },
    /// A compressed body that does not decompress.
    #[error("compressed body: {rule}")]
    DecompressBad {
        /// What it breaks.
        rule: &'static str,
    },
}

/// How a peer broke the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// A message that may not come now.
    #[error("{message} while {state}")]
    WrongState {
        /// The message.
        message: &'static str,
        /// What this side was doing.
        state: &'static str,
    },
    /// Something that was not asked for.
    #[error("unrequested: {rule}")]
    Unrequested {
        /// What it breaks.
        rule: &'static str,
    },
    /// Pages outside what may be named.
    #[error("page {page} may not be wanted from part {part}")]
    BadRange {
        /// The part.
        part: u32,
        /// The first offending page.
        page: u64,
    },
    /// A page wanted more often than allowed.
    #[error("page {page} of part {part} wanted too often")]
    WantLimit {
        /// The part.
        part: u32,
        /// The page.
        page: u64,
    },
    /// More parts than may be in flight or open.
    #[error(
        "more than {} parts in flight or {} open",
        limits::PARTS_IN_FLIGHT,
        limits::PARTS_OPEN_MAX
    )]
    PartsLimit,
    /// A receipt for something else.
    #[error("the receipt is for another generation")]
    WrongReceipt,
    /// A base that was not offered.
    #[error("accepted with a base that was not offered")]
    WrongBase,
    /// Totals that differ from what was sent.
    #[error("{what} said to be {said}, counted {counted}")]
    WrongCount {
        /// What was counted.
        what: &'static str,
        /// What the peer said.
        said: u64,
        /// What came.
        counted: u64,
    },
    /// Bytes that don't have the hash they were sent for. Found by the driver.
    #[error("bytes don't match their hash")]
    ChunkMismatch,
    /// A signature that does not verify. Found by the driver.
    #[error("bad signature")]
    BadSignature,
    /// More often than this node grants. Found by the driver.
    #[error("too often")]
    RateLimited,
}

/// What honest peers don't have in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerIncompatible {
    /// No protocol version in common.
    #[error(
        "no common version: ours {ours_min} to {ours_max}, theirs {theirs_min} to {theirs_max}"
    )]
    VersionUnsupported {
        /// Our lowest.
        ours_min: u16,
        /// Our highest.
        ours_max: u16,
        /// Their lowest.
        theirs_min: u16,
        /// Their highest.
        theirs_max: u16,
    },
}

impl Error {
    /// The stable number, sent as the QUIC close code.
    pub fn number(&self) -> u16 {
        self.row().0
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.row().1
    }

    fn row(&self) -> (u16, &'static str) {
        use PeerMisbehaved as P;
        match self {
            Error::Invalid(invalid) => match invalid {
                Invalid::BadFrame { .. } => (0x0101, "BAD_FRAME"),
                Invalid::UnknownMessage { .. } => (0x0102, "UNKNOWN_MESSAGE"),
                Invalid::FrameTooLarge { .. } => (0x0103, "FRAME_TOO_LARGE"),
                Invalid::BadName { .. } => (0x0104, "BAD_NAME"),
                Invalid::BadManifest { .. } => (0x0105, "BAD_MANIFEST"),
                Invalid::DecompressLimit { .. } => (0x0106, "DECOMPRESS_LIMIT"),
                Invalid::DecompressBad { .. } => (0x0107, "DECOMPRESS_BAD"),
            },
            Error::PeerMisbehaved(misbehaved) => match misbehaved {
                P::WrongState { .. } => (0x0201, "WRONG_STATE"),
                P::Unrequested { .. } => (0x0202, "UNREQUESTED"),
                P::BadRange { .. } => (0x0203, "BAD_RANGE"),
                P::WantLimit { .. } => (0x0204, "WANT_LIMIT"),
                P::PartsLimit => (0x0205, "PARTS_LIMIT"),
                P::WrongReceipt => (0x0206, "WRONG_RECEIPT"),
                P::WrongBase => (0x0207, "WRONG_BASE"),
                P::WrongCount { .. } => (0x0208, "WRONG_COUNT"),
                P::ChunkMismatch => (0x0209, "CHUNK_MISMATCH"),
                P::BadSignature => (0x020a, "BAD_SIGNATURE"),
                P::RateLimited => (0x020b, "RATE_LIMITED"),
            },
            Error::PeerIncompatible(PeerIncompatible::VersionUnsupported { .. }) => {
                (VERSION_UNSUPPORTED, "VERSION_UNSUPPORTED")
            }
            Error::ApiMisuse(_) => (0x0401, "API_MISUSE"),
        }
    }

    /// Whether the peer is to blame, so that the connection ends and not only the transfer.
    pub fn is_peer_fault(&self) -> bool {
        matches!(self, Error::Invalid(_) | Error::PeerMisbehaved(_))
    }
}

pub(crate) fn manifest(rule: &'static str) -> Error {
    Invalid::BadManifest { rule }.into()
}

pub(crate) fn wrong_state(message: &'static str, state: &'static str) -> Error {
    PeerMisbehaved::WrongState { message, state }.into()
}
