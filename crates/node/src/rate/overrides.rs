//! Overrides: what operators order by command, on top of the configuration.
//!
//! `pause`, `boost` and `resume` say whether something travels; the newest one that covers it counts.
//! `limit set` says how fast at most; each scope has one. Both end by themselves when they were given
//! for a time, and then what was beneath is in force again. Pure: values and instants.

use blockferry_delta::{ImageName, NodeId, StoreName};

use crate::backlog::Key;

/// What is meant: everything, or what belongs to a peer, a store, an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Only what goes to this peer.
    pub peer: Option<NodeId>,
    /// Only this store.
    pub store: Option<StoreName>,
    /// Only this image of the store.
    pub image: Option<ImageName>,
}

impl Scope {
    /// What goes to a peer.
    pub fn peer(peer: NodeId) -> Self {
        Self { peer: Some(peer), ..Self::default() }
    }

    /// Whether all of `other` belongs to it.
    pub fn covers(&self, other: &Self) -> bool {
        fn within<T: PartialEq>(outer: &Option<T>, inner: &Option<T>) -> bool {
            outer.is_none() || outer == inner
        }
        within(&self.peer, &other.peer)
            && within(&self.store, &other.store)
            && within(&self.image, &other.image)
    }

    /// Whether anything belongs to both.
    pub fn overlaps(&self, other: &Self) -> bool {
        fn meet<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        meet(&self.peer, &other.peer)
            && meet(&self.store, &other.store)
            && meet(&self.image, &other.image)
    }
}

impl From<&Key> for Scope {
    fn from(key: &Key) -> Self {
        Self {
            peer: Some(key.peer),
            store: Some(key.store.clone()),
            image: Some(key.image.clone()),
        }
    }
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing is offered or sent; what came is kept.
    Pause,
    /// As if nothing had been ordered.
    Resume,
    /// Calendars don't count; limits do.
    Boost,
    /// At most so many bits per second, besides the other limits.
    Limit(u64),
}

impl Order {
    fn is_limit(self) -> bool {
        matches!(self, Self::Limit(_))
    }
}

/// An order with what it is about and until when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Ascending; never used twice while one of them is kept.
    pub number: u64,
    /// What.
    pub order: Order,
    /// About what.
    pub scope: Scope,
    /// When it was given, in milliseconds since 1970.
    pub since_unix_ms: i64,
    /// When it ends by itself; `None`: when another order ends it.
    pub until_unix_ms: Option<i64>,
}

impl Override {
    fn holds(&self, now_unix_ms: i64) -> bool {
        self.until_unix_ms.is_none_or(|until| now_unix_ms < until)
    }

    /// Whether it ends no later than something that lasts until `until`.
    fn ends_by(&self, until: Option<i64>) -> bool {
        match (self.until_unix_ms, until) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(ours), Some(theirs)) => ours <= theirs,
        }
    }
}

/// All orders, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    list: Vec<Override>,
}

impl Overrides {
    /// What was kept.
    pub fn new(mut list: Vec<Override>) -> Self {
        list.sort_by_key(|o| o.number);
        Self { list }
    }

    /// All of them, oldest first.
    pub fn list(&self) -> &[Override] {
        &self.list
    }

    /// Gives an order. What it makes pointless is dropped; what outlasts it stays beneath.
    pub fn give(&mut self, order: Order, scope: Scope, now_unix_ms: i64, until: Option<i64>) {
        let limit = order.is_limit();
        self.list.retain(|o| {
            let about = if limit { o.scope == scope } else { scope.covers(&o.scope) };
            o.order.is_limit() != limit || !about || !o.ends_by(until)
        });
        // What another order says of a part of it only is overridden there.
        let overrides = |o: &Override| {
            matches!(o.order, Order::Pause | Order::Boost)
                && o.holds(now_unix_ms)
                && o.scope.overlaps(&scope)
        };
        if order == Order::Resume && !self.list.iter().any(overrides) {
            return;
        }
        let number = self.list.last().map_or(0, |o| o.number) + 1;
        let (since_unix_ms, until_unix_ms) = (now_unix_ms, until);
        self.list.push(Override { number, order, scope, since_unix_ms, until_unix_ms });
    }

    /// Drops the limits of exactly this scope; says whether there was one.
    pub fn clear_limit(&mut self, scope: &Scope) -> bool {
        let before = self.list.len();
        self.list.retain(|o| !(o.order.is_limit() && o.scope == *scope));
        self.list.len() < before
    }

    /// Takes out those whose time is over.
    pub fn expire(&mut self, now_unix_ms: i64) -> Vec<Override> {
        let (kept, over) = self.list.drain(..).partition(|o| o.holds(now_unix_ms));
        self.list = kept;
        over
    }

    /// The order by which something travels or not: the newest that covers it.
    pub fn standing(&self, scope: &Scope, now_unix_ms: i64) -> Option<&Override> {
        let about = |o: &&Override| !o.order.is_limit() && o.scope.covers(scope);
        self.list.iter().rev().filter(about).find(|o| o.holds(now_unix_ms))
    }

    /// The limit ordered for exactly this scope, in bits per second.
    pub fn limit(&self, scope: &Scope, now_unix_ms: i64) -> Option<u64> {
        let of_scope = self.list.iter().rev().filter(|o| o.scope == *scope);
        of_scope.filter(|o| o.holds(now_unix_ms)).find_map(|o| match o.order {
            Order::Limit(bits) => Some(bits),
            _ => None,
        })
    }

    /// The first instant after `now_unix_ms` at which one of them ends that covers `scope`.
    pub fn next_end_of(&self, scope: &Scope, now_unix_ms: i64) -> Option<i64> {
        let ends =
            self.list.iter().filter(|o| o.scope.covers(scope)).filter_map(|o| o.until_unix_ms);
        ends.filter(|at| *at > now_unix_ms).min()
    }

    /// The first instant after `now_unix_ms` at which one of them ends.
    pub fn next_end(&self, now_unix_ms: i64) -> Option<i64> {
        self.list.iter().filter_map(|o| o.until_unix_ms).filter(|at| *at > now_unix_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> Scope {
        Scope::peer(NodeId::from_bytes([n; 32]))
    }

    fn store(name: &str) -> Scope {
        Scope { store: Some(StoreName::new(name).expect("a name")), ..Scope::default() }
    }

    fn order(overrides: &Overrides, scope: &Scope, now: i64) -> Option<Order> {
        overrides.standing(scope, now).map(|o| o.order)
    }

    #[test]
    fn the_newest_that_covers_it_counts() {
        let (mut all, everything) = (Overrides::default(), Scope::default());
        all.give(Order::Pause, everything.clone(), 0, None);
        all.give(Order::Boost, peer(1), 1, Some(100));
        assert_eq!(order(&all, &peer(1), 50), Some(Order::Boost));
        assert_eq!(order(&all, &peer(1), 100), Some(Order::Pause), "it ended by itself");
        assert_eq!(order(&all, &peer(2), 50), Some(Order::Pause));
        let mut both = peer(1);
        both.store = store("s").store;
        all.give(Order::Pause, store("s"), 2, None);
        assert_eq!(order(&all, &both, 50), Some(Order::Pause));
        all.give(Order::Resume, everything.clone(), 3, None);
        assert_eq!(all.list(), [], "nothing is left to override");
    }

    #[test]
    fn resume_of_a_part_leaves_the_rest_paused_and_a_timed_one_ends() {
        let mut all = Overrides::default();
        all.give(Order::Pause, Scope::default(), 0, None);
        all.give(Order::Resume, peer(1), 0, Some(10));
        assert_eq!(order(&all, &peer(1), 9), Some(Order::Resume));
        assert_eq!(order(&all, &peer(1), 10), Some(Order::Pause));
        assert_eq!(order(&all, &peer(2), 9), Some(Order::Pause));
        all.give(Order::Resume, peer(2), 0, None);
        assert_eq!(order(&all, &peer(2), 9), Some(Order::Resume));
        let over = all.expire(10);
        assert_eq!((over.len(), over[0].scope == peer(1)), (1, true));
        all.give(Order::Pause, Scope::default(), 11, None);
        assert_eq!(all.list().len(), 1, "a new pause of everything replaces all before");
    }

    #[test]
    fn resume_counts_wherever_something_else_was_ordered_for_a_part_of_it() {
        let (mut all, mut both) = (Overrides::default(), peer(1));
        both.store = store("s").store;
        all.give(Order::Pause, store("s"), 0, None);
        all.give(Order::Resume, peer(1), 1, None);
        assert_eq!(order(&all, &both, 2), Some(Order::Resume));
        assert_eq!(order(&all, &store("s"), 2), Some(Order::Pause), "for the others it stays");
        let before = all.clone();
        all.give(Order::Resume, store("t"), 3, None);
        assert_eq!(all, before, "nothing was ordered for any of it");
    }

    #[test]
    fn what_outlasts_a_timed_order_stays_beneath_it() {
        let mut all = Overrides::default();
        all.give(Order::Pause, peer(1), 0, None);
        all.give(Order::Boost, peer(1), 0, Some(10));
        assert_eq!(order(&all, &peer(1), 5), Some(Order::Boost));
        assert_eq!(order(&all, &peer(1), 15), Some(Order::Pause));
        all.give(Order::Pause, peer(1), 16, Some(20));
        all.give(Order::Pause, peer(1), 16, Some(30));
        assert_eq!(all.list().len(), 2, "the shorter of two timed pauses is pointless");
        assert_eq!(all.next_end(16), Some(30));
    }

    #[test]
    fn limits_are_of_their_scope_alone() {
        let mut all = Overrides::default();
        all.give(Order::Limit(1000), Scope::default(), 0, None);
        all.give(Order::Limit(10), peer(1), 0, Some(5));
        all.give(Order::Limit(500), Scope::default(), 0, Some(7));
        assert_eq!(all.limit(&Scope::default(), 6), Some(500));
        assert_eq!(all.limit(&Scope::default(), 7), Some(1000));
        assert_eq!((all.limit(&peer(1), 4), all.limit(&peer(1), 5)), (Some(10), None));
        all.give(Order::Pause, Scope::default(), 1, None);
        assert_eq!(all.limit(&Scope::default(), 6), Some(500), "a pause leaves limits alone");
        assert!(all.clear_limit(&Scope::default()) && !all.clear_limit(&Scope::default()));
        assert_eq!(order(&all, &peer(1), 4), Some(Order::Pause));
    }
}
