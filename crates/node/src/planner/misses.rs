//! Misses: what will not fit, said before it is too late.
//!
//! Pure. A window ends when a schedule's `by` says so, else at the calendar's next change to a lower
//! rate or a pause. What the forecast sees finish after that is news once for each peer and window; that
//! it fits again is news too, and with some room to spare, so that a finish near the edge isn't news
//! every minute. What waits for something that has no end that can be foreseen (a peer that is down,
//! a full disk) is late when it would be too late even if that ended now, and shortly before the end
//! in any case.

use std::collections::{BTreeMap, BTreeSet};

use blockferry_delta::NodeId;

use crate::planner::forecast::Finish;
use crate::rate::calendar::{Calendar, Civil, Clock};
use crate::rate::overrides::Scope;
use crate::rate::rates::Rates;

/// Changes of rate that the search for a lower one looks at.
const CHANGES_MAX: usize = 64;
/// What fits again must fit with so much to spare: a fiftieth of what is left of the window.
const SPARE: i64 = 50;
/// What can't be sent now is said so many milliseconds before its window ends, or earlier if its
/// bytes need longer.
pub const LEAD_MS: i64 = 3_600_000;

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

/// An item that waits, and its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When its window ends, in milliseconds since 1970.
    pub end_unix_ms: i64,
    /// When it will be there; if it is `held_up`, when it would be if it could go now.
    pub finish: Finish,
    /// It waits for something that has no end that can be foreseen, and not for an operator.
    pub held_up: bool,
}

impl Due {
    /// It won't be there in time, as far as can be said now.
    pub fn is_late(&self, now_unix_ms: i64) -> bool {
        let late = match self.finish {
            Finish::At(at) => at > self.end_unix_ms,
            Finish::Never => true,
            Finish::Unknown => false,
        };
        let near = || self.end_unix_ms.saturating_sub(now_unix_ms) <= LEAD_MS;
        late || (self.held_up && near())
    }

    /// It is known to be there so many milliseconds before its window ends.
    fn fits(&self, spare: i64) -> bool {
        let in_time = |at: i64| at.saturating_add(spare) <= self.end_unix_ms;
        !self.held_up && self.finish.unix_ms().is_some_and(in_time)
    }
}

/// Which windows will be missed, as far as it was said.
#[derive(Debug, Default)]
pub struct Misses {
    missed: BTreeMap<NodeId, BTreeSet<i64>>,
}

impl Misses {
    /// What waits for a peer now, all of it that has a window. Of several windows the first that
    /// wasn't said is news, the next one when it is asked again.
    pub fn handle_forecast(
        &mut self,
        peer: NodeId,
        items: &[Due],
        now_unix_ms: i64,
    ) -> Option<News> {
        let said = self.missed.entry(peer).or_default();
        // What is over is no news; what came of it the backlog says.
        said.retain(|end| *end > now_unix_ms);
        let late = items.iter().filter(|item| item.is_late(now_unix_ms));
        let first = late.map(|item| item.end_unix_ms).filter(|end| !said.contains(end)).min();
        if let Some(end) = first {
            said.insert(end);
            return Some(News::Missed(end));
        }
        // Of what has no known finish nobody can say that it fits.
        let fits = items.iter().all(|item| {
            let end = item.end_unix_ms;
            let spare = if said.contains(&end) { (end - now_unix_ms) / SPARE } else { 0 };
            item.fits(spare)
        });
        let last = said.last().copied();
        if fits || last.is_none() {
            self.missed.remove(&peer);
        }
        last.filter(|_| fits).map(News::Fits)
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

    fn due(end_unix_ms: i64, finish: Finish) -> Due {
        Due { end_unix_ms, finish, held_up: false }
    }

    fn held_up(end_unix_ms: i64, finish: Finish) -> Due {
        Due { end_unix_ms, finish, held_up: true }
    }

    #[test]
    fn a_miss_is_said_once_for_each_window_and_so_is_that_it_fits_again() {
        let mut misses = Misses::default();
        let mut now = 0;
        let mut say = |items: &[Due], now| misses.handle_forecast(node(1), items, now);
        let end = 10_000_000;
        assert_eq!(say(&[due(end, Finish::At(end))], now), None, "just in time");
        let late = [due(end, Finish::At(end + 1)), due(9, Finish::At(1))];
        assert_eq!(say(&late, now), Some(News::Missed(end)));
        assert_eq!(say(&[due(end, Finish::Never)], now), None, "said already");
        assert_eq!(say(&[due(end, Finish::At(end - 1))], now), None, "nearly is not yet");
        let fits = [due(end, Finish::At(end / 2))];
        assert_eq!(say(&fits, now), Some(News::Fits(end)));
        assert_eq!(say(&[due(end, Finish::Never)], now), Some(News::Missed(end)));
        assert_eq!(say(&[], now), Some(News::Fits(end)), "nothing waits any more");
        assert_eq!(say(&[due(end, Finish::At(end + 9))], now), Some(News::Missed(end)));
        now = end;
        assert_eq!(say(&[due(2 * end, Finish::At(end + 9))], now), None, "the window is over");
        let missed = |end| Some(News::Missed(end));
        assert_eq!(say(&[due(2 * end, Finish::At(3 * end))], now), missed(2 * end));
        assert_eq!(say(&[due(3 * end, Finish::At(4 * end))], now), missed(3 * end));
    }

    #[test]
    fn what_has_no_known_finish_does_not_fit_again() {
        let mut misses = Misses::default();
        let mut say = |items: &[Due]| misses.handle_forecast(node(1), items, 0);
        let end = 10 * HOUR;
        assert_eq!(say(&[due(end, Finish::At(end + 1))]), Some(News::Missed(end)));
        assert_eq!(say(&[held_up(end, Finish::At(9))]), None, "the peer is down");
        assert_eq!(say(&[due(end, Finish::Unknown)]), None, "an operator paused it");
        let one_of_two = [due(end, Finish::At(9)), held_up(end, Finish::At(9))];
        assert_eq!(say(&one_of_two), None);
        assert_eq!(say(&[due(end, Finish::At(9))]), Some(News::Fits(end)), "it is back");
        assert_eq!(say(&[]), None, "said");
    }

    #[test]
    fn what_can_not_go_now_is_late_when_its_bytes_need_the_rest_or_the_end_is_near() {
        let end = 10 * HOUR;
        let late = |finish, now| held_up(end, finish).is_late(now);
        assert!(!late(Finish::At(end), 0), "there is time yet");
        assert!(late(Finish::At(end + 1), 0), "too late even if it could go now");
        assert!(!late(Finish::Unknown, end - LEAD_MS - 1));
        assert!(late(Finish::Unknown, end - LEAD_MS) && late(Finish::At(end), end - LEAD_MS));
        assert!(!due(end, Finish::Unknown).is_late(end - 1), "an operator paused it");
        let mut misses = Misses::default();
        let mut say = |now| misses.handle_forecast(node(1), &[held_up(end, Finish::At(9))], now);
        assert_eq!((say(0), say(end - LEAD_MS)), (None, Some(News::Missed(end))));
    }

    #[test]
    fn two_windows_do_not_take_turns() {
        let mut misses = Misses::default();
        let mut say = |a, b| {
            let items = [due(HOUR, Finish::At(a)), due(2 * HOUR, Finish::At(b))];
            misses.handle_forecast(node(1), &items, 0)
        };
        assert_eq!(say(HOUR + 1, 3 * HOUR), Some(News::Missed(HOUR)));
        assert_eq!(say(HOUR - 1, 3 * HOUR), Some(News::Missed(2 * HOUR)));
        assert_eq!(say(HOUR + 1, 3 * HOUR), None, "both were said");
        assert_eq!(say(HOUR - 1, 3 * HOUR), None);
        assert_eq!(say(9, 9), Some(News::Fits(2 * HOUR)));
    }
}
