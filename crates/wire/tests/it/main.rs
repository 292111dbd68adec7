//! The protocol as its peers see it: golden bytes, damage, limits, the order of the dialogue, and
//! two ends that talk over a simulated link.

mod damage;
mod dialogue;
mod dictionaries;
mod golden;
mod limits;
mod pair;
mod rng;
mod samples;
mod twins;
mod versions;
mod walk;
