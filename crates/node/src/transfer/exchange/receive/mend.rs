//! What is held here already, and whose file rotted: the peer is told what the file has in the place of
//! what should be there, sends what differs, and the same generation becomes current once more. The
//! rotten file is kept.

use std::sync::Arc;

use blockferry_delta::comparable_blocks;
use blockferry_store::{Damage, Error as StoreError, Generation, Sealed};
use blockferry_wire::{Offer, WalkStart};

use super::{Planned, RecvOutcome, RecvSide};
use crate::error::Result;

impl RecvSide {
    /// Our generation, if its file is to be mended with just what is offered.
    pub(super) fn to_mend(&self, offer: &Offer) -> Result<Option<Generation>> {
        let Some(damage) = self.store.mending(&offer.image) else { return Ok(None) };
        let ours = self.store.current(&offer.image)?;
        Ok(ours.filter(|ours| damage.is_of(ours) && ours.root == offer.root))
    }

    /// Receives it once more, under the record that it has.
    pub(super) fn mend(&mut self, offer: &Offer, ours: Generation) -> Result<()> {
        self.waiting.clear(&self.store, &offer.image);
        self.mends = true;
        self.stage(offer, ours)
    }

    /// What to start from while an image is being mended: its own file, of which the peer hears what is
    /// wrong; without such a peer, or if too much is wrong, nothing.
    pub(super) fn plan_around(
        &self,
        offer: &Offer,
        damage: &Arc<Damage>,
    ) -> std::result::Result<Planned, StoreError> {
        let ours = damage.generation();
        let comparable = comparable_blocks(offer.size_bytes, ours.size_bytes) > 0;
        if offer.older.is_none() || !comparable || !damage.builds_on() {
            return Ok((None, None));
        }
        let salt = self.store.walk_salt(&offer.root);
        let map = self.store.walk_damaged(damage, offer.size_bytes, salt)?;
        Ok((Some(ours.root), Some((WalkStart { size_bytes: ours.size_bytes, salt }, map))))
    }

    /// The last step: what was built takes the place of the rotten file.
    pub(super) fn commit_mended(&mut self, sealed: Sealed) -> Result<()> {
        let generation = self.store.commit_mended(sealed)?;
        let offer = self.receiver.offer().expect("a commit comes after its offer").clone();
        self.receiver.handle_committed(self.receipt(&offer))?;
        let wire_bytes = self.wire_bytes;
        self.outcome = Some(RecvOutcome::Mended { generation: Box::new(generation), wire_bytes });
        Ok(())
    }
}
