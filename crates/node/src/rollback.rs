//! `rollback`: an earlier content becomes a new generation here, which travels to the others. Those
//! that still hold the content take it from their own disk.

use std::sync::Arc;
use std::time::Instant;

use blockferry_store::{Error as StoreError, Recorded};

use crate::api::{Answer, Role, RollbackReport, Schema};
use crate::core::{Core, blocking, head_of};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::requests::{Spec, done};
use crate::sets;
use crate::stores::{Activity, OpenStore, Stopping};

/// Makes the content of a generation the current one again.
pub(crate) async fn rollback(core: &Arc<Core>, what: &Spec) -> Result<Answer> {
    let started = Instant::now();
    let (store, image) = (what.store.clone(), what.image.clone());
    let name = store.full_name(&image);
    let Some(number) = what.number else {
        let what = format!("to which generation? {name}@NUMBER, from: blockferry image history");
        return Err(Error::Control { what });
    };
    if store.config.role == Role::Mirror {
        return Err(Error::MirrorOf { image: name, writers: writers(core, &store) });
    }
    let permit = core.jobs.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
    let doing = store.begin(&image, Activity::Recording)?;
    let (to, at) = (store.clone(), core.clone());
    let recorded = blocking("a rollback", move || {
        let _held = (permit, doing);
        let (author, stopping) = (at.config.identity.id(), Stopping { core: &at, inner: &() });
        to.made_here(&image);
        match to.store.rollback(&image, number, author, now_unix_ms(), &stopping) {
            Ok(Recorded::New(generation)) => {
                at.note_head(&to, &generation, head_of(&to, &generation)?);
                let name = to.full_name(&image);
                let text = format!("{name}@{}: the content of @{number} again", generation.number);
                let note = Note::info("ROLLED_BACK", text);
                at.events.note(note.store(&to.config.name).image(&image));
                sets::recorded(&at, &to, &generation);
                Ok(Recorded::New(generation))
            }
            Err(StoreError::NotKept { .. }) => Err(not_kept(&at, &to, &image, number)?),
            other => Ok(other?),
        }
    })
    .await?;
    store.wake.notify_one();
    let generation = recorded.generation();
    done(&RollbackReport {
        schema: Schema,
        image: name,
        from: number,
        recorded: matches!(recorded, Recorded::New(_)),
        generation: generation.number,
        root: generation.root.to_string(),
        size_bytes: generation.size_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Who of the others may make generations, as far as we know.
fn writers(core: &Core, store: &OpenStore) -> Vec<String> {
    let sharers = core.sharers(&store.config.name);
    let writes = |peer: &&Arc<crate::peer::Peer>| peer.role(&store.config.name).is_none();
    sharers.iter().filter(writes).map(|peer| peer.name()).collect()
}

/// Why there is no way back here, and who may have the content.
fn not_kept(
    core: &Core,
    store: &OpenStore,
    image: &blockferry_delta::ImageName,
    number: u64,
) -> Result<Error> {
    let name = store.full_name(image);
    let history = store.store.history(image)?;
    let Some(generation) = history.iter().find(|g| g.number == number) else {
        return Ok(Error::GenerationUnknown { image: format!("{name}@{number}") });
    };
    let mut who: Vec<_> = store.store.receipts(image)?;
    who.retain(|(_, _, root)| *root == generation.root);
    let mut peers: Vec<String> = who.iter().map(|(id, _, _)| core.name_of(id)).collect();
    let author = generation.author;
    if author != core.config.identity.id() && !peers.contains(&core.name_of(&author)) {
        peers.push(core.name_of(&author));
    }
    Ok(Error::NotKept { image: name, number, peers })
}
