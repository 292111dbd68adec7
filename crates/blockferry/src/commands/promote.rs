//! `promote`: a generation that is everywhere, verified, may be used from now on.

use super::{App, nothing_between};
use crate::args::PromoteArgs;
use crate::commands::ready::line;
use crate::failure::Failure;
use blockferry_node::api::{Exit, PromoteReport, Request, exit_for};

pub(crate) fn run(app: &App, args: PromoteArgs) -> Result<Exit, Failure> {
    let request = Request::Promote { image: args.image, require: args.require };
    let report: PromoteReport = app.job(&request, nothing_between)?;
    app.out.either(&report, || text(&report))?;
    Ok(exit(&report))
}

/// A promotion whose hook failed is recorded all the same, and failed for whoever relies on the hook.
fn exit(report: &PromoteReport) -> Exit {
    match (&report.code, &report.hook) {
        _ if !report.promoted => report.code.as_deref().map_or(Exit::Failed, exit_for),
        (_, Some(hook)) if !hook.ok => Exit::Failed,
        _ => Exit::Done,
    }
}

fn text(report: &PromoteReport) -> String {
    let (image, generation) = (&report.image, report.generation);
    let mut text = if report.promoted {
        let on = report.receipts.join(", ");
        format!("{image}@{generation} is promoted, with receipts of {on}")
    } else {
        let mut text = format!("{image}@{generation} is not promoted");
        let code = report.code.as_deref().unwrap_or("REFUSED");
        let message = report.message.as_deref().unwrap_or("refused");
        text.push_str(&format!("\n  {code}: {message}"));
        if let Some(remedy) = &report.remedy {
            text.push_str(&format!("\n  help: {remedy}"));
        }
        for peer in &report.peers {
            text.push_str(&format!("\n  {}", line(peer)));
        }
        text
    };
    if let Some(hook) = &report.hook {
        let word = if hook.ok { "ran" } else { "failed" };
        text.push_str(&format!("\n  {} {word}: {}", hook.program, hook.said));
    }
    text
}
