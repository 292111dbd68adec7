//! The JSON objects about images: what is there, what changed, what travels, what is verified.
//!
//! The same contract as in `objects`: documented names, units last, `null` for what is not known.

use super::objects::Schema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How an image stands on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// The file is the current generation.
    Current,
    /// The file has changed since; it is not quiet yet or waits to be recorded.
    Changed,
    /// A generation is being recorded.
    Recording,
    /// A generation is being received.
    Receiving,
    /// The file is not there.
    Missing,
    /// Histories that do not descend from one another.
    Diverged,
    /// The file failed verification.
    Damaged,
    /// What it builds upon is not in the store, or has a fault itself.
    SetIncomplete,
    /// What it builds upon is not what it remembers.
    ParentMismatch,
    /// Something a newer service knows.
    #[default]
    #[serde(other)]
    Other,
}

/// How an image stands on a peer, as far as its receipts tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairState {
    /// It holds the current generation, verified.
    InSync,
    /// It is being brought there.
    Transferring,
    /// It lacks it; the backlog says why.
    Waiting,
    /// Histories that do not descend from one another.
    Diverged,
    /// Nothing is known yet.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Why something waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The calendar.
    Schedule,
    /// An operator.
    Paused,
    /// Somebody has the image open.
    InUse,
    /// The peer is not connected.
    PeerDown,
    /// The peer has no room.
    Space,
    /// Histories that do not descend from one another.
    Diverged,
    /// It is on its way, or next.
    Transferring,
    /// Images that belong to it are missing.
    SetIncomplete,
    /// The peer adopts the store from another tool and only looks yet.
    Observing,
    /// It is there and is being read back from disk.
    Verifying,
    /// Its file has changed there and nothing newer is recorded yet.
    Changed,
    /// What was read back there is not what was written.
    Damaged,
    /// What it holds isn't known: there is no room for its receipt here.
    StatementsFull,
    /// Something a newer service knows.
    #[default]
    #[serde(other)]
    Other,
}

impl WaitReason {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::Schedule => "schedule",
            WaitReason::Paused => "paused",
            WaitReason::InUse => "in_use",
            WaitReason::PeerDown => "peer_down",
            WaitReason::Space => "space",
            WaitReason::Diverged => "diverged",
            WaitReason::Transferring => "transferring",
            WaitReason::SetIncomplete => "set_incomplete",
            WaitReason::Observing => "observing",
            WaitReason::Verifying => "verifying",
            WaitReason::Changed => "changed",
            WaitReason::Damaged => "damaged",
            WaitReason::StatementsFull => "statements_full",
            WaitReason::Other => "other",
        }
    }
}

/// `image ls`, `image show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImagesReport {
    /// `v1`.
    pub schema: Schema,
    /// One row each.
    pub images: Vec<ImageRow>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImageRow {
    /// Its store.
    pub store: String,
    /// Its name in the store.
    pub name: String,
    /// Number of the current generation; `null` before the first.
    pub generation: Option<u64>,
    /// Hex BLAKE3 of the current generation.
    pub root: Option<String>,
    /// Size of the current generation.
    pub size_bytes: u64,
    /// How it stands here.
    pub state: ImageState,
    /// The set it belongs to; `null`: none.
    pub set: Option<String>,
    /// How it stands on the others.
    pub peers: Vec<ImagePeer>,
    /// Its last promotion on any member; `null`: none is known.
    #[serde(default)]
    pub promoted: Option<PromotedRow>,
}

/// One image on one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImagePeer {
    /// Name of the peer.
    pub peer: String,
    /// Newest generation it gave a receipt for.
    pub generation: Option<u64>,
    /// How it stands there.
    pub state: PairState,
    /// Age of the oldest generation it lacks; 0 when in sync.
    pub lag_seconds: Option<f64>,
}

/// `image history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    #[serde(default)]
    pub image: String,
    /// Newest first.
    pub generations: Vec<GenerationRow>,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationRow {
    /// Its number.
    pub generation: u64,
    /// Hex BLAKE3.
    pub root: String,
    /// Size of the image.
    pub size_bytes: u64,
    /// Name or id of the node that recorded it first.
    pub author: String,
    /// When this node recorded it, RFC 3339.
    pub recorded: String,
    /// How what changed was found: `scan`, `extents`, `map`, `metadata`, `received`; `deleted`: it says
    /// that the image was deleted.
    pub discover: String,
    /// Image bytes read to find it.
    pub bytes_read: u64,
    /// Bytes of the pages that differ from the generation before.
    pub dirty_bytes: u64,
    /// Bytes on the wire to bring it here (0 when recorded here).
    pub wire_bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Names of the peers that gave a receipt for it.
    pub peers: Vec<String>,
    /// Its promotions, oldest first.
    #[serde(default)]
    pub promoted: Vec<PromotedRow>,
    /// Its content is here: it is the current one, or can be rolled back to.
    #[serde(default)]
    pub kept: bool,
    /// Where its bytes came from; `null`: it was recorded here, or received before the last start.
    #[serde(default)]
    pub came: Option<CameRow>,
}

/// Where the bytes of a received generation came from; together its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CameRow {
    /// As in the base.
    pub keep_bytes: u64,
    /// From elsewhere here.
    pub found_bytes: u64,
    /// Zeros.
    pub zero_bytes: u64,
    /// From the peer, before compression.
    pub sent_bytes: u64,
}

/// `rollback`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RollbackReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// The generation whose content it is.
    pub from: u64,
    /// `false`: the image had that content already.
    pub recorded: bool,
    /// The generation that is current now.
    pub generation: u64,
    /// Hex BLAKE3.
    pub root: String,
    /// Size of the image.
    pub size_bytes: u64,
    /// How long it took here.
    pub seconds: f64,
    /// Other images of its set that went back with it, as one.
    #[serde(default)]
    pub with: Vec<RolledBack>,
}

/// An image that went back with another one of its set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolledBack {
    /// `STORE/NAME`.
    pub image: String,
    /// The generation whose content it is.
    pub from: u64,
    /// `false`: the image had that content already.
    pub recorded: bool,
    /// The generation that is current now.
    pub generation: u64,
    /// Hex BLAKE3.
    pub root: String,
    /// Size of the image.
    pub size_bytes: u64,
}

/// `publish`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PublishReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// `false`: nothing had changed, the generation is the one before.
    pub recorded: bool,
    /// Its number.
    pub generation: u64,
    /// Hex BLAKE3.
    pub root: String,
    /// Size of the image.
    pub size_bytes: u64,
    /// How what changed was found: as in the history, or `unchanged`.
    #[serde(default)]
    pub discover: String,
    /// Image bytes read.
    pub bytes_read: u64,
    /// Bytes of the pages that differ from the generation before.
    pub dirty_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// `plan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// For which peer.
    #[serde(default)]
    pub peer: Option<String>,
    /// Number of the generation the delta starts from; `null`: from nothing.
    pub base: Option<u64>,
    /// Number of the generation that would travel.
    pub generation: u64,
    /// Bytes that stay as they are in the base.
    pub keep_bytes: u64,
    /// Bytes that are zero.
    pub zero_bytes: u64,
    /// Bytes the receiver has elsewhere; `null`: only the receiver knows.
    pub found_bytes: Option<u64>,
    /// Bytes to send before compression, at most.
    pub send_bytes: u64,
    /// Bytes on the wire, estimated from a sample.
    pub wire_bytes_estimate: u64,
    /// When it would be there, RFC 3339; `null` when no rate is known, or never.
    pub finish: Option<String>,
    /// When it would begin, RFC 3339, if that was asked; `null`: now, in its turn.
    #[serde(default)]
    pub start: Option<String>,
    /// By when it should be there, RFC 3339, if that was asked.
    #[serde(default)]
    pub by: Option<String>,
    /// Whether it would be there by then; `null`: not asked, or nobody can say.
    #[serde(default)]
    pub fits: Option<bool>,
    /// Rate that would take: on the wire, for it alone, whenever the calendar doesn't pause between
    /// `start` and `by`; `null`: not asked, or all that time it is paused.
    #[serde(default)]
    pub rate_needed_bits_per_second: Option<u64>,
}

/// One peer of a `push`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PushPeer {
    /// Name of the peer.
    pub peer: String,
    /// `in_sync` when its receipt is there.
    pub state: PairState,
    /// Why it waits, else `null`.
    pub reason: Option<WaitReason>,
    /// Bytes on the wire for it.
    #[serde(default)]
    pub wire_bytes: u64,
}

/// `push`: the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PushDone {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// Which generation.
    pub generation: u64,
    /// Every asked peer holds it.
    pub in_sync: bool,
    /// The asked peers.
    pub peers: Vec<PushPeer>,
    /// How long it took.
    #[serde(default)]
    pub seconds: f64,
}

/// `backlog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BacklogReport {
    /// `v1`.
    pub schema: Schema,
    /// One per image and peer that lacks it.
    pub items: Vec<BacklogItem>,
}

/// One image that one peer lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BacklogItem {
    /// Its store.
    pub store: String,
    /// Its name in the store.
    pub image: String,
    /// Who lacks it.
    pub peer: String,
    /// Changed bytes that are not there yet, before any saving.
    pub bytes: u64,
    /// Of these, so many are there already; `null`: it isn't on its way.
    #[serde(default)]
    pub done_bytes: Option<u64>,
    /// When it would be there, RFC 3339; `null` when no rate is known.
    pub eta: Option<String>,
    /// Why it waits. `in_use` with 0 bytes: it changed here and can't be recorded while somebody
    /// has it open for writing.
    pub reason: WaitReason,
    /// Who has it open for writing here, with the process's number, where that is in the way and
    /// can be told.
    #[serde(default)]
    pub holder: Option<String>,
    /// Why the peer and this node don't talk, a stable code, where that is why it is down.
    #[serde(default)]
    pub refused: Option<String>,
}

/// `ready`, `wait`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadyReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// Which generation was asked for.
    pub generation: u64,
    /// Enough peers hold it.
    pub ready: bool,
    /// The peers that count.
    pub peers: Vec<PeerReady>,
}

/// One peer of `ready`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerReady {
    /// Name of the peer.
    pub peer: String,
    /// It holds this generation, or one that came of it, and has read it back from disk.
    pub ready: bool,
    /// Why not, else `null`.
    pub reason: Option<WaitReason>,
    /// Number of the generation that it says it holds; `null`: it has said nothing.
    #[serde(default)]
    pub generation: Option<u64>,
    /// When it would be there, RFC 3339; `null` when it is there or that isn't known here.
    #[serde(default)]
    pub eta: Option<String>,
    /// The image of the set that `reason`, `generation` and `eta` are about, `STORE/NAME`; `null`: the one
    /// that was asked about.
    #[serde(default)]
    pub of: Option<String>,
}

/// `promote`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromoteReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// Which generation was meant.
    pub generation: u64,
    /// It is promoted, and that is kept.
    pub promoted: bool,
    /// Why not, a stable code; else `null`.
    pub code: Option<String>,
    /// Why not, in words, with who holds what; else `null`.
    pub message: Option<String>,
    /// What to do then.
    #[serde(default)]
    pub remedy: Option<String>,
    /// The members that count, as in `ready`.
    pub peers: Vec<PeerReady>,
    /// Names of those on whose receipts it was promoted.
    pub receipts: Vec<String>,
    /// What came of `promote.hook_after`; `null`: none was run.
    #[serde(default)]
    pub hook: Option<HookReport>,
}

/// What came of a hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HookReport {
    /// Its path.
    pub program: String,
    /// It ended with status 0.
    pub ok: bool,
    /// How it ended and what it printed last.
    pub said: String,
    /// How long it took.
    pub seconds: f64,
}

/// A promotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromotedRow {
    /// Number of the generation on the node where it was done.
    pub generation: u64,
    /// Hex BLAKE3.
    pub root: String,
    /// Name of the node where it was done.
    pub node: String,
    /// Who asked there.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// Names of those on whose receipts it was done.
    pub receipts: Vec<String>,
}

/// One image of `verify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerifiedImage {
    /// `STORE/NAME`.
    pub image: String,
    /// Which generation it was compared with.
    pub generation: u64,
    /// Every block and the root are as recorded.
    pub ok: bool,
    /// Bytes re-hashed.
    pub bytes: u64,
    /// Bytes that are not as recorded.
    pub bad_bytes: u64,
    /// Where, as (offset, length) in bytes; at most the first 1,000.
    pub bad: Vec<(u64, u64)>,
    /// What was wrong has been fetched again from a peer.
    #[serde(default)]
    pub repaired: bool,
    /// Why what is wrong was not repaired though that was asked for, else `null`.
    #[serde(default)]
    pub not_repaired: Option<String>,
    /// Why it could not be compared, else `null`: changed since, in use.
    #[serde(default)]
    pub skipped: Option<String>,
}

/// `verify`: the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerifyDone {
    /// `v1`.
    pub schema: Schema,
    /// Nothing was wrong, or all of it is repaired.
    pub ok: bool,
    /// Images compared.
    pub images: u64,
    /// Images in which something was wrong.
    pub bad_images: u64,
    /// Of these, those that are right again.
    #[serde(default)]
    pub repaired_images: u64,
    /// Images that could not be compared.
    pub skipped_images: u64,
    /// Bytes re-hashed.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// `events`: the summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventsDone {
    /// `v1`.
    pub schema: Schema,
    /// How many were sent.
    pub events: u64,
}
