//! Windows: how much may be on its way on each connection, each way.
//!
//! What was sent and not confirmed, and what came and was not read, is memory. All connections that
//! carry transfers share one pool each way; of its share a connection gets what its link takes: the
//! bytes of two round trips, by the rate and the delay that are measured, but enough for any
//! ordinary link before anything is known. One that carries none gets little. So one transfer over
//! a long fat link can have all of the pool, and many can't have more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::{Connection, VarInt};

use crate::budget;
use crate::core::lock;

/// The send window for a congestion window and so many connections that send, in bytes.
pub(crate) fn send_window(congestion: u64, connections: usize) -> u64 {
    let behind = congestion.saturating_mul(budget::SEND_WINDOW_FLIGHTS);
    // What is in flight must fit; what waits behind it needs no more than on an ordinary link.
    let wanted = behind.min(budget::WINDOW_BYTES.max(congestion.saturating_add(congestion / 2)));
    wanted.clamp(budget::SEND_WINDOW_BYTES_MIN, share(connections))
}

/// The receive window for so many bytes in a time, and so many connections that receive.
fn receive_window(came: u64, time: Duration, round_trip: Duration, connections: usize) -> u64 {
    let nanos = time.as_nanos().max(1);
    let flight = u128::from(came) * round_trip.as_nanos() / nanos;
    let flight = u64::try_from(flight).unwrap_or(u64::MAX);
    flight.saturating_mul(2).max(budget::WINDOW_BYTES).min(share(connections))
}

/// What one of so many connections may have at most.
fn share(connections: usize) -> u64 {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX).max(1);
    (budget::WINDOW_POOL_BYTES / connections).max(budget::SHARE_BYTES_MIN)
}

/// The connections that receive a transfer, with how many each.
#[derive(Debug, Default)]
pub(crate) struct Receiving(Mutex<BTreeMap<usize, usize>>);

/// One transfer that is received; its connection's window follows what comes until this is gone.
pub(crate) struct Follow {
    receiving: Arc<Receiving>,
    connection: Connection,
    task: tokio::task::JoinHandle<()>,
}

impl Receiving {
    /// From now on the window of `connection` is that of one that receives.
    pub(crate) fn follow(self: &Arc<Self>, connection: &Connection) -> Follow {
        *lock(&self.0).entry(connection.stable_id()).or_default() += 1;
        let (receiving, followed) = (Arc::clone(self), connection.clone());
        let task = tokio::spawn(async move { receiving.look(&followed).await });
        Follow { receiving: Arc::clone(self), connection: connection.clone(), task }
    }

    async fn look(&self, connection: &Connection) {
        let (mut since, mut before) = (Instant::now(), connection.stats().udp_rx.bytes);
        let (mut came, mut time) = (0, Duration::ZERO);
        let mut last = 0;
        loop {
            let connections = lock(&self.0).len();
            let window = receive_window(came, time, connection.rtt(), connections);
            // What a burst asked for stays, unless others need it.
            let window = window.max(last).min(share(connections));
            if window != last {
                set(connection, window);
                last = window;
            }
            tokio::time::sleep(budget::RECEIVE_WINDOW_EVERY).await;
            let now = connection.stats().udp_rx.bytes;
            (came, time) = (now - before, since.elapsed());
            (since, before) = (Instant::now(), now);
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
        let mut receiving = lock(&self.receiving.0);
        let id = self.connection.stable_id();
        if let Some(count) = receiving.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                receiving.remove(&id);
                set(&self.connection, budget::IDLE_WINDOW_BYTES);
            }
        }
    }
}

fn set(connection: &Connection, window: u64) {
    connection.set_receive_window(VarInt::from_u64(window).expect("far below 2^62"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_send_window_follows_what_is_in_flight() {
        assert_eq!(send_window(0, 1), budget::SEND_WINDOW_BYTES_MIN);
        assert_eq!(send_window(1_000_000, 1), 3_000_000);
        assert_eq!(send_window(4 * MIB, 1), 8 * MIB);
        assert_eq!(send_window(10 * MIB, 1), 15 * MIB);
        assert_eq!(send_window(10 * MIB, 4), 4 * MIB);
        assert_eq!(send_window(u64::MAX, 1), budget::WINDOW_POOL_BYTES);
    }

    #[test]
    fn the_receive_window_follows_rate_and_delay() {
        let ms = Duration::from_millis;
        assert_eq!(receive_window(0, Duration::ZERO, ms(20), 1), 8 * MIB);
        // 100 Mbit/s over 50 ms is less than what an ordinary link gets.
        assert_eq!(receive_window(1_250_000, ms(100), ms(50), 1), 8 * MIB);
        // 500 Mbit/s over 100 ms.
        assert_eq!(receive_window(6_250_000, ms(100), ms(100), 1), 12_500_000);
        assert_eq!(receive_window(u64::MAX, ms(1), ms(1000), 1), 16 * MIB);
        assert_eq!(receive_window(u64::MAX, ms(1), ms(1000), 3), 16 * MIB / 3);
    }

    #[test]
    fn all_shares_fit_the_pool() {
        for connections in 1..=budget::RECEIVERS_MAX.max(budget::SENDS_MAX) {
            assert!(share(connections) * connections as u64 <= budget::WINDOW_POOL_BYTES);
        }
    }
}
