//! A command without what the user of this machine, or a service manager, has set.

use std::process::Command;

/// Takes the settings of Blockferry and of systemd out of a command's environment.
pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BLOCKFERRY_") {
            command.env_remove(name);
        }
    }
    for name in ["JOURNAL_STREAM", "INVOCATION_ID", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    command
}
