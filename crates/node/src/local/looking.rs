//! The task of a store: it is looked at, what has been quiet for long enough is recorded.
//!
//! A watch says that something moved, a timed rescan is the truth; either way the store is looked
//! at (one stat per file, no image data), and files that have been quiet long enough are recorded
//! one at a time in the blocking pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::ImageName;
use blockferry_store::{Look, LookState};
use tokio::sync::SemaphorePermit;
use tracing::debug;

use crate::api::Role;
use crate::budget;
use crate::config::InUse;
use crate::core::{Core, blocking, head_of, key, lock};
use crate::error::Result;
use crate::events::{Note, now_unix_ms};
use crate::lineage::diverged;
use crate::lineage::{deletions, mirror, retention, rewound};
use crate::local::settle::Seen;
use crate::local::stores::OpenStore;
use crate::local::{recording, sets, upkeep};

/// Takes a store into service: its heads and receipts go to the backlog. Blocking.
pub(crate) fn introduce(core: &Core, store: &OpenStore) -> Result<()> {
    recording::announce(core, store);
    retention::announce(core, store)?;
    rewound::check_opened(core, store)?;
    for generation in store.store.heads()? {
        for (peer, number, root) in store.store.receipts(&generation.image)? {
            let key = key(peer, &store.config.name, &generation.image);
            lock(&core.backlog).handle_receipt(key, number, root);
        }
        let head = head_of(store, &generation)?;
        core.note_head(store, &generation, head);
        diverged::prefer(core, store, &generation.image)?;
    }
    Ok(())
}

/// Looks after a store until the node stops or the store is removed.
pub(crate) async fn run(core: Arc<Core>, store: Arc<OpenStore>) {
    let _watch = core.watching.watch(&store.config.path, store.wake.clone());
    {
        let _turn = turn(&core).await;
        upkeep::after_open(&store).await;
    }
    let mut gone = store.gone.subscribe();
    let mut asked = retention::Asked::default();
    loop {
        let pause = match round(&core, &store).await {
            Ok(pause) => {
                store.no_news("round");
                let _turn = turn(&core).await;
                retention::release(&store, &mut asked).await;
                pause
            }
            Err(error) => {
                if store.news("round".into()) {
                    let note = Note::error(error.code(), error.to_string());
                    core.events.note(note.store(&store.config.name));
                }
                core.live().rescan
            }
        };
        tokio::select! {
            () = core.stopped() => return,
            () = closed(&mut gone) => return,
            () = tokio::time::sleep(pause) => {}
            () = store.wake.notified() => tokio::time::sleep(budget::WATCH_QUIET).await,
        }
    }
}

/// Waits for a turn to look at a store: each takes a thread, and many stores want one at the start.
async fn turn(core: &Core) -> Option<SemaphorePermit<'_>> {
    tokio::time::timeout(budget::LOOK_TURN_MAX, core.looks.acquire()).await.ok()?.ok()
}

/// Resolves when the store is out of service.
async fn closed(gone: &mut tokio::sync::watch::Receiver<bool>) {
    // The sender is part of the store and outlives its task.
    let _closed = gone.wait_for(|gone| *gone).await.is_ok();
}

/// One look, and everything that is due; says how long until the next.
async fn round(core: &Arc<Core>, store: &Arc<OpenStore>) -> Result<Duration> {
    tell_slow_commits(core, store);
    let turn = turn(core).await;
    let at = Instant::now();
    let (to, looking) = (core.clone(), store.clone());
    let look = move || {
        let found = looking.store.look()?;
        let lost = mirror::lost(&looking, &found)?;
        // What isn't taken is never gone.
        let images = looking.store.images()?;
        let images = images.iter().filter(|image| looking.takes(image.image.as_str())).count();
        Ok((found, images, lost, sets::look(&to, &looking)?))
    };
    let (looks, images, lost, sets) = blocking("a look", look).await?;
    drop(turn);
    debug!(store = %store.config.name, files = looks.len(), took = ?at.elapsed(), "looked");
    take_looks(core, store, &looks, images, lost);
    store.unblock(&mut |name| sets::may_go_on(store, &sets, name));
    loop {
        if core.is_stopping() {
            return Ok(core.live().rescan);
        }
        let due = lock(&store.settle).poll_due(Instant::now(), now_unix_ms());
        let Some(name) = due else { break };
        settle_one(core, store, &name).await;
    }
    deletions::record_due(core, store).await;
    let wake = lock(&store.settle).next_wake(Instant::now(), now_unix_ms());
    let gone = lock(&store.deletions).next_wake(Instant::now());
    let wake = wake.into_iter().chain(gone).min();
    // A file that is due again at once was being written: one look a second is enough.
    let wake = wake.map_or(core.live().rescan, |w| w.max(Duration::from_secs(1)));
    Ok(wake.min(core.live().rescan))
}

/// `changed` has what a mirror lost.
fn take_looks(
    core: &Core,
    store: &OpenStore,
    looks: &[Look],
    images: usize,
    mut changed: Vec<Seen>,
) {
    let mut seen = BTreeMap::new();
    let mut gone = Vec::new();
    let writer = store.config.role == Role::Writer;
    let moved =
        |look: &Look| writer && look.moved_to.as_deref().is_some_and(|name| store.takes(name));
    for look in looks.iter().filter(|l| store.takes(&l.name)) {
        match look.state {
            LookState::Unchanged => {
                store.no_news(&look.name);
                continue;
            }
            LookState::New | LookState::Changed => changed.push(Seen {
                name: look.name.clone(),
                quiet_since_unix_ms: look.quiet_since_unix_ms,
            }),
            // Renamed: it is as deleted as its new name is recorded (`deletions::note_renames`).
            LookState::Missing if moved(look) => {}
            LookState::Missing if writer => gone.push(look.name.clone()),
            LookState::Missing => tell(core, store, look, "SOURCE_MISSING", "the file is gone"),
            LookState::BadName => tell(core, store, look, "BAD_NAME", "no name for an image"),
            LookState::NotRegular => {
                tell(core, store, look, "SOURCE_NOT_REGULAR", "not a regular file");
            }
        }
        seen.insert(look.name.clone(), look.state);
    }
    lock(&store.settle).handle_seen(&changed, Instant::now());
    let before = std::mem::replace(&mut *lock(&store.seen), seen.clone());
    core.witness.touch_seen(&store.config.name, &before, &seen);
    deletions::take(core, store, &gone, images);
}

/// Tells of commits in place that took too long, those of a recovery among them. A commit changes
/// the image's file, so that the next look comes soon.
fn tell_slow_commits(core: &Core, store: &OpenStore) {
    for image in store.store.take_slow_commits() {
        let text = format!(
            "{}: the image was written to for longer than openers wait: who opened it then may have \
             seen a mix of two generations",
            store.full_name(&image)
        );
        let note = Note::warning("COMMIT_SLOW", text);
        core.events.note(note.store(&store.config.name).image(&image));
    }
}

/// One event per file and trouble.
fn tell(core: &Core, store: &OpenStore, look: &Look, code: &'static str, text: &str) {
    if store.news(look.name.clone()) {
        let note = Note::warning(code, format!("{}: {text}", look.name));
        core.events.note(note.store(&store.config.name).image(&look.name));
    }
}

async fn settle_one(core: &Arc<Core>, store: &Arc<OpenStore>, name: &str) {
    let Ok(image) = ImageName::new(name) else {
        lock(&store.settle).handle_recorded(name);
        return;
    };
    let result = match recording::record(core, store, &image, None, Arc::new(())).await {
        Ok(_) => Ok(()),
        Err(error) => mirror::undo_loss(core, store, &image, error).await,
    };
    let now = Instant::now();
    let mut settle = lock(&store.settle);
    let Err(error) = result else {
        settle.handle_recorded(name);
        return;
    };
    let in_use = matches!(error.code(), "IN_USE" | "UNCLEAN");
    let never = store.live_config().in_use == InUse::Never && in_use;
    let news = if never {
        settle.handle_left_alone(name, error.code(), now)
    } else {
        settle.handle_failed(name, error.code(), now)
    };
    drop(settle);
    if news {
        let note = Note::warning(error.code(), error.to_string());
        core.events.note(note.store(&store.config.name).image(&name));
    }
}
