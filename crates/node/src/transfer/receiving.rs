//! Receiving: a stream that a peer opened becomes a generation and a receipt.
//!
//! A bounded number of bytes at a time, per peer and per node: many small images, few large ones. What
//! doesn't fit waits for a while and is then refused as busy. The exchange runs on one blocking thread with two pumps beside it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use blockferry_delta::ImageName;
use blockferry_store::Generation;
use blockferry_wire::{Message, Offer, PeerMisbehaved, Refusal, Refuse};
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::debug;

use crate::budget;
use crate::core::{Core, blocking, head_of, key, lock};
use crate::error::{Error, Result};
use crate::events::Note;
use crate::lineage::conflict;
use crate::lineage::diverged;
use crate::lineage::mirror;
use crate::link::peer::Peer;
use crate::link::stream::{Frame, Input, pump_in, pump_out};
use crate::link::transport::{Link, deadline};
use crate::local::stores::{Activity, Doing, OpenStore};
use crate::local::{adoption, sets, upkeep};
use crate::monitoring::counts::Counts;
use crate::promotion::mending;
use crate::transfer::exchange::{RecvOutcome, RecvSide, Step, to_come};
use crate::transfer::sending::end_connection_if_due;

/// An offer waits this long for a free slot before it is refused as busy.
const SLOT_WAIT: Duration = Duration::from_secs(20);
/// How often a waiting offer looks for a slot.
const SLOT_LOOK: Duration = Duration::from_millis(50);
/// A stream's first message must come within this time.
const OFFER_DEADLINE: Duration = Duration::from_secs(30);

/// Receives what the stream offers.
pub(crate) async fn receive(
    core: Arc<Core>,
    peer: Arc<Peer>,
    link: Link,
    streams: (SendStream, RecvStream),
) {
    let _window = core.receiving.follow(&link.connection);
    if let Err(error) = try_receive(&core, &peer, streams).await {
        debug!(peer = %peer.name(), code = error.code(), %error, "not received");
        end_connection_if_due(&link, &error);
    }
}

async fn try_receive(
    core: &Arc<Core>,
    peer: &Arc<Peer>,
    (stream_out, stream_in): (SendStream, RecvStream),
) -> Result<()> {
    let name = peer.name();
    let (inbox, mut inputs) = mpsc::unbounded_channel();
    let reader = tokio::spawn(pump_in(name.clone(), stream_in, inbox, budget::SILENCE_MAX));
    let reader = AbortOnDrop(reader);
    let (mut offer, offer_bytes) = first_offer(&mut inputs).await?;
    let (outbox, frames) = mpsc::channel(budget::FRAMES_QUEUED);
    let sent = Arc::new(AtomicU64::new(0));
    tokio::spawn(pump_out(name.clone(), stream_out, frames, None, sent));
    let admitted = match admit(core, peer, &offer).await {
        Ok(admitted) => admitted,
        Err(refuse) => {
            debug!(peer = %name, image = %offer.image, code = %refuse.code, "refused");
            let refusal = Message::from(refuse).encode()?;
            // When the stream is gone the peer knows already.
            let _gone = outbox.send(refusal.into()).await;
            return Ok(());
        }
    };
    adoption::note_offer(&admitted.store, peer.id, &offer);
    upkeep::before_receiving(core, &admitted.store);
    // What isn't taken here won't come.
    offer.set.retain(|member| admitted.store.takes(member.image.as_str()));
    let role = peer.role(&admitted.store.config.name);
    let counts = core.counts.clone();
    let drive = Drive { name: name.clone(), inputs, outbox, counts };
    let (at, to, image) = (core.clone(), admitted.store.clone(), offer.image.clone());
    let from = peer.id;
    let result = blocking("receiving", move || {
        let (store, waiting) = (admitted.store.store.clone(), admitted.store.waiting.clone());
        let head = |image: &ImageName| {
            let key = key(from, &admitted.store.config.name, image);
            lock(&at.backlog).peer_head(&key).cloned()
        };
        let to_come = to_come(&store, &offer.set, &head)?;
        let side = RecvSide::new(store, at.config.identity.clone(), from, role);
        let side = side.with_waiting(waiting, to_come);
        let (outcome, mut side) = drive.run(side, offer, offer_bytes)?;
        for generation in side.take_others() {
            conclude(&at, &admitted.store, &name, RecvOutcome::Committed(Box::new(generation)))?;
        }
        if let RecvOutcome::Committed(generation) = &outcome {
            match (side.undoes_edit(), side.sets_aside()) {
                _ if adoption::keeps_old(&admitted.store) => {}
                (true, true) => mirror::tell_restored(&at, &admitted.store, &name, generation),
                (_, true) => tell_set_aside(&at, &admitted.store, &name, &generation.image),
                (_, false) => {}
            }
        }
        if let Some(restamped) = side.restamped() {
            let head = head_of(&admitted.store, restamped)?;
            at.note_head(&admitted.store, restamped, head);
        }
        conclude(&at, &admitted.store, &name, outcome)
    });
    let result = result.await;
    drop(reader);
    if result? == Ended::Committed {
        upkeep::after_commit(core, &to, image);
    }
    Ok(())
}

/// What a transfer that kept the rules came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// There is a new generation.
    Committed,
    /// Nothing changed here.
    Unchanged,
}

async fn first_offer(inputs: &mut mpsc::UnboundedReceiver<Input>) -> Result<(Offer, u64)> {
    let wrong = |message| PeerMisbehaved::WrongState { message, state: "an offer is awaited" };
    match deadline("an offer", OFFER_DEADLINE, inputs.recv()).await? {
        Some(Input::Message(message, bytes, _place)) => match *message {
            Message::Offer(offer) => Ok((offer, bytes)),
            other => Err(Error::Wire(wrong(other.name()).into())),
        },
        Some(Input::End(Some(error))) => Err(error),
        _ => Err(Error::Wire(wrong("nothing").into())),
    }
}

/// An offer that may be judged: its store and the slots it holds until it is over.
struct Admitted {
    store: Arc<OpenStore>,
    _doing: Doing,
    _permits: [OwnedSemaphorePermit; 2],
}

async fn admit(
    core: &Arc<Core>,
    peer: &Arc<Peer>,
    offer: &Offer,
) -> std::result::Result<Admitted, Refuse> {
    let unknown = Refuse::new(Refusal::StoreUnknown, "no such store is shared with you");
    let shared = |s: &Arc<OpenStore>| peer.shares(&s.config.name);
    let store = core.store_by_id(&offer.store).filter(shared).ok_or(unknown)?;
    if !store.takes(offer.image.as_str()) {
        return Err(Refuse::new(Refusal::Forbidden, "names like this are excluded here"));
    }
    if lock(&peer.twins).are_two(Instant::now()) {
        let text = "two places show your key";
        return Err(Refuse::new(Refusal::IdentityDuplicate, text));
    }
    let busy = |_| Refuse::new(Refusal::Busy, "too many transfers at once");
    let room = slots(core, peer, receive_units(offer.size_bytes));
    let permits = tokio::time::timeout(SLOT_WAIT, room).await.map_err(busy)?;
    let doing = store.begin(&offer.image, Activity::Receiving);
    let doing = doing.map_err(|e| Refuse::new(Refusal::Duplicate, &e.to_string()))?;
    if core.is_stopping() {
        return Err(Refuse::new(Refusal::ShuttingDown, "stopping"));
    }
    Ok(Admitted { store, _doing: doing, _permits: permits })
}

/// What a transfer of an image of so many bytes takes at most, in units of the semaphores: a small one
/// is small in every buffer.
fn receive_units(size_bytes: u64) -> u32 {
    let bytes = size_bytes.saturating_mul(4).saturating_add(budget::RECEIVE_BYTES_MIN);
    let units = bytes.min(budget::RECEIVE_BYTES).div_ceil(budget::RECEIVE_UNIT_BYTES);
    u32::try_from(units).unwrap_or(u32::MAX)
}

/// Waits for room among the peer's bytes and the node's.
async fn slots(core: &Core, peer: &Peer, units: u32) -> [OwnedSemaphorePermit; 2] {
    let largest = receive_units(u64::MAX) as usize;
    loop {
        // The node's last place is for a peer that has none.
        let first = peer.receives.available_permits() == budget::RECEIVE_UNITS_PER_PEER;
        let left = core.receives.available_permits().saturating_sub(units as usize);
        if (first || left >= largest)
            && let Ok(of_peer) = peer.receives.clone().try_acquire_many_owned(units)
            && let Ok(of_node) = core.receives.clone().try_acquire_many_owned(units)
        {
            return [of_peer, of_node];
        }
        tokio::time::sleep(SLOT_LOOK).await;
    }
}

/// What a finished exchange means here. Blocking.
fn conclude(core: &Core, store: &OpenStore, peer: &str, outcome: RecvOutcome) -> Result<Ended> {
    let name = &store.config.name;
    let mut ended = Ended::Unchanged;
    mending::note_outcome(store, &outcome);
    let note = match outcome {
        RecvOutcome::Mended { generation, wire_bytes } => {
            mending::tell_mended(core, store, peer, (&generation, wire_bytes));
            return Ok(Ended::Committed);
        }
        RecvOutcome::Committed(generation) => {
            core.note_head(store, &generation, head_of(store, &generation)?);
            store.no_trouble(&generation.image);
            conflict::drop_settled(&store.store, &generation)?;
            adoption::note_current(store, &generation);
            sets::replaced(core, store, &generation)?;
            ended = Ended::Committed;
            if generation.is_deleted() {
                note_deleted(core, store, peer, &generation);
                return Ok(ended);
            }
            let text = format!(
                "{}@{} came from {peer}: {} bytes received in {} ms",
                store.full_name(&generation.image),
                generation.number,
                generation.wire_bytes,
                generation.millis
            );
            Note::info("COMMITTED", text).image(&generation.image)
        }
        RecvOutcome::AlreadyHere { image, .. } => {
            debug!(store = %name, %image, peer, "here already");
            return Ok(Ended::Unchanged);
        }
        RecvOutcome::Waits { image, missing } => {
            debug!(store = %name, %image, peer, missing, "staged; waits for its set");
            return Ok(Ended::Unchanged);
        }
        RecvOutcome::Cancelled { image, code, text } => {
            debug!(store = %name, %image, peer, code = code.code(), text, "the sender gave up");
            return Ok(Ended::Unchanged);
        }
        RecvOutcome::Kept { generation, fork } => {
            diverged::note_kept(core, store, peer, &generation, fork)?;
            return Ok(Ended::Unchanged);
        }
        RecvOutcome::Shadowed(generation) => {
            adoption::tell_shadow(core, store, peer, &generation);
            return Ok(Ended::Unchanged);
        }
        RecvOutcome::Refused { code: Refusal::Observing, .. } => return Ok(Ended::Unchanged),
        RecvOutcome::Refused { image, code, text } => {
            if code == Refusal::GenerationOld || !store.trouble(&image, code.code()) {
                return Ok(Ended::Unchanged);
            }
            let text = format!("{} of {peer} is refused: {text}", store.full_name(&image));
            Note::warning(code.code(), text).image(&image)
        }
        RecvOutcome::FailedHere { image, error } => {
            if !store.trouble(&image, error.code()) {
                return Ok(Ended::Unchanged);
            }
            let text = format!("{} of {peer} failed: {error}", store.full_name(&image));
            Note::error(error.code(), text).image(&image)
        }
    };
    core.events.note(note.store(name).peer(&peer));
    Ok(ended)
}

/// One event for an image that was deleted at a peer.
fn note_deleted(core: &Core, store: &OpenStore, peer: &str, generation: &Generation) {
    let (image, days) = (&generation.image, store.store.retention().days);
    let text = format!(
        "{}@{}: deleted at {peer}; its content is kept here for {days} days: blockferry image history",
        store.full_name(image),
        generation.number
    );
    let note = Note::info("DELETED", text);
    core.events.note(note.store(&store.config.name).image(image).peer(&peer));
}

/// One event for a content that was found here, that no peer knows, and that was replaced.
fn tell_set_aside(core: &Core, store: &OpenStore, peer: &str, image: &ImageName) {
    let text = format!(
        "{}: what was found here is no generation that {peer} knows; it was replaced and is kept as \
         .blockferry/kept/{image}.N in the store's directory (the highest N)",
        store.full_name(image)
    );
    let note = Note::warning("ADOPTED_SET_ASIDE", text);
    core.events.note(note.store(&store.config.name).image(image).peer(&peer));
}

/// The thread that drives a [`RecvSide`].
struct Drive {
    name: String,
    inputs: mpsc::UnboundedReceiver<Input>,
    outbox: mpsc::Sender<Frame>,
    counts: Arc<Counts>,
}

impl Drive {
    /// What came of it, and the side that knows how.
    fn run(
        mut self,
        mut side: RecvSide,
        offer: Offer,
        offer_bytes: u64,
    ) -> Result<(RecvOutcome, RecvSide)> {
        side.handle_message(Message::Offer(offer), offer_bytes)?;
        loop {
            match side.step()? {
                Step::Transmit(message) => self.transmit(&side, message.encode()?)?,
                Step::Wait => match self.inputs.blocking_recv() {
                    Some(Input::Message(message, bytes, _place)) => {
                        side.handle_message(*message, bytes)?;
                    }
                    Some(Input::End(Some(error))) => return Err(error),
                    _ => return Err(self.lost()),
                },
                Step::Pack(_) => return Err(Error::Broken { what: "a receiver that packs" }),
                Step::Done(outcome) => {
                    if let RecvOutcome::Committed(generation)
                    | RecvOutcome::Shadowed(generation)
                    | RecvOutcome::Kept { generation, .. } = &outcome
                    {
                        self.counts.note_received(generation, side.travelled());
                    }
                    return Ok((outcome, side));
                }
            }
        }
    }

    /// A receipt that can't be said is no failure of ours: the generation is here, and the peer
    /// learns it when it offers again.
    fn transmit(&self, side: &RecvSide, frame: Vec<u8>) -> Result<()> {
        match self.outbox.blocking_send(frame.into()) {
            Err(_) if !side.is_committed() => Err(self.lost()),
            _ => Ok(()),
        }
    }

    fn lost(&self) -> Error {
        let what = "the stream ended too early".to_owned();
        Error::Unreachable { peer: self.name.clone(), what }
    }
}

/// A task that ends with the value that needs it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
