//! Rewound: this node's own past is known elsewhere and not in its catalog. A store or a machine was
//! restored from a backup, or runs twice.
//!
//! Two things tell, both before anything is recorded again: the ledger, which counts what was recorded
//! in each store (a store's directory alone was restored), and what peers say they hold (everything
//! was). From then on we count for somebody new, so that nothing we make can be taken for what was
//! made before. What it means for the one image that is offered is the judge's to say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use blockferry_delta::{ImageName, Lineage, NodeId};

use crate::core::{Core, lock};
use crate::error::Result;
use crate::events::Note;
use crate::local::stores::OpenStore;

/// Who we are in the lineages of a store.
#[derive(Debug, Default)]
pub(crate) struct Rewound {
    /// Whom lineages count what we make now.
    writer: Mutex<Option<NodeId>>,
    /// Somebody is looking into it.
    busy: AtomicBool,
}

/// Compares a store that was just opened with what the ledger knows of it. Blocking.
pub(crate) fn check_opened(core: &Core, store: &OpenStore) -> Result<()> {
    let (name, us) = (&store.config.name, core.config.identity.id());
    let writer = store.store.writer_ids(us)?.first().copied().unwrap_or(us);
    let made = store.store.counted()?;
    let known = core.ledger.counted(name)?;
    if let Some((_, counted)) = known.filter(|(id, counted)| *id == writer && *counted > made) {
        store.store.renew_writer()?;
        let text = format!(
            "{name}: {counted} generations were recorded here and its catalog knows {made}: the \
             store was restored from a backup. What is made here from now on is told apart from what \
             was made before"
        );
        core.events.note(Note::error("HISTORY_FORK", text).store(name));
    }
    refresh(core, store)
}

/// Writes down how much was recorded here, and for whom. Blocking.
pub(crate) fn refresh(core: &Core, store: &OpenStore) -> Result<()> {
    let us = core.config.identity.id();
    let writer = store.store.writer_ids(us)?.first().copied().unwrap_or(us);
    *lock(&store.rewound.writer) = Some(writer);
    core.ledger.note_counted(&store.config.name, writer, store.store.counted()?)
}

/// Looks at what a peer says it holds. It reads the catalog only when something seems wrong.
pub(crate) fn check(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    peer: &str,
    image: &ImageName,
    held: &Lineage,
) {
    let Some(us) = *lock(&store.rewound.writer) else { return };
    let ours = lock(&core.backlog)
        .head(&store.config.name, image)
        .map_or(0, |head| head.version.lineage.count(&us));
    let counted = held.count(&us);
    if counted <= ours || store.rewound.busy.swap(true, Ordering::Relaxed) {
        return;
    }
    let (core, store) = (core.clone(), store.clone());
    let (peer, image) = (peer.to_owned(), image.clone());
    tokio::task::spawn_blocking(move || {
        let renewed = renew(&core, &store, (us, counted), &peer, &image);
        store.rewound.busy.store(false, Ordering::Relaxed);
        if let Err(error) = renewed {
            let note = Note::error(error.code(), error.to_string());
            core.events.note(note.store(&store.config.name));
        }
    });
}

/// Counts for somebody new from now on, unless the catalog says that all is well. Blocking.
fn renew(
    core: &Core,
    store: &OpenStore,
    (us, counted): (NodeId, u64),
    peer: &str,
    image: &ImageName,
) -> Result<()> {
    let now = store.store.writer_ids(core.config.identity.id())?;
    let current = store.store.current(image)?;
    let made = current.map_or(0, |current| current.lineage.count(&us));
    if now.first() != Some(&us) || counted <= made {
        return refresh(core, store);
    }
    store.store.renew_writer()?;
    refresh(core, store)?;
    let text = format!(
        "{}: {peer} knows {counted} generations that this node made, and the catalog here knows \
         {made}: the store or the machine was restored from a backup, or runs twice. What is made \
         here from now on is told apart from it; nothing is overwritten",
        store.full_name(image)
    );
    let note = Note::error("HISTORY_FORK", text);
    core.events.note(note.store(&store.config.name).image(image).peer(&peer));
    Ok(())
}
