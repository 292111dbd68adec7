//! Settle: when a changed file has been quiet long enough to be recorded.
//!
//! Pure: what the store saw and the time go in, names that are due come out. A file is due when its
//! times are old enough, or (clocks may be wrong, files may be dated in the future) when we have
//! seen them unchanged for that long. Where files are recorded while somebody writes them, one that
//! never is quiet is due when it was last recorded, or tried, that long ago, and seldom enough that
//! freezing it costs whoever writes little. A file that could not
//! be recorded is put in quarantine with a growing backoff: one bad file holds up nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First wait after a failure to record.
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// Longest wait after failures to record.
const RETRY_LONGEST: Duration = Duration::from_secs(300);

/// A file that was frozen under its writer rests for so many times the time that took: freezing
/// keeps a writer waiting for at most a fortieth of all time.
const RESTS: u32 = 40;

/// A changed or new file, as the store saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The file's name.
    pub name: String,
    /// The later of its times, in milliseconds since 1970.
    pub quiet_since_unix_ms: i64,
}

/// What is known of one changed file.
#[derive(Debug)]
struct Entry {
    quiet_since_unix_ms: i64,
    /// When we first saw these times.
    unchanged_since: Instant,
    /// When we first saw that it changed, or tried to record it last.
    waiting_since: Instant,
    /// When we first saw that it changed.
    changed_since: Instant,
    failures: u32,
    not_before: Option<Instant>,
    recording: bool,
    last_code: Option<String>,
}

/// The changed files of one store.
#[derive(Debug)]
pub struct Settle {
    quiet: Duration,
    /// A file waits no longer than this, quiet or not.
    longest: Option<Duration>,
    /// Files that were frozen under their writer, and until when they rest.
    rests: BTreeMap<String, Instant>,
    entries: BTreeMap<String, Entry>,
}

impl Settle {
    /// Files are due when nothing has touched them for `quiet`.
    pub fn new(quiet: Duration) -> Self {
        Self { quiet, longest: None, rests: BTreeMap::new(), entries: BTreeMap::new() }
    }

    /// Files that never are quiet are due, too, after this time.
    #[must_use]
    pub fn at_the_latest_after(self, longest: Duration) -> Self {
        Self { longest: Some(longest), ..self }
    }

    /// Files are due when nothing has touched them for `quiet`, from now on.
    pub fn set_quiet(&mut self, quiet: Duration) {
        self.quiet = quiet;
        self.longest = self.longest.map(|_| quiet);
    }

    /// Takes all changed files of the store; what it knew beside them is unchanged again.
    pub fn handle_seen(&mut self, seen: &[Seen], now: Instant) {
        self.rests.retain(|_, until| *until > now);
        let mut before = std::mem::take(&mut self.entries);
        for file in seen {
            let entry = match before.remove(&file.name) {
                Some(entry) if entry.quiet_since_unix_ms == file.quiet_since_unix_ms => entry,
                // Touched again: the quiet time starts anew, and what failed may go well now.
                other => Entry {
                    quiet_since_unix_ms: file.quiet_since_unix_ms,
                    unchanged_since: now,
                    waiting_since: other.as_ref().map_or(now, |e| e.waiting_since),
                    changed_since: other.as_ref().map_or(now, |e| e.changed_since),
                    failures: 0,
                    not_before: None,
                    recording: other.is_some_and(|e| e.recording),
                    last_code: None,
                },
            };
            self.entries.insert(file.name.clone(), entry);
        }
    }

    /// The next file to record, if one is due; it counts as being recorded from now on.
    pub fn poll_due(&mut self, now: Instant, now_unix_ms: i64) -> Option<String> {
        let due = |(name, e): &(&String, &Entry)| {
            !e.recording && self.wait_of(name, e, now, now_unix_ms).is_zero()
        };
        let name = self.entries.iter().find(due)?.0.clone();
        let entry = self.entries.get_mut(&name)?;
        entry.recording = true;
        Some(name)
    }

    /// How long until a file may be due.
    pub fn next_wake(&self, now: Instant, now_unix_ms: i64) -> Option<Duration> {
        let waiting = self.entries.iter().filter(|(_, e)| !e.recording);
        waiting.map(|(name, e)| self.wait_of(name, e, now, now_unix_ms)).min()
    }

    /// A file was frozen under its writer, who had to wait so long.
    pub fn handle_frozen(&mut self, name: &str, took: Duration, now: Instant) {
        if let Some(until) = now.checked_add(took.saturating_mul(RESTS)) {
            self.rests.insert(name.to_owned(), until);
        }
    }

    /// A file was recorded or turned out to be unchanged.
    pub fn handle_recorded(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// A file could not be recorded. Says whether this is news (worth an event), i.e. the code
    /// differs from the last try's.
    pub fn handle_failed(&mut self, name: &str, code: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        entry.recording = false;
        entry.waiting_since = now;
        entry.failures = entry.failures.saturating_add(1);
        let doublings = entry.failures.saturating_sub(1).min(16);
        let wait = RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_LONGEST);
        entry.not_before = Some(now + wait);
        let news = entry.last_code.as_deref() != Some(code);
        entry.last_code = Some(code.to_owned());
        news
    }

    /// A file is not to be tried again until it is touched.
    pub fn handle_left_alone(&mut self, name: &str, code: &str, now: Instant) -> bool {
        let news = self.handle_failed(name, code, now);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.not_before = now.checked_add(Duration::from_secs(365 * 86_400));
        }
        news
    }

    /// What failed files waited for may be there: those that `which` says yes to, by name and code,
    /// are tried again at once.
    pub fn handle_unblocked(&mut self, which: &mut dyn FnMut(&str, &str) -> bool) {
        for (name, entry) in &mut self.entries {
            if entry.last_code.as_deref().is_some_and(|code| which(name, code)) {
                entry.not_before = None;
            }
        }
    }

    /// How long until a file is due.
    fn wait_of(&self, name: &str, entry: &Entry, now: Instant, now_unix_ms: i64) -> Duration {
        let quiet = self.quiet;
        let by_watch = quiet.saturating_sub(now.saturating_duration_since(entry.unchanged_since));
        let age_ms = now_unix_ms.saturating_sub(entry.quiet_since_unix_ms);
        let by_date = match u64::try_from(age_ms) {
            Ok(age) => quiet.saturating_sub(Duration::from_millis(age)),
            Err(_) => quiet, // dated in the future: says nothing
        };
        let left = |until: Option<&Instant>| {
            until.map(|t| t.saturating_duration_since(now)).unwrap_or_default()
        };
        let waited = now.saturating_duration_since(entry.waiting_since);
        let at_the_latest = self.longest.map_or(Duration::MAX, |longest| {
            longest.saturating_sub(waited).max(left(self.rests.get(name)))
        });
        by_watch.min(by_date).min(at_the_latest).max(left(entry.not_before.as_ref()))
    }

    /// All files that are changed and wait: for how long, and why recording failed the last time.
    pub fn waiting(&self, now: Instant) -> Vec<(String, Duration, Option<String>)> {
        let waits = |e: &Entry| now.saturating_duration_since(e.changed_since);
        let row = |(name, e): (&String, &Entry)| (name.clone(), waits(e), e.last_code.clone());
        self.entries.iter().map(row).collect()
    }

    /// Whether the file is changed and waits, and why it failed the last time.
    pub fn pending(&self, name: &str) -> Option<Option<&str>> {
        self.entries.get(name).map(|e| e.last_code.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    fn seen(name: &str, at: i64) -> Vec<Seen> {
        vec![Seen { name: name.into(), quiet_since_unix_ms: at }]
    }

    #[test]
    fn quiet_long_enough() {
        let (mut settle, t0) = (Settle::new(QUIET), Instant::now());
        settle.handle_seen(&seen("a", 100_000), t0);
        assert_eq!(settle.poll_due(t0, 110_000), None);
        assert_eq!(settle.next_wake(t0, 110_000), Some(Duration::from_secs(20)));
        assert_eq!(settle.poll_due(t0, 130_000).as_deref(), Some("a"));
        assert_eq!(settle.poll_due(t0, 130_000), None, "being recorded");
        settle.handle_recorded("a");
        assert_eq!(settle.next_wake(t0, 130_000), None);
    }

    #[test]
    fn a_file_written_all_the_time_never_is() {
        let (mut settle, t0) = (Settle::new(QUIET), Instant::now());
        for step in 0..100_u32 {
            let (now, unix) = (t0 + Duration::from_secs(10) * step, i64::from(step) * 10_000);
            settle.handle_seen(&seen("a", unix), now);
            assert_eq!(settle.poll_due(now, unix), None);
        }
    }

    #[test]
    fn how_long_a_file_waits_counts_from_its_first_change() {
        let (mut settle, t0) = (Settle::new(QUIET), Instant::now());
        for step in 0..4_u32 {
            settle.handle_seen(&seen("a", i64::from(step) * 1000), t0 + QUIET * step);
        }
        settle.handle_failed("a", "IN_USE", t0 + QUIET * 3);
        let waits = settle.waiting(t0 + QUIET * 4);
        assert_eq!(waits, [("a".to_owned(), QUIET * 4, Some("IN_USE".to_owned()))]);
        settle.handle_recorded("a");
        assert_eq!(settle.waiting(t0), []);
    }

    #[test]
    fn where_snapshots_are_taken_a_busy_file_is_due_once_in_that_time() {
        let mut settle = Settle::new(QUIET).at_the_latest_after(QUIET);
        let (t0, mut recorded) = (Instant::now(), Vec::new());
        for step in 0..=100_u32 {
            let (now, unix) = (t0 + Duration::from_secs(1) * step, i64::from(step) * 1000);
            settle.handle_seen(&seen("a", unix), now);
            if settle.poll_due(now, unix).is_some() {
                recorded.push(step);
                settle.handle_recorded("a");
            }
        }
        assert_eq!(recorded, [30, 61, 92], "seen changed a second after it was recorded");
    }

    #[test]
    fn a_busy_file_that_is_slow_to_freeze_is_frozen_seldom() {
        let second = Duration::from_secs(1);
        let mut settle = Settle::new(second * 2).at_the_latest_after(second * 2);
        let (t0, mut recorded) = (Instant::now(), Vec::new());
        for step in 0..=100_u32 {
            let (now, unix) = (t0 + second * step, i64::from(step) * 1000);
            settle.handle_seen(&seen("a", unix), now);
            if settle.poll_due(now, unix).is_some() {
                recorded.push(step);
                settle.handle_frozen("a", Duration::from_millis(600), now);
                settle.handle_recorded("a");
            }
        }
        assert_eq!(recorded, [2, 26, 50, 74, 98], "24 s of rest for 0.6 s");
        let now = t0 + second * 99;
        settle.handle_seen(&seen("a", 99_000), now);
        assert_eq!(settle.poll_due(now + second * 2, 101_000).as_deref(), Some("a"), "quiet");
    }

    #[test]
    fn a_busy_file_that_fails_waits_as_long_again() {
        let mut settle = Settle::new(QUIET).at_the_latest_after(QUIET);
        let (t0, mut tried) = (Instant::now(), Vec::new());
        for step in 0..=100_u32 {
            let (now, unix) = (t0 + Duration::from_secs(1) * step, i64::from(step) * 1000);
            settle.handle_seen(&seen("a", unix), now);
            if settle.poll_due(now, unix).is_some() {
                tried.push(step);
                settle.handle_failed("a", "IO_ERROR", now);
            }
        }
        assert_eq!(tried, [30, 60, 90]);
    }

    #[test]
    fn a_file_dated_in_the_future_is_due_by_our_own_watch() {
        let (mut settle, t0) = (Settle::new(QUIET), Instant::now());
        settle.handle_seen(&seen("a", i64::MAX), t0);
        assert_eq!(settle.poll_due(t0 + Duration::from_secs(29), 0), None);
        assert!(settle.poll_due(t0 + Duration::from_secs(30), 0).is_some());
    }

    #[test]
    fn failures_back_off_and_are_news_once() {
        let (mut settle, mut now) = (Settle::new(Duration::ZERO), Instant::now());
        settle.handle_seen(&seen("a", 0), now);
        let mut waits = Vec::new();
        for try_number in 0..10 {
            assert!(settle.poll_due(now, 0).is_some());
            let news = settle.handle_failed("a", "IN_USE", now);
            assert_eq!(news, try_number == 0);
            let wait = settle.next_wake(now, 0).expect("waits");
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(settle.pending("a"), Some(Some("IN_USE")));
        settle.handle_seen(&seen("a", 1), now);
        assert!(settle.poll_due(now, 1).is_some(), "touched again: tried at once");
        settle.handle_failed("a", "SET_INCOMPLETE", now);
        settle.handle_unblocked(&mut |name, code| name == "a" && code == "IN_USE");
        assert_eq!(settle.poll_due(now, 1), None, "for another reason");
        settle.handle_unblocked(&mut |name, code| name == "a" && code == "SET_INCOMPLETE");
        assert!(settle.poll_due(now, 1).is_some(), "what it waited for is there");
        settle.handle_left_alone("a", "IN_USE", now);
        assert_eq!(settle.poll_due(now + Duration::from_secs(86_400), 1), None);
        settle.handle_seen(&seen("a", 2), now);
        assert!(settle.poll_due(now, 2).is_some(), "touched once more");
        settle.handle_seen(&[], now);
        assert_eq!(settle.pending("a"), None);
    }
}
