//! How a command ends badly: an error with a code, or a reader that has gone away.

pub(crate) use blockferry_node::api::AdminError;
use std::io;

/// Why a command stopped early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error to show; it carries the exit status.
    Error(AdminError),
    /// Nobody reads stdout any more (`| head`): nothing to say, nothing wrong.
    NobodyReads,
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Failure {
        Failure::Error(error)
    }
}

impl From<blockferry_node::Error> for Failure {
    fn from(error: blockferry_node::Error) -> Failure {
        Failure::Error(AdminError::new(error.code(), error.to_string()))
    }
}

/// A failed write to stdout.
pub(crate) fn on_stdout(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::NobodyReads;
    }
    AdminError::new("IO", format!("stdout: {error}")).into()
}

/// A failed operation on a file or directory.
pub(crate) fn on_path(op: &str, path: &std::path::Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "DISK_FULL",
        _ => "IO",
    };
    let text = error.to_string();
    // The log has nothing about a file that the command line itself touched.
    let remedy = "check the path and its permissions";
    AdminError::new(code, format!("{op} {}: {text}", path.display())).with_remedy(remedy).into()
}
