//! What an honest node answers when it will not do something: a number for the peer, a name for
//! people. Numbers are stable; one that this version does not know is kept and is no error.

use std::fmt;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $code:literal;)*) => {
        /// Why a node refuses, fails or ends something. Sent in `Refuse`, `Failed`, `Abort`,
        /// `Goodbye` and `JoinRefused`, and as the reset code of a stream.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
            /// A number that this version does not know.
            Unknown(u16),
        }

        impl Refusal {
            /// Every refusal this version knows.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name,)*];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                match self {
                    $(Refusal::$name => $number,)*
                    Refusal::Unknown(number) => number,
                }
            }

            /// The refusal a number stands for.
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Refusal::$name,)*
                    other => Refusal::Unknown(other),
                }
            }

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Refusal::$name => $code,)*
                    Refusal::Unknown(_) => "UNKNOWN_REFUSAL",
                }
            }
        }
    };
}

refusals! {
    /// The store's file system has no room for the whole plan.
    DiskFull = 0x1001, "DISK_FULL";
    /// Somebody has the target open in a way that forbids replacing it.
    InUse = 0x1002, "IN_USE";
    /// Neither generation descends from the other.
    Diverged = 0x1003, "DIVERGED";
    /// The receiver's generation descends from the offered one.
    GenerationOld = 0x1004, "GENERATION_OLD";
    /// The target was changed locally and that change is not recorded yet.
    LocalChange = 0x1005, "LOCAL_CHANGE";
    /// No such store here, or not for this peer.
    StoreUnknown = 0x1006, "STORE_UNKNOWN";
    /// The peer's role does not allow this.
    Forbidden = 0x1007, "FORBIDDEN";
    /// Too much at once; try again later.
    Busy = 0x1008, "BUSY";
    /// The store had a disk error and accepts nothing until it is looked after.
    Degraded = 0x1009, "DEGRADED";
    /// Well said, but this version can't do it.
    Unsupported = 0x100a, "UNSUPPORTED";
    /// A newer generation of the same image took its place.
    Superseded = 0x100b, "SUPERSEDED";
    /// The same image is already on its way here.
    Duplicate = 0x100c, "DUPLICATE";
    /// The source changed while it was read.
    SourceTorn = 0x100d, "SOURCE_TORN";
    /// The source generation is not there any more.
    SourceMissing = 0x100e, "SOURCE_MISSING";
    /// The store's directory is not there (unmounted, marker missing).
    StoreMissing = 0x100f, "STORE_MISSING";
    /// What arrived does not add up to the offered root.
    RootMismatch = 0x1010, "ROOT_MISMATCH";
    /// A disk operation failed.
    DiskError = 0x1011, "DISK_ERROR";
    /// Stopped by an operator or by a pause.
    Cancelled = 0x1012, "CANCELLED";
    /// The node is going down.
    ShuttingDown = 0x1013, "SHUTTING_DOWN";
    /// Something that should not happen did; the node's log has it.
    Internal = 0x1014, "INTERNAL";
    /// The peer took too long.
    TimedOut = 0x1015, "TIMED_OUT";
    /// More than this node grants a peer.
    ResourceLimit = 0x1016, "RESOURCE_LIMIT";
    /// The store is being adopted there from another tool, which has the images.
    Observing = 0x1017, "OBSERVING";
    /// It is staged, and waits for the other images of its set.
    SetIncomplete = 0x101a, "SET_INCOMPLETE";
    /// No ticket has this secret.
    TicketUnknown = 0x1020, "TICKET_UNKNOWN";
    /// The ticket was used before.
    TicketUsed = 0x1021, "TICKET_USED";
    /// The ticket is too old.
    TicketExpired = 0x1022, "TICKET_EXPIRED";
    /// The ticket is for another store or role.
    TicketScope = 0x1023, "TICKET_SCOPE";
    /// Too many attempts.
    RateLimited = 0x1024, "RATE_LIMITED";
    /// The key is not one this node knows.
    PeerUnknown = 0x1025, "PEER_UNKNOWN";
    /// The key was taken off the list.
    PeerRevoked = 0x1026, "PEER_REVOKED";
    /// Two nodes show the same key.
    IdentityDuplicate = 0x1027, "IDENTITY_DUPLICATE";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown(number) => write!(f, "UNKNOWN_REFUSAL_{number:#06x}"),
            known => f.write_str(known.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_unique_and_comes_back() {
        for number in 0..=u16::MAX {
            assert_eq!(Refusal::from_number(number).number(), number);
        }
        for (i, a) in Refusal::ALL.iter().enumerate() {
            assert!(!matches!(Refusal::from_number(a.number()), Refusal::Unknown(_)));
            for b in &Refusal::ALL[i + 1..] {
                assert!(a.number() != b.number() && a.code() != b.code(), "{a} {b}");
            }
        }
    }
}
