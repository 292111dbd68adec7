//! Netcheck: how long a peer takes to answer on the control stream, whatever else is on the link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::requests::done;
use crate::api::{Answer, NetcheckReport, Schema};
use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `count` times, one after the other.
pub(crate) async fn netcheck(core: &Arc<Core>, peer: &str, count: u32) -> Result<Answer> {
    let peer = core.find_peer(peer)?;
    let unreachable = |what: &str| Error::Unreachable { peer: peer.name(), what: what.into() };
    let active = peer.active().ok_or_else(|| unreachable("not connected"))?;
    let mut took = Vec::new();
    for _ in 0..count.clamp(1, budget::NETCHECK_MAX) {
        let asked = Instant::now();
        if !active.answers(budget::IDLE_TIMEOUT).await {
            return Err(unreachable("it doesn't answer"));
        }
        took.push(asked.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(PAUSE).await;
    }
    took.sort_by(f64::total_cmp);
    let of_100 = |part: usize| took[(took.len() * part).div_ceil(100).clamp(1, took.len()) - 1];
    done(&NetcheckReport {
        schema: Schema,
        peer: peer.name(),
        answers: u32::try_from(took.len()).unwrap_or(u32::MAX),
        rtt_ms: active.link.connection.rtt().as_secs_f64() * 1000.0,
        control_min_ms: of_100(0),
        control_median_ms: of_100(50),
        control_p99_ms: of_100(99),
        control_max_ms: of_100(100),
    })
}
