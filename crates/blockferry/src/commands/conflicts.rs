//! `conflicts` and `resolve`: contents of which neither descends from the other.

use super::App;
use crate::args::ResolveArgs;
use crate::failure::Failure;
use crate::output::{size, table, word};
use blockferry_node::api::{
    ConflictContent, ConflictRow, ConflictsReport, Exit, Request, ResolveReport,
};

pub(crate) fn list(app: &App, image: Option<String>) -> Result<Exit, Failure> {
    let report: ConflictsReport = app.ask(&Request::Conflicts { image })?;
    app.out.either(&report, || text(&report))?;
    Ok(if report.open > 0 { Exit::Diverged } else { Exit::Done })
}

pub(crate) fn resolve(app: &App, args: ResolveArgs) -> Result<Exit, Failure> {
    let ResolveArgs { image, keep, acknowledge } = args;
    if acknowledge {
        app.confirm(&format!("Let go of what lost the conflicts of {image}, for good?"))?;
    }
    let report: ResolveReport = app.ask(&Request::Resolve { image, keep, acknowledge })?;
    app.out.either(&report, || resolved(&report, acknowledge))?;
    Ok(Exit::Done)
}

fn text(report: &ConflictsReport) -> String {
    let rows = report.conflicts.iter().flat_map(rows).collect();
    let header = [
        "IMAGE",
        "STATE",
        "AUTHOR",
        "GENERATION",
        "RECORDED",
        "SIZE",
        "ROOT",
        "CURRENT AT",
        "PATH",
    ];
    let mut text = table(&header, rows, "no conflicts");
    if let Some(row) = report.conflicts.iter().find(|row| row.open) {
        let hint = "\n\ndecide: blockferry resolve IMAGE --keep local|PEER|both";
        text.push_str(&hint.replace("IMAGE", &format!("{}/{}", row.store, row.image)));
    }
    text
}

fn rows(row: &ConflictRow) -> impl Iterator<Item = Vec<String>> + '_ {
    let name = format!("{}/{}", row.store, row.image);
    row.contents.iter().map(move |content: &ConflictContent| {
        vec![
            name.clone(),
            word(&content.state),
            content.author.chars().take(16).collect(),
            content.generation.to_string(),
            content.recorded.clone(),
            size(content.size_bytes),
            content.root.chars().take(12).collect(),
            content.peers.join(","),
            match content.path.is_empty() {
                true => format!("only at {}", content.kept_at.join(",")),
                false => content.path.clone(),
            },
        ]
    })
}

fn resolved(report: &ResolveReport, acknowledged: bool) -> String {
    if acknowledged {
        return format!("{}: {} kept contents were let go of", report.image, report.released);
    }
    if let Some(told) = &report.told {
        return format!(
            "{}: {told} has the content and is asked to end it; it is over when it arrives here: \
             blockferry conflicts {}",
            report.image, report.image
        );
    }
    let mut text = format!("{}@{} is what goes on", report.image, report.generation);
    for other in &report.beside {
        text.push_str(&format!("\n  the other content is {other} now"));
    }
    text
}
