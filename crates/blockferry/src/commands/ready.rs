//! `ready` and `wait`: is a generation verified there?

use super::{App, nothing_between};
use crate::args::ReadyArgs;
use crate::failure::Failure;
use crate::output::word;
use blockferry_node::api::{Exit, PeerReady, ReadyReport, Request};
use std::time::Duration;

/// The service gives up at the asked time; the client a little later, should it hang.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) fn ready(app: &App, args: ReadyArgs) -> Result<Exit, Failure> {
    let request = Request::Ready { image: args.image, require: args.require };
    answer(app, &app.ask(&request)?)
}

pub(crate) fn wait(app: &App, args: ReadyArgs) -> Result<Exit, Failure> {
    let timeout_seconds = app.timeout.map(|timeout| timeout.as_secs().max(1));
    let request = Request::Wait { image: args.image, require: args.require, timeout_seconds };
    let patient = app.with_timeout(app.timeout.map(|timeout| timeout.saturating_add(GRACE)));
    answer(app, &patient.job(&request, nothing_between)?)
}

fn answer(app: &App, report: &ReadyReport) -> Result<Exit, Failure> {
    app.out.either(report, || text(report))?;
    Ok(if report.ready { Exit::Done } else { Exit::Partly })
}

fn text(report: &ReadyReport) -> String {
    let word = if report.ready { "ready" } else { "not ready" };
    let mut text = format!("{}@{} is {word}", report.image, report.generation);
    for peer in &report.peers {
        text.push_str(&format!("\n  {}", line(peer)));
    }
    text
}

/// How one member stands.
pub(crate) fn line(peer: &PeerReady) -> String {
    let of = peer.of.as_ref().map_or_else(String::new, |of| format!(" {of}"));
    let name = format!("{}{of}", peer.peer);
    let holds = peer.generation.map_or_else(String::new, |number| format!(", holds @{number}"));
    let eta = peer.eta.as_ref().map_or_else(String::new, |eta| format!(", there by {eta}"));
    match (&peer.reason, peer.ready) {
        (_, true) => format!("{name}: verified"),
        (Some(reason), false) => format!("{name}: not yet ({}){holds}{eta}", word(reason)),
        (None, false) => format!("{name}: not yet{holds}{eta}"),
    }
}
