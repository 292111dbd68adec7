//! Stores: opened, watched, settled, recorded.
//!
//! One task per store. A watch says that something moved, a timed rescan is the truth; either way
//! the store is looked at (one stat per file, no image data), files that have been quiet long
//! enough are recorded one at a time in the blocking pool, and what is new goes to the backlog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use blockferry_delta::{ImageName, StoreId, StoreKey};
use blockferry_store::disk::RealDisk;
use blockferry_store::{
    CommitMode, Error as StoreError, Generation, Look, LookState, Options, Progress, Recorded,
    RecoveryReport, Store, StoreIdentity, Told,
};
use tokio::sync::{Notify, SemaphorePermit};
use tracing::debug;

use crate::api::Role;
use crate::budget;
use crate::config::{Commit, FreeMin, InUse, Names, StoreConfig};
use crate::core::{Core, blocking, head_of, key, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::ledger::Ledger;
use crate::lineage::deletions::{self, Deletions};
use crate::lineage::diverged::{self, Preferences};
use crate::lineage::mirror;
use crate::lineage::retention;
use crate::lineage::rewound::{self, Rewound};
use crate::local::adoption::{self, Offers};
use crate::local::recording::{self, Telling};
use crate::local::sets::{self, SetRules};
use crate::local::settle::{Seen, Settle};
use crate::local::upkeep;
use crate::transfer::exchange::Waiting;

/// What is being done with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Recording,
    Receiving,
}

/// A store in service.
pub(crate) struct OpenStore {
    /// As it was opened.
    pub(crate) config: StoreConfig,
    /// It stands in the configuration file.
    pub(crate) configured: AtomicBool,
    pub(crate) store: Arc<Store>,
    /// What may change while it runs.
    live: RwLock<Live>,
    /// Which images belong together.
    pub(crate) sets: SetRules,
    /// What was received and waits for others of its set.
    pub(crate) waiting: Arc<Waiting>,
    settle: Mutex<Settle>,
    /// Images whose files are gone, at a writer.
    pub(crate) deletions: Mutex<Deletions>,
    /// What the last look saw, by name; unchanged ones left out.
    seen: Mutex<BTreeMap<String, LookState>>,
    pub(crate) activity: Mutex<BTreeMap<ImageName, Activity>>,
    /// What was told already, so that each trouble is one event.
    told: Mutex<BTreeSet<String>>,
    /// How often the policy has ended conflicts.
    pub(crate) preferences: Preferences,
    /// What tells that this store was set back.
    pub(crate) rewound: Rewound,
    /// What peers offered last, while it is being adopted.
    pub(crate) offers: Offers,
    /// Look now.
    pub(crate) wake: Arc<Notify>,
    gone: tokio::sync::watch::Sender<bool>,
}

/// Settings as they were read last.
struct Live {
    config: StoreConfig,
    names: Names,
}

/// How to make a store that is not there yet.
pub(crate) enum Origin {
    /// It must be there, or never have been: then it is made with a new identity.
    Ours,
    /// It was granted by a ticket.
    Granted(StoreIdentity),
}

/// Opens a store, making it if it has never been. Blocking.
pub(crate) fn open(
    config: &StoreConfig,
    configured: bool,
    origin: Origin,
    (free_min, cache_bytes): (FreeMin, u64),
    ledger: &Ledger,
) -> Result<(OpenStore, RecoveryReport)> {
    let names = Names::new(config)?;
    let real = RealDisk::open(&config.path).map_err(|e| Error::io("open", &config.path, e))?;
    let disk = Arc::new(real);
    let options = options(config, free_min, cache_bytes)?;
    let (store, report) = match Store::open(disk.clone(), &options) {
        Err(StoreError::StoreMissing) => match (origin, ledger.known_store(&config.name)?) {
            (_, Some(_)) => return Err(StoreError::StoreMissing.into()),
            (Origin::Granted(identity), None) => {
                (Store::create(disk, identity, &options)?, RecoveryReport::default())
            }
            (Origin::Ours, None) => {
                let identity = fresh_identity(config)?;
                (Store::create(disk, identity, &options)?, RecoveryReport::default())
            }
        },
        Err(other) => return Err(other.into()),
        Ok((store, report)) => {
            check_identity(config, &origin, &store)?;
            (store, report)
        }
    };
    ledger.note_store(&config.name, Some(store.identity().id))?;
    let mut settle = Settle::new(config.settle);
    if config.role == Role::Mirror {
        settle = mirror::settle(config);
    } else if recording::snapshots(config.in_use, store.commit_mode()) {
        settle = settle.at_the_latest_after(config.settle);
    }
    let open = OpenStore {
        config: config.clone(),
        configured: AtomicBool::new(configured),
        store: Arc::new(store),
        live: RwLock::new(Live { config: config.clone(), names }),
        sets: SetRules::new(config)?,
        waiting: Arc::default(),
        settle: Mutex::new(settle),
        deletions: Mutex::new(Deletions::new(config.settle)),
        seen: Mutex::default(),
        activity: Mutex::default(),
        told: Mutex::default(),
        preferences: Preferences::default(),
        rewound: Rewound::default(),
        offers: Offers::default(),
        wake: Arc::new(Notify::new()),
        gone: tokio::sync::watch::Sender::new(false),
    };
    Ok((open, report))
}

fn check_identity(config: &StoreConfig, origin: &Origin, store: &Store) -> Result<()> {
    let found = store.identity();
    let exists = |what: String| Error::StoreExists { name: config.name.to_string(), what };
    if found.name != config.name {
        return Err(exists(format!("{} holds store {}", config.path.display(), found.name)));
    }
    match origin {
        Origin::Granted(granted) if granted.id != found.id => {
            Err(exists(format!("{} holds another store of this name", config.path.display())))
        }
        _ => Ok(()),
    }
}

fn fresh_identity(config: &StoreConfig) -> Result<StoreIdentity> {
    let (mut id, mut key) = ([0; 16], [0; 32]);
    let random =
        |bytes: &mut [u8]| rand::fill(bytes).map_err(|_| Error::Crypto { what: "random bytes" });
    random(&mut id)?;
    random(&mut key)?;
    let (id, key) = (StoreId::from_bytes(id), StoreKey::from_bytes(key));
    Ok(StoreIdentity { name: config.name.clone(), id, key })
}

fn options(config: &StoreConfig, free_min: FreeMin, cache_bytes: u64) -> Result<Options> {
    let free_min_bytes = match free_min {
        FreeMin::Bytes(bytes) => bytes,
        FreeMin::Percent(percent) => {
            let space = rustix::fs::statvfs(&config.path)
                .map_err(|e| Error::io("look at", &config.path, e.into()))?;
            let total = space.f_blocks.saturating_mul(space.f_frsize);
            total / 100 * u64::from(percent.min(100))
        }
    };
    Ok(Options {
        commit: match config.commit {
            Commit::Auto => None,
            Commit::Clone => Some(CommitMode::Clone),
            Commit::Journal => Some(CommitMode::Journal),
            Commit::Copy => Some(CommitMode::Copy),
        },
        cache_bytes: usize::try_from(cache_bytes).unwrap_or(32 << 20),
        free_min_bytes,
        hold_base: config.hold_base,
        snapshot: config.in_use == InUse::Snapshot,
        warm: config.warm,
        keep_generations: config.keep_generations,
        keep_days: config.keep_days,
        mirror: config.role == Role::Mirror,
        adopt: config.adopt,
        scan_threads: Options::default().scan_threads.min(budget::SCAN_THREADS_MAX),
        ..Options::default()
    })
}

/// Marks what is being done with an image, until dropped.
pub(crate) struct Doing {
    store: Arc<OpenStore>,
    image: ImageName,
}

impl Drop for Doing {
    fn drop(&mut self) {
        lock(&self.store.activity).remove(&self.image);
    }
}

impl OpenStore {
    /// Claims an image for one activity at a time.
    pub(crate) fn begin(self: &Arc<Self>, image: &ImageName, activity: Activity) -> Result<Doing> {
        let mut active = lock(&self.activity);
        if active.contains_key(image) {
            return Err(Error::Busy { image: self.full_name(image) });
        }
        active.insert(image.clone(), activity);
        Ok(Doing { store: self.clone(), image: image.clone() })
    }

    /// `store/image`.
    pub(crate) fn full_name(&self, image: &ImageName) -> String {
        format!("{}/{image}", self.config.name)
    }

    /// Whether a name is an image of this store.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.live.read().unwrap_or_else(PoisonError::into_inner).names.takes(name)
    }

    /// Its settings as they were read last; `config` has those that it was opened with.
    pub(crate) fn live_config(&self) -> StoreConfig {
        self.live.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Gives it other settings, those that may change while it runs.
    pub(crate) fn adjust(&self, config: StoreConfig) {
        // The patterns were checked with the configuration.
        let Ok(names) = Names::new(&config) else { return };
        lock(&self.settle).set_quiet(config.settle);
        let live = Live { config, names };
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        self.wake.notify_one();
    }

    /// What the last look saw of a file; `None`: it is unchanged.
    pub(crate) fn seen(&self, name: &str) -> Option<LookState> {
        lock(&self.seen).get(name).copied()
    }

    /// Files that are no generation yet.
    pub(crate) fn unrecorded(&self) -> Vec<ImageName> {
        self.seen_as(&[LookState::New])
    }

    /// Files that the last look saw in one of these states.
    pub(crate) fn seen_as(&self, states: &[LookState]) -> Vec<ImageName> {
        let seen = lock(&self.seen);
        let these = seen.iter().filter(|(_, state)| states.contains(state));
        these.filter_map(|(name, _)| ImageName::new(name).ok()).collect()
    }

    /// What the last look saw of an image is over.
    pub(crate) fn no_longer_seen(&self, image: &ImageName) {
        lock(&self.seen).remove(image.as_str());
    }

    /// An image was frozen under its writer, who had to wait so long.
    pub(crate) fn note_frozen(&self, image: &ImageName, took: Duration) {
        lock(&self.settle).handle_frozen(image.as_str(), took, Instant::now());
    }

    /// Something is made of an image here: that comes before what was received and waits for others
    /// of its set. It is offered again. Blocking.
    pub(crate) fn made_here(&self, image: &ImageName) {
        self.waiting.clear(&self.store, image);
    }

    /// What waited for others of its set is tried again at once, where `which` says so.
    pub(crate) fn unblock(&self, which: &mut dyn FnMut(&str) -> bool) {
        lock(&self.settle)
            .handle_unblocked(&mut |name, code| sets::waits_for_others(code) && which(name));
    }

    /// Is an image changed, and not recorded yet because it isn't quiet?
    pub(crate) fn settles(&self, image: &ImageName) -> bool {
        lock(&self.settle).pending(image.as_str()) == Some(None)
    }

    /// Images that changed and are no generation yet: since how long, and why not.
    pub(crate) fn waiting_to_settle(
        &self,
        now: Instant,
    ) -> Vec<(String, Duration, Option<String>)> {
        lock(&self.settle).waiting(now)
    }

    /// Why a changed image could not be recorded the last time.
    pub(crate) fn last_code(&self, image: &ImageName) -> Option<String> {
        lock(&self.settle).pending(image.as_str()).flatten().map(str::to_owned)
    }

    /// Whether images are recorded that somebody keeps open for writing.
    pub(crate) fn snapshots(&self) -> bool {
        recording::snapshots(self.config.in_use, self.store.commit_mode())
    }

    /// Ends the store's task.
    pub(crate) fn close(&self) {
        self.gone.send_replace(true);
    }

    /// Whether this was not told before.
    fn news(&self, what: String) -> bool {
        let mut told = lock(&self.told);
        if told.len() > 10_000 {
            told.clear();
        }
        told.insert(what)
    }

    /// Notes that an image can't be received; says whether this is news.
    pub(crate) fn trouble(&self, image: &ImageName, code: &str) -> bool {
        self.news(format!("{image} {code}"))
    }

    /// Forgets the troubles of an image that was received.
    pub(crate) fn no_trouble(&self, image: &ImageName) {
        let prefix = format!("{image} ");
        lock(&self.told).retain(|what| !what.starts_with(&prefix));
    }

    fn no_news(&self, what: &str) {
        lock(&self.told).remove(what);
    }
}

/// Takes a store into service: its heads and receipts go to the backlog. Blocking.
pub(crate) fn introduce(core: &Core, store: &OpenStore) -> Result<()> {
    recording::announce(core, store);
    retention::announce(core, store)?;
    rewound::check_opened(core, store)?;
    for generation in store.store.heads()? {
        for (peer, number, root) in store.store.receipts(&generation.image)? {
            let key = key(peer, &store.config.name, &generation.image);
            lock(&core.backlog).handle_receipt(key, number, root);
        }
        let head = head_of(store, &generation)?;
        core.note_head(store, &generation, head);
        diverged::prefer(core, store, &generation.image)?;
    }
    Ok(())
}

/// Looks after a store until the node stops or the store is removed.
pub(crate) async fn run(core: Arc<Core>, store: Arc<OpenStore>) {
    let _watch = core.watching.watch(&store.config.path, store.wake.clone());
    {
        let _turn = turn(&core).await;
        upkeep::after_open(&store).await;
    }
    let mut gone = store.gone.subscribe();
    let mut asked = retention::Asked::default();
    loop {
        let pause = match round(&core, &store).await {
            Ok(pause) => {
                store.no_news("round");
                let _turn = turn(&core).await;
                retention::release(&store, &mut asked).await;
                pause
            }
            Err(error) => {
                if store.news("round".into()) {
                    let note = Note::error(error.code(), error.to_string());
                    core.events.note(note.store(&store.config.name));
                }
                core.live().rescan
            }
        };
        tokio::select! {
            () = core.stopped() => return,
            () = closed(&mut gone) => return,
            () = tokio::time::sleep(pause) => {}
            () = store.wake.notified() => tokio::time::sleep(budget::WATCH_QUIET).await,
        }
    }
}

/// Waits for a turn to look at a store: each takes a thread, and many stores want one at the start.
async fn turn(core: &Core) -> Option<SemaphorePermit<'_>> {
    tokio::time::timeout(budget::LOOK_TURN_MAX, core.looks.acquire()).await.ok()?.ok()
}

/// Resolves when the store is out of service.
async fn closed(gone: &mut tokio::sync::watch::Receiver<bool>) {
    // The sender is part of the store and outlives its task.
    let _closed = gone.wait_for(|gone| *gone).await.is_ok();
}

/// One look, and everything that is due; says how long until the next.
async fn round(core: &Arc<Core>, store: &Arc<OpenStore>) -> Result<Duration> {
    let turn = turn(core).await;
    let at = Instant::now();
    let (to, looking) = (core.clone(), store.clone());
    let look = move || {
        let found = looking.store.look()?;
        Ok((found, looking.store.images()?.len(), sets::look(&to, &looking)?))
    };
    let (looks, images, sets) = blocking("a look", look).await?;
    drop(turn);
    debug!(store = %store.config.name, files = looks.len(), took = ?at.elapsed(), "looked");
    take_looks(core, store, &looks, images);
    store.unblock(&mut |name| sets::may_go_on(store, &sets, name));
    loop {
        if core.is_stopping() {
            return Ok(core.live().rescan);
        }
        let due = lock(&store.settle).poll_due(Instant::now(), now_unix_ms());
        let Some(name) = due else { break };
        settle_one(core, store, &name).await;
    }
    deletions::record_due(core, store).await;
    let wake = lock(&store.settle).next_wake(Instant::now(), now_unix_ms());
    let gone = lock(&store.deletions).next_wake(Instant::now());
    let wake = wake.into_iter().chain(gone).min();
    // A file that is due again at once was being written: one look a second is enough.
    let wake = wake.map_or(core.live().rescan, |w| w.max(Duration::from_secs(1)));
    Ok(wake.min(core.live().rescan))
}

fn take_looks(core: &Core, store: &OpenStore, looks: &[Look], images: usize) {
    let mut seen = BTreeMap::new();
    let mut gone = Vec::new();
    let mut changed = Vec::new();
    let writer = store.config.role == Role::Writer;
    let moved =
        |look: &Look| writer && look.moved_to.as_deref().is_some_and(|name| store.takes(name));
    for look in looks.iter().filter(|l| store.takes(&l.name)) {
        match look.state {
            LookState::Unchanged => {
                store.no_news(&look.name);
                continue;
            }
            LookState::New | LookState::Changed => changed.push(Seen {
                name: look.name.clone(),
                quiet_since_unix_ms: look.quiet_since_unix_ms,
            }),
            // Renamed: it is as deleted as its new name is recorded (`deletions::note_renames`).
            LookState::Missing if moved(look) => {}
            LookState::Missing if writer => gone.push(look.name.clone()),
            LookState::Missing => tell(core, store, look, "SOURCE_MISSING", "the file is gone"),
            LookState::BadName => tell(core, store, look, "BAD_NAME", "no name for an image"),
            LookState::NotRegular => {
                tell(core, store, look, "SOURCE_NOT_REGULAR", "not a regular file");
            }
        }
        seen.insert(look.name.clone(), look.state);
    }
    lock(&store.settle).handle_seen(&changed, Instant::now());
    let before = std::mem::replace(&mut *lock(&store.seen), seen.clone());
    core.witness.touch_seen(&store.config.name, &before, &seen);
    deletions::take(core, store, &gone, images);
}

/// One event per file and trouble.
fn tell(core: &Core, store: &OpenStore, look: &Look, code: &'static str, text: &str) {
    if store.news(look.name.clone()) {
        let note = Note::warning(code, format!("{}: {text}", look.name));
        core.events.note(note.store(&store.config.name).image(&look.name));
    }
}

async fn settle_one(core: &Arc<Core>, store: &Arc<OpenStore>, name: &str) {
    let Ok(image) = ImageName::new(name) else {
        lock(&store.settle).handle_recorded(name);
        return;
    };
    let result = record(core, store, &image, None, Arc::new(())).await;
    let now = Instant::now();
    let mut settle = lock(&store.settle);
    let Err(error) = result else {
        settle.handle_recorded(name);
        return;
    };
    let in_use = matches!(error.code(), "IN_USE" | "UNCLEAN");
    let never = store.live_config().in_use == InUse::Never && in_use;
    let news = if never {
        settle.handle_left_alone(name, error.code(), now)
    } else {
        settle.handle_failed(name, error.code(), now)
    };
    drop(settle);
    if news {
        let note = Note::warning(error.code(), error.to_string());
        core.events.note(note.store(&store.config.name).image(&name));
    }
}

/// Records the current content of an image as a generation, if it is a new one; `told` is what a
/// person says has changed.
pub(crate) async fn record(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    image: &ImageName,
    told: Option<Told>,
    progress: Arc<dyn Progress + Send + Sync>,
) -> Result<Recorded> {
    let permit = core.jobs.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
    let doing = store.begin(image, Activity::Recording)?;
    let (core, store, image) = (core.clone(), store.clone(), image.clone());
    blocking("recording", move || {
        let _held = (permit, doing);
        sets::may_record(&core, &store, &image)?;
        store.made_here(&image);
        let author = core.config.identity.id();
        let telling = Telling { core: &core, store: &store, image: &image, inner: &*progress };
        let relied = !store.store.extents_are_off()?;
        let of = &store.store;
        let recorded = of.record_told(&image, author, now_unix_ms(), told.as_ref(), &telling);
        let recorded = recorded.map_err(|error| recording::with_holder(&store, error))?;
        if relied && store.store.extents_are_off()? {
            let text = "the file system's extents missed a change: images are read whole now";
            let note = Note::error("EXTENTS_MISSED", text.to_owned());
            core.events.note(note.store(&store.config.name).image(&image));
        }
        // It is what was just recorded, until the next look says otherwise.
        lock(&store.seen).remove(image.as_str());
        core.witness.touch(&store.config.name, &image);
        if let Recorded::New(generation) = &recorded {
            note_recorded(&core, &store, generation)?;
            deletions::note_renames(&core, &store, generation)?;
        }
        Ok(recorded)
    })
    .await
}

fn note_recorded(core: &Core, store: &OpenStore, generation: &Generation) -> Result<()> {
    core.counts.note_recorded(generation);
    rewound::refresh(core, store)?;
    let head = head_of(store, generation)?;
    core.note_head(store, generation, head);
    if store.config.role == Role::Mirror && generation.number > 1 && adoption::judges_files(store) {
        mirror::tell_edited(core, store, generation);
        return Ok(());
    }
    let text = format!(
        "{}@{}: {} bytes changed, {} bytes read in {} ms",
        store.full_name(&generation.image),
        generation.number,
        generation.dirty_bytes,
        generation.bytes_read,
        generation.millis
    );
    let note = Note::info("RECORDED", text);
    core.events.note(note.store(&store.config.name).image(&generation.image));
    sets::recorded(core, store, generation);
    Ok(())
}

/// A job's progress that also ends it when the node stops.
pub(crate) struct Stopping<'a> {
    pub(crate) core: &'a Core,
    pub(crate) inner: &'a dyn Progress,
}

impl Progress for Stopping<'_> {
    fn advance(&self, done_bytes: u64, total_bytes: u64) {
        self.inner.advance(done_bytes, total_bytes);
    }

    fn cancelled(&self) -> bool {
        self.core.is_stopping() || self.inner.cancelled()
    }
}
