//! Structured logs: journald fields under systemd, else text or JSON lines on stderr.
//!
//! The log says what happened; it is never data, so it never goes to stdout.

use crate::config::{LogFormat, Settings};
use crate::failure::{AdminError, Failure};
use std::os::fd::AsFd;
use tracing::level_filters::LevelFilter;
use tracing_journald::{Layer, Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Sends the log of this process where the settings say; `verbose` lowers the threshold.
pub(crate) fn start(settings: &Settings, verbose: u8) -> Result<(), Failure> {
    let targets: Targets = settings.log_level.parse().map_err(|error| {
        AdminError::new("CONFIG_ERROR", format!("log.level {:?}: {error}", settings.log_level))
    })?;
    let targets = match verbose {
        0 => targets,
        1 => targets.with_default(LevelFilter::DEBUG),
        _ => targets.with_default(LevelFilter::TRACE),
    };
    let registry = tracing_subscriber::registry().with(targets);
    let done = match resolve(settings.log_format) {
        LogFormat::Journald => {
            let journal = tracing_journald::layer().map_err(|error| {
                AdminError::new("CONFIG_ERROR", format!("no journal to log to: {error}"))
                    .with_remedy("set log.format to text or json")
            })?;
            registry.with(fields(journal)).try_init()
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
        LogFormat::Text | LogFormat::Auto => {
            let layer =
                tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    };
    done.map_err(|error| AdminError::new("INTERNAL", format!("logging: {error}")).into())
}

/// Our fields are `BLOCKFERRY_CODE`, `BLOCKFERRY_STORE` and so on: `journalctl BLOCKFERRY_CODE=DISK_FULL`.
/// An event's severity is the entry's priority: 6, 4 or 3.
fn fields(journal: Layer) -> Layer {
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    journal
        .with_syslog_identifier("blockferry".into())
        .with_field_prefix(Some("BLOCKFERRY".into()))
        .with_priority_mappings(priorities)
}

fn resolve(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if stderr_is_the_journal() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        chosen => chosen,
    }
}

/// systemd names the journal's stream in `JOURNAL_STREAM`; a child with its own stderr inherits
/// the variable but not the stream, so both are compared.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}
