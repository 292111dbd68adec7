//! Rollback: an earlier content becomes a new generation that descends from the current one. It is
//! taken from what is kept here, proved by reading what it doesn't share with the current one, and
//! committed like any other; what it replaces is kept in its turn. The images of a set go back as one.
//! What was current together is told by the order in which this node kept it ([`Store::together`]),
//! never by a date.

use blockferry_delta::{ImageName, NodeId};

use crate::catalog::{Discover, Generation};
use crate::error::{Error, Result};
use crate::freeze::regular;
use crate::kept::{Kept, Why};
use crate::record::Recorded;
use crate::scan::Progress;
use crate::staging::Sealed;
use crate::store::Store;
use crate::writer::COUNTED;

/// An earlier content, ready to become current; or the image has it already.
enum Earlier {
    Sealed(Box<Sealed>),
    Current(Box<Generation>),
}

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
        let one = [(name.clone(), number)];
        let made = self.rollback_set(&one, author, now_unix_ms, progress)?.pop();
        made.ok_or(Error::NotKept { image: name.clone(), number })
    }

    /// The same for several images, each to its generation, as one and in their order: what a member
    /// needs comes before it.
    ///
    /// # Errors
    /// As for one; then none has gone back.
    pub fn rollback_set(
        &self,
        members: &[(ImageName, u64)],
        author: NodeId,
        now_unix_ms: i64,
        progress: &dyn Progress,
    ) -> Result<Vec<Recorded>> {
        let (mut sealed, mut outcomes) = (Vec::new(), Vec::new());
        for (name, number) in members {
            match self.seal_earlier(name, *number, author, now_unix_ms, progress) {
                Ok(Earlier::Sealed(one)) => {
                    outcomes.push(None);
                    sealed.push(*one);
                }
                Ok(Earlier::Current(current)) => outcomes.push(Some(Recorded::Unchanged(*current))),
                Err(error) => {
                    sealed.into_iter().try_for_each(|one| self.drop_sealed(one))?;
                    return Err(error);
                }
            }
        }
        let mut made = self.commit_sealed_set(sealed)?.into_iter();
        made.as_slice().iter().try_for_each(|_| self.count_made())?;
        // One was made for each that was sealed.
        let all = outcomes.into_iter().map(|done| done.or_else(|| made.next().map(Recorded::New)));
        Ok(all.flatten().collect())
    }

    /// One more generation was made here.
    pub(crate) fn count_made(&self) -> Result<()> {
        let write = self.catalog.write()?;
        write.count_mark(COUNTED)?;
        write.commit()
    }

    fn seal_earlier(
        &self,
        name: &ImageName,
        number: u64,
        author: NodeId,
        now_unix_ms: i64,
        progress: &dyn Progress,
    ) -> Result<Earlier> {
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
        let (to, kept) = match self.earlier(name, number)? {
            (to, _) if to.root == current.root => return Ok(Earlier::Current(Box::new(current))),
            (to, Some(kept)) => (to, kept),
            (_, None) => return Err(Error::NotKept { image: name.clone(), number }),
        };
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
        Ok(Earlier::Sealed(Box::new(sealed)))
    }

    /// An earlier generation, and its content if that is kept here.
    ///
    /// # Errors
    /// [`Error::NotKept`] when nothing is known of such a content.
    pub fn earlier(&self, name: &ImageName, number: u64) -> Result<(Generation, Option<Kept>)> {
        let history = self.history(name)?;
        let to = history.into_iter().find(|g| g.number == number && !g.is_deleted());
        let to = to.ok_or_else(|| Error::NotKept { image: name.clone(), number })?;
        let kept = self.kept_with_root(name, &to.root)?;
        Ok((to, kept))
    }

    /// Which generations of the other images in `order` were current together with generation
    /// `number` of `image`: those that must go back with it, for they have changed since. `order` is
    /// that of a set: what comes before `image` is what it was made upon, and counts as it was when the
    /// generation became current; what comes after was made upon it, and counts as it was last.
    pub fn together(
        &self,
        image: &ImageName,
        number: u64,
        order: &[ImageName],
    ) -> Result<Vec<(ImageName, u64)>> {
        let Some((began, ended)) = self.span(image, number)? else { return Ok(Vec::new()) };
        let place = order.iter().position(|name| name == image).unwrap_or(order.len());
        let mut with = Vec::new();
        for (at, name) in order.iter().enumerate().filter(|(_, name)| *name != image) {
            let moment = if at < place { began } else { ended };
            let left = self.left(name)?;
            let then = left.iter().find(|kept| kept.serial > moment);
            let (Some(then), Some(now)) =
                (then.and_then(|k| k.generation.as_ref()), self.current(name)?)
            else {
                continue;
            };
            if then.root != now.root {
                with.push((name.clone(), then.number));
            }
        }
        Ok(with)
    }

    /// The contents of an image that were current and aren't any more, the one that went first first.
    fn left(&self, name: &ImageName) -> Result<Vec<Kept>> {
        let mut left = self.kept(name)?;
        left.retain(|kept| matches!(kept.why, Why::History | Why::Deleted));
        left.reverse();
        Ok(left)
    }

    /// After what a generation's content became current, and with what it went, in the order in
    /// which contents were kept. `None`: it is current, or not kept.
    fn span(&self, name: &ImageName, number: u64) -> Result<Option<(u64, u64)>> {
        let history = self.history(name)?;
        let Some(wanted) = history.iter().find(|g| g.number == number) else { return Ok(None) };
        let left = self.left(name)?;
        // A touch gives the same content another number.
        let is = |kept: &Kept| {
            let held = kept.generation.as_ref();
            held.is_some_and(|held| held.root == wanted.root && held.number >= number)
        };
        let Some(at) = left.iter().position(is) else { return Ok(None) };
        let ended = left[at].serial;
        let older = history.iter().filter(|g| g.number < number && g.root != wanted.root);
        let before = older.max_by_key(|g| g.number);
        let began = match (before, at.checked_sub(1).map(|at| &left[at])) {
            (None, _) => 0,
            (Some(before), Some(kept)) if kept.root() == Some(before.root) => kept.serial,
            // What came before isn't kept any more: the end is all that is known.
            _ => ended,
        };
        Ok(Some((began, ended)))
    }
}
