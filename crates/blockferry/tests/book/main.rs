//! The book (`docs/`): its samples do what they show, its links lead somewhere, no page is forgotten.
//!
//! What is on a page is what is tested: the lines of its `console` blocks are run on nodes of this machine
//! (`samples`), its `toml` blocks are configurations of them. Pages that say what the code says are
//! compared with it by the program's own tests (`src/book.rs`).

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod links;
mod pages;
mod readme;
mod routes;
mod samples;
mod server;
