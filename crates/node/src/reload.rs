//! Reload: a configuration that is read again comes into force while everything runs.
//!
//! Nothing under way is ended for it: rates change at the gate, stores and peers come and go by
//! themselves, and what a session must learn it is told on its control stream. The one place that says
//! which keys can change so; the others keep the value of the start and are named. A configuration that
//! is refused changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use blockferry_delta::NodeId;

use crate::config::{
    Config, ConfigFile, FreeMin, InUse, PeerConfig, StoreConfig, Watermarks, check_store,
};
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::link::dialing;
use crate::link::peer::Peer;
use crate::local::absent;
use crate::local::stores::OpenStore;
use crate::node;

mod pending;

pub(crate) use pending::pending;

/// What a reload did, as keys of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// In force now.
    pub changed: Vec<String>,
    /// In force at the next start.
    pub restart: Vec<String>,
}

/// Reads the configuration file again and puts it into force: what SIGHUP does.
pub(crate) fn reread(core: &Arc<Core>) -> Result<Reloaded> {
    change(core, |_| Ok(()))
}

/// Changes the configuration file and puts it into force, with nobody else at it meanwhile. Blocking.
///
/// # Errors
/// Those of `change`, and of reading it again: then what the file says is not in force.
pub(crate) fn change(
    core: &Arc<Core>,
    change: impl FnOnce(&dyn ConfigFile) -> Result<()>,
) -> Result<Reloaded> {
    let nobodys = || Error::ConfigReadOnly {
        path: "the configuration".into(),
        what: "this node was not started from a file".to_owned(),
    };
    let file = core.config.file.as_ref().ok_or_else(nobodys)?;
    let _turn = lock(&core.rereading);
    change(file.as_ref())?;
    match file.load() {
        Ok((config, restart)) => reload_or_reject(core, config, restart),
        Err(what) => {
            reject(core, &what);
            Err(Error::Config { what })
        }
    }
}

/// Puts a configuration into force, or says that the running one stays.
pub(crate) fn reload_or_reject(
    core: &Arc<Core>,
    new: Config,
    restart: Vec<String>,
) -> Result<Reloaded> {
    let done = reload(core, new, restart);
    if let Err(error) = &done {
        reject(core, &error.to_string());
    }
    done
}

fn reject(core: &Core, what: &str) {
    let text = format!("{what}; the running one stays in force");
    core.events.note(Note::error("CONFIG_REJECTED", text));
}

/// Puts a configuration into force; `restart` are keys that others know to need one.
///
/// # Errors
/// It can't be meant, or collides with what was added by command; nothing has changed.
fn reload(core: &Arc<Core>, new: Config, restart: Vec<String>) -> Result<Reloaded> {
    new.check()?;
    let (old, new) = (core.live(), Arc::new(new));
    check_beside(core, &old, &new)?;
    let http = core.http.prepare(new.http.as_ref())?;
    let mut done = Reloaded { changed: Vec::new(), restart };
    done.restart.extend(fixed(&core.config, &new));
    done.changed.extend(of_node(&old, &new));
    *core.live.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
    core.http.apply(core, http, &mut done);
    core.limit.change(|rates| {
        let fresh = new.rates();
        (rates.node, rates.calendars, rates.deadlines) =
            (fresh.node, fresh.calendars, fresh.deadlines);
    });
    stores(core, &old, &new, &mut done);
    peers(core, &old, &new, &mut done);
    core.wake();
    say(core, &done);
    Ok(done)
}

fn say(core: &Core, done: &Reloaded) {
    let mut parts = Vec::new();
    if !done.changed.is_empty() {
        parts.push(format!("in force now: {}", done.changed.join(", ")));
    }
    if !done.restart.is_empty() {
        parts.push(format!("takes effect at the next restart: {}", done.restart.join(", ")));
    }
    if parts.is_empty() {
        parts.push("the configuration is good and unchanged".to_owned());
    }
    let text = parts.join("; ");
    let quiet = done.restart.is_empty();
    core.events.note(if quiet {
        Note::info("CONFIG_RELOADED", text)
    } else {
        Note::warning("CONFIG_RELOADED", text)
    });
}

/// The stores of the file beside those that were added by command.
fn check_beside(core: &Core, old: &Config, new: &Config) -> Result<()> {
    let in_file =
        |config: &Config, store: &StoreConfig| config.stores.iter().any(|s| s.name == store.name);
    let mut others: Vec<StoreConfig> =
        core.all_stores().iter().map(|store| store.config.clone()).collect();
    others.retain(|store| !in_file(old, store) && !in_file(new, store));
    new.stores.iter().try_for_each(|store| check_store(store, &others))
}

/// Keys that are read at the start only and have changed since.
fn fixed(start: &Config, new: &Config) -> Vec<String> {
    let keys = [
        ("node.name", start.name != new.name),
        ("node.listen", start.listen != new.listen),
        ("node.state_dir", start.state_dir != new.state_dir),
        ("admin.socket", start.admin_socket != new.admin_socket),
        ("limits.store_free_min", start.store_free_min != new.store_free_min),
        ("limits.memory", start.memory_bytes != new.memory_bytes),
    ];
    changed(String::new(), &keys)
}

/// Keys of the node that have changed and are read wherever they are needed.
fn of_node(old: &Config, new: &Config) -> Vec<String> {
    let keys = [
        ("node.advertise", old.advertise != new.advertise),
        ("node.rescan", old.rescan != new.rescan),
        ("node.settle", old.settle != new.settle),
        ("limits.send", old.send_limit_bits_per_second != new.send_limit_bits_per_second),
        ("limits.disk_read", old.disk_read_bytes_per_second != new.disk_read_bytes_per_second),
        ("limits.schedule", old.send_schedule != new.send_schedule),
        ("limits.compression", old.compression != new.compression),
        ("limits.backlog_high", old.watermarks.backlog != new.watermarks.backlog),
        ("limits.staging_high", staging(&old.watermarks) != staging(&new.watermarks)),
        ("promote.require", old.promote.require != new.promote.require),
        ("promote.hook_after", old.promote.hook_after != new.promote.hook_after),
    ];
    let mut keys = changed(String::new(), &keys);
    let names: BTreeSet<&String> = old.schedules.keys().chain(new.schedules.keys()).collect();
    let differs = |name: &&&String| {
        let of = |config: &Config| {
            (config.schedules.get(**name).cloned(), config.deadlines.get(**name).copied())
        };
        of(old) != of(new)
    };
    keys.extend(names.iter().filter(differs).map(|name| format!("schedules.{name}")));
    keys
}

/// A low mark changes with its high one.
fn staging(marks: &Watermarks) -> (FreeMin, FreeMin) {
    (marks.staging_high, marks.staging_low)
}

fn changed(section: String, keys: &[(&str, bool)]) -> Vec<String> {
    let these = keys.iter().filter(|(_, changed)| *changed);
    these.map(|(key, _)| format!("{section}{key}")).collect()
}

fn stores(core: &Arc<Core>, old: &Config, new: &Config, done: &mut Reloaded) {
    for store in &new.stores {
        let before = old.stores.iter().find(|s| s.name == store.name);
        match core.store(store.name.as_str()) {
            Ok(open) => {
                open.configured.store(true, Ordering::Relaxed);
                adjust_store(core, &open, store, done);
            }
            // It is tried again already, and as it is now.
            Err(_) if before.is_some_and(|before| before.path == store.path) => {}
            Err(_) => {
                done.changed.push(format!("stores.{}", store.name));
                tokio::spawn(absent::open_store_live(core.clone(), store.clone()));
            }
        }
    }
    for store in &old.stores {
        if new.stores.iter().any(|s| s.name == store.name) {
            continue;
        }
        done.changed.push(format!("stores.{}", store.name));
        let Ok(open) = core.store(store.name.as_str()) else { continue };
        open.configured.store(false, Ordering::Relaxed);
        // What was also added by command stays until it is removed by command.
        if !lock(&core.members).stores.contains_key(&store.name) {
            node::close_store(core, &open);
        }
    }
}

/// What can change in a store that runs, and what can't.
fn adjust_store(core: &Core, open: &OpenStore, new: &StoreConfig, done: &mut Reloaded) {
    let old = open.live_config();
    let next = next_of(&open.config, &old, new);
    let (keys, restart) = keys_of_store(&open.config, &old, &next, new);
    done.restart.extend(restart);
    if keys.is_empty() {
        return;
    }
    let (name, send) = (next.name.clone(), next.send.clone());
    core.limit.change(|rates| rates.stores.insert(name, send));
    open.adjust(next);
    done.changed.extend(keys);
}

/// What a store that runs is given of `new`; it was opened as `start` says and runs by `old`.
fn next_of(start: &StoreConfig, old: &StoreConfig, new: &StoreConfig) -> StoreConfig {
    let mut next = old.clone();
    next.include.clone_from(&new.include);
    next.exclude.clone_from(&new.exclude);
    next.settle = new.settle;
    next.send.clone_from(&new.send);
    if snapshot(start) == snapshot(new) {
        next.in_use = new.in_use;
    }
    next
}

fn snapshot(config: &StoreConfig) -> bool {
    config.in_use == InUse::Snapshot
}

/// Keys of a store that change while it runs, and those that were read when it was opened.
fn keys_of_store(
    start: &StoreConfig,
    old: &StoreConfig,
    next: &StoreConfig,
    new: &StoreConfig,
) -> (Vec<String>, Vec<String>) {
    let section = format!("stores.{}.", new.name);
    let fixed = [
        ("path", start.path != new.path),
        ("role", start.role != new.role),
        ("commit", start.commit != new.commit),
        ("hold_base", start.hold_base != new.hold_base),
        ("warm", start.warm != new.warm),
        ("keep_generations", start.keep_generations != new.keep_generations),
        ("keep_days", start.keep_days != new.keep_days),
        ("prefer", start.prefer != new.prefer),
        ("in_use", snapshot(start) != snapshot(new)),
        ("sets", start.sets != new.sets),
    ];
    let live = [
        ("include", old.include != next.include),
        ("exclude", old.exclude != next.exclude),
        ("settle", old.settle != next.settle),
        ("in_use", old.in_use != next.in_use),
        ("send", old.send.limit != next.send.limit),
        ("schedule", old.send.schedule != next.send.schedule),
        ("lane", old.send.lane != next.send.lane),
    ];
    (changed(section.clone(), &live), changed(section, &fixed))
}

fn peers(core: &Arc<Core>, old: &Config, new: &Config, done: &mut Reloaded) {
    let kept: BTreeSet<NodeId> = new.peers.iter().map(|peer| peer.id).collect();
    for peer in old.peers.iter().filter(|peer| !kept.contains(&peer.id)) {
        done.changed.push(format!("peers.{}", peer.name));
        let Some(running) = core.peer(&peer.id) else { continue };
        running.configured.store(false, Ordering::Relaxed);
        let member = lock(&core.members).peers.get(&peer.id).cloned();
        match member {
            // What was also paired by command stays as it was paired.
            Some(config) => adjust_peer(core, &running, config),
            None => {
                core.trust.dismiss(&peer.id);
                node::drop_peer(core, &running, "PEER_UNKNOWN");
            }
        }
    }
    for peer in &new.peers {
        let Some(running) = core.peer(&peer.id) else {
            done.changed.push(format!("peers.{}", peer.name));
            // The operator's own word outranks a removal by command.
            core.trust.pardon(&peer.id);
            let added = core.add_peer(peer.clone(), true);
            tokio::spawn(dialing::keep(core.clone(), added));
            continue;
        };
        running.configured.store(true, Ordering::Relaxed);
        let before = old.peers.iter().find(|p| p.id == peer.id).cloned();
        let keys = keys_of_peer(&before.unwrap_or_else(|| running.config()), peer);
        if !keys.is_empty() {
            adjust_peer(core, &running, peer.clone());
            done.changed.extend(keys);
        }
    }
}

/// Keys of a peer that have changed: all of it can while the node runs.
fn keys_of_peer(before: &PeerConfig, peer: &PeerConfig) -> Vec<String> {
    let keys = [
        ("address", before.addresses != peer.addresses),
        ("stores", before.stores != peer.stores),
        ("mirrors", before.mirrors != peer.mirrors),
        ("compression", before.compression != peer.compression),
        ("send", before.send.limit != peer.send.limit),
        ("schedule", before.send.schedule != peer.send.schedule),
        ("weight", before.send.weight != peer.send.weight),
        ("polite", before.send.polite != peer.send.polite),
    ];
    let mut keys = changed(format!("peers.{}.", peer.name), &keys);
    // What has no key of its own here is not left out.
    if before.name != peer.name || (keys.is_empty() && before != peer) {
        keys.push(format!("peers.{}", peer.name));
    }
    keys
}

/// Gives a peer other settings; the connection stays.
fn adjust_peer(core: &Core, peer: &Peer, config: PeerConfig) {
    let before = peer.config();
    let (id, send) = (peer.id, config.send.clone());
    core.limit.change(|rates| rates.peers.insert(id, send));
    let shares: Vec<_> =
        config.stores.iter().filter(|store| !before.stores.contains(store)).cloned().collect();
    let address = before.addresses != config.addresses;
    peer.set_config(config, address);
    core.review_peer(peer);
    for store in shares {
        peer.introduce(store);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::membership::identity::Identity;
    use crate::rate::calendar::{Calendar, Rate};

    fn config() -> Config {
        Config::new("hub", Identity::generate().expect("a key"), "/nonexistent/state".into())
    }

    #[test]
    fn each_key_of_the_node_is_live_or_needs_a_restart() {
        let old = config();
        assert_eq!((fixed(&old, &old), of_node(&old, &old)), (vec![], vec![]));
        let mut new = old.clone();
        new.name = "other".into();
        new.listen = vec!["127.0.0.1:1".parse().expect("an address")];
        assert_eq!(fixed(&old, &new), ["node.name", "node.listen"]);
        assert_eq!(of_node(&old, &new), [""; 0]);
        let mut new = old.clone();
        new.memory_bytes = Some(1 << 30);
        new.disk_read_bytes_per_second = Some(400_000_000);
        assert_eq!(fixed(&old, &new), ["limits.memory"]);
        assert_eq!(of_node(&old, &new), ["limits.disk_read"]);
        let mut new = old.clone();
        new.rescan = Duration::from_secs(7);
        new.send_limit_bits_per_second = Some(5);
        new.schedules.insert("night".into(), Arc::new(Calendar::constant(Rate::Pause)));
        assert_eq!(fixed(&old, &new), [""; 0]);
        assert_eq!(of_node(&old, &new), ["node.rescan", "limits.send", "schedules.night"]);
        let mut later = new.clone();
        later.deadlines.insert("night".into(), "06:00".parse().expect("a time"));
        assert_eq!(of_node(&new, &later), ["schedules.night"]);
        assert_eq!(of_node(&later, &old).len(), 3, "and what is gone");
    }
}
