//! Arguments of `adopt`.

use super::RoleArg;
use clap::{Subcommand, ValueHint};
use std::path::PathBuf;

/// `adopt`
#[derive(Debug, Subcommand)]
pub(crate) enum AdoptCommand {
    /// Begin: record what another tool left in a directory, and compare it with what peers have
    ///
    /// Nothing in the directory is touched but .blockferry; tell the other tool to leave that alone
    /// (robocopy /XD .blockferry, rsync --exclude=/.blockferry).
    Start {
        /// Name of the store: a new one with its PATH, or one that is in service
        #[arg(required_unless_present = "ticket", conflicts_with = "ticket")]
        store: Option<String>,
        /// Its directory
        #[arg(value_hint = ValueHint::DirPath)]
        path: Option<PathBuf>,
        /// writer: changes made here travel; mirror: only receives
        #[arg(long, default_value = "writer", conflicts_with = "ticket")]
        role: RoleArg,
        /// Join the store of this ticket (the line that invite printed) ...
        #[arg(long, requires = "at")]
        ticket: Option<String>,
        /// ... with this directory
        #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, requires = "ticket")]
        at: Option<PathBuf>,
        /// What to call the inviter here [default: as it calls itself]
        #[arg(long, requires = "ticket")]
        name: Option<String>,
    },
    /// How far each store has been adopted
    Status,
    /// The next phase: observe, shadow, active, and then the end, from which there is no way back
    Next {
        /// Name of the store
        store: String,
        /// Also where images aren't recorded yet, or wait for a decision
        #[arg(long)]
        force: bool,
    },
    /// The phase before: from active the other tool's files take their places again
    Back {
        /// Name of the store
        store: String,
    },
    /// Each image beside what each peer has: equal, missing, stale, times adrift. Exit status 0: all
    /// are equal, 3: some aren't
    Report {
        /// Name of the store
        store: String,
        /// As CSV
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// Only what isn't equal
        #[arg(long)]
        differing: bool,
    },
    /// Turn what DFS-R's cmdlets print, or Export-Clixml wrote, into sections of the configuration
    ///
    /// Get-DfsrGroupSchedule, Get-DfsrConnectionSchedule, Get-DfsReplicatedFolder and
    /// Get-DfsrMembership, each | Format-List, or | Export-Clixml FILE. Changes nothing (works without
    /// the service).
    ImportDfsr {
        /// The files
        #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
        /// Whose clock schedules go by that aren't in UTC: the receiver's zone, such as Europe/Oslo
        #[arg(long, default_value = "UTC")]
        zone: String,
    },
}
