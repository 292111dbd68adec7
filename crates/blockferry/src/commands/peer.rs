//! `peer ls | show | rm | set`.

use super::App;
use crate::args::PeerCommand;
use crate::config::bits_text;
use crate::failure::{AdminError, Failure};
use crate::output::{count, or_dash, size, table, word};
use blockferry_node::api::{Exit, PeerRow, PeersReport, Removed, Request};

pub(crate) fn run(app: &App, command: PeerCommand) -> Result<Exit, Failure> {
    match command {
        PeerCommand::Ls => list(app, &Request::PeerLs {}, peers),
        PeerCommand::Show { peer } => list(app, &Request::PeerShow { peer }, details),
        PeerCommand::Rm { peer } => {
            app.confirm(&format!("End the pairing with {peer}?"))?;
            let removed: Removed = app.ask(&Request::PeerRm { peer })?;
            app.out.either(&removed, || format!("removed {}", removed.removed))?;
            Ok(Exit::Done)
        }
        PeerCommand::Set { peer, setting } => {
            let Some((key, value)) = setting.split_once('=') else {
                let error = AdminError::new("USAGE", format!("{setting:?} is not key=value"));
                return Err(error
                    .with_remedy("keys: name, address, compression, schedule, polite, weight")
                    .into());
            };
            let (key, value) = (key.to_owned(), value.to_owned());
            list(app, &Request::PeerSet { peer, key, value }, details)
        }
    }
}

fn list(app: &App, request: &Request, text: fn(&[PeerRow]) -> String) -> Result<Exit, Failure> {
    let report: PeersReport = app.ask(request)?;
    app.out.either(&report, || text(&report.peers))?;
    Ok(Exit::Done)
}

/// One row per peer; also a part of `status`.
pub(crate) fn peers(peers: &[PeerRow]) -> String {
    let row = |peer: &PeerRow| {
        vec![
            peer.name.clone(),
            peer.id.chars().take(8).collect(),
            state(peer),
            or_dash(peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms"))),
            or_dash(peer.rate_limit_bits_per_second.map(bits_text)),
            backlog(peer),
        ]
    };
    let rows = peers.iter().map(row).collect();
    table(
        &["PEER", "ID", "STATE", "RTT", "LIMIT", "BACKLOG"],
        rows,
        "no peers: blockferry invite, then join",
    )
}

fn backlog(peer: &PeerRow) -> String {
    match peer.backlog_images {
        0 => "-".to_owned(),
        images => format!("{}, {}", count(images, "image"), size(peer.backlog_bytes)),
    }
}

/// How it is reached, or why the two don't talk.
fn state(peer: &PeerRow) -> String {
    match &peer.refused {
        Some(code) if !peer.connected => format!("refused: {code}"),
        _ => word(&peer.state),
    }
}

/// What it runs, and the version that both speak.
fn speaks(peer: &PeerRow) -> Option<String> {
    let agent = peer.agent.as_ref()?;
    Some(peer.protocol.map_or(agent.clone(), |version| format!("{agent}, protocol {version}")))
}

/// The limit with what it comes from and until when.
fn limit(peer: &PeerRow) -> String {
    let polite = if peer.polite { "polite" } else { "-" };
    let Some(bits) = peer.rate_limit_bits_per_second else { return polite.to_owned() };
    let mut text = bits_text(bits);
    if peer.polite {
        text.push_str(", polite");
    }
    if !peer.limited_by.is_empty() {
        text.push_str(&format!(" ({})", peer.limited_by));
    }
    if let Some(until) = &peer.limit_until {
        text.push_str(&format!(" until {until}"));
    }
    text
}

fn details(peers: &[PeerRow]) -> String {
    let one = |peer: &PeerRow| {
        format!(
            "{}\n  id       {}\n  state    {}\n  runs     {}\n  address  {}\n  stores   {}\n  rtt      {}\n  \
             limit    {}\n  schedule {}\n  backlog  {}",
            peer.name,
            peer.id,
            state(peer),
            or_dash(speaks(peer)),
            or_dash(Some(peer.addresses.join(", ")).filter(|text| !text.is_empty())),
            or_dash(Some(peer.stores.join(", ")).filter(|text| !text.is_empty())),
            or_dash(peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms"))),
            limit(peer),
            or_dash(peer.schedule.as_ref()),
            backlog(peer),
        )
    };
    peers.iter().map(one).collect::<Vec<_>>().join("\n\n")
}
