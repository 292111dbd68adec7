//! Decide: which rule is in force at an instant, until when, and what comes next.
//!
//! The search for the next change walks from boundary to boundary in wall-clock time. A week and a
//! day without a change mean that there is none before the next edge of somebody's dates, so it jumps
//! there; without an edge there is none at all. That bounds it, however far off a date is.

use super::zone::Civil;
use super::{Calendar, Rate};

/// What must pass without a change before the search jumps: one week, and what a window that began
/// the day before may still reach.
const QUIET_SECONDS: i64 = 9 * Civil::DAY;

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing else matched.
    Default,
    /// The quarter hour of DFS-R's week.
    Dfsr,
    /// The rule with this number, counted from 1.
    Rule(usize),
}

/// A rate and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The rate.
    pub rate: Rate,
    /// Who says so.
    pub source: Source,
    /// Other traffic goes first.
    pub polite: bool,
}

/// What is in force at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rate and the rule.
    pub now: State,
    /// The first instant at which something else is in force, in milliseconds since 1970; later
    /// than the one asked about. `None`: nothing changes any more.
    pub until_unix_ms: Option<i64>,
    /// What that is.
    pub next: Option<State>,
}

impl Calendar {
    /// What is in force at an instant, in milliseconds since 1970.
    pub fn decide(&self, unix_ms: i64) -> Decision {
        let mut at = self.zone.civil(unix_ms.div_euclid(1000));
        let now = self.state(at);
        while let Some(change) = self.next_change(at, now) {
            let instant = self.zone.first(change);
            // A reading that is skipped is passed at the jump: what the clock shows then counts.
            at = self.zone.civil(instant).max(change);
            let next = self.state(at);
            if next != now {
                let until_unix_ms = Some(instant.saturating_mul(1000));
                return Decision { now, until_unix_ms, next: Some(next) };
            }
        }
        Decision { now, until_unix_ms: None, next: None }
    }

    /// The rate at an instant, in milliseconds since 1970.
    pub fn rate(&self, unix_ms: i64) -> Rate {
        self.state(self.zone.civil(unix_ms.div_euclid(1000))).rate
    }

    /// What is in force when the clock shows `at`.
    pub fn state(&self, at: Civil) -> State {
        let rule = self.rules.iter().enumerate().rev().find(|(_, rule)| rule.when.covers(at));
        if let Some((index, rule)) = rule {
            let polite = rule.polite.unwrap_or(self.polite);
            return State { rate: rule.rate, source: Source::Rule(index + 1), polite };
        }
        let polite = self.polite;
        match self.dfsr.as_ref().and_then(|week| week.rate(at)) {
            Some(rate) => State { rate, source: Source::Dfsr, polite },
            None => State { rate: self.default, source: Source::Default, polite },
        }
    }

    /// The first reading after `from` at which something else than `now` is in force.
    fn next_change(&self, from: Civil, now: State) -> Option<Civil> {
        let (mut at, mut since) = (from, from);
        loop {
            let next = self.next_boundary(at)?;
            if next.0 > since.0.saturating_add(QUIET_SECONDS) {
                since = self.next_edge(since)?;
                // Up to one second before the edge, so that the edge itself is looked at.
                at = at.max(Civil(since.0 - 1));
            } else if self.state(next) != now {
                return Some(next);
            } else {
                at = next;
            }
        }
    }

    fn next_boundary(&self, at: Civil) -> Option<Civil> {
        let week = self.dfsr.as_ref().map(|week| week.next_boundary(at));
        let rules = self.rules.iter().filter_map(|rule| rule.when.next_boundary(at));
        rules.chain(week).min()
    }

    fn next_edge(&self, after: Civil) -> Option<Civil> {
        let edges = self.rules.iter().flat_map(|rule| rule.when.edges());
        edges.filter(|edge| *edge > after).min()
    }
}
