//! Diverged images in a running node: what is told of them, and what operators and the store's
//! policy decide. What a conflict is and how it ends is [`conflict`]'s; here it meets the backlog,
//! the events and the peers' names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, Lineage, NodeId, Root};
use blockferry_store::{Generation, Kept, Why};

use crate::admin::requests::{Spec, done, spec};
use crate::api::{
    Answer, ConflictContent, ConflictRow, ConflictState, ConflictsReport, ResolveReport, Role,
    Schema,
};
use crate::budget::PREFERENCES_MAX;
use crate::core::{Core, blocking, head_of, key, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::ledger::rfc3339;
use crate::lineage::conflict::{self, Choice, Conflict};
use crate::lineage::relayed::{self, Elsewhere, Stated};
use crate::lineage::resolutions;
use crate::lineage::rewound;
use crate::local::recording;
use crate::local::sets;
use crate::local::stores::OpenStore;
use crate::membership::roster::Known;
use crate::promotion::witness;

/// Counts of what policies have decided begin anew after this time.
const PREFERENCES_TIME: Duration = Duration::from_secs(3600);

/// How often the policy has ended conflicts of an image, and since when that is counted.
#[derive(Debug, Default)]
pub(crate) struct Preferences(Mutex<BTreeMap<ImageName, (Instant, u32)>>);

impl Preferences {
    /// Whether the policy may decide once more.
    fn may(&self, image: &ImageName, now: Instant) -> bool {
        let mut counts = lock(&self.0);
        counts.retain(|_, (since, _)| now.saturating_duration_since(*since) < PREFERENCES_TIME);
        let (_, count) = counts.entry(image.clone()).or_insert((now, 0));
        *count += 1;
        *count <= PREFERENCES_MAX
    }
}

/// `conflicts`: of one image, or of all.
pub(crate) async fn conflicts(core: &Arc<Core>, only: Option<String>) -> Result<Answer> {
    let only = only.map(|image| spec(core, &image)).transpose()?;
    let to = core.clone();
    let report = blocking("a report", move || {
        let mut rows = Vec::new();
        match only {
            Some(Spec { store, image, .. }) => {
                let members = witness::members(&to, &store);
                rows.extend(row(&to, &store, &members, &image)?);
            }
            None => {
                for store in to.all_stores() {
                    let members = witness::members(&to, &store);
                    for generation in store.store.heads()? {
                        rows.extend(row(&to, &store, &members, &generation.image)?);
                    }
                }
            }
        }
        let open = rows.iter().filter(|row| row.open).count() as u64;
        Ok(ConflictsReport { schema: Schema, open, conflicts: rows })
    });
    done(&report.await?)
}

/// The contents of one image, if some are kept in a conflict, here or elsewhere. Blocking.
fn row(
    core: &Core,
    store: &OpenStore,
    members: &BTreeMap<NodeId, Known>,
    image: &ImageName,
) -> Result<Option<ConflictRow>> {
    let Some(current) = store.store.current(image)? else { return Ok(None) };
    let kept = conflict::all(&store.store, image)?;
    let stated = resolutions::stated(core, store, members, image);
    let elsewhere = resolutions::elsewhere(&current, &kept, &stated);
    if kept.is_empty() && elsewhere.is_empty() {
        return Ok(None);
    }
    let show = |state, generation: &Generation, path: &Path| ConflictContent {
        state,
        generation: generation.number,
        root: generation.root.to_string(),
        size_bytes: generation.size_bytes,
        author: name_of(core, &generation.author),
        recorded: rfc3339(generation.recorded_unix_ms),
        path: path.display().to_string(),
        peers: holders(core, store, generation),
        kept_at: Vec::new(),
    };
    let dir = &store.config.path;
    let path = dir.join(image.as_str());
    let mut contents = vec![show(ConflictState::Current, &current, &path)];
    for other in &kept {
        let state = match conflict::is_open(&current, &other.generation) {
            true => ConflictState::Open,
            false => ConflictState::Resolved,
        };
        contents.push(show(state, &other.generation, &dir.join(&other.path)));
    }
    contents.extend(elsewhere.into_iter().map(|other| far(core, members, other)));
    Ok(Some(ConflictRow {
        store: store.config.name.to_string(),
        image: image.to_string(),
        open: contents.iter().any(|content| content.state == ConflictState::Open),
        contents,
    }))
}

/// A content that only others keep.
fn far(core: &Core, members: &BTreeMap<NodeId, Known>, other: Elsewhere) -> ConflictContent {
    let name = |node: &NodeId| match members.get(node) {
        Some(known) => known.name.clone(),
        None => name_of(core, node),
    };
    let Elsewhere { rival, current_at, kept_at } = other;
    ConflictContent {
        state: ConflictState::Open,
        generation: rival.number,
        root: rival.root.to_string(),
        size_bytes: rival.size_bytes,
        author: name(&rival.author),
        recorded: rfc3339(rival.recorded_unix_ms),
        path: String::new(),
        peers: current_at.iter().map(name).collect(),
        kept_at: kept_at.iter().map(name).collect(),
    }
}

/// Peers that say they hold a content as current.
fn holders(core: &Core, store: &OpenStore, generation: &Generation) -> Vec<String> {
    let backlog = lock(&core.backlog);
    let sharers = core.sharers(&store.config.name);
    let holds = |id: NodeId| {
        let head = backlog.peer_head(&key(id, &store.config.name, &generation.image));
        head.is_some_and(|head| head.root == generation.root)
    };
    sharers.iter().filter(|peer| holds(peer.id)).map(|peer| peer.name()).collect()
}

fn name_of(core: &Core, id: &NodeId) -> String {
    if *id == core.config.identity.id() { core.config.name.clone() } else { core.name_of(id) }
}

/// Whether an image waits for a decision, as far as is known here. Blocking.
pub(crate) fn is_open(core: &Core, store: &OpenStore, current: &Generation) -> bool {
    let members = witness::members(core, store);
    let stated = resolutions::stated(core, store, &members, &current.image);
    // What can't be read now is told by whoever needs it.
    conflict::open(&store.store, current).is_ok_and(|open| !open.is_empty())
        || !resolutions::elsewhere(current, &[], &stated).is_empty()
}

/// `resolve`.
pub(crate) async fn answer(
    core: &Arc<Core>,
    image: &str,
    keep: Option<String>,
    acknowledges: bool,
) -> Result<Answer> {
    let spec = spec(core, image)?;
    match (keep, acknowledges) {
        (Some(keep), false) => resolve(core, spec, &keep).await,
        (None, true) => acknowledge(core, spec).await,
        _ => Err(Error::Control { what: "resolve either keeps or acknowledges".to_owned() }),
    }
}

/// `resolve --keep local|PEER|both`.
async fn resolve(core: &Arc<Core>, spec: Spec, keep: &str) -> Result<Answer> {
    let Spec { store, image, .. } = spec;
    let name = store.full_name(&image);
    if store.config.role == Role::Mirror {
        return Err(Error::Mirror { image: name });
    }
    let (to, of, which, text) = (core.clone(), store.clone(), image.clone(), keep.to_owned());
    let ended = blocking("resolving", move || end(&to, &of, &which, &text)).await?;
    let (generation, root, beside, told) = match ended {
        Ended::Here(made, beside) => (made.number, made.root, beside, None),
        Ended::There(current, root, node) => {
            let known = witness::members(core, &store).remove(&node);
            let told = known.map_or_else(|| node.short(), |known| known.name);
            (current.number, root, Vec::new(), Some(told))
        }
    };
    for other in &beside {
        recording::record(core, &store, other, None, Arc::new(())).await?;
    }
    done(&ResolveReport {
        schema: Schema,
        image: name,
        generation,
        root: root.to_string(),
        beside: beside.iter().map(|other| store.full_name(other)).collect(),
        released: 0,
        told,
    })
}

/// What came of a decision.
enum Ended {
    /// The generation that ends it, and images that other contents have become.
    Here(Generation, Vec<ImageName>),
    /// What is current here, what is to be, and who was asked to make it so.
    There(Generation, Root, NodeId),
}

/// Which content is meant, and whether it is here.
enum Meant {
    Here(Choice),
    There(Root),
}

/// Ends a conflict here, or asks who can. Blocking.
fn end(core: &Core, store: &OpenStore, image: &ImageName, text: &str) -> Result<Ended> {
    let name = || store.full_name(image);
    let current = store.store.current(image)?;
    let current = current.ok_or_else(|| Error::ImageUnknown { image: name() })?;
    let open = conflict::open(&store.store, &current)?;
    let members = witness::members(core, store);
    let stated = resolutions::stated(core, store, &members, image);
    let elsewhere = resolutions::elsewhere(&current, &open, &stated);
    let both = text == "both";
    if open.is_empty() && elsewhere.is_empty() {
        let beside = if both { left_beside(core, store, image)? } else { Vec::new() };
        return match beside.is_empty() {
            true => Err(Error::NotDiverged { image: name() }),
            false => Ok(Ended::Here(current, beside)),
        };
    }
    let meant = match text {
        "local" => Meant::Here(Choice::Local),
        // What isn't here can't be put beside it here.
        "both" if !elsewhere.is_empty() => Meant::There(current.root),
        "both" => Meant::Here(Choice::Local),
        peer => match choice(core, store, peer, (&current, &open)) {
            Ok(choice) => Meant::Here(choice),
            Err(error) => {
                far_choice(&members, peer, &current, (&elsewhere, &stated)).ok_or(error)?
            }
        },
    };
    let also = relayed::lineages(&elsewhere, &stated);
    match meant {
        Meant::Here(choice) => {
            let made = decide(core, store, image, (&choice, &also), "an operator")?;
            let others = open.iter().filter(|_| both);
            let beside = others.map(|other| put_beside(core, store, image, other));
            Ok(Ended::Here(made, beside.collect::<Result<_>>()?))
        }
        Meant::There(root) => {
            let kept = open.iter().map(|kept| &kept.generation);
            let all = kept.clone().map(|kept| &kept.lineage).chain(&also);
            let mut lineage = current.lineage.clone();
            for one in all {
                lineage = lineage.merge(one).map_err(|e| Error::Control { what: e.to_string() })?;
            }
            let others = kept.map(|kept| kept.root).chain(elsewhere.iter().map(|e| e.rival.root));
            let needed: Vec<Root> = others.filter(|_| both).chain([root]).collect();
            let node =
                resolutions::ask(core, store, image, (root, lineage, both), (&stated, &needed))?;
            Ok(Ended::There(current, root, node))
        }
    }
}

/// The content that somebody means by the name of a member that we may never meet.
fn far_choice(
    members: &BTreeMap<NodeId, Known>,
    text: &str,
    current: &Generation,
    (elsewhere, stated): (&[Elsewhere], &[Stated]),
) -> Option<Meant> {
    let upper = text.to_ascii_uppercase();
    let is = |node: &NodeId| {
        members.get(node).is_some_and(|known| known.name == text)
            || upper.len() >= 8 && node.to_string().starts_with(&upper)
    };
    let made = elsewhere.iter().find(|other| is(&other.rival.author));
    let held = || elsewhere.iter().find(|other| other.current_at.iter().any(is));
    if let Some(other) = made.or_else(held) {
        return Some(Meant::There(other.rival.root));
    }
    let same = stated.iter().any(|stated| is(&stated.node) && stated.held.root == current.root);
    same.then_some(Meant::Here(Choice::Local))
}

/// `resolve --acknowledge`: what lost a conflict, was an edit of a mirror, or rotted, may go.
async fn acknowledge(core: &Arc<Core>, spec: Spec) -> Result<Answer> {
    let Spec { store, image, .. } = spec;
    let to = core.clone();
    let report = blocking("letting go", move || {
        let name = store.full_name(&image);
        let current = store.store.current(&image)?;
        let current = current.ok_or_else(|| Error::ImageUnknown { image: name.clone() })?;
        let mut released = 0;
        store.made_here(&image);
        for kept in store.store.kept(&image)? {
            if may_go(&current, &kept) {
                store.store.acknowledge(&image, kept.serial)?;
                released += 1;
            }
        }
        let text = format!("{name}: {released} kept contents were let go of");
        let note = Note::info("KEPT_RELEASED", text);
        to.events.note(note.store(&store.config.name).image(&image));
        Ok(ResolveReport {
            schema: Schema,
            image: name,
            generation: current.number,
            root: current.root.to_string(),
            beside: Vec::new(),
            released,
            told: None,
        })
    });
    done(&report.await?)
}

/// What an acknowledgement lets go of: never what a decision is still due about.
fn may_go(current: &Generation, kept: &Kept) -> bool {
    let open = kept.generation.as_ref().is_some_and(|g| conflict::is_open(current, g));
    match kept.why {
        Why::Conflict => !open,
        Why::Edit | Why::Damaged => true,
        _ => false,
    }
}

/// The content that somebody means by a peer's name.
fn choice(
    core: &Core,
    store: &OpenStore,
    text: &str,
    (current, open): (&Generation, &[Conflict]),
) -> Result<Choice> {
    let id = id_of(core, store, text, (current, open));
    let id = id.ok_or_else(|| Error::PeerUnknown { id: text.to_owned() })?;
    if let Some(made) = conflict::made_by(current, open, &id) {
        return Ok(made);
    }
    // Not what it made, then what it holds.
    let backlog = lock(&core.backlog);
    let head = backlog.peer_head(&key(id, &store.config.name, &current.image)).map(|h| h.root);
    if head == Some(current.root) {
        return Ok(Choice::Local);
    }
    let held = open.iter().find(|kept| Some(kept.generation.root) == head);
    let held = held.map(|kept| Choice::Kept(kept.serial));
    held.ok_or_else(|| Error::NotDiverged { image: store.full_name(&current.image) })
}

/// Who is meant: this node, a peer, a member that we may never meet, or whoever made one of the
/// contents.
fn id_of(
    core: &Core,
    store: &OpenStore,
    text: &str,
    (current, open): (&Generation, &[Conflict]),
) -> Option<NodeId> {
    let us = core.config.identity.id();
    if text == core.config.name {
        return Some(us);
    }
    if let Ok(peer) = core.find_peer(text) {
        return Some(peer.id);
    }
    let members = witness::members(core, store);
    if let Some((id, _)) = members.iter().find(|(_, known)| known.name == text) {
        return Some(*id);
    }
    let upper = text.to_ascii_uppercase();
    let authors = open.iter().map(|kept| kept.generation.author).chain([current.author, us]);
    let mut fits = authors.filter(|id| upper.len() >= 8 && id.to_string().starts_with(&upper));
    fits.next()
}

/// Ends a conflict and tells everybody; `also` is what others keep of it. Blocking.
pub(crate) fn decide(
    core: &Core,
    store: &OpenStore,
    image: &ImageName,
    (choice, also): (&Choice, &[Lineage]),
    who: &str,
) -> Result<Generation> {
    let us = core.config.identity.id();
    store.made_here(image);
    let telling = recording::Telling { core, store, image: None, inner: &() };
    let made = conflict::resolve(&store.store, image, (choice, also), us, now_unix_ms(), &telling);
    let generation = made?;
    rewound::refresh(core, store)?;
    conflict::drop_settled(&store.store, &generation)?;
    core.note_head(store, &generation, head_of(store, &generation)?);
    sets::recorded(core, store, &generation);
    let what = match choice {
        Choice::Local => "the content that was current stays",
        Choice::Kept(_) => "the other content is current now",
    };
    let name = store.full_name(image);
    let text = format!(
        "{name}@{}: {who} ended the conflict: {what}; what lost is kept until: \
         blockferry resolve {name} --acknowledge",
        generation.number
    );
    core.events.note(Note::info("RESOLVED", text).store(&store.config.name).image(image));
    Ok(generation)
}

/// Makes a kept content an image of its own, under a name that says whose it is. Blocking.
pub(crate) fn put_beside(
    core: &Core,
    store: &OpenStore,
    image: &ImageName,
    other: &Conflict,
) -> Result<ImageName> {
    let author = name_of(core, &other.generation.author);
    for number in 1..u32::MAX {
        let name = beside_name(image, &author, number);
        let Ok(name) = ImageName::new(&name) else { break };
        if store.store.kept_as_image(image, other.serial, &name)? {
            return Ok(name);
        }
    }
    Err(Error::Control { what: format!("no name is free beside {image}") })
}

/// What has lost and is kept becomes images of their own, where `both` was interrupted after the
/// decision or comes after it. A content that an image of the store has by now is left alone.
/// Blocking.
fn left_beside(core: &Core, store: &OpenStore, image: &ImageName) -> Result<Vec<ImageName>> {
    let mut there: Vec<Root> = store.store.heads()?.iter().map(|head| head.root).collect();
    let mut beside = Vec::new();
    for other in conflict::all(&store.store, image)? {
        if !there.contains(&other.generation.root) {
            beside.push(put_beside(core, store, image, &other)?);
            there.push(other.generation.root);
        }
    }
    Ok(beside)
}

/// `disk.vhdx` of node `b` is `disk.b.vhdx`, the next one `disk.b-2.vhdx`.
fn beside_name(image: &ImageName, author: &str, number: u32) -> String {
    let name = image.as_str();
    let (stem, end) = name.rfind('.').map_or((name, ""), |at| name.split_at(at));
    match number {
        1 => format!("{stem}.{author}{end}"),
        _ => format!("{stem}.{author}-{number}{end}"),
    }
}

/// Tells that a content is kept because it and ours diverged, and lets the store's policy decide,
/// if it has one. Blocking.
pub(crate) fn note_kept(
    core: &Core,
    store: &OpenStore,
    peer: &str,
    kept: &Generation,
    fork: bool,
) -> Result<()> {
    let (image, name) = (&kept.image, store.full_name(&kept.image));
    let (code, why) = match fork {
        true => (
            "HISTORY_FORK",
            "one history has two contents: a store or a machine was restored \
                  from a backup or cloned",
        ),
        false => ("DIVERGED", "both sides changed it"),
    };
    let text = format!(
        "{name}: {why}; what {peer} has is kept beside ours, nothing is overwritten. Decide: \
         blockferry conflicts, then resolve {name} --keep local|{peer}|both"
    );
    core.events.note(Note::error(code, text).store(&store.config.name).image(image).peer(&peer));
    // The others are told what is kept here, and who has decided about it may have asked us to end it.
    core.witness.touch(&store.config.name, image);
    prefer(core, store, image)
}

/// What the store's policy decides about an image, if it has one and knows the node. Blocking.
pub(crate) fn prefer(core: &Core, store: &OpenStore, image: &ImageName) -> Result<()> {
    let Some(prefer) = store.config.prefer.as_deref() else { return Ok(()) };
    if store.config.role == Role::Mirror {
        return Ok(());
    }
    let Some(current) = store.store.current(image)? else { return Ok(()) };
    let open = conflict::open(&store.store, &current)?;
    let id = id_of(core, store, prefer, (&current, &open));
    let choice = id.and_then(|id| conflict::made_by(&current, &open, &id));
    let Some(choice) = choice.filter(|_| !open.is_empty()) else { return Ok(()) };
    if !store.preferences.may(image, Instant::now()) {
        let text = format!("{}: the policy has decided too often; decide", store.full_name(image));
        let note = Note::error("DIVERGED", text).store(&store.config.name);
        core.events.note(note.image(image));
        return Ok(());
    }
    let who = format!("the policy (prefer {prefer})");
    decide(core, store, image, (&choice, &[]), &who).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_content_gets_a_name_that_says_whose_it_is() {
        let name =
            |image, number| beside_name(&ImageName::new(image).expect("a name"), "hub-02", number);
        assert_eq!(name("win11.vhdx", 1), "win11.hub-02.vhdx");
        assert_eq!(name("win11.v2.vhdx", 3), "win11.v2.hub-02-3.vhdx");
        assert_eq!(name("disk", 2), "disk.hub-02-2");
    }

    #[test]
    fn policies_that_contradict_each_other_come_to_an_end() {
        let (preferences, now) = (Preferences::default(), Instant::now());
        let image = ImageName::new("a").expect("a name");
        let may = |at| preferences.may(&image, at);
        assert_eq!([may(now), may(now), may(now), may(now)], [true, true, true, false]);
        assert!(may(now + PREFERENCES_TIME));
    }
}
