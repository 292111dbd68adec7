//! Opening: all stores of a node at its start, several beside each other.
//!
//! Opening a store waits for its disk a few times; with hundreds of stores one after the other that is
//! most of a minute, beside each other the disk's own journal makes many of these waits one. A store
//! that can't be opened keeps the rest from nothing: it is told as an event and tried again.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::budget;
use crate::config::StoreConfig;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::Note;
use crate::local::absent::retry_store;
use crate::local::stores::Origin;
use crate::node::serve_store;

/// Opens stores, of which each says whether it stands in the configuration file. Gives the tasks that
/// try again those that are not in service.
///
/// # Errors
/// A store that is locked means a second process: the node does not start.
pub(crate) async fn all(
    core: &Arc<Core>,
    stores: Vec<(StoreConfig, bool)>,
) -> Result<Vec<JoinHandle<()>>> {
    let turns = Arc::new(Semaphore::new(budget::STORES_OPENING_MAX));
    let mut opening = JoinSet::new();
    for (store, configured) in stores {
        let (core, turns) = (core.clone(), turns.clone());
        opening.spawn(async move {
            // Never closed.
            let _turn = turns.acquire_owned().await;
            let opened = serve_store(&core, store.clone(), configured, Origin::Ours).await;
            (store, configured, opened)
        });
    }
    let mut retrying = Vec::new();
    while let Some(ended) = opening.join_next().await {
        let (store, configured, opened) =
            ended.map_err(|_| Error::Broken { what: "opening a store" })?;
        match opened {
            Ok(()) => {}
            Err(error) if error.code() == "STORE_LOCKED" => return Err(error),
            Err(error) => {
                let text = core.absent.note(&store, &error);
                core.events.note(Note::error(error.code(), text).store(&store.name));
                retrying.push(tokio::spawn(retry_store(core.clone(), store, configured)));
            }
        }
    }
    Ok(retrying)
}
