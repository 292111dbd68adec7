//! Promotion: "everybody has it, verified; it may be used". Said once, durably, on receipts.
//!
//! Refused while any member holds something newer or something that went its own way, while a writer
//! has changed its file, while ours isn't what was recorded, and until enough members have read the
//! generation back. A promotion is a statement like a receipt: signed, kept, told to all members.
//! It changes no image. What a hook or a person changes afterwards is a new generation that
//! descends from the promoted one, like any other change.

use std::sync::Arc;

use blockferry_delta::{ImageName, NodeId, Order};
use blockferry_wire::{Promotion, Text, What};

use crate::admin::requests::{Spec, done};
use crate::admin::socket::Client;
use crate::api::{
    Answer, HookReport, PeerReady, PromoteReport, PromotedRow, ReadyReport, Require, Role, Schema,
    remedy_for,
};
use crate::budget;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::ledger::rfc3339;
use crate::local::sets;
use crate::local::stores::{Activity, OpenStore};
use crate::promotion::hook::{self, Occasion};
use crate::promotion::readiness::{Survey, add, companions, survey};
use crate::promotion::standing::Standing;
use crate::promotion::witness;
use crate::transfer::exchange::version_of;
use crate::transfer::judge::Version;

/// `promote`.
pub(crate) async fn promote(
    core: &Arc<Core>,
    spec: Spec,
    require: Option<Require>,
    client: &mut Client,
) -> Result<Answer> {
    let require = require.unwrap_or_else(|| core.live().promote.require.clone());
    let by = client.who();
    // What a hook changes on a mirror would be set aside: a writer's runs, once it hears of this.
    let hooks = spec.store.config.role != Role::Mirror;
    let (to, asker) = (core.clone(), by.clone());
    // Detached from the client: once it is begun it goes on whoever goes away.
    let job = tokio::task::spawn_blocking(move || promote_here(&to, &spec, &require, &asker));
    let (report, occasion) = job.await.unwrap_or(Err(Error::Broken { what: "a promotion" }))?;
    let program = core.live().promote.hook_after.clone().filter(|_| hooks);
    let (Some(occasion), Some(program)) = (occasion, program) else { return done(&report) };
    let to = core.clone();
    let job = tokio::task::spawn_blocking(move || after(&to, &program, &occasion));
    let hook = job.await.map_err(|_| Error::Broken { what: "a hook" })?;
    done(&PromoteReport { hook: Some(hook), ..report })
}

/// Decides and records; with it, what a hook is told. Blocking.
fn promote_here(
    core: &Core,
    spec: &Spec,
    require: &Require,
    by: &str,
) -> Result<(PromoteReport, Option<Occasion>)> {
    let store = &spec.store;
    // Nothing is recorded or received meanwhile: what is decided is still so when it is recorded.
    let doing = |image: &ImageName| store.begin(image, Activity::Recording);
    let _doing = doing(&spec.image)?;
    let others = sets::companions(store, &spec.image);
    let _others = others.iter().map(doing).collect::<Result<Vec<_>>>()?;
    let survey = survey(core, spec)?;
    let wanted = match (&survey.own, spec.number) {
        // What is meant is what is here, whatever others hold by now.
        (Some(own), None) => version_of(own),
        (_, number) => survey.wanted(number)?,
    };
    let mut ready = survey.report(core, spec, &wanted, require)?;
    let mut refusal = refusal(core, spec, &survey, &wanted, &ready)?;
    // A set is used as one: what forbids it of one of its images forbids it of all.
    for (of, survey, newest) in companions(core, spec)? {
        let wanted = survey.own.as_ref().map_or(newest, version_of);
        let other = survey.report(core, &of, &wanted, require)?;
        if refusal.is_none() {
            refusal = self::refusal(core, &of, &survey, &wanted, &other)?;
        }
        add(&mut ready, other, require);
    }
    let (schema, image, generation) = (Schema, survey.name.clone(), wanted.number);
    let promoted = refusal.is_none();
    let (code, message) = refusal.unzip();
    let mut report = PromoteReport {
        schema,
        image,
        generation,
        promoted,
        code: code.map(str::to_owned),
        remedy: code.map(|code| remedy_for(code).to_owned()),
        message,
        peers: ready.peers,
        receipts: Vec::new(),
        hook: None,
    };
    if !promoted {
        let text = report.message.clone().unwrap_or_default();
        let note = Note::warning("PROMOTE_REFUSED", text).store(&store.config.name);
        core.events.note(note.image(&spec.image));
        return Ok((report, None));
    }
    let (receipts, promotion) = record(core, spec, &survey, &wanted, by)?;
    report.receipts = receipts;
    Ok((report, Some(occasion(core, store, &promotion))))
}

/// Why a generation may not be promoted here and now: a code and words.
fn refusal(
    core: &Core,
    spec: &Spec,
    survey: &Survey,
    wanted: &Version,
    ready: &ReadyReport,
) -> Result<Option<(&'static str, String)>> {
    let name = format!("{}@{}", survey.name, wanted.number);
    let own = survey.own.as_ref();
    if let Some(newer) = own.filter(|own| own.lineage.compare(&wanted.lineage) == Order::Newer) {
        let text = format!(
            "{name} is not current here, {}@{} is: promote that, or go back to {name} first",
            survey.name, newer.number
        );
        return Ok(Some(("SUPERSEDED", text)));
    }
    if let Some(no) = elsewhere(core, survey, wanted) {
        return Ok(Some(no));
    }
    if own.is_none_or(|own| version_of(own) != *wanted) {
        let held = own.map_or("nothing of it is".to_owned(), |own| format!("@{} is", own.number));
        return Ok(Some(("NOT_IN_SYNC", format!("{name} is not current here yet, {held}"))));
    }
    if !spec.store.store.is_as_recorded(&spec.image)? {
        let text = format!(
            "the file of {} has changed since {name} was recorded: publish it, or put it back",
            survey.name
        );
        return Ok(Some(("LOCAL_CHANGE", text)));
    }
    if survey.standing(&core.config.identity.id(), wanted) == Standing::Damaged {
        let text = format!("{name} was read back here and is not what was recorded");
        return Ok(Some(("VERIFY_FAILED", text)));
    }
    if !ready.ready {
        return Ok(Some((
            "NOT_IN_SYNC",
            format!("{name} is not where it must be: {}", lacking(ready)),
        )));
    }
    Ok(None)
}

/// What some member holds that forbids it, whoever is required: first what went its own way, then what
/// is newer, then a change that is no generation yet.
fn elsewhere(core: &Core, survey: &Survey, wanted: &Version) -> Option<(&'static str, String)> {
    let torn = |name: &str, number| {
        let text = format!(
            "{name} keeps a content beside {}@{number} that went its own way: nothing was \
             overwritten. Decide first: blockferry conflicts",
            survey.name
        );
        Some(("DIVERGED", text))
    };
    if survey.standing(&core.config.identity.id(), wanted) == Standing::Diverged {
        return torn(&core.config.name, wanted.number);
    }
    let mut newer = None;
    let mut changed = None;
    for (node, known) in &survey.members {
        let number = survey.held.get(node).map_or(0, |held| held.number);
        let theirs = || format!("{} holds {}@{number}", known.name, survey.name);
        let same = survey.held.get(node).is_some_and(|held| held.root == wanted.root);
        match survey.standing(node, wanted) {
            Standing::Diverged if same => return torn(&known.name, number),
            Standing::Diverged => {
                let text = format!(
                    "{}, which went its own way beside @{} of {}: nothing was overwritten",
                    theirs(),
                    wanted.number,
                    core.config.name
                );
                return Some(("DIVERGED", text));
            }
            Standing::Ahead(_) => {
                newer = Some(format!("{}, which is newer than @{}", theirs(), wanted.number));
            }
            Standing::Changed if known.writer => {
                changed = Some(format!(
                    "the file of {} has changed on {} and is not recorded there yet",
                    survey.name, known.name
                ));
            }
            _ => {}
        }
    }
    newer.map(|text| ("SUPERSEDED", text)).or(changed.map(|text| ("NOT_IN_SYNC", text)))
}

/// Who lacks it, why, and when it will be there.
fn lacking(ready: &ReadyReport) -> String {
    let lacks = ready.peers.iter().filter(|peer| !peer.ready);
    let told: Vec<String> = lacks.map(lacks_what).collect();
    if told.is_empty() { "there is no other member".to_owned() } else { told.join("; ") }
}

fn lacks_what(peer: &PeerReady) -> String {
    let reason = peer.reason.map_or_else(String::new, |reason| format!(" ({})", reason.as_str()));
    let holds = match peer.generation {
        Some(number) => format!("holds @{number}"),
        None => "has not said what it holds".to_owned(),
    };
    let eta = peer.eta.as_ref().map_or_else(String::new, |eta| format!(", there by {eta}"));
    format!("{} {holds}{reason}{eta}", peer.peer)
}

/// Signs the promotion, keeps it and tells it to the others: on whose receipts it was done. It is in
/// the ledger before anything else happens.
fn record(
    core: &Core,
    spec: &Spec,
    survey: &Survey,
    wanted: &Version,
    by: &str,
) -> Result<(Vec<String>, Promotion)> {
    let holds = |node: &&NodeId| survey.standing(node, wanted).is_ready();
    let receipts: Vec<NodeId> = survey.members.keys().filter(holds).copied().collect();
    let mut names: Vec<String> =
        receipts.iter().map(|node| survey.members[node].name.clone()).collect();
    names.sort();
    let promotion = Promotion {
        image: spec.image.clone(),
        number: wanted.number,
        root: wanted.root,
        lineage: wanted.lineage.clone(),
        by: Text::new(by),
        receipts,
    };
    let signed = witness::say(core, &spec.store, What::Promotion(promotion.clone()))?;
    let slot = signed.slot().expect("a promotion is a kind that is known");
    if lock(&core.witness.book).get(&slot).is_none() {
        let what = "no room for one more promotion".to_owned();
        return Err(Error::State { path: core.config.state_dir.clone(), what });
    }
    core.ledger.keep_statements(&[(slot, Some(signed))])?;
    let text = format!(
        "{}@{} was promoted here by {by}, with receipts of {}",
        survey.name,
        wanted.number,
        names.join(", ")
    );
    let note = Note::info("PROMOTED", text).store(&spec.store.config.name);
    core.events.note(note.image(&spec.image));
    Ok((names, promotion))
}

/// A promotion was heard of that `asker` made, by its clock at `unix_ms`. If it is a mirror, the hook
/// of one writer runs: of whoever made the generation, if that is one. Blocking.
pub(crate) fn hook_for_mirror(
    core: &Core,
    store: &OpenStore,
    (asker, unix_ms): (NodeId, i64),
    promotion: &Promotion,
) -> Result<()> {
    let program = core.live().promote.hook_after.clone();
    let members = witness::members(core, store);
    let asked = members.get(&asker).filter(|known| !known.writer);
    let (Some(program), Some(asked)) = (program, asked) else { return Ok(()) };
    let us = (store.config.role != Role::Mirror).then_some(core.config.identity.id());
    let writers = members.iter().filter(|(_, known)| known.writer).map(|(id, _)| *id);
    let history = store.store.history(&promotion.image)?;
    let author = history.iter().find(|g| g.root == promotion.root).map(|g| g.author);
    if us.is_none() || hook::runner(&writers.chain(us).collect(), author) != us {
        return Ok(());
    }
    let occasion = occasion(core, store, promotion);
    let late_ms = now_unix_ms().saturating_sub(unix_ms);
    let is_current = history.first().is_some_and(|current| current.root == promotion.root);
    if !is_current || late_ms > budget::HOOK_LATE_MAX_MS {
        let why = "it is not current here by now, or was promoted more than a day ago";
        not_run(core, &program, &occasion, why);
        return Ok(());
    }
    let report = after(core, &program, &occasion);
    if report.ok {
        let text = format!(
            "{}@{} was promoted on {}, which is a mirror: {} ran here: {}",
            store.full_name(&promotion.image),
            promotion.number,
            asked.name,
            report.program,
            report.said
        );
        let note = Note::info("HOOK_RAN", text).store(&store.config.name);
        core.events.note(note.image(&promotion.image));
    }
    Ok(())
}

/// What a hook is told of a promotion.
fn occasion(core: &Core, store: &OpenStore, promotion: &Promotion) -> Occasion {
    Occasion {
        store: store.config.name.to_string(),
        image: promotion.image.to_string(),
        generation: promotion.number,
        root: promotion.root.to_string(),
        file: store.config.path.join(promotion.image.as_str()),
        node: core.config.name.clone(),
        by: promotion.by.as_str().to_owned(),
    }
}

fn not_run(core: &Core, program: &std::path::Path, occasion: &Occasion, why: &str) {
    let Occasion { store, image, generation, .. } = occasion;
    let text = format!(
        "{store}/{image}@{generation} is promoted, but {} failed: {why}",
        program.display()
    );
    core.events.note(Note::error("HOOK_FAILED", text).store(store).image(image));
}

/// The hook; its failure is an event. Blocking.
fn after(core: &Core, program: &std::path::Path, occasion: &Occasion) -> HookReport {
    let report = hook::run(program, occasion, budget::HOOK_DEADLINE);
    if !report.ok {
        not_run(core, program, occasion, &report.said);
    }
    report
}

/// Who promoted what of an image, oldest first, as users read it.
pub(crate) fn rows(
    core: &Core,
    store: &OpenStore,
    image: &ImageName,
) -> Vec<(Version, PromotedRow)> {
    let id = store.store.identity().id;
    let members = witness::members(core, store);
    let name = |node: &NodeId| {
        let known = members.get(node).map(|known| known.name.clone());
        let us = *node == core.config.identity.id();
        if us { core.config.name.clone() } else { known.unwrap_or_else(|| node.short()) }
    };
    let all = lock(&core.witness.book).promotions(&id, image);
    all.into_iter()
        .map(|(node, unix_ms, promotion)| {
            let mut receipts: Vec<String> = promotion.receipts.iter().map(name).collect();
            receipts.sort();
            let row = PromotedRow {
                generation: promotion.number,
                root: promotion.root.to_string(),
                node: name(&node),
                by: promotion.by.as_str().to_owned(),
                at: rfc3339(unix_ms),
                receipts,
            };
            let Promotion { number, root, lineage, .. } = promotion;
            (Version { number, root, lineage }, row)
        })
        .collect()
}
