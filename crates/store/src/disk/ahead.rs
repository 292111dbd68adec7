//! Spans that weren't cached before they were asked to be read soon, or were written in passing: they
//! leave the page cache again once they were read, or are on disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Spans (start, end) in bytes that don't overlap.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<BTreeMap<u64, u64>>);

impl Ahead {
    fn spans(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // Each span is right whatever happened to another thread.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a span, unless it is empty.
    pub(super) fn note(&self, start: u64, end: u64) {
        if start < end {
            self.take(start, end);
            self.spans().insert(start, end);
        }
    }

    /// The parts of remembered spans that lie between `start` and `end`; they are forgotten.
    pub(super) fn take(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut spans, mut taken) = (self.spans(), Vec::new());
        while let Some((first, last)) = spans.range(..end).next_back().map(|(s, e)| (*s, *e)) {
            if last <= start {
                break;
            }
            spans.remove(&first);
            if last > end {
                spans.insert(end, last);
            }
            if first < start {
                spans.insert(first, start);
            }
            taken.push((first.max(start), last.min(end)));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_taken_once_and_in_parts() {
        let ahead = Ahead::default();
        ahead.note(10, 20);
        ahead.note(30, 60);
        ahead.note(15, 25);
        assert_eq!(ahead.take(0, 10), []);
        assert_eq!(ahead.take(12, 40), [(30, 40), (15, 25), (12, 15)]);
        assert_eq!(ahead.take(12, 40), []);
        assert_eq!(ahead.take(45, 50), [(45, 50)]);
        assert_eq!(ahead.take(0, u64::MAX), [(50, 60), (40, 45), (10, 12)]);
        assert_eq!(ahead.take(0, u64::MAX), []);
    }
}
