//! The JSON object of `netcheck`: how long a peer takes to answer.

use super::objects::Schema;
use serde::{Deserialize, Serialize};

/// `netcheck`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetcheckReport {
    /// `v1`.
    pub schema: Schema,
    /// Who answered.
    pub peer: String,
    /// Questions on the control stream that were answered.
    pub answers: u32,
    /// Round trip of the link alone, as the connection measures it.
    pub rtt_ms: f64,
    /// Round trips of the questions: the shortest.
    pub control_min_ms: f64,
    /// Half of them took no longer.
    pub control_median_ms: f64,
    /// 99 of 100 took no longer.
    pub control_p99_ms: f64,
    /// The longest.
    pub control_max_ms: f64,
}
