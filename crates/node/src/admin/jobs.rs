//! Jobs: the commands that take time and tell how far they are.
//!
//! The work itself goes on in the blocking pool or in the backlog; these functions watch it and
//! talk to the client. When the client goes away the work stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use blockferry_store::{Error as StoreError, Progress as StoreProgress, Recorded};
use tokio::task::JoinHandle;

use crate::admin::reports;
use crate::admin::requests::{Spec, done, generation};
use crate::admin::socket::Client;
use crate::api::{
    Answer, Lane, PairState, Progress, PublishReport, PushDone, PushPeer, Role, Schema,
};
use crate::budget;
use crate::core::{Core, blocking, key, lock};
use crate::error::{Error, Result};
use crate::lineage::deletions;
use crate::link::peer::Peer;
use crate::local::recording;
use crate::rate::lanes;

/// How far a blocking job is, for whoever asks.
#[derive(Default)]
pub(crate) struct Meter {
    done: AtomicU64,
    total: AtomicU64,
}

impl StoreProgress for Meter {
    fn advance(&self, done_bytes: u64, total_bytes: u64) {
        self.done.store(done_bytes, Ordering::Relaxed);
        self.total.store(total_bytes, Ordering::Relaxed);
    }
}

/// Tells the client how far `job` is until it ends.
pub(crate) async fn watched<T>(
    mut job: JoinHandle<Result<T>>,
    meter: &Meter,
    phase: &str,
    image: &str,
    client: &mut Client,
) -> Result<T> {
    let mut ticks = tokio::time::interval(budget::PROGRESS_EVERY);
    loop {
        tokio::select! {
            ended = &mut job => return ended.unwrap_or(Err(Error::Broken { what: "a job" })),
            _ = ticks.tick() => {
                client.say(&Answer::Progress(Progress {
                    phase: phase.to_owned(),
                    image: Some(image.to_owned()),
                    done_bytes: meter.done.load(Ordering::Relaxed),
                    total_bytes: meter.total.load(Ordering::Relaxed),
                    ..Progress::default()
                })).await?;
            }
        }
    }
}

/// Records a generation now; `changed` and `since` are the map of changes that a person named.
pub(crate) async fn publish(
    core: &Arc<Core>,
    what: &Spec,
    changed: Option<String>,
    since: Option<u64>,
    client: &mut Client,
) -> Result<Answer> {
    let (store, image) = (what.store.clone(), what.image.clone());
    let name = store.full_name(&image);
    if store.config.role == Role::Mirror {
        return Err(Error::Mirror { image: name });
    }
    let told = match (changed, since) {
        (Some(changed), since) => {
            Some(blocking("reading a map", move || recording::told(&changed, since)).await?)
        }
        (None, Some(_)) => {
            let what = "since says where a map of changes begins; there is none".to_owned();
            return Err(Error::Control { what });
        }
        (None, None) => None,
    };
    let started = Instant::now();
    let meter = Arc::new(Meter::default());
    let job = {
        let (core, store, meter) = (core.clone(), store.clone(), meter.clone());
        tokio::spawn(async move { recording::record(&core, &store, &image, told, meter).await })
    };
    let recorded = match watched(job, &meter, "scan", &name, client).await {
        Err(Error::Store(StoreError::SourceMissing(_) | StoreError::NotFound(_))) => {
            return deletions::publish(core, &store, &what.image).await;
        }
        other => other?,
    };
    let new = matches!(recorded, Recorded::New(_));
    let generation = recorded.generation();
    store.wake.notify_one();
    done(&PublishReport {
        schema: Schema,
        image: name,
        recorded: new,
        generation: generation.number,
        root: generation.root.to_string(),
        size_bytes: generation.size_bytes,
        discover: if new { reports::discovered(generation) } else { "unchanged" }.to_owned(),
        bytes_read: if new { generation.bytes_read } else { 0 },
        dirty_bytes: if new { generation.dirty_bytes } else { 0 },
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Offers an image now, and perhaps waits for the receipts.
pub(crate) async fn push(
    core: &Arc<Core>,
    what: &Spec,
    names: &[String],
    (lane, wait): (Option<Lane>, bool),
    client: &mut Client,
) -> Result<Answer> {
    let started = Instant::now();
    let generation = generation(what).await?;
    let store = &what.store.config.name;
    let peers = if names.is_empty() {
        core.sharers(store)
    } else {
        names.iter().map(|n| core.find_peer(n)).collect::<Result<_>>()?
    };
    if let Some(lane) = lane {
        let lacking = |peer: &Arc<Peer>| {
            let key = key(peer.id, store, &what.image);
            Some(key).filter(|key| !lock(&core.backlog).in_sync(key))
        };
        lanes::push(core, peers.iter().filter_map(lacking).collect(), lane);
    }
    for peer in &peers {
        lock(&core.backlog).handle_push(&key(peer.id, store, &what.image));
    }
    core.wake();
    let mut changed = core.changed.subscribe();
    loop {
        let rows: Vec<PushPeer> = peers.iter().map(|p| push_row(core, what, p)).collect();
        // A diverged peer will not get there by waiting.
        let over = |row: &PushPeer| {
            matches!(row.state, PairState::InSync | PairState::Diverged | PairState::Unknown)
        };
        if !wait || rows.iter().all(over) {
            for row in &rows {
                client.say(&Answer::item(row)).await?;
            }
            let in_sync = rows.iter().all(|row| row.state == PairState::InSync);
            return done(&PushDone {
                schema: Schema,
                image: what.store.full_name(&what.image),
                generation: generation.number,
                in_sync: in_sync && !rows.is_empty(),
                peers: rows,
                seconds: started.elapsed().as_secs_f64(),
            });
        }
        tell_progress(core, what, &peers, client).await?;
        // Woken by a change, or to tell how far it is; the node's end ends the request.
        let _woken = tokio::time::timeout(budget::PROGRESS_EVERY, changed.changed()).await;
    }
}

fn push_row(core: &Core, what: &Spec, peer: &Peer) -> PushPeer {
    let key = key(peer.id, &what.store.config.name, &what.image);
    let reason = lock(&core.backlog).reason(&key).map(reports::wait_reason);
    let state = reports::pair_state(core, &key);
    PushPeer { peer: peer.name(), state, reason, wire_bytes: core.sent_bytes(&key) }
}

/// Tells the client how far an image is on its way to each peer.
pub(crate) async fn tell_progress(
    core: &Core,
    what: &Spec,
    peers: &[Arc<Peer>],
    client: &mut Client,
) -> Result<()> {
    for peer in peers {
        let key = key(peer.id, &what.store.config.name, &what.image);
        let progress = lock(&core.backlog).progress(&key);
        if let Some((done_bytes, total_bytes)) = progress {
            let line = Progress {
                phase: "send".to_owned(),
                image: Some(what.store.full_name(&what.image)),
                peer: Some(peer.name()),
                done_bytes,
                total_bytes,
                wire_bytes: core.sent_bytes(&key),
            };
            client.say(&Answer::Progress(line)).await?;
        }
    }
    Ok(())
}
