//! Station `decode`, second half: what a frame says.
//!
//! Control messages are numbered CBOR maps, parts and packs fixed records (`bulk`). Decoding checks
//! every rule that can be checked without the transfer; what needs the offer is checked by
//! [`Sender`](crate::Sender) and [`Receiver`](crate::Receiver).

mod control;
mod fields;
mod pages;
mod pairing;
mod set;
mod statement;
mod text;
mod transfer;
mod walk;

pub use control::{
    Goodbye, Head, Hello, HelloAck, Inventory, InventoryEntry, VERSION_MAX, VERSION_MIN,
};
pub use pages::{Encoding, Pack};
pub use pairing::{Join, JoinAccepted, JoinRefused, Role};
pub use set::SetMember;
pub use statement::{
    FEATURE_STATEMENTS, Holding, Member, Promotion, Proof, Resolution, Resume, Rival, Roster, Said,
    Statement, What,
};
pub use text::Text;
pub use transfer::{
    Abort, Accept, FEATURE_DELETIONS, Failed, Filled, Lane, Offer, PartsEnd, Receipt, Refuse, Want,
};
pub use walk::{Values, WalkStart};

use blockferry_delta::{Probe, RecipePart};

use bytes::Bytes;

use crate::bulk;
use crate::cbor::{Reader, Writer};
use crate::error::{Error, Result};
use crate::frame::{Frame, Kind, seal_frame};
use crate::limits::FRAME_HEADER_BYTES;

/// A body that is one numbered map.
trait Body: Sized {
    /// Reads the map.
    fn read(reader: &mut Reader<'_>) -> Result<Self>;
    /// Writes the map. Limits that a caller can break are checked here.
    fn write(&self, writer: &mut Writer<'_>) -> Result<()>;
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident($body:ty),)*) => {
        /// Anything one node says to another.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $name($body),)*
        }

        impl Message {
            /// The type of its frame.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Message::$name(_) => Kind::$name,)*
                }
            }
        }

        $(impl From<$body> for Message {
            fn from(body: $body) -> Self {
                Message::$name(body)
            }
        })*
    };
}

messages! {
    /// The dialer's first word.
    Hello(Hello),
    /// The listener's answer.
    HelloAck(HelloAck),
    /// Current generations of a store.
    Inventory(Inventory),
    /// A new current generation.
    Head(Head),
    /// The end of a connection, with the reason.
    Goodbye(Goodbye),
    /// Are you there?
    Ping(Ping),
    /// I am.
    Pong(Pong),
    /// Go on from there with what nodes state.
    Resume(Resume),
    /// What a node states about itself.
    Statement(Statement),
    /// A ticket is redeemed.
    Join(Join),
    /// Welcome.
    JoinAccepted(JoinAccepted),
    /// Not with this ticket.
    JoinRefused(JoinRefused),
    /// A generation is offered.
    Offer(Offer),
    /// Send it, from this base.
    Accept(Accept),
    /// Don't send it.
    Refuse(Refuse),
    /// That was the last part.
    PartsEnd(PartsEnd),
    /// These pages, please.
    Want(Want),
    /// A part is complete and verified.
    Filled(Filled),
    /// The generation is durable here.
    Receipt(Receipt),
    /// It came to nothing here.
    Failed(Failed),
    /// It came to nothing there.
    Abort(Abort),
    /// A part of the recipe.
    Part(RecipePart),
    /// Pages.
    Pack(Pack),
    /// What do you hold there?
    Probe(Probe),
    /// That.
    Values(Values),
}

/// A token to be sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Anything.
    pub token: u64,
}

/// A token sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The token of the ping.
    pub token: u64,
}

impl Message {
    /// Its name in the protocol page.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// The whole frame, header and payload.
    ///
    /// # Errors
    /// `API_MISUSE` when a field is over its limit; what was decoded or made by this crate is not.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let (mut out, rest) = self.encode_apart()?;
        out.extend_from_slice(&rest);
        Ok(out)
    }

    /// The same in two pieces: what had to be written, and the pages of a pack, which aren't copied.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_apart(&self) -> Result<(Vec<u8>, Bytes)> {
        let mut out = vec![0; FRAME_HEADER_BYTES];
        self.encode_payload(&mut out).map_err(|error| match error {
            misuse @ Error::ApiMisuse(_) => misuse,
            _ => Error::ApiMisuse("message breaks its own rules"),
        })?;
        let rest = match self {
            Message::Pack(pack) => pack.bytes.clone(),
            _ => Bytes::new(),
        };
        seal_frame(self.kind(), &mut out, rest.len())?;
        Ok((out, rest))
    }

    fn encode_payload(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Message::Part(part) => return bulk::encode_part(part, out),
            Message::Pack(pack) => return bulk::encode_pack_head(pack, out),
            Message::Values(values) => return values.encode(out),
            _ => {}
        }
        let w = &mut Writer::new(out);
        match self {
            Message::Hello(body) => body.write(w),
            Message::HelloAck(body) => body.write(w),
            Message::Inventory(body) => body.write(w),
            Message::Head(body) => body.write(w),
            Message::Goodbye(body) => body.write(w),
            Message::Ping(Ping { token }) | Message::Pong(Pong { token }) => {
                w.map(1).uint(0u8).uint(*token);
                Ok(())
            }
            Message::Resume(body) => body.write(w),
            Message::Statement(body) => body.write(w),
            Message::Join(body) => body.write(w),
            Message::JoinAccepted(body) => body.write(w),
            Message::JoinRefused(body) => body.write(w),
            Message::Offer(body) => body.write(w),
            Message::Accept(body) => body.write(w),
            Message::Refuse(body) => body.write(w),
            Message::PartsEnd(body) => body.write(w),
            Message::Want(body) => body.write(w),
            Message::Filled(body) => body.write(w),
            Message::Receipt(body) => body.write(w),
            Message::Failed(body) => body.write(w),
            Message::Abort(body) => body.write(w),
            Message::Probe(body) => body.write(w),
            Message::Part(_) | Message::Pack(_) | Message::Values(_) => Ok(()),
        }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// `Invalid` with the rule and the offset; never panics, whatever the payload.
    pub fn decode(frame: Frame) -> Result<Message> {
        let Frame { kind, payload } = frame;
        Ok(match kind {
            Kind::Hello => Message::Hello(body(kind, &payload)?),
            Kind::HelloAck => Message::HelloAck(body(kind, &payload)?),
            Kind::Inventory => Message::Inventory(body(kind, &payload)?),
            Kind::Head => Message::Head(body(kind, &payload)?),
            Kind::Goodbye => Message::Goodbye(body(kind, &payload)?),
            Kind::Ping => Message::Ping(Ping { token: token(kind, &payload)? }),
            Kind::Pong => Message::Pong(Pong { token: token(kind, &payload)? }),
            Kind::Resume => Message::Resume(body(kind, &payload)?),
            Kind::Statement => Message::Statement(body(kind, &payload)?),
            Kind::Join => Message::Join(body(kind, &payload)?),
            Kind::JoinAccepted => Message::JoinAccepted(body(kind, &payload)?),
            Kind::JoinRefused => Message::JoinRefused(body(kind, &payload)?),
            Kind::Offer => Message::Offer(body(kind, &payload)?),
            Kind::Accept => Message::Accept(body(kind, &payload)?),
            Kind::Refuse => Message::Refuse(body(kind, &payload)?),
            Kind::PartsEnd => Message::PartsEnd(body(kind, &payload)?),
            Kind::Want => Message::Want(body(kind, &payload)?),
            Kind::Filled => Message::Filled(body(kind, &payload)?),
            Kind::Receipt => Message::Receipt(body(kind, &payload)?),
            Kind::Failed => Message::Failed(body(kind, &payload)?),
            Kind::Abort => Message::Abort(body(kind, &payload)?),
            Kind::Part => Message::Part(bulk::decode_part(&payload)?),
            Kind::Pack => Message::Pack(bulk::decode_pack(&payload)?),
            Kind::Probe => Message::Probe(body(kind, &payload)?),
            Kind::Values => Message::Values(Values::decode(&payload)?),
        })
    }
}

fn body<B: Body>(kind: Kind, payload: &[u8]) -> Result<B> {
    let mut reader = Reader::new(kind, payload);
    let body = B::read(&mut reader)?;
    reader.end()?;
    Ok(body)
}

fn token(kind: Kind, payload: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(kind, payload);
    let (mut keys, mut token) = (reader.map()?, None);
    while let Some(key) = reader.key(&mut keys)? {
        match key {
            0 => token = Some(reader.u64()?),
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    reader.need(token, "token missing")
}
