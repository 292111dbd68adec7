//! Resolutions: a conflict is decided where the content that is to go on isn't. Who decides says
//! so in a statement that names one member; that one ends the conflict as if it had been asked there,
//! and what it makes comes to everybody by the ordinary way. Which conflicts are seen and who is asked
//! is decided in `relayed`.

use std::collections::BTreeMap;

use blockferry_delta::{ImageName, Lineage, NodeId, Root};
use blockferry_store::Generation;
use blockferry_wire::{Resolution, Text, What};

use crate::api::Role;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::lineage::conflict::{self, Choice, Conflict};
use crate::lineage::diverged;
use crate::lineage::relayed::{self, Elsewhere, Stated};
use crate::local::stores::OpenStore;
use crate::membership::roster::Known;
use crate::promotion::witness;
use crate::transfer::exchange::version_of;

/// What the other members state about an image.
pub(crate) fn stated(
    core: &Core,
    store: &OpenStore,
    members: &BTreeMap<NodeId, Known>,
    image: &ImageName,
) -> Vec<Stated> {
    let id = store.store.identity().id;
    let book = lock(&core.witness.book);
    let of = |(node, known): (&NodeId, &Known)| {
        let held = book.holding(&id, node, image)?;
        Some(Stated { node: *node, writer: known.writer, direct: known.direct, held })
    };
    members.iter().filter_map(of).collect()
}

/// What is open elsewhere about our current generation, and isn't kept here.
pub(crate) fn elsewhere(
    current: &Generation,
    kept: &[Conflict],
    stated: &[Stated],
) -> Vec<Elsewhere> {
    let mut open = relayed::elsewhere(&version_of(current), stated);
    open.retain(|e| !kept.iter().any(|kept| kept.generation.root == e.rival.root));
    open
}

/// Asks the member that can to end a conflict: `root` is to go on, `needed` are the contents that it
/// takes. Says whom.
pub(crate) fn ask(
    core: &Core,
    store: &OpenStore,
    image: &ImageName,
    (root, lineage, beside): (Root, Lineage, bool),
    (stated, needed): (&[Stated], &[Root]),
) -> Result<NodeId> {
    let node = relayed::carrier(stated, needed).ok_or_else(|| Error::Control {
        what: format!(
            "no member that may write has what it takes to end this conflict of {}: decide where \
             the content is, or keep local",
            store.full_name(image)
        ),
    })?;
    let by = Text::new(&format!("an operator at {}", core.config.name));
    let resolution = Resolution { image: image.clone(), root, lineage, by, node, beside };
    let signed = witness::say(core, store, What::Resolution(resolution))?;
    let slot = signed.slot().expect("a resolution is a kind that is known");
    if lock(&core.witness.book).get(&slot).is_none() {
        let what = "no room for one more statement".to_owned();
        return Err(Error::State { path: core.config.state_dir.clone(), what });
    }
    core.ledger.keep_statements(&[(slot, Some(signed))])?;
    Ok(node)
}

/// Ends a conflict that is open here, if a member has asked us to. A resolution stays what its member
/// said last about the image, long after it was carried out: all of them are looked at. Blocking.
pub(crate) fn carry_out(core: &Core, store: &OpenStore, image: &ImageName) -> Result<()> {
    if store.config.role == Role::Mirror {
        return Ok(());
    }
    let asked = asked_of_us(core, store, image);
    if asked.is_empty() {
        return Ok(());
    }
    let Some(current) = store.store.current(image)? else { return Ok(()) };
    let (over, due): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|asked| conflict::descends(&current.lineage, &asked.lineage));
    // One that was interrupted after it was decided.
    for asked in over.iter().filter(|asked| asked.beside) {
        put_beside(core, store, asked)?;
    }
    let open = conflict::open(&store.store, &current)?;
    if open.is_empty() {
        return Ok(());
    }
    let fits = due.iter().find_map(|asked| Some((asked, fitting(asked, &current, &open)?)));
    if let Some((asked, choice)) = fits {
        let also = [asked.lineage.clone()];
        diverged::decide(core, store, image, (&choice, &also), asked.by.as_str())?;
        return if asked.beside { put_beside(core, store, asked) } else { Ok(()) };
    }
    let outdated = due.iter().find(|asked| !was_known(asked, &current, &open));
    if let Some(asked) = outdated.filter(|_| store.trouble(image, "RESOLVE_OUTDATED")) {
        let text = format!(
            "{}: {} decided a conflict, but not about all that is here by now: decide again",
            store.full_name(image),
            asked.by.as_str()
        );
        let note = Note::warning("RESOLVE_OUTDATED", text).store(&store.config.name);
        core.events.note(note.image(image));
    }
    Ok(())
}

/// What the members that may write have said last about an image, if it is we who are to do it.
fn asked_of_us(core: &Core, store: &OpenStore, image: &ImageName) -> Vec<Resolution> {
    let (id, us) = (store.store.identity().id, core.config.identity.id());
    let mut members = witness::members(core, store);
    // Which of two places asks is not known.
    members.retain(|node, _| !core.witness.doubts(node));
    let book = lock(&core.witness.book);
    let said = members.iter().filter(|(_, known)| known.writer);
    let said = said.filter_map(|(node, _)| book.resolution(&id, node, image));
    said.filter(|resolution| resolution.node == us).collect()
}

fn was_known(asked: &Resolution, current: &Generation, open: &[Conflict]) -> bool {
    let kept = open.iter().map(|kept| &kept.generation.lineage);
    relayed::was_known(&asked.lineage, kept.chain([&current.lineage]))
}

/// What was decided about a conflict that is open here, if all of it was known and what is to go on
/// is here.
fn fitting(asked: &Resolution, current: &Generation, open: &[Conflict]) -> Option<Choice> {
    if !was_known(asked, current, open) {
        return None;
    }
    if current.root == asked.root {
        return Some(Choice::Local);
    }
    let wanted = open.iter().find(|kept| kept.generation.root == asked.root);
    wanted.map(|kept| Choice::Kept(kept.serial))
}

/// Makes the contents that a decision of ours was about images of their own, those that aren't yet.
/// Blocking.
fn put_beside(core: &Core, store: &OpenStore, asked: &Resolution) -> Result<()> {
    let us = core.config.identity.id();
    let image = &asked.image;
    let others = conflict::decided(&store.store, image, us, (&asked.root, &asked.lineage))?;
    for other in &others {
        diverged::put_beside(core, store, image, other)?;
    }
    if !others.is_empty() {
        // They are found there like any other.
        store.wake.notify_one();
    }
    Ok(())
}

/// One event for a conflict that others have met and we haven't. Blocking.
pub(crate) fn tell(core: &Core, store: &OpenStore, image: &ImageName) -> Result<()> {
    let Some(current) = store.store.current(image)? else { return Ok(()) };
    let members = witness::members(core, store);
    let stated = stated(core, store, &members, image);
    if stated.iter().all(|s| s.held.rivals.is_empty()) {
        return Ok(());
    }
    let kept = conflict::all(&store.store, image)?;
    let open = elsewhere(&current, &kept, &stated);
    let Some(first) = open.first() else { return Ok(()) };
    if !store.trouble(image, &format!("DIVERGED {}", first.rival.root)) {
        return Ok(());
    }
    let name = store.full_name(image);
    let at = first.kept_at.first().and_then(|node| members.get(node));
    let at = at.map_or("another member", |known| known.name.as_str());
    let text = format!(
        "{name}: {at} keeps a content beside ours that went its own way; nothing is overwritten. \
         Decide, here or there: blockferry conflicts, then resolve {name}"
    );
    let note = Note::error("DIVERGED", text).store(&store.config.name);
    core.events.note(note.image(image).peer(&at));
    Ok(())
}
