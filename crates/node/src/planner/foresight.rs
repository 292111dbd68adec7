//! Foresight: the forecast of this node, from what it knows now, and what is said ahead of time.
//!
//! What waits is the backlog's, how fast and how much is `measured`'s, what limits is `limit`'s; when it
//! will be there `forecast` says, and whether that is too late `misses`. One task asks again whenever
//! something changed, and often enough besides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blockferry_delta::{NodeId, StoreName};

use crate::backlog::{Key, Reason};
use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::events::{Note, now_unix_ms};
use crate::ledger::rfc3339;
use crate::planner::forecast::{Finish, Forecast, Queue, Waiting, forecast, rate_needed};
use crate::planner::measured::Delta;
use crate::planner::misses::{self, News};
use crate::rate::overrides::Scope;
use crate::rate::pace;
use crate::rate::rates::Rates;
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
    let (queues, order) = queues(core);
    forecast(core.limit.in_force().rates(), queues, order, now_unix_ms())
}

/// When something would be there, with everything else that waits on its way too.
pub(crate) fn with(core: &Core, wish: Wish) -> Finish {
    let Wish { key, wire_bytes, at_unix_ms } = wish;
    let (mut queues, order) = queues(core);
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
    let all = forecast(rates.rates(), queues, order, now_unix_ms());
    all.finish(&key).unwrap_or(Finish::Unknown)
}

/// What waits for each peer, in the order in which it goes.
fn queues(core: &Core) -> (Vec<Queue>, Order) {
    let (items, order) = {
        let backlog = lock(&core.backlog);
        let mut items = Vec::new();
        for item in backlog.items() {
            // What waits for anything else has no end that can be foreseen.
            if matches!(item.reason, Reason::Transferring | Reason::Schedule | Reason::Paused) {
                let progress = backlog.progress(&item.key);
                let total = progress.map_or(0, |(_, total)| total).max(item.bytes);
                let root = backlog.head(&item.key.store, &item.key.image).map(|h| h.version.root);
                items.push((
                    item.bytes,
                    total,
                    progress.is_some(),
                    root,
                    backlog.held(&item.key),
                    item.key,
                ));
            }
        }
        (items, backlog.order())
    };
    let measured = lock(&core.measured);
    let mut queues: BTreeMap<NodeId, Queue> = BTreeMap::new();
    for (bytes, total, under_way, root, base, key) in items {
        let Some(root) = root else { continue };
        let (store, image) = (key.store.clone(), key.image.clone());
        let payload = measured.payload_bytes(&Delta { store, image, root, base }, total);
        let left = u128::from(payload) * u128::from(bytes) / u128::from(total.max(1));
        let wire_bytes = wire_bytes(u64::try_from(left).unwrap_or(u64::MAX));
        let peer = key.peer;
        let link = measured.link_bits_per_second(&peer);
        let empty = Queue { peer, link_bits_per_second: link, waiting: Vec::new() };
        let queue = queues.entry(peer).or_insert(empty);
        queue.waiting.push(Waiting {
            key,
            wire_bytes,
            changed_bytes: bytes,
            under_way,
            not_before_unix_ms: None,
        });
    }
    (queues.into_values().collect(), order)
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

/// One look ahead.
fn look(core: &Core) {
    let in_force = core.limit.in_force();
    let (rates, now) = (in_force.rates(), now_unix_ms());
    let (queues, order) = queues(core);
    let waiting: BTreeMap<Key, u64> = queues
        .iter()
        .flat_map(|queue| &queue.waiting)
        .map(|waiting| (waiting.key.clone(), waiting.wire_bytes))
        .collect();
    let ahead = forecast(rates, queues, order, now);
    let mut ends: BTreeMap<(NodeId, StoreName), Option<i64>> = BTreeMap::new();
    let mut items: BTreeMap<NodeId, Vec<(&Key, i64, Finish)>> = BTreeMap::new();
    for (key, finish) in ahead.items() {
        let of_store = || {
            let scope = Scope { image: None, ..Scope::from(key) };
            misses::end(rates, &scope, now)
        };
        let end = *ends.entry((key.peer, key.store.clone())).or_insert_with(of_store);
        if let Some(end) = end {
            items.entry(key.peer).or_default().push((key, end, finish));
        }
    }
    let said = lock(&core.misses).peers();
    let peers: BTreeSet<NodeId> = items.keys().copied().chain(said).collect();
    for peer in peers {
        let of_peer = items.get(&peer).map_or(&[][..], Vec::as_slice);
        let plain: Vec<(i64, Finish)> = of_peer.iter().map(|(_, end, at)| (*end, *at)).collect();
        let news = lock(&core.misses).handle_forecast(peer, &plain, now);
        let name = core.name_of(&peer);
        match news {
            Some(News::Missed(end)) => {
                let text = missed(rates, &name, of_peer, &waiting, (now, end));
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

fn missed(
    rates: &Rates,
    name: &str,
    items: &[(&Key, i64, Finish)],
    waiting: &BTreeMap<Key, u64>,
    (now, end): (i64, i64),
) -> String {
    let late = |finish: &Finish| !matches!(finish, Finish::At(at) if *at <= end);
    let of_window = || items.iter().filter(|(_, of, _)| *of == end);
    let count = of_window().filter(|(_, _, finish)| late(finish)).count();
    let last = of_window().map(|(_, _, finish)| finish.unix_ms()).max().flatten();
    let never = of_window().any(|(_, _, finish)| *finish == Finish::Never);
    let last = match last.filter(|_| !never) {
        Some(at) => format!("the last at {}", rfc3339(at)),
        None => "the calendar never lets it through".to_owned(),
    };
    let bytes = items.iter().filter_map(|(key, _, _)| waiting.get(*key));
    let bytes = bytes.fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    let scope = items.first().map_or_else(Scope::default, |(key, _, _)| Scope::from(*key));
    let scope = Scope { image: None, ..scope };
    let needed = rate_needed(rates, &scope, bytes, now, end);
    let needed = needed.map_or(String::new(), |bits| format!("; {bits} bit/s would be needed"));
    let (images, end) = (if count == 1 { "image" } else { "images" }, rfc3339(end));
    format!(
        "{count} {images} for {name} will not be there by {end}, {last}: {bytes} bytes are to be \
         sent{needed}"
    )
}
