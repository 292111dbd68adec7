//! Mirrors: what is changed here by hand is undone, and the edit kept.
//!
//! Three steps, each in its place. The store's task records the edit as it records everything, but
//! without a lineage: nobody made it (`looking.rs`). The head that is told to the peers then says that
//! this node holds nothing that counts, so whoever has the image offers it. The judge puts what is
//! replaced aside (`judge.rs`): blocks that are equal don't travel, and the edit is kept until
//! somebody says that it may go. The edit itself is never offered to anybody.
//!
//! A file that was taken away, cut to nothing or replaced by something else is such an edit without
//! a content: what is in its place is put aside, and a deletion without a lineage is recorded. That
//! nobody made either, so the image comes back; from the held base, where there is one.

use std::sync::Arc;

use blockferry_delta::ImageName;
use blockferry_store::{Error as StoreError, Generation, Look, LookState, Why};

use crate::api::Role;
use crate::budget::{MIRROR_QUIET_MAX, MIRROR_WAIT_MAX};
use crate::config::StoreConfig;
use crate::core::{Core, blocking, head_of};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::local::adoption;
use crate::local::settle::{Seen, Settle};
use crate::local::stores::{Activity, OpenStore};

/// When a local change on a mirror is undone: soon, whatever is said about publishing.
pub(crate) fn settle(config: &StoreConfig) -> Settle {
    let quiet = config.settle.min(MIRROR_QUIET_MAX);
    Settle::new(quiet).at_the_latest_after(MIRROR_WAIT_MAX)
}

/// What a look saw of a mirror's images that have no file any more, as changes that settle.
/// Blocking.
pub(crate) fn lost(store: &OpenStore, looks: &[Look]) -> Result<Vec<Seen>> {
    let mut lost = Vec::new();
    if store.config.role != Role::Mirror || !adoption::judges_files(store) {
        return Ok(lost);
    }
    for look in looks.iter().filter(|look| store.takes(&look.name)) {
        let Ok(image) = ImageName::new(&look.name) else { continue };
        let quiet_since_unix_ms = match look.state {
            // Nobody knows since when: our own watch counts.
            LookState::Missing => i64::MAX,
            LookState::NotRegular => look.quiet_since_unix_ms,
            _ => continue,
        };
        // What nobody has confirmed is offered already; what never was an image is none of ours.
        let current = store.store.current(&image)?;
        let missing = look.state == LookState::Missing;
        if current.is_some_and(|current| !missing || !current.is_adopted()) {
            lost.push(Seen { name: look.name.clone(), quiet_since_unix_ms });
        }
    }
    Ok(lost)
}

/// Undoes it that an image has no content any more on a mirror: `why` it could not be recorded. The
/// head that is told says that nothing is here, so that whoever has the image offers it.
///
/// # Errors
/// `why`, if it is no such loss.
pub(crate) async fn undo_loss(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    image: &ImageName,
    why: Error,
) -> Result<()> {
    let is_loss = matches!(
        why,
        Error::Store(
            StoreError::SourceMissing(_) | StoreError::Empty(_) | StoreError::NotRegular(_)
        )
    );
    if !is_loss || store.config.role != Role::Mirror || !adoption::judges_files(store) {
        return Err(why);
    }
    let doing = store.begin(image, Activity::Recording)?;
    let (core, store, image) = (core.clone(), store.clone(), image.clone());
    blocking("undoing a loss", move || {
        let _held = doing;
        // What never was an image here is left alone.
        if store.store.current(&image)?.is_none() {
            return Err(why);
        }
        store.made_here(&image);
        let aside = store.store.clear_place(&image, now_unix_ms())?;
        let author = core.config.identity.id();
        match store.store.record_deletion(&image, author, now_unix_ms()) {
            Ok(gone) => {
                store.no_longer_seen(&image);
                core.note_head(&store, &gone, head_of(&store, &gone)?);
            }
            // The head says already that nothing that counts is here.
            Err(StoreError::SourceMissing(_) | StoreError::NotFound(_)) if aside.is_some() => {}
            Err(error) => return Err(error.into()),
        }
        core.witness.touch(&store.config.name, &image);
        tell_lost(&core, &store, &image, aside.as_deref());
        Ok(())
    })
    .await
}

/// One event for an image that was lost here.
fn tell_lost(core: &Core, store: &OpenStore, image: &ImageName, aside: Option<&str>) {
    let name = store.full_name(image);
    let kept = aside.map(|path| {
        let path = store.config.path.join(path);
        format!("; what was in its place is kept as {}", path.display())
    });
    let text = format!(
        "{name}: its content was taken away here, in a mirror: that doesn't travel; it comes back \
         as soon as a peer offers the image{}",
        kept.unwrap_or_default()
    );
    let note = Note::warning("LOCAL_CHANGE", text);
    core.events.note(note.store(&store.config.name).image(image));
}

/// One event for an edit that was found.
pub(crate) fn tell_edited(core: &Core, store: &OpenStore, edit: &Generation) {
    let text = format!(
        "{}: changed here, in a mirror: the change doesn't travel; it is set aside as soon as a \
         peer offers the image",
        store.full_name(&edit.image)
    );
    let note = Note::warning("LOCAL_CHANGE", text);
    core.events.note(note.store(&store.config.name).image(&edit.image));
}

/// One event for an edit that was undone, with where it is now. Blocking.
pub(crate) fn tell_restored(core: &Core, store: &OpenStore, peer: &str, now: &Generation) {
    let image = &now.image;
    let kept = store.store.kept(image).unwrap_or_default();
    let edit = kept.into_iter().find(|kept| kept.why == Why::Edit);
    let path = edit.map(|kept| store.config.path.join(kept.path).display().to_string());
    let path = path.unwrap_or_else(|| ".blockferry/kept".to_owned());
    let name = store.full_name(image);
    let text = format!(
        "{name}: what was changed here, in a mirror, is undone with what {peer} has; the edit is \
         kept as {path} until: blockferry resolve {name} --acknowledge"
    );
    let note = Note::warning("MIRROR_RESTORED", text);
    core.events.note(note.store(&store.config.name).image(image).peer(&peer));
}
