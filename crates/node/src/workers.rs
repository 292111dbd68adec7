//! Workers: a fixed pool of threads that read, prove and compress packs.
//!
//! One thread per core, each with its own compressor; the queue is bounded by what transfers may
//! have in flight. A job that panics ends its transfer, not the pool.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use blockferry_wire::Packer;
use tracing::error;

use crate::budget;
use crate::error::{Error, Result};

type Job = Box<dyn FnOnce(&mut Packer) + Send>;

/// The pool; dropped, its threads end after the job at hand.
pub(crate) struct Workers {
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one thread per core, at most [`budget::WORKERS_MAX`].
    pub(crate) fn start(level: i32) -> Result<Self> {
        let count = std::thread::available_parallelism().map_or(2, usize::from);
        let (queue, jobs) = sync_channel::<Job>(budget::SENDS_MAX * budget::PACKS_AHEAD);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Vec::new();
        for number in 0..count.min(budget::WORKERS_MAX) {
            let (jobs, packer) = (jobs.clone(), Packer::new(level)?);
            let thread = std::thread::Builder::new()
                .name(format!("pack-{number}"))
                .spawn(move || work(&jobs, packer))
                .map_err(|e| Error::io("start", "a worker thread", e))?;
            threads.push(thread);
        }
        Ok(Self { queue: Some(queue), threads })
    }

    /// Queues a job; waits while the queue is full. Blocking.
    pub(crate) fn submit(&self, job: impl FnOnce(&mut Packer) + Send + 'static) -> Result<()> {
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

fn work(jobs: &Mutex<Receiver<Job>>, mut packer: Packer) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let run = std::panic::AssertUnwindSafe(|| job(&mut packer));
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
        let workers = Workers::start(3).expect("started");
        let (sender, receiver) = mpsc::channel();
        for number in 0..20 {
            let sender = sender.clone();
            let job = move |_: &mut Packer| {
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
}
