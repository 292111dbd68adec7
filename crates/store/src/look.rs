//! The cheapest of the discover sources: one `stat` for each file says which images are unchanged
//! since their last checkpoint. No image data is read.

use std::collections::BTreeMap;

use blockferry_delta::ImageName;

use crate::catalog::Checkpoint;
use crate::changed::is_sidecar;
use crate::disk::{Kind, Stat};
use crate::error::{IoContext, Result};
use crate::layout::PRIVATE;
use crate::store::Store;

/// One name of the store's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The name as it is; escaped where it isn't a valid image name.
    pub name: String,
    /// What was seen.
    pub state: LookState,
    /// Last change of content or metadata, milliseconds since 1970.
    pub quiet_since_unix_ms: i64,
    /// Where the file of a missing image is now: under a name that no generation is known of.
    pub moved_to: Option<String>,
}

/// What a look at a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookState {
    /// Inode, size, mtime and ctime are those of the checkpoint: nothing to read.
    Unchanged,
    /// A known image that isn't what was recorded.
    Changed,
    /// A file no generation is known of.
    New,
    /// A known image whose file is gone.
    Missing,
    /// A name that can't be an image's.
    BadName,
    /// A valid name of something that isn't a regular file.
    NotRegular,
}

impl Store {
    /// Looks at every file of the store.
    pub fn look(&self) -> Result<Vec<Look>> {
        self.check_marker()?;
        let images = self.catalog.read()?.images()?;
        let mut known: BTreeMap<_, _> = images
            .into_iter()
            .filter(|i| i.current > 0 && !i.deleted)
            .map(|i| (i.name, i.checkpoint))
            .collect();
        let mut looks = Vec::new();
        let mut new = Vec::new();
        for entry in self.disk.list("").during("list", "store directory")? {
            let text = entry.name.to_string_lossy();
            if text == PRIVATE {
                continue;
            }
            let name = match ImageName::new(&text) {
                Ok(name) if entry.name.to_str().is_some() => name,
                _ if text.starts_with('.') => continue,
                _ => {
                    looks.push(Look::at(&text.escape_default(), LookState::BadName, 0));
                    continue;
                }
            };
            let checkpoint = known.remove(&name);
            if checkpoint.is_none() && is_sidecar(&text) {
                continue;
            }
            let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
            let Some(stat) = stat else { continue };
            let look = self.look_at(&name, &stat, checkpoint)?;
            if look.state == LookState::New {
                new.push((look.name.clone(), stat));
            }
            looks.push(look);
        }
        // A rename changes neither the inode nor what was written to it when.
        let place_of = |point: &Checkpoint| {
            let found = new.iter().find(|(_, stat)| point.same_content(stat));
            found.map(|(name, _)| name.clone())
        };
        looks.extend(known.into_iter().map(|(name, point)| Look {
            moved_to: point.as_ref().and_then(place_of),
            ..Look::at(&name, LookState::Missing, 0)
        }));
        Ok(looks)
    }

    /// Is a commit of ours what changes the file just now, or did one end since the look began?
    fn is_being_committed(&self, name: &ImageName) -> Result<bool> {
        let read = self.catalog.read()?;
        let Some(image) = read.image(name)? else { return Ok(false) };
        let prepared = read.prepared()?.into_iter().any(|(id, _)| id == image.id);
        // One that failed is for recovery.
        Ok(prepared && !self.is_degraded()
            || self.at_checkpoint(name, image.checkpoint.as_ref())?)
    }

    fn look_at(
        &self,
        name: &ImageName,
        stat: &Stat,
        checkpoint: Option<Option<Checkpoint>>,
    ) -> Result<Look> {
        let state = match checkpoint {
            _ if stat.kind != Kind::File => LookState::NotRegular,
            None => LookState::New,
            Some(point) if point == Some(Checkpoint::of(stat)) => LookState::Unchanged,
            Some(_) if self.is_being_committed(name)? => LookState::Unchanged,
            Some(_) => LookState::Changed,
        };
        let quiet_ns = stat.mtime_ns.max(stat.ctime_ns);
        Ok(Look::at(name, state, i64::try_from(quiet_ns / 1_000_000).unwrap_or(i64::MAX)))
    }
}

impl Look {
    fn at(name: &dyn std::fmt::Display, state: LookState, quiet_since_unix_ms: i64) -> Self {
        Self { name: name.to_string(), state, quiet_since_unix_ms, moved_to: None }
    }
}
