//! Parts: what several screens show in the same way. Pure.
//!
//! A mark is a state as it is told three times: by a word, by a shape and by a colour, so that it is
//! understood without the colour and without the picture.

use super::words::{Clock, When, count, rate};
use crate::api::{Event, OrderKind, OrderRow, PeerRow, PeerState, Severity, remedy_for};

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// It is where it should be, verified.
    Good,
    /// It is on its way.
    Moving,
    /// It waits for something that comes by itself.
    Waiting,
    /// An operator holds it.
    Paused,
    /// Nobody is there to take it.
    Offline,
    /// A file changed where it shouldn't have, or hasn't been recorded.
    Drift,
    /// Two contents, of which neither descends from the other.
    Diverged,
    /// Somebody must act.
    Bad,
    /// It doesn't belong there.
    Absent,
    /// Nobody knows.
    Unknown,
}

impl Mark {
    /// Class of the style sheet, and name of the shape.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Moving => "moving",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Offline => "offline",
            Self::Drift => "drift",
            Self::Diverged => "diverged",
            Self::Bad => "bad",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
        }
    }
}

/// Severity of an event, as a mark.
pub(crate) fn severity_mark(severity: Severity) -> Mark {
    match severity {
        Severity::Info => Mark::Good,
        Severity::Warning => Mark::Drift,
        Severity::Error => Mark::Bad,
    }
}

/// An event as a row.
#[derive(Clone, Debug)]
pub(crate) struct EventLine {
    pub(crate) when: When,
    pub(crate) mark: Mark,
    pub(crate) severity: &'static str,
    pub(crate) code: String,
    pub(crate) message: String,
    /// What to do; empty for what is as it should be.
    pub(crate) remedy: &'static str,
    /// Others that say the same of the same, of other peers mostly.
    pub(crate) more: usize,
}

impl EventLine {
    pub(crate) fn new(event: &Event, clock: &Clock) -> Self {
        let severity = match event.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let quiet = event.severity == Severity::Info;
        Self {
            when: clock.when(&event.time),
            mark: severity_mark(event.severity),
            severity,
            code: event.code.clone(),
            message: event.message.clone(),
            remedy: if quiet { "" } else { remedy_for(&event.code) },
            more: 0,
        }
    }
}

/// Events as rows, the newest first. What is as it should be and says the same of the same thing (it is
/// at this peer, and at that one) is one row.
pub(crate) fn event_lines(newest_first: &[Event], most: usize, clock: &Clock) -> Vec<EventLine> {
    let mut lines: Vec<EventLine> = Vec::new();
    let mut places: std::collections::HashMap<(&str, &str), usize> = Default::default();
    for event in newest_first {
        // What it is about is said first.
        let about = event.message.split(' ').next().unwrap_or_default();
        let same = event.severity == Severity::Info && event.image.is_some();
        let place = same.then(|| places.get(&(event.code.as_str(), about)).copied()).flatten();
        if let Some(line) = place.and_then(|at| lines.get_mut(at)) {
            line.more += 1;
            continue;
        }
        if lines.len() >= most {
            break;
        }
        places.insert((&event.code, about), lines.len());
        lines.push(EventLine::new(event, clock));
    }
    lines
}

/// An order that is in force, with what its form needs to end it.
#[derive(Clone, Debug)]
pub(crate) struct OrderLine {
    pub(crate) mark: Mark,
    pub(crate) text: String,
    pub(crate) until: Option<When>,
    pub(crate) ends: bool,
    pub(crate) peer: String,
    pub(crate) store: String,
    pub(crate) image: String,
}

impl OrderLine {
    pub(crate) fn new(order: &OrderRow, clock: &Clock) -> Self {
        let what = match order.order {
            OrderKind::Pause => "Paused".to_owned(),
            OrderKind::Boost => "Boosted".to_owned(),
            OrderKind::Resume => "As if nothing were ordered".to_owned(),
            OrderKind::Limit => format!("At most {}", rate(order.bits_per_second)),
            OrderKind::Other => "Ordered".to_owned(),
        };
        let (store, peer) = (order.store.clone().unwrap_or_default(), order.peer.clone());
        let image = order.image.as_ref().map(|image| format!("{store}/{image}"));
        let of = match &image {
            Some(image) => image.clone(),
            None if store.is_empty() => "everything".to_owned(),
            None => format!("store {store}"),
        };
        let to = peer.as_ref().map_or(String::new(), |peer| format!(" for {peer}"));
        Self {
            mark: match order.order {
                OrderKind::Pause => Mark::Paused,
                OrderKind::Boost => Mark::Moving,
                _ => Mark::Waiting,
            },
            text: format!("{what}: {of}{to}"),
            until: clock.when_some(order.until.as_deref()),
            ends: matches!(order.order, OrderKind::Pause | OrderKind::Boost),
            peer: peer.unwrap_or_default(),
            store: if image.is_some() { String::new() } else { store },
            image: image.unwrap_or_default(),
        }
    }
}

/// Peers of one calendar, or of none: what may be sent now, and what next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateLine {
    /// Name of the calendar, or what else limits.
    pub(crate) name: String,
    pub(crate) peers: String,
    pub(crate) now: String,
    pub(crate) paused: bool,
    pub(crate) until: Option<When>,
    pub(crate) next: String,
}

/// One line for all peers that are limited alike.
pub(crate) fn rate_lines(peers: &[PeerRow], clock: &Clock) -> Vec<RateLine> {
    let key = |peer: &PeerRow| {
        let why = peer.schedule.as_ref().map_or(peer.limited_by.clone(), |name| name.clone());
        let (now, next) = (peer.rate_limit_bits_per_second, peer.next_rate_limit_bits_per_second);
        // An edge at which nothing changes for these peers is none to speak of.
        (why, now, peer.limit_until.clone().filter(|_| next != now), next)
    };
    let mut groups: std::collections::BTreeMap<_, Vec<&str>> = std::collections::BTreeMap::new();
    for peer in peers {
        groups.entry(key(peer)).or_default().push(&peer.name);
    }
    let line = |((name, now, until, next), of): (_, Vec<&str>)| {
        let until: Option<String> = until;
        RateLine {
            name,
            peers: if of.len() <= 2 { of.join(", ") } else { count(of.len(), "peer") },
            now: rate(now),
            paused: now == Some(0),
            until: clock.when_some(until.as_deref()),
            next: if until.is_some() { rate(next) } else { String::new() },
        }
    };
    groups.into_iter().map(line).collect()
}

/// How a peer is reached: mark, word, and since when.
pub(crate) fn reach(peer: &PeerRow, clock: &Clock) -> (Mark, &'static str, Option<When>) {
    let since = clock.when_some(peer.since.as_deref());
    match peer.state {
        _ if peer.connected => (Mark::Good, "connected", since),
        PeerState::Refused => (Mark::Bad, "refused", since),
        _ => (Mark::Offline, "offline", since),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_the_same_of_the_same_is_one_row() {
        let clock = Clock::at("UTC", 1_793_617_200);
        let event = |number, code: &str, severity, message: &str, image: Option<&str>| Event {
            number,
            time: "2026-11-01T00:00:00.000Z".into(),
            code: code.into(),
            severity,
            message: message.into(),
            store: image.map(|_| "s".into()),
            image: image.map(str::to_owned),
            peer: None,
            remedy: None,
        };
        let info = |number, message: &str| {
            event(number, "RECEIPT", Severity::Info, message, Some("a.raw"))
        };
        let events = [
            info(9, "s/a.raw@2 is at c"),
            event(8, "PAUSED", Severity::Info, "pause of everything", None),
            info(7, "s/a.raw@2 is at b"),
            event(6, "PAUSED", Severity::Info, "pause of everything", None),
            event(5, "DIVERGED", Severity::Warning, "s/a.raw: both sides", Some("a.raw")),
            event(4, "DIVERGED", Severity::Warning, "s/a.raw: both sides", Some("a.raw")),
            info(3, "s/a.raw@1 is at c"),
        ];
        let lines = event_lines(&events, 40, &clock);
        let told: Vec<(&str, usize)> =
            lines.iter().map(|line| (line.message.as_str(), line.more)).collect();
        let pause = ("pause of everything", 0);
        let both = ("s/a.raw: both sides", 0);
        let all = [("s/a.raw@2 is at c", 1), pause, pause, both, both, ("s/a.raw@1 is at c", 0)];
        assert_eq!(told, all);
        assert_eq!(event_lines(&events, 2, &clock).len(), 2);
    }
}
