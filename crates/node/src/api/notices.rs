//! Codes of events and of `doctor`'s findings: what there is to do about each.
//!
//! They end no command, so most have status 0. What is an error too has its row in `codes`, and its
//! event has that one's remedy. A test reads the sources: no event is without a row.

use super::codes::{CodeRow, Exit, row};

const NOTHING: &str = "nothing: this is as it should be";

/// Codes that are no errors, in alphabetical order.
pub(super) const ROWS: &[CodeRow] = &[
    row(
        "ADOPTED_SET_ASIDE",
        Exit::Done,
        "look at the file it names; when nobody needs it: blockferry resolve IMAGE --acknowledge",
    ),
    row("ADOPTION", Exit::Done, NOTHING),
    row(
        "BACKLOG_HIGH",
        Exit::Done,
        "see why it waits: blockferry backlog --peer PEER; widen its schedule, or limits.backlog_high",
    ),
    row("BACKLOG_LOW", Exit::Done, NOTHING),
    row(
        "BASE_LOST",
        Exit::Done,
        "nothing: the image is read whole once. If it comes again: what touches .blockferry/base?",
    ),
    row("BOOSTED", Exit::Done, NOTHING),
    row(
        "CLOCK_ADRIFT",
        Exit::Done,
        "set the clock: timedatectl set-ntp true. Calendars go by it, data does not",
    ),
    row("COMMITTED", Exit::Done, NOTHING),
    row(
        "COMMIT_SLOW",
        Exit::Done,
        "open the image again where it was opened then; else stores.NAME.commit = \"copy\"",
    ),
    row(
        "CONFIG_RELOADED",
        Exit::Done,
        "keys that it names as needing a restart: systemctl restart blockferry",
    ),
    row("DELETED", Exit::Done, "if that was not meant: blockferry rollback IMAGE@GENERATION"),
    row(
        "EDIT_WAITS",
        Exit::Done,
        "take what you need of it, then: blockferry resolve IMAGE --acknowledge",
    ),
    row(
        "EVENTS_DROPPED",
        Exit::Done,
        "events come faster than the disk takes them: is node.state_dir on a slow disk?",
    ),
    row(
        "EXTENTS_MISSED",
        Exit::Done,
        "update the kernel; images are read whole since. See: blockferry doctor",
    ),
    row(
        "EXTENTS_OFF",
        Exit::Done,
        "update the kernel, then take the store out and in again with a new catalog",
    ),
    row(
        "FILE_LIMIT",
        Exit::Done,
        "LimitNOFILE=65536 in the unit (systemctl edit blockferry), or ulimit -n",
    ),
    row("FILE_UNSAFE", Exit::Config, "correct owner and mode as it says: chown, chmod"),
    row(
        "HISTORY_COSTS",
        Exit::Done,
        "keep less: stores.NAME.keep_generations; or put the store on XFS or btrfs",
    ),
    row(
        "HISTORY_YIELDED",
        Exit::Done,
        "make room, or keep less: stores.NAME.keep_generations, keep_days",
    ),
    row(
        "HOOK_FAILED",
        Exit::Failed,
        "correct promote.hook_after; the promotion stays. Try the hook by hand",
    ),
    row("HOOK_RAN", Exit::Done, NOTHING),
    row("HTTP_OPEN", Exit::Done, "make tokens: blockferry token new NAME --scope read"),
    row(
        "IDENTITY_CHANGED",
        Exit::Config,
        "put the key back that the service runs with, or restart it with the new one",
    ),
    row(
        "INOTIFY_LIMIT",
        Exit::Done,
        "sysctl -w fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=512",
    ),
    row("KEPT_RELEASED", Exit::Done, NOTHING),
    row("LIMIT_CLEARED", Exit::Done, NOTHING),
    row("LIMIT_SET", Exit::Done, NOTHING),
    row(
        "MAPS_OFF",
        Exit::Done,
        "mend what makes the maps, then take the store out and in with a new catalog",
    ),
    row(
        "MAP_MISSED",
        Exit::Done,
        "mend what makes the maps; they are not used here since. See: blockferry doctor",
    ),
    row("MAP_UNUSED", Exit::Done, "the event says why; the image was read without the map"),
    row(
        "MIRROR_RESTORED",
        Exit::Done,
        "take from the kept file what you need, then: blockferry resolve IMAGE --acknowledge",
    ),
    row(
        "NOT_SETTLED",
        Exit::Done,
        "close what has it open, or set stores.NAME.in_use = \"snapshot\" (needs reflinks)",
    ),
    row("NO_REFLINK", Exit::Done, "put the store on XFS or btrfs: updates then cost what changed"),
    row(
        "NO_WATCH",
        Exit::Done,
        "raise the limits of inotify; until then changes wait for node.rescan",
    ),
    row("ORDER_ENDED", Exit::Done, NOTHING),
    row("PAUSED", Exit::Done, NOTHING),
    row("PEER_ADDED", Exit::Done, NOTHING),
    row("PEER_REMOVED", Exit::Done, NOTHING),
    row("PEER_UP", Exit::Done, NOTHING),
    row("PEER_VERSION", Exit::Done, "update the older of the two nodes"),
    row("PROMOTED", Exit::Done, NOTHING),
    row(
        "PROMOTE_REFUSED",
        Exit::Partly,
        "see who lacks it: blockferry ready IMAGE; then promote again",
    ),
    row("RECEIPT", Exit::Done, NOTHING),
    row("RECORDED", Exit::Done, NOTHING),
    row(
        "RECOVERED",
        Exit::Done,
        "nothing, unless it comes again and again: then see why the service ends",
    ),
    row("RENAMED", Exit::Done, NOTHING),
    row(
        "REPAIRED",
        Exit::Done,
        "check the disk; then let go of the damaged file: blockferry resolve IMAGE --acknowledge",
    ),
    row(
        "REPAIR_FAILED",
        Exit::VerifyFailed,
        "connect a peer that holds it: blockferry image show IMAGE; then verify --repair again",
    ),
    row("RESOLVED", Exit::Done, NOTHING),
    row(
        "RESOLVE_OUTDATED",
        Exit::Done,
        "another change came meanwhile; look again: blockferry conflicts, then resolve once more",
    ),
    row("RESUMED", Exit::Done, NOTHING),
    row("ROLLED_BACK", Exit::Done, NOTHING),
    row("SCHEDULE", Exit::Done, NOTHING),
    row("SHADOWED", Exit::Done, NOTHING),
    row(
        "SMALL_BUFFERS",
        Exit::Done,
        "install deploy/sysctl.d/30-blockferry.conf, then: sysctl --system",
    ),
    row(
        "SNAPSHOT_UNSUPPORTED",
        Exit::Done,
        "put the store on XFS or btrfs, or set stores.NAME.in_use = \"defer\"",
    ),
    row("SPACE_LOW", Exit::Done, "free room, or lower stores.NAME.keep_days and keep_generations"),
    row(
        "STAGING_HIGH",
        Exit::Done,
        "free room on the store's file system, or raise limits.staging_high",
    ),
    row("STAGING_LOW", Exit::Done, NOTHING),
    row("STARTED", Exit::Done, NOTHING),
    row(
        "STATEMENTS_PRUNED",
        Exit::Done,
        "remove members and stores that nobody needs: blockferry peer rm PEER, store rm NAME",
    ),
    row("STORE_ADDED", Exit::Done, NOTHING),
    row(
        "STORE_NETWORK",
        Exit::Done,
        "put the store on a local file system: locks, leases and fsync mean less over a network",
    ),
    row("STORE_REMOVED", Exit::Done, NOTHING),
    row("TOKEN_UNUSED", Exit::Done, "if nobody needs it, remove [admin.tokens.NAME]"),
    row(
        "UNIT_OPEN",
        Exit::Done,
        "install deploy/blockferry.service, then: systemctl daemon-reload",
    ),
    row("WINDOW_FITS", Exit::Done, NOTHING),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use crate::api::code_rows;

    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }

    /// The codes that stand behind one of these beginnings.
    fn codes(text: &str, beginnings: &[&str]) -> BTreeSet<String> {
        let mut codes = BTreeSet::new();
        for beginning in beginnings {
            for rest in text.split(beginning).skip(1) {
                let rest = rest.trim_start();
                let Some(code) = rest.strip_prefix('"').and_then(|r| r.split('"').next()) else {
                    continue;
                };
                codes.insert(code.to_owned());
            }
        }
        codes
    }

    #[test]
    fn every_event_and_every_finding_has_a_row() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let beginnings = [
            "Note::info(",
            "Note::warning(",
            "Note::error(",
            "Finding::info(",
            "Finding::warning(",
            "Finding::error(",
        ];
        let mut found = BTreeSet::new();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("reads");
            // What tests note is no code of ours.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            found.extend(codes(code, &beginnings));
        }
        assert!(found.len() > 50, "{found:?}");
        let known: BTreeSet<&str> = code_rows().iter().map(|row| row.code).collect();
        let missing: Vec<_> = found.iter().filter(|code| !known.contains(&***code)).collect();
        assert!(missing.is_empty(), "add to api/notices.rs: {missing:?}");
    }
}
