//! `store add | ls | show | rm`.

use super::App;
use crate::args::StoreCommand;
use crate::failure::{Failure, on_path};
use crate::output::{size, table, word};
use blockferry_node::api::{Exit, Removed, Request, StoreRow, StoresReport};

pub(crate) fn run(app: &App, command: StoreCommand) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Add { name, path, role } => {
            // The service's working directory is not ours.
            let path =
                std::path::absolute(&path).map_err(|error| on_path("resolve", &path, &error))?;
            list(app, &Request::StoreAdd { name, path, role: role.into() })
        }
        StoreCommand::Ls => list(app, &Request::StoreLs {}),
        StoreCommand::Show { name } => list(app, &Request::StoreShow { name }),
        StoreCommand::Rm { name } => {
            app.confirm(&format!("Take store {name} out of service (its files stay)?"))?;
            let removed: Removed = app.ask(&Request::StoreRm { name })?;
            app.out.either(&removed, || format!("removed {}", removed.removed))?;
            Ok(Exit::Done)
        }
    }
}

fn list(app: &App, request: &Request) -> Result<Exit, Failure> {
    let report: StoresReport = app.ask(request)?;
    app.out.either(&report, || stores(&report.stores))?;
    Ok(Exit::Done)
}

/// One row per store; also a part of `status`.
pub(crate) fn stores(stores: &[StoreRow]) -> String {
    let row = |store: &StoreRow| {
        vec![
            store.name.clone(),
            word(&store.role),
            store.commit_mode.clone(),
            store.images.to_string(),
            match (&store.trouble, store.in_sync) {
                (Some(code), _) => code.clone(),
                (None, true) => "in sync".to_owned(),
                (None, false) => "not in sync".to_owned(),
            },
            store.peers.join(","),
            match store.kept {
                0 => "-".to_owned(),
                kept => format!("{kept} ({})", size(store.kept_bytes)),
            },
            store.path.clone(),
        ]
    };
    let rows = stores.iter().map(row).collect();
    let empty = "no stores: blockferry store add NAME PATH";
    table(&["STORE", "ROLE", "COMMIT", "IMAGES", "SYNC", "PEERS", "KEPT", "PATH"], rows, empty)
}
