//! Members: stores and peers that were added at run time.
//!
//! `state_dir/managed.toml` has the same `[stores.*]` and `[peers.*]` tables as the configuration
//! file, so that an operator can move them over by hand. It is written whole: a new file, synced,
//! renamed, directory synced. A file that can't be read is an error at start and never "no peers".

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockferry_delta::{NodeId, StoreName};
use serde::{Deserialize, Serialize};

use crate::api::Role;
use crate::config::{Allowance, PeerConfig, Setting, StoreConfig};
use crate::error::{Error, Result};
use crate::membership::identity::sync_parent;
use crate::rate::rates::weight_of;

/// Version of the file.
const VERSION: u32 = 1;
/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    revoked: BTreeMap<String, i64>,
    #[serde(default)]
    stores: BTreeMap<String, StoreTable>,
    #[serde(default)]
    peers: BTreeMap<String, PeerTable>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreTable {
    path: PathBuf,
    role: Role,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerTable {
    id: String,
    #[serde(default)]
    address: Vec<String>,
    stores: Vec<String>,
    /// Stores in which the peer may not make generations.
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compression: Option<String>,
    /// The calendar it is sent to by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    /// Its share beside other peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// Other traffic goes before what is sent to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    polite: bool,
}

/// What was added at run time.
#[derive(Clone, Debug)]
pub struct Members {
    path: PathBuf,
    settle: Duration,
    /// Stores by name.
    pub stores: BTreeMap<StoreName, StoreConfig>,
    /// Peers by id.
    pub peers: BTreeMap<NodeId, PeerConfig>,
    /// Keys that were removed, with the moment in milliseconds since 1970.
    pub revoked: BTreeMap<NodeId, i64>,
}

impl Members {
    /// Reads the file; none is an empty one. Stores get `settle` as their quiet time.
    pub fn load(path: &Path, settle: Duration) -> Result<Self> {
        let mut members = Self {
            path: path.to_owned(),
            settle,
            stores: BTreeMap::new(),
            peers: BTreeMap::new(),
            revoked: BTreeMap::new(),
        };
        match fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(members),
            Err(e) => return Err(Error::io("stat", path, e)),
            Ok(info) if info.len() > FILE_BYTES_MAX => {
                return Err(members.bad(&format!("larger than {FILE_BYTES_MAX} bytes")));
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let file: File = toml::from_str(&text).map_err(|e| members.bad(&e))?;
        members.take(file)?;
        Ok(members)
    }

    /// Writes the file so that a crash leaves the old or the new one.
    pub fn save(&self) -> Result<()> {
        let text = toml::to_string(&self.file()).map_err(|e| self.bad(&e))?;
        let temporary = self.path.with_extension("toml.new");
        let mut file =
            fs::File::create(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
        file.write_all(text.as_bytes()).map_err(|e| Error::io("write", &temporary, e))?;
        file.sync_all().map_err(|e| Error::io("sync", &temporary, e))?;
        fs::rename(&temporary, &self.path).map_err(|e| Error::io("rename", &temporary, e))?;
        sync_parent(&self.path)
    }

    fn take(&mut self, file: File) -> Result<()> {
        if file.version != VERSION {
            return Err(self.bad(&format!("version {}, this program reads 1", file.version)));
        }
        for (name, table) in file.stores {
            let name = StoreName::new(&name).map_err(|e| self.bad(&e))?;
            let mut store = StoreConfig::new(name.clone(), table.path, table.role);
            store.settle = self.settle;
            self.stores.insert(name, store);
        }
        for (name, table) in file.peers {
            let id: NodeId = table.id.parse().map_err(|e| self.bad(&e))?;
            let names = |list: Vec<String>| {
                list.iter().map(|n| StoreName::new(n)).collect::<Result<Vec<_>, _>>()
            };
            let stores = names(table.stores).map_err(|e| self.bad(&e))?;
            let mirrors = names(table.mirrors).map_err(|e| self.bad(&e))?;
            let compression = table.compression.map(|text| text.parse::<Setting>());
            let compression = compression.transpose().map_err(|e| self.bad(&e))?;
            let weight = table.weight.map_or(Ok(1), weight_of).map_err(|e| self.bad(&e))?;
            let (schedule, polite) = (table.schedule, table.polite);
            let send = Allowance { schedule, weight, polite, ..Allowance::default() };
            let addresses = table.address;
            let peer = PeerConfig { name, id, addresses, stores, mirrors, compression, send };
            self.peers.insert(id, peer);
        }
        for (id, unix_ms) in file.revoked {
            self.revoked.insert(id.parse().map_err(|e| self.bad(&e))?, unix_ms);
        }
        Ok(())
    }

    fn file(&self) -> File {
        let stores = self.stores.values().map(|s| {
            let table = StoreTable { path: s.path.clone(), role: s.role };
            (s.name.to_string(), table)
        });
        let peers = self.peers.values().map(|p| {
            let names = |list: &[StoreName]| list.iter().map(ToString::to_string).collect();
            let table = PeerTable {
                id: p.id.to_string(),
                address: p.addresses.clone(),
                stores: names(&p.stores),
                mirrors: names(&p.mirrors),
                compression: p.compression.map(|setting| setting.to_string()),
                schedule: p.send.schedule.clone(),
                weight: Some(p.send.weight).filter(|weight| *weight != 1),
                polite: p.send.polite,
            };
            (p.name.clone(), table)
        });
        File {
            version: VERSION,
            revoked: self.revoked.iter().map(|(id, at)| (id.to_string(), *at)).collect(),
            stores: stores.collect(),
            peers: peers.collect(),
        }
    }

    fn bad(&self, what: &dyn std::fmt::Display) -> Error {
        Error::State { path: self.path.clone(), what: what.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use blockferry_wire::Compression;

    use super::*;

    fn name(text: &str) -> StoreName {
        StoreName::new(text).expect("a name")
    }

    #[test]
    fn it_survives_the_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("managed.toml");
        let mut members = Members::load(&path, Duration::from_secs(1)).expect("none yet");
        let store = StoreConfig::new(name("vdisks"), "/srv/vdisks".into(), Role::Mirror);
        members.stores.insert(store.name.clone(), store);
        let id = NodeId::from_bytes([3; 32]);
        let peer = PeerConfig {
            name: "branch \"07\"".into(),
            id,
            addresses: vec!["[::1]:7700".into()],
            stores: vec![name("vdisks")],
            mirrors: vec![name("vdisks")],
            compression: Some(Setting::Fixed(Compression::zstd(9))),
            send: Allowance {
                schedule: Some("night".into()),
                weight: 3,
                polite: true,
                ..Allowance::default()
            },
        };
        members.peers.insert(id, peer.clone());
        members.revoked.insert(NodeId::from_bytes([4; 32]), 1234);
        members.save().expect("written");
        members.save().expect("written again");
        let read = Members::load(&path, Duration::from_secs(7)).expect("read");
        assert_eq!(read.peers[&id], peer);
        assert_eq!(read.revoked, members.revoked);
        let store = &read.stores[&name("vdisks")];
        assert_eq!((store.role, store.settle), (Role::Mirror, Duration::from_secs(7)));
        assert!(!dir.path().join("managed.toml.new").exists());
    }

    #[test]
    fn unreadable_trust_is_an_error() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("managed.toml");
        let bad = [
            "version = 2",
            "version = 1\nx = 1",
            "",
            "\u{0}",
            "version = 1\n[peers.a]\nid = \"x\"",
            "version = 1\n[peers.a]\nid = \"x\"\ncompression = \"fast\"",
            "version = 1\n[peers.a]\nid = \"x\"\nstores = []\nweight = 0",
            "version = 1\n[revoked]\nzz = 1",
            "version = 1\n[stores.\"a/b\"]\npath = \"/x\"\nrole = \"mirror\"",
        ];
        for text in bad {
            fs::write(&path, text).expect("written");
            let error = Members::load(&path, Duration::ZERO).expect_err(text);
            assert_eq!(error.code(), "STATE_UNREADABLE", "{text}");
        }
    }
}
