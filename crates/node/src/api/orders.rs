//! The JSON objects about rates: what was ordered, and what is in force towards each peer.

use super::objects::Schema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an order does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Nothing is offered or sent.
    Pause,
    /// As if nothing had been ordered.
    Resume,
    /// Calendars don't count.
    Boost,
    /// One more limit.
    Limit,
    /// Something a newer service knows.
    #[default]
    #[serde(other)]
    Other,
}

/// `pause`, `resume`, `boost`, `limit`: all orders and what is in force now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrdersReport {
    /// `v1`.
    pub schema: Schema,
    /// The orders in force, oldest first.
    pub orders: Vec<OrderRow>,
    /// One row for each peer.
    pub rates: Vec<RateRow>,
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderRow {
    /// What it does.
    pub order: OrderKind,
    /// Only what goes to this peer; `null`: to all.
    pub peer: Option<String>,
    /// Only this store; `null`: all.
    pub store: Option<String>,
    /// Only this image of it; `null`: all.
    pub image: Option<String>,
    /// The rate of a limit.
    pub bits_per_second: Option<u64>,
    /// When it was given, RFC 3339.
    pub since: String,
    /// When it ends by itself, RFC 3339; `null`: never.
    pub until: Option<String>,
}

/// What is in force towards a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RateRow {
    /// Its name.
    pub peer: String,
    /// The tightest of all limits; 0: paused; `null`: none.
    pub rate_limit_bits_per_second: Option<u64>,
    /// What it comes from, in words.
    pub limited_by: String,
    /// Other traffic goes before what is sent to it.
    #[serde(default)]
    pub polite: bool,
    /// Until when, RFC 3339; `null`: nothing changes it by itself.
    pub until: Option<String>,
    /// The peer's calendar; `null`: none.
    pub schedule: Option<String>,
}
