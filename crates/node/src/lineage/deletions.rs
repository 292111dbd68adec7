//! Deletions at a writer: when a file that is gone means that the image was deleted, and when it
//! means an accident. Deciding is pure ([`Deletions`]): a file must have been gone as long as a change
//! must rest, and not too many at once. What is decided is recorded as a generation that travels
//! like any other, but only to peers that know deletions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::ImageName;
use blockferry_store::{Error as StoreError, Generation, LookState};
use blockferry_wire::{FEATURE_DELETIONS, Refusal};

use crate::admin::requests::done;
use crate::api::{Answer, PublishReport, Role, Schema};
use crate::core::{Core, blocking, head_of, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::link::peer::Active;
use crate::local::stores::{Activity, OpenStore};
use crate::local::{adoption, sets};

/// So many images may be gone at one look, whatever their share.
const GONE_AT_ONCE_MAX: usize = 3;

/// A deletion that was recorded counts as gone for so long: an emptying that takes its time is one,
/// too.
const RECORDED_COUNTS: Duration = Duration::from_secs(3600);

/// Images whose files are gone.
#[derive(Debug)]
pub struct Deletions {
    quiet: Duration,
    since: BTreeMap<String, Instant>,
    /// What was recorded by itself, and when.
    recorded: BTreeMap<String, Instant>,
    /// Too many are gone: nothing is recorded by itself.
    held: bool,
}

impl Deletions {
    /// A file that was gone for `quiet` was deleted.
    pub fn new(quiet: Duration) -> Self {
        Self { quiet, since: BTreeMap::new(), recorded: BTreeMap::new(), held: false }
    }

    /// Takes all images whose files are gone and not only renamed, of `images` that the store has, these
    /// among them. Says whether it is news that too many are gone: all of them, or more than three
    /// and more than half. What was recorded within the last hour is counted as gone.
    pub fn handle_look(&mut self, gone: &[String], images: usize, now: Instant) -> bool {
        self.since.retain(|name, _| gone.contains(name));
        for name in gone {
            self.since.entry(name.clone()).or_insert(now);
        }
        let counts = |at: &Instant| now.saturating_duration_since(*at) < RECORDED_COUNTS;
        self.recorded.retain(|name, at| counts(at) && !gone.contains(name));
        let (all_gone, images) = self.counted(images);
        let before = self.held;
        self.held =
            !gone.is_empty() && (all_gone >= images || all_gone > GONE_AT_ONCE_MAX.max(images / 2));
        self.held && !before
    }

    /// How many are gone of how many, with what was recorded lately; `images`: that the store has.
    fn counted(&self, images: usize) -> (usize, usize) {
        let recorded = self.recorded.len();
        (self.since.len() + recorded, images + recorded)
    }

    /// The next image that was deleted. Until it was recorded or failed it is told again.
    pub fn poll_due(&self, now: Instant) -> Option<&str> {
        let due = |since: &Instant| now.saturating_duration_since(*since) >= self.quiet;
        let mut gone = self.since.iter().filter(|(_, since)| !self.held && due(since));
        gone.next().map(|(name, _)| name.as_str())
    }

    /// How long until an image may be due.
    pub fn next_wake(&self, now: Instant) -> Option<Duration> {
        let left =
            |since: &Instant| self.quiet.saturating_sub(now.saturating_duration_since(*since));
        self.since.values().filter(|_| !self.held).map(left).min()
    }

    /// It was recorded because it stayed away.
    pub fn handle_recorded(&mut self, name: &str, now: Instant) {
        self.since.remove(name);
        self.recorded.insert(name.to_owned(), now);
    }

    /// Somebody said that it was deleted, or it was only renamed: no accident.
    pub fn handle_meant(&mut self, name: &str) {
        self.since.remove(name);
    }

    /// It could not be recorded: it waits as long again.
    pub fn handle_failed(&mut self, name: &str, now: Instant) {
        if let Some(since) = self.since.get_mut(name) {
            *since = now;
        }
    }
}

/// Takes what a look saw to be gone at a writer.
pub(crate) fn take(core: &Core, store: &OpenStore, gone: &[String], images: usize) {
    if store.config.role == Role::Mirror
        || !adoption::judges_files(store)
        || !lock(&store.deletions).handle_look(gone, images, Instant::now())
    {
        return;
    }
    let name = &store.config.name;
    let (all_gone, images) = lock(&store.deletions).counted(images);
    let text = format!(
        "{all_gone} of {images} images of {name} are gone at once or were deleted within the last \
         hour ({}{}): nothing more is recorded. If they are \
         where they should be again, nothing happened. If they were deleted, say so for each: \
         blockferry publish {name}/NAME",
        gone.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", "),
        if gone.len() > 5 { ", ..." } else { "" },
    );
    core.events.note(Note::error("MASS_DELETION", text).store(name));
}

/// Records every image that was deleted.
pub(crate) async fn record_due(core: &Arc<Core>, store: &Arc<OpenStore>) {
    loop {
        let due = lock(&store.deletions).poll_due(Instant::now()).map(str::to_owned);
        let Some(name) = due else { return };
        let Ok(image) = ImageName::new(&name) else {
            lock(&store.deletions).handle_meant(&name);
            continue;
        };
        let recorded = record(core, store, &image).await;
        if recorded.is_ok() {
            lock(&store.deletions).handle_recorded(&name, Instant::now());
        }
        if let Err(error) = recorded {
            lock(&store.deletions).handle_failed(&name, Instant::now());
            if store.trouble(&image, error.code()) {
                let note = Note::warning(error.code(), error.to_string());
                core.events.note(note.store(&store.config.name).image(&image));
            }
            if core.is_stopping() {
                return;
            }
        }
    }
}

/// Records that an image was deleted.
async fn record(core: &Arc<Core>, store: &Arc<OpenStore>, image: &ImageName) -> Result<Generation> {
    let doing = store.begin(image, Activity::Recording)?;
    let (core, store, image) = (core.clone(), store.clone(), image.clone());
    blocking("recording a deletion", move || {
        let _held = doing;
        let generation = commit(&core, &store, &image)?;
        let name = store.full_name(&image);
        let text = format!("{name}@{}: it was deleted here", generation.number);
        core.events.note(Note::info("DELETED", text).store(&store.config.name).image(&image));
        Ok(generation)
    })
    .await
}

/// The deletion becomes the current generation and is told. Blocking.
fn commit(core: &Core, store: &OpenStore, image: &ImageName) -> Result<Generation> {
    let author = core.config.identity.id();
    store.made_here(image);
    let generation = store.store.record_deletion(image, author, now_unix_ms())?;
    store.no_longer_seen(image);
    core.note_head(store, &generation, head_of(store, &generation)?);
    sets::replaced(core, store, &generation)?;
    Ok(generation)
}

/// A new image with the content of one whose file is gone: it was renamed. What it was called before
/// is deleted without waiting: nothing is lost with it. Blocking.
pub(crate) fn note_renames(core: &Core, store: &OpenStore, new: &Generation) -> Result<()> {
    if store.config.role == Role::Mirror || !adoption::judges_files(store) {
        return Ok(());
    }
    for gone in store.seen_as(&[LookState::Missing]) {
        let current = store.store.current(&gone)?;
        let same = |old: &Generation| old.root == new.root && !old.is_adopted();
        if gone == new.image || !current.as_ref().is_some_and(same) {
            continue;
        }
        match commit(core, store, &gone) {
            Ok(_) => {
                lock(&store.deletions).handle_meant(gone.as_str());
                let (from, to) = (store.full_name(&gone), store.full_name(&new.image));
                let text = format!("{from} is called {to} now");
                let note = Note::info("RENAMED", text);
                core.events.note(note.store(&store.config.name).image(&new.image));
            }
            // It is there again, or something works on it: then it is a copy, or the next look
            // says that it was deleted.
            Err(Error::Store(StoreError::LocalChange(_) | StoreError::Busy(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `publish` of an image whose file is gone: somebody says that it was deleted.
pub(crate) async fn publish(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    image: &ImageName,
) -> Result<Answer> {
    let started = Instant::now();
    let name = store.full_name(image);
    let generation = match record(core, store, image).await {
        Err(Error::Store(StoreError::NotFound(_))) => {
            return Err(Error::ImageUnknown { image: name });
        }
        other => other?,
    };
    lock(&store.deletions).handle_meant(image.as_str());
    store.wake.notify_one();
    done(&PublishReport {
        schema: Schema,
        image: name,
        recorded: true,
        generation: generation.number,
        root: generation.root.to_string(),
        size_bytes: 0,
        discover: "deleted".to_owned(),
        bytes_read: 0,
        dirty_bytes: 0,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A peer that knows no deletions can't be told of one.
pub(crate) fn check_told(
    active: &Active,
    store: &OpenStore,
    generation: &Generation,
    peer: &str,
) -> Result<()> {
    if !generation.is_deleted() || active.knows(FEATURE_DELETIONS) {
        return Ok(());
    }
    Err(Error::Refused {
        peer: peer.to_owned(),
        image: store.full_name(&generation.image),
        code: Refusal::Unsupported.code(),
        reason: "its version knows no deletions: update it".to_owned(),
        bytes_needed: None,
        bytes_free: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n:03}.img")).collect()
    }

    #[test]
    fn a_file_that_stays_away_was_deleted() {
        let (mut deletions, t0) = (Deletions::new(QUIET), Instant::now());
        assert!(!deletions.handle_look(&names(1), 4, t0));
        assert_eq!(deletions.poll_due(t0 + QUIET / 2), None);
        assert_eq!(deletions.next_wake(t0 + QUIET / 2), Some(QUIET / 2));
        // It was only away for a moment.
        deletions.handle_look(&[], 4, t0 + QUIET / 2);
        deletions.handle_look(&names(1), 4, t0 + QUIET);
        assert_eq!(deletions.poll_due(t0 + QUIET), None);
        assert_eq!(deletions.poll_due(t0 + QUIET * 2), Some("000.img"));
        deletions.handle_failed("000.img", t0 + QUIET * 2);
        assert_eq!(deletions.poll_due(t0 + QUIET * 2), None);
        assert_eq!(deletions.poll_due(t0 + QUIET * 3), Some("000.img"));
        deletions.handle_recorded("000.img", t0 + QUIET * 3);
        assert_eq!(deletions.poll_due(t0 + QUIET * 4), None);
        assert_eq!(deletions.next_wake(t0), None);
    }

    #[test]
    fn too_many_at_once_are_an_accident() {
        for (gone, images, held) in [
            (1, 1, true), // an emptied directory, however little was in it
            (1, 2, false),
            (2, 2, true),
            (3, 4, false),
            (4, 6, true),
            (4, 8, false),
            (5, 10, false),
            (6, 10, true),
            (50, 100, false),
            (51, 100, true),
        ] {
            let (mut deletions, t0) = (Deletions::new(QUIET), Instant::now());
            assert_eq!(deletions.handle_look(&names(gone), images, t0), held, "{gone} of {images}");
            assert_eq!(deletions.poll_due(t0 + QUIET).is_none(), held, "{gone} of {images}");
            assert_eq!(deletions.next_wake(t0).is_none(), held);
            assert!(!deletions.handle_look(&names(gone), images, t0), "told once");
        }
    }

    /// One of 100 images goes every `step`; says how many deletions were recorded until then.
    fn emptied(step: Duration, meant: bool) -> (usize, bool) {
        let (mut deletions, t0) = (Deletions::new(QUIET), Instant::now());
        let all = names(100);
        let mut recorded = 0;
        for second in 0..7200_u32 {
            let at = Duration::from_secs(second.into());
            let removed = (at.as_secs() / step.as_secs()) as usize;
            if removed > 100 {
                break;
            }
            let now = t0 + at;
            if deletions.handle_look(&all[recorded..removed], 100 - recorded, now) {
                return (recorded, true);
            }
            while let Some(name) = deletions.poll_due(now).map(str::to_owned) {
                match meant {
                    true => deletions.handle_meant(&name),
                    false => deletions.handle_recorded(&name, now),
                }
                recorded += 1;
            }
        }
        (recorded, false)
    }

    #[test]
    fn an_emptying_that_takes_its_time_is_one_too() {
        assert_eq!(emptied(Duration::from_secs(1), false), (20, true));
        assert_eq!(emptied(Duration::from_secs(10), false), (47, true));
        assert_eq!(emptied(Duration::from_secs(30), false), (49, true));
        // Slower than half of them in an hour, as long as there are many.
        let (recorded, held) = emptied(Duration::from_secs(72), false);
        assert!(recorded >= 50 && (held || recorded > 90), "{recorded} {held}");
        // What somebody said, or renamed, is none: only the last one is.
        let (recorded, held) = emptied(Duration::from_secs(60), true);
        assert!(held && recorded == 99, "{recorded}");
    }

    #[test]
    fn what_was_recorded_is_counted_for_an_hour_and_once() {
        let (mut deletions, t0) = (Deletions::new(QUIET), Instant::now());
        let all = names(10);
        deletions.handle_look(&all[..5], 10, t0);
        for name in &all[..5] {
            deletions.handle_recorded(name, t0);
        }
        let again = t0 + QUIET;
        // Made again and gone again it is one image.
        assert!(!deletions.handle_look(&all[..1], 6, again));
        assert!(deletions.handle_look(&all[4..7], 6, again), "six of nine");
        let later = t0 + RECORDED_COUNTS;
        assert!(!deletions.handle_look(&all[5..7], 5, later), "two of five");
        assert_eq!(deletions.poll_due(later + QUIET), Some("005.img"));
    }

    #[test]
    fn an_accident_that_is_over_is_forgotten() {
        let (mut deletions, t0) = (Deletions::new(QUIET), Instant::now());
        assert!(deletions.handle_look(&names(9), 9, t0));
        assert!(!deletions.handle_look(&names(1), 9, t0 + QUIET));
        assert_eq!(deletions.poll_due(t0 + QUIET), Some("000.img"), "one is still gone");
        assert!(deletions.handle_look(&names(9), 9, t0 + QUIET), "news again");
    }
}
