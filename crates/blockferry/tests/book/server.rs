//! The servers of a page: one directory each, in which `/srv`, `/etc/blockferry` and the like are, one
//! node each on loopback, and a shell on it.
//!
//! A sample names paths as they are on a server. In commands and configurations they are replaced by
//! those below the server's directory, in what is printed the other way round. `systemctl` is a
//! script that starts and stops the real service.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What a command of a sample may take, in seconds.
const COMMAND_SECONDS_MAX: &str = "120";
/// Directories of a server that are its own.
const OWN: [&str; 7] = [
    "/etc/blockferry",
    "/var/lib/blockferry",
    "/run/blockferry",
    "/srv",
    "/backup",
    "/mnt",
    "/root",
];

/// The servers of one page, by name.
pub(crate) struct Servers {
    top: TempDir,
    /// The services run as long as this is open.
    _alive: File,
    roots: BTreeMap<String, PathBuf>,
}

impl Servers {
    /// Makes and starts them.
    pub(crate) fn start(names: &[&str]) -> Servers {
        let top = tempfile::tempdir().unwrap();
        let bin = top.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_blockferry"), bin.join("blockferry"))
            .unwrap();
        let systemctl = bin.join("systemctl");
        std::fs::write(&systemctl, include_str!("systemctl.sh")).unwrap();
        std::fs::set_permissions(&systemctl, Permissions::from_mode(0o755)).unwrap();
        let alive = top.path().join("alive");
        assert!(Command::new("mkfifo").arg(&alive).status().unwrap().success());
        // Both ways, so that opening it doesn't wait for the other end.
        let alive = OpenOptions::new().read(true).write(true).open(alive).unwrap();
        let mut servers = Servers { top, _alive: alive, roots: BTreeMap::new() };
        for name in names {
            servers.make(name);
            let (status, said) = servers.run(name, "systemctl start blockferry");
            assert_eq!(status, 0, "{name} doesn't start: {said}");
        }
        servers
    }

    fn make(&mut self, name: &str) {
        let root = self.top.path().join(name);
        for directory in OWN.iter().chain(&["/srv/vdisks"]) {
            std::fs::create_dir_all(below(&root, directory)).unwrap();
        }
        let etc = below(&root, "/etc/blockferry");
        let listen = format!("127.0.0.1:{}", free_port());
        let mut init = Command::new(self.top.path().join("bin/blockferry"));
        init.args(["-q", "init", "--name", name, "--listen", &listen, "--dir"]).arg(&etc);
        assert!(init.stdout(Stdio::null()).status().unwrap().success());
        // As on a server: the state and the socket have places of their own.
        std::fs::remove_dir(etc.join("state")).unwrap();
        let file = etc.join("blockferry.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let at = |name: &str| etc.join(name).display().to_string();
        let text = text
            .replace(&at("state"), &below(&root, "/var/lib/blockferry").display().to_string())
            .replace(
                &at("admin.sock"),
                &below(&root, "/run/blockferry/admin.sock").display().to_string(),
            );
        std::fs::write(file, text).unwrap();
        self.roots.insert(name.to_owned(), root);
    }

    /// Runs a command of the shell; its exit status, and what it said on stdout and stderr.
    pub(crate) fn run(&self, name: &str, command: &str) -> (i32, String) {
        let root = self.root(name);
        // What is printed on stderr belongs between the lines of stdout, as on a terminal.
        let script = format!("exec 2>&1\n{}", there(root, command));
        let path = std::env::var("PATH").unwrap();
        let mut shell = Command::new("timeout");
        shell.args([COMMAND_SECONDS_MAX, "sh", "-c", &script]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BLOCKFERRY_") {
                shell.env_remove(name);
            }
        }
        shell
            .current_dir(below(root, "/root"))
            .stdin(Stdio::null())
            .env("PATH", format!("{}:{path}", self.top.path().join("bin").display()))
            .env("BLOCKFERRY_CONFIG", below(root, "/etc/blockferry/blockferry.toml"))
            .env("ROOT", root)
            .env("ALIVE", self.top.path().join("alive"))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env_remove("JOURNAL_STREAM");
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), said.replace(&root.display().to_string(), ""))
    }

    /// Writes a file of a server.
    pub(crate) fn write(&self, name: &str, path: &str, text: &str) {
        let root = self.root(name);
        let file = below(root, path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, there(root, text)).unwrap();
    }

    fn root(&self, name: &str) -> &Path {
        self.roots.get(name).unwrap_or_else(|| panic!("the page has no server {name}"))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for name in self.roots.keys() {
            self.run(name, "systemctl stop blockferry");
        }
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// A UDP port of loopback that nobody had a moment ago.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The text with the server's own directories where they really are.
fn there(root: &Path, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let begins = !out.ends_with(|c: char| c.is_ascii_alphanumeric() || "._/-".contains(c));
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let is_own =
            |own: &&&str| rest.strip_prefix(**own).is_some_and(|after| !after.starts_with(word));
        match OWN.iter().find(is_own).filter(|_| begins) {
            Some(own) => {
                out.push_str(&below(root, own).display().to_string());
                rest = &rest[own.len()..];
            }
            None => {
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}

#[test]
fn paths_of_a_server_are_below_its_directory() {
    let root = Path::new("/t/hub");
    for (text, real) in [
        ("ls /srv/vdisks", "ls /t/hub/srv/vdisks"),
        ("path = \"/srv\"", "path = \"/t/hub/srv\""),
        ("/t/hub/srv http://x/srv /srv-2", "/t/hub/srv http://x/srv /srv-2"),
    ] {
        assert_eq!(there(root, text), real);
    }
}
