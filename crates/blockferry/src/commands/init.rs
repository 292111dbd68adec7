//! `init`: an identity, a commented configuration and the directories of a node.
//!
//! Nothing that exists is overwritten: neither a key, which would be another node, nor a file
//! that somebody has edited. By root it is made for whom the state directory belongs to: where a
//! package made that for a service, the service can read its key and its group the configuration.

use super::App;
use crate::args::InitArgs;
use crate::config::{DEFAULT_FILE, Location};
use crate::failure::{AdminError, Failure, on_path};
use blockferry_node::Identity;
use blockferry_node::api::{Exit, Schema};
use serde_json::json;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = include_str!("init.toml");
const FILE_MODE: u32 = 0o640;
const STATE_MODE: u32 = 0o700;
const DIRECTORY_MODE: u32 = 0o750;
/// Where a package puts the unit.
const UNIT: &str = "/usr/lib/systemd/system/blockferry.service";

/// Where the parts of a node are.
struct Places {
    file: PathBuf,
    identity: PathBuf,
    state: PathBuf,
    socket: PathBuf,
}

impl Places {
    /// Everything below one directory, or where a system service has it.
    fn new(app: &App, directory: Option<&Path>) -> Result<Places, Failure> {
        if let Some(directory) = directory {
            let directory = std::path::absolute(directory)
                .map_err(|error| on_path("resolve", directory, &error))?;
            return Ok(Places {
                file: directory.join("blockferry.toml"),
                identity: directory.join("identity.key"),
                state: directory.join("state"),
                socket: directory.join("admin.sock"),
            });
        }
        let file = app.location.file.clone();
        Ok(Places {
            identity: file.with_file_name("identity.key"),
            file,
            state: PathBuf::from("/var/lib/blockferry"),
            socket: PathBuf::from("/run/blockferry/admin.sock"),
        })
    }
}

pub(crate) fn run(app: &App, args: &InitArgs) -> Result<Exit, Failure> {
    let places = Places::new(app, args.dir.as_deref())?;
    if args.if_missing && places.file.exists() {
        return key_only(app);
    }
    for path in [&places.file, &places.identity] {
        if path.symlink_metadata().is_ok() {
            let message = format!("{} is there already", path.display());
            let remedy = "nothing was changed; choose another --dir, or move it away first";
            return Err(AdminError::new("ALREADY_INITIALISED", message).with_remedy(remedy).into());
        }
    }
    let text = filled(&places, args);
    directory(places.file.parent().unwrap_or(Path::new("/")), DIRECTORY_MODE)?;
    directory(&places.state, STATE_MODE)?;
    write_new(&places.file, &text)?;
    let identity = checked(&places.file)
        .and_then(|()| Identity::create(&places.identity).map_err(Failure::from))
        .inspect_err(|_| drop(std::fs::remove_file(&places.file)))?;
    hand_over(&places.state, &places.identity, Some(&places.file))?;
    answer(app, &identity, &places.file)?;
    app.out.prose(&next_steps(&places));
    Ok(Exit::Done)
}

/// The configuration is there, from a repository or a ConfigMap for example: the key may be
/// missing.
fn key_only(app: &App) -> Result<Exit, Failure> {
    let settings = app.location.load()?;
    directory(&settings.state_dir, STATE_MODE)?;
    let is_new = !settings.identity.exists();
    let identity = Identity::load_or_create(&settings.identity)?;
    if is_new {
        // Whoever made the directory, a kubelet for example, didn't know whose it is.
        let mode = Permissions::from_mode(STATE_MODE);
        std::fs::set_permissions(&settings.state_dir, mode)
            .map_err(|error| on_path("set the mode of", &settings.state_dir, &error))?;
        hand_over(&settings.state_dir, &settings.identity, None)?;
    }
    answer(app, &identity, &app.location.file)?;
    Ok(Exit::Done)
}

fn answer(app: &App, identity: &Identity, file: &Path) -> Result<(), Failure> {
    let id = identity.id().to_string();
    let object = json!({ "schema": Schema, "id": id, "config": file });
    app.out.either(&object, || id.clone())
}

/// The key to the owner of the state directory, the configuration to the group.
fn hand_over(state: &Path, key: &Path, config: Option<&Path>) -> Result<(), Failure> {
    let info = state.metadata().map_err(|error| on_path("look at", state, &error))?;
    if !rustix::process::geteuid().is_root() || info.uid() == 0 {
        return Ok(());
    }
    let (user, group) = (info.uid(), info.gid());
    chown(key, Some(user), Some(group)).map_err(|error| on_path("hand over", key, &error))?;
    let Some(config) = config else { return Ok(()) };
    chown(config, None, Some(group)).map_err(|error| on_path("hand over", config, &error))
}

fn next_steps(places: &Places) -> String {
    let file = places.file.display();
    if places.file == Path::new(DEFAULT_FILE) && Path::new(UNIT).exists() {
        return format!("wrote {file}; next: systemctl enable --now blockferry");
    }
    let option = if places.file == Path::new(DEFAULT_FILE) {
        String::new()
    } else {
        format!(" --config {file}")
    };
    format!("wrote {file}; next: blockferry{option} serve")
}

fn directory(path: &Path, mode: u32) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| on_path("make", path, &error))
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| on_path("write", path, &error))
}

/// What was just written must be a configuration, whatever name and address were given.
fn checked(file: &Path) -> Result<(), Failure> {
    Ok(Location::new(Some(file.to_owned())).load().map(drop)?)
}

fn filled(places: &Places, args: &InitArgs) -> String {
    let name = match &args.name {
        Some(name) => format!("name = {}", quoted(name)),
        None => "# name = \"hub-01\"              # default: the host's name".to_owned(),
    };
    TEMPLATE
        .replace("@NAME@", &name)
        .replace("@LISTEN@", &quoted(&args.listen.to_string()))
        .replace("@STATE@", &quoted(&places.state.display().to_string()))
        .replace("@IDENTITY@", &quoted(&places.identity.display().to_string()))
        .replace("@SOCKET@", &quoted(&places.socket.display().to_string()))
}

/// A TOML string with everything escaped that must be.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
