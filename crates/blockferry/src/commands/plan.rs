//! `plan`: what would travel. Nothing is sent.

use super::{App, nothing_between};
use crate::failure::Failure;
use crate::output::{or_dash, size};
use blockferry_node::api::{Exit, PlanReport, Request};

pub(crate) fn run(app: &App, image: String, peer: Option<String>) -> Result<Exit, Failure> {
    let plan: PlanReport = app.job(&Request::Plan { image, peer }, nothing_between)?;
    app.out.either(&plan, || text(&plan))?;
    Ok(Exit::Done)
}

fn text(plan: &PlanReport) -> String {
    let from = plan.base.map_or_else(|| "from nothing".to_owned(), |base| format!("from @{base}"));
    let to = plan.peer.as_ref().map_or_else(String::new, |peer| format!(" to {peer}"));
    let lines = [
        format!("{}@{} {from}{to}", plan.image, plan.generation),
        format!("  kept   {:>12}  as they are in the base", size(plan.keep_bytes)),
        format!("  zero   {:>12}", size(plan.zero_bytes)),
        match plan.found_bytes {
            Some(bytes) => format!("  found  {:>12}  elsewhere at the receiver", size(bytes)),
            None => {
                format!("  found  {:>12}  what the receiver has elsewhere, it alone knows", "-")
            }
        },
        format!(
            "  send   {:>12}  at most, about {} on the wire",
            size(plan.send_bytes),
            size(plan.wire_bytes_estimate)
        ),
        format!("  finish {}", or_dash(plan.finish.as_ref())),
    ];
    lines.join("\n")
}
