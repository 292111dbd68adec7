//! `id`: this node's id, read from its key, without the service.

use super::App;
use crate::failure::Failure;
use blockferry_node::Identity;
use blockferry_node::api::{Exit, Schema};
use serde_json::json;

pub(crate) fn run(app: &App) -> Result<Exit, Failure> {
    let settings = app.location.load()?;
    let id = Identity::load(&settings.identity)?.id().to_string();
    app.out.either(
        &json!({ "schema": Schema, "id": id, "name": settings.node_name.as_str() }),
        || id.clone(),
    )?;
    Ok(Exit::Done)
}
