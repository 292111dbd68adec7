//! What a client may ask of a running service: one variant per command.
//!
//! A request is a JSON object with the command in `cmd` and its arguments beside it, e.g.
//! `{"cmd":"publish","image":"vdisks/win11.vhdx"}`. Unknown commands and unknown arguments are
//! refused, so that a newer client never believes that an older service did what it asked.

use super::schedules::ScheduleEdit;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// What a member may do in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Its changes travel to the others.
    #[default]
    Writer,
    /// Receives only.
    Mirror,
}

/// Which transfers go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Before everything else; what runs gives way.
    Urgent,
    /// In the order of the backlog.
    #[default]
    Normal,
    /// When nothing else wants the link, and a little beside it.
    Bulk,
}

/// Who must hold a generation before it counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// Every other member of the store.
    #[default]
    All,
    /// At least this many other members.
    Count(u32),
    /// These peers, by name or id.
    Peers(Vec<String>),
}

/// What an order is about: what belongs to all that is named; nothing named: everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Affected {
    /// Only what goes to this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Only this store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Only this image, `STORE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// It ends by itself after so many seconds; absent: another order ends it.
    #[schema(minimum = 1, maximum = 316224000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
}

/// One request. An image is `STORE/NAME`, a generation `STORE/NAME@7`; a peer is a name, an id or
/// the first 8 or more characters of an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Node, peers and stores at a glance. Done: `StatusReport`.
    Status {},
    /// Take a directory into service as a store. Done: `StoresReport` with the new store.
    StoreAdd {
        /// Name of the store.
        name: String,
        /// Absolute path of an existing directory.
        path: PathBuf,
        /// Role of this node.
        #[serde(default)]
        role: Role,
    },
    /// All stores. Done: `StoresReport`.
    StoreLs {},
    /// One store. Done: `StoresReport` with one row.
    StoreShow {
        /// Name of the store.
        name: String,
    },
    /// Take a store out of service; its files stay. Done: `Removed`.
    StoreRm {
        /// Name of the store.
        name: String,
    },
    /// Make a one-time ticket. Done: `Invitation`.
    Invite {
        /// Store that the ticket admits to.
        store: String,
        /// Role of the node that joins.
        #[serde(default)]
        role: Role,
        /// How long the ticket is good for, in seconds.
        ttl_seconds: u64,
    },
    /// Pair with the inviter and take part in its store. Done: `Joined`.
    Join {
        /// The line that `invite` printed.
        ticket: String,
        /// Where the store shall live; absent: below the service's state directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// What to call the inviter here; absent: as it calls itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// All peers. Done: `PeersReport`.
    PeerLs {},
    /// One peer. Done: `PeersReport` with one row.
    PeerShow {
        /// Which peer.
        peer: String,
    },
    /// End the pairing; what was received stays. Done: `Removed`.
    PeerRm {
        /// Which peer.
        peer: String,
    },
    /// Change a setting of a peer. Done: `PeersReport` with one row.
    PeerSet {
        /// Which peer.
        peer: String,
        /// `name`, `address` (addresses separated by commas), `compression`, `schedule` (empty:
        /// none) or `polite` (`true`, `false`).
        key: String,
        /// The new value.
        value: String,
    },
    /// The images of one store or of all. Done: `ImagesReport`.
    ImageLs {
        /// Only this store.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store: Option<String>,
    },
    /// One image. Done: `ImagesReport` with one row.
    ImageShow {
        /// Which image.
        image: String,
    },
    /// The generations of an image, newest first. Done: `HistoryReport`.
    ImageHistory {
        /// Which image.
        image: String,
    },
    /// Record a generation now. Progress; done: `PublishReport`.
    Publish {
        /// Which image.
        image: String,
        /// A map of what changed: an absolute path, or the address of a dirty bitmap,
        /// `nbd+unix:///EXPORT?socket=PATH&bitmap=NAME`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changed: Option<String>,
        /// Number of the generation at which the map begins; absent: the map says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// What would travel; sends nothing. Progress; done: `PlanReport`.
    Plan {
        /// Which image.
        image: String,
        /// For which peer; absent: the one that lacks most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// As if it began then, `Mon 22:00`, by the clock of the calendar; absent: now, in its turn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
        /// Would it be there by then? `06:00` is the next one after the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Offer an image now. Progress, one `item` (`PushPeer`) per peer; done: `PushDone`.
    Push {
        /// Which image.
        image: String,
        /// To whom; empty: every other member of the store.
        #[serde(default)]
        peers: Vec<String>,
        /// In which lane it goes until it is there; absent: its store's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lane: Option<Lane>,
        /// Answer when the receipts are there, not when the offers are queued.
        #[serde(default)]
        wait: bool,
    },
    /// What each peer lacks. Done: `BacklogReport`.
    Backlog {
        /// Only this peer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// What went out in the last day, and what was lacking in the last week. Done: `TrendsReport`.
    Trends {
        /// Only with this peer; absent: with all together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// How long a peer takes to answer. Done: `NetcheckReport`.
    Netcheck {
        /// Which peer.
        peer: String,
        /// How often it is asked, at most 10,000 times.
        count: u32,
    },
    /// What is wrong here, as far as the service sees. Done: `DoctorReport`.
    Doctor {},
    /// Is a generation verified there? Done: `ReadyReport`, whatever the answer is.
    Ready {
        /// Image or generation.
        image: String,
        /// Who must hold it.
        #[serde(default)]
        require: Require,
    },
    /// Wait until it is ready. Progress; done: `ReadyReport`; `TIMED_OUT` when it never is.
    Wait {
        /// Image or generation.
        image: String,
        /// Who must hold it.
        #[serde(default)]
        require: Require,
        /// Give up after so many seconds; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<u64>,
    },
    /// Say that a generation may be used: it is where it must be, verified. Done: `PromoteReport`,
    /// also when it is refused.
    Promote {
        /// Image or generation; it must be current here.
        image: String,
        /// Who must hold it; absent: as configured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        require: Option<Require>,
    },
    /// Make the content of an earlier generation, `STORE/NAME@7`, the current one again. Done:
    /// `RollbackReport`.
    Rollback {
        /// Which image and generation.
        image: String,
    },
    /// Re-hash local data against the catalog. Progress, one `item` (`VerifiedImage`) per image;
    /// done: `VerifyDone`, whatever was found.
    Verify {
        /// Which image or store; absent: everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
        /// From the device, also what the page cache has.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        deep: bool,
        /// Fetch again, from a peer that holds the same generation, what isn't as recorded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        repair: bool,
    },
    /// Contents that diverged. Done: `ConflictsReport`.
    Conflicts {
        /// Only of this image.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
    },
    /// Decide about contents that diverged, or let go of those that have lost. Done: `ResolveReport`.
    Resolve {
        /// Which image.
        image: String,
        /// `local`, a peer, or `both`; absent: nothing is decided.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<String>,
        /// What lost may go.
        #[serde(default)]
        acknowledge: bool,
    },
    /// Take a directory over from another tool, beginning by observing: a new store at a path, the
    /// store of a ticket, or one that is in service. Done: `AdoptStatus`.
    AdoptStart {
        /// Name of the store; absent: the ticket's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store: Option<String>,
        /// Absolute path of its directory, unless it is in service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// Role of this node; a ticket has its own.
        #[serde(default)]
        role: Role,
        /// The line that `invite` printed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<String>,
        /// What to call the inviter here; absent: as it calls itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The next phase of an adoption; after the last one it is over. Done: `AdoptStatus`.
    AdoptNext {
        /// Name of the store.
        store: String,
        /// Also where images aren't recorded yet, or wait for a decision.
        #[serde(default)]
        force: bool,
    },
    /// The phase before. Done: `AdoptStatus`.
    AdoptBack {
        /// Name of the store.
        store: String,
    },
    /// How far each store has been adopted. Done: `AdoptStatus`.
    AdoptStatus {},
    /// Each image beside what each peer has of it. Done: `AdoptReport`.
    AdoptReport {
        /// Name of the store.
        store: String,
    },
    /// Offer and send nothing of it; what came is kept. Done: `OrdersReport`.
    Pause(Affected),
    /// End pauses and boosts of it, or for a time leave them out of account. Done: `OrdersReport`.
    Resume(Affected),
    /// Send it whatever calendars say; limits hold. Done: `OrdersReport`.
    Boost(Affected),
    /// One more limit, besides those of the configuration. Done: `OrdersReport`.
    LimitSet {
        /// Only what goes to this peer; absent: everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// On the wire; above 0.
        bits_per_second: u64,
        /// It ends by itself after so many seconds; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Drop what `limit_set` set for the same peer, or for everything. Done: `OrdersReport`.
    LimitClear {
        /// Which peer; absent: everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// The orders in force, and the rate towards each peer. Done: `OrdersReport`.
    Orders {},
    /// The calendars, or one of them. Done: `SchedulesReport`.
    Schedules {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Change a calendar in the configuration file, and put that into force. Done: `SchedulesReport`
    /// with one row.
    ScheduleSet {
        /// Which calendar.
        name: String,
        /// `tag` of the report that the change is based on; `*`: whatever there is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// What changes.
        edit: ScheduleEdit,
    },
    /// What the configuration file would change if it were read again now. Done: `ConfigPending`.
    ConfigCheck {},
    /// Events, oldest first, one `event` line each; done: `EventsDone` unless followed.
    Events {
        /// Keep the connection and send new events as they happen.
        #[serde(default)]
        follow: bool,
        /// Only events of the last so many seconds; absent: all that are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_seconds: Option<u64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_defaults_and_names_are_as_documented() {
        let request: Request =
            serde_json::from_str(r#"{"cmd":"push","image":"vdisks/win11.vhdx"}"#).unwrap();
        let expected = Request::Push {
            image: "vdisks/win11.vhdx".into(),
            peers: vec![],
            lane: None,
            wait: false,
        };
        assert_eq!(request, expected);
        let status = serde_json::to_string(&Request::Status {}).unwrap();
        assert_eq!(status, r#"{"cmd":"status"}"#);
        let text = r#"{"cmd":"pause","peer":"b","for_seconds":7}"#;
        let pause: Request = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&pause).unwrap(), text);
    }

    #[test]
    fn require_has_three_forms() {
        for (text, expected) in [
            (r#""all""#, Require::All),
            (r#"{"count":2}"#, Require::Count(2)),
            (r#"{"peers":["b"]}"#, Require::Peers(vec!["b".into()])),
        ] {
            assert_eq!(serde_json::from_str::<Require>(text).unwrap(), expected);
            assert_eq!(serde_json::to_string(&expected).unwrap(), text);
        }
    }

    #[test]
    fn unknown_commands_and_arguments_are_refused() {
        for text in [
            r#"{"cmd":"promote","image":"a/b","force":true}"#,
            r#"{"cmd":"status","watch":true}"#,
            r#"{"cmd":"publish","image":"a/b","unheard":"x"}"#,
            r#"{"image":"a/b"}"#,
            r#"{"cmd":"invite","store":"a","ttl_seconds":-1}"#,
            r#"{"cmd":"pause","peers":"a"}"#,
            r#"{"cmd":"limit_set"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
