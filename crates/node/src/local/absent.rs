//! Stores that should be in service and are not: the directory isn't there, or isn't what it was.
//!
//! The one place that says which these are and why. They are tried again at every `node.rescan`, so
//! that a disk that is mounted late needs nobody; until then everything else works, and who asks for
//! one of them hears the reason instead of "no such store".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use blockferry_delta::StoreName;
use tracing::debug;

use crate::api::StoreRow;
use crate::config::StoreConfig;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::local::stores::Origin;
use crate::node;

/// Why stores could not be taken into service when that was tried last: code and words.
#[derive(Debug, Default)]
pub(crate) struct Absent(Mutex<BTreeMap<StoreName, (&'static str, String)>>);

impl Absent {
    /// It could not be taken into service.
    pub(crate) fn note(&self, store: &StoreConfig, error: &Error) -> String {
        let text = format!("{}: {error}", store.path.display());
        lock(&self.0).insert(store.name.clone(), (error.code(), text.clone()));
        text
    }

    /// It is in service, or nobody wants it any more.
    pub(crate) fn forget(&self, name: &StoreName) {
        lock(&self.0).remove(name);
    }

    fn why(&self, name: &StoreName) -> (&'static str, String) {
        let known = lock(&self.0).get(name).cloned();
        known.unwrap_or_else(|| ("STORE_MISSING", "it is not in service yet".to_owned()))
    }
}

/// Stores that should be in service and are not, by name; `true`: of the configuration file.
pub(crate) fn all(core: &Core) -> Vec<(StoreConfig, bool)> {
    let serving = core.all_stores();
    let live = core.live();
    let mut all: BTreeMap<StoreName, (StoreConfig, bool)> = BTreeMap::new();
    let added = lock(&core.members).stores.values().cloned().collect::<Vec<_>>();
    all.extend(added.into_iter().map(|store| (store.name.clone(), (store, false))));
    all.extend(live.stores.iter().map(|store| (store.name.clone(), (store.clone(), true))));
    all.retain(|name, _| !serving.iter().any(|store| store.config.name == *name));
    all.into_values().collect()
}

/// What who asks for a store hears that is not in service.
pub(crate) fn unknown(core: &Core, name: &str) -> Error {
    let absent = all(core).into_iter().find(|(store, _)| store.name.as_str() == name);
    let Some((store, _)) = absent else { return Error::StoreUnknown { name: name.to_owned() } };
    let (code, what) = core.absent.why(&store.name);
    Error::StoreAbsent { name: store.name.to_string(), code, what }
}

/// Its row among the others.
pub(crate) fn row(core: &Core, store: &StoreConfig) -> StoreRow {
    let sharers = core.sharers(&store.name);
    StoreRow {
        name: store.name.to_string(),
        path: store.path.display().to_string(),
        role: store.role,
        commit_mode: "-".to_owned(),
        images: 0,
        in_sync: false,
        id: String::new(),
        peers: sharers.iter().map(|peer| peer.name()).collect(),
        finish: None,
        free_bytes: None,
        kept: 0,
        kept_bytes: 0,
        trouble: Some(core.absent.why(&store.name).0.to_owned()),
    }
}

/// Takes a store of a configuration that was read again into service, now or when it can be.
pub(crate) async fn open_store_live(core: Arc<Core>, store: StoreConfig) {
    let name = store.name.clone();
    match node::serve_store(&core, store.clone(), true, Origin::Ours).await {
        Ok(()) => {
            let text = format!("store {name} is in service at {}", store.path.display());
            core.events.note(Note::info("STORE_ADDED", text).store(&name));
        }
        Err(error) => {
            let text = core.absent.note(&store, &error);
            core.events.note(Note::error(error.code(), text).store(&name));
            retry_store(core, store, true).await;
        }
    }
}

/// Tries a store again and again until it is in service.
pub(crate) async fn retry_store(core: Arc<Core>, mut store: StoreConfig, configured: bool) {
    loop {
        tokio::select! {
            () = core.stopped() => return,
            () = tokio::time::sleep(core.live().rescan) => {}
        }
        if configured {
            let live = core.live();
            let same = |s: &&StoreConfig| s.name == store.name && s.path == store.path;
            let Some(now) = live.stores.iter().find(same) else { return };
            store = now.clone();
        } else if lock(&core.members).stores.get(&store.name) != Some(&store) {
            return;
        }
        match node::serve_store(&core, store.clone(), configured, Origin::Ours).await {
            Ok(()) => return,
            Err(error) => {
                core.absent.note(&store, &error);
                debug!(store = %store.name, %error, "still not in service");
            }
        }
    }
}

/// Forgets a store that is not in service; what there is of its files stays.
pub(crate) async fn remove(core: &Arc<Core>, name: &str) -> Result<()> {
    let found = all(core).into_iter().find(|(store, _)| store.name.as_str() == name);
    let Some((store, configured)) = found else {
        return Err(Error::StoreUnknown { name: name.to_owned() });
    };
    if configured {
        return Err(Error::Configured { what: format!("store {name}") });
    }
    let key = store.name.clone();
    let (ledger, gone) = (core.ledger.clone(), key.clone());
    blocking("forgetting a store", move || ledger.note_store(&gone, None)).await?;
    let gone = key.clone();
    node::change_members(core, move |members| {
        members.stores.remove(&gone);
    })
    .await?;
    core.absent.forget(&key);
    let text = format!("store {name} is forgotten; what there is of its files stays");
    core.events.note(Note::info("STORE_REMOVED", text).store(&key));
    Ok(())
}
