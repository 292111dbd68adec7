//! Serving: the stores that are in service, by name and by id.
//!
//! Every head, statement and offer of a peer names a store by its id: it is found without a look at
//! all the others. Each change is counted, so that who has looked at all of them needn't look again
//! for every message.

use std::collections::BTreeMap;
use std::sync::Arc;

use blockferry_delta::{StoreId, StoreName};

use crate::local::stores::OpenStore;

/// The stores in service.
#[derive(Default)]
pub(crate) struct Serving {
    by_name: BTreeMap<StoreName, Arc<OpenStore>>,
    names: BTreeMap<StoreId, StoreName>,
    changes: u64,
}

impl Serving {
    /// All of them, by their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<OpenStore>> {
        self.by_name.values()
    }

    /// Takes one into service.
    pub(crate) fn insert(&mut self, store: Arc<OpenStore>) {
        let name = store.config.name.clone();
        self.remove(&name);
        self.names.insert(store.store.identity().id, name.clone());
        self.by_name.insert(name, store);
    }

    /// Takes one out of service.
    pub(crate) fn remove(&mut self, name: &StoreName) {
        self.changes += 1;
        if let Some(gone) = self.by_name.remove(name) {
            let id = gone.store.identity().id;
            // A copy of its directory may be in service under another name.
            if self.names.get(&id) == Some(name) {
                self.names.remove(&id);
            }
        }
    }

    /// The one of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<OpenStore>> {
        self.by_name.get(&StoreName::new(name).ok()?)
    }

    /// The one with this id.
    pub(crate) fn by_id(&self, id: &StoreId) -> Option<&Arc<OpenStore>> {
        self.by_name.get(self.names.get(id)?)
    }

    /// How often this has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }
}
