//! Rollback: an earlier content becomes a new generation that descends from the current one. It is
//! taken from what is kept here, proved by reading it, and committed like any other; what it
//! replaces is kept in its turn.

use blockferry_delta::{ImageName, NodeId};

use crate::catalog::{Discover, Generation};
use crate::error::{Error, Result};
use crate::freeze::regular;
use crate::record::Recorded;
use crate::scan::Progress;
use crate::store::Store;

impl Store {
    /// Makes the content of generation `number` the current one again, as a new generation of
    /// `author`. An image that was deleted is there again.
    ///
    /// # Errors
    /// [`Error::LocalChange`] and [`Error::SourceMissing`] when the file isn't the current
    /// generation, [`Error::NotKept`] when the content isn't kept here.
    pub fn rollback(
        &self,
        name: &ImageName,
        number: u64,
        author: NodeId,
        now_unix_ms: i64,
        progress: &dyn Progress,
    ) -> Result<Recorded> {
        self.check_marker()?;
        self.check_health()?;
        let claim = self.claim(name)?;
        let image = self.catalog.read()?.image(name)?;
        let current = self.current_of(image.as_ref())?;
        let current = current.ok_or_else(|| Error::NotFound(name.clone()))?;
        if !current.is_deleted() {
            regular(self.disk.as_ref(), name)?;
        }
        self.check_target(name, image.as_ref())?;
        let unknown = || Error::NotKept { image: name.clone(), number };
        let history = self.history(name)?;
        let to = history.into_iter().find(|g| g.number == number && !g.is_deleted());
        let to = to.ok_or_else(unknown)?;
        if to.root == current.root {
            return Ok(Recorded::Unchanged(current));
        }
        let kept = self.kept_with_root(name, &to.root)?.ok_or_else(unknown)?;
        let generation = Generation {
            number: current.number + 1,
            lineage: self.next_lineage(image.as_ref(), Some(&current), author)?,
            author,
            recorded_unix_ms: now_unix_ms,
            discover: Discover::Scan,
            wire_bytes: 0,
            ..to
        };
        let started_ms = (self.options.monotonic_ms)();
        let mut sealed = self.seal_kept((claim, image), generation, &kept, progress)?;
        sealed.generation.millis = (self.options.monotonic_ms)().saturating_sub(started_ms);
        self.commit_sealed(sealed).map(Recorded::New)
    }
}
