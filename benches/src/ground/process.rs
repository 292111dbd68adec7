//! What `/proc` says of a process: CPU seconds, resident memory, bytes it moved, and the network
//! interfaces that it sees. All from the outside: nothing here is told by what is measured.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Clock ticks in a second as `/proc` counts them (USER_HZ: 100 on every Linux).
const TICKS_PER_SECOND: f64 = 100.0;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const IDLE_EVERY: Duration = Duration::from_millis(250);
const IDLE_LOOKS: u32 = 4;
/// Who has done nothing for so long is idle.
pub(crate) const QUIET: Duration = IDLE_EVERY.saturating_mul(IDLE_LOOKS);

/// CPU seconds of a process, all its threads together.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    stat_seconds(pid, [13, 14])
}

/// CPU seconds of the children that a process has waited for.
pub(crate) fn children_cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    stat_seconds(pid, [15, 16])
}

fn stat_seconds(pid: u32, fields: [usize; 2]) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold blanks; what follows it begins with field 2.
    let (_, rest) = text.rsplit_once(')').context("a stat line without a name")?;
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let mut ticks = 0.0;
    for field in fields {
        ticks += rest.get(field - 2).context("a short stat line")?.parse::<f64>()?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// `name: number` in a file of `/proc/PID`.
pub(crate) fn number_in(pid: u32, file: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let line = line.with_context(|| format!("no {name} in {file}"))?;
    let number = line.split_whitespace().nth(1).with_context(|| format!("no number in {line}"))?;
    Ok(number.parse()?)
}

/// Bytes that a process asked the kernel to read (`rchar`) and made it fetch from disk.
pub(crate) fn bytes_read(pid: u32) -> anyhow::Result<(u64, u64)> {
    Ok((number_in(pid, "io", "rchar")?, number_in(pid, "io", "read_bytes")?))
}

/// Bytes that a process made the kernel fetch from disk and bring there: what another process
/// has cached or will write back isn't in them.
pub(crate) fn disk_traffic(pid: u32) -> anyhow::Result<[u64; 2]> {
    Ok([number_in(pid, "io", "read_bytes")?, number_in(pid, "io", "write_bytes")?])
}

/// Bytes that a process moved to and from disk.
fn disk_bytes(pid: u32) -> anyhow::Result<u64> {
    disk_traffic(pid).map(|both| both.iter().sum())
}

/// Bytes that went out and came in through an interface, as the process sees it.
pub(crate) fn interface_bytes(pid: u32, interface: &str) -> anyhow::Result<[u64; 2]> {
    interface_counters(pid, interface).map(|[received, sent, _]| [sent, received])
}

/// Bytes and packets that went out through an interface, as the process sees it.
pub(crate) fn interface_sent(pid: u32, interface: &str) -> anyhow::Result<[u64; 2]> {
    interface_counters(pid, interface).map(|[_, bytes, packets]| [bytes, packets])
}

/// Bytes that came in, bytes and packets that went out.
fn interface_counters(pid: u32, interface: &str) -> anyhow::Result<[u64; 3]> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
    let line = line.with_context(|| format!("no interface {interface}"))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let number = |at: usize| numbers.get(at).copied().context("a short line");
    Ok([number(0)?, number(8)?, number(9)?])
}

/// Resident memory of a process at its peak, since its start or the last `forget_peak`.
pub(crate) fn peak_bytes(pid: u32) -> anyhow::Result<u64> {
    Ok(number_in(pid, "status", "VmHWM")? * 1024)
}

/// Makes the kernel forget the peak, so that what comes next has one of its own.
fn forget_peak(pid: u32) {
    // Somebody else's process: then peaks are those since the start.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Waits until none of the processes works any more, at most `limit`. Gives how long that took.
pub(crate) fn wait_until_idle(pids: &[u32], limit: Duration) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let state = || -> anyhow::Result<(f64, u64)> {
        let mut all = (0.0, 0);
        for pid in pids {
            all.0 += cpu_seconds(*pid)?;
            all.1 += disk_bytes(*pid)?;
        }
        Ok(all)
    };
    let mut quiet = 0;
    let mut before = state()?;
    while quiet < IDLE_LOOKS && began.elapsed() < limit {
        thread::sleep(IDLE_EVERY);
        let now = state()?;
        // A tick or two are keep-alives.
        let busy = now.0 - before.0 > 0.021 || now.1 != before.1;
        quiet = if busy { 0 } else { quiet + 1 };
        before = now;
    }
    Ok(began.elapsed())
}

/// The largest resident memory seen of each node, over all of its processes.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    watched: Mutex<BTreeMap<u32, String>>,
    peaks: Mutex<BTreeMap<String, u64>>,
    over: AtomicBool,
}

impl Memory {
    /// Starts the thread that looks.
    pub(crate) fn start() -> (Memory, JoinHandle<()>) {
        let memory = Memory(Arc::default());
        let sampler = memory.clone();
        let thread = thread::spawn(move || {
            while !sampler.0.over.load(Ordering::Relaxed) {
                sampler.look();
                thread::sleep(SAMPLE_EVERY);
            }
        });
        (memory, thread)
    }

    /// From now on `pid` is node `name`.
    pub(crate) fn watch(&self, pid: u32, name: &str) {
        let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(pid, name.to_owned());
    }

    /// The process is about to go: looks a last time.
    pub(crate) fn leave(&self, pid: u32) {
        self.look();
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }

    /// From now on the peak of `pid` is that of what it does next; the old one is kept here.
    pub(crate) fn begin(&self, pid: u32) {
        self.look();
        forget_peak(pid);
    }

    /// The kernel keeps the peak of each process, so nothing is missed between two looks.
    fn look(&self) {
        let watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut peaks = self.0.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        for (pid, name) in watched {
            // A process that has just been killed has no memory.
            if let Ok(bytes) = peak_bytes(pid) {
                let peak = peaks.entry(name).or_default();
                *peak = (*peak).max(bytes);
            }
        }
    }

    /// Bytes at the peak, by node.
    pub(crate) fn peaks(&self) -> BTreeMap<String, u64> {
        self.0.peaks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let began = Instant::now();
        let mut number = 1u64;
        while began.elapsed() < Duration::from_millis(60) {
            number = number.wrapping_mul(3);
        }
        assert!(number != 0 && cpu_seconds(pid).unwrap() > before);
        let (asked, _) = bytes_read(pid).unwrap();
        fs::read("/proc/self/status").unwrap();
        assert!(bytes_read(pid).unwrap().0 > asked);
        assert!(interface_bytes(pid, "lo").is_ok() && interface_bytes(pid, "none0").is_err());
    }

    #[test]
    fn the_peak_of_memory_is_kept() {
        let (memory, thread) = Memory::start();
        memory.watch(std::process::id(), "self");
        let bytes = vec![1; 64 << 20];
        assert!(peak_bytes(std::process::id()).unwrap() > bytes.len() as u64);
        drop(bytes);
        memory.begin(std::process::id());
        memory.leave(std::process::id());
        memory.stop();
        thread.join().unwrap();
        assert!(memory.peaks()["self"] > 64 << 20, "{:?}", memory.peaks());
    }
}
