//! Peaks that no counter keeps: the resident memory of a tree of processes as a whole, and the
//! room on disk that an end takes. Looked at again and again by a thread of this process, which is
//! in neither tree.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::disk::allocated_bytes;
use super::side::Side;
use super::tree::{Tree, resident_bytes};

const EVERY: Duration = Duration::from_millis(20);
/// A directory of many files takes long to look at: then this part of the time at most.
const DISK_SHARE: u32 = 5;

/// The largest seen at an end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peak {
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes: u64,
}

/// What is looked at.
#[derive(Debug)]
struct Watched {
    tree: Tree,
    directory: PathBuf,
    peak: Peak,
}

impl Watched {
    fn look_at_memory(&mut self) -> anyhow::Result<()> {
        let bytes = resident_bytes(&self.tree.members()?);
        self.peak.memory_bytes = self.peak.memory_bytes.max(bytes);
        Ok(())
    }

    fn look_at_disk(&mut self) -> anyhow::Result<()> {
        let bytes = allocated_bytes(&self.directory, &self.tree.members()?)?;
        self.peak.disk_bytes = self.peak.disk_bytes.max(bytes);
        Ok(())
    }
}

/// The thread.
#[derive(Debug)]
pub(super) struct Sampler {
    over: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<[Peak; 2]>>,
}

impl Sampler {
    /// Starts to look at both ends.
    pub(super) fn start(sides: [&Side; 2]) -> Sampler {
        let over = Arc::new(AtomicBool::new(false));
        let watched = sides.map(|side| Watched {
            tree: side.tree(),
            directory: side.directory.clone(),
            peak: Peak::default(),
        });
        let flag = over.clone();
        Sampler { over, thread: thread::spawn(move || watch(watched, &flag)) }
    }

    /// Looks a last time and says what it saw.
    pub(super) fn finish(self) -> anyhow::Result<[Peak; 2]> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the sampler failed")?
    }
}

fn watch(mut watched: [Watched; 2], over: &AtomicBool) -> anyhow::Result<[Peak; 2]> {
    let mut next_disk = Instant::now();
    loop {
        let last = over.load(Ordering::Relaxed);
        for end in &mut watched {
            end.look_at_memory()?;
        }
        let began = Instant::now();
        if last || began >= next_disk {
            for end in &mut watched {
                end.look_at_disk()?;
            }
            next_disk = Instant::now() + began.elapsed() * DISK_SHARE;
        }
        if last {
            return Ok(watched.map(|end| end.peak));
        }
        thread::sleep(EVERY);
    }
}
