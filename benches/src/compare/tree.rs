//! A tree of processes as `/proc` shows it: who belongs to it, what they used so far, how much
//! memory they hold.
//!
//! The root is an end's process, which waits for all that end below it: so what ended processes
//! used is in the root's account of waited-for children, and nothing is lost or counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Sub;

use anyhow::Context;

use crate::ground::process::{children_cpu_seconds, cpu_seconds, number_in};

/// What a tree used since its start, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    /// Fetched from the disk.
    pub(super) read_bytes: u64,
    /// Put into the page cache to be written to the disk, or written directly.
    pub(super) written_bytes: u64,
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, before: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// The processes below one.
#[derive(Debug)]
pub(super) struct Tree {
    root: u32,
    /// Known not to be below the root: nobody comes in from outside.
    foreign: BTreeSet<u32>,
}

impl Tree {
    pub(super) fn below(root: u32) -> Tree {
        Tree { root, foreign: BTreeSet::new() }
    }

    /// All below the root, without it.
    pub(super) fn members(&mut self) -> anyhow::Result<Vec<u32>> {
        let mut parents = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if pid == self.root || self.foreign.contains(&pid) {
                continue;
            }
            // One that has ended since has no parent.
            if let Some(parent) = parent(pid) {
                parents.insert(pid, parent);
            }
        }
        let mut members = Vec::new();
        for pid in parents.keys() {
            match self.belongs(*pid, &parents) {
                Some(true) => members.push(*pid),
                Some(false) => _ = self.foreign.insert(*pid),
                None => {}
            }
        }
        Ok(members)
    }

    /// Whether a process is below the root; unknown when one of its ancestors was not seen.
    fn belongs(&self, pid: u32, parents: &BTreeMap<u32, u32>) -> Option<bool> {
        let mut at = *parents.get(&pid)?;
        loop {
            if at == self.root {
                return Some(true);
            }
            // Everything descends from the first process, or is the kernel's own.
            if at <= 2 || self.foreign.contains(&at) {
                return Some(false);
            }
            at = *parents.get(&at)?;
        }
    }

    /// What all below the root used so far, those that have ended included.
    pub(super) fn usage(&mut self) -> anyhow::Result<Usage> {
        let root = self.root;
        let own = format!("task/{root}/io");
        // Of the root's account, what it did itself is left out.
        let children = |name: &str| -> anyhow::Result<u64> {
            let own = number_in(root, &own, name)?;
            Ok(number_in(root, "io", name)?.saturating_sub(own))
        };
        let mut usage = Usage {
            cpu_seconds: children_cpu_seconds(root).context("an end is gone")?,
            read_bytes: children("read_bytes")?,
            written_bytes: children("write_bytes")?,
        };
        for pid in self.members()? {
            // Who ends between two lines is in the next look.
            let Ok(own) = cpu_seconds(pid) else { continue };
            usage.cpu_seconds += own + children_cpu_seconds(pid).unwrap_or_default();
            usage.read_bytes += number_in(pid, "io", "read_bytes").unwrap_or_default();
            usage.written_bytes += number_in(pid, "io", "write_bytes").unwrap_or_default();
        }
        Ok(usage)
    }
}

/// Resident memory of some processes together; pages they share count for each.
pub(super) fn resident_bytes(pids: &[u32]) -> u64 {
    // One that ends just now has none.
    pids.iter().filter_map(|pid| number_in(*pid, "status", "VmRSS").ok()).sum::<u64>() * 1024
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn grandchildren_belong() {
        let mut child =
            Command::new("sh").args(["-c", "sleep 5 & wait"]).stdin(Stdio::null()).spawn().unwrap();
        let mut tree = Tree::below(std::process::id());
        let mut seen = 0;
        for _ in 0..200 {
            let below: Vec<u32> = Tree::below(child.id()).members().unwrap();
            let members = tree.members().unwrap();
            if let [sleep] = below[..] {
                assert!(members.contains(&child.id()) && members.contains(&sleep));
                assert!(resident_bytes(&members) > 0);
                seen += 1;
                // The shell's own end would leave it running.
                let pid = rustix::process::Pid::from_raw(sleep.cast_signed()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn what_children_used_is_counted_after_their_end() {
        let root = std::process::id();
        let before = Tree::below(root).usage().unwrap();
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let used = Tree::below(root).usage().unwrap() - before;
        assert!(used.cpu_seconds > 0.01, "{used:?}");
    }
}
