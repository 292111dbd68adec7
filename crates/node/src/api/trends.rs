//! The JSON objects about the past day and week: what went out, what limited it, what was lacking.

use super::objects::Schema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `trends`: noted every minute, for a day and a week; a restart loses none of it, a crash ten minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrendsReport {
    /// `v1`.
    pub schema: Schema,
    /// With whom; `null`: everybody.
    pub peer: Option<String>,
    /// Of the last 24 hours, oldest first; at most 289 points.
    pub rates: Vec<RatePoint>,
    /// Of the last 7 days, oldest first; at most 1,009 points. Empty for one peer.
    pub backlog: Vec<BacklogPoint>,
}

/// What travelled in the time that ends here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RatePoint {
    /// RFC 3339.
    pub time: String,
    /// UDP payload sent, as a mean.
    pub sent_bits_per_second: u64,
    /// UDP payload received, as a mean.
    pub received_bits_per_second: u64,
    /// The limit on what is sent that was in force at the end; 0: paused; `null`: none.
    pub limit_bits_per_second: Option<u64>,
}

/// What was lacking at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BacklogPoint {
    /// RFC 3339.
    pub time: String,
    /// What all peers lacked, before any saving.
    pub bytes: u64,
    /// How many images they lacked, counted for each peer.
    pub images: u64,
}
