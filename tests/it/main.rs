//! The one integration binary. Each module is a kind of proof; `STYLE` of a test here is a script.

mod disk;
