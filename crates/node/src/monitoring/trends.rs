//! Trends: what went out, what limited it and what was lacking, for a day and a week.
//!
//! A ring of minutes for everything together and one for each peer (up to a bound), and a ring of the
//! backlog. Filled by one task, which also writes down what is new every so often and at the end, so
//! that a restart doesn't begin with nothing; read by who asks; nothing is decided by it. What the rings
//! do is pure: looks go in, points come out.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::NodeId;

use crate::api::{BacklogPoint, RatePoint, Schema, TrendsReport};
use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::error::Result;
use crate::events::now_unix_ms;
use crate::ledger::{RateRow, Remembered, rfc3339};
use crate::rate::overrides::Scope;

/// No limit, among limits in kbit/s.
const UNLIMITED: u32 = u32::MAX;

/// What connections have carried so far, and the limit in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// UDP payload since the start, in bytes.
    pub sent_bytes: u64,
    /// The same the other way.
    pub received_bytes: u64,
    /// On what is sent; `None`: there is none.
    pub limit_bits_per_second: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    unix_seconds: i64,
    sent_kbit: u32,
    received_kbit: u32,
    limit_kbit: u32,
}

/// Rates with one peer, or with all.
#[derive(Debug, Default)]
struct Track {
    points: VecDeque<Point>,
    before: Option<(Instant, Look)>,
}

/// The rings.
#[derive(Debug, Default)]
pub struct Trends {
    all: Track,
    peers: BTreeMap<NodeId, Track>,
    backlog: VecDeque<(i64, u64, u64)>,
}

impl Track {
    fn look(&mut self, now: Instant, unix_seconds: i64, look: Look) {
        let Some((then, before)) = self.before.replace((now, look)) else { return };
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let kbit = |now: u64, before: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
            let rate = now.saturating_sub(before) as f64 * 8.0 / 1000.0 / seconds;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it fits")]
            let rate = rate.min(f64::from(UNLIMITED - 1)).ceil() as u32;
            rate
        };
        if self.points.len() >= budget::TRENDS_RATES {
            self.points.pop_front();
        }
        let limit = look.limit_bits_per_second.map_or(UNLIMITED, |bits| {
            u32::try_from(bits.div_ceil(1000)).unwrap_or(UNLIMITED - 1).min(UNLIMITED - 1)
        });
        self.points.push_back(Point {
            unix_seconds,
            sent_kbit: kbit(look.sent_bytes, before.sent_bytes),
            received_kbit: kbit(look.received_bytes, before.received_bytes),
            limit_kbit: limit,
        });
    }

    /// At most [`budget::TRENDS_POINTS`] points and one: means of so many each.
    fn shown(&self) -> Vec<RatePoint> {
        let each = self.points.len().div_ceil(budget::TRENDS_POINTS).max(1);
        let points: Vec<Point> = self.points.iter().copied().collect();
        points.chunks(each).filter_map(mean).collect()
    }
}

fn mean(points: &[Point]) -> Option<RatePoint> {
    let last = points.last()?;
    let mean = |of: fn(&Point) -> u32| {
        let sum: u64 = points.iter().map(|point| u64::from(of(point))).sum();
        sum / points.len() as u64 * 1000
    };
    let limit = u64::from(last.limit_kbit) * 1000;
    Some(RatePoint {
        time: rfc3339(last.unix_seconds.saturating_mul(1000)),
        sent_bits_per_second: mean(|point| point.sent_kbit),
        received_bits_per_second: mean(|point| point.received_kbit),
        limit_bits_per_second: (last.limit_kbit != UNLIMITED).then_some(limit),
    })
}

impl Trends {
    /// A look at everything together and at each peer; who is gone is forgotten.
    pub fn handle_look(
        &mut self,
        now: Instant,
        unix_seconds: i64,
        all: Look,
        peers: &BTreeMap<NodeId, Look>,
    ) {
        self.all.look(now, unix_seconds, all);
        self.peers.retain(|peer, _| peers.contains_key(peer));
        for (peer, look) in peers {
            if self.peers.len() < budget::TRENDS_PEERS_MAX || self.peers.contains_key(peer) {
                self.peers.entry(*peer).or_default().look(now, unix_seconds, *look);
            }
        }
    }

    /// What all peers lack: noted at first, and then at every so many looks.
    pub fn handle_backlog(&mut self, unix_seconds: i64, bytes: u64, images: u64) {
        if self.backlog.len() >= budget::TRENDS_BACKLOG {
            self.backlog.pop_front();
        }
        self.backlog.push_back((unix_seconds, bytes, images));
    }

    /// What was noted later than these seconds, to be kept over a restart.
    fn since(&self, rates_after: i64, backlog_after: i64) -> Remembered {
        let mut rates: BTreeMap<i64, Vec<RateRow>> = BTreeMap::new();
        let peers = self.peers.iter().map(|(peer, track)| (Some(*peer), track));
        for (peer, track) in [(None, &self.all)].into_iter().chain(peers) {
            for point in track.points.iter().filter(|point| point.unix_seconds > rates_after) {
                rates.entry(point.unix_seconds).or_default().push(RateRow {
                    peer,
                    sent_kbit: point.sent_kbit,
                    received_kbit: point.received_kbit,
                    limit_kbit: point.limit_kbit,
                });
            }
        }
        let backlog = self.backlog.iter().filter(|(at, ..)| *at > backlog_after).copied().collect();
        Remembered { came: Vec::new(), rates: rates.into_iter().collect(), backlog }
    }

    /// What was noted before the start; nothing is noted yet.
    fn restore(&mut self, before: &Remembered) {
        let first = before.rates.len().saturating_sub(budget::TRENDS_RATES);
        for (unix_seconds, rows) in before.rates.iter().skip(first) {
            for RateRow { peer, sent_kbit, received_kbit, limit_kbit } in rows.iter().copied() {
                let track = match peer {
                    None => &mut self.all,
                    Some(peer)
                        if self.peers.len() < budget::TRENDS_PEERS_MAX
                            || self.peers.contains_key(&peer) =>
                    {
                        self.peers.entry(peer).or_default()
                    }
                    Some(_) => continue,
                };
                let unix_seconds = *unix_seconds;
                let point = Point { unix_seconds, sent_kbit, received_kbit, limit_kbit };
                track.points.push_back(point);
            }
        }
        let first = before.backlog.len().saturating_sub(budget::TRENDS_BACKLOG);
        self.backlog.extend(before.backlog.iter().skip(first));
    }

    /// Of one peer, or of all.
    pub fn rates(&self, peer: Option<&NodeId>) -> Vec<RatePoint> {
        match peer {
            None => self.all.shown(),
            Some(peer) => self.peers.get(peer).map(Track::shown).unwrap_or_default(),
        }
    }

    /// Of all peers.
    pub fn backlog(&self) -> Vec<BacklogPoint> {
        let point = |(at, bytes, images): &(i64, u64, u64)| BacklogPoint {
            time: rfc3339(at.saturating_mul(1000)),
            bytes: *bytes,
            images: *images,
        };
        self.backlog.iter().map(point).collect()
    }
}

/// Looks until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let every = core.config.trend_every;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut kept = recall(&core).await;
    let mut count = 0_usize;
    loop {
        tokio::select! {
            () = core.stopped() => break,
            _ = ticks.tick() => {}
        }
        look(&core, count.is_multiple_of(budget::TRENDS_BACKLOG_EVERY));
        count = count.wrapping_add(1);
        if count.is_multiple_of(budget::TRENDS_BACKLOG_EVERY) {
            keep(&core, &mut kept).await;
        }
    }
    keep(&core, &mut kept).await;
}

/// How far what is known has been written down: seconds of rates and of the backlog, and a number.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    rates: i64,
    backlog: i64,
    came: u64,
}

impl Kept {
    fn add(&mut self, what: &Remembered) {
        self.rates = what.rates.last().map_or(self.rates, |(at, _)| *at);
        self.backlog = what.backlog.last().map_or(self.backlog, |(at, ..)| *at);
        self.came = what.came.last().map_or(self.came, |(number, ..)| *number);
    }
}

/// Seconds of which rates and backlog are shown, a minute ahead for a clock that was set back a little.
fn spans() -> (RangeInclusive<i64>, RangeInclusive<i64>) {
    let now = now_unix_ms().div_euclid(1000);
    let since = |seconds: i64| now.saturating_sub(seconds)..=now.saturating_add(60);
    (since(86_400), since(7 * 86_400))
}

/// Reads what was written down before the start.
async fn recall(core: &Arc<Core>) -> Kept {
    let (ledger, (rates, backlog)) = (core.ledger.clone(), spans());
    let read = blocking("reading what was", move || ledger.remembered(&rates, &backlog)).await;
    let mut kept = Kept::default();
    match read {
        Ok(before) => {
            core.counts.restore_came(&before.came);
            lock(&core.trends).restore(&before);
            kept.add(&before);
        }
        Err(error) => tracing::warn!(%error, "what was shown of the past is lost"),
    }
    kept
}

/// Writes down what is new. What can't be written is tried again with the next.
async fn keep(core: &Arc<Core>, kept: &mut Kept) {
    let mut what = lock(&core.trends).since(kept.rates, kept.backlog);
    what.came = core.counts.came_after(kept.came);
    if what.is_empty() {
        return;
    }
    let (ledger, (rates, backlog)) = (core.ledger.clone(), spans());
    let written = blocking("keeping what was", move || {
        ledger.remember(&what, &rates, &backlog)?;
        Ok(what)
    });
    match written.await {
        Ok(what) => kept.add(&what),
        Err(error) => tracing::warn!(%error, "what is shown of the past isn't kept"),
    }
}

fn look(core: &Core, with_backlog: bool) {
    let unix_seconds = now_unix_ms().div_euclid(1000);
    let in_force = core.limit.in_force();
    let mut all = Look::default();
    let mut limits = Some(0_u64);
    let mut peers = BTreeMap::new();
    for peer in core.all_peers() {
        let carried = peer.carried();
        let limit = in_force.verdict(&Scope::peer(peer.id)).rate.bits_per_second();
        all.sent_bytes = all.sent_bytes.saturating_add(carried.sent_bytes);
        all.received_bytes = all.received_bytes.saturating_add(carried.received_bytes);
        limits = limits.zip(limit).map(|(sum, limit)| sum.saturating_add(limit));
        peers.insert(
            peer.id,
            Look {
                sent_bytes: carried.sent_bytes,
                received_bytes: carried.received_bytes,
                limit_bits_per_second: limit,
            },
        );
    }
    // What all peers together may be sent: the node's own limit, or what theirs come to.
    let own = in_force.verdict(&Scope::default()).rate.bits_per_second();
    let limits = limits.filter(|_| !peers.is_empty());
    all.limit_bits_per_second = own.into_iter().chain(limits).min();
    let items = lock(&core.backlog).items();
    let bytes = items.iter().fold(0_u64, |sum, item| sum.saturating_add(item.bytes));
    let mut trends = lock(&core.trends);
    trends.handle_look(Instant::now(), unix_seconds, all, &peers);
    if with_backlog {
        trends.handle_backlog(unix_seconds, bytes, items.len() as u64);
    }
}

/// `trends`.
pub(crate) fn report(core: &Core, peer: Option<&str>) -> Result<TrendsReport> {
    let peer = peer.map(|text| core.find_peer(text)).transpose()?;
    let trends = lock(&core.trends);
    Ok(TrendsReport {
        schema: Schema,
        rates: trends.rates(peer.as_ref().map(|peer| &peer.id)),
        backlog: if peer.is_none() { trends.backlog() } else { Vec::new() },
        peer: peer.map(|peer| peer.name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn look(sent_bytes: u64, limit_bits_per_second: Option<u64>) -> Look {
        Look { sent_bytes, received_bytes: sent_bytes / 2, limit_bits_per_second }
    }

    #[test]
    fn a_point_is_what_travelled_since_the_look_before() {
        let (mut trends, start) = (Trends::default(), Instant::now());
        let peer = NodeId::from_bytes([7; 32]);
        for (minute, sent) in [0_u64, 7_500_000, 7_500_000].into_iter().enumerate() {
            let at = start + Duration::from_secs(60) * u32::try_from(minute).expect("few");
            let peers = [(peer, look(sent, Some(0)))].into();
            let unix = i64::try_from(minute).expect("few") * 60;
            trends.handle_look(at, unix, look(sent, Some(5_000_000)), &peers);
        }
        let rates = trends.rates(None);
        assert_eq!(rates.len(), 2);
        assert_eq!(rates[0].sent_bits_per_second, 1_000_000);
        assert_eq!(rates[0].received_bits_per_second, 500_000);
        assert_eq!(rates[0].limit_bits_per_second, Some(5_000_000));
        assert_eq!(rates[1].sent_bits_per_second, 0);
        assert_eq!(rates[1].time, "1970-01-01T00:02:00.000Z");
        assert_eq!(trends.rates(Some(&peer))[0].limit_bits_per_second, Some(0));
        trends.handle_look(start + Duration::from_secs(180), 180, look(0, None), &BTreeMap::new());
        assert!(trends.rates(Some(&peer)).is_empty(), "a peer that is gone is forgotten");
        let last = trends.rates(None).pop().expect("a point");
        assert_eq!((last.sent_bits_per_second, last.limit_bits_per_second), (0, None));
    }

    #[test]
    fn what_was_noted_is_there_again_after_a_restart() {
        let (mut before, start) = (Trends::default(), Instant::now());
        let peer = NodeId::from_bytes([7; 32]);
        for minute in 0..4_u32 {
            let at = start + Duration::from_secs(60) * minute;
            let peers = [(peer, look(u64::from(minute) * 750_000, Some(0)))].into();
            before.handle_look(at, i64::from(minute) * 60, look(0, None), &peers);
            before.handle_backlog(i64::from(minute) * 60, 5, 1);
        }
        let (mut first, rest) = (before.since(i64::MIN, i64::MIN), before.since(120, 120));
        assert_eq!((first.rates.len(), rest.rates.len(), rest.backlog.len()), (3, 1, 1));
        let mut after = Trends::default();
        after.restore(&first);
        assert_eq!(after.rates(None), before.rates(None));
        assert_eq!(after.rates(Some(&peer)), before.rates(Some(&peer)));
        assert_eq!(after.backlog(), before.backlog());
        let (_, many) = first.rates.pop().expect("a look");
        first.rates = (0..2 * budget::TRENDS_RATES as i64).map(|at| (at, many.clone())).collect();
        let mut bounded = Trends::default();
        bounded.restore(&first);
        assert_eq!(bounded.all.points.len(), budget::TRENDS_RATES);
    }

    #[test]
    fn the_rings_are_bounded_and_what_is_shown_is_few() {
        let (mut trends, start) = (Trends::default(), Instant::now());
        for second in 0..2 * budget::TRENDS_RATES as u64 {
            let at = start + Duration::from_secs(second);
            let unix = i64::try_from(second).expect("few");
            trends.handle_look(at, unix, look(second * 1000, None), &BTreeMap::new());
            trends.handle_backlog(unix, second, 1);
        }
        assert_eq!(trends.all.points.len(), budget::TRENDS_RATES);
        let shown = trends.rates(None);
        assert!(shown.len() <= budget::TRENDS_POINTS + 1, "{}", shown.len());
        assert!(shown.iter().all(|point| point.sent_bits_per_second == 8000), "{:?}", shown[0]);
        assert_eq!(trends.backlog().len(), budget::TRENDS_BACKLOG);
        let many = |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_le_bytes());
            (NodeId::from_bytes(bytes), Look::default())
        };
        let peers: BTreeMap<_, _> = (0..1000).map(many).collect();
        trends.handle_look(start, 0, Look::default(), &peers);
        assert_eq!(trends.peers.len(), budget::TRENDS_PEERS_MAX);
    }
}
