//! The JSON objects about contents that diverged: what there is, and what was decided.

use super::objects::Schema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a content that diverged stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConflictState {
    /// It is the image's current generation here.
    Current,
    /// It is kept beside the current one until somebody decides.
    Open,
    /// Somebody has decided; it is kept until that is acknowledged.
    Resolved,
    /// Something a newer service knows.
    #[default]
    #[serde(other)]
    Other,
}

/// `conflicts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConflictsReport {
    /// `v1`.
    pub schema: Schema,
    /// How many images wait for a decision.
    pub open: u64,
    /// One row for each image of which something is kept.
    pub conflicts: Vec<ConflictRow>,
}

/// One image with the contents that diverged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConflictRow {
    /// Its store.
    pub store: String,
    /// Its name in the store.
    pub image: String,
    /// A decision is due.
    pub open: bool,
    /// The current one first, then the kept ones, the latest first.
    pub contents: Vec<ConflictContent>,
}

/// One content of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConflictContent {
    /// How it stands.
    pub state: ConflictState,
    /// Its number here, or the one it came with.
    pub generation: u64,
    /// Hex BLAKE3.
    pub root: String,
    /// Size of the image.
    pub size_bytes: u64,
    /// Name or id of the node that recorded it first.
    pub author: String,
    /// When this node recorded or received it, RFC 3339.
    pub recorded: String,
    /// Where it lies here; empty: only others keep it.
    pub path: String,
    /// Peers that say they hold it as current, by name.
    pub peers: Vec<String>,
    /// Members that keep it beside their current one, by name, where it isn't here.
    #[serde(default)]
    pub kept_at: Vec<String>,
}

/// `resolve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResolveReport {
    /// `v1`.
    pub schema: Schema,
    /// `STORE/NAME`.
    pub image: String,
    /// Number of the current generation.
    pub generation: u64,
    /// Hex BLAKE3 of it.
    pub root: String,
    /// The images that the other contents have become (`--keep both`).
    pub beside: Vec<String>,
    /// How many kept contents were let go of (`--acknowledge`).
    pub released: u64,
    /// The member that was asked to end the conflict, for the content isn't here: `generation` is then
    /// what is current here, `root` what will be. `null`: it is over.
    #[serde(default)]
    pub told: Option<String>,
}
