//! `plan`: what would travel, and whether it would be there in time. Nothing is sent.

use super::{App, nothing_between};
use crate::args::PlanArgs;
use crate::config::bits_text;
use crate::failure::Failure;
use crate::output::{or_dash, size};
use blockferry_node::api::{Exit, PlanReport, Request};

pub(crate) fn run(app: &App, args: PlanArgs) -> Result<Exit, Failure> {
    let PlanArgs { image, peer, at, by } = args;
    let plan: PlanReport = app.job(&Request::Plan { image, peer, at, by }, nothing_between)?;
    app.out.either(&plan, || text(&plan))?;
    let late = plan.by.is_some() && plan.fits != Some(true);
    Ok(if late { Exit::Partly } else { Exit::Done })
}

fn text(plan: &PlanReport) -> String {
    let from = plan.base.map_or_else(|| "from nothing".to_owned(), |base| format!("from @{base}"));
    let to = plan.peer.as_ref().map_or_else(String::new, |peer| format!(" to {peer}"));
    let mut lines = vec![
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
    ];
    if let Some(start) = &plan.start {
        lines.push(format!("  start  {start}"));
    }
    lines.push(format!("  finish {}", or_dash(plan.finish.as_ref())));
    if let Some(by) = &plan.by {
        let fits = match plan.fits {
            Some(true) => "it fits",
            Some(false) => "it doesn't fit",
            None => "nobody can say whether it fits",
        };
        let needed = match plan.rate_needed_bits_per_second {
            Some(bits) => format!("it takes {}", bits_text(bits)),
            None => "until then all is paused".to_owned(),
        };
        lines.push(format!("  by     {by}: {fits}; {needed}"));
    }
    lines.join("\n")
}
