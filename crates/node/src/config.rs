//! What a node is told at its start: plain values, already checked for syntax by the binary.
//!
//! [`Config::check`] checks what concerns several of them (twins, limits, nested directories), so
//! that a bad configuration is refused before anything is opened.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blockferry_delta::{NodeId, StoreName};
pub use blockferry_store::HoldBase;
pub use blockferry_wire::Lane;
use blockferry_wire::{FEATURE_DELETIONS, FEATURE_STATEMENTS, VERSION_MAX, VERSION_MIN};

use crate::api::{Require, Role};
use crate::budget;
use crate::error::{Error, Result};
use crate::http::HttpConfig;
use crate::membership::identity::Identity;
use crate::membership::twins::TWINS_TIME;
pub use crate::monitoring::watermarks::{Marks, Watermarks};
use crate::rate::calendar::{Calendar, Clock, Rate};
pub use crate::rate::rates::Allowance;
use crate::rate::rates::Rates;
pub use crate::transfer::level::Setting;
pub use file::ConfigFile;

/// How new content replaces old in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Commit {
    /// As the file system allows, found by a probe.
    #[default]
    Auto,
    /// By reflink.
    Clone,
    /// Into the image's own file, by a journal, where little changes and nobody has it open.
    Journal,
    /// By a whole new file.
    Copy,
}

/// What happens to an image that somebody writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InUse {
    /// It is recorded, or replaced, when the writer is gone.
    #[default]
    Defer,
    /// It is recorded as it is at one instant, at most once in the time of `settle`, while the
    /// writer goes on; where there are no reflinks as by `Defer`. It is replaced when the writer
    /// is gone.
    Snapshot,
    /// It is left alone until it is touched once more or published by hand.
    Never,
}

/// How the images of a store are put together as sets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum SetsBy {
    /// Chains by the headers of disks, sidecars by their stem.
    #[default]
    Auto,
    /// Each glob names a set; none: there are no sets, and headers are not looked at.
    Globs(Vec<String>),
}

/// Space that is kept free in a store's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeMin {
    /// So many bytes.
    Bytes(u64),
    /// A share of the file system, in percent.
    Percent(u8),
}

/// One store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Its name, the same on every member.
    pub name: StoreName,
    /// Its directory, absolute.
    pub path: PathBuf,
    /// Our role.
    pub role: Role,
    /// Globs of file names that are images; empty: all.
    pub include: Vec<String>,
    /// Globs of file names that are not.
    pub exclude: Vec<String>,
    /// Which images belong together.
    pub sets: SetsBy,
    /// Quiet this long before a generation is recorded.
    pub settle: Duration,
    /// What happens to an image that somebody writes.
    pub in_use: InUse,
    /// How new content replaces old.
    pub commit: Commit,
    /// When a base is held.
    pub hold_base: HoldBase,
    /// Read what is received into the page cache.
    pub warm: bool,
    /// Earlier contents of each image that are kept; `None`: 5 where reflinks work, else none.
    pub keep_generations: Option<u32>,
    /// Days in service for which earlier contents and deleted images are kept.
    pub keep_days: u32,
    /// The node whose content wins when two diverged, by name or id; `None`: an operator decides.
    pub prefer: Option<String>,
    /// It is taken over from another tool: when it is made, it begins by observing.
    pub adopt: bool,
    /// How fast it is sent, to all peers together.
    pub send: Allowance,
}

impl StoreConfig {
    /// A store with built-in settings.
    pub fn new(name: StoreName, path: PathBuf, role: Role) -> Self {
        Self {
            name,
            path,
            role,
            include: Vec::new(),
            exclude: Vec::new(),
            sets: SetsBy::Auto,
            settle: Duration::from_secs(30),
            in_use: InUse::default(),
            commit: Commit::default(),
            hold_base: HoldBase::default(),
            warm: false,
            keep_generations: None,
            keep_days: 7,
            prefer: None,
            adopt: false,
            send: Allowance::default(),
        }
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// What we call it.
    pub name: String,
    /// Its key.
    pub id: NodeId,
    /// Where it is dialled (`host:port`); empty: it dials us.
    pub addresses: Vec<String>,
    /// Stores shared with it.
    pub stores: Vec<StoreName>,
    /// Stores in which it is a mirror, i.e. may not make generations.
    pub mirrors: Vec<StoreName>,
    /// How hard what is sent to it is compressed; `None`: as for all.
    pub compression: Option<Setting>,
    /// How fast it is sent to.
    pub send: Allowance,
}

/// What a promotion needs, and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromoteConfig {
    /// Who must hold a generation, unless the command says it.
    pub require: Require,
    /// A program that is run after a promotion, an absolute path; `None`: none.
    pub hook_after: Option<PathBuf>,
}

/// What a node says that it speaks. Only tests say anything else than what is built in: they are nodes
/// of other versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Lowest protocol version.
    pub version_min: u16,
    /// Highest protocol version.
    pub version_max: u16,
    /// Feature bits.
    pub features: u64,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: FEATURE_DELETIONS | FEATURE_STATEMENTS,
        }
    }
}

/// Everything a node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What we call ourselves towards peers.
    pub name: String,
    /// Our key.
    pub identity: Identity,
    /// UDP addresses to listen on; none: we only dial.
    pub listen: Vec<SocketAddr>,
    /// Addresses put into tickets and told to peers (`host:port`); empty: found out.
    pub advertise: Vec<String>,
    /// Directory of `node.redb` and `managed.toml`.
    pub state_dir: PathBuf,
    /// The admin socket; `None`: there is none.
    pub admin_socket: Option<PathBuf>,
    /// HTTP; `None`: there is none.
    pub http: Option<HttpConfig>,
    /// Stores of the configuration file.
    pub stores: Vec<StoreConfig>,
    /// Peers of the configuration file.
    pub peers: Vec<PeerConfig>,
    /// Limit for everything this node sends, in bits per second.
    pub send_limit_bits_per_second: Option<u64>,
    /// Calendar for everything this node sends, by name.
    pub send_schedule: Option<String>,
    /// Calendars by name.
    pub schedules: BTreeMap<String, Arc<Calendar>>,
    /// By when everything should be there each day, by the name of the calendar.
    pub deadlines: BTreeMap<String, Clock>,
    /// A store is looked at as a whole this often, whatever the watch said.
    pub rescan: Duration,
    /// Space kept free in each store's file system.
    pub store_free_min: FreeMin,
    /// Limit for what is read from disk in the background, in bytes per second.
    pub disk_read_bytes_per_second: Option<u64>,
    /// What the node may keep resident, in bytes; `None`: as little as it can.
    pub memory_bytes: Option<u64>,
    /// When a backlog or a staging is an event.
    pub watermarks: Watermarks,
    /// Quiet time for stores that are added at run time.
    pub settle: Duration,
    /// A transfer that may not send any more is held open this long.
    pub hold: Duration,
    /// How often rates and backlog are noted for the page.
    pub trend_every: Duration,
    /// How hard what travels is compressed, unless a peer has a setting of its own.
    pub compression: Setting,
    /// What a promotion needs, and what follows it.
    pub promote: PromoteConfig,
    /// The file that all this is from; `None`: it is changed by nobody while the node runs.
    pub file: Option<Arc<dyn ConfigFile>>,
    /// Which state of the file it is: the same for the same bytes.
    pub file_tag: Option<String>,
    /// Seed of what is random without being secret (jitter).
    pub seed: u64,
    /// Two places that show one key count as two for so long after both were last heard of.
    pub twins: Duration,
    /// Which versions and features it speaks.
    pub dialect: Dialect,
}

impl Config {
    /// A node with built-in settings that listens nowhere and has no stores.
    pub fn new(name: &str, identity: Identity, state_dir: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            identity,
            listen: Vec::new(),
            advertise: Vec::new(),
            admin_socket: Some(state_dir.join("admin.sock")),
            state_dir,
            http: None,
            stores: Vec::new(),
            peers: Vec::new(),
            send_limit_bits_per_second: None,
            send_schedule: None,
            schedules: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            rescan: Duration::from_secs(60),
            store_free_min: FreeMin::Percent(0),
            disk_read_bytes_per_second: None,
            memory_bytes: None,
            watermarks: Watermarks::default(),
            settle: Duration::from_secs(30),
            hold: budget::HOLD_MAX,
            trend_every: budget::TRENDS_EVERY,
            compression: Setting::Auto,
            promote: PromoteConfig::default(),
            file: None,
            file_tag: None,
            seed: u64::from(std::process::id()),
            twins: TWINS_TIME,
            dialect: Dialect::default(),
        }
    }

    /// Refuses what can't be meant.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config { what });
        if self.send_limit_bits_per_second == Some(0) {
            return wrong("a send limit of 0 is not \"unlimited\"; leave it out".into());
        }
        if self.disk_read_bytes_per_second == Some(0) {
            return wrong("a disk_read of 0 is not \"unlimited\"; leave it out".into());
        }
        if let Some(bytes) = self.memory_bytes.filter(|b| *b < budget::RESIDENT_BYTES_MAX) {
            let (mib, least) = (bytes >> 20, budget::RESIDENT_BYTES_MAX >> 20);
            return wrong(format!(
                "limits.memory is {mib} MiB; the least that works is {least} MiB"
            ));
        }
        if let Some(http) = &self.http {
            http.check()?;
        }
        if self.promote.hook_after.as_ref().is_some_and(|hook| !hook.is_absolute()) {
            return wrong("promote.hook_after is not an absolute path".into());
        }
        // Node names go by the rule for store names: they are said to peers.
        if let Err(error) = StoreName::new(&self.name) {
            return wrong(format!("name of this node: {error}"));
        }
        if self.stores.len() > budget::STORES_MAX || self.peers.len() > budget::PEERS_MAX {
            let (stores, peers) = (budget::STORES_MAX, budget::PEERS_MAX);
            return wrong(format!("at most {stores} stores and {peers} peers"));
        }
        if self.schedules.len() > budget::CALENDARS_MAX {
            return wrong(format!("at most {} schedules", budget::CALENDARS_MAX));
        }
        let named = self.peers.iter().map(|p| &p.send).chain(self.stores.iter().map(|s| &s.send));
        for name in named.filter_map(|s| s.schedule.as_ref()).chain(&self.send_schedule) {
            if !self.schedules.contains_key(name) {
                return wrong(format!("there is no schedule {name}"));
            }
        }
        for (i, store) in self.stores.iter().enumerate() {
            check_store(store, &self.stores[..i])?;
        }
        let mut ids = BTreeSet::new();
        let mut names = BTreeSet::new();
        for peer in &self.peers {
            if peer.id == self.identity.id() {
                return wrong(format!("peer {} is this node itself", peer.name));
            }
            if !ids.insert(peer.id) || !names.insert(&peer.name) {
                return wrong(format!("peer {} is there twice", peer.name));
            }
        }
        Ok(())
    }
}

impl Config {
    /// How the memory is shared out.
    pub(crate) fn memory(&self) -> budget::Memory {
        budget::memory(self.memory_bytes.unwrap_or(budget::RESIDENT_BYTES_MAX))
    }

    /// What limits what is sent, before anybody orders anything.
    pub fn rates(&self) -> Rates {
        let limit = Rate::from_bits_per_second(self.send_limit_bits_per_second);
        Rates {
            node: Allowance { limit, schedule: self.send_schedule.clone(), ..Allowance::default() },
            calendars: self.schedules.clone(),
            deadlines: self.deadlines.clone(),
            ..Rates::default()
        }
    }
}

/// Refuses a store that collides with one of `others`.
pub fn check_store(store: &StoreConfig, others: &[StoreConfig]) -> Result<()> {
    let name = || store.name.to_string();
    if !store.path.is_absolute() {
        let what = format!("store {}: {} is not absolute", store.name, store.path.display());
        return Err(Error::Config { what });
    }
    for other in others {
        if other.name == store.name {
            return Err(Error::StoreExists { name: name(), what: "a name is used once".into() });
        }
        if nested(&other.path, &store.path) {
            let what = format!("{} belongs to store {}", other.path.display(), other.name);
            return Err(Error::StoreExists { name: name(), what });
        }
    }
    globs(&store.include)?;
    globs(&store.exclude)?;
    if let SetsBy::Globs(patterns) = &store.sets {
        globs(patterns)?;
    }
    Ok(())
}

/// Which names a store takes.
pub(crate) struct Names {
    include: Option<globset::GlobSet>,
    exclude: globset::GlobSet,
}

impl Names {
    pub(crate) fn new(store: &StoreConfig) -> Result<Self> {
        let include = if store.include.is_empty() { None } else { Some(globs(&store.include)?) };
        Ok(Self { include, exclude: globs(&store.exclude)? })
    }

    /// Whether a file of this name is an image of the store.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(name)) && !self.exclude.is_match(name)
    }
}

pub(crate) fn globs(patterns: &[String]) -> Result<globset::GlobSet> {
    let wrong = |e: globset::Error| Error::Config { what: format!("glob: {e}") };
    let mut set = globset::GlobSetBuilder::new();
    for pattern in patterns {
        set.add(globset::Glob::new(pattern).map_err(wrong)?);
    }
    set.build().map_err(wrong)
}

fn nested(a: &Path, b: &Path) -> bool {
    let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
    let (a, b) = (real(a), real(b));
    a.starts_with(&b) || b.starts_with(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, path: &str) -> StoreConfig {
        StoreConfig::new(StoreName::new(name).expect("a name"), path.into(), Role::Writer)
    }

    fn config() -> Config {
        Config::new("hub", Identity::generate().expect("a key"), "/nonexistent/state".into())
    }

    #[test]
    fn twins_and_nested_directories_are_refused() {
        let mut config = config();
        config.stores = vec![store("a", "/x/a"), store("b", "/x/b")];
        config.check().expect("fine");
        for (name, path) in [("a", "/x/c"), ("c", "/x/a"), ("c", "/x/a/sub"), ("c", "/x")] {
            config.stores.truncate(2);
            config.stores.push(store(name, path));
            assert_eq!(config.check().expect_err(path).code(), "STORE_EXISTS");
        }
        config.stores = vec![store("a", "relative")];
        assert_eq!(config.check().expect_err("relative").code(), "CONFIG_ERROR");
    }

    #[test]
    fn a_limit_of_zero_and_a_peer_that_is_us_are_refused() {
        let mut config = config();
        config.send_limit_bits_per_second = Some(0);
        assert_eq!(config.check().expect_err("zero").code(), "CONFIG_ERROR");
        config.send_limit_bits_per_second = None;
        config.send_schedule = Some("night".into());
        assert_eq!(config.check().expect_err("no such schedule").code(), "CONFIG_ERROR");
        config.send_schedule = None;
        config.peers.push(PeerConfig {
            name: "me".into(),
            id: config.identity.id(),
            addresses: vec![],
            stores: vec![],
            mirrors: vec![],
            compression: None,
            send: Allowance::default(),
        });
        assert_eq!(config.check().expect_err("itself").code(), "CONFIG_ERROR");
    }

    #[test]
    fn globs_choose_names() {
        let mut images = store("a", "/x");
        images.include = vec!["*.vhdx".into(), "*.qcow2".into()];
        images.exclude = vec!["tmp*".into()];
        let names = Names::new(&images).expect("globs");
        assert!(names.takes("win11.vhdx") && !names.takes("tmp1.vhdx") && !names.takes("x.lok"));
        let all = Names::new(&store("a", "/x")).expect("no globs");
        assert!(all.takes("anything"));
        images.include = vec!["[".into()];
        assert_eq!(check_store(&images, &[]).expect_err("bad glob").code(), "CONFIG_ERROR");
    }
}
