//! Sending: an offer of the backlog becomes a stream, a stream becomes a receipt.
//!
//! The exchange runs on one blocking thread; packs are read and compressed by the workers a few
//! ahead of the link; two pumps carry frames between that thread and QUIC. Whatever ends it ends
//! here as a receipt or as a setback for the backlog.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blockferry_delta::Root;
use blockferry_wire::{Message, Pack, Receipt};
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::backlog::{Head, Key};
use crate::budget;
use crate::config::Setting;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::lineage::deletions;
use crate::link::meter;
use crate::link::peer::Peer;
use crate::link::stream::{Frame, Input, pump_in, pump_out};
use crate::link::transport::{Link, closed, deadline};
use crate::local::sets;
use crate::planner::foresight;
use crate::rate::limit::{self, Flow};
use crate::rate::overrides::Scope;
use crate::rate::turns::Whose;
use crate::transfer::encoded::Take;
use crate::transfer::exchange::{PackJob, Packed, SendOutcome, SendSide, Step};
use crate::transfer::level::{Carried, PackCost};
use crate::transfer::verdict;
use crate::transfer::workers::{Held, Place};

/// The peer has so long to take what was said last.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Makes offers as the backlog has them, until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        loop {
            let offer = lock(&core.backlog).poll_offer(Instant::now());
            let Some((key, head)) = offer else { break };
            tokio::spawn(send(core.clone(), key, head));
        }
        let wake = lock(&core.backlog).next_wake();
        let pause = wake.map_or(core.live().rescan, |at| at.duration_since(Instant::now()));
        tokio::select! {
            () = core.stopped() => return,
            () = core.backlog_wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Sends one generation to one peer and tells the backlog what came of it.
async fn send(core: Arc<Core>, key: Key, head: Head) {
    let started = Instant::now();
    let sent_bytes = Arc::new(AtomicU64::new(0));
    lock(&core.sent).insert(key.clone(), sent_bytes.clone());
    // What it takes is known of this base: the receipt changes what the peer holds.
    let delta = foresight::delta(&core, &key);
    let result = try_send(&core, &key, &sent_bytes).await;
    let peer = core.name_of(&key.peer);
    let image = format!("{}/{}", key.store, key.image);
    match result {
        Ok((receipt, changed_bytes)) => {
            let wire_bytes = sent_bytes.load(Ordering::Relaxed);
            let took = started.elapsed();
            if let Some(delta) = delta.filter(|delta| delta.root == receipt.root) {
                lock(&core.measured).handle_transfer(delta, wire_bytes, changed_bytes);
            }
            core.counts.note_sent(head.size_bytes);
            lock(&core.backlog).handle_receipt(key.clone(), receipt.number, receipt.root);
            core.limit.arrived(&key);
            let text = format!("{image}@{} is at {peer}: {wire_bytes} bytes sent", receipt.number);
            info!(%image, %peer, wire_bytes, ?took, "receipt");
            let note = Note::info("RECEIPT", text);
            core.events.note(note.store(&key.store).image(&key.image).peer(&peer));
        }
        Err(error) => {
            let setback = verdict::setback_of(&error);
            let before = lock(&core.backlog).reason(&key);
            lock(&core.backlog).handle_setback(&key, setback, Instant::now());
            let after = lock(&core.backlog).reason(&key);
            debug!(%image, %peer, code = error.code(), %error, "not sent");
            let first = lock(&core.backlog).failures(&key) <= 1;
            // What is held back ends by itself and says so as its reason.
            let held = lock(&core.backlog).hold(&key).is_some();
            // Waiting for the rest of a set is how sets travel; who adopts a store says so.
            let usual = held || matches!(error.code(), "SET_INCOMPLETE" | "OBSERVING");
            if !core.is_stopping() && !usual && (first || before != after) {
                let note = Note::warning(error.code(), error.to_string());
                core.events.note(note.store(&key.store).image(&key.image).peer(&peer));
            }
        }
    }
    if !lock(&core.backlog).is_wanted(&key.store, &key.image)
        && let Ok(store) = core.store(key.store.as_str())
    {
        core.encoded.forget(store.store.identity().id, head.version.root);
    }
    debug!(number = head.version.number, "offer is over");
    core.wake();
}

async fn try_send(
    core: &Arc<Core>,
    key: &Key,
    sent_bytes: &Arc<AtomicU64>,
) -> Result<(Receipt, u64)> {
    let store = core.store(key.store.as_str())?;
    let name = core.name_of(&key.peer);
    let unreachable = |what: &str| Error::Unreachable { peer: name.clone(), what: what.into() };
    let active = core.peer(&key.peer).and_then(|p| p.active());
    let active = active.ok_or_else(|| unreachable("not connected"))?;
    let link = active.link.clone();
    let peer = core.peer(&key.peer).ok_or_else(|| unreachable("no peer any more"))?;
    let opened = deadline("a stream", budget::HANDSHAKE_DEADLINE, link.connection.open_bi());
    let (stream_out, stream_in) = opened.await?.map_err(|e| closed(&name, &e))?;
    let (inbox, inputs) = mpsc::unbounded_channel();
    let (outbox, frames) = mpsc::channel(1);
    let reader = pump_in(name.clone(), stream_in, inbox.clone(), budget::SILENCE_MAX);
    let reader = tokio::spawn(reader);
    let place = core.workers.transfer(Scope::from(key));
    let flow = Flow::new(core.limit.clone(), key, link.connection.clone(), place.clone());
    let writer = pump_out(name.clone(), stream_out, frames, Some(flow), sent_bytes.clone());
    let writer = tokio::spawn(tell_held(writer, inbox.clone()));
    let drive = Drive {
        core: core.clone(),
        key: key.clone(),
        place,
        name,
        peer,
        link: link.clone(),
        inbox,
        inputs,
        outbox,
        jobs: VecDeque::new(),
        running: 0,
        held: BTreeMap::new(),
    };
    let (image, opened) = (key.image.clone(), store.clone());
    let lane = core.limit.in_force().lane(&Scope::from(key));
    let result = blocking("sending", move || {
        let set = sets::offered(&drive.core, &opened, &image)?;
        let side = SendSide::of_set(opened.store.clone(), &image, lane, set)?;
        deletions::check_told(&active, &opened, side.generation(), &drive.name)?;
        drive.run(side)
    })
    .await;
    let result = match result {
        Ok((outcome, changed)) => settle(core, key, &link, outcome).await.map(|r| (r, changed)),
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        end_connection_if_due(&link, error);
    }
    reader.abort();
    // What was said last (an abort, perhaps) still goes out, unless the peer doesn't take it.
    let abort = writer.abort_handle();
    if tokio::time::timeout(LAST_WORDS, writer).await.is_err() {
        abort.abort();
    }
    result
}

/// A transfer that is held ends also when its thread has nothing to send.
async fn tell_held(writer: impl Future<Output = Result<()>>, inbox: mpsc::UnboundedSender<Input>) {
    // Whatever else ended it the peer says better: it may have refused.
    if let Err(error @ Error::Held { .. }) = writer.await {
        let _over = inbox.send(Input::End(Some(error)));
    }
}

/// Closes the connection of a peer that broke the rules.
pub(crate) fn end_connection_if_due(link: &Link, error: &Error) {
    if let verdict::Connection::Close { number, code } = verdict::connection_after(error) {
        info!(peer = %link.peer.short(), code, %error, "the connection is closed");
        // Both ranges of versions are said, for the other side to show them; what else is wrong with
        // what it said is its own to know.
        match error {
            Error::Wire(wire @ blockferry_wire::Error::PeerIncompatible(_)) => {
                link.connection.close(number.into(), wire.to_string().as_bytes());
            }
            _ => link.connection.close(number.into(), code.as_bytes()),
        }
    }
}

/// What a finished exchange means. A receipt counts when the peer's own key signed it, and when it
/// is in the catalog.
async fn settle(core: &Arc<Core>, key: &Key, link: &Link, outcome: SendOutcome) -> Result<Receipt> {
    let image = format!("{}/{}", key.store, key.image);
    let peer = core.name_of(&key.peer);
    let receipt = match outcome {
        SendOutcome::Receipt(receipt) => receipt,
        SendOutcome::Refused(refuse) => {
            return Err(Error::Refused {
                peer,
                image,
                code: refuse.code.code(),
                reason: refuse.text.to_string(),
                bytes_needed: refuse.bytes_needed,
                bytes_free: refuse.bytes_free,
            });
        }
        SendOutcome::FailedThere { code, text } => {
            let (bytes_needed, bytes_free) = (None, None);
            let (code, reason) = (code.code(), text);
            return Err(Error::Refused { peer, image, code, reason, bytes_needed, bytes_free });
        }
        SendOutcome::FailedHere(error) => return Err(error.into()),
    };
    let signed = link.key.verify(&receipt.signed_bytes(), &receipt.signature);
    if receipt.node != link.peer || !signed {
        return Err(Error::BadReceipt { peer, image });
    }
    let store = core.store(key.store.as_str())?;
    let (kept, node) = (receipt.clone(), key.peer);
    blocking("noting a receipt", move || {
        Ok(store.store.note_receipt(node, &kept.image, kept.number, kept.root)?)
    })
    .await?;
    Ok(receipt)
}

/// The thread that drives a [`SendSide`].
struct Drive {
    core: Arc<Core>,
    key: Key,
    /// Its place at the workers.
    place: Arc<Place>,
    name: String,
    peer: Arc<Peer>,
    link: Link,
    inbox: mpsc::UnboundedSender<Input>,
    inputs: mpsc::UnboundedReceiver<Input>,
    outbox: mpsc::Sender<Frame>,
    /// Packs asked for that must wait: [`budget::PACKS_AHEAD`] of a transfer are made at a time.
    jobs: VecDeque<PackJob>,
    /// Packs that the workers have.
    running: usize,
    /// The room of those that are made, by their numbers: they are sent in this order.
    held: BTreeMap<u64, Arc<Held>>,
}

/// Gives a pack to the thread that drives the transfer.
fn hand_over(
    inbox: &mpsc::UnboundedSender<Input>,
    packed: Packed,
    cost: Option<PackCost>,
    held: Arc<Held>,
) {
    held.made(packed.pack().map_or(0, |pack| pack.bytes.len()));
    // A transfer that is over needs no pack.
    let _over = inbox.send(Input::Packed(packed, cost, held));
}

impl Drive {
    fn run(mut self, mut side: SendSide) -> Result<(SendOutcome, u64)> {
        let (mut told, mut last) = (Instant::now(), 0);
        // Beside others that run the look goes on.
        if lock(&self.core.backlog).sending(self.key.peer) < 2 {
            lock(&self.core.measured).link(self.key.peer).handle_begin();
        }
        loop {
            match side.step()? {
                Step::Transmit(message) => {
                    let held = match *message {
                        Message::Pack(_) => self.held.pop_first().map(|(_, held)| held),
                        _ => None,
                    };
                    let frame = message.encode_apart()?;
                    drop(message);
                    self.transmit(Frame::holding(frame, held))?;
                }
                Step::Pack(job) => {
                    self.jobs.push_back(job);
                    self.pack_ahead(&side);
                }
                Step::Wait => self.take(&mut side)?,
                Step::Done(outcome) => return Ok((outcome, side.progress().1)),
            }
            let (done, total) = side.progress();
            // That all is there is told at once: the next transfer may begin.
            let complete = done == total && last != done;
            if complete || told.elapsed() >= budget::PROGRESS_EVERY {
                (told, last) = (Instant::now(), done);
                lock(&self.core.backlog).handle_progress(&self.key, done, total);
                self.look_at_link();
                if complete {
                    self.core.backlog_wake.notify_one();
                }
            }
        }
    }

    /// Gives the workers what may run ahead of the link.
    fn pack_ahead(&mut self, side: &SendSide) {
        while self.running + side.early_packs() < budget::PACKS_AHEAD {
            let Some(job) = self.jobs.pop_front() else { break };
            self.running += 1;
            self.make(job, side.generation().root, None);
        }
    }

    /// Has a pack made, at the level that the link has now, unless another peer's will do. Either way
    /// it waits for its turn and for room; `held`: it has that already.
    fn make(&self, job: PackJob, root: Root, held: Option<Arc<Held>>) {
        let setting = self.core.compression_for(&self.peer);
        let (compression, least) = match setting {
            Setting::Fixed(compression) => (compression, compression),
            Setting::Auto => {
                let chooser = lock(&self.peer.chooser);
                (chooser.compression_of(job.number()), chooser.least())
            }
        };
        let verdict = self.core.limit.verdict(&Scope::from(&self.key));
        let whose = Whose { peer: self.key.peer, weight: verdict.weight, lane: verdict.lane };
        // Read and compressed pages at once.
        let bytes = if held.is_some() { 0 } else { 2 * job.raw_bytes() };
        let (store, image) = (&self.key.store, &self.key.image);
        let shared = lock(&self.core.backlog).sharing(store, image, root, job.base()) > 1;
        let (encoded, inbox) = (self.core.encoded.clone(), self.inbox.clone());
        self.core.workers.submit(whose, &self.place, bytes, move |press, room| {
            if inbox.is_closed() {
                return;
            }
            let held = held.unwrap_or(room);
            let (waiting, to, room) = (job.clone(), inbox.clone(), held.clone());
            let waiter = move |pack: Option<Arc<Pack>>| match pack {
                Some(pack) => hand_over(&to, waiting.answer(&pack), None, room),
                // A transfer that is over needs no pack.
                None => drop(to.send(Input::Again(waiting, room))),
            };
            let making = match encoded.take(&job.key(compression), least, shared, waiter) {
                Take::Coming => return,
                Take::Ready(pack) => return hand_over(&inbox, job.answer(&pack), None, held),
                Take::Make(making) => making,
            };
            let lesser = setting == Setting::Auto;
            let (packed, cost) = press.with(compression, lesser, |packer, compression| {
                job.run_timed(packer, compression)
            });
            if let (Some(making), Some(pack)) = (making, packed.pack()) {
                making.done(pack);
            }
            hand_over(&inbox, packed, cost, held);
        });
    }

    /// Tells the peer's chooser what the pack took and what the connection has carried.
    fn measure(&self, cost: Option<PackCost>) {
        if self.core.compression_for(&self.peer) != Setting::Auto {
            return;
        }
        let limit = self.core.limit.verdict(&Scope::from(&self.key)).rate.bits_per_second();
        let carried = meter::carried(&self.link.connection).map(|carried| {
            let rtt = self.link.connection.rtt().as_secs_f64();
            let window = self.core.limit.send_window(carried.window_bytes);
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let (window, limit) =
                (window as f64, limit.map_or(f64::INFINITY, |bits| bits as f64 / 8.0));
            let ceiling = limit.min(window / rtt.max(1e-6));
            Carried { paced: self.core.limit.waited(), ceiling, ..carried }
        });
        let mut chooser = lock(&self.peer.chooser);
        let before = chooser.compression();
        if let Some(cost) = cost {
            chooser.handle_pack(&cost);
        }
        if let Some(carried) = carried {
            chooser.handle_carried(carried, Instant::now());
        }
        let after = chooser.compression();
        if before != after {
            debug!(peer = %self.name, ?before, ?after, "the level follows the link");
        }
    }

    /// What the connection has carried so far, for the forecast and for what may be on its way.
    fn look_at_link(&self) {
        let peer = self.key.peer;
        let (sent, waited) =
            (limit::sent_bytes(&self.link.connection), self.core.limit.waited_for(peer));
        let bits = {
            let mut measured = lock(&self.core.measured);
            measured.link(peer).handle_look(Instant::now(), sent, waited);
            measured.link_bits_per_second(&peer)
        };
        if let Some(bits) = bits {
            lock(&self.core.backlog).handle_link(peer, bits);
        }
    }

    fn transmit(&self, frame: Frame) -> Result<()> {
        let lost = |_| self.lost("the stream is closed");
        self.outbox.blocking_send(frame).map_err(lost)
    }

    fn take(&mut self, side: &mut SendSide) -> Result<()> {
        match self.inputs.blocking_recv() {
            Some(Input::Message(message, _, _place)) => side.handle_message(*message),
            Some(Input::Packed(packed, cost, held)) => {
                self.running -= 1;
                self.measure(cost);
                self.held.insert(packed.number(), held);
                side.handle_packed(packed)?;
                self.pack_ahead(side);
                Ok(())
            }
            Some(Input::Again(job, held)) => {
                self.make(job, side.generation().root, Some(held));
                Ok(())
            }
            Some(Input::End(Some(error))) => Err(error),
            Some(Input::End(None)) | None => Err(self.lost("the stream ended too early")),
        }
    }

    fn lost(&self, what: &str) -> Error {
        Error::Unreachable { peer: self.name.clone(), what: what.to_owned() }
    }
}
