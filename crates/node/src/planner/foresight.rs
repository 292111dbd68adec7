//! Foresight: the forecast of this node, from what it knows now, and what is said ahead of time.
//!
//! What waits is the backlog's, how fast and how much is `measured`'s, what limits is `limit`'s; when it
//! will be there `forecast` says, and whether that is too late `misses`. One task asks again whenever
//! something changed, and often enough besides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blockferry_delta::{NodeId, StoreName};

use crate::admin::reports::wait_reason;
use crate::backlog::{Key, Reason};
use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::events::{Note, now_unix_ms};
use crate::ledger::rfc3339;
use crate::planner::forecast::{
    Finish, Forecast, Queue, Waiting, bytes_ahead, forecast, rate_needed,
};
use crate::planner::measured::Delta;
use crate::planner::misses::{self, Due, News};
use crate::rate::overrides::Scope;
use crate::rate::pace;
use crate::rate::rates::{Hold, Rates};
use crate::rate::turns::Order;

/// Payload bytes of an ordinary packet.
const PACKET_BYTES: usize = 1392;

/// Something that a plan asks about: what would be sent of it, and not before when.
pub(crate) struct Wish {
    pub(crate) key: Key,
    pub(crate) wire_bytes: u64,
    pub(crate) at_unix_ms: Option<i64>,
}

/// Bytes on the wire that so many bytes of streams become.
pub(crate) fn wire_bytes(payload_bytes: u64) -> u64 {
    pace::wire_bytes(usize::try_from(payload_bytes).unwrap_or(usize::MAX / 2), PACKET_BYTES)
}

/// Content and base by which sizes are known.
pub(crate) fn delta(core: &Core, key: &Key) -> Option<Delta> {
    let backlog = lock(&core.backlog);
    let root = backlog.head(&key.store, &key.image)?.version.root;
    let (store, image, base) = (key.store.clone(), key.image.clone(), backlog.held(key));
    Some(Delta { store, image, root, base })
}

/// When everything that waits will be there.
pub(crate) fn now(core: &Core) -> Forecast {
    let Backed { queues, order, .. } = queues(core);
    forecast(core.limit.in_force().rates(), queues, order, now_unix_ms())
}

/// When something would be there, with everything else that waits on its way too, and the bytes on
/// the wire that its peer gets before that.
pub(crate) fn with(core: &Core, wish: Wish) -> (Finish, u64) {
    let Wish { key, wire_bytes, at_unix_ms } = wish;
    let Backed { mut queues, order, .. } = queues(core);
    let link = lock(&core.measured).link_bits_per_second(&key.peer);
    if !queues.iter().any(|queue| queue.peer == key.peer) {
        let (peer, waiting) = (key.peer, Vec::new());
        queues.push(Queue { peer, link_bits_per_second: link, waiting });
    }
    for queue in queues.iter_mut().filter(|queue| queue.peer == key.peer) {
        let there = queue.waiting.iter_mut().find(|waiting| waiting.key == key);
        match there {
            // It has its place, and what is on its way already needn't be sent again.
            Some(waiting) if at_unix_ms.is_none() => {
                waiting.wire_bytes = waiting.wire_bytes.min(wire_bytes);
            }
            _ => {
                queue.waiting.retain(|waiting| waiting.key != key);
                let (key, not_before_unix_ms) = (key.clone(), at_unix_ms);
                // Nothing is saved, as far as room on the way goes.
                let (under_way, changed_bytes) = (false, wire_bytes);
                queue.waiting.push(Waiting {
                    key,
                    wire_bytes,
                    changed_bytes,
                    under_way,
                    not_before_unix_ms,
                });
            }
        }
    }
    let rates = core.limit.in_force();
    let now = now_unix_ms();
    let of_peer = queues.iter().find(|queue| queue.peer == key.peer).cloned();
    let all = forecast(rates.rates(), queues, order, now);
    let from = at_unix_ms.unwrap_or(now);
    let ahead = of_peer.map_or(0, |queue| bytes_ahead(&queue, &all, &key, from));
    (all.finish(&key).unwrap_or(Finish::Unknown), ahead)
}

/// What the backlog says now.
struct Backed {
    /// What waits for each peer, in the order in which it goes.
    queues: Vec<Queue>,
    order: Order,
    /// What waits for something that has no end that can be foreseen, and for what.
    held_up: Vec<(Waiting, Reason)>,
}

fn queues(core: &Core) -> Backed {
    let (items, order) = {
        let backlog = lock(&core.backlog);
        let mut items = Vec::new();
        for item in backlog.items() {
            let progress = backlog.progress(&item.key);
            let total = progress.map_or(0, |(_, total)| total).max(item.bytes);
            let root = backlog.head(&item.key.store, &item.key.image).map(|h| h.version.root);
            let held = backlog.held(&item.key);
            items.push((item, total, progress.is_some(), root, held));
        }
        (items, backlog.order())
    };
    let measured = lock(&core.measured);
    let mut queues: BTreeMap<NodeId, Queue> = BTreeMap::new();
    let mut held_up = Vec::new();
    for (item, total, under_way, root, base) in items {
        let Some(root) = root else { continue };
        let (key, bytes) = (item.key, item.bytes);
        let (store, image) = (key.store.clone(), key.image.clone());
        let payload = measured.payload_bytes(&Delta { store, image, root, base }, total);
        let left = u128::from(payload) * u128::from(bytes) / u128::from(total.max(1));
        let wire_bytes = wire_bytes(u64::try_from(left).unwrap_or(u64::MAX));
        let peer = key.peer;
        let waiting =
            Waiting { key, wire_bytes, changed_bytes: bytes, under_way, not_before_unix_ms: None };
        // What waits for anything else has no end that can be foreseen.
        if !matches!(item.reason, Reason::Transferring | Reason::Schedule | Reason::Paused) {
            held_up.push((waiting, item.reason));
            continue;
        }
        let link = measured.link_bits_per_second(&peer);
        let empty = Queue { peer, link_bits_per_second: link, waiting: Vec::new() };
        queues.entry(peer).or_insert(empty).waiting.push(waiting);
    }
    Backed { queues: queues.into_values().collect(), order, held_up }
}

/// Looks ahead until the node stops, and says what will not be there in time.
pub(crate) async fn run(core: Arc<Core>) {
    let mut changed = core.changed.subscribe();
    loop {
        let looking = core.clone();
        // Nothing to report to: it looks again by itself.
        let _looked = blocking("looking ahead", move || {
            look(&looking);
            Ok(())
        })
        .await;
        tokio::select! {
            () = core.stopped() => return,
            () = tokio::time::sleep(budget::FORECAST_EVERY) => {}
        }
        tokio::select! {
            () = core.stopped() => return,
            () = tokio::time::sleep(budget::FORECAST_LONGEST) => {}
            _ = changed.changed() => {}
        }
    }
}

/// An item that waits, as it is told.
struct Told {
    store: StoreName,
    wire_bytes: u64,
    due: Due,
    /// What holds it up.
    reason: Option<Reason>,
}

/// One look ahead.
fn look(core: &Core) {
    let in_force = core.limit.in_force();
    let (rates, now) = (in_force.rates(), now_unix_ms());
    let items = told(core, rates, now);
    let said = lock(&core.misses).peers();
    let peers: BTreeSet<NodeId> = items.keys().copied().chain(said).collect();
    for peer in peers {
        let of_peer = items.get(&peer).map_or(&[][..], Vec::as_slice);
        let plain: Vec<Due> = of_peer.iter().map(|item| item.due).collect();
        let news = lock(&core.misses).handle_forecast(peer, &plain, now);
        let name = core.name_of(&peer);
        match news {
            Some(News::Missed(end)) => {
                let text = missed(rates, (peer, &name), of_peer, (now, end));
                core.events.note(Note::warning("WINDOW_MISSED", text).peer(&name));
            }
            Some(News::Fits(end)) => {
                let text = format!("what waits for {name} will be there by {} again", rfc3339(end));
                core.events.note(Note::info("WINDOW_FITS", text).peer(&name));
            }
            None => {}
        }
    }
}

/// Everything that waits, when it will be there, and what holds it up. What is held up has the
/// finish that it would have if it could go now and its peer had the whole way.
fn finishes(core: &Core, rates: &Rates, now: i64) -> Vec<(Waiting, Finish, Option<Reason>)> {
    let Backed { queues, order, held_up } = queues(core);
    let mut alone: BTreeMap<NodeId, Queue> = BTreeMap::new();
    for (waiting, _) in held_up.iter().filter(|(_, reason)| !is_operators(*reason)) {
        let peer = waiting.key.peer;
        let begun = || {
            let known = queues.iter().find(|queue| queue.peer == peer).cloned();
            let link_bits_per_second = lock(&core.measured).link_bits_per_second(&peer);
            known.unwrap_or(Queue { peer, link_bits_per_second, waiting: Vec::new() })
        };
        alone.entry(peer).or_insert_with(begun).waiting.push(waiting.clone());
    }
    let waiting: Vec<Waiting> = queues.iter().flat_map(|queue| queue.waiting.clone()).collect();
    let ahead = forecast(rates, queues, order.clone(), now);
    let finish = |ahead: &Forecast, key: &Key| ahead.finish(key).unwrap_or(Finish::Unknown);
    let mut all: Vec<_> = waiting
        .into_iter()
        .map(|waiting| {
            let finish = finish(&ahead, &waiting.key);
            (waiting, finish, None)
        })
        .collect();
    let alone: BTreeMap<NodeId, Forecast> = alone
        .into_iter()
        .map(|(peer, queue)| (peer, forecast(rates, vec![queue], order.clone(), now)))
        .collect();
    for (waiting, reason) in held_up {
        let ahead = alone.get(&waiting.key.peer);
        let finish = ahead.map_or(Finish::Unknown, |ahead| finish(ahead, &waiting.key));
        all.push((waiting, finish, Some(reason)));
    }
    all
}

/// Only an operator can end it.
fn is_operators(reason: Reason) -> bool {
    matches!(reason, Reason::Diverged | Reason::Observing)
}

/// What has a window and waits, for each peer.
fn told(core: &Core, rates: &Rates, now: i64) -> BTreeMap<NodeId, Vec<Told>> {
    let in_force = core.limit.in_force();
    let mut ends: BTreeMap<(NodeId, StoreName), Option<i64>> = BTreeMap::new();
    let mut items: BTreeMap<NodeId, Vec<Told>> = BTreeMap::new();
    for (waiting, finish, reason) in finishes(core, rates, now) {
        let (peer, store) = (waiting.key.peer, waiting.key.store.clone());
        let scope = Scope::from(&waiting.key);
        let of_store = || misses::end(rates, &Scope { image: None, ..scope.clone() }, now);
        let end = *ends.entry((peer, store.clone())).or_insert_with(of_store);
        let Some(end_unix_ms) = end else { continue };
        // What an operator has to do, the operator knows.
        let operators =
            reason.is_some_and(is_operators) || in_force.hold(&scope) == Some(Hold::Paused);
        let held_up = reason.is_some() && !operators;
        let finish = if reason.is_some() && operators { Finish::Unknown } else { finish };
        let due = Due { end_unix_ms, finish, held_up };
        let wire_bytes = waiting.wire_bytes;
        items.entry(peer).or_default().push(Told { store, wire_bytes, due, reason });
    }
    items
}

fn missed(
    rates: &Rates,
    (peer, name): (NodeId, &str),
    items: &[Told],
    (now, end): (i64, i64),
) -> String {
    let of_window = || items.iter().filter(|item| item.due.end_unix_ms == end);
    let late = || of_window().filter(|item| item.due.is_late(now));
    let count = late().count();
    let bytes = of_window().fold(0_u64, |sum, item| sum.saturating_add(item.wire_bytes));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in late().filter(|item| item.due.held_up).filter_map(|item| item.reason) {
        *reasons.entry(wait_reason(reason).as_str()).or_default() += 1;
    }
    let why;
    let mut needed = String::new();
    if reasons.is_empty() {
        let last = of_window().filter_map(|item| item.due.finish.unix_ms()).max();
        let never = of_window().any(|item| item.due.finish == Finish::Never);
        why = match last.filter(|_| !never) {
            Some(at) => format!("the last at {}", rfc3339(at)),
            None => "the calendar never lets it through".to_owned(),
        };
        let store = of_window().next().map(|item| item.store.clone());
        let scope = Scope { store, ..Scope::peer(peer) };
        if let Some(bits) = rate_needed(rates, &scope, bytes, now, end) {
            needed = format!("; {bits} bit/s would be needed");
        }
    } else {
        // A higher rate wouldn't help.
        let each = reasons.iter().map(|(reason, count)| format!("{count} {reason}"));
        why = format!("no finish is known ({})", each.collect::<Vec<_>>().join(", "));
    }
    let (images, end) = (if count == 1 { "image" } else { "images" }, rfc3339(end));
    format!(
        "{count} {images} for {name} will not be there by {end}, {why}: {bytes} bytes are to be \
         sent{needed}"
    )
}
