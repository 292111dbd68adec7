//! Moves of an adoption: written down, done step by step, and gone on with after a crash. The mark in
//! the catalog says where a store comes from and where it goes; the file `.blockferry/adopting` says
//! that there is an adoption even where the catalog is lost: then it begins again with `observe`.

use std::sync::{PoisonError, RwLockReadGuard};

use blockferry_delta::{ImageName, Root};

use super::{AdoptOrder, Adoption, Facts, Phase, Rule, Step};
use crate::catalog::CatalogWrite;
use crate::disk::{Kind, Open};
use crate::error::{Error, IoContext, Result};
use crate::kept::Why;
use crate::layout::{ADOPTING, PRIVATE};
use crate::store::Store;

/// Key in the catalog: the phase a store comes from, and the one it goes to.
const MARK: &str = "adoption";

impl Store {
    /// How far the store has been adopted.
    pub fn adoption(&self) -> Adoption {
        self.adoption.get()
    }

    /// Does what is ordered; when it returns, it is done. After an error it may be under way: the same
    /// order, or opening the store again, goes on with it.
    ///
    /// # Errors
    /// [`Error::Adoption`] when it can't be done now; [`Error::InUse`] and [`Error::Busy`] when
    /// somebody uses an image that is to be put back.
    pub fn adopt(&self, order: AdoptOrder, facts: Facts) -> Result<Adoption> {
        let _one = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_marker()?;
        self.check_health()?;
        {
            // No commit is under way now, and the next one asks again.
            let _alone = self.placing.write().unwrap_or_else(PoisonError::into_inner);
            let now = self.adoption();
            let next = now.ordered(order, facts).map_err(Error::Adoption)?;
            if next != now {
                self.flag_adoption()?;
                self.note_adoption(next, |_| Ok(()))?;
            }
        }
        self.carry_out()
    }

    /// What the catalog says of it.
    pub(crate) fn load_adoption(&self) -> Result<()> {
        let mark = self.catalog.read()?.mark(MARK)?;
        let adoption = Adoption::decode(mark).ok_or_else(|| Error::Corrupt {
            what: "the adoption's mark",
            detail: format!("{mark:#x} is of a later version"),
        })?;
        self.adoption.set(adoption);
        Ok(())
    }

    /// Goes on with what a crash interrupted. What can't be done now stays to be done.
    pub(crate) fn take_up_adoption(&self) -> Result<()> {
        if self.adoption() == Adoption::resting(Phase::Off) {
            return self.unflag_adoption();
        }
        if let Err(error) = self.carry_out() {
            tracing::warn!(code = error.code(), %error, "the adoption doesn't go on");
        }
        Ok(())
    }

    /// A new catalog of a store that is, or was, being adopted begins by observing.
    pub(crate) fn begin_adoption(&self, write: &CatalogWrite) -> Result<()> {
        let flagged = self.disk.stat(ADOPTING).during("look at", ADOPTING)?.is_some();
        if flagged || self.options.adopt {
            self.flag_adoption()?;
            write.put_mark(MARK, Adoption::resting(Phase::Observe).encode())?;
        }
        Ok(())
    }

    /// The right to change images; as long as it is held, nobody takes it away.
    ///
    /// # Errors
    /// [`Error::Observing`] while the old tool rules.
    pub(crate) fn in_place(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let held = self.placing.read().unwrap_or_else(PoisonError::into_inner);
        match self.adoption().rule() {
            Rule::InPlace => Ok(held),
            Rule::Beside | Rule::Nothing => {
                Err(Error::Observing { phase: self.adoption().from.word() })
            }
        }
    }

    /// Is what a commit is about to replace the old tool's content of an image, which isn't kept yet?
    pub(crate) fn keeps_old(&self, name: &ImageName) -> Result<bool> {
        if !self.adoption().keeps_old() {
            return Ok(false);
        }
        let read = self.catalog.read()?;
        let kept = read.kept(Some(name))?.iter().any(|(_, _, row)| row.why == Why::OldTool);
        Ok(!kept && read.is_in_inventory(name)?)
    }

    /// Lets go of what was received beside an image, but for the content with `root`. Returns how
    /// many contents went.
    pub fn release_shadow(&self, name: &ImageName, but: Option<&Root>) -> Result<u64> {
        let mut released = 0;
        for kept in self.kept(name)?.into_iter().filter(|kept| kept.why == Why::Shadow) {
            if but.is_none() || kept.root().as_ref() != but {
                self.acknowledge(name, kept.serial)?;
                released += 1;
            }
        }
        Ok(released)
    }

    fn carry_out(&self) -> Result<Adoption> {
        for step in self.adoption().steps() {
            match step {
                Step::TakeInventory => self.take_inventory()?,
                Step::Restore => self.restore_all()?,
                Step::ReleaseShadow => self.release_all(Why::Shadow)?,
                Step::ReleaseOld => self.release_all(Why::OldTool)?,
                Step::Arrive => self.arrive()?,
            }
        }
        Ok(self.adoption())
    }

    fn take_inventory(&self) -> Result<()> {
        let mut names = Vec::new();
        for entry in self.disk.list("").during("list", "store directory")? {
            let Some(name) = entry.name.to_str().and_then(|name| ImageName::new(name).ok()) else {
                continue;
            };
            let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
            if stat.is_some_and(|stat| stat.kind == Kind::File) {
                names.push(name);
            }
        }
        let write = self.catalog.write()?;
        write.put_inventory(&names)?;
        write.commit()
    }

    fn release_all(&self, why: Why) -> Result<()> {
        for kept in self.all_kept()?.into_iter().filter(|kept| kept.why == why) {
            self.acknowledge(&kept.image, kept.serial)?;
        }
        Ok(())
    }

    fn arrive(&self) -> Result<()> {
        let phase = self.adoption().to;
        self.note_adoption(Adoption::resting(phase), |write| match phase {
            Phase::Active => Ok(()),
            _ => write.put_inventory(&[]),
        })?;
        if phase == Phase::Off { self.unflag_adoption() } else { Ok(()) }
    }

    /// One transaction; from then on it is so.
    fn note_adoption(
        &self,
        adoption: Adoption,
        also: impl FnOnce(&CatalogWrite) -> Result<()>,
    ) -> Result<()> {
        let write = self.catalog.write()?;
        write.put_mark(MARK, adoption.encode())?;
        also(&write)?;
        let done = write.commit();
        // After a failed catalog write nobody knows what is on disk until it is opened again.
        done.inspect_err(|_| self.degrade())?;
        self.adoption.set(adoption);
        Ok(())
    }

    fn flag_adoption(&self) -> Result<()> {
        if self.disk.stat(ADOPTING).during("look at", ADOPTING)?.is_none() {
            drop(self.disk.open(ADOPTING, Open::Create).during("create", ADOPTING)?);
        }
        self.synced(self.disk.sync_dir(PRIVATE), PRIVATE)
    }

    fn unflag_adoption(&self) -> Result<()> {
        self.disk.remove_file(ADOPTING).during("remove", ADOPTING)
    }
}
