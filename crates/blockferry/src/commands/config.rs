//! `config check | show | schema`: the configuration without the service.

use super::App;
use crate::args::ConfigCommand;
use crate::config::{Finding, Settings, Shown, schema};
use crate::failure::Failure;
use blockferry_node::api::{Exit, Schema};
use serde_json::{Value, json};

pub(crate) fn run(app: &App, command: ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check => check(app),
        ConfigCommand::Show { origin } => show(app, &app.location.load()?, origin),
        ConfigCommand::Schema => {
            let text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
            app.out.data(&text)?;
            Ok(Exit::Done)
        }
    }
}

/// All findings, not just the first.
fn check(app: &App) -> Result<Exit, Failure> {
    let (settings, findings) = app.location.check();
    if let Some(settings) = settings.filter(|_| findings.is_empty()) {
        let files: Vec<String> =
            settings.files.iter().map(|file| file.display().to_string()).collect();
        let object = json!({ "schema": Schema, "ok": true, "files": files, "findings": [] });
        let read =
            if files.is_empty() { "no file, built-in values".to_owned() } else { files.join(", ") };
        app.out.either(&object, || format!("ok: {read}"))?;
        return Ok(Exit::Done);
    }
    if app.out.json {
        let findings: Vec<Value> = findings.iter().map(as_json).collect();
        let object = json!({ "schema": Schema, "ok": false, "findings": findings });
        app.out.object(&object)?;
        return Ok(Exit::Config);
    }
    for finding in &findings {
        app.out.error(&crate::config::config_error(std::slice::from_ref(finding)));
    }
    Ok(Exit::Config)
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "code": "CONFIG_ERROR",
        "place": finding.place.to_string(),
        "message": finding.message,
        "help": finding.help,
    })
}

fn show(app: &App, settings: &Settings, origin: bool) -> Result<Exit, Failure> {
    let row = |shown: &Shown| {
        let origin = shown.place.to_string();
        json!({ "key": shown.key, "value": shown.value, "origin": origin })
    };
    let values: Vec<Value> = settings.shown.iter().map(row).collect();
    app.out.either(&json!({ "schema": Schema, "values": values }), || {
        let lines = settings.shown.iter().map(|shown| line(shown, origin));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

/// A line that is TOML again.
fn line(shown: &Shown, origin: bool) -> String {
    let Shown { key, value, place } = shown;
    if origin { format!("{key} = {value}  # {place}") } else { format!("{key} = {value}") }
}
