//! The configuration file of a running service: read again at SIGHUP, and after a schedule in it was
//! changed by request. One way for both, so that both mean the same.

use super::serve::{changed_keys, node_config};
use crate::config::{Location, Settings, Shown};
use blockferry_node::api::ScheduleEdit;
use blockferry_node::config::{Config, ConfigFile};
use blockferry_node::{Error, Identity};
use std::sync::Arc;

/// The file, and what this process looked at before there was a node.
#[derive(Debug)]
pub(super) struct LiveFile {
    location: Location,
    started: Vec<Shown>,
    identity: Identity,
}

impl LiveFile {
    pub(super) fn new(
        location: &Location,
        started: &Settings,
        identity: Identity,
    ) -> Arc<LiveFile> {
        let started = started.shown.clone();
        Arc::new(LiveFile { location: location.clone(), started, identity })
    }
}

impl ConfigFile for LiveFile {
    fn load(&self) -> Result<(Config, Vec<String>), String> {
        let (settings, findings) = self.location.check();
        for finding in &findings {
            tracing::error!(code = "CONFIG_ERROR", "{finding}");
        }
        let Some(settings) = settings.filter(|_| findings.is_empty()) else {
            let more = match findings.len() {
                0 | 1 => String::new(),
                count => format!(" (and {} more: blockferry config check)", count - 1),
            };
            let first =
                findings.first().map_or_else(|| "it can't be used".into(), ToString::to_string);
            return Err(format!("{first}{more}"));
        };
        let ours = |key: &String| key.starts_with("log.") || key == "node.identity";
        let mut restart = changed_keys(&self.started, &settings.shown);
        restart.retain(ours);
        Ok((node_config(&settings, self.identity.clone()), restart))
    }

    fn set_schedule(&self, name: &str, edit: &ScheduleEdit, tag: &str) -> Result<(), Error> {
        self.location.set_schedule(name, edit, tag)
    }

    fn is_writable(&self) -> bool {
        self.location.is_writable()
    }
}
