//! `token`: makes what HTTP asks for. The token is printed once and kept nowhere; the configuration
//! gets its hash.

use super::App;
use crate::args::{TokenCommand, TokenScope};
use crate::failure::Failure;
use blockferry_delta::StoreName;
use blockferry_node::api::{AdminError, Exit, Schema};
use blockferry_node::http::{Scope, new_token};
use serde_json::json;

pub(crate) fn run(app: &App, command: TokenCommand) -> Result<Exit, Failure> {
    let TokenCommand::New { name, scope } = command;
    // Names of tokens go by the rule for all names of ours: they are keys of the configuration.
    StoreName::new(&name).map_err(|error| AdminError::new("BAD_NAME", error.to_string()))?;
    let scope = match scope {
        TokenScope::Read => Scope::Read,
        TokenScope::Operate => Scope::Operate,
        TokenScope::Admin => Scope::Admin,
    };
    let (secret, hash) = new_token()?;
    let lines =
        format!("[admin.tokens.\"{name}\"]\nhash = \"{hash}\"\nscope = \"{}\"", scope.as_str());
    let object = json!({
        "schema": Schema, "name": name, "scope": scope.as_str(), "token": secret,
        "hash": hash.to_string(), "config": lines,
    });
    app.out.prose("The token, which is shown only now, and what belongs into the configuration:");
    app.out.either(&object, || format!("{secret}\n\n{lines}"))?;
    Ok(Exit::Done)
}
