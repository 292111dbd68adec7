//! Streams: frames between QUIC and the blocking threads that drive a transfer.
//!
//! Each direction is one pump. Inwards at most [`budget::FRAMES_QUEUED`] messages wait; the rest
//! waits in QUIC's window, which is the back pressure the peer feels. Outwards every slice of a
//! transfer passes its flow.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blockferry_wire::{FrameDecoder, Message, limits};
use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::budget;
use crate::error::{Error, Result};
use crate::link::transport::closed;
use crate::rate::limit::{Flow, Room};
use crate::transfer::exchange::{PackJob, Packed};
use crate::transfer::level::PackCost;
use crate::transfer::workers::Held;

/// Something for the thread that drives a transfer.
pub(crate) enum Input {
    /// A message that took so many bytes on the wire. The permit is its place in the queue.
    Message(Box<Message>, u64, OwnedSemaphorePermit),
    /// A pack is ready; what it took, unless it was made for another peer; the room it takes.
    Packed(Packed, Option<PackCost>, Arc<Held>),
    /// A pack that somebody else was to make has come to nothing. It keeps its room.
    Again(PackJob, Arc<Held>),
    /// The stream has ended; `None`: as it should.
    End(Option<Error>),
}

/// A frame on its way out, with the room it takes until it is written.
pub(crate) struct Frame {
    /// What had to be written for it, then the pages of a pack.
    pieces: (Vec<u8>, Bytes),
    _held: Option<Arc<Held>>,
}

impl Frame {
    /// A pack's frame keeps its room.
    pub(crate) fn holding(pieces: (Vec<u8>, Bytes), held: Option<Arc<Held>>) -> Self {
        Self { pieces, _held: held }
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self { pieces: (bytes, Bytes::new()), _held: None }
    }
}

/// Reads messages until the stream ends; says why it did.
pub(crate) async fn pump_in(
    peer: String,
    mut stream: RecvStream,
    inbox: mpsc::UnboundedSender<Input>,
    silence: Duration,
) {
    let room = Arc::new(Semaphore::new(budget::FRAMES_QUEUED));
    let result = read_messages(&peer, &mut stream, &inbox, &room, silence).await;
    // The driver may be gone already: then nobody needs to know.
    let _gone = inbox.send(Input::End(result.err()));
}

async fn read_messages(
    peer: &str,
    stream: &mut RecvStream,
    inbox: &mpsc::UnboundedSender<Input>,
    room: &Arc<Semaphore>,
    silence: Duration,
) -> Result<()> {
    let mut reader = MessageReader::default();
    while let Some((message, bytes)) = reader.next(peer, stream, silence).await? {
        let permit = room.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
        if inbox.send(Input::Message(Box::new(message), bytes, permit)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Cuts one stream into messages.
pub(crate) struct MessageReader {
    decoder: FrameDecoder,
    buffer: Box<[u8]>,
}

impl Default for MessageReader {
    fn default() -> Self {
        Self {
            decoder: FrameDecoder::new(),
            buffer: vec![0; budget::READ_BYTES_MAX].into_boxed_slice(),
        }
    }
}

impl MessageReader {
    /// The next message with its bytes on the wire; `None` when the stream has ended.
    /// Cancel-safe: nothing is lost when the future is dropped.
    pub(crate) async fn next(
        &mut self,
        peer: &str,
        stream: &mut RecvStream,
        silence: Duration,
    ) -> Result<Option<(Message, u64)>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                let bytes = (limits::FRAME_HEADER_BYTES + frame.payload.len()) as u64;
                return Ok(Some((Message::decode(frame)?, bytes)));
            }
            let read = stream.read(&mut self.buffer);
            let read = tokio::time::timeout(silence, read).await.map_err(|_| Error::Deadline {
                what: "the peer's next message",
                seconds: silence.as_secs(),
            })?;
            match read.map_err(|e| read_error(peer, &e))? {
                Some(count) => self.decoder.push(&self.buffer[..count]),
                None if self.decoder.is_empty() => return Ok(None),
                None => return Err(lost(peer, "a stream ended inside a message")),
            }
        }
    }
}

/// Writes frames until the other end of `outbox` is dropped, then finishes the stream. Without a flow
/// nothing is waited for: answers to a sender and control traffic are no load worth a queue.
pub(crate) async fn pump_out(
    peer: String,
    mut stream: SendStream,
    mut outbox: mpsc::Receiver<Frame>,
    mut flow: Option<Flow>,
    sent_bytes: Arc<AtomicU64>,
) -> Result<()> {
    while let Some(frame) = next_frame(&mut outbox, flow.as_mut()).await? {
        let pieces: [&[u8]; 2] = [&frame.pieces.0, &frame.pieces.1];
        write_frame(&peer, &mut stream, &pieces, flow.as_mut(), Some(&sent_bytes)).await?;
    }
    // A stream that the peer has stopped already needs no end.
    let _stopped = stream.finish();
    Ok(())
}

/// The next frame; what is held for too long meanwhile ends.
async fn next_frame(
    outbox: &mut mpsc::Receiver<Frame>,
    flow: Option<&mut Flow>,
) -> Result<Option<Frame>> {
    let Some(flow) = flow else { return Ok(outbox.recv().await) };
    tokio::select! {
        biased;
        frame = outbox.recv() => Ok(frame),
        error = flow.held_idle() => Err(error),
    }
}

/// Writes one frame, piece by piece, at the pace that the flow allows; what is written is counted at once.
pub(crate) async fn write_frame(
    peer: &str,
    stream: &mut SendStream,
    frame: &[&[u8]],
    mut flow: Option<&mut Flow>,
    sent_bytes: Option<&AtomicU64>,
) -> Result<()> {
    for piece in frame {
        let mut rest = *piece;
        while !rest.is_empty() {
            let bytes = match &mut flow {
                Some(flow) => flow.may_send(rest.len()).await?,
                None => rest.len(),
            };
            let (slice, left) = rest.split_at(bytes.min(rest.len()));
            if let Some(flow) = &flow {
                // What overtakes is sent first, whatever lies in the send window.
                let _closed = stream.set_priority(flow.priority());
            }
            let room = flow.as_ref().map(|flow| flow.room());
            write_slice(peer, stream, slice, room).await?;
            if let Some(sent_bytes) = sent_bytes {
                sent_bytes.fetch_add(slice.len() as u64, Ordering::Relaxed);
            }
            rest = left;
        }
    }
    if let Some(flow) = flow {
        flow.rest();
    }
    Ok(())
}

/// Writes one slice. Who takes nothing is given up in the end, and before that when others wait for
/// the room of its packs.
async fn write_slice(
    peer: &str,
    stream: &mut SendStream,
    slice: &[u8],
    room: Option<&dyn Room>,
) -> Result<()> {
    let began = Instant::now();
    let mut written = pin!(stream.write_all(slice));
    let mut stalled = false;
    loop {
        match tokio::time::timeout(budget::STALL_LOOK, &mut written).await {
            Ok(written) => {
                if let Some(room) = room.filter(|_| stalled) {
                    room.stalled(false);
                }
                return written.map_err(|e| write_error(peer, &e));
            }
            Err(_) => stalled = true,
        }
        let in_the_way = room.is_some_and(|room| {
            room.stalled(true);
            room.is_in_the_way()
        });
        let seconds = began.elapsed().as_secs();
        if in_the_way || seconds >= budget::STALL_MAX.as_secs() {
            return Err(Error::Deadline { what: "room for more", seconds });
        }
    }
}

fn read_error(peer: &str, error: &ReadError) -> Error {
    match error {
        ReadError::ConnectionLost(lost) => closed(peer, lost),
        ReadError::Reset(code) => lost(peer, &format!("the stream was reset ({code})")),
        other => lost(peer, &other.to_string()),
    }
}

fn write_error(peer: &str, error: &WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(lost) => closed(peer, lost),
        WriteError::Stopped(code) => lost(peer, &format!("the stream was stopped ({code})")),
        other => lost(peer, &other.to_string()),
    }
}

fn lost(peer: &str, what: &str) -> Error {
    Error::Unreachable { peer: peer.to_owned(), what: what.to_owned() }
}
