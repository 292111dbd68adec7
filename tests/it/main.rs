//! The one integration binary. Each module is a kind of proof; a test reads as a script.

mod crash;
mod damage;
mod dictionary;
mod disk;
mod extents;
mod line;
mod model;
mod refuse;
mod sim;
mod tidy;
