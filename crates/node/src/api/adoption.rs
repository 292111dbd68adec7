//! The JSON objects about stores that are taken over from another tool.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::objects::Schema;
use super::request::Role;

/// How far a store has been adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdoptionPhase {
    /// Not at all, or it is over.
    Off,
    /// Images are recorded and compared; nothing is received.
    Observe,
    /// What peers have is received beside the images.
    Shadow,
    /// What peers have replaces the images; what it replaces is kept.
    Active,
    /// Something a newer service knows.
    #[default]
    #[serde(other)]
    Other,
}

/// How an image here stands to what a peer has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The bytes are equal.
    Equal,
    /// The bytes are equal, the modification times aren't.
    TimesAdrift,
    /// The peer has it, and it isn't here.
    Missing,
    /// The peer has something newer.
    Stale,
    /// What is here is newer than what the peer has.
    NewerHere,
    /// The bytes differ, and nobody can say which are newer.
    Differs,
    /// The peer doesn't have it.
    OnlyHere,
    /// It is here and hasn't been read yet.
    Unrecorded,
    /// Something a newer service knows.
    #[default]
    #[serde(other)]
    Other,
}

impl Compared {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Compared::Equal => "equal",
            Compared::TimesAdrift => "times_adrift",
            Compared::Missing => "missing",
            Compared::Stale => "stale",
            Compared::NewerHere => "newer_here",
            Compared::Differs => "differs",
            Compared::OnlyHere => "only_here",
            Compared::Unrecorded => "unrecorded",
            Compared::Other => "other",
        }
    }
}

/// `adopt start`, `adopt next`, `adopt back`, `adopt status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptStatus {
    /// `v1`.
    pub schema: Schema,
    /// One row for each store.
    pub stores: Vec<AdoptStoreRow>,
}

/// One store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptStoreRow {
    /// Its name.
    pub store: String,
    /// Its directory here.
    pub path: String,
    /// Our role in it.
    pub role: Role,
    /// How far it has been adopted.
    pub phase: AdoptionPhase,
    /// The phase it is on its way to; `null`: it rests.
    pub going_to: Option<AdoptionPhase>,
    /// Images that are recorded.
    pub recorded: u64,
    /// Files that aren't recorded yet, or have changed since.
    pub unrecorded: u64,
    /// Images of which two contents diverged.
    pub diverged: u64,
    /// Contents that were received beside images.
    pub shadow: u64,
    /// Their storage in bytes, that which they share counted, too.
    pub shadow_bytes: u64,
    /// Contents of the old tool that were replaced and are kept.
    pub old_tool: u64,
    /// Their storage in bytes, that which they share counted, too.
    pub old_tool_bytes: u64,
    /// How many images (each beside each connected peer) stand how.
    pub compared: BTreeMap<Compared, u64>,
}

/// `adopt report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptReport {
    /// `v1`.
    pub schema: Schema,
    /// The store.
    pub store: String,
    /// How far it has been adopted.
    pub phase: AdoptionPhase,
    /// Peers that share it; what of them isn't connected has no rows.
    pub peers: Vec<String>,
    /// Each image beside each peer.
    pub images: Vec<AdoptRow>,
}

/// One image beside one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdoptRow {
    /// Its name in the store.
    pub image: String,
    /// The peer.
    pub peer: String,
    /// How they stand.
    pub state: Compared,
    /// Size here; `null`: it isn't here, or not recorded.
    pub size_bytes: Option<u64>,
    /// Size there, as far as it was offered.
    pub peer_size_bytes: Option<u64>,
    /// Hex BLAKE3 of what is here.
    pub root: Option<String>,
    /// Hex BLAKE3 of what is there.
    pub peer_root: Option<String>,
    /// When it was modified here, RFC 3339.
    pub modified: Option<String>,
    /// When it was modified there, as far as it was offered.
    pub peer_modified: Option<String>,
    /// What a peer has of it lies beside it here.
    pub shadow: bool,
}
