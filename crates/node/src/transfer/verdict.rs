//! Verdict: the only place that decides what an error means.
//!
//! Three questions, three tables: what to tell the peer when a store could not do it, what the
//! backlog does when a transfer came to nothing, and whether a connection goes on. Whoever meets
//! an error asks here; nobody else matches on codes to decide.

use blockferry_store::Error as StoreError;
use blockferry_wire::{Error as WireError, Refusal};

use crate::backlog::{Reason, Setback};
use crate::error::Error;

/// What a peer is told when our store could not do what its offer needs.
pub fn refusal_of(error: &StoreError) -> Refusal {
    match error {
        StoreError::OutOfSpace { .. } => Refusal::DiskFull,
        StoreError::InUse(_) => Refusal::InUse,
        StoreError::Busy(_) => Refusal::Busy,
        StoreError::LocalChange(_) => Refusal::LocalChange,
        StoreError::Degraded => Refusal::Degraded,
        StoreError::StoreMissing | StoreError::StoreUnsafe(_) | StoreError::Marker(_) => {
            Refusal::StoreMissing
        }
        StoreError::RootMismatch { .. } => Refusal::RootMismatch,
        StoreError::Torn { .. } | StoreError::ChangedWhileReading(_) => Refusal::SourceTorn,
        StoreError::NotFound(_)
        | StoreError::SourceMissing(_)
        | StoreError::NoGeneration { .. } => Refusal::SourceMissing,
        StoreError::TooLarge(_) => Refusal::ResourceLimit,
        StoreError::NotRegular(_) => Refusal::LocalChange,
        StoreError::Observing { .. } => Refusal::Observing,
        StoreError::Cancelled => Refusal::Cancelled,
        StoreError::Io { .. } if error.code() == "DISK_FULL" => Refusal::DiskFull,
        StoreError::Io { .. } | StoreError::Catalog(_) | StoreError::Corrupt { .. } => {
            Refusal::DiskError
        }
        _ => Refusal::Internal,
    }
}

/// Whether an error of our store is the peer's doing: what it sent contradicts itself.
pub fn is_peers_doing(error: &StoreError) -> bool {
    matches!(error, StoreError::BadPart(_) | StoreError::BlockMismatch { .. })
}

/// What the backlog does when the peer refused an offer or failed in it.
pub fn setback_of_refusal(refusal: Refusal) -> Setback {
    match refusal {
        Refusal::Diverged => Setback::Diverged,
        Refusal::GenerationOld => Setback::Older,
        Refusal::DiskFull => Setback::Retry(Reason::Space),
        Refusal::InUse | Refusal::LocalChange => Setback::Retry(Reason::InUse),
        Refusal::SetIncomplete => Setback::Retry(Reason::SetIncomplete),
        Refusal::Observing => Setback::Retry(Reason::Observing),
        Refusal::ShuttingDown => Setback::Lost,
        Refusal::Busy | Refusal::Duplicate | Refusal::Superseded | Refusal::ResourceLimit => {
            Setback::Retry(Reason::Transferring)
        }
        _ => Setback::Retry(Reason::Failing),
    }
}

/// What the backlog does when a transfer came to nothing, whoever's fault it was.
pub fn setback_of(error: &Error) -> Setback {
    match error {
        Error::Refused { code, .. } => {
            let known = Refusal::ALL.iter().find(|r| r.code() == *code);
            setback_of_refusal(known.copied().unwrap_or(Refusal::Internal))
        }
        Error::PeerClosed { .. }
        | Error::Unreachable { .. }
        | Error::Held { .. }
        | Error::Stopping => Setback::Lost,
        // The file moved under us: the rescan records what it is now, and the head changes.
        Error::Store(
            StoreError::Torn { .. }
            | StoreError::ChangedWhileReading(_)
            | StoreError::SourceMissing(_)
            | StoreError::InUse(_)
            | StoreError::Busy(_),
        ) => Setback::Retry(Reason::InUse),
        Error::HeldOpen { .. } => Setback::Retry(Reason::InUse),
        Error::SetIncomplete { .. } => Setback::Retry(Reason::SetIncomplete),
        Error::Diverged { .. } => Setback::Diverged,
        _ => Setback::Retry(Reason::Failing),
    }
}

/// What happens to the connection after an error on one of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It goes on; only the stream is over.
    Keep,
    /// The peer broke the rules: it is closed with this number and code.
    Close {
        /// QUIC close code.
        number: u32,
        /// Stable code, sent as the reason.
        code: &'static str,
    },
}

/// Whether a connection goes on after an error on one of its streams.
pub fn connection_after(error: &Error) -> Connection {
    match error {
        Error::Wire(wire) if wire.is_peer_fault() => close(wire),
        // Nobody's fault; whoever reads it must know what it is about.
        Error::Wire(wire @ WireError::PeerIncompatible(_)) => close(wire),
        Error::Store(store) if is_peers_doing(store) => {
            Connection::Close { number: MANIFEST_NUMBER, code: store.code() }
        }
        Error::BadReceipt { .. } => {
            close(&WireError::from(blockferry_wire::PeerMisbehaved::BadSignature))
        }
        _ => Connection::Keep,
    }
}

/// `BAD_MANIFEST` and `CHUNK_MISMATCH` found by the store rather than by `wire`.
const MANIFEST_NUMBER: u32 = 0x0209;

fn close(error: &WireError) -> Connection {
    Connection::Close { number: u32::from(error.number()), code: error.code() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockferry_delta::{ImageName, Root};
    use blockferry_wire::{Invalid, PeerIncompatible, PeerMisbehaved};
    use std::io;

    fn image() -> ImageName {
        ImageName::new("a").expect("a name")
    }

    #[test]
    fn what_the_peer_is_told() {
        let io = |kind: io::ErrorKind| StoreError::Io {
            op: "write",
            path: "a".into(),
            source: kind.into(),
        };
        let root = Root::from_bytes([0; 32]);
        let rows = [
            (StoreError::OutOfSpace { needed_bytes: 2, free_bytes: 1 }, "DISK_FULL"),
            (io(io::ErrorKind::StorageFull), "DISK_FULL"),
            (io(io::ErrorKind::QuotaExceeded), "DISK_FULL"),
            (io(io::ErrorKind::Other), "DISK_ERROR"),
            (StoreError::InUse(image()), "IN_USE"),
            (StoreError::LocalChange(image()), "LOCAL_CHANGE"),
            (StoreError::Busy(image()), "BUSY"),
            (StoreError::Degraded, "DEGRADED"),
            (StoreError::StoreMissing, "STORE_MISSING"),
            (StoreError::Marker(String::new()), "STORE_MISSING"),
            (
                StoreError::RootMismatch { image: image(), promised: root, found: root },
                "ROOT_MISMATCH",
            ),
        ];
        for (error, code) in rows {
            assert_eq!(refusal_of(&error).code(), code, "{error}");
        }
    }

    #[test]
    fn what_the_backlog_does() {
        use Reason::*;
        let refused = |refusal: Refusal| Error::Refused {
            peer: "p".into(),
            image: "s/a".into(),
            code: refusal.code(),
            reason: String::new(),
            bytes_needed: None,
            bytes_free: None,
        };
        let rows = [
            (refused(Refusal::InUse), Setback::Retry(InUse)),
            (refused(Refusal::LocalChange), Setback::Retry(InUse)),
            (refused(Refusal::DiskFull), Setback::Retry(Space)),
            (refused(Refusal::Diverged), Setback::Diverged),
            (refused(Refusal::GenerationOld), Setback::Older),
            (refused(Refusal::Duplicate), Setback::Retry(Transferring)),
            (refused(Refusal::SetIncomplete), Setback::Retry(SetIncomplete)),
            (refused(Refusal::Observing), Setback::Retry(Observing)),
            (refused(Refusal::Forbidden), Setback::Retry(Failing)),
            (refused(Refusal::ShuttingDown), Setback::Lost),
            (Error::Stopping, Setback::Lost),
            (Error::Store(StoreError::Torn { image: image(), block: 0 }), Setback::Retry(InUse)),
            (Error::Store(StoreError::Degraded), Setback::Retry(Failing)),
        ];
        for (error, setback) in rows {
            assert_eq!(setback_of(&error), setback, "{error}");
        }
    }

    #[test]
    fn only_a_peer_that_breaks_the_rules_is_dropped() {
        let keeps = [
            Error::Store(StoreError::Degraded),
            Error::Store(StoreError::OutOfSpace { needed_bytes: 2, free_bytes: 1 }),
            Error::Wire(WireError::ApiMisuse("x")),
            Error::Stopping,
        ];
        for error in keeps {
            assert_eq!(connection_after(&error), Connection::Keep, "{error}");
        }
        let version = PeerIncompatible::VersionUnsupported {
            ours_min: 1,
            ours_max: 1,
            theirs_min: 2,
            theirs_max: 2,
        };
        let closes = [
            Error::Wire(Invalid::UnknownMessage { kind: 99 }.into()),
            Error::Wire(PeerMisbehaved::ChunkMismatch.into()),
            Error::Store(StoreError::BlockMismatch { image: image(), block: 1 }),
            Error::BadReceipt { peer: "p".into(), image: "a".into() },
            Error::Wire(version.into()),
        ];
        for error in closes {
            assert!(matches!(connection_after(&error), Connection::Close { .. }), "{error}");
        }
    }
}
