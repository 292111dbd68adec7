//! Every error code a user can meet: its exit status and what to do about it.
//!
//! One table, so that a code means the same in the service, on the command line and in the
//! documentation. A code that is not in the table is a plain failure (exit 1) that points at the
//! service's log: a new code in `node` or `store` can therefore never break a script.

use super::notices;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Exit statuses of the `blockferry` binary: a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed for a reason that has no status of its own.
    Failed = 1,
    /// The command line or the request makes no sense.
    Usage = 2,
    /// Not in sync, or only a part of the work is done.
    Partly = 3,
    /// Waited as long as asked, and it hasn't happened.
    TimedOut = 4,
    /// No such image, generation, peer or store.
    Unknown = 5,
    /// No service answers on the admin socket.
    Unreachable = 10,
    /// Somebody else holds the store, the image or the state directory.
    Locked = 11,
    /// An identity, a ticket or a right was refused.
    Refused = 12,
    /// Not enough room.
    OutOfSpace = 13,
    /// Bytes are not what their hash says.
    VerifyFailed = 14,
    /// Two histories that do not descend from one another.
    Diverged = 15,
    /// The configuration (or a file it names) must be corrected first.
    Config = 78,
    /// Interrupted by the user; a job in the service goes on.
    Interrupted = 130,
}

impl Exit {
    /// The status as the operating system sees it.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Partly => 3,
            Exit::TimedOut => 4,
            Exit::Unknown => 5,
            Exit::Unreachable => 10,
            Exit::Locked => 11,
            Exit::Refused => 12,
            Exit::OutOfSpace => 13,
            Exit::VerifyFailed => 14,
            Exit::Diverged => 15,
            Exit::Config => 78,
            Exit::Interrupted => 130,
        }
    }
}

/// One row of the table of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRow {
    /// Stable name, `SCREAMING_SNAKE`.
    pub code: &'static str,
    /// Exit status of a command that ends with it.
    pub exit: Exit,
    /// What the user can do.
    pub remedy: &'static str,
}

/// A row.
pub(super) const fn row(code: &'static str, exit: Exit, remedy: &'static str) -> CodeRow {
    CodeRow { code, exit, remedy }
}

const SEE_LOG: &str = "see the service's log (journalctl -u blockferry) for what led to it";
const NEW_TICKET: &str = "ask for a new ticket: blockferry invite --store NAME";
const REPORT: &str = "update both nodes to the same version; if it stays, report it with the log";
const VERIFY: &str = "check the disk, then run: blockferry verify IMAGE";

/// All codes of errors in alphabetical order; those of events and findings are in `notices`.
const ROWS: &[CodeRow] = &[
    row(
        "ADOPTION_NOT_NOW",
        Exit::Partly,
        "see how it stands: blockferry adopt status; or say that it is meant: adopt next --force",
    ),
    row("ALREADY_INITIALISED", Exit::Failed, "nothing was changed; choose another directory"),
    row("API_MISUSE", Exit::Failed, "this is a bug in blockferry: please report it with the log"),
    row("BAD_FRAME", Exit::Failed, REPORT),
    row("BAD_MANIFEST", Exit::Failed, REPORT),
    row(
        "BAD_MAP",
        Exit::Usage,
        "make the map again from the current generation, or publish without it",
    ),
    row(
        "BAD_NAME",
        Exit::Usage,
        "names are 1 to 128 of A-Z a-z 0-9 . _ - and start with no . or -",
    ),
    row("BAD_RANGE", Exit::Failed, REPORT),
    row("BAD_SIGNATURE", Exit::Refused, "remove the peer and pair again: blockferry peer rm PEER"),
    row("BUSY", Exit::Locked, "the image is being worked on; try again, or: blockferry status"),
    row("CANCELLED", Exit::Failed, "it starts again by itself; see: blockferry backlog"),
    row("CATALOG_CORRUPT", Exit::VerifyFailed, VERIFY),
    row("CATALOG_ERROR", Exit::Failed, SEE_LOG),
    row("CHANGED_WHILE_READING", Exit::Locked, "try again when nothing writes the image"),
    row("CHUNK_MISMATCH", Exit::VerifyFailed, VERIFY),
    row("CONFIG_CHANGED", Exit::Locked, "systemctl reload blockferry if need be, and look again"),
    row("CONFIG_ERROR", Exit::Config, "correct the file, then: blockferry config check"),
    row(
        "CONFIG_READ_ONLY",
        Exit::Refused,
        "edit the file by hand and reload, or let the service write it: docs/http.md",
    ),
    row(
        "CONFIG_REJECTED",
        Exit::Config,
        "correct the named key, then: systemctl reload blockferry (or kill -HUP)",
    ),
    row("CONFIG_TAG", Exit::Usage, "send If-Match with the ETag of what you have looked at"),
    row("CONTROL_BAD_REQUEST", Exit::Usage, "use the blockferry command of the same version"),
    row("CONTROL_BUSY", Exit::Unreachable, "too many admin connections; close some and try again"),
    row("CONTROL_FORBIDDEN", Exit::Refused, "run as root or as a member of the socket's group"),
    row("CONTROL_GONE", Exit::Interrupted, "the client went away; the job goes on in the service"),
    row("CONTROL_PROTOCOL", Exit::Failed, "use the blockferry command of the same version"),
    row("CONTROL_TOO_LONG", Exit::Usage, "a request line has at most 65536 bytes"),
    row("CORRUPT", Exit::VerifyFailed, VERIFY),
    row("CRYPTO", Exit::Failed, SEE_LOG),
    row("DEADLINE", Exit::TimedOut, "check the link to the peer; it is tried again by itself"),
    row("DECOMPRESS_BAD", Exit::Failed, REPORT),
    row("DECOMPRESS_LIMIT", Exit::Failed, REPORT),
    row("DEGRADED", Exit::Failed, "the disk failed a write; check it, then restart the service"),
    row("DISK_ERROR", Exit::Failed, "check the disk (dmesg), then restart the service"),
    row("DISK_FULL", Exit::OutOfSpace, "free the named number of bytes; the transfer then resumes"),
    row(
        "DIVERGED",
        Exit::Diverged,
        "nothing was overwritten; see: blockferry conflicts, then resolve IMAGE --keep ...",
    ),
    row(
        "DUPLICATE",
        Exit::Locked,
        "another peer is sending the same image; it is tried again by itself",
    ),
    row("DUPLICATE_CONNECTION", Exit::Failed, SEE_LOG),
    row("FORBIDDEN", Exit::Refused, "the peer's role in the store does not allow this"),
    row("FRAME_TOO_LARGE", Exit::Failed, REPORT),
    row("GENERATION_OLD", Exit::Partly, "the other side already has a newer generation"),
    row("GENERATION_UNKNOWN", Exit::Unknown, "list them: blockferry image history IMAGE"),
    row("HANDSHAKE_TIMEOUT", Exit::TimedOut, "check the address, the UDP port and the firewall"),
    row("HELD", Exit::Partly, "it goes on when it may: blockferry schedule show"),
    row(
        "HISTORY_FORK",
        Exit::Diverged,
        "something was restored or cloned; nothing was overwritten: blockferry conflicts",
    ),
    row("HTTP_HOST", Exit::Refused, "add the name to [admin] hosts, or use the node's address"),
    row("HTTP_METHOD", Exit::Usage, "see /openapi.json for what each address takes"),
    row("HTTP_ORIGIN", Exit::Refused, "ask from the node's own page, or without an Origin"),
    row("HTTP_ROUTE", Exit::Unknown, "see /openapi.json for all addresses"),
    row("HTTP_SCOPE", Exit::Refused, "use a token whose scope includes this: read, operate, admin"),
    row("HTTP_SLOW", Exit::TimedOut, "send the whole request at once"),
    row("HTTP_TOKEN", Exit::Refused, "make one: blockferry token new NAME --scope SCOPE"),
    row("HTTP_TYPE", Exit::Usage, "send Content-Type: application/json"),
    row(
        "IDENTITY_DUPLICATE",
        Exit::Refused,
        "two nodes have one key: make a new one on the copy, blockferry init",
    ),
    row("IDENTITY_REFUSED", Exit::Refused, "pair the nodes again: blockferry invite, then join"),
    row("IMAGE_EXISTS", Exit::Locked, "choose another name or remove the file that is there"),
    row("IMAGE_UNKNOWN", Exit::Unknown, "list them: blockferry image ls"),
    row("INDEX_NEWER", Exit::Config, "a newer blockferry wrote this; install that version again"),
    row("INDEX_REBUILDING", Exit::Locked, "the catalog is being rebuilt; wait and try again"),
    row("INTERNAL", Exit::Failed, "this is a bug in blockferry: please report it with the log"),
    row("INTERRUPTED", Exit::Interrupted, "the job goes on in the service: blockferry status"),
    row("IN_USE", Exit::Locked, "close the program that writes the image, then try again"),
    row("IO", Exit::Failed, SEE_LOG),
    row("IO_ERROR", Exit::Failed, SEE_LOG),
    row(
        "KEY_INVALID",
        Exit::Config,
        "restore identity.key from a backup, or: blockferry init in a new directory",
    ),
    row("KEY_MISSING", Exit::Config, "make the node first: blockferry init"),
    row("KEY_UNSAFE", Exit::Config, "the key must be a regular file of your own, mode 0600"),
    row("LIMIT_IMAGE_BYTES", Exit::Usage, "an image has at most 64 TiB"),
    row(
        "LOCAL_CHANGE",
        Exit::Locked,
        "the image changed here; publish it first or wait for settle",
    ),
    row(
        "MARKER_DAMAGED",
        Exit::VerifyFailed,
        "copy .blockferry/store from another member of the store: it is the same file on all",
    ),
    row(
        "MASS_DELETION",
        Exit::Failed,
        "put the images back, or say for each that it was deleted: blockferry publish IMAGE",
    ),
    row("MIRROR", Exit::Failed, "change the image on a node whose role in the store is writer"),
    row("NOT_DIVERGED", Exit::Unknown, "list what has: blockferry conflicts"),
    row("NOT_FOUND", Exit::Unknown, "list what is there: blockferry image ls"),
    row("NOT_IN_SYNC", Exit::Partly, "see what is missing: blockferry backlog"),
    row(
        "NOT_KEPT",
        Exit::Unknown,
        "see what is kept: blockferry image history IMAGE; or roll back on a node that keeps it",
    ),
    row(
        "NO_ADDRESS",
        Exit::Failed,
        "correct the address: blockferry peer set PEER address=HOST:PORT",
    ),
    row("OBSERVING", Exit::Partly, "the store is being adopted there: blockferry adopt status"),
    row(
        "PARENT_CHANGED",
        Exit::Partly,
        "if that was not meant: blockferry image history IMAGE; children fit their old parent only",
    ),
    row(
        "PARENT_MISMATCH",
        Exit::Partly,
        "put back the parent it was made on, with its time, or make it anew on this one",
    ),
    row(
        "PARENT_PATH",
        Exit::Partly,
        "make children by relative paths, or keep the store under one path on all nodes",
    ),
    row("PARTLY_DONE", Exit::Partly, "see what is missing: blockferry backlog"),
    row("PARTS_LIMIT", Exit::Failed, REPORT),
    row("PEER_DOWN", Exit::Partly, "check that the peer runs and that its address is reachable"),
    row("PEER_REVOKED", Exit::Refused, "pair again with a new ticket from a member of the store"),
    row("PEER_UNKNOWN", Exit::Unknown, "list them: blockferry peer ls"),
    row(
        "PEER_UNREACHABLE",
        Exit::Failed,
        "check that the peer runs, its address, the UDP port and the firewall",
    ),
    row("PROTOCOL", Exit::Failed, REPORT),
    row("RATE_LIMITED", Exit::Refused, "too many wrong tries; wait a minute"),
    row("REFUSED", Exit::Failed, "see why it waits: blockferry backlog"),
    row("RENAME_UNSUPPORTED", Exit::Config, "put the store on a file system that can rename"),
    row("RESOURCE_LIMIT", Exit::Failed, SEE_LOG),
    row("ROOT_MISMATCH", Exit::VerifyFailed, VERIFY),
    row("SCHEDULE_UNKNOWN", Exit::Unknown, "list them: blockferry schedule show"),
    row(
        "SERVICE_UNREACHABLE",
        Exit::Unreachable,
        "start it: systemctl start blockferry, or: blockferry serve",
    ),
    row(
        "SET_INCOMPLETE",
        Exit::Partly,
        "put what it builds upon into the store; to do without: sets = [] in the store's section",
    ),
    row(
        "SHUTTING_DOWN",
        Exit::Unreachable,
        "the other node is stopping; it is tried again by itself",
    ),
    row(
        "SOURCE_CHANGED",
        Exit::Locked,
        "the image changed while it was read; it will be tried again",
    ),
    row(
        "SOURCE_EMPTY",
        Exit::Failed,
        "an empty file is not an image; it is looked at again when it changes",
    ),
    row("SOURCE_MISSING", Exit::Unknown, "check that the store's file system is mounted"),
    row("SOURCE_NOT_REGULAR", Exit::Usage, "an image is a regular file directly in the store"),
    row("SOURCE_TORN", Exit::Locked, "the image changed while it was read; it will be tried again"),
    row(
        "STATEMENTS_FULL",
        Exit::Failed,
        "spread the images over nodes or stores with fewer members: docs/decisions/0031 has the sizes",
    ),
    row(
        "STATE_LOCKED",
        Exit::Locked,
        "another blockferry runs on this state directory; stop that one first",
    ),
    row(
        "STATE_UNREADABLE",
        Exit::Config,
        "correct owner and mode of the state directory; see the log",
    ),
    row("STOPPING", Exit::Unreachable, "the service is stopping; try again when it is back"),
    row("STORE_EXISTS", Exit::Locked, "choose another name, or: blockferry store rm NAME"),
    row("STORE_LOCKED", Exit::Locked, "another blockferry holds it; stop that one first"),
    row("STORE_MISSING", Exit::Unknown, "check that the store's file system is mounted"),
    row("STORE_READ_ONLY", Exit::Failed, "remount the store's file system for writing"),
    row("STORE_UNKNOWN", Exit::Unknown, "list them: blockferry store ls"),
    row("STORE_UNSAFE", Exit::Config, "correct the directory's owner and mode, then restart"),
    row("STREAM_LIMIT", Exit::Failed, SEE_LOG),
    row(
        "SUPERSEDED",
        Exit::Partly,
        "a newer generation took its place; see: blockferry image history IMAGE",
    ),
    row("TICKET_EXPIRED", Exit::Refused, NEW_TICKET),
    row("TICKET_INVALID", Exit::Usage, "paste the whole line that blockferry invite printed"),
    row("TICKET_SCOPE", Exit::Refused, NEW_TICKET),
    row("TICKET_UNKNOWN", Exit::Refused, NEW_TICKET),
    row("TICKET_USED", Exit::Refused, NEW_TICKET),
    row("TIMED_OUT", Exit::TimedOut, "it goes on in the service: blockferry backlog"),
    row(
        "TLS_BAD_SIGNATURE",
        Exit::Refused,
        "the peer does not hold the key of its id: do not pair",
    ),
    row("TLS_REFUSED", Exit::Refused, "both nodes must be members of the same store"),
    row("TOKEN_EXPIRED", Exit::Refused, NEW_TICKET),
    row("TOKEN_SCOPE", Exit::Refused, NEW_TICKET),
    row("TOKEN_UNKNOWN", Exit::Refused, NEW_TICKET),
    row("TOKEN_USED", Exit::Refused, NEW_TICKET),
    row("TOKEN_WRONG_HUB", Exit::Refused, "the address of the ticket leads to another node"),
    row("TORN", Exit::Locked, "the image changed while it was read; it will be tried again"),
    row(
        "UNCLEAN",
        Exit::Locked,
        "close whatever has the disk open; after a crash attach it once, or: qemu-img check -r leaks",
    ),
    row("UNKNOWN_MESSAGE", Exit::Failed, REPORT),
    row("UNKNOWN_REFUSAL", Exit::Failed, REPORT),
    row("UNREQUESTED", Exit::Failed, REPORT),
    row("UNSUPPORTED", Exit::Usage, "this version does not have it; see blockferry --help"),
    row("USAGE", Exit::Usage, "see: blockferry help"),
    row("VERIFY_FAILED", Exit::VerifyFailed, VERIFY),
    row("VERSION_UNSUPPORTED", Exit::Failed, "update the older of the two nodes"),
    row("WANT_LIMIT", Exit::Failed, REPORT),
    row(
        "WINDOW_MISSED",
        Exit::Partly,
        "raise the rate, or: blockferry boost --peer PEER; see: blockferry backlog",
    ),
    row("WRONG_BASE", Exit::Failed, REPORT),
    row("WRONG_COUNT", Exit::Failed, REPORT),
    row("WRONG_RECEIPT", Exit::Refused, "remove the peer and pair again: blockferry peer rm PEER"),
    row("WRONG_STATE", Exit::Failed, REPORT),
    row("WRONG_STORE", Exit::Refused, "the two stores have one name but are not the same store"),
];

/// The whole table, in alphabetical order of the codes.
#[must_use]
pub fn code_rows() -> &'static [CodeRow] {
    static ALL: LazyLock<Vec<CodeRow>> = LazyLock::new(|| {
        let mut all = [ROWS, notices::ROWS].concat();
        all.sort_by_key(|row| row.code);
        all
    });
    &ALL
}

fn find(code: &str) -> Option<&'static CodeRow> {
    code_rows().iter().find(|row| row.code == code)
}

/// The exit status that belongs to an error code: the only place where one becomes the other.
#[must_use]
pub fn exit_for(code: &str) -> Exit {
    find(code).map_or(Exit::Failed, |row| row.exit)
}

/// What to do about an error code.
#[must_use]
pub fn remedy_for(code: &str) -> &'static str {
    find(code).map_or(SEE_LOG, |row| row.remedy)
}

/// An error as a user or a script meets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AdminError {
    /// Stable code, `SCREAMING_SNAKE`.
    pub code: String,
    /// What failed, naming what it concerns.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// Exit status of the command.
    pub exit: u8,
}

impl AdminError {
    /// An error with the table's exit status and remedy. Control characters are escaped, since a
    /// message may quote a name that came from a peer or a file system.
    #[must_use]
    pub fn new(code: &str, message: impl AsRef<str>) -> AdminError {
        AdminError {
            code: code.to_owned(),
            message: escape(message.as_ref()),
            remedy: remedy_for(code).to_owned(),
            exit: exit_for(code).status(),
        }
    }

    /// The same error with advice that fits the case better than the table's.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl AsRef<str>) -> AdminError {
        self.remedy = escape(remedy.as_ref());
        self
    }
}

/// Control characters as `\u{..}`, so that no text from outside can steer a terminal or a log.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_without_twins() {
        for pair in code_rows().windows(2) {
            assert!(pair[0].code < pair[1].code, "{} {}", pair[0].code, pair[1].code);
        }
    }

    #[test]
    fn codes_are_screaming_snake_and_remedies_are_one_line() {
        for row in code_rows() {
            assert!(row.code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{}", row.code);
            assert!(!row.remedy.is_empty() && row.remedy.len() < 100, "{}", row.code);
            assert!(row.remedy.is_ascii() && !row.remedy.contains('\n'), "{}", row.code);
        }
    }

    #[test]
    fn every_documented_status_is_reachable() {
        let mut seen: Vec<u8> = code_rows().iter().map(|row| row.exit.status()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 78, 130]);
    }

    #[test]
    fn status_equals_discriminant() {
        for row in code_rows() {
            #[expect(clippy::as_conversions, reason = "the discriminant is what is checked")]
            let number = row.exit as u8;
            assert_eq!(row.exit.status(), number);
        }
    }

    #[test]
    fn unknown_code_is_a_plain_failure() {
        let error = AdminError::new("SOMETHING_NEW", "x");
        assert_eq!((error.exit, error.remedy.as_str()), (1, SEE_LOG));
    }

    #[test]
    fn control_characters_are_escaped() {
        let error = AdminError::new("BAD_NAME", "a\u{1b}[2Jb\nc");
        assert!(!error.message.chars().any(char::is_control), "{}", error.message);
        assert!(error.message.contains("\\u{1b}"), "{}", error.message);
    }
}
