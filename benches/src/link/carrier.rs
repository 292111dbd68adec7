//! The two threads of a shaped link: each takes packets out of one TUN device, through a `Pipe`,
//! into the other. They are threads of this process, so the link dies with it, however it dies.
//!
//! A lone packet is handled the moment it arrives. While packets come in quick succession they are
//! handled a tick's worth at a time: that costs far fewer wake-ups, and a tick is much less than
//! any delay that is of interest here.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::pipe::{Counters, Pipe, Settings};
use super::sys;

const TICK: Duration = Duration::from_micros(200);
/// Packets taken in before others are let out.
const BATCH_PACKETS: usize = 256;

/// Both directions; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Carrier {
    lanes: [Arc<Lane>; 2],
    threads: Vec<JoinHandle<()>>,
}

/// One direction, as its thread and the owner of the link share it.
#[derive(Debug)]
struct Lane {
    from: Arc<File>,
    to: Arc<File>,
    /// Rouses the thread.
    bell: File,
    pipe: Mutex<Pipe>,
    began: Instant,
    over: AtomicBool,
}

impl Carrier {
    /// Carries packets between two TUN devices from now on.
    pub(crate) fn start(devices: [OwnedFd; 2], settings: [Settings; 2]) -> anyhow::Result<Carrier> {
        let [a, b] = devices.map(|device| Arc::new(File::from(device)));
        let began = Instant::now();
        let lane = |from: &Arc<File>, to: &Arc<File>, settings| -> anyhow::Result<Arc<Lane>> {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Arc::new(Lane {
                from: Arc::clone(from),
                to: Arc::clone(to),
                bell: File::from(bell),
                pipe: Mutex::new(Pipe::new(settings)),
                began,
                over: AtomicBool::new(false),
            }))
        };
        let [there, back] = settings;
        let lanes = [lane(&a, &b, there)?, lane(&b, &a, back)?];
        let mut carrier = Carrier { lanes, threads: Vec::new() };
        for (lane, name) in carrier.lanes.iter().zip(["link-there", "link-back"]) {
            let lane = Arc::clone(lane);
            let thread = thread::Builder::new().name(name.to_owned());
            carrier.threads.push(thread.spawn(move || lane.carry())?);
        }
        Ok(carrier)
    }

    /// The rate of both directions from now on; 0 lets nothing through.
    pub(crate) fn set_rate(&self, bits_per_second: u64) {
        for lane in &self.lanes {
            lane.pipe().set_rate(lane.now(), bits_per_second);
            lane.ring();
        }
    }

    pub(crate) fn counters(&self) -> [Counters; 2] {
        self.lanes.each_ref().map(|lane| lane.pipe().counters())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.over.store(true, Ordering::Relaxed);
            lane.ring();
        }
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Lane {
    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        nanos(self.began.elapsed())
    }

    fn ring(&self) {
        // Any number but 0 rings, and a bell that rings already may be full.
        let _ = (&self.bell).write(&1u64.to_le_bytes());
    }

    /// Until the link is over or its device gone.
    fn carry(&self) {
        if sys::go_real_time().is_err() {
            // Somewhat better than nothing; how many packets were late is counted.
            let _ = rustix::process::setpriority_process(None, -20);
        }
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let mut moved_at = 0;
        while !self.over.load(Ordering::Relaxed) {
            let now = self.now();
            let Some(moved) = self.take_in(&mut buffer) else { return };
            let (let_out, next) = self.let_out();
            let moved = moved || let_out;
            let busy = moved && now - moved_at < 2 * nanos(TICK);
            if moved {
                moved_at = now;
            }
            let until = if busy { Some(now + nanos(TICK)) } else { next };
            self.wait(until, !busy);
        }
    }

    /// Takes in what the device has; whether there was any. None when there is no device any more.
    fn take_in(&self, buffer: &mut [u8]) -> Option<bool> {
        let mut pipe = self.pipe();
        for taken in 0..BATCH_PACKETS {
            match (&*self.from).read(buffer) {
                Ok(bytes) => pipe.enter(self.now(), buffer[..bytes].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(taken > 0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(true)
    }

    /// Lets out what is due; whether there was any, and when there will be.
    fn let_out(&self) -> (bool, Option<u64>) {
        let mut pipe = self.pipe();
        let mut any = false;
        while let Some(packet) = pipe.leave(self.now()) {
            any = true;
            // An end that is down takes nothing, as on a wire.
            let _ = (&*self.to).write(&packet);
        }
        (any, pipe.next_leaves())
    }

    /// Waits for the bell, for a moment, and for a packet if that is of interest.
    fn wait(&self, until: Option<u64>, packets: bool) {
        let left = until.map(|until| Duration::from_nanos(until.saturating_sub(self.now())));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut events =
            [PollFd::new(&self.bell, PollFlags::IN), PollFd::new(&*self.from, PollFlags::IN)];
        let watched = if packets { &mut events[..] } else { &mut events[..1] };
        // A signal: then the caller looks again, as after an event.
        let _ = poll(watched, timeout.as_ref());
        let mut rings = [0; 8];
        let _ = (&self.bell).read(&mut rings);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
