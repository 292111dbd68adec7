//! HTTP of whole nodes, asked by a client that is a few lines over a socket: what it sends is what is
//! meant, however wrong that is.

mod access;
mod client;
mod events;
mod hostile;
mod openmetrics;
mod page;
mod reload;
mod routes;
#[path = "../running/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod running;
mod schedules;
mod served;
mod tls;
