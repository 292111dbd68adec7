//! Misses: what will not fit, said before it is too late.
//!
//! Pure. A window ends when a schedule's `by` says so, else at the calendar's next change to a lower
//! rate or a pause. What the forecast sees finish after that is news once for each peer and window; that
//! it fits again is news too, and with some room to spare, so that a finish near the edge isn't news
//! every minute.

use std::collections::BTreeMap;

use blockferry_delta::NodeId;

use crate::planner::forecast::Finish;
use crate::rate::calendar::{Calendar, Civil, Clock};
use crate::rate::overrides::Scope;
use crate::rate::rates::Rates;

/// Changes of rate that the search for a lower one looks at.
const CHANGES_MAX: usize = 64;
/// What fits again must fit with so much to spare: a fiftieth of what is left of the window.
const SPARE: i64 = 50;

/// When the window ends that something is sent in, in milliseconds since 1970: the first end of the
/// calendars that apply. `None`: they never slow down.
pub fn end(rates: &Rates, scope: &Scope, now_unix_ms: i64) -> Option<i64> {
    let store = scope.store.as_ref().and_then(|name| rates.stores.get(name));
    let peer = scope.peer.as_ref().and_then(|id| rates.peers.get(id));
    let allowances = [Some(&rates.node), store, peer].into_iter().flatten();
    let names = allowances.filter_map(|allowance| allowance.schedule.as_ref());
    let ends = names.filter_map(|name| {
        let calendar = rates.calendars.get(name)?;
        match rates.deadlines.get(name) {
            Some(by) => Some(deadline(calendar, *by, now_unix_ms)),
            None => slower(calendar, now_unix_ms),
        }
    });
    ends.min()
}

/// The next time that the calendar's clock shows `by`, later than now.
fn deadline(calendar: &Calendar, by: Clock, now_unix_ms: i64) -> i64 {
    let now = calendar.zone.civil(now_unix_ms.div_euclid(1000));
    let today = Civil::midnight(now.day()).0 + by.seconds();
    let next = Civil(if today > now.0 { today } else { today + Civil::DAY });
    calendar.zone.first(next).saturating_mul(1000)
}

/// The calendar's next change to a lower rate.
fn slower(calendar: &Calendar, now_unix_ms: i64) -> Option<i64> {
    let mut at = now_unix_ms;
    for _ in 0..CHANGES_MAX {
        let decision = calendar.decide(at);
        at = decision.until_unix_ms?;
        if decision.next?.rate < decision.now.rate {
            return Some(at);
        }
    }
    None
}

/// What is to be said about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Not everything will be there by the end of this window, in milliseconds since 1970.
    Missed(i64),
    /// It fits again, by this.
    Fits(i64),
}

/// Which windows will be missed, as far as it was said.
#[derive(Debug, Default)]
pub struct Misses {
    missed: BTreeMap<NodeId, i64>,
}

impl Misses {
    /// What is forecast for a peer now: the end of the window and the finish of each item that waits.
    pub fn handle_forecast(
        &mut self,
        peer: NodeId,
        items: &[(i64, Finish)],
        now_unix_ms: i64,
    ) -> Option<News> {
        let misses = |(end, finish): &&(i64, Finish), spare: i64| match finish {
            Finish::At(at) => at.saturating_add(spare) > *end,
            Finish::Never => true,
            Finish::Unknown => false,
        };
        let first = |spare: i64| {
            let missed = items.iter().filter(|item| misses(item, spare));
            missed.map(|(end, _)| *end).min()
        };
        let said = self.missed.get(&peer).copied();
        if let Some(end) = first(0) {
            self.missed.insert(peer, end);
            return (said != Some(end)).then_some(News::Missed(end));
        }
        let said = said?;
        if now_unix_ms >= said {
            // It is over; what came of it the backlog says.
            self.missed.remove(&peer);
            return None;
        }
        if first(said.saturating_sub(now_unix_ms) / SPARE) == Some(said) {
            return None;
        }
        self.missed.remove(&peer);
        Some(News::Fits(said))
    }

    /// Peers about which something was said.
    pub fn peers(&self) -> Vec<NodeId> {
        self.missed.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Allowance;
    use crate::rate::calendar::{Rate, Rule, When, Zone};

    const HOUR: i64 = 3_600_000;
    /// 2026-11-23 00:00 UTC, a Monday.
    const MONDAY: i64 = 1_795_392_000_000;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// 5 Mbit/s, 200 from 18:00 to 07:00 and 500 of it from 22:00 to 02:00.
    fn rates() -> Rates {
        let rule = |from: &str, to: &str, mbit: u64| Rule {
            when: When::Often {
                days: "Mon-Sun".parse().expect("days"),
                dates: Vec::new(),
                from: from.parse().expect("a time"),
                to: to.parse().expect("a time"),
            },
            rate: Rate::Limited(mbit * 1_000_000),
            polite: None,
        };
        let rules = vec![rule("18:00", "07:00", 200), rule("22:00", "02:00", 500)];
        let zone = Zone::utc();
        let default = Rate::Limited(5_000_000);
        let calendar = Calendar { zone, default, dfsr: None, polite: false, rules };
        let mut rates = Rates::default();
        rates.calendars.insert("night".into(), Arc::new(calendar));
        let schedule = Some("night".to_owned());
        rates.peers.insert(node(1), Allowance { schedule, ..Allowance::default() });
        rates
    }

    #[test]
    fn a_window_ends_where_it_gets_slower_or_where_the_schedule_says() {
        let mut rates = rates();
        let end = |rates: &Rates, hour: i64| {
            let end = super::end(rates, &Scope::peer(node(1)), MONDAY + hour * HOUR);
            end.map(|at| (at - MONDAY) / HOUR)
        };
        assert_eq!(end(&rates, 12), Some(26), "past two changes upwards");
        assert_eq!(end(&rates, 26), Some(31));
        assert_eq!(end(&rates, 6), Some(7));
        rates.deadlines.insert("night".into(), "06:00".parse().expect("a time"));
        assert_eq!(end(&rates, 12), Some(30));
        assert_eq!(end(&rates, 30), Some(54), "the next one");
        assert_eq!(super::end(&rates, &Scope::peer(node(2)), MONDAY), None, "no calendar");
        let by_day = Calendar::constant(Rate::Limited(7));
        rates.calendars.insert("night".into(), Arc::new(by_day));
        rates.deadlines.clear();
        assert_eq!(end(&rates, 12), None, "it never changes");
    }

    #[test]
    fn a_miss_is_said_once_for_each_window_and_so_is_that_it_fits_again() {
        let mut misses = Misses::default();
        let mut now = 0;
        let mut say = |items: &[(i64, Finish)], now| misses.handle_forecast(node(1), items, now);
        let end = 10_000_000;
        assert_eq!(say(&[(end, Finish::At(end))], now), None, "just in time");
        assert_eq!(
            say(&[(end, Finish::At(end + 1)), (9, Finish::At(1))], now),
            Some(News::Missed(end))
        );
        assert_eq!(say(&[(end, Finish::Never)], now), None, "said already");
        assert_eq!(say(&[(end, Finish::At(end - 1))], now), None, "nearly is not yet");
        assert_eq!(
            say(&[(end, Finish::Unknown)], now),
            Some(News::Fits(end)),
            "as far as is known"
        );
        assert_eq!(say(&[(end, Finish::Never)], now), Some(News::Missed(end)));
        assert_eq!(say(&[], now), Some(News::Fits(end)), "nothing waits any more");
        assert_eq!(say(&[(end, Finish::At(end + 9))], now), Some(News::Missed(end)));
        now = end;
        assert_eq!(say(&[(2 * end, Finish::At(end + 9))], now), None, "the window is over");
        assert_eq!(say(&[(2 * end, Finish::At(3 * end))], now), Some(News::Missed(2 * end)));
        assert_eq!(say(&[(3 * end, Finish::At(4 * end))], now), Some(News::Missed(3 * end)));
    }
}
