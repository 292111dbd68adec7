//! Releasing kept contents: what is beyond the retention, what somebody acknowledged; and what
//! recovery does about kept contents. The file goes first, durably, and its row after it.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use blockferry_delta::ImageName;

use super::{Kept, SERVICE_MS, Why};
use crate::catalog::{Checkpoint, KeptRecord};
use crate::disk::RenameHow;
use crate::error::{Error, IoContext, Result};
use crate::layout::{KEPT, QUARANTINE, TRASH, kept_path, split_numbered};
use crate::store::Store;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A store that was in service for less since that was written down needs no write for it.
const NOTED_MS_MIN: u64 = 1000;

/// How long contents are kept that nobody has pinned. What is within either of the two stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many earlier contents of each image, by the order in which this node kept them. What a
    /// deleted image had counts by days alone. 0: none is kept.
    pub generations: u32,
    /// So many days in service.
    pub days: u32,
}

impl Retention {
    fn ms(self) -> u64 {
        u64::from(self.days) * DAY_MS
    }
}

impl Store {
    /// Releases a content, pinned or not: somebody has said that it may go.
    ///
    /// # Errors
    /// [`Error::KeptUnknown`] when there is no such content.
    pub fn acknowledge(&self, name: &ImageName, serial: u64) -> Result<Kept> {
        let _claim = self.claim(name)?;
        let kept = self.kept_by_serial(name, serial)?;
        let kept = kept.ok_or_else(|| Error::KeptUnknown { image: name.clone(), serial })?;
        self.release(std::slice::from_ref(&kept))?;
        Ok(kept)
    }

    /// Leaves a content to the retention, as if it had been kept just now; one that isn't there any
    /// more is gone already.
    pub fn unpin(&self, name: &ImageName, serial: u64) -> Result<()> {
        let since_ms = self.service_ms()?;
        let write = self.catalog.write()?;
        let rows = write.kept(Some(name))?;
        let Some((_, _, row)) = rows.into_iter().find(|(_, which, _)| *which == serial) else {
            return Ok(());
        };
        let row = KeptRecord { pinned: false, since_ms, ..row };
        write.put_kept(name, serial, Some(&row))?;
        write.commit()
    }

    /// Releases what is beyond the retention and writes down how long the store was in service.
    /// Returns what went.
    pub fn release_expired(&self) -> Result<Vec<Kept>> {
        self.check_health()?;
        self.note_service()?;
        let retention = self.retention();
        let mut gone = Vec::new();
        let (mut of, mut newer) = (None, 0);
        for kept in self.all_kept()? {
            if of.as_ref() != Some(&kept.image) {
                (of, newer) = (Some(kept.image.clone()), 0);
            }
            if kept.pinned {
                continue;
            }
            let young = kept.age_ms < retention.ms();
            let stays = match kept.why {
                Why::History if retention.generations == 0 => false,
                Why::History => {
                    let counts = newer < retention.generations && !self.is_deleted(&kept.image)?;
                    newer += 1;
                    counts || young
                }
                _ => young,
            };
            if !stays && let Some(_claim) = self.claims.upkeep(&kept.image) {
                self.release(std::slice::from_ref(&kept))?;
                gone.push(kept);
            }
        }
        Ok(gone)
    }

    /// Takes files out of `kept/`, makes that durable and forgets their rows.
    pub(crate) fn release(&self, gone: &[Kept]) -> Result<()> {
        for kept in gone {
            let leaf = kept.path.rsplit('/').next().unwrap_or_default();
            let trash = format!("{TRASH}/{leaf}");
            self.disk
                .rename(&kept.path, &trash, RenameHow::Replace)
                .during("rename", &kept.path)?;
        }
        self.synced(self.disk.sync_dir(KEPT), KEPT)?;
        let write = self.catalog.write()?;
        for kept in gone {
            write.put_kept(&kept.image, kept.serial, None)?;
        }
        write.commit()?;
        self.empty_trash().map(drop)
    }

    fn note_service(&self) -> Result<()> {
        let service_ms = self.service_ms()?;
        if service_ms - self.catalog.read()?.mark(SERVICE_MS)?.min(service_ms) < NOTED_MS_MIN {
            return Ok(());
        }
        let write = self.catalog.write()?;
        write.put_mark(SERVICE_MS, service_ms)?;
        write.commit()?;
        let now_ms = (self.options.monotonic_ms)();
        *self.service.noted.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((service_ms, now_ms));
        Ok(())
    }

    /// Ends what a crash interrupted: a file whose row is there is moved to its place, a row whose
    /// file went is forgotten, a file without a row (the catalog was lost) gets one. Nothing in
    /// `kept/` is ever removed because of what the catalog says.
    pub(crate) fn recover_kept(&self) -> Result<()> {
        let rows = self.catalog.read()?.kept(None)?;
        let mut known = BTreeSet::new();
        for (name, serial, row) in rows {
            let path = kept_path(&name, serial);
            if self.disk.stat(&path).during("look at", &path)?.is_some() {
                known.insert(path);
                continue;
            }
            let stat = self.disk.stat(&row.from).during("look at", &row.from)?;
            let same = stat.is_some_and(|stat| row.checkpoint.same_content(&stat));
            if !same && stat.is_some_and(|stat| row.means(&stat)) {
                // Somebody wrote to it after the crash, or not all of it was on the disk.
                self.set_aside(&name, &row.from, None)?;
                known.insert(path);
            } else if same {
                self.place_kept(&name, serial, &row.from)?;
                known.insert(path);
            } else {
                let write = self.catalog.write()?;
                write.put_kept(&name, serial, None)?;
                write.commit()?;
            }
        }
        for entry in self.disk.list(KEPT).during("list", KEPT)? {
            let leaf = entry.name.to_string_lossy();
            let path = format!("{KEPT}/{leaf}");
            if let Some((name, serial)) = split_numbered(&leaf).filter(|_| !known.contains(&path)) {
                self.adopt_kept(&name, serial, &path)?;
            }
        }
        // Where an earlier version put what must not be lost.
        for entry in self.disk.list(QUARANTINE).during("list", QUARANTINE)? {
            let leaf = entry.name.to_string_lossy();
            let image = split_numbered(&leaf).filter(|(name, _)| name.as_str() != "catalog.redb");
            if let Some((name, _)) = image {
                let keep = super::Keep::pinned(Why::Replaced, None, 0);
                self.keep_file(&name, &format!("{QUARANTINE}/{leaf}"), &keep)?;
            }
        }
        Ok(())
    }

    /// Gives a row to a file that has none.
    fn adopt_kept(&self, name: &ImageName, serial: u64, path: &str) -> Result<()> {
        let Some(stat) = self.disk.stat(path).during("look at", path)? else { return Ok(()) };
        let record = KeptRecord {
            why: Why::Replaced,
            pinned: true,
            checkpoint: Checkpoint::of(&stat),
            from: path.to_owned(),
            generation: None,
            since_ms: self.service_ms()?,
            kept_unix_ms: 0,
        };
        let write = self.catalog.write()?;
        write.put_kept(name, serial, Some(&record))?;
        write.commit()
    }
}
