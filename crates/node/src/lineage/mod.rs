//! Lineage in a running node: nothing is silently lost.
//!
//! What diverged is kept and told ([`conflict`] decides, `diverged` does; [`relayed`] is what others
//! have met, `resolutions` what others are to carry out), a deletion is
//! confirmed before it travels ([`deletions`]), what a `mirror` changed by hand is undone and
//! set aside, an earlier content comes back as a new generation (`rollback`), what isn't current
//! is kept for as long as `retention` says, and who was set back in time is noticed
//! (`rewound`).

pub mod conflict;
pub mod deletions;
pub(crate) mod diverged;
pub(crate) mod mirror;
pub mod relayed;
pub(crate) mod resolutions;
pub(crate) mod retention;
pub(crate) mod rewound;
pub(crate) mod rollback;
