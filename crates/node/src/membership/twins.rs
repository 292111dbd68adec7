//! Twins: two live places that show one key. A machine was cloned with its identity, or a backup
//! runs beside the original.
//!
//! Pure. Each start of a service has a number of its own and says it in its hello. A number that was
//! replaced never comes back: if it does, both places live. Nothing is taken from either while that
//! lasts; what one of them made wrong before is for lineage to sort out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Numbers that are remembered of a peer: restarts between two visits of a twin.
const REMEMBERED: usize = 32;
/// A peer counts as twins for so long after both were last heard of.
pub const TWINS_TIME: Duration = Duration::from_secs(600);

/// The services that have shown one key.
#[derive(Debug, Default)]
pub struct Twins {
    /// Their numbers; the last one is connected.
    seen: VecDeque<u64>,
    until: Option<Instant>,
}

impl Twins {
    /// A service with this number is connected. Says whether it is news that there are two: they
    /// count as two for as long as this `lasts` after both were last heard of.
    pub fn handle_hello(&mut self, instance: u64, now: Instant, lasts: Duration) -> bool {
        if self.seen.back() == Some(&instance) {
            return false;
        }
        let back_again = self.seen.contains(&instance);
        self.seen.retain(|known| *known != instance);
        self.seen.push_back(instance);
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
        if !back_again {
            return false;
        }
        let news = !self.are_two(now);
        self.until = Some(now + lasts);
        news
    }

    /// Whether two places show the key.
    pub fn are_two(&self, now: Instant) -> bool {
        self.left(now).is_some()
    }

    /// For how long they count as two if no more is heard of them; `None`: there is one place.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_and_lost_connections_are_one_place() {
        let (mut twins, now) = (Twins::default(), Instant::now());
        for instance in [1, 1, 2, 3, 3, 4].into_iter().chain(5..100) {
            assert!(!twins.handle_hello(instance, now, TWINS_TIME));
            assert!(!twins.are_two(now));
        }
        assert!(twins.seen.len() <= REMEMBERED);
    }

    #[test]
    fn a_number_that_comes_back_is_a_second_place_until_it_stays_away() {
        let (mut twins, now) = (Twins::default(), Instant::now());
        assert!(!twins.handle_hello(1, now, TWINS_TIME) && !twins.handle_hello(2, now, TWINS_TIME));
        assert!(twins.handle_hello(1, now, TWINS_TIME), "news");
        assert!(!twins.handle_hello(2, now + Duration::from_secs(5), TWINS_TIME), "no news");
        assert!(twins.are_two(now + TWINS_TIME));
        // One of them got a key of its own.
        let later = now + TWINS_TIME + Duration::from_secs(6);
        assert!(!twins.handle_hello(2, later, TWINS_TIME) && !twins.are_two(later));
    }
}
