//! Proving: images are read back from disk, one whole image and one update at a time.
//!
//! Whoever begins to receive an image interrupts it: a reader of the file would be in the way of a
//! commit. What is interrupted or fails is tried again; what turns out to be damaged is said to
//! everybody and is an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_store::{Discover, Error as StoreError, Generation, Progress, Proven, ReadBack};
use tracing::{debug, warn};

use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::local::stores::{Activity, OpenStore};
use crate::promotion::witness::{Found, Which};

/// Ends with the node, and when the image begins to be received.
struct Interruptible<'a> {
    core: &'a Core,
    store: &'a OpenStore,
    which: &'a Which,
}

impl Progress for Interruptible<'_> {
    fn advance(&self, _done_bytes: u64, _total_bytes: u64) {}

    fn reading(&self, bytes: u64) {
        self.core.before_reading(bytes, || self.cancelled());
    }

    fn cancelled(&self) -> bool {
        let doing = lock(&self.store.activity).get(&self.which.1).copied();
        self.core.is_stopping() || doing == Some(Activity::Receiving)
    }
}

/// Has an image read back; what comes of it is stated.
pub(crate) fn prove(core: &Arc<Core>, which: Which) {
    if !lock(&core.proving).insert(which.clone()) {
        return;
    }
    let core = core.clone();
    tokio::spawn(async move {
        let again = try_prove(&core, &which).await;
        lock(&core.proving).remove(&which);
        match again {
            None => core.witness.touch(&which.0, &which.1),
            Some(pause) => {
                tokio::select! {
                    () = core.stopped() => {}
                    () = tokio::time::sleep(pause) => core.witness.touch(&which.0, &which.1),
                }
            }
        }
    });
}

/// Says after which pause it must be tried again; `None`: there is an outcome.
async fn try_prove(core: &Arc<Core>, which: &Which) -> Option<Duration> {
    after_sending(core, which).await;
    let started = Instant::now();
    // What takes moments doesn't wait behind what takes hours.
    let little = lock(&core.witness.proven).get(which).is_some_and(|found| found.good);
    let turns = core.read_backs[usize::from(little)].clone();
    let Ok(_turn) = turns.acquire_owned().await else { return None };
    if core.is_stopping() {
        return None;
    }
    let (to, of) = (core.clone(), which.clone());
    match blocking("reading back", move || read_back(&to, &of)).await {
        Ok(true) => {
            debug!(store = %which.0, image = %which.1, took = ?started.elapsed(), "read back");
            None
        }
        Ok(false) => Some(budget::READ_BACK_RETRY),
        Err(Error::Store(StoreError::Cancelled)) => Some(budget::READ_BACK_RETRY),
        Err(error) => {
            warn!(image = %which.1, code = error.code(), %error, "not read back");
            Some(core.live().rescan)
        }
    }
}

/// What was recorded here is read again to be sent: reading it back at the same time would take half
/// of the disk from that. Its turn comes afterwards, or after a while.
async fn after_sending(core: &Arc<Core>, which: &Which) {
    let (to, (store, image)) = (core.clone(), which.clone());
    let own = blocking("a look at what is current", move || {
        let current = to.store(store.as_str())?.store.current(&image)?;
        Ok(current.is_some_and(|current| current.discover != Discover::Received))
    });
    if !own.await.unwrap_or(false) {
        return;
    }
    let mut changed = core.changed.subscribe();
    let sending = async {
        while lock(&core.backlog).is_travelling(&which.0, &which.1) {
            // That a peer has it is also learnt from what it says, which wakes nobody.
            let _looked = tokio::time::timeout(budget::READ_BACK_RETRY, changed.changed()).await;
        }
    };
    tokio::select! {
        () = core.stopped() => {}
        _late = tokio::time::timeout(budget::READ_BACK_AFTER_SENDING_MAX, sending) => {}
    }
}

/// A generation was just recorded: what that has read from disk needn't be read again. Blocking.
pub(crate) fn note_recorded(core: &Core, of: &OpenStore, generation: &Generation) -> Result<()> {
    let which = (of.config.name.clone(), generation.image.clone());
    let found = lock(&core.witness.proven).get(&which).copied();
    let before = found.filter(|found| found.good).map(|found| found.proven);
    if let Some(proven) = of.store.proved_by_recording(generation, before.as_ref())? {
        lock(&core.witness.proven).insert(which, Found { proven, good: true });
    }
    Ok(())
}

/// `false`: the file isn't what was recorded, or something else is current by now.
fn read_back(core: &Core, which: &Which) -> Result<bool> {
    let (name, image) = which;
    let Ok(store) = core.store(name.as_str()) else { return Ok(true) };
    let Some(current) = store.store.current(image)? else { return Ok(true) };
    let root = current.root;
    let found = lock(&core.witness.proven).get(which).copied();
    let before = found.filter(|found| found.good).map(|found| found.proven);
    let reading = Interruptible { core, store: &store, which };
    let found = match store.store.read_back(image, &root, before.as_ref(), &reading)? {
        ReadBack::Moved => return Ok(false),
        ReadBack::Good(proven) => Found { proven, good: true },
        ReadBack::Bad(report) => {
            let pages: u64 = report.bad.iter().map(|extent| u64::from(extent.count)).sum();
            let text = format!(
                "{}@{}: read back after it was committed, {} bytes are not what was written",
                store.full_name(image),
                current.number,
                pages * blockferry_delta::PAGE_BYTES as u64
            );
            let note = Note::error("VERIFY_FAILED", text).store(name).image(image);
            core.events.note(note);
            Found { proven: Proven { root, inode: 0, bytes_read: report.bytes }, good: false }
        }
    };
    lock(&core.witness.proven).insert(which.clone(), found);
    Ok(true)
}
