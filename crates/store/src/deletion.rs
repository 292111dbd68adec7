//! Deletions: an image whose file is gone for good gets a last generation that says so, with a
//! lineage like any other. Whoever receives it moves the file among the kept contents; nothing is
//! unlinked. An image made again under the name descends from the deletion.

use blockferry_delta::{ImageName, NodeId, Root};

use crate::catalog::{CatalogWrite, Discover, Generation, ImageRecord};
use crate::disk::{Kind, Open, RenameHow, Stat};
use crate::error::{Error, IoContext, Result};
use crate::freeze::regular;
use crate::kept::{Keep, Why};
use crate::layout::{KEPT, base_path, spare_path};
use crate::spool::{Entries, Spool};
use crate::store::Store;

/// A file that becomes a kept content with the deletion: its path and what it is.
type Going = Option<(String, Stat)>;

impl Store {
    /// Records that an image is gone: its file was deleted here. What the held base has of its
    /// content is kept.
    ///
    /// # Errors
    /// [`Error::LocalChange`] when there is a file, [`Error::NotFound`] when no image was known.
    pub fn record_deletion(
        &self,
        name: &ImageName,
        author: NodeId,
        now_unix_ms: i64,
    ) -> Result<Generation> {
        let _in_place = self.in_place()?;
        self.check_marker()?;
        self.check_health()?;
        let _claim = self.claim(name)?;
        let image = self.catalog.read()?.image(name)?;
        let current = self.current_of(image.as_ref())?.filter(|current| !current.is_deleted());
        let (Some(image), Some(current)) = (image, current) else {
            return Err(Error::NotFound(name.clone()));
        };
        if current.is_adopted() {
            // Nobody here made it: what the peers have is newer than its absence.
            return Err(Error::SourceMissing(name.clone()));
        }
        if self.disk.stat(name.as_str()).during("look at", name.as_str())?.is_some() {
            return Err(Error::LocalChange(name.clone()));
        }
        let lineage = self.next_lineage(Some(&image), Some(&current), author)?;
        let number = current.number + 1;
        let path = base_path(name);
        let held = self.is_held_last(&image, &current.root)?;
        let stat = match held {
            true => {
                // A clone that was only compared with needn't have reached the disk.
                let file = self.disk.open(&path, Open::Read).during("open", &path)?;
                self.synced(file.sync(), &path)?;
                Some(file.stat().during("look at", &path)?)
            }
            false => None,
        };
        let generation = Generation {
            number,
            root: Root::NOTHING,
            size_bytes: 0,
            data_bytes: 0,
            lineage,
            author,
            recorded_unix_ms: now_unix_ms,
            discover: Discover::Metadata,
            bytes_read: 0,
            dirty_bytes: 0,
            wire_bytes: 0,
            millis: 0,
            allocated_zero: Vec::new(),
            ..current.clone()
        };
        let going = stat.map(|stat| (path, stat));
        self.delete(Some(image), Some(current), generation, going)
    }

    /// Makes a deletion that a peer recorded current here: the image's file, if there is one, is
    /// kept for the retention.
    ///
    /// # Errors
    /// [`Error::LocalChange`] and [`Error::InUse`] as for any other generation.
    pub fn commit_deletion(&self, offered: Generation, now_unix_ms: i64) -> Result<Generation> {
        let _in_place = self.in_place()?;
        self.check_marker()?;
        self.check_health()?;
        let name = offered.image.clone();
        let _claim = self.claim(&name)?;
        let image = self.catalog.read()?.image(&name)?;
        self.check_target(&name, image.as_ref())?;
        let current = self.current_of(image.as_ref())?;
        let next = image.as_ref().map_or(0, |image| image.current) + 1;
        let number = offered.number.max(next);
        let stat = match regular(self.disk.as_ref(), &name) {
            Err(Error::SourceMissing(_)) => None,
            other => Some(other?),
        };
        let generation = Generation {
            number,
            recorded_unix_ms: now_unix_ms,
            discover: Discover::Received,
            ..offered
        };
        let going = stat.map(|stat| (name.to_string(), stat));
        self.delete(image, current, generation, going)
    }

    /// Puts aside what is in the place of an image's file and can't be its content: an empty file
    /// becomes a kept content; what isn't a file, a directory with all that is in it, is moved
    /// beside them, without a row, so that nothing releases it. Returns its path in the store's
    /// directory; `None`: nothing is there.
    ///
    /// # Errors
    /// [`Error::LocalChange`] when it is a file with content, [`Error::InUse`] when somebody writes
    /// to it.
    pub fn clear_place(&self, name: &ImageName, now_unix_ms: i64) -> Result<Option<String>> {
        let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        let Some(stat) = stat else { return Ok(None) };
        if stat.kind == Kind::File {
            if stat.size_bytes > 0 {
                return Err(Error::LocalChange(name.clone()));
            }
            if self.is_written(name)? {
                return Err(Error::InUse(name.clone()));
            }
            return self.keep_moved(name, Why::Edit, true, now_unix_ms).map(|kept| Some(kept.path));
        }
        let _in_place = self.in_place()?;
        self.check_marker()?;
        self.check_health()?;
        let _claim = self.claim(name)?;
        let path = format!("{KEPT}/{name}.found-{now_unix_ms}");
        // A file that is there by now is none of ours to move: the next look says what it is.
        if regular(self.disk.as_ref(), name).is_ok() {
            return Err(Error::LocalChange(name.clone()));
        }
        self.disk.rename(name.as_str(), &path, RenameHow::NoReplace).during("rename", &path)?;
        self.synced(self.disk.sync_dir(KEPT), KEPT)?;
        self.synced(self.disk.sync_dir(""), "store directory")?;
        Ok(Some(path))
    }

    /// One transaction with the deletion and the row of what is kept; then that goes to its place.
    fn delete(
        &self,
        image: Option<ImageRecord>,
        current: Option<Generation>,
        generation: Generation,
        going: Going,
    ) -> Result<Generation> {
        let name = generation.image.clone();
        let write = self.catalog.write()?;
        let image = self.image_record(&write, &name, image)?;
        let nothing = Spool::new(String::new());
        write.put_held(image.id, None)?;
        write.put_spare(image.id, None)?;
        let id = image.id;
        self.put_current(&write, image, &generation, None, &Entries::Spool(&nothing))?;
        let noted = self.note_going(&write, &name, going, current, generation.recorded_unix_ms)?;
        write.put_staged(id, None)?;
        write.commit()?;
        if let Some((serial, path)) = noted {
            // If this fails recovery does it: the row says what is meant.
            let kept = self.place_kept(&name, serial, &path);
            let synced = kept.and_then(|_| self.synced(self.disk.sync_dir(""), "store directory"));
            synced.inspect_err(|_| self.degrade())?;
        }
        self.remove_held(&name)?;
        let spare = spare_path(&name);
        self.disk.remove_file(&spare).during("remove", &spare)?;
        Ok(generation)
    }

    fn note_going(
        &self,
        write: &CatalogWrite,
        name: &ImageName,
        going: Going,
        current: Option<Generation>,
        now_unix_ms: i64,
    ) -> Result<Option<(u64, String)>> {
        let Some((path, stat)) = going else { return Ok(None) };
        let keep = match path == name.as_str() && self.keeps_old(name)? {
            true => Keep::pinned(Why::OldTool, current, now_unix_ms),
            false => Keep::for_retention(Why::Deleted, current, now_unix_ms),
        };
        let serial = self.note_kept(write, name, &path, &stat, &keep)?;
        Ok(Some((serial, path)))
    }
}
