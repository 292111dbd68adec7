//! Rates: which limit is in force for what, and why.
//!
//! The one place that decides it. Node, store and peer have a fixed limit and a calendar each, and
//! operators' orders lie on top; the tightest of all that apply wins. Pure: [`Rates::at`] takes an
//! instant and gives a value that stays true until the instant it names. Nothing is remembered from
//! one instant to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use blockferry_delta::{NodeId, StoreName};
use blockferry_wire::Lane;

use crate::backlog::Key;
use crate::budget;
use crate::rate::calendar::{Calendar, Clock, Decision, Rate, Source};
use crate::rate::overrides::{Order, Overrides, Scope};

/// What the configuration allows a node, a store or a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// At all times.
    pub limit: Rate,
    /// By the calendar of this name.
    pub schedule: Option<String>,
    /// A peer's share beside other peers, from 1 to [`budget::WEIGHT_MAX`].
    pub weight: u32,
    /// The lane of a store's images, unless one is pushed in another.
    pub lane: Lane,
    /// Other traffic goes first, whatever a calendar says.
    pub polite: bool,
}

impl Default for Allowance {
    fn default() -> Self {
        let (limit, schedule) = (Rate::Unlimited, None);
        Self { limit, schedule, weight: 1, lane: Lane::Normal, polite: false }
    }
}

/// Reads a peer's weight.
///
/// # Errors
/// It is no whole number, or none from 1 to [`budget::WEIGHT_MAX`].
pub fn weight(text: &str) -> Result<u32, String> {
    let wrong = |_| format!("{text:?} is no weight: a whole number");
    weight_of(text.trim().parse::<u32>().map_err(wrong)?)
}

/// Checks a peer's weight.
///
/// # Errors
/// It is none from 1 to [`budget::WEIGHT_MAX`].
pub fn weight_of(number: u32) -> Result<u32, String> {
    let most = budget::WEIGHT_MAX;
    let good = Some(number).filter(|number| (1..=most).contains(number));
    good.ok_or_else(|| format!("a weight of {number}: 1 to {most}"))
}

/// Whose limit it is. Each is a token bucket of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything that the node sends.
    Node,
    /// What belongs to a store.
    Store(StoreName),
    /// What goes to a peer.
    Peer(NodeId),
}

/// A level's fixed limit, or its calendar: a boost lifts the second only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cap {
    /// Of the configuration, or ordered.
    Limit(Level),
    /// Of the calendar.
    Calendar(Level),
}

impl Cap {
    /// Whose it is.
    pub fn level(&self) -> &Level {
        let (Cap::Limit(level) | Cap::Calendar(level)) = self;
        level
    }
}

/// Why nothing may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The calendar.
    Schedule,
    /// An operator.
    Paused,
}

/// What the rate in force comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// Nothing limits it.
    Nothing,
    /// The configuration.
    Limit(Level),
    /// `limit set`.
    Ordered(Level),
    /// A calendar, and what in it.
    Schedule(String, Source),
    /// A calendar that is not in the configuration.
    Unknown(String),
    /// `pause`.
    Paused,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |level: &Level| match level {
            Level::Node => "the node's".to_owned(),
            Level::Store(name) => format!("store {name}'s"),
            Level::Peer(_) => "the peer's".to_owned(),
        };
        match self {
            Self::Nothing => f.write_str("no limit"),
            Self::Limit(level) => write!(f, "{} limit", whose(level)),
            Self::Ordered(level) => write!(f, "{} limit, set by command", whose(level)),
            Self::Schedule(name, Source::Default) => write!(f, "schedule {name}, default"),
            Self::Schedule(name, Source::Dfsr) => write!(f, "schedule {name}, dfsr"),
            Self::Schedule(name, Source::Rule(n)) => write!(f, "schedule {name}, rule {n}"),
            Self::Unknown(name) => write!(f, "schedule {name} is not in the configuration"),
            Self::Paused => f.write_str("paused by command"),
        }
    }
}

/// What is in force for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The tightest of all that apply.
    pub rate: Rate,
    /// Where that comes from.
    pub because: Because,
    /// Why nothing may be sent, if so.
    pub hold: Option<Hold>,
    /// An operator's boost is in force.
    pub boosted: bool,
    /// Other traffic goes first.
    pub polite: bool,
    /// What it counts against.
    pub caps: Vec<Cap>,
    /// The peer's share beside others.
    pub weight: u32,
    /// How urgent it is.
    pub lane: Lane,
    /// Until when the rate stays, in milliseconds since 1970, as far as the calendars and timed
    /// orders that it comes from can change it; `None`: for good.
    pub until_unix_ms: Option<i64>,
}

/// Everything that limits what is sent.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Of the node.
    pub node: Allowance,
    /// Of stores that have one.
    pub stores: BTreeMap<StoreName, Allowance>,
    /// Of peers that have one.
    pub peers: BTreeMap<NodeId, Allowance>,
    /// By name.
    pub calendars: BTreeMap<String, Arc<Calendar>>,
    /// By when everything should be there each day, by the name of the calendar whose clock that is.
    pub deadlines: BTreeMap<String, Clock>,
    /// By command.
    pub overrides: Overrides,
    /// The lanes of what was pushed in one, until it is there.
    pub pushed: BTreeMap<Key, Lane>,
}

impl Rates {
    /// What is in force at an instant, in milliseconds since 1970.
    pub fn at(self: &Arc<Self>, unix_ms: i64) -> InForce {
        let decide =
            |(name, calendar): (&String, &Arc<Calendar>)| (name.clone(), calendar.decide(unix_ms));
        let decisions = self.calendars.iter().map(decide).collect();
        InForce { rates: self.clone(), decisions, unix_ms }
    }
}

/// What is in force from an instant on, until the one that [`InForce::until_unix_ms`] names.
#[derive(Clone, Debug)]
pub struct InForce {
    rates: Arc<Rates>,
    decisions: BTreeMap<String, Decision>,
    unix_ms: i64,
}

impl InForce {
    /// The instant it was decided for.
    pub fn unix_ms(&self) -> i64 {
        self.unix_ms
    }

    /// The first instant at which something in it changes.
    pub fn until_unix_ms(&self) -> Option<i64> {
        let calendars = self.decisions.values().filter_map(|d| d.until_unix_ms);
        calendars.chain(self.rates.overrides.next_end(self.unix_ms)).min()
    }

    /// What the calendars say, by name.
    pub fn decisions(&self) -> &BTreeMap<String, Decision> {
        &self.decisions
    }

    /// The same, to decide for another instant.
    pub fn shared_rates(&self) -> Arc<Rates> {
        self.rates.clone()
    }

    /// What it was decided from.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// What is in force for something.
    pub fn verdict(&self, scope: &Scope) -> Verdict {
        let hold = self.hold(scope);
        let boosted = self.is_boosted(scope);
        let (mut rate, mut because, mut caps) = (Rate::Unlimited, Because::Nothing, Vec::new());
        let polite = levels(scope).iter().any(|level| self.is_polite(level, boosted));
        for level in levels(scope) {
            let calendar = self.calendar(&level).filter(|_| !boosted);
            if calendar.is_some() {
                caps.push(Cap::Calendar(level.clone()));
            }
            for (next, why) in calendar.into_iter().chain([self.limit(&level)]) {
                if next < rate {
                    (rate, because) = (next, why);
                }
            }
            caps.push(Cap::Limit(level));
        }
        if hold == Some(Hold::Paused) {
            (rate, because) = (Rate::Pause, Because::Paused);
        }
        let calendars_count = !boosted && hold != Some(Hold::Paused);
        let until_unix_ms = self.until_of(scope, calendars_count);
        let (weight, lane) = (self.weight(scope), self.lane(scope));
        Verdict { rate, because, hold, boosted, polite, caps, weight, lane, until_unix_ms }
    }

    /// The first instant at which the rate of `scope` may change by itself.
    fn until_of(&self, scope: &Scope, calendars_count: bool) -> Option<i64> {
        let levels = levels(scope).into_iter().filter(|_| calendars_count);
        let schedules = levels.filter_map(|level| self.allowance(&level)?.schedule.as_ref());
        let calendars = schedules.filter_map(|name| self.decisions.get(name)?.until_unix_ms);
        calendars.chain(self.rates.overrides.next_end_of(scope, self.unix_ms)).min()
    }

    /// A peer's share beside others.
    pub fn weight(&self, scope: &Scope) -> u32 {
        let peer = scope.peer.as_ref().and_then(|peer| self.rates.peers.get(peer));
        peer.map_or(1, |allowance| allowance.weight.max(1))
    }

    /// The lane that something goes in: the one it was pushed in, or its store's.
    pub fn lane(&self, scope: &Scope) -> Lane {
        let Some(store) = &scope.store else { return Lane::default() };
        if let (Some(peer), Some(image)) = (scope.peer, &scope.image) {
            return self.lane_of(&Key { peer, store: store.clone(), image: image.clone() });
        }
        self.rates.stores.get(store).map_or(Lane::default(), |allowance| allowance.lane)
    }

    /// The lane that an image goes to a peer in.
    pub fn lane_of(&self, key: &Key) -> Lane {
        let pushed = self.rates.pushed.get(key).copied();
        let store = || self.rates.stores.get(&key.store).map(|allowance| allowance.lane);
        pushed.or_else(store).unwrap_or_default()
    }

    /// Why nothing of it may be sent, if so.
    pub fn hold(&self, scope: &Scope) -> Option<Hold> {
        match self.rates.overrides.standing(scope, self.unix_ms).map(|o| o.order) {
            Some(Order::Pause) => Some(Hold::Paused),
            Some(Order::Boost) => None,
            _ => {
                let paused =
                    |level: Level| self.calendar(&level).is_some_and(|(r, _)| r == Rate::Pause);
                levels(scope).into_iter().any(paused).then_some(Hold::Schedule)
            }
        }
    }

    /// By a fixed setting, or by a calendar that no boost lifts.
    fn is_polite(&self, level: &Level, boosted: bool) -> bool {
        let Some(allowance) = self.allowance(level) else { return false };
        let decision = allowance.schedule.as_ref().and_then(|name| self.decisions.get(name));
        allowance.polite || (!boosted && decision.is_some_and(|decision| decision.now.polite))
    }

    fn is_boosted(&self, scope: &Scope) -> bool {
        let standing = self.rates.overrides.standing(scope, self.unix_ms);
        standing.is_some_and(|o| o.order == Order::Boost)
    }

    /// All caps that may limit anything.
    pub fn caps(&self) -> Vec<Cap> {
        let stores = self.rates.stores.keys().cloned().map(Level::Store);
        let peers = self.rates.peers.keys().copied();
        let ordered = self.rates.overrides.list().iter().filter_map(|o| o.scope.peer);
        let peers: BTreeSet<NodeId> = peers.chain(ordered).collect();
        let levels = stores.chain(peers.into_iter().map(Level::Peer)).chain([Level::Node]);
        levels.flat_map(|level| [Cap::Limit(level.clone()), Cap::Calendar(level)]).collect()
    }

    /// The rate of a token bucket.
    pub fn rate_of(&self, cap: &Cap) -> Rate {
        match cap {
            Cap::Limit(level) => self.limit(level).0,
            Cap::Calendar(level) => self.calendar(level).map_or(Rate::Unlimited, |(rate, _)| rate),
        }
    }

    fn allowance(&self, level: &Level) -> Option<&Allowance> {
        match level {
            Level::Node => Some(&self.rates.node),
            Level::Store(name) => self.rates.stores.get(name),
            Level::Peer(id) => self.rates.peers.get(id),
        }
    }

    fn limit(&self, level: &Level) -> (Rate, Because) {
        let fixed = self.allowance(level).map_or(Rate::Unlimited, |a| a.limit);
        let ordered = match level {
            Level::Node => self.rates.overrides.limit(&Scope::default(), self.unix_ms),
            Level::Peer(id) => self.rates.overrides.limit(&Scope::peer(*id), self.unix_ms),
            Level::Store(_) => None,
        };
        match ordered.map(Rate::Limited) {
            Some(ordered) if ordered < fixed => (ordered, Because::Ordered(level.clone())),
            _ => (fixed, Because::Limit(level.clone())),
        }
    }

    /// A calendar that isn't there lets nothing through: better late than over a line by day.
    fn calendar(&self, level: &Level) -> Option<(Rate, Because)> {
        let name = self.allowance(level)?.schedule.as_ref()?;
        Some(match self.decisions.get(name) {
            Some(decision) => {
                (decision.now.rate, Because::Schedule(name.clone(), decision.now.source))
            }
            None => (Rate::Pause, Because::Unknown(name.clone())),
        })
    }
}

fn levels(scope: &Scope) -> Vec<Level> {
    let store = scope.store.clone().map(Level::Store);
    let peer = scope.peer.map(Level::Peer);
    [Some(Level::Node), store, peer].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
