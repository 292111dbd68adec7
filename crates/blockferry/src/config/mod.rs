//! The configuration: read, merged, checked and shown.
//!
//! Precedence: `BLOCKFERRY_*` > `conf.d/*.toml` > the file > built-in. Every finding names the
//! place it is about (file, line and column, or the variable) and what to do. Nothing is ignored
//! silently: an unknown key is a finding.
//!
//! `known` is the list of keys, `layers` merges, `settings` and `schedules` decide what the result
//! means. `rewrite` changes a schedule in the file, `edit` its text.

mod edit;
mod file;
mod host;
mod http;
mod known;
mod layers;
mod machine;
mod profiles;
mod promote;
mod rewrite;
mod schedules;
mod settings;
mod values;
mod watermarks;

pub(crate) use file::{CommitChoice, HoldBaseChoice, InUseChoice, LogFormat, RoleChoice};
pub(crate) use known::{closest, schema};
pub(crate) use settings::{PeerSettings, Settings, Shown, StoreSettings};
pub(crate) use values::{Compression, Period, Rate, Reserve, SetsChoice, Size, bits_text};

use crate::failure::AdminError;
use layers::Layers;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the configuration is when nobody says otherwise.
pub(crate) const DEFAULT_FILE: &str = "/etc/blockferry/blockferry.toml";

/// Which file to read, and whether it must be there.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) file: PathBuf,
    pub(crate) required: bool,
}

impl Location {
    /// The named file, which must exist, or the default one, which may be absent.
    pub(crate) fn new(file: Option<PathBuf>) -> Location {
        match file {
            Some(file) => Location { file, required: true },
            None => Location { file: PathBuf::from(DEFAULT_FILE), required: false },
        }
    }

    fn layers(&self) -> Layers {
        Layers::load(&self.file, self.required, &layers::environment())
    }

    /// Everything that is wrong, and the settings if nothing is.
    pub(crate) fn check(&self) -> (Option<Settings>, Vec<Finding>) {
        Settings::from_layers(&self.file, self.layers())
    }

    /// The settings; the first finding is the error.
    pub(crate) fn load(&self) -> Result<Settings, AdminError> {
        let (settings, findings) = self.check();
        match settings {
            Some(settings) if findings.is_empty() => Ok(settings),
            _ => Err(config_error(&findings)),
        }
    }

    /// Only where the admin socket is: a command can talk to a running service although
    /// something else in the file has become wrong since it started.
    pub(crate) fn socket(&self) -> Result<PathBuf, AdminError> {
        settings::socket(&self.file, self.layers()).map_err(|findings| config_error(&findings))
    }
}

/// Where a value or a mistake is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file; line and column count from 1, and are 0 when it is about the whole file.
    File { path: PathBuf, line: usize, column: usize },
    /// An environment variable.
    Environment(String),
    /// Nobody wrote it.
    BuiltIn,
}

impl Place {
    /// The place of a byte offset in the text of a file; columns count characters.
    fn in_file(path: &Path, text: &str, offset: usize) -> Place {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place::File { path: path.to_owned(), line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Place::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Place::Environment(name) => f.write_str(name),
            Place::BuiltIn => f.write_str("built-in"),
        }
    }
}

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: Place,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Which key it is about, where the message doesn't say it.
    pub(crate) key: Option<String>,
}

impl Finding {
    fn new(place: Place, message: String) -> Finding {
        Finding { place, message, help: None, key: None }
    }

    fn with_help(mut self, help: impl Into<String>) -> Finding {
        self.help = Some(help.into());
        self
    }
}

/// File, line, key, what is wrong and what may help.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match &self.key {
            Some(key) if !self.message.contains(key) => write!(f, "{key}: {}", self.message)?,
            _ => f.write_str(&self.message)?,
        }
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

/// The error that a command ends with: the first finding, and how many more there are.
pub(crate) fn config_error(findings: &[Finding]) -> AdminError {
    let Some(first) = findings.first() else {
        return AdminError::new("CONFIG_ERROR", "the configuration can't be used");
    };
    let more = match findings.len() - 1 {
        0 => String::new(),
        count => format!(" (and {count} more: blockferry config check)"),
    };
    let error =
        AdminError::new("CONFIG_ERROR", format!("{}: {}{more}", first.place, first.message));
    match &first.help {
        Some(help) => error.with_remedy(help),
        None => error,
    }
}

#[cfg(test)]
mod tests;
