//! Gather: what there is to know about a running node. Looks only; `judge` decides.

use std::path::PathBuf;
use std::time::Instant;

use blockferry_delta::ImageName;
use blockferry_store::{CommitMode, Why};

use super::judge::{Facts, Far, Held, Http, Process, UNSETTLED_MAX, Unsettled};
use super::place::{self, Place};
use crate::core::{Core, lock};
use crate::error::Result;
use crate::lineage::diverged;
use crate::lineage::retention;
use crate::link::peer::Peer;
use crate::local::absent;
use crate::local::stores::OpenStore;

/// Images of a store that are looked up in `/proc`: each may take half a second.
const HOLDERS_MAX: usize = 5;

/// Looks at everything. Blocking: a dead mount may keep it.
pub(super) fn facts(core: &Core) -> Result<Facts> {
    let now = Instant::now();
    Ok(Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: core.started.elapsed(),
        process: process(),
        sockets: core.transport.granted().to_vec(),
        http: http(core, now),
        peers: core.all_peers().iter().map(|peer| far(peer, now)).collect(),
        stores: core
            .all_stores()
            .iter()
            .map(|store| held(core, store, now))
            .collect::<Result<_>>()?,
        missing: missing(core)?,
    })
}

fn process() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Process {
        under_systemd: std::env::var_os("INVOCATION_ID").is_some(),
        no_new_privileges: number("NoNewPrivs:") != 0,
        filtered: number("Seccomp:") != 0,
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count() as u64),
        open_files_max: limit.current.unwrap_or(u64::MAX),
    }
}

fn http(core: &Core, now: Instant) -> Option<Http> {
    let config = core.http.config()?;
    let shown = lock(&core.tokens_shown);
    let ago = |name: &String| shown.get(name).map(|at| now.saturating_duration_since(*at));
    let tokens = config.tokens.iter().map(|token| (token.name.clone(), ago(&token.name)));
    let tokens = tokens.collect();
    Some(Http { listen: config.listen, tls: config.tls.is_some(), tokens })
}

fn far(peer: &Peer, now: Instant) -> Far {
    let (config, known) = (peer.config(), peer.known.glance(now));
    Far {
        name: config.name,
        state: peer.state(),
        dialled: !config.addresses.is_empty(),
        down: known.down,
        trouble: known.trouble,
        agent: known.agent,
        clock_ahead_ms: known.clock_ahead_ms,
    }
}

fn held(core: &Core, store: &OpenStore, now: Instant) -> Result<Held> {
    let config = &store.config;
    let images = store.store.images()?;
    let edits = store.store.all_kept()?.into_iter().filter(|kept| kept.why == Why::Edit);
    let mut edits: Vec<String> = edits.map(|kept| kept.image.to_string()).collect();
    edits.dedup();
    let open = images.iter().filter(|generation| diverged::is_open(core, store, generation));
    Ok(Held {
        place: look(core, config.name.as_str(), config.path.clone(), true),
        degraded: store.store.is_degraded(),
        reflinks: store.store.commit_mode() == CommitMode::Clone,
        watched: core.watching.is_watched(&config.path),
        extents_off: store.store.extents_are_off()?,
        maps_off: store.store.maps_are_off()?,
        kept_bytes: retention::kept(store)?.1,
        edits,
        diverged: open.map(|generation| generation.image.to_string()).collect(),
        unsettled: unsettled(store, now),
    })
}

fn unsettled(store: &OpenStore, now: Instant) -> Vec<Unsettled> {
    let waiting = store.waiting_to_settle(now);
    let mut asked = 0;
    let of = |(image, waits, code): (String, _, _)| {
        let long = waits >= UNSETTLED_MAX && asked < HOLDERS_MAX;
        asked += usize::from(long);
        let name = ImageName::new(&image).ok().filter(|_| long);
        let holder = name.and_then(|name| store.store.writer_of(&name));
        Unsettled { image, waits, code, holder: holder.map(|holder| holder.to_string()) }
    };
    waiting.into_iter().map(of).collect()
}

fn look(core: &Core, name: &str, path: PathBuf, known: bool) -> Place {
    place::look(name, &path, core.config.store_free_min, known)
}

/// Stores that should be in service and are not.
fn missing(core: &Core) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for (store, _) in absent::all(core) {
        let known = core.ledger.known_store(&store.name)?.is_some();
        places.push(look(core, store.name.as_str(), store.path, known));
    }
    Ok(places)
}
