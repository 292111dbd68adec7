//! The one integration binary. Each module is a kind of proof; a test reads as a script.

mod adoption;
mod cache;
mod calendar;
mod changed;
mod cluster;
mod crash;
mod crash_set;
mod damage;
mod dictionary;
mod disk;
mod extents;
mod in_use;
mod journal;
mod kept;
mod line;
mod model;
mod refuse;
mod sim;
mod tidy;
