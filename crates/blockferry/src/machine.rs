//! The machine around a node, for `doctor`: files and their modes, the key, names, limits of the
//! kernel, the unit. Looks only; [`judge`] decides what of it is a finding.
//!
//! What the service can't see in its sandbox, or can't say when it doesn't run. What whoever asks may
//! not look at is left out, not guessed.

pub(crate) mod judge;

use crate::config::Settings;
use crate::failure::AdminError;
use blockferry_node::Identity;
use blockferry_node::config::FreeMin;
use blockferry_node::monitoring::doctor::place::{self, Place};
use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// All names must have been looked up by then.
const NAMES_DEADLINE: Duration = Duration::from_secs(5);
/// Names that are looked up.
const NAMES_MAX: usize = 256;
/// Where units lie, the one that counts first.
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const UNIT: &str = "blockferry.service";

/// What a file is for: how open it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The node's key.
    Key,
    /// Only the service's user has business there.
    Private,
    /// Who may write it decides what the service does.
    Deciding,
    /// Who may open it may command the service.
    Socket,
}

/// A file or directory that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) path: PathBuf,
    pub(crate) purpose: Purpose,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
}

/// What was found around a node.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) files: Vec<FileFacts>,
    /// The id of the key file, or what is wrong with it; `None`: we may not look.
    pub(crate) identity: Option<Result<String, AdminError>>,
    /// The id that the running service has.
    pub(crate) running_id: Option<String>,
    /// Limits of the kernel that could be read, by key.
    pub(crate) kernel: BTreeMap<&'static str, u64>,
    /// The installed unit: which settings its `[Service]` makes; `None`: there is none.
    pub(crate) unit: Option<Unit>,
    /// Addresses of peers whose names lead nowhere: peer, address, why.
    pub(crate) unresolved: Vec<(String, String, String)>,
    /// Stores of the configuration, when no service says more.
    pub(crate) stores: Vec<Place>,
}

/// A unit file with its drop-ins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) path: PathBuf,
    /// Last value of each key; an empty one takes back what was set.
    pub(crate) settings: BTreeMap<String, String>,
}

/// What the running service says about itself.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: String,
    /// Peers and the addresses they are dialled at.
    pub(crate) addresses: Vec<(String, String)>,
}

/// Looks around. With a service it says which peers there are; without one the configuration does.
pub(crate) fn look(settings: &Settings, installed: bool, running: Option<Running>) -> Machine {
    let addresses = match &running {
        Some(running) => running.addresses.clone(),
        None => configured_addresses(settings),
    };
    let offline = running.is_none();
    Machine {
        files: files(settings),
        identity: identity(&settings.identity),
        running_id: running.map(|running| running.id),
        kernel: kernel(offline),
        unit: if installed { unit() } else { None },
        unresolved: unresolved(addresses, resolve),
        stores: if offline { stores(settings) } else { Vec::new() },
    }
}

fn files(settings: &Settings) -> Vec<FileFacts> {
    let mut list = vec![
        (settings.state_dir.clone(), Purpose::Private),
        (settings.identity.clone(), Purpose::Key),
        (settings.socket.clone(), Purpose::Socket),
    ];
    list.extend(settings.files.iter().map(|file| (file.clone(), Purpose::Deciding)));
    list.extend(settings.promote.hook_after.iter().map(|hook| (hook.clone(), Purpose::Deciding)));
    for name in ["node.redb", "managed.toml"] {
        list.push((settings.state_dir.join(name), Purpose::Deciding));
    }
    list.into_iter().filter_map(|(path, purpose)| file(path, purpose)).collect()
}

/// `None`: it isn't there, or we may not look.
fn file(path: PathBuf, purpose: Purpose) -> Option<FileFacts> {
    let info = std::fs::metadata(&path).ok()?;
    let mode = info.permissions().mode() & 0o7777;
    Some(FileFacts { path, purpose, mode, owner: info.uid() })
}

fn identity(path: &Path) -> Option<Result<String, AdminError>> {
    if let Err(error) = std::fs::File::open(path) {
        return match error.kind() {
            std::io::ErrorKind::PermissionDenied => None,
            std::io::ErrorKind::NotFound => {
                let text = format!("no key at {}", path.display());
                Some(Err(AdminError::new("KEY_MISSING", text)))
            }
            _ => Some(Err(AdminError::new("KEY_INVALID", format!("{}: {error}", path.display())))),
        };
    }
    let loaded = Identity::load(path).map(|identity| identity.id().to_string());
    Some(loaded.map_err(|error| AdminError::new(error.code(), error.to_string())))
}

fn kernel(offline: bool) -> BTreeMap<&'static str, u64> {
    let mut keys = vec!["fs.inotify.max_user_instances", "fs.inotify.max_user_watches"];
    if offline {
        // A running service knows what it was really granted.
        keys.extend(["net.core.rmem_max", "net.core.wmem_max"]);
    }
    let read = |key: &'static str| {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let text = std::fs::read_to_string(path).ok()?;
        Some((key, text.trim().parse().ok()?))
    };
    keys.into_iter().filter_map(read).collect()
}

fn unit() -> Option<Unit> {
    let mut candidates = UNIT_DIRECTORIES.iter().map(|dir| Path::new(dir).join(UNIT));
    let path = candidates.find(|path| path.is_file())?;
    let mut text = std::fs::read_to_string(&path).ok()?;
    let mut parts = Vec::new();
    for directory in UNIT_DIRECTORIES {
        let drop_ins = Path::new(directory).join(format!("{UNIT}.d"));
        let Ok(entries) = std::fs::read_dir(drop_ins) else { continue };
        let files = entries.flatten().map(|entry| entry.path());
        parts.extend(files.filter(|file| file.extension().is_some_and(|end| end == "conf")));
    }
    parts.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    for part in parts {
        text.push('\n');
        text.push_str(&std::fs::read_to_string(part).unwrap_or_default());
    }
    Some(Unit { path, settings: service_settings(&text) })
}

/// The keys of `[Service]` with their last values.
fn service_settings(text: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[Service]";
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside)
            && !line.starts_with(['#', ';'])
        {
            settings.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    settings
}

fn configured_addresses(settings: &Settings) -> Vec<(String, String)> {
    let of = |peer: &crate::config::PeerSettings| {
        let name = peer.name.to_string();
        peer.address.clone().into_iter().map(move |address| (name.clone(), address))
    };
    settings.peers.iter().flat_map(of).collect()
}

fn resolve(address: &str) -> Result<(), String> {
    let mut found = address.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().map(drop).ok_or_else(|| "the name has no address".to_owned())
}

/// Looks up all names at once; a resolver that doesn't answer in time is a finding, too.
fn unresolved(
    addresses: Vec<(String, String)>,
    resolve: fn(&str) -> Result<(), String>,
) -> Vec<(String, String, String)> {
    let (sender, answers) = channel();
    let mut open = BTreeMap::new();
    for (at, (peer, address)) in addresses.into_iter().take(NAMES_MAX).enumerate() {
        let (sender, asked) = (sender.clone(), address.clone());
        open.insert(at, (peer, address));
        // It may hang for as long as the resolver does; the process doesn't wait for it.
        std::thread::spawn(move || sender.send((at, resolve(&asked))));
    }
    drop(sender);
    let deadline = Instant::now() + NAMES_DEADLINE;
    let mut bad = Vec::new();
    while let Ok((at, answer)) =
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        let Some((peer, address)) = open.remove(&at) else { continue };
        if let Err(why) = answer {
            bad.push((peer, address, why));
        }
    }
    let late = format!("no answer from the resolver within {} s", NAMES_DEADLINE.as_secs());
    bad.extend(open.into_values().map(|(peer, address)| (peer, address, late.clone())));
    bad.sort();
    bad
}

fn stores(settings: &Settings) -> Vec<Place> {
    let least = match settings.store_free_min {
        crate::config::Reserve::Bytes(bytes) => FreeMin::Bytes(bytes),
        crate::config::Reserve::Percent(percent) => FreeMin::Percent(percent),
    };
    // Whether one was ever in service, the locked database knows; a first start makes it.
    let look = |store: &crate::config::StoreSettings| {
        place::look(store.name.as_str(), &store.path, least, false)
    };
    settings.stores.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_and_its_drop_ins() {
        let text = "[Unit]\nDescription=x\n[Service]\nUser=a\nPrivateTmp=yes\n# UMask=1\n\
                    [Install]\nWantedBy=b\n[Service]\nUser = c\nPrivateTmp=\n";
        let settings = service_settings(text);
        assert_eq!(settings.get("User").map(String::as_str), Some("c"));
        assert_eq!(settings.get("PrivateTmp").map(String::as_str), Some(""));
        assert_eq!(settings.len(), 2, "{settings:?}");
    }

    #[test]
    fn names_that_lead_nowhere() {
        let asked = ["good:1", "bad:1", "good:2"].map(|a| ("p".to_owned(), a.to_owned()));
        let bad = unresolved(asked.to_vec(), |address| {
            if address.starts_with("bad") { Err("no such name".into()) } else { Ok(()) }
        });
        assert_eq!(bad, [("p".into(), "bad:1".into(), "no such name".into())]);
        assert_eq!(unresolved(Vec::new(), resolve), []);
        assert_eq!(resolve("127.0.0.1:7700"), Ok(()));
    }

    #[test]
    fn a_key_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        let code = || identity(&path).unwrap().map_err(|error| error.code);
        assert_eq!(code(), Err("KEY_MISSING".to_owned()));
        std::fs::write(&path, "no key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(code(), Err("KEY_UNSAFE".to_owned()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(code(), Err("KEY_INVALID".to_owned()));
        std::fs::remove_file(&path).unwrap();
        let made = Identity::create(&path).unwrap();
        assert_eq!(code(), Ok(made.id().to_string()));
    }
}
