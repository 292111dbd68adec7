//! `netcheck`: how long a peer takes to answer.

use super::App;
use crate::failure::Failure;
use blockferry_node::api::{Exit, NetcheckReport, Request};

pub(crate) fn run(app: &App, peer: String, count: u32) -> Result<Exit, Failure> {
    let report: NetcheckReport = app.ask(&Request::Netcheck { peer, count })?;
    app.out.either(&report, || {
        format!(
            "{}: {} answers, median {:.1} ms, 99 of 100 within {:.1} ms, longest {:.1} ms (the link \
             alone: {:.1} ms)",
            report.peer,
            report.answers,
            report.control_median_ms,
            report.control_p99_ms,
            report.control_max_ms,
            report.rtt_ms
        )
    })?;
    Ok(Exit::Done)
}
