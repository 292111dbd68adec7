//! A sealed staging made of a content that is kept here: nothing has to be sent. What it doesn't share
//! with the current content is read and hashed (`shared`), so that what rotted meanwhile is never made
//! current; what is read also tells in what the two contents differ, which the catalog needs.

use super::reserve::Reservation;
use super::{Built, Sealed, StageRequest, allocate_zeros};
use crate::catalog::{Generation, ImageRecord};
use crate::claim::Claim;
use crate::disk::Open;
use crate::error::{Error, IoContext, Result};
use crate::kept::{Kept, copy_file};
use crate::layout::{STAGING, staging_path};
use crate::scan::Progress;
use crate::spool::Spool;
use crate::store::Store;

impl Store {
    /// Builds the content of `generation` from a kept one with its root.
    ///
    /// # Errors
    /// [`Error::RootMismatch`] when the kept content isn't what it was; and as [`Store::stage`].
    pub fn stage_kept(
        &self,
        generation: Generation,
        kept: &Kept,
        progress: &dyn Progress,
    ) -> Result<Sealed> {
        self.check_marker()?;
        self.check_health()?;
        let claim = self.claim(&generation.image)?;
        let image = self.catalog.read()?.image(&generation.image)?;
        self.check_target(&generation.image, image.as_ref())?;
        self.seal_kept((claim, image), generation, kept, progress)
    }

    /// The same with the image claimed and its place looked at.
    pub(crate) fn seal_kept(
        &self,
        (claim, image): (Claim, Option<ImageRecord>),
        mut generation: Generation,
        kept: &Kept,
        progress: &dyn Progress,
    ) -> Result<Sealed> {
        let name = generation.image.clone();
        let next = image.as_ref().map_or(0, |image| image.current) + 1;
        generation.number = generation.number.max(next);
        let request = StageRequest { generation, base: None, dirty_bytes: 0, keep_replaced: false };
        self.forget_staged(image.as_ref(), &request)?;
        let mut generation = request.generation;
        let copied = if self.clones() { 0 } else { kept.allocated_bytes };
        let _room = Reservation::take(self, copied, None, &name)?;
        let path = staging_path(&name, &generation.root);
        let mut spool = Spool::new(format!("{path}.spool"));
        let made = self.make_of_kept(image.as_ref(), &mut generation, kept, &mut spool, progress);
        if let Err(error) = made {
            self.disk.remove_file(&path).during("remove", &path)?;
            spool.remove(self.disk.as_ref())?;
            return Err(error);
        }
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        Ok(Sealed {
            claim,
            image,
            found_bytes: generation.size_bytes,
            literal_bytes: 0,
            generation,
            keep_replaced: false,
            path,
            built: Built::Whole(file),
            spool,
        })
    }

    fn make_of_kept(
        &self,
        image: Option<&ImageRecord>,
        generation: &mut Generation,
        kept: &Kept,
        spool: &mut Spool,
        progress: &dyn Progress,
    ) -> Result<()> {
        let path = staging_path(&generation.image, &generation.root);
        drop(self.open_kept(kept)?);
        copy_file(self.disk.as_ref(), self.clones(), &kept.path, &path)?;
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        let size_bytes = file.stat().during("look at", &path)?.size_bytes;
        let current = self.current_of(image)?;
        let read = (file.as_ref(), path.as_str(), size_bytes);
        let known = image.zip(current.as_ref());
        let (scanned, discover) = self.scan_kept(read, known, &generation.root, spool, progress)?;
        if scanned.root != generation.root || size_bytes != generation.size_bytes {
            let (promised, found) = (generation.root, scanned.root);
            let image = generation.image.clone();
            return Err(Error::RootMismatch { image, promised, found });
        }
        generation.discover = discover;
        generation.bytes_read = scanned.bytes_read;
        generation.dirty_bytes = scanned.dirty_bytes;
        allocate_zeros(file.as_ref(), &path, generation)?;
        file.set_meta(&generation.meta).during("set attributes of", &path)?;
        self.synced(file.sync(), &path)?;
        if !self.options.warm {
            file.forget().during("forget", &path)?;
        }
        spool.persist(self.disk.as_ref()).inspect_err(|_| self.degrade())?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)
    }
}
