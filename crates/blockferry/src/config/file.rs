//! The shape of `blockferry.toml`: what may be written, section by section.
//!
//! The doc comments are the descriptions in `config schema`. Every key is optional here; what is
//! required, and what must fit together, `settings` decides after all layers are merged. Keys of
//! later versions are not here: `known` refuses them by name.

use super::promote::Requirement;
use super::values::{
    ClockText, Compression, DatesText, DaysText, DfsrText, Period, Rate, Reserve, ScheduleRate,
    SetsChoice, Size, WindowText,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Configuration of a Blockferry node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    /// Version of this format: 1.
    pub(crate) version: Option<u32>,
    /// This node.
    pub(crate) node: NodeSection,
    /// The admin socket, and HTTP beside it.
    pub(crate) admin: AdminSection,
    /// Replicated directories by name; the name is the same on every member.
    pub(crate) stores: BTreeMap<String, StoreSection>,
    /// Other nodes, by the name they have here.
    pub(crate) peers: BTreeMap<String, PeerSection>,
    /// Calendars by name: how fast may be sent, by time.
    pub(crate) schedules: BTreeMap<String, ScheduleSection>,
    /// How much of the machine may be used.
    pub(crate) limits: LimitsSection,
    /// When a generation may be used.
    pub(crate) promote: PromoteSection,
    /// What is logged, and how.
    pub(crate) log: LogSection,
}

/// This node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NodeSection {
    /// Name that others see. Default: the host's name.
    pub(crate) name: Option<String>,
    /// UDP addresses to listen on (QUIC). Default: all addresses, port 7700.
    pub(crate) listen: Option<Vec<SocketAddr>>,
    /// HOST:PORT addresses written into tickets and told to peers. Default: those of this host.
    pub(crate) advertise: Option<Vec<String>>,
    /// Directory of the node's own database. Default: /var/lib/blockferry.
    pub(crate) state_dir: Option<PathBuf>,
    /// The node's secret key, mode 0600. Default: identity.key beside the configuration file.
    pub(crate) identity: Option<PathBuf>,
    /// Each store is looked at as a whole this often, whatever the watch said. Default: 1m.
    pub(crate) rescan: Option<Period>,
    /// settle of stores that were added by a command. Default: 30s.
    pub(crate) settle: Option<Period>,
}

/// The admin socket, and HTTP beside it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminSection {
    /// Path of the unix socket. Default: /run/blockferry/admin.sock.
    pub(crate) socket: Option<PathBuf>,
    /// Where REST, metrics and events are served (HTTP, TCP). Beyond loopback admin.tls and
    /// admin.tokens are needed. Default: nowhere.
    pub(crate) http: Option<SocketAddr>,
    /// Names by which HTTP is reached, besides addresses and localhost, without a port. A request for
    /// another name is refused. Default: none.
    pub(crate) hosts: Option<Vec<String>>,
    /// The certificate of HTTP.
    pub(crate) tls: TlsSection,
    /// Who may do what over HTTP, by name. Without any everybody who reaches it may read.
    pub(crate) tokens: BTreeMap<String, TokenSection>,
}

/// The certificate of HTTP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsSection {
    /// The certificate and those that lead to a root (PEM). Default: none, plain HTTP.
    pub(crate) cert: Option<PathBuf>,
    /// Its key (PEM); the world may not read it. Default: none.
    pub(crate) key: Option<PathBuf>,
}

/// A token, as `blockferry token new` makes it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenSection {
    /// The hash of the token, which itself is kept nowhere. Required.
    pub(crate) hash: Option<String>,
    /// read: look. operate: also publish, push, verify, pause and limit. admin: also change stores and
    /// peers. Required.
    pub(crate) scope: Option<ScopeChoice>,
}

/// A replicated directory.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSection {
    /// The directory; images are regular files directly in it. Required.
    pub(crate) path: Option<PathBuf>,
    /// writer: changes made here travel. mirror: only receives. Default: writer.
    pub(crate) role: Option<RoleChoice>,
    /// What the store holds: the defaults of include, exclude and sets. pvs: disks of Citrix
    /// Provisioning with their versions and .pvp and .xml files, without locks. hyper-v: disks and
    /// checkpoints. libvirt: qcow2 and raw images. Default: none.
    pub(crate) profile: Option<ProfileChoice>,
    /// Glob patterns of the images to replicate. Default: everything, or the profile's.
    pub(crate) include: Option<Vec<String>>,
    /// Glob patterns of files to leave alone. Default: *.lok, or the profile's.
    pub(crate) exclude: Option<Vec<String>>,
    /// Which images belong together and are published and replaced together. auto: disks with what
    /// their headers say they build upon, and .pvp and .xml files with the disk of their name. A
    /// list of glob patterns: the images that match one of them are a set. An empty list: no sets,
    /// and no image waits for another. Default: auto.
    pub(crate) sets: Option<SetsChoice>,
    /// An image must be quiet this long before a generation is recorded. Default: 30s.
    pub(crate) settle: Option<Period>,
    /// What to do with an image that somebody has open for writing. defer: wait until it is
    /// closed. snapshot: publish it as it is at one instant (crash-consistent), at most once in the
    /// time of settle, while the writer goes on; where there are no reflinks: defer. never: leave it
    /// alone until it is touched again or published by hand. Default: defer.
    pub(crate) in_use: Option<InUseChoice>,
    /// How a received generation is made current. clone: by reflink. journal: where little changes
    /// and nobody has the image open, into its own file, else as copy. copy: a whole new file, built
    /// upon the one before, which is kept. auto: clone where the file system can, else journal.
    /// Default: auto.
    pub(crate) commit: Option<CommitChoice>,
    /// Where the file system has reflinks: keep a clone of what was published last, so that the next
    /// change is found without reading the whole image. It takes the room of what changes. auto: for
    /// images that rest between updates. Default: auto.
    pub(crate) hold_base: Option<HoldBaseChoice>,
    /// Read a received image into the page cache when it is current, as far as half of the memory
    /// reaches that is to be had: for stores that machines boot from at once. Otherwise transfers
    /// leave the page cache as it was. Default: false.
    pub(crate) warm: Option<bool>,
    /// How many earlier contents of each image are kept to go back to, whatever peers send. Where the
    /// file system has reflinks they share storage; elsewhere each is a whole file, and updates are
    /// written as whole files, too. Default: 5 with reflinks, else 0.
    pub(crate) keep_generations: Option<u32>,
    /// For how many days in service earlier contents (unless keep_generations is 0) and deleted images
    /// are kept, even if they are more. Default: 7.
    pub(crate) keep_days: Option<u32>,
    /// When two nodes have changed an image at the same time: the node whose content goes on, by
    /// name or id. The other content is kept until somebody acknowledges it. Default: nobody's, an
    /// operator decides (blockferry conflicts, resolve).
    pub(crate) prefer: Option<String>,
    /// The directory is taken over from another tool (robocopy, rsync, DFS-R): when the store is made
    /// it begins by observing, and nothing there is touched until blockferry adopt next says so.
    /// Default: false.
    pub(crate) adopt: Option<bool>,
    /// What of it this node sends, to all peers together. Default: unlimited.
    pub(crate) send: Option<Rate>,
    /// Name of the calendar it is sent by. Default: none.
    pub(crate) schedule: Option<String>,
    /// How urgent its images are beside those of other stores. urgent: before everything else.
    /// normal. bulk: when nothing else wants the link; each lane leaves the next lower one a
    /// twentieth. Default: normal.
    pub(crate) lane: Option<LaneChoice>,
}

/// Another node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PeerSection {
    /// Its node id, as `blockferry id` prints it. Required.
    pub(crate) id: Option<String>,
    /// Where it is dialled, HOST:PORT. Default: nowhere, it dials this node.
    pub(crate) address: Option<Vec<String>>,
    /// Stores shared with it.
    pub(crate) stores: Option<Vec<String>>,
    /// Those of them in which it is a mirror: its generations are not taken. Default: none.
    pub(crate) mirrors: Option<Vec<String>>,
    /// How hard what is sent to it is compressed. Default: limits.compression.
    pub(crate) compression: Option<Compression>,
    /// What this node sends to it. Default: unlimited.
    pub(crate) send: Option<Rate>,
    /// Name of the calendar it is sent to by. Default: none.
    pub(crate) schedule: Option<String>,
    /// Its share of what this node sends when several peers want it: one of weight 2 gets twice as
    /// much as one of weight 1. From 1 to 100. Default: 1.
    #[schemars(range(min = 1, max = 100))]
    pub(crate) weight: Option<u32>,
    /// Other traffic goes before what this node sends to it: it takes what is free of the link and
    /// yields to the rest. Default: false, or as the calendar has it.
    pub(crate) polite: Option<bool>,
}

/// A calendar. The last rule that matches wins.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScheduleSection {
    /// Whose clock it goes by: a name of the IANA database. Required.
    pub(crate) zone: Option<String>,
    /// The rate when nothing else matches: a rate, unlimited or pause. Default: unlimited.
    pub(crate) default: Option<ScheduleRate>,
    /// Other traffic goes first, unless a rule says otherwise. Default: false.
    pub(crate) polite: Option<bool>,
    /// A week in DFS-R's form, one hexadecimal digit per quarter hour: 96 digits for every day, or
    /// seven times 96 beginning with Sunday, or DAYS=DIGITS for each. Rules go over it.
    pub(crate) dfsr: Option<DfsrText>,
    /// By when everything should be there each day, by this clock; what will not be is an event
    /// (WINDOW_MISSED) ahead of time. Default: the next change to a lower rate or a pause.
    pub(crate) by: Option<ClockText>,
    /// Rules.
    pub(crate) rule: Option<Vec<RuleSection>>,
}

/// A rate and when it is in force: on days and dates from a time to a time, or once.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RuleSection {
    /// Days on which it begins. Default: every day.
    pub(crate) days: Option<DaysText>,
    /// Dates on which it begins. Default: all.
    pub(crate) dates: Option<Vec<DatesText>>,
    /// When it begins. Default: 00:00.
    pub(crate) from: Option<ClockText>,
    /// When it ends; on the next day if that is not later than from. Default: 24:00.
    pub(crate) to: Option<ClockText>,
    /// Windows that come once, instead of days, dates, from and to.
    pub(crate) once: Option<Vec<WindowText>>,
    /// A rate, unlimited or pause. Required.
    pub(crate) rate: Option<ScheduleRate>,
    /// Other traffic goes first while it is in force. Default: as the schedule has it.
    pub(crate) polite: Option<bool>,
}

/// How much of the machine may be used.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsSection {
    /// What this node sends, all peers together. Default: unlimited.
    pub(crate) send: Option<Rate>,
    /// How hard what travels is compressed. auto: so that it is through soonest, by what the link
    /// takes and the CPU gives. none, or a level of zstd from 1 to 19: always that. Default: auto.
    pub(crate) compression: Option<Compression>,
    /// Name of the calendar for what this node sends, all peers together. Default: none.
    pub(crate) schedule: Option<String>,
    /// What is read from disk in the background, all stores together: to find what changed, to read
    /// back, to verify, to warm, for spares. Not what a running transfer reads. Default: unlimited.
    pub(crate) disk_read: Option<Rate>,
    /// What the service keeps in memory at most; at least 300 MiB. More makes the caches of the
    /// catalogs and of encoded packs larger and lets more large images be received at a time. A
    /// MemoryMax of the unit has to be above it. Default: 300 MiB.
    pub(crate) memory: Option<Size>,
    /// Room that stays free on a store's file system. Default: 5%.
    pub(crate) store_free_min: Option<Reserve>,
    /// A peer that lacks more than this is an event, BACKLOG_HIGH: changed bytes before any saving.
    /// Default: 100 GiB.
    pub(crate) backlog_high: Option<Size>,
    /// And when it lacks less than this again, BACKLOG_LOW. Default: half of backlog_high.
    pub(crate) backlog_low: Option<Size>,
    /// Transfers under way that need more room in a store than this are an event, STAGING_HIGH: bytes
    /// or a share of its file system. Default: 20%.
    pub(crate) staging_high: Option<Reserve>,
    /// And when they need less than this again, STAGING_LOW. Default: half of staging_high.
    pub(crate) staging_low: Option<Reserve>,
}

/// When a generation may be used.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PromoteSection {
    /// Who must hold it, verified, unless promote --require says it: all members of the store, a
    /// number of them, or those named. Default: all.
    pub(crate) require: Option<Requirement>,
    /// A program that is run on this node after a promotion that was asked for here, or of a mirror
    /// if this is the writer that made the generation, without a shell: HOOK
    /// STORE/NAME@GENERATION PATH, with BLOCKFERRY_* variables; 15 minutes at most. Its failure is
    /// the event HOOK_FAILED and exit status 1; the promotion stays. A mirror's own is not run.
    /// Default: none.
    pub(crate) hook_after: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogSection {
    /// error, warn, info, debug, trace, or a filter such as "info,blockferry_node=debug".
    /// Default: info.
    pub(crate) level: Option<String>,
    /// auto: the journal under systemd, else text on stderr. Default: auto.
    pub(crate) format: Option<LogFormat>,
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub(crate) enum $name { $(#[serde(rename = $text)] $variant),* }

        impl $name {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }
    )*};
}

choices! {
    /// What this node does in a store.
    RoleChoice { Writer = "writer", Mirror = "mirror" }
    /// What to do with an image that somebody writes.
    InUseChoice { Defer = "defer", Snapshot = "snapshot", Never = "never" }
    /// How a received generation is made current.
    CommitChoice { Auto = "auto", Clone = "clone", Journal = "journal", Copy = "copy" }
    /// How urgent a store's images are.
    LaneChoice { Urgent = "urgent", Normal = "normal", Bulk = "bulk" }
    HoldBaseChoice { Auto = "auto", Always = "always", Never = "never" }
    /// What a token may do; each includes the one before.
    ScopeChoice { Read = "read", Operate = "operate", Admin = "admin" }
    /// What a store holds.
    ProfileChoice { Pvs = "pvs", HyperV = "hyper-v", Libvirt = "libvirt" }
    /// How the log is written.
    LogFormat { Auto = "auto", Text = "text", Json = "json", Journald = "journald" }
}
