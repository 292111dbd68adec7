//! `config check | show | schema`: the configuration without the service. Where one runs by the same
//! file `check` also says what it would take from it at a reload, and what at a restart.

use super::App;
use crate::args::ConfigCommand;
use crate::config::{Finding, Settings, Shown, schema};
use crate::failure::Failure;
use blockferry_node::api::{ConfigPending, Exit, Request, Schema};
use serde_json::{Value, json};
use std::time::Duration;

/// A service that doesn't answer by then is left out.
const SERVICE_WAIT: Duration = Duration::from_secs(3);

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
        let pending = pending(app, &settings.tag);
        let keys = |of: fn(&ConfigPending) -> &Vec<String>| pending.as_ref().map(of);
        let (reload, restart) = (keys(|p| &p.reload), keys(|p| &p.restart));
        let object = json!({ "schema": Schema, "ok": true, "files": files, "findings": [],
            "reload": reload, "restart": restart });
        let read =
            if files.is_empty() { "no file, built-in values".to_owned() } else { files.join(", ") };
        app.out.either(&object, || {
            let mut text = format!("ok: {read}");
            for (what, keys) in [("after a reload", reload), ("after a restart", restart)] {
                if let Some(keys) = keys.filter(|keys| !keys.is_empty()) {
                    text.push_str(&format!("\nin force {what}: {}", keys.join(", ")));
                }
            }
            text
        })?;
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

/// What the running service would change if it read the file again; `None`: there is none, or it runs
/// by another file.
fn pending(app: &App, tag: &str) -> Option<ConfigPending> {
    let brief = app.with_timeout(Some(app.timeout.unwrap_or(SERVICE_WAIT)));
    let pending: ConfigPending = brief.ask(&Request::ConfigCheck {}).ok()?;
    (pending.tag.as_deref() == Some(tag)).then_some(pending)
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
