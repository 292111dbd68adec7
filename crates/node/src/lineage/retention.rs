//! Retention: what a store keeps of what isn't current, and what that costs. How long, the store
//! decides by its own order and its own time in service; here it is asked to, now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, Root};
use blockferry_store::CommitMode;
use tracing::{debug, warn};

use crate::core::{Core, blocking};
use crate::error::Result;
use crate::events::Note;
use crate::local::stores::OpenStore;

/// How often what is beyond the retention goes.
const EVERY: Duration = Duration::from_secs(600);

/// When a store was asked last.
#[derive(Debug, Default)]
pub(crate) struct Asked(Option<Instant>);

/// Lets go what is beyond the retention, unless that was done a short while ago.
pub(crate) async fn release(store: &Arc<OpenStore>, asked: &mut Asked) {
    if asked.0.is_some_and(|at| at.elapsed() < EVERY) {
        return;
    }
    asked.0 = Some(Instant::now());
    let (name, store) = (store.config.name.clone(), store.clone());
    match blocking("the retention", move || Ok(store.store.release_expired()?)).await {
        Ok(gone) => {
            for kept in gone {
                debug!(store = %name, image = %kept.image, path = kept.path, "not kept any longer");
            }
        }
        Err(error) => warn!(store = %name, code = error.code(), %error, "the retention waits"),
    }
}

/// Says once what a history costs where storage can't be shared. Blocking.
pub(crate) fn announce(core: &Core, store: &OpenStore) -> Result<()> {
    let retention = store.store.retention();
    if retention.generations == 0 || store.store.commit_mode() == CommitMode::Clone {
        return Ok(());
    }
    let bytes: u64 = store.store.images()?.iter().map(|image| image.data_bytes).sum();
    let most = bytes.saturating_mul(retention.generations.into());
    let text = format!(
        "{}: without reflinks each of the {} generations that are kept is a whole file: up to {most} \
         bytes for the images that are there now, and updates are written as whole files",
        store.config.name, retention.generations
    );
    core.events.note(Note::info("HISTORY_COSTS", text).store(&store.config.name));
    Ok(())
}

/// How many contents are kept, and the storage they use in bytes, shared storage counted, too.
/// Blocking.
pub(crate) fn kept(store: &OpenStore) -> Result<(u64, u64)> {
    let all = store.store.all_kept()?;
    Ok((all.len() as u64, all.iter().map(|kept| kept.allocated_bytes).sum()))
}

/// Roots of an image's contents that are here: the current one and what is kept. Blocking.
pub(crate) fn roots(store: &OpenStore, image: &ImageName) -> Result<Vec<Root>> {
    let current = store.store.current(image)?.filter(|current| !current.is_deleted());
    let kept = store.store.kept(image)?;
    let kept = kept.iter().filter(|kept| !kept.touched).filter_map(|kept| kept.root());
    Ok(current.iter().map(|current| current.root).chain(kept).collect())
}
