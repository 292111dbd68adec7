//! Conflicts: contents of one image of which neither descends from the other, and how they end.
//!
//! Nothing is written down about a conflict but the contents: one that is kept for this reason is an
//! open conflict until the current generation descends from it. So whoever receives a generation
//! that descends from both has no conflict any more, whoever resolved it and wherever.

use std::sync::Arc;

use blockferry_delta::{ImageName, Lineage, NodeId, Order, Root};
use blockferry_store::{Generation, Kept, Progress, Store, Why};
use blockferry_wire::Rival;
use blockferry_wire::limits::RIVALS_MAX;

use crate::error::Result;
use crate::lineage::relayed;

/// A content that was kept because it and the current one diverged.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// Names it among the kept contents of the image.
    pub serial: u64,
    /// Its path in the store's directory.
    pub path: String,
    /// What it is.
    pub generation: Generation,
}

/// Whether `one` has everything of `other`, and more.
pub fn descends(one: &Lineage, other: &Lineage) -> bool {
    one.compare(other) == Order::Newer
}

/// All contents of an image that were kept in a conflict, open or not, but those that their author
/// has gone on from. Blocking.
pub fn all(store: &Store, image: &ImageName) -> Result<Vec<Conflict>> {
    Ok(store.kept(image)?.into_iter().filter_map(conflict_of).collect())
}

/// Those that `current`, the image's current generation, doesn't descend from. Blocking.
pub fn open(store: &Store, current: &Generation) -> Result<Vec<Conflict>> {
    let mut all = all(store, &current.image)?;
    all.retain(|kept| is_open(current, &kept.generation));
    Ok(all)
}

/// Whether a kept content and the current one wait for somebody to decide.
pub fn is_open(current: &Generation, kept: &Generation) -> bool {
    relayed::is_open(&current.root, &current.lineage, (&kept.root, &kept.lineage))
}

/// The open ones as they are stated to the other members: the latest, if there are too many. Blocking.
pub fn rivals(store: &Store, current: &Generation) -> Result<Vec<Rival>> {
    let open = open(store, current)?.into_iter().take(RIVALS_MAX).map(|kept| {
        let Generation { number, root, lineage, author, size_bytes, .. } = kept.generation;
        let recorded_unix_ms = kept.generation.recorded_unix_ms;
        Rival { number, root, lineage, author, size_bytes, recorded_unix_ms }
    });
    Ok(open.collect())
}

fn conflict_of(kept: Kept) -> Option<Conflict> {
    // One that isn't pinned any more was superseded.
    let Kept {
        why: Why::Conflict, pinned: true, serial, path, generation: Some(generation), ..
    } = kept
    else {
        return None;
    };
    Some(Conflict { serial, path, generation })
}

/// Leaves to the retention what the author of `new` has itself gone on from, as its own copy of that
/// is left there, too. What has lost a conflict isn't meant: `new` descends from it because of the
/// decision, and has none of its bytes. Blocking.
pub(crate) fn drop_superseded(store: &Store, new: &Kept) -> Result<()> {
    let Some(newest) = &new.generation else { return Ok(()) };
    let Some(current) = store.current(&new.image)? else { return Ok(()) };
    for kept in open(store, &current)? {
        let old = &kept.generation;
        if old.author != newest.author || !descends(&newest.lineage, &old.lineage) {
            continue;
        }
        if old.root == newest.root {
            store.acknowledge(&new.image, kept.serial)?;
        } else {
            store.unpin(&new.image, kept.serial)?;
        }
    }
    Ok(())
}

/// Lets go of conflicts that are over and whose bytes are the current ones. The losers stay until
/// somebody says that they may go. Blocking.
pub(crate) fn drop_settled(store: &Store, current: &Generation) -> Result<()> {
    for kept in all(store, &current.image)? {
        let over = !is_open(current, &kept.generation);
        if over && kept.generation.root == current.root {
            store.acknowledge(&current.image, kept.serial)?;
        }
    }
    Ok(())
}

/// Which content an operator, or a store's policy, wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The current one.
    Local,
    /// This kept one.
    Kept(u64),
}

/// The content that `author` made, if it is one of those that diverged.
pub fn made_by(current: &Generation, open: &[Conflict], author: &NodeId) -> Option<Choice> {
    if current.author == *author {
        return Some(Choice::Local);
    }
    let made = open.iter().find(|kept| kept.generation.author == *author);
    made.map(|kept| Choice::Kept(kept.serial))
}

/// Ends the conflict of an image: what is chosen becomes a generation of `us` that descends from
/// all of them, and of `also`, which others keep; what isn't is kept. No image data travels for
/// whoever has it. Blocking.
pub fn resolve(
    store: &Arc<Store>,
    image: &ImageName,
    (choice, also): (&Choice, &[Lineage]),
    us: NodeId,
    now_unix_ms: i64,
    progress: &dyn Progress,
) -> Result<Generation> {
    let current = store.current(image)?;
    let current = current.ok_or_else(|| blockferry_store::Error::NotFound(image.clone()))?;
    let open = open(store, &current)?;
    let others = open.iter().map(|kept| &kept.generation.lineage).chain(also);
    let others: Vec<Lineage> = others.cloned().collect();
    match choice {
        Choice::Local => Ok(store.descend(image, &others, us, Some(us), now_unix_ms)?),
        Choice::Kept(serial) => {
            Ok(store.take_kept(image, *serial, &others, us, now_unix_ms, progress)?)
        }
    }
}

/// What `us` decided about when it made `root` the content that goes on, descending from `lineage`, and
/// that is kept still: what was open or current then. Nothing, if the decision was somebody else's.
/// Blocking.
pub(crate) fn decided(
    store: &Store,
    image: &ImageName,
    us: NodeId,
    (root, lineage): (&Root, &Lineage),
) -> Result<Vec<Conflict>> {
    let history = store.history(image)?;
    let after = |generation: &Generation| descends(&generation.lineage, lineage);
    let Some(at) = history.iter().position(|generation| !after(generation)) else {
        return Ok(Vec::new());
    };
    let (before, made) = (&history[at], at.checked_sub(1).map(|at| &history[at]));
    if made.is_none_or(|made| made.author != us || made.root != *root) {
        return Ok(Vec::new());
    }
    let mut others = all(store, image)?;
    others.retain(|kept| {
        let other = &kept.generation;
        let was_current = other.root == before.root && other.lineage == before.lineage;
        other.root != *root
            && relayed::was_known(lineage, [&other.lineage])
            && (was_current || is_open(before, other))
    });
    Ok(others)
}
