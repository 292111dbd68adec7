//! Two network namespaces with our process id in their names: two runs at once don't meet, and
//! what a killed run left behind is known as such and removed by the next one.
//!
//! Everything in them is set by iproute2, or by a short-lived thread that enters one of them; no
//! thread that lives on ever leaves the namespace it was started in.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ground::tools::run;

/// Where iproute2 keeps them.
const DIRECTORY: &str = "/var/run/netns";
const PREFIX: &str = "ferry-";

/// Two namespaces; gone when dropped.
#[derive(Debug)]
pub(crate) struct Namespaces {
    names: [String; 2],
}

impl Namespaces {
    /// Makes them, with loopback up and IPv6 silent on what will be added.
    pub(crate) fn make() -> anyhow::Result<Namespaces> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let name = |end: char| format!("{PREFIX}{id}-{number}-{end}");
        let made = Namespaces { names: [name('a'), name('b')] };
        for name in &made.names {
            run(Command::new("ip").args(["netns", "add", name]))?;
            ip(name, &["link", "set", "lo", "up"])?;
            inside(name, || {
                // Neighbours that IPv6 looks for by itself would be counted as a tool's bytes. A
                // kernel without IPv6 has no such setting.
                let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
                Ok(())
            })?;
        }
        Ok(made)
    }

    /// Their names, as `ip netns exec` takes them.
    pub(crate) fn names(&self) -> [&str; 2] {
        self.names.each_ref().map(String::as_str)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            remove(name);
        }
    }
}

/// `ip` in a namespace.
pub(crate) fn ip(namespace: &str, args: &[&str]) -> anyhow::Result<String> {
    run(Command::new("ip").args(["-n", namespace]).args(args))
}

/// Does `work` on a thread in a namespace. Sockets and files of `/proc/thread-self/net` that it
/// opens stay in that namespace for good.
pub(crate) fn inside<T: Send>(
    namespace: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let path = Path::new(DIRECTORY).join(namespace);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let enter_and_work = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {namespace}"))?;
        work()
    };
    let outcome = thread::scope(|scope| scope.spawn(enter_and_work).join());
    outcome.map_err(|_| anyhow!("a thread in {namespace} panicked"))?
}

/// Removes the namespaces of runs that are over.
fn remove_leftovers() {
    // No directory: nothing was ever made on this machine.
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead = |id: u32| !Path::new("/proc").join(id.to_string()).exists();
        if maker(&name).is_some_and(dead) {
            remove(&name);
        }
    }
}

/// The process that made a namespace of this name, if it is one of ours.
fn maker(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let id = parts.next()?.parse().ok()?;
    parts.next()?.parse::<u32>().ok()?;
    let ours = matches!(parts.next(), Some("a" | "b")) && parts.next().is_none();
    ours.then_some(id)
}

fn remove(name: &str) {
    // It may not have been made, or another run was faster.
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_told_from_others() {
        assert_eq!(maker("ferry-123-0-a"), Some(123));
        assert_eq!(maker("ferry-123-17-b"), Some(123));
        let others = ["ferry-123-a", "ferry-x-0-a", "wan-1-0-a", "ferry-1-0-c", "ferry-1-0-a-b"];
        for other in others {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
