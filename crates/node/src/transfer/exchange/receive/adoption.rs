//! Offers to a store that is being adopted: while another tool has the images, what differs is only
//! compared, or received beside them. What is the same here needs no file to be touched and is taken
//! over as ever.

use blockferry_store::{Generation, Phase, Rule, Sealed, Why};
use blockferry_wire::{Failed, Offer, Refusal, Refuse};

use super::{RecvOutcome, RecvSide};
use crate::error::Result;
use crate::transfer::judge::Decision;

impl RecvSide {
    /// Answers an offer that would change an image which another tool has. `false`: it doesn't, or
    /// nobody else has it.
    pub(super) fn old_tool_rules(
        &mut self,
        offer: &Offer,
        ours: Option<&Generation>,
        decision: &Decision,
    ) -> Result<bool> {
        let rule = self.store.adoption().rule();
        let settled =
            matches!(decision, Decision::AlreadyHere | Decision::Older | Decision::Forbidden);
        let same = ours.filter(|ours| ours.root == offer.root);
        if rule == Rule::InPlace || settled || same.is_some_and(|ours| ours.meta == offer.meta) {
            return Ok(false);
        }
        self.waiting.clear(&self.store, &offer.image);
        let text = match (rule, same) {
            (_, Some(_)) => "it is being adopted; equal here but for times or attributes",
            (Rule::Beside, None) if !offer.is_deletion() => {
                let kept = self.store.kept(&offer.image)?;
                let here = |root| root == Some(offer.root);
                if !kept.iter().any(|kept| kept.why == Why::Shadow && here(kept.root())) {
                    self.shadow = true;
                    self.stage(offer, super::generation_of(offer))?;
                    return Ok(true);
                }
                "it is being adopted; yours is here, beside what another tool keeps"
            }
            _ => "it is being adopted; another tool keeps it",
        };
        self.refuse(offer, Refuse::new(Refusal::Observing, text))?;
        Ok(true)
    }

    /// The last step for a content that is kept beside the image: what was kept before it goes.
    pub(super) fn commit_shadow(&mut self, sealed: Sealed) -> Result<()> {
        let kept = self.store.commit_beside(sealed, self.stats(), (Why::Shadow, true))?;
        self.store.release_shadow(&kept.image, kept.root().as_ref())?;
        let text = "it is being adopted; yours is here, beside what another tool keeps";
        self.receiver.handle_failed(Failed::new(Refusal::Observing, text))?;
        let generation = kept.generation.map(Box::new);
        self.outcome = generation.map(RecvOutcome::Shadowed);
        Ok(())
    }

    /// May what is kept here be made current although what it replaces is to be kept? In an adoption
    /// that has become active: what was received before needn't be sent again.
    pub(super) fn takes_shadow(&self) -> bool {
        self.store.adoption().from == Phase::Active
    }
}
