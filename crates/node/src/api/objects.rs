//! The JSON objects that commands end with: a contract with scripts.
//!
//! Field names are those of the documentation, units last; `root` is the hex BLAKE3 of the file,
//! what `b3sum` prints; times are RFC 3339 in UTC; absent knowledge is `null`, never a made-up
//! number. Fields may be added, so nothing here refuses fields it doesn't know, and every
//! enumeration has a value for what a newer service may say.

use super::request::Role;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// The `"schema": "v1"` of every object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Schema;

impl Schema {
    /// The version as it is written.
    pub const VERSION: &'static str = "v1";
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Schema::VERSION)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Schema, D::Error> {
        let version = String::deserialize(deserializer)?;
        if version == Schema::VERSION {
            return Ok(Schema);
        }
        Err(serde::de::Error::custom(format!("schema {version:?}, this version reads \"v1\"")))
    }
}

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Connected and talking.
    Up,
    /// Being dialled.
    Connecting,
    /// Not connected.
    #[default]
    Down,
    /// One side refuses the other.
    Refused,
    /// Something a newer service knows.
    #[serde(other)]
    Other,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusReport {
    /// `v1`.
    pub schema: Schema,
    /// The node that answers.
    pub node: NodeRow,
    /// Its peers.
    pub peers: Vec<PeerRow>,
    /// Its stores.
    pub stores: Vec<StoreRow>,
}

/// The node that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeRow {
    /// Base32 node id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Version of the binary.
    pub version: String,
    /// Since the start of the service.
    pub uptime_seconds: u64,
    /// Addresses it listens on.
    #[serde(default)]
    pub listen: Vec<String>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerRow {
    /// Base32 node id.
    pub id: String,
    /// Its name here.
    pub name: String,
    /// `state` is `up`.
    pub connected: bool,
    /// Round trip as the connection measures it; `null` when not connected.
    pub rtt_ms: Option<f64>,
    /// Limit in force towards it, the tightest of node, peer, calendar and order; 0: paused; `null`:
    /// none.
    pub rate_limit_bits_per_second: Option<u64>,
    /// What it lacks, before any saving.
    pub backlog_bytes: u64,
    /// How many images it lacks.
    pub backlog_images: u64,
    /// How it is reached.
    pub state: PeerState,
    /// Addresses it is dialled at.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Stores shared with it.
    #[serde(default)]
    pub stores: Vec<String>,
    /// The calendar it is sent to by; `null`: none.
    #[serde(default)]
    pub schedule: Option<String>,
    /// Its share beside other peers.
    #[serde(default = "one")]
    pub weight: u32,
    /// Other traffic goes before what is sent to it, as things are now.
    #[serde(default)]
    pub polite: bool,
    /// What the limit comes from, in words.
    #[serde(default)]
    pub limited_by: String,
    /// Until when it is in force, RFC 3339; `null`: nothing changes it by itself.
    #[serde(default)]
    pub limit_until: Option<String>,
    /// Limit from `limit_until` on; 0: paused; `null`: none, or nothing changes it by itself.
    #[serde(default)]
    pub next_rate_limit_bits_per_second: Option<u64>,
    /// Since when it is connected, or isn't any more, RFC 3339; `null`: it has not been since the start.
    #[serde(default)]
    pub since: Option<String>,
    /// When everything that it lacks will be there, RFC 3339; `null`: nothing waits, or nobody can say.
    #[serde(default)]
    pub finish: Option<String>,
    /// Why the two don't talk though they reach each other, a stable code as `VERSION_UNSUPPORTED`;
    /// `null`: nothing is known against it.
    #[serde(default)]
    pub refused: Option<String>,
    /// Protocol version that both speak; `null` when not connected.
    #[serde(default)]
    pub protocol: Option<u16>,
    /// Its program and version, as it says; `null` when not connected.
    #[serde(default)]
    pub agent: Option<String>,
}

/// `peer ls`, `peer show`, `peer set`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeersReport {
    /// `v1`.
    pub schema: Schema,
    /// One row each.
    pub peers: Vec<PeerRow>,
}

/// One store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreRow {
    /// Its name on every member.
    pub name: String,
    /// Its directory on this node.
    pub path: String,
    /// Role of this node.
    pub role: Role,
    /// `clone` or `copy`.
    pub commit_mode: String,
    /// How many images it holds.
    pub images: u64,
    /// Every member is known to hold the current generation of every image.
    pub in_sync: bool,
    /// Hex store id.
    #[serde(default)]
    pub id: String,
    /// Its members other than this node, by name.
    #[serde(default)]
    pub peers: Vec<String>,
    /// When every peer that can be reached will have everything, RFC 3339; `null`: nothing waits, or
    /// nobody can say.
    #[serde(default)]
    pub finish: Option<String>,
    /// What its file system has left; `null`: it can't be asked.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Contents that are kept beside the current ones.
    #[serde(default)]
    pub kept: u64,
    /// Storage of their files in bytes; where reflinks work much of it is shared.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Code of why it is not in service, as `STORE_MISSING`; `null`: it is. Until then nothing else is
    /// known of it.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// `store ls`, `store show`, `store add`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoresReport {
    /// `v1`.
    pub schema: Schema,
    /// One row each.
    pub stores: Vec<StoreRow>,
}

/// `store rm`, `peer rm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// `v1`.
    pub schema: Schema,
    /// Name of what was removed.
    pub removed: String,
}

/// `invite`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// `v1`.
    pub schema: Schema,
    /// One line to hand to the other node: a secret.
    pub ticket: String,
    /// Store it admits to.
    pub store: String,
    /// Role it grants.
    pub role: Role,
    /// When it stops being good, RFC 3339.
    pub expires: String,
}

/// `join`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// `v1`.
    pub schema: Schema,
    /// Store that this node now takes part in.
    pub store: String,
    /// Where it lives here.
    pub path: String,
    /// Role of this node.
    pub role: Role,
    /// Name of the inviter here.
    pub peer: String,
    /// Base32 id of the inviter.
    pub peer_id: String,
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BacklogItem, EventsDone, GenerationRow, ImagePeer, ImageRow, ImageState};
    use crate::api::{PlanReport, ReadyReport, WaitReason};
    use serde_json::{Value, json};

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    fn round_trip<T>(object: &Value) -> Value
    where
        T: Serialize + serde::de::DeserializeOwned,
    {
        let typed: T = serde_json::from_value(object.clone()).unwrap();
        serde_json::to_value(&typed).unwrap()
    }

    /// Every documented field survives a round trip under its documented name.
    fn documented<T>(object: &Value)
    where
        T: Serialize + serde::de::DeserializeOwned,
    {
        let back = round_trip::<T>(object);
        for key in keys(object) {
            assert_eq!(back[key], object[key], "{key}");
            let mut without = object.clone();
            without.as_object_mut().unwrap().remove(key);
            let optional = object[key].is_null();
            let parsed = serde_json::from_value::<T>(without);
            assert!(optional || parsed.is_err(), "{key} is documented and must be there");
        }
    }

    #[test]
    fn documented_objects() {
        documented::<NodeRow>(
            &json!({"id": "A", "name": "n", "version": "0.1.0", "uptime_seconds": 3}),
        );
        documented::<PeerRow>(
            &json!({"id": "A", "name": "n", "connected": true, "rtt_ms": 0.5,
            "rate_limit_bits_per_second": 1000, "backlog_bytes": 1, "backlog_images": 1,
            "state": "up"})
            .take_nullable(&["rtt_ms", "rate_limit_bits_per_second"]),
        );
        documented::<StoreRow>(&json!({"name": "s", "path": "/s", "role": "mirror",
            "commit_mode": "clone", "images": 2, "in_sync": false}));
        documented::<ImagePeer>(
            &json!({"peer": "p", "generation": null, "state": "in_sync", "lag_seconds": null}),
        );
        documented::<BacklogItem>(&json!({"store": "s", "image": "i", "peer": "p", "bytes": 4,
            "eta": null, "reason": "peer_down"}));
        documented::<PlanReport>(
            &json!({"schema": "v1", "image": "s/i", "base": null, "generation": 2,
            "keep_bytes": 1, "zero_bytes": 2, "found_bytes": null, "send_bytes": 4,
            "wire_bytes_estimate": 5, "finish": null}),
        );
        documented::<ReadyReport>(
            &json!({"schema": "v1", "image": "s/i", "generation": 2, "ready": false,
            "peers": [{"peer": "p", "ready": false, "reason": "transferring", "generation": 1,
                "eta": null, "of": null}]}),
        );
        documented::<GenerationRow>(
            &json!({"generation": 1, "root": "00", "size_bytes": 1, "author": "a",
            "recorded": "2026-01-01T00:00:00Z", "discover": "scan", "bytes_read": 1,
            "dirty_bytes": 1,
            "wire_bytes": 0, "seconds": 0.5, "peers": []}),
        );
    }

    #[test]
    fn absent_knowledge_is_null_not_missing() {
        let row = ImageRow {
            store: "s".into(),
            name: "i".into(),
            generation: None,
            root: None,
            size_bytes: 0,
            state: ImageState::Changed,
            set: None,
            peers: vec![],
            promoted: None,
        };
        let value = serde_json::to_value(&row).unwrap();
        for key in ["store", "name", "generation", "root", "size_bytes", "state", "set", "peers"] {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["root"], Value::Null);
    }

    #[test]
    fn documented_reasons() {
        for reason in [
            "schedule",
            "paused",
            "in_use",
            "peer_down",
            "space",
            "diverged",
            "transferring",
            "set_incomplete",
            "observing",
        ] {
            assert_eq!(round_trip::<WaitReason>(&json!(reason)), json!(reason));
        }
        assert_eq!(round_trip::<WaitReason>(&json!("moonlight")), json!("other"));
    }

    #[test]
    fn newer_fields_are_ignored_and_other_schemas_refused() {
        let object = json!({"schema": "v1", "events": 1, "more": 2});
        assert!(serde_json::from_value::<EventsDone>(object).is_ok());
        let object = json!({"schema": "v2", "events": 1});
        assert!(serde_json::from_value::<EventsDone>(object).is_err());
    }

    trait TakeNullable {
        fn take_nullable(self, keys: &[&str]) -> Value;
    }

    impl TakeNullable for Value {
        /// The same object with `null` in these fields, which may therefore be left out.
        fn take_nullable(mut self, keys: &[&str]) -> Value {
            for key in keys {
                self[*key] = Value::Null;
            }
            self
        }
    }
}
