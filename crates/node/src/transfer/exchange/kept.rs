//! What is offered and kept here needn't travel: after a rollback at a peer, of a deleted image that
//! is there again, of a file that was renamed and whose old name was deleted first.

use std::sync::Arc;

use blockferry_store::{Error as StoreError, Generation, Sealed, Store};
use blockferry_wire::Offer;
use tracing::warn;

/// The offered generation, sealed, of a content that is kept here. `None`: there is none, or it can't
/// be used; the usual way will do or say why not.
pub(super) fn sealed_of_kept(
    store: &Arc<Store>,
    offer: &Offer,
    generation: &Generation,
) -> Result<Option<Sealed>, StoreError> {
    let same = |current: &Generation| current.root == offer.root;
    if store.current(&offer.image)?.as_ref().is_some_and(same) {
        // Only attributes differ.
        return Ok(None);
    }
    let Some(kept) = store.kept_with_root(&offer.image, &offer.root)? else { return Ok(None) };
    match store.stage_kept(generation.clone(), &kept, &()) {
        Ok(sealed) => Ok(Some(sealed)),
        Err(error) => {
            let (image, code) = (&offer.image, error.code());
            warn!(%image, kept = %kept.path, code, %error, "what is kept can't be used");
            Ok(None)
        }
    }
}
