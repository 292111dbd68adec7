//! Who may talk to us: the one view of membership that every handshake asks.
//!
//! Keys are pinned: a node id is a member, revoked, or a stranger. A stranger gets through the
//! handshake only while an unexpired ticket is outstanding, and then only to the pairing dialogue;
//! a revoked key only while a ticket is out that was issued after its revocation. A view that can't be read refuses everybody; it never lets everybody in.

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, Ordering};

use blockferry_delta::NodeId;

/// What a key is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may share stores with us.
    Member,
    /// It was a member; only a ticket issued since makes it one again.
    Revoked,
    /// We don't know it.
    Stranger,
}

#[derive(Default)]
struct Keys {
    members: HashSet<NodeId>,
    /// With the moment of the revocation, in milliseconds since 1970.
    revoked: HashMap<NodeId, i64>,
}

/// The shared view of membership.
#[derive(Default)]
pub struct Trust {
    keys: RwLock<Keys>,
    /// Strangers may knock until this moment, in milliseconds since 1970.
    open_until_unix_ms: AtomicI64,
    /// When the newest ticket that is out was issued, in milliseconds since 1970.
    newest_ticket_unix_ms: AtomicI64,
}

impl Trust {
    /// What `id` is to us.
    pub fn standing(&self, id: &NodeId) -> Standing {
        let Ok(keys) = self.keys.read() else { return Standing::Revoked };
        if keys.revoked.contains_key(id) {
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

    /// Takes `id` out, as of `unix_ms`. Its connections are for the caller to close.
    pub fn revoke(&self, id: NodeId, unix_ms: i64) {
        if let Ok(mut keys) = self.keys.write() {
            keys.members.remove(&id);
            keys.revoked.insert(id, unix_ms);
        }
    }

    /// Makes a member a stranger. Its connections are for the caller to close.
    pub fn dismiss(&self, id: &NodeId) {
        if let Ok(mut keys) = self.keys.write() {
            keys.members.remove(id);
        }
    }

    /// When `id` was revoked, in milliseconds since 1970.
    pub fn revoked_at(&self, id: &NodeId) -> Option<i64> {
        self.keys.read().map_or(Some(i64::MAX), |keys| keys.revoked.get(id).copied())
    }

    /// Forgets that `id` was revoked: it has paired with a new ticket.
    pub fn pardon(&self, id: &NodeId) {
        if let Ok(mut keys) = self.keys.write() {
            keys.revoked.remove(id);
        }
    }

    /// Says until when a ticket is out (0: none is) and when the newest one was issued, both in
    /// milliseconds since 1970.
    pub fn set_tickets(&self, open_until_unix_ms: i64, newest_unix_ms: i64) {
        self.open_until_unix_ms.store(open_until_unix_ms, Ordering::Release);
        self.newest_ticket_unix_ms.store(newest_unix_ms, Ordering::Release);
    }

    /// Whether a key that is no member's may come to the pairing dialogue now.
    pub fn may_knock(&self, id: &NodeId, now_unix_ms: i64) -> bool {
        let open = now_unix_ms < self.open_until_unix_ms.load(Ordering::Acquire);
        let newest = self.newest_ticket_unix_ms.load(Ordering::Acquire);
        open && self.revoked_at(id).is_none_or(|at| newest > at)
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
        trust.revoke(id, 5);
        assert_eq!(trust.standing(&id), Standing::Revoked);
        trust.admit(id);
        assert_eq!(trust.standing(&id), Standing::Revoked, "only a pardon lifts it");
        trust.pardon(&id);
        assert_eq!(trust.standing(&id), Standing::Member);
    }

    #[test]
    fn strangers_knock_only_while_a_ticket_is_out() {
        let (trust, id) = (Trust::default(), NodeId::from_bytes([1; 32]));
        assert!(!trust.may_knock(&id, 0));
        trust.set_tickets(1000, 10);
        assert!(trust.may_knock(&id, 999));
        assert!(!trust.may_knock(&id, 1000));
    }

    #[test]
    fn a_revoked_key_knocks_only_with_a_newer_ticket_out() {
        let (trust, id) = (Trust::default(), NodeId::from_bytes([1; 32]));
        trust.revoke(id, 500);
        trust.set_tickets(1000, 500);
        assert!(!trust.may_knock(&id, 600), "the old ticket");
        trust.set_tickets(2000, 501);
        assert!(trust.may_knock(&id, 600));
    }
}
