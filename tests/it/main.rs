//! The one integration binary. Each module is a kind of proof; a test reads as a script.

mod disk;
mod line;
mod refuse;
