//! Admin: what a request means, and the socket that it comes over.
//!
//! `requests` is the one place that decides what a request does, also for those that come over
//! HTTP. `reports` puts together what it answers, `jobs` and `verifying` are those that take
//! time, `orders` those that override the calendar. `socket` carries JSON lines.

pub(crate) mod jobs;
pub(crate) mod orders;
pub(crate) mod reports;
pub(crate) mod requests;
pub(crate) mod socket;
pub(crate) mod verifying;
