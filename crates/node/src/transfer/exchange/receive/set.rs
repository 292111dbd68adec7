//! Images of sets at the receiver: what is sealed is committed alone, with its set, or waits for the
//! others of it. Whoever completes a set commits all of it, whether the last content was sent or was
//! made of what is kept here.

use blockferry_store::{Error as StoreError, Generation, Received, Sealed};
use blockferry_wire::{Failed, Offer, Refusal, Refuse, SetMember};

use super::super::waiting::Attempt;
use super::{RecvOutcome, RecvSide};
use crate::error::Result;

impl RecvSide {
    /// The last step for what was received: a receipt when it is current here, else the words that
    /// it waits.
    pub(super) fn commit_or_wait(&mut self, sealed: Sealed) -> Result<()> {
        let offer = self.receiver.offer().expect("a commit comes after its offer").clone();
        match self.attempt(&offer, Some((sealed, self.stats())))? {
            Attempt::Complete(members) => {
                let generation = self.commit_all(&offer, members)?;
                self.receiver.handle_committed(self.receipt(&offer))?;
                self.outcome = Some(RecvOutcome::Committed(Box::new(generation)));
            }
            Attempt::Missing(missing) => {
                let failed = Failed::new(Refusal::SetIncomplete, &waits_for(missing));
                self.receiver.handle_failed(failed)?;
                self.outcome = Some(RecvOutcome::Waits { image: offer.image, missing });
            }
        }
        Ok(())
    }

    /// The answer to an offer whose content is sealed here already, or was just made of a kept one:
    /// perhaps its set is complete by now.
    pub(super) fn complete_set(
        &mut self,
        offer: &Offer,
        sealed: Option<(Sealed, Received)>,
    ) -> Result<()> {
        match self.attempt(offer, sealed)? {
            Attempt::Complete(members) => {
                let generation = self.commit_all(offer, members)?;
                self.receiver.have(self.receipt(offer))?;
                self.outcome = Some(RecvOutcome::Committed(Box::new(generation)));
            }
            Attempt::Missing(missing) => {
                self.receiver.refuse(Refuse::new(Refusal::SetIncomplete, &waits_for(missing)))?;
                let image = offer.image.clone();
                self.outcome = Some(RecvOutcome::Waits { image, missing });
            }
        }
        Ok(())
    }

    /// What is sealed is to be committed alone, with its set, or not yet.
    fn attempt(
        &self,
        offer: &Offer,
        sealed: Option<(Sealed, Received)>,
    ) -> std::result::Result<Attempt, StoreError> {
        match (sealed, offer.set.as_slice()) {
            (Some(sealed), [] | [_]) => Ok(Attempt::Complete(vec![sealed])),
            (None, []) => {
                let alone = [SetMember { image: offer.image.clone(), root: offer.root }];
                self.waiting.complete(&self.store, (&alone, &[]), None)
            }
            (sealed, set) => self.waiting.complete(&self.store, (set, &self.to_come), sealed),
        }
    }

    /// Commits, alone or as one with others of the set; gives the offered image's generation.
    fn commit_all(
        &mut self,
        offer: &Offer,
        mut members: Vec<(Sealed, Received)>,
    ) -> std::result::Result<Generation, StoreError> {
        if members.len() == 1 {
            let (sealed, stats) = members.remove(0);
            return self.store.commit(sealed, stats);
        }
        let mut made = self.store.commit_set(members)?;
        let own = made.iter().position(|generation| generation.image == offer.image);
        let own = own.ok_or_else(|| StoreError::NotFound(offer.image.clone()))?;
        let generation = made.remove(own);
        self.others = made;
        Ok(generation)
    }
}

fn waits_for(missing: usize) -> String {
    format!("staged; it waits for {missing} more of its set")
}
