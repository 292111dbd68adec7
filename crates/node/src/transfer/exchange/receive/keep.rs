//! What an offer becomes that doesn't descend from what we hold: a content kept beside ours, pinned
//! until somebody has decided. Ours stays current and untouched. The sender is told `DIVERGED` after
//! the last durable step: what it offered is safe here and is not in sync.
//!
//! Here, too, is what makes a lineage doubtful: a node that was set back, or has a twin.

use blockferry_store::{Generation, Received, Sealed, Why};
use blockferry_wire::{Failed, Offer, Refusal, Refuse};

use super::{RecvOutcome, RecvSide};
use crate::budget::CONFLICTS_MAX;
use crate::error::Result;
use crate::events::now_unix_ms;
use crate::lineage::conflict;
use crate::transfer::judge::{Evidence, Held};

impl RecvSide {
    /// Our generation under its new lineage, when it had to get one.
    pub fn restamped(&self) -> Option<&Generation> {
        self.restamped.as_ref()
    }

    /// How we came by what we hold of the offered image.
    pub(super) fn came_by(&self, ours: Option<&Generation>, offer: &Offer) -> Result<Held> {
        let Some(ours) = ours else { return Ok(Held::Recorded) };
        if ours.is_adopted() && self.store.is_gone(&offer.image)? {
            return Ok(Held::Gone);
        }
        let receipts = self.store.receipts(&offer.image)?;
        let received =
            receipts.iter().any(|(peer, _, root)| *peer == self.peer && *root == ours.root);
        let known = received || offer.knows(&ours.root);
        if ours.is_adopted() {
            return Ok(Held::Adopted { known, mirror: self.store.is_mirror() });
        }
        Ok(self.evidence(ours, offer, known, &self.writers()?).held())
    }

    fn writers(&self) -> Result<Vec<blockferry_delta::NodeId>> {
        Ok(self.store.writer_ids(self.identity.id())?)
    }

    fn evidence<'a>(
        &self,
        ours: &'a Generation,
        offer: &'a Offer,
        known: bool,
        writers: &'a [blockferry_delta::NodeId],
    ) -> Evidence<'a> {
        let older = offer.older.as_ref().map(Vec::len);
        Evidence {
            ours: &ours.lineage,
            offered: &offer.lineage,
            writers,
            known,
            made_both: older.is_some() && offer.author == self.peer && ours.author == self.peer,
            named: (offer.bases.len() + older.unwrap_or(0)) as u64,
        }
    }

    /// What is replaced is kept. Where something was recorded before, somebody has edited a mirror.
    pub(super) fn set_aside(&mut self, ours: Option<&Generation>) {
        self.sets_aside = true;
        self.undoes_edit = self.store.is_mirror() && ours.is_some_and(|ours| ours.number > 1);
    }

    /// Whether what the offer replaces is an edit of a mirror.
    pub fn undoes_edit(&self) -> bool {
        self.undoes_edit
    }

    /// Whether what is offered ends a conflict that what we hold has lost.
    pub(super) fn ends_conflict(&self, ours: Option<&Generation>, offer: &Offer) -> Result<bool> {
        let Some(ours) = ours.filter(|ours| ours.root != offer.root) else { return Ok(false) };
        let open = conflict::open(&self.store, ours)?;
        Ok(open.iter().any(|kept| conflict::descends(&offer.lineage, &kept.generation.lineage)))
    }

    /// Receives what is offered to keep it beside ours. `forked`: ours, when the offer's lineage is
    /// not to be believed.
    pub(super) fn keep(
        &mut self,
        offer: &Offer,
        generation: Generation,
        forked: Option<&Generation>,
    ) -> Result<()> {
        // What waits for its set holds the image: it will be offered again, and judged anew.
        self.waiting.clear(&self.store, &offer.image);
        if let Some(ours) = forked.filter(|ours| ours.lineage != offer.lineage) {
            self.restamp(ours, offer)?;
        }
        if offer.is_deletion() {
            // There is nothing to keep. Whoever deleted it gets ours to keep, and decides.
            let text = "you deleted it and it was changed here; it stays until you resolve it";
            return self.refuse(offer, Refuse::new(Refusal::Diverged, text));
        }
        let known = conflict::all(&self.store, &offer.image)?;
        let same = |kept: &conflict::Conflict| {
            kept.generation.root == offer.root && kept.generation.lineage == offer.lineage
        };
        if known.iter().any(same) {
            let text = "both sides changed it; yours is kept here until it is resolved";
            return self.refuse(offer, Refuse::new(Refusal::Diverged, text));
        }
        if known.len() >= CONFLICTS_MAX {
            let text = "both sides changed it, and too many contents are kept here already";
            return self.refuse(offer, Refuse::new(Refusal::Diverged, text));
        }
        self.beside = Some(forked.is_some());
        self.stage(offer, generation)
    }

    /// What we hold seems to be older than what is offered and isn't: it gets a lineage that says
    /// so. If it is we who were set back, what we count from now on is counted for somebody new.
    fn restamp(&mut self, ours: &Generation, offer: &Offer) -> Result<()> {
        let writers = self.writers()?;
        if self.evidence(ours, offer, false, &writers).forgotten_here() {
            self.store.renew_writer()?;
        }
        let us = self.identity.id();
        // From now on it is ours: its author may not know it any more. What a mirror says it made
        // nobody takes.
        let author = (!self.store.is_mirror()).then_some(us);
        let made = self.store.descend(&offer.image, &[], us, author, now_unix_ms())?;
        self.restamped = Some(made);
        Ok(())
    }

    /// One lineage with two contents, and we are in it: whoever made the other one counts as we do.
    fn part_from_twin(&self, theirs: &Generation) -> Result<()> {
        let us = self.writers()?.first().copied();
        let counts = us.is_some_and(|us| theirs.lineage.count(&us) > 0);
        let ours = self.store.current(&theirs.image)?;
        if counts && ours.is_some_and(|ours| ours.lineage == theirs.lineage) {
            self.store.renew_writer()?;
        }
        Ok(())
    }

    /// The last step for a content that is kept beside ours.
    pub(super) fn commit_beside(
        &mut self,
        sealed: Sealed,
        stats: Received,
        fork: bool,
    ) -> Result<()> {
        let kept = self.store.commit_beside(sealed, stats, (Why::Conflict, true))?;
        conflict::drop_superseded(&self.store, &kept)?;
        if let Some(theirs) = kept.generation.as_ref().filter(|_| fork) {
            self.part_from_twin(theirs)?;
        }
        let text = "both sides changed it; yours is kept here until it is resolved";
        self.receiver.handle_failed(Failed::new(Refusal::Diverged, text))?;
        let generation = kept.generation.map(Box::new);
        self.outcome = generation.map(|generation| RecvOutcome::Kept { generation, fork });
        Ok(())
    }
}
