//! Stores in service: how they are opened, what is known of them while they run, and who may do
//! what with an image of theirs at a time.
//!
//! `looking` is the task that looks after one, `recording` makes its generations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use blockferry_delta::{ImageName, StoreId, StoreKey};
use blockferry_store::disk::RealDisk;
use blockferry_store::{
    CommitMode, Error as StoreError, LookState, Options, Progress, RecoveryReport, Store,
    StoreIdentity,
};
use tokio::sync::Notify;

use crate::api::Role;
use crate::budget;
use crate::config::{Commit, FreeMin, InUse, Names, StoreConfig};
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::lineage::deletions::Deletions;
use crate::lineage::diverged::Preferences;
use crate::lineage::mirror;
use crate::lineage::rewound::Rewound;
use crate::local::adoption::Offers;
use crate::local::recording;
use crate::local::sets::{self, SetRules};
use crate::local::settle::Settle;
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
    pub(super) settle: Mutex<Settle>,
    /// Images whose files are gone, at a writer.
    pub(crate) deletions: Mutex<Deletions>,
    /// What the last look saw, by name; unchanged ones left out.
    pub(super) seen: Mutex<BTreeMap<String, LookState>>,
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
    pub(super) gone: tokio::sync::watch::Sender<bool>,
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
    let real = match RealDisk::open(&config.path) {
        Ok(real) => real,
        // A disk that isn't mounted; only somebody who adds a store has named a wrong path.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && (configured || ledger.known_store(&config.name)?.is_some()) =>
        {
            return Err(StoreError::StoreMissing.into());
        }
        Err(error) => return Err(Error::io("open", &config.path, error)),
    };
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
            let known = ledger.known_store(&config.name)?;
            check_identity(config, (&origin, known), &store)?;
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

/// Is it the store that was granted, or that was in service under this name?
fn check_identity(
    config: &StoreConfig,
    (origin, known): (&Origin, Option<StoreId>),
    store: &Store,
) -> Result<()> {
    let found = store.identity();
    let exists = |what: String| Error::StoreExists { name: config.name.to_string(), what };
    if found.name != config.name {
        return Err(exists(format!("{} holds store {}", config.path.display(), found.name)));
    }
    let expected = match origin {
        Origin::Granted(granted) => Some(granted.id),
        Origin::Ours => known,
    };
    if expected.is_some_and(|id| id != found.id) {
        return Err(exists(format!("{} holds another store of this name", config.path.display())));
    }
    Ok(())
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
    pub(super) fn news(&self, what: String) -> bool {
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

    pub(super) fn no_news(&self, what: &str) {
        lock(&self.told).remove(what);
    }
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

    fn reading(&self, bytes: u64) {
        self.core.before_reading(bytes, || self.cancelled());
    }

    fn cancelled(&self) -> bool {
        self.core.is_stopping() || self.inner.cancelled()
    }
}
