//! Room for large buffers, which the threads of a scan share: many read a little at a time, few a
//! whole segment.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// So many buffers may be in use at the same time.
#[derive(Debug)]
pub(super) struct Room {
    left: Mutex<usize>,
    freed: Condvar,
}

/// The right to one buffer, until it is dropped.
pub(super) struct Taken<'a>(&'a Room);

impl Room {
    pub(super) fn new(buffers: usize) -> Self {
        Self { left: Mutex::new(buffers.max(1)), freed: Condvar::new() }
    }

    fn left(&self) -> MutexGuard<'_, usize> {
        // A count is right whatever happened to another thread.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one is free.
    pub(super) fn take(&self) -> Taken<'_> {
        let none_left = |left: &mut usize| *left == 0;
        let left = self.freed.wait_while(self.left(), none_left);
        *left.unwrap_or_else(PoisonError::into_inner) -= 1;
        Taken(self)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.left() += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_there_are_and_all_get_their_turn() {
        let (room, now, most) = (Room::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _taken = room.take();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 2);
        assert_eq!(*room.left(), 2);
    }

    #[test]
    fn who_panics_gives_it_back() {
        let room = Room::new(1);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _taken = room.take();
            panic!("on purpose");
        }));
        assert!(outcome.is_err());
        drop(room.take());
    }
}
