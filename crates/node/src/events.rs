//! Events: what happened, kept in the ledger, sent to followers and logged.
//!
//! Noting an event never waits and never fails: it is queued (bounded; what doesn't fit is counted
//! and said later) and one task writes the queue in batches. Followers get what was written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, mpsc};
use tracing::{error, info, warn};

use crate::api::{Event, Severity, remedy_for};
use crate::budget;
use crate::core::lock;
use crate::ledger::{Happening, Ledger};

/// Events that a slow follower may lag behind before it misses some.
const FOLLOWER_LAG_MAX: usize = 256;
/// Events written in one transaction.
const BATCH_MAX: usize = 64;

/// Where events are noted and followed.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Happening>,
    live: broadcast::Sender<Event>,
    dropped: Arc<AtomicU64>,
    /// Warnings and errors so far, by code.
    errors: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

/// The end of [`Events`] that writes them.
pub(crate) struct EventWriter {
    queue: mpsc::Receiver<Happening>,
    live: broadcast::Sender<Event>,
    dropped: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
}

/// An event being put together.
pub(crate) struct Note(Happening);

impl Note {
    /// As it should be.
    pub(crate) fn info(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Info, message.into())
    }

    /// Worth a look.
    pub(crate) fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, message.into())
    }

    /// Somebody must act.
    pub(crate) fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, message.into())
    }

    /// Which store it concerns.
    pub(crate) fn store(mut self, store: &impl ToString) -> Self {
        self.0.store = Some(store.to_string());
        self
    }

    /// Which image it concerns.
    pub(crate) fn image(mut self, image: &impl ToString) -> Self {
        self.0.image = Some(image.to_string());
        self
    }

    /// Which peer it concerns.
    pub(crate) fn peer(mut self, peer: &impl ToString) -> Self {
        self.0.peer = Some(peer.to_string());
        self
    }

    fn new(code: &'static str, severity: Severity, message: String) -> Self {
        let (store, image, peer) = (None, None, None);
        let unix_ms = now_unix_ms();
        Self(Happening { unix_ms, code, severity, message, store, image, peer })
    }
}

impl Events {
    /// The two ends.
    pub(crate) fn new(ledger: Arc<Ledger>) -> (Self, EventWriter) {
        let (sender, queue) = mpsc::channel(budget::EVENTS_QUEUED);
        let (live, _) = broadcast::channel(FOLLOWER_LAG_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = EventWriter { queue, live: live.clone(), dropped: dropped.clone(), ledger };
        (Self { queue: sender, live, dropped, errors: Arc::default() }, writer)
    }

    /// Notes and logs an event.
    pub(crate) fn note(&self, Note(h): Note) {
        let (store, image, peer) = (h.store.as_deref(), h.image.as_deref(), h.peer.as_deref());
        let (code, remedy) = (h.code, remedy_for(h.code));
        match h.severity {
            Severity::Info => info!(code, store, image, peer, "{}", h.message),
            Severity::Warning => warn!(code, store, image, peer, remedy, "{}", h.message),
            Severity::Error => error!(code, store, image, peer, remedy, "{}", h.message),
        }
        if h.severity >= Severity::Warning {
            *lock(&self.errors).entry(h.code).or_default() += 1;
        }
        if self.queue.try_send(h).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Warnings and errors since the start, by code.
    pub(crate) fn errors(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.errors).clone()
    }

    /// Events from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }
}

impl EventWriter {
    /// Writes events until every [`Events`] is gone.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            let missing = dropped + batch.len() as u64;
            if dropped > 0 {
                let lost = format!("{dropped} events could not be written, or came faster");
                batch.push(Note::warning("EVENTS_DROPPED", lost).0);
            }
            let (ledger, rows) = (self.ledger.clone(), std::mem::take(&mut batch));
            let written = tokio::task::spawn_blocking(move || ledger.append(&rows)).await;
            match written {
                Ok(Ok(events)) => {
                    for event in events {
                        // No follower is no error.
                        let _followers = self.live.send(event);
                    }
                }
                Ok(Err(error)) => {
                    // The next one that can be written says how many are missing.
                    self.dropped.fetch_add(missing, Ordering::Relaxed);
                    error!(code = error.code(), %error, "events are not written");
                }
                Err(_) => error!("the event writer stopped unexpectedly"),
            }
        }
    }
}

/// Now, in milliseconds since 1970. For people and for tickets; decides nothing about data.
pub(crate) fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_noted_is_kept_and_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ledger = Arc::new(Ledger::open(&dir.path().join("node.redb")).expect("opened"));
        let (events, writer) = Events::new(ledger.clone());
        let mut live = events.follow();
        let writer = tokio::spawn(writer.run());
        events.note(Note::info("A", "first").store(&"s").image(&"i"));
        events.note(Note::warning("B", "second").peer(&"p"));
        assert_eq!(live.recv().await.expect("sent").code, "A");
        assert_eq!(live.recv().await.expect("sent").number, 2);
        drop(events);
        writer.await.expect("it ends");
        let kept = ledger.events(0).expect("read");
        assert_eq!(kept.len(), 2);
        assert_eq!((kept[0].store.as_deref(), kept[1].peer.as_deref()), (Some("s"), Some("p")));
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_told() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ledger = Arc::new(Ledger::open(&dir.path().join("node.redb")).expect("opened"));
        let (events, writer) = Events::new(ledger.clone());
        for _ in 0..budget::EVENTS_QUEUED + 10 {
            events.note(Note::info("FLOOD", "x"));
        }
        drop(events);
        writer.run().await;
        let kept = ledger.events(0).expect("read");
        assert_eq!(kept.len(), budget::EVENTS_QUEUED + 1);
        let told = kept.iter().find(|e| e.code == "EVENTS_DROPPED").expect("told");
        assert!(told.message.starts_with("10 events"), "{}", told.message);
    }
}
