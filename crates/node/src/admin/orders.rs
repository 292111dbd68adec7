//! Orders: what the commands `pause`, `resume`, `boost` and `limit` do.
//!
//! An order is checked, written to the ledger (so that it survives a restart), put in force and noted
//! as an event, in this turn; it is in force before the command is answered. What an order means for a
//! rate is decided in `rates` and `overrides`.

use std::sync::Arc;

use blockferry_delta::ImageName;

use crate::admin::requests::{done, generation, spec};
use crate::api::{Affected, Answer, OrderKind, OrderRow, OrdersReport, RateRow, Schema};
use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::ledger::rfc3339;
use crate::rate::calendar::{Decision, Rate, Source, State};
use crate::rate::limit;
use crate::rate::overrides::{Order, Override, Overrides, Scope};

/// Longest time an order can be given for, in seconds: ten years.
const FOR_SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// Gives an order about what is named.
pub(crate) async fn give(core: &Arc<Core>, order: Order, what: &Affected) -> Result<Answer> {
    let scope = scope(core, what).await?;
    let now = now_unix_ms();
    let until = what.for_seconds.map(|seconds| until(now, seconds)).transpose()?;
    let about = scope.clone();
    limit::order(core, |all| add(all, order, about, (now, until))).await?;
    let given = Override { number: 0, order, scope, since_unix_ms: now, until_unix_ms: until };
    note(core, code(order), &given, describe(core, &given));
    report(core)
}

/// Adds an order, given at the first instant until the second, if there is room when what it ends
/// is gone. `all` is of no use when there is none.
fn add(all: &mut Overrides, order: Order, scope: Scope, time: (i64, Option<i64>)) -> Result<()> {
    all.give(order, scope, time.0, time.1);
    if all.list().len() <= budget::OVERRIDES_MAX {
        return Ok(());
    }
    let what = format!("{} orders are in force already; end some", budget::OVERRIDES_MAX);
    Err(Error::Control { what })
}

/// Drops the limit that was set for a peer, or for the node.
pub(crate) async fn clear_limit(core: &Arc<Core>, peer: Option<String>) -> Result<Answer> {
    let scope = scope(core, &Affected { peer, ..Affected::default() }).await?;
    if limit::order(core, |all| Ok(all.clear_limit(&scope))).await? {
        let (order, since_unix_ms) = (Order::Resume, now_unix_ms());
        let given = Override { number: 0, order, scope, since_unix_ms, until_unix_ms: None };
        let text = format!("the limit {} is cleared", about(core, &given.scope));
        note(core, "LIMIT_CLEARED", &given, text);
    }
    report(core)
}

/// What was ordered and what is in force.
pub(crate) fn report(core: &Core) -> Result<Answer> {
    let in_force = core.limit.in_force();
    let now = now_unix_ms();
    let list = in_force.rates().overrides.list().iter();
    let orders = list.filter(|o| o.until_unix_ms.is_none_or(|until| now < until));
    let orders = orders.map(|order| OrderRow {
        order: match order.order {
            Order::Pause => OrderKind::Pause,
            Order::Resume => OrderKind::Resume,
            Order::Boost => OrderKind::Boost,
            Order::Limit(_) => OrderKind::Limit,
        },
        peer: order.scope.peer.map(|id| core.name_of(&id)),
        store: order.scope.store.as_ref().map(ToString::to_string),
        image: order.scope.image.as_ref().map(ToString::to_string),
        bits_per_second: match order.order {
            Order::Limit(bits) => Some(bits),
            _ => None,
        },
        since: rfc3339(order.since_unix_ms),
        until: order.until_unix_ms.map(rfc3339),
    });
    let rates = core.all_peers().into_iter().map(|peer| {
        let verdict = in_force.verdict(&Scope::peer(peer.id));
        RateRow {
            peer: peer.name(),
            rate_limit_bits_per_second: verdict.rate.bits_per_second(),
            limited_by: verdict.because.to_string(),
            polite: verdict.polite,
            until: verdict.until_unix_ms.map(rfc3339),
            schedule: peer.config().send.schedule,
        }
    });
    done(&OrdersReport { schema: Schema, orders: orders.collect(), rates: rates.collect() })
}

/// An order in words: `pause of store vdisks for branch-07 until 2026-...`.
pub(crate) fn describe(core: &Core, order: &Override) -> String {
    let what = match order.order {
        Order::Pause => "pause".to_owned(),
        Order::Resume => "resume".to_owned(),
        Order::Boost => "boost".to_owned(),
        Order::Limit(bits) => format!("limit of {}", Rate::Limited(bits)),
    };
    let until = order.until_unix_ms.map_or(String::new(), |at| format!(" until {}", rfc3339(at)));
    format!("{what} {}{until}", about(core, &order.scope))
}

/// A calendar's state in words.
pub(crate) fn sentence(name: &str, decision: &Decision) -> String {
    let state = |state: &State| {
        let source = match state.source {
            Source::Default => "default".to_owned(),
            Source::Dfsr => "dfsr".to_owned(),
            Source::Rule(number) => format!("rule {number}"),
        };
        let polite = if state.polite { ", polite" } else { "" };
        format!("{}{polite} ({source})", state.rate)
    };
    let next = match (&decision.next, decision.until_unix_ms) {
        (Some(next), Some(at)) => format!(" until {}, then {}", rfc3339(at), state(next)),
        _ => String::new(),
    };
    format!("schedule {name}: {}{next}", state(&decision.now))
}

fn about(core: &Core, scope: &Scope) -> String {
    let what = match (&scope.store, &scope.image) {
        (Some(store), Some(image)) => format!("of {store}/{image}"),
        (Some(store), None) => format!("of store {store}"),
        _ => "of everything".to_owned(),
    };
    match &scope.peer {
        Some(peer) => format!("{what} for {}", core.name_of(peer)),
        None => what,
    }
}

fn code(order: Order) -> &'static str {
    match order {
        Order::Pause => "PAUSED",
        Order::Resume => "RESUMED",
        Order::Boost => "BOOSTED",
        Order::Limit(_) => "LIMIT_SET",
    }
}

fn note(core: &Core, code: &'static str, order: &Override, text: String) {
    let mut note = Note::info(code, text);
    if let Some(peer) = &order.scope.peer {
        note = note.peer(&core.name_of(peer));
    }
    if let Some(store) = &order.scope.store {
        note = note.store(store);
    }
    if let Some(image) = &order.scope.image {
        note = note.image(image);
    }
    core.events.note(note);
}

fn until(now_unix_ms: i64, seconds: u64) -> Result<i64> {
    let wrong = || Error::Control { what: "for: 1 second to 10 years".to_owned() };
    let seconds = Some(seconds).filter(|s| (1..=FOR_SECONDS_MAX).contains(s)).ok_or_else(wrong)?;
    let ms = i64::try_from(seconds).map_err(|_| wrong())?.saturating_mul(1000);
    Ok(now_unix_ms.saturating_add(ms))
}

/// What is meant, if there is such a thing: a pause of what doesn't exist is a mistake.
async fn scope(core: &Arc<Core>, what: &Affected) -> Result<Scope> {
    let peer = what.peer.as_deref().map(|text| core.find_peer(text)).transpose()?;
    let store = what.store.as_deref().map(|name| core.store(name)).transpose()?;
    let mut scope = Scope {
        peer: peer.map(|p| p.id),
        store: store.map(|s| s.config.name.clone()),
        image: None::<ImageName>,
    };
    if let Some(text) = &what.image {
        let found = spec(core, text)?;
        let name = found.store.config.name.clone();
        if scope.store.as_ref().is_some_and(|store| *store != name) {
            return Err(Error::ImageUnknown { image: text.clone() });
        }
        generation(&found).await?;
        (scope.store, scope.image) = (Some(name), Some(found.image));
    }
    Ok(scope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockferry_delta::NodeId;

    #[test]
    fn as_many_orders_as_there_may_be_are_ended_by_one_more() {
        let mut all = Overrides::default();
        let peer = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            Scope::peer(NodeId::from_bytes(bytes))
        };
        for n in 0..budget::OVERRIDES_MAX {
            add(&mut all, Order::Pause, peer(n), (0, None)).expect("room");
        }
        let more = peer(budget::OVERRIDES_MAX);
        let error = add(&mut all.clone(), Order::Pause, more, (0, None)).expect_err("too many");
        assert_eq!(error.code(), "CONTROL_BAD_REQUEST");
        add(&mut all, Order::Boost, peer(0), (0, None)).expect("in the place of a pause");
        add(&mut all, Order::Resume, Scope::default(), (0, None)).expect("it ends them");
        assert_eq!(all.list(), []);
    }
}
