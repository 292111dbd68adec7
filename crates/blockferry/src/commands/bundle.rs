//! `bundle`: an archive for whoever helps, without secrets.

use super::App;
use crate::args::BundleArgs;
use crate::bundle::{self, archive, archive::Entry};
use crate::failure::{AdminError, Failure};
use crate::output::{count, size};
use blockferry_node::api::{Exit, Schema};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn run(app: &App, args: &BundleArgs) -> Result<Exit, Failure> {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let name =
        app.location.check().0.map_or_else(|| "node".to_owned(), |s| s.node_name.to_string());
    let top = format!("blockferry-{name}-{stamp}");
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{top}.tar.zst")));
    refuse_existing(&path)?;
    let (entries, redacted) = bundle::gather(app)?;
    let unix_s = u64::try_from(now.as_second()).unwrap_or_default();
    let bytes = archive::write(&path, &top, &entries, unix_s)?;
    for Entry { name, text } in &entries {
        app.out.prose(&format!("{:9}  {top}/{name}", size(text.len() as u64)));
    }
    app.out.prose(&format!(
        "{} taken out; names, paths and addresses are in it: read it before you send it on",
        count(redacted, "value")
    ));
    let rows = entries.iter().map(|e| json!({ "name": e.name, "bytes": e.text.len() }));
    let object = json!({
        "schema": Schema, "path": path, "bytes": bytes, "redacted": redacted,
        "entries": rows.collect::<Vec<Value>>(),
    });
    app.out.either(&object, || path.display().to_string())?;
    Ok(Exit::Done)
}

/// Before the work, for people; `archive::write` makes sure.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let error = AdminError::new("USAGE", format!("{} is there already", path.display()));
    Err(error.with_remedy("name another file: --out FILE").into())
}
