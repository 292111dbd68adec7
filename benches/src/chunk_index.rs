//! A chunk index of any size, made through the front door: the catalog has no way in of its own.
//!
//! A generation of nothing but zeros is staged with a recipe that names chunks by the million, and
//! committed. A chunk id is a hint that nobody has to prove, so the catalog takes them: it then
//! holds exactly as many index entries and chunk lists as for a real image, without terabytes of
//! data. What is timed is the store's own `commit` (insert) and `plan` (look-up).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use blockferry_delta::{
    Chunk, ChunkId, ImageName, NodeId, RecipePart, Root, SEGMENT_BYTES, SegmentMap, StoreId,
    StoreKey, StoreName, image_root, segment_count,
};
use blockferry_store::disk::{Disk, Open, RealDisk};
use blockferry_store::{
    CommitMode, Error, Generation, IndexReport, Options, Received, Sealed, StageRequest, Staging,
    Store, StoreIdentity,
};

/// Chunks in one part of a recipe: the most the protocol allows, and so the most looked up at once.
pub(crate) const PART_CHUNKS: u32 = 4096;
/// Chunks of one image; an index of more has more images.
const IMAGE_CHUNKS: u32 = 1_000_000;
/// As many as in images of real servers.
const SEGMENT_CHUNKS: u32 = 128;
const CHUNK_BYTES: u32 = (SEGMENT_BYTES / SEGMENT_CHUNKS as u64) as u32;
/// An image of a page, recorded so that there is a generation to copy.
const TEMPLATE: &str = "template";
/// Stands for an image number in the ids of chunks that aren't in the index.
const UNKNOWN: u32 = u32::MAX;

/// A store whose chunk index has a known number of entries.
pub(crate) struct Index {
    store: Arc<Store>,
    template: Generation,
    chunks: u32,
    rng: Rng,
    /// Parts and insertions so far: each has ids of its own.
    round: u32,
    /// Roots of images of zeros, by length: hashing zeros takes as long as hashing data.
    roots: HashMap<u64, Root>,
}

impl Index {
    /// The index of `chunks` entries below `dir`, made there if it is missing. What was made before
    /// is used again, what was interrupted is gone on with: making 20 M entries takes minutes.
    pub(crate) fn kept(dir: &Path, chunks: u32) -> anyhow::Result<Self> {
        let done = dir.join(format!("index-{chunks}"));
        if !done.exists() {
            let partial = dir.join(format!("index-{chunks}.partial"));
            drop(Self::new(&real_disk(&partial)?, chunks)?);
            std::fs::rename(&partial, &done)?;
        }
        Self::open(&real_disk(&done)?, chunks)
    }

    /// A new index of `chunks` entries.
    pub(crate) fn new(disk: &Arc<dyn Disk>, chunks: u32) -> anyhow::Result<Self> {
        put(disk.as_ref(), TEMPLATE, &[1; 4096])?;
        let mut index = Self::open(disk, chunks)?;
        index.make()?;
        Ok(index)
    }

    fn open(disk: &Arc<dyn Disk>, chunks: u32) -> anyhow::Result<Self> {
        Self::of(store(disk, &options(false))?, chunks)
    }

    /// The index of a store that is open.
    pub(crate) fn of(store: Arc<Store>, chunks: u32) -> anyhow::Result<Self> {
        // A generation has many fields that don't matter here: they are those of a recorded one.
        let name = ImageName::new(TEMPLATE)?;
        let recorded = store.record(&name, NodeId::from_bytes([7; 32]), 0, &())?;
        let template = recorded.generation().clone();
        Ok(Self { store, template, chunks, rng: Rng(6), round: 0, roots: HashMap::new() })
    }

    fn make(&mut self) -> anyhow::Result<()> {
        for image in 0..self.chunks.div_ceil(IMAGE_CHUNKS) {
            let chunks = (self.chunks - image * IMAGE_CHUNKS).min(IMAGE_CHUNKS);
            let name = format!("image-{image}");
            if self.store.current(&ImageName::new(&name)?)?.is_some() {
                continue;
            }
            // Every chunk is looked up before it is put.
            self.prepare()?;
            let sealed = self.seal(&name, image_bytes(chunks), image, chunks)?;
            self.store.commit(sealed, Received::default())?;
        }
        Ok(())
    }

    fn zero_root(&mut self, bytes: u64) -> Root {
        *self.roots.entry(bytes).or_insert_with(|| zero_root(bytes))
    }

    fn stage(&self, name: &str, bytes: u64, root: Root) -> anyhow::Result<Staging> {
        let image = ImageName::new(name)?;
        // Another image of zeros: what zeros hash to is then known.
        let base = self.store.plan_base(root, &[], &image)?;
        let generation =
            Generation { image, root, size_bytes: bytes, data_bytes: 0, ..self.template.clone() };
        Ok(self.store.stage(StageRequest {
            generation,
            base,
            dirty_bytes: 0,
            keep_replaced: false,
        })?)
    }

    fn seal(&mut self, name: &str, bytes: u64, ids_of: u32, chunks: u32) -> anyhow::Result<Sealed> {
        let root = self.zero_root(bytes);
        let mut staging = self.stage(name, bytes, root)?;
        for (number, first) in (0..chunks).step_by(PART_CHUNKS as usize).enumerate() {
            let chunks = first..chunks.min(first + PART_CHUNKS);
            staging.plan(&RecipePart {
                number: u32::try_from(number)?,
                chunks: chunks.map(|n| chunk(ids_of, n)).collect(),
                ..RecipePart::default()
            })?;
        }
        Ok(staging.seal()?)
    }

    /// Makes look-ups of unknown chunks cheap, as a node does when it begins to receive.
    pub(crate) fn prepare(&self) -> anyhow::Result<IndexReport> {
        self.store.prepare_index(&())?;
        Ok(self.store.index_report()?)
    }

    /// A sealed generation that adds `chunks` chunks that the index doesn't have.
    pub(crate) fn insertion(&mut self, chunks: u32) -> anyhow::Result<Insertion> {
        self.round += 1;
        let ids_of = UNKNOWN - self.round;
        let sealed = self.seal("probe", image_bytes(chunks), ids_of, chunks)?;
        Ok(Insertion { store: Arc::clone(&self.store), sealed })
    }

    /// Takes what was inserted out of the index again, so that it keeps its size.
    pub(crate) fn forget_insertion(&mut self) -> anyhow::Result<()> {
        let sealed = self.seal("probe", SEGMENT_BYTES, 0, 0)?;
        self.store.commit(sealed, Received::default())?;
        Ok(())
    }

    /// A part that names `chunks` chunks of the index. Their lengths are wrong, so the store looks
    /// them up and then has nothing to read: the look-up alone is measured.
    pub(crate) fn known(&mut self, chunks: u32) -> anyhow::Result<LookUp> {
        let ids: Vec<_> = (0..chunks)
            .map(|_| {
                let n = self.rng.below(self.chunks.into()) as u32;
                id(n / IMAGE_CHUNKS, n % IMAGE_CHUNKS)
            })
            .collect();
        self.look_up(ids)
    }

    /// A part that names `chunks` chunks that aren't in the index.
    pub(crate) fn unknown(&mut self, chunks: u32) -> anyhow::Result<LookUp> {
        self.round += 1;
        let image = UNKNOWN - self.round;
        self.look_up((0..chunks).map(|n| id(image, n)).collect())
    }

    fn look_up(&mut self, ids: Vec<ChunkId>) -> anyhow::Result<LookUp> {
        let bytes = image_bytes(u32::try_from(ids.len())?);
        let chunks = ids.into_iter().zip(0..);
        let part = RecipePart {
            chunks: chunks.map(|(id, n)| Chunk { bytes: 64, id, ..chunk(0, n) }).collect(),
            ..RecipePart::default()
        };
        // Nothing is sealed, so the root needn't be right, nor anybody have it.
        let staging = self.stage("look-up", bytes, Root::from_bytes([0xEE; 32]))?;
        Ok(LookUp { staging, part })
    }
}

/// A commit that is about to insert chunks.
pub(crate) struct Insertion {
    store: Arc<Store>,
    sealed: Sealed,
}

impl Insertion {
    /// What is measured: the commit of a generation, in which inserting chunks is what takes time.
    pub(crate) fn run(self) -> anyhow::Result<(Arc<Store>, Generation)> {
        let generation = self.store.commit(self.sealed, Received::default())?;
        Ok((self.store, generation))
    }
}

/// A staging that is about to look chunks up.
pub(crate) struct LookUp {
    staging: Staging,
    part: RecipePart,
}

impl LookUp {
    /// What is measured: planning a part that has chunks and no blocks.
    pub(crate) fn run(mut self) -> anyhow::Result<Self> {
        let planned = self.staging.plan(&self.part)?;
        anyhow::ensure!(planned.found_bytes == 0, "a chunk was found that isn't there");
        Ok(self)
    }

    /// Leaves the store as it was.
    pub(crate) fn undo(self) -> anyhow::Result<()> {
        Ok(self.staging.abandon()?)
    }
}

/// Numbers from a seed (splitmix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

/// One step of splitmix64: unrelated numbers for neighbouring ones.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The disk below a directory that is made if it isn't there.
pub(crate) fn real_disk(dir: &Path) -> anyhow::Result<Arc<dyn Disk>> {
    std::fs::create_dir_all(dir)?;
    Ok(Arc::new(RealDisk::open(dir)?))
}

/// Copy mode, so that figures of machines with and without reflinks can be compared.
pub(crate) fn options(keep_spare: bool) -> Options {
    Options { commit: Some(CommitMode::Copy), scan_threads: 1, keep_spare, ..Options::default() }
}

/// The store on `disk`, made if there is none.
pub(crate) fn store(disk: &Arc<dyn Disk>, options: &Options) -> anyhow::Result<Arc<Store>> {
    match Store::open(Arc::clone(disk), options) {
        Ok((store, _)) => return Ok(Arc::new(store)),
        Err(Error::StoreMissing) => {}
        Err(error) => return Err(error.into()),
    }
    let identity = StoreIdentity {
        name: StoreName::new("bench")?,
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    };
    Ok(Arc::new(Store::create(Arc::clone(disk), identity, options)?))
}

/// A file of these bytes.
pub(crate) fn put(disk: &dyn Disk, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
    Ok(disk.open(path, Open::Create)?.write_at(bytes, 0)?)
}

fn id(image: u32, number: u32) -> ChunkId {
    ChunkId(mix((u64::from(image) << 32 | u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn chunk(image: u32, number: u32) -> Chunk {
    Chunk {
        offset: u64::from(number) * u64::from(CHUNK_BYTES),
        bytes: CHUNK_BYTES,
        id: id(image, number),
    }
}

fn image_bytes(chunks: u32) -> u64 {
    // One more than a segment: an image of a single one has no segments of zeros.
    (u64::from(chunks.div_ceil(SEGMENT_CHUNKS)) + 1) * SEGMENT_BYTES
}

/// Root of an image of zeros.
fn zero_root(bytes: u64) -> Root {
    let values: Vec<_> =
        (0..segment_count(bytes)).map(|s| SegmentMap::zero(s, bytes).value(bytes)).collect();
    image_root(&values)
}
