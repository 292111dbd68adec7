//! Monitoring: what this node did and how it is, for people and for machines that watch it. Nothing
//! about data is decided here.
//!
//! `counts` is what metrics show, [`trends`] the last day and week, `recent` the last
//! generations of all images. [`watermarks`] says when there is too much of something, [`doctor`]
//! what is wrong and what to do about it.

pub(crate) mod counts;
pub mod doctor;
pub(crate) mod recent;
pub mod trends;
pub mod watermarks;
