//! `adopt`: a directory that another tool has kept so far, taken over phase by phase.

mod dfsr;
mod export;

use super::App;
use crate::args::AdoptCommand;
use crate::failure::{Failure, on_path};
use crate::output::{count, or_dash, size, table, word};
use blockferry_node::api::{
    AdoptReport, AdoptRow, AdoptStatus, AdoptStoreRow, AdoptionPhase, Compared, Exit, Request,
    adoption_csv,
};
use std::path::PathBuf;

pub(crate) fn run(app: &App, command: AdoptCommand) -> Result<Exit, Failure> {
    match command {
        AdoptCommand::Start { store, path, role, ticket, at, name } => {
            let (path, role) = (absolute(path.or(at))?, role.into());
            show(app, &Request::AdoptStart { store, path, role, ticket, name })
        }
        AdoptCommand::Status => show(app, &Request::AdoptStatus {}),
        AdoptCommand::Next { store, force } => {
            let now: AdoptStatus = app.ask(&Request::AdoptStatus {})?;
            let last = now.stores.iter().any(|row| {
                row.store == store && row.phase == AdoptionPhase::Active && row.going_to.is_none()
            });
            if last {
                app.confirm(&format!(
                    "End the adoption of {store}? What the other tool had is released, and there is \
                     no way back."
                ))?;
            }
            show(app, &Request::AdoptNext { store, force })
        }
        AdoptCommand::Back { store } => show(app, &Request::AdoptBack { store }),
        AdoptCommand::Report { store, csv, differing } => report(app, store, csv, differing),
        AdoptCommand::ImportDfsr { files, zone } => dfsr::import(app, &files, &zone),
    }
}

/// The service's working directory is not ours.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = path else { return Ok(None) };
    Ok(Some(std::path::absolute(&path).map_err(|error| on_path("resolve", &path, &error))?))
}

fn show(app: &App, request: &Request) -> Result<Exit, Failure> {
    let status: AdoptStatus = app.ask(request)?;
    app.out.either(&status, || text(&status))?;
    Ok(Exit::Done)
}

fn text(status: &AdoptStatus) -> String {
    let cell = |row: &AdoptStoreRow| {
        let phase = word(&row.phase);
        let kept = |count: u64, bytes: u64| match count {
            0 => "-".to_owned(),
            count => format!("{count} ({})", size(bytes)),
        };
        let compared = |(state, count): (&Compared, &u64)| format!("{count} {}", state.as_str());
        vec![
            row.store.clone(),
            word(&row.role),
            row.going_to.map_or(phase.clone(), |to| format!("{phase} -> {}", word(&to))),
            row.recorded.to_string(),
            row.unrecorded.to_string(),
            kept(row.shadow, row.shadow_bytes),
            kept(row.old_tool, row.old_tool_bytes),
            row.compared.iter().map(compared).collect::<Vec<_>>().join(", "),
        ]
    };
    let rows = status.stores.iter().map(cell).collect();
    let header =
        ["STORE", "ROLE", "PHASE", "RECORDED", "UNRECORDED", "SHADOW", "OLD TOOL", "IMAGES"];
    let mut text = table(&header, rows, "no stores: blockferry adopt start NAME PATH");
    if let [row] = status.stores.as_slice() {
        text.push_str(&format!("\n\n{}", next(row)));
    }
    text
}

/// What can be done from here.
fn next(row: &AdoptStoreRow) -> String {
    let store = &row.store;
    match row.phase {
        _ if row.going_to.is_some() => {
            "it is on its way: say the same again, or see blockferry events".to_owned()
        }
        AdoptionPhase::Observe => format!(
            "nothing here is touched. compare: blockferry adopt report {store}; receive beside the \
             images: blockferry adopt next {store}"
        ),
        AdoptionPhase::Shadow => format!(
            "the images are as the other tool left them. replace them: blockferry adopt next {store}; \
             back: blockferry adopt back {store}"
        ),
        AdoptionPhase::Active => format!(
            "what was replaced is kept. stop the other tool; end: blockferry adopt next {store}; \
             back: blockferry adopt back {store}"
        ),
        AdoptionPhase::Off | AdoptionPhase::Other => {
            format!("{store} is not being adopted (any more)")
        }
    }
}

fn report(app: &App, store: String, csv: bool, differing: bool) -> Result<Exit, Failure> {
    let mut report: AdoptReport = app.ask(&Request::AdoptReport { store })?;
    let equal = report.images.iter().all(|row| row.state == Compared::Equal);
    if differing {
        report.images.retain(|row| row.state != Compared::Equal);
    }
    match csv {
        true => app.out.data(&adoption_csv(&report).replace("\r\n", "\n"))?,
        false => app.out.either(&report, || rows(&report))?,
    }
    Ok(if equal && !report.peers.is_empty() { Exit::Done } else { Exit::Partly })
}

fn rows(report: &AdoptReport) -> String {
    let row = |row: &AdoptRow| {
        let short = |root: &Option<String>| {
            root.as_ref().map_or("-".to_owned(), |root| root.chars().take(12).collect())
        };
        vec![
            row.image.clone(),
            row.peer.clone(),
            row.state.as_str().to_owned(),
            row.size_bytes.map_or("-".to_owned(), size),
            short(&row.root),
            short(&row.peer_root),
            or_dash(row.modified.clone()),
            or_dash(row.peer_modified.clone()),
            if row.shadow { "yes" } else { "-" }.to_owned(),
        ]
    };
    let header =
        ["IMAGE", "PEER", "STATE", "SIZE", "ROOT", "PEER'S ROOT", "MODIFIED", "PEER'S", "SHADOW"];
    let text = table(&header, report.images.iter().map(row).collect(), "nothing to compare");
    let peers = count(report.peers.len() as u64, "peer");
    format!("{text}\n\n{} ({}): {peers}", report.store, word(&report.phase))
}
