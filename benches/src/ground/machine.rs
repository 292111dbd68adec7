//! What figures depend on: the machine, its kernel, the file system, what else was running.

use std::path::Path;

use super::tools::file_system;

/// Names and values, for a report of what is measured in `work`.
pub(crate) fn conditions(work: &Path) -> Vec<(String, String)> {
    let line = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.trim_start_matches(key).trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rows = [
        ("machine", format!("{cores} cores, {}", line("/proc/cpuinfo", "model name"))),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("kernel", line("/proc/sys/kernel/osrelease", "")),
        ("file system", file_system(work)),
        ("TCP of the peers", line("/proc/sys/net/ipv4/tcp_congestion_control", "")),
        ("load before", line("/proc/loadavg", "")),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).to_vec()
}
