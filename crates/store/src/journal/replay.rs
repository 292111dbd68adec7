//! Recovery of a commit by journal. The image's file may be the old generation, the new one, or
//! anything between, torn at sectors: the journal makes it the new one, before anybody is served.
//! Only what our own commit can have left is written over; if a sector is neither what was there
//! nor what was to come, somebody wrote to it since, and the file stays as it is.

use std::time::Duration;

use blockferry_delta::{
    BLOCK_BYTES, ImageName, PAGE_BYTES, PAGES_PER_BLOCK, SEGMENT_BLOCKS, SEGMENT_BYTES, SegmentMap,
};

use super::apply::is_whole;
use super::records::{Change, Records, SECTOR_BYTES};
use crate::catalog::{CatalogRead, Checkpoint, Generation, ImageRecord, Prepared};
use crate::disk::{DiskFile, Lease, Open, Stat};
use crate::error::{Error, IoContext, Result};
use crate::freeze::freeze;
use crate::layout::STAGING;
use crate::spool::Spool;
use crate::store::{MapOf, Options, Store};

/// With less time left, others are let in and shut out again before the journal is applied.
const APPLY_TIME_MIN: Duration = Duration::from_secs(15);

/// What became of a journal that was prepared.
#[derive(Debug)]
pub(crate) enum Replayed {
    /// The image's file is the new generation. A checkpoint says that nobody else wrote to it.
    Done(Option<Checkpoint>),
    /// The image's file is the old generation, or somebody's change: the commit is dropped.
    Dropped,
    /// Somebody has the file open and sees the old generation, and others of its set are new.
    Held,
}

/// How far the commit of one image of a set has come, and which ways are open to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The new content is in its place, or some of it.
    pub(crate) is_placed: bool,
    /// It can be.
    pub(crate) can_be_placed: bool,
    /// The old content is there, or can be again.
    pub(crate) can_go_back: bool,
}

/// What of a commit an image's file shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Something is what it was to become, and wasn't before.
    begun: bool,
    /// Something is still to be changed.
    left: bool,
    /// Something is neither what it was nor what it was to become.
    foreign: bool,
}

/// A file in which a commit was prepared.
struct Found<'r> {
    image: &'r ImageRecord,
    /// The name by which it was found.
    at: &'r str,
    /// What it was when it was found.
    here: Stat,
    generation: &'r Generation,
    /// Its set goes forward.
    must: bool,
}

/// A file that is looked at, with what it shows and who has it open.
struct Looked {
    file: Box<dyn DiskFile>,
    lease: Lease,
    seen: Seen,
}

impl Seen {
    /// A piece is what it was, what it was to become, both or neither.
    fn note(&mut self, as_before: bool, as_after: bool) {
        self.begun |= as_after && !as_before;
        self.left |= as_before && !as_after;
        self.foreign |= !as_before && !as_after;
    }
}

impl Store {
    /// Finishes a commit by journal, or finds out why it can't be; `at`: where the image's file is.
    /// `must`: it is one of a set that goes forward.
    pub(crate) fn replay(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
        (at, here): (&str, Stat),
        must: bool,
    ) -> Result<Replayed> {
        let generation = Generation::decode(&image.name, &prepared.generation)?;
        let found = Found { image, at, here, generation: &generation, must };
        match self.whole_journal(prepared)? {
            Some(redo) => self.replay_whole(&found, redo.as_ref(), &prepared.staging),
            None => self.without_journal(&found),
        }
    }

    /// How far a commit by journal has come that is one of a set.
    pub(crate) fn standing(
        &self,
        image: &ImageRecord,
        prepared: &Prepared,
        (at, here): (&str, Stat),
    ) -> Result<Standing> {
        let generation = Generation::decode(&image.name, &prepared.generation)?;
        let found = Found { image, at, here, generation: &generation, must: true };
        let (begun, possible) = match self.whole_journal(prepared)? {
            Some(redo) => {
                let Looked { lease, seen, .. } =
                    self.look_through(&found, redo.as_ref(), &prepared.staging)?;
                (seen.begun, !seen.foreign && lease != Lease::Held)
            }
            None => (matches!(self.without_journal(&found)?, Replayed::Done(_)), false),
        };
        Ok(Standing { is_placed: begun, can_be_placed: possible, can_go_back: !begun })
    }

    /// The journal of a prepared commit, if it is what was written.
    pub(crate) fn whole_journal(&self, prepared: &Prepared) -> Result<Option<Box<dyn DiskFile>>> {
        let path = prepared.staging.as_str();
        let Some(sum) = &prepared.journal else { return Ok(None) };
        if self.disk.stat(path).during("look at", path)?.is_none() {
            return Ok(None);
        }
        let redo = self.disk.open(path, Open::Read).during("open", path)?;
        let whole = is_whole(redo.as_ref(), path, sum)?;
        Ok(Some(redo).filter(|_| whole))
    }

    /// Shuts the file, if that is possible, and compares it with the journal.
    fn look_through(&self, found: &Found<'_>, redo: &dyn DiskFile, path: &str) -> Result<Looked> {
        let Found { image, at, .. } = found;
        let mut file = self.disk.open(at, Open::ReadWrite).during("open", at)?;
        let lease = file.shut_out().during("ask for a lease on", at)?;
        let before = file.stat().during("look at", at)?;
        let mut seen = self.seen(image, redo, path, file.as_ref())?;
        if lease == Lease::Free && file.shut_left() < APPLY_TIME_MIN {
            // Reading took long. If somebody came in, it begins again around him.
            file.let_in().during("give back the lease on", at)?;
            let again = file.shut_out().during("ask for a lease on", at)? == Lease::Free;
            if !again || file.stat().during("look at", at)? != before {
                drop(file);
                return self.look_through(found, redo, path);
            }
        }
        if lease != Lease::Free {
            // Only a handle for reading can ask about writers, and only with no other of ours.
            drop(file);
            let reader = self.disk.open(at, Open::Read).during("open", at)?;
            seen.foreign |= reader.writer_free().during("ask for a lease on", at)? == Lease::Held;
            drop(reader);
            file = self.disk.open(at, Open::ReadWrite).during("open", at)?;
            seen.foreign |= file.stat().during("look at", at)? != before;
            seen.foreign |= self.disk.writer_of(at).is_some();
        }
        Ok(Looked { file, lease, seen })
    }

    fn replay_whole(&self, found: &Found<'_>, redo: &dyn DiskFile, path: &str) -> Result<Replayed> {
        let Found { image, at, here, generation, must } = found;
        let Looked { file, lease, seen } = self.look_through(found, redo, path)?;
        if seen.foreign {
            return self.written_to(found, file.as_ref(), seen);
        }
        if lease == Lease::Held && !seen.begun {
            // Whoever has it open sees the old generation, and goes on seeing it.
            return Ok(if *must { Replayed::Held } else { Replayed::Dropped });
        }
        match self.reserve(redo, path, file.as_ref(), generation) {
            Err(Error::OutOfSpace { .. }) if !seen.begun && !must => return Ok(Replayed::Dropped),
            reserved => reserved?,
        }
        let point = self.put_in_place(redo, path, (at, file.as_ref()), generation)?;
        // A file that was half done may have been written to where the journal says nothing.
        let known = !seen.begun && image.checkpoint == Some(Checkpoint::of(here));
        Ok(Replayed::Done(known.then_some(point)))
    }

    /// Somebody wrote to the file, or may do so.
    fn written_to(&self, found: &Found<'_>, file: &dyn DiskFile, seen: Seen) -> Result<Replayed> {
        let name = &found.image.name;
        if seen.begun && seen.left {
            // He has opened a mix: what he made of it is neither generation, nor his change of one.
            self.set_aside(name, found.at, None)?;
            self.synced(self.disk.sync_dir(""), "store directory")?;
            return Ok(Replayed::Dropped);
        }
        tracing::warn!(
            code = "LOCAL_CHANGE",
            image = %name,
            "it was written to before a commit could be finished; it stays as it is"
        );
        if !seen.begun {
            return Ok(Replayed::Dropped);
        }
        // All of the commit was there: the change is one of the new generation.
        self.synced(file.sync(), found.at)?;
        Ok(Replayed::Done(None))
    }

    /// Reads images that a recovery left without a checkpoint; those that are what the catalog says
    /// get one. Returns how many that are. What is being worked on is left alone.
    pub fn prove_recovered(&self) -> Result<usize> {
        let mut proved = 0;
        let images = self.catalog.read()?.images()?;
        for image in images.iter().filter(|i| i.current > 0 && i.checkpoint.is_none()) {
            proved += usize::from(self.prove(&image.name)?);
        }
        Ok(proved)
    }

    fn prove(&self, name: &ImageName) -> Result<bool> {
        let Some(_claim) = self.claims.upkeep(name) else { return Ok(false) };
        let image = self.catalog.read()?.image(name)?.filter(|i| i.checkpoint.is_none());
        let current = self.current_of(image.as_ref())?;
        let (Some(image), Some(current)) = (image, current) else { return Ok(false) };
        let options = Options { snapshot: false, ..self.options.clone() };
        let frozen = match freeze(self.disk.as_ref(), name, self.clones(), &options) {
            // Whatever is there, it is nothing to be proved.
            Err(Error::Io { op, path, source }) => return Err(Error::Io { op, path, source }),
            Err(_) => return Ok(false),
            Ok(frozen) => frozen,
        };
        let mut spool = Spool::new(format!("{STAGING}/{name}.again.spool"));
        let file = (frozen.file.as_ref(), frozen.path.as_str(), frozen.stat.size_bytes);
        let scanned = self.scan(file, Some(&image), Some(&current), &mut spool, &())?;
        let still = frozen.confirm(self.disk.as_ref(), name).is_ok();
        let same = scanned.root == current.root && frozen.meta == current.meta;
        let checkpoint = Some(Checkpoint::of(&frozen.stat));
        spool.remove(self.disk.as_ref())?;
        frozen.thaw(self.disk.as_ref())?;
        if still && same {
            let write = self.catalog.write()?;
            write.put_image(&ImageRecord { checkpoint, ..image })?;
            write.commit()?;
        }
        Ok(still && same)
    }

    /// The journal is damaged: only reading the image tells what it is.
    fn without_journal(
        &self,
        Found { image, at, here, generation, .. }: &Found<'_>,
    ) -> Result<Replayed> {
        let name = image.name.as_str();
        tracing::warn!(image = name, "a redo journal is damaged: the image is read again");
        let current = self.current_of(Some(image))?;
        let file = self.disk.open(at, Open::Read).during("open", at)?;
        let mut spool = Spool::new(format!("{STAGING}/{name}.again.spool"));
        let scanned = {
            let file = (file.as_ref(), *at, here.size_bytes);
            self.scan(file, Some(image), current.as_ref(), &mut spool, &())?
        };
        drop(file);
        spool.remove(self.disk.as_ref())?;
        if scanned.root == generation.root && here.size_bytes == generation.size_bytes {
            return Ok(Replayed::Done(None));
        }
        if current.is_none_or(|current| current.root != scanned.root) {
            // It is neither, and nothing here can make it whole.
            self.set_aside(&image.name, at, None)?;
            self.synced(self.disk.sync_dir(""), "store directory")?;
        }
        Ok(Replayed::Dropped)
    }

    /// Compares what a journal changes with what the image's file holds.
    fn seen(
        &self,
        image: &ImageRecord,
        redo: &dyn DiskFile,
        path: &str,
        file: &dyn DiskFile,
    ) -> Result<Seen> {
        let name = image.name.as_str();
        let mut seen = Seen::default();
        let Some(mut records) = Records::open(redo, path)? else {
            return Ok(Seen { foreign: true, ..seen });
        };
        let read = self.catalog.read()?;
        let old_bytes = read.generation(image.id, &image.name, image.current)?;
        let old_bytes = old_bytes.ok_or_else(|| Error::NotFound(image.name.clone()))?.size_bytes;
        let map = MapOf {
            image: image.id,
            number: image.current,
            current: image.current,
            size_bytes: old_bytes,
        };
        let new_bytes = records.head().image_bytes;
        let size = file.stat().during("look at", name)?.size_bytes;
        // Where a length is lost, a write beyond the end may have made another.
        let growing = old_bytes < size && size < new_bytes;
        seen.left = size != new_bytes;
        seen.begun = size != old_bytes && (size == new_bytes || growing);
        seen.foreign = size != old_bytes && !seen.begun;
        let mut old = OldPages { read: &read, map, file, name, size, last: None };
        while let Some(record) = records.next()? {
            match &record.change {
                Change::Data { bytes, before } => {
                    let now = read_padded(file, name, record.offset, bytes.len())?;
                    self.compare_data(&now, bytes, before, &mut seen);
                }
                Change::Hole(bytes) => {
                    let range = (record.offset, record.offset + bytes);
                    self.compare_pages(&mut old, range, true, &mut seen)?;
                }
            }
        }
        // What is to be cut off, but for the page in which that begins.
        let cut = (new_bytes.next_multiple_of(PAGE_BYTES as u64), size);
        self.compare_pages(&mut old, cut, false, &mut seen)?;
        Ok(seen)
    }

    /// Notes of every sector whether it is what it was or what it is to become.
    fn compare_data(&self, now: &[u8], new: &[u8], before: &[u32], seen: &mut Seen) {
        let sectors = now.chunks(SECTOR_BYTES).zip(new.chunks(SECTOR_BYTES)).zip(before);
        for ((now, new), before) in sectors {
            let as_before = self.chunker.keys().page(now) == *before;
            seen.note(as_before, now == new);
        }
    }

    /// Notes of every page of a range (it begins with one) whether it is as in the old block map,
    /// or a punched hole. Holes are punched by whole pages.
    fn compare_pages(
        &self,
        old: &mut OldPages<'_>,
        (start, end): (u64, u64),
        may_be_zero: bool,
        seen: &mut Seen,
    ) -> Result<()> {
        let mut at = start;
        while at < end {
            let stop = end.min((at / SEGMENT_BYTES + 1) * SEGMENT_BYTES);
            let data = old.file.next_data(at).during("find data of", old.name)?;
            if old.is_zero(at)? && data.is_none_or(|(start, _)| start >= stop) {
                at = stop;
                continue;
            }
            while at < stop {
                let now = read_padded(old.file, old.name, at, BLOCK_BYTES)?;
                let bytes = BLOCK_BYTES as u64 - at % BLOCK_BYTES as u64;
                let bytes = bytes.min((stop - at).next_multiple_of(PAGE_BYTES as u64));
                let pages = (at / PAGE_BYTES as u64..).zip(now.chunks(PAGE_BYTES));
                for (page, now) in pages.take(bytes as usize / PAGE_BYTES) {
                    let Some((was, len)) = old.print(page)? else { continue };
                    let is = self.chunker.keys().page(&now[..len]);
                    let in_end = blockferry_delta::is_zero(&now[len..]);
                    // Zeros where there were zeros, or what is only cut off: nothing is left of it.
                    seen.note(is == was && in_end, is == 0 && in_end && may_be_zero);
                }
                at += bytes;
            }
        }
        Ok(())
    }
}

/// The image's file, and the page fingerprints of the generation that is being replaced.
struct OldPages<'r> {
    read: &'r CatalogRead,
    map: MapOf,
    file: &'r dyn DiskFile,
    name: &'r str,
    /// Length of the file.
    size: u64,
    /// The segment asked for last.
    last: Option<(u32, Option<SegmentMap>)>,
}

impl OldPages<'_> {
    fn segment(&mut self, segment: u32) -> Result<Option<&SegmentMap>> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != segment) {
            self.last = Some((segment, self.map.segment(self.read, segment)?));
        }
        Ok(self.last.as_ref().and_then(|(_, map)| map.as_ref()))
    }

    /// Was the segment at this offset all zeros?
    fn is_zero(&mut self, offset: u64) -> Result<bool> {
        let map = self.segment((offset / SEGMENT_BYTES) as u32)?;
        Ok(map.is_none_or(|map| matches!(map, SegmentMap::Zero(_))))
    }

    /// What a page was, and how much of it there was. `None`: it has been cut off in the middle
    /// since, so that nothing can be told.
    fn print(&mut self, page: u64) -> Result<Option<(u32, usize)>> {
        let start = page * PAGE_BYTES as u64;
        let there = |bytes: u64| bytes.saturating_sub(start).min(PAGE_BYTES as u64);
        let len = there(self.map.size_bytes);
        if there(self.size) < len {
            return Ok(None);
        }
        let block = page / PAGES_PER_BLOCK as u64;
        let within = (block % SEGMENT_BLOCKS as u64) as usize;
        let print = match self.segment((block / SEGMENT_BLOCKS as u64) as u32)? {
            Some(SegmentMap::Rows(rows)) => {
                rows.get(within).map_or(0, |row| row.prints[page as usize % PAGES_PER_BLOCK])
            }
            _ => 0,
        };
        Ok(Some((print, len as usize)))
    }
}

/// Reads a range; zeros stand for what the file doesn't reach. Not in bulk: a second descriptor would
/// end the lease by which others are shut out. Reading ahead drops what wasn't cached, too.
fn read_padded(file: &dyn DiskFile, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let there = file.stat().during("look at", name)?.size_bytes.saturating_sub(offset);
    let there = there.min(len as u64) as usize;
    // Only advice.
    let _ahead = file.prefetch(offset, there as u64);
    file.read_exact_at(&mut bytes[..there], offset).during("read", name)?;
    Ok(bytes)
}
