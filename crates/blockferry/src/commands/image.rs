//! `image ls | show | history`.

use super::App;
use crate::args::ImageCommand;
use crate::failure::Failure;
use crate::output::{or_dash, seconds, size, table, word};
use blockferry_node::api::{
    Exit, GenerationRow, HistoryReport, ImagePeer, ImageRow, ImagesReport, PairState, PromotedRow,
    Request, history_csv,
};

pub(crate) fn run(app: &App, command: ImageCommand) -> Result<Exit, Failure> {
    match command {
        ImageCommand::Ls { store } => {
            let report: ImagesReport = app.ask(&Request::ImageLs { store })?;
            app.out.either(&report, || list(&report))?;
        }
        ImageCommand::Show { image } => {
            let report: ImagesReport = app.ask(&Request::ImageShow { image })?;
            let show = || report.images.iter().map(show).collect::<Vec<_>>().join("\n\n");
            app.out.either(&report, show)?;
        }
        ImageCommand::History { image, csv } => {
            let report: HistoryReport = app.ask(&Request::ImageHistory { image })?;
            if csv {
                // As HTTP has it, with the line ends of a terminal.
                app.out.data(&history_csv(&report).replace("\r\n", "\n"))?;
            } else {
                app.out.either(&report, || history(&report))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn list(report: &ImagesReport) -> String {
    let row = |image: &ImageRow| {
        let there = image.peers.iter().filter(|peer| peer.state == PairState::InSync).count();
        vec![
            format!("{}/{}", image.store, image.name),
            or_dash(image.generation),
            size(image.size_bytes),
            word(&image.state),
            format!("{there} of {}", image.peers.len()),
            short(image.root.as_deref()),
        ]
    };
    let rows = report.images.iter().map(row).collect();
    table(&["IMAGE", "GENERATION", "SIZE", "STATE", "PEERS", "ROOT"], rows, "no images")
}

/// Enough of a root to tell two apart by eye; `show` has the whole of it.
fn short(root: Option<&str>) -> String {
    root.map_or_else(|| "-".to_owned(), |root| root.chars().take(12).collect())
}

fn show(image: &ImageRow) -> String {
    let mut text = format!(
        "{}/{}\n  generation {}\n  root       {}\n  size       {} ({} bytes)\n  state      {}",
        image.store,
        image.name,
        or_dash(image.generation),
        or_dash(image.root.as_ref()),
        size(image.size_bytes),
        image.size_bytes,
        word(&image.state),
    );
    if let Some(promoted) = &image.promoted {
        let PromotedRow { generation, node, by, at, receipts, .. } = promoted;
        let on = receipts.join(", ");
        text.push_str(&format!(
            "\n  promoted   @{generation} on {node} by {by} at {at}, with receipts of {on}"
        ));
    }
    if let Some(set) = &image.set {
        text.push_str(&format!("\n  set        {set}"));
    }
    let row = |peer: &ImagePeer| {
        let lag = or_dash(peer.lag_seconds.map(seconds));
        vec![peer.peer.clone(), or_dash(peer.generation), word(&peer.state), lag]
    };
    let rows = image.peers.iter().map(row).collect();
    text.push_str("\n\n");
    text + &table(&["PEER", "GENERATION", "STATE", "LAG"], rows, "no peers")
}

fn history(report: &HistoryReport) -> String {
    let row = |generation: &GenerationRow| {
        vec![
            generation.generation.to_string(),
            generation.recorded.clone(),
            size(generation.size_bytes),
            size(generation.dirty_bytes),
            size(generation.wire_bytes),
            generation.discover.clone(),
            seconds(generation.seconds),
            generation.author.chars().take(16).collect(),
            short(Some(&generation.root)),
            generation.peers.join(","),
            or_dash(generation.promoted.last().map(|promoted| &promoted.at)),
            if generation.kept { "yes" } else { "-" }.to_owned(),
        ]
    };
    let rows = report.generations.iter().map(row).collect();
    let header = [
        "GENERATION",
        "RECORDED",
        "SIZE",
        "CHANGED",
        "WIRE",
        "BY",
        "TOOK",
        "AUTHOR",
        "ROOT",
        "PEERS",
        "PROMOTED",
        "KEPT",
    ];
    table(&header, rows, "no generations")
}
