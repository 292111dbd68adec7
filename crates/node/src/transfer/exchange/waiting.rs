//! Images that are sealed here and wait for the others of their set: whoever completes it takes all
//! of them to one commit. Kept in memory only: after a restart the peers offer them again, and what
//! was staged of large ones is taken up.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blockferry_delta::{ImageName, Root};
use blockferry_store::{Error as StoreError, Received, Sealed, Store};
use blockferry_wire::SetMember;
use tracing::warn;

use crate::budget;
use crate::lineage::conflict::descends;
use crate::transfer::judge::Version;

/// The sealed images of a store that wait.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<BTreeMap<ImageName, (Sealed, Received)>>);

/// What became of an attempt to complete a set.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// All that was missing of it is sealed: to be committed as one, in this order.
    Complete(Vec<(Sealed, Received)>),
    /// So many images are neither here nor sealed.
    Missing(usize),
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ImageName, (Sealed, Received)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this content of an image wait?
    pub(crate) fn holds(&self, image: &ImageName, root: &Root) -> bool {
        self.lock().get(image).is_some_and(|(sealed, _)| sealed.generation().root == *root)
    }

    /// Drops what waits of an image. Blocking.
    pub(crate) fn clear(&self, store: &Store, image: &ImageName) {
        let Some((sealed, _)) = self.lock().remove(image) else { return };
        if let Err(error) = store.drop_sealed(sealed) {
            warn!(%image, code = error.code(), %error, "what waited for its set isn't removed");
        }
    }

    /// Drops everything that waits. Blocking.
    pub(crate) fn clear_all(&self, store: &Store) {
        let images: Vec<ImageName> = self.lock().keys().cloned().collect();
        images.iter().for_each(|image| self.clear(store, image));
    }

    /// Adds an image that was just sealed, if any, and takes the whole set if it is complete: each
    /// member is sealed, or here with that content or a newer one. Of `to_come` what was before is
    /// not enough: the peer went back to it. Blocking.
    pub(crate) fn complete(
        &self,
        store: &Store,
        (set, to_come): (&[SetMember], &[ImageName]),
        sealed: Option<(Sealed, Received)>,
    ) -> Result<Attempt, StoreError> {
        let mut waiting = self.lock();
        if let Some((sealed, received)) = sealed {
            if waiting.len() >= budget::SETS_WAITING_MAX {
                store.drop_sealed(sealed)?;
                return Ok(Attempt::Missing(set.len()));
            }
            waiting.insert(sealed.generation().image.clone(), (sealed, received));
        }
        let is_sealed = |member: &SetMember| {
            let found = waiting.get(&member.image);
            found.is_some_and(|(sealed, _)| sealed.generation().root == member.root)
        };
        let mut missing = 0;
        for member in set {
            missing += usize::from(!is_sealed(member) && !is_here(store, member, to_come)?);
        }
        if missing > 0 {
            return Ok(Attempt::Missing(missing));
        }
        let due: Vec<&SetMember> = set.iter().filter(|member| is_sealed(member)).collect();
        Ok(Attempt::Complete(due.iter().filter_map(|m| waiting.remove(&m.image)).collect()))
    }
}

/// Is it current here, or was it before what is?
fn is_here(store: &Store, member: &SetMember, to_come: &[ImageName]) -> Result<bool, StoreError> {
    let current = store.current(&member.image)?;
    if current.is_some_and(|current| current.root == member.root) {
        return Ok(true);
    }
    if to_come.contains(&member.image) {
        return Ok(false);
    }
    match store.history(&member.image) {
        Ok(history) => Ok(history.iter().any(|generation| generation.root == member.root)),
        Err(StoreError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The members of a set whose heads at the peer descend from what is current here: whatever their
/// roots are, they are to come. Blocking.
pub(crate) fn to_come(
    store: &Store,
    set: &[SetMember],
    head: &dyn Fn(&ImageName) -> Option<Version>,
) -> Result<Vec<ImageName>, StoreError> {
    let mut newer = Vec::new();
    for member in set {
        let Some(ours) = store.current(&member.image)? else { continue };
        let theirs = head(&member.image).filter(|theirs| theirs.root == member.root);
        if theirs.is_some_and(|theirs| descends(&theirs.lineage, &ours.lineage)) {
            newer.push(member.image.clone());
        }
    }
    Ok(newer)
}
