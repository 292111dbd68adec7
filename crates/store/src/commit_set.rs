//! The commit of a set: several sealed stagings become current as one. One transaction prepares all
//! of them, each naming its set; then each takes its place, parents first, and the directory is
//! synced after each, so that neither a reader nor a power cut ever finds a child whose parent
//! isn't there. Only when all are in place is anything of the old contents given up: until then
//! they can change places back, children first, and recovery does whichever of the two it can do
//! for the whole set. What a reader sees who opens several files *between* two renames of a live
//! commit is up to him: each file is whole, parents are new before their children.

use blockferry_delta::ImageName;

use crate::catalog::{Checkpoint, Generation, ImageRecord, Prepared, SetPart};
use crate::claim::Claim;
use crate::commit::{Ready, Received, Whole};
use crate::disk::RenameHow;
use crate::error::{Error, IoContext, Result};
use crate::layout::STAGING;
use crate::recover::RecoveryReport;
use crate::staging::{Built, Sealed};
use crate::store::Store;

/// Members that are committed as one at most. Their stagings are there side by side.
pub const SET_COMMIT_MAX: usize = 128;

/// An image and its prepared commit, as recovery finds them.
pub(crate) type Prep<'a> = (&'a ImageRecord, Prepared);

impl Store {
    /// Commits sealed stagings as one, in their order: what a member needs comes before it. When it
    /// returns, all of them survive a power cut; when it fails, none has taken its place.
    ///
    /// # Errors
    /// As [`Store::commit`]. [`Error::LocalChange`] names the member that is in the way.
    pub fn commit_set(&self, members: Vec<(Sealed, Received)>) -> Result<Vec<Generation>> {
        let stamped = members.into_iter().map(|(mut sealed, received)| {
            received.stamp(&mut sealed.generation);
            sealed
        });
        self.commit_sealed_set(stamped.collect())
    }

    /// The same with generations whose records are complete.
    pub(crate) fn commit_sealed_set(&self, members: Vec<Sealed>) -> Result<Vec<Generation>> {
        let outcome = self.commit_set_steps(members);
        // After a failed catalog write nobody knows what is on disk until it is opened again.
        if let Err(Error::Catalog(_)) = &outcome {
            self.degrade();
        }
        outcome
    }

    fn commit_set_steps(&self, members: Vec<Sealed>) -> Result<Vec<Generation>> {
        self.check_health()?;
        if members.len() > SET_COMMIT_MAX {
            return Err(Error::StoreUnsafe("a set of more images than are committed as one"));
        }
        let mut claims = Vec::new();
        let mut whole = Vec::new();
        for sealed in members {
            let (claim, member) = self.member(sealed)?;
            claims.push(claim);
            whole.push(member);
        }
        let ready = self.prepare_set(whole)?;
        if let Err((placed, error)) = self.place_set(&ready) {
            // After a failed sync the names may have changed places: only recovery can tell.
            if !self.is_degraded() {
                self.take_back(&ready[..placed]).inspect_err(|_| self.degrade())?;
                self.give_up_set(ready.iter().map(|m| (&m.image, &m.prepared)))?;
            }
            return Err(error);
        }
        let made = ready.into_iter().map(|member| self.conclude(member)).collect();
        drop(claims);
        made
    }

    /// Makes a whole file of what was sealed: a change of the image's own file could not be taken
    /// back with the others.
    fn member(&self, sealed: Sealed) -> Result<(Claim, Whole)> {
        let Sealed { claim, image, generation, path, built, spool, keep_replaced, .. } = sealed;
        let name = &generation.image;
        self.check_target(name, image.as_ref())?;
        let (path, file) = match built {
            Built::Whole(file) => (path, file),
            Built::Journal(redo) => {
                let image = image.as_ref().ok_or_else(|| Error::NotFound(name.clone()))?;
                self.convert(image, redo, &generation)?
            }
        };
        Ok((claim, Whole { image, generation, path, file, spool, keep_replaced }))
    }

    /// The intent: one transaction that names every member.
    fn prepare_set(&self, mut members: Vec<Whole>) -> Result<Vec<Ready>> {
        let write = self.catalog.write()?;
        let count = members.len() as u32;
        // The number of the first image: no other set can be on its way with it.
        let mut token = 0;
        if let Some(first) = members.first_mut() {
            let image = self.image_record(&write, &first.generation.image, first.image.take())?;
            token = first.image.insert(image).id;
        }
        let mut ready = Vec::new();
        for (place, member) in (0..count).zip(members) {
            let part = (count > 1).then_some(SetPart { token, place, count });
            ready.push(self.prepare(&write, member, part)?);
        }
        write.commit()?;
        Ok(ready)
    }

    /// The renames; after a failure how many had been done.
    fn place_set(&self, ready: &[Ready]) -> std::result::Result<(), (usize, Error)> {
        for (at, member) in ready.iter().enumerate() {
            let done = self.take_place(&member.image.name, &member.prepared);
            done.map_err(|error| (at, error))?;
        }
        Ok(())
    }

    /// Undoes renames, the last one first.
    fn take_back(&self, placed: &[Ready]) -> Result<()> {
        placed
            .iter()
            .rev()
            .try_for_each(|member| self.leave_place(&member.image.name, &member.prepared))
    }

    /// Undoes one rename: what was replaced is back under its name.
    fn leave_place(&self, name: &ImageName, prepared: &Prepared) -> Result<()> {
        let (from, to) = (name.as_str(), prepared.staging.as_str());
        let how = match prepared.replaces {
            Some(_) => RenameHow::Exchange,
            None => RenameHow::NoReplace,
        };
        self.disk.rename(from, to, how).during("rename", from)?;
        self.synced(self.disk.sync_dir(""), "store directory")?;
        self.synced(self.disk.sync_dir(STAGING), STAGING)
    }

    /// Ends what a crash left of a set's renames: `members` are the prepared commits that name the
    /// set. Returns, in order, those whose commits are to be finished; none, when the set was dropped.
    /// The displaced contents must still be where the renames put them.
    pub(crate) fn settle_members<'a>(
        &self,
        mut members: Vec<Prep<'a>>,
        report: &mut RecoveryReport,
    ) -> Result<Vec<Prep<'a>>> {
        members.sort_by_key(|(_, prepared)| prepared.set.map(|part| part.place));
        if !self.settle_set(&members)? {
            self.give_up_set(members.iter().map(|(image, prepared)| (*image, prepared)))?;
            members.drain(..).for_each(|(image, _)| report.note(image, false));
        }
        Ok(members)
    }

    /// Puts all members of a set, in its order, into their places, or all back. `true`: they are in
    /// their places, and what is left is what each has to do by itself. Where it can do neither,
    /// because somebody wrote to a member since, the others go forward: his change stays.
    fn settle_set(&self, members: &[Prep<'_>]) -> Result<bool> {
        let mut placed = Vec::new();
        let (mut can_be_placed, mut can_go_back) = (true, true);
        for (image, prepared) in members {
            let is_placed = self.is_placed(image, prepared)?;
            can_be_placed &= is_placed || self.can_take_place(image, prepared)?;
            can_go_back &= !is_placed || self.can_leave_place(image, prepared)?;
            placed.push(is_placed);
        }
        let count = members.first().and_then(|(_, p)| p.set).map_or(0, |set| set.count);
        // One that is done already was done after all had taken their places.
        let all_were_placed = (members.len() as u32) < count;
        if all_were_placed || can_be_placed || !can_go_back {
            for ((image, prepared), is_placed) in members.iter().zip(placed) {
                if !is_placed && self.can_take_place(image, prepared)? {
                    self.take_place(&image.name, prepared)?;
                }
            }
            return Ok(true);
        }
        for ((image, prepared), is_placed) in members.iter().zip(placed).rev() {
            if is_placed {
                self.leave_place(&image.name, prepared)?;
            }
        }
        Ok(false)
    }

    /// Has the new content taken its place?
    fn is_placed(&self, image: &ImageRecord, prepared: &Prepared) -> Result<bool> {
        let name = image.name.as_str();
        let here = self.disk.stat(name).during("look at", name)?;
        Ok(here.is_some_and(|stat| stat.inode == prepared.inode))
    }

    /// Drops members of a set that came to nothing, in one transaction: while fewer are prepared than
    /// the count says, recovery takes it that all had been in their places. Their files may have
    /// changed places and be back: that shows in their times, and only there.
    fn give_up_set<'a>(
        &self,
        members: impl Iterator<Item = (&'a ImageRecord, &'a Prepared)> + Clone,
    ) -> Result<()> {
        let write = self.catalog.write()?;
        for (image, _) in members.clone() {
            let name = image.name.as_str();
            let stat = self.disk.stat(name).during("look at", name)?;
            if let (Some(point), Some(stat)) = (&image.checkpoint, stat)
                && point.same_content(&stat)
            {
                let checkpoint = Some(Checkpoint::of(&stat));
                write.put_image(&ImageRecord { checkpoint, ..image.clone() })?;
            }
            write.put_prepared(image.id, None)?;
            write.put_staged(image.id, None)?;
        }
        for (_, prepared) in members.clone() {
            self.forget_displaced(&write, prepared)?;
        }
        write.commit()?;
        for (_, prepared) in members {
            for path in [&prepared.staging, &prepared.spool] {
                self.disk.remove_file(path).during("remove", path)?;
            }
        }
        Ok(())
    }

    /// Is the new content in its staging, and the old one under the name as it was?
    fn can_take_place(&self, image: &ImageRecord, prepared: &Prepared) -> Result<bool> {
        let (name, staging) = (&image.name, &prepared.staging);
        let staged = self.disk.stat(staging).during("look at", staging)?;
        let here = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        Ok(staged.is_some_and(|stat| stat.inode == prepared.inode)
            && here.map(|stat| stat.inode) == prepared.replaces
            && self.check_target(name, Some(image)).is_ok())
    }

    /// Is the old content in the staging's place, and the new one as it was sealed?
    fn can_leave_place(&self, image: &ImageRecord, prepared: &Prepared) -> Result<bool> {
        let (name, staging) = (&image.name, &prepared.staging);
        let kept = self.disk.stat(staging).during("look at", staging)?;
        let here = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
        let untouched = here.is_some_and(|stat| {
            prepared.sealed.as_ref().is_some_and(|point| point.same_content(&stat))
        });
        Ok(untouched && kept.map(|stat| stat.inode) == prepared.replaces)
    }

    /// Drops sealed stagings that won't be committed.
    ///
    /// # Errors
    /// As the disk's.
    pub fn drop_sealed(&self, sealed: Sealed) -> Result<()> {
        let Sealed { claim, image, path, built, spool, .. } = sealed;
        drop(built);
        if let Some(image) = image {
            let write = self.catalog.write()?;
            write.put_staged(image.id, None)?;
            write.commit()?;
        }
        spool.remove(self.disk.as_ref())?;
        self.disk.remove_file(&path).during("remove", &path)?;
        drop(claim);
        Ok(())
    }
}

impl Sealed {
    /// The generation that it is.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }
}
