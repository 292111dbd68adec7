//! `publish`: record a generation now.

use super::{App, nothing_between};
use crate::failure::Failure;
use crate::output::{seconds, size};
use blockferry_node::api::{Exit, PublishReport, Request};

pub(crate) fn run(app: &App, image: String) -> Result<Exit, Failure> {
    let report: PublishReport = app.job(&Request::Publish { image }, nothing_between)?;
    app.out.either(&report, || text(&report))?;
    Ok(Exit::Done)
}

fn text(report: &PublishReport) -> String {
    let PublishReport { image, generation, root, .. } = report;
    if !report.recorded {
        return format!("{image}@{generation} is unchanged\n  root {root}");
    }
    format!(
        "{image}@{generation} recorded: {} changed of {}, {} read in {}\n  root {root}",
        size(report.dirty_bytes),
        size(report.size_bytes),
        size(report.bytes_read),
        seconds(report.seconds),
    )
}
