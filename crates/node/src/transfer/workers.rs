//! Workers: a fixed pool of threads that read, prove and compress packs.
//!
//! One thread per core, each with its own compressor for light levels; high ones take an order of
//! magnitude more memory, so all threads share one compressor for them. Which pack is made next, and
//! whether there is room for it, is decided in [`Queue`]; how many wait is bounded by what transfers
//! may have in flight. A job that panics ends its transfer, not the pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blockferry_wire::{Compression, Packer};
use tracing::{debug, error};

use crate::budget;
use crate::error::{Error, Result};
use crate::rate::limit::Room;
use crate::rate::overrides::Scope;
use crate::rate::rates::InForce;
use crate::rate::turns::Whose;
use crate::transfer::level::LIGHT;
use crate::transfer::queue::Queue;

type Job = Box<dyn FnOnce(&mut Press, Arc<Held>) + Send>;

/// Those who wait for room look this often whether it has come by time alone.
const LOOK: Duration = Duration::from_secs(1);

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

/// What the threads and those who hold packs share.
struct Shared {
    state: Mutex<State>,
    /// There may be something to do.
    wake: Condvar,
}

struct State {
    queue: Queue<Job>,
    stopping: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, when there is one and room for it; `None`: it is over.
    fn next(&self) -> Option<(Job, u64)> {
        let mut state = self.state();
        loop {
            let stopping = state.stopping;
            let next = match stopping {
                true => state.queue.poll_last(Instant::now()),
                false => state.queue.poll(Instant::now()),
            };
            if next.is_some() || stopping {
                // Room for one may be room for two.
                if !state.queue.is_empty() {
                    self.wake.notify_one();
                }
                return next;
            }
            state = if state.queue.is_empty() {
                self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                // A peer that stalls is found to be slow without anybody's telling.
                let waited = self.wake.wait_timeout(state, LOOK);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

/// The room that a pack takes until it is written. Dropped, it is free.
pub(crate) struct Held {
    shared: Arc<Shared>,
    number: u64,
}

impl Held {
    /// The pack is made and takes so many bytes.
    pub(crate) fn made(&self, bytes: usize) {
        self.shared.state().queue.made(self.number, bytes as u64, Instant::now());
        self.shared.wake.notify_one();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.state().queue.release(self.number, Instant::now());
        self.shared.wake.notify_one();
    }
}

/// A transfer whose packs are made here. Dropped, it is over.
pub(crate) struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Room for Place {
    fn is_used(&self) -> bool {
        self.shared.state().queue.knows(self.number)
    }

    fn is_in_the_way(&self) -> bool {
        self.shared.state().queue.is_in_the_way(self.number, Instant::now())
    }

    fn stalled(&self, stalled: bool) {
        self.shared.state().queue.handle_stalled(self.number, stalled);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.state().queue.end(self.number);
    }
}

/// The pool; dropped, its threads end when everything is made.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    transfers: AtomicU64,
}

impl Workers {
    /// Starts one thread per core, at most [`budget::WORKERS_MAX`].
    pub(crate) fn start() -> Result<Self> {
        let queue = Queue::new(budget::PACKS_BYTES, budget::PACKS_RESERVE_BYTES);
        let state = Mutex::new(State { queue, stopping: false });
        let shared = Arc::new(Shared { state, wake: Condvar::new() });
        let heavy = Arc::new(Mutex::new(Packer::new()?));
        let mut pool = Vec::new();
        for number in 0..threads() {
            let (jobs, press) = (shared.clone(), Press::new(&heavy)?);
            let thread = std::thread::Builder::new()
                .name(format!("pack-{number}"))
                .spawn(move || work(&jobs, press))
                .map_err(|e| Error::io("start", "a worker thread", e))?;
            pool.push(thread);
        }
        Ok(Self { shared, threads: pool, transfers: AtomicU64::new(0) })
    }

    /// A place for a transfer whose packs will be made here.
    pub(crate) fn transfer(&self, scope: Scope) -> Arc<Place> {
        let number = self.transfers.fetch_add(1, Ordering::Relaxed);
        self.shared.state().queue.begin(number, scope);
        Arc::new(Place { shared: self.shared.clone(), number })
    }

    /// What is in force from now on.
    pub(crate) fn handle_rates(&self, in_force: Arc<InForce>) {
        self.shared.state().queue.handle_rates(in_force, Instant::now());
        self.shared.wake.notify_all();
    }

    /// Queues a job for a pack that takes at most so many bytes while it is made; 0: it has its room
    /// already. What the job is given is the room; it is to go with the pack.
    pub(crate) fn submit(
        &self,
        whose: Whose,
        place: &Place,
        bytes: u64,
        job: impl FnOnce(&mut Press, Arc<Held>) + Send + 'static,
    ) {
        self.shared.state().queue.submit(whose, place.number, bytes, Box::new(job));
        self.shared.wake.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a worker thread stopped unexpectedly");
            }
        }
    }
}

fn work(shared: &Arc<Shared>, mut press: Press) {
    // Of this thread alone. Whoever asks the service something is not to wait behind compression.
    if let Err(error) = rustix::process::nice(budget::WORKER_NICE) {
        debug!(%error, "workers have the priority of all others");
    }
    while let Some((job, number)) = shared.next() {
        let held = Arc::new(Held { shared: shared.clone(), number });
        let run = std::panic::AssertUnwindSafe(|| job(&mut press, held));
        if std::panic::catch_unwind(run).is_err() {
            error!("a pack job stopped unexpectedly; its transfer will end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockferry_delta::NodeId;
    use blockferry_wire::Lane;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_and_a_panic_kills_no_thread() {
        let workers = Workers::start().expect("started");
        let (sender, receiver) = mpsc::channel();
        let place = workers.transfer(Scope::default());
        for number in 0..20 {
            let sender = sender.clone();
            let job = move |_: &mut Press, _: Arc<Held>| {
                assert!(number % 5 != 0, "on purpose");
                sender.send(number).expect("received");
            };
            let peer = NodeId::from_bytes([1; 32]);
            workers.submit(Whose { peer, weight: 1, lane: Lane::Normal }, &place, 4 << 20, job);
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
