//! `serve`: the service itself, as systemd and people expect it.
//!
//! Ready is said when the node answers; SIGTERM and SIGINT stop it gracefully; SIGHUP reads the
//! configuration again and puts it into force without ending a transfer, or names what is bad about
//! it and leaves the running one alone. The watchdog is fed from the loop that serves, so a loop that hangs is noticed.

use super::App;
use super::live::LiveFile;
use crate::args::ServeArgs;
use crate::config::{
    CommitChoice, HoldBaseChoice, InUseChoice, PeerSettings, Reserve, RoleChoice, SetsChoice,
    Settings, Shown, StoreSettings,
};
use crate::failure::{AdminError, Failure};
use crate::logging;
use blockferry_node::api::{Exit, Role};
use blockferry_node::config::{
    Commit, Config, FreeMin, HoldBase, InUse, PeerConfig, SetsBy, StoreConfig,
};
use blockferry_node::{Identity, Node};
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use std::future::pending;
use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Interval, interval};

/// Steps of tasks between two looks for what has come in.
const STEPS_AT_ONCE: u32 = 7;
/// Open files that a node with all the stores and peers it may have needs, and then some.
const FILES_MAX: u64 = 65_536;
/// How often systemd's status line is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn run(app: &App, args: &ServeArgs) -> Result<Exit, Failure> {
    let settings = app.location.load()?;
    logging::start(&settings, app.out.verbose)?;
    let identity = identity(&settings.identity)?;
    let mut config = node_config(&settings, identity.clone());
    config.file = Some(LiveFile::new(&app.location, &settings, identity));
    config.check()?;
    grant_files();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // A transfer always has something to do: who asks, and what other threads answer, is looked for
    // between its steps, not after sixty of them.
    runtime.enable_all().event_interval(STEPS_AT_ONCE).global_queue_interval(STEPS_AT_ONCE);
    let runtime = runtime.build();
    let runtime = runtime.map_err(|error| AdminError::new("IO", format!("runtime: {error}")))?;
    let closed = args.until_stdin_closes.then(stdin_closes);
    runtime.block_on(serve(&settings, config, closed))
}

async fn serve(
    settings: &Settings,
    config: Config,
    closed: Option<oneshot::Receiver<()>>,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let id = config.identity.id();
    let node = Node::start(config).await.map_err(locked)?;
    tracing::info!(node = %settings.node_name, %id, socket = %settings.socket.display(), "ready");
    tell(&[NotifyState::Ready, NotifyState::Status(&node.status_line())]);
    let mut watchdog = sd_notify::watchdog_enabled().map(|limit| interval(limit / 2));
    let mut status = interval(STATUS_EVERY);
    let mut closed = pin!(starter_gone(closed));
    let why = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break "SIGTERM",
            _ = signals.interrupt.recv() => break "SIGINT",
            () = &mut closed => break "stdin was closed",
            _ = signals.hangup.recv() => reload(&node),
            () = tick(watchdog.as_mut()) => tell(&[NotifyState::Watchdog]),
            _ = status.tick() => tell(&[NotifyState::Status(&node.status_line())]),
        }
    };
    tracing::info!(why, "stopping");
    tell(&[NotifyState::Stopping]);
    node.stop().await;
    Ok(Exit::Done)
}

/// The signals that a service answers to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let open =
            |kind| signal(kind).map_err(|error| AdminError::new("IO", format!("signals: {error}")));
        Ok(Signals {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hangup: open(SignalKind::hangup())?,
        })
    }
}

/// Takes as many open files as may be had: each store needs two, and a shell grants 1024.
fn grant_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|granted| granted >= FILES_MAX) {
        return;
    }
    limit.current = limit.maximum.map_or(Some(FILES_MAX), |most| Some(most.min(FILES_MAX)));
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "no more open files than were granted");
    }
}

/// Never ends when nobody asked for it.
async fn starter_gone(closed: Option<oneshot::Receiver<()>>) {
    match closed {
        Some(closed) => drop(closed.await),
        None => pending().await,
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}

/// Says something to systemd; without systemd there is nobody to say it to.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd is not told");
    }
}

/// What SIGHUP does. Whatever happens is an event, too.
fn reload(node: &Node) {
    if let Err(error) = node.reread() {
        tracing::error!(code = error.code(), %error, "not reloaded");
    }
}

pub(super) fn changed_keys(before: &[Shown], after: &[Shown]) -> Vec<String> {
    let differs = |one: &Shown, others: &[Shown]| {
        !others.iter().any(|other| other.key == one.key && other.value == one.value)
    };
    let mut keys: Vec<String> =
        before.iter().filter(|shown| differs(shown, after)).map(|s| s.key.clone()).collect();
    keys.extend(after.iter().filter(|shown| differs(shown, before)).map(|shown| shown.key.clone()));
    keys.sort();
    keys.dedup();
    keys
}

/// A receiver that hears when stdin ends. The thread ends with the process.
fn stdin_closes() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while std::io::stdin().read(&mut bytes).is_ok_and(|count| count > 0) {}
        // The receiver is gone when the service stops for another reason.
        let _ = sender.send(());
    });
    receiver
}

fn identity(path: &Path) -> Result<Identity, Failure> {
    if !path.exists() {
        let error = AdminError::new("KEY_MISSING", format!("no key at {}", path.display()));
        return Err(error.with_remedy("make the node first: blockferry init").into());
    }
    Ok(Identity::load(path)?)
}

/// The state directory is locked as a store is, and the user meets one code for both.
fn locked(error: blockferry_node::Error) -> Failure {
    if error.code() == "STATE_LOCKED" {
        return AdminError::new("STORE_LOCKED", error.to_string()).into();
    }
    error.into()
}

pub(super) fn node_config(settings: &Settings, identity: Identity) -> Config {
    let mut config = Config::new(settings.node_name.as_str(), identity, settings.state_dir.clone());
    config.listen.clone_from(&settings.listen);
    config.advertise.clone_from(&settings.advertise);
    config.admin_socket = Some(settings.socket.clone());
    config.http.clone_from(&settings.http);
    config.stores = settings.stores.iter().map(store).collect();
    config.peers = settings.peers.iter().map(peer).collect();
    config.compression = settings.compression.0;
    config.send_limit_bits_per_second = settings.send.limit.bits_per_second();
    config.send_schedule.clone_from(&settings.send.schedule);
    config.schedules.clone_from(&settings.schedules);
    config.deadlines.clone_from(&settings.deadlines);
    config.promote.clone_from(&settings.promote);
    config.file_tag = Some(settings.tag.clone());
    config.rescan = settings.rescan;
    config.settle = settings.settle;
    config.watermarks = settings.watermarks;
    config.disk_read_bytes_per_second = settings.disk_read;
    config.memory_bytes = settings.memory;
    config.store_free_min = match settings.store_free_min {
        Reserve::Bytes(bytes) => FreeMin::Bytes(bytes),
        Reserve::Percent(percent) => FreeMin::Percent(percent),
    };
    config
}

fn store(settings: &StoreSettings) -> StoreConfig {
    let role = match settings.role {
        RoleChoice::Writer => Role::Writer,
        RoleChoice::Mirror => Role::Mirror,
    };
    let mut store = StoreConfig::new(settings.name.clone(), settings.path.clone(), role);
    store.include.clone_from(&settings.include);
    store.exclude.clone_from(&settings.exclude);
    store.sets = match &settings.sets {
        SetsChoice::Auto => SetsBy::Auto,
        SetsChoice::Globs(globs) => SetsBy::Globs(globs.clone()),
    };
    store.settle = settings.settle;
    store.in_use = match settings.in_use {
        InUseChoice::Defer => InUse::Defer,
        InUseChoice::Snapshot => InUse::Snapshot,
        InUseChoice::Never => InUse::Never,
    };
    store.hold_base = match settings.hold_base {
        HoldBaseChoice::Auto => HoldBase::Auto,
        HoldBaseChoice::Always => HoldBase::Always,
        HoldBaseChoice::Never => HoldBase::Never,
    };
    store.commit = match settings.commit {
        CommitChoice::Auto => Commit::Auto,
        CommitChoice::Clone => Commit::Clone,
        CommitChoice::Journal => Commit::Journal,
        CommitChoice::Copy => Commit::Copy,
    };
    store.warm = settings.warm;
    store.keep_generations = settings.keep_generations;
    store.keep_days = settings.keep_days;
    store.prefer.clone_from(&settings.prefer);
    store.adopt = settings.adopt;
    store.send.clone_from(&settings.send);
    store
}

fn peer(settings: &PeerSettings) -> PeerConfig {
    PeerConfig {
        name: settings.name.to_string(),
        id: settings.id,
        addresses: settings.address.clone(),
        stores: settings.stores.clone(),
        mirrors: settings.mirrors.clone(),
        compression: settings.compression.map(|compression| compression.0),
        send: settings.send.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    fn shown(key: &str, value: i64) -> Shown {
        Shown { key: key.into(), value: toml::Value::Integer(value), place: Place::BuiltIn }
    }

    #[test]
    fn changed_added_and_removed_keys() {
        let before = [shown("a", 1), shown("b", 2), shown("c", 3)];
        let after = [shown("a", 1), shown("b", 9), shown("d", 4)];
        assert_eq!(changed_keys(&before, &after), ["b", "c", "d"]);
        assert!(changed_keys(&before, &before).is_empty());
    }
}
