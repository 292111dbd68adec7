//! The record station: freeze, discover, digest, and one transaction that makes what was found
//! the image's next generation.

use blockferry_delta::{Chunk, ImageName, Lineage, NodeId, SEGMENT_BYTES, segment_count};

use minicbor::bytes::ByteArray;

use crate::catalog::{CatalogWrite, Checkpoint, Discover, Generation, ImageRecord};
use crate::changed::{Told, check_name};
use crate::error::{Error, Result};
use crate::freeze::{Frozen, freeze, regular};
use crate::layout::STAGING;
use crate::scan::Progress;
use crate::spool::{Entries, Spool};
use crate::store::Store;
use crate::writer;

/// What is known when an image is frozen.
pub(crate) struct Before<'a> {
    /// The image, if it was ever recorded.
    pub(crate) image: Option<ImageRecord>,
    /// Its current generation.
    pub(crate) current: Option<Generation>,
    /// What a person says has changed since.
    pub(crate) told: Option<&'a Told>,
}

/// What [`Store::record`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The image is what the current generation says.
    Unchanged(Generation),
    /// A new generation was recorded.
    New(Generation),
}

impl Recorded {
    /// The generation that is current now.
    pub fn generation(&self) -> &Generation {
        match self {
            Self::Unchanged(generation) | Self::New(generation) => generation,
        }
    }
}

impl Store {
    /// Records what image `name` holds now as a generation of `author`, if it isn't recorded.
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::ChangedWhileReading`] mean: try again later.
    pub fn record(
        &self,
        name: &ImageName,
        author: NodeId,
        now_unix_ms: i64,
        progress: &dyn Progress,
    ) -> Result<Recorded> {
        self.record_told(name, author, now_unix_ms, None, progress)
    }

    /// As [`Store::record`], with a map of what changed since the current generation.
    ///
    /// # Errors
    /// Also [`Error::BadMap`], if the map is malformed or of another content.
    pub fn record_told(
        &self,
        name: &ImageName,
        author: NodeId,
        now_unix_ms: i64,
        told: Option<&Told>,
        progress: &dyn Progress,
    ) -> Result<Recorded> {
        self.check_marker()?;
        // A commit that waits for recovery would look like a local change.
        self.check_health()?;
        let _claim = self.claim(name)?;
        let image = self.catalog.read()?.image(name)?;
        let current = self.current_of(image.as_ref())?;
        if current.is_none() {
            check_name(name)?;
        }
        let stat = regular(self.disk.as_ref(), name)?;
        if let (Some(current), Some(image)) = (&current, &image)
            && image.checkpoint == Some(Checkpoint::of(&stat))
        {
            return Ok(Recorded::Unchanged(current.clone()));
        }
        if stat.size_bytes == 0 {
            return Err(Error::Empty(name.clone()));
        }
        self.make_headroom(name, progress)?;
        let mut frozen = freeze(self.disk.as_ref(), name, self.clones(), &self.options)?;
        if frozen.written {
            progress.frozen(frozen.clone_millis);
        }
        let before = Before { image, current, told };
        let outcome = self.record_frozen(name, &mut frozen, before, author, now_unix_ms, progress);
        frozen.thaw(self.disk.as_ref())?;
        outcome
    }

    fn record_frozen(
        &self,
        name: &ImageName,
        frozen: &mut Frozen,
        before: Before<'_>,
        author: NodeId,
        now_unix_ms: i64,
        progress: &dyn Progress,
    ) -> Result<Recorded> {
        let started_ms = (self.options.monotonic_ms)();
        let path = format!("{STAGING}/{name}.spool");
        let mut spool = Spool::new(path);
        let (scanned, discover) = self.discover(frozen, &before, &mut spool, progress)?;
        let Before { image, current, .. } = before;
        frozen.confirm(self.disk.as_ref(), name)?;
        let same_root = current.as_ref().is_some_and(|c| c.root == scanned.root);
        let generation = Generation {
            image: name.clone(),
            number: current.as_ref().map_or(0, |c| c.number) + 1,
            root: scanned.root,
            size_bytes: frozen.stat.size_bytes,
            data_bytes: scanned.data_bytes,
            meta: frozen.meta.clone(),
            lineage: self.next_lineage(image.as_ref(), current.as_ref(), author)?,
            author,
            recorded_unix_ms: now_unix_ms,
            discover: if same_root { Discover::Metadata } else { discover },
            bytes_read: scanned.bytes_read,
            dirty_bytes: scanned.dirty_bytes,
            wire_bytes: 0,
            millis: (self.options.monotonic_ms)().saturating_sub(started_ms),
            allocated_zero: scanned.allocated_zero,
        };
        let checkpoint = frozen.checkpoint();
        let leaving = self.leaving(image.as_ref(), current.as_ref(), &scanned.root, now_unix_ms)?;
        let found = (&scanned.root, discover);
        let held = self.hold(name, image.as_ref(), frozen, found, now_unix_ms)?;
        let unchanged = current.filter(|c| same_root && c.meta == generation.meta);
        let write = self.catalog.write()?;
        let image = self.image_record(&write, name, image)?;
        write.put_held(image.id, held.as_ref())?;
        let left = match leaving {
            Some(left) => {
                Some((self.note_kept(&write, name, &left.path, &left.stat, &left.keep)?, left))
            }
            None => None,
        };
        let recorded = match unchanged {
            Some(current) => {
                write.put_image(&ImageRecord { checkpoint, ..image })?;
                Recorded::Unchanged(current)
            }
            None => {
                self.put_current(&write, image, &generation, checkpoint, &Entries::Spool(&spool))?;
                write.count_mark(writer::COUNTED)?;
                Recorded::New(generation)
            }
        };
        write.commit()?;
        self.place_left(name, left);
        spool.remove(self.disk.as_ref())?;
        Ok(recorded)
    }

    /// The record of an image, with a new number if it has none yet.
    pub(crate) fn image_record(
        &self,
        write: &CatalogWrite,
        name: &ImageName,
        known: Option<ImageRecord>,
    ) -> Result<ImageRecord> {
        match known {
            Some(image) => Ok(image),
            None => Ok(ImageRecord {
                name: name.clone(),
                id: write.new_image_id()?,
                current: 0,
                checkpoint: None,
                oldest_map: 1,
                adopted: false,
                deleted: false,
            }),
        }
    }

    /// Makes `generation` the current one of `image` within `write`: block maps, chunk lists,
    /// chunk index and records. `entries` is what changed.
    pub(crate) fn put_current(
        &self,
        write: &CatalogWrite,
        image: ImageRecord,
        generation: &Generation,
        checkpoint: Option<Checkpoint>,
        entries: &Entries<'_>,
    ) -> Result<()> {
        let replaced = (image.current > 0).then_some(image.current);
        let old = write.generation(image.id, &image.name, image.current)?;
        let places = self.begin_places(write, image.id, old.as_ref(), generation)?;
        let mut last_segment = None;
        entries.for_each(&mut |entry| {
            let segment = entry.segment;
            write.put_maps(image.id, replaced, [Ok((segment, entry.map))])?;
            if let Some(chunks) = entry.chunks {
                if segment > 0 && last_segment != Some(segment - 1) {
                    drop_overhanging(write, image.id, segment - 1, places)?;
                }
                put_cuts(write, image.id, segment, chunks, places)?;
            }
            last_segment = Some(segment);
            Ok(())
        })?;
        let count = segment_count(generation.size_bytes);
        let gone = count..old.map_or(count, |o| segment_count(o.size_bytes)).max(count);
        write.put_maps(image.id, replaced, gone.clone().map(|s| Ok((s, None))))?;
        for segment in gone {
            put_cuts(write, image.id, segment, Vec::new(), places)?;
        }
        let keep = u64::from(self.options.maps_kept());
        let oldest_map = image.oldest_map.max((generation.number + 1).saturating_sub(keep)).max(1);
        write.drop_old_maps(image.id, oldest_map)?;
        write.put_generation(image.id, generation)?;
        write.put_image(&ImageRecord {
            current: generation.number,
            checkpoint,
            oldest_map,
            adopted: false,
            deleted: generation.is_deleted(),
            ..image
        })
    }

    /// A new content makes what is remembered of former places old. They are remembered for the
    /// generation before where it is held: only there can they be read.
    fn begin_places(
        &self,
        write: &CatalogWrite,
        image: u32,
        old: Option<&Generation>,
        generation: &Generation,
    ) -> Result<KeepPlaces> {
        let Some(old) = old.filter(|old| old.root != generation.root) else {
            return Ok(KeepPlaces::No);
        };
        write.drop_old_places(image)?;
        let root = ByteArray::from(*old.root.as_bytes());
        let held = write.held(image)?;
        let is_held = held.is_some_and(|held| {
            held.root == root || held.before.is_some_and(|before| before.root == root)
        });
        Ok(if is_held { KeepPlaces::Yes } else { KeepPlaces::No })
    }

    /// What a content that was just found descends from. What is adopted descends from nothing: the
    /// node didn't make it.
    pub(crate) fn next_lineage(
        &self,
        image: Option<&ImageRecord>,
        current: Option<&Generation>,
        author: NodeId,
    ) -> Result<Lineage> {
        let adopts = self.options.mirror || image.is_some_and(|image| image.adopted);
        let base = match current {
            None if adopts => return Ok(Lineage::default()),
            None => Lineage::default(),
            // An edit of a mirror is older than whatever somebody made: a peer's content replaces it.
            Some(_) if self.options.mirror => return Ok(Lineage::default()),
            Some(current) => current.lineage.clone(),
        };
        let writer = writer::writer_id(&self.catalog.read()?, author)?;
        base.bump(writer).map_err(|e| Error::Corrupt { what: "a lineage", detail: e.to_string() })
    }
}

/// A chunk that reaches into a segment that changed is no longer what its id says.
fn drop_overhanging(
    write: &CatalogWrite,
    image: u32,
    segment: u32,
    places: KeepPlaces,
) -> Result<()> {
    let mut chunks = write.cuts(image, segment)?;
    let border = (u64::from(segment) + 1) * SEGMENT_BYTES;
    if chunks.last().is_some_and(|chunk| chunk.end() > border) {
        chunks.retain(|chunk| chunk.end() <= border);
        put_cuts(write, image, segment, chunks, places)?;
    }
    Ok(())
}

/// Are former places of chunks worth remembering?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeepPlaces {
    Yes,
    No,
}

/// Replaces the chunk list of a segment.
fn put_cuts(
    write: &CatalogWrite,
    image: u32,
    segment: u32,
    chunks: Vec<Chunk>,
    places: KeepPlaces,
) -> Result<()> {
    let mut former = Vec::new();
    write.put_cuts(image, [Ok((segment, chunks))], &mut former)?;
    match places {
        KeepPlaces::Yes => write.put_old_places(image, segment, &former),
        KeepPlaces::No => Ok(()),
    }
}
