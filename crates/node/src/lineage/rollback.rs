//! `rollback`: an earlier content becomes a new generation here, which travels to the others. Those
//! that still hold the content take it from their own disk. The images of its set that have changed
//! since go back with it, as one, so that chains work afterwards; if they would not, nothing does.

use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::ImageName;
use blockferry_store::{Error as StoreError, Recorded};

use crate::admin::requests::{Spec, done};
use crate::api::{Answer, Role, RollbackReport, RolledBack, Schema};
use crate::core::{Core, blocking, head_of};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::lineage::rewound;
use crate::local::recording::Telling;
use crate::local::sets;
use crate::local::stores::{Activity, Doing, OpenStore};

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
    // Nothing of its set is recorded or received meanwhile: what is decided is still so when it is done.
    let mut claimed = sets::companions(&store, &image);
    claimed.push(image.clone());
    let doing: Result<Vec<Doing>> =
        claimed.iter().map(|image| store.begin(image, Activity::Recording)).collect();
    let (to, at, of, doing) = (store.clone(), core.clone(), image.clone(), doing?);
    let went = blocking("a rollback", move || {
        let _held = (permit, doing);
        let going = match sets::going_back(&to, &of, number) {
            Err(Error::Store(StoreError::NotKept { .. })) => {
                return Err(not_kept(&at, &to, &of, number)?);
            }
            other => other?,
        };
        if let Some((other, _)) = going.iter().find(|(image, _)| !claimed.contains(image)) {
            return Err(Error::Busy { image: to.full_name(other) });
        }
        go_back(&at, &to, going, (&of, number))
    });
    let mut rows = went.await?;
    store.wake.notify_one();
    let own = rows.iter().position(|row| row.image == name);
    let own = rows.remove(own.ok_or(Error::Broken { what: "a rollback" })?);
    let RolledBack { from, recorded, generation, root, size_bytes, .. } = own;
    done(&RollbackReport {
        schema: Schema,
        image: name,
        from,
        recorded,
        generation,
        root,
        size_bytes,
        seconds: started.elapsed().as_secs_f64(),
        with: rows,
    })
}

/// Makes earlier contents current, as one, and tells of them. Blocking.
fn go_back(
    core: &Core,
    store: &OpenStore,
    going: Vec<(ImageName, u64)>,
    (image, number): (&ImageName, u64),
) -> Result<Vec<RolledBack>> {
    let author = core.config.identity.id();
    let telling = Telling { core, store, image: None, inner: &() };
    going.iter().for_each(|(image, _)| store.made_here(image));
    let recorded = match store.store.rollback_set(&going, author, now_unix_ms(), &telling) {
        Err(StoreError::NotKept { image: which, .. }) if which == *image => {
            return Err(not_kept(core, store, image, number)?);
        }
        other => other?,
    };
    rewound::refresh(core, store)?;
    let mut rows = Vec::new();
    for (recorded, (_, from)) in recorded.into_iter().zip(going) {
        let generation = recorded.generation();
        let name = store.full_name(&generation.image);
        let is_new = matches!(recorded, Recorded::New(_));
        if is_new {
            core.note_head(store, generation, head_of(store, generation)?);
            let text = format!("{name}@{}: the content of @{from} again", generation.number);
            let note = Note::info("ROLLED_BACK", text).store(&store.config.name);
            core.events.note(note.image(&generation.image));
            sets::recorded(core, store, generation);
        }
        rows.push(RolledBack {
            image: name,
            from,
            recorded: is_new,
            generation: generation.number,
            root: generation.root.to_string(),
            size_bytes: generation.size_bytes,
        });
    }
    Ok(rows)
}

/// Who of the others may make generations, as far as we know.
fn writers(core: &Core, store: &OpenStore) -> Vec<String> {
    let sharers = core.sharers(&store.config.name);
    let writes = |peer: &&Arc<crate::link::peer::Peer>| peer.role(&store.config.name).is_none();
    sharers.iter().filter(writes).map(|peer| peer.name()).collect()
}

/// Why there is no way back here, and who may have the content.
fn not_kept(core: &Core, store: &OpenStore, image: &ImageName, number: u64) -> Result<Error> {
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
