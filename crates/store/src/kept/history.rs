//! What the history keeps: a generation's content when another one takes its place. A commit keeps
//! the file that it displaces, which costs nothing; when a local change is recorded the content is
//! gone from the image's file, but the held base is a clone of it, and a clone of that costs no
//! storage either.

use blockferry_delta::{ImageName, Root};

use super::{Keep, Why};
use crate::catalog::{Generation, ImageRecord};
use crate::disk::{Open, Stat};
use crate::error::{IoContext, Result};
use crate::layout::{STAGING, base_path};
use crate::store::Store;

/// A file that is about to be kept, and what its row says.
pub(crate) struct Leaving {
    pub(crate) path: String,
    pub(crate) stat: Stat,
    pub(crate) keep: Keep,
}

impl Store {
    /// The current generation, if it is one that the history keeps when another content takes its
    /// place.
    pub(crate) fn history_of(
        &self,
        image: Option<&ImageRecord>,
        generation: &Generation,
        replaced: Option<&Stat>,
    ) -> Result<Option<Keep>> {
        if self.retention().generations == 0 {
            return Ok(None);
        }
        let Some(stat) = replaced else { return Ok(None) };
        let current = self.recorded_as(image, stat)?;
        let current = current.filter(|current| current.root != generation.root);
        let now_unix_ms = generation.recorded_unix_ms;
        Ok(current.map(|current| Keep::for_retention(Why::History, Some(current), now_unix_ms)))
    }

    /// A clone of the held base, if that is of the current generation and the history keeps it when
    /// `root` takes its place. It lies in the staging directory, synced.
    pub(crate) fn leaving(
        &self,
        image: Option<&ImageRecord>,
        current: Option<&Generation>,
        root: &Root,
        now_unix_ms: i64,
    ) -> Result<Option<Leaving>> {
        let Some((image, current)) = image.zip(current) else { return Ok(None) };
        let kept = self.retention().generations > 0 && current.root != *root;
        if !kept || !self.is_held_last(image, &current.root)? {
            return Ok(None);
        }
        let path = leaving_path(&image.name);
        self.disk.remove_file(&path).during("remove", &path)?;
        if !self.disk.clone_file(&base_path(&image.name), &path).during("clone to", &path)? {
            return Ok(None);
        }
        let file = self.disk.open(&path, Open::ReadWrite).during("open", &path)?;
        self.synced(file.sync(), &path)?;
        let stat = file.stat().during("look at", &path)?;
        let keep = Keep::for_retention(Why::History, Some(current.clone()), now_unix_ms);
        Ok(Some(Leaving { path, stat, keep }))
    }

    /// Puts what was noted in its place. If that fails the content stays where its row says that it
    /// was, and recovery does it.
    pub(crate) fn place_left(&self, name: &ImageName, noted: Option<(u64, Leaving)>) {
        let Some((serial, leaving)) = noted else { return };
        if let Err(error) = self.place_kept(name, serial, &leaving.path) {
            tracing::warn!(image = %name, code = error.code(), %error, "not kept yet");
        }
    }
}

/// Where the clone of a content is until its row is written.
fn leaving_path(name: &ImageName) -> String {
    format!("{STAGING}/{name}.leaving")
}
