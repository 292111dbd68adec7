//! A store: a replicated directory with its catalog. This is the facade; each station of the two
//! lines has its own file.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use blockferry_delta::{Chunker, ImageName, Keys, NodeId, Root, SegmentMap, segment_count};

use crate::adopt;
use crate::adoption::Known;
use crate::catalog::{Catalog, CatalogRead, Checkpoint, Generation, ImageRecord};
use crate::claim::{Claim, Claims};
use crate::disk::{Disk, Guard, Holder, Lease, Open, probe_clone};
use crate::error::{Error, IoContext, Result};
use crate::headers::Headers;
use crate::kept::{Retention, ServiceClock};
use crate::layout::{self, PRIVATE, StoreIdentity};
use crate::recover::RecoveryReport;

/// How a new content takes the place of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    /// The staging begins as a reflink clone of the base: I/O follows the dirty bytes.
    Clone,
    /// No reflinks: what changes is collected in a journal and put into the image's own file, if
    /// it is little and nobody has the image open; else as `Copy`.
    Journal,
    /// No reflinks: the staging begins as the image's spare, or as a whole copy of the base.
    Copy,
}

/// When a clone of what was recorded last is kept (where reflinks work).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HoldBase {
    /// For images that rest between updates, not for those written all day.
    #[default]
    Auto,
    /// For all images.
    Always,
    /// For none: every change is found by reading the whole image.
    Never,
}

/// How a store is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mode, where it isn't to be probed.
    pub commit: Option<CommitMode>,
    /// Threads of a scan.
    pub scan_threads: usize,
    /// Bytes of the catalog's cache.
    pub cache_bytes: usize,
    /// Bytes that stay free on the filesystem.
    pub free_min_bytes: u64,
    /// Earlier contents of each image that are kept, and at least as many generations whose block
    /// maps stay known. `None`: 5 where reflinks work, none elsewhere.
    pub keep_generations: Option<u32>,
    /// Days in service for which earlier contents and deleted images are kept.
    pub keep_days: u32,
    /// Keep the content that a copy replaced as a spare, while there is room for it.
    pub keep_spare: bool,
    /// When to hold a clone of what was recorded last.
    pub hold_base: HoldBase,
    /// Record an image that somebody keeps open for writing as it is at one instant (where
    /// reflinks work), instead of waiting until it is closed.
    pub snapshot: bool,
    /// Leave what is received in the page cache, and let [`Store::warm`] read the rest into it.
    pub warm: bool,
    /// Nothing is made here: a file of which nothing is recorded is adopted.
    pub mirror: bool,
    /// A store that is made, or whose catalog is, is adopted from another tool: it begins by observing.
    pub adopt: bool,
    /// A number that no other catalog was given, for the lineage of what this one records; 0: the
    /// author's own id will do.
    pub incarnation: fn() -> u64,
    /// A clock that only measures, in milliseconds. Nothing is decided by it.
    pub monotonic_ms: fn() -> u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            commit: None,
            scan_threads: std::thread::available_parallelism().map_or(2, usize::from),
            cache_bytes: 32 << 20,
            free_min_bytes: 0,
            keep_generations: None,
            keep_days: KEEP_DAYS,
            keep_spare: true,
            hold_base: HoldBase::Auto,
            snapshot: false,
            warm: false,
            mirror: false,
            adopt: false,
            incarnation: random,
            monotonic_ms: process_ms,
        }
    }
}

/// Earlier contents that are kept, and generations whose maps are, if nobody says how many.
const KEEP_GENERATIONS: u32 = 5;
/// Days for which they are kept, if nobody says how many.
const KEEP_DAYS: u32 = 7;

impl Options {
    /// Generations whose block maps stay known, the current one among them.
    pub(crate) fn maps_kept(&self) -> u32 {
        self.keep_generations.unwrap_or(KEEP_GENERATIONS).max(1)
    }
}

/// A number that the system's randomness makes.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Milliseconds since this process first asked.
fn process_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// An open store. Blocking; to be shared between threads by `Arc`.
#[derive(Debug)]
pub struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: StoreIdentity,
    pub(crate) catalog: Catalog,
    pub(crate) chunker: Chunker,
    pub(crate) options: Options,
    mode: CommitMode,
    degraded: AtomicBool,
    /// Images some operation works on.
    pub(crate) claims: Arc<Claims>,
    /// Bytes promised to stagings that haven't taken them yet.
    pub(crate) reserved_bytes: Arc<AtomicU64>,
    /// Bytes promised to stagings that are there, used or not.
    pub(crate) staging_bytes: Arc<AtomicU64>,
    /// Walks begun since it was opened.
    pub(crate) walks: AtomicU64,
    /// What the headers of its files said.
    pub(crate) headers: Headers,
    /// How long it was in service.
    pub(crate) service: ServiceClock,
    /// How far it has been adopted, as the catalog has it.
    pub(crate) adoption: Arc<Known>,
    /// Images whose current generation is received once more.
    pub(crate) mending: crate::mend::Mending,
    /// Images that were written to in place for longer than openers wait, and nobody was told of.
    pub(crate) slow_commits: Mutex<BTreeSet<ImageName>>,
    /// Held by who moves the adoption.
    pub(crate) moving: Mutex<()>,
    /// Held by whoever changes images; alone by who takes that right away.
    pub(crate) placing: RwLock<()>,
}

impl Store {
    /// Makes a directory a store. Files that are there become images when they are recorded.
    pub fn create(disk: Arc<dyn Disk>, identity: StoreIdentity, options: &Options) -> Result<Self> {
        layout::create(disk.as_ref(), &identity)?;
        Ok(Self::open(disk, options)?.0)
    }

    /// Opens a store and finishes or abandons what a crash interrupted.
    pub fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<(Self, RecoveryReport)> {
        let identity = layout::read_marker(disk.as_ref())?.ok_or(Error::StoreMissing)?;
        layout::make_private(disk.as_ref())?;
        let adoption: Arc<Known> = Arc::default();
        let disk: Arc<dyn Disk> = Arc::new(Guard::new(disk, Arc::clone(&adoption)));
        let (catalog, rebuilt) = adopt::open_catalog(disk.as_ref(), options.cache_bytes)?;
        let mode = match options.commit {
            Some(mode) => mode,
            None if probe_clone(disk.as_ref(), PRIVATE).during("probe clones in", PRIVATE)? => {
                CommitMode::Clone
            }
            None => CommitMode::Journal,
        };
        let store = Self {
            chunker: Chunker::new(Keys::derive(&identity.key)),
            disk,
            identity,
            catalog,
            options: options.clone(),
            mode,
            degraded: AtomicBool::new(false),
            claims: Arc::default(),
            reserved_bytes: Arc::default(),
            staging_bytes: Arc::default(),
            walks: AtomicU64::new(0),
            headers: Headers::default(),
            service: ServiceClock::default(),
            adoption,
            mending: Mutex::default(),
            slow_commits: Mutex::default(),
            moving: Mutex::default(),
            placing: RwLock::default(),
        };
        store.adopt_present()?;
        store.load_adoption()?;
        store.catalog.defer_index(true);
        let mut report = store.recover()?;
        store.catalog.defer_index(false);
        report.catalog_made_anew = rebuilt;
        store.take_up_adoption()?;
        Ok((store, report))
    }

    /// Is nothing made here?
    pub fn is_mirror(&self) -> bool {
        self.options.mirror
    }

    /// Who the store is.
    pub fn identity(&self) -> &StoreIdentity {
        &self.identity
    }

    /// How generations are committed here.
    pub fn commit_mode(&self) -> CommitMode {
        self.mode
    }

    pub(crate) fn clones(&self) -> bool {
        self.mode == CommitMode::Clone
    }

    /// What is kept of what isn't current. Without reflinks an earlier content costs as much as the
    /// image: there none is kept unless somebody asks for it.
    pub fn retention(&self) -> Retention {
        let usual = if self.clones() { KEEP_GENERATIONS } else { 0 };
        Retention {
            generations: self.options.keep_generations.unwrap_or(usual),
            days: self.options.keep_days,
        }
    }

    /// Is a deletion the last that is known of an image?
    pub fn is_deleted(&self, name: &ImageName) -> Result<bool> {
        Ok(self.current(name)?.is_some_and(|current| current.is_deleted()))
    }

    /// Room that was promised to the stagings under way, in bytes.
    pub fn staging_bytes(&self) -> u64 {
        self.staging_bytes.load(Ordering::Relaxed)
    }

    /// Did a failed sync leave the store in doubt?
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    pub(crate) fn degrade(&self) {
        self.degraded.store(true, Ordering::Relaxed);
    }

    /// The current generation of every name, by name, deletions among them.
    pub fn heads(&self) -> Result<Vec<Generation>> {
        let read = self.catalog.read()?;
        let images = read.images()?;
        images.iter().filter_map(|image| generation_of(&read, image).transpose()).collect()
    }

    /// The current generation of every image that isn't deleted, by name.
    pub fn images(&self) -> Result<Vec<Generation>> {
        let read = self.catalog.read()?;
        let mut images = read.images()?;
        images.retain(|image| !image.deleted);
        images.iter().filter_map(|image| generation_of(&read, image).transpose()).collect()
    }

    /// The current generation of an image; it may say that the image was deleted.
    pub fn current(&self, name: &ImageName) -> Result<Option<Generation>> {
        let read = self.catalog.read()?;
        read.image(name)?.map_or(Ok(None), |image| generation_of(&read, &image))
    }

    /// The generations of an image, newest first.
    pub fn history(&self, name: &ImageName) -> Result<Vec<Generation>> {
        let read = self.catalog.read()?;
        let image = read.image(name)?.filter(|image| image.current > 0);
        let image = image.ok_or_else(|| Error::NotFound(name.clone()))?;
        read.generations(image.id, name)
    }

    /// Remembers that `peer` holds a generation.
    pub fn note_receipt(
        &self,
        peer: NodeId,
        name: &ImageName,
        number: u64,
        root: Root,
    ) -> Result<()> {
        let write = self.catalog.write()?;
        let image = write.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        write.put_receipt(image.id, &peer, number, &root)?;
        write.commit()
    }

    /// What peers are known to hold of an image: (peer, generation, root).
    pub fn receipts(&self, name: &ImageName) -> Result<Vec<(NodeId, u64, Root)>> {
        let read = self.catalog.read()?;
        read.image(name)?.map_or(Ok(Vec::new()), |image| read.receipts(image.id))
    }

    /// Does somebody have an image open for writing? `false` also where it can't be told.
    pub fn is_written(&self, name: &ImageName) -> Result<bool> {
        let file = self.disk.open(name.as_str(), Open::Read).during("open", name.as_str())?;
        let lease = file.writer_free().during("ask for a lease on", name.as_str())?;
        Ok(lease == Lease::Held)
    }

    /// Who has an image open for writing, as far as it can be told; only for people.
    pub fn writer_of(&self, name: &ImageName) -> Option<Holder> {
        self.disk.writer_of(name.as_str())
    }

    /// A directory without its marker is an unmounted disk, not an empty store.
    pub(crate) fn check_marker(&self) -> Result<()> {
        match layout::read_marker(self.disk.as_ref())? {
            Some(identity) if identity.id == self.identity.id => Ok(()),
            _ => Err(Error::StoreMissing),
        }
    }

    pub(crate) fn check_health(&self) -> Result<()> {
        if self.is_degraded() { Err(Error::Degraded) } else { Ok(()) }
    }

    /// Takes the right to work on an image.
    pub(crate) fn claim(&self, name: &ImageName) -> Result<Claim> {
        self.claims.work(name)
    }

    pub(crate) fn current_of(&self, image: Option<&ImageRecord>) -> Result<Option<Generation>> {
        let read = self.catalog.read()?;
        image.map_or(Ok(None), |image| generation_of(&read, image))
    }

    /// Is the image's file what its checkpoint says?
    pub(crate) fn at_checkpoint(
        &self,
        name: &ImageName,
        point: Option<&Checkpoint>,
    ) -> Result<bool> {
        let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        Ok(point.zip(stat.as_ref()).is_some_and(|(point, stat)| *point == Checkpoint::of(stat)))
    }
}

fn generation_of(read: &CatalogRead, image: &ImageRecord) -> Result<Option<Generation>> {
    read.generation(image.id, &image.name, image.current)
}

/// The block map of one generation, by segment.
#[derive(Clone, Copy)]
pub(crate) struct MapOf {
    pub(crate) image: u32,
    pub(crate) number: u64,
    pub(crate) current: u64,
    pub(crate) size_bytes: u64,
}

impl MapOf {
    /// The map of the generation of `name` with `root`; the newest, if there are several.
    pub(crate) fn find(
        read: &CatalogRead,
        image: &ImageRecord,
        root: &Root,
    ) -> Result<Option<Self>> {
        let all = read.generations(image.id, &image.name)?;
        let found = all.iter().find(|g| g.root == *root && g.number >= image.oldest_map);
        Ok(found.map(|generation| Self {
            image: image.id,
            number: generation.number,
            current: image.current,
            size_bytes: generation.size_bytes,
        }))
    }

    /// The segments in which this generation, the current one, may differ from an earlier one of the
    /// same image and length; `None`: in any.
    pub(crate) fn changed_since(
        &self,
        read: &CatalogRead,
        before: &Self,
    ) -> Result<Option<BTreeSet<u32>>> {
        let told = self.number == self.current
            && (before.image, before.current) == (self.image, self.current)
            && before.size_bytes == self.size_bytes;
        if !told {
            return Ok(None);
        }
        read.replaced(self.image, before.number, self.current).map(Some)
    }

    /// Block map of a segment; `None` beyond the end.
    pub(crate) fn segment(&self, read: &CatalogRead, segment: u32) -> Result<Option<SegmentMap>> {
        if segment >= segment_count(self.size_bytes) {
            return Ok(None);
        }
        match read.map_replaced(self.image, self.number, self.current, segment)? {
            Some(map) => Ok(Some(map)),
            None => read.map(self.image, segment),
        }
    }
}
