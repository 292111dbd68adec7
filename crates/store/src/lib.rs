//! What is on disk and how it gets there safely. The only crate that touches files; it blocks.
//!
//! The sending line passes here through `look`, `freeze`, `scan` (discover and digest), `record`,
//! `recipe` and `source`; the receiving line through `staging` (plan, stage, copy, verify, write,
//! seal) and `commit`. `recover` finishes or abandons what a crash left. Everything goes through
//! the [`disk::Disk`] seam, so a simulated disk can lose power at any point of it.

mod adopt;
mod adoption;
mod assemble;
mod bases;
mod catalog;
mod changed;
mod claim;
mod commit;
mod commit_set;
mod deletion;
mod dictionary;
mod discover;
pub mod disk;
mod error;
mod extents;
mod freeze;
mod headers;
mod headroom;
mod held;
mod indexing;
mod journal;
mod kept;
mod layout;
mod look;
mod mend;
mod readback;
mod recipe;
mod record;
mod recover;
mod rollback;
mod scan;
mod source;
mod spare;
mod spool;
mod staging;
mod store;
mod take;
mod verify;
mod walk;
mod warm;
mod writer;

pub use adoption::{AdoptOrder, Adoption, Facts, NotNow, Phase, Rule, Step};
pub use catalog::{Discover, Generation};
pub use changed::{Changed, MAP_BYTES_MAX, NbdBitmap, Told};
pub use commit::Received;
pub use commit_set::SET_COMMIT_MAX;
pub use dictionary::Dictionaries;
pub use error::{Error, Result};
pub use indexing::IndexReport;
pub use kept::{Keep, Kept, Retention, Why};
pub use layout::StoreIdentity;
pub use look::{Look, LookState};
pub use mend::{Damage, MEND_BLOCKS_MAX};
pub use readback::{Proven, ReadBack};
pub use recipe::RecipeCursor;
pub use record::Recorded;
pub use recover::RecoveryReport;
pub use scan::{Progress, scan_buffers_bytes};
pub use source::Source;
pub use staging::{Brought, Filled, Planned, Sealed, StageRequest, Staging};
pub use store::{CommitMode, HoldBase, Options, Store};
pub use verify::VerifyReport;
pub use walk::WalkMap;
