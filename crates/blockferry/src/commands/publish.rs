//! `publish`: record a generation now.

use super::{App, nothing_between};
use crate::args::PublishArgs;
use crate::failure::Failure;
use crate::output::{seconds, size};
use blockferry_node::api::{Exit, PublishReport, Request};

pub(crate) fn run(app: &App, args: PublishArgs) -> Result<Exit, Failure> {
    let PublishArgs { image, changed, since } = args;
    let changed = changed.map(absolute);
    let request = Request::Publish { image, changed, since };
    let report: PublishReport = app.job(&request, nothing_between)?;
    app.out.either(&report, || text(&report))?;
    Ok(Exit::Done)
}

/// The service reads the map, and it has another working directory. Addresses stay as they are.
fn absolute(map: String) -> String {
    if map.starts_with("nbd") && map.contains("://") {
        return map;
    }
    match std::path::absolute(&map) {
        Ok(path) => path.to_str().map_or(map, str::to_owned),
        // An empty path, say: the service refuses it.
        Err(_) => map,
    }
}

fn text(report: &PublishReport) -> String {
    let PublishReport { image, generation, root, .. } = report;
    if report.discover == "deleted" {
        return format!("{image}@{generation} recorded: it was deleted");
    }
    if !report.recorded {
        return format!("{image}@{generation} is unchanged\n  root {root}");
    }
    format!(
        "{image}@{generation} recorded: {} changed of {}, {} read in {}\n  root {root}",
        size(report.dirty_bytes),
        size(report.size_bytes),
        size(report.bytes_read),
        seconds(report.seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_addresses_stay() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute("map".into()), here.join("map").to_str().unwrap());
        assert_eq!(absolute("/a/map".into()), "/a/map");
        for map in ["nbd+unix:///x?socket=/s&bitmap=b", "nbd://host/x"] {
            assert_eq!(absolute(map.into()), map);
        }
    }
}
