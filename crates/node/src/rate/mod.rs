//! Rate: how fast may be sent, to whom, and whose turn it is.
//!
//! [`calendar`] (what the clock on the wall allows) and [`overrides`] (what operators ordered) are
//! put together by [`rates`], the one place that says which limit is in force and why. [`pace`]
//! turns limits into permission to send bytes, [`turns`] says who gets it first, by the weights
//! and lanes of `lanes`. These are pure: events and time go in, answers come out. `limit` is
//! the shell: the gate that every byte sent passes.
//! `disk` is the same for what is read from disk in the background.
//! `schedules` shows calendars as grids and changes them in the file.

pub mod calendar;
pub(crate) mod disk;
pub(crate) mod lanes;
pub(crate) mod limit;
pub mod overrides;
pub mod pace;
pub mod rates;
pub(crate) mod schedules;
pub mod turns;
