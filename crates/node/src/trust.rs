//! Who may talk to us: the one view of membership that every handshake asks.
//!
//! Keys are pinned: a node id is a member, revoked, or a stranger. A stranger gets through the
//! handshake only while an unexpired ticket is outstanding, and then only to the pairing dialogue.
//! A view that can't be read refuses everybody; it never lets everybody in.

use std::collections::HashSet;
use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, Ordering};

use blockferry_delta::NodeId;

/// What a key is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may share stores with us.
    Member,
    /// It was a member and must never be again.
    Revoked,
    /// We don't know it.
    Stranger,
}

#[derive(Default)]
struct Keys {
    members: HashSet<NodeId>,
    revoked: HashSet<NodeId>,
}

/// The shared view of membership.
#[derive(Default)]
pub struct Trust {
    keys: RwLock<Keys>,
    /// Strangers may knock until this moment, in milliseconds since 1970.
    open_until_unix_ms: AtomicI64,
}

impl Trust {
    /// What `id` is to us.
    pub fn standing(&self, id: &NodeId) -> Standing {
        let Ok(keys) = self.keys.read() else { return Standing::Revoked };
        if keys.revoked.contains(id) {
            Standing::Revoked
        } else if keys.members.contains(id) {
            Standing::Member
        } else {
            Standing::Stranger
        }
    }

    /// Makes `id` a member; a revoked key stays revoked.
    pub fn admit(&self, id: NodeId) {
        if let Ok(mut keys) = self.keys.write() {
            keys.members.insert(id);
        }
    }

    /// Takes `id` out. Its connections are for the caller to close.
    pub fn revoke(&self, id: NodeId) {
        if let Ok(mut keys) = self.keys.write() {
            keys.members.remove(&id);
            keys.revoked.insert(id);
        }
    }

    /// Forgets that `id` was revoked: it is a stranger again and may pair with a new ticket.
    pub fn pardon(&self, id: &NodeId) {
        if let Ok(mut keys) = self.keys.write() {
            keys.revoked.remove(id);
        }
    }

    /// Lets strangers through the handshake until `unix_ms` (0: no longer).
    pub fn open_until(&self, unix_ms: i64) {
        self.open_until_unix_ms.store(unix_ms, Ordering::Release);
    }

    /// Whether a stranger may knock now.
    pub fn strangers_may_knock(&self, now_unix_ms: i64) -> bool {
        now_unix_ms < self.open_until_unix_ms.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocation_outlives_admission() {
        let (trust, id) = (Trust::default(), NodeId::from_bytes([1; 32]));
        assert_eq!(trust.standing(&id), Standing::Stranger);
        trust.admit(id);
        assert_eq!(trust.standing(&id), Standing::Member);
        trust.revoke(id);
        assert_eq!(trust.standing(&id), Standing::Revoked);
        trust.admit(id);
        assert_eq!(trust.standing(&id), Standing::Revoked, "only a pardon lifts it");
        trust.pardon(&id);
        assert_eq!(trust.standing(&id), Standing::Member);
    }

    #[test]
    fn strangers_knock_only_while_a_ticket_is_out() {
        let trust = Trust::default();
        assert!(!trust.strangers_may_knock(0));
        trust.open_until(1000);
        assert!(trust.strangers_may_knock(999));
        assert!(!trust.strangers_may_knock(1000));
    }
}
