//! Recent: the last generations of all images, as the history of each has them.
//!
//! No image has a generation that is younger than its current one. So the generations that were recorded
//! last are among those of the images whose current one was recorded last: of so many images as
//! generations are wanted histories are read, however many images there are.

use std::sync::Arc;

use crate::admin::reports;
use crate::api::GenerationRow;
use crate::core::Core;
use crate::error::Result;
use crate::local::stores::OpenStore;

/// A generation of an image, `STORE/NAME`.
pub(crate) struct Recorded {
    pub(crate) store: String,
    pub(crate) image: String,
    pub(crate) row: GenerationRow,
}

/// The last so many generations, newest first. Blocking.
pub(crate) fn recent(core: &Core, count: usize) -> Result<Vec<Recorded>> {
    let mut images = Vec::new();
    for store in core.all_stores() {
        let current = store.store.images()?.into_iter();
        images.extend(current.map(|of| (of.recorded_unix_ms, Arc::clone(&store), of.image)));
    }
    images.sort_by_key(|(recorded, _, _)| std::cmp::Reverse(*recorded));
    let mut all = Vec::new();
    for (_, store, image) in images.into_iter().take(count) {
        let history = reports::history(core, &store, &image)?.generations.into_iter();
        let (store, image) = (name(&store), image.to_string());
        let recorded = |row| Recorded { store: store.clone(), image: image.clone(), row };
        all.extend(history.take(count).map(recorded));
    }
    // RFC 3339 in UTC and of one length: the order of the texts is that of time.
    all.sort_by(|one, other| other.row.recorded.cmp(&one.row.recorded));
    all.truncate(count);
    Ok(all)
}

fn name(store: &OpenStore) -> String {
    store.config.name.to_string()
}
