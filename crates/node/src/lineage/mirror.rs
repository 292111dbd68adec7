//! Mirrors: what is changed here by hand is undone, and the edit kept.
//!
//! Three steps, each in its place. The store's task records the edit as it records everything, but
//! without a lineage: nobody made it (`looking.rs`). The head that is told to the peers then says that
//! this node holds nothing that counts, so whoever has the image offers it. The judge puts what is
//! replaced aside (`judge.rs`): blocks that are equal don't travel, and the edit is kept until
//! somebody says that it may go. The edit itself is never offered to anybody.

use blockferry_store::{Generation, Why};

use crate::budget::{MIRROR_QUIET_MAX, MIRROR_WAIT_MAX};
use crate::config::StoreConfig;
use crate::core::Core;
use crate::events::Note;
use crate::local::settle::Settle;
use crate::local::stores::OpenStore;

/// When a local change on a mirror is undone: soon, whatever is said about publishing.
pub(crate) fn settle(config: &StoreConfig) -> Settle {
    let quiet = config.settle.min(MIRROR_QUIET_MAX);
    Settle::new(quiet).at_the_latest_after(MIRROR_WAIT_MAX)
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
