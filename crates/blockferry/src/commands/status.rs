//! `status`: one screen.

use super::{App, peer, store};
use crate::failure::Failure;
use crate::output::seconds;
use blockferry_node::api::{Exit, Request, StatusReport};

pub(crate) fn run(app: &App) -> Result<Exit, Failure> {
    let report: StatusReport = app.ask(&Request::Status {})?;
    app.out.either(&report, || text(&report))?;
    Ok(Exit::Done)
}

fn text(report: &StatusReport) -> String {
    let node = &report.node;
    #[expect(clippy::cast_precision_loss, reason = "an uptime for people")]
    let up = seconds(node.uptime_seconds as f64);
    let mut text = format!("{}  version {}  up {up}\nid {}", node.name, node.version, node.id);
    if !node.listen.is_empty() {
        text.push_str(&format!("\nlistening on {}", node.listen.join(", ")));
    }
    format!("{text}\n\n{}\n\n{}", store::stores(&report.stores), peer::peers(&report.peers))
}
