//! The stage station: makes a file that holds the base, beside the image: a clone, the spare, a
//! copy, or an empty file. An earlier attempt at the same generation is taken up again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use blockferry_delta::{ImageName, Root};

use super::reserve::Reservation;
use super::{BaseMap, StageRequest, Staging};
use crate::catalog::{ImageRecord, Staged};
use crate::disk::{DiskFile, Lease, Open, RenameHow};
use crate::error::{Error, IoContext, Result};
use crate::freeze::regular;
use crate::layout::{STAGING, spare_path, staging_path};
use crate::spool::Spool;
use crate::store::{MapOf, Store};

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
        let path = staging_path(&name, &request.generation.root);
        let resumed = self.resumable(image.as_ref(), &path, &request)?;
        let spare = match (&base, &image) {
            (Some(base), Some(image)) if base.image.name == name && !self.clones() => {
                self.usable_spare(image)?
            }
            _ => None,
        };
        let copies = base.is_some() && !self.clones() && spare.is_none() && !resumed;
        let copied = if copies { self.allocated(&base)? } else { 0 };
        let reservation = {
            let builds_on = spare.as_ref().map(|_| &name);
            Reservation::take(self, request.dirty_bytes + copied, builds_on)?
        };
        if !resumed {
            self.forget_staged(image.as_ref(), &path)?;
            self.make_file(&path, base.as_ref(), spare.map(|s| s.number))?;
        }
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        file.set_len(request.generation.size_bytes).during("set the length of", &path)?;
        let mut generation = request.generation;
        let next = image.as_ref().map_or(0, |i| i.current) + 1;
        generation.number = generation.number.max(next);
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
            file,
            generation,
            bulk: request.dirty_bytes > super::CACHED_WRITE_BYTES_MAX,
            resumed,
            remembered: resumed,
            parts: BTreeMap::new(),
            next_part: 0,
            rows: BTreeMap::new(),
            zero_segments: BTreeSet::new(),
            chunks: BTreeMap::new(),
            values: Vec::new(),
            staged_chunks: HashMap::new(),
            sources: HashMap::new(),
            dirty_bytes: request.dirty_bytes,
            literal_bytes: 0,
            found_bytes: 0,
            reservation,
        };
        if copied >= super::REMEMBER_AFTER_BYTES {
            staging.remember()?;
        }
        Ok(staging)
    }

    /// The image's place must be free or hold what the catalog says, and nobody may be writing.
    pub(crate) fn check_target(&self, name: &ImageName, image: Option<&ImageRecord>) -> Result<()> {
        let stat = match regular(self.disk.as_ref(), name) {
            Err(Error::SourceMissing(_)) => return Ok(()),
            other => other?,
        };
        let point = image.and_then(|image| image.checkpoint.as_ref());
        if point != Some(&crate::catalog::Checkpoint::of(&stat)) {
            return Err(Error::LocalChange(name.clone()));
        }
        let file = self.disk.open(name.as_str(), Open::Read).during("open", name.as_str())?;
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
            if fits && self.at_checkpoint(&image.name, image.checkpoint.as_ref())? {
                return Ok(Base { root, image });
            }
        }
        Err(Error::NoGeneration { image: name.clone(), root })
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
                // It had its full length when it was remembered: a shorter file lost data.
                stat.inode == staged.inode && stat.size_bytes == request.generation.size_bytes
            }))
    }

    /// Removes whatever an earlier attempt left.
    fn forget_staged(&self, image: Option<&ImageRecord>, path: &str) -> Result<()> {
        if let Some(image) = image
            && let Some(staged) = self.catalog.read()?.staged(image.id)?
        {
            let write = self.catalog.write()?;
            write.put_staged(image.id, None)?;
            write.commit()?;
            self.disk.remove_file(&staged.path).during("remove", &staged.path)?;
        }
        self.disk.remove_file(path).during("remove", path)
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
            return self.bring_forward(path, &base.image, number);
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
    /// Makes the staging survive a restart: what it holds of the base is made durable, and the
    /// catalog learns of it. What was written since is checked by hash when it is resumed.
    pub(super) fn remember(&mut self) -> Result<()> {
        self.remembered = true;
        self.store.synced(self.file.sync(), &self.path)?;
        self.store.synced(self.store.disk.sync_dir(STAGING), STAGING)?;
        let stat = self.file.stat().during("look at", &self.path)?;
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
