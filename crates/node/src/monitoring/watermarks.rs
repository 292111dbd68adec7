//! Watermarks: an event when a backlog or a staging is above its high mark, and one when it is below
//! the low mark again.
//!
//! [`Levels`] is pure: amounts go in, crossings come out. Between the marks nothing is said, so what
//! goes up and down at a mark is not told again and again. Backlogs count for each peer, before any
//! saving; staging for each store, as the room that was promised to transfers under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use crate::config::FreeMin;
use crate::core::{Core, blocking, lock};
use crate::events::{Events, Note};
use crate::monitoring::doctor::place;

/// The marks are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Changed bytes that a peer may lack unless `limits.backlog_high` says otherwise: 100 GiB.
pub const BACKLOG_HIGH_BYTES: u64 = 100 << 30;
/// Share of a store's file system that stagings may take unless `limits.staging_high` says otherwise,
/// in percent.
pub const STAGING_HIGH_PERCENT: u8 = 20;

/// A high mark and the low one that belongs to it, in bytes; the low one is not above the high one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Above it is too much.
    pub high_bytes: u64,
    /// Below it, it is over.
    pub low_bytes: u64,
}

/// The marks of a node, as its configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Of what each peer lacks.
    pub backlog: Marks,
    /// Of the room for transfers under way in each store: the high mark,
    pub staging_high: FreeMin,
    /// and the low one.
    pub staging_low: FreeMin,
}

impl Default for Watermarks {
    fn default() -> Self {
        let high_bytes = BACKLOG_HIGH_BYTES;
        Self {
            backlog: Marks { high_bytes, low_bytes: high_bytes / 2 },
            staging_high: FreeMin::Percent(STAGING_HIGH_PERCENT),
            staging_low: FreeMin::Percent(STAGING_HIGH_PERCENT / 2),
        }
    }
}

/// What an amount did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// It is above the high mark.
    Above,
    /// It is below the low mark again.
    Below,
}

/// Which amounts are above their high mark and were not below the low one since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels(BTreeSet<String>);

impl Levels {
    /// Takes an amount; says whether a mark was crossed since the last one.
    pub fn handle(&mut self, of: &str, bytes: u64, marks: Marks) -> Option<Crossing> {
        if self.0.contains(of) {
            // A low mark of 0 is reached by nothing at all.
            if bytes < marks.low_bytes || bytes == 0 {
                self.0.remove(of);
                return Some(Crossing::Below);
            }
        } else if bytes > marks.high_bytes {
            self.0.insert(of.to_owned());
            return Some(Crossing::Above);
        }
        None
    }

    /// Forgets what is not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|of| is_there(of));
    }

    /// What is above.
    pub fn above(&self) -> &BTreeSet<String> {
        &self.0
    }
}

/// What is above its mark now.
#[derive(Debug, Default)]
pub(crate) struct Above {
    /// By the peer's name.
    pub(crate) backlogs: Levels,
    /// By the store's name.
    pub(crate) stagings: Levels,
}

/// Looks at the marks until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stopped() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let to = core.clone();
        let looked = blocking("a look at the watermarks", move || {
            look(&to);
            Ok(())
        });
        if let Err(error) = looked.await {
            debug!(%error, "no look at the watermarks");
        }
    }
}

/// One look. Blocking: it asks file systems for their size.
fn look(core: &Core) {
    let marks = core.live().watermarks;
    let backlogs = backlogs(core);
    let stores = core.all_stores();
    let stagings: Vec<_> = stores
        .iter()
        .map(|store| {
            let (name, path) = (store.config.name.as_str(), &store.config.path);
            // A file system that can't be asked has no share: only marks in bytes hold there.
            let total = place::look(name, path, FreeMin::Bytes(0), true).total_bytes;
            let of = |mark| bytes_of(mark, total);
            let marks =
                Marks { high_bytes: of(marks.staging_high), low_bytes: of(marks.staging_low) };
            (name.to_owned(), store.store.staging_bytes(), marks)
        })
        .collect();
    let mut above = lock(&core.above);
    above.backlogs.retain(|of| backlogs.contains_key(of));
    for (peer, bytes) in &backlogs {
        if let Some(crossing) = above.backlogs.handle(peer, *bytes, marks.backlog) {
            tell_backlog(&core.events, peer, *bytes, marks.backlog, crossing);
        }
    }
    above.stagings.retain(|of| stagings.iter().any(|(name, ..)| name == of));
    for (store, bytes, marks) in stagings {
        if let Some(crossing) = above.stagings.handle(&store, bytes, marks) {
            tell_staging(&core.events, &store, bytes, marks, crossing);
        }
    }
}

/// What each peer lacks, by its name.
fn backlogs(core: &Core) -> BTreeMap<String, u64> {
    let items = lock(&core.backlog).items();
    let mut sums: BTreeMap<String, u64> =
        core.all_peers().iter().map(|peer| (peer.name(), 0)).collect();
    for item in items {
        let sum = sums.entry(core.name_of(&item.key.peer)).or_default();
        *sum = sum.saturating_add(item.bytes);
    }
    sums
}

fn bytes_of(mark: FreeMin, total_bytes: u64) -> u64 {
    match mark {
        FreeMin::Bytes(bytes) => bytes,
        FreeMin::Percent(_) if total_bytes == 0 => u64::MAX,
        FreeMin::Percent(percent) => total_bytes / 100 * u64::from(percent.min(100)),
    }
}

fn tell_backlog(events: &Events, peer: &str, bytes: u64, marks: Marks, crossing: Crossing) {
    let Marks { high_bytes, low_bytes } = marks;
    events.note(match crossing {
        Crossing::Above => {
            let text = format!("{peer} lacks {bytes} bytes, more than {high_bytes}");
            Note::warning("BACKLOG_HIGH", text).peer(&peer)
        }
        Crossing::Below => {
            let text = format!("{peer} lacks {bytes} bytes, less than {low_bytes} again");
            Note::info("BACKLOG_LOW", text).peer(&peer)
        }
    });
}

fn tell_staging(events: &Events, store: &str, bytes: u64, marks: Marks, crossing: Crossing) {
    let Marks { high_bytes, low_bytes } = marks;
    events.note(match crossing {
        Crossing::Above => {
            let text = format!("transfers under way need {bytes} bytes, more than {high_bytes}");
            Note::warning("STAGING_HIGH", text).store(&store)
        }
        Crossing::Below => {
            let text =
                format!("transfers under way need {bytes} bytes, less than {low_bytes} again");
            Note::info("STAGING_LOW", text).store(&store)
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { high_bytes: 100, low_bytes: 60 };

    #[test]
    fn nothing_is_said_between_the_marks() {
        let mut levels = Levels::default();
        let mut said = Vec::new();
        for bytes in [0, 99, 100, 101, 90, 120, 60, 101, 59, 61, 100, 101, 0] {
            said.extend(levels.handle("b", bytes, MARKS).map(|crossing| (bytes, crossing)));
        }
        use Crossing::{Above, Below};
        assert_eq!(said, [(101, Above), (59, Below), (101, Above), (0, Below)]);
    }

    #[test]
    fn each_has_its_own_level() {
        let mut levels = Levels::default();
        assert_eq!(levels.handle("a", 101, MARKS), Some(Crossing::Above));
        assert_eq!(levels.handle("b", 50, MARKS), None);
        assert_eq!(levels.handle("b", 500, MARKS), Some(Crossing::Above));
        assert_eq!(levels.above().len(), 2);
        levels.retain(|of| of == "b");
        assert_eq!(levels.handle("a", 50, MARKS), None, "a peer that came back begins anew");
        assert_eq!(levels.handle("b", 59, MARKS), Some(Crossing::Below));
    }

    #[test]
    fn one_mark_for_both_and_a_low_mark_of_nothing() {
        let same = Marks { high_bytes: 100, low_bytes: 100 };
        let mut levels = Levels::default();
        assert_eq!(levels.handle("a", 100, same), None);
        assert_eq!(levels.handle("a", 101, same), Some(Crossing::Above));
        assert_eq!(levels.handle("a", 100, same), None);
        assert_eq!(levels.handle("a", 99, same), Some(Crossing::Below));
        let none = Marks { high_bytes: 0, low_bytes: 0 };
        assert_eq!(levels.handle("b", 1, none), Some(Crossing::Above));
        assert_eq!(levels.handle("b", 0, none), Some(Crossing::Below));
    }

    /// Whatever comes, above and below take turns, and each is said at its mark.
    #[test]
    fn above_and_below_take_turns() {
        let (mut levels, mut state, mut last) = (Levels::default(), 7_u64, Crossing::Below);
        let mut crossings = 0;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = (state >> 33) % 160;
            let Some(crossing) = levels.handle("a", bytes, MARKS) else { continue };
            assert_ne!(crossing, last);
            assert!(match crossing {
                Crossing::Above => bytes > MARKS.high_bytes,
                Crossing::Below => bytes < MARKS.low_bytes,
            });
            (last, crossings) = (crossing, crossings + 1);
        }
        assert!(crossings > 1000, "{crossings}");
    }

    #[test]
    fn shares_are_of_the_file_system() {
        assert_eq!(bytes_of(FreeMin::Bytes(7), 0), 7);
        assert_eq!(bytes_of(FreeMin::Percent(20), 1000), 200);
        assert_eq!(bytes_of(FreeMin::Percent(20), 0), u64::MAX, "unknown is never above");
    }
}
