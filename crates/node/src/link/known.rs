//! Known: what a peer said of itself when it connected, and why it isn't connected. For people only.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::core::lock;
use crate::error::Error;

/// What is known of a peer.
#[derive(Debug)]
pub(crate) struct Known(Mutex<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    agent: Option<String>,
    clock_ahead_ms: Option<i64>,
    down_since: Option<Instant>,
    trouble: Option<(String, String)>,
}

/// The same at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Glance {
    /// Its program and version.
    pub(crate) agent: Option<String>,
    /// How far its clock was ahead of ours when it connected.
    pub(crate) clock_ahead_ms: Option<i64>,
    /// How long it hasn't been connected.
    pub(crate) down: Option<Duration>,
    /// Why, by code and in words.
    pub(crate) trouble: Option<(String, String)>,
}

impl Known {
    /// Of a peer that isn't connected yet.
    pub(crate) fn new(now: Instant) -> Self {
        let (agent, clock_ahead_ms, trouble) = (None, None, None);
        Self(Mutex::new(Inner { agent, clock_ahead_ms, down_since: Some(now), trouble }))
    }

    /// It has said its hello: with its clock, if it said that, read half a round trip ago.
    pub(crate) fn note_hello(
        &self,
        agent: String,
        clock_unix_ms: Option<u64>,
        now_unix_ms: i64,
        round_trip: Duration,
    ) {
        let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(i64::MAX);
        let theirs = clock_unix_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let ahead = theirs.map(|ms| ms.saturating_add(half).saturating_sub(now_unix_ms));
        let mut inner = lock(&self.0);
        (inner.agent, inner.clock_ahead_ms) = (Some(agent), ahead);
        (inner.down_since, inner.trouble) = (None, None);
    }

    /// It could not be reached, or is not connected any more.
    pub(crate) fn note_down(&self, why: Option<&Error>, now: Instant) {
        let mut inner = lock(&self.0);
        inner.down_since.get_or_insert(now);
        if let Some(error) = why {
            inner.trouble = Some((error.code().to_owned(), error.to_string()));
        }
    }

    /// What is known now.
    pub(crate) fn glance(&self, now: Instant) -> Glance {
        let Inner { agent, clock_ahead_ms, down_since, trouble } = lock(&self.0).clone();
        let down = down_since.map(|since| now.saturating_duration_since(since));
        Glance { agent, clock_ahead_ms, down, trouble }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_down_since_the_first_failure_for_the_last_reason() {
        let (t0, second) = (Instant::now(), Duration::from_secs(1));
        let known = Known::new(t0);
        assert_eq!(known.glance(t0 + second).down, Some(second));
        known.note_hello("blockferry/9".into(), Some(1500), 1000, Duration::from_millis(200));
        let up = known.glance(t0 + second);
        assert_eq!((up.down, up.clock_ahead_ms), (None, Some(600)));
        let lost = |what| Error::Unreachable { peer: "b".into(), what: String::from(what) };
        known.note_down(Some(&lost("first")), t0 + second);
        known.note_down(Some(&lost("last")), t0 + 2 * second);
        known.note_down(None, t0 + 3 * second);
        let down = known.glance(t0 + 4 * second);
        assert_eq!(down.down, Some(3 * second));
        let (code, text) = down.trouble.expect("told");
        assert!(code == "PEER_UNREACHABLE" && text.contains("last"), "{code} {text}");
        assert_eq!(down.agent.as_deref(), Some("blockferry/9"), "what it was is still known");
    }

    #[test]
    fn a_clock_that_can_not_be_is_far_off() {
        let known = Known::new(Instant::now());
        known.note_hello("x".into(), Some(u64::MAX), i64::MIN, Duration::MAX);
        assert_eq!(known.glance(Instant::now()).clock_ahead_ms, Some(i64::MAX));
        known.note_hello("x".into(), None, 0, Duration::ZERO);
        assert_eq!(known.glance(Instant::now()).clock_ahead_ms, None);
    }
}
