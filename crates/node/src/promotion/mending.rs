//! Mending: what rotted on this disk is fetched again from a peer that holds the same generation.
//!
//! While it is mended the peers hear of the image, as of an edited mirror, that what is held here is
//! older than whatever somebody made: whoever has it offers it, under its own limits and calendar.
//! Which bytes travel and what is written is the exchange's and the store's; here it is only waited
//! for, and said how it ended. Nothing is changed where it came to nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, Root};
use blockferry_store::{Damage, Error as StoreError, Generation, Proven, VerifyReport, Why};
use blockferry_wire::Refusal;

use crate::budget;
use crate::core::{Core, blocking, key, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::link::peer::Peer;
use crate::local::stores::{Activity, OpenStore};
use crate::promotion::proving;
use crate::promotion::witness::Found;
use crate::transfer::exchange::RecvOutcome;

/// How mending ended: `Err` says in words why it came to nothing.
pub(crate) type Ended = std::result::Result<(), String>;

/// While it is there an image is being mended.
struct Turn {
    core: Arc<Core>,
    store: Arc<OpenStore>,
    image: ImageName,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.store.store.end_mending(&self.image);
        announce(&self.core, &self.store, &self.image);
    }
}

/// Mends what `report` found of the current generation of an image, which has `root`. It goes on
/// whether anybody waits for it or not.
pub(crate) async fn mend(
    core: Arc<Core>,
    store: Arc<OpenStore>,
    image: ImageName,
    report: VerifyReport,
) -> Result<Ended> {
    let name = store.full_name(&image);
    let ended = try_mend(&core, &store, &image, report).await?;
    match &ended {
        Ok(()) => {
            let which = (store.config.name.clone(), image.clone());
            lock(&core.witness.proven).remove(&which);
            proving::prove(&core, which);
        }
        Err(why) => {
            let note = Note::error("REPAIR_FAILED", format!("{name} is not repaired: {why}"));
            core.events.note(note.store(&store.config.name).image(&image));
        }
    }
    Ok(ended)
}

async fn try_mend(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    image: &ImageName,
    report: VerifyReport,
) -> Result<Ended> {
    let (from, of) = (store.clone(), image.clone());
    let looked = blocking("looking at what rotted", move || Ok(from.store.damage(&of, &report)?));
    let damage = match looked.await {
        Ok(damage) => damage,
        Err(Error::Store(StoreError::LocalChange(_))) => {
            return Ok(Err("it was changed here; that is no rot".to_owned()));
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    if holders(core, store, damage.generation()).is_empty() {
        return Ok(Err(NO_HOLDER.to_owned()));
    }
    let Some(damage) = store.store.begin_mending(damage) else {
        return Ok(Err("it is being repaired already".to_owned()));
    };
    let _turn = Turn { core: core.clone(), store: store.clone(), image: image.clone() };
    announce(core, store, image);
    wait(core, store, &damage).await
}

const NO_HOLDER: &str = "no connected peer holds this generation; the file is left as it is";

/// Waits for a peer to send it.
async fn wait(core: &Arc<Core>, store: &Arc<OpenStore>, damage: &Arc<Damage>) -> Result<Ended> {
    let image = &damage.generation().image;
    let mut changed = core.changed.subscribe();
    let mut idle_since = Instant::now();
    loop {
        let (from, of) = (store.clone(), image.clone());
        let current = blocking("looking up an image", move || Ok(from.store.current(&of)?)).await?;
        let same = current.is_some_and(|current| damage.is_of(&current));
        if !same || store.store.mending(image).is_none() {
            // Mended; or what came was a newer generation, which was built as carefully.
            return Ok(Ok(()));
        }
        let receiving = lock(&store.activity).get(image) == Some(&Activity::Receiving);
        let holders = holders(core, store, damage.generation());
        let (failures, last) = damage.failures();
        if receiving {
            idle_since = Instant::now();
        } else if let Some(why) = given_up(failures, last, holders.len(), idle_since.elapsed()) {
            return Ok(Err(why));
        }
        if core.is_stopping() {
            return Err(Error::Stopping);
        }
        let _woken = tokio::time::timeout(budget::PROGRESS_EVERY, changed.changed()).await;
    }
}

/// Why it is no longer waited for, if nothing is on its way since `idle`.
fn given_up(
    failures: usize,
    last: Option<String>,
    holders: usize,
    idle: Duration,
) -> Option<String> {
    if failures > 0 && failures >= holders {
        return last;
    }
    if holders == 0 && idle >= budget::MEND_PEER_WAIT {
        return Some(NO_HOLDER.to_owned());
    }
    let minutes = budget::MEND_WAIT_MAX.as_secs() / 60;
    (idle >= budget::MEND_WAIT_MAX)
        .then(|| format!("no peer has begun to send it within {minutes} minutes"))
}

/// Connected peers that say that they hold this content.
fn holders(core: &Core, store: &OpenStore, generation: &Generation) -> Vec<Arc<Peer>> {
    let name = &store.config.name;
    let sharers = core.sharers(name);
    let backlog = lock(&core.backlog);
    let holds = |peer: &Arc<Peer>| {
        let held = backlog.peer_head(&key(peer.id, name, &generation.image));
        held.is_some_and(|held| held.root == generation.root)
    };
    sharers.into_iter().filter(holds).collect()
}

fn announce(core: &Core, store: &OpenStore, image: &ImageName) {
    for peer in core.sharers(&store.config.name) {
        peer.announce(store.config.name.clone(), image.clone());
    }
    core.wake();
}

/// What was read shows rot: nobody is to be told any longer that it is verified here.
pub(crate) fn note_rot(core: &Core, store: &OpenStore, image: &ImageName, root: Root) {
    let found = Found { proven: Proven { root, inode: 0, bytes_read: 0 }, good: false };
    let which = (store.config.name.clone(), image.clone());
    lock(&core.witness.proven).insert(which, found);
    core.witness.touch(&store.config.name, image);
}

/// What came of a transfer, if its image is being mended.
pub(crate) fn note_outcome(store: &OpenStore, outcome: &RecvOutcome) {
    let (image, why) = match outcome {
        RecvOutcome::Refused { image, text, .. } => (image, text.clone()),
        RecvOutcome::FailedHere { image, error } => (image, error.to_string()),
        // What is wrong there, too; a pause or a restart is no failure.
        RecvOutcome::Cancelled {
            image,
            code: Refusal::SourceTorn | Refusal::SourceMissing | Refusal::DiskError,
            text,
        } => (image, text.clone()),
        _ => return,
    };
    if let Some(damage) = store.store.mending(image) {
        damage.note_failure(why);
    }
}

/// One event for what was mended, with where the rotten file is now. Blocking.
pub(crate) fn tell_mended(
    core: &Core,
    store: &OpenStore,
    peer: &str,
    (now, wire_bytes): (&Generation, u64),
) {
    let image = &now.image;
    let kept = store.store.kept(image).unwrap_or_default();
    let rotten = kept.into_iter().find(|kept| kept.why == Why::Damaged);
    let path = rotten.map(|kept| store.config.path.join(kept.path).display().to_string());
    let path = path.unwrap_or_else(|| ".blockferry/kept".to_owned());
    let name = store.full_name(image);
    let text = format!(
        "{name}@{}: what had rotted is repaired with what {peer} has, {wire_bytes} bytes received; the \
         damaged file is kept as {path} until: blockferry resolve {name} --acknowledge",
        now.number
    );
    let note = Note::warning("REPAIRED", text).store(&store.config.name);
    core.events.note(note.image(image).peer(&peer));
    store.no_trouble(image);
    core.wake();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_waited_for_while_somebody_may_still_send_it() {
        let soon = Duration::from_secs(1);
        let why = || Some("torn there".to_owned());
        let rows = [
            // failures, holders, idle, given up
            (0, 1, soon, None),
            (1, 2, soon, None), // the other one may have it right
            (1, 1, soon, why()),
            (2, 2, soon, why()),
            (0, 0, soon, None), // its link may come back
            (0, 0, budget::MEND_PEER_WAIT, Some(NO_HOLDER.to_owned())),
            (1, 0, soon, why()),
        ];
        for (failures, holders, idle, expected) in rows {
            let last = (failures > 0).then(|| why().expect("words"));
            assert_eq!(given_up(failures, last, holders, idle), expected, "{failures} {holders}");
        }
        let late = given_up(0, None, 3, budget::MEND_WAIT_MAX).expect("given up");
        assert!(late.contains("10 minutes"), "{late}");
    }
}
