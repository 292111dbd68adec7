//! Upkeep: what a store does for the next transfer when the last one is over. Nobody waits for it;
//! an image that is being worked on is left alone, and a failure costs time later, nothing else.

use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::ImageName;
use blockferry_store::CommitMode;
use tracing::{debug, warn};

use crate::core::{Core, blocking};
use crate::local::stores::{OpenStore, Stopping};

/// Proves what recovery finished, and removes what it put aside to be removed.
pub(crate) async fn after_open(store: &Arc<OpenStore>) {
    let (name, store) = (store.config.name.clone(), store.clone());
    let recovered = store.clone();
    match blocking("proving", move || Ok(recovered.store.prove_recovered()?)).await {
        Ok(0) => {}
        Ok(images) => debug!(store = %name, images, "proved after a recovery"),
        Err(error) => warn!(store = %name, code = error.code(), %error, "not proved"),
    }
    match blocking("tidying", move || Ok(store.store.empty_trash()?)).await {
        Ok(0) => {}
        Ok(files) => debug!(store = %name, files, "tidied"),
        Err(error) => warn!(store = %name, code = error.code(), %error, "not tidied"),
    }
}

/// Makes look-ups in the chunk index cheap, before the first chunks of a transfer are looked up if
/// it can be. A store that receives nothing needs none of it.
pub(crate) fn before_receiving(core: &Arc<Core>, store: &Arc<OpenStore>) {
    let (core, store) = (core.clone(), store.clone());
    tokio::spawn(async move {
        let (name, started) = (store.config.name.clone(), Instant::now());
        let prepared = blocking("preparing the chunk index", move || {
            Ok(store.store.prepare_index(&Stopping { core: &core, inner: &() })?)
        });
        match prepared.await {
            Ok(false) => {}
            Ok(true) => debug!(store = %name, took = ?started.elapsed(), "chunk index prepared"),
            Err(error) => warn!(store = %name, code = error.code(), %error, "look-ups are slow"),
        }
    });
}

/// Reads what was received into the page cache, where the store is told to, and brings the spare of
/// the image up to date, so that its next update needn't.
pub(crate) fn after_commit(core: &Arc<Core>, store: &Arc<OpenStore>, image: ImageName) {
    if store.config.warm {
        warm(core, store, image.clone());
    }
    if store.store.commit_mode() == CommitMode::Clone {
        return;
    }
    let (core, store) = (core.clone(), store.clone());
    tokio::spawn(async move {
        let Ok(permit) = core.jobs.clone().acquire_owned().await else { return };
        if core.is_stopping() {
            return;
        }
        let (name, of) = (store.full_name(&image), image.clone());
        let freshened = blocking("freshening a spare", move || {
            let _held = permit;
            let stopping = Stopping { core: &core, inner: &() };
            Ok(store.store.freshen_spare_with(&of, &stopping)?)
        });
        match freshened.await {
            Ok(current) => debug!(image = name, current, "looked after the spare"),
            Err(error) => {
                warn!(image = name, code = error.code(), %error, "the spare is not up to date");
            }
        }
    });
}

fn warm(core: &Arc<Core>, store: &Arc<OpenStore>, image: ImageName) {
    let (core, store) = (core.clone(), store.clone());
    tokio::spawn(async move {
        let name = store.full_name(&image);
        let warmed = blocking("warming an image", move || {
            Ok(store.store.warm(&image, &Stopping { core: &core, inner: &() })?)
        });
        match warmed.await {
            Ok(bytes) => debug!(image = name, bytes, "warmed"),
            Err(error) => warn!(image = name, code = error.code(), %error, "not warmed"),
        }
    });
}
