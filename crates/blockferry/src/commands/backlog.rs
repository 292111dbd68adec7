//! `backlog`: what each peer lacks, and why it waits.

use super::App;
use crate::failure::Failure;
use crate::output::{or_dash, size, table, word};
use blockferry_node::api::{BacklogReport, Exit, Request};

pub(crate) fn run(app: &App, peer: Option<String>) -> Result<Exit, Failure> {
    let report: BacklogReport = app.ask(&Request::Backlog { peer })?;
    app.out.either(&report, || {
        let row = |item: &blockferry_node::api::BacklogItem| {
            vec![
                item.peer.clone(),
                format!("{}/{}", item.store, item.image),
                size(item.bytes),
                match item.holder.as_ref().or(item.refused.as_ref()) {
                    Some(holder) => format!("{}: {holder}", word(&item.reason)),
                    None => word(&item.reason),
                },
                or_dash(item.eta.as_ref()),
            ]
        };
        let rows = report.items.iter().map(row).collect();
        table(
            &["PEER", "IMAGE", "BYTES", "REASON", "ETA"],
            rows,
            "no backlog: every peer has everything",
        )
    })?;
    Ok(Exit::Done)
}
