//! What the merged layers mean: defaults filled in, required keys there, names, paths and
//! addresses checked, nothing that overlaps.
//!
//! A `Settings` is only made when nothing is wrong; then it holds no raw text any more.

use super::file::{
    CommitChoice, ConfigFile, HoldBaseChoice, InUseChoice, LaneChoice, PeerSection, RoleChoice,
    StoreSection,
};
use super::host::{beside, host_name, is_host_port, resolved};
use super::known;
use super::layers::{Key, Layers, Leaf};
use super::profiles;
use super::watermarks::Raw;
use super::{Compression, Finding, LogFormat, Period, Place, Reserve, SetsChoice};
use blockferry_delta::{NodeId, StoreName};
use blockferry_node::config::{Allowance, Lane, PromoteConfig, Watermarks};
use blockferry_node::http::HttpConfig;
use blockferry_node::rate::calendar::{Calendar, Clock};
use blockferry_node::rate::rates;
use globset::Glob;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_LISTEN: &str = "[::]:7700";
const DEFAULT_STATE_DIR: &str = "/var/lib/blockferry";
const DEFAULT_SOCKET: &str = "/run/blockferry/admin.sock";
const DEFAULT_IDENTITY: &str = "identity.key";
const DEFAULT_LOG_LEVEL: &str = "info";
const DEFAULT_FREE_PERCENT: u8 = 5;
const DEFAULT_RESCAN: &str = "1m";
const DEFAULT_SETTLE: &str = "30s";
const DEFAULT_KEEP_DAYS: u32 = 7;
/// Bytes of the longest path of a unix socket, its final NUL left out.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Everything a node needs to know to run.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node_name: StoreName,
    pub(crate) listen: Vec<SocketAddr>,
    /// HOST:PORT each; empty: the node finds out.
    pub(crate) advertise: Vec<String>,
    /// How often a store is looked at as a whole.
    pub(crate) rescan: Duration,
    /// Of stores that were added by a command.
    pub(crate) settle: Duration,
    pub(crate) state_dir: PathBuf,
    pub(crate) identity: PathBuf,
    pub(crate) socket: PathBuf,
    /// HTTP; `None`: there is none.
    pub(crate) http: Option<HttpConfig>,
    pub(crate) stores: Vec<StoreSettings>,
    pub(crate) peers: Vec<PeerSettings>,
    pub(crate) compression: Compression,
    /// Of the node as a whole.
    pub(crate) send: Allowance,
    pub(crate) schedules: BTreeMap<String, Arc<Calendar>>,
    /// By when everything should be there, by schedule.
    pub(crate) deadlines: BTreeMap<String, Clock>,
    pub(crate) promote: PromoteConfig,
    /// In bytes per second.
    pub(crate) disk_read: Option<u64>,
    /// In bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) store_free_min: Reserve,
    pub(crate) watermarks: Watermarks,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    /// Each effective value, in the order of the keys.
    pub(crate) shown: Vec<Shown>,
    /// Each file that was read.
    pub(crate) files: Vec<PathBuf>,
    /// Which state of these files it is.
    pub(crate) tag: String,
}

/// One store.
#[derive(Debug)]
pub(crate) struct StoreSettings {
    pub(crate) name: StoreName,
    pub(crate) path: PathBuf,
    pub(crate) role: RoleChoice,
    pub(crate) include: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) sets: SetsChoice,
    pub(crate) settle: Duration,
    pub(crate) in_use: InUseChoice,
    pub(crate) commit: CommitChoice,
    pub(crate) hold_base: HoldBaseChoice,
    pub(crate) warm: bool,
    /// `None`: as the file system has it.
    pub(crate) keep_generations: Option<u32>,
    pub(crate) keep_days: u32,
    /// The node whose content goes on when two diverged.
    pub(crate) prefer: Option<String>,
    /// It is taken over from another tool.
    pub(crate) adopt: bool,
    pub(crate) send: Allowance,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct PeerSettings {
    pub(crate) name: StoreName,
    pub(crate) id: NodeId,
    /// HOST:PORT each.
    pub(crate) address: Vec<String>,
    pub(crate) stores: Vec<StoreName>,
    pub(crate) mirrors: Vec<StoreName>,
    /// `None`: as for all.
    pub(crate) compression: Option<Compression>,
    pub(crate) send: Allowance,
}

/// One effective value and where it is from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) key: String,
    pub(crate) value: toml::Value,
    pub(crate) place: Place,
}

/// Where the admin socket is, whatever else is wrong.
pub(super) fn socket(file: &Path, layers: Layers) -> Result<PathBuf, Vec<Finding>> {
    let socket = layers.leaves.get(&key(&["admin", "socket"]));
    match socket.and_then(|leaf| leaf.value.as_str()) {
        Some(path) => Ok(beside(file, Path::new(path))),
        None if layers.findings.is_empty() => Ok(PathBuf::from(DEFAULT_SOCKET)),
        None => Err(layers.findings),
    }
}

impl Settings {
    /// The settings, unless something is wrong; and what is.
    pub(super) fn from_layers(file: &Path, layers: Layers) -> (Option<Settings>, Vec<Finding>) {
        let tag = layers.tag();
        let mut reader =
            Reader { file, leaves: layers.leaves, findings: layers.findings, shown: vec![] };
        let raw = match ConfigFile::deserialize(reader.tree()) {
            Ok(raw) => raw,
            Err(error) => {
                reader.complain(Place::BuiltIn, error.message().to_owned());
                return (None, reader.findings);
            }
        };
        let settings = reader.settings(raw, layers.files);
        let settings = settings.map(|settings| Settings { tag, ..settings });
        (reader.findings.is_empty().then_some(settings).flatten(), reader.findings)
    }
}

pub(super) fn key(parts: &[&str]) -> Key {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// Fills in and checks, noting each effective value as it goes.
pub(super) struct Reader<'a> {
    file: &'a Path,
    pub(super) leaves: BTreeMap<Key, Leaf>,
    findings: Vec<Finding>,
    shown: Vec<Shown>,
}

impl Reader<'_> {
    fn tree(&self) -> toml::Value {
        let mut root = toml::Table::new();
        for (key, leaf) in &self.leaves {
            insert(&mut root, key, leaf.value.clone());
        }
        toml::Value::Table(root)
    }

    fn settings(&mut self, raw: ConfigFile, files: Vec<PathBuf>) -> Option<Settings> {
        self.version(raw.version);
        let node_name = self.node_name(raw.node.name);
        let listen = self.listen(raw.node.listen);
        let state_dir = self.path(&["node", "state_dir"], raw.node.state_dir, DEFAULT_STATE_DIR);
        let identity = self.path(&["node", "identity"], raw.node.identity, DEFAULT_IDENTITY);
        let advertise = self.host_ports(&["node", "advertise"], raw.node.advertise);
        let rescan = self.period(&["node", "rescan"], raw.node.rescan, DEFAULT_RESCAN)?;
        let settle = self.period(&["node", "settle"], raw.node.settle, DEFAULT_SETTLE)?;
        let socket = self.path(&["admin", "socket"], raw.admin.socket.clone(), DEFAULT_SOCKET);
        self.socket_length(&socket);
        let http = self.http(raw.admin);
        let marks = Raw::of(&raw.limits);
        let compression = raw.limits.compression.unwrap_or_default();
        self.show(&["limits", "compression"], compression.to_toml());
        let deadlines = self.deadlines(&raw.schedules);
        let schedules = self.schedules(raw.schedules);
        let names: Vec<String> = schedules.keys().cloned().collect();
        let send = self.allowance(&["limits"], raw.limits.send, raw.limits.schedule, &names);
        let (disk_read, memory) = self.machine(raw.limits.disk_read, raw.limits.memory);
        let free = raw.limits.store_free_min.unwrap_or(Reserve::Percent(DEFAULT_FREE_PERCENT));
        self.text(&["limits", "store_free_min"], free.into());
        let watermarks = self.watermarks(marks);
        let promote = self.promote(raw.promote);
        let level = raw.log.level.unwrap_or_else(|| DEFAULT_LOG_LEVEL.to_owned());
        let log_level = self.log_level(level);
        let log_format = raw.log.format.unwrap_or(LogFormat::Auto);
        self.text(&["log", "format"], log_format.as_str().to_owned());
        let stores: Vec<_> =
            raw.stores.into_iter().filter_map(|(name, s)| self.store(&name, s, &names)).collect();
        self.overlaps(&stores, &state_dir);
        let peers: Vec<_> =
            raw.peers.into_iter().filter_map(|(name, p)| self.peer(&name, p, &names)).collect();
        self.twins(&peers);
        Some(Settings {
            node_name: node_name?,
            listen,
            advertise,
            rescan,
            settle,
            state_dir,
            identity,
            socket,
            http,
            stores,
            peers,
            compression,
            send,
            schedules,
            deadlines,
            promote,
            disk_read,
            memory,
            store_free_min: free,
            watermarks,
            log_level,
            log_format,
            shown: std::mem::take(&mut self.shown),
            files,
            tag: String::new(),
        })
    }

    fn version(&mut self, version: Option<u32>) {
        self.show(&["version"], toml::Value::Integer(version.unwrap_or(1).into()));
        if version.is_some_and(|version| version != 1) {
            let place = self.place(&["version"]);
            self.complain(
                place,
                format!("version {}, this blockferry reads version 1", version.unwrap_or(0)),
            );
        }
    }

    fn node_name(&mut self, name: Option<String>) -> Option<StoreName> {
        let name = self.text(&["node", "name"], name.unwrap_or_else(host_name));
        let place = self.place(&["node", "name"]);
        self.name(&place, &name)
    }

    fn listen(&mut self, listen: Option<Vec<SocketAddr>>) -> Vec<SocketAddr> {
        let listen = listen.unwrap_or_else(|| DEFAULT_LISTEN.parse().into_iter().collect());
        self.list(&["node", "listen"], listen.iter().map(ToString::to_string));
        if listen.is_empty() {
            let place = self.place(&["node", "listen"]);
            self.complain(place, "node.listen is empty: nobody could reach this node".to_owned());
        }
        listen
    }

    pub(super) fn path(&mut self, parts: &[&str], path: Option<PathBuf>, default: &str) -> PathBuf {
        let path = beside(self.file, &path.unwrap_or_else(|| PathBuf::from(default)));
        self.text(parts, path.display().to_string());
        path
    }

    fn socket_length(&mut self, socket: &Path) {
        let bytes = socket.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let place = self.place(&["admin", "socket"]);
            let what = format!(
                "a socket's path of {bytes} bytes; the system takes {SOCKET_PATH_BYTES_MAX}"
            );
            self.complain(place, what);
        }
    }

    fn log_level(&mut self, level: String) -> String {
        if let Err(error) = level.parse::<tracing_subscriber::filter::Targets>() {
            let place = self.place(&["log", "level"]);
            self.complain(place, format!("log.level {level:?}: {error}"));
        }
        self.text(&["log", "level"], level)
    }

    fn store(
        &mut self,
        name: &str,
        raw: StoreSection,
        schedules: &[String],
    ) -> Option<StoreSettings> {
        let place = self.section_place("stores", name);
        let good = self.name(&place, name);
        let at = |last: &'static str| ["stores", name, last];
        let Some(path) = raw.path else {
            self.complain(place, format!("stores.{name} has no path"));
            return None;
        };
        let path = self.path(&at("path"), Some(path), "");
        let role = raw.role.unwrap_or(RoleChoice::Writer);
        self.text(&at("role"), role.as_str().to_owned());
        let profile = profiles::of(raw.profile);
        if let Some(choice) = raw.profile {
            self.text(&at("profile"), choice.as_str().to_owned());
        }
        let include = self.globs(&at("include"), raw.include.unwrap_or(profile.include));
        let exclude = self.globs(&at("exclude"), raw.exclude.unwrap_or(profile.exclude));
        let sets = self.sets(&at("sets"), raw.sets.unwrap_or(profile.sets));
        let settle = self.period(&at("settle"), raw.settle, DEFAULT_SETTLE)?;
        let in_use = raw.in_use.unwrap_or(InUseChoice::Defer);
        self.text(&at("in_use"), in_use.as_str().to_owned());
        let commit = raw.commit.unwrap_or(CommitChoice::Auto);
        self.text(&at("commit"), commit.as_str().to_owned());
        let hold_base = raw.hold_base.unwrap_or(HoldBaseChoice::Auto);
        self.text(&at("hold_base"), hold_base.as_str().to_owned());
        let warm = raw.warm.unwrap_or_default();
        self.show(&at("warm"), toml::Value::Boolean(warm));
        let keep_generations = raw.keep_generations;
        if let Some(keep) = keep_generations {
            self.show(&at("keep_generations"), toml::Value::Integer(keep.into()));
        }
        let keep_days = raw.keep_days.unwrap_or(DEFAULT_KEEP_DAYS);
        self.show(&at("keep_days"), toml::Value::Integer(keep_days.into()));
        let prefer = raw.prefer;
        if let Some(prefer) = &prefer {
            self.text(&at("prefer"), prefer.clone());
            // A node's name or the beginning of its id: both are names.
            if let Err(error) = StoreName::new(prefer) {
                let place = self.place(&at("prefer"));
                self.complain(place, format!("prefer: no name of a node: {error}"));
            }
        }
        let adopt = raw.adopt.unwrap_or_default();
        self.show(&at("adopt"), toml::Value::Boolean(adopt));
        let mut send = self.allowance(&["stores", name], raw.send, raw.schedule, schedules);
        let lane = raw.lane.unwrap_or(LaneChoice::Normal);
        self.text(&at("lane"), lane.as_str().to_owned());
        send.lane = match lane {
            LaneChoice::Urgent => Lane::Urgent,
            LaneChoice::Normal => Lane::Normal,
            LaneChoice::Bulk => Lane::Bulk,
        };
        Some(StoreSettings {
            send,
            name: good?,
            path,
            role,
            include,
            exclude,
            sets,
            settle,
            in_use,
            commit,
            hold_base,
            warm,
            keep_generations,
            keep_days,
            prefer,
            adopt,
        })
    }

    fn globs(&mut self, parts: &[&str], globs: Vec<String>) -> Vec<String> {
        for glob in &globs {
            if let Err(error) = Glob::new(glob) {
                let place = self.place(parts);
                self.complain(place, format!("{glob:?} is no pattern: {}", error.kind()));
            }
        }
        self.list(parts, globs.iter().cloned());
        globs
    }

    fn sets(&mut self, parts: &[&str], sets: SetsChoice) -> SetsChoice {
        match sets {
            SetsChoice::Auto => {
                self.text(parts, "auto".to_owned());
                SetsChoice::Auto
            }
            SetsChoice::Globs(globs) => SetsChoice::Globs(self.globs(parts, globs)),
        }
    }

    fn peer(&mut self, name: &str, raw: PeerSection, schedules: &[String]) -> Option<PeerSettings> {
        let place = self.section_place("peers", name);
        let good = self.name(&place, name);
        let at = |last: &'static str| ["peers", name, last];
        let Some(id) = raw.id else {
            self.complain(
                place,
                format!("peers.{name} has no id (blockferry id on that node prints it)"),
            );
            return None;
        };
        let id = self.text(&at("id"), id);
        let Ok(id) = id.parse::<NodeId>() else {
            let place = self.place(&at("id"));
            self.complain(
                place,
                format!("{id:?} is no node id: 52 characters, as blockferry id prints them"),
            );
            return None;
        };
        let address = self.host_ports(&at("address"), raw.address);
        let stores = self.names(&at("stores"), raw.stores);
        let mirrors = self.names(&at("mirrors"), raw.mirrors);
        let compression = raw.compression;
        if let Some(compression) = compression {
            self.show(&at("compression"), compression.to_toml());
        }
        let mut send = self.allowance(&["peers", name], raw.send, raw.schedule, schedules);
        send.polite = raw.polite.unwrap_or(false);
        self.show(&at("polite"), send.polite.into());
        let weight = raw.weight.unwrap_or(1);
        self.show(&at("weight"), toml::Value::Integer(weight.into()));
        match rates::weight_of(weight) {
            Ok(weight) => send.weight = weight,
            Err(what) => {
                let place = self.place(&at("weight"));
                self.complain(place, what);
            }
        }
        Some(PeerSettings { name: good?, id, address, stores, mirrors, compression, send })
    }

    fn host_ports(&mut self, parts: &[&str], list: Option<Vec<String>>) -> Vec<String> {
        let list = list.unwrap_or_default();
        for address in list.iter().filter(|address| !is_host_port(address)) {
            let place = self.place(parts);
            self.complain(place, format!("{address:?} is not HOST:PORT"));
        }
        self.list(parts, list.iter().cloned());
        list
    }

    fn names(&mut self, parts: &[&str], list: Option<Vec<String>>) -> Vec<StoreName> {
        let list = list.unwrap_or_default();
        self.list(parts, list.iter().cloned());
        let place = self.place(parts);
        list.iter().filter_map(|name| self.name(&place, name)).collect()
    }

    fn period(
        &mut self,
        parts: &[&str],
        period: Option<Period>,
        default: &str,
    ) -> Option<Duration> {
        let period = period.or_else(|| default.parse().ok())?;
        self.text(parts, period.into());
        Some(period.duration())
    }

    /// No directory of a store may be, hold or lie in another one's, nor hold the state.
    fn overlaps(&mut self, stores: &[StoreSettings], state_dir: &Path) {
        let state = resolved(state_dir);
        for (index, store) in stores.iter().enumerate() {
            let path = resolved(&store.path);
            let place = self.place(&["stores", store.name.as_str(), "path"]);
            if state.starts_with(&path) {
                let what = format!("{} holds node.state_dir {}", path.display(), state.display());
                self.complain(place.clone(), what);
            }
            for other in stores.get(..index).unwrap_or_default() {
                let theirs = resolved(&other.path);
                if path.starts_with(&theirs) || theirs.starts_with(&path) {
                    let at = self.place(&["stores", other.name.as_str(), "path"]);
                    let what = format!("{} overlaps store {} ({at})", path.display(), other.name);
                    self.complain(place.clone(), what);
                }
            }
        }
    }

    fn twins(&mut self, peers: &[PeerSettings]) {
        for (index, peer) in peers.iter().enumerate() {
            for other in peers.get(..index).unwrap_or_default() {
                if peer.id == other.id {
                    let place = self.place(&["peers", peer.name.as_str(), "id"]);
                    self.complain(place, format!("the same id as peers.{}", other.name));
                }
            }
        }
    }

    pub(super) fn name(&mut self, place: &Place, name: &str) -> Option<StoreName> {
        match StoreName::new(name) {
            Ok(name) => Some(name),
            Err(error) => {
                self.complain(place.clone(), error.to_string());
                None
            }
        }
    }

    pub(super) fn text(&mut self, parts: &[&str], value: String) -> String {
        self.show(parts, toml::Value::String(value.clone()));
        value
    }

    pub(super) fn list(&mut self, parts: &[&str], values: impl Iterator<Item = String>) {
        self.show(parts, toml::Value::Array(values.map(toml::Value::String).collect()));
    }

    pub(super) fn show(&mut self, parts: &[&str], value: toml::Value) {
        let place = self.place(parts);
        self.shown.push(Shown { key: known::dotted(&key(parts)), value, place });
    }

    pub(super) fn place(&self, parts: &[&str]) -> Place {
        self.leaves.get(&key(parts)).map_or(Place::BuiltIn, |leaf| leaf.place.clone())
    }

    /// The place of the first key below a section.
    pub(super) fn section_place(&self, section: &str, name: &str) -> Place {
        let prefix = key(&[section, name]);
        let mut below = self.leaves.iter().filter(|(key, _)| key.starts_with(&prefix));
        below.next().map_or(Place::BuiltIn, |(_, leaf)| leaf.place.clone())
    }

    pub(super) fn complain(&mut self, place: Place, message: String) {
        let finding = self.finding(place, message);
        self.findings.push(finding);
    }

    pub(super) fn complain_with(&mut self, place: Place, message: String, help: String) {
        let finding = self.finding(place, message).with_help(help);
        self.findings.push(finding);
    }

    fn finding(&self, place: Place, message: String) -> Finding {
        let here = self.leaves.iter().find(|(_, leaf)| leaf.place == place);
        let key = here.map(|(key, _)| known::dotted(key));
        Finding { key, ..Finding::new(place, message) }
    }
}

/// Puts a leaf into a tree. The layers let no key be both a table and a value.
fn insert(table: &mut toml::Table, key: &[String], value: toml::Value) {
    let [first, rest @ ..] = key else { return };
    if rest.is_empty() {
        if !(value.is_table() && table.contains_key(first)) {
            table.insert(first.clone(), value);
        }
        return;
    }
    let inner =
        table.entry(first.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(inner) = inner {
        insert(inner, rest, value);
    }
}
