//! Readiness: is a generation on every server, verified? Whatever member is asked.
//!
//! A survey is what this node knows of an image at a moment: its own generation, the members of the
//! store, and what each states it holds. The question is about the newest generation that is known
//! anywhere, or about the named one. Nothing is changed here; what reads a catalog blocks.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{NodeId, Order};
use blockferry_store::Generation;
use blockferry_wire::Holding;

use crate::admin::jobs::tell_progress;
use crate::admin::reports;
use crate::admin::requests::{Spec, done};
use crate::admin::socket::Client;
use crate::api::{
    Answer, ImagePeer, PairState, PeerReady, ReadyReport, Require, Schema, WaitReason,
};
use crate::backlog::Reason;
use crate::budget;
use crate::core::{Core, blocking, key, lock};
use crate::error::{Error, Result};
use crate::ledger::rfc3339;
use crate::lineage::conflict;
use crate::local::sets;
use crate::local::stores::OpenStore;
use crate::membership::roster::Known;
use crate::planner::forecast::{Finish, Forecast};
use crate::planner::foresight;
use crate::promotion::standing::{Standing, newest, standing};
use crate::promotion::witness;
use crate::transfer::exchange::version_of;
use crate::transfer::judge::Version;

/// What is known of an image at a moment.
pub(crate) struct Survey {
    /// `store/image`.
    pub(crate) name: String,
    /// Our current generation.
    pub(crate) own: Option<Generation>,
    history: Vec<Generation>,
    /// The members of the store beside ourselves.
    pub(crate) members: BTreeMap<NodeId, Known>,
    /// What members state they hold; what we hold ourselves is among it.
    pub(crate) held: BTreeMap<NodeId, Holding>,
    /// Members whose key two places show.
    doubted: BTreeSet<NodeId>,
}

/// A member that is asked about, with what it is.
pub(crate) struct Asked {
    node: NodeId,
    name: String,
    us: bool,
    direct: bool,
}

/// Puts together what is known of an image. Blocking.
pub(crate) fn survey(core: &Core, spec: &Spec) -> Result<Survey> {
    let (store, image) = (&spec.store, &spec.image);
    let own = store.store.current(image)?;
    let history = if own.is_some() { store.store.history(image)? } else { Vec::new() };
    let members = witness::members(core, store);
    let (id, us) = (store.store.identity().id, core.config.identity.id());
    let book = lock(&core.witness.book);
    let nodes = members.keys().copied().chain([us]);
    let mut held: BTreeMap<NodeId, Holding> =
        nodes.filter_map(|node| Some((node, book.holding(&id, &node, image)?))).collect();
    drop(book);
    if let Some((own, held)) = own.as_ref().zip(held.get_mut(&us)) {
        // What is kept here is known before it is stated.
        held.rivals = conflict::rivals(&store.store, own)?;
    }
    let doubted = members.keys().filter(|node| core.witness.doubts(node)).copied().collect();
    Ok(Survey { name: store.full_name(image), own, history, members, held, doubted })
}

impl Survey {
    /// The generation that is meant: the named one, here or where it is known, or the newest.
    pub(crate) fn wanted(&self, number: Option<u64>) -> Result<Version> {
        let own = self.own.as_ref().map(version_of);
        let unknown = || Error::ImageUnknown { image: self.name.clone() };
        let Some(number) = number else {
            return newest(own, self.held.values()).ok_or_else(unknown);
        };
        let here = self.history.iter().find(|g| g.number == number).map(version_of);
        let there = self.held.values().find(|held| held.number == number);
        let there = there.map(crate::promotion::standing::version_of);
        match here.or(there) {
            Some(version) => Ok(version),
            None if own.is_none() && self.held.is_empty() => Err(unknown()),
            None => {
                let image = format!("{}@{number}", self.name);
                Err(Error::GenerationUnknown { image })
            }
        }
    }

    /// How a member, or we ourselves, stand to a generation.
    pub(crate) fn standing(&self, node: &NodeId, wanted: &Version) -> Standing {
        let standing = standing(wanted, self.held.get(node));
        if self.doubted.contains(node) { standing.doubted() } else { standing }
    }

    /// Do we hold the generation, or one that came of it?
    fn is_here(&self, wanted: &Version) -> bool {
        let own = self.own.as_ref().map(version_of);
        own.is_some_and(|own| own.lineage.compare(&wanted.lineage) != Order::Older)
    }

    /// Who is asked about.
    fn asked(&self, core: &Core, wanted: &Version, require: &Require) -> Result<Vec<Asked>> {
        let us = || Asked {
            node: core.config.identity.id(),
            name: core.config.name.clone(),
            us: true,
            direct: false,
        };
        let member = |(node, known): (&NodeId, &Known)| Asked {
            node: *node,
            name: known.name.clone(),
            us: false,
            direct: known.direct,
        };
        let mut all: Vec<Asked> = self.members.iter().map(member).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let Require::Peers(names) = require else {
            let torn = self.standing(&core.config.identity.id(), wanted) == Standing::Diverged;
            if torn || !self.is_here(wanted) {
                all.push(us());
            }
            return Ok(all);
        };
        all.push(us());
        names.iter().map(|name| named(core, &all, name)).collect()
    }

    /// Who holds a generation, and what the others wait for.
    pub(crate) fn report(
        &self,
        core: &Core,
        spec: &Spec,
        wanted: &Version,
        require: &Require,
    ) -> Result<ReadyReport> {
        let rows = self.asked(core, wanted, require)?.into_iter();
        // One look ahead for all of them, if anybody is behind.
        let ahead = OnceCell::new();
        let peers: Vec<PeerReady> =
            rows.map(|asked| self.row(core, spec, wanted, &asked, &ahead)).collect();
        let (schema, image) = (Schema, self.name.clone());
        let ready = is_enough(&peers, require);
        Ok(ReadyReport { schema, image, generation: wanted.number, ready, peers })
    }

    /// Whether the generation is the newest that is known: then it stands or falls with its set.
    pub(crate) fn is_newest(&self, wanted: &Version) -> bool {
        self.wanted(None).is_ok_and(|newest| newest.lineage == wanted.lineage)
    }

    fn row(
        &self,
        core: &Core,
        spec: &Spec,
        wanted: &Version,
        asked: &Asked,
        ahead: &OnceCell<Forecast>,
    ) -> PeerReady {
        let standing = self.standing(&asked.node, wanted);
        let reason = match standing {
            Standing::Verified | Standing::Ahead(true) => None,
            Standing::Committed | Standing::Ahead(false) => Some(WaitReason::Verifying),
            Standing::Changed => Some(WaitReason::Changed),
            Standing::Damaged => Some(WaitReason::Damaged),
            Standing::Diverged => Some(WaitReason::Diverged),
            Standing::Unknown if core.witness.is_full() => Some(WaitReason::StatementsFull),
            Standing::Behind | Standing::Unknown if asked.us => Some(WaitReason::Transferring),
            Standing::Behind | Standing::Unknown => Some(waits(core, spec, asked)),
        };
        let behind = matches!(standing, Standing::Behind | Standing::Unknown);
        let held = self.held.get(&asked.node).filter(|_| standing != Standing::Unknown);
        PeerReady {
            peer: asked.name.clone(),
            ready: standing.is_ready(),
            reason,
            generation: held.map(|held| held.number),
            of: None,
            eta: if behind && asked.direct { eta(core, spec, asked, ahead) } else { None },
        }
    }
}

fn is_enough(peers: &[PeerReady], require: &Require) -> bool {
    match require {
        // Nobody to ask is no proof that it is anywhere.
        Require::All | Require::Peers(_) => {
            !peers.is_empty() && peers.iter().all(|peer| peer.ready)
        }
        Require::Count(least) => {
            peers.iter().filter(|p| p.ready).count() as u64 >= u64::from(*least)
        }
    }
}

/// The other images of the set of an image, each with what is known of it and its newest generation:
/// the set is used as one, so that it is ready as one. Blocking.
pub(crate) fn companions(core: &Core, spec: &Spec) -> Result<Vec<(Spec, Survey, Version)>> {
    let mut all = Vec::new();
    for image in sets::companions(&spec.store, &spec.image) {
        let of = Spec { store: spec.store.clone(), image, number: None };
        let survey = survey(core, &of)?;
        // One that was never recorded anywhere is no part of what is used.
        if let Ok(wanted) = survey.wanted(None) {
            all.push((of, survey, wanted));
        }
    }
    Ok(all)
}

/// Adds to what is reported of an image what is lacking of another one of its set.
pub(crate) fn add(report: &mut ReadyReport, other: ReadyReport, require: &Require) {
    for row in other.peers.into_iter().filter(|row| !row.ready) {
        let row = PeerReady { of: Some(other.image.clone()), ..row };
        match report.peers.iter_mut().find(|known| known.peer == row.peer) {
            Some(known) if known.ready => *known = row,
            Some(_) => {}
            None => report.peers.push(row),
        }
    }
    report.ready = is_enough(&report.peers, require);
}

/// How an image stands at members whom we don't meet ourselves.
pub(crate) fn far_peers(core: &Core, store: &OpenStore, generation: &Generation) -> Vec<ImagePeer> {
    let members = witness::members(core, store);
    let (id, wanted) = (store.store.identity().id, version_of(generation));
    let book = lock(&core.witness.book);
    let far = members.into_iter().filter(|(_, known)| !known.direct);
    far.map(|(node, known)| {
        let held = book.holding(&id, &node, &generation.image);
        let state = match standing(&wanted, held.as_ref()) {
            Standing::Verified | Standing::Committed => PairState::InSync,
            Standing::Behind => PairState::Waiting,
            Standing::Diverged => PairState::Diverged,
            _ => PairState::Unknown,
        };
        let lag_seconds = (state == PairState::InSync).then_some(0.0);
        let generation = held.map(|held| held.number);
        ImagePeer { peer: known.name, generation, state, lag_seconds }
    })
    .collect()
}

/// A member by name, id, or the first 8 or more characters of its id.
fn named(core: &Core, all: &[Asked], text: &str) -> Result<Asked> {
    let upper = text.to_ascii_uppercase();
    let is =
        |a: &&Asked| a.name == text || upper.len() >= 8 && a.node.to_string().starts_with(&upper);
    let mut fits = all.iter().filter(is);
    match (fits.next(), fits.next()) {
        (Some(asked), None) => Ok(Asked { name: asked.name.clone(), ..*asked }),
        // A peer that doesn't share the store will never hold it.
        _ => {
            let peer = core.find_peer(text)?;
            Ok(Asked { node: peer.id, name: peer.name(), us: false, direct: true })
        }
    }
}

/// What a member that lacks the generation waits for, as far as we are to bring it there.
fn waits(core: &Core, spec: &Spec, asked: &Asked) -> WaitReason {
    let key = key(asked.node, &spec.store.config.name, &spec.image);
    let reason = lock(&core.backlog).reason(&key);
    let down = || core.peer(&asked.node).is_some_and(|peer| peer.active().is_none());
    match reason {
        Some(reason) => reports::wait_reason(reason),
        None if asked.direct && down() => reports::wait_reason(Reason::PeerDown),
        None => WaitReason::Other,
    }
}

fn eta(core: &Core, spec: &Spec, asked: &Asked, ahead: &OnceCell<Forecast>) -> Option<String> {
    let key = key(asked.node, &spec.store.config.name, &spec.image);
    let ahead = ahead.get_or_init(|| foresight::now(core));
    ahead.finish(&key).and_then(Finish::unix_ms).map(rfc3339)
}

/// `ready`.
pub(crate) async fn ready(
    core: &Arc<Core>,
    spec: &Arc<Spec>,
    wanted: Option<Version>,
    require: &Require,
) -> Result<(Version, ReadyReport)> {
    let (core, spec, require) = (core.clone(), spec.clone(), require.clone());
    blocking("a report", move || {
        let survey = survey(&core, &spec)?;
        let wanted = match wanted {
            Some(wanted) => wanted,
            None => survey.wanted(spec.number)?,
        };
        let mut report = survey.report(&core, &spec, &wanted, &require)?;
        if survey.is_newest(&wanted) {
            for (of, survey, wanted) in companions(&core, &spec)? {
                add(&mut report, survey.report(&core, &of, &wanted, &require)?, &require);
            }
        }
        Ok((wanted, report))
    })
    .await
}

/// `wait`: until enough members hold a generation.
pub(crate) async fn wait(
    core: &Arc<Core>,
    spec: Spec,
    require: &Require,
    limit: Option<Duration>,
    client: &mut Client,
) -> Result<Answer> {
    let (started, spec) = (Instant::now(), Arc::new(spec));
    let mut changed = core.changed.subscribe();
    let mut wanted = None;
    loop {
        // The generation is fixed at first: one that is recorded meanwhile is not what was asked for.
        let (fixed, report) = match ready(core, &spec, wanted, require).await {
            // What was published elsewhere a moment ago may not have been heard of yet.
            Err(Error::ImageUnknown { .. } | Error::GenerationUnknown { .. })
                if started.elapsed() < budget::HEARSAY =>
            {
                wanted = None;
                let _woken = tokio::time::timeout(budget::PROGRESS_EVERY, changed.changed()).await;
                continue;
            }
            other => other?,
        };
        wanted = Some(fixed);
        if report.ready {
            return done(&report);
        }
        if report.peers.iter().any(|peer| peer.reason == Some(WaitReason::StatementsFull)) {
            // It would wait for ever for what isn't heard.
            return Err(Error::StatementsFull { image: report.image });
        }
        if let Some(limit) = limit
            && started.elapsed() >= limit
        {
            return Err(Error::WaitedTooLong { seconds: limit.as_secs() });
        }
        let peers = core.sharers(&spec.store.config.name);
        tell_progress(core, &spec, &peers, client).await?;
        let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(started.elapsed()));
        let pause = budget::PROGRESS_EVERY.min(left);
        let _woken = tokio::time::timeout(pause, changed.changed()).await;
    }
}
