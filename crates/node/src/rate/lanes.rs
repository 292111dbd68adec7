//! Lanes: what is pushed in a lane of its own.
//!
//! A lane that was named with a push counts for that image and peer until the image is there, beside
//! its store's; a push in another lane replaces it, one without a lane leaves it. It isn't kept over a
//! restart. What it means for the order is decided in `turns`, `pace`, `queue` and `backlog`.

use blockferry_wire::Lane as WireLane;

use crate::api::Lane;
use crate::backlog::Key;
use crate::core::{Core, lock};

impl From<Lane> for WireLane {
    fn from(lane: Lane) -> WireLane {
        match lane {
            Lane::Urgent => WireLane::Urgent,
            Lane::Normal => WireLane::Normal,
            Lane::Bulk => WireLane::Bulk,
        }
    }
}

/// Moves transfers into a lane, those that run already too.
pub(crate) fn push(core: &Core, keys: Vec<Key>, lane: Lane) {
    if keys.is_empty() {
        return;
    }
    core.limit.change(|rates| {
        for key in keys {
            rates.pushed.insert(key, lane.into());
        }
    });
    // The backlog learns it by itself in a moment; the next offer is made before that.
    lock(&core.backlog).handle_rates(core.limit.in_force());
}
