//! The backlog, told as stories.

use std::collections::VecDeque;

use super::*;
use crate::rate::rates::{Allowance, Rates};
use blockferry_delta::Lineage;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn store() -> StoreName {
    StoreName::new("vdisks").expect("a name")
}

fn image(name: &str) -> ImageName {
    ImageName::new(name).expect("a name")
}

fn version(number: u64, lineage: &[(u8, u64)]) -> Version {
    let entries = lineage.iter().map(|(n, c)| (node(*n), *c));
    let lineage = Lineage::from_entries(entries).expect("valid");
    let root = Root::from_bytes(*blake3::hash(format!("{lineage:?}").as_bytes()).as_bytes());
    Version { number, root, lineage }
}

fn head(number: u64) -> Head {
    let changed_bytes = (1..=number).rev().map(|n| (version(n, &[(1, n)]).root, n * 10)).collect();
    Head {
        version: version(number, &[(1, number)]),
        size_bytes: 1000,
        recorded_unix_ms: 0,
        changed_bytes,
    }
}

fn key(peer: u8, name: &str) -> Key {
    Key { peer: node(peer), store: store(), image: image(name) }
}

/// We are node 1; peers 2.. share the store and are up.
fn with_peers(count: u8) -> Backlog {
    let mut backlog = Backlog::default();
    for n in 2..2 + count {
        backlog.handle_peer(node(n), BTreeSet::from([store()]));
        backlog.handle_peer_up(node(n));
    }
    backlog
}

fn offers(backlog: &mut Backlog, now: Instant) -> Vec<Key> {
    std::iter::from_fn(|| backlog.poll_offer(now).map(|(key, _)| key)).collect()
}

#[test]
fn a_receipt_for_exactly_the_head_retires_it() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    let (one, two) = (head(1), head(2));
    backlog.handle_head(store(), image("a"), one.clone());
    assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
    assert_eq!(offers(&mut backlog, now), [], "it is on its way");
    backlog.handle_head(store(), image("a"), two.clone());
    backlog.handle_receipt(key(2, "a"), 1, one.version.root);
    assert!(!backlog.in_sync(&key(2, "a")));
    assert_eq!(offers(&mut backlog, now), [key(2, "a")], "the newer one follows");
    backlog.handle_receipt(key(2, "a"), 2, one.version.root);
    assert!(!backlog.in_sync(&key(2, "a")), "the number alone is no receipt");
    offers(&mut backlog, now);
    backlog.handle_receipt(key(2, "a"), 2, two.version.root);
    assert!(backlog.in_sync(&key(2, "a")));
    assert_eq!((backlog.items().len(), backlog.sending), (0, 0));
}

fn of_size(size_bytes: u64) -> Head {
    Head { size_bytes, ..head(1) }
}

fn count(keys: &[Key], peer: u8) -> usize {
    keys.iter().filter(|key| key.peer == node(peer)).count()
}

#[test]
fn places_are_bounded_and_shared_out() {
    let (mut backlog, now) = (with_peers(60), Instant::now());
    for name in ["a", "b", "c"] {
        backlog.handle_head(store(), image(name), head(1));
    }
    let first = offers(&mut backlog, now);
    assert_eq!(first.len(), budget::SENDS_MAX);
    assert!((2..62).all(|peer| count(&first, peer) <= 1), "one each, for there are many");
    let mut done = 0;
    let mut under_way = VecDeque::from(first);
    while let Some(key) = under_way.pop_front() {
        backlog.handle_receipt(key, 1, head(1).version.root);
        done += 1;
        under_way.extend(offers(&mut backlog, now));
        assert!(under_way.len() <= budget::SENDS_MAX);
    }
    assert_eq!((done, backlog.items().len(), backlog.sending), (180, 0, 0));
}

#[test]
fn what_is_on_its_way_is_measured_in_bytes() {
    const MIB: u64 = 1 << 20;
    let (mut backlog, now) = (with_peers(16), Instant::now());
    for name in ["a", "b", "c"] {
        backlog.handle_head(store(), image(name), of_size(100 * MIB));
    }
    let first = offers(&mut backlog, now);
    assert_eq!(first.len(), 16, "one large one each, all at once");
    // The next one begins when all bytes of the first are there, before its receipt.
    backlog.handle_progress(&first[0], 99 * MIB, 100 * MIB);
    let next = offers(&mut backlog, now);
    assert_eq!((next.len(), next[0].peer), (1, first[0].peer), "less than 4 MiB are left");
    backlog.handle_progress(&next[0], 100 * MIB, 100 * MIB);
    assert_eq!(offers(&mut backlog, now).len(), 1);
    // A link that carries 50 MB a second has more on its way.
    let mut backlog = with_peers(1);
    for n in 0..60 {
        backlog.handle_head(store(), image(&format!("i{n:02}")), of_size(9 * MIB));
    }
    assert_eq!(offers(&mut backlog, now).len(), 1);
    backlog.handle_link(node(2), 400_000_000);
    assert_eq!(offers(&mut backlog, now).len(), 7, "64 MiB at most");
    // Small ones go together, as far as the peer has streams.
    let mut backlog = with_peers(1);
    for n in 0..60 {
        backlog.handle_head(store(), image(&format!("i{n:02}")), of_size(MIB / 8));
    }
    assert_eq!(offers(&mut backlog, now).len(), budget::SENDS_PER_PEER);
}

#[test]
fn those_who_never_end_leave_places_for_others() {
    let (mut backlog, now) = (with_peers(10), Instant::now());
    for n in 0..20 {
        backlog.handle_head(store(), image(&format!("i{n:02}")), head(1));
    }
    let stuck = offers(&mut backlog, now);
    assert!(stuck.len() <= budget::SENDS_MAX / 2, "{}", stuck.len());
    for peer in 100..110 {
        backlog.handle_peer(node(peer), BTreeSet::from([store()]));
        backlog.handle_peer_up(node(peer));
    }
    let new = offers(&mut backlog, now);
    assert!((100..110).all(|peer| count(&new, peer) == 1), "{new:?}");
}

#[test]
fn lanes_and_weights_choose_what_begins() {
    let (mut backlog, now) = (with_peers(2), Instant::now());
    let mut rates = Rates::default();
    let bulk = Allowance { lane: Lane::Bulk, ..Allowance::default() };
    rates.stores.insert(store(), bulk);
    backlog.handle_rates(Arc::new(Arc::new(rates.clone()).at(0)));
    for name in ["a", "b", "c"] {
        backlog.handle_head(store(), image(name), of_size(100 << 20));
    }
    assert_eq!(offers(&mut backlog, now), [key(2, "a"), key(3, "a")]);
    // What is pushed in a higher lane doesn't wait for what runs.
    rates.pushed.insert(key(3, "c"), Lane::Urgent);
    rates.pushed.insert(key(3, "b"), Lane::Normal);
    backlog.handle_rates(Arc::new(Arc::new(rates).at(0)));
    assert_eq!(offers(&mut backlog, now), [key(3, "c")]);
    backlog.handle_receipt(key(3, "c"), 1, head(1).version.root);
    assert_eq!(offers(&mut backlog, now), [key(3, "b")]);
}

#[test]
fn an_idle_node_with_many_stores_and_peers_does_no_work_for_each_pair() {
    let mut backlog = Backlog::default();
    let stores: Vec<StoreName> =
        (0..500).map(|n| StoreName::new(&format!("s{n:03}")).expect("a name")).collect();
    let shared: BTreeSet<StoreName> = stores.iter().cloned().collect();
    for peer in 0..50 {
        backlog.handle_peer(node(peer), shared.clone());
    }
    for store in &stores {
        for peer in 0..50 {
            let key = Key { peer: node(peer), store: store.clone(), image: image("a") };
            backlog.handle_receipt(key, 1, head(1).version.root);
        }
        backlog.handle_head(store.clone(), image("a"), head(1));
    }
    for peer in 0..50 {
        backlog.handle_peer_up(node(peer));
    }
    // Nothing is kept to be looked at, and nothing will come by time alone.
    assert_eq!((backlog.entries.len(), backlog.sending), (0, 0));
    assert_eq!((backlog.poll_offer(Instant::now()), backlog.next_wake()), (None, None));
    backlog.handle_head(stores[7].clone(), image("a"), head(2));
    assert_eq!(backlog.entries.len(), 50);
    backlog.handle_peer(node(3), BTreeSet::from([stores[8].clone()]));
    assert_eq!(backlog.entries.len(), 49);
    backlog.handle_peer(node(3), shared);
    assert_eq!(backlog.entries.len(), 50);
}

#[test]
fn refusals_wait_longer_each_time() {
    let (mut backlog, mut now) = (with_peers(1), Instant::now());
    backlog.handle_head(store(), image("a"), head(1));
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
        backlog.handle_setback(&key(2, "a"), Setback::Retry(Reason::InUse), now);
        assert_eq!(offers(&mut backlog, now), []);
        assert_eq!(backlog.items()[0].reason, Reason::InUse);
        let wake = backlog.next_wake().expect("it is tried again");
        waits.push((wake - now).as_secs());
        now = wake;
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    assert!(backlog.handle_push(&key(2, "a")), "an operator need not wait");
    assert_eq!(offers(&mut backlog, now - Duration::from_secs(1)), [key(2, "a")]);
}

#[test]
fn diverged_is_offered_once_then_waits_until_a_head_changes() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    backlog.handle_peer_head(node(2), store(), image("a"), version(1, &[(2, 1)]));
    backlog.handle_head(store(), image("a"), head(1));
    assert_eq!(backlog.items()[0].reason, Reason::Diverged);
    assert_eq!(offers(&mut backlog, now), [key(2, "a")], "so that it is kept there");
    assert_eq!(backlog.items()[0].reason, Reason::Diverged);
    backlog.handle_setback(&key(2, "a"), Setback::Diverged, now);
    backlog.handle_peer(node(2), BTreeSet::from([store()]));
    assert_eq!(offers(&mut backlog, now), []);
    assert_eq!(backlog.items()[0].reason, Reason::Diverged);
    assert_eq!(backlog.next_wake(), None);
    let resolved = Head { version: version(2, &[(1, 2), (2, 1)]), ..head(2) };
    backlog.handle_head(store(), image("a"), resolved);
    assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
}

#[test]
fn a_peer_that_says_it_holds_less_than_its_receipt_gets_it_again() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    backlog.handle_head(store(), image("a"), head(2));
    backlog.handle_receipt(key(2, "a"), 2, head(2).version.root);
    assert_eq!(offers(&mut backlog, now), []);
    backlog.handle_peer_head(node(2), store(), image("a"), head(2).version);
    assert!(backlog.in_sync(&key(2, "a")));
    backlog.handle_peer_head(node(2), store(), image("a"), version(3, &[]));
    assert!(!backlog.in_sync(&key(2, "a")), "a mirror that was edited");
    assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
    backlog.handle_receipt(key(2, "a"), 2, head(2).version.root);
    backlog.handle_peer_head(node(2), store(), image("a"), head(1).version);
    assert_eq!(offers(&mut backlog, now), [key(2, "a")], "it was restored from a backup");
    backlog.handle_receipt(key(2, "a"), 2, head(2).version.root);
    backlog.handle_peer_head(node(2), store(), image("a"), version(2, &[(1, 1), (2, 1)]));
    assert_eq!(offers(&mut backlog, now), [key(2, "a")], "and went its own way since");
    backlog.handle_receipt(key(2, "a"), 2, head(2).version.root);
    backlog.handle_inventory(node(2), &store());
    assert!(backlog.in_sync(&key(2, "a")));
    backlog.handle_peer_down(node(2));
    backlog.handle_inventory(node(2), &store());
    assert!(!backlog.in_sync(&key(2, "a")), "it didn't name it");
}

#[test]
fn an_older_head_is_not_offered_nor_shown() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    backlog.handle_head(store(), image("a"), head(1));
    backlog.handle_peer_head(node(2), store(), image("a"), version(2, &[(1, 1), (2, 1)]));
    assert_eq!(offers(&mut backlog, now), []);
    assert_eq!(backlog.items(), []);
}

#[test]
fn a_lost_peer_is_served_again_when_it_is_back() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    backlog.handle_head(store(), image("a"), head(1));
    assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
    backlog.handle_peer_down(node(2));
    backlog.handle_setback(&key(2, "a"), Setback::Lost, now);
    assert_eq!(backlog.items()[0].reason, Reason::PeerDown);
    assert_eq!(offers(&mut backlog, now), []);
    backlog.handle_peer_up(node(2));
    assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
    backlog.handle_peer_gone(node(2));
    assert_eq!((backlog.sending, backlog.items().len()), (0, 0));
}

#[test]
fn a_head_that_moves_on_during_a_failure_is_tried_at_once() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    backlog.handle_head(store(), image("a"), head(1));
    offers(&mut backlog, now);
    backlog.handle_head(store(), image("a"), head(2));
    backlog.handle_setback(&key(2, "a"), Setback::Retry(Reason::InUse), now);
    assert_eq!(offers(&mut backlog, now), [key(2, "a")]);
}

#[test]
fn bytes_follow_what_is_known() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    backlog.handle_head(store(), image("a"), head(3));
    let item = |b: &Backlog| b.items().remove(0);
    assert_eq!(item(&backlog).bytes, 1000);
    backlog.handle_peer_head(node(2), store(), image("a"), version(1, &[(1, 1)]));
    assert_eq!(item(&backlog).bytes, 50, "generations 2 and 3");
    offers(&mut backlog, now);
    backlog.handle_progress(&key(2, "a"), 20, 60);
    assert_eq!(item(&backlog).bytes, 40);
}

#[test]
fn stores_that_are_not_shared_stay_unknown() {
    let (mut backlog, now) = (with_peers(1), Instant::now());
    let other = StoreName::new("other").expect("a name");
    backlog.handle_head(other.clone(), image("a"), head(1));
    backlog.handle_peer_head(node(2), other, image("a"), version(1, &[(2, 1)]));
    assert_eq!((offers(&mut backlog, now).len(), backlog.items().len()), (0, 0));
    backlog.handle_head(store(), image("a"), head(1));
    offers(&mut backlog, now);
    backlog.handle_store_gone(&store());
    assert_eq!((backlog.sending, backlog.items().len()), (0, 0));
}

#[test]
fn those_who_lack_the_same_are_counted() {
    let (mut backlog, now) = (with_peers(4), Instant::now());
    let (one, two) = (head(1), head(2));
    for peer in [2, 3] {
        let held = version(1, &[(1, 1)]);
        backlog.handle_peer_head(node(peer), store(), image("a"), held);
    }
    backlog.handle_head(store(), image("a"), two.clone());
    let (root, base) = (two.version.root, Some(one.version.root));
    let count = |backlog: &Backlog, root, base| backlog.sharing(&store(), &image("a"), root, base);
    assert_eq!(count(&backlog, root, base), 2);
    assert_eq!(count(&backlog, root, None), 2, "4 and 5 hold nothing");
    assert_eq!(count(&backlog, one.version.root, base), 0, "not the head");
    offers(&mut backlog, now);
    assert_eq!(count(&backlog, root, base), 2, "who is being sent to lacks it still");
    backlog.handle_receipt(key(2, "a"), 2, root);
    assert_eq!(count(&backlog, root, base), 1);
    backlog.handle_peer_down(node(3));
    assert_eq!(count(&backlog, root, base), 0, "who is gone takes nothing");
    assert!(backlog.is_wanted(&store(), &image("a")));
    for peer in [4, 5] {
        backlog.handle_receipt(key(peer, "a"), 2, root);
    }
    assert!(!backlog.is_wanted(&store(), &image("a")));
}

/// What is in force when peer 2 is paused and the calendar of peer 3 says no.
fn holding() -> Arc<InForce> {
    use crate::rate::overrides::Order;
    use crate::rate::rates::{Allowance, Rates};
    let mut rates = Rates::default();
    rates.overrides.give(Order::Pause, Scope::peer(node(2)), 0, None);
    let calendar = crate::rate::calendar::Calendar::constant(crate::rate::calendar::Rate::Pause);
    rates.calendars.insert("never".into(), Arc::new(calendar));
    let schedule = Some("never".to_owned());
    rates.peers.insert(node(3), Allowance { schedule, ..Allowance::default() });
    Arc::new(Arc::new(rates).at(0))
}

#[test]
fn what_is_held_is_not_offered_says_why_and_holds_back_nobody() {
    let (mut backlog, now) = (with_peers(3), Instant::now());
    backlog.handle_rates(holding());
    backlog.handle_head(store(), image("a"), head(1));
    assert_eq!(offers(&mut backlog, now), [key(4, "a")]);
    assert_eq!(backlog.reason(&key(2, "a")), Some(Reason::Paused));
    assert_eq!(backlog.reason(&key(3, "a")), Some(Reason::Schedule));
    assert_eq!(backlog.next_wake(), None, "nothing to wait for but a change");
    // A transfer under way is held too; its end is no reason to try again before it may.
    backlog.handle_setback(&key(4, "a"), Setback::Lost, now);
    backlog.handle_peer_up(node(2));
    assert_eq!(offers(&mut backlog, now + LOST_WAIT), [key(4, "a")]);
    let nothing = Arc::new(crate::rate::rates::Rates::default());
    backlog.handle_rates(Arc::new(nothing.at(0)));
    assert_eq!(offers(&mut backlog, now), [key(2, "a"), key(3, "a")]);
}

#[test]
fn what_is_held_is_wanted_but_does_not_travel() {
    let (mut backlog, now) = (with_peers(3), Instant::now());
    backlog.handle_rates(holding());
    let two = head(2);
    backlog.handle_head(store(), image("a"), two.clone());
    let travels = |backlog: &Backlog| backlog.is_travelling(&store(), &image("a"));
    assert!(travels(&backlog), "4 is offered it next");
    offers(&mut backlog, now);
    assert!(travels(&backlog));
    backlog.handle_receipt(key(4, "a"), 2, two.version.root);
    assert!(!travels(&backlog) && backlog.is_wanted(&store(), &image("a")), "2 and 3 wait");
}

#[test]
fn who_has_gone_back_to_what_was_found_is_offered_again() {
    let mut backlog = Backlog::default();
    let found = |root: u8| Version {
        number: 1,
        root: Root::from_bytes([root; 32]),
        lineage: Lineage::default(),
    };
    let key = Key { peer: node(2), store: store(), image: image("a") };
    backlog.handle_peer(node(2), BTreeSet::from([store()]));
    backlog.handle_head(store(), image("a"), Head { version: found(1), ..head(1) });
    backlog.handle_peer_up(node(2));
    backlog.handle_receipt(key.clone(), 1, found(1).root);
    assert!(backlog.in_sync(&key));
    backlog.handle_peer_head(node(2), store(), image("a"), found(1));
    assert!(backlog.in_sync(&key));
    backlog.handle_peer_head(node(2), store(), image("a"), found(9));
    assert!(!backlog.in_sync(&key), "neither was made by anybody, and they differ");
    assert_eq!(backlog.peer_heads(node(2), &store()).expect("up")[&image("a")], found(9));
    assert_eq!(backlog.retain_heads(&store(), &BTreeSet::new()), [image("a")]);
    assert_eq!(backlog.items(), []);
    assert!(backlog.retain_heads(&store(), &BTreeSet::new()).is_empty());
}
