//! Adoption: files that are there before the catalog is, because a store was seeded by hand, lost
//! its catalog, or has just been made of a directory with images. Recording one makes a generation
//! without lineage: this node didn't make it, and whatever somebody made is newer. What peers turn
//! out to have recorded with the same bytes is taken over without touching the file.

use blockferry_delta::ImageName;

use crate::catalog::{Catalog, Discover, Generation, ImageRecord};
use crate::disk::{Disk, Kind, RenameHow};
use crate::error::{Error, IoContext, Result};
use crate::layout::{CATALOG, QUARANTINE, STAGING};
use crate::spool::{Entries, Spool};
use crate::store::Store;
use crate::writer::INCARNATION;

/// Set once the files that were there before the catalog are marked.
const ADOPTED: &str = "adopted";

/// Opens the catalog. One that nothing can read, because of damage or because the power went while
/// it was being made, is put into quarantine and made anew: what it knew is found again in the
/// images and with the peers. Says whether that was so.
pub(crate) fn open_catalog(disk: &dyn Disk, cache_bytes: usize) -> Result<(Catalog, bool)> {
    let error = match Catalog::open(disk, cache_bytes) {
        Err(error) if is_unreadable(&error) => error,
        other => return Ok((other?, false)),
    };
    for number in 0..u32::MAX {
        let to = format!("{QUARANTINE}/catalog.redb.{number}");
        match disk.rename(CATALOG, &to, RenameHow::NoReplace) {
            Ok(()) => {
                tracing::warn!(code = "INDEX_REBUILDING", %error, kept = %to,
                    "the catalog can't be read: it is made anew from the images");
                disk.sync_dir(QUARANTINE).during("sync", QUARANTINE)?;
                return Ok((Catalog::open(disk, cache_bytes)?, true));
            }
            Err(taken) if taken.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::Io { op: "rename", path: to, source }),
        }
    }
    Err(error)
}

/// Not what a failing disk says, but what the bytes are.
fn is_unreadable(error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } => true,
        Error::Catalog(inner) => match inner.as_ref() {
            redb::Error::Corrupted(_) => true,
            redb::Error::Io(io) => io.kind() == std::io::ErrorKind::InvalidData,
            _ => false,
        },
        _ => false,
    }
}

impl Store {
    /// With a new catalog: marks the files that are there as older than anything recorded.
    pub(crate) fn adopt_present(&self) -> Result<()> {
        let read = self.catalog.read()?;
        if read.mark(ADOPTED)? != 0 {
            return Ok(());
        }
        let fresh = read.images()?.is_empty();
        drop(read);
        if fresh {
            self.keep_stagings()?;
        }
        let write = self.catalog.write()?;
        for entry in self.disk.list("").during("list", "store directory")? {
            let Some(name) = entry.name.to_str().and_then(|name| ImageName::new(name).ok()) else {
                continue;
            };
            let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
            if stat.is_some_and(|stat| stat.kind == Kind::File) && write.image(&name)?.is_none() {
                let record = self.image_record(&write, &name, None)?;
                write.put_image(&ImageRecord { adopted: true, ..record })?;
            }
        }
        if fresh {
            write.put_mark(INCARNATION, (self.options.incarnation)())?;
            self.begin_adoption(&write)?;
        }
        write.put_mark(ADOPTED, 1)?;
        write.commit()
    }

    /// Without its catalog nobody can tell a half-built staging from what a commit had just replaced
    /// and was about to keep.
    fn keep_stagings(&self) -> Result<()> {
        for entry in self.disk.list(STAGING).during("list", STAGING)? {
            let Some(leaf) = entry.name.to_str() else { continue };
            let of = leaf.rsplit_once('.').filter(|(_, end)| !["spool", "frozen"].contains(end));
            if let Some(name) = of.and_then(|(name, _)| ImageName::new(name).ok()) {
                self.set_aside(&name, &format!("{STAGING}/{leaf}"), None)?;
            }
        }
        Ok(())
    }

    /// Is the content of an image gone that was adopted here? Then nothing can be lost with it.
    pub fn is_gone(&self, name: &ImageName) -> Result<bool> {
        Ok(self.disk.stat(name.as_str()).during("look at", name.as_str())?.is_none())
    }

    /// Takes over what a peer recorded, if the image holds it already, attributes included: only
    /// the catalog changes. `None`: it doesn't.
    pub fn confirm(&self, offered: &Generation, now_unix_ms: i64) -> Result<Option<Generation>> {
        self.check_marker()?;
        self.check_health()?;
        let name = &offered.image;
        let _claim = self.claim(name)?;
        let Some(image) = self.catalog.read()?.image(name)? else { return Ok(None) };
        let Some(current) = self.current_of(Some(&image))? else { return Ok(None) };
        let same = current.root == offered.root && current.meta == offered.meta;
        if !same || !self.at_checkpoint(name, image.checkpoint.as_ref())? {
            return Ok(None);
        }
        let new = current.lineage != offered.lineage;
        let generation = Generation {
            number: if new { offered.number.max(current.number + 1) } else { current.number },
            lineage: offered.lineage.clone(),
            author: offered.author,
            recorded_unix_ms: if new { now_unix_ms } else { current.recorded_unix_ms },
            discover: Discover::Received,
            ..current
        };
        let write = self.catalog.write()?;
        if new {
            let checkpoint = image.checkpoint;
            let nothing = Spool::new(format!("{STAGING}/{name}.spool"));
            self.put_current(&write, image, &generation, checkpoint, &Entries::Spool(&nothing))?;
        } else {
            write.put_generation(image.id, &generation)?;
        }
        write.commit()?;
        Ok(Some(generation))
    }

    /// The content of `name` that a walk can start from: its root and size in bytes.
    pub fn walk_base(&self, name: &ImageName) -> Result<Option<Generation>> {
        let Some(image) = self.catalog.read()?.image(name)? else { return Ok(None) };
        let there = self.at_checkpoint(name, image.checkpoint.as_ref())?;
        Ok(self.current_of(Some(&image))?.filter(|_| there))
    }
}
