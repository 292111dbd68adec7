//! What the configuration means on this machine: its paths, its name, addresses.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

/// A path as the file means it: relative to its own directory.
pub(super) fn beside(file: &Path, path: &Path) -> PathBuf {
    let directory = file.parent().unwrap_or(Path::new(""));
    let joined = directory.join(path);
    std::path::absolute(&joined).unwrap_or(joined)
}

/// `HOST:PORT` with a port above 0; an IPv6 address is in brackets.
pub(super) fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let good_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let good_host = text.parse::<SocketAddr>().is_ok() || host.chars().all(plain);
    good_port && good_host && !host.is_empty()
}

/// The path as the file system sees it, or without `.` and `..` where it doesn't exist.
pub(super) fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// The host's name, made a name of ours.
pub(super) fn host_name() -> String {
    let system = rustix::system::uname();
    let name: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(blockferry_delta::STORE_NAME_BYTES_MAX)
        .collect();
    let name = name.trim_start_matches(['.', '-']).to_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["branch-07.example.net:7700", "10.0.0.1:1", "[2001:db8::7]:7700"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in
            ["", "host", "host:", ":7700", "host:0", "host:70000", "2001:db8::7:7700", "a b:1"]
        {
            assert!(!is_host_port(bad), "{bad}");
        }
    }

    #[test]
    fn paths_without_dots() {
        let path = resolved(Path::new("/nonexistent/./a/../b/"));
        assert_eq!(path, Path::new("/nonexistent/b"));
        assert_eq!(
            beside(Path::new("/etc/x/c.toml"), Path::new("state")),
            Path::new("/etc/x/state")
        );
        assert_eq!(beside(Path::new("/etc/x/c.toml"), Path::new("/srv")), Path::new("/srv"));
    }

    #[test]
    fn this_host_has_a_name() {
        assert!(blockferry_delta::StoreName::new(&host_name()).is_ok(), "{}", host_name());
    }
}
