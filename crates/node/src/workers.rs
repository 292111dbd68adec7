//! Workers: a fixed pool of threads that read, prove and compress packs.
//!
//! One thread per core, each with its own compressor for light levels; high ones take an order of
//! magnitude more memory, so all threads share one compressor for them. The queue is bounded by what
//! transfers may have in flight. A job that panics ends its transfer, not the pool.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use blockferry_wire::{Compression, Packer};
use tracing::error;

use crate::budget;
use crate::error::{Error, Result};
use crate::level::LIGHT;

type Job = Box<dyn FnOnce(&mut Press) + Send>;

/// The compressors that a job may use.
pub(crate) struct Press {
    light: Packer,
    heavy: Arc<Mutex<Packer>>,
}

impl Press {
    fn new(heavy: &Arc<Mutex<Packer>>) -> Result<Self> {
        Ok(Self { light: Packer::new()?, heavy: heavy.clone() })
    }

    /// Does `job` with a compressor for this level. When the one for high levels is busy it waits,
    /// or takes less if `lesser` allows: a worker that waits is one that others lack.
    pub(crate) fn with<T>(
        &mut self,
        compression: Compression,
        lesser: bool,
        job: impl FnOnce(&mut Packer, Compression) -> T,
    ) -> T {
        if compression <= LIGHT {
            return job(&mut self.light, compression);
        }
        let heavy = match self.heavy.try_lock() {
            Ok(heavy) => heavy,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if lesser => return job(&mut self.light, LIGHT),
            Err(TryLockError::WouldBlock) => {
                self.heavy.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        let mut heavy = heavy;
        job(&mut heavy, compression)
    }
}

/// Threads of the pool: one per core.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(budget::WORKERS_MAX)
}

/// The pool; dropped, its threads end after the job at hand.
pub(crate) struct Workers {
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one thread per core, at most [`budget::WORKERS_MAX`].
    pub(crate) fn start() -> Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(budget::SENDS_MAX * budget::PACKS_AHEAD);
        let jobs = Arc::new(Mutex::new(jobs));
        let heavy = Arc::new(Mutex::new(Packer::new()?));
        let mut pool = Vec::new();
        for number in 0..threads() {
            let (jobs, press) = (jobs.clone(), Press::new(&heavy)?);
            let thread = std::thread::Builder::new()
                .name(format!("pack-{number}"))
                .spawn(move || work(&jobs, press))
                .map_err(|e| Error::io("start", "a worker thread", e))?;
            pool.push(thread);
        }
        Ok(Self { queue: Some(queue), threads: pool })
    }

    /// Queues a job; waits while the queue is full. Blocking.
    pub(crate) fn submit(&self, job: impl FnOnce(&mut Press) + Send + 'static) -> Result<()> {
        let queue = self.queue.as_ref().ok_or(Error::Stopping)?;
        queue.send(Box::new(job)).map_err(|_| Error::Broken { what: "a worker thread" })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a worker thread stopped unexpectedly");
            }
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, mut press: Press) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let run = std::panic::AssertUnwindSafe(|| job(&mut press));
        if std::panic::catch_unwind(run).is_err() {
            error!("a pack job stopped unexpectedly; its transfer will end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_and_a_panic_kills_no_thread() {
        let workers = Workers::start().expect("started");
        let (sender, receiver) = mpsc::channel();
        for number in 0..20 {
            let sender = sender.clone();
            let job = move |_: &mut Press| {
                assert!(number % 5 != 0, "on purpose");
                sender.send(number).expect("received");
            };
            workers.submit(job).expect("queued");
        }
        drop((workers, sender));
        let mut done: Vec<i32> = receiver.iter().collect();
        done.sort_unstable();
        assert_eq!(done.len(), 16);
    }

    #[test]
    fn a_busy_high_level_is_waited_for_or_lessened() {
        let heavy = Arc::new(Mutex::new(Packer::new().expect("memory")));
        let mut press = Press::new(&heavy).expect("memory");
        let high = Compression::zstd(9);
        let level = |press: &mut Press, wanted, lesser| press.with(wanted, lesser, |_, got| got);
        assert_eq!(level(&mut press, high, true), high);
        let held = heavy.lock().expect("free");
        assert_eq!(level(&mut press, high, true), LIGHT);
        assert_eq!(level(&mut press, Compression::zstd(1), true), Compression::zstd(1));
        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| level(&mut press, high, false));
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(held);
            waits.join().expect("ran")
        });
        assert_eq!(waits, high);
    }
}
