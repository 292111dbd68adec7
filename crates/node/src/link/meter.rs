//! Meter: what a connection has carried, and how long it would have carried more.
//!
//! A congestion controller around the real one, which it leaves alone: only there one learns
//! whether a packet left because there was nothing more to say, or because no more was allowed. The
//! figures are read with [`carried`], a copy of the connection's state.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use crate::transfer::level::Carried;

/// Longer pauses between two acknowledgements are no time in which the link worked for us.
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// Makes metered controllers.
#[derive(Debug)]
pub(crate) struct Metered<F>(pub(crate) Arc<F>);

impl<F: ControllerFactory + Send + Sync + 'static> ControllerFactory for Metered<F> {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.0).build(now, current_mtu);
        Box::new(Meter { inner, count: Count::default() })
    }
}

/// What the connection has carried; nothing when its controller is none of ours.
pub(crate) fn carried(connection: &Connection) -> Option<Carried> {
    let meter = meter(connection)?;
    let Count { bytes, held_bytes, held, .. } = meter.count;
    let window_bytes = meter.inner.window();
    Some(Carried { bytes, held_bytes, held, window_bytes, ..Carried::default() })
}

/// A copy of the controller that decides.
pub(crate) fn inner(connection: &Connection) -> Option<Box<dyn Controller>> {
    meter(connection).map(|meter| meter.inner)
}

fn meter(connection: &Connection) -> Option<Box<Meter>> {
    connection.congestion_state().into_any().downcast::<Meter>().ok()
}

/// A controller that counts.
struct Meter {
    inner: Box<dyn Controller>,
    count: Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    bytes: u64,
    held_bytes: u64,
    held: Duration,
    /// The last acknowledgement, if more was held back then.
    held_since: Option<Instant>,
}

impl Count {
    fn note(&mut self, now: Instant, bytes: u64, app_limited: bool) {
        self.bytes += bytes;
        if app_limited {
            self.held_since = None;
            return;
        }
        let Some(since) = self.held_since.replace(now) else { return };
        let pause = now.saturating_duration_since(since);
        if pause <= PAUSE_LONGEST {
            self.held_bytes += bytes;
            self.held += pause;
        }
    }
}

impl Controller for Meter {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.count.note(now, bytes, app_limited);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Meter { inner: self.inner.clone_box(), count: self.count })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_between_two_held_acknowledgements_counts() {
        let (start, mut count) = (Instant::now(), Count::default());
        let at = |ms| start + Duration::from_millis(ms);
        count.note(at(0), 100, false);
        count.note(at(10), 100, false);
        count.note(at(10), 50, false);
        count.note(at(500), 70, true);
        count.note(at(900), 100, false);
        count.note(at(905), 100, false);
        count.note(at(60_000), 100, false);
        assert_eq!(count.bytes, 620);
        assert_eq!((count.held_bytes, count.held), (250, Duration::from_millis(15)));
    }
}
