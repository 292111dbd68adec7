//! `status`: one screen. With `--watch` it is kept up to date (`watch`).

use super::{App, peer, store, watch};
use crate::args::StatusArgs;
use crate::failure::Failure;
use crate::output::seconds;
use blockferry_node::api::{Exit, Request, StatusReport};

pub(crate) fn run(app: &App, args: &StatusArgs) -> Result<Exit, Failure> {
    if args.watch {
        return watch::run(app);
    }
    let report: StatusReport = app.ask(&Request::Status {})?;
    app.out.either(&report, || text(&report))?;
    Ok(Exit::Done)
}

/// The screen, also drawn again and again by `watch`.
pub(crate) fn text(report: &StatusReport) -> String {
    let node = &report.node;
    #[expect(clippy::cast_precision_loss, reason = "an uptime for people")]
    let up = seconds(node.uptime_seconds as f64);
    let mut text = format!("{}  version {}  up {up}\nid {}", node.name, node.version, node.id);
    if !node.listen.is_empty() {
        text.push_str(&format!("\nlistening on {}", node.listen.join(", ")));
    }
    format!("{text}\n\n{}\n\n{}", store::stores(&report.stores), peer::peers(&report.peers))
}
