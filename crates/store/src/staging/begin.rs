//! The stage station: chooses how a new content is built and begins it: in a clone, the spare, a
//! copy or an empty file beside the image, or in a journal over the image's own file. An earlier
//! attempt at the same generation is taken up again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use blockferry_delta::{ImageName, Root};

use super::arrivals::Arrivals;
use super::reserve::Reservation;
use super::{BaseMap, Content, StageRequest, Staging};
use crate::catalog::{Generation, ImageRecord, Spare, Staged};
use crate::disk::{DiskFile, Lease, Open, RenameHow};
use crate::error::{Error, IoContext, Result};
use crate::freeze::{open_live, regular};
use crate::journal::{Head, JOURNAL_BYTES_MAX, JOURNAL_SHARE, Journal};
use crate::layout::{JOURNAL_END, STAGING, journal_path, spare_path, staging_path};
use crate::spool::Spool;
use crate::store::{CommitMode, MapOf, Store};

/// How a staging comes by what it keeps of its base.
enum Start {
    /// It keeps nothing: an empty file.
    New,
    /// A clone.
    Clone,
    /// The image's spare.
    Spare(Spare),
    /// A copy.
    Copy,
    /// It stays where it is: only what changes is collected.
    Journal,
    /// An earlier attempt has it.
    Resumed,
}

impl Start {
    fn path(&self, request: &StageRequest) -> String {
        let Generation { image, root, .. } = &request.generation;
        match self {
            Self::Journal => journal_path(image, root),
            _ => staging_path(image, root),
        }
    }
}

/// What the base is, as the staging needs it.
struct Base {
    root: Root,
    image: ImageRecord,
}

impl Store {
    /// The base a receiver chooses: any image that already has the offered content, else its own
    /// current generation if the sender knows it, else the first other image that was offered.
    pub fn plan_base(
        &self,
        offered_root: Root,
        offered_bases: &[Root],
        name: &ImageName,
    ) -> Result<Option<Root>> {
        let read = self.catalog.read()?;
        let mut best: Option<(usize, Root)> = None;
        for image in read.images()? {
            let Some(current) = read.generation(image.id, &image.name, image.current)? else {
                continue;
            };
            let rank = match offered_bases.iter().position(|root| *root == current.root) {
                _ if current.root == offered_root => 0,
                Some(_) if image.name == *name => 1,
                Some(position) => 2 + position,
                None => continue,
            };
            let better = best.is_none_or(|(known, _)| rank < known);
            if better && self.at_checkpoint(&image.name, image.checkpoint.as_ref())? {
                best = Some((rank, current.root));
            }
        }
        Ok(best.map(|(_, root)| root))
    }

    /// Begins to build the generation of `request` beside the image.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::LocalChange`] and [`Error::OutOfSpace`] before anything is done.
    pub fn stage(self: &Arc<Self>, request: StageRequest) -> Result<Staging> {
        self.check_marker()?;
        self.check_health()?;
        let name = request.generation.image.clone();
        let claim = self.claim(&name)?;
        let image = self.catalog.read()?.image(&name)?;
        self.check_target(&name, image.as_ref())?;
        let base = request.base.map(|root| self.find_base(&name, root)).transpose()?;
        let start = self.start(image.as_ref(), base.as_ref(), &request)?;
        let reservation = {
            let more = match &start {
                Start::Copy => self.allocated(&base)?,
                // What is in the journal is written once more into the image.
                Start::Journal => request.dirty_bytes + request.dirty_bytes / 32,
                _ => 0,
            };
            let builds_on = matches!(start, Start::Spare(_)).then_some(&name);
            Reservation::take(self, request.dirty_bytes + more, builds_on, &name)?
        };
        let path = start.path(&request);
        let (content, resumed) =
            self.begin_content(&start, &path, image.as_ref(), base.as_ref(), &request)?;
        let mut generation = request.generation;
        let next = image.as_ref().map_or(0, |i| i.current) + 1;
        if !self.mends(&generation) {
            generation.number = generation.number.max(next);
        }
        let own = self.own_map(image.as_ref())?;
        let mut staging = Staging {
            base: base.map(|base| self.base_map(&base)).transpose()?,
            store: Arc::clone(self),
            claim,
            image,
            base_root: request.base,
            keep_replaced: request.keep_replaced,
            own,
            spool: Spool::new(format!("{path}.spool")),
            path,
            content,
            generation,
            resumed,
            remembered: resumed,
            parts: BTreeMap::new(),
            next_part: 0,
            rows: BTreeMap::new(),
            zero_segments: BTreeSet::new(),
            chunks: BTreeMap::new(),
            values: Vec::new(),
            staged_chunks: HashMap::new(),
            arrivals: Arrivals::default(),
            sources: HashMap::new(),
            dirty_bytes: request.dirty_bytes,
            literal_bytes: 0,
            found_bytes: 0,
            reservation,
        };
        if matches!(start, Start::Copy) {
            staging.remember_if_large()?;
        }
        Ok(staging)
    }

    /// Chooses how to begin.
    fn start(
        &self,
        image: Option<&ImageRecord>,
        base: Option<&Base>,
        request: &StageRequest,
    ) -> Result<Start> {
        let name = &request.generation.image;
        if self.resumable(image, &Start::Resumed.path(request), request)? {
            return Ok(Start::Resumed);
        }
        let Some(base) = base else { return Ok(Start::New) };
        if self.clones() {
            return Ok(Start::Clone);
        }
        if self.mending(name).is_some() {
            // What is wrong stays as it is: it is kept. A spare may be wrong in other places.
            return Ok(Start::Copy);
        }
        let Some(image) = image.filter(|_| base.image.name == *name) else {
            return Ok(Start::Copy);
        };
        let spare = self.usable_spare(image)?;
        if self.suits_journal(name, request.dirty_bytes)? {
            // A spare was kept because the image was open at a commit: is it still?
            return Ok(match spare {
                Some(spare) if !self.is_closed(name)? => Start::Spare(spare),
                _ => Start::Journal,
            });
        }
        Ok(spare.map_or(Start::Copy, Start::Spare))
    }

    /// Is it little that changes, compared with the image?
    fn suits_journal(&self, name: &ImageName, dirty_bytes: u64) -> Result<bool> {
        let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        // A journal writes over what the history would keep.
        Ok(self.commit_mode() == CommitMode::Journal
            && self.retention().generations == 0
            && dirty_bytes <= JOURNAL_BYTES_MAX
            // A second name would change with the first.
            && stat.is_some_and(|stat| {
                stat.links == 1 && dirty_bytes.saturating_mul(JOURNAL_SHARE) <= stat.allocated_bytes
            }))
    }

    fn is_closed(&self, name: &ImageName) -> Result<bool> {
        let file = open_live(self.disk.as_ref(), name)?;
        Ok(file.sole_opener().during("ask for a lease on", name.as_str())? == Lease::Free)
    }

    /// Makes what is to be built in, or takes it up again: then the second value is `true`.
    fn begin_content(
        &self,
        start: &Start,
        path: &str,
        image: Option<&ImageRecord>,
        base: Option<&Base>,
        request: &StageRequest,
    ) -> Result<(Content, bool)> {
        let Generation { image: name, root, size_bytes, .. } = &request.generation;
        let resumed = matches!(start, Start::Resumed);
        if matches!(start, Start::Journal) {
            let head = Head { image_bytes: *size_bytes, root: *root };
            let (disk, live, keys) = (self.disk.as_ref(), name.as_str(), self.chunker.keys());
            if self.resumable(image, path, request)?
                && let Some(journal) = Journal::reopen(disk, path, live, head, keys)?
            {
                return Ok((Content::Journal(Box::new(journal)), true));
            }
            self.forget_staged(image, request)?;
            let journal = Journal::create(disk, path, live, head, keys)?;
            return Ok((Content::Journal(Box::new(journal)), false));
        }
        if !resumed {
            self.forget_staged(image, request)?;
            let spare = match start {
                Start::Spare(spare) => Some(spare.number),
                _ => None,
            };
            self.make_file(path, base, spare)?;
        }
        let file = self.disk.open(path, Open::ReadWrite).during("open", path)?;
        if self.clones() {
            file.tight_cow(true);
        }
        file.set_len(*size_bytes).during("set the length of", path)?;
        let bulk = request.dirty_bytes > super::CACHED_WRITE_BYTES_MAX;
        Ok((Content::Whole { file, bulk }, resumed))
    }

    /// Makes a file that holds the image's current content, with `root`, at `path`.
    pub(crate) fn make_own_copy(&self, image: &ImageRecord, root: Root, path: &str) -> Result<()> {
        let spare = self.usable_spare(image)?;
        let base = Some(Base { root, image: image.clone() });
        let copied = if spare.is_some() { 0 } else { self.allocated(&base)? };
        let _room = Reservation::take(self, copied, Some(&image.name), &image.name)?;
        self.disk.remove_file(path).during("remove", path)?;
        self.make_file(path, base.as_ref(), spare.map(|spare| spare.number))
    }

    /// The image's place must be free or hold what the catalog says, and nobody may be writing.
    pub(crate) fn check_target(&self, name: &ImageName, image: Option<&ImageRecord>) -> Result<()> {
        let stat = match regular(self.disk.as_ref(), name) {
            Err(Error::SourceMissing(_)) => return Ok(()),
            other => other?,
        };
        let now = crate::catalog::Checkpoint::of(&stat);
        let point = image.and_then(|image| image.checkpoint.as_ref());
        if !point.is_some_and(|point| self.is_point(name, point, &now)) {
            return Err(Error::LocalChange(name.clone()));
        }
        let file = open_live(self.disk.as_ref(), name)?;
        match file.writer_free().during("ask for a lease on", name.as_str())? {
            Lease::Held => Err(Error::InUse(name.clone())),
            _ => Ok(()),
        }
    }

    /// The image whose file is to be the base: the same name first.
    fn find_base(&self, name: &ImageName, root: Root) -> Result<Base> {
        let read = self.catalog.read()?;
        let mut images = read.images()?;
        images.sort_by_key(|image| image.name != *name);
        for image in images {
            let current = read.generation(image.id, &image.name, image.current)?;
            let fits = current.is_some_and(|current| current.root == root);
            if fits && self.may_build_on(&image, name)? {
                return Ok(Base { root, image });
            }
        }
        Err(Error::NoGeneration { image: name.clone(), root })
    }

    /// Is an image's file what was recorded? One that is being mended serves for itself only.
    fn may_build_on(&self, image: &ImageRecord, name: &ImageName) -> Result<bool> {
        match self.mending(&image.name) {
            Some(damage) if image.name == *name && damage.builds_on() => self.is_unwritten(name),
            Some(_) => Ok(false),
            None => self.at_checkpoint(&image.name, image.checkpoint.as_ref()),
        }
    }

    fn base_map(&self, base: &Base) -> Result<BaseMap> {
        let read = self.catalog.read()?;
        let of = MapOf::find(&read, &base.image, &base.root)?;
        let of = of.ok_or_else(|| Error::NoGeneration {
            image: base.image.name.clone(),
            root: base.root,
        })?;
        Ok(BaseMap { read, of })
    }

    fn own_map(&self, image: Option<&ImageRecord>) -> Result<Option<BaseMap>> {
        let Some(current) = self.current_of(image)? else { return Ok(None) };
        let image = image.expect("it has a current generation").clone();
        self.base_map(&Base { root: current.root, image }).map(Some)
    }

    fn allocated(&self, base: &Option<Base>) -> Result<u64> {
        let Some(base) = base else { return Ok(0) };
        let name = base.image.name.as_str();
        let stat = self.disk.stat(name).during("look at", name)?;
        Ok(stat.map_or(0, |stat| stat.allocated_bytes))
    }

    /// Is there a staging of just this generation on just this base?
    fn resumable(
        &self,
        image: Option<&ImageRecord>,
        path: &str,
        request: &StageRequest,
    ) -> Result<bool> {
        let Some(image) = image else { return Ok(false) };
        let Some(staged) = self.catalog.read()?.staged(image.id)? else { return Ok(false) };
        let stat = self.disk.stat(path).during("look at", path)?;
        let base = staged.base.map(|root| Root::from_bytes(root.into()));
        Ok(staged.path == path
            && Root::from_bytes(staged.root.into()) == request.generation.root
            && base == request.base
            && stat.is_some_and(|stat| {
                // It had its full length when it was remembered: a shorter file lost data. A journal
                // tells itself how much of it is whole.
                let whole = stat.size_bytes == request.generation.size_bytes;
                stat.inode == staged.inode && (whole || path.ends_with(JOURNAL_END))
            }))
    }

    /// Removes whatever an earlier attempt left.
    pub(super) fn forget_staged(
        &self,
        image: Option<&ImageRecord>,
        request: &StageRequest,
    ) -> Result<()> {
        if let Some(image) = image
            && let Some(staged) = self.catalog.read()?.staged(image.id)?
        {
            let write = self.catalog.write()?;
            write.put_staged(image.id, None)?;
            write.commit()?;
            self.disk.remove_file(&staged.path).during("remove", &staged.path)?;
        }
        for path in [Start::Copy.path(request), Start::Journal.path(request)] {
            self.disk.remove_file(&path).during("remove", &path)?;
        }
        Ok(())
    }

    fn make_file(&self, path: &str, base: Option<&Base>, spare: Option<u64>) -> Result<()> {
        let Some(base) = base else {
            self.disk.open(path, Open::CreateNew).during("create", path)?;
            return Ok(());
        };
        let live = base.image.name.as_str();
        if let Some(number) = spare {
            let spare = spare_path(&base.image.name);
            self.disk.rename(&spare, path, RenameHow::NoReplace).during("rename", &spare)?;
            return self.bring_forward(path, &base.image, number, &());
        }
        if self.clones() && self.disk.clone_file(live, path).during("clone", live)? {
            return Ok(());
        }
        let file = self.disk.open(path, Open::CreateNew).during("create", path)?;
        let from = self.disk.open(live, Open::Read).during("open", live)?;
        let size = from.stat().during("look at", live)?.size_bytes;
        file.set_len(size).during("set the length of", path)?;
        let extents = data_extents(from.as_ref(), size).during("find data of", live)?;
        self.disk.copy_extents(live, path, &extents).during("copy", live)
    }
}

fn data_extents(file: &dyn DiskFile, size: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let (mut extents, mut at) = (Vec::new(), 0);
    while let Some((start, end)) = file.next_data(at)? {
        extents.push((start, end.min(size) - start));
        at = end;
        if at >= size {
            break;
        }
    }
    Ok(extents)
}

impl Staging {
    /// A copy of a large base is worth keeping before anything is written to it.
    fn remember_if_large(&mut self) -> Result<()> {
        let stat = self.content.file().stat().during("look at", &self.path)?;
        if stat.allocated_bytes >= super::REMEMBER_AFTER_BYTES { self.remember() } else { Ok(()) }
    }

    /// Makes the staging survive a restart: what it holds of the base is made durable, and the
    /// catalog learns of it. What was written since is checked by hash when it is resumed.
    pub(super) fn remember(&mut self) -> Result<()> {
        self.remembered = true;
        self.store.synced(self.content.file().sync(), &self.path)?;
        self.store.synced(self.store.disk.sync_dir(STAGING), STAGING)?;
        let stat = self.content.file().stat().during("look at", &self.path)?;
        let write = self.store.catalog.write()?;
        let image = self.store.image_record(&write, &self.generation.image, self.image.clone())?;
        write.put_image(&image)?;
        write.put_staged(
            image.id,
            Some(&Staged {
                path: self.path.clone(),
                root: (*self.generation.root.as_bytes()).into(),
                base: self.base_root.map(|root| (*root.as_bytes()).into()),
                inode: stat.inode,
            }),
        )?;
        write.commit()?;
        self.image = Some(image);
        Ok(())
    }
}
