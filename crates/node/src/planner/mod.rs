//! Planner: what would travel, and when it will be there.
//!
//! [`forecast`] is the one place that answers *when*, a pure function of what waits, the calendar
//! and what was [`measured`]. `foresight` gathers that from a running node, [`misses`] says what
//! will not fit before it is too late, `planning` says what would travel.

pub mod forecast;
pub(crate) mod foresight;
pub mod measured;
pub mod misses;
pub(crate) mod planning;
