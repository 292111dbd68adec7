//! Congestion: how much may be in flight to a peer.
//!
//! Pure: acknowledgements, losses and time in, a window in bytes out. [`path`] knows what the path is
//! like (its round trip without a queue, the queue now, the rate that gets through, the share that
//! is lost), [`window`] decides from it, and this file is what quinn sees of both.
//!
//! Two manners. The normal one grows as CUBIC does and shrinks when a full queue loses packets; a
//! loss without a queue is the link's own and no reason to slow down. The polite one keeps the queue
//! nearly empty, so that it takes what is free and yields to whoever fills it. Which is in force can
//! be changed while the connection is up ([`set_polite`]).

mod curve;
mod path;
mod window;

#[cfg(test)]
mod sim;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use crate::budget;
use crate::link::meter;
use window::Window;

/// What acknowledgements that came together say.
#[derive(Clone, Copy, Debug)]
struct Acks {
    now: Instant,
    /// That were confirmed.
    bytes: u64,
    /// When the youngest confirmed packet was sent.
    newest_sent: Instant,
    /// Of that packet.
    round_trip: Duration,
    /// Smoothed, without what the peer waited before it answered.
    smoothed: Duration,
    /// Still in flight, in bytes.
    in_flight: u64,
    /// There was nothing more to send.
    app_limited: bool,
}

/// What was found to be lost at once.
#[derive(Clone, Copy, Debug)]
struct Loss {
    now: Instant,
    /// When the youngest lost packet was sent.
    sent: Instant,
    /// 0: nothing was lost, the network only says that it is full.
    bytes: u64,
    /// All was lost for a long time.
    persistent: bool,
}

/// Makes controllers.
#[derive(Debug)]
pub(crate) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let window = Window::new(now, current_mtu);
        Box::new(Ferry { window, polite: Arc::default(), batch: None })
    }
}

/// Which manner a connection has from now on.
pub(crate) fn set_polite(connection: &Connection, polite: bool) {
    if let Some(ferry) = copy(connection) {
        ferry.polite.store(polite, Ordering::Relaxed);
    }
}

/// Which manner a connection has; `None` when its controller is none of ours.
#[cfg(test)]
pub(crate) fn is_polite(connection: &Connection) -> Option<bool> {
    copy(connection).map(|ferry| ferry.polite.load(Ordering::Relaxed))
}

/// A copy of a connection's controller; it shares the switch.
fn copy(connection: &Connection) -> Option<Box<Ferry>> {
    meter::inner(connection)?.into_any().downcast().ok()
}

/// The controller of one connection.
#[derive(Clone)]
struct Ferry {
    window: Window,
    /// Shared by all copies: whoever holds one can change the manner.
    polite: Arc<AtomicBool>,
    /// What of a batch has been told so far.
    batch: Option<Batch>,
}

#[derive(Clone, Copy)]
struct Batch {
    bytes: u64,
    newest_sent: Instant,
    smoothed: Duration,
}

impl Controller for Ferry {
    fn on_ack(&mut self, _: Instant, sent: Instant, bytes: u64, _: bool, rtt: &RttEstimator) {
        let batch = Batch { bytes: 0, newest_sent: sent, smoothed: rtt.get() };
        let batch = self.batch.get_or_insert(batch);
        batch.bytes += bytes;
        batch.newest_sent = batch.newest_sent.max(sent);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        let Some(Batch { bytes, newest_sent, smoothed }) = self.batch.take() else { return };
        let round_trip = now.saturating_duration_since(newest_sent);
        self.window.set_polite(self.polite.load(Ordering::Relaxed), now);
        let acks = Acks { now, bytes, newest_sent, round_trip, smoothed, in_flight, app_limited };
        self.window.handle_acks(&acks);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        let persistent = is_persistent_congestion;
        self.window.handle_loss(&Loss { now, sent, bytes: lost_bytes, persistent });
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.window.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.window.bytes()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        budget::INITIAL_WINDOW_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A count as a number to reckon with.
fn float(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate needs no more than 52 bits")]
    let bytes = bytes as f64;
    bytes
}

#[cfg(test)]
mod tests;
