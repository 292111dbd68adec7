//! `rollback`: the content of an earlier generation becomes the current one again.

use super::{App, nothing_between};
use crate::failure::Failure;
use crate::output::{seconds, size};
use blockferry_node::api::{Exit, Request, RollbackReport, RolledBack};

pub(crate) fn run(app: &App, image: String) -> Result<Exit, Failure> {
    let report: RollbackReport = app.job(&Request::Rollback { image }, nothing_between)?;
    app.out.either(&report, || text(&report))?;
    Ok(Exit::Done)
}

fn text(report: &RollbackReport) -> String {
    let RollbackReport { image, generation, from, root, .. } = report;
    if !report.recorded {
        return format!("{image}@{generation} has the content of @{from} already\n  root {root}");
    }
    let mut text = format!(
        "{image}@{generation} is the content of @{from} again: {} in {}\n  root {root}",
        size(report.size_bytes),
        seconds(report.seconds),
    );
    for other in &report.with {
        let RolledBack { image, generation, from, .. } = other;
        text.push_str(&format!("\n  with it {image}@{generation}, the content of @{from}"));
    }
    text
}
