//! The commit of a set: several sealed stagings become current as one. One transaction prepares all
//! of them, each naming its set; then each takes its place, parents first, and the directory is
//! synced after each, so that neither a reader nor a power cut ever finds a child whose parent
//! isn't there. Only when all are in place is anything of the old contents given up: until then
//! they can change places back, children first, and recovery does whichever of the two it can do
//! for the whole set. What a reader sees who opens several files *between* two renames of a live
//! commit is up to him: each file is whole, parents are new before their children.
//!
//! Where images are changed in their own files, by journals, that comes after the renames, since it
//! can't be taken back: all of these are shut meanwhile, so that whoever opens one waits for all,
//! and once one has begun recovery only goes forward.

use blockferry_delta::ImageName;

use crate::catalog::{Checkpoint, Generation, ImageRecord, Prepared, SetPart};
use crate::claim::Claim;
use crate::commit::{Ready, Received, Whole};
use crate::disk::{DiskFile, RenameHow};
use crate::error::{Error, IoContext, Result};
use crate::journal::{JOURNAL_BYTES_MAX, Shut, ShutFile, Standing};
use crate::layout::STAGING;
use crate::recover::RecoveryReport;
use crate::staging::{Built, Sealed};
use crate::store::Store;

/// Members that are committed as one at most. Their stagings are there side by side.
pub const SET_COMMIT_MAX: usize = 128;

/// A member that is to become current: as a file, or by a journal into its own one.
enum Part {
    Whole(Whole),
    Shut(Shut),
}

impl Part {
    fn shut(&self) -> Option<&Shut> {
        match self {
            Part::Whole(_) => None,
            Part::Shut(shut) => Some(shut),
        }
    }
}

/// The own file of a member, shut, if a journal goes into it.
type OwnFile = Option<Box<dyn DiskFile>>;

/// A member whose intent is written; its own file, if a journal goes into that.
type Member = (Ready, Option<ShutFile>);

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
        let _in_place = self.in_place()?;
        self.check_health()?;
        if members.len() > SET_COMMIT_MAX {
            return Err(Error::StoreUnsafe("a set of more images than are committed as one"));
        }
        for sealed in &members {
            self.check_target(&sealed.generation.image, sealed.image.as_ref())?;
        }
        let (members, files) = self.shut_members(members)?;
        let mut claims = Vec::new();
        let mut parts = Vec::new();
        for (sealed, file) in members.into_iter().zip(files) {
            let (claim, part) = self.part(sealed, file)?;
            claims.push(claim);
            parts.push(part);
        }
        let shut: Vec<&Shut> = parts.iter().filter_map(Part::shut).collect();
        if let Err(error) = shut.iter().try_for_each(|shut| self.check_shut(shut)) {
            self.keep_times(&shut)?;
            return Err(error);
        }
        let mut ready = self.prepare_set(parts)?;
        if let Err((placed, error)) = self.place_set(&ready) {
            // After a failed sync the names may have changed places: only recovery can tell.
            if !self.is_degraded() {
                self.take_back(&ready[..placed]).inspect_err(|_| self.degrade())?;
                let all = ready.iter().map(|(member, _)| (&member.image, &member.prepared));
                self.give_up_set(all)?;
            }
            return Err(error);
        }
        // From here on there is no way back.
        self.put_journals(&mut ready).inspect_err(|_| self.degrade())?;
        let made = ready.into_iter().map(|(member, _)| self.conclude(member)).collect();
        drop(claims);
        made
    }

    /// Shuts the images whose journals are to be put into their own files, all at once. Whole files are
    /// made first where that can't be: what is replaced is kept, somebody has the image open, all
    /// together take longer than openers are kept waiting, or a member that is renamed comes after
    /// it. Members in their order, and the file of each that is shut.
    fn shut_members(&self, mut members: Vec<Sealed>) -> Result<(Vec<Sealed>, Vec<OwnFile>)> {
        loop {
            let (mut files, mut room, mut refused) = (Vec::new(), JOURNAL_BYTES_MAX, None);
            // Renames come first, and no child comes before its parent.
            let renamed = members.iter().rposition(|m| matches!(m.built, Built::Whole(_)));
            for (at, sealed) in members.iter().enumerate() {
                let (Built::Journal(redo), Some(image)) = (&sealed.built, &sealed.image) else {
                    files.push(None);
                    continue;
                };
                let bytes = redo.size_bytes()?;
                let is_last = renamed.is_none_or(|renamed| renamed < at);
                let may = is_last && bytes <= room && !self.keeps_replaced(sealed)?;
                let shut = if may { self.shut_image(image)? } else { None };
                let Some(file) = shut else {
                    refused = Some(at);
                    break;
                };
                room -= bytes;
                files.push(Some(file));
            }
            let Some(at) = refused else { return Ok((members, files)) };
            // Copying takes long: nobody waits for it.
            drop(files);
            let whole = self.made_whole(members.remove(at))?;
            members.insert(at, whole);
        }
    }

    fn keeps_replaced(&self, sealed: &Sealed) -> Result<bool> {
        Ok(sealed.keep_replaced
            || self.retention().generations > 0
            || self.keeps_old(&sealed.generation.image)?)
    }

    fn made_whole(&self, sealed: Sealed) -> Result<Sealed> {
        let Built::Journal(redo) = sealed.built else { return Ok(sealed) };
        let name = &sealed.generation.image;
        let image = sealed.image.as_ref().ok_or_else(|| Error::NotFound(name.clone()))?;
        let (path, file) = self.convert(image, redo, &sealed.generation)?;
        Ok(Sealed { path, built: Built::Whole(file), ..sealed })
    }

    fn part(&self, sealed: Sealed, shut: OwnFile) -> Result<(Claim, Part)> {
        let keep_replaced = sealed.keep_replaced || self.keeps_old(&sealed.generation.image)?;
        let Sealed { claim, image, generation, path, built, spool, .. } = sealed;
        let part = match (built, shut, image) {
            (Built::Whole(file), _, image) => {
                Part::Whole(Whole { image, generation, path, file, spool, keep_replaced })
            }
            (Built::Journal(redo), Some(file), Some(image)) => {
                Part::Shut(Shut { image, generation, file, redo, spool })
            }
            (Built::Journal(_), _, _) => return Err(Error::NotFound(generation.image)),
        };
        Ok((claim, part))
    }

    /// The intent: one transaction that names every member.
    fn prepare_set(&self, mut parts: Vec<Part>) -> Result<Vec<Member>> {
        let write = self.catalog.write()?;
        let count = parts.len() as u32;
        // The number of the first image: no other set can be on its way with it.
        let token = match parts.first_mut() {
            Some(Part::Whole(first)) => {
                let image =
                    self.image_record(&write, &first.generation.image, first.image.take())?;
                first.image.insert(image).id
            }
            Some(Part::Shut(first)) => first.image.id,
            None => 0,
        };
        let mut ready = Vec::new();
        for (place, part) in (0..count).zip(parts) {
            let set = (count > 1).then_some(SetPart { token, place, count });
            ready.push(match part {
                Part::Whole(whole) => (self.prepare(&write, whole, set)?, None),
                Part::Shut(shut) => {
                    let (ready, shut) = self.prepare_shut(&write, shut, set)?;
                    (ready, Some(shut))
                }
            });
        }
        write.commit()?;
        Ok(ready)
    }

    /// Puts the journals in place: the last step, since it can't be taken back.
    fn put_journals(&self, ready: &mut [Member]) -> Result<()> {
        let shut: Vec<_> =
            ready.iter().filter_map(|(r, shut)| Some((&r.generation, shut.as_ref()?))).collect();
        let points = self.put_set_in_place(&shut)?;
        let members = ready.iter_mut().filter(|(_, shut)| shut.is_some());
        for ((member, shut), point) in members.zip(points) {
            member.prepared.sealed = Some(point);
            *shut = None;
        }
        Ok(())
    }

    /// The renames; after a failure how many members that concerns.
    fn place_set(&self, ready: &[Member]) -> std::result::Result<(), (usize, Error)> {
        for (at, (member, _)) in ready.iter().enumerate().filter(|(_, (_, shut))| shut.is_none()) {
            let done = self.take_place(&member.image.name, &member.prepared);
            done.map_err(|error| (at, error))?;
        }
        Ok(())
    }

    /// Undoes renames, the last one first.
    fn take_back(&self, placed: &[Member]) -> Result<()> {
        let renamed = placed.iter().rev().filter(|(_, shut)| shut.is_none());
        let mut renamed = renamed.map(|(member, _)| member);
        renamed.try_for_each(|member| self.leave_place(&member.image.name, &member.prepared))
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

    /// Puts all members of a set, in its order, into their places, or all back; journals only when
    /// each is finished by itself. `true`: that is what is left to be done. Where neither can be,
    /// because somebody wrote to a member since, the others go forward: his change stays.
    fn settle_set(&self, members: &[Prep<'_>]) -> Result<bool> {
        let mut standings = Vec::new();
        for (image, prepared) in members {
            standings.push(self.standing_of(image, prepared)?);
        }
        let can_be_placed = standings.iter().all(|s| s.is_placed || s.can_be_placed);
        let can_go_back = standings.iter().all(|s| s.can_go_back);
        let count = members.first().and_then(|(_, p)| p.set).map_or(0, |set| set.count);
        // One that is done already was done after all had taken their places.
        let all_were_placed = (members.len() as u32) < count;
        let forward = all_were_placed || can_be_placed || !can_go_back;
        let renamed = members.iter().zip(&standings).filter(|((_, p), _)| p.journal.is_none());
        if forward {
            for ((image, prepared), standing) in renamed {
                if !standing.is_placed && self.can_take_place(image, prepared)? {
                    self.take_place(&image.name, prepared)?;
                }
            }
            return Ok(true);
        }
        for ((image, prepared), standing) in renamed.rev() {
            if standing.is_placed {
                self.leave_place(&image.name, prepared)?;
            }
        }
        for (image, _) in members.iter().filter(|(_, prepared)| prepared.journal.is_some()) {
            self.bring_back(&image.name)?;
        }
        Ok(false)
    }

    fn standing_of(&self, image: &ImageRecord, prepared: &Prepared) -> Result<Standing> {
        if prepared.journal.is_some() {
            return match self.shut_place(image, prepared)? {
                Some((at, here)) => self.standing(image, prepared, (&at, here)),
                // Somebody has put something else in its place.
                None => Ok(Standing { can_go_back: true, ..Standing::default() }),
            };
        }
        let is_placed = self.is_placed(image, prepared)?;
        Ok(Standing {
            is_placed,
            can_be_placed: !is_placed && self.can_take_place(image, prepared)?,
            can_go_back: !is_placed || self.can_leave_place(image, prepared)?,
        })
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
